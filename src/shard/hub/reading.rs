//! What connections have said is read in turns: each turn has a bound of work, and each connection with something unread
//! its place in line, so that whoever floods waits, and nobody else. Whoever has more to say than was read stands in a line
//! of its own, behind those that have just begun: these don't wait for a thousand flooders to have their turns.
//!
//! A connection waits, too, while what it wants can't be done without harm to others: while an inbox is congested, while the
//! raw room that it publishes into is behind, while it doesn't read the answers that it has. A chat message whose room is
//! behind is parked. Nothing of what waits is lost, and none of it keeps a receive buffer: its socket fills up, and the
//! peer's TCP window closes.

use std::collections::VecDeque;
use std::io;

use fastwebsockets::OpCode;

use super::{Ask, Hub, Key};
use crate::connection::unread::{Parked, Unread};
use crate::frame::decode::Event;
use crate::frame::encode;
use crate::limits::{
    BUFFERS_SHARE, COPIED_PARTS_MAX, ENDS_PER_TURN, LOOKS_PER_TURN, RECEIVE_BUFFER_BYTES, REPLIES_BYTES_HELD,
    WORK_PER_TURN, WORK_SHARE_MIN,
};
use crate::metrics::counters::{CLOSED_ABNORMALLY, CLOSED_WITHOUT_CODE};
use crate::protocol::Protocol;
use crate::ring::{BufferPool, Receive, Received};

/// Bytes of whole frames that count as a unit of work,
const BYTES_PER_UNIT: usize = 1024;
/// of fragments, which may be as short as their headers,
const FRAGMENT_BYTES_PER_UNIT: usize = 64;
/// and of a frame whose end is missing: they are copied, and that is all.
const PART_BYTES_PER_UNIT: usize = 4096;
/// What it takes to close a connection, in units of work,
pub(super) const CLOSE_WORK: usize = 8;
/// and to join a room, or to leave it.
pub(super) const MEMBERSHIP_WORK: usize = 4;

/// What became of a connection's turn.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// It has said everything.
    Done,
    /// Its share is used up.
    More,
    /// It has to wait.
    Held,
}

/// The connections with something unread, and whose turn it is.
#[derive(Debug)]
pub(super) struct Reading {
    buffers: BufferPool,
    /// Connections that have just said something, in the order of their turns. Each with something unread stands here or in
    /// `line`, exactly once.
    newcomers: VecDeque<Key>,
    /// Connections that had their turn and have more to say, or to wait; and those that always have more.
    line: VecDeque<Key>,
    /// Whether somebody in line need not wait.
    someone_may_go_on: bool,
    /// Units of work that are left of a connection's turn.
    work_left: isize,
    /// A message that the connection whose turn it is could not publish yet.
    pub(super) parked: Option<Parked>,
    /// Connections whose peers have ended, and of which nothing is unread.
    ends: VecDeque<Key>,
    /// Connections whose receive ended because buffers ran out.
    starved: VecDeque<Key>,
}

impl Reading {
    pub(super) fn new(buffers: BufferPool) -> Self {
        Self {
            buffers,
            newcomers: VecDeque::new(),
            line: VecDeque::new(),
            someone_may_go_on: false,
            work_left: 0,
            parked: None,
            ends: VecDeque::new(),
            starved: VecDeque::new(),
        }
    }

    /// Whether half of the receive buffers hold something unread: the others are for those that have just begun to say
    /// something.
    fn buffers_are_short(&self) -> bool {
        self.buffers.held() >= self.buffers.len() / 2
    }

    /// Whether somebody is in line.
    fn anyone_waits(&self) -> bool {
        !self.newcomers.is_empty() || !self.line.is_empty()
    }

    /// Whether some connection has ended and is not taken down yet.
    pub(super) fn has_ends(&self) -> bool {
        !self.ends.is_empty()
    }

    /// Whether a connection waits for a receive buffer, and there is one.
    pub(super) fn may_receive_again(&self) -> bool {
        !self.starved.is_empty() && self.buffers.held() < self.buffers.len()
    }

    /// Whether a connection waits for a receive buffer.
    #[cfg(debug_assertions)]
    pub(super) fn is_starved(&self, key: &Key) -> bool {
        self.starved.contains(key)
    }

