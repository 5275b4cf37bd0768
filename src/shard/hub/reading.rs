//! The input of connections is read in turns. The work of each turn is bounded, and each connection with unread input has its
//! place in a queue, so that only a flooder waits for its own flood. Connections that have more input than was read in one go
//! get a separate queue, behind those that have just sent something: nobody waits for a thousand flooders.
//!
//! A connection also waits while reading it would harm others: while an inbox is congested, while the raw room that it
//! publishes to is behind, or while it doesn't read its replies. A chat message whose room is behind is parked. Nothing that
//! waits is lost, and none of it occupies a receive buffer: the socket fills up, and the peer's TCP window closes.

use std::collections::VecDeque;
use std::io;

use super::{Hub, Key, RingOp};
use crate::connection::unread::{Parked, Unread};
use crate::counters::{CLOSED_ABNORMALLY, CLOSED_WITHOUT_CODE};
use crate::frame::OpCode;
use crate::frame::decode::Decoded;
use crate::frame::encode;
use crate::limits::{
    BUFFERS_SHARE, COPIED_PARTS_MAX, ENDS_PER_TURN, LOOKS_PER_TURN, RECEIVE_BUFFER_BYTES, REPLIES_BYTES_HELD,
    WORK_PER_TURN, WORK_SHARE_MIN,
};
use crate::protocol::Protocol;
use crate::ring::{BufferPool, Receive, Received};

/// Bytes of complete frames that count as one unit of work.
pub(super) const BYTES_PER_UNIT: usize = 1024;
/// Bytes of fragments that count as one unit: they may be as short as their headers.
const FRAGMENT_BYTES_PER_UNIT: usize = 64;
/// Bytes of an incomplete frame that count as one unit: they are only copied.
const PART_BYTES_PER_UNIT: usize = 4096;
/// Units of work that it takes to close a connection.
pub(super) const CLOSE_WORK: usize = 8;
/// Units of work that it takes to join or leave a room.
pub(super) const MEMBERSHIP_WORK: usize = 4;

/// How a connection's turn ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// There is no unread input left.
    Done,
    /// There is more, but the share of work is used up.
    More,
    /// There is more, and it has to wait.
    Held,
}

/// The connections with unread input, and whose turn it is.
#[derive(Debug)]
pub(super) struct Reading {
    buffers: BufferPool,
    /// Connections that have just sent something, in the order of their turns. Each connection with unread input is in here or
    /// in `busy`, exactly once.
    quiet: VecDeque<Key>,
    /// Connections that had their turn and have more input, or have to wait; and connections that always have more.
    busy: VecDeque<Key>,
    /// Whether a queued connection could go on at once.
    can_continue: bool,
    /// Units of work left in the current connection's turn.
    work_left: isize,
    /// A message of the current connection that could not be published yet.
    pub(super) parked: Option<Parked>,
    /// Connections whose peer has ended and that have no unread input.
    ends: VecDeque<Key>,
    /// Connections whose receive ended because the buffers had run out.
    starved: VecDeque<Key>,
}

impl Reading {
    pub(super) fn new(buffers: BufferPool) -> Self {
        Self {
            buffers,
            quiet: VecDeque::new(),
            busy: VecDeque::new(),
            can_continue: false,
            work_left: 0,
            parked: None,
            ends: VecDeque::new(),
            starved: VecDeque::new(),
        }
    }

    /// Whether half of the receive buffers hold unread input: the other half is reserved for connections that have just sent
    /// something.
    fn buffers_are_short(&self) -> bool {
        self.buffers.held() >= self.buffers.size() / 2
    }

    /// Whether any connection is queued.
    fn has_unread(&self) -> bool {
        !self.quiet.is_empty() || !self.busy.is_empty()
    }

    /// Whether the peer of some connection has ended, and that still has to be handled.
    pub(super) fn has_ends(&self) -> bool {
        !self.ends.is_empty()
    }

    /// Whether a connection waits for a receive buffer, and one is free.
    pub(super) fn may_receive_again(&self) -> bool {
        !self.starved.is_empty() && self.buffers.held() < self.buffers.size()
    }

    /// Whether a connection waits for a receive buffer.
    #[cfg(debug_assertions)]
    pub(super) fn is_starved(&self, key: &Key) -> bool {
        self.starved.contains(key)
    }

    /// The entries of both queues, including those of connections that are gone.
    #[cfg(debug_assertions)]
    pub(super) fn queued(&self) -> impl Iterator<Item = &Key> {
        self.quiet.iter().chain(&self.busy)
    }
}

