//! Rooms: the sequencer that gives every message of a room its place, and who is in it.
//!
//! A [`Room`] is shared by all shards. Publishing takes its lock for as long as it takes to number the frame and to
//! push it into the inbox of each shard that has members: that push, under the lock, is what makes one total order.
//! The fan-out itself takes no lock: every shard appends what its inbox brought to its own [`log::Log`].

use std::collections::{BinaryHeap, HashMap};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use crate::os;
use crate::protocol::broadcast;
use crate::relay::{Inbox, Relay};

pub mod log;
pub mod presence;
pub mod registry;
pub mod replay;
mod sleepers;
mod wakes;

pub use sleepers::SLEEPING_BYTES_MAX;
pub use wakes::Wakes;

use presence::{Announce, Notice, Presence};
use replay::{Batch, Replay, ReplayBounds, Since};

/// Of what a client that comes back has missed, so many bytes are taken with its join; the rest is read as it is sent.
const REPLAY_HEAD_BYTES_MAX: usize = 64 * 1024;

/// A member that has none never ends: poll(2) looks for nothing there.
const NO_SOCKET: RawFd = -1;

/// Chat rooms and raw rooms never meet, even under the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Namespace {
    /// `/ws`: JSON, users, presence.
    Chat,
    /// `/raw/ROOM`: payloads as they come.
    Raw,
}

/// One connection as the other shards know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberId {
    /// The shard that accepted it.
    pub shard: u32,
    /// Its slot there,
    pub slot: u32,
    /// safe against the reuse of the slot.
    pub serial: u32,
}

/// Who has a name in a room.
#[derive(Clone, Copy, Debug)]
struct Holder {
    member: MemberId,
    /// See [`Joining::socket`].
    socket: RawFd,
}

/// Who wants to join, and how.
#[derive(Clone, Copy, Debug)]
pub struct Joining<'a> {
    /// Given in chat rooms.
    pub user: Option<&'a Arc<str>>,
    /// The connection.
    pub member: MemberId,
    /// Its socket, open for as long as it is in the room.
    pub socket: RawFd,
    /// What it has of the room, if it comes back.
    pub since: Option<Since>,
    /// The connection whose name it takes over, if that is in the room.
    pub predecessor: Option<MemberId>,
}

