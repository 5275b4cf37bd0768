//! Several servers with the same rooms: messages get their numbers from a log that all of them share (`--cluster`).
//!
//! A shard hands a message over ([`crate::room::outward`]), the log gives it its `Seq`, and every server that has members in the
//! room reads it back and delivers it: also the one that it came from. So there is one order, and nobody here makes it.
//!
//! - `record`: what a message is in the log
//! - `follow`: which records of a room are shown, in which order; `raw`: the same for raw rooms
//! - `names`: which member has which name; `claims`: how it gets it; `naming`: how a server learns those of others; `large`: rooms
//!   with too many of them
//! - `nodes`: which other servers live, and what they have told; `peers`: what is done with that
//! - `outgoing`: which messages are sent again, and which are given up
//! - `nats`: the log, on NATS JetStream
//! - `following`: a room that is followed
//! - `rooms`, `loading`, `reading`, `publishing`: what is done with rooms; `reach`: and when the log can't be reached
//! - `bundles`: which rooms share a subscription; `backlog`: what waits because its room isn't shown fast enough
//! - `stats`: what is counted
//!
//! All of it runs on one thread, whose tasks share the state below.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::rc::{Rc, Weak as RcWeak};
use std::sync::{Arc, mpsc as std_mpsc};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{LocalSet, spawn_local};
use tracing::info;

use crate::clock::Time;
use crate::limits::cluster::{
    BEAT_TIME, CLAIMS_AT_ONCE_MAX, SILENT_MS_MIN, TICK, TIPS_INTERVAL, UNSTORED_LINES_PER_MINUTE,
};
use crate::protocol::MemberId;
use crate::protocol::resume::ResumeKey;
use crate::room::inbox::Order;
use crate::room::outward::{Asker, Outbound, Outward};
use crate::room::registry::Registry;
use crate::room::{Room, Wakes};
use crate::throttle::Throttle;

mod backlog;
mod bundles;
mod claims;
pub mod follow;
mod following;
mod large;
mod loading;
pub mod names;
mod naming;
mod nats;
pub mod nodes;
pub mod outgoing;
mod peers;
mod publishing;
pub mod raw;
mod reach;
mod reading;
pub mod record;
mod rooms;
pub(crate) mod stats;

use bundles::{BundleId, Bundles};
use following::{Following, Task, Waiter};
use loading::Loading;
use names::HeldNames;
use naming::Wanted;
use nats::{Created, Nats, Unreachable};
use nodes::{Nodes, Teller};
use outgoing::{Act, Outgoing};
use record::{Content, Heading};
use stats::Stats;

/// What the operator has chosen.
#[derive(Clone, Debug)]
pub struct Settings {
    /// URLs of the servers of the log.
    pub servers: Vec<String>,
    /// What all names in the log begin with.
    pub name: String,
    /// This process.
    pub node: u64,
    /// Random numbers that the secrets of lost connections are made with, unless the log has some already.
    pub resume_key: [u64; 2],
    /// How long a message may wait for its number, in milliseconds.
    pub timeout_ms: u64,
    /// How far back a room is loaded, in milliseconds.
    pub replay_age_ms: u64,
    /// Records that the log keeps of each room.
    pub records_max: i64,
    /// How long the log keeps a record.
    pub room_memory: Duration,
    /// Bytes that the log keeps of all rooms.
    pub bytes_max: i64,
    /// Servers that keep a copy of each record; `None`: three, as soon as the cluster has three.
    pub replicas: Option<usize>,
    /// Whether the log is kept in memory only.
    pub in_memory: bool,
    /// Users of a room on all servers whose names each server keeps.
    pub roster_max: usize,
    /// Files that prove who this server is.
    pub files: Files,
}

/// Files with which the servers of the log are trusted, and trust this one.
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// Credentials of NATS.
    pub creds: Option<PathBuf>,
    /// Certificates of the authorities that are trusted, beside those of the system.
    pub ca: Option<PathBuf>,
    /// This server's certificate and its key.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

impl Settings {
    /// Time after which a server that has told nothing is gone, in milliseconds.
    fn silent_ms(&self) -> u64 {
        (self.timeout_ms * 3 / 2).max(SILENT_MS_MIN)
    }
}

/// Starts the thread of the log. `queue` is the end of the registry's [`Outward`]. Returns once the log is there, and as it has to
/// be.
///
/// # Errors
/// Why it can't be used, as a sentence that says what to do.
pub fn start(
    settings: Settings,
    registry: Arc<Registry>,
    outward: Arc<Outward>,
    queue: mpsc::UnboundedReceiver<Outbound>,
    stats: Arc<Stats>,
) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("can't start the thread of --cluster: {error}"))?;
    let (ready, started) = std_mpsc::channel();
    let run = move || LocalSet::new().block_on(&runtime, run(settings, registry, outward, queue, stats, ready));
    let thread = std::thread::Builder::new().name("hi-cluster".to_owned()).spawn(run);
    thread.map_err(|error| format!("can't start the thread of --cluster: {error}"))?;
    started.recv().map_err(|_| "can't start --cluster: hi has panicked, which is a bug".to_owned())?
}

