//! A shard's side of the rooms that its connections are in: the log, its readers, and whose turn it is.
//!
//! A room that has published owes its members a visit. Rooms that owe stand in line, and each turn visits some members of
//! each: a large or a busy room takes many turns, and a small one never waits for it. Nor does a quiet one wait for hundreds
//! that always owe: it stands in a line of its own. What is published into a room during its visits is theirs as well; with
//! more than [`ROOM_BYTES_HELD`] of it, the room is behind, and whoever publishes into it waits.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::num::NonZeroU64;
use std::sync::Arc;

use bytes::Bytes;
use slab::Slab;

use super::Room;
use super::inbox::{Lost, Relay};
use super::log::{FRAME_OVERHEAD_BYTES, Log};
use crate::limits::{MEMBERS_PER_TRIM, ROOM_BYTES_HELD};
use crate::metrics::delivery::{Carried, Deliveries, Sampled};
use crate::protocol::Encoding;
use crate::protocol::position::Batch;

/// The slots of a room on one shard, one for each encoding that has members: these share `Seq` and cursors.
type Slots = [Option<u32>; Encoding::ALL.len()];

/// A room as one shard has it, in one encoding.
#[derive(Debug)]
pub struct LocalRoom {
    /// What all shards share of it.
    pub room: Arc<Room>,
    /// What arrived here, encoded.
    pub log: Log,
    encoding: Encoding,
    /// Slots of the connections that are members: first those that have been visited.
    members: Vec<u32>,
    visits: Visits,
    /// Frames whose deliveries are timed.
    sampled: Sampled,
    /// Whether it stands in the list of rooms that have grown.
    has_grown: bool,
    /// Its number among the rooms whose log holds something; none if nothing is in there.
    filled: Option<NonZeroU64>,
    /// The log's bound.
    backlog_bytes_max: usize,
}

/// How far the members of a room have been visited: one round after the other, while the log grows.
#[derive(Debug, Default)]
struct Visits {
    /// Members that this round has visited; they stand first.
    visited: usize,
    /// Bytes appended to the log so far, when this round began, and when the last complete one began.
    appended_bytes: u64,
    began_bytes: u64,
    done_bytes: u64,
    /// Whether the room stands in line.
    in_line: bool,
    /// When so many rooms have had a turn, this one has been quiet for a whole round of the line.
    quiet_from: u64,
    /// Whether publishers are held back.
    behind: bool,
}

impl Visits {
    /// Bytes that some member has not been visited for.
    fn owed_bytes(&self) -> u64 {
        self.appended_bytes - self.done_bytes
    }

    /// Every member has been visited; true: the log has grown meanwhile, and another round begins.
    fn complete(&mut self) -> bool {
        self.visited = 0;
        self.done_bytes = self.began_bytes;
        self.owed_bytes() > 0
    }
}

impl LocalRoom {
    /// What was published from `from` to before `until`, encoded: see [`Room::replay`].
    pub fn replay(&self, from: u64, until: u64, bytes_max: usize) -> Option<Batch> {
        let batch = self.room.replay(from, until, bytes_max)?;
        Some(self.encoding.encode_batch(batch, self.room.epoch(), from))
    }

    /// Slots of the connections that are members, in no order.
    pub fn members(&self) -> &[u32] {
        &self.members
    }

    /// Adds a member, and returns its place in the list.
    pub fn add_member(&mut self, slot: u32) -> u32 {
        self.members.push(slot);
        self.members.len() as u32 - 1
    }