impl Hub {
    /// A receive has completed, or one part of it: bytes, an end, or an error.
    pub(in crate::shard) fn received(&mut self, slot: u32, result: io::Result<Option<Received>>, armed: bool) {
        let key = self.key(slot);
        let connection = self.connection(slot);
        connection.life.received(armed);
        match result {
            // Nothing is read after the end: bytes might be missing in between.
            Ok(Some(_)) if connection.life.has_peer_ended() || connection.life.is_ended() => {}
            Ok(Some(received)) => self.enqueue_input(slot, received),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                connection.one_at_a_time = true;
                self.reading.starved.push_back(key);
            }
            Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => {
                if connection.unread.is_none() {
                    self.receive(slot);
                }
            }
            // The peer has ended, or the connection is broken. What the peer sent before is read first.
            Ok(None) | Err(_) => {
                connection.life.peer_ended();
                if connection.unread.is_none() {
                    self.reading.ends.push_back(key);
                }
            }
        }
        self.release_if_ended(slot);
    }

    /// Bytes have arrived. While buffers are short, a flooder's bytes are copied.
    fn enqueue_input(&mut self, slot: u32, mut received: Received) {
        let at = self.now.instant;
        let buffers_max = (self.reading.buffers.size() / BUFFERS_SHARE).max(1);
        let are_short = self.reading.buffers_are_short();
        let connection = &mut self.connections[slot as usize];
        connection.liveness.heard();
        let is_short = received.len() < RECEIVE_BUFFER_BYTES;
        let floods = connection.one_at_a_time && !is_short;
        let begins = connection.unread.is_none();
        if begins {
            let queue = if floods { &mut self.reading.busy } else { &mut self.reading.quiet };
            queue.push_back(Key { slot, serial: connection.serial });
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

    /// Takes in bytes that were received after the request head.
    pub(super) fn enqueue_leftover(&mut self, slot: u32, bytes: Vec<u8>) {
        let key = self.key(slot);
        let at = self.now.instant;
        self.connection(slot).unread.get_or_insert_default().push_copy(bytes, at);
        self.reading.quiet.push_back(key);
    }

    /// Gives the queued connections their turns, one after the other, until a turn's worth of work is done. Those that have
    /// just sent something go first; half of the work is reserved for the others, if there are any.
    pub(super) fn read_queued(&mut self) {
        let reading = &mut self.reading;
        reading.can_continue = false;
        let (mut quiet, mut busy) = (reading.quiet.len(), reading.busy.len().min(LOOKS_PER_TURN));
        let share = (WORK_PER_TURN / (quiet + reading.busy.len()).max(1)).max(WORK_SHARE_MIN) as isize;
        let mut left = WORK_PER_TURN as isize;
        while quiet + busy > 0 {
            if self.registry.is_congested() {
                return;
            }
            if left <= 0 {
                self.reading.can_continue = true;
                return;
            }
            let (queue, count) = if quiet > 0 && (busy == 0 || left > WORK_PER_TURN as isize / 2) {
                (&mut self.reading.quiet, &mut quiet)
            } else {
                (&mut self.reading.busy, &mut busy)
            };
            *count -= 1;
            let Some(key) = queue.pop_front() else { continue };
            if self.get(key).is_none_or(|connection| connection.unread.is_none()) {
                continue;
            }
            self.reading.work_left = share.min(left);
            let work_before = self.reading.work_left;
            match self.take_turn(key) {
                Turn::Done => {}
                Turn::More => {
                    self.reading.can_continue = true;
                    self.reading.busy.push_back(key);
                }
                Turn::Held => self.reading.busy.push_back(key),
            }
            left -= work_before - self.reading.work_left;
        }
    }

    fn take_turn(&mut self, key: Key) -> Turn {
        let Some(mut unread) = self.connection(key.slot).unread.take() else { return Turn::Done };
        if !self.must_wait(key.slot) && self.parked_message(key.slot, &mut unread) {
            self.read(key, &mut unread);
        }
        if !self.is_current(key) || !self.connection(key.slot).life.reads_input() {
            if self.is_current(key) {
                self.input_drained(key);
            }
            return Turn::Done;
        }
        if unread.is_empty() {
            self.input_drained(key);
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

    /// Publishes the parked message, if its room has caught up. False: it has not.
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

    /// Reads until there is no more input, the share of work is used up, or the connection has to wait.
    fn read(&mut self, key: Key, unread: &mut Unread) {
        while self.reading.work_left > 0 && self.is_current(key) && self.connection(key.slot).life.reads_input() {
            let Some((input, at)) = unread.first() else { return };
            self.sampler.arrived(at);
            let len = input.len();
            let left = self.decode_input(key.slot, input);
            self.counters.received_bytes.add((len - left) as u64);
            unread.advance(left);
            if let Some(parked) = self.reading.parked.take() {
                unread.parked = Some(parked);
                return;
            }
            if left > 0 || self.elsewhere.is_opening(key) {
                return;
            }
        }
    }

    /// Decodes input and acts on it. Returns how many bytes are left for later.
    fn decode_input(&mut self, slot: u32, mut input: &mut [u8]) -> usize {
        if self.connection(slot).protocol() == Protocol::Sse {
            self.spend(input.len() / BYTES_PER_UNIT);
            self.ignore(slot, input.len());
            return 0;
        }
        let message_bytes_max = self.settings.message_bytes_max;
        loop {
            let connection = self.connection(slot);
            if !connection.life.reads_input() {
                return 0;
            }
            let before = input.len();
            let deflates = connection.deflates();
            match connection.decoder.next(&mut input, message_bytes_max, deflates) {
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

    /// Deducts work from the turn of the current connection; what exceeds its share is deducted from the shard's turn.
    pub(super) fn spend(&mut self, work: usize) {
        self.reading.work_left -= work as isize;
    }

    /// Whether this connection must not be read just now.
    fn must_wait(&self, slot: u32) -> bool {
        let connection = &self.connections[slot as usize];
        if self.registry.is_congested() || connection.replies_bytes() > REPLIES_BYTES_HELD {
            return true;
        }
        if self.elsewhere.is_opening(Key { slot, serial: connection.serial }) {
            return true;
        }
        connection.protocol() == Protocol::Raw
            && connection.life.is_open()
            && connection.memberships.first().is_some_and(|membership| self.rooms.get(membership.room).room.is_behind())
    }

    /// Whether there is something to read at once. If everything queued has to wait, whatever it waits for will wake this
    /// shard.
    pub(super) fn has_more_to_read(&self) -> bool {
        if self.reading.can_continue || !self.reading.has_unread() {
            return self.reading.has_unread();
        }
        self.inbox().pressure().wait();
        self.is_any_readable()
    }

    /// Whether any queued connection could be read now, or holds receive buffers that others need. Checked before the shard
    /// sleeps.
    fn is_any_readable(&self) -> bool {
        let Reading { quiet, busy, starved, .. } = &self.reading;
        let buffers_are_wanted = !starved.is_empty() && !self.registry.is_congested();
        let is_readable = |key: &Key| {
            let unread = self.get(*key).and_then(|connection| connection.unread.as_ref());
            let Some(unread) = unread else { return false };
            !self.must_wait(key.slot) && unread.parked.as_ref().is_none_or(|parked| !parked.room.is_behind())
                || buffers_are_wanted && unread.has_buffers()
        };
        quiet.iter().chain(busy).any(is_readable)
    }

    /// All input of this connection has been read: receive more, or handle its end.
    fn input_drained(&mut self, key: Key) {
        if self.connection(key.slot).life.has_peer_ended() {
            self.reading.ends.push_back(key);
        } else {
            self.receive(key.slot);
        }
    }

    /// Drops the unread input of a connection. What arrives from now on is received.
    pub(super) fn forget_unread(&mut self, slot: u32) {
        let key = self.key(slot);
        if self.connection(slot).unread.take().is_some() {
            self.reading.quiet.retain(|queued| *queued != key);
            self.reading.busy.retain(|queued| *queued != key);
            self.input_drained(key);
        }
    }

    pub(super) fn receive(&mut self, slot: u32) {
        let connection = &mut self.connections[slot as usize];
        if connection.life.may_receive() {
            connection.life.receive();
            let how = if connection.one_at_a_time { Receive::Once } else { Receive::All };
            self.ring_ops.push(RingOp::Receive(slot, how));
        }
    }

    /// From now on this connection takes one receive buffer at a time, and none while it has unread input.
    fn stop_receiving(&mut self, slot: u32) {
        let connection = &mut self.connections[slot as usize];
        if connection.life.is_receiving() && !connection.one_at_a_time {
            self.ring_ops.push(RingOp::Cancel(slot));
        }
        connection.one_at_a_time = true;
    }

    /// Restarts receives that ended because the buffers had run out, the oldest first, as many as there are free buffers.
    pub(in crate::shard) fn receive_again(&mut self) {
        let free = self.reading.buffers.size().saturating_sub(self.reading.buffers.held());
        for _ in 0..free.min(self.reading.starved.len()) {
            let Some(key) = self.reading.starved.pop_front() else { return };
            if self.is_current(key) && self.connection(key.slot).unread.is_none() {
                self.receive(key.slot);
            }
        }
    }

    /// Ends connections whose peer has ended, once all their input has been read.
    pub(super) fn handle_ends(&mut self) {
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
            // It will be released once the ring has given back what it holds.
            return;
        }
        if self.connection(slot).protocol() == Protocol::Sse {
            // This is how listeners leave: HTTP has no Close.
            self.count_end(slot, CLOSED_WITHOUT_CODE);
            self.end_counted(slot);
        } else {
            // The peer may have shut down only its sending side, and still read what it is owed.
            self.count_end(slot, CLOSED_ABNORMALLY);
            self.peer_closes(slot, None);
        }
    }

    fn event(&mut self, slot: u32, event: Decoded<'_>) {
        match event {
            Decoded::Message { kind, is_deflated, payload } if self.connection(slot).life.is_open() => {
                let act = if is_deflated { Self::deflated_message } else { Self::message };
                act(self, slot, kind, &payload);
            }
            Decoded::Message { .. } => {}
            Decoded::Pong(payload) => {
                let now = self.now.instant;
                if self.connection(slot).ponged(&payload, now) {
                    self.queue_if_owed(slot);
                }
            }
            // RFC 6455, section 5.5.2: a ping is answered with its payload.
            Decoded::Ping(payload) => {
                self.connection(slot).pong(encode::frame(OpCode::Pong, &payload));
                self.queue(slot);
            }
            Decoded::Close(status) => {
                let code = status.map(|(code, _)| code);
                self.count_end(slot, code.unwrap_or(CLOSED_WITHOUT_CODE));
                self.peer_closes(slot, code);
            }
        }
    }
}
