//! The end of a connection: closed by us, answered, or gone; and when it is forgotten.

use std::net::Shutdown;

use tracing::debug;

use super::reading::CLOSE_WORK;
use super::{CLOSE_SECONDS, Shard};
use crate::connection::{Role, State};
use crate::frame::encode;
use crate::metrics::counters::CLOSED_ABNORMALLY;
use crate::protocol::close_code::CloseReason;
use crate::protocol::sse;
use crate::ring::DataRing;

impl<R: DataRing> Shard<R> {
    /// Closes with a code and a reason; what was owed until now goes ahead.
    pub(super) fn close(&mut self, slot: u32, reason: &CloseReason<'_>) {
        if self.connection(slot).state != State::Open {
            return;
        }
        debug!(shard = self.id, slot, code = reason.code(), "closing: {}", reason.text());
        self.count_end(slot, reason.code());
        self.spend(CLOSE_WORK);
        if matches!(reason, CloseReason::RepliesUnread) {
            self.counters.replies_unread.add(1);
        }
        self.settle(slot, usize::MAX);
        let connection = self.connection(slot);
        let last = match connection.role {
            Role::Stream { .. } => sse::end(reason),
            Role::Chat { .. } | Role::Raw { .. } => encode::close(reason.code(), &reason.text()),
        };
        // A listener answers no Close either.
        let lingers = reason.peer_broke_protocol() || connection.is_stream();
        connection.close(last, if lingers { State::Lingering } else { State::Closing });
        self.leave_all(slot);
        self.schedule(slot, CLOSE_SECONDS);
        self.queue(slot);
    }

    /// Counts the end of an open connection, whichever side began it.
    pub(super) fn count_end(&mut self, slot: u32, code: u16) {
        if self.connection(slot).state == State::Open {
            self.counters.disconnects(code).add(1);
        }
    }

    /// Our Close frame has left.
    pub(super) fn close_has_left(&mut self, slot: u32) {
        match self.connection(slot).state {
            State::Answering => self.end(slot),
            State::Lingering => self.ring.shutdown(slot, Shutdown::Write),
            State::Open | State::Closing | State::Ended => {}
        }
    }

    /// Shuts the socket down, which makes the kernel give back all that it holds of the connection.
    pub(super) fn end(&mut self, slot: u32) {
        self.count_end(slot, CLOSED_ABNORMALLY);
        let connection = self.connection(slot);
        if connection.state != State::Ended {
            connection.state = State::Ended;
            connection.unread = None;
            self.ring.shutdown(slot, Shutdown::Both);
            self.leave_all(slot);
        }
        self.remove_if_released(slot);
    }

    /// Forgets a connection that has ended and of which the kernel holds nothing more.
    pub(super) fn remove_if_released(&mut self, slot: u32) {
        let connection = self.connection(slot);
        if connection.state == State::Ended && connection.is_released() {
            debug_assert!(connection.memberships.is_empty());
            let connection = self.connections.remove(slot as usize);
            self.ring.release(slot);
            self.counters.connections(connection.speech()).subtract(1);
        }
    }
}
