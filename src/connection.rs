//! One upgraded connection: its states, its cursors and its outbox, and what leaves in its next send.
//!
//! Pure bookkeeping: the shard asks [`Connection::next_send`] what to give to the kernel, and tells
//! [`Connection::sent`] what became of it. A connection that is idle or at the tip of its rooms holds no buffer.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use fastwebsockets::OpCode;
use smallvec::SmallVec;
use tokio_uring::net::TcpStream;

use crate::frame::decode::Decoder;
use crate::frame::encode;
use crate::metrics::counters::Speech;
use crate::protocol::{Dialect, sse};
use crate::rate::Bucket;
use crate::ring::{SLICES_PER_SEND_MAX, Slices};
use crate::room::log::Read;
use crate::room::replay::Batch;
use crate::room::{MemberId, Namespace};
use crate::shard::rooms::{Form, LocalRooms};
use crate::slice::Slice;

mod outbox;

pub use outbox::OUTBOX_BYTES_MAX;
use outbox::Outbox;

/// One send is cut off after the slice that reaches this many bytes, so that no member holds up a turn.
const SEND_BYTES_MAX: usize = 256 * 1024;

/// Of what a member missed while it was away, so many bytes are put together for one send.
const REPLAY_BYTES_PER_SEND_MAX: usize = 64 * 1024;

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Messages go both ways.
    Open,
    /// Our Close is on its way behind what was owed; what still arrives is read only to find the peer's Close.
    Closing,
    /// The peer's Close has arrived, ours is on its way; once it has left, the connection ends.
    Answering,
    /// The peer broke the protocol, or it is a stream. Our Close is on its way, and then only our end of the socket is closed: bytes that
    /// arrive are thrown away until the peer ends, so that no reset overtakes the Close.
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
        user: Arc<str>,
    },
    /// `/raw/ROOM`.
    Raw {
        /// Whether it gets its own messages.
        echo: bool,
        /// Whether it skips what it is too slow for, instead of being closed.
        lossy: bool,
    },
    /// `/stream/ROOM`: a listener, who gets a chat room as server-sent events.
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
    /// The log of a room: so many frames, from this `Seq` on.
    Room { room: u32, frames: u32, from: u64 },
    /// The outbox.
    Own,
    /// The Close frame.
    Close,
}

