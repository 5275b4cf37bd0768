//! One shard: the connections that it accepted, its side of their rooms, and its data ring.
//!
//! - [`turn`]: completions in, frames out, one submission
//! - [`reading`]: whose input is read, how much of it, and which connections have to wait
//! - [`commands`]: what a frame makes happen
//! - `membership`: into a room and out of it
//! - [`rooms`]: the logs and members on this shard
//! - [`stream`]: listeners to server-sent events
//! - [`v1`]: what `hi.v1` adds to a connection's beginning and end
//! - [`ends`]: closing, and what is left of a connection after it
//! - [`memory`]: what a shard gives back when too much is taken
//! - [`time`]: timers, pings, what is due
//! - [`run`]: the thread's life: turns, ticks, stop

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use clap::ValueEnum;
use slab::Slab;

use crate::clock::Now;
use crate::config::Config;
use crate::connection::unread::Parked;
use crate::connection::{Connection, Gap, Role, State};
use crate::memory::Memory;
use crate::metrics::counters::Counters;
use crate::metrics::delivery::Sampler;
use crate::protocol::MemberId;
use crate::protocol::close_code::CloseReason;
use crate::protocol::name::Name;
use crate::protocol::position::Since;
use crate::protocol::v1::{Code, Refusal};
use crate::protocol::{Dialect, broadcast, v0};
use crate::rate::{Bucket, RateLimit};
use crate::relay::Relay;
use crate::ring::DataRing;
use crate::room::registry::Registry;
use crate::room::{JoinError, Room, Wakes};
use crate::wheel::Wheel;

pub mod commands;
pub mod ends;
mod membership;
pub mod memory;
pub mod reading;
pub mod rooms;
pub mod run;
pub mod stream;
pub mod time;
pub mod turn;
pub mod v1;

use rooms::LocalRooms;
pub use v1::Opening;

/// Seconds that a peer has to answer our Close, or to end after we did.
const CLOSE_SECONDS: u32 = 3;
/// Limit, in bytes, of the frames of its rooms that go to a member ahead of a reply.
const SETTLE_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a reply that take a microsecond to be put together.
const REPLY_BYTES_PER_UNIT: usize = 128;
/// Number of different delays after which clients that come while the server stops are told to retry.
const LATE_COMERS: usize = 1000;

/// What happens to a chat member that was too slow and lost messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Slow {
    /// It is told which, and stays.
    Gap,
    /// Its connection is closed (code 4101).
    Close,
}

/// A connection, safe against the reuse of its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    slot: u32,
    serial: u32,
}

/// A connection whose handshake is done.
pub struct Upgraded<S> {
    /// Its socket.
    pub socket: S,
    /// What it is for.
    pub role: Role,
    /// The room that its address names, or that is the default there; in v1, none if it names none.
    pub room: Option<Name>,
    /// How v1 begins; `None` is v0, or a raw room.
    pub opening: Option<Opening>,
    /// What a listener has of the room already, if it reconnects.
    pub since: Option<Since>,
    /// The 101 response, or the head of the stream: leaves in the first send, together with the first frames.
    pub response: Bytes,
    /// What arrived behind the request head.
    pub leftover: Vec<u8>,
}

/// The state of one shard. Everything here runs on its thread, and nothing waits.
pub struct Shard<R> {
    id: usize,
    config: Arc<Config>,
    chat_rate: RateLimit,
    raw_rate: RateLimit,
    registry: Arc<Registry>,
    counters: Arc<Counters>,
    ring: R,
    connections: Slab<Connection>,
    next_serial: u32,
    rooms: LocalRooms,
    /// Connections with something to send, each at most once here and in `lagging`.
    send_queue: VecDeque<Key>,
    /// Those of them that have more to get than one send, or were full.
    lagging: VecDeque<Key>,
    /// Connections that have just said something, in the order of their turns. Whoever has something unread stands here or
    /// in `line`, exactly once.
    newcomers: VecDeque<Key>,
    /// Connections that had their turn and have more to say, or to wait; and those that always have more.
    line: VecDeque<Key>,
    /// Whether somebody in line need not wait.
    someone_may_go_on: bool,
    /// Units of work that are left of a connection's turn: see [`reading`].
    work_left: isize,
    /// A message that the connection whose turn it is could not publish yet.
    parked: Option<Parked>,
    /// Connections whose peers have ended, and of which nothing is unread.
    ends: VecDeque<Key>,
    /// Connections whose receive ended because buffers ran out.
    starved: VecDeque<Key>,
    /// Filled by one send, and emptied again.
    gaps: Vec<Gap>,
    /// Connections that lost something, and have to be told; without a gap: closed.
    laggards: Vec<(u32, Option<Gap>)>,
    wheel: Wheel<Key>,
    /// Timers that have come out of the wheel, with their ticks.
    due: VecDeque<(u32, Key)>,
    /// Rooms with folded notices, and when they are due ([`Time::monotonic_ms`]).
    folded: Vec<(u64, Arc<Room>)>,
    /// Whether no room waits for its last member to reconnect, as of the last tick.
    nobody_sleeps: bool,
    wakes: Wakes,
    now: Now,
    /// When time was last asked for.
    last_tick: u32,
    /// Which messages' deliveries are timed.
    sampler: Sampler,
    stopping: bool,
    memory: Arc<Memory>,
    /// The last call to look at the sum of what is taken that was followed.
    memory_calls: u64,
    /// Whether not all of what had to be given back was, in one turn.
    memory_is_owed: bool,
    /// Emptied and filled again every turn.
    relays: Vec<Relay>,
}

