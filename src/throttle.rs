//! Log lines that can't become a flood: what an attacker can cause any number of times is logged a few times a minute.

use std::time::{Duration, Instant};

/// Lets a number of lines through in each interval and counts the others.
#[derive(Debug)]
pub(crate) struct Throttle {
    lines_max: u32,
    interval: Duration,
    began: Option<Instant>,
    said: u32,
    suppressed: u64,
}

impl Throttle {
    /// At most `per_minute` lines in a minute.
    pub(crate) fn new(per_minute: u32) -> Self {
        Self::every(Duration::from_secs(60), per_minute)
    }

    /// At most `lines_max` lines in each `interval`.
    pub(crate) fn every(interval: Duration, lines_max: u32) -> Self {
        Self { lines_max, interval, began: None, said: 0, suppressed: 0 }
    }

    /// Whether to write a line now; if so, how many were left out since the last one.
    pub(crate) fn admit(&mut self, now: Instant) -> Option<u64> {
        if self.began.is_none_or(|began| now.duration_since(began) >= self.interval) {
            self.began = Some(now);
            self.said = 0;
        }
        if self.said >= self.lines_max {
            self.suppressed += 1;
            return None;
        }
        self.said += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_becomes_a_count() {
        let start = Instant::now();
        let mut throttle = Throttle::new(2);
        assert_eq!(throttle.admit(start), Some(0));
        assert_eq!(throttle.admit(start), Some(0));
        for _ in 0..5 {
            assert_eq!(throttle.admit(start + Duration::from_secs(59)), None);
        }
        assert_eq!(throttle.admit(start + Duration::from_secs(60)), Some(5));
    }
}
