//! Rooms that their last member has left, kept for a while so that the member can reconnect and get what it missed.
//!
//! Pure: time comes in as milliseconds of a clock that never goes back. Bounded in three ways: by the age of what they keep, by
//! number, and by bytes. Beyond a bound, the room that has been dormant longest is dropped.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::Room;
use crate::limits::{DORMANT_BYTES_MAX, DORMANT_PER_TICK, DORMANT_ROOMS_MAX};
use crate::protocol::name::Name;

/// Bytes that a dormant room costs on top of its messages.
const ROOM_OVERHEAD_BYTES: usize = 512;

#[derive(Debug)]
struct Sleeping {
    room: Arc<Room>,
    due_ms: u64,
    bytes: usize,
}

/// All dormant rooms of a namespace.
#[derive(Debug, Default)]
pub(super) struct Dormant {
    by_name: HashMap<Name, Sleeping>,
    /// Ordered by the time at which they are forgotten, then by room number.
    order: BTreeMap<(u64, u64), Name>,
    bytes: usize,
    /// Number of rooms that were dropped before their time.
    evicted: u64,
}

impl Dormant {
    /// Number of dormant rooms, and number of rooms that were dropped before their time.
    pub(super) fn count(&self) -> (usize, u64) {
        (self.by_name.len(), self.evicted)
    }

    /// Keeps a room until `due_ms`.
    pub(super) fn insert(&mut self, room: Arc<Room>, due_ms: u64) {
        self.take(room.key(), u64::MAX);
        let bytes = room.replay_bytes() + ROOM_OVERHEAD_BYTES;
        self.bytes += bytes;
        self.order.insert((due_ms, room.id()), room.key().clone());
        self.by_name.insert(room.key().clone(), Sleeping { room, due_ms, bytes });
        while (self.by_name.len() > DORMANT_ROOMS_MAX || self.bytes > DORMANT_BYTES_MAX)
            && let Some(name) = self.order.first_key_value().map(|(_, name)| name.clone())
        {
            self.take(&name, u64::MAX);
            self.evicted += 1;
        }
    }

    /// Takes a room out; `None` if it isn't there or its time is up.
    pub(super) fn take(&mut self, name: &Name, now_ms: u64) -> Option<Arc<Room>> {
        let Sleeping { room, due_ms, bytes } = self.by_name.remove(name)?;
        self.order.remove(&(due_ms, room.id()));
        self.bytes -= bytes;
        (now_ms < due_ms).then_some(room)
    }

    /// Forgets rooms whose time is up: a bounded number, and the others in the next call.
    pub(super) fn expire(&mut self, now_ms: u64) {
        for _ in 0..DORMANT_PER_TICK {
            let Some(name) = self.due(now_ms) else { break };
            self.take(&name, now_ms);
        }
        if self.by_name.len() < self.by_name.capacity() / 4 {
            self.by_name.shrink_to_fit();
        }
    }

    /// The name of a room whose time is up.
    pub(super) fn due(&self, now_ms: u64) -> Option<Name> {
        let ((due_ms, _), name) = self.order.first_key_value()?;
        (*due_ms <= now_ms).then(|| name.clone())
    }

    /// Whether no room is dormant.
    pub(super) fn is_empty(&self) -> bool {
        debug_assert_eq!(self.by_name.len(), self.order.len());
        self.by_name.is_empty()
    }
}
