//! The turn: completions in, frames out, one submission.
//!
//! What has arrived, from connections and from other shards, is read only when everything owed has been given to the
//! kernel: a publisher is slowed down to what the fan-out can do, by its own TCP window. Logs are cut back to their
//! bound only then, so that members who read are never lapped because the server was busy.

use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use super::{Arrival, End, Key, Shard};
use crate::config::Slow;
use crate::connection::{Gap, Next, Role, Sent, State};
use crate::frame::decode::{Event, Violation};
use crate::frame::encode;
use crate::metrics::counters::{CLOSED_ABNORMALLY, CLOSED_WITHOUT_CODE, Lapped};
use crate::protocol::close_code::CloseReason;
use crate::protocol::{broadcast, sse};
use crate::relay::Order;
use crate::ring::{Completion, DataRing, Received};
use fastwebsockets::OpCode;

/// Completions taken in one turn.
const COMPLETIONS_PER_TURN: usize = 8192;
/// The kernel is asked so often for what it deferred, until there are as many arrivals as a turn reads.
const SUBMISSIONS_BEFORE_READING: usize = 16;
/// Arrivals read in one turn.
const ARRIVALS_PER_TURN: usize = 256;
/// Connections that are taken down in one turn: when thousands end at once, those who stay go on hearing.
const ENDS_PER_TURN: usize = 32;
/// Sends submitted in one turn: the first members of a large room don't wait for the last ones' submissions.
const SENDS_PER_TURN: usize = 1024;
/// Turns follow one another for so long before the control ring runs.
const TURNS_TIME_MAX: Duration = Duration::from_millis(4);

impl<R: DataRing> Shard<R> {
    /// Takes turns until there is nothing to do, or the control ring has waited long enough; true: there is more.
    pub fn turns(&mut self) -> bool {
        let began = Instant::now();
        loop {
            self.ring.attended();
            let more = match self.turn() {
                Ok(more) => more || !self.ring.unattended(),
                Err(error) => self.fatal(&error),
            };
            if !more || began.elapsed() >= TURNS_TIME_MAX {
                self.counters.busy(began.elapsed());
                return more;
            }
        }
    }

