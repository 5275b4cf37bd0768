//! The order of a room: a message gets its number and goes to every shard with members, in one step.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::Wakes;
use super::inbox::{Inbox, Relay};
use super::replay::{Gathered, Replay, ReplayBounds};
use crate::clock::Time;
use crate::protocol::broadcast::Unnumbered;
use crate::protocol::position::Since;

/// A message before it has its number.
#[derive(Debug)]
pub(super) enum Unplaced {
    /// A raw frame, which doesn't contain its number.
    Frame(Bytes),
    /// A message of a chat room.
    Message(Unnumbered),
}

impl Unplaced {
    /// Bytes of its content.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Frame(frame) => frame.len(),
            Self::Message(message) => message.len(),
        }
    }
}

/// Where a member begins that joins now.
#[derive(Debug)]
pub(super) struct Position {
    /// `Seq` of the first frame that will be published after the join.
    pub(super) first_seq: u64,
    /// `Seq` of the first frame that the member gets: smaller if some are replayed.
    pub(super) from_seq: u64,
    /// The beginning of the replay.
    pub(super) head: Option<Gathered>,
    /// Whether everything since the last message that it has seen is still kept; `None` if it didn't ask.
    pub(super) recovered: Option<bool>,
}

/// Numbers a room's messages. Used under the room's lock: giving out a number and pushing the message in one step makes the
/// order total.
#[derive(Debug)]
pub(super) struct Sequencer {
    room: u64,
    epoch: u64,
    next_seq: u64,
    /// The messages that are kept for clients that reconnect.
    pub(super) replay: Replay,
    /// The inboxes of all shards.
    outlets: Arc<[Inbox]>,
    members_by_shard: Box<[u32]>,
}

impl Sequencer {
    pub(super) fn new(room: u64, epoch: u64, outlets: Arc<[Inbox]>, replay: ReplayBounds) -> Self {
        let members_by_shard = vec![0; outlets.len()].into();
        Self { room, epoch, next_seq: 1, replay: Replay::new(1, replay), outlets, members_by_shard }
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// A life of the room begins, whose first message will be `next_seq`.
    pub(super) fn begin_life(&mut self, epoch: u64, next_seq: u64) {
        (self.epoch, self.next_seq) = (epoch, next_seq);
        self.replay.begin_at(next_seq);
    }

    /// Leaves out a number: something is lost.
    pub(super) fn lose_one(&mut self, wakes: &mut Wakes) {
        for (shard, outlet) in self.outlets() {
            wakes.note(shard, outlet.lose(self.room, self.next_seq));
        }
        self.next_seq += 1;
        self.replay.begin_at(self.next_seq);
    }

    /// The inboxes of the shards with members.
    pub(super) fn outlets(&self) -> impl Iterator<Item = (usize, &Inbox)> {
        let has_members = |(shard, _): &(usize, &Inbox)| self.members_by_shard[*shard] > 0;
        self.outlets.iter().enumerate().filter(has_members)
    }

    /// The inbox of a shard.
    pub(super) fn inbox(&self, shard: u32) -> &Inbox {
        &self.outlets[shard as usize]
    }

    /// `Seq` of the newest frame; 0 before the first.
    pub(super) fn last_seq(&self) -> u64 {
        self.next_seq - 1
    }

    /// Adds a member on this shard.
    pub(super) fn open(&mut self, shard: u32) {
        self.members_by_shard[shard as usize] += 1;
    }

    /// Removes a member on this shard.
    pub(super) fn close(&mut self, shard: u32) {
        self.members_by_shard[shard as usize] -= 1;
    }

    /// Gives a message its `Seq`, keeps it for clients that reconnect, and pushes it to each shard with members. `deflates`:
    /// some of them take it compressed.
    pub(super) fn place(&mut self, message: Unplaced, deflates: bool, now: Time, wakes: &mut Wakes) -> u64 {
        let seq = self.next_seq;
        let frame = match message {
            Unplaced::Frame(frame) => frame,
            Unplaced::Message(message) => message.number(seq, self.epoch, now.unix_ms),
        };
        self.push(seq, frame, deflates, now.monotonic_ms, wakes);
        seq
    }

    /// Does the same with a message that has its `Seq` already: beyond a hole if some before it are gone for good. It was
    /// published at `at_ms`.
    pub(super) fn push(&mut self, seq: u64, frame: Bytes, deflates: bool, at_ms: u64, wakes: &mut Wakes) {
        debug_assert!(seq >= self.next_seq, "numbers only grow");
        if seq > self.next_seq {
            self.replay.begin_at(seq);
        }
        self.next_seq = seq + 1;
        self.replay.push(&frame, at_ms);
        let (room, epoch, received) = (self.room, self.epoch, wakes.received);
        let relay = Relay { room, epoch, seq, frame, deflated: deflates.then(Arc::<OnceLock<_>>::default), received };
        for (shard, outlet) in self.outlets() {
            wakes.note(shard, outlet.push(relay.clone()));
        }
    }

    /// Where a member begins that joins now and has seen everything up to `since`. The position includes at most `bytes_max`
    /// bytes of replay.
    pub(super) fn position(&mut self, since: Option<Since>, now: Time, bytes_max: usize) -> Position {
        self.replay.cut(now.monotonic_ms);
        let first_seq = self.next_seq;
        let is_kept = |since: Since| {
            since.epoch == Some(self.epoch) && since.seq < first_seq && self.replay.reaches(since.seq + 1)
        };
        let recovered = since.map(is_kept);
        let from_seq = since.filter(|_| recovered == Some(true)).map_or(first_seq, |since| since.seq + 1);
        let head = self.replay.gather(from_seq, first_seq, bytes_max);
        Position { first_seq, from_seq, head, recovered }
    }
}
