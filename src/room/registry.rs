//! The registry: rooms that exist while someone is in them, found by name; and for a while those that nobody is in any
//! more, found only by who joins.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use super::replay::ReplayBounds;
use super::sleepers::Sleepers;
use super::{Announced, Entered, JoinError, Joining, MemberId, Namespace, Payload, Room, Wakes};
use crate::protocol::resume::ResumeKey;
use crate::relay::Inbox;

#[derive(Debug, Default)]
struct Rooms {
    awake: HashMap<Arc<str>, Arc<Room>>,
    asleep: Sleepers,
}

/// All rooms of the server.
#[derive(Debug)]
pub struct Registry {
    chat: RwLock<Rooms>,
    raw: RwLock<Rooms>,
    inboxes: Arc<[Inbox]>,
    /// What chat rooms keep for those who come back.
    replay: ReplayBounds,
    resume_key: ResumeKey,
    /// Random at start, so that no room's epoch is one that an earlier process gave out.
    epoch_base: u64,
    made: AtomicU64,
}

/// A membership that just began.
#[derive(Debug)]
pub struct Joined {
    /// The room.
    pub room: Arc<Room>,
    /// What it came to.
    pub entered: Entered,
}

impl Registry {
    /// No rooms yet; their frames will go to `inboxes`, one for each shard. `epoch_base` and the key are random.
    pub fn new(inboxes: Arc<[Inbox]>, epoch_base: u64, resume_key: ResumeKey, replay: ReplayBounds) -> Self {
        Self {
            chat: RwLock::default(),
            raw: RwLock::default(),
            inboxes,
            replay,
            resume_key,
            epoch_base,
            made: AtomicU64::new(0),
        }
    }

    /// What makes the secrets with which connections are taken over.
    pub fn resume_key(&self) -> &ResumeKey {
        &self.resume_key
    }

    /// The inboxes of the shards.
    pub fn inboxes(&self) -> &[Inbox] {
        &self.inboxes
    }

    /// Whether some shard is behind with what all publish: the next message has to wait.
    pub fn is_congested(&self) -> bool {
        self.inboxes.first().is_some_and(|inbox| inbox.pressure().is_congested())
    }

    /// The room of that name, if someone is in it.
    pub fn get(&self, namespace: Namespace, name: &str) -> Option<Arc<Room>> {
        self.rooms(namespace).read().expect(UNPOISONED).awake.get(name).cloned()
    }

    /// The names of all rooms of a namespace, sorted.
    pub fn names(&self, namespace: Namespace) -> Vec<Arc<str>> {
        let mut names: Vec<_> = self.rooms(namespace).read().expect(UNPOISONED).awake.keys().cloned().collect();
        names.sort();
        names
    }

    /// How many rooms there are in a namespace.
    pub fn len(&self, namespace: Namespace) -> usize {
        self.rooms(namespace).read().expect(UNPOISONED).awake.len()
    }

    /// How many rooms wait for their last member to come back, and how many others had to go before their time so far.
    pub fn sleeping(&self) -> (usize, u64) {
        self.rooms(Namespace::Chat).read().expect(UNPOISONED).asleep.count()
    }

    /// The first `max` rooms by name whose names begin with `prefix`, and how many there are of those.
    pub fn first_rooms(&self, namespace: Namespace, prefix: &str, max: usize) -> (Vec<Arc<Room>>, usize) {
        let all = self.rooms(namespace).read().expect(UNPOISONED);
        let mut rooms: Vec<_> = all.awake.values().filter(|room| room.name().starts_with(prefix)).cloned().collect();
        drop(all);
        let count = rooms.len();
        rooms.sort_by(|a, b| a.name().cmp(b.name()));
        rooms.truncate(max);
        (rooms, count)
    }

    /// Joins a room; the first join makes it, or wakes it.
    ///
    /// # Errors
    /// [`JoinError::NameTaken`]: another member has the name. Never [`JoinError::Gone`].
    pub fn join(
        &self,
        namespace: Namespace,
        name: &str,
        joining: &Joining<'_>,
        now_ms: u64,
        wakes: &mut Wakes,
    ) -> Result<Joined, JoinError> {
        loop {
            let room = self.get_or_make(namespace, name, now_ms);
            match room.join(joining, now_ms, wakes) {
                Ok(entered) => return Ok(Joined { room, entered }),
                // Its last member left between our two steps, and is about to take it out.
                Err(JoinError::Gone) => self.take_out(&room, now_ms),
                Err(refused) => return Err(refused),
            }
        }
    }

