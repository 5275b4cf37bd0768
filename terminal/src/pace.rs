//! How fast lines are sent, so that a server with a rate limit refuses none. Pure: time comes in as an argument.

use std::time::{Duration, Instant};

/// Part of the server's rate that is used, so that two clocks and the network's jitter don't matter.
const SHARE: f64 = 0.95;

/// A bucket that holds as many messages as may be sent in a second: half the burst that the server allows.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Messages a second; 0: no limit.
    rate: f64,
    left: f64,
    at: Instant,
}

impl Pace {
    /// A full bucket for a server that takes this many messages a second; 0: no limit.
    pub(crate) fn new(rate: u32, now: Instant) -> Self {
        let rate = f64::from(rate) * SHARE;
        Self { rate, left: rate.max(1.0), at: now }
    }

    /// Whether there is a limit.
    pub(crate) fn is_limited(&self) -> bool {
        self.rate > 0.0
    }

    /// How long to wait before the next message.
    pub(crate) fn wait(&mut self, now: Instant) -> Duration {
        if !self.is_limited() {
            return Duration::ZERO;
        }
        self.left =
            (self.left + self.rate * now.saturating_duration_since(self.at).as_secs_f64()).min(self.rate.max(1.0));
        self.at = now;
        Duration::from_secs_f64((1.0 - self.left).max(0.0) / self.rate)
    }

    /// A message is sent.
    pub(crate) fn sent(&mut self) {
        self.left -= 1.0;
    }

    /// The server refused one as too fast: nothing more for a moment.
    pub(crate) fn refused(&mut self) {
        self.left = self.left.min(0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The server's limit: twice the rate at once, then the rate.
    #[test]
    fn a_second_s_messages_at_once_and_then_a_little_less_than_the_rate() {
        let start = Instant::now();
        let (mut pace, mut now) = (Pace::new(20, start), start);
        for _ in 0..200 {
            now += pace.wait(now);
            pace.sent();
        }
        let took = (now - start).as_secs_f64();
        assert!((9.4..=9.6).contains(&took), "200 at 19 a second, 19 of them at once: {took}");
        pace.refused();
        assert!(pace.wait(now) > Duration::from_millis(50));
    }

    #[test]
    fn without_a_limit_nothing_waits() {
        let now = Instant::now();
        let mut pace = Pace::new(0, now);
        pace.sent();
        assert!(!pace.is_limited() && pace.wait(now).is_zero());
    }
}