    fn turn(&mut self) -> io::Result<bool> {
        self.read_clock();
        // Takes what the control ring's tasks asked for, and lets the kernel run what it deferred: behind thousands of ends a
        // message would otherwise wait for as many turns as a few of them take.
        for _ in 0..SUBMISSIONS_BEFORE_READING {
            let deferred_more = self.ring.submit()?;
            self.reap();
            if !deferred_more || self.arrivals.len() >= ARRIVALS_PER_TURN {
                break;
            }
        }
        self.queue_news();
        let owes_nothing = self.send_queue.is_empty();
        if owes_nothing {
            self.read_arrivals();
            self.drain_inbox();
        }
        self.obey_orders();
        self.queue_news();
        let more_news = self.wakes.wake_others(self.registry.inboxes(), self.id);
        self.send();
        self.receive_again();
        self.ring.submit()?;
        let reaped_all = self.reap();
        if reaped_all && self.send_queue.is_empty() {
            self.rooms.cut_back();
        }
        self.relieve_memory();
        // What ended meanwhile has left its rooms: their members must not wait for the next turn to hear of it.
        let more_news = self.wakes.wake_others(self.registry.inboxes(), self.id) || more_news;
        let is_behind = !owes_nothing || !reaped_all || !self.send_queue.is_empty();
        let more_arrived = !self.arrivals.is_empty() || !self.ends.is_empty();
        Ok(is_behind || more_arrived || more_news || self.registry.inboxes()[self.id].has_orders())
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
                    self.ring.await_writable(slot, connection.stream.as_raw_fd());
                }
            }
        }
        if self.connections.contains(slot as usize) {
            self.remove_if_released(slot);
        }
    }

    fn queue_if_owed(&mut self, slot: u32) {
        if self.connections[slot as usize].has_something(&self.rooms) {
            self.queue(slot);
        }
    }

    fn received(&mut self, slot: u32, result: io::Result<Option<Received>>, armed: bool) {
        let key = self.key(slot);
        let behind = self.arrivals_in_all();
        let connection = self.connection(slot);
        connection.receiving = armed;
        match result {
            // Behind its end nothing is read: bytes could be missing in between.
            Ok(Some(received)) if connection.peer_ended => self.ring.recycle(received),
            Ok(Some(received)) => {
                if !armed {
                    self.starved.push(key);
                }
                self.arrivals.push_back(Arrival { key, received, at: self.now.instant });
            }
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => self.starved.push(key),
            // The peer has ended, or is gone; what it said before it went is heard first.
            Ok(None) | Err(_) => {
                connection.peer_ended = true;
                self.ends.push_back(End { key, behind });
            }
        }
        self.remove_if_released(slot);
    }

    /// Reads what has arrived, unless another shard is behind with what this one publishes.
    fn read_arrivals(&mut self) {
        let others = self.registry.inboxes().iter().enumerate().filter(|(shard, _)| *shard != self.id);
        if !self.arrivals.is_empty() && others.into_iter().any(|(_, inbox)| inbox.is_congested()) {
            return;
        }
        for _ in 0..ARRIVALS_PER_TURN {
            let Some(Arrival { key, mut received, at }) = self.arrivals.pop_front() else { break };
            self.arrivals_read += 1;
            self.counters.received_bytes.add(received.bytes().len() as u64);
            self.sampler.arrived(at);
            if self.is_current(key) {
                self.bytes_arrived(key.slot, received.bytes());
            }
            self.ring.recycle(received);
        }
        for _ in 0..ENDS_PER_TURN {
            if self.ends.front().is_none_or(|end| end.behind > self.arrivals_read) {
                break;
            }
            let End { key, .. } = self.ends.pop_front().expect("there is one, as just seen");
            if self.is_current(key) {
                self.peer_ended(key.slot);
            }
        }
    }

    /// Arrivals since the shard began, read or not.
    fn arrivals_in_all(&self) -> u64 {
        self.arrivals_read + self.arrivals.len() as u64
    }

    fn peer_ended(&mut self, slot: u32) {
        if self.connection(slot).is_stream() {
            self.listener_left(slot);
        } else {
            // Perhaps the peer has ended its direction only, and still reads what it is owed.
            self.count_end(slot, CLOSED_ABNORMALLY);
            self.peer_closes(slot, None);
        }
    }

    /// Arms the receives that ended for want of buffers, now that some have been given back.
    fn receive_again(&mut self) {
        for key in std::mem::take(&mut self.starved) {
            if self.is_current(key) {
                self.receive(key.slot);
            }
        }
    }

    /// Decodes what a connection sent, and does what it says.
    pub(super) fn bytes_arrived(&mut self, slot: u32, mut input: &mut [u8]) {
        if self.connection(slot).is_stream() {
            return self.ignore(slot, input.len());
        }
        let message_bytes_max = self.config.max_message;
        loop {
            let connection = self.connection(slot);
            connection.heard = true;
            if !matches!(connection.state, State::Open | State::Closing) {
                return;
            }
            match connection.decoder.next(&mut input, message_bytes_max) {
                Ok(Some(event)) => self.event(slot, event),
                Ok(None) => return,
                Err(violation) => {
                    self.violation(slot, &violation);
                    return;
                }
            }
            if !self.connections.contains(slot as usize) {
                return;
            }
        }
    }

    fn event(&mut self, slot: u32, event: Event<'_>) {
        let state = self.connection(slot).state;
        match event {
            Event::Message { kind, payload } if state == State::Open => self.message(slot, kind, &payload),
            Event::Message { .. } | Event::Pong(_) => {}
            Event::Ping(payload) => {
                self.connection(slot).pong(encode::frame(OpCode::Pong, &payload));
                self.queue(slot);
            }
            Event::Close(status) => {
                let code = status.map(|(code, _)| code);
                self.count_end(slot, code.unwrap_or(CLOSED_WITHOUT_CODE));
                self.peer_closes(slot, code);
            }
        }
    }

    /// The peer's Close, or its end without one: answered with its own code (RFC 6455, 5.5.1), behind what it is still
    /// owed.
    fn peer_closes(&mut self, slot: u32, code: Option<u16>) {
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

    fn violation(&mut self, slot: u32, violation: &Violation) {
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
        let mut relays = std::mem::take(&mut self.relays);
        self.registry.inboxes()[self.id].drain(&mut relays);
        self.wakes.drained(self.id);
        for relay in relays.drain(..) {
            self.rooms.append(&relay);
        }
        self.relays = relays;
    }

    /// Queues every member of each room whose log has grown.
    fn queue_news(&mut self) {
        while let Some(room) = self.rooms.take_news() {
            for slot in &self.rooms.get(room).members {
                let connection = &mut self.connections[*slot as usize];
                if !connection.queued && connection.may_send() {
                    connection.queued = true;
                    self.send_queue.push_back(Key { slot: *slot, serial: connection.serial });
                }
            }
        }
    }

    fn send(&mut self) {
        let sends = self.send_queued();
        if sends > 0 {
            self.counters.send_batch.record(sends, 1);
        }
    }

    /// Gives the kernel what is owed; how many sends that took.
    fn send_queued(&mut self) -> u64 {
        let mut gaps = Vec::new();
        let mut sends = 0;
        for _ in 0..SENDS_PER_TURN {
            let Some(key) = self.send_queue.pop_front() else { break };
            if !self.is_current(key) {
                continue;
            }
            let connection = &mut self.connections[key.slot as usize];
            connection.queued = false;
            if !connection.may_send() {
                continue;
            }
            match connection.next_send(&self.rooms, &mut gaps) {
                Next::Send(slices) => {
                    connection.sending = true;
                    sends += 1;
                    self.ring.send(key.slot, connection.stream.as_raw_fd(), slices);
                }
                Next::Nothing => {}
                Next::TooSlow => {
                    self.counters.lapped(Lapped::Close).add(1);
                    self.close(key.slot, &CloseReason::TooSlow);
                }
            }
            for gap in gaps.drain(..) {
                self.lapped(key.slot, gap);
            }
        }
        sends
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