    /// Takes out the member at `index`. Calls `moved` for each member that has another place now.
    pub fn remove_member(&mut self, index: u32, mut moved: impl FnMut(u32, u32)) {
        let mut hole = index as usize;
        if hole < self.visits.visited {
            // The last of those visited fills the hole: nobody is passed over in this round.
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

/// The rooms of one shard: those with at least one member here.
#[derive(Debug, Default)]
pub struct LocalRooms {
    rooms: Slab<LocalRoom>,
    by_id: HashMap<u64, Slots>,
    /// Rooms that owe their members a visit, in the order of their turns: those that were quiet before. Each stands here or
    /// in `line`, once.
    quiet: VecDeque<u32>,
    /// Those that owed something a round ago, too.
    line: VecDeque<u32>,
    /// The one whose turn it is stands in neither.
    at_turn: Option<u32>,
    /// Turns that rooms have had.
    turns: u64,
    /// Rooms whose log has grown since it was cut back.
    grown: Vec<u32>,
    /// Rooms whose log holds something, each once, with its number: a room that has gone since, or another one in its slot,
    /// has none or another.
    filled: VecDeque<(u32, NonZeroU64)>,
    /// Numbers given out.
    numbers: u64,
    /// Bytes that a log may hold beyond its bound, while its members have not all been visited.
    log_excess_bytes_max: usize,
    /// Whether a room has caught up since [`LocalRooms::take_released`].
    released: bool,
    /// What was delivered and is not reported yet.
    pub deliveries: Deliveries,
}

impl LocalRooms {
    /// No rooms yet. Inboxes hold at most `inbox_bytes_max`: what is published before publishers hear that a room is
    /// behind is in one inbox, or comes with the next.
    pub fn new(inbox_bytes_max: usize) -> Self {
        Self { log_excess_bytes_max: ROOM_BYTES_HELD + 2 * inbox_bytes_max, ..Self::default() }
    }

    /// The slot of a room that a connection joins, made if it is the first here. Its log begins at `first_seq`.
    pub fn join(&mut self, room: &Arc<Room>, encoding: Encoding, first_seq: u64, backlog_bytes_max: usize) -> u32 {
        *self.by_id.entry(room.id()).or_default()[encoding as usize].get_or_insert_with(|| {
            self.rooms.insert(LocalRoom {
                room: Arc::clone(room),
                log: Log::new(first_seq, backlog_bytes_max + self.log_excess_bytes_max),
                encoding,
                members: Vec::new(),
                visits: Visits::default(),
                sampled: Sampled::default(),
                has_grown: false,
                filled: None,
                backlog_bytes_max,
            }) as u32
        })
    }

    /// Forgets a room without members.
    pub fn remove(&mut self, slot: u32) {
        let local = self.rooms.remove(slot as usize);
        debug_assert!(local.members.is_empty());
        if let Entry::Occupied(mut entry) = self.by_id.entry(local.room.id()) {
            entry.get_mut()[local.encoding as usize] = None;
            if entry.get().iter().all(Option::is_none) {
                entry.remove();
            }
        }
        if local.visits.behind {
            local.room.set_behind(false);
            self.released = true;
        }
        if local.visits.in_line {
            self.quiet.retain(|in_line| *in_line != slot);
            self.line.retain(|in_line| *in_line != slot);
        }
        if local.has_grown {
            self.grown.retain(|grown| *grown != slot);
        }
    }

    /// The slot of a room in this encoding, if it has members here.
    pub fn slot(&self, room: &Room, encoding: Encoding) -> Option<u32> {
        self.by_id.get(&room.id())?[encoding as usize]
    }

    /// A room.
    pub fn get(&self, slot: u32) -> &LocalRoom {
        &self.rooms[slot as usize]
    }

    /// A room, to change it.
    pub fn get_mut(&mut self, slot: u32) -> &mut LocalRoom {
        &mut self.rooms[slot as usize]
    }

    /// A room's log.
    pub fn log(&self, slot: u32) -> &Log {
        &self.rooms[slot as usize].log
    }

    /// Appends what was published. Nobody here is in the room any more: nothing to do.
    pub fn append(&mut self, relay: &Relay) {
        let Some(slots) = self.by_id.get(&relay.room).copied() else { return };
        for (encoding, slot) in Encoding::ALL.into_iter().zip(slots) {
            if let Some(slot) = slot {
                self.append_to(slot, relay, &encoding.encode(&relay.frame, relay.epoch, relay.seq));
            }
        }
    }

    fn append_to(&mut self, slot: u32, relay: &Relay, bytes: &Bytes) {
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
        if !local.has_grown {
            local.has_grown = true;
            self.grown.push(slot);
        }
        if local.filled.is_none() {
            self.numbers += 1;
            local.filled = NonZeroU64::new(self.numbers);
            self.filled.extend(local.filled.map(|number| (slot, number)));
        }
        self.stand_in_line(slot);
    }

    /// Frames were dropped on their way here: every member behind them is lapped, and visited to be told.
    pub fn lose(&mut self, lost: &Lost) {
        let Some(slots) = self.by_id.get(&lost.room).copied() else { return };
        for slot in slots.into_iter().flatten() {
            let local = &mut self.rooms[slot as usize];
            if local.log.skip_to(lost.last_seq + 1) {
                local.visits.appended_bytes += FRAME_OVERHEAD_BYTES as u64;
                self.stand_in_line(slot);
            }
        }
    }

    fn stand_in_line(&mut self, slot: u32) {
        let visits = &mut self.rooms[slot as usize].visits;
        if !visits.in_line {
            visits.in_line = true;
            let line = if self.turns >= visits.quiet_from { &mut self.quiet } else { &mut self.line };
            line.push_back(slot);
        }
    }

    /// How many rooms owe their members a visit.
    pub fn in_line(&self) -> usize {
        self.quiet.len() + self.line.len()
    }

    /// How many of them owed something a round ago, too.
    pub fn busy_in_line(&self) -> usize {
        self.line.len()
    }

    /// The turn of a room in line begins: of one that was quiet if there is one, or else if there is no other.
    pub fn begin_visits(&mut self, quiet_first: bool) {
        let (first, second) = match quiet_first {
            true => (&mut self.quiet, &mut self.line),
            false => (&mut self.line, &mut self.quiet),
        };
        self.at_turn = first.pop_front().or_else(|| second.pop_front());
    }

    /// The next member of the room whose turn it is that is to be visited.
    pub fn visit(&mut self) -> Option<u32> {
        let local = &mut self.rooms[self.at_turn? as usize];
        if local.visits.visited == 0 {
            local.visits.began_bytes = local.visits.appended_bytes;
        }
        let member = local.members.get(local.visits.visited)?;
        local.visits.visited += 1;
        Some(*member)
    }

    /// The turn of a room is over: it stands at the end of the line, unless it owes nothing more.
    pub fn end_of_visits(&mut self) {
        let Some(slot) = self.at_turn.take() else { return };
        self.turns += 1;
        let LocalRoom { room, members, visits, .. } = &mut self.rooms[slot as usize];
        let owes = visits.visited < members.len() || visits.complete();
        if visits.behind && visits.owed_bytes() <= ROOM_BYTES_HELD as u64 {
            visits.behind = false;
            room.set_behind(false);
            self.released = true;
        }
        if owes {
            self.line.push_back(slot);
        } else {
            visits.in_line = false;
            visits.quiet_from = self.turns + (self.quiet.len() + self.line.len()) as u64;
        }
    }

    /// Whether a room has caught up, for which publishers may wait, since this was last asked.
    pub fn take_released(&mut self) -> bool {
        std::mem::take(&mut self.released)
    }

    /// The kernel took the frames from `from` to before `end` for one member.
    pub fn delivered(&self, slot: u32, from: u64, end: u64) {
        self.deliveries.count(end - from);
        self.rooms[slot as usize].sampled.delivered(from, end, &self.deliveries);
    }

    /// The kernel took bytes that once were frames of a room.
    pub fn delivered_own(&self, carried: Carried) {
        self.deliveries.count(carried.frames.into());
        if let Some(received) = carried.received {
            self.deliveries.sampled(received);
        }
    }

    /// The frames of a room from `from` to before `end`, to be counted as delivered when their bytes have left.
    pub fn carried(&self, slot: u32, from: u64, end: u64) -> Carried {
        // Bytes of one slice, which is smaller than 4 GiB.
        Carried { frames: (end - from) as u32, received: self.rooms[slot as usize].sampled.first(from, end) }
    }

    /// Cuts the logs of rooms that owe nothing back to their bound: members that read have been sent what was new, and
    /// members that lag have had their time.
    pub fn cut_back(&mut self) {
        let rooms = &mut self.rooms;
        self.grown.retain(|slot| {
            let local = &mut rooms[*slot as usize];
            local.has_grown = local.visits.in_line;
            if !local.has_grown {
                local.log.cut_back(local.backlog_bytes_max);
            }
            local.has_grown
        });
    }

    /// Members of all rooms together.
    #[cfg(debug_assertions)]
    pub fn memberships(&self) -> usize {
        self.rooms.iter().map(|(_, local)| local.members.len()).sum()
    }

    /// The slots of all rooms, with the memory that their logs take, in bytes.
    pub fn held_bytes(&self) -> impl Iterator<Item = (u32, usize)> {
        self.rooms.iter().map(|(slot, local)| (slot as u32, local.log.held_bytes()))
    }

    /// Drops the frames that every member has got from the logs that hold something: some of them, and the others when this
    /// is called again. `slowest` says the smallest cursor of a room's members.
    pub fn trim(&mut self, slowest: impl Fn(u32, &[u32]) -> u64) {
        let mut members_left = MEMBERS_PER_TRIM;
        for _ in 0..self.filled.len() {
            if members_left == 0 {
                break;
            }
            let Some((slot, number)) = self.filled.pop_front() else { break };
            let found = self.rooms.get_mut(slot as usize).filter(|local| local.filled == Some(number));
            let Some(local) = found else { continue };
            members_left = members_left.saturating_sub(local.members.len());
            local.log.trim(slowest(slot, &local.members).min(local.log.tip()));
            if local.log.bytes() > 0 {
                self.filled.push_back((slot, number));
            } else {
                local.filled = None;
            }
        }
    }
}

#[cfg(test)]
mod tests;
