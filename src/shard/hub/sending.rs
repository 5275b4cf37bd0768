//! What leaves: replies and room frames, within a bound per turn.
//!
//! Connections that wait for a reply, connections that have more to get than one send holds, and rooms each get a share of a
//! turn. Logs are cut back to their bound only after the members have been visited, so that a member that reads is never lapped
//! because the server was busy.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::time::Instant;

use super::{Hub, Key, RingOp};
use crate::connection::{Connection, Gap, Next, Sent};
use crate::counters::{Direction, Lapped};
use crate::limits::VISITS_MIN;
use crate::protocol::close_code::CloseReason;
use crate::protocol::{Protocol, broadcast, sse};
use crate::ring::Slices;
use crate::room::pace::Work;
use crate::shard::settings::Slow;

/// What one turn gives to the kernel if at most one room is queued: about four milliseconds' work. Splitting a fan-out over
/// several turns costs up to 8 %.
const PER_TURN: Budget = Budget { sends: 1024, bytes: 2 * 1024 * 1024 };
/// The same if several rooms are queued, so that none of them waits for long.
const PER_SHARED_TURN: Budget = Budget { sends: 512, ..PER_TURN };

/// What may still be given to the kernel in this turn.
#[derive(Clone, Copy)]
struct Budget {
    /// Below 0 if more was given.
    sends: isize,
    bytes: isize,
}

impl Budget {
    fn is_spent(self) -> bool {
        self.sends <= 0 || self.bytes <= 0
    }

    /// One of `parts` equal parts.
    fn share(self, parts: usize) -> Self {
        let parts = parts.max(1) as isize;
        Self { sends: (self.sends / parts).max(1), bytes: (self.bytes / parts).max(1) }
    }

    /// Lets `give` use up to `part`, and deducts what it used. Returns that.
    fn spend(&mut self, part: Self, give: impl FnOnce(&mut Self)) -> Work {
        let mut left = part;
        give(&mut left);
        let (sends, bytes) = (part.sends - left.sends, part.bytes - left.bytes);
        self.sends -= sends;
        self.bytes -= bytes;
        Work::new(sends as usize, bytes as usize)
    }

    fn take(&mut self, sends: usize, bytes: usize) {
        self.sends -= sends as isize;
        self.bytes -= bytes as isize;
    }
}

/// Connections with something to send, apart from the members of queued rooms.
#[derive(Debug, Default)]
pub(super) struct Sending {
    /// Connections with frames of their own. Each connection is in here or in `lagging`, at most once.
    queue: VecDeque<Key>,
    /// Connections that have more to get than one send holds, or whose socket was full.
    lagging: VecDeque<Key>,
    /// Connections that are sent nothing more before a time.
    waiting: BTreeSet<(Instant, Key)>,
    /// Scratch space: the gaps found by one send.
    gaps: Vec<Gap>,
    /// Connections that lost messages and have to be told; closed if there is no gap to tell.
    losses: Vec<(u32, Option<Gap>)>,
    /// What the last turn gave to the kernel.
    pub(super) work: Work,
    /// Whether this shard has published to itself since its inbox was last drained.
    pub(super) more_news: bool,
}

impl Sending {
    /// The entries of both queues, including those of connections that are gone.
    #[cfg(debug_assertions)]
    pub(super) fn queued(&self) -> impl Iterator<Item = &Key> {
        self.queue.iter().chain(&self.lagging)
    }
}

/// Puts a connection into a queue, unless it is in one already or can't be sent to now.
fn enqueue(slot: u32, connection: &mut Connection, queue: &mut VecDeque<Key>) {
    if !connection.queued && connection.life.may_send() {
        connection.queued = true;
        queue.push_back(Key { slot, serial: connection.serial });
    }
}

/// Takes a send: the token of a connection, and the slices.
type Sink<'s> = dyn FnMut(u32, Slices) + 's;

