//! One upgraded connection: its states, its cursors and its outbox. What leaves in its next send: `connection/sending.rs`.
//!
//! Pure bookkeeping: the shard asks [`Connection::next_send`] what to give to the kernel, and tells
//! [`Connection::sent`] what became of it. A connection that is idle or at the tip of its rooms holds no buffer.

use bytes::Bytes;
use fastwebsockets::OpCode;
use smallvec::SmallVec;

use crate::frame::decode::Decoder;
use crate::frame::encode;
use crate::metrics::counters::Speech;
use crate::metrics::delivery::Carried;
use crate::protocol::name::Name;
use crate::protocol::{Dialect, sse};
use crate::protocol::{MemberId, Namespace};
use crate::rate::Bucket;
use crate::ring::Slices;

use crate::shard::rooms::{Form, LocalRooms};
use crate::slice::Slice;

mod outbox;
mod sending;
pub mod unread;

pub use outbox::OUTBOX_BYTES_MAX;
use outbox::Outbox;
use unread::Unread;

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Messages go both ways.
    Open,
    /// Our Close is on its way behind what was owed; what still arrives is read only to find the peer's Close.
    Closing,
    /// The peer's Close has arrived, ours is on its way; once it has left, the connection ends.
    Answering,
    /// The peer broke the protocol, or it is a stream. Our Close is on its way, and then only our end of the socket is
    /// closed: bytes that arrive are thrown away until the peer ends, so that no reset overtakes the Close.
    Lingering,
    /// The socket is shut down. As soon as the kernel has given back its receive, its send and its poll, it is gone.
    Ended,
}

/// What the connection was opened for.
#[derive(Debug)]
pub enum Role {
    /// `/ws`: the user's name.
    Chat {
        /// Set as `From` on everything that the connection says.
        user: Name,
    },
    /// `/raw/ROOM`.
    Raw {
        /// Whether it gets its own messages.
        echo: bool,
        /// Whether it skips what it is too slow for, instead of being closed.
        lossy: bool,
    },
    /// `/stream/ROOM`: a listener, which gets a chat room as server-sent events.
    Stream {
        /// What it has said all the same, in bytes.
        ignored_bytes: u32,
    },
}

impl Role {
    /// Where its rooms are.
    pub fn namespace(&self) -> Namespace {
        match self {
            Self::Chat { .. } | Self::Stream { .. } => Namespace::Chat,
            Self::Raw { .. } => Namespace::Raw,
        }
    }

    /// What it gets of them.
    pub fn form(&self) -> Form {
        match self {
            Self::Chat { .. } | Self::Raw { .. } => Form::Frames,
            Self::Stream { .. } => Form::Events,
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
    /// Where it is in its life.
    pub state: State,
    /// True exactly while the kernel holds a receive.
    pub receiving: bool,
    /// Whether it takes no more than one receive buffer at a time: it has said more than was read, or had to wait.
    pub one_at_a_time: bool,
    /// Whether the kernel has told of the end of what the peer says.
    pub peer_ended: bool,
    /// True exactly while the kernel holds a send.
    pub sending: bool,
    /// True exactly while the kernel holds a poll for room to send.
    pub awaiting_writable: bool,
    /// True exactly while it stands in the shard's queue of connections to send to.
    pub queued: bool,
    /// Whether anything arrived since the last ping.
    pub heard: bool,
    /// Whether a ping is out, unanswered so far.
    pub pinged: bool,
    /// The tick of the first ping that is unanswered.
    pub pinged_tick: u32,
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
    /// What it speaks, in chat.
    pub dialect: Dialect,
    /// The connection whose name it may take over.
    pub predecessor: Option<Box<MemberId>>,
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
    pub fn new(serial: u32, role: Role, bucket: Bucket) -> Self {
        Self {
            serial,
            state: State::Open,
            receiving: false,
            one_at_a_time: false,
            peer_ended: false,
            sending: false,
            awaiting_writable: false,
            queued: false,
            heard: true,
            pinged: false,
            pinged_tick: 0,
            unreadable: 0,
            due_tick: 0,
            decoder: Decoder::new(),
            bucket,
            role,
            dialect: Dialect::V0,
            predecessor: None,
            memberships: SmallVec::new(),
            unread: None,
            outbox: None,
            in_flight: Sources::new(),
        }
    }

    /// How it speaks, for the metrics.
    pub fn speech(&self) -> Speech {
        match (&self.role, self.dialect) {
            (Role::Raw { .. }, _) => Speech::Raw,
            (Role::Stream { .. }, _) => Speech::Sse,
            (Role::Chat { .. }, Dialect::V0) => Speech::V0,
            (Role::Chat { .. }, Dialect::V1) => Speech::V1,
        }
    }

    /// The user's name, in chat.
    pub fn user(&self) -> Option<&Name> {
        match &self.role {
            Role::Chat { user } => Some(user),
            Role::Raw { .. } | Role::Stream { .. } => None,
        }
    }

    /// Whether it listens to server-sent events: no frames come from it, none go to it.
    pub fn is_stream(&self) -> bool {
        matches!(self.role, Role::Stream { .. })
    }

    /// Whether the kernel holds nothing of it, so that its socket can be closed.
    pub fn is_released(&self) -> bool {
        !self.receiving && !self.sending && !self.awaiting_writable
    }

    /// Whether what it says is still read: messages, or only the answer to our Close.
    pub fn is_heard(&self) -> bool {
        matches!(self.state, State::Open | State::Closing)
    }

    /// Whether a send may be given to the kernel: at most one is in flight, and none while the socket is full.
    pub fn may_send(&self) -> bool {
        !self.sending && !self.awaiting_writable && self.state != State::Ended
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
        if self.state == State::Open {
            self.outbox.get_or_insert_default().pong(frame);
        }
    }

    /// Asks the peer for a sign of life; on a stream, gives one.
    pub fn ping(&mut self) {
        let ping = match self.role {
            Role::Stream { .. } => Bytes::from_static(sse::HEARTBEAT),
            Role::Chat { .. } | Role::Raw { .. } => encode::frame(OpCode::Ping, b""),
        };
        self.pong(ping);
    }

    /// Puts the Close frame, or the last words of a stream, behind everything that is owed, and moves on to `state`. The
    /// first Close stands.
    pub fn close(&mut self, frame: Bytes, state: State) {
        debug_assert!(matches!(state, State::Closing | State::Answering | State::Lingering));
        if self.state == State::Open {
            self.outbox.get_or_insert_default().close(frame);
        }
        if self.state != State::Ended {
            self.state = state;
        }
    }

    /// Whether our Close frame still waits to leave.
    pub fn has_close_to_send(&self) -> bool {
        self.outbox.as_ref().is_some_and(|outbox| outbox.has_close())
            || (self.sending && self.in_flight.contains(&Source::Close))
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
        own || self.state == State::Open
            && self.memberships.iter().any(|membership| membership.cursor < rooms.log(membership.room).tip())
    }
}

#[cfg(test)]
mod tests;
