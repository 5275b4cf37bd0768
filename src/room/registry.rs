//! Live rooms by name, and recently emptied rooms, kept so that a rejoin can replay them.

use std::ops::Deref;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use super::dormant::Dormant;
use super::expiry::Expiry;
use super::inbox::Inbox;
use super::others::{Counts, Others};
use super::outward::Outward;
use super::replay::ReplayBounds;
use super::roster::Roster;
use super::sequencer::Sequencer;
use super::sorted::Sorted;
use super::{Announced, Entered, JoinError, Joining, Payload, Published, Room, Wakes};
use crate::clock::Time;
use crate::limits::OPENED_ROOM_MS_MIN;
use crate::memory::plan;
use crate::protocol::name::Name;
use crate::protocol::resume::ResumeKey;
use crate::protocol::{MemberId, Namespace};

#[derive(Debug, Default)]
struct Rooms {
    live: Sorted<Name, Arc<Room>>,
    dormant: Dormant,
    others: Others,
}

impl Rooms {
    /// The members of a room with those that others have told of. The names of their users are known at once.
    fn counts(&self, room: &Room) -> Counts {
        let (elsewhere, users) = (self.others.of(room.key()), room.user_count());
        Counts { members: (room.members() + elsewhere.members).max(users), users }
    }

    /// A room has its first member.
    fn insert(&mut self, room: &Arc<Room>) {
        self.live.insert(room.key().clone(), Arc::clone(room));
        self.others.set_here(room.key(), true);
    }
}

/// A room in a list.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Its name, as it is shown.
    pub name: Name,
    /// Its members, on all servers that share it.
    pub counts: Counts,
}

/// All rooms of the server, shared by all shards and the internal port.
#[derive(Debug)]
pub struct Registry {
    chat: RwLock<Rooms>,
    raw: RwLock<Rooms>,
    inboxes: Arc<[Inbox]>,
    expiry: Arc<Expiry>,
    /// How much chat rooms keep for clients that reconnect.
    replay: ReplayBounds,
    resume_key: RwLock<ResumeKey>,
    peer_has_ended: fn(RawFd) -> bool,
    /// Random at start, so that no room gets an epoch that an earlier process gave out.
    epoch_base: u64,
    made: AtomicU64,
    /// Where messages get their numbers, if not here.
    outward: Option<Arc<Outward>>,
}

/// A membership that has just begun.
#[derive(Debug)]
pub struct Joined {
    /// The room that was joined.
    pub room: Arc<Room>,
    /// The outcome of the join.
    pub entered: Entered,
}

impl Registry {
    /// A registry without rooms. Frames will go to `inboxes`, one for each shard. `epoch_base` and `resume_key` have to be
    /// random.
    pub fn new(inboxes: Arc<[Inbox]>, epoch_base: u64, resume_key: ResumeKey, replay: ReplayBounds) -> Self {
        Self {
            chat: RwLock::default(),
            raw: RwLock::default(),
            inboxes,
            expiry: Arc::default(),
            replay,
            resume_key: RwLock::new(resume_key),
            peer_has_ended: |_| false,
            epoch_base,
            made: AtomicU64::new(0),
            outward: None,
        }
    }

    /// Makes the registry call `peer_has_ended` to find out whether the peer of a member's socket is gone.
    pub fn asking(self, peer_has_ended: fn(RawFd) -> bool) -> Self {
        Self { peer_has_ended, ..self }
    }

    /// Makes all rooms get their numbers from a log that several servers share.
    pub fn sharing(self, outward: Arc<Outward>) -> Self {
        Self { outward: Some(outward), ..self }
    }

    /// The way to the shared log, if there is one.
    pub(crate) fn outward(&self) -> Option<&Arc<Outward>> {
        self.outward.as_ref()
    }

    /// The key of the secrets that let a client take over its lost connection.
    pub(crate) fn resume_key(&self) -> impl Deref<Target = ResumeKey> {
        self.resume_key.read().expect(UNPOISONED)
    }