impl Hub {
    /// Hands everything that is to be sent to `sink`, within a turn's bound.
    pub(in crate::shard) fn send(&mut self, sink: &mut Sink<'_>) {
        let budget = if self.rooms.queued_rooms() > 1 { PER_SHARED_TURN } else { PER_TURN };
        let (mut left, quarter) = (budget, budget.share(4));
        left.spend(quarter, |part| self.send_queued(part, sink, |sending| &mut sending.queue));
        left.spend(quarter, |part| self.send_queued(part, sink, |sending| &mut sending.lagging));
        self.visit_members(&mut left, sink);
        self.send_queued(&mut left, sink, |sending| &mut sending.queue);
        self.send_queued(&mut left, sink, |sending| &mut sending.lagging);
        let (sends, bytes) = (budget.sends - left.sends, budget.bytes - left.bytes);
        self.sending.work = Work::new(sends as usize, bytes as usize);
        if sends > 0 {
            self.counters.send_batch.record(sends as u64, 1);
        }
    }

    fn send_queued(
        &mut self,
        left: &mut Budget,
        sink: &mut Sink<'_>,
        queue: impl Fn(&mut Sending) -> &mut VecDeque<Key>,
    ) {
        while !left.is_spent() {
            let Some(key) = queue(&mut self.sending).pop_front() else { break };
            if self.is_current(key) {
                self.connection(key.slot).queued = false;
                self.send_to(key.slot, left, sink);
                self.report_losses();
            }
        }
    }

    /// One round of the queued rooms: each visits its share of members. Rooms that were quiet go first; half of what is left of
    /// the turn is reserved for the others, if there are any.
    fn visit_members(&mut self, left: &mut Budget, sink: &mut Sink<'_>) {
        let (rooms, busy, half) = (self.rooms.queued_rooms(), self.rooms.busy_rooms(), left.share(2));
        let share = left.share(rooms);
        for _ in 0..rooms {
            if left.is_spent() {
                break;
            }
            let quiet_first = busy == 0 || left.sends > half.sends && left.bytes > half.bytes;
            if let Some(messages) = self.rooms.begin_visits(quiet_first, self.now.instant) {
                self.counters.flush.record(messages, 1);
            }
            let visits_max = (share.sends as usize).max(VISITS_MIN);
            let work = left.spend(share, |of_room| {
                for _ in 0..visits_max {
                    let Some(slot) = self.rooms.visit() else { break };
                    self.send_to(slot, of_room, sink);
                    if of_room.bytes <= 0 {
                        break;
                    }
                }
            });
            self.rooms.end_visits(work, self.now.instant);
            self.report_losses();
        }
    }

    /// Sends one connection what it is owed, unless it has to wait.
    fn send_to(&mut self, slot: u32, left: &mut Budget, sink: &mut Sink<'_>) {
        let connection = &mut self.connections[slot as usize];
        if !connection.life.may_send() {
            return;
        }
        let gaps = &mut self.sending.gaps;
        let next = connection.next_send(&self.rooms, gaps, self.now.instant);
        // Gaps are reported before a Close, which lets out what the rooms have behind them.
        self.sending.losses.extend(gaps.drain(..).map(|gap| (slot, Some(gap))));
        match next {
            Next::Send(slices) => {
                connection.life.send();
                left.take(1, slices.len());
                sink(slot, slices);
            }
            Next::Nothing => {
                let until = connection.next_at().filter(|at| *at > self.now.instant);
                if let Some(until) = until.filter(|_| connection.has_pending(&self.rooms)) {
                    self.sending.waiting.insert((until, Key { slot, serial: connection.serial }));
                }
            }
            Next::TooSlow => self.sending.losses.push((slot, None)),
        }
    }

    /// Handles a completed send.
    pub(in crate::shard) fn sent(&mut self, slot: u32, result: io::Result<usize>, slices: Slices) {
        let connection = &mut self.connections[slot as usize];
        connection.life.sent();
        let count = match result {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            // The connection is broken.
            Err(_) => return self.end(slot),
        };
        self.counters.sent_bytes.add(count as u64);
        match connection.sent(slices, count, &self.rooms) {
            Sent::Whole => self.queue_if_owed(slot),
            Sent::Closed => self.close_has_left(slot),
            Sent::Full => {
                if !connection.life.is_ended() {
                    connection.life.await_writable();
                    self.ring_ops.push(RingOp::AwaitWritable(slot));
                }
            }
        }
        if self.connections.contains(slot as usize) {
            self.release_if_ended(slot);
        }
    }

