//! The server of a simulation: N shards and one registry, on one thread. A shard runs when something has woken it, as its
//! thread would, and for one turn at a time.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hi::clock::Now;
use hi::connection::Role;
use hi::connection::latest::Latest;
use hi::counters::{CLOSE_CODES, Compression, Readings, counters};
use hi::frame::OpCode;
use hi::frame::encode;
use hi::memory::{Memory, What};
use hi::protocol::name::Name;
use hi::protocol::position::Since;
use hi::protocol::resume::ResumeKey;
use hi::protocol::{Namespace, Protocol};
use hi::ring::DataRing;
use hi::room::inbox::{self, Disconnect, Inbox, Order, Pushed, Wake};
use hi::room::registry::Registry;
use hi::room::{Payload, Published, Room, Wakes};
use hi::shard::settings::Settings;
use hi::shard::{Shard, Upgraded};
use tokio::sync::oneshot;

use crate::allocations::of_server;
use crate::clock::Clock;
use crate::network::LinkId;
use crate::plan::Plan;
use crate::ring::{Kernel, SimRing};
use crate::shared::{Shared, SimSocket};

/// What stands at the head of every connection.
pub const HEAD: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\n\r\n";
/// What every turn takes, as far as the shard is told.
const TURN_TIME: Duration = Duration::from_millis(3);
/// The first epoch that a room can have.
const EPOCH_BASE: u64 = 0xe000;

/// How a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `/ws`, without a subprotocol.
    V0,
    /// `/ws` with `hi.v1`.
    V1,
    /// `/raw/ROOM`.
    Raw {
        /// Whether it gets its own messages.
        echo: bool,
        /// Whether it skips what it is too slow for.
        lossy: bool,
    },
    /// `/stream/ROOM`.
    Sse,
}

impl Kind {
    /// Where its rooms are.
    pub fn namespace(self) -> Namespace {
        if matches!(self, Self::Raw { .. }) { Namespace::Raw } else { Namespace::Chat }
    }
}

/// A request as the handshake would hand it over.
#[derive(Debug)]
pub struct Request<'a> {
    /// How the client speaks.
    pub kind: Kind,
    /// `?latest=1`, with its interval
    pub latest: Option<Duration>,
    /// The user's name, in chat.
    pub user: &'a str,
    /// The room in the address.
    pub room: Option<&'a str>,
    /// `?resume=`
    pub resume: Option<&'a String>,
    /// `Last-Event-ID`
    pub since: Option<Since>,
    /// Whether it agrees on compression.
    pub deflates: bool,
    /// What came behind the head.
    pub leftover: &'a [u8],
}

/// A shard, and what wakes it.
pub struct Seat {
    shard: RefCell<Shard<SimRing>>,
    /// The scheduler's hold of its ring.
    pub kernel: Kernel,
    /// What it counts.
    readings: Readings,
    awake: Arc<AtomicBool>,
    /// While there are faults: whether its core does something else.
    pauses: Cell<bool>,
}

/// See the module.
pub struct Server {
    seats: Vec<Seat>,
    /// All rooms.
    pub registry: Arc<Registry>,
    /// The budget.
    pub memory: Arc<Memory>,
    clock: Rc<Clock>,
    /// What the rings share.
    pub shared: Rc<Shared>,
}

