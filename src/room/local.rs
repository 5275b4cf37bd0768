//! A shard's side of the rooms that its connections are in: the log, its readers, and whose turn it is.
//!
//! A room with new messages owes its members a visit. Such rooms are queued, and each turn visits some members of each: a large
//! or busy room takes many turns, and a small one never waits for it. Nor does a quiet room wait for hundreds of busy ones: it
//! is in a queue of its own. Messages that are published during a room's visits are covered by them, too. With more than
//! [`ROOM_BYTES_HELD`] of unvisited messages, a room is behind, and its publishers wait. A room with a [`Pace`] waits before it
//! is queued again. All of that is in `visits`.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use slab::Slab;

use super::Room;
use super::inbox::{Lost, Relay};
use super::log::{FRAME_OVERHEAD_BYTES, Log};
use super::newest::Newest;
use super::pace::{Pace, Pacer, SendTime};
use crate::counters::delivery::{Carried, Deliveries, Sampled};
use crate::frame::deflate::Deflater;
use crate::frame::encode;
use crate::limits::{MEMBERS_PER_TRIM, NEWEST_LOG_BYTES_MAX, ROOM_BYTES_HELD};
use crate::protocol::position::Batch;
use crate::protocol::{Encoding, key};

mod visits;

use visits::Visits;

/// The slots of a room on one shard, one for each encoding that has members. All share `Seq` and cursors.
type Slots = [Option<u32>; Encoding::ALL.len()];

/// A room on one shard, in one encoding.
#[derive(Debug)]
pub(crate) struct LocalRoom {
    /// The room that all shards share.
    pub room: Arc<Room>,
    /// The frames that arrived here, encoded.
    pub log: Log,
    /// The newest of them of each key, if the members skip to those.
    pub newest: Option<Box<Newest>>,
    encoding: Encoding,
    /// Slots of the connections that are members; those that this round has visited come first.
    members: Vec<u32>,
    visits: Visits,
    /// Frames in the log whose deliveries are timed.
    sampled: Sampled,
    /// Whether the room is in the list of rooms that have grown.
    has_grown: bool,
    /// Number of its entry in the list of rooms whose log holds something.
    filled: Option<NonZeroU64>,
    /// Bytes that the log is cut back to.
    backlog_bytes_max: usize,
}

impl LocalRoom {
    /// The messages from `from` to before `until`, encoded: see [`Room::replay`].
    pub(crate) fn replay(&self, from: u64, until: u64, bytes_max: usize) -> Option<Batch> {
        let batch = self.room.replay(from, until, bytes_max)?;
        Some(self.encoding.encode_batch(batch, self.room.epoch(), from))
    }

    /// Members are sent the messages before this `Seq` as soon as possible; later ones wait for the next round of visits.
    pub(crate) fn due_seq(&self) -> u64 {
        if self.visits.is_at_once() { self.log.tip() } else { self.visits.next_seq }
    }

    /// The newest message of each key, in a room whose members skip to it.
    pub(crate) fn newest(&self) -> &Newest {
        self.newest.as_ref().expect("only members that skip ask for it")
    }

    /// Whether a member may still be sent the message `seq`.
    pub(crate) fn keeps(&self, seq: u64) -> bool {
        seq >= self.log.first_seq() || self.newest.as_ref().is_some_and(|newest| newest.contains(seq))
    }

