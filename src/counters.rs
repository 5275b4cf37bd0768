//! What one thread counts while it works.
//!
//! Only that thread writes: the writer's half ([`Counters`]) exists once and can't be shared, and `/metrics` has the reader's
//! half ([`Readings`]). So a relaxed load and a relaxed store are enough, and cost what a plain variable costs: no locked
//! instruction, and no cache line that another shard writes to.

use std::array::from_fn;
use std::cell::Cell;
use std::marker::PhantomData;
use std::time::Duration;

use crate::address::client::ClientHeader;
use crate::frame::deflate::Volume;
use crate::number::Number;
use crate::protocol::Protocol;
use crate::protocol::v1::Code;
use crate::words::words;

pub(crate) mod delivery;

/// The writer's half of a number. It may move to another thread, but two threads can't share it.
#[derive(Debug)]
pub struct Counter(&'static Number, PhantomData<Cell<()>>);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.add(count);
    }

    /// Subtracts, where the number is a level.
    pub(crate) fn subtract(&self, count: u64) {
        self.0.subtract(count);
    }
}

/// The reader's half of a number.
#[derive(Debug)]
pub struct Reading(&'static Number);

impl Reading {
    /// What the number is now.
    pub fn get(&self) -> u64 {
        self.0.get()
    }
}

words! {
    /// What happens to a member that needs a frame that is no longer kept.
    pub(crate) enum Lapped {
        /// It is told what it lost, and stays.
        Gap = "gap",
        /// It is closed with 4101.
        Close = "close",
        /// It asked for that (`?lossy=1`): it stays and isn't told.
        Skip = "skip",
    }
}

words! {
    /// How a request for missed messages ends.
    pub(crate) enum Replay {
        /// Everything missed was still kept, and is sent.
        Recovered = "recovered",
        /// Some of it was no longer kept.
        TooOld = "too_old",
        /// It named another epoch of the room.
        OtherEpoch = "other_epoch",
    }
}

words! {
    /// What becomes of a client's offer to compress messages.
    pub enum Compression {
        /// Both sides may compress.
        Agreed = "agreed",
        /// Only the client may: it takes no window as large as that of the frames that members share.
        Received = "received",
        /// None of its offers can be accepted.
        Declined = "declined",
        /// The client can't decompress reliably: Safari 15.0 to 15.3.
        Safari = "safari",
    }
}

words! {
    /// The direction of messages.
    pub(crate) enum Direction {
        /// From clients.
        In = "in",
        /// To members.
        Out = "out",
    }
}

/// A connection that ended without a Close (RFC 6455, 7.1.5).
pub(crate) const CLOSED_ABNORMALLY: u16 = 1006;
/// A Close that carried no code (RFC 6455, 7.1.5); also a listener that disconnects, which has no way to send one.
pub(crate) const CLOSED_WITHOUT_CODE: u16 = 1005;
/// Close codes that are counted separately, those that are never sent (1005, 1006) included; all others are counted together.
pub const CLOSE_CODES: [u16; 19] =
    [1000, 1001, 1002, 1003, 1005, 1006, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 4001, 4002, 4003, 4004, 4101, 4102];

/// `code` of every error of the internal port, as `openapi.json` lists them.
pub const ERROR_CODES: [&str; 11] = [
    "bad_request",
    "denied",
    "not_found",
    "room_not_found",
    "method_not_allowed",
    "too_late",
    "key_reused",
    "too_many_keys",
    "too_big",
    "busy",
    "unavailable",
];

/// Counts of values by range.
#[derive(Debug)]
pub(crate) struct Histogram<const N: usize, C = Counter> {
    /// The largest value of each range, ascending; larger values are counted in `above`.
    bounds: &'static [u64; N],
    counts: [C; N],
    above: C,
    sum: C,
}

impl<const N: usize, C> Histogram<N, C> {
    fn new(bounds: &'static [u64; N], next: &mut impl FnMut() -> C) -> Self {
        debug_assert!(bounds.is_sorted());
        Self { bounds, counts: from_fn(|_| next()), above: next(), sum: next() }
    }
}

impl<const N: usize> Histogram<N> {
    /// Counts a value `times` times.
    pub(crate) fn record(&self, value: u64, times: u64) {
        let range = self.bounds.iter().position(|bound| value <= *bound);
        range.map_or(&self.above, |range| &self.counts[range]).add(times);
        self.sum.add(value.saturating_mul(times));
    }
}

impl<const N: usize> Histogram<N, Reading> {
    /// Adds the counts to `counts` (one more than there are bounds), and returns the sum of the values.
    pub(crate) fn add_to(&self, counts: &mut [u64]) -> u64 {
        for (count, reading) in counts.iter_mut().zip(self.counts.iter().chain([&self.above])) {
            *count += reading.get();
        }
        self.sum.get()
    }
}

/// Sends of one turn, or messages of one fan-out: [`Counters::send_batch`], [`Counters::flush`].
pub(crate) const BATCH_BOUNDS: [u64; 11] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];

