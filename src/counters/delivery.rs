//! `hi_delivery_seconds`: from the receipt of a message to its acceptance by the kernel, for every member.
//!
//! Only a sample of the messages is timed: at most one every 100 ms on each shard. For each of these, every shard notes the
//! frame's `Seq` and the time of receipt beside the room's log; when a member's send completes, one comparison tells whether
//! such a frame was in it. The clock is read once for all completions that are taken together.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{Counters, Lapped};
use crate::limits::{PENDING_MAX, SAMPLES_MAX};

/// Shortest time between two sampled messages of one shard.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);

/// Chooses the messages that are timed.
#[derive(Debug, Default)]
pub(crate) struct Sampler {
    /// When the message that is being read was received.
    arrived: Option<Instant>,
    /// When the last sampled message was read. Not when it was received, so that messages that had to wait are sampled as often
    /// as others.
    last: Option<Instant>,
}

impl Sampler {
    /// Sets the time of receipt of what is read from now on.
    pub(crate) fn arrived(&mut self, at: Instant) {
        self.arrived = Some(at);
    }

    /// When the message that is being read was received.
    pub(crate) fn receipt(&self) -> Option<Instant> {
        self.arrived
    }

    /// The time of receipt of the message that is read `now`, if it is to be timed.
    pub(crate) fn sample(&mut self, now: Instant) -> Option<Instant> {
        let arrived = self.arrived?;
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < SAMPLE_INTERVAL) {
            return None;
        }
        self.last = Some(now);
        Some(arrived)
    }
}

/// The sampled messages of one room on one shard.
#[derive(Debug, Default)]
pub(crate) struct Sampled {
    /// `Seq` of the newest one; nearly all deliveries are beyond it. 0: none.
    newest: u64,
    /// `Seq` and time of receipt, ascending.
    messages: VecDeque<(u64, Instant)>,
}

impl Sampled {
    /// Adds a sampled message. Those before `first_seq` are no longer kept, and will never be delivered.
    pub(crate) fn add(&mut self, seq: u64, received: Instant, first_seq: u64) {
        while self.messages.len() >= SAMPLES_MAX || self.messages.front().is_some_and(|(seq, _)| *seq < first_seq) {
            self.messages.pop_front();
        }
        self.newest = seq;
        self.messages.push_back((seq, received));
    }

    /// Notes that one member got the frames from `from` up to, not including, `end`.
    pub(crate) fn delivered(&self, from: u64, end: u64, deliveries: &Deliveries) {
        self.between(from, end).for_each(|received| deliveries.sampled(received));
    }

    /// When the first sampled message from `from` up to, not including, `end` was received.
    pub(crate) fn first(&self, from: u64, end: u64) -> Option<Instant> {
        self.between(from, end).next()
    }

    fn between(&self, from: u64, end: u64) -> impl Iterator<Item = Instant> {
        let first = if from > self.newest {
            self.messages.len()
        } else {
            self.messages.partition_point(|(seq, _)| *seq < from)
        };
        self.messages.range(first..).take_while(move |(seq, _)| *seq < end).map(|(_, received)| *received)
    }
}

/// Frames of a room among the bytes in a connection's outbox; they count as delivered once those bytes have been sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Carried {
    pub(crate) frames: u32,
    /// When the first sampled one among them was received.
    pub(crate) received: Option<Instant>,
}

/// What was delivered on one shard since the last report.
#[derive(Debug, Default)]
pub(crate) struct Deliveries {
    frames: Cell<u64>,
    /// Messages that members skipped because a newer one of the same key had come, and members for which more was dropped.
    conflated: Cell<u64>,
    skips: Cell<u64>,
    /// Times of receipt, and to how many members each message was delivered since.
    sampled: RefCell<Vec<(Instant, u64)>>,
}

impl Deliveries {
    /// Counts frames accepted by the kernel.
    pub(crate) fn count(&self, frames: u64) {
        self.frames.set(self.frames.get() + frames);
    }

    /// Counts messages that a member was not sent because newer ones of the same keys had come. `skips`: perhaps also some for
    /// which none had.
    pub(crate) fn conflated(&self, messages: u64, skips: bool) {
        self.conflated.set(self.conflated.get() + messages);
        self.skips.set(self.skips.get() + u64::from(skips));
    }

    /// Notes that a sampled message was delivered to one member.
    pub(crate) fn sampled(&self, received: Instant) {
        let mut sampled = self.sampled.borrow_mut();
        let pending = sampled.len();
        match sampled.last_mut() {
            Some((same, members)) if *same == received => *members += 1,
            _ if pending < PENDING_MAX => sampled.push((received, 1)),
            _ => {}
        }
    }

    /// Adds all of it to the counters.
    pub(crate) fn report(&self, counters: &Counters) {
        let frames = self.frames.take();
        if frames == 0 {
            return;
        }
        counters.deliveries.add(frames);
        counters.conflated.add(self.conflated.take());
        counters.lapped(Lapped::Skip).add(self.skips.take());
        let mut sampled = self.sampled.borrow_mut();
        if sampled.is_empty() {
            return;
        }
        let now = Instant::now();
        for (received, members) in sampled.drain(..) {
            counters.delivery.record(now.duration_since(received).as_nanos() as u64, members);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::{DELIVERY_BOUNDS, counters};

    #[test]
    fn one_message_in_100_ms_is_followed() {
        let (mut sampler, start) = (Sampler::default(), Instant::now());
        assert_eq!(sampler.sample(start), None);
        let mut followed = Vec::new();
        for ms in [0, 0, 99, 100, 150, 201] {
            let now = start + Duration::from_millis(ms);
            sampler.arrived(now);
            followed.extend(sampler.sample(now).map(|_| ms));
        }
        assert_eq!(followed, [0, 100, 201]);
    }

    #[test]
    fn a_message_that_has_waited_is_followed_from_its_receipt() {
        let (mut sampler, start) = (Sampler::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        sampler.arrived(at(400));
        assert_eq!(sampler.sample(at(401)), Some(at(400)));
        // It was received before the last sampled message, and is read long after it.
        sampler.arrived(at(10));
        assert_eq!(sampler.sample(at(900)), Some(at(10)));
    }

    #[test]
    fn every_member_that_gets_a_followed_message_is_timed_once() {
        let ((counters, readings), deliveries, mut room) = (counters(), Deliveries::default(), Sampled::default());
        let received = Instant::now();
        room.add(5, received, 1);
        room.add(9, received + Duration::from_nanos(1), 1);
        for (from, end) in [(1, 5), (5, 6), (6, 9), (3, 10), (10, 12)] {
            deliveries.count(end - from);
            room.delivered(from, end, &deliveries);
        }
        deliveries.report(&counters);
        deliveries.report(&counters);
        let mut counts = [0; DELIVERY_BOUNDS.len() + 1];
        readings.delivery.add_to(&mut counts);
        assert_eq!((counts.iter().sum::<u64>(), readings.deliveries.get()), (3, 17));
    }

    #[test]
    fn what_is_no_longer_kept_is_forgotten_and_the_rest_is_bounded() {
        let mut room = Sampled::default();
        for seq in 1..1000 {
            room.add(seq, Instant::now(), 1);
            assert!(room.messages.len() <= SAMPLES_MAX);
        }
        room.add(1000, Instant::now(), 990);
        assert_eq!(room.messages.front().unwrap().0, 990);
    }
}
