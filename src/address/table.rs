//! What each address uses of what it may use: connections, handshakes, chat messages. One table for the whole process, in parts
//! with a lock of their own.
//!
//! An IPv6 address counts with its whole /64 network, as one customer has at least that. Nothing here is on the way of a message
//! to its readers. An entry is forgotten once its address has no connection and could do all again that it may do at once.

use std::array::from_fn;
use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use slab::Slab;

use super::networks::Networks;
use crate::limits::{ADDRESS_IDLE_SECONDS, ADDRESS_LOOKS, ADDRESS_PARTS, ADDRESS_RETRY_SECONDS, ADDRESSES_MAX};
use crate::rate::{Admitted, Bucket, RateLimit};
use crate::words::words;

/// The clock of handshakes runs this much slower than that of messages, as they are limited per minute.
const MINUTE: u64 = 60;

words! {
    /// What an address has too many of.
    pub enum AddressLimit {
        /// Open WebSockets and streams.
        Connections = "connections",
        /// Handshakes in a minute, those that fail counted twice.
        Handshakes = "handshakes",
        /// Chat messages in a second.
        Messages = "messages",
    }
}

/// What addresses may use.
#[derive(Clone, Debug)]
pub struct AddressLimits {
    /// Open connections; 0 is no limit.
    pub connections_max: u32,
    /// Handshakes in a minute; 0 is no limit.
    pub handshakes: RateLimit,
    /// Whether chat messages are limited, too: how many there may be is a setting of shards.
    pub messages: bool,
    /// Addresses without limits.
    pub unlimited: Networks,
}

/// An address is over a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excess {
    /// Which one.
    pub limit: AddressLimit,
    /// What the limit is.
    pub max: u32,
    /// The address, or the network that counts as one.
    pub network: String,
    /// When to try again, in seconds.
    pub retry_after: u64,
}

/// The part of an address that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Network {
    V4(u32),
    V6(u64),
}

impl Network {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.to_bits()),
            IpAddr::V6(address) => Self::V6((address.to_bits() >> 64) as u64),
        }
    }
}

#[derive(Debug)]
struct Entry {
    network: Network,
    connections: u32,
    handshakes: Bucket,
    /// `None` until its first message.
    messages: Option<Bucket>,
    /// When it was last used, in seconds.
    used: u32,
}

#[derive(Debug, Default)]
struct Part {
    index: HashMap<Network, usize>,
    entries: Slab<Entry>,
    /// Where to look next for an entry to forget.
    hand: usize,
}

/// See the module.
#[derive(Debug)]
pub struct AddressTable {
    parts: [Mutex<Part>; ADDRESS_PARTS],
    hasher: RandomState,
    /// What was refused, by limit.
    refused: [AtomicU64; AddressLimit::ALL.len()],
    /// Handshakes of addresses for which there was no entry.
    untracked: AtomicU64,
}

/// A connection of an address that has limits. It counts until this is dropped.
#[derive(Debug)]
pub struct Seat {
    table: Arc<AddressTable>,
    id: Option<SeatId>,
}

/// A connection that counts until [`AddressTable::leave`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SeatId(NonZeroU32);

impl Seat {
    /// What a connection keeps of it: four bytes.
    pub(crate) fn keep(mut self) -> Option<SeatId> {
        self.id.take()
    }

    /// The handshake has failed: it counts twice, so that clients that only fail are limited sooner.
    pub(crate) fn fail(self, limits: &AddressLimits, now_ms: u64) {
        let entry = |entry: &mut Entry| entry.handshakes.take(&limits.handshakes, now_ms / MINUTE);
        self.id.map(|id| self.table.with(id, entry));
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.table.leave(id);
        }
    }
}

impl Default for AddressTable {
    fn default() -> Self {
        Self {
            parts: from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            refused: from_fn(|_| AtomicU64::new(0)),
            untracked: AtomicU64::new(0),
        }
    }
}

