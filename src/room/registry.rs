//! Live rooms, found by name; and recently emptied rooms, found only by a join, so that it can replay them.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use super::dormant::Dormant;
use super::expiry::Expiry;
use super::inbox::Inbox;
use super::replay::ReplayBounds;
use super::roster::Roster;
use super::sequencer::Sequencer;
use super::sorted::Sorted;
use super::{Announced, Entered, JoinError, Joining, Payload, Room, Wakes};
use crate::clock::Time;
use crate::memory::plan;
use crate::protocol::name::Name;
use crate::protocol::resume::ResumeKey;
use crate::protocol::{MemberId, Namespace};

#[derive(Debug, Default)]
struct Rooms {
    live: Sorted<Name, Arc<Room>>,
    dormant: Dormant,
}

/// All rooms of the server.
#[derive(Debug)]
pub struct Registry {
    chat: RwLock<Rooms>,
    raw: RwLock<Rooms>,
    inboxes: Arc<[Inbox]>,
    expiry: Arc<Expiry>,
    /// What chat rooms keep for clients that reconnect.
    replay: ReplayBounds,
    resume_key: ResumeKey,
    /// See [`crate::ring::DataRing::peer_has_ended`].
    peer_has_ended: fn(RawFd) -> bool,
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
            expiry: Arc::default(),
            replay,
            resume_key,
            peer_has_ended: |_| false,
            epoch_base,
            made: AtomicU64::new(0),
        }
    }

    /// The same registry, which asks `peer_has_ended` of a member's socket whether its peer is gone.
    pub fn asking(self, peer_has_ended: fn(RawFd) -> bool) -> Self {
        Self { peer_has_ended, ..self }
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
    pub fn get(&self, namespace: Namespace, name: &Name) -> Option<Arc<Room>> {
        self.rooms(namespace).read().expect(UNPOISONED).live.get(name.key()).cloned()
    }

    /// How many rooms there are in a namespace.
    pub fn len(&self, namespace: Namespace) -> usize {
        self.rooms(namespace).read().expect(UNPOISONED).live.len()
    }

    /// How many dormant rooms there are, and how many others had to go before their time so far.
    pub fn dormant(&self) -> (usize, u64) {
        self.rooms(Namespace::Chat).read().expect(UNPOISONED).dormant.count()
    }

    /// The first `max` rooms by name whose keys begin with `prefix`, and how many there are of those.
    pub fn first_rooms(&self, namespace: Namespace, prefix: &str, max: usize) -> (Vec<Arc<Room>>, usize) {
        let all = self.rooms(namespace).read().expect(UNPOISONED);
        let (found, count) = all.live.with_prefix(prefix);
        (found.take(max).map(|(_, room)| Arc::clone(room)).collect(), count)
    }

    /// Joins a room; the first join makes it, or revives it.
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
                // Its last member left between our two steps, and is about to take it out.
                Err(JoinError::Gone) => self.take_out(&room, now),
                Err(refused) => return Err(refused),
            }
        }
    }

    /// Ends a membership; with the last one the room is gone, or dormant for as long as what it keeps may be replayed.
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

    /// Publishes from outside: the room, the message's `Seq`, and how many members it goes to. A room that
    /// its last member has left may be dormant: then the message is kept there. `None`: there is no such room.
    pub fn publish_from_outside(
        &self,
        namespace: Namespace,
        name: &Name,
        payload: Payload<'_>,
        now: Time,
        wakes: &mut Wakes,
    ) -> Option<(Arc<Room>, u64, usize)> {
        if let Some(room) = self.get(namespace, name) {
            let (seq, members) = room.publish_from_outside(payload, now, wakes);
            return Some((room, seq, members));
        }
        let bounds = self.kept(namespace);
        if bounds.is_off() {
            return None;
        }
        let mut rooms = self.rooms(namespace).write().expect(UNPOISONED);
        // Somebody may have revived it meanwhile.
        let live = rooms.live.get(name.key()).cloned();
        let room = live.or_else(|| rooms.dormant.take(name, now.monotonic_ms))?;
        let (seq, members) = room.publish_from_outside(payload, now, wakes);
        if rooms.live.get(name.key()).is_none() {
            // Only now: what it keeps counts with what was published.
            rooms.dormant.insert(Arc::clone(&room), now.monotonic_ms.saturating_add(bounds.age_max_ms));
        }
        Some((room, seq, members))
    }

    /// Forgets the rooms that have been dormant for long enough, and what is too old of what rooms keep; false if there is more to
    /// forget later.
    pub fn expire(&self, now: Time) -> bool {
        for room in self.expiry.take_due(now.monotonic_ms) {
            room.cut_replay(now);
        }
        self.expire_dormant(now) && self.expiry.len() == 0
    }

    /// False if some are kept on.
    fn expire_dormant(&self, now: Time) -> bool {
        let chat = self.chat.read().expect(UNPOISONED);
        let (is_due, none_is_kept) = (chat.dormant.due(now.monotonic_ms).is_some(), chat.dormant.is_empty());
        drop(chat);
        if !is_due {
            return none_is_kept;
        }
        let mut chat = self.chat.write().expect(UNPOISONED);
        chat.dormant.expire(now.monotonic_ms);
        chat.dormant.is_empty()
    }

    /// Takes `give_bytes` of memory back from what chat rooms keep for clients that reconnect, from the largest on
    /// and only from those that take more than `floor_bytes`; empty rooms go with it. Returns how many gave, and how much.
    pub fn shrink_replays(&self, floor_bytes: usize, give_bytes: usize) -> (u64, usize) {
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
        let Rooms { live, dormant } = &mut *rooms;
        // Another shard may have been faster.
        if let Some(room) = live.get(name.key()) {
            return Arc::clone(room);
        }
        let room = match dormant.take(name, now.monotonic_ms) {
            Some(room) => {
                room.revive();
                room
            }
            None => self.make(namespace, name.clone()),
        };
        live.insert(room.key().clone(), Arc::clone(&room));
        room
    }

    fn make(&self, namespace: Namespace, name: Name) -> Arc<Room> {
        let id = self.made.fetch_add(1, Ordering::Relaxed);
        let epoch = self.epoch_base.wrapping_add(id);
        let sequencer = Sequencer::new(id, epoch, Arc::clone(&self.inboxes), self.kept(namespace));
        let roster = Roster::new(self.peer_has_ended);
        Arc::new(Room::new(id, name, namespace, epoch, sequencer, roster, Arc::clone(&self.expiry)))
    }

    /// What rooms of a namespace keep for clients that reconnect.
    fn kept(&self, namespace: Namespace) -> ReplayBounds {
        match namespace {
            Namespace::Chat => self.replay,
            Namespace::Raw => ReplayBounds::OFF,
        }
    }

    /// Takes out a room that is no longer alive, unless its name has already been given to a new one. It may have been
    /// revived meanwhile, too.
    fn take_out(&self, room: &Arc<Room>, now: Time) {
        let mut rooms = self.rooms(room.namespace()).write().expect(UNPOISONED);
        let Rooms { live, dormant } = &mut *rooms;
        let key = room.key().key();
        if live.get(key).is_some_and(|found| found.id() == room.id()) && !room.is_alive() {
            live.remove(key);
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

const UNPOISONED: &str = "the registry's lock is never held over a panic";

#[cfg(test)]
mod tests;
