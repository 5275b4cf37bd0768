//! What one thread counts while it works.
//!
//! Only that thread writes; whoever asks for metrics reads. A relaxed load and a relaxed store are then enough, and cost what
//! a plain variable costs: no locked instruction, and no cache line that another shard writes to.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::api::call::ERROR_CODES;
use crate::protocol::Protocol;
use crate::protocol::v1::Code;

/// A number that one thread writes and others read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; only from the thread that owns it.
    pub fn add(&self, count: u64) {
        self.0.store(self.get().wrapping_add(count), Ordering::Relaxed);
    }

    /// Subtracts, where the number is a level; only from the thread that owns it.
    pub fn subtract(&self, count: u64) {
        self.0.store(self.get().wrapping_sub(count), Ordering::Relaxed);
    }

    /// What it stands at.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What becomes of a member that fell behind the oldest frame kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lapped {
    /// It is told what it lost, and goes on.
    Gap,
    /// It is closed with 4101.
    Close,
    /// It asked for it (`?lossy=1`): it goes on and isn't told.
    Skip,
}

impl Lapped {
    /// All of them, in the order of their declaration.
    pub const ALL: [Self; 3] = [Self::Gap, Self::Close, Self::Skip];

    /// As a label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gap => "gap",
            Self::Close => "close",
            Self::Skip => "skip",
        }
    }
}

/// What becomes of a request for what was missed while away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// All of it was still there, and is sent.
    Recovered,
    /// Some of it was gone.
    TooOld,
    /// It asked for another life of the room.
    OtherEpoch,
}

impl Replay {
    /// All of them, in the order of their declaration.
    pub const ALL: [Self; 3] = [Self::Recovered, Self::TooOld, Self::OtherEpoch];

    /// As a label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Recovered => "recovered",
            Self::TooOld => "too_old",
            Self::OtherEpoch => "other_epoch",
        }
    }
}

/// A connection that ended without a Close (RFC 6455, 7.1.5).
pub const CLOSED_ABNORMALLY: u16 = 1006;
/// A Close that carried no code (RFC 6455, 7.1.5); also a listener that goes, which has no way to give one.
pub const CLOSED_WITHOUT_CODE: u16 = 1005;
/// Codes that are counted one by one; peers may send any other, and those are counted together.
pub const CLOSE_CODES: [u16; 18] = [
    1000,
    1001,
    1002,
    1003,
    CLOSED_WITHOUT_CODE,
    CLOSED_ABNORMALLY,
    1007,
    1008,
    1009,
    1010,
    1011,
    1012,
    1013,
    4001,
    4002,
    4003,
    4101,
    4102,
];

/// How many values fell into each of some ranges, for one thread to write.
#[derive(Debug)]
pub struct Histogram<const N: usize> {
    /// The largest value of each range, ascending; what is larger than the last falls into one more.
    bounds: &'static [u64; N],
    counts: [Counter; N],
    above: Counter,
    sum: Counter,
}

impl<const N: usize> Histogram<N> {
    fn new(bounds: &'static [u64; N]) -> Self {
        debug_assert!(bounds.is_sorted());
        Self {
            bounds,
            counts: std::array::from_fn(|_| Counter::default()),
            above: Counter::default(),
            sum: Counter::default(),
        }
    }

    /// Counts a value that came `times` times.
    pub fn record(&self, value: u64, times: u64) {
        let range = self.bounds.iter().position(|bound| value <= *bound);
        range.map_or(&self.above, |range| &self.counts[range]).add(times);
        self.sum.add(value.saturating_mul(times));
    }

    /// Adds what it holds to `counts` (one more than there are bounds), and returns the sum of the values.
    pub fn add_to(&self, counts: &mut [u64]) -> u64 {
        for (count, counter) in counts.iter_mut().zip(self.counts.iter().chain([&self.above])) {
            *count += counter.get();
        }
        self.sum.get()
    }
}

/// Sends of one turn: [`Counters::send_batch`].
pub const BATCH_BOUNDS: [u64; 11] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];

const MICROSECOND: u64 = 1000;
const MILLISECOND: u64 = 1000 * MICROSECOND;
const SECOND: u64 = 1000 * MILLISECOND;

/// Nanoseconds of a delivery: [`Counters::delivery`].
pub const DELIVERY_BOUNDS: [u64; 18] = [
    50 * MICROSECOND,
    100 * MICROSECOND,
    250 * MICROSECOND,
    500 * MICROSECOND,
    MILLISECOND,
    2 * MILLISECOND,
    3 * MILLISECOND,
    5 * MILLISECOND,
    7 * MILLISECOND,
    10 * MILLISECOND,
    25 * MILLISECOND,
    50 * MILLISECOND,
    100 * MILLISECOND,
    250 * MILLISECOND,
    500 * MILLISECOND,
    SECOND,
    SECOND * 5 / 2,
    10 * SECOND,
];

