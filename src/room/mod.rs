//! Rooms: the order of what is said in them, and their members.
//!
//! - `sequencer`: a message gets its number and goes to the shards: the order
//! - `roster`: members, names, and what is announced of them (`presence`)
//! - [`registry`]: rooms by name; `dormant`: those that nobody is in, kept for clients that reconnect
//! - [`replay`]: what a room keeps for these; `expiry`: when it becomes too old
//! - [`inbox`]: messages and orders on their way into a shard
//! - [`local`]: a shard's side of its rooms; [`log`]: what its members read
//!
//! A [`Room`] is shared by all shards. Publishing takes its lock for as long as it takes to number the message and to
//! push it into the inbox of each shard that has members: that push, under the lock, is what makes one total order.
//! The fan-out itself takes no lock: every shard appends what its inbox brought to its own [`log::Log`].

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::clock::Time;
use crate::protocol::name::Name;

mod dormant;
mod expiry;
pub mod inbox;
pub mod local;
pub mod log;
mod membership;
pub mod presence;
mod publishing;
pub mod registry;
pub mod replay;
mod roster;
mod sequencer;
pub mod sorted;
mod speaker;
mod wakes;

pub use publishing::Payload;
pub use speaker::{Speaker, Visitor};
pub use wakes::Wakes;

use crate::protocol::position::{Batch, Since};
use crate::protocol::{MemberId, Namespace};
use expiry::Expiry;
use replay::Gathered;
use roster::Roster;
use sequencer::Sequencer;

/// The number of no socket: a member without one never ends, as poll(2) looks for nothing there.
const NO_SOCKET: RawFd = -1;

/// A connection that wants to join, and how.
#[derive(Clone, Copy, Debug)]
pub struct Joining<'a> {
    /// Given in chat rooms.
    pub user: Option<&'a Name>,
    /// The connection.
    pub member: MemberId,
    /// The number of its socket, which is not released while the connection is in the room.
    pub descriptor: RawFd,
    /// What it has of the room already, if it reconnects.
    pub since: Option<Since>,
    /// The connection whose name it takes over, if that is in the room.
    pub predecessor: Option<MemberId>,
}

impl<'a> Joining<'a> {
    /// A newcomer without a socket.
    pub fn new(user: Option<&'a Name>, member: MemberId) -> Self {
        Self { user, member, descriptor: NO_SOCKET, since: None, predecessor: None }
    }
}

/// What a join came to.
#[derive(Debug)]
pub struct Entered {
    /// `Seq` of the first frame that is published to it.
    pub first_seq: u64,
    /// `Seq` of the first frame that it gets; smaller than `first_seq` if some are replayed.
    pub from_seq: u64,
    /// The first of the frames that are replayed.
    pub head: Option<Batch>,
    /// Whether everything since is there; `None` if it didn't ask.
    pub recovered: Option<bool>,
    /// Users in the room now.
    pub users: usize,
    /// Whether the announcement is done.
    pub announced: Announced,
}

/// Why a join was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinError {
    /// Another member of the room has the name.
    NameTaken,
    /// The last member just left; the registry makes the room anew.
    Gone,
}

/// A room's order and its members, for all shards.
#[derive(Debug)]
pub struct Room {
    id: u64,
    name: Name,
    namespace: Namespace,
    epoch: u64,
    expiry: Arc<Expiry>,
    /// As in the state, for lists of many rooms: read without the lock.
    users: AtomicUsize,
    /// Likewise.
    members: AtomicUsize,
    /// Shards that have yet to send much of what was published: see [`Room::is_behind`].
    behind: AtomicU32,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// False once the last member has left: the room is dormant, or gone.
    alive: bool,
    sequencer: Sequencer,
    roster: Roster,
    /// Whether the room is on the list of those that keep something.
    expires: bool,
}

/// When a change of membership is announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announced {
    /// It has been, or somebody else will.
    Done,
    /// Folded: whoever got this calls [`Room::announce_folded`] at that time ([`Time::monotonic_ms`]).
    At(u64),
}

