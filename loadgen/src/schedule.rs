//! The schedule: when each message is due, whatever the server does. Pure.

use std::time::Duration;

/// A period of messages at one rate.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// When the first message is due (run's clock).
    pub start_us: u64,
    /// Nanoseconds between two messages of a room.
    pub interval_ns: u64,
    /// Number of the first message of each publisher.
    pub first: u32,
    /// Messages of each publisher in the warm-up.
    pub warm: u32,
    /// Messages of each publisher that are measured.
    pub measured: u32,
}

impl Step {
    /// `rate` messages per second from all `publishers` of a room together, for `warmup` and then `duration`. `None` if
    /// there are more messages than numbers.
    pub fn new(
        start_us: u64,
        rate: f64,
        publishers: usize,
        first: u32,
        (warmup, duration): (Duration, Duration),
    ) -> Option<Self> {
        let each = |time: Duration| {
            let messages = (time.as_secs_f64() * rate / publishers as f64).ceil();
            (messages < f64::from(u32::MAX)).then_some(messages as u32)
        };
        let (warm, measured) = (each(warmup)?, each(duration)?.max(1));
        // The last number is reserved: it means that nothing has been seen, see `audit`.
        first.checked_add(warm)?.checked_add(measured)?.checked_add(1)?;
        Some(Self { start_us, interval_ns: (1e9 / rate) as u64, first, warm, measured })
    }

    /// When message `index` of the publisher `number` of `publishers` is due.
    pub fn due_us(&self, index: u32, number: u16, publishers: usize) -> u64 {
        let place = u64::from(index) * publishers as u64 + u64::from(number);
        self.start_us + place * self.interval_ns / 1000
    }

    /// The same step without messages that are due after `us`; each publisher keeps equally many.
    pub fn until(self, us: u64, publishers: usize) -> Self {
        let due = match us.checked_sub(self.start_us) {
            Some(since_us) => since_us * 1000 / self.interval_ns.max(1) + 1,
            None => 0,
        };
        let each = u32::try_from(due / publishers as u64).unwrap_or(u32::MAX);
        let warm = self.warm.min(each);
        Self { warm, measured: self.measured.min(each - warm), ..self }
    }

    /// When the measured time begins.
    pub fn measured_from_us(&self, publishers: usize) -> u64 {
        self.due_us(self.warm, 0, publishers)
    }

    /// Number from which on all messages are due at `us` or later.
    pub fn due_from(&self, us: u64, publishers: usize) -> u32 {
        let place = us.saturating_sub(self.start_us) * 1000 / self.interval_ns.max(1);
        let index = place / publishers as u64 + 1;
        self.first_measured().max(self.first.saturating_add(u32::try_from(index).unwrap_or(u32::MAX)))
    }

    /// When it ends, which is when the next message would be due.
    pub fn end_us(&self, publishers: usize) -> u64 {
        self.due_us(self.warm + self.measured, 0, publishers)
    }

    /// Number of the first message that is measured.
    pub fn first_measured(&self) -> u32 {
        self.first + self.warm
    }

    /// Number behind the last message.
    pub fn end(&self) -> u32 {
        self.first + self.warm + self.measured
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_ends_early_keeps_what_was_due() {
        let step = Step::new(1_000, 10.0, 4, 100, (Duration::from_secs(2), Duration::from_secs(4))).unwrap();
        assert_eq!((step.warm, step.measured), (5, 10));
        for (us, kept) in [
            (0, (0, 0)),
            (1_000, (0, 0)),
            (301_000, (1, 0)),
            (1_901_000, (5, 0)),
            (2_300_999, (5, 0)),
            (2_301_000, (5, 1)),
            (u64::MAX / 2_000, (5, 10)),
        ] {
            let short = step.until(us, 4);
            assert_eq!((short.warm, short.measured), kept, "{us}");
            let all_due = (0..short.warm + short.measured).all(|index| step.due_us(index, 3, 4) <= us);
            assert!(all_due && short.end() <= step.end() && short.first == step.first, "{us}");
        }
    }

    #[test]
    fn there_is_no_step_with_more_messages_than_numbers() {
        let seconds = |warmup, duration| (Duration::from_secs(warmup), Duration::from_secs(duration));
        let step = Step::new(5, 10.0, 4, 100, seconds(1, 2)).unwrap();
        assert_eq!((step.warm, step.measured, step.interval_ns, step.end()), (3, 5, 100_000_000, 108));
        assert!(Step::new(0, 1e6, 1, 0, seconds(2, 4292)).is_some());
        assert!(Step::new(0, 1e6, 1, 0, seconds(2, 4293)).is_none());
        assert!(Step::new(0, 1e6, 1, u32::MAX - 5_000_000, seconds(1, 4)).is_none(), "including those before it");
        assert!(Step::new(0, 1e6, 1, 0, seconds(0, u64::MAX)).is_none());
    }
}