impl<R: DataRing> Shard<R> {
    /// A shard without connections, on the calling thread.
    pub fn new(id: usize, config: Arc<Config>, registry: Arc<Registry>, ring: R, now: Now) -> Self {
        let inbox_bytes_max = config.inbox_bytes_max(registry.inboxes().len());
        Self {
            id,
            chat_rate: config.chat_rate(),
            raw_rate: config.raw_rate(),
            config,
            registry,
            counters: Arc::default(),
            ring,
            connections: Slab::new(),
            next_serial: 0,
            rooms: LocalRooms::new(inbox_bytes_max),
            send_queue: VecDeque::new(),
            lagging: VecDeque::new(),
            newcomers: VecDeque::new(),
            line: VecDeque::new(),
            someone_may_go_on: false,
            work_left: 0,
            parked: None,
            ends: VecDeque::new(),
            starved: VecDeque::new(),
            gaps: Vec::new(),
            laggards: Vec::new(),
            wheel: Wheel::new(now.time.tick()),
            due: VecDeque::new(),
            folded: Vec::new(),
            nobody_sleeps: true,
            wakes: Wakes::default(),
            now,
            last_tick: now.time.tick(),
            sampler: Sampler::default(),
            stopping: false,
            memory: Arc::new(Memory::unlimited()),
            memory_calls: 0,
            memory_is_owed: false,
            relays: Vec::new(),
        }
    }

    /// The same shard, which counts where others can read it.
    pub fn counting_in(self, counters: Arc<Counters>) -> Self {
        Self { counters, ..self }
    }

    /// The same shard, which keeps to a budget that others share. The thread has to be [enrolled](Memory::enroll).
    pub fn keeping_to(self, memory: Arc<Memory>) -> Self {
        Self { memory, ..self }
    }

    /// Where it counts.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// The budget that it keeps to.
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Connections that are not gone yet.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Takes over a socket whose handshake is done, and lets it into the room of its address.
    pub fn adopt(&mut self, upgraded: Upgraded<R::Socket>, now: Now) {
        self.now = now;
        let Upgraded { socket, role, room, opening, since, response, leftover } = upgraded;
        let rate = if matches!(role, Role::Chat { .. }) { &self.chat_rate } else { &self.raw_rate };
        let bucket = Bucket::new(rate, self.now.time.monotonic_ms);
        let namespace = role.namespace();
        self.next_serial = self.next_serial.wrapping_add(1);
        let serial = self.next_serial;
        let slot = self.connections.insert(Connection::new(serial, role, bucket)) as u32;
        self.ring.adopt(slot, socket);
        // Spread by the order of arrival, so that a storm of connects is not followed by storms of pings.
        let spread = (serial.wrapping_mul(0x9e37_79b1) >> 8) % self.config.ping_interval.as_secs() as u32;
        self.schedule(slot, 1 + spread);
        self.connection(slot).respond(response);
        if let Some(opening) = opening {
            self.greet(slot, &opening);
        }
        self.counters.connections(self.connections[slot as usize].speech()).add(1);
        if self.stopping {
            self.send_away(slot, v1::retry_ms(serial as usize % LATE_COMERS, LATE_COMERS));
        } else if let Some(room) = room
            && let Err(JoinError::NameTaken | JoinError::Gone) = self.enter(slot, namespace, &room, since)
        {
            let taken = v0::text::taken(self.connection(slot).user().map(Name::as_str).unwrap_or_default());
            let refusal = match self.connection(slot).dialect {
                Dialect::V0 => broadcast::to_one("hi", "", &taken),
                Dialect::V1 => Refusal::new(Code::NameTaken, taken).frame(None),
            };
            self.reply(slot, refusal);
            self.close(slot, &CloseReason::NameTaken);
        }
        // First: a connection that ends over its first bytes stays until the kernel has given the receive back.
        self.receive(slot);
        if !leftover.is_empty() {
            self.has_said(slot, leftover);
        }
        self.queue(slot);
    }

    /// Closes every connection, and every one that still comes: the server is going away.
    pub fn stop(&mut self, now: Now) {
        self.now = now;
        self.stopping = true;
        let slots: Vec<u32> = self.connections.iter().map(|(slot, _)| slot as u32).collect();
        for (index, slot) in slots.iter().enumerate() {
            self.send_away(*slot, v1::retry_ms(index, slots.len()));
        }
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

    fn is_current(&self, key: Key) -> bool {
        self.connections.get(key.slot as usize).is_some_and(|connection| connection.serial == key.serial)
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
        if self.connection(slot).state == State::Open {
            self.drain_inbox();
            self.connections[slot as usize].settle(&self.rooms, bytes_max);
        }
    }

    /// Puts a connection into the queue to send to, unless it stands there, or must wait.
    fn queue(&mut self, slot: u32) {
        let connection = &mut self.connections[slot as usize];
        if !connection.queued && connection.may_send() {
            connection.queued = true;
            self.send_queue.push_back(Key { slot, serial: connection.serial });
        }
    }

    fn fatal(&self, error: &io::Error) -> ! {
        // A ring that stops working can't be fixed from here, and a dead shard must never be silent.
        tracing::error!(shard = self.id, "the kernel refused the data ring: {error}; hi ends");
        std::process::exit(1)
    }
}