    /// Memory that its messages take, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        self.log.held_bytes() + self.newest.as_ref().map_or(0, |newest| newest.held_bytes())
    }

    /// Drops the oldest messages, until the log takes at most `held_bytes_max` bytes, and as many those beside it.
    pub(crate) fn shrink(&mut self, held_bytes_max: usize) {
        self.log.shrink(held_bytes_max);
        if let Some(newest) = &mut self.newest {
            newest.shrink(held_bytes_max);
        }
    }

    /// Slots of the connections that are members, in no particular order.
    pub(crate) fn members(&self) -> &[u32] {
        &self.members
    }

    /// Adds a member, and returns its index in the list.
    pub(crate) fn add_member(&mut self, slot: u32) -> u32 {
        self.members.push(slot);
        self.members.len() as u32 - 1
    }

    /// Removes the member at `index`. Calls `moved` with the slot and the new index of each member that moves.
    pub(crate) fn remove_member(&mut self, index: u32, mut moved: impl FnMut(u32, u32)) {
        let mut hole = index as usize;
        if hole < self.visits.visited {
            // The last visited member fills the hole, so that nobody is skipped in this round.
            self.visits.visited -= 1;
            self.members.swap(hole, self.visits.visited);
            if hole < self.visits.visited {
                moved(self.members[hole], hole as u32);
            }
            hole = self.visits.visited;
        }
        self.members.swap_remove(hole);
        if let Some(filled) = self.members.get(hole) {
            moved(*filled, hole as u32);
        }
    }
}

/// The rooms that have at least one member on this shard.
#[derive(Debug, Default)]
pub(crate) struct LocalRooms {
    rooms: Slab<LocalRoom>,
    by_id: HashMap<u64, Slots>,
    /// Queued rooms that were quiet before, in the order of their turns. A queued room is either in here or in `busy`.
    quiet: VecDeque<u32>,
    /// Queued rooms that were already queued one round ago.
    busy: VecDeque<u32>,
    /// The room whose turn it is; it is in neither queue.
    current: Option<u32>,
    /// Number of turns that rooms have had.
    turns: u64,
    /// Rooms whose next round has to wait, and until when.
    waiting: BTreeSet<(Instant, u32)>,
    /// Bytes that wait in them.
    waiting_bytes: u64,
    send_time: SendTime,
    /// Whether no room waits, because memory is short.
    in_hurry: bool,
    /// Rooms whose log has grown since it was last cut back.
    grown: Vec<u32>,
    /// Rooms whose log holds something, each once, with the number of this entry. The entry of a room that is gone has a number
    /// that no room has.
    filled: VecDeque<(u32, NonZeroU64)>,
    /// The last number given to an entry of `filled`.
    numbers: u64,
    /// Bytes by which a log may exceed its bound until all members have been visited.
    log_excess_bytes_max: usize,
    /// Whether a room has caught up since the last [`LocalRooms::take_released`].
    released: bool,
    /// Deliveries that have not been reported yet.
    pub deliveries: Deliveries,
    /// Makes the frames of [`Encoding::Deflated`].
    pub deflater: Deflater,
}

impl LocalRooms {
    /// An empty set of rooms. Inboxes hold at most `inbox_bytes_max`: what is published before the publishers notice that a
    /// room is behind is in one inbox, or comes with the next drain. Members that take messages compressed get those of
    /// `deflated_bytes_min` or more so.
    pub(crate) fn new(inbox_bytes_max: usize, deflated_bytes_min: usize) -> Self {
        Self {
            log_excess_bytes_max: ROOM_BYTES_HELD + 2 * inbox_bytes_max,
            deflater: Deflater::new(deflated_bytes_min),
            ..Self::default()
        }
    }

    /// The slot of a room that a connection joins, created for the first member. A new log begins at `first_seq`.
    pub(crate) fn join(
        &mut self,
        room: &Arc<Room>,
        encoding: Encoding,
        first_seq: u64,
        backlog_bytes_max: usize,
        pace: Pace,
    ) -> u32 {
        *self.by_id.entry(room.id()).or_default()[encoding as usize].get_or_insert_with(|| {
            if encoding.is_deflated() {
                room.set_deflating(true);
            }
            let (newest, backlog_bytes_max) = match encoding.is_latest() {
                true => (Some(Box::new(Newest::new(first_seq))), backlog_bytes_max.min(NEWEST_LOG_BYTES_MAX)),
                false => (None, backlog_bytes_max),
            };
            self.rooms.insert(LocalRoom {
                room: Arc::clone(room),
                log: Log::new(first_seq, backlog_bytes_max + self.log_excess_bytes_max),
                newest,
                encoding,
                members: Vec::new(),
                visits: Visits::new(first_seq, Pacer::new(pace)),
                sampled: Sampled::default(),
                has_grown: false,
                filled: None,
                backlog_bytes_max,
            }) as u32
        })
    }