    /// Handles the end of a wait until the socket is writable.
    pub(in crate::shard) fn writable(&mut self, slot: u32) {
        self.connection(slot).life.writable();
        self.queue_if_owed(slot);
        self.release_if_ended(slot);
    }

    /// Adds the deliveries since the last call to the counters, and what was compressed for them.
    pub(in crate::shard) fn report_deliveries(&mut self) {
        self.rooms.deliveries.report(&self.counters);
        self.counters.deflated(Direction::Out, self.rooms.deflater.take_volume());
    }

    /// When there is something to send that waits now.
    pub(in crate::shard) fn next_due(&self) -> Option<Instant> {
        let first = self.sending.waiting.first().map(|(until, _)| *until);
        self.rooms.next_due().into_iter().chain(first).min()
    }

    /// Queues the rooms and the connections that have waited until now.
    pub(super) fn queue_due(&mut self) {
        let now = self.now.instant;
        self.rooms.queue_due(now);
        while let Some((_, key)) = self.sending.waiting.first().copied().filter(|(until, _)| *until <= now) {
            self.sending.waiting.pop_first();
            if self.is_current(key) {
                self.queue(key.slot);
            }
        }
    }

    /// Forgets that a connection waits.
    pub(super) fn stop_waiting(&mut self, slot: u32) {
        if let Some(until) = self.connections[slot as usize].next_at() {
            let key = self.key(slot);
            self.sending.waiting.remove(&(until, key));
        }
    }

    /// Queues a connection to be sent to, unless it is queued already or can't be sent to now.
    pub(super) fn queue(&mut self, slot: u32) {
        enqueue(slot, &mut self.connections[slot as usize], &mut self.sending.queue);
    }

    /// Queues a connection that still has something to send, behind those that have just asked for something.
    pub(super) fn queue_if_owed(&mut self, slot: u32) {
        let connection = &mut self.connections[slot as usize];
        if connection.has_pending(&self.rooms) {
            enqueue(slot, connection, &mut self.sending.lagging);
        }
    }

    /// Whether any connection is queued to be sent to.
    pub(super) fn has_queued_sends(&self) -> bool {
        !self.sending.queue.is_empty() || !self.sending.lagging.is_empty()
    }

    /// Tells members which messages they have lost, or closes those that can't be told.
    fn report_losses(&mut self) {
        if self.sending.losses.is_empty() {
            return;
        }
        for (slot, gap) in std::mem::take(&mut self.sending.losses) {
            match gap {
                Some(gap) => self.lapped(slot, gap),
                None => {
                    self.counters.lapped(Lapped::Close).add(1);
                    self.close(slot, &CloseReason::TooSlow);
                }
            }
        }
    }

    /// Tells a member what it lost, or closes it, depending on the policy. A lossy raw member isn't told.
    fn lapped(&mut self, slot: u32, gap: Gap) {
        self.counters.lost.add(gap.last - gap.first + 1);
        let protocol = self.connection(slot).protocol();
        if protocol == Protocol::Raw {
            self.counters.lapped(Lapped::Skip).add(1);
            self.queue(slot);
            return;
        }
        if !self.connection(slot).life.is_open() {
            // It was closed for a gap in another of its rooms, and has left all of them.
            return;
        }
        let room = &self.rooms.get(gap.room).room;
        let mut notice = broadcast::gap(room.name(), gap.first, gap.last, room.epoch());
        if protocol == Protocol::Sse {
            notice = sse::gap(&notice, room.epoch(), gap.last);
        }
        if self.settings.slow == Slow::Close || !self.connection(slot).reply(notice) {
            // What its rooms have for it comes after the gap, and must not leave without the notice.
            self.counters.lapped(Lapped::Close).add(1);
            self.leave_all(slot);
            self.close(slot, &CloseReason::TooSlow);
        } else {
            self.counters.lapped(Lapped::Gap).add(1);
            self.counters.gaps.add(1);
        }
        self.queue(slot);
    }
}
