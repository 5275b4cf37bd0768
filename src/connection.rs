//! One upgraded connection: its state, its cursors and its outbox. What leaves in its next send is in `connection/sending.rs`.
//!
//! Pure bookkeeping: the shard asks [`Connection::next_send`] what to give to the kernel, and tells [`Connection::sent`] what
//! the kernel took. A connection that is idle, or at the tip of its rooms, holds no buffer.

use std::os::fd::RawFd;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::counters::Compression;
use crate::counters::delivery::Carried;
use crate::frame::OpCode;
use crate::frame::decode::Decoder;
use crate::frame::encode;
use crate::protocol::name::Name;
use crate::protocol::resume::Predecessor;
use crate::protocol::{Encoding, Protocol, sse};
use crate::rate::Bucket;
use crate::ring::Slices;

use crate::room::local::{LocalRoom, LocalRooms};
use crate::slice::Slice;

pub mod latest;
pub(crate) mod life;
pub(crate) mod liveness;
mod outbox;
mod sending;
pub(crate) mod unread;
mod window;

use latest::Latest;
use life::Life;
use liveness::Liveness;
use outbox::Outbox;
use unread::Unread;

/// What the connection speaks, and the state that only this protocol needs.
#[derive(Debug)]
pub enum Role {
    /// Chat in the protocol of 2017.
    V0 {
        /// The user's name: the `From` of everything that the connection says.
        user: Name,
    },
    /// Chat in `hi.v1`.
    V1 {
        /// The user's name, as in v0.
        user: Name,
        /// The lost connection of the same client, whose name this one may take over.
        predecessor: Option<Box<Predecessor>>,
    },
    /// A raw room.
    Raw {
        /// Whether the connection also receives its own messages.
        echo: bool,
        /// Whether it loses messages when it is too slow, instead of being closed.
        lossy: bool,
    },
    /// A member of a raw room that skips to the newest message of each key when it is too slow.
    Latest(Box<Latest>),
    /// A listener, which gets a chat room as server-sent events.
    Sse {
        /// Bytes that it has sent although nothing reads them.
        ignored_bytes: u32,
    },
}

impl Role {
    /// The protocol of connections with this role.
    pub(crate) fn protocol(&self) -> Protocol {
        match self {
            Self::V0 { .. } => Protocol::V0,
            Self::V1 { .. } => Protocol::V1,
            Self::Raw { .. } | Self::Latest(_) => Protocol::Raw,
            Self::Sse { .. } => Protocol::Sse,
        }
    }
}

/// A cursor into a room's log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Membership {
    /// The room's slot in [`LocalRooms`].
    pub room: u32,
    /// Index in the room's list of members.
    pub index: u32,
    /// `Seq` of the next frame that the member gets.
    pub cursor: u64,
    /// `Seq` of the first frame that was published after the join. While the cursor is before it, the member is catching up
    /// with what it missed.
    pub joined_seq: u64,
}

/// Where the bytes of a slice came from: decides what happens to those that don't leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// The log of a room: `frames` frames, starting with `Seq` `from`.
    Room { room: u32, frames: u32, from: u64 },
    /// The outbox, with what is known about the bytes.
    Own(Own),
    /// Our Close frame, the last slice of its send.
    Close,
}

/// What is known about bytes from the outbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Own {
    /// The room frames among them.
    carried: Carried,
    /// Bytes that they keep in memory, if that is more than their own length.
    pinned_bytes: u32,
}

type Sources = SmallVec<[Source; 1]>;

impl Source {
    /// The frames from a member's cursor to before `end`.
    fn frames(membership: &Membership, end: u64) -> Self {
        // A slice is smaller than 4 GiB, and so is the number of frames in it.
        Self::Room { room: membership.room, frames: (end - membership.cursor) as u32, from: membership.cursor }
    }

    /// Bytes that a slice from this source keeps in memory.
    fn pinned_bytes(&self, slice: &Slice) -> usize {
        match self {
            Self::Own(own) => slice.len().max(own.pinned_bytes as usize),
            Self::Room { .. } | Self::Close => slice.len(),
        }
    }
}

/// The outcome of a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// The kernel took all of it.
    Whole,
    /// The kernel took all of it, including our Close frame.
    Closed,
    /// The socket is full: wait until it is writable again.
    Full,
}

