//! One upgraded connection: its states, its cursors and its outbox. What leaves in its next send: `connection/sending.rs`.
//!
//! Pure bookkeeping: the shard asks [`Connection::next_send`] what to give to the kernel, and tells
//! [`Connection::sent`] what became of it. A connection that is idle or at the tip of its rooms holds no buffer.

use std::os::fd::RawFd;

use bytes::Bytes;
use fastwebsockets::OpCode;
use smallvec::SmallVec;

use crate::frame::decode::Decoder;
use crate::frame::encode;
use crate::metrics::delivery::Carried;
use crate::protocol::name::Name;
use crate::protocol::{MemberId, Protocol, sse};
use crate::rate::Bucket;
use crate::ring::Slices;

use crate::room::local::LocalRooms;
use crate::slice::Slice;

pub mod life;
pub mod liveness;
mod outbox;
mod sending;
pub mod unread;

use life::Life;
use liveness::Liveness;
use outbox::Outbox;
use unread::Unread;

/// What the connection was opened for.
#[derive(Debug)]
pub enum Role {
    /// Chat in the dialect of 2017.
    V0 {
        /// Set as `From` on everything that the connection says.
        user: Name,
    },
    /// Chat in `hi.v1`.
    V1 {
        /// As for v0.
        user: Name,
        /// The connection whose name it takes over.
        predecessor: Option<Box<MemberId>>,
    },
    /// A raw room.
    Raw {
        /// Whether it gets its own messages.
        echo: bool,
        /// Whether it skips what it is too slow for, instead of being closed.
        lossy: bool,
    },
    /// A listener, which gets a chat room as server-sent events.
    Sse {
        /// Bytes that it has sent all the same.
        ignored_bytes: u32,
    },
}

impl Role {
    /// What it speaks.
    pub fn protocol(&self) -> Protocol {
        match self {
            Self::V0 { .. } => Protocol::V0,
            Self::V1 { .. } => Protocol::V1,
            Self::Raw { .. } => Protocol::Raw,
            Self::Sse { .. } => Protocol::Sse,
        }
    }
}

/// A cursor into a room's log.
#[derive(Clone, Copy, Debug)]
pub struct Membership {
    /// The room's slot in [`LocalRooms`].
    pub room: u32,
    /// Its place in the room's list of members.
    pub index: u32,
    /// `Seq` of the next frame that it gets.
    pub cursor: u64,
    /// `Seq` of the first frame that was published to it. While the cursor is before it, the member catches up with what
    /// it missed while it was away.
    pub joined_seq: u64,
}

/// Where the bytes of a slice came from, in order to know what to do if they don't leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// The log of a room: `frames` frames, from the `Seq` `from` on.
    Room { room: u32, frames: u32, from: u64 },
    /// The outbox.
    Own(Own),
    /// The Close frame.
    Close,
}

/// What is known of bytes from the outbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Own {
    /// The frames of rooms among them.
    carried: Carried,
    /// What they keep in memory, if that is more than themselves.
    pinned_bytes: u32,
}

type Sources = SmallVec<[Source; 1]>;

impl Source {
    /// Frames from a member's cursor to before `end`.
    fn frames(membership: &Membership, end: u64) -> Self {
        // A slice is smaller than 4 GiB, and so is the number of frames in it.
        Self::Room { room: membership.room, frames: (end - membership.cursor) as u32, from: membership.cursor }
    }

    /// What a slice from here keeps in memory, in bytes.
    fn pinned_bytes(&self, slice: &Slice) -> usize {
        match self {
            Self::Own(own) => slice.len().max(own.pinned_bytes as usize),
            Self::Room { .. } | Self::Close => slice.len(),
        }
    }
}

/// What became of a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// All of it left.
    Whole,
    /// All of it left, and the Close frame was the end of it.
    Closed,
    /// The socket is full: wait until it is writable.
    Full,
}

/// What a connection has to send next.
#[derive(Debug)]
pub enum Next {
    /// Nothing now.
    Nothing,
    /// This, in one send.
    Send(Slices),
    /// It is too slow for a room that can't tell it so, or for a replay that was promised whole: close it.
    TooSlow,
}

/// Frames that a member was too slow for.
#[derive(Clone, Copy, Debug)]
pub struct Gap {
    /// The room's slot.
    pub room: u32,
    /// First `Seq` lost.
    pub first: u64,
    /// Last `Seq` lost.
    pub last: u64,
}

/// One upgraded connection.
pub struct Connection {
    /// Tells connections apart that had the same slot one after the other.
    pub serial: u32,
    /// The number by which the ring knows its socket.
    pub descriptor: RawFd,
    /// Where it is in its life, and what the ring holds of it.
    pub life: Life,
    /// Whether its peer still lives.
    pub liveness: Liveness,
    /// Whether it takes no more than one receive buffer at a time: it has said more than was read, or had to wait.
    pub one_at_a_time: bool,
    /// True exactly while it stands in one of the shard's queues of connections to send to.
    pub queued: bool,
    /// Messages in a row that could not be read.
    pub unreadable: u8,
    /// The tick at which its timer is due; other entries in the wheel are stale.
    pub due_tick: u32,
    /// Its half-read frame or message.
    pub decoder: Decoder,
    /// Its rate limit.
    pub bucket: Bucket,
    /// What it was opened for.
    pub role: Role,
    /// The rooms it is in.
    pub memberships: SmallVec<[Membership; 1]>,
    /// What it has said and waits to be read. Then it stands in one of the shard's lines, exactly once.
    pub unread: Option<Box<Unread>>,
    outbox: Option<Box<Outbox>>,
    /// Where each slice of the send in flight came from: nearly always one.
    in_flight: Sources,
}

