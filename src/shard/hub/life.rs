//! What a shard does on the way from an open connection to a released socket, in that order. The states and their transitions
//! are in [`crate::connection::life`].

use std::net::Shutdown;

use crate::frame::OpCode;
use tracing::debug;

use super::reading::CLOSE_WORK;
use super::{Hub, RingOp};
use crate::connection::life::State;
use crate::counters::CLOSED_ABNORMALLY;
use crate::frame::decode::Violation;
use crate::frame::encode;
use crate::limits::CLOSE_SECONDS;
use crate::protocol::close_code::CloseReason;
use crate::protocol::{Protocol, sse};

impl Hub {
    /// Closes a connection with a code and a reason, after everything that it is owed.
    pub(super) fn close(&mut self, slot: u32, reason: &CloseReason<'_>) {
        if !self.connection(slot).life.is_open() {
            return;
        }
        debug!(shard = self.id, slot, code = reason.code(), "closing: {}", reason.text());
        self.spend(CLOSE_WORK);
        if matches!(reason, CloseReason::RepliesUnread) {
            self.counters.replies_unread.add(1);
        }
        self.settle(slot, usize::MAX);
        self.close_at_once(slot, reason);
    }

    /// Closes a connection without first sending what its rooms have for it.
    pub(super) fn close_at_once(&mut self, slot: u32, reason: &CloseReason<'_>) {
        self.count_end(slot, reason.code());
        let connection = self.connection(slot);
        let is_listener = connection.protocol() == Protocol::Sse;
        let last = if is_listener { sse::end(reason) } else { encode::close(reason.code(), &reason.text()) };
        connection.queue_close(last);
        // A listener can't answer a Close either.
        connection.life.close(reason.peer_broke_protocol() || is_listener);
        self.await_close(slot);
    }

    /// The peer has sent a Close, or ended without one. Its own code is sent back (RFC 6455, section 5.5.1), after everything
    /// that it is still owed.
    pub(super) fn peer_closes(&mut self, slot: u32, code: Option<u16>) {
        let answer = code.map_or_else(|| encode::frame(OpCode::Close, b""), |code| encode::close(code, ""));
        self.settle(slot, usize::MAX);
        let connection = self.connection(slot);
        connection.queue_close(answer);
        connection.life.answer();
        if connection.has_close_to_send() { self.await_close(slot) } else { self.end(slot) }
    }

    /// The peer has violated the protocol.
    pub(super) fn violation(&mut self, slot: u32, violation: &Violation) {
        let connection = self.connection(slot);
        if connection.life.is_open() {
            self.close(slot, &CloseReason::Violation(violation.close_code(), violation));
        } else if connection.has_close_to_send() {
            // The Close that explains the first reason still has to leave.
            connection.life.linger();
        } else {
            self.end(slot);
        }
    }

    /// A Close is queued: the connection leaves its rooms, and gets a time limit.
    fn await_close(&mut self, slot: u32) {
        self.leave_all(slot);
        self.schedule(slot, CLOSE_SECONDS);
        self.queue(slot);
    }

    /// The kernel has taken our Close frame.
    pub(super) fn close_has_left(&mut self, slot: u32) {
        match self.connection(slot).life.state() {
            State::Answering => self.end(slot),
            State::Lingering => self.ring_ops.push(RingOp::Shutdown(slot, Shutdown::Write)),
            State::Open | State::Closing | State::Ended => {}
        }
    }

    /// Shuts the socket down, which makes everything that the ring holds for the connection complete.
    pub(super) fn end(&mut self, slot: u32) {
        self.count_end(slot, CLOSED_ABNORMALLY);
        self.end_counted(slot);
    }

    /// Ends a connection whose disconnect has already been counted, under a code of its own.
    pub(super) fn end_counted(&mut self, slot: u32) {
        let connection = self.connection(slot);
        if !connection.life.is_ended() {
            connection.life.end();
            connection.unread = None;
            self.ring_ops.push(RingOp::Shutdown(slot, Shutdown::Both));
            self.leave_all(slot);
        }
        self.release_if_ended(slot);
    }

    /// Counts the disconnect of an open connection, no matter which side began it.
    pub(super) fn count_end(&mut self, slot: u32, code: u16) {
        if self.connection(slot).life.is_open() {
            self.counters.disconnects(code).add(1);
        }
    }

    /// Forgets a connection that has ended, once the ring holds nothing for it.
    pub(super) fn release_if_ended(&mut self, slot: u32) {
        let life = &self.connection(slot).life;
        if life.is_ended() && life.is_released() {
            self.stop_waiting(slot);
            self.forget_principal(slot);
            let connection = self.connections.remove(slot as usize);
            assert!(connection.memberships.is_empty(), "a connection leaves its rooms before it is released");
            self.counters.connections(connection.protocol()).subtract(1);
            self.seats.leave(slot);
            self.ring_ops.push(RingOp::Release(slot));
        }
    }
}
