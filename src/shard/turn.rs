//! The turn: completions in, frames out, one submission.
//!
//! A turn is bounded in work, on both sides: what is read of connections (see [`super::reading`]), and what is given to
//! the kernel. A publisher is slowed down to what the fan-out of its room can do, by its own TCP window. Logs are cut back
//! to their bound only when their members have been visited, so that members that read are never lapped because the server
//! was busy.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use super::{Key, Shard, Slow};
use crate::clock::Now;
use crate::connection::{Gap, Next, Role, Sent, State};
use crate::frame::decode::Violation;
use crate::frame::encode;
use crate::metrics::counters::{CLOSED_WITHOUT_CODE, Lapped};
use crate::protocol::close_code::CloseReason;
use crate::protocol::{broadcast, sse};
use crate::relay::Order;
use crate::ring::{Completion, DataRing, Received};
use fastwebsockets::OpCode;

/// Completions taken in one turn.
const COMPLETIONS_PER_TURN: usize = 8192;
/// How often, at most, a turn asks the kernel for what it deferred, before it reads.
const SUBMISSIONS_BEFORE_READING: usize = 16;
/// Receive buffers with something unread from which on it doesn't ask again.
const BUFFERS_BEFORE_READING: usize = 256;
/// What one turn gives to the kernel, at most about four milliseconds of it, if a single room is in line: a fan-out that is
/// parted costs up to 8 % more.
const PER_TURN: Budget = Budget { sends: 1024, bytes: 2 * 1024 * 1024 };
/// The same if several rooms are in line: none of them waits for long.
const PER_SHARED_TURN: Budget = Budget { sends: 512, ..PER_TURN };
/// The least number of members that a room visits in its turn.
const VISITS_MIN: usize = 16;
/// Room for relays that is kept from one turn to the next.
const RELAYS_KEPT_MAX: usize = 1024;
/// How long turns follow one another before the control ring runs.
const TURNS_TIME_MAX: Duration = Duration::from_millis(4);

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

impl<R: DataRing> Shard<R> {
    /// Takes turns until there is nothing to do, or the control ring has waited long enough; true: there is more.
    pub fn turns(&mut self) -> bool {
        let began = Instant::now();
        loop {
            let more = self.turn(Now::read());
            if !more || began.elapsed() >= TURNS_TIME_MAX {
                self.counters.busy(began.elapsed());
                return more;
            }
        }
    }

    /// Takes one turn; true: there is more to do, before the shard may sleep.
    pub fn turn(&mut self, now: Now) -> bool {
        self.now = now;
        self.ring.suppress_wakeups();
        match self.try_turn() {
            Ok(more) => more || !self.ring.arm_wakeups(),
            Err(error) => self.fatal(&error),
        }
    }

    fn try_turn(&mut self) -> io::Result<bool> {
        // Takes what the control ring's tasks asked for, and lets the kernel run what it deferred: behind thousands of ends a
        // message would otherwise wait for as many turns as a few of them take.
        for _ in 0..SUBMISSIONS_BEFORE_READING {
            let deferred_more = self.ring.submit()?;
            self.reap();
            if !deferred_more || self.ring.buffers().held() >= BUFFERS_BEFORE_READING {
                break;
            }
        }
        self.drain_inbox();
        self.read_line();
        self.hear_ends();
        self.hear_timers();
        self.drain_inbox();
        self.obey_orders();
        let more_news = self.wakes.wake_others(self.registry.inboxes(), self.id);
        self.send();
        self.receive_again();
        self.ring.submit()?;
        let reaped_all = self.reap();
        if reaped_all && !self.someone_is_owed() {
            self.rooms.cut_back();
        }
        self.relieve_memory();
        if self.rooms.take_released() {
            self.pressure().released(self.registry.inboxes());
        }
        // What ended meanwhile has left its rooms: their members must not wait for the next turn to hear of it.
        let more_news = self.wakes.wake_others(self.registry.inboxes(), self.id) || more_news;
        let is_behind = !reaped_all || self.someone_is_owed() || self.rooms.in_line() > 0;
        let is_late = !self.ends.is_empty() || !self.due.is_empty() || self.memory_is_owed;
        let more = is_behind || is_late || more_news || self.registry.inboxes()[self.id].has_orders();
        Ok(more || self.reads_on())
    }

    /// Whether there is something to read at once. If all that is in line has to wait, whoever it waits for wakes this shard.
    fn reads_on(&self) -> bool {
        if self.someone_may_go_on || !self.anyone_waits() {
            return self.anyone_waits();
        }
        self.pressure().wait();
        self.may_anyone_go_on()
    }