async fn run(
    settings: Settings,
    registry: Arc<Registry>,
    outward: Arc<Outward>,
    mut queue: mpsc::UnboundedReceiver<Outbound>,
    stats: Arc<Stats>,
    ready: std_mpsc::Sender<Result<(), String>>,
) {
    let (changes, mut changed) = mpsc::unbounded_channel();
    let prepared = async {
        let log = Nats::connect(&settings, changes).await?;
        let (created, key) = log.prepare_patiently(&settings).await?;
        let subscribed = async {
            Ok((
                log.answers().await?,
                log.questions(settings.node).await?,
                log.beats().await?,
                log.asked_all(settings.node).await?,
                log.disconnects().await?,
            ))
        };
        let subscribed = subscribed.await.map_err(|_: Unreachable| "the connection to --cluster has ended")?;
        Ok((log, created, key, subscribed))
    };
    let (log, created, key, (mut answers, mut questions, mut beats, mut asked_all, mut disconnects)) =
        match prepared.await {
            Ok(prepared) => prepared,
            Err(sentence) => return drop(ready.send(Err(sentence))),
        };
    let (servers, replicas) = (settings.servers.join(","), created.replicas);
    info!("rooms are shared through {servers} as {}, copies of each message: {replicas}", settings.name);
    // Whatever the connection did up to here is known.
    while changed.try_recv().is_ok() {}
    stats.log.set(created.fingerprint());
    let node = settings.node;
    registry.set_resume_key(ResumeKey::new(node, key));
    let cluster = Rc::new(Cluster {
        settings,
        registry,
        outward,
        stats,
        log,
        created: RefCell::new(created),
        key_at: Cell::default(),
        resume_key: Cell::new(key),
        follows: RefCell::default(),
        bundles: RefCell::default(),
        bundle_readers: RefCell::default(),
        backlog_bytes: Rc::default(),
        outgoing: RefCell::default(),
        pending: RefCell::default(),
        unstored_lines: RefCell::new(Throttle::new(UNSTORED_LINES_PER_MINUTE)),
        held: RefCell::default(),
        claiming: RefCell::default(),
        loading: Loading::default(),
        wanted_names: RefCell::default(),
        large: RefCell::default(),
        claims: Semaphore::new(CLAIMS_AT_ONCE_MAX),
        releasing: Cell::default(),
        finishing: RefCell::default(),
        nodes: RefCell::default(),
        teller: RefCell::new(Teller::new(node)),
        has_forgotten: Cell::default(),
        sweeps_at_ms: Cell::default(),
        folded: RefCell::default(),
        names_settle_at: Cell::default(),
        away_since: Cell::default(),
        told_away: Cell::default(),
        returning: Task::default(),
    });
    let _ = ready.send(Ok(()));
    cluster.outward.set_raw_bytes_max(cluster.log.raw_bytes_max());
    cluster.sweep_later();
    drop(spawn_local(Rc::clone(&cluster).probe()));
    let mut tips = tokio::time::interval(TIPS_INTERVAL.min(cluster.settings.room_memory / 8));
    let (mut tick, mut beat) = (tokio::time::interval(TICK), tokio::time::interval(BEAT_TIME));
    // What was missed while the process was stopped is not made up for.
    for interval in [&mut tips, &mut tick, &mut beat] {
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    }
    loop {
        tokio::select! {
            biased;
            Some(is_connected) = changed.recv() => cluster.connection_changed(is_connected),
            Some(answer) = answers.next() => nats::answer(&answer).into_iter().for_each(|answer| cluster.answered(answer)),
            Some(outbound) = queue.recv() => cluster.outbound(outbound).await,
            Some(question) = questions.next() => drop(spawn_local(Rc::clone(&cluster).asked(question))),
            Some(message) = beats.next() => cluster.heard(&message).await,
            Some(order) = disconnects.next() => drop(spawn_local(Rc::clone(&cluster).disconnected(order))),
            Some(_) = asked_all.next() => cluster.teller.borrow_mut().tell_all(),
            _ = beat.tick() => cluster.beat().await,
            _ = tips.tick() => {
                drop(spawn_local(Rc::clone(&cluster).look_at_tips()));
                drop(spawn_local(Rc::clone(&cluster).look_at_streams()));
            }
            _ = tick.tick() => cluster.tick().await,
        }
    }
}

/// A message that has no number yet.
struct Pending {
    room: Rc<str>,
    heading: Heading,
    content: Content,
    /// What it took of the queue, if it is a message.
    asker: Option<Asker>,
    since: Instant,
    /// When the log has confirmed it.
    stored: Option<Instant>,
}

