//! Rooms: the sequencer that gives every message of a room its place, and who is in it.
//!
//! A [`Room`] is shared by all shards. Publishing takes its lock for as long as it takes to number the frame and to
//! push it into the inbox of each shard that has members: that push, under the lock, is what makes one total order.
//! The fan-out itself takes no lock: every shard appends what its inbox brought to its own [`log::Log`].

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use crate::clock::Time;
use crate::os;
use crate::protocol::broadcast;
use crate::protocol::name::Name;
use crate::relay::{Inbox, Relay};

mod expiry;
pub mod log;
pub mod presence;
pub mod registry;
pub mod replay;
mod sleepers;
pub mod sorted;
mod speaker;
mod wakes;

pub use sleepers::SLEEPING_BYTES_MAX;
pub use speaker::{Speaker, Visitor};
pub use wakes::Wakes;

use expiry::Expiry;
use presence::{Announce, Notice, Presence};
use replay::{Batch, Gathered, Replay, ReplayBounds, Since};
use sorted::Sorted;

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
    pub user: Option<&'a Name>,
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
    pub fn new(user: Option<&'a Name>, member: MemberId) -> Self {
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
    name: Name,
    namespace: Namespace,
    epoch: u64,
    inboxes: Arc<[Inbox]>,
    expiry: Arc<Expiry>,
    /// As in the state, for those who list many rooms: read without the lock.
    users: AtomicUsize,
    /// Likewise.
    members: AtomicUsize,
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
    /// Whether the room is on the list of those that keep something.
    expires: bool,
    users: Sorted<Name, Holder>,
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
        inboxes: Arc<[Inbox]>,
        expiry: Arc<Expiry>,
        replay: ReplayBounds,
    ) -> Self {
        let state = State {
            alive: true,
            next_seq: 1,
            replay: Replay::new(1, replay),
            expires: false,
            users: Sorted::default(),
            members_by_shard: vec![0; inboxes.len()].into(),
            members: 0,
            presence: Presence::default(),
        };
        Self {
            id,
            name,
            namespace,
            epoch,
            inboxes,
            expiry,
            behind: AtomicU32::new(0),
            users: AtomicUsize::new(0),
            members: AtomicUsize::new(0),
            state: Mutex::new(state),
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
        self.lock().next_seq - 1
    }

    /// The first `max` users by name, and how many there are. Raw rooms have none.
    pub fn first_users(&self, max: usize) -> (Vec<Name>, usize) {
        let state = self.lock();
        let first = state.users.iter().take(max).map(|(user, _)| user.clone());
        (first.collect(), state.users.len())
    }

    /// How many users are in it.
    pub fn user_count(&self) -> usize {
        self.users.load(Ordering::Relaxed)
    }

    /// Frames from `from` to before `until` for a member that catches up; `None` if some are no longer kept. At most
    /// `bytes_max` bytes, but always one frame.
    pub fn replay(&self, from: u64, until: u64, bytes_max: usize) -> Option<Batch> {
        let gathered = self.lock().replay.gather(from, until, bytes_max);
        gathered.map(Gathered::batch)
    }

    /// Bytes kept for those who come back.
    pub fn replay_bytes(&self) -> usize {
        self.lock().replay.bytes()
    }

    /// Memory taken by what is kept for those who come back, in bytes.
    pub fn replay_held_bytes(&self) -> usize {
        self.lock().replay.held_bytes()
    }

    /// Drops the oldest of what is kept for those who come back, until it takes at most so much memory.
    pub fn shrink_replay(&self, held_bytes_max: usize) {
        self.lock().replay.shrink(held_bytes_max);
    }

    /// Drops what is too old to be replayed, and has the rest looked at when that is too old. The room has just come off
    /// the list of those that keep something.
    fn cut_replay(self: &Arc<Self>, now: Time) {
        let mut state = self.lock();
        state.replay.cut(now.monotonic_ms);
        state.expires = false;
        self.schedule_expiry(&mut state);
    }

    /// Puts the room on the list of those that keep something, unless it stands there, or keeps nothing.
    fn schedule_expiry(self: &Arc<Self>, state: &mut State) {
        if !state.expires
            && let Some(due_ms) = state.replay.due_ms()
        {
            state.expires = true;
            self.expiry.schedule(self, due_ms);
        }
    }

    /// Publishes the chat message `text` and returns its `Seq`.
    ///
    /// # Errors
    /// [`JoinError::NameTaken`]: somebody else in the room has the speaker's name.
    pub fn publish_chat(
        self: &Arc<Self>,
        speaker: &Speaker<'_>,
        text: &str,
        now: Time,
        wakes: &mut Wakes,
    ) -> Result<u64, JoinError> {
        let message = broadcast::Unnumbered::message(speaker.user().as_str(), self.name(), text);
        let mut state = self.lock();
        if let Speaker::Visitor(visitor) = speaker
            && state.is_taken_from(visitor)
        {
            return Err(JoinError::NameTaken);
        }
        let frame = message.number(state.next_seq, self.epoch, now.unix_ms);
        Ok(self.publish(&mut state, &frame, now, wakes))
    }

    /// Publishes a frame as it is, and returns its `Seq`. Raw rooms keep nothing: no client could ask for it.
    pub fn publish_raw(self: &Arc<Self>, frame: &Bytes, wakes: &mut Wakes) -> u64 {
        self.publish(&mut self.lock(), frame, Time::default(), wakes)
    }

    /// Publishes for somebody who is no member, and returns the message's `Seq` and how many members it goes to.
    pub fn publish_from_outside(self: &Arc<Self>, payload: Payload<'_>, now: Time, wakes: &mut Wakes) -> (u64, usize) {
        let message = match payload {
            Payload::Chat { from, text } => Ok(broadcast::Unnumbered::message(from, self.name(), text)),
            Payload::Frame(frame) => Err(frame.clone()),
        };
        let mut state = self.lock();
        let frame =
            message.map_or_else(|frame| frame, |message| message.number(state.next_seq, self.epoch, now.unix_ms));
        (self.publish(&mut state, &frame, now, wakes), state.members)
    }

    /// Publishes the notice about the joins and leaves that were folded until now.
    pub fn announce_folded(self: &Arc<Self>, now: Time, wakes: &mut Wakes) {
        let mut state = self.lock();
        if let Some(notice) = state.presence.flush(self.name(), now.monotonic_ms)
            && state.members > 0
        {
            self.publish_notice(&mut state, &notice, now, wakes);
        }
    }

    /// Adds a member. A chat room announces it, the newcomer included; one that takes its name over from its own lost
    /// connection has never been away. A name whose holder has ended is free, though the holder's shard may not have heard
    /// of the end yet: who comes back at once must not find its own name taken.
    fn join(self: &Arc<Self>, joining: &Joining<'_>, now: Time, wakes: &mut Wakes) -> Result<Entered, JoinError> {
        let Joining { user, member, socket, since, predecessor } = *joining;
        let mut state = self.lock();
        if !state.alive {
            return Err(JoinError::Gone);
        }
        let mut announces = user.is_some();
        let mut announced = Announced::Done;
        if let Some(user) = user {
            let holder = state.users.get(user.key()).copied();
            if holder.is_some_and(|holder| Some(holder.member) != predecessor && !os::peer_has_ended(holder.socket)) {
                return Err(JoinError::NameTaken);
            }
            // Removed, and not only replaced: the newcomer may write the name in another way.
            if let Some((former, holder)) = state.users.remove(user.key()) {
                if Some(holder.member) == predecessor {
                    announces = false;
                } else {
                    announced = self.say_farewell(&mut state, &former, now, wakes);
                }
            }
            state.users.insert(user.clone(), Holder { member, socket });
        }
        state.members_by_shard[member.shard as usize] += 1;
        state.members += 1;
        let first_seq = state.next_seq;
        state.replay.cut(now.monotonic_ms);
        let recovered = since.map(|since| {
            since.epoch == Some(self.epoch) && since.seq < first_seq && state.replay.reaches(since.seq + 1)
        });
        let from_seq = since.filter(|_| recovered == Some(true)).map_or(first_seq, |since| since.seq + 1);
        let head = state.replay.gather(from_seq, first_seq, REPLAY_HEAD_BYTES_MAX);
        if let Some(user) = user
            && announces
        {
            let members = state.members;
            let announce = state.presence.joined(self.name(), user, members, now.monotonic_ms);
            announced = announced.and(self.announce(&mut state, announce, now, wakes));
        }
        let users = self.count(&state);
        drop(state);
        let head = head.map(Gathered::batch);
        Ok(Entered { first_seq, from_seq, head, recovered, users, announced })
    }

    /// Removes a member; the second value says whether it was the last one, with which the room is no longer alive. Whose
    /// name was taken over leaves in silence.
    fn leave(
        self: &Arc<Self>,
        user: Option<&Name>,
        member: MemberId,
        now: Time,
        wakes: &mut Wakes,
    ) -> (Announced, bool) {
        let mut state = self.lock();
        state.members_by_shard[member.shard as usize] -= 1;
        state.members -= 1;
        let user = user.filter(|user| state.users.get(user.key()).is_some_and(|holder| holder.member == member));
        if let Some(user) = user {
            state.users.remove(user.key());
        }
        self.count(&state);
        if state.members == 0 {
            state.alive = false;
            return (Announced::Done, true);
        }
        let announced = user.map(|user| self.say_farewell(&mut state, user, now, wakes));
        (announced.unwrap_or(Announced::Done), false)
    }

    fn say_farewell(self: &Arc<Self>, state: &mut State, user: &Name, now: Time, wakes: &mut Wakes) -> Announced {
        let announce = state.presence.left(user, state.members, now.monotonic_ms);
        self.announce(state, announce, now, wakes)
    }

    /// Shows who is in the room now to those who list many rooms; how many users that is.
    fn count(&self, state: &State) -> usize {
        self.users.store(state.users.len(), Ordering::Relaxed);
        self.members.store(state.members, Ordering::Relaxed);
        state.users.len()
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

    fn announce(self: &Arc<Self>, state: &mut State, announce: Announce, now: Time, wakes: &mut Wakes) -> Announced {
        match announce {
            Announce::Now(notice) => {
                self.publish_notice(state, &notice, now, wakes);
                Announced::Done
            }
            Announce::At(due_ms) => Announced::At(due_ms),
            Announce::Folded => Announced::Done,
        }
    }

    fn publish_notice(self: &Arc<Self>, state: &mut State, notice: &Notice, now: Time, wakes: &mut Wakes) {
        let message = broadcast::Unnumbered::notice(self.name(), notice, state.users.len());
        let frame = message.number(state.next_seq, self.epoch, now.unix_ms);
        self.publish(state, &frame, now, wakes);
    }

    /// One push for each shard that has members.
    fn publish(self: &Arc<Self>, state: &mut State, frame: &Bytes, now: Time, wakes: &mut Wakes) -> u64 {
        let seq = state.next_seq;
        state.next_seq += 1;
        state.replay.push(frame, now.monotonic_ms);
        self.schedule_expiry(state);
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