impl Connection {
    /// A connection that was just upgraded, in no room yet.
    pub fn new(serial: u32, descriptor: RawFd, role: Role, bucket: Bucket) -> Self {
        Self {
            serial,
            descriptor,
            life: Life::begin(),
            liveness: Liveness::Quiet,
            one_at_a_time: false,
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

    /// What it speaks.
    pub fn protocol(&self) -> Protocol {
        self.role.protocol()
    }

    /// The user's name, in chat.
    pub fn user(&self) -> Option<&Name> {
        match &self.role {
            Role::V0 { user } | Role::V1 { user, .. } => Some(user),
            Role::Raw { .. } | Role::Sse { .. } => None,
        }
    }

    /// The connection whose name it takes over.
    pub fn predecessor(&self) -> Option<MemberId> {
        match &self.role {
            Role::V1 { predecessor, .. } => predecessor.as_deref().copied(),
            _ => None,
        }
    }

    /// Whether it listens to server-sent events: no frames come from it, none go to it.
    pub fn is_stream(&self) -> bool {
        matches!(self.role, Role::Sse { .. })
    }

    /// Completes the handshake, or begins the stream: leaves before everything else.
    pub fn respond(&mut self, response: Bytes) {
        self.outbox.get_or_insert_default().respond(response);
    }

    /// Appends a reply. False: too many wait already, the peer isn't reading them; nothing was appended.
    #[must_use]
    pub fn reply(&mut self, frame: Bytes) -> bool {
        self.outbox.get_or_insert_default().reply(frame.into())
    }

    /// Bytes of replies that wait.
    pub fn replies_bytes(&self) -> usize {
        self.outbox.as_ref().map_or(0, |outbox| outbox.replies_bytes())
    }

    /// Answers a ping, before anything else that waits. Once a Close is on its way nothing may follow it.
    pub fn pong(&mut self, frame: Bytes) {
        if self.life.is_open() {
            self.outbox.get_or_insert_default().pong(frame);
        }
    }

    /// Asks the peer for a sign of life; on a stream, gives one.
    pub fn ping(&mut self) {
        let ping = match self.role {
            Role::Sse { .. } => Bytes::from_static(sse::HEARTBEAT),
            Role::V0 { .. } | Role::V1 { .. } | Role::Raw { .. } => encode::frame(OpCode::Ping, b""),
        };
        self.pong(ping);
    }

    /// Puts the Close frame, or the last event of a stream, behind everything that is owed. The first Close stands.
    pub fn say_close(&mut self, frame: Bytes) {
        if self.life.is_open() {
            self.outbox.get_or_insert_default().close(frame);
        }
    }

    /// Whether our Close frame still waits to leave.
    pub fn has_close_to_send(&self) -> bool {
        self.outbox.as_ref().is_some_and(|outbox| outbox.has_close())
            || (self.life.is_sending() && self.in_flight.contains(&Source::Close))
    }

    /// It has left the room: what a send in flight still holds of it is its own now, and no cursor moves back.
    pub fn left(&mut self, room: u32, rooms: &LocalRooms) {
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

    /// Memory taken by what waits in its outbox, in bytes.
    pub fn outbox_bytes(&self) -> usize {
        self.outbox.as_ref().map_or(0, |outbox| outbox.held_bytes())
    }

    /// Whether replies wait for it.
    pub fn has_replies(&self) -> bool {
        self.outbox.as_ref().is_some_and(|outbox| outbox.replies_bytes() > 0)
    }

    /// Gives back what it holds in memory, for want of that: a half-read message, and all that waits in the outbox but the end
    /// of a frame that was cut off. It has to be closed.
    pub fn give_up(&mut self) {
        self.decoder = Decoder::new();
        if let Some(outbox) = &mut self.outbox {
            outbox.drop_unread();
        }
    }

    /// Remembers that the message `seq` is its own and must not come back (`?echo=0`).
    pub fn skip_own(&mut self, seq: u64, first_kept: u64) {
        self.outbox.get_or_insert_default().skip(seq, first_kept);
    }

    /// Whether there is anything to send, ever so little.
    pub fn has_something(&self, rooms: &LocalRooms) -> bool {
        let own = self.outbox.as_ref().is_some_and(|outbox| outbox.has_frames());
        own || self.life.is_open()
            && self.memberships.iter().any(|membership| membership.cursor < rooms.log(membership.room).tip())
    }
}

#[cfg(test)]
mod tests;
