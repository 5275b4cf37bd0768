//! How soon a room is fanned out again: a message leaves at once if its room was quiet, and otherwise together with those that
//! follow it.
//!
//! Pure: times come in as arguments. What it costs to have a pace is the wait of the messages in between; what it saves are
//! sends, because a member gets everything that has waited in one.

use std::time::{Duration, Instant};

use crate::limits::{FLUSH_MEASURED_SENDS_MIN, FLUSH_SHARE, FLUSH_WAIT_MIN};

/// Bytes whose copying costs about as much as a send of nothing.
const BYTES_PER_SEND: u64 = 8192;

/// How soon after one fan-out the next one may begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pace {
    /// As soon as there is a message.
    #[default]
    AtOnce,
    /// After this time.
    Every(Duration),
    /// After a multiple of what the last one took ([`FLUSH_SHARE`]), at most after this time.
    Auto(Duration),
}

/// What was given to the kernel, as a measure of the time that it takes: sends and their bytes, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Work(u64);

impl Work {
    pub(crate) fn new(sends: usize, bytes: usize) -> Self {
        Self(sends as u64 * BYTES_PER_SEND + bytes as u64)
    }
}

/// How long a shard takes for its sends: the moving average over its turns.
#[derive(Debug, Default)]
pub(crate) struct SendTime {
    /// 0 until the first turn with enough sends.
    nanos_per_byte: f64,
}

impl SendTime {
    /// A turn with this work took `time`.
    pub(crate) fn measured(&mut self, work: Work, time: Duration) {
        // What a turn takes beside its sends must not count for much.
        if work.0 < FLUSH_MEASURED_SENDS_MIN * BYTES_PER_SEND {
            return;
        }
        let nanos_per_byte = time.as_nanos() as f64 / work.0 as f64;
        let weight = if self.nanos_per_byte == 0.0 { 1.0 } else { 0.125 };
        self.nanos_per_byte += (nanos_per_byte - self.nanos_per_byte) * weight;
    }

    fn of(&self, work: Work) -> Duration {
        Duration::from_nanos((work.0 as f64 * self.nanos_per_byte) as u64)
    }
}

/// When a room was last fanned out, and at which pace it is.
#[derive(Debug, Default)]
pub(crate) struct Pacer {
    pace: Pace,
    /// When its last fan-out began.
    began: Option<Instant>,
    /// What this fan-out has given to the kernel.
    work: Work,
}

impl Pacer {
    pub(crate) fn new(pace: Pace) -> Self {
        Self { pace, ..Self::default() }
    }

    /// Whether a message never waits for the next fan-out.
    pub(crate) fn is_at_once(&self) -> bool {
        self.pace == Pace::AtOnce
    }

    /// A fan-out begins.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.began = Some(now);
        self.work = Work::default();
    }

    /// The fan-out has given this to the kernel.
    pub(crate) fn gave(&mut self, work: Work) {
        self.work.0 += work.0;
    }

    /// When the next fan-out may begin; `None` if it may begin `now`.
    pub(crate) fn due(&self, now: Instant, send_time: &SendTime) -> Option<Instant> {
        let interval = match self.pace {
            Pace::AtOnce => return None,
            Pace::Every(interval) => interval,
            Pace::Auto(wait_max) => {
                let interval = send_time.of(self.work).saturating_mul(FLUSH_SHARE).min(wait_max);
                Some(interval).filter(|interval| *interval >= FLUSH_WAIT_MIN)?
            }
        };
        Some(self.began? + interval).filter(|due| *due > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A room that was fanned out `now` to this many members, on a shard where a send takes 4 us.
    fn fanned_out(pace: Pace, now: Instant, members: usize) -> (Pacer, SendTime) {
        let (mut pacer, mut send_time) = (Pacer::new(pace), SendTime::default());
        send_time.measured(Work::new(1000, 0), 4 * MS);
        pacer.begin(now);
        pacer.gave(Work::new(members, 0));
        (pacer, send_time)
    }

    #[test]
    fn auto_waits_for_a_multiple_of_what_the_fan_out_took_within_its_bound() {
        let now = Instant::now();
        let wait = |members, wait_max| {
            let (pacer, send_time) = fanned_out(Pace::Auto(wait_max), now, members);
            pacer.due(now, &send_time).map(|due| due - now)
        };
        assert_eq!(wait(1000, 50 * MS), Some(4 * MS * FLUSH_SHARE));
        assert_eq!(wait(9000, 50 * MS), Some(50 * MS));
        assert_eq!(wait(9000, 5 * MS), Some(5 * MS));
        assert_eq!(wait(20, 50 * MS), None, "a timer would be later than that");
    }

    #[test]
    fn auto_waits_for_nothing_before_it_has_measured() {
        let now = Instant::now();
        let (pacer, _) = fanned_out(Pace::Auto(50 * MS), now, 1000);
        let mut send_time = SendTime::default();
        assert_eq!(pacer.due(now, &send_time), None);
        send_time.measured(Work::new(1, 0), MS);
        assert_eq!(pacer.due(now, &send_time), None, "a single send says nothing: most of its turn was something else");
    }

    #[test]
    fn the_average_follows_what_is_measured() {
        let mut send_time = SendTime::default();
        send_time.measured(Work::new(1000, 0), 100 * MS);
        (0..100).for_each(|_| send_time.measured(Work::new(1000, 1000), 4 * MS));
        let time = send_time.of(Work::new(1000, 1000));
        assert!(time > 3 * MS && time < 5 * MS, "{time:?}");
    }
}