/// See the module. Aligned so that no other thread's data shares its cache lines.
#[derive(Debug)]
#[repr(align(128))]
pub struct Counters {
    /// Frames of rooms that the kernel took, each once for every member.
    pub deliveries: Counter,
    /// Bytes that the kernel took of what leaves through WebSockets and streams.
    pub sent_bytes: Counter,
    /// Bytes that arrived through WebSockets, and from listeners.
    pub received_bytes: Counter,
    /// Nanoseconds spent in turns.
    pub busy_nanos: Counter,
    /// Sends of each turn that had any.
    pub send_batch: Histogram<{ BATCH_BOUNDS.len() }>,
    /// From the receipt of a message to its acceptance by the kernel, for every member, of messages that were sampled.
    pub delivery: Histogram<{ DELIVERY_BOUNDS.len() }>,
    /// Connections accepted.
    pub accepts: Counter,
    /// Notices of a gap.
    pub gaps: Counter,
    /// Frames that lapped members lost.
    pub lost: Counter,
    /// Pauses of an accept, because the system had no file or memory left.
    pub accept_pauses: Counter,
    /// Connections that gave no sign of life after a ping.
    pub ping_timeouts: Counter,
    /// Connections for which too many replies waited.
    pub replies_unread: Counter,
    /// Connections to the internal port that are open.
    pub api_connections: Counter,
    /// Messages that the internal port has published.
    pub api_messages_in: Counter,
    connections: [Counter; Protocol::ALL.len()],
    messages_in: [Counter; Protocol::ALL.len()],
    rate_limited: [Counter; Protocol::ALL.len()],
    lapped: [Counter; Lapped::ALL.len()],
    replays: [Counter; Replay::ALL.len()],
    refused: [Counter; Code::ALL.len()],
    api_errors: [Counter; ERROR_CODES.len()],
    disconnects: [Counter; CLOSE_CODES.len() + 1],
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            deliveries: Counter::default(),
            sent_bytes: Counter::default(),
            received_bytes: Counter::default(),
            busy_nanos: Counter::default(),
            send_batch: Histogram::new(&BATCH_BOUNDS),
            delivery: Histogram::new(&DELIVERY_BOUNDS),
            accepts: Counter::default(),
            gaps: Counter::default(),
            lost: Counter::default(),
            accept_pauses: Counter::default(),
            ping_timeouts: Counter::default(),
            replies_unread: Counter::default(),
            api_connections: Counter::default(),
            api_messages_in: Counter::default(),
            connections: Default::default(),
            messages_in: Default::default(),
            rate_limited: Default::default(),
            lapped: Default::default(),
            replays: Default::default(),
            refused: Default::default(),
            api_errors: Default::default(),
            disconnects: Default::default(),
        }
    }
}

impl Counters {
    /// Connections that are there now.
    pub fn connections(&self, protocol: Protocol) -> &Counter {
        &self.connections[protocol as usize]
    }

    /// Messages that arrived and were admitted.
    pub fn messages_in(&self, protocol: Protocol) -> &Counter {
        &self.messages_in[protocol as usize]
    }

    /// Messages refused for their rate.
    pub fn rate_limited(&self, protocol: Protocol) -> &Counter {
        &self.rate_limited[protocol as usize]
    }

    /// Members that fell behind the oldest frame kept.
    pub fn lapped(&self, outcome: Lapped) -> &Counter {
        &self.lapped[outcome as usize]
    }

    /// Requests for what was missed while away.
    pub fn replays(&self, outcome: Replay) -> &Counter {
        &self.replays[outcome as usize]
    }

    /// Requests of chat clients that were refused, of v0 under the code that v1 has for the same; those beyond the rate are
    /// in [`Counters::rate_limited`].
    pub fn refused(&self, code: Code) -> &Counter {
        &self.refused[code as usize]
    }

    /// Requests to the internal port that were refused, by one of [`ERROR_CODES`].
    pub fn api_errors(&self, code: &str) -> &Counter {
        let index = ERROR_CODES.iter().position(|counted| *counted == code);
        debug_assert!(index.is_some(), "{code} is not in the list");
        &self.api_errors[index.unwrap_or_default()]
    }

    /// Connections that ended, by the first close code that either side gave.
    pub fn disconnects(&self, code: u16) -> &Counter {
        let index = CLOSE_CODES.iter().position(|counted| *counted == code).unwrap_or(CLOSE_CODES.len());
        &self.disconnects[index]
    }

    /// Time spent in turns.
    pub fn busy(&self, time: Duration) {
        self.busy_nanos.add(time.as_nanos() as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_stand_in_the_order_of_their_declaration() {
        assert!(Protocol::ALL.iter().enumerate().all(|(index, protocol)| *protocol as usize == index));
        assert!(Lapped::ALL.iter().enumerate().all(|(index, outcome)| *outcome as usize == index));
        assert!(Replay::ALL.iter().enumerate().all(|(index, outcome)| *outcome as usize == index));
        assert!(Code::ALL.iter().enumerate().all(|(index, code)| *code as usize == index));
    }

    #[test]
    fn codes_that_nobody_knows_are_counted_together() {
        let counters = Counters::default();
        for code in [4101, 3999, 1004] {
            counters.disconnects(code).add(1);
        }
        assert_eq!((counters.disconnects(4101).get(), counters.disconnects(4999).get()), (1, 2));
    }

    #[test]
    fn a_value_falls_into_the_first_range_that_holds_it() {
        let histogram = Histogram::new(&[10, 100]);
        for (value, times) in [(0, 1), (10, 2), (11, 4), (100, 8), (101, 16)] {
            histogram.record(value, times);
        }
        let mut counts = [1; 3];
        assert_eq!(histogram.add_to(&mut counts), 20 + 44 + 800 + 1616);
        assert_eq!(counts, [4, 13, 17]);
    }
}
