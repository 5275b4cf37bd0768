//! Whose turn it is: the rooms that owe their members a visit, and those whose next fan-out has to wait.

use std::time::{Duration, Instant};

use super::{LocalRoom, LocalRooms};
use crate::limits::{FLUSH_BYTES_WAITING, FLUSH_BYTES_WAITING_OF_SHARD, ROOM_BYTES_HELD};
use crate::room::pace::{Pacer, Work};

/// How far the members of a room have been visited: one round after the other, while the log grows.
#[derive(Debug, Default)]
pub(super) struct Visits {
    /// Number of members that this round has visited; they come first in the list.
    pub(super) visited: usize,
    /// Bytes appended to the log: so far, when this round began, and when the last complete round began.
    pub(super) appended_bytes: u64,
    began_bytes: u64,
    done_bytes: u64,
    /// `Seq` of the first message that no round has begun for.
    pub(super) next_seq: u64,
    /// Whether the room is queued.
    pub(super) is_queued: bool,
    /// The time of its entry in the list of rooms that wait for their next round; it is never queued, too.
    waits_until: Option<Instant>,
    /// Bytes that it has counted among those that wait.
    waiting_bytes: u64,
    /// When the next round may begin.
    pacer: Pacer,
    /// Once this many turns of rooms are over, this room counts as quiet: it has published nothing for a whole round.
    quiet_from: u64,
    /// Whether the room's publishers are held back because of this shard.
    pub(super) behind: bool,
}

impl Visits {
    /// Those of a room whose first message will be `next_seq`.
    pub(super) fn new(next_seq: u64, pacer: Pacer) -> Self {
        Self { next_seq, pacer, ..Self::default() }
    }

    /// Bytes that not all members have been visited for.
    pub(super) fn owed_bytes(&self) -> u64 {
        self.appended_bytes - self.done_bytes
    }

    /// Whether the room has messages that wait for its next round.
    pub(super) fn is_waiting(&self) -> bool {
        self.waits_until.is_some()
    }

    /// Whether a message never waits for the next round.
    pub(super) fn is_at_once(&self) -> bool {
        self.pacer.is_at_once()
    }

    /// Every member has been visited. True: the log has grown in the meantime, and another round is owed.
    fn complete(&mut self) -> bool {
        self.visited = 0;
        self.done_bytes = self.began_bytes;
        self.owed_bytes() > 0
    }
}

impl LocalRooms {
    /// Queues a room whose log has grown, or has it wait until its next round may begin.
    pub(super) fn enqueue(&mut self, slot: u32, now: Instant) {
        let visits = &self.rooms[slot as usize].visits;
        if visits.is_queued {
            return;
        }
        match self.due(visits, now) {
            None => self.queue(slot),
            Some(due) => self.wait(slot, due),
        }
    }

    /// When the next round of a room may begin; `None` if it may, or has to, begin now.
    fn due(&self, visits: &Visits, now: Instant) -> Option<Instant> {
        let others_bytes = self.waiting_bytes - visits.waiting_bytes;
        let may_wait = || {
            !self.in_hurry
                && visits.owed_bytes() <= FLUSH_BYTES_WAITING as u64
                && others_bytes + visits.owed_bytes() <= FLUSH_BYTES_WAITING_OF_SHARD
        };
        visits.pacer.due(now, &self.send_time).filter(|_| may_wait())
    }

    /// Queues a room, even if it could wait.
    pub(super) fn queue(&mut self, slot: u32) {
        self.stop_waiting(slot);
        let local = &mut self.rooms[slot as usize];
        let visits = &mut local.visits;
        if !visits.is_queued {
            visits.is_queued = true;
            let queue = if self.turns >= visits.quiet_from { &mut self.quiet } else { &mut self.busy };
            queue.push_back(slot);
            if !local.has_grown {
                local.has_grown = true;
                self.grown.push(slot);
            }
        }
    }

    fn wait(&mut self, slot: u32, due: Instant) {
        self.stop_waiting(slot);
        let visits = &mut self.rooms[slot as usize].visits;
        visits.waits_until = Some(due);
        visits.waiting_bytes = visits.owed_bytes();
        self.waiting_bytes += visits.waiting_bytes;
        self.waiting.insert((due, slot));
    }

