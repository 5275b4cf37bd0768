//! How long to wait before the next attempt to connect. Pure, but for the random numbers.

use std::time::Duration;

use rustix::rand::{GetRandomFlags, getrandom};

/// The shortest wait.
const LEAST: Duration = Duration::from_secs(1);
/// The longest wait.
const MOST: Duration = Duration::from_secs(30);

/// The attempts in a row that came to nothing.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// The connection was good: the next wait is short again.
    pub(crate) fn reset(&mut self) {
        self.attempts = 0;
    }

    /// The next wait: a random time below a bound that doubles, so that clients don't all return at once. `least` is what the server
    /// demands; exactly that if it is an appointment.
    pub(crate) fn next(&mut self, least: Wait) -> Duration {
        self.attempts = self.attempts.saturating_add(1);
        let least = match least {
            Wait::Exactly(time) => return time,
            Wait::AtLeast(time) => time.max(LEAST),
        };
        let bound = LEAST.saturating_mul(1 << self.attempts.min(10)).min(MOST).max(2 * least);
        least + (bound - least).mul_f64(random())
    }
}

/// What the end of a connection says about the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    AtLeast(Duration),
    /// A server that restarts gives each client a time of its own.
    Exactly(Duration),
}

/// From 0 to 1.
fn random() -> f64 {
    let mut bytes = [0; 4];
    // The kernel's generator doesn't fail for a few bytes once the machine is up.
    let _ = getrandom(&mut bytes, GetRandomFlags::empty());
    f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_a_bound_and_keep_appointments() {
        let mut backoff = Backoff::default();
        let soon = Wait::AtLeast(Duration::ZERO);
        for bound in [2, 4, 8, 16, 30, 30].map(Duration::from_secs) {
            let wait = backoff.next(soon);
            assert!(wait >= LEAST && wait <= bound, "{wait:?}, {bound:?}");
        }
        assert_eq!(backoff.next(Wait::Exactly(Duration::from_millis(7))), Duration::from_millis(7));
        let late = backoff.next(Wait::AtLeast(Duration::from_secs(20)));
        assert!(late >= Duration::from_secs(20) && late <= Duration::from_secs(40), "{late:?}");
        backoff.reset();
        assert!(backoff.next(soon) <= Duration::from_secs(2));
    }
}
