//! When the messages that rooms keep for reconnecting clients become too old.
//!
//! A room that keeps anything is in the list once, under the time at which its oldest message expires. So a tick looks only at
//! rooms that are due, and a publish to a room that is already listed costs nothing here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use super::Room;
use crate::limits::EXPIRED_PER_TICK;

/// The rooms that keep messages, by the time at which the first one expires.
#[derive(Debug, Default)]
pub(super) struct Expiry {
    /// Ordered by time (see [`crate::clock::Time::monotonic_ms`]), then by room number.
    rooms: Mutex<BTreeMap<(u64, u64), Weak<Room>>>,
}

impl Expiry {
    /// Lists the room under `due_ms`. Called under the room's lock, so nothing here takes a room's lock.
    pub(super) fn schedule(&self, room: &Arc<Room>, due_ms: u64) {
        self.lock().insert((due_ms, room.id()), Arc::downgrade(room));
    }

    /// Takes out the rooms that are due at `now_ms`, oldest first, and not more than one tick can handle.
    pub(super) fn take_due(&self, now_ms: u64) -> Vec<Arc<Room>> {
        let mut rooms = self.lock();
        let mut due = Vec::new();
        for _ in 0..EXPIRED_PER_TICK {
            let Some(first) = rooms.first_entry().filter(|first| first.key().0 <= now_ms) else { break };
            due.extend(first.remove().upgrade());
        }
        due
    }

    /// All rooms that keep messages.
    pub(super) fn rooms(&self) -> Vec<Arc<Room>> {
        self.lock().values().filter_map(Weak::upgrade).collect()
    }

    /// Number of rooms that keep messages.
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(u64, u64), Weak<Room>>> {
        self.rooms.lock().expect("the lock is never held across a panic")
    }
}
