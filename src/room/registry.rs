//! The registry: rooms that exist while someone is in them, found by name.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use super::{Announced, JoinError, MemberId, Namespace, Room, Wakes};
use crate::relay::Inbox;

type ByName = HashMap<Arc<str>, Arc<Room>>;

/// All rooms of the server.
#[derive(Debug)]
pub struct Registry {
    chat: RwLock<ByName>,
    raw: RwLock<ByName>,
    inboxes: Arc<[Inbox]>,
    /// Random at start, so that no room's epoch is one that an earlier process gave out.
    epoch_base: u64,
    made: AtomicU64,
}

/// A membership that just began.
#[derive(Debug)]
pub struct Joined {
    /// The room.
    pub room: Arc<Room>,
    /// The first frame that the member gets.
    pub first_seq: u64,
    /// Whether the announcement is done.
    pub announced: Announced,
}

impl Registry {
    /// No rooms yet; their frames will go to `inboxes`, one for each shard.
    pub fn new(inboxes: Arc<[Inbox]>, epoch_base: u64) -> Self {
        Self { chat: RwLock::default(), raw: RwLock::default(), inboxes, epoch_base, made: AtomicU64::new(0) }
    }

    /// The inboxes of the shards.
    pub fn inboxes(&self) -> &[Inbox] {
        &self.inboxes
    }

    /// The room of that name, if someone is in it.
    pub fn get(&self, namespace: Namespace, name: &str) -> Option<Arc<Room>> {
        self.by_name(namespace).read().expect(UNPOISONED).get(name).cloned()
    }

    /// The names of all rooms of a namespace, sorted.
    pub fn names(&self, namespace: Namespace) -> Vec<Arc<str>> {
        let mut names: Vec<_> = self.by_name(namespace).read().expect(UNPOISONED).keys().cloned().collect();
        names.sort();
        names
    }

    /// How many rooms there are in a namespace.
    pub fn len(&self, namespace: Namespace) -> usize {
        self.by_name(namespace).read().expect(UNPOISONED).len()
    }

    /// Joins a room; the first join makes it. `user` is given in chat rooms.
    ///
    /// # Errors
    /// [`JoinError::NameTaken`]: another member has the name. Never [`JoinError::Gone`].
    pub fn join(
        &self,
        namespace: Namespace,
        name: &str,
        user: Option<&Arc<str>>,
        member: MemberId,
        now_ms: u64,
        wakes: &mut Wakes,
    ) -> Result<Joined, JoinError> {
        loop {
            let room = self.get_or_make(namespace, name);
            match room.join(user, member, now_ms, wakes) {
                Ok((first_seq, announced)) => return Ok(Joined { room, first_seq, announced }),
                // Its last member left between our two steps, and is about to take it out.
                Err(JoinError::Gone) => self.remove(&room),
                Err(refused) => return Err(refused),
            }
        }
    }

    /// Ends a membership; with the last one the room vanishes.
    pub fn leave(
        &self,
        room: &Arc<Room>,
        user: Option<&Arc<str>>,
        shard: usize,
        now_ms: u64,
        wakes: &mut Wakes,
    ) -> Announced {
        let (announced, gone) = room.leave(user, shard, now_ms, wakes);
        if gone {
            self.remove(room);
        }
        announced
    }

    fn get_or_make(&self, namespace: Namespace, name: &str) -> Arc<Room> {
        if let Some(room) = self.get(namespace, name) {
            return room;
        }
        let name: Arc<str> = name.into();
        let mut rooms = self.by_name(namespace).write().expect(UNPOISONED);
        let room = rooms.entry(Arc::clone(&name)).or_insert_with(|| {
            let id = self.made.fetch_add(1, Ordering::Relaxed);
            Arc::new(Room::new(id, name, namespace, self.epoch_base.wrapping_add(id), Arc::clone(&self.inboxes)))
        });
        Arc::clone(room)
    }

    /// Takes out a room that is no longer alive, unless its name has already been given to a new one.
    fn remove(&self, room: &Arc<Room>) {
        let mut rooms = self.by_name(room.namespace()).write().expect(UNPOISONED);
        if let Entry::Occupied(entry) = rooms.entry(Arc::clone(room.name()))
            && entry.get().id() == room.id()
        {
            entry.remove();
        }
        if rooms.len() < rooms.capacity() / 4 {
            rooms.shrink_to_fit();
        }
    }

    fn by_name(&self, namespace: Namespace) -> &RwLock<ByName> {
        match namespace {
            Namespace::Chat => &self.chat,
            Namespace::Raw => &self.raw,
        }
    }
}

const UNPOISONED: &str = "the registry's lock is never held over a panic";
