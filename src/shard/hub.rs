//! The connections of a shard and everything that happens to them: no ring, no socket, no clock. Bytes and tokens come in;
//! frames go out through `Hub::send`, and every other request to the ring through `Hub::take_ring_ops`.
//!
//! In the order in which a message meets them:
//! - [`reading`]: which connections are read, how much of each, and which have to wait
//! - `session`: a whole message: rate limits, then `v0`, `v1`, `raw` or `sse`, depending on what the connection speaks
//! - `join`: the only way into a room, and out of it
//! - `principals`: with `--auth`, whose a connection is, what it may do, and until when
//! - `elsewhere`: what waits for a log that several servers share
//! - [`sending`]: which connections have something to send, and how much leaves in a turn
//! - `life`: closing a connection, up to the release of its socket
//! - `time`: timers and pings; `restart`: the end of the server
//! - `memory`: what a shard gives back when the memory budget is used up
//! - `invariants`: what must be true after each turn, in debug builds

use std::net::Shutdown;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use slab::Slab;

use super::Upgraded;
use super::settings::Settings;
use crate::address::table::AddressTable;
use crate::clock::Now;
use crate::connection::Connection;
use crate::counters::Counters;
use crate::counters::delivery::Sampler;
use crate::failures::Failures;
use crate::frame::deflate::Inflater;
use crate::identity::Standing;
use crate::limits::{RELAYS_KEPT_MAX, SETTLE_BYTES_MAX};
use crate::memory::Memory;
use crate::protocol::close_code::CloseReason;
use crate::protocol::name::Name;
use crate::protocol::{MemberId, Namespace, Protocol};
use crate::rate::Bucket;
use crate::ring::{BufferPool, Receive};
use crate::room::inbox::{Disconnect, Inbox, Order, Relay};
use crate::room::local::LocalRooms;
use crate::room::registry::Registry;
use crate::room::{Room, Wakes};

mod elsewhere;
#[cfg(debug_assertions)]
mod invariants;
mod join;
mod life;
mod memory;
mod principals;
mod raw;
pub(crate) mod reading;
mod restart;
mod seats;
pub(crate) mod sending;
mod session;
mod sse;
mod time;
mod v0;
mod v1;

use elsewhere::Elsewhere;
use join::JoinReply;
use memory::Review;
use principals::Principals;
use reading::Reading;
use seats::Seats;
use sending::Sending;
use time::Timers;

/// Bytes of a reply that count as one unit of work: about what can be assembled in a microsecond.
const REPLY_BYTES_PER_UNIT: usize = 128;

/// Identifies a connection even after its slot has been reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Key {
    slot: u32,
    serial: u32,
}

/// A request to the ring, for the connection with this token.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RingOp {
    /// Start a receive.
    Receive(u32, Receive),
    /// Cancel the multishot receive.
    Cancel(u32),
    /// Report when the socket is writable again.
    AwaitWritable(u32),
    /// Shut the socket down.
    Shutdown(u32, Shutdown),
    /// Close the socket and forget the token.
    Release(u32),
}