    /// Entries of both lines, with and without connections that are gone meanwhile.
    #[cfg(debug_assertions)]
    pub(super) fn in_line(&self) -> impl Iterator<Item = &Key> {
        self.newcomers.iter().chain(&self.line)
    }
}

impl Hub {
    /// Something has arrived of a connection, or its receive has ended.
    pub(in crate::shard) fn received(&mut self, slot: u32, result: io::Result<Option<Received>>, armed: bool) {
        let key = self.key(slot);
        let connection = self.connection(slot);
        connection.life.received(armed);
        match result {
            // Behind its end nothing is read: bytes could be missing in between.
            Ok(Some(_)) if connection.life.has_peer_ended() || connection.life.is_ended() => {}
            Ok(Some(received)) => self.has_arrived(slot, received),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                connection.one_at_a_time = true;
                self.reading.starved.push_back(key);
            }
            Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => {
                if connection.unread.is_none() {
                    self.receive(slot);
                }
            }
            // The peer has ended, or is gone; what it said before it went is heard first.
            Ok(None) | Err(_) => {
                connection.life.peer_ended();
                if connection.unread.is_none() {
                    self.reading.ends.push_back(key);
                }
            }
        }
        self.release_if_ended(slot);
    }

    /// Something has arrived of a connection. While buffers are short, what a flood brings is copied.
    fn has_arrived(&mut self, slot: u32, mut received: Received) {
        let at = self.now.instant;
        let buffers_max = (self.reading.buffers.len() / BUFFERS_SHARE).max(1);
        let are_short = self.reading.buffers_are_short();
        let connection = &mut self.connections[slot as usize];
        connection.liveness.heard();
        let is_short = received.len() < RECEIVE_BUFFER_BYTES;
        let floods = connection.one_at_a_time && !is_short;
        let begins = connection.unread.is_none();
        if begins {
            let line = if floods { &mut self.reading.line } else { &mut self.reading.newcomers };
            line.push_back(Key { slot, serial: connection.serial });
        }
        let unread = connection.unread.get_or_insert_default();
        let keeps_buffer = !are_short || begins && !floods || unread.parts() >= COPIED_PARTS_MAX;
        if keeps_buffer {
            unread.push(received, at);
        } else {
            unread.push_copy(received.bytes().to_vec(), at);
            unread.account();
        }
        let has_too_much = are_short && !begins || unread.parts() >= buffers_max;
        if has_too_much && connection.life.is_receiving() && !connection.one_at_a_time {
            self.stop_receiving(slot);
        } else if is_short && !connection.life.is_receiving() {
            connection.one_at_a_time = false;
        }
    }

    /// The same for what came behind a request head.
    pub(super) fn has_said(&mut self, slot: u32, bytes: Vec<u8>) {
        let key = self.key(slot);
        let at = self.now.instant;
        self.connection(slot).unread.get_or_insert_default().push_copy(bytes, at);
        self.reading.newcomers.push_back(key);
    }

    /// Lets the connections in line have their turns, one after the other, until a turn's worth of work is done: first those
    /// that have just begun; half of the work is for those that go on, if there are any.
    pub(super) fn read_line(&mut self) {
        let reading = &mut self.reading;
        reading.someone_may_go_on = false;
        let (mut begin, mut go_on) = (reading.newcomers.len(), reading.line.len().min(LOOKS_PER_TURN));
        let share = (WORK_PER_TURN / (begin + reading.line.len()).max(1)).max(WORK_SHARE_MIN) as isize;
        let mut left = WORK_PER_TURN as isize;
        while begin + go_on > 0 {
            if self.registry.is_congested() {
                return;
            }
            if left <= 0 {
                self.reading.someone_may_go_on = true;
                return;
            }
            let (line, count) = if begin > 0 && (go_on == 0 || left > WORK_PER_TURN as isize / 2) {
                (&mut self.reading.newcomers, &mut begin)
            } else {
                (&mut self.reading.line, &mut go_on)
            };
            *count -= 1;
            let Some(key) = line.pop_front() else { continue };
            if self.get(key).is_none_or(|connection| connection.unread.is_none()) {
                continue;
            }
            self.reading.work_left = share.min(left);
            let began_with = self.reading.work_left;
            match self.take_turn(key) {
                Turn::Done => {}
                Turn::More => {
                    self.reading.someone_may_go_on = true;
                    self.reading.line.push_back(key);
                }
                Turn::Held => self.reading.line.push_back(key),
            }
            left -= began_with - self.reading.work_left;
        }
    }

    fn take_turn(&mut self, key: Key) -> Turn {
        let Some(mut unread) = self.connection(key.slot).unread.take() else { return Turn::Done };
        if !self.must_wait(key.slot) && self.parked_message(key.slot, &mut unread) {
            self.read(key, &mut unread);
        }
        if !self.is_current(key) || !self.connection(key.slot).life.is_heard() {
            if self.is_current(key) {
                self.all_is_read(key);
            }
            return Turn::Done;
        }
        if unread.is_empty() {
            self.all_is_read(key);
            return Turn::Done;
        }
        let must_wait = unread.parked.is_some() || self.must_wait(key.slot);
        if must_wait || self.reading.buffers_are_short() && unread.parts() <= COPIED_PARTS_MAX {
            unread.release_buffers();
            self.stop_receiving(key.slot);
        }
        unread.account();
        self.connection(key.slot).unread = Some(unread);
        if must_wait { Turn::Held } else { Turn::More }
    }

    /// Publishes what was parked, if its room has caught up; false: it has not.
    fn parked_message(&mut self, slot: u32, unread: &mut Unread) -> bool {
        let Some(Parked { room, .. }) = &unread.parked else { return true };
        if room.is_behind() {
            return false;
        }
        if let Some(Parked { kind, payload, received, .. }) = unread.parked.take()
            && self.connection(slot).life.is_open()
        {
            self.sampler.arrived(received.unwrap_or(self.now.instant));
            self.passed_message(slot, kind, &payload);
            unread.parked = self.reading.parked.take();
        }
        unread.parked.is_none()
    }

    /// Reads until there is nothing more, the share of work is used up, or the connection has to wait.
    fn read(&mut self, key: Key, unread: &mut Unread) {
        while self.reading.work_left > 0 && self.is_current(key) && self.connection(key.slot).life.is_heard() {
            let Some((input, at)) = unread.first() else { return };
            self.sampler.arrived(at);
            let len = input.len();
            let left = self.bytes_arrived(key.slot, input);
            self.counters.received_bytes.add((len - left) as u64);
            unread.advance(left);
            if let Some(parked) = self.reading.parked.take() {
                unread.parked = Some(parked);
                return;
            }
            if left > 0 {
                return;
            }
        }
    }

    /// Decodes what a connection sent, and does what it says. Returns how many bytes are left for later.
    fn bytes_arrived(&mut self, slot: u32, mut input: &mut [u8]) -> usize {
        if self.connection(slot).protocol() == Protocol::Sse {
            self.spend(input.len() / BYTES_PER_UNIT);
            self.ignore(slot, input.len());
            return 0;
        }
        let message_bytes_max = self.settings.message_bytes_max;
        loop {
            let connection = self.connection(slot);
            if !connection.life.is_heard() {
                return 0;
            }
            let before = input.len();
            match connection.decoder.next(&mut input, message_bytes_max) {
                Ok(Some(event)) => {
                    self.event(slot, event);
                    self.spend(1 + (before - input.len()) / BYTES_PER_UNIT);
                }
                Ok(None) => {
                    let of_one = connection.decoder.frame_bytes().min(before);
                    self.spend(1 + of_one / PART_BYTES_PER_UNIT + (before - of_one) / FRAGMENT_BYTES_PER_UNIT);
                    return 0;
                }
                Err(violation) => {
                    self.violation(slot, &violation);
                    return 0;
                }
            }
            if !self.connections.contains(slot as usize) {
                return 0;
            }
            if self.reading.work_left <= 0 || self.reading.parked.is_some() || self.must_wait(slot) {
                return input.len();
            }
        }
    }

    /// Work was done for the connection whose turn it is: more than was left of it is taken off the shard's turn.
    pub(super) fn spend(&mut self, work: usize) {
        self.reading.work_left -= work as isize;
    }

    /// Whether nothing more of this connection may be read just now.
    fn must_wait(&self, slot: u32) -> bool {
        let connection = &self.connections[slot as usize];
        if self.registry.is_congested() || connection.replies_bytes() > REPLIES_BYTES_HELD {
            return true;
        }
        connection.protocol() == Protocol::Raw
            && connection.life.is_open()
            && connection.memberships.first().is_some_and(|membership| self.rooms.get(membership.room).room.is_behind())
    }

    /// Whether there is something to read at once. If all that is in line has to wait, what it waits for wakes this shard.
    pub(super) fn reads_on(&self) -> bool {
        if self.reading.someone_may_go_on || !self.reading.anyone_waits() {
            return self.reading.anyone_waits();
        }
        self.inbox().pressure().wait();
        self.may_anyone_go_on()
    }

    /// Whether somebody in line could be read now, or has to give back receive buffers that others wait for: asked before the
    /// shard sleeps.
    fn may_anyone_go_on(&self) -> bool {
        let Reading { newcomers, line, starved, .. } = &self.reading;
        let buffers_are_missed = !starved.is_empty() && !self.registry.is_congested();
        let may_go_on = |key: &Key| {
            let unread = self.get(*key).and_then(|connection| connection.unread.as_ref());
            let Some(unread) = unread else { return false };
            !self.must_wait(key.slot) && unread.parked.as_ref().is_none_or(|parked| !parked.room.is_behind())
                || buffers_are_missed && unread.has_buffers()
        };
        newcomers.iter().chain(line).any(may_go_on)
    }

    /// Nothing unread is left of this connection: more may come, or its end is heard now.
    fn all_is_read(&mut self, key: Key) {
        if self.connection(key.slot).life.has_peer_ended() {
            self.reading.ends.push_back(key);
        } else {
            self.receive(key.slot);
        }
    }

    /// Drops what a connection has said and nobody has read; what it says from now on is received.
    pub(super) fn forget_unread(&mut self, slot: u32) {
        let key = self.key(slot);
        if self.connection(slot).unread.take().is_some() {
            self.reading.newcomers.retain(|in_line| *in_line != key);
            self.reading.line.retain(|in_line| *in_line != key);
            self.all_is_read(key);
        }
    }

    pub(super) fn receive(&mut self, slot: u32) {
        let connection = &mut self.connections[slot as usize];
        if connection.life.may_receive() {
            connection.life.receive();
            let how = if connection.one_at_a_time { Receive::Once } else { Receive::All };
            self.asks.push(Ask::Receive(slot, how));
        }
    }

    /// From now on this connection takes no more than one receive buffer, and none while it has something unread.
    fn stop_receiving(&mut self, slot: u32) {
        let connection = &mut self.connections[slot as usize];
        if connection.life.is_receiving() && !connection.one_at_a_time {
            self.asks.push(Ask::Cancel(slot));
        }
        connection.one_at_a_time = true;
    }

    /// Arms receives that ended for want of buffers: the first of them, as many as there are buffers.
    pub(in crate::shard) fn receive_again(&mut self) {
        let free = self.reading.buffers.len().saturating_sub(self.reading.buffers.held());
        for _ in 0..free.min(self.reading.starved.len()) {
            let Some(key) = self.reading.starved.pop_front() else { return };
            if self.is_current(key) && self.connection(key.slot).unread.is_none() {
                self.receive(key.slot);
            }
        }
    }

    /// Takes down connections whose peers have ended, and have been heard to the end.
    pub(super) fn hear_ends(&mut self) {
        let mut left = ENDS_PER_TURN;
        while left > 0 {
            let Some(key) = self.reading.ends.pop_front() else { return };
            if self.is_current(key) {
                left = left.saturating_sub(1 + self.connection(key.slot).memberships.len());
                self.peer_ended(key.slot);
            }
        }
    }

    fn peer_ended(&mut self, slot: u32) {
        if self.connection(slot).life.is_ended() {
            // It is released when the ring has given back what it holds.
            return;
        }
        if self.connection(slot).protocol() == Protocol::Sse {
            // As listeners go: there is no Close in HTTP.
            self.count_end(slot, CLOSED_WITHOUT_CODE);
            self.end_counted(slot);
        } else {
            // Perhaps the peer has ended its direction only, and still reads what it is owed.
            self.count_end(slot, CLOSED_ABNORMALLY);
            self.peer_closes(slot, None);
        }
    }

    fn event(&mut self, slot: u32, event: Event<'_>) {
        match event {
            Event::Message { kind, payload } if self.connection(slot).life.is_open() => {
                self.message(slot, kind, &payload);
            }
            Event::Message { .. } | Event::Pong(_) => {}
            // Answered as RFC 6455 has it, 5.5.2.
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
}
