//! The connections of a shard and what they make happen: no ring, no socket, no clock. Bytes and tokens come in; what is to be
//! sent goes out through [`Hub::send`], and what else is wanted of the ring through [`Hub::asks`].
//!
//! In the order in which a message meets them:
//! - [`reading`]: whose input is read, how much of it, and which connections have to wait
//! - `session`: a message has arrived: rate limits, and by what it speaks `v0`, `v1`, `raw`, `sse`
//! - `join`: the one way into a room, and out of it
//! - [`sending`]: who is owed something, and how much leaves in a turn
//! - `life`: closing, and what is left of a connection after it
//! - `time`: timers, pings, what is due; `restart`: the end of the server
//! - `memory`: what a shard gives back when too much is taken
//! - `invariants`: what must be true after each turn, in debug builds

use std::net::Shutdown;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use slab::Slab;

use super::Upgraded;
use super::settings::Settings;
use crate::clock::Now;
use crate::connection::Connection;
use crate::limits::{RELAYS_KEPT_MAX, SETTLE_BYTES_MAX};
use crate::memory::Memory;
use crate::metrics::counters::Counters;
use crate::metrics::delivery::Sampler;
use crate::protocol::close_code::CloseReason;
use crate::protocol::name::Name;
use crate::protocol::{MemberId, Protocol};
use crate::rate::Bucket;
use crate::ring::{BufferPool, Receive};
use crate::room::inbox::{Disconnect, Inbox, Order, Relay};
use crate::room::local::LocalRooms;
use crate::room::registry::Registry;
use crate::room::{Room, Wakes};

#[cfg(debug_assertions)]
mod invariants;
mod join;
mod life;
mod memory;
mod raw;
pub mod reading;
mod restart;
pub mod sending;
mod session;
mod sse;
mod time;
mod v0;
mod v1;

use memory::Review;
use reading::Reading;
use sending::Sending;
use time::Timers;

/// Bytes of a reply that take a microsecond to be put together.
const REPLY_BYTES_PER_UNIT: usize = 128;

/// A connection, safe against the reuse of its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    slot: u32,
    serial: u32,
}

/// Something that the hub wants of the ring, for the connection of this token.
#[derive(Clone, Copy, Debug)]
pub enum Ask {
    /// To receive.
    Receive(u32, Receive),
    /// To end the receive that goes on by itself.
    Cancel(u32),
    /// To tell when there is room to send again.
    AwaitWritable(u32),
    /// To shut its socket down.
    Shutdown(u32, Shutdown),
    /// To close its socket and forget the token.
    Release(u32),
}

/// See the module. A connection's token is its slot in `connections`.
pub struct Hub {
    id: usize,
    settings: Arc<Settings>,
    registry: Arc<Registry>,
    counters: Rc<Counters>,
    connections: Slab<Connection>,
    next_serial: u32,
    rooms: LocalRooms,
    asks: Vec<Ask>,
    reading: Reading,
    sending: Sending,
    timers: Timers,
    wakes: Wakes,
    now: Now,
    /// Which messages' deliveries are timed.
    sampler: Sampler,
    stopping: bool,
    memory: Arc<Memory>,
    review: Review,
    /// Emptied and filled again every turn.
    relays: Vec<Relay>,
}

impl Hub {
    pub(super) fn new(
        id: usize,
        settings: Arc<Settings>,
        registry: Arc<Registry>,
        buffers: BufferPool,
        now: Now,
    ) -> Self {
        Self {
            id,
            registry,
            counters: Rc::default(),
            connections: Slab::new(),
            next_serial: 0,
            rooms: LocalRooms::new(settings.inbox_bytes_max),
            settings,
            asks: Vec::new(),
            reading: Reading::new(buffers),
            sending: Sending::default(),
            timers: Timers::new(now.time.tick()),
            wakes: Wakes::default(),
            now,
            sampler: Sampler::default(),
            stopping: false,
            memory: Arc::new(Memory::unlimited()),
            review: Review::default(),
            relays: Vec::new(),
        }
    }