    fn stop_waiting(&mut self, slot: u32) {
        let visits = &mut self.rooms[slot as usize].visits;
        if let Some(due) = visits.waits_until.take() {
            self.waiting_bytes -= std::mem::take(&mut visits.waiting_bytes);
            self.waiting.remove(&(due, slot));
        }
    }

    /// Removes a room from the queues.
    pub(super) fn dequeue(&mut self, slot: u32) {
        self.stop_waiting(slot);
        if self.rooms[slot as usize].visits.is_queued {
            self.quiet.retain(|queued| *queued != slot);
            self.busy.retain(|queued| *queued != slot);
        }
    }

    /// Queues the rooms that have waited until now.
    pub(crate) fn queue_due(&mut self, now: Instant) {
        while let Some((_, slot)) = self.waiting.first().copied().filter(|(due, _)| *due <= now) {
            self.stop_waiting(slot);
            // Meanwhile it may be known that its last round took longer.
            self.enqueue(slot, now);
        }
    }

    /// From now on no room waits, or each at its pace again. True: some have waited, and are queued.
    pub(crate) fn hurry(&mut self, in_hurry: bool) -> bool {
        self.in_hurry = in_hurry;
        let have_waited = in_hurry && !self.waiting.is_empty();
        while let Some((_, slot)) = self.waiting.first().copied().filter(|_| in_hurry) {
            self.queue(slot);
        }
        have_waited
    }

    /// When the first of the rooms that wait is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.waiting.first().map(|(due, _)| *due)
    }

    /// Notes how long a turn with this work has taken.
    pub(crate) fn turn_took(&mut self, work: Work, time: Duration) {
        self.send_time.measured(work, time);
    }

    /// Number of queued rooms.
    pub(crate) fn queued_rooms(&self) -> usize {
        self.quiet.len() + self.busy.len()
    }

    /// Number of rooms that were already queued one round ago.
    pub(crate) fn busy_rooms(&self) -> usize {
        self.busy.len()
    }

    /// Begins the turn of the next queued room: one of the kind that `quiet_first` asks for if there is one, otherwise one of
    /// the other kind. If a round of visits begins with it, returns the number of messages that this round is for.
    pub(crate) fn begin_visits(&mut self, quiet_first: bool, now: Instant) -> Option<u64> {
        let (first, second) = match quiet_first {
            true => (&mut self.quiet, &mut self.busy),
            false => (&mut self.busy, &mut self.quiet),
        };
        self.current = first.pop_front().or_else(|| second.pop_front());
        let LocalRoom { log, visits, .. } = &mut self.rooms[self.current? as usize];
        if visits.visited > 0 {
            return None;
        }
        visits.began_bytes = visits.appended_bytes;
        visits.pacer.begin(now);
        let began_at = std::mem::replace(&mut visits.next_seq, log.tip());
        Some(visits.next_seq - began_at)
    }

    /// The next member to visit in the room whose turn it is.
    pub(crate) fn visit(&mut self) -> Option<u32> {
        let local = &mut self.rooms[self.current? as usize];
        let member = local.members.get(local.visits.visited)?;
        local.visits.visited += 1;
        Some(*member)
    }

    /// Ends the turn of a room, which has given this work to the kernel. Unless all its members have been visited, it goes to the
    /// end of the queue; if messages have come since its round began, it is queued or waits for its next one.
    pub(crate) fn end_visits(&mut self, work: Work, now: Instant) {
        let Some(slot) = self.current.take() else { return };
        self.turns += 1;
        let LocalRoom { room, members, visits, .. } = &mut self.rooms[slot as usize];
        visits.pacer.gave(work);
        let is_complete = visits.visited >= members.len();
        let owes = !is_complete || visits.complete();
        if visits.behind && visits.owed_bytes() <= ROOM_BYTES_HELD as u64 {
            visits.behind = false;
            room.set_behind(false);
            self.released = true;
        }
        let may_wait = is_complete && owes;
        let due = may_wait.then(|| self.due(&self.rooms[slot as usize].visits, now)).flatten();
        if owes && due.is_none() {
            self.busy.push_back(slot);
            return;
        }
        let visits = &mut self.rooms[slot as usize].visits;
        visits.is_queued = false;
        visits.quiet_from = self.turns + (self.quiet.len() + self.busy.len()) as u64;
        if let Some(due) = due {
            self.wait(slot, due);
        }
    }
}