    /// The servers that share the rooms have another key.
    pub fn set_resume_key(&self, key: ResumeKey) {
        *self.resume_key.write().expect(UNPOISONED) = key;
    }

    /// The inboxes of all shards.
    pub fn inboxes(&self) -> &[Inbox] {
        &self.inboxes
    }

    /// Whether some inbox is congested: the next message has to wait.
    pub fn is_congested(&self) -> bool {
        self.inboxes.first().is_some_and(|inbox| inbox.pressure().is_congested())
    }

    /// The room with this name, if it has members.
    pub fn get(&self, namespace: Namespace, name: &Name) -> Option<Arc<Room>> {
        self.rooms(namespace).read().expect(UNPOISONED).live.get(name.key()).cloned()
    }

    /// Number of rooms with members in a namespace.
    pub fn len(&self, namespace: Namespace) -> usize {
        self.rooms(namespace).read().expect(UNPOISONED).live.len()
    }

    /// Number of dormant rooms, and number of rooms that were dropped before their time.
    pub fn dormant(&self) -> (usize, u64) {
        self.rooms(Namespace::Chat).read().expect(UNPOISONED).dormant.count()
    }

    /// The first `max` rooms, by name, whose keys begin with `prefix`, and the number of all such rooms.
    pub fn first_rooms(&self, namespace: Namespace, prefix: &str, max: usize) -> (Vec<Listed>, usize) {
        let all = self.rooms(namespace).read().expect(UNPOISONED);
        let (found, count) = all.live.with_prefix(prefix);
        let listed = |room: &Arc<Room>| Listed { name: room.key().clone(), counts: all.counts(room) };
        let mut rooms: Vec<_> = found.take(max).map(|(_, room)| listed(room)).collect();
        let (elsewhere, count_elsewhere) = all.others.with_prefix(prefix);
        if count_elsewhere > 0 {
            rooms.extend(elsewhere.take(max).map(|(name, counts)| Listed { name: name.clone(), counts: *counts }));
            rooms.sort_by(|one, other| one.name.cmp(&other.name));
            rooms.truncate(max);
        }
        (rooms, count + count_elsewhere)
    }

    /// The members of a room, on all servers that share it.
    pub fn counts(&self, room: &Room) -> Counts {
        self.rooms(room.namespace()).read().expect(UNPOISONED).counts(room)
    }

    /// A room has so many members on other servers.
    pub fn set_elsewhere(&self, namespace: Namespace, name: &Name, counts: Counts) {
        let mut rooms = self.rooms(namespace).write().expect(UNPOISONED);
        let is_here = rooms.live.get(name.key()).is_some();
        rooms.others.set(name, counts, is_here);
    }

    /// Joins a room; the first join creates or revives it.
    ///
    /// # Errors
    /// [`JoinError::NameTaken`]: another member has the name. Never [`JoinError::Gone`].
    pub fn join(
        &self,
        namespace: Namespace,
        name: &Name,
        joining: &Joining<'_>,
        now: Time,
        wakes: &mut Wakes,
    ) -> Result<Joined, JoinError> {
        loop {
            let room = self.get_or_make(namespace, name, now);
            match room.join(joining, now, wakes) {
                Ok(entered) => return Ok(Joined { room, entered }),
                // The last member left between our two steps, and is about to remove the room.
                Err(JoinError::Gone) => self.take_out(&room, now),
                Err(refused) => return Err(refused),
            }
        }
    }

    /// Ends a membership. With the last one, the room is gone, or dormant for as long as its messages may be replayed.
    pub fn leave(
        &self,
        room: &Arc<Room>,
        user: Option<&Name>,
        member: MemberId,
        now: Time,
        wakes: &mut Wakes,
    ) -> Announced {
        let (announced, was_last) = room.leave(user, member, now, wakes);
        if was_last {
            self.take_out(room, now);
        }
        announced
    }