impl Server {
    /// A server without connections.
    pub fn new(plan: &Plan, shared: Rc<Shared>, clock: Rc<Clock>) -> Self {
        let awake: Vec<Arc<AtomicBool>> = (0..plan.shards).map(|_| Arc::default()).collect();
        let wakes = awake.iter().cloned().map(|awake| Wake(Box::new(move || awake.store(true, Ordering::SeqCst))));
        let inboxes = inbox::inboxes(wakes, plan.inbox_bytes_max);
        let registry = Registry::new(inboxes, EPOCH_BASE, ResumeKey::new(0, [1, 2]), plan.config.replay_bounds());
        let registry = Arc::new(registry.asking(SimRing::peer_has_ended));
        let memory = Arc::new(Memory::new(plan.memory_bytes_max, plan.shards).of_holders_alone());
        let settings = plan.config.shard_settings(plan.shards, "sim".into());
        let settings = Arc::new(Settings { inbox_bytes_max: plan.inbox_bytes_max, ..settings });
        let seat = |(id, awake): (usize, Arc<AtomicBool>)| {
            memory.enroll(id);
            let (ring, kernel) =
                SimRing::new(plan.backend, id, plan.config.receive_buffers, Rc::clone(&shared), Arc::clone(&awake));
            let shard = Shard::new(id, Arc::clone(&settings), Arc::clone(&registry), ring, clock.now());
            let (counters, readings) = counters();
            let shard = shard.counting_in(Rc::new(counters)).keeping_to(Arc::clone(&memory));
            Seat { shard: RefCell::new(shard), kernel, readings, awake, pauses: Cell::new(false) }
        };
        let seats = awake.into_iter().enumerate().map(seat).collect();
        Self { seats, registry, memory, clock, shared }
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.seats.len()
    }

    /// The ring of a shard, and of all shards.
    pub fn kernels(&self) -> impl Iterator<Item = &Kernel> {
        self.seats.iter().map(|seat| &seat.kernel)
    }

    /// Whether a shard has something to do.
    pub fn is_awake(&self, shard: usize) -> bool {
        self.seats[shard].awake.load(Ordering::SeqCst)
    }

    /// A turn of a shard that is awake, unless it is in the middle of one. True: it took one.
    pub fn turn(&self, id: usize) -> bool {
        let seat = &self.seats[id];
        let Ok(mut shard) = seat.shard.try_borrow_mut() else { return false };
        if self.shared.faults.get() && seat.pauses.get() {
            return false;
        }
        let is_due = shard.next_due().is_some_and(|due| due <= self.clock.now().instant);
        if !seat.awake.swap(false, Ordering::SeqCst) && !is_due {
            return false;
        }
        self.memory.enroll(id);
        if of_server(|| shard.turn(self.clock.now())) {
            seat.awake.store(true, Ordering::SeqCst);
        }
        shard.turn_took(TURN_TIME);
        true
    }

    /// When the first shard has to take a turn though nothing has woken it.
    pub fn next_due(&self) -> Option<Instant> {
        self.seats.iter().filter_map(|seat| seat.shard.borrow().next_due()).min()
    }

    /// Whether a shard's core does something else from now on, for as long as there are faults.
    pub fn pause(&self, id: usize, pauses: bool) {
        self.seats[id].pauses.set(pauses);
    }

    /// The thread of `id` goes on after another one has run.
    pub fn goes_on(&self, id: usize) {
        self.memory.enroll(id);
    }

    /// A second has passed for a shard.
    pub fn tick(&self, id: usize) {
        self.with(id, |shard, now| shard.tick(now));
    }

    /// A shard is told to stop.
    pub fn stop(&self, id: usize) {
        self.with(id, |shard, now| shard.stop(now));
    }

    /// A connection whose handshake is done.
    pub fn adopt(&self, id: usize, link: LinkId, request: Request<'_>) {
        let Request { kind, latest, user, room, resume, since, deflates, leftover } = request;
        self.with(id, |shard, now| {
            let name = || Name::user(user).expect("a name");
            let role = match kind {
                Kind::V0 => Role::V0 { user: name() },
                Kind::V1 => {
                    let predecessor = resume.and_then(|secret| shard.predecessor(secret)).map(Box::new);
                    Role::V1 { user: name(), predecessor }
                }
                Kind::Raw { echo, lossy } => match latest {
                    Some(interval) => Role::Latest(Box::new(Latest::new(echo, interval))),
                    None => Role::Raw { echo, lossy },
                },
                Kind::Sse => Role::Sse { ignored_bytes: 0 },
            };
            let upgraded = Upgraded {
                socket: SimSocket::new(link, Rc::clone(&self.shared)),
                role,
                room: room.map(|room| Name::room(room).expect("a name")),
                since,
                standing: None,
                compression: deflates.then_some(Compression::Agreed),
                seat: None,
                response: Bytes::from_static(HEAD),
                leftover: leftover.to_vec(),
            };
            shard.adopt(upgraded, now);
        });
    }

