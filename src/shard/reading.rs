//! What connections have said is read in turns: each turn has a bound of work, and each connection with something unread
//! its place in line, so that whoever floods waits, and nobody else. Whoever has more to say than was read stands in a line
//! of its own, behind those that have just begun: these don't wait for a thousand flooders to have their turns.
//!
//! A connection waits, too, while what it wants can't be done without harm to others: while an inbox is congested, while the
//! raw room that it publishes into is behind, while it doesn't read the answers that it has. A chat message whose room is
//! behind is parked. Nothing of what waits is lost, and none of it keeps a receive buffer: its socket fills up, and the
//! peer's TCP window closes.

use super::{Key, Shard};
use crate::connection::unread::{Parked, Unread};
use crate::connection::{Role, State};
use crate::frame::decode::Event;
use crate::metrics::counters::CLOSED_ABNORMALLY;
use crate::relay::Pressure;
use crate::ring::{DataRing, Receive, Received};

/// Units of work that one turn reads; a unit is about a microsecond: a frame, or a KiB.
pub(super) const WORK_PER_TURN: usize = 1024;
/// The least that a connection may have read in its turn.
const SHARE_MIN: usize = 8;
/// Bytes of whole frames that count as a unit of work,
const BYTES_PER_UNIT: usize = 1024;
/// of fragments, which may be as short as their headers,
const FRAGMENT_BYTES_PER_UNIT: usize = 64;
/// and of a frame whose end is missing: they are copied, and that is all.
const PART_BYTES_PER_UNIT: usize = 4096;
/// Connections that are looked at in one turn, of those that had their turn and have more to say or to wait.
const LOOKS_PER_TURN: usize = 1024;
/// What is taken down in one turn, in connections and memberships: when thousands end at once, the others go on hearing.
pub(super) const ENDS_PER_TURN: usize = 64;
/// Bytes of replies from which on a connection has to read before it is heard again.
pub(super) const REPLIES_BYTES_HELD: usize = 64 * 1024;
/// What it takes to close a connection, in units of work,
pub(super) const CLOSE_WORK: usize = 8;
/// and to join a room, or to leave it.
pub(super) const MEMBERSHIP_WORK: usize = 4;
/// Pieces of a connection that are copied while buffers are short: whoever brings more at once is stopped instead.
const COPIED_PARTS_MAX: usize = 8;
/// A connection holds at most one of so many receive buffers of its shard.
const BUFFERS_SHARE: usize = 32;

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

impl<R: DataRing> Shard<R> {
    /// Whether half of the receive buffers hold something unread: the others are for those that have just begun to say
    /// something.
    fn buffers_are_short(&self) -> bool {
        self.ring.buffers().held() >= usize::from(self.config.receive_buffers) / 2
    }

