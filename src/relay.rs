//! Inboxes between shards: one encoded frame goes from the shard that published it to every shard with members.
//!
//! A push takes the inbox's lock for as long as it takes to append to a vector; draining swaps the vector out. The
//! receiving shard is woken through its eventfd, once until it drains. An inbox is bounded in bytes: a frame that finds
//! it full is dropped there and counted, and the room's log on that shard sees the hole in `Seq` and tells its members
//! (see [`crate::room::log::Log::append`]).

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::os;
use crate::protocol::name::Name;
use crate::room::{MemberId, Room};

/// Bytes of frames that may wait in one inbox.
pub const INBOX_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Orders that may wait in one inbox. One that is lost does no harm: the connection that it was for ends by its pings, and
/// the internal port tells whom it answers to ask again.
const ORDERS_MAX: usize = 16_384;
/// What a frame counts beside its bytes.
const RELAY_OVERHEAD_BYTES: usize = size_of::<Relay>();

/// A frame on its way into a shard's log of a room.
#[derive(Debug)]
pub struct Relay {
    /// The room that it was published to.
    pub room: Arc<Room>,
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
    /// The inbox was full: dropped.
    Full,
}

#[derive(Debug, Default)]
struct Queue {
    relays: Vec<Relay>,
    bytes: usize,
}

/// The bounded queue of relays into one shard.
#[derive(Debug)]
pub struct Inbox {
    queue: Mutex<Queue>,
    orders: Mutex<Vec<Order>>,
    /// Whether there are orders: nearly always there are none.
    ordered: AtomicBool,
    bytes_max: usize,
    /// True from the push that promised a wake-up to the drain that answers it.
    woken: AtomicBool,
    dropped: AtomicU64,
    orders_dropped: AtomicU64,
    wake_up: OwnedFd,
}

impl Inbox {
    /// An empty inbox; `wake_up` is the eventfd that the shard waits for.
    pub fn new(wake_up: OwnedFd, bytes_max: usize) -> Self {
        Self {
            queue: Mutex::default(),
            orders: Mutex::default(),
            ordered: AtomicBool::new(false),
            bytes_max,
            woken: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
            orders_dropped: AtomicU64::new(0),
            wake_up,
        }
    }

    /// Appends a relay. Called under the room's lock, so that all inboxes agree on the room's order.
    pub fn push(&self, relay: Relay) -> Pushed {
        let cost = relay.frame.len() + RELAY_OVERHEAD_BYTES;
        {
            let mut queue = self.queue.lock().expect("an inbox's lock is never held over a panic");
            // A frame larger than the bound still passes an empty inbox.
            if queue.bytes + cost > self.bytes_max && !queue.relays.is_empty() {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                return Pushed::Full;
            }
            queue.bytes += cost;
            queue.relays.push(relay);
        }
        if self.woken.swap(true, Ordering::AcqRel) { Pushed::Awake } else { Pushed::Wake }
    }

    /// Asks the shard for something.
    pub fn order(&self, order: Order) -> Pushed {
        {
            let mut orders = self.orders.lock().expect("an inbox's lock is never held over a panic");
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
        std::mem::take(&mut self.orders.lock().expect("an inbox's lock is never held over a panic"))
    }

    /// Takes everything that waits, in order, into `relays`, which has to be empty.
    pub fn drain(&self, relays: &mut Vec<Relay>) {
        debug_assert!(relays.is_empty());
        // First the flag, then the queue: a push in between wakes the shard once too often, never once too little.
        self.woken.store(false, Ordering::Release);
        let mut queue = self.queue.lock().expect("an inbox's lock is never held over a panic");
        queue.bytes = 0;
        std::mem::swap(&mut queue.relays, relays);
    }

    /// Bytes that wait, with their overhead.
    pub fn bytes(&self) -> usize {
        self.queue.lock().expect("an inbox's lock is never held over a panic").bytes
    }

    /// Whether it is more than half full: publishers on other shards hold back until it is drained.
    pub fn is_congested(&self) -> bool {
        self.bytes() > self.bytes_max / 2
    }

    /// Wakes the shard.
    pub fn wake(&self) {
        os::eventfd_signal(&self.wake_up);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_beyond_the_bound_are_dropped_and_counted() {
        let inbox = Inbox::new(os::new_eventfd().unwrap(), 1);
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