    /// Removes a room whose members have all left at once.
    pub(crate) fn empty(&mut self, slot: u32) {
        self.rooms[slot as usize].members.clear();
        self.remove(slot);
    }

    /// Removes a room without members.
    pub(crate) fn remove(&mut self, slot: u32) {
        self.dequeue(slot);
        let local = self.rooms.remove(slot as usize);
        debug_assert!(local.members.is_empty());
        if let Entry::Occupied(mut entry) = self.by_id.entry(local.room.id()) {
            entry.get_mut()[local.encoding as usize] = None;
            if entry.get().iter().all(Option::is_none) {
                entry.remove();
            }
        }
        if local.encoding.is_deflated() {
            local.room.set_deflating(false);
        }
        if local.visits.behind {
            local.room.set_behind(false);
            self.released = true;
        }
        if local.has_grown {
            self.grown.retain(|grown| *grown != slot);
        }
    }

    /// The slot of a room in this encoding, if it has members here.
    pub(crate) fn slot(&self, room: &Room, encoding: Encoding) -> Option<u32> {
        self.by_id.get(&room.id())?[encoding as usize]
    }

    /// The room in this slot.
    pub(crate) fn get(&self, slot: u32) -> &LocalRoom {
        &self.rooms[slot as usize]
    }

    /// The room in this slot, mutable.
    pub(crate) fn get_mut(&mut self, slot: u32) -> &mut LocalRoom {
        &mut self.rooms[slot as usize]
    }

    /// The log of the room in this slot.
    pub(crate) fn log(&self, slot: u32) -> &Log {
        &self.rooms[slot as usize].log
    }

    /// Appends a relay to the logs of its room; does nothing if the room has no members here any more.
    pub(crate) fn append(&mut self, relay: &Relay, now: Instant) {
        let Some(slots) = self.by_id.get(&relay.room).copied() else { return };
        let mut found_key = None;
        for (encoding, slot) in Encoding::ALL.into_iter().zip(slots) {
            if let Some(slot) = slot {
                let deflate = || relay.deflated(|frame| self.deflater.frame(frame));
                let bytes = encoding.encode(&relay.frame, relay.epoch, relay.seq, deflate);
                let LocalRoom { log, newest, .. } = &mut self.rooms[slot as usize];
                if let Some(newest) = newest.as_mut().filter(|_| relay.seq >= log.tip()) {
                    if relay.seq > log.tip() {
                        newest.lose(relay.seq);
                    }
                    let find = || key::key(encode::split(&relay.frame).0).map(Into::into);
                    newest.replace(relay.seq, found_key.get_or_insert_with(find).clone(), &bytes);
                }
                self.append_to(slot, relay, &bytes, now);
            }
        }
    }

    fn append_to(&mut self, slot: u32, relay: &Relay, bytes: &Bytes, now: Instant) {
        let local = &mut self.rooms[slot as usize];
        local.log.append(relay.seq, bytes);
        if let Some(received) = relay.received {
            local.sampled.add(relay.seq, received, local.log.first_seq());
        }
        local.visits.appended_bytes += (bytes.len() + FRAME_OVERHEAD_BYTES) as u64;
        if !local.visits.behind && local.visits.owed_bytes() > ROOM_BYTES_HELD as u64 {
            local.visits.behind = true;
            local.room.set_behind(true);
        }
        if local.filled.is_none() {
            self.numbers += 1;
            local.filled = NonZeroU64::new(self.numbers);
            self.filled.extend(local.filled.map(|number| (slot, number)));
        }
        self.enqueue(slot, now);
    }

