//! Inboxes between shards: one encoded frame goes from the shard where it is published to every shard with members.
//!
//! A push holds the inbox's lock just long enough to append to a vector, and a drain swaps the vector out. The receiving shard
//! is woken through its eventfd, once per drain.
//!
//! Publishers are held back before an inbox is full: each checks [`Pressure::is_congested`] before each message, and waits
//! while any inbox holds [`INBOX_BYTES_HELD`]. The messages that pass this check at the same moment on all other threads still
//! fit (see [`inbox_bytes_max`]), so a full inbox is a fault, not a normal state. If a frame finds one anyway, it is dropped
//! and counted, and the inbox remembers up to which `Seq` the room has lost frames. When the inbox is drained, the tip of the
//! room's log moves, and the members are told.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{Placed, Room};
use crate::limits::{ENVELOPE_BYTES_MAX, INBOX_BYTES_HELD, NOTICE_BYTES_MAX, ORDERS_MAX, SHARD_TIME_MAX};
use crate::protocol::MemberId;
use crate::protocol::name::Name;

/// Bytes that a relay costs on top of its frame: itself, in a vector that doubles, and the frame's allocation with its
/// reference count.
const RELAY_OVERHEAD_BYTES: usize = 2 * size_of::<Relay>() + 64;

/// Capacity of one of `shards` inboxes in bytes of relays, if no message is larger than `message_bytes_max`: what is there when
/// publishers are held back, plus one message from each shard and from the internal port. `deflates`: relays may carry the
/// compressed form, too.
pub(crate) const fn inbox_bytes_max(shards: usize, message_bytes_max: usize, deflates: bool) -> usize {
    let forms = if deflates { 2 } else { 1 };
    let relay_bytes_max = forms * (message_bytes_max + ENVELOPE_BYTES_MAX) + RELAY_OVERHEAD_BYTES;
    INBOX_BYTES_HELD + (shards + 1) * relay_bytes_max + NOTICE_BYTES_MAX
}

/// A frame on its way to a shard's log of a room.
#[derive(Clone, Debug)]
pub struct Relay {
    /// Number of the room that it was published to.
    pub room: u64,
    /// Epoch of that room.
    pub epoch: u64,
    /// Position in the room's order.
    pub seq: u64,
    /// The whole frame, header and payload, as members receive it.
    pub frame: Bytes,
    /// Its compressed form, for the shards that need it: whichever comes first makes it for all. Only there if the room had
    /// such a member when it was published.
    pub deflated: Option<Arc<OnceLock<Bytes>>>,
    /// When the message was received, if its deliveries are timed.
    pub received: Option<Instant>,
}

impl Relay {
    /// The compressed form, made by `deflate` unless another shard has done it. Two shards that come at the same time both do
    /// it: that takes no longer than waiting for each other would.
    pub(super) fn deflated(&self, deflate: impl FnOnce(&Bytes) -> Bytes) -> Bytes {
        let shared = self.deflated.as_deref();
        let made = shared.and_then(OnceLock::get).cloned().unwrap_or_else(|| deflate(&self.frame));
        if let Some(shared) = shared {
            let _ = shared.set(made.clone());
        }
        made
    }

    /// Bytes that it takes in an inbox. The compressed form counts as much as the frame, which is never shorter.
    fn bytes(&self) -> usize {
        let forms = 1 + usize::from(self.deflated.is_some());
        forms * self.frame.len() + RELAY_OVERHEAD_BYTES
    }
}

/// An order to close the connections of a user.
#[derive(Debug)]
pub struct Disconnect {
    /// The user whose connections are closed.
    pub user: Name,
    /// If given, only connections in this chat room are closed.
    pub room: Option<Name>,
    /// The reason that the clients are told.
    pub reason: Arc<str>,
    /// Receives the number of closed connections.
    pub closed: oneshot::Sender<usize>,
}

/// What became of a message that got its number elsewhere.
pub type Outcome = Result<Placed, Unavailable>;

/// A room that several servers share; `None` if nobody is in it.
pub type Found = Result<Option<Arc<Room>>, Unavailable>;

/// The shared log could not be reached in time: the message may have been published or not, and nobody has joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unavailable;

/// How a connection has got its name in a room that several servers share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// The name was free, or that of a connection of this server, which the room knows.
    Free,
    /// It was that of the same client's lost connection to another server, which then never leaves.
    TakenOver,
}

/// Why a connection may not join a room that several servers share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotOpened {
    /// Another member has its name, here or on another server.
    NameTaken,
    /// The shared log could not be reached in time.
    Unavailable,
}

