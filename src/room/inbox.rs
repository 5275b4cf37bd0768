//! Inboxes between shards: one encoded frame goes from the shard that published it to every shard with members.
//!
//! A push takes the inbox's lock for as long as it takes to append to a vector; draining swaps the vector out. The
//! receiving shard is woken through its eventfd, once until it drains.
//!
//! Publishers are held back first: whoever publishes asks [`Pressure::is_congested`] before each message, and waits while
//! any inbox holds [`INBOX_BYTES_HELD`]. What passes that question at the same moment on every other thread still fits
//! (see [`inbox_bytes_max`]), so a full inbox is a fault, not a state of operation. A frame that finds one all the same is
//! dropped and counted, and the inbox remembers up to which `Seq` its room has lost frames: the room's log moves its tip
//! when the inbox is drained, and its members are told.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::limits::{ENVELOPE_BYTES_MAX, INBOX_BYTES_HELD, NOTICE_BYTES_MAX, ORDERS_MAX};
use crate::protocol::MemberId;
use crate::protocol::name::Name;

/// Bytes that a relay takes beside its frame: itself, in a vector that doubles, and the frame's own allocation with its
/// reference count.
const RELAY_OVERHEAD_BYTES: usize = 2 * size_of::<Relay>() + 64;

/// Bytes of relays that one of `shards` inboxes can hold, if no message is larger than `message_bytes_max`: what is there
/// when publishers are held back, and one more message of each shard and of the internal port.
pub const fn inbox_bytes_max(shards: usize, message_bytes_max: usize) -> usize {
    let relay_bytes_max = message_bytes_max + ENVELOPE_BYTES_MAX + RELAY_OVERHEAD_BYTES;
    INBOX_BYTES_HELD + (shards + 1) * relay_bytes_max + NOTICE_BYTES_MAX
}

/// A frame on its way into a shard's log of a room.
#[derive(Clone, Debug)]
pub struct Relay {
    /// The number of the room that it was published to.
    pub room: u64,
    /// Which life of the room.
    pub epoch: u64,
    /// Its place in the room's order.
    pub seq: u64,
    /// Header and payload, as they leave.
    pub frame: Bytes,
    /// When the message was received, if its deliveries are to be timed.
    pub received: Option<Instant>,
}

/// The order to close the connections of a user.
#[derive(Debug)]
pub struct Disconnect {
    /// Whose.
    pub user: Name,
    /// Only those that are in this chat room.
    pub room: Option<Name>,
    /// What they are told.
    pub reason: Arc<str>,
    /// Told how many were closed.
    pub closed: oneshot::Sender<usize>,
}

/// Something that others ask a shard to do with connections of its own.
#[derive(Debug)]
pub enum Order {
    /// Close the connections of a user: the internal port asks.
    Disconnect(Disconnect),
    /// Close this connection of this user with 4003: a newer one has taken over.
    TakeOver {
        /// The connection.
        member: MemberId,
        /// Whose it has to be.
        user: Name,
    },
}

/// What a push came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Pushed {
    /// The shard isn't told yet: call [`Inbox::wake`] once the turn's pushes are done.
    Wake,
    /// Somebody has woken it, or will.
    Awake,
    /// Too many orders wait: dropped.
    Full,
}

#[derive(Debug, Default)]
struct Queue {
    relays: Vec<Relay>,
    /// Up to which `Seq` a room's frames were dropped since the last drain: one entry a room, so that it always fits.
    lost: Vec<Lost>,
}

impl Queue {
    fn lose(&mut self, relay: Relay) {
        match self.lost.iter_mut().find(|lost| lost.room == relay.room) {
            Some(lost) => lost.last_seq = relay.seq,
            None => self.lost.push(Lost { room: relay.room, last_seq: relay.seq }),
        }
    }
}

/// Frames of a room that found the inbox full.
#[derive(Debug)]
pub struct Lost {
    /// The number of the room.
    pub room: u64,
    /// `Seq` of the last frame that was dropped.
    pub last_seq: u64,
}

/// What publishers have to know of all shards at once, without a lock: whether to hold back, and which shards have to be
/// told when that is over.
#[derive(Debug, Default)]
pub struct Pressure {
    /// Inboxes that hold [`INBOX_BYTES_HELD`] or more.
    congested: AtomicUsize,
    /// Whether a shard sleeps with input that it must not read yet.
    waiting: AtomicBool,
}

impl Pressure {
    /// Whether some shard is behind with what all publish: the next message has to wait.
    pub fn is_congested(&self) -> bool {
        self.congested.load(Ordering::SeqCst) > 0
    }

    /// From now on [`Pressure::released`] wakes every shard. The caller then looks again at what it waits for: whichever
    /// of the two comes second sees the other.
    pub fn wait(&self) {
        self.waiting.store(true, Ordering::SeqCst);
    }

    /// Something is over that publishers may wait for: shards that sleep with held input are woken.
    pub fn released(&self, inboxes: &[Inbox]) {
        if self.waiting.load(Ordering::SeqCst) && self.waiting.swap(false, Ordering::SeqCst) {
            inboxes.iter().for_each(Inbox::wake);
        }
    }
}

/// The bounded queue of relays into one shard.
#[derive(Debug)]
pub struct Inbox {
    queue: Mutex<Queue>,
    /// Bytes that wait, as they count in memory; changed under the queue's lock.
    bytes: AtomicUsize,
    orders: Mutex<Vec<Order>>,
    /// Whether there are orders: nearly always there are none.
    ordered: AtomicBool,
    bytes_max: usize,
    /// True from the push that promised a wake-up to the drain that answers it.
    woken: AtomicBool,
    dropped: AtomicU64,
    orders_dropped: AtomicU64,
    pressure: Arc<Pressure>,
    wake: Wake,
}

