//! Rooms: the order of what is published in them, and their members.
//!
//! - `sequencer`: numbers a message and hands it to the shards: this makes the order
//! - `roster`: members and their names; `presence`: how joins and leaves are announced
//! - [`registry`]: rooms by name; `dormant`: empty rooms, kept for clients that reconnect
//! - [`replay`]: the messages that a room keeps for these clients; `expiry`: when they become too old
//! - [`inbox`]: messages and orders on their way to a shard
//! - [`outward`]: messages on their way to the log that several servers share; [`others`]: the members of those servers
//! - [`local`]: a shard's side of its rooms; [`log`]: the frames that their members read; [`pace`]: how soon they get the next
//! - `newest`: the newest message of each key, for members with `?latest=1`
//!
//! A [`Room`] is shared by all shards. Publishing takes its lock just long enough to number the message and push it into the
//! inbox of each shard that has members: that push, under the lock, makes the total order. The fan-out itself takes no lock:
//! each shard appends what its inbox brings to its own [`log::Log`].

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::clock::Time;
use crate::protocol::name::Name;

mod dormant;
mod expiry;
pub mod inbox;
pub(crate) mod local;
pub mod log;
mod membership;
pub(crate) mod newest;
pub mod others;
pub mod outward;
pub mod pace;
pub(crate) mod presence;
mod publishing;
pub mod registry;
pub mod replay;
mod roster;
mod sequencer;
pub(crate) mod sorted;
mod speaker;
mod wakes;

pub use publishing::{Payload, Placed, Published};
pub use speaker::{Speaker, Visitor};
pub use wakes::Wakes;

use crate::protocol::position::{Batch, Since};
use crate::protocol::{MemberId, Namespace};
use expiry::Expiry;
use inbox::Claimed;
use outward::Outward;
use replay::Gathered;
use roster::Roster;
use sequencer::Sequencer;

/// A descriptor that stands for no socket: poll(2) ignores it, so such a member never counts as ended.
const NO_SOCKET: RawFd = -1;

/// A connection that wants to join a room.
#[derive(Clone, Copy, Debug)]
pub struct Joining<'a> {
    /// The user's name; `None` in raw rooms and for listeners.
    pub user: Option<&'a Name>,
    /// The connection that joins.
    pub member: MemberId,
    /// The file descriptor of its socket, which stays open while the connection is in the room.
    pub descriptor: RawFd,
    /// The last message that it has seen, if it reconnects.
    pub since: Option<Since>,
    /// The lost connection of the same client, whose name it may take over.
    pub predecessor: Option<MemberId>,
    /// How it has claimed the name in the log that several servers share, if there is one.
    pub claimed: Option<Claimed>,
}

impl<'a> Joining<'a> {
    /// A first join, by a connection without a socket.
    pub fn new(user: Option<&'a Name>, member: MemberId) -> Self {
        Self { user, member, descriptor: NO_SOCKET, since: None, predecessor: None, claimed: None }
    }
}

/// The outcome of a join.
#[derive(Debug)]
pub struct Entered {
    /// `Seq` of the first frame that will be published after the join.
    pub first_seq: u64,
    /// `Seq` of the first frame that the member gets: smaller than `first_seq` if some are replayed.
    pub from_seq: u64,
    /// The beginning of the replay.
    pub head: Option<Batch>,
    /// Whether everything since the last message that it has seen is still kept; `None` if it didn't ask.
    pub recovered: Option<bool>,
    /// Number of users in the room now.
    pub users: usize,
    /// Whether the join has been announced.
    pub announced: Announced,
}

/// Why a join was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinError {
    /// Another member of the room has the name.
    NameTaken,
    /// The last member has just left: the registry has to make the room again.
    Gone,
}

/// A room as all shards share it: its order and its members.
#[derive(Debug)]
pub struct Room {
    id: u64,
    name: Name,
    namespace: Namespace,
    /// That of the sequencer, which is changed under the lock: a room of a cluster may begin a new life.
    epoch: AtomicU64,
    expiry: Arc<Expiry>,
    /// Where its messages get their numbers, if not here.
    outward: Option<Arc<Outward>>,
    /// Number of users, which lists of rooms read without the lock.
    users: AtomicUsize,
    /// Number of members, for the same purpose.
    members: AtomicUsize,
    /// Number of shards that are behind with the fan-out: see [`Room::is_behind`].
    behind: AtomicU32,
    /// Number of shards that have members with [`Encoding::Deflated`](crate::protocol::Encoding::Deflated).
    deflating: AtomicU32,
    state: Mutex<RoomState>,
}

#[derive(Debug)]
struct RoomState {
    /// False once the last member has left: then the room is dormant or gone.
    alive: bool,
    sequencer: Sequencer,
    roster: Roster,
    /// Whether the room is in [`Expiry`], because it keeps something.
    expires: bool,
}

/// The first users of a room.
#[derive(Debug)]
pub struct FirstUsers {
    /// Their names.
    pub names: Vec<Name>,
    /// The number of all users.
    pub count: usize,
    /// Whether only users of this server are listed, because all together are too many.
    pub is_partial: bool,
}