/// Nanoseconds of a delivery: [`Counters::delivery`].
pub(crate) const DELIVERY_BOUNDS: [u64; 18] = {
    let mut micros = [
        50, 100, 250, 500, 1_000, 2_000, 3_000, 5_000, 7_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
        1_000_000, 2_500_000, 10_000_000,
    ];
    let mut at = 0;
    while at < micros.len() {
        micros[at] *= 1000;
        at += 1;
    }
    micros
};

/// The numbers of one thread, on cache lines of their own.
#[derive(Debug)]
#[repr(align(128))]
struct Numbers([Number; NUMBERS_MAX]);

/// Numbers reserved for one thread, at least those of [`Counters`].
const NUMBERS_MAX: usize = 136;

/// The counters of one thread: in the writer's half each is a [`Counter`], in the reader's half a [`Reading`].
#[derive(Debug)]
pub struct Counters<C = Counter> {
    /// Frames of rooms accepted by the kernel, once for each member.
    pub(crate) deliveries: C,
    /// Bytes accepted by the kernel for WebSockets and streams.
    pub(crate) sent_bytes: C,
    /// Bytes received from WebSockets and listeners.
    pub(crate) received_bytes: C,
    pub(crate) busy_nanos: C,
    /// Number of sends in each turn that had any.
    pub(crate) send_batch: Histogram<{ BATCH_BOUNDS.len() }, C>,
    /// Number of messages for which the members of a room were visited together.
    pub(crate) flush: Histogram<{ BATCH_BOUNDS.len() }, C>,
    /// Time from the receipt of a sampled message to its acceptance by the kernel, for each member.
    pub(crate) delivery: Histogram<{ DELIVERY_BOUNDS.len() }, C>,
    pub(crate) accepts: C,
    pub(crate) gaps: C,
    /// Frames lost by lapped members.
    pub(crate) lost: C,
    /// Messages that members were not sent because newer ones of the same keys had come.
    pub(crate) conflated: C,
    /// Pauses of accepting, for lack of file descriptors or memory.
    pub(crate) accept_pauses: C,
    /// Connections that gave no sign of life after a ping.
    pub(crate) ping_timeouts: C,
    /// Connections for which too many replies waited.
    pub(crate) replies_unread: C,
    /// Requests that named a user in `--user-header`, though no trusted proxy sent them.
    pub(crate) untrusted_users: C,
    /// Connections to the internal port that are open.
    pub(crate) api_connections: C,
    /// Messages that the internal port has published.
    pub(crate) api_messages_in: C,
    connections: [C; Protocol::ALL.len()],
    messages_in: [C; Protocol::ALL.len()],
    rate_limited: [C; Protocol::ALL.len()],
    lapped: [C; Lapped::ALL.len()],
    replays: [C; Replay::ALL.len()],
    compressions: [C; Compression::ALL.len()],
    deflated_bytes: [C; Direction::ALL.len()],
    deflate_plain_bytes: [C; Direction::ALL.len()],
    untrusted_headers: [C; ClientHeader::ALL.len()],
    refused: [C; Code::ALL.len()],
    api_errors: [C; ERROR_CODES.len()],
    disconnects: [C; CLOSE_CODES.len() + 1],
}

/// The reader's half.
pub type Readings = Counters<Reading>;

/// The two halves of one thread's counters. The numbers live as long as the process: metrics are read even after the thread
/// has ended.
pub fn counters() -> (Counters, Readings) {
    let numbers: &'static Numbers = Box::leak(Box::new(Numbers(from_fn(|_| Number::default()))));
    let each = || {
        let mut numbers = numbers.0.iter();
        move || numbers.next().expect("there are fewer than NUMBERS_MAX")
    };
    let (mut written, mut read) = (each(), each());
    (Counters::new(&mut || Counter(written(), PhantomData)), Counters::new(&mut || Reading(read())))
}

impl Default for Counters {
    /// Counters that nobody reads.
    fn default() -> Self {
        counters().0
    }
}