/// What a connection has to send next.
#[derive(Debug)]
pub(crate) enum Next {
    /// There is nothing to send now.
    Nothing,
    /// Send this.
    Send(Slices),
    /// The connection was too slow, and either its room can't tell it so, or it would break a replay that was promised in full:
    /// close it.
    TooSlow,
}

/// Frames that a member lost because it was too slow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gap {
    /// The room's slot in [`LocalRooms`].
    pub room: u32,
    /// `Seq` of the first lost frame.
    pub first: u64,
    /// `Seq` of the last lost frame.
    pub last: u64,
}

// An idle connection costs this, and one entry in a room's list.
const _: () = assert!(size_of::<Connection>() <= 168);

/// One upgraded connection, from the end of its handshake to its release.
pub(crate) struct Connection {
    /// Distinguishes connections that use the same slot one after the other.
    pub serial: u32,
    /// The file descriptor of its socket, which the ring owns.
    pub descriptor: RawFd,
    /// Its state, and what the ring holds for it.
    pub life: Life,
    /// What is known about the peer from pings and their answers.
    pub liveness: Liveness,
    /// Whether it takes only one receive buffer at a time: it has sent more than was read, or had to wait.
    pub one_at_a_time: bool,
    /// What became of its offer to compress messages, if it made one.
    pub compression: Option<Compression>,
    /// True exactly while it is in one of the shard's send queues.
    pub queued: bool,
    /// Number of consecutive messages that could not be parsed.
    pub unreadable: u8,
    /// The tick at which its timer is due; other entries in the timer wheel are stale.
    pub due_tick: u32,
    /// Decodes its input, and holds a frame or message that is not complete yet.
    pub decoder: Decoder,
    /// Tokens left under its rate limit.
    pub bucket: Bucket,
    /// What the connection speaks.
    pub role: Role,
    /// Its cursors: one for each room that it is in.
    pub memberships: SmallVec<[Membership; 1]>,
    /// Input that waits to be read. While there is any, the connection is in one of the shard's read queues, exactly once.
    pub unread: Option<Box<Unread>>,
    outbox: Option<Box<Outbox>>,
    /// Where each slice of the send in flight came from; nearly always there is only one.
    in_flight: Sources,
}

impl Connection {
    /// A new connection, in no room yet.
    pub(crate) fn new(
        serial: u32,
        descriptor: RawFd,
        role: Role,
        compression: Option<Compression>,
        bucket: Bucket,
    ) -> Self {
        Self {
            serial,
            descriptor,
            life: Life::begin(),
            liveness: Liveness::Quiet,
            one_at_a_time: false,
            compression,
            queued: false,
            unreadable: 0,
            due_tick: 0,
            decoder: Decoder::new(),
            bucket,
            role,
            memberships: SmallVec::new(),
            unread: None,
            outbox: None,
            in_flight: Sources::new(),
        }
    }

    /// The protocol that it speaks.
    pub(crate) fn protocol(&self) -> Protocol {
        self.role.protocol()
    }

    /// The form in which it gets what its rooms publish.
    pub(crate) fn encoding(&self) -> Encoding {
        let encoding = self.protocol().encoding(self.compression == Some(Compression::Agreed));
        if let Role::Latest(_) = self.role { encoding.latest() } else { encoding }
    }

    /// Whether it may compress what it sends.
    pub(crate) fn deflates(&self) -> bool {
        matches!(self.compression, Some(Compression::Agreed | Compression::Received))
    }

    /// The user's name, if it is a chat connection.
    pub(crate) fn user(&self) -> Option<&Name> {
        match &self.role {
            Role::V0 { user } | Role::V1 { user, .. } => Some(user),
            Role::Raw { .. } | Role::Latest(_) | Role::Sse { .. } => None,
        }
    }

    /// The lost connection whose name it may take over.
    pub(crate) fn predecessor(&self) -> Option<Predecessor> {
        match &self.role {
            Role::V1 { predecessor, .. } => predecessor.as_deref().copied(),
            _ => None,
        }
    }

    /// Queues the response to the handshake, ahead of everything else.
    pub(crate) fn respond(&mut self, response: Bytes) {
        self.outbox.get_or_insert_default().respond(response);
    }

    /// Appends a reply. False if too many are unread already: nothing was appended.
    #[must_use]
    pub(crate) fn reply(&mut self, frame: Bytes) -> bool {
        self.outbox.get_or_insert_default().reply(frame.into())
    }