/// Wakes a shard that sleeps, from any thread.
pub struct Wake(pub Box<dyn Fn() + Send + Sync>);

impl fmt::Debug for Wake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wake(..)")
    }
}

/// Empty inboxes, one for each shard, with what wakes it. Each holds at most `bytes_max`; see
/// [`inbox_bytes_max`].
pub fn inboxes<W: Into<Wake>>(wakes: impl IntoIterator<Item = W>, bytes_max: usize) -> Arc<[Inbox]> {
    let pressure = Arc::<Pressure>::default();
    wakes.into_iter().map(|wake| Inbox::new(wake.into(), bytes_max, Arc::clone(&pressure))).collect()
}

impl Inbox {
    fn new(wake: Wake, bytes_max: usize, pressure: Arc<Pressure>) -> Self {
        Self {
            queue: Mutex::default(),
            bytes: AtomicUsize::new(0),
            orders: Mutex::default(),
            ordered: AtomicBool::new(false),
            bytes_max,
            woken: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
            orders_dropped: AtomicU64::new(0),
            pressure,
            wake,
        }
    }

    /// What all inboxes made together share.
    pub fn pressure(&self) -> &Pressure {
        &self.pressure
    }

    /// Appends a relay. Called under the room's lock, so that all inboxes agree on the room's order.
    pub fn push(&self, relay: Relay) -> Pushed {
        let cost = relay.frame.len() + RELAY_OVERHEAD_BYTES;
        {
            let mut queue = self.queue.lock().expect(UNPOISONED);
            let before = self.bytes.load(Ordering::Relaxed);
            // A frame larger than the bound still passes an empty inbox.
            if before + cost > self.bytes_max && before > 0 {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                queue.lose(relay);
            } else {
                self.bytes.store(before + cost, Ordering::Relaxed);
                if before < INBOX_BYTES_HELD && before + cost >= INBOX_BYTES_HELD {
                    self.pressure.congested.fetch_add(1, Ordering::SeqCst);
                }
                queue.relays.push(relay);
            }
        }
        if self.woken.swap(true, Ordering::AcqRel) { Pushed::Awake } else { Pushed::Wake }
    }

    /// Asks the shard for something.
    pub fn order(&self, order: Order) -> Pushed {
        {
            let mut orders = self.orders.lock().expect(UNPOISONED);
            if orders.len() >= ORDERS_MAX {
                self.orders_dropped.fetch_add(1, Ordering::Relaxed);
                return Pushed::Full;
            }
            orders.push(order);
        }
        self.ordered.store(true, Ordering::Release);
        if self.woken.swap(true, Ordering::AcqRel) { Pushed::Awake } else { Pushed::Wake }
    }

    /// Whether orders wait.
    pub fn has_orders(&self) -> bool {
        self.ordered.load(Ordering::Acquire)
    }

    /// Takes the orders that wait. To be called after [`Inbox::drain`], which answers the wake-up for them, too.
    pub fn take_orders(&self) -> Vec<Order> {
        if !self.has_orders() || !self.ordered.swap(false, Ordering::AcqRel) {
            return Vec::new();
        }
        std::mem::take(&mut self.orders.lock().expect(UNPOISONED))
    }

    /// Takes everything that waits, in order, into `relays`, which has to be empty; and what was dropped behind it. Returns
    /// whether publishers were held back by what waited here: [`Pressure::released`] tells them.
    pub fn drain(&self, relays: &mut Vec<Relay>, lost: &mut Vec<Lost>) -> bool {
        debug_assert!(relays.is_empty() && lost.is_empty());
        // First the flag, then the queue: a push in between wakes the shard once too often, never once too little.
        if !self.woken.swap(false, Ordering::AcqRel) {
            return false;
        }
        let mut queue = self.queue.lock().expect(UNPOISONED);
        std::mem::swap(&mut queue.relays, relays);
        std::mem::swap(&mut queue.lost, lost);
        let was_congested = self.bytes.swap(0, Ordering::Relaxed) >= INBOX_BYTES_HELD;
        if was_congested {
            self.pressure.congested.fetch_sub(1, Ordering::SeqCst);
        }
        was_congested
    }

    /// Bytes that wait, as they count in memory.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Wakes the shard.
    pub fn wake(&self) {
        (self.wake.0)();
    }

    /// Frames dropped because the inbox was full.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Orders dropped because too many waited.
    pub fn orders_dropped(&self) -> u64 {
        self.orders_dropped.load(Ordering::Relaxed)
    }
}

const UNPOISONED: &str = "an inbox's lock is never held over a panic";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_beyond_the_bound_are_dropped_and_counted() {
        let inbox = &inboxes([Wake(Box::new(|| {}))], 1)[0];
        let order = || {
            inbox.order(Order::TakeOver {
                member: MemberId { shard: 0, slot: 0, serial: 1 },
                user: Name::user("ann").unwrap(),
            })
        };
        assert_eq!(order(), Pushed::Wake);
        assert!((1..ORDERS_MAX).all(|_| order() == Pushed::Awake));
        assert_eq!((order(), order(), inbox.orders_dropped()), (Pushed::Full, Pushed::Full, 2));
        assert_eq!(inbox.take_orders().len(), ORDERS_MAX);
        assert_eq!((order(), inbox.orders_dropped()), (Pushed::Awake, 2));
    }
}
