//! What leaves: replies and members' frames, in turns with a bound.
//!
//! Connections that wait for something of their own, those that have more to get than one send, and rooms each have their
//! share of a turn. Logs are cut back to their bound only when their members have been visited, so that members that read are
//! never lapped because the server was busy.

use std::collections::VecDeque;
use std::io;

use super::{Ask, Hub, Key};
use crate::connection::{Gap, Next, Sent};
use crate::limits::VISITS_MIN;
use crate::metrics::counters::Lapped;
use crate::protocol::close_code::CloseReason;
use crate::protocol::{Protocol, broadcast, sse};
use crate::ring::Slices;
use crate::shard::settings::Slow;

/// What one turn gives to the kernel, at most about four milliseconds of it, if a single room is in line: a fan-out that is
/// parted costs up to 8 % more.
const PER_TURN: Budget = Budget { sends: 1024, bytes: 2 * 1024 * 1024 };
/// The same if several rooms are in line: none of them waits for long.
const PER_SHARED_TURN: Budget = Budget { sends: 512, ..PER_TURN };

/// What may still be given to the kernel.
#[derive(Clone, Copy)]
struct Budget {
    /// Below 0: more was given.
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

    /// `given` gives away up to this much, and what it gave in all is taken off.
    fn spend(&mut self, part: Self, give: impl FnOnce(&mut Self)) {
        let mut left = part;
        give(&mut left);
        self.sends -= part.sends - left.sends;
        self.bytes -= part.bytes - left.bytes;
    }

    fn take(&mut self, sends: usize, bytes: usize) {
        self.sends -= sends as isize;
        self.bytes -= bytes as isize;
    }
}

/// The connections that are owed something, beside the members of rooms in line.
#[derive(Debug, Default)]
pub(super) struct Sending {
    /// Those with something of their own to get, each at most once here and in `lagging`.
    queue: VecDeque<Key>,
    /// Those that have more to get than one send, or were full.
    lagging: VecDeque<Key>,
    /// Filled by one send, and emptied again.
    gaps: Vec<Gap>,
    /// Connections that lost something, and have to be told; without a gap: closed.
    laggards: Vec<(u32, Option<Gap>)>,
    /// Whether this shard published into itself since its inbox was last drained.
    pub(super) more_news: bool,
}

impl Sending {
    /// Entries of both queues, with and without connections that are gone meanwhile.
    #[cfg(debug_assertions)]
    pub(super) fn queued(&self) -> impl Iterator<Item = &Key> {
        self.queue.iter().chain(&self.lagging)
    }
}

/// What takes a send: the token of a connection, and what is to leave.
type Sink<'s> = dyn FnMut(u32, Slices) + 's;

