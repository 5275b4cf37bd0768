//! Simulated time: it moves when the scheduler says so. The system's clock moves on its own, and sometimes backwards.

use std::cell::Cell;
use std::time::{Duration, Instant};

use hi::clock::{Now, Time};

/// The time at which a simulation begins, in milliseconds.
const BEGIN_MS: u64 = 5000;

/// Both readings of the clock.
#[derive(Debug)]
pub struct Clock {
    base: Instant,
    monotonic_ms: Cell<u64>,
    unix_ms: Cell<u64>,
}

impl Default for Clock {
    fn default() -> Self {
        // Only differences to it are ever looked at.
        Self { base: Instant::now(), monotonic_ms: Cell::new(BEGIN_MS), unix_ms: Cell::new(1_800_000_000_000) }
    }
}

impl Clock {
    /// The time now.
    pub fn now(&self) -> Now {
        let (unix_ms, monotonic_ms) = (self.unix_ms.get(), self.monotonic_ms.get());
        Now { instant: self.base + Duration::from_millis(monotonic_ms), time: Time { unix_ms, monotonic_ms } }
    }

    /// Milliseconds on the reading that never goes back.
    pub fn ms(&self) -> u64 {
        self.monotonic_ms.get()
    }

    /// Milliseconds since the simulation began.
    pub fn age_ms(&self) -> u64 {
        self.ms() - BEGIN_MS
    }

    /// Lets time pass.
    pub fn advance(&self, ms: u64) {
        self.monotonic_ms.update(|now| now + ms);
        self.unix_ms.update(|now| now + ms);
    }

    /// Lets time pass until then, rounded up to whole milliseconds.
    pub fn advance_to(&self, instant: Instant) {
        let wait = instant.saturating_duration_since(self.now().instant);
        self.advance(wait.as_nanos().div_ceil(1_000_000) as u64);
    }

    /// Somebody sets the system's clock.
    pub fn set_unix_ms(&self, unix_ms: u64) {
        self.unix_ms.set(unix_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_that_is_less_than_a_microsecond_away_comes() {
        let clock = Clock::default();
        let due = clock.now().instant + Duration::from_nanos(2_000_999);
        clock.advance_to(due);
        assert!(clock.now().instant >= due && clock.age_ms() == 3);
        clock.advance_to(due);
        assert_eq!(clock.age_ms(), 3, "what is over is not waited for");
    }
}