    /// Bytes of replies that have not left yet.
    pub(crate) fn replies_bytes(&self) -> usize {
        self.outbox.as_ref().map_or(0, |outbox| outbox.replies_bytes())
    }

    /// Queues a pong ahead of everything else that waits. After a Close nothing may follow.
    pub(crate) fn pong(&mut self, frame: Bytes) {
        if self.life.is_open() {
            self.outbox.get_or_insert_default().pong(frame);
        }
    }

    /// Sends a ping; on an event stream, a heartbeat.
    pub(crate) fn ping(&mut self) {
        let ping = match &self.role {
            Role::Sse { .. } => Bytes::from_static(sse::HEARTBEAT),
            Role::Latest(latest) => {
                encode::frame(OpCode::Ping, latest.window.unanswered().as_ref().map_or(b"", |payload| &payload[..]))
            }
            Role::V0 { .. } | Role::V1 { .. } | Role::Raw { .. } => encode::frame(OpCode::Ping, b""),
        };
        self.pong(ping);
    }

    /// Queues the Close frame, or the last event of a stream, behind everything that is owed. A second Close is ignored.
    pub(crate) fn queue_close(&mut self, frame: Bytes) {
        if self.life.is_open() {
            self.outbox.get_or_insert_default().close(frame);
        }
    }

    /// The first frame of a room that it has not been sent, or that is in flight and may come back; `None` if it isn't a member.
    pub(crate) fn needs_from(&self, room: u32) -> Option<u64> {
        let cursor = self.memberships.iter().find(|membership| membership.room == room)?.cursor;
        let in_flight = self.in_flight.iter().filter_map(|source| match source {
            Source::Room { room: of, from, .. } if *of == room => Some(*from),
            _ => None,
        });
        Some(in_flight.fold(cursor, u64::min))
    }

    /// Whether our Close frame has not left yet.
    pub(crate) fn has_close_to_send(&self) -> bool {
        self.outbox.as_ref().is_some_and(|outbox| outbox.has_close())
            || (self.life.is_sending() && self.in_flight.contains(&Source::Close))
    }

    /// The connection has left a room: room frames that are in flight become its own, and no cursor moves back to them.
    pub(crate) fn left(&mut self, room: u32, rooms: &LocalRooms) {
        self.memberships.retain(|membership| membership.room != room);
        for source in &mut self.in_flight {
            if let Source::Room { room: left, frames, from } = *source
                && left == room
            {
                let carried = rooms.carried(room, from, from + u64::from(frames));
                *source = Source::Own(Own { carried, pinned_bytes: 0 });
            }
        }
    }

    /// Memory that its outbox takes, in bytes.
    pub(crate) fn outbox_bytes(&self) -> usize {
        self.outbox.as_ref().map_or(0, |outbox| outbox.held_bytes())
    }

    /// Whether there are replies that have not left yet.
    pub(crate) fn has_replies(&self) -> bool {
        self.outbox.as_ref().is_some_and(|outbox| outbox.replies_bytes() > 0)
    }

    /// Frees its memory because the budget is used up: an incomplete message, and everything in the outbox except the rest of a
    /// frame that has partly left. The connection has to be closed.
    pub(crate) fn free_memory(&mut self) {
        self.decoder = Decoder::new();
        if let Some(outbox) = &mut self.outbox {
            outbox.drop_unread();
        }
    }

    /// Remembers that the message `seq` of its raw room is its own and must not be sent back to it (`?echo=0`).
    pub(crate) fn skip_own(&mut self, seq: u64, room: &LocalRoom) {
        if let Role::Latest(_) = self.role {
            self.skip_own_latest(seq, |seq| room.keeps(seq));
        } else {
            self.outbox.get_or_insert_default().skip(seq, room.log.first_seq());
        }
    }

    /// Whether there is anything to send now. What waits for the next round of a room's visits is not.
    pub(crate) fn has_pending(&self, rooms: &LocalRooms) -> bool {
        let own = self.outbox.as_ref().is_some_and(|outbox| outbox.has_frames());
        let is_due = |membership: &Membership| {
            let room = rooms.get(membership.room);
            let is_due = membership.cursor < room.due_seq();
            if room.newest.is_some() { self.may_go_on(is_due) } else { is_due }
        };
        own || self.life.is_open() && self.memberships.iter().any(is_due)
    }
}

#[cfg(test)]
mod tests;