impl Hub {
    /// Gives `sink` what is owed, within a turn's bound.
    pub(in crate::shard) fn send(&mut self, sink: &mut Sink<'_>) {
        let budget = if self.rooms.in_line() > 1 { PER_SHARED_TURN } else { PER_TURN };
        let (mut left, quarter) = (budget, budget.share(4));
        left.spend(quarter, |part| self.send_queued(part, sink, |sending| &mut sending.queue));
        left.spend(quarter, |part| self.send_queued(part, sink, |sending| &mut sending.lagging));
        self.visit_members(&mut left, sink);
        self.send_queued(&mut left, sink, |sending| &mut sending.queue);
        self.send_queued(&mut left, sink, |sending| &mut sending.lagging);
        let sends = budget.sends - left.sends;
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
                self.give(key.slot, left, sink);
                self.tell_laggards();
            }
        }
    }

    /// One round of the rooms in line: each visits its share of members. Those that were quiet go first; half of what is
    /// left is for the others, if there are any.
    fn visit_members(&mut self, left: &mut Budget, sink: &mut Sink<'_>) {
        let (rooms, busy, half) = (self.rooms.in_line(), self.rooms.busy_in_line(), left.share(2));
        let share = left.share(rooms);
        for _ in 0..rooms {
            if left.is_spent() {
                break;
            }
            self.rooms.begin_visits(busy == 0 || left.sends > half.sends && left.bytes > half.bytes);
            let visits_max = (share.sends as usize).max(VISITS_MIN);
            left.spend(share, |of_room| {
                for _ in 0..visits_max {
                    let Some(slot) = self.rooms.visit() else { break };
                    self.give(slot, of_room, sink);
                    if of_room.bytes <= 0 {
                        break;
                    }
                }
            });
            self.rooms.end_of_visits();
            self.tell_laggards();
        }
    }

    /// Gives what one connection is owed, unless it has to wait.
    fn give(&mut self, slot: u32, left: &mut Budget, sink: &mut Sink<'_>) {
        let connection = &mut self.connections[slot as usize];
        if !connection.life.may_send() {
            return;
        }
        let gaps = &mut self.sending.gaps;
        let next = connection.next_send(&self.rooms, gaps);
        // Told before a Close: that lets out what its rooms have behind the gaps.
        self.sending.laggards.extend(gaps.drain(..).map(|gap| (slot, Some(gap))));
        match next {
            Next::Send(slices) => {
                connection.life.send();
                left.take(1, slices.len());
                sink(slot, slices);
            }
            Next::Nothing => {}
            Next::TooSlow => self.sending.laggards.push((slot, None)),
        }
    }

    /// A send has ended.
    pub(in crate::shard) fn sent(&mut self, slot: u32, result: io::Result<usize>, slices: Slices) {
        let connection = &mut self.connections[slot as usize];
        connection.life.sent();
        let count = match result {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            // The peer is gone.
            Err(_) => return self.end(slot),
        };
        self.counters.sent_bytes.add(count as u64);
        match connection.sent(slices, count, &self.rooms) {
            Sent::Whole => self.queue_if_owed(slot),
            Sent::Closed => self.close_has_left(slot),
            Sent::Full => {
                if !connection.life.is_ended() {
                    connection.life.await_writable();
                    self.asks.push(Ask::AwaitWritable(slot));
                }
            }
        }
        if self.connections.contains(slot as usize) {
            self.release_if_ended(slot);
        }
    }

    /// There is room to send again, or the socket is at its end.
    pub(in crate::shard) fn writable(&mut self, slot: u32) {
        self.connection(slot).life.writable();
        self.queue_if_owed(slot);
        self.release_if_ended(slot);
    }

    /// Adds what was delivered to the counters.
    pub(in crate::shard) fn report_deliveries(&mut self) {
        self.rooms.deliveries.report(&self.counters);
    }

    /// Puts a connection into the queue to send to, unless it stands there, or must wait.
    pub(super) fn queue(&mut self, slot: u32) {
        let connection = &mut self.connections[slot as usize];
        if !connection.queued && connection.life.may_send() {
            connection.queued = true;
            self.sending.queue.push_back(Key { slot, serial: connection.serial });
        }
    }

    /// A connection that is owed more than one send waits behind those that have just asked for something.
    fn queue_if_owed(&mut self, slot: u32) {
        let connection = &mut self.connections[slot as usize];
        if connection.has_something(&self.rooms) && !connection.queued && connection.life.may_send() {
            connection.queued = true;
            self.sending.lagging.push_back(Key { slot, serial: connection.serial });
        }
    }

    /// Whether somebody stands in a queue to be sent to.
    pub(super) fn someone_is_owed(&self) -> bool {
        !self.sending.queue.is_empty() || !self.sending.lagging.is_empty()
    }

    /// Tells members what they have lost, or closes those that can't be told.
    fn tell_laggards(&mut self) {
        if self.sending.laggards.is_empty() {
            return;
        }
        for (slot, gap) in std::mem::take(&mut self.sending.laggards) {
            match gap {
                Some(gap) => self.lapped(slot, gap),
                None => {
                    self.counters.lapped(Lapped::Close).add(1);
                    self.close(slot, &CloseReason::TooSlow);
                }
            }
        }
    }

    /// Tells a member what it lost, or closes it, as the policy says. A lossy raw member isn't told.
    fn lapped(&mut self, slot: u32, gap: Gap) {
        self.counters.lost.add(gap.last - gap.first + 1);
        let protocol = self.connection(slot).protocol();
        if protocol == Protocol::Raw {
            self.counters.lapped(Lapped::Skip).add(1);
            self.queue(slot);
            return;
        }
        if !self.connection(slot).life.is_open() {
            // Closed for a gap in another of its rooms, which it has left with that.
            return;
        }
        let room = &self.rooms.get(gap.room).room;
        let mut notice = broadcast::gap(room.name(), gap.first, gap.last, room.epoch());
        if protocol == Protocol::Sse {
            notice = sse::gap(&notice, room.epoch(), gap.last);
        }
        if self.settings.slow == Slow::Close || !self.connection(slot).reply(notice) {
            // What its rooms have for it now lies behind the gap, and must not leave without a word about it.
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
