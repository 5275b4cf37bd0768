//! What time it is, in the two readings that the server needs.
//!
//! The system's clock is set by people and by NTP, forwards and backwards. It is for times that others know as well: `Ts` on the
//! wire, the validity of tokens, metrics. Whatever measures an age or an interval uses the reading that never goes back.

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Where [`Time::monotonic_ms`] begins: all threads of the process have to agree on it, as rooms are shared.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Time since 1970 by the system's clock; 0 if that is set to before.
pub(crate) fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// What time it is, as a shard sees it for one turn.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// When the turn began.
    pub instant: Instant,
    /// The same moment in milliseconds.
    pub time: Time,
}

impl Now {
    /// Reads the clocks.
    pub fn read() -> Self {
        let instant = Instant::now();
        Self { instant, time: Time::read(instant) }
    }
}

/// One moment, read from both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Time {
    /// Milliseconds since 1970, for `Ts` on the wire. It may jump either way between two readings.
    pub unix_ms: u64,
    /// Milliseconds since the process first asked, for ages and intervals. It never goes back.
    pub monotonic_ms: u64,
}

impl Time {
    /// Reads the system's clock; `now` says what the monotonic one says.
    pub(crate) fn read(now: Instant) -> Self {
        let unix_ms = unix_time().as_millis() as u64;
        Self { unix_ms, monotonic_ms: now.saturating_duration_since(*START).as_millis() as u64 }
    }

    /// Seconds on the monotonic clock: the ticks of the timer wheel.
    pub(crate) fn tick(self) -> u32 {
        (self.monotonic_ms / 1000) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_threads_count_from_the_same_moment() {
        let now = Instant::now();
        let here = Time::read(now).monotonic_ms;
        let there = std::thread::spawn(move || Time::read(now + Duration::from_millis(1500))).join().unwrap();
        assert_eq!(there.monotonic_ms.saturating_sub(here).clamp(1499, 1501), there.monotonic_ms - here);
    }

    #[test]
    fn a_second_has_a_thousand_milliseconds() {
        let time = |monotonic_ms| Time { unix_ms: 0, monotonic_ms };
        assert_eq!([0, 999, 1000, 61_500].map(|ms| time(ms).tick()), [0, 0, 1, 61]);
    }
}