impl AddressTable {
    /// A handshake from this address. `None`: it has no limits.
    ///
    /// # Errors
    /// It has had too many lately, or has too many connections.
    pub fn enter(
        self: &Arc<Self>,
        address: IpAddr,
        limits: &AddressLimits,
        now_ms: u64,
    ) -> Result<Option<Seat>, Excess> {
        if limits.is_off() || limits.unlimited.contains(address) {
            return Ok(None);
        }
        let network = Network::of(address);
        let number = self.hasher.hash_one(network) as usize % ADDRESS_PARTS;
        let mut part = self.part(number);
        let Some(at) = part.find_or_add(network, limits, now_ms) else {
            self.untracked.fetch_add(1, Ordering::Relaxed);
            return Ok(None);
        };
        let entry = &mut part.entries[at];
        entry.used = seconds(now_ms);
        let excess = if entry.handshakes.take(&limits.handshakes, now_ms / MINUTE) != Admitted::Pass {
            let wait_ms = entry.handshakes.wait_ms(&limits.handshakes) * MINUTE;
            (AddressLimit::Handshakes, limits.handshakes.per_second(), wait_ms.div_ceil(1000))
        } else if entry.connections >= limits.connections_max && limits.connections_max > 0 {
            (AddressLimit::Connections, limits.connections_max, ADDRESS_RETRY_SECONDS)
        } else {
            entry.connections += 1;
            let id = NonZeroU32::new((at * ADDRESS_PARTS + number) as u32 + 1).map(SeatId);
            return Ok(Some(Seat { table: Arc::clone(self), id }));
        };
        let (limit, max, retry_after) = excess;
        self.count(limit);
        Err(Excess { limit, max, network: network.to_string(), retry_after })
    }

    /// Whether a chat message of a connection is within what its address may send.
    pub(crate) fn admits_message(&self, id: SeatId, limit: &RateLimit, now_ms: u64) -> bool {
        let admitted = self.with(id, |entry| {
            entry.used = seconds(now_ms);
            entry.messages.get_or_insert_with(|| Bucket::new(limit, now_ms)).take(limit, now_ms)
        });
        if admitted != Admitted::Pass {
            self.count(AddressLimit::Messages);
        }
        admitted == Admitted::Pass
    }

    /// The end of a connection.
    pub(crate) fn leave(&self, id: SeatId) {
        self.with(id, |entry| entry.connections -= 1);
    }

    /// Addresses that have an entry.
    pub(crate) fn len(&self) -> usize {
        (0..ADDRESS_PARTS).map(|number| self.part(number).entries.len()).sum()
    }

    /// What was refused because of this limit.
    pub(crate) fn refused(&self, limit: AddressLimit) -> u64 {
        self.refused[limit as usize].load(Ordering::Relaxed)
    }

    /// Handshakes that were not limited, since the table was full.
    pub(crate) fn untracked(&self) -> u64 {
        self.untracked.load(Ordering::Relaxed)
    }

    fn count(&self, limit: AddressLimit) {
        self.refused[limit as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn with<T>(&self, SeatId(id): SeatId, act: impl FnOnce(&mut Entry) -> T) -> T {
        let id = id.get() as usize - 1;
        act(&mut self.part(id % ADDRESS_PARTS).entries[id / ADDRESS_PARTS])
    }

    fn part(&self, number: usize) -> MutexGuard<'_, Part> {
        // A panic ends the process; until then the counts are as good as ever.
        self.parts[number].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Part {
    /// The entry of a network. `None`: there are too many in use.
    fn find_or_add(&mut self, network: Network, limits: &AddressLimits, now_ms: u64) -> Option<usize> {
        if let Some(at) = self.index.get(&network) {
            return Some(*at);
        }
        self.forget_some(seconds(now_ms));
        if self.entries.len() >= ADDRESSES_MAX / ADDRESS_PARTS {
            return None;
        }
        let handshakes = Bucket::new(&limits.handshakes, now_ms / MINUTE);
        let entry = Entry { network, connections: 0, handshakes, messages: None, used: seconds(now_ms) };
        let at = self.entries.insert(entry);
        self.index.insert(network, at);
        Some(at)
    }

    /// Looks at some entries, and forgets those that nothing would be different without: each new one pays for this.
    fn forget_some(&mut self, now: u32) {
        for _ in 0..ADDRESS_LOOKS {
            self.hand = if self.hand + 1 < self.entries.capacity() { self.hand + 1 } else { 0 };
            let idle = |entry: &&Entry| entry.connections == 0 && now.saturating_sub(entry.used) > ADDRESS_IDLE_SECONDS;
            if let Some(Entry { network, .. }) = self.entries.get(self.hand).filter(idle) {
                self.index.remove(network);
                self.entries.remove(self.hand);
            }
        }
    }
}

impl AddressLimits {
    fn is_off(&self) -> bool {
        self.connections_max == 0 && self.handshakes.per_second() == 0 && !self.messages
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(bits) => Ipv4Addr::from_bits(*bits).fmt(f),
            Self::V6(bits) => write!(f, "{}/64", Ipv6Addr::from_bits(u128::from(*bits) << 64)),
        }
    }
}

fn seconds(ms: u64) -> u32 {
    (ms / 1000) as u32
}

#[cfg(test)]
mod tests;