/// Something that a shard is asked to do with its own connections.
#[derive(Debug)]
pub enum Order {
    /// Close the connections of a user, on behalf of the internal port.
    Disconnect(Disconnect),
    /// Close this connection of this user with 4003: a newer connection has taken over.
    TakeOver {
        /// The connection to close.
        member: MemberId,
        /// The user that it has to belong to.
        user: Name,
    },
    /// Tell a publisher what became of its message. Comes after the message itself.
    Settled {
        /// The number of the message: see [`Published::Sent`](super::Published::Sent).
        number: u64,
        /// Its place in the order.
        outcome: Outcome,
    },
    /// The room that this connection waits for is there, or can't be had.
    Opened {
        /// The connection.
        member: MemberId,
        /// The room, loaded, and how the connection has got its name there.
        room: Result<(Arc<Room>, Claimed), NotOpened>,
    },
    /// The room that this connection has asked about, and that had no members here.
    Found {
        /// The connection.
        member: MemberId,
        /// The room, loaded.
        room: Found,
        /// Whether another one has the connection's name there, although the room doesn't know it.
        name_is_taken: bool,
    },
    /// Close this connection with 4002, unless it has left the room: somebody has got its name there while this server was cut off.
    NameLost {
        /// The connection.
        member: MemberId,
        /// The room.
        room: Arc<Room>,
    },
    /// Tell all members of this room that it has begun a new life: nothing that they know of it counts any more.
    Renewed {
        /// The room.
        room: Arc<Room>,
        /// The first message of the new life.
        first_seq: u64,
    },
    /// Tell all members of chat rooms that the shared log can't be reached, or is there again.
    Away(bool),
}

/// A shard is behind and has not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

/// Closes the connections of a user on all shards, those in one room or all, and returns how many there were.
///
/// # Errors
/// A shard has not answered in time.
pub async fn disconnect(inboxes: &[Inbox], user: &Name, room: Option<&Name>, reason: &Arc<str>) -> Result<usize, Busy> {
    let ask = |inbox: &Inbox| {
        let (closed, answer) = oneshot::channel();
        let (user, room, reason) = (user.clone(), room.cloned(), Arc::clone(reason));
        match inbox.order(Order::Disconnect(Disconnect { user, room, reason, closed })) {
            Pushed::Wake => inbox.wake(),
            Pushed::Awake => {}
            Pushed::Full => return Err(Busy),
        }
        Ok(answer)
    };
    let answers: Vec<_> = inboxes.iter().map(ask).collect();
    let mut closed = 0;
    for answer in answers {
        closed += timeout(SHARD_TIME_MAX, answer?).await.map_err(|_| Busy)?.unwrap_or(0);
    }
    Ok(closed)
}

/// The outcome of a push.
#[derive(Debug, PartialEq, Eq)]
pub enum Pushed {
    /// The shard has to be woken: call [`Inbox::wake`] once the turn's pushes are done.
    Wake,
    /// Somebody else has woken the shard, or will.
    Awake,
    /// Too many orders are waiting: this one was dropped.
    Full,
}

#[derive(Debug, Default)]
struct Queue {
    relays: Vec<Relay>,
    /// Up to which `Seq` frames of a room were dropped since the last drain: one entry per room, so this always fits.
    lost: Vec<Lost>,
}

impl Queue {
    fn lose(&mut self, room: u64, seq: u64) {
        match self.lost.iter_mut().find(|lost| lost.room == room) {
            Some(lost) => lost.last_seq = seq,
            None => self.lost.push(Lost { room, last_seq: seq }),
        }
    }
}

/// Frames of a room that were dropped because the inbox was full, or that have been lost on their way from a shared log.
#[derive(Debug)]
pub struct Lost {
    /// Number of the room that lost them.
    pub room: u64,
    /// `Seq` of the last dropped frame.
    pub last_seq: u64,
}

/// What publishers need to know about all shards, without a lock: whether to wait, and whether some shard has to be woken
/// afterwards.
#[derive(Debug, Default)]
pub struct Pressure {
    /// Number of inboxes that hold [`INBOX_BYTES_HELD`] or more.
    congested: AtomicUsize,
    /// Whether a shard is asleep with input that it may not read yet.
    waiting: AtomicBool,
}

impl Pressure {
    /// Whether some inbox is congested: the next message has to wait.
    pub(crate) fn is_congested(&self) -> bool {
        self.congested.load(Ordering::SeqCst) > 0
    }

    /// From now on [`Pressure::released`] wakes every shard. The caller then checks once more what it waits for: whichever of
    /// the two comes second sees the other.
    pub(crate) fn wait(&self) {
        self.waiting.store(true, Ordering::SeqCst);
    }