    pub(super) fn counting_in(self, counters: Rc<Counters>) -> Self {
        Self { counters, ..self }
    }

    pub(super) fn keeping_to(self, memory: Arc<Memory>) -> Self {
        Self { memory, ..self }
    }

    pub(super) fn id(&self) -> usize {
        self.id
    }

    pub(super) fn counters(&self) -> &Rc<Counters> {
        &self.counters
    }

    pub(super) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.len()
    }

    /// The token of the next connection.
    pub(super) fn next_token(&self) -> u32 {
        self.connections.vacant_key() as u32
    }

    /// What is wanted of the ring since this was last asked, in order.
    pub(super) fn asks(&mut self) -> impl Iterator<Item = Ask> {
        self.asks.drain(..)
    }

    /// Takes over a connection whose handshake is done; its socket is known by its number. It is open when this returns, or
    /// closing with a reason.
    pub(super) fn adopt(&mut self, upgraded: Upgraded<std::os::fd::RawFd>, now: Now) {
        self.now = now;
        let Upgraded { socket, role, room, since, response, leftover } = upgraded;
        let rate = if role.protocol() == Protocol::Raw { &self.settings.raw_rate } else { &self.settings.chat_rate };
        let bucket = Bucket::new(rate, now.time.monotonic_ms);
        self.next_serial = self.next_serial.wrapping_add(1);
        let serial = self.next_serial;
        let slot = self.connections.insert(Connection::new(serial, socket, role, bucket)) as u32;
        self.begin_pings(slot);
        self.connection(slot).respond(response);
        let protocol = self.connection(slot).protocol();
        self.counters.connections(protocol).add(1);
        if protocol == Protocol::V1 {
            self.say_hello(slot);
        }
        if self.stopping {
            self.send_away_late(slot);
        } else if let Some(room) = room {
            self.join_first(slot, &room, since);
        }
        // First: a connection that ends over its first bytes stays until the kernel has given the receive back.
        self.receive(slot);
        if !leftover.is_empty() {
            self.has_said(slot, leftover);
        }
        self.queue(slot);
    }

    /// A turn begins.
    pub(super) fn begin_turn(&mut self, now: Now) {
        self.now = now;
    }

    /// Does what connections, other shards, and time ask for.
    pub(super) fn hear(&mut self) {
        self.drain_inbox();
        self.read_line();
        self.hear_ends();
        self.hear_timers();
        self.drain_inbox();
        self.obey_orders();
        self.sending.more_news = self.wakes.wake_others(self.registry.inboxes(), self.id);
    }

    /// A turn ends; true: there is more to do before the shard may sleep.
    pub(super) fn end_turn(&mut self, reaped_all: bool) -> bool {
        if reaped_all && !self.someone_is_owed() {
            self.rooms.cut_back();
        }
        self.relieve_memory();
        if self.rooms.take_released() {
            self.inbox().pressure().released(self.registry.inboxes());
        }
        // What ended meanwhile has left its rooms: their members must not wait for the next turn to hear of it.
        let more_news = self.wakes.wake_others(self.registry.inboxes(), self.id) || self.sending.more_news;
        let is_behind = !reaped_all || self.someone_is_owed() || self.rooms.in_line() > 0;
        let is_late = self.reading.has_ends()
            || self.reading.may_receive_again()
            || self.timers.is_due()
            || self.review.is_owed();
        let more = is_behind || is_late || more_news || self.inbox().has_orders();
        #[cfg(debug_assertions)]
        self.check_invariants();
        more || self.reads_on()
    }

    /// Does what others have asked for.
    fn obey_orders(&mut self) {
        for order in self.inbox().take_orders() {
            match order {
                Order::Disconnect(order) => self.disconnect(order),
                Order::TakeOver { member, user } => self.taken_over(member, &user),
            }
        }
    }

    /// Closes the connections of a user, as the internal port orders it.
    fn disconnect(&mut self, order: Disconnect) {
        let Disconnect { user, room, reason, closed } = order;
        let in_room = |connection: &Connection| {
            let mut rooms = connection.memberships.iter().map(|membership| &self.rooms.get(membership.room).room);
            room.as_ref().is_none_or(|name| rooms.any(|room| room.key() == name))
        };
        let is_meant = |connection: &Connection| {
            connection.life.is_open() && connection.user() == Some(&user) && in_room(connection)
        };
        let meant = self.connections.iter().filter(|(_, connection)| is_meant(connection));
        let slots: Vec<_> = meant.map(|(slot, _)| slot as u32).collect();
        for slot in &slots {
            self.close(*slot, &CloseReason::Disconnected(&reason));
        }
        // Nobody may wait for the answer any more.
        let _ = closed.send(slots.len());
    }

    /// Appends what all shards published to the logs here.
    fn drain_inbox(&mut self) {
        let (mut relays, mut lost) = (std::mem::take(&mut self.relays), Vec::new());
        let inboxes = self.registry.inboxes();
        let was_congested = inboxes[self.id].drain(&mut relays, &mut lost);
        if was_congested {
            self.inbox().pressure().released(inboxes);
        }
        self.wakes.drained(self.id);
        for relay in relays.drain(..) {
            self.rooms.append(&relay);
        }
        lost.iter().for_each(|lost| self.rooms.lose(lost));
        relays.shrink_to(RELAYS_KEPT_MAX);
        self.relays = relays;
    }

    /// What the other shards send here.
    fn inbox(&self) -> &Inbox {
        &self.registry.inboxes()[self.id]
    }

    /// A connection as the other shards know it.
    fn member_id(&self, slot: u32) -> MemberId {
        MemberId { shard: self.id as u32, slot, serial: self.connections[slot as usize].serial }
    }

    fn connection(&mut self, slot: u32) -> &mut Connection {
        &mut self.connections[slot as usize]
    }

    fn key(&self, slot: u32) -> Key {
        Key { slot, serial: self.connections[slot as usize].serial }
    }

    /// The connection that a key is of, unless that is gone.
    fn get(&self, key: Key) -> Option<&Connection> {
        self.connections.get(key.slot as usize).filter(|connection| connection.serial == key.serial)
    }

    fn is_current(&self, key: Key) -> bool {
        self.get(key).is_some()
    }

    /// Sends `frame` to this connection alone, behind all that its rooms had for it until now.
    fn reply(&mut self, slot: u32, frame: Bytes) {
        self.settle(slot, SETTLE_BYTES_MAX);
        self.reply_at_once(slot, frame);
    }

    /// The same, ahead of what its rooms have for it.
    fn reply_at_once(&mut self, slot: u32, frame: Bytes) {
        self.spend(frame.len() / REPLY_BYTES_PER_UNIT);
        if self.connection(slot).reply(frame) {
            self.queue(slot);
        } else {
            self.close(slot, &CloseReason::RepliesUnread);
        }
    }

    /// Puts what its rooms have for a connection ahead of what comes next, up to `bytes_max`.
    fn settle(&mut self, slot: u32, bytes_max: usize) {
        if self.connection(slot).life.is_open() {
            self.drain_inbox();
            self.connections[slot as usize].settle(&self.rooms, bytes_max);
        }
    }

    /// A chat room by name: one of the connection's own, named as it names itself, is found without preparing the name and
    /// without asking the registry.
    fn room_of(&self, slot: u32, name: &str) -> Option<Arc<Room>> {
        let memberships = &self.connections[slot as usize].memberships;
        let own = memberships.iter().map(|membership| &self.rooms.get(membership.room).room);
        own.into_iter()
            .find(|room| room.name() == name)
            .cloned()
            .or_else(|| self.registry.get(crate::protocol::Namespace::Chat, &Name::room(name).ok()?))
    }

    fn is_member(&self, slot: u32, room: &Room) -> bool {
        let memberships = &self.connections[slot as usize].memberships;
        memberships.iter().any(|membership| self.rooms.get(membership.room).room.id() == room.id())
    }
}