impl<C> Counters<C> {
    /// Used for both halves, so that they agree on which number is which.
    fn new(next: &mut impl FnMut() -> C) -> Self {
        Self {
            deliveries: next(),
            sent_bytes: next(),
            received_bytes: next(),
            busy_nanos: next(),
            send_batch: Histogram::new(&BATCH_BOUNDS, next),
            flush: Histogram::new(&BATCH_BOUNDS, next),
            delivery: Histogram::new(&DELIVERY_BOUNDS, next),
            accepts: next(),
            gaps: next(),
            lost: next(),
            conflated: next(),
            accept_pauses: next(),
            ping_timeouts: next(),
            replies_unread: next(),
            untrusted_users: next(),
            api_connections: next(),
            api_messages_in: next(),
            connections: from_fn(|_| next()),
            messages_in: from_fn(|_| next()),
            rate_limited: from_fn(|_| next()),
            lapped: from_fn(|_| next()),
            replays: from_fn(|_| next()),
            compressions: from_fn(|_| next()),
            deflated_bytes: from_fn(|_| next()),
            deflate_plain_bytes: from_fn(|_| next()),
            untrusted_headers: from_fn(|_| next()),
            refused: from_fn(|_| next()),
            api_errors: from_fn(|_| next()),
            disconnects: from_fn(|_| next()),
        }
    }

    /// Open connections.
    pub fn connections(&self, protocol: Protocol) -> &C {
        &self.connections[protocol as usize]
    }

    /// Messages received and accepted.
    pub(crate) fn messages_in(&self, protocol: Protocol) -> &C {
        &self.messages_in[protocol as usize]
    }

    /// Messages refused for their rate.
    pub(crate) fn rate_limited(&self, protocol: Protocol) -> &C {
        &self.rate_limited[protocol as usize]
    }

    /// Members that needed a frame that was no longer kept.
    pub(crate) fn lapped(&self, outcome: Lapped) -> &C {
        &self.lapped[outcome as usize]
    }

    /// Requests for missed messages.
    pub(crate) fn replays(&self, outcome: Replay) -> &C {
        &self.replays[outcome as usize]
    }

    /// Offers to compress messages.
    pub(crate) fn compression(&self, outcome: Compression) -> &C {
        &self.compressions[outcome as usize]
    }

    /// Bytes of compressed payloads.
    pub(crate) fn deflated_bytes(&self, direction: Direction) -> &C {
        &self.deflated_bytes[direction as usize]
    }

    /// Bytes of the same payloads, uncompressed.
    pub(crate) fn deflate_plain_bytes(&self, direction: Direction) -> &C {
        &self.deflate_plain_bytes[direction as usize]
    }

    /// Requests that named a client in this header, though no trusted proxy sent them.
    pub(crate) fn untrusted_headers(&self, header: ClientHeader) -> &C {
        &self.untrusted_headers[header as usize]
    }

    /// Requests of chat clients that were refused; those of v0 under the code that v1 would have. Those beyond the rate are in
    /// [`Counters::rate_limited`].
    pub(crate) fn refused(&self, code: Code) -> &C {
        &self.refused[code as usize]
    }

    /// Requests to the internal port that were refused, by code: one of [`ERROR_CODES`].
    pub(crate) fn api_errors(&self, code: &str) -> &C {
        let index = ERROR_CODES.iter().position(|counted| *counted == code);
        debug_assert!(index.is_some(), "{code} is not in the list");
        &self.api_errors[index.unwrap_or_default()]
    }

    /// Connections that ended, by the first close code that either side gave.
    pub fn disconnects(&self, code: u16) -> &C {
        let index = CLOSE_CODES.iter().position(|counted| *counted == code).unwrap_or(CLOSE_CODES.len());
        &self.disconnects[index]
    }
}

impl Counters {
    /// Counts messages that were compressed or decompressed.
    pub(crate) fn deflated(&self, direction: Direction, volume: Volume) {
        if volume != Volume::default() {
            self.deflated_bytes(direction).add(volume.deflated);
            self.deflate_plain_bytes(direction).add(volume.plain);
        }
    }

    pub(crate) fn busy(&self, time: Duration) {
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
        assert!(Compression::ALL.iter().enumerate().all(|(index, outcome)| *outcome as usize == index));
        assert!(Direction::ALL.iter().enumerate().all(|(index, direction)| *direction as usize == index));
        assert!(Code::ALL.iter().enumerate().all(|(index, code)| *code as usize == index));
    }

    #[test]
    fn codes_that_nobody_knows_are_counted_together() {
        let (counters, readings) = counters();
        for code in [4101, 3999, 1004] {
            counters.disconnects(code).add(1);
        }
        assert_eq!((readings.disconnects(4101).get(), readings.disconnects(4999).get()), (1, 2));
    }

    #[test]
    fn a_value_falls_into_the_first_range_that_holds_it() {
        let (counters, readings) = counters();
        for (value, times) in [(0, 1), (1, 2), (2, 4), (2000, 8), (1024, 16)] {
            counters.send_batch.record(value, times);
        }
        let mut counts = [1; BATCH_BOUNDS.len() + 1];
        assert_eq!(readings.send_batch.add_to(&mut counts), 2 + 8 + 16000 + 16384);
        assert_eq!(counts, [4, 5, 1, 1, 1, 1, 1, 1, 1, 1, 17, 9]);
    }
}