    /// Ends a membership; with the last one the room vanishes, and sleeps for as long as what it keeps may be replayed.
    pub fn leave(
        &self,
        room: &Arc<Room>,
        user: Option<&Arc<str>>,
        member: MemberId,
        now_ms: u64,
        wakes: &mut Wakes,
    ) -> Announced {
        let (announced, was_last) = room.leave(user, member, now_ms, wakes);
        if was_last {
            self.take_out(room, now_ms);
        }
        announced
    }

    /// Publishes for somebody who is no member: the room, the message's `Seq`, and how many members it goes to. A room that
    /// its last member has left may still be waiting for it: then the message waits, too. `None`: there is no such room.
    pub fn publish_from_outside(
        &self,
        namespace: Namespace,
        name: &str,
        payload: Payload<'_>,
        now_ms: u64,
        wakes: &mut Wakes,
    ) -> Option<(Arc<Room>, u64, usize)> {
        if let Some(room) = self.get(namespace, name) {
            let (seq, members) = room.publish_from_outside(payload, now_ms, wakes);
            return Some((room, seq, members));
        }
        let bounds = self.kept(namespace);
        if bounds.is_off() {
            return None;
        }
        let mut rooms = self.rooms(namespace).write().expect(UNPOISONED);
        // Somebody may have woken it meanwhile.
        let awake = rooms.awake.get(name).cloned();
        let room = awake.or_else(|| rooms.asleep.take(name, now_ms))?;
        let (seq, members) = room.publish_from_outside(payload, now_ms, wakes);
        if !rooms.awake.contains_key(name) {
            // Only now: what it keeps counts with what was published.
            rooms.asleep.insert(Arc::clone(&room), now_ms.saturating_add(bounds.age_max_ms));
        }
        Some((room, seq, members))
    }

    /// Forgets the rooms that have slept long enough; false if others sleep on.
    pub fn expire(&self, now_ms: u64) -> bool {
        let chat = self.chat.read().expect(UNPOISONED);
        let (is_due, nobody_sleeps) = (chat.asleep.due(now_ms).is_some(), chat.asleep.is_empty());
        drop(chat);
        if !is_due {
            return nobody_sleeps;
        }
        let mut chat = self.chat.write().expect(UNPOISONED);
        chat.asleep.expire(now_ms);
        chat.asleep.is_empty()
    }

    fn get_or_make(&self, namespace: Namespace, name: &str, now_ms: u64) -> Arc<Room> {
        if let Some(room) = self.get(namespace, name) {
            return room;
        }
        let name: Arc<str> = name.into();
        let mut rooms = self.rooms(namespace).write().expect(UNPOISONED);
        let Rooms { awake, asleep } = &mut *rooms;
        let room = awake.entry(Arc::clone(&name)).or_insert_with(|| match asleep.take(&name, now_ms) {
            Some(room) => {
                room.wake();
                room
            }
            None => self.make(namespace, name),
        });
        Arc::clone(room)
    }

    fn make(&self, namespace: Namespace, name: Arc<str>) -> Arc<Room> {
        let id = self.made.fetch_add(1, Ordering::Relaxed);
        let epoch = self.epoch_base.wrapping_add(id);
        Arc::new(Room::new(id, name, namespace, epoch, Arc::clone(&self.inboxes), self.kept(namespace)))
    }

    /// What rooms of a namespace keep for those who come back.
    fn kept(&self, namespace: Namespace) -> ReplayBounds {
        match namespace {
            Namespace::Chat => self.replay,
            Namespace::Raw => ReplayBounds::OFF,
        }
    }

    /// Takes out a room that is no longer alive, unless its name has already been given to a new one. It may have been
    /// woken meanwhile, too.
    fn take_out(&self, room: &Arc<Room>, now_ms: u64) {
        let mut rooms = self.rooms(room.namespace()).write().expect(UNPOISONED);
        let Rooms { awake, asleep } = &mut *rooms;
        if let Entry::Occupied(entry) = awake.entry(Arc::clone(room.name()))
            && entry.get().id() == room.id()
            && !room.is_alive()
        {
            entry.remove();
            let bounds = self.kept(room.namespace());
            if !bounds.is_off() {
                asleep.insert(Arc::clone(room), now_ms.saturating_add(bounds.age_max_ms));
            }
        }
        if awake.len() < awake.capacity() / 4 {
            awake.shrink_to_fit();
        }
    }

    fn rooms(&self, namespace: Namespace) -> &RwLock<Rooms> {
        match namespace {
            Namespace::Chat => &self.chat,
            Namespace::Raw => &self.raw,
        }
    }
}

const UNPOISONED: &str = "the registry's lock is never held over a panic";

#[cfg(test)]
mod tests;