impl Source {
    /// Frames from a member's cursor to before `end`.
    fn frames(membership: &Membership, end: u64) -> Self {
        // A slice is smaller than 4 GiB, and so is the number of frames in it.
        Self::Room { room: membership.room, frames: (end - membership.cursor) as u32, from: membership.cursor }
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
    /// Owns the socket. The data ring uses its file descriptor, so it lives until the kernel holds nothing of it.
    pub stream: TcpStream,
    /// Tells connections apart that had the same slot one after the other.
    pub serial: u32,
    /// Where it is in its life.
    pub state: State,
    /// True exactly while the kernel holds a receive.
    pub receiving: bool,
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
    outbox: Option<Box<Outbox>>,
    /// Where the slice of the send in flight came from,
    source: Source,
    /// or, if there are several, where each of them did. Without capacity in between.
    sources: Vec<Source>,
}

impl Connection {
    /// A connection that was just upgraded, in no room yet.
    pub fn new(stream: TcpStream, serial: u32, role: Role, bucket: Bucket) -> Self {
        Self {
            stream,
            serial,
            state: State::Open,
            receiving: false,
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
            outbox: None,
            source: Source::Own,
            sources: Vec::new(),
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
    pub fn user(&self) -> Option<&Arc<str>> {
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
        self.outbox.get_or_insert_default().reply(frame)
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

    /// Puts the Close frame, or the last words of a stream, behind everything that is owed, and moves on to `state`. The first Close stands.
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
            || (self.sending && self.in_flight().contains(&Source::Close))
    }

    /// It has left the room: what a send in flight still holds of it is delivered whole, and no cursor moves back.
    /// Returns how many frames that is.
    pub fn left(&mut self, room: u32) -> u64 {
        let mut delivered = 0;
        self.memberships.retain(|membership| membership.room != room);
        let mut owned = |source: &mut Source| {
            if let Source::Room { room: left, frames, .. } = source
                && *left == room
            {
                delivered += u64::from(*frames);
                *source = Source::Own;
            }
        };
        owned(&mut self.source);
        self.sources.iter_mut().for_each(owned);
        delivered
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

    /// Takes what leaves next, in this order: the 101, the rest of a frame, pongs, replies, the rooms from cursor to tip,
    /// Close.
    /// The cursors move at once; [`Connection::sent`] moves them back over what did not leave. Gaps that a lapped
    /// cursor stepped over are appended to `gaps`: they leave as replies with the send that follows.
    pub fn next_send(&mut self, rooms: &LocalRooms, gaps: &mut Vec<Gap>) -> Next {
        if self.outbox.is_none()
            && self.state == State::Open
            && let [membership] = &mut self.memberships[..]
            && let Read::Frames(slice, cursor) = rooms.log(membership.room).read(membership.cursor, u64::MAX)
        {
            // Nearly every send of a broadcast ends here.
            self.source = Source::frames(membership, cursor);
            membership.cursor = cursor;
            return Next::Send(Slices::One(slice));
        }
        let mut slices = Vec::new();
        let mut sources = Vec::new();
        self.take_own(&mut slices, &mut sources);
        if self.state == State::Open && !self.take_rooms(rooms, &mut slices, &mut sources, gaps) {
            // Nothing of what was taken must be lost: the Close comes behind it.
            self.give_back(slices.into_iter().map(Slice::detached).collect());
            return Next::TooSlow;
        }
        if slices.len() < SLICES_PER_SEND_MAX
            && let Some(outbox) = &mut self.outbox
            && let Some(close) = outbox.take_close()
        {
            slices.push(close.into());
            sources.push(Source::Close);
        }
        self.release_outbox();
        if slices.len() > 1 {
            self.sources = sources;
            return Next::Send(Slices::Many(slices));
        }
        match slices.pop() {
            Some(slice) => {
                self.source = sources[0];
                Next::Send(Slices::One(slice))
            }
            None => {
                self.forget_own();
                Next::Nothing
            }
        }
    }

    fn take_own(&mut self, slices: &mut Vec<Slice>, sources: &mut Vec<Source>) {
        let Some(outbox) = &mut self.outbox else { return };
        while slices.len() < SLICES_PER_SEND_MAX {
            let Some(bytes) = outbox.take() else { return };
            slices.push(bytes.into());
            sources.push(Source::Own);
        }
    }

    /// Takes room frames; false if the connection is lapped and can't be told.
    fn take_rooms(
        &mut self,
        rooms: &LocalRooms,
        slices: &mut Vec<Slice>,
        sources: &mut Vec<Source>,
        gaps: &mut Vec<Gap>,
    ) -> bool {
        let mut bytes = 0;
        let can_be_told = match self.role {
            Role::Chat { .. } | Role::Stream { .. } => true,
            Role::Raw { lossy, .. } => lossy,
        };
        for membership in &mut self.memberships {
            let log = rooms.log(membership.room);
            while slices.len() < SLICES_PER_SEND_MAX && bytes < SEND_BYTES_MAX {
                let own = self.outbox.as_ref().and_then(|outbox| outbox.next_skipped(membership.cursor));
                if own == Some(membership.cursor) {
                    membership.cursor += 1;
                    continue;
                }
                match log.read(membership.cursor, own.unwrap_or(u64::MAX)) {
                    Read::AtTip => break,
                    Read::Lapped(first_kept) if membership.cursor < membership.joined_seq => {
                        let until = first_kept.min(membership.joined_seq);
                        let room = rooms.get(membership.room);
                        // Gone by now: half a replay would be a gap that nobody expects. It comes back and asks again.
                        let Some(batch) = room.replay(membership.cursor, until, REPLAY_BYTES_PER_SEND_MAX) else {
                            return false;
                        };
                        bytes += batch.bytes.len();
                        sources.push(Source::Own);
                        slices.push(batch.bytes.into());
                        membership.cursor = batch.end_seq;
                        // A copy of its own: one at a time is held for a member that doesn't read.
                        break;
                    }
                    Read::Lapped(first_kept) => {
                        if !can_be_told {
                            return false;
                        }
                        gaps.push(Gap { room: membership.room, first: membership.cursor, last: first_kept - 1 });
                        membership.cursor = first_kept;
                        // The notice has to leave before what follows the gap.
                        break;
                    }
                    Read::Frames(slice, cursor) => {
                        bytes += slice.len();
                        sources.push(Source::frames(membership, cursor));
                        slices.push(slice);
                        membership.cursor = cursor;
                    }
                }
            }
        }
        true
    }

    /// A send has ended: the kernel took `count` bytes of `slices`. What it did not take goes back to where it came
    /// from; a frame that left in part keeps only the rest of itself alive.
    pub fn sent(&mut self, slices: Slices, mut count: usize, rooms: &LocalRooms) -> Sent {
        let whole = count == slices.len();
        let closed = self.in_flight().contains(&Source::Close);
        if whole {
            for source in self.in_flight() {
                if let Source::Room { room, frames, from } = *source {
                    rooms.delivered(room, from, from + u64::from(frames));
                }
            }
            self.forget_own();
            self.forget_sources();
            return if closed { Sent::Closed } else { Sent::Whole };
        }
        let sources = self.in_flight().to_vec();
        self.forget_sources();
        let slices = match slices {
            Slices::One(slice) => vec![slice],
            Slices::Many(slices) => slices,
        };
        let mut rest = VecDeque::new();
        let mut rewound: SmallVec<[u32; 4]> = SmallVec::new();
        for (mut slice, source) in slices.into_iter().zip(sources) {
            let taken = count.min(slice.len());
            count -= taken;
            if taken == slice.len() {
                if let Source::Room { room, frames, from } = source {
                    rooms.delivered(room, from, from + u64::from(frames));
                }
                continue;
            }
            match source {
                // The last of a send: whatever did not leave stands before it in the outbox.
                Source::Close => {
                    slice.advance(taken);
                    self.outbox.get_or_insert_default().close(slice.detached());
                    continue;
                }
                Source::Room { room, .. } if rewound.contains(&room) => continue,
                Source::Room { room, frames, from } => {
                    if let Some(membership) = self.memberships.iter_mut().find(|membership| membership.room == room)
                        && let Some((cursor, missing)) = rooms.log(room).position_after(from, taken)
                    {
                        membership.cursor = cursor;
                        rooms.delivered(room, from, cursor);
                        rewound.push(room);
                        slice.advance(taken);
                        slice.truncate(missing);
                    } else {
                        // It has left the room, or the log has moved on: what was promised is kept whole.
                        rooms.delivered(room, from, from + u64::from(frames));
                        slice.advance(taken);
                    }
                }
                Source::Own => slice.advance(taken),
            }
            if !slice.is_empty() {
                rest.push_back(slice.detached());
            }
        }
        self.give_back(rest);
        Sent::Full
    }

    /// Puts the beginning of what it missed in a room behind the reply to its join, if there is space.
    pub fn replay(&mut self, room: u32, head: Batch) {
        let waiting_bytes = self.outbox.as_ref().map_or(0, |outbox| outbox.replies_bytes());
        if waiting_bytes + head.bytes.len() <= OUTBOX_BYTES_MAX / 2
            && let Some(index) = self.memberships.iter().position(|membership| membership.room == room)
            && self.reply(head.bytes)
        {
            self.memberships[index].cursor = head.end_seq;
        }
    }

    /// Moves what its rooms have for it into the outbox, so that a reply comes behind all that the rooms had when it
    /// was made. A connection that lags gets its reply first: it must not gather a queue of its own.
    pub fn settle(&mut self, rooms: &LocalRooms, bytes_max: usize) {
        if !self.may_send() || self.outbox.as_ref().is_some_and(|outbox| outbox.is_lagging()) {
            return;
        }
        for index in 0..self.memberships.len() {
            self.settle_room(index, rooms, bytes_max);
        }
    }

    /// The same for a room that it is about to leave, also if it lags: nobody will ask for this later. What is too much
    /// for the outbox is returned, to be told of.
    pub fn settle_last(&mut self, room: u32, rooms: &LocalRooms, bytes_max: usize) -> Option<Gap> {
        let index = self.memberships.iter().position(|membership| membership.room == room)?;
        self.settle_room(index, rooms, bytes_max);
        let (first, tip) = (self.memberships[index].cursor, rooms.log(room).tip());
        (first < tip).then(|| Gap { room, first, last: tip - 1 })
    }

    /// Stops before more than `bytes_max` wait in the outbox: the reply itself has to fit behind them.
    fn settle_room(&mut self, index: usize, rooms: &LocalRooms, bytes_max: usize) {
        let Membership { room, mut cursor, .. } = self.memberships[index];
        loop {
            let own = self.outbox.as_ref().and_then(|outbox| outbox.next_skipped(cursor));
            if own == Some(cursor) {
                cursor += 1;
                continue;
            }
            let Read::Frames(slice, next) = rooms.log(room).read(cursor, own.unwrap_or(u64::MAX)) else { break };
            let waiting_bytes = self.outbox.as_ref().map_or(0, |outbox| outbox.replies_bytes());
            if waiting_bytes + slice.len() > bytes_max || !self.reply(slice.detached()) {
                break;
            }
            rooms.delivered(room, cursor, next);
            cursor = next;
        }
        self.memberships[index].cursor = cursor;
    }

    /// Puts bytes that must leave first back into the outbox, in order.
    fn give_back(&mut self, bytes: VecDeque<Bytes>) {
        if !bytes.is_empty() {
            self.outbox.get_or_insert_default().give_back(bytes);
        }
    }

    fn in_flight(&self) -> &[Source] {
        if self.sources.is_empty() { std::slice::from_ref(&self.source) } else { &self.sources }
    }

    /// Forgets which messages were its own, as far as it has skipped them: with nothing in flight no cursor moves back.
    fn forget_own(&mut self) {
        let cursor = self.memberships.first().map_or(u64::MAX, |membership| membership.cursor);
        if let Some(outbox) = &mut self.outbox {
            outbox.forget_skipped(cursor);
            self.release_outbox();
        }
    }

    fn forget_sources(&mut self) {
        self.sources = Vec::new();
        self.source = Source::Own;
        self.release_outbox();
    }

    /// Gives the outbox's memory back once nothing is in it.
    fn release_outbox(&mut self) {
        if self.outbox.as_ref().is_some_and(|outbox| outbox.is_empty()) {
            self.outbox = None;
        }
    }
}

#[cfg(test)]
mod tests;