    /// Whether something else than an inbox is congested, from now on.
    pub(crate) fn congest(&self, is_congested: bool) {
        if is_congested {
            self.congested.fetch_add(1, Ordering::SeqCst);
        } else {
            self.congested.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Called when something that publishers may wait for is over: wakes shards that are asleep with input.
    pub fn released(&self, inboxes: &[Inbox]) {
        if self.waiting.load(Ordering::SeqCst) && self.waiting.swap(false, Ordering::SeqCst) {
            inboxes.iter().for_each(Inbox::wake);
        }
    }
}

/// The bounded queue of relays for one shard, and the orders for it.
#[derive(Debug)]
pub struct Inbox {
    queue: Mutex<Queue>,
    /// Bytes of relays that wait, including their overhead; changed under the queue's lock.
    bytes: AtomicUsize,
    orders: Mutex<Vec<Order>>,
    /// Whether there are orders, so that draining takes their lock only then.
    ordered: AtomicBool,
    bytes_max: usize,
    /// True from the push that asks for a wake-up to the drain that follows.
    woken: AtomicBool,
    dropped: AtomicU64,
    orders_dropped: AtomicU64,
    pressure: Arc<Pressure>,
    wake: Wake,
}

/// Wakes a sleeping shard; can be called from any thread.
pub struct Wake(pub Box<dyn Fn() + Send + Sync>);

impl fmt::Debug for Wake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wake(..)")
    }
}

/// Makes one empty inbox per shard, with the function that wakes the shard. Each holds at most `bytes_max`; see
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

    /// The state that all inboxes made together share.
    pub fn pressure(&self) -> &Pressure {
        &self.pressure
    }

    /// Appends a relay. Called under the room's lock, so that all inboxes agree on the room's order.
    pub(crate) fn push(&self, relay: Relay) -> Pushed {
        let cost = relay.bytes();
        {
            let mut queue = self.queue.lock().expect(UNPOISONED);
            let before = self.bytes.load(Ordering::Relaxed);
            // A frame larger than the bound still fits into an empty inbox.
            if before + cost > self.bytes_max && before > 0 {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                queue.lose(relay.room, relay.seq);
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

    /// Whether it holds enough for publishers to wait.
    pub fn is_full(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) >= INBOX_BYTES_HELD
    }

    /// The frame `seq` of a room will never come.
    pub(crate) fn lose(&self, room: u64, seq: u64) -> Pushed {
        self.queue.lock().expect(UNPOISONED).lose(room, seq);
        if self.woken.swap(true, Ordering::AcqRel) { Pushed::Awake } else { Pushed::Wake }
    }

    /// Gives the shard an order.
    pub fn order(&self, order: Order) -> Pushed {
        let waiting = self.orders.lock().expect(UNPOISONED).len();
        if waiting >= ORDERS_MAX {
            self.orders_dropped.fetch_add(1, Ordering::Relaxed);
            return Pushed::Full;
        }
        self.answer(order)
    }

    /// Gives the shard an order that it waits for: there are no more of them than it has asked for.
    pub(crate) fn answer(&self, order: Order) -> Pushed {
        self.orders.lock().expect(UNPOISONED).push(order);
        self.ordered.store(true, Ordering::Release);
        if self.woken.swap(true, Ordering::AcqRel) { Pushed::Awake } else { Pushed::Wake }
    }

    /// Whether there are orders to take.
    pub(crate) fn has_orders(&self) -> bool {
        self.ordered.load(Ordering::Acquire)
    }

    /// Takes all orders. Called after [`Inbox::drain`], which resets the wake-up for orders as well.
    pub(crate) fn take_orders(&self) -> Vec<Order> {
        if !self.has_orders() || !self.ordered.swap(false, Ordering::AcqRel) {
            return Vec::new();
        }
        std::mem::take(&mut self.orders.lock().expect(UNPOISONED))
    }

    /// Moves all relays, in order, into `relays`, and what was dropped after them into `lost`; both have to be empty. True:
    /// this inbox was congested, so the caller has to call [`Pressure::released`].
    pub fn drain(&self, relays: &mut Vec<Relay>, lost: &mut Vec<Lost>) -> bool {
        debug_assert!(relays.is_empty() && lost.is_empty());
        // First the flag, then the queue: a push in between causes one wake-up too many, never one too few.
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

    /// Bytes of relays that wait, including their overhead.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Wakes the shard if it is asleep.
    pub fn wake(&self) {
        (self.wake.0)();
    }

    /// Number of frames dropped because the inbox was full.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Number of orders dropped because too many were waiting.
    pub(crate) fn orders_dropped(&self) -> u64 {
        self.orders_dropped.load(Ordering::Relaxed)
    }
}

const UNPOISONED: &str = "an inbox's lock is never held across a panic";

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