    /// Something has arrived of a connection. While buffers are short, what a flood brings is copied.
    pub(super) fn has_arrived(&mut self, slot: u32, mut received: Received) {
        let at = self.now.instant;
        let buffers_max = (usize::from(self.config.receive_buffers) / BUFFERS_SHARE).max(1);
        let are_short = self.buffers_are_short();
        let connection = &mut self.connections[slot as usize];
        connection.heard = true;
        let is_short = received.len() < crate::ring::RECEIVE_BUFFER_BYTES;
        let floods = connection.one_at_a_time && !is_short;
        let begins = connection.unread.is_none();
        if begins {
            let line = if floods { &mut self.line } else { &mut self.newcomers };
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
        if has_too_much && connection.receiving && !connection.one_at_a_time {
            self.stop_receiving(slot);
        } else if is_short && !connection.receiving {
            connection.one_at_a_time = false;
        }
    }

    /// The same for what came behind a request head.
    pub(super) fn has_said(&mut self, slot: u32, bytes: Vec<u8>) {
        let key = self.key(slot);
        let at = self.now.instant;
        self.connection(slot).unread.get_or_insert_default().push_copy(bytes, at);
        self.newcomers.push_back(key);
    }

    /// Lets the connections in line have their turns, one after the other, until a turn's worth of work is done: first those
    /// that have just begun; half of the work is for those that go on, if there are any.
    pub(super) fn read_line(&mut self) {
        self.someone_may_go_on = false;
        let (mut begin, mut go_on) = (self.newcomers.len(), self.line.len().min(LOOKS_PER_TURN));
        let share = (WORK_PER_TURN / (begin + self.line.len()).max(1)).max(SHARE_MIN) as isize;
        let mut left = WORK_PER_TURN as isize;
        while begin + go_on > 0 {
            if self.registry.is_congested() {
                return;
            }
            if left <= 0 {
                self.someone_may_go_on = true;
                return;
            }
            let (line, count) = if begin > 0 && (go_on == 0 || left > WORK_PER_TURN as isize / 2) {
                (&mut self.newcomers, &mut begin)
            } else {
                (&mut self.line, &mut go_on)
            };
            *count -= 1;
            let Some(key) = line.pop_front() else { continue };
            if !self.is_current(key) || self.connection(key.slot).unread.is_none() {
                continue;
            }
            self.work_left = share.min(left);
            let began_with = self.work_left;
            match self.take_turn(key) {
                Turn::Done => {}
                Turn::More => {
                    self.someone_may_go_on = true;
                    self.line.push_back(key);
                }
                Turn::Held => self.line.push_back(key),
            }
            left -= began_with - self.work_left;
        }
    }

    fn take_turn(&mut self, key: Key) -> Turn {
        let Some(mut unread) = self.connection(key.slot).unread.take() else { return Turn::Done };
        if !self.must_wait(key.slot) && self.parked_message(key.slot, &mut unread) {
            self.read(key, &mut unread);
        }
        if !self.is_current(key) || !self.connection(key.slot).is_heard() {
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
        if must_wait || self.buffers_are_short() && unread.parts() <= COPIED_PARTS_MAX {
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
            && self.connection(slot).state == State::Open
        {
            self.sampler.arrived(received.unwrap_or(self.now.instant));
            self.passed_message(slot, kind, &payload);
            unread.parked = self.parked.take();
        }
        unread.parked.is_none()
    }

    /// Reads until there is nothing more, the share of work is used up, or the connection has to wait.
    fn read(&mut self, key: Key, unread: &mut Unread) {
        while self.work_left > 0 && self.is_current(key) && self.connection(key.slot).is_heard() {
            let Some((input, at)) = unread.first() else { return };
            self.sampler.arrived(at);
            let len = input.len();
            let left = self.bytes_arrived(key.slot, input);
            self.counters.received_bytes.add((len - left) as u64);
            unread.advance(left);
            if let Some(parked) = self.parked.take() {
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
        if self.connection(slot).is_stream() {
            self.spend(input.len() / BYTES_PER_UNIT);
            self.ignore(slot, input.len());
            return 0;
        }
        let message_bytes_max = self.config.max_message;
        loop {
            let connection = self.connection(slot);
            if !connection.is_heard() {
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
            if self.work_left <= 0 || self.parked.is_some() || self.must_wait(slot) {
                return input.len();
            }
        }
    }

    /// Work was done for the connection whose turn it is: more than was left of it is taken off the shard's turn.
    pub(super) fn spend(&mut self, work: usize) {
        self.work_left -= work as isize;
    }

    /// Whether nothing more of this connection may be read just now.
    fn must_wait(&self, slot: u32) -> bool {
        let connection = &self.connections[slot as usize];
        if self.registry.is_congested() || connection.replies_bytes() > REPLIES_BYTES_HELD {
            return true;
        }
        matches!(connection.role, Role::Raw { .. })
            && connection.state == State::Open
            && connection.memberships.first().is_some_and(|membership| self.rooms.get(membership.room).room.is_behind())
    }

    /// Whether somebody is in line.
    pub(super) fn anyone_waits(&self) -> bool {
        !self.newcomers.is_empty() || !self.line.is_empty()
    }

    /// Whether somebody in line could be read now, or has to give back receive buffers that others wait for: asked before the
    /// shard sleeps.
    pub(super) fn may_anyone_go_on(&self) -> bool {
        let buffers_are_missed = !self.starved.is_empty() && !self.registry.is_congested();
        let may_go_on = |key: &Key| {
            let connection =
                self.connections.get(key.slot as usize).filter(|connection| connection.serial == key.serial);
            let Some(unread) = connection.and_then(|connection| connection.unread.as_ref()) else { return false };
            !self.must_wait(key.slot) && unread.parked.as_ref().is_none_or(|parked| !parked.room.is_behind())
                || buffers_are_missed && unread.has_buffers()
        };
        self.newcomers.iter().chain(&self.line).any(may_go_on)
    }

    /// What is common to all shards, and publishers have to wait for.
    pub(super) fn pressure(&self) -> &Pressure {
        self.registry.inboxes()[self.id].pressure()
    }

    /// Nothing unread is left of this connection: more may come, or its end is heard now.
    fn all_is_read(&mut self, key: Key) {
        if self.connection(key.slot).peer_ended {
            self.ends.push_back(key);
        } else {
            self.receive(key.slot);
        }
    }

    /// Drops what a connection has said and nobody has read; what it says from now on is received.
    pub(super) fn forget_unread(&mut self, slot: u32) {
        let key = self.key(slot);
        if self.connection(slot).unread.take().is_some() {
            self.newcomers.retain(|in_line| *in_line != key);
            self.line.retain(|in_line| *in_line != key);
            self.all_is_read(key);
        }
    }

    pub(super) fn receive(&mut self, slot: u32) {
        let connection = &mut self.connections[slot as usize];
        if connection.state != State::Ended && !connection.receiving && !connection.peer_ended {
            connection.receiving = true;
            let how = if connection.one_at_a_time { Receive::Once } else { Receive::All };
            self.ring.receive(slot, how);
        }
    }

    /// From now on this connection takes no more than one receive buffer, and none while it has something unread.
    fn stop_receiving(&mut self, slot: u32) {
        let connection = &mut self.connections[slot as usize];
        if connection.receiving && !connection.one_at_a_time {
            self.ring.cancel(slot);
        }
        connection.one_at_a_time = true;
    }

    /// Arms receives that ended for want of buffers: the first of them, as many as there are buffers.
    pub(super) fn receive_again(&mut self) {
        let free = usize::from(self.config.receive_buffers).saturating_sub(self.ring.buffers().held());
        for _ in 0..free.min(self.starved.len()) {
            let Some(key) = self.starved.pop_front() else { return };
            if self.is_current(key) && self.connection(key.slot).unread.is_none() {
                self.receive(key.slot);
            }
        }
    }

    /// Takes down connections whose peers have ended, and have been heard to the end.
    pub(super) fn hear_ends(&mut self) {
        let mut left = ENDS_PER_TURN;
        while left > 0 {
            let Some(key) = self.ends.pop_front() else { return };
            if self.is_current(key) {
                left = left.saturating_sub(1 + self.connection(key.slot).memberships.len());
                self.peer_ended(key.slot);
            }
        }
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

    fn event(&mut self, slot: u32, event: Event<'_>) {
        let state = self.connection(slot).state;
        match event {
            Event::Message { kind, payload } if state == State::Open => self.message(slot, kind, &payload),
            Event::Message { .. } | Event::Pong(_) => {}
            Event::Ping(payload) => self.ping_arrived(slot, &payload),
            Event::Close(status) => self.close_arrived(slot, status.map(|(code, _)| code)),
        }
    }
}