impl Announced {
    /// What two changes in a row came to.
    fn and(self, next: Self) -> Self {
        if self == Self::Done { next } else { self }
    }
}

impl Room {
    fn new(
        id: u64,
        name: Name,
        namespace: Namespace,
        epoch: u64,
        sequencer: Sequencer,
        roster: Roster,
        expiry: Arc<Expiry>,
    ) -> Self {
        Self {
            id,
            name,
            namespace,
            epoch,
            expiry,
            behind: AtomicU32::new(0),
            users: AtomicUsize::new(0),
            members: AtomicUsize::new(0),
            state: Mutex::new(State { alive: true, sequencer, roster, expires: false }),
        }
    }

    /// A number that no other room of this process has, or had.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Its name as whoever made it wrote it: everything that the room says carries this form.
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// The name by which it is found.
    pub fn key(&self) -> &Name {
        &self.name
    }

    /// Chat or raw.
    pub fn namespace(&self) -> Namespace {
        self.namespace
    }

    /// Tells this life of the room from earlier ones under the same name.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether a shard is behind with the room's fan-out: whoever publishes into it waits, and nobody else.
    pub fn is_behind(&self) -> bool {
        self.behind.load(Ordering::SeqCst) > 0
    }

    /// A shard falls behind with the room's fan-out, or has caught up.
    pub fn set_behind(&self, is_behind: bool) {
        if is_behind {
            self.behind.fetch_add(1, Ordering::SeqCst);
        } else {
            self.behind.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// How many members it has.
    pub fn members(&self) -> usize {
        self.members.load(Ordering::Relaxed)
    }

    /// `Seq` of its newest frame; 0 before the first.
    pub fn last_seq(&self) -> u64 {
        self.lock().sequencer.last_seq()
    }

    /// The first `max` users by name, and how many there are. Raw rooms have none.
    pub fn first_users(&self, max: usize) -> (Vec<Name>, usize) {
        let state = self.lock();
        (state.roster.first_users(max), state.roster.users())
    }

    /// How many users are in it.
    pub fn user_count(&self) -> usize {
        self.users.load(Ordering::Relaxed)
    }

    /// Frames from `from` to before `until` for a member that catches up; `None` if some are no longer kept. At most
    /// `bytes_max` bytes, but always one frame.
    pub fn replay(&self, from: u64, until: u64, bytes_max: usize) -> Option<Batch> {
        let gathered = self.lock().sequencer.replay.gather(from, until, bytes_max);
        gathered.map(Gathered::batch)
    }

    /// Bytes kept for clients that reconnect.
    pub fn replay_bytes(&self) -> usize {
        self.lock().sequencer.replay.bytes()
    }

    /// Memory taken by what is kept for clients that reconnect, in bytes.
    pub fn replay_held_bytes(&self) -> usize {
        self.lock().sequencer.replay.held_bytes()
    }

    /// Drops the oldest of what is kept for clients that reconnect, until it takes at most `held_bytes_max` of memory.
    pub fn shrink_replay(&self, held_bytes_max: usize) {
        self.lock().sequencer.replay.shrink(held_bytes_max);
    }

    /// Drops what is too old to be replayed, and has the rest looked at when that is too old. The room has just come off
    /// the list of those that keep something.
    fn cut_replay(self: &Arc<Self>, now: Time) {
        let mut state = self.lock();
        state.sequencer.replay.cut(now.monotonic_ms);
        state.expires = false;
        self.schedule_expiry(&mut state);
    }

    /// Puts the room on the list of those that keep something, unless it stands there, or keeps nothing.
    fn schedule_expiry(self: &Arc<Self>, state: &mut State) {
        if !state.expires
            && let Some(due_ms) = state.sequencer.replay.due_ms()
        {
            state.expires = true;
            self.expiry.schedule(self, due_ms);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("a room's lock is never held over a panic")
    }
}