    /// Publishes from outside. Returns the room, what became of the message, and the number of members that it goes to. If the
    /// room is dormant, the message is kept for replay. `None`: there is no such room.
    pub fn publish_from_outside(
        &self,
        namespace: Namespace,
        name: &Name,
        payload: Payload<'_>,
        now: Time,
        wakes: &mut Wakes,
    ) -> Option<(Arc<Room>, Published, usize)> {
        if let Some(room) = self.get(namespace, name) {
            let (published, members) = room.publish_from_outside(payload, now, wakes);
            return Some((room, published, members));
        }
        let bounds = self.kept(namespace);
        if bounds.is_off() {
            return None;
        }
        let mut rooms = self.rooms(namespace).write().expect(UNPOISONED);
        // It may have been revived in the meantime.
        let live = rooms.live.get(name.key()).cloned();
        let room = live.or_else(|| rooms.dormant.take(name, now.monotonic_ms))?;
        let (published, members) = room.publish_from_outside(payload, now, wakes);
        if rooms.live.get(name.key()).is_none() {
            // Inserted after publishing, so that the new message counts towards the bound.
            rooms.dormant.insert(Arc::clone(&room), now.monotonic_ms.saturating_add(bounds.age_max_ms));
        }
        Some((room, published, members))
    }

    /// A room of the shared log has been loaded: it is dormant from now on, unless it is there already, until a member joins it
    /// with [`Registry::join_opened`].
    pub fn open(&self, namespace: Namespace, name: &Name, now: Time) -> Arc<Room> {
        let mut rooms = self.rooms(namespace).write().expect(UNPOISONED);
        if let Some(room) = rooms.live.get(name.key()) {
            return Arc::clone(room);
        }
        // One that is written differently is from before the log forgot the room.
        let dormant = rooms.dormant.take(name, now.monotonic_ms).filter(|room| room.name() == name.as_str());
        let room = dormant.unwrap_or_else(|| {
            let room = self.make(namespace, name.clone());
            room.lock().alive = false;
            room
        });
        let age_ms = self.kept(namespace).age_max_ms.max(OPENED_ROOM_MS_MIN);
        rooms.dormant.insert(Arc::clone(&room), now.monotonic_ms.saturating_add(age_ms));
        room
    }

    /// Joins a room of the shared log, which has been [opened](Registry::open).
    ///
    /// # Errors
    /// As [`Registry::join`].
    pub(crate) fn join_opened(
        &self,
        room: &Arc<Room>,
        joining: &Joining<'_>,
        now: Time,
        wakes: &mut Wakes,
    ) -> Result<Entered, JoinError> {
        loop {
            let mut rooms = self.rooms(room.namespace()).write().expect(UNPOISONED);
            if rooms.live.get(room.key().key()).is_none() {
                rooms.dormant.take(room.key(), u64::MAX);
                room.revive();
                rooms.insert(room);
            }
            drop(rooms);
            match room.join(joining, now, wakes) {
                Err(JoinError::Gone) => self.take_out(room, now),
                joined => return joined,
            }
        }
    }

    /// Forgets rooms that have been dormant long enough, and messages that are too old. False if there will be more to forget
    /// later.
    pub(crate) fn expire(&self, now: Time) -> bool {
        for room in self.expiry.take_due(now.monotonic_ms) {
            room.cut_replay(now);
        }
        self.expire_dormant(now) && self.expiry.len() == 0
    }

    /// False if some rooms remain dormant.
    fn expire_dormant(&self, now: Time) -> bool {
        let expire = |rooms: &RwLock<Rooms>| {
            let read = rooms.read().expect(UNPOISONED);
            let (is_due, none_is_kept) = (read.dormant.due(now.monotonic_ms).is_some(), read.dormant.is_empty());
            drop(read);
            if !is_due {
                return none_is_kept;
            }
            let mut rooms = rooms.write().expect(UNPOISONED);
            rooms.dormant.expire(now.monotonic_ms);
            rooms.dormant.is_empty()
        };
        // Raw rooms are only dormant between their loading from a shared log and the first join.
        let is_raw_empty = self.outward.is_none() || expire(&self.raw);
        expire(&self.chat) && is_raw_empty
    }