    /// Does what others have asked for.
    fn obey_orders(&mut self) {
        for order in self.registry.inboxes()[self.id].take_orders() {
            match order {
                Order::Disconnect(order) => self.disconnect(order),
                Order::TakeOver { member, user } => self.taken_over(member, &user),
            }
        }
    }

    /// Handles completions; false if there may be more.
    fn reap(&mut self) -> bool {
        let reaped_all = self.reap_all();
        self.rooms.deliveries.report(&self.counters);
        reaped_all
    }

    fn reap_all(&mut self) -> bool {
        for _ in 0..COMPLETIONS_PER_TURN {
            let Some(completion) = self.ring.next() else { return true };
            match completion {
                Completion::Sent { token, result, slices } => {
                    let connection = &mut self.connections[token as usize];
                    connection.sending = false;
                    let sent = match result {
                        Ok(count) => {
                            self.counters.sent_bytes.add(count as u64);
                            connection.sent(slices, count, &self.rooms)
                        }
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            connection.sent(slices, 0, &self.rooms)
                        }
                        // The peer is gone.
                        Err(_) => {
                            self.end(token);
                            continue;
                        }
                    };
                    self.after_send(token, sent);
                }
                Completion::Writable { token } => {
                    self.connection(token).awaiting_writable = false;
                    self.queue_if_owed(token);
                    self.remove_if_released(token);
                }
                Completion::Received { token, result, armed } => self.received(token, result, armed),
            }
        }
        false
    }

    fn after_send(&mut self, slot: u32, sent: Sent) {
        match sent {
            Sent::Whole => self.queue_if_owed(slot),
            Sent::Closed => self.close_has_left(slot),
            Sent::Full => {
                let connection = &mut self.connections[slot as usize];
                if connection.state != State::Ended {
                    connection.awaiting_writable = true;
                    self.ring.await_writable(slot);
                }
            }
        }
        if self.connections.contains(slot as usize) {
            self.remove_if_released(slot);
        }
    }

    /// Whoever is owed more than one send waits behind those that have just asked for something.
    fn queue_if_owed(&mut self, slot: u32) {
        let connection = &mut self.connections[slot as usize];
        if connection.has_something(&self.rooms) && !connection.queued && connection.may_send() {
            connection.queued = true;
            self.lagging.push_back(Key { slot, serial: connection.serial });
        }
    }

    /// Whether somebody stands in a queue to be sent to.
    pub(super) fn someone_is_owed(&self) -> bool {
        !self.send_queue.is_empty() || !self.lagging.is_empty()
    }

    fn received(&mut self, slot: u32, result: io::Result<Option<Received>>, armed: bool) {
        let key = self.key(slot);
        let connection = self.connection(slot);
        connection.receiving = armed;
        match result {
            // Behind its end nothing is read: bytes could be missing in between.
            Ok(Some(_)) if connection.peer_ended || connection.state == State::Ended => {}
            Ok(Some(received)) => self.has_arrived(slot, received),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                connection.one_at_a_time = true;
                self.starved.push_back(key);
            }
            Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => {
                if connection.unread.is_none() {
                    self.receive(slot);
                }
            }
            // The peer has ended, or is gone; what it said before it went is heard first.
            Ok(None) | Err(_) => {
                connection.peer_ended = true;
                if connection.unread.is_none() {
                    self.ends.push_back(key);
                }
            }
        }
        self.remove_if_released(slot);
    }

    /// A ping is answered (RFC 6455, 5.5.2).
    pub(super) fn ping_arrived(&mut self, slot: u32, payload: &[u8]) {
        self.connection(slot).pong(encode::frame(OpCode::Pong, payload));
        self.queue(slot);
    }

    pub(super) fn close_arrived(&mut self, slot: u32, code: Option<u16>) {
        self.count_end(slot, code.unwrap_or(CLOSED_WITHOUT_CODE));
        self.peer_closes(slot, code);
    }

    /// The peer's Close, or its end without one: answered with its own code (RFC 6455, 5.5.1), behind what it is still
    /// owed.
    pub(super) fn peer_closes(&mut self, slot: u32, code: Option<u16>) {
        let answer = code.map_or_else(|| encode::frame(OpCode::Close, b""), |code| encode::close(code, ""));
        self.settle(slot, usize::MAX);
        let connection = self.connection(slot);
        connection.close(answer, State::Answering);
        if connection.has_close_to_send() {
            self.leave_all(slot);
            self.schedule(slot, super::CLOSE_SECONDS);
            self.queue(slot);
        } else {
            self.end(slot);
        }
    }

    pub(super) fn violation(&mut self, slot: u32, violation: &Violation) {
        let connection = self.connection(slot);
        match connection.state {
            State::Open => self.close(slot, &CloseReason::Violation(violation.close_code(), violation)),
            // The Close that says why it was refused still leaves.
            _ if connection.has_close_to_send() => connection.state = State::Lingering,
            _ => self.end(slot),
        }
    }

    /// Appends what all shards published to the logs here.
    pub(super) fn drain_inbox(&mut self) {
        let (mut relays, mut lost) = (std::mem::take(&mut self.relays), Vec::new());
        let inboxes = self.registry.inboxes();
        let was_congested = inboxes[self.id].drain(&mut relays, &mut lost);
        if was_congested {
            self.pressure().released(inboxes);
        }
        self.wakes.drained(self.id);
        for relay in relays.drain(..) {
            self.rooms.append(&relay);
        }
        lost.iter().for_each(|lost| self.rooms.lose(lost));
        relays.shrink_to(RELAYS_KEPT_MAX);
        self.relays = relays;
    }

    /// Gives the kernel what is owed: to connections that wait for something of their own, to those that have more to get
    /// than one send, and to members of rooms.
    fn send(&mut self) {
        let budget = if self.rooms.in_line() > 1 { PER_SHARED_TURN } else { PER_TURN };
        let (mut left, quarter) = (budget, budget.share(4));
        left.spend(quarter, |part| self.send_queued(part, |shard| &mut shard.send_queue));
        left.spend(quarter, |part| self.send_queued(part, |shard| &mut shard.lagging));
        self.visit_members(&mut left);
        self.send_queued(&mut left, |shard| &mut shard.send_queue);
        self.send_queued(&mut left, |shard| &mut shard.lagging);
        let sends = budget.sends - left.sends;
        if sends > 0 {
            self.counters.send_batch.record(sends as u64, 1);
        }
    }

    fn send_queued(&mut self, left: &mut Budget, queue: impl Fn(&mut Self) -> &mut VecDeque<Key>) {
        while !left.is_spent() {
            let Some(key) = queue(self).pop_front() else { break };
            if self.is_current(key) {
                self.connection(key.slot).queued = false;
                self.give(key.slot, left);
                self.tell_laggards();
            }
        }
    }

    /// One round of the rooms in line: each visits its share of members. Those that were quiet go first; half of what is
    /// left is for the others, if there are any.
    fn visit_members(&mut self, left: &mut Budget) {
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
                    self.give(slot, of_room);
                    if of_room.bytes <= 0 {
                        break;
                    }
                }
            });
            self.rooms.end_of_visits();
            self.tell_laggards();
        }
    }

    /// Gives the kernel what one connection is owed, unless it has to wait.
    fn give(&mut self, slot: u32, left: &mut Budget) {
        let connection = &mut self.connections[slot as usize];
        if !connection.may_send() {
            return;
        }
        match connection.next_send(&self.rooms, &mut self.gaps) {
            Next::Send(slices) => {
                connection.sending = true;
                left.take(1, slices.len());
                self.ring.send(slot, slices);
            }
            Next::Nothing => {}
            Next::TooSlow => self.laggards.push((slot, None)),
        }
        self.laggards.extend(self.gaps.drain(..).map(|gap| (slot, Some(gap))));
    }

    /// Tells members what they have lost, or closes those that can't be told.
    fn tell_laggards(&mut self) {
        if self.laggards.is_empty() {
            return;
        }
        for (slot, gap) in std::mem::take(&mut self.laggards) {
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
        if matches!(self.connection(slot).role, Role::Raw { .. }) {
            self.counters.lapped(Lapped::Skip).add(1);
            self.queue(slot);
            return;
        }
        if self.connection(slot).state != State::Open {
            // Closed for a gap in another of its rooms, which it has left with that.
            return;
        }
        let room = &self.rooms.get(gap.room).room;
        let mut notice = broadcast::gap(room.name(), gap.first, gap.last, room.epoch());
        if self.connections[slot as usize].is_stream() {
            notice = sse::gap(&notice, room.epoch(), gap.last);
        }
        if self.config.slow == Slow::Close || !self.connection(slot).reply(notice) {
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
