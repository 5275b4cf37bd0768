//! A shard's side of the rooms that its connections are in: the log, and who reads it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use bytes::Bytes;
use slab::Slab;

use crate::metrics::delivery::{Deliveries, Sampled};
use crate::protocol::sse;
use crate::relay::{INBOX_BYTES_MAX, Relay};
use crate::room::Room;
use crate::room::log::Log;
use crate::room::replay::Batch;

/// What a log may hold beyond its bound, in bytes, until everyone who reads has been sent what is new: an inbox's worth.
const LOG_EXCESS_BYTES_MAX: usize = INBOX_BYTES_MAX;

/// How a log holds what its room publishes. Members of both forms on one shard are two [`LocalRoom`]s, with the same `Seq`
/// and cursors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// WebSocket frames, as they were published.
    Frames,
    /// Server-sent events made of them, once for all listeners.
    Events,
}

/// The slots of a room, one for each form that has members.
#[derive(Clone, Copy, Debug, Default)]
struct Slots {
    frames: Option<u32>,
    events: Option<u32>,
}

impl Slots {
    fn of(&mut self, form: Form) -> &mut Option<u32> {
        match form {
            Form::Frames => &mut self.frames,
            Form::Events => &mut self.events,
        }
    }
}

/// A room as one shard has it, in one form.
#[derive(Debug)]
pub struct LocalRoom {
    /// What all shards share of it.
    pub room: Arc<Room>,
    /// The frames that arrived here, or their events.
    pub log: Log,
    /// Which of the two.
    form: Form,
    /// Slots of the connections that are members.
    pub members: Vec<u32>,
    /// Whether it stands in the list of rooms with news.
    pub has_news: bool,
    /// Frames whose deliveries are timed.
    sampled: Sampled,
    /// Whether it stands in the list of rooms that have grown.
    has_grown: bool,
    /// The log's bound.
    backlog_bytes_max: usize,
}

impl LocalRoom {
    /// What was published from `from` to before `until`, in this form: see [`Room::replay`].
    pub fn replay(&self, from: u64, until: u64, bytes_max: usize) -> Option<Batch> {
        let batch = self.room.replay(from, until, bytes_max)?;
        Some(match self.form {
            Form::Frames => batch,
            Form::Events => sse::events(&batch, self.room.epoch(), from),
        })
    }
}

/// The rooms of one shard: those with at least one member here.
#[derive(Debug, Default)]
pub struct LocalRooms {
    rooms: Slab<LocalRoom>,
    by_id: HashMap<u64, Slots>,
    /// Rooms whose log has grown since [`LocalRooms::take_news`].
    news: Vec<u32>,
    /// Rooms whose log has grown since [`LocalRooms::cut_back`].
    grown: Vec<u32>,
    /// What was delivered and is not reported yet.
    pub deliveries: Deliveries,
}

impl LocalRooms {
    /// The slot of a room that a connection joins, made if it is the first here. Its log begins at `first_seq`.
    pub fn join(&mut self, room: &Arc<Room>, form: Form, first_seq: u64, backlog_bytes_max: usize) -> u32 {
        *self.by_id.entry(room.id()).or_default().of(form).get_or_insert_with(|| {
            self.rooms.insert(LocalRoom {
                room: Arc::clone(room),
                log: Log::new(first_seq, backlog_bytes_max + LOG_EXCESS_BYTES_MAX),
                form,
                members: Vec::new(),
                has_news: false,
                sampled: Sampled::default(),
                has_grown: false,
                backlog_bytes_max,
            }) as u32
        })
    }

    /// Forgets a room without members.
    pub fn remove(&mut self, slot: u32) {
        let local = self.rooms.remove(slot as usize);
        debug_assert!(local.members.is_empty());
        if let Entry::Occupied(mut entry) = self.by_id.entry(local.room.id()) {
            *entry.get_mut().of(local.form) = None;
            if entry.get().frames.is_none() && entry.get().events.is_none() {
                entry.remove();
            }
        }
        if local.has_news {
            self.news.retain(|with_news| *with_news != slot);
        }
        if local.has_grown {
            self.grown.retain(|grown| *grown != slot);
        }
    }

    /// The slot of a room's frames, if anyone here gets them.
    pub fn slot(&self, room: &Room) -> Option<u32> {
        self.by_id.get(&room.id())?.frames
    }

    /// A room.
    pub fn get(&self, slot: u32) -> &LocalRoom {
        &self.rooms[slot as usize]
    }

    /// A room, to change it.
    pub fn get_mut(&mut self, slot: u32) -> &mut LocalRoom {
        &mut self.rooms[slot as usize]
    }

    /// A room's log.
    pub fn log(&self, slot: u32) -> &Log {
        &self.rooms[slot as usize].log
    }

    /// Appends what was published. Nobody here in the room any more: nothing to do.
    pub fn append(&mut self, relay: &Relay) {
        let Some(Slots { frames, events }) = self.by_id.get(&relay.room.id()).copied() else { return };
        if let Some(slot) = frames {
            self.append_to(slot, relay, &relay.frame);
        }
        if let Some(slot) = events {
            self.append_to(slot, relay, &sse::event(&relay.frame, relay.room.epoch(), relay.seq));
        }
    }

    fn append_to(&mut self, slot: u32, relay: &Relay, bytes: &Bytes) {
        let local = &mut self.rooms[slot as usize];
        local.log.append(relay.seq, bytes);
        if let Some(received) = relay.received {
            local.sampled.add(relay.seq, received, local.log.first_seq());
        }
        if !local.has_news {
            local.has_news = true;
            self.news.push(slot);
        }
        if !local.has_grown {
            local.has_grown = true;
            self.grown.push(slot);
        }
    }

    /// The kernel took the frames from `from` to before `end` for one member.
    pub fn delivered(&self, slot: u32, from: u64, end: u64) {
        self.deliveries.count(end - from);
        self.rooms[slot as usize].sampled.delivered(from, end, &self.deliveries);
    }

    /// Cuts every log back to its bound: everyone who reads has been sent what was new, and who lags has had its time.
    pub fn cut_back(&mut self) {
        for slot in self.grown.drain(..) {
            let local = &mut self.rooms[slot as usize];
            local.has_grown = false;
            local.log.cut_back(local.backlog_bytes_max);
        }
    }

    /// The next room whose log has grown.
    pub fn take_news(&mut self) -> Option<u32> {
        let slot = self.news.pop()?;
        self.rooms[slot as usize].has_news = false;
        Some(slot)
    }

    /// The slots of all rooms, with the memory that their logs take, in bytes.
    pub fn held_bytes(&self) -> impl Iterator<Item = (u32, usize)> {
        self.rooms.iter().map(|(slot, local)| (slot as u32, local.log.held_bytes()))
    }

    /// All slots in use.
    pub fn slots(&self) -> Vec<u32> {
        self.rooms.iter().map(|(slot, _)| slot as u32).collect()
    }
}