    fn with(&self, id: usize, act: impl FnOnce(&mut Shard<SimRing>, Now)) {
        let seat = &self.seats[id];
        self.memory.enroll(id);
        of_server(|| act(&mut seat.shard.borrow_mut(), self.clock.now()));
        seat.awake.store(true, Ordering::SeqCst);
    }

    /// A room, if somebody is in it.
    pub fn room(&self, namespace: Namespace, name: &str) -> Option<Arc<Room>> {
        self.registry.get(namespace, &Name::room(name).expect("a name"))
    }

    /// Publishes a text as the internal port does. `None`: it has to wait. Otherwise the room's epoch and `Seq`, if it exists.
    pub fn publish(&self, namespace: Namespace, name: &str, text: &str) -> Option<Option<(u64, u64)>> {
        of_server(|| self.publish_now(namespace, name, text))
    }

    fn publish_now(&self, namespace: Namespace, name: &str, text: &str) -> Option<Option<(u64, u64)>> {
        let behind = self.room(namespace, name).is_some_and(|room| room.is_behind());
        if self.registry.is_congested() || behind {
            return None;
        }
        self.memory.enroll_internal_port();
        let (now, mut wakes) = (self.clock.now().time, Wakes::default());
        let name = Name::room(name).expect("a name");
        let frame = encode::frame(OpCode::Binary, text.as_bytes());
        let payload = match namespace {
            Namespace::Chat => Payload::Chat { from: "api", text },
            Namespace::Raw => Payload::Frame(&frame),
        };
        let published = self.registry.publish_from_outside(namespace, &name, payload, now, &mut wakes);
        wakes.wake_all(self.registry.inboxes());
        Some(published.map(|(room, published, _)| match published {
            Published::Placed(seq) => (room.epoch(), seq),
            elsewhere => panic!("there is no shared log: {elsewhere:?}"),
        }))
    }

    /// Has the connections of a user closed, as the internal port does; each shard says how many that were.
    pub fn disconnect(&self, user: &str) -> Vec<oneshot::Receiver<usize>> {
        let order = |inbox: &Inbox| {
            let (closed, answer) = oneshot::channel();
            let user = Name::user(user).expect("a name");
            let order =
                Order::Disconnect(Disconnect { user, room: None, reason: "the simulation wants it".into(), closed });
            if inbox.order(order) == Pushed::Wake {
                inbox.wake();
            }
            answer
        };
        self.registry.inboxes().iter().map(order).collect()
    }

    /// Connections that are not gone, on all shards.
    pub fn connections(&self) -> usize {
        self.seats.iter().map(|seat| seat.shard.borrow().connections()).sum()
    }

    /// The same, as the metrics have it.
    pub fn connections_counted(&self) -> u64 {
        let of_shard = |seat: &Seat| {
            let of = |protocol: &Protocol| seat.readings.connections(*protocol).get();
            Protocol::ALL.iter().map(of).fold(0, u64::wrapping_add)
        };
        self.seats.iter().map(of_shard).fold(0, u64::wrapping_add)
    }

    /// Connections that ended with this code.
    pub fn ended_with(&self, code: u16) -> u64 {
        self.seats.iter().map(|seat| seat.readings.disconnects(code).get()).sum()
    }

    /// Connections that have ended, each under one code.
    pub fn ended(&self) -> u64 {
        // Those without a number of their own are counted together.
        CLOSE_CODES.iter().chain([&0]).map(|code| self.ended_with(*code)).sum()
    }

    /// Bytes that the ledgers say are held, inboxes included.
    pub fn held_bytes(&self) -> usize {
        let inboxes: usize = self.registry.inboxes().iter().map(Inbox::bytes).sum();
        inboxes + What::ALL.iter().map(|what| self.memory.bytes(*what)).sum::<usize>()
    }
}