impl<'a> Joining<'a> {
    /// A newcomer without a socket.
    pub fn new(user: Option<&'a Arc<str>>, member: MemberId) -> Self {
        Self { user, member, socket: NO_SOCKET, since: None, predecessor: None }
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
    name: Arc<str>,
    namespace: Namespace,
    epoch: u64,
    inboxes: Arc<[Inbox]>,
    /// Shards that have yet to send much of what was published: see [`Room::is_behind`].
    behind: AtomicU32,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// False once the last member has left: the room sleeps, or is gone.
    alive: bool,
    next_seq: u64,
    replay: Replay,
    users: HashMap<Arc<str>, Holder>,
    members_by_shard: Box<[u32]>,
    members: usize,
    presence: Presence,
}

/// What somebody publishes who is no member.
#[derive(Clone, Copy, Debug)]
pub enum Payload<'a> {
    /// A chat message.
    Chat {
        /// Who says it.
        from: &'a str,
        /// What.
        text: &'a str,
    },
    /// A frame as it is.
    Frame(&'a Bytes),
}

/// When a change of membership is announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announced {
    /// It has been, or somebody else will.
    Done,
    /// Folded: whoever got this calls [`Room::announce_folded`] at that time (ms).
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
        name: Arc<str>,
        namespace: Namespace,
        epoch: u64,
        inboxes: Arc<[Inbox]>,
        replay: ReplayBounds,
    ) -> Self {
        let state = State {
            alive: true,
            next_seq: 1,
            replay: Replay::new(1, replay),
            users: HashMap::new(),
            members_by_shard: vec![0; inboxes.len()].into(),
            members: 0,
            presence: Presence::default(),
        };
        Self { id, name, namespace, epoch, inboxes, behind: AtomicU32::new(0), state: Mutex::new(state) }
    }

    /// A number that no other room of this process has, or had.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The name that messages are published to.
    pub fn name(&self) -> &Arc<str> {
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

    /// Users in it, sorted. Raw rooms have none.
    pub fn users(&self) -> Vec<Arc<str>> {
        let mut users: Vec<_> = self.lock().users.keys().cloned().collect();
        users.sort();
        users
    }

    /// How many members it has.
    pub fn members(&self) -> usize {
        self.lock().members
    }

    /// `Seq` of its newest frame; 0 before the first.
    pub fn last_seq(&self) -> u64 {
        self.lock().next_seq - 1
    }

    /// The first `max` users by name, and how many there are.
    pub fn first_users(&self, max: usize) -> (Vec<Arc<str>>, usize) {
        let state = self.lock();
        let mut first = BinaryHeap::with_capacity(max + 1);
        for user in state.users.keys() {
            if first.len() < max {
                first.push(user);
            } else if first.peek().is_some_and(|last| user < *last) {
                first.pop();
                first.push(user);
            }
        }
        (first.into_sorted_vec().into_iter().cloned().collect(), state.users.len())
    }

    /// How many users are in it.
    pub fn user_count(&self) -> usize {
        self.lock().users.len()
    }

    /// Frames from `from` to before `until` for a member that catches up; `None` if some are no longer kept. At most
    /// `bytes_max` bytes, but always one frame.
    pub fn replay(&self, from: u64, until: u64, bytes_max: usize) -> Option<Batch> {
        self.lock().replay.read(from, until, bytes_max)
    }

    /// Bytes kept for those who come back.
    pub fn replay_bytes(&self) -> usize {
        self.lock().replay.bytes()
    }

    /// Drops what is too old to be replayed.
    pub fn cut_replay(&self, now_ms: u64) {
        self.lock().replay.cut(now_ms);
    }

    /// Publishes the chat message `text` of `user` and returns its `Seq`.
    pub fn publish_chat(self: &Arc<Self>, user: &str, text: &str, now_ms: u64, wakes: &mut Wakes) -> u64 {
        let message = broadcast::Unnumbered::message(user, &self.name, text);
        let mut state = self.lock();
        let frame = message.number(state.next_seq, self.epoch, now_ms);
        self.publish(&mut state, &frame, now_ms, wakes)
    }

    /// Publishes a frame as it is, and returns its `Seq`. Raw rooms keep nothing: no client could ask for it.
    pub fn publish_raw(self: &Arc<Self>, frame: &Bytes, wakes: &mut Wakes) -> u64 {
        self.publish(&mut self.lock(), frame, 0, wakes)
    }

    /// Publishes for somebody who is no member, and returns the message's `Seq` and how many members it goes to.
    pub fn publish_from_outside(
        self: &Arc<Self>,
        payload: Payload<'_>,
        now_ms: u64,
        wakes: &mut Wakes,
    ) -> (u64, usize) {
        let message = match payload {
            Payload::Chat { from, text } => Ok(broadcast::Unnumbered::message(from, &self.name, text)),
            Payload::Frame(frame) => Err(frame.clone()),
        };
        let mut state = self.lock();
        let frame = message.map_or_else(|frame| frame, |message| message.number(state.next_seq, self.epoch, now_ms));
        (self.publish(&mut state, &frame, now_ms, wakes), state.members)
    }

    /// Publishes the notice about the joins and leaves that were folded until now.
    pub fn announce_folded(self: &Arc<Self>, now_ms: u64, wakes: &mut Wakes) {
        let mut state = self.lock();
        if let Some(notice) = state.presence.flush(&self.name, now_ms)
            && state.members > 0
        {
            self.publish_notice(&mut state, &notice, now_ms, wakes);
        }
    }

    /// Adds a member. A chat room announces it, the newcomer included; one that takes its name over from its own lost
    /// connection has never been away. A name whose holder has ended is free, though the holder's shard may not have heard
    /// of the end yet: who comes back at once must not find its own name taken.
    fn join(self: &Arc<Self>, joining: &Joining<'_>, now_ms: u64, wakes: &mut Wakes) -> Result<Entered, JoinError> {
        let Joining { user, member, socket, since, predecessor } = *joining;
        let mut state = self.lock();
        if !state.alive {
            return Err(JoinError::Gone);
        }
        let mut announces = user.is_some();
        let mut announced = Announced::Done;
        if let Some(user) = user {
            match state.users.get(user).copied() {
                None => {}
                Some(holder) if Some(holder.member) == predecessor => announces = false,
                Some(holder) if os::peer_has_ended(holder.socket) => {
                    state.users.remove(user);
                    announced = self.say_farewell(&mut state, user, now_ms, wakes);
                }
                Some(_) => return Err(JoinError::NameTaken),
            }
            state.users.insert(Arc::clone(user), Holder { member, socket });
        }
        state.members_by_shard[member.shard as usize] += 1;
        state.members += 1;
        let first_seq = state.next_seq;
        state.replay.cut(now_ms);
        let recovered = since.map(|since| {
            since.epoch == Some(self.epoch) && since.seq < first_seq && state.replay.reaches(since.seq + 1)
        });
        let from_seq = since.filter(|_| recovered == Some(true)).map_or(first_seq, |since| since.seq + 1);
        let head = state.replay.read(from_seq, first_seq, REPLAY_HEAD_BYTES_MAX);
        if let Some(user) = user
            && announces
        {
            let members = state.members;
            let announce = state.presence.joined(&self.name, user, members, now_ms);
            announced = announced.and(self.announce(&mut state, announce, now_ms, wakes));
        }
        Ok(Entered { first_seq, from_seq, head, recovered, users: state.users.len(), announced })
    }

    /// Removes a member; the second value says whether it was the last one, with which the room is no longer alive. Whose
    /// name was taken over leaves in silence.
    fn leave(
        self: &Arc<Self>,
        user: Option<&Arc<str>>,
        member: MemberId,
        now_ms: u64,
        wakes: &mut Wakes,
    ) -> (Announced, bool) {
        let mut state = self.lock();
        state.members_by_shard[member.shard as usize] -= 1;
        state.members -= 1;
        let user = user.filter(|user| state.users.get(*user).is_some_and(|holder| holder.member == member));
        if let Some(user) = user {
            state.users.remove(user);
        }
        if state.members == 0 {
            state.alive = false;
            return (Announced::Done, true);
        }
        let announced = user.map(|user| self.say_farewell(&mut state, user, now_ms, wakes));
        (announced.unwrap_or(Announced::Done), false)
    }

    fn say_farewell(self: &Arc<Self>, state: &mut State, user: &Arc<str>, now_ms: u64, wakes: &mut Wakes) -> Announced {
        let announce = state.presence.left(user, state.members, now_ms);
        self.announce(state, announce, now_ms, wakes)
    }

    fn is_alive(&self) -> bool {
        self.lock().alive
    }

    /// The first member comes back to a room that slept.
    fn wake(&self) {
        let mut state = self.lock();
        debug_assert!(!state.alive && state.members == 0);
        state.alive = true;
        state.presence = Presence::default();
    }

    fn announce(self: &Arc<Self>, state: &mut State, announce: Announce, now_ms: u64, wakes: &mut Wakes) -> Announced {
        match announce {
            Announce::Now(notice) => {
                self.publish_notice(state, &notice, now_ms, wakes);
                Announced::Done
            }
            Announce::At(due_ms) => Announced::At(due_ms),
            Announce::Folded => Announced::Done,
        }
    }

    fn publish_notice(self: &Arc<Self>, state: &mut State, notice: &Notice, now_ms: u64, wakes: &mut Wakes) {
        let message = broadcast::Unnumbered::notice(&self.name, notice, state.users.len());
        let frame = message.number(state.next_seq, self.epoch, now_ms);
        self.publish(state, &frame, now_ms, wakes);
    }

    /// One push for each shard that has members.
    fn publish(self: &Arc<Self>, state: &mut State, frame: &Bytes, now_ms: u64, wakes: &mut Wakes) -> u64 {
        let seq = state.next_seq;
        state.next_seq += 1;
        state.replay.push(frame, now_ms);
        for (shard, inbox) in self.inboxes.iter().enumerate() {
            if state.members_by_shard[shard] == 0 {
                continue;
            }
            let relay = Relay { room: Arc::clone(self), seq, frame: frame.clone(), received: wakes.received };
            wakes.note(shard, inbox.push(relay));
        }
        seq
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("a room's lock is never held over a panic")
    }
}