/// When a join or leave is announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announced {
    /// It has been announced, or a notice that is already scheduled will do it.
    Done,
    /// It was folded: the caller has to call [`Room::announce_folded`] at this time ([`Time::monotonic_ms`]).
    At(u64),
}

impl Announced {
    /// Combines the outcomes of two changes.
    fn and(self, next: Self) -> Self {
        if self == Self::Done { next } else { self }
    }
}

impl Room {
    fn new(
        id: u64,
        name: Name,
        namespace: Namespace,
        sequencer: Sequencer,
        roster: Roster,
        expiry: Arc<Expiry>,
        outward: Option<Arc<Outward>>,
    ) -> Self {
        Self {
            id,
            name,
            namespace,
            epoch: AtomicU64::new(sequencer.epoch()),
            expiry,
            outward,
            behind: AtomicU32::new(0),
            deflating: AtomicU32::new(0),
            users: AtomicUsize::new(0),
            members: AtomicUsize::new(0),
            state: Mutex::new(RoomState { alive: true, sequencer, roster, expires: false }),
        }
    }

    /// Identifies the room: no other room of this process has this number, or ever had it.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// The room's name, as written by the client that made it: everything that the room publishes uses this form.
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// The room's name, for looking it up.
    pub(crate) fn key(&self) -> &Name {
        &self.name
    }

    /// Whether it is a chat room or a raw room.
    pub(crate) fn namespace(&self) -> Namespace {
        self.namespace
    }

    /// Distinguishes this room from earlier ones with the same name.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Relaxed)
    }

    /// Whether a shard is behind with the room's fan-out: then the room's publishers wait, and nobody else.
    pub fn is_behind(&self) -> bool {
        self.behind.load(Ordering::SeqCst) > 0
    }

    /// Notes that a shard has fallen behind with the room's fan-out, or has caught up.
    pub fn set_behind(&self, is_behind: bool) {
        if is_behind {
            self.behind.fetch_add(1, Ordering::SeqCst);
        } else {
            self.behind.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Whether some members take its messages compressed.
    pub(crate) fn is_deflating(&self) -> bool {
        self.deflating.load(Ordering::Relaxed) > 0
    }

    /// Notes that a shard has its first member that takes messages compressed, or no longer has one.
    fn set_deflating(&self, is_deflating: bool) {
        if is_deflating {
            self.deflating.fetch_add(1, Ordering::Relaxed);
        } else {
            self.deflating.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Number of members, on all shards.
    pub fn members(&self) -> usize {
        self.members.load(Ordering::Relaxed)
    }

    /// `Seq` of its newest frame; 0 before the first.
    pub fn last_seq(&self) -> u64 {
        self.lock().sequencer.last_seq()
    }

    /// The first `max` users in order of their names. Raw rooms have none.
    pub fn first_users(&self, max: usize) -> FirstUsers {
        let RoomState { roster, .. } = &*self.lock();
        FirstUsers { names: roster.first_users(max), count: roster.users(), is_partial: roster.is_partial() }
    }

    /// Number of users, on all shards.
    pub fn user_count(&self) -> usize {
        self.users.load(Ordering::Relaxed)
    }

    /// Frames from `from` to before `until`, for a member that catches up; `None` if some of them are no longer kept. At most
    /// `bytes_max` bytes, but always at least one frame.
    pub(crate) fn replay(&self, from: u64, until: u64, bytes_max: usize) -> Option<Batch> {
        let gathered = self.lock().sequencer.replay.gather(from, until, bytes_max);
        gathered.map(Gathered::batch)
    }

    /// Bytes of messages kept for clients that reconnect.
    pub(crate) fn replay_bytes(&self) -> usize {
        self.lock().sequencer.replay.bytes()
    }

    /// Memory taken by these messages, in bytes.
    pub(crate) fn replay_held_bytes(&self) -> usize {
        self.lock().sequencer.replay.held_bytes()
    }

    /// Drops the oldest of these messages, until they take at most `held_bytes_max` bytes of memory.
    pub(crate) fn shrink_replay(&self, held_bytes_max: usize) {
        self.lock().sequencer.replay.shrink(held_bytes_max);
    }

    /// Drops messages that are too old, and schedules the next check. The room has just been taken out of [`Expiry`].
    fn cut_replay(self: &Arc<Self>, now: Time) {
        let mut state = self.lock();
        state.sequencer.replay.cut(now.monotonic_ms);
        state.expires = false;
        self.schedule_expiry(&mut state);
    }

    /// Puts the room into [`Expiry`], unless it is there already or keeps nothing.
    fn schedule_expiry(self: &Arc<Self>, state: &mut RoomState) {
        if !state.expires
            && let Some(due_ms) = state.sequencer.replay.due_ms()
        {
            state.expires = true;
            self.expiry.schedule(self, due_ms);
        }
    }

    fn lock(&self) -> MutexGuard<'_, RoomState> {
        self.state.lock().expect("a room's lock is never held across a panic")
    }
}