/// All the connections of a shard, and their rooms. A connection's token is its slot in `connections`.
pub(crate) struct Hub {
    id: usize,
    settings: Arc<Settings>,
    /// What the settings become with the next turn: a reload replaces them.
    live: Option<Arc<ArcSwap<Settings>>>,
    registry: Arc<Registry>,
    counters: Rc<Counters>,
    connections: Slab<Connection>,
    next_serial: u32,
    rooms: LocalRooms,
    ring_ops: Vec<RingOp>,
    reading: Reading,
    sending: Sending,
    timers: Timers,
    wakes: Wakes,
    now: Now,
    /// Picks the messages whose deliveries are timed.
    sampler: Sampler,
    stopping: bool,
    memory: Arc<Memory>,
    seats: Seats,
    review: Review,
    /// Scratch space of `drain_inbox`, kept allocated between turns.
    relays: Vec<Relay>,
    inflater: Inflater,
    /// Whose the connections are; empty without `--auth`.
    principals: Principals,
    failures: Option<Arc<Failures>>,
    /// What waits for an answer of the shared log; empty if there is none.
    elsewhere: Elsewhere,
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
            rooms: LocalRooms::new(settings.inbox_bytes_max, settings.deflated_bytes_min),
            settings,
            live: None,
            ring_ops: Vec::new(),
            reading: Reading::new(buffers),
            sending: Sending::default(),
            timers: Timers::new(now.time.tick()),
            wakes: Wakes::of_shard(id as u32),
            now,
            sampler: Sampler::default(),
            stopping: false,
            memory: Arc::new(Memory::unlimited()),
            seats: Seats::default(),
            review: Review::default(),
            relays: Vec::new(),
            inflater: Inflater::default(),
            principals: Principals::default(),
            failures: None,
            elsewhere: Elsewhere::default(),
        }
    }

    pub(super) fn counting_in(self, counters: Rc<Counters>) -> Self {
        Self { counters, ..self }
    }

    pub(super) fn noting(self, failures: Arc<Failures>) -> Self {
        Self { failures: Some(failures), ..self }
    }

    pub(super) fn keeping_to(self, memory: Arc<Memory>) -> Self {
        Self { memory, ..self }
    }

    pub(super) fn limiting(self, table: Arc<AddressTable>) -> Self {
        Self { seats: Seats::new(table), ..self }
    }

    pub(super) fn following(self, live: Arc<ArcSwap<Settings>>) -> Self {
        Self { live: Some(live), ..self }
    }

    pub(super) fn id(&self) -> usize {
        self.id
    }

    pub(super) fn counters(&self) -> &Rc<Counters> {
        &self.counters
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.len()
    }

    /// The token that the next connection will get.
    pub(super) fn next_token(&self) -> u32 {
        self.connections.vacant_key() as u32
    }

    /// Takes the requests to the ring that have accumulated, in order.
    pub(super) fn take_ring_ops(&mut self) -> impl Iterator<Item = RingOp> {
        self.ring_ops.drain(..)
    }

    /// Takes over a connection whose handshake is done. When this returns, the connection is either open, or closing with a
    /// reason.
    pub(super) fn adopt(&mut self, upgraded: Upgraded<RawFd>, now: Now) {
        self.now = now;
        let Upgraded { socket, role, room, since, standing, compression, seat, response, leftover } = upgraded;
        let protocol = role.protocol();
        let bucket = Bucket::new(self.settings.rate(protocol), now.time.monotonic_ms);
        self.next_serial = self.next_serial.wrapping_add(1);
        let serial = self.next_serial;
        if let Some(compression) = compression {
            self.counters.compression(compression).add(1);
        }
        let slot = self.connections.insert(Connection::new(serial, socket, role, compression, bucket)) as u32;
        self.seats.take(slot, seat);
        self.schedule_first_ping(slot);
        if protocol == Protocol::Raw && !self.stopping && self.registry.outward().is_some() {
            self.hold_response(slot, response);
        } else {
            self.connection(slot).respond(response);
        }
        self.counters.connections(protocol).add(1);
        let is_awaited = matches!(standing, Some(Standing::Awaited));
        if let Some(standing) = standing {
            self.identify(slot, standing, room.clone());
        }
        if is_awaited {
            self.ask_for_token(slot);
        } else if protocol == Protocol::V1 {
            self.send_hello(slot);
            if room.is_none() {
                self.take_over(slot);
            }
        }
        if self.stopping {
            self.close_late_arrival(slot);
        } else if let Some(room) = room.filter(|_| !is_awaited) {
            self.ask_to_join(slot, &room, since, &JoinReply::Address);
        }
        // First, so that a connection that ends because of its first bytes stays until the kernel has given the receive back.
        self.receive(slot);
        if !leftover.is_empty() {
            self.enqueue_leftover(slot, leftover);
        }
        self.queue(slot);
    }

    /// Begins a turn at this time.
    pub(super) fn begin_turn(&mut self, now: Now) {
        self.now = now;
        if let Some(live) = &self.live
            && !Arc::ptr_eq(&live.load(), &self.settings)
        {
            self.settings = live.load_full();
        }
    }

    /// Notes how long the last turn has taken.
    pub(super) fn turn_took(&mut self, time: Duration) {
        self.rooms.turn_took(self.sending.work, time);
    }

    /// Processes what connections sent, what other shards published or ordered, and the timers that are due.
    pub(super) fn process(&mut self) {
        self.queue_due();
        self.drain_inbox();
        self.read_queued();
        self.handle_ends();
        self.handle_timers();
        self.drain_inbox();
        self.execute_orders();
        self.sending.more_news = self.wakes.wake_others(self.registry.inboxes(), self.id);
    }

    /// Ends a turn. True: there is more to do before the shard may sleep.
    pub(super) fn end_turn(&mut self, reaped_all: bool) -> bool {
        if reaped_all && !self.has_queued_sends() {
            self.rooms.cut_back();
        }
        self.relieve_memory();
        if self.rooms.take_released() {
            self.inbox().pressure().released(self.registry.inboxes());
        }
        // Connections that ended during this turn have left their rooms, and the members on other shards must not wait a turn
        // to be told.
        let more_news = self.wakes.wake_others(self.registry.inboxes(), self.id) || self.sending.more_news;
        let is_behind = !reaped_all || self.has_queued_sends() || self.rooms.queued_rooms() > 0;
        let is_late = self.reading.has_ends()
            || self.reading.may_receive_again()
            || self.timers.is_due()
            || self.principals.is_due()
            || self.review.is_unfinished();
        let more = is_behind || is_late || more_news || self.inbox().has_orders();
        #[cfg(debug_assertions)]
        self.check_invariants();
        more || self.has_more_to_read()
    }

    /// Executes the orders from the internal port and from other shards.
    fn execute_orders(&mut self) {
        // What an order brings in may have an order of its own, which has to be obeyed before anything is sent.
        loop {
            let orders = self.inbox().take_orders();
            if orders.is_empty() {
                return;
            }
            orders.into_iter().for_each(|order| self.execute(order));
            // A room that was joined may be further than what had been drained: no cursor may stay beyond its log.
            self.drain_inbox();
        }
    }

    fn execute(&mut self, order: Order) {
        match order {
            Order::Disconnect(order) => self.disconnect(order),
            Order::TakeOver { member, user } => self.taken_over(member, &user),
            Order::Settled { number, outcome } => self.settled(number, outcome),
            Order::Opened { member, room } => self.opened(member, room),
            Order::Found { member, room, name_is_taken } => self.found(member, room, name_is_taken),
            Order::NameLost { member, room } => self.name_lost(member, &room),
            Order::Renewed { room, first_seq } => self.renewed(&room, first_seq),
            Order::Away(is_away) => self.tell_reachability(is_away),
        }
    }

    /// Closes the connections of a user, on behalf of the internal port.
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
        // The request may have been given up: then nobody waits for this.
        let _ = closed.send(slots.len());
    }

    /// Appends what was published, on any shard, to the logs of the rooms here.
    fn drain_inbox(&mut self) {
        let (mut relays, mut lost) = (std::mem::take(&mut self.relays), Vec::new());
        let inboxes = self.registry.inboxes();
        let was_congested = inboxes[self.id].drain(&mut relays, &mut lost);
        if was_congested {
            self.inbox().pressure().released(inboxes);
        }
        self.wakes.drained(self.id);
        for relay in relays.drain(..) {
            self.rooms.append(&relay, self.now.instant);
        }
        lost.iter().for_each(|lost| self.rooms.lose(lost));
        relays.shrink_to(RELAYS_KEPT_MAX);
        self.relays = relays;
    }

    /// This shard's inbox, which all shards push to.
    fn inbox(&self) -> &Inbox {
        &self.registry.inboxes()[self.id]
    }

    /// The connection's identity outside this shard.
    fn member_id(&self, slot: u32) -> MemberId {
        MemberId { shard: self.id as u32, slot, serial: self.connections[slot as usize].serial }
    }

    fn connection(&mut self, slot: u32) -> &mut Connection {
        &mut self.connections[slot as usize]
    }

    fn key(&self, slot: u32) -> Key {
        Key { slot, serial: self.connections[slot as usize].serial }
    }

    /// The connection with this key, unless it is gone.
    fn get(&self, key: Key) -> Option<&Connection> {
        self.connections.get(key.slot as usize).filter(|connection| connection.serial == key.serial)
    }

    fn is_current(&self, key: Key) -> bool {
        self.get(key).is_some()
    }

    /// Sends `frame` to this connection only, after everything that its rooms have for it up to now.
    fn reply(&mut self, slot: u32, frame: Bytes) {
        self.settle(slot, SETTLE_BYTES_MAX);
        self.reply_at_once(slot, frame);
    }

    /// Sends `frame` to this connection only, without waiting for what its rooms have for it.
    fn reply_at_once(&mut self, slot: u32, frame: Bytes) {
        self.spend(frame.len() / REPLY_BYTES_PER_UNIT);
        if self.connection(slot).reply(frame) {
            self.queue(slot);
        } else {
            self.close(slot, &CloseReason::RepliesUnread);
        }
    }

    /// Moves what its rooms have for a connection into its outbox, ahead of what is sent to it next; `bytes_max` at most.
    fn settle(&mut self, slot: u32, bytes_max: usize) {
        if self.connection(slot).life.is_open() {
            self.drain_inbox();
            self.connections[slot as usize].settle(&self.rooms, bytes_max);
        }
    }

    /// A chat room by name. The connection's own rooms are tried first: that costs neither a normalization of the name nor the
    /// registry's lock.
    fn room_of(&self, slot: u32, name: &str) -> Option<Arc<Room>> {
        let memberships = &self.connections[slot as usize].memberships;
        let own = memberships.iter().map(|membership| &self.rooms.get(membership.room).room);
        own.into_iter().find(|room| room.name() == name).cloned().or_else(|| {
            let name = Name::room(name).ok()?;
            self.registry.get(Namespace::Chat, &name).or_else(|| self.elsewhere.found(&name))
        })
    }

    fn is_member(&self, slot: u32, room: &Room) -> bool {
        let memberships = &self.connections[slot as usize].memberships;
        memberships.iter().any(|membership| self.rooms.get(membership.room).room.id() == room.id())
    }
}