    /// Moves the logs past frames that were dropped on their way here: members behind them are lapped, and visited so that they
    /// are told.
    pub(crate) fn lose(&mut self, lost: &Lost) {
        let Some(slots) = self.by_id.get(&lost.room).copied() else { return };
        for slot in slots.into_iter().flatten() {
            let local = &mut self.rooms[slot as usize];
            if local.log.skip_to(lost.last_seq + 1) {
                local.visits.appended_bytes += FRAME_OVERHEAD_BYTES as u64;
                if let Some(newest) = &mut local.newest {
                    newest.lose(lost.last_seq + 1);
                }
                self.queue(slot);
            }
        }
    }

    /// Whether a room has caught up since the last call: publishers may be waiting for it.
    pub(crate) fn take_released(&mut self) -> bool {
        std::mem::take(&mut self.released)
    }

    /// Counts the frames from `from` to before `end` as delivered to one member.
    pub(crate) fn delivered(&self, slot: u32, from: u64, end: u64) {
        self.deliveries.count(end - from);
        self.rooms[slot as usize].sampled.delivered(from, end, &self.deliveries);
    }

    /// Counts room frames that had become a connection's own as delivered.
    pub(crate) fn delivered_own(&self, carried: Carried) {
        self.deliveries.count(carried.frames.into());
        if let Some(received) = carried.received {
            self.deliveries.sampled(received);
        }
    }

    /// What has to be counted once the frames from `from` to before `end` have left as a connection's own bytes.
    pub(crate) fn carried(&self, slot: u32, from: u64, end: u64) -> Carried {
        // These are frames of one slice, which is smaller than 4 GiB.
        Carried { frames: (end - from) as u32, received: self.rooms[slot as usize].sampled.first(from, end) }
    }

    /// Cuts the logs of rooms that are not queued back to their bound: members that read have been sent everything, and members
    /// that lag have had their time.
    pub(crate) fn cut_back(&mut self) {
        let rooms = &mut self.rooms;
        self.grown.retain(|slot| {
            let local = &mut rooms[*slot as usize];
            local.has_grown = local.visits.is_queued;
            // A room that waits is in the list again as soon as it is queued.
            if !local.has_grown && !local.visits.is_waiting() {
                local.log.cut_back(local.backlog_bytes_max);
            }
            local.has_grown
        });
    }

    /// Number of members of all rooms together.
    #[cfg(debug_assertions)]
    pub(crate) fn memberships(&self) -> usize {
        self.rooms.iter().map(|(_, local)| local.members.len()).sum()
    }

    /// The slots of all rooms, each with the memory that its messages take, in bytes.
    pub(crate) fn held_bytes(&self) -> impl Iterator<Item = (u32, usize)> {
        self.rooms.iter().map(|(slot, local)| (slot as u32, local.held_bytes()))
    }

    /// Drops frames that every member has received: in a bounded number of rooms, and in the others with the next call.
    /// `slowest` returns the smallest cursor of a room's members.
    pub(crate) fn trim(&mut self, slowest: impl Fn(u32, &[u32]) -> u64) {
        let mut members_left = MEMBERS_PER_TRIM;
        for _ in 0..self.filled.len() {
            if members_left == 0 {
                break;
            }
            let Some((slot, number)) = self.filled.pop_front() else { break };
            let found = self.rooms.get_mut(slot as usize).filter(|local| local.filled == Some(number));
            let Some(local) = found else { continue };
            members_left = members_left.saturating_sub(local.members.len());
            let slowest = slowest(slot, &local.members).min(local.log.tip());
            local.log.trim(slowest);
            let is_newest_empty = local.newest.as_mut().is_none_or(|newest| {
                newest.trim(slowest);
                newest.is_empty()
            });
            if local.log.bytes() > 0 || !is_newest_empty {
                self.filled.push_back((slot, number));
            } else {
                local.filled = None;
            }
        }
    }
}

#[cfg(test)]
mod tests;