    /// Frees `give_bytes` of the memory that chat rooms use for replay, starting with the largest, and only in rooms that take
    /// more than `floor_bytes`. Dormant rooms are included. Returns how many rooms gave memory back, and how much.
    pub(crate) fn shrink_replays(&self, floor_bytes: usize, give_bytes: usize) -> (u64, usize) {
        let sized = self.expiry.rooms().into_iter().map(|room| (room.replay_held_bytes(), room));
        let mut large: Vec<_> = sized.filter(|(bytes, _)| *bytes > floor_bytes).collect();
        large.sort_unstable_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        let sizes: Vec<_> = large.iter().map(|(bytes, _)| *bytes).collect();
        let level = plan::level(&sizes, give_bytes);
        let (mut gave, mut given_bytes) = (0, 0);
        for (bytes, room) in large.iter().take_while(|(bytes, _)| *bytes > level) {
            room.shrink_replay(level);
            gave += 1;
            given_bytes += bytes.saturating_sub(room.replay_held_bytes());
            if given_bytes >= give_bytes {
                break;
            }
        }
        (gave, given_bytes)
    }

    fn get_or_make(&self, namespace: Namespace, name: &Name, now: Time) -> Arc<Room> {
        if let Some(room) = self.get(namespace, name) {
            return room;
        }
        let mut rooms = self.rooms(namespace).write().expect(UNPOISONED);
        // Another shard may have created it first.
        if let Some(room) = rooms.live.get(name.key()) {
            return Arc::clone(room);
        }
        let room = match rooms.dormant.take(name, now.monotonic_ms) {
            Some(room) => {
                room.revive();
                room
            }
            None => self.make(namespace, name.clone()),
        };
        rooms.insert(&room);
        room
    }

    fn make(&self, namespace: Namespace, name: Name) -> Arc<Room> {
        let id = self.made.fetch_add(1, Ordering::Relaxed);
        let epoch = self.epoch_base.wrapping_add(id);
        let sequencer = Sequencer::new(id, epoch, Arc::clone(&self.inboxes), self.kept(namespace));
        let roster = Roster::new(self.peer_has_ended);
        let (expiry, outward) = (Arc::clone(&self.expiry), self.outward.clone());
        Arc::new(Room::new(id, name, namespace, sequencer, roster, expiry, outward))
    }

    /// How much the rooms of a namespace keep for clients that reconnect.
    fn kept(&self, namespace: Namespace) -> ReplayBounds {
        match namespace {
            Namespace::Chat => self.replay,
            Namespace::Raw => ReplayBounds::OFF,
        }
    }

    /// Removes a room that is no longer alive, unless it has been revived in the meantime, or its name belongs to a new room.
    fn take_out(&self, room: &Arc<Room>, now: Time) {
        let mut rooms = self.rooms(room.namespace()).write().expect(UNPOISONED);
        let Rooms { live, dormant, others } = &mut *rooms;
        let key = room.key().key();
        if live.get(key).is_some_and(|found| found.id() == room.id()) && !room.is_alive() {
            live.remove(key);
            others.set_here(room.key(), false);
            let bounds = self.kept(room.namespace());
            if !bounds.is_off() {
                dormant.insert(Arc::clone(room), now.monotonic_ms.saturating_add(bounds.age_max_ms));
            }
        }
    }

    fn rooms(&self, namespace: Namespace) -> &RwLock<Rooms> {
        match namespace {
            Namespace::Chat => &self.chat,
            Namespace::Raw => &self.raw,
        }
    }
}

const UNPOISONED: &str = "the registry's lock is never held across a panic";

#[cfg(test)]
mod tests;
