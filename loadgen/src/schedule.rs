//! The schedule: when each message is due, whatever the server does. Pure.

/// A time of messages at one rate.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// When the first message is due (run's clock).
    pub start_us: u64,
    /// Between two messages of a room, in nanoseconds.
    pub interval_ns: u64,
    /// Number of the first message of each publisher.
    pub first: u32,
    /// Messages of each publisher that are thrown away.
    pub warm: u32,
    /// Messages of each publisher that are measured.
    pub measured: u32,
}

impl Step {
    /// When message `index` of the publisher `number` of `publishers` is due.
    pub fn due_us(&self, index: u32, number: u16, publishers: usize) -> u64 {
        let place = u64::from(index) * publishers as u64 + u64::from(number);
        self.start_us + place * self.interval_ns / 1000
    }

    /// When the measured time begins.
    pub fn measured_from_us(&self, publishers: usize) -> u64 {
        self.due_us(self.warm, 0, publishers)
    }

    /// Number of a message from which on all are due at `us` or later.
    pub fn due_from(&self, us: u64, publishers: usize) -> u32 {
        let place = us.saturating_sub(self.start_us) * 1000 / self.interval_ns.max(1);
        let index = place / publishers as u64 + 1;
        self.first_measured().max(self.first.saturating_add(u32::try_from(index).unwrap_or(u32::MAX)))
    }

    /// When it ends: the next message would be due.
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
