//! When what rooms keep for clients that reconnect becomes too old.
//!
//! A room is on the list while it keeps anything, once, under the time at which its oldest frame has to go: a tick looks
//! at the rooms that are due and at no others, and a publish into a room that is on the list already does nothing here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use super::Room;
use crate::limits::EXPIRED_PER_TICK;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Expiry {
    /// By time (see [`crate::clock::Time::monotonic_ms`]), then by number.
    rooms: Mutex<BTreeMap<(u64, u64), Weak<Room>>>,
}

impl Expiry {
    /// Has the room come out at `due_ms`. Called under the room's lock: nothing here takes one.
    pub(super) fn schedule(&self, room: &Arc<Room>, due_ms: u64) {
        self.lock().insert((due_ms, room.id()), Arc::downgrade(room));
    }

    /// Takes the rooms out that are due at `now_ms`, the oldest first, and no more than one tick can do.
    pub(super) fn take_due(&self, now_ms: u64) -> Vec<Arc<Room>> {
        let mut rooms = self.lock();
        let mut due = Vec::new();
        for _ in 0..EXPIRED_PER_TICK {
            let Some(first) = rooms.first_entry().filter(|first| first.key().0 <= now_ms) else { break };
            due.extend(first.remove().upgrade());
        }
        due
    }

    /// All rooms that keep something.
    pub(super) fn rooms(&self) -> Vec<Arc<Room>> {
        self.lock().values().filter_map(Weak::upgrade).collect()
    }

    /// How many rooms keep something.
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(u64, u64), Weak<Room>>> {
        self.rooms.lock().expect("it is never held over a panic")
    }
}