/// The state of the thread. Nothing is borrowed across an await.
struct Cluster {
    settings: Settings,
    registry: Arc<Registry>,
    outward: Arc<Outward>,
    stats: Arc<Stats>,
    log: Nats,
    /// When the streams were made.
    created: RefCell<Created>,
    /// When the log was last seen to have got its key of `Resume` secrets, in nanoseconds since 1970.
    key_at: Cell<Option<i128>>,
    /// The random numbers of [`ResumeKey`] that all servers have.
    resume_key: Cell<[u64; 2]>,
    follows: RefCell<HashMap<Rc<str>, Rc<Following>>>,
    bundles: RefCell<Bundles>,
    /// Read the records of bundles.
    bundle_readers: RefCell<HashMap<BundleId, Task>>,
    /// Bytes that wait because their rooms are not shown fast enough.
    backlog_bytes: Rc<Cell<usize>>,
    outgoing: RefCell<Outgoing>,
    pending: RefCell<HashMap<u64, Pending>>,
    /// Lines about messages that the log has not stored.
    unstored_lines: RefCell<Throttle>,
    held: RefCell<HeldNames>,
    /// Rooms, and the members that claim their names there just now.
    claiming: RefCell<HashSet<(Rc<str>, MemberId)>>,
    loading: Loading,
    wanted_names: RefCell<Wanted>,
    /// Rooms with too many users.
    large: RefCell<HashMap<Rc<str>, RcWeak<Following>>>,
    /// Names may be claimed.
    claims: Semaphore,
    /// Names that are about to be free.
    releasing: Cell<usize>,
    /// Is told when nothing is left to tell other servers.
    finishing: RefCell<Option<std_mpsc::Sender<()>>>,
    nodes: RefCell<Nodes>,
    teller: RefCell<Teller>,
    /// Whether a room is no longer followed that the others may have been told of.
    has_forgotten: Cell<bool>,
    /// When names of servers that are gone are looked for, if at all.
    sweeps_at_ms: Cell<Option<u64>>,
    /// Rooms with folded notices of this thread, and when they are due.
    folded: RefCell<Vec<(u64, Arc<Room>)>>,
    /// Until when the names of members are written again, if the log of names was made again when it was last connected to.
    names_settle_at: Cell<Option<Instant>>,
    /// Since when the connection is lost, or the log doesn't answer or is not as it has to be.
    away_since: Cell<Option<Instant>>,
    /// Whether the members have been told so.
    told_away: Cell<bool>,
    /// Looks whether the log is there again.
    returning: Task,
}

impl Cluster {
    fn now() -> Time {
        Time::read(Instant::now())
    }

    /// The rooms that are followed just now.
    fn follows(&self) -> Vec<(Rc<str>, Rc<Following>)> {
        self.follows.borrow().iter().map(|(key, following)| (Rc::clone(key), Rc::clone(following))).collect()
    }

    /// Whether a room is followed, and not by another [`Following`] meanwhile.
    fn is_followed(&self, key: &str, following: &Rc<Following>) -> bool {
        self.follows.borrow().get(key).is_some_and(|known| Rc::ptr_eq(known, following))
    }

    fn order(&self, shard: u32, order: Order) {
        let inboxes = self.registry.inboxes();
        let mut wakes = Wakes::default();
        wakes.note(shard as usize, inboxes[shard as usize].answer(order));
        wakes.wake_all(inboxes);
    }

    fn count(&self) {
        let stats = &self.stats;
        if self.is_away() {
            stats.away_millis.add(TICK.as_millis() as u64);
        }
        stats.nodes.set(self.nodes.borrow().count() as u64 + 1);
        stats.followed_rooms.set(self.follows.borrow().len() as u64);
        stats.names.set(self.held.borrow().len() as u64);
        stats.in_flight.set(self.pending.borrow().len() as u64);
        stats.queue_bytes.set(self.outward.bytes() as u64);
    }

    async fn tick(self: &Rc<Self>) {
        let now_ms = Self::now().monotonic_ms;
        let is_seen = |room: &str| {
            let follows = self.follows.borrow();
            !self.is_away()
                && follows
                    .get(room)
                    .is_some_and(|following| following.follow.borrow().is_whole() && following.is_shown())
        };
        let due = self.outgoing.borrow_mut().due(now_ms, self.settings.timeout_ms, is_seen);
        for (room, act) in due {
            match act {
                Act::Look => self.look(&room),
                Act::Send(number) => self.send(number).await,
                Act::GiveUp(number) => self.give_up(number),
            }
        }
        if self.releasing.get() == 0 && self.pending.borrow().is_empty() {
            let finishing = self.finishing.take();
            if let Some(told) = finishing {
                self.tell(true).await;
                // The server may have waited long enough.
                let _ = told.send(());
            }
        }
        self.tell_members();
        self.count();
        self.look_for_missing();
    }
}
