//! Several servers with the same rooms: messages get their numbers from a log that all of them share (`--cluster`).
//!
//! A shard hands a message over ([`crate::room::outward`]), the log gives it its `Seq`, and every server that has members in the
//! room reads it back and delivers it: also the one that it came from. So there is one order, and nobody here makes it.
//!
//! - `record`: what a message is in the log
//! - `follow`: which records of a room are shown, in which order
//! - `outgoing`: which messages are sent again, and which are given up
//! - `nats`: the log, on NATS JetStream
//!
//! All of it runs on one thread, whose tasks share the state below.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Weak, mpsc as std_mpsc};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tracing::{info, warn};

use crate::clock::Time;
use crate::limits::cluster::{LOAD_TIME_MAX, MISSING_TIME, PAUSE, REPLY_TIME_MAX, TICK};
use crate::protocol::name::Name;
use crate::protocol::{MemberId, Namespace};
use crate::room::inbox::{Order, Unavailable};
use crate::room::outward::{Asker, Outbound, Outward};
use crate::room::registry::Registry;
use crate::room::{Placed, Room, Wakes};

mod follow;
mod nats;
mod outgoing;
mod record;

use follow::{Follow, Step};
use nats::{Ack, Nats};
use outgoing::{Act, Outgoing};
use record::{Heading, Kind, Record, token};

/// What the operator has chosen.
#[derive(Clone, Debug)]
pub struct Settings {
    /// URLs of the servers of the log.
    pub servers: Vec<String>,
    /// What all names in the log begin with.
    pub name: String,
    /// This process.
    pub node: u64,
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
) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("can't start the thread of --cluster: {error}"))?;
    let (ready, started) = std_mpsc::channel();
    let run = move || LocalSet::new().block_on(&runtime, run(settings, registry, outward, queue, ready));
    let thread = std::thread::Builder::new().name("hi-cluster".to_owned()).spawn(run);
    thread.map_err(|error| format!("can't start the thread of --cluster: {error}"))?;
    started.recv().map_err(|_| "can't start --cluster: hi has panicked, which is a bug".to_owned())?
}

async fn run(
    settings: Settings,
    registry: Arc<Registry>,
    outward: Arc<Outward>,
    mut queue: mpsc::UnboundedReceiver<Outbound>,
    ready: std_mpsc::Sender<Result<(), String>>,
) {
    let (changes, mut changed) = mpsc::unbounded_channel();
    let prepared = async {
        let log = Nats::connect(&settings, changes).await?;
        let created = log.prepare(&settings).await?;
        let answers = log.answers().await.map_err(|_| "can't subscribe to the log of --cluster".to_owned())?;
        Ok((log, created, answers))
    };
    let (log, created, mut answers) = match prepared.await {
        Ok(prepared) => prepared,
        Err(sentence) => return drop(ready.send(Err(sentence))),
    };
    info!("rooms are shared through {} as {}", settings.servers.join(","), settings.name);
    // Whatever the connection did up to here is known.
    while changed.try_recv().is_ok() {}
    let cluster = Rc::new(Cluster {
        settings,
        registry,
        outward,
        log,
        created: RefCell::new(created),
        follows: RefCell::default(),
        outgoing: RefCell::default(),
        pending: RefCell::default(),
        away: Cell::new(false),
        returning: Task::default(),
    });
    let _ = ready.send(Ok(()));
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            Some(is_connected) = changed.recv() => cluster.connection_changed(is_connected),
            Some(answer) = answers.next() => nats::answer(&answer).into_iter().for_each(|answer| cluster.answered(answer)),
            Some(outbound) = queue.recv() => cluster.outbound(outbound).await,
            _ = tick.tick() => cluster.tick().await,
        }
    }
}

/// A message that has no number yet.
struct Pending {
    room: Rc<str>,
    heading: Heading,
    json: String,
    /// What it took of the queue, if it is a message.
    asker: Option<Asker>,
    since: Instant,
    /// When the log has confirmed it.
    stored: Option<Instant>,
}

/// A room that is followed.
struct Following {
    namespace: Namespace,
    name: Name,
    follow: RefCell<Follow>,
    /// Dead as soon as no member, and nobody who may come back, needs it.
    room: RefCell<Weak<Room>>,
    /// Connections that wait for it, and since when.
    waiting: RefCell<Vec<(MemberId, Instant)>>,
    /// Reads its records.
    reader: Task,
    /// Reads those that are missing.
    fetcher: Task,
}

/// A task that ends with what it belongs to, or with the next one.
#[derive(Default)]
struct Task(Cell<Option<JoinHandle<()>>>);

impl Task {
    fn start(&self, task: impl Future<Output = ()> + 'static) {
        self.stop();
        self.0.set(Some(spawn_local(task)));
    }

    /// True: it had not ended by itself.
    fn stop(&self) -> bool {
        let task = self.0.take().filter(|task| !task.is_finished());
        task.as_ref().inspect(|task| task.abort()).is_some()
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The state of the thread. Nothing is borrowed across an await.
struct Cluster {
    settings: Settings,
    registry: Arc<Registry>,
    outward: Arc<Outward>,
    log: Nats,
    /// When the stream was made.
    created: RefCell<String>,
    follows: RefCell<HashMap<Rc<str>, Rc<Following>>>,
    outgoing: RefCell<Outgoing>,
    pending: RefCell<HashMap<u64, Pending>>,
    /// Whether the connection is lost, or the log is not as it has to be.
    away: Cell<bool>,
    /// Looks whether the log is there again.
    returning: Task,
}

impl Cluster {
    fn now() -> Time {
        Time::read(Instant::now())
    }

    async fn outbound(self: &Rc<Self>, outbound: Outbound) {
        match outbound {
            Outbound::Publish(number, submission) => {
                let (room, epoch) = (token(submission.room.key()), submission.room.epoch());
                let heading = Heading { kind: Kind::Message, epoch: Some(epoch), node: self.settings.node, number };
                let (json, asker) = submission.into_parts();
                let room = room.into();
                let goes = self.outgoing.borrow_mut().submit(&room, number, Self::now().monotonic_ms);
                self.wait_for(room, heading, json, Some(asker));
                match (goes, self.away.get()) {
                    (true, false) => self.send(number).await,
                    (true, true) => self.not_now(number),
                    (false, _) => {}
                }
            }
            Outbound::Open { namespace, name, member } => self.open(namespace, name, member),
        }
    }

    fn wait_for(&self, room: Rc<str>, heading: Heading, json: String, asker: Option<Asker>) {
        let pending = Pending { room, heading, json, asker, since: Instant::now(), stored: None };
        self.pending.borrow_mut().insert(heading.number, pending);
    }

    /// Sends a message to the log, perhaps again.
    async fn send(&self, number: u64) {
        let message = self.pending.borrow().get(&number).map(|p| (Rc::clone(&p.room), p.heading, p.json.clone()));
        let Some((room, heading, json)) = message else { return };
        if self.log.publish(&room, &heading, &json).await.is_err() {
            self.not_now(number);
        }
    }

    fn not_now(&self, number: u64) {
        if let Some(Pending { room, .. }) = self.pending.borrow().get(&number) {
            self.outgoing.borrow_mut().failed(room, number);
        }
    }

    /// The log has answered to a record.
    fn answered(self: &Rc<Self>, (number, ack): (u64, Ack)) {
        let asked = self.pending.borrow().get(&number).map(|pending| (Rc::clone(&pending.room), pending.heading.kind));
        let Some((room, kind)) = asked else { return };
        match ack {
            Ack::Stored if kind == Kind::Life => drop(self.pending.borrow_mut().remove(&number)),
            _ if kind == Kind::Life => self.give_up(number),
            Ack::Stored => {
                if let Some(pending) = self.pending.borrow_mut().get_mut(&number) {
                    pending.stored = Some(Instant::now());
                }
                let given_up = self.outgoing.borrow_mut().stored(&room, number);
                given_up.into_iter().for_each(|number| self.give_up(number));
            }
            Ack::Later => self.outgoing.borrow_mut().failed(&room, number),
            Ack::Refused => {
                self.outgoing.borrow_mut().refused(&room, number);
                self.give_up(number);
            }
        }
    }

    /// Nothing is known about a message, and nothing will be: tells its publisher.
    fn give_up(self: &Rc<Self>, number: u64) {
        let Some(pending) = self.pending.borrow_mut().remove(&number) else { return };
        let Pending { room, json, asker, heading, .. } = pending;
        if heading.kind == Kind::Life {
            let following = self.follows.borrow().get(&room).cloned();
            let mut steps = Vec::new();
            following.iter().for_each(|following| following.follow.borrow_mut().failed(&mut steps));
            following.iter().for_each(|following| self.carry_out(&room, following, std::mem::take(&mut steps)));
        }
        let Some(asker) = asker else { return };
        self.outward.settled(json.len());
        match asker {
            Asker::Shard(shard) => self.order(shard, Order::Settled { number, outcome: Err(Unavailable) }),
            // The request may have been given up, too.
            Asker::Outside(asker) => drop(asker.send(Err(Unavailable))),
        }
    }

    fn order(&self, shard: u32, order: Order) {
        let inboxes = self.registry.inboxes();
        let mut wakes = Wakes::default();
        wakes.note(shard as usize, inboxes[shard as usize].answer(order));
        wakes.wake_all(inboxes);
    }

    /// A connection wants to join a room: it is loaded unless it is there.
    fn open(self: &Rc<Self>, namespace: Namespace, name: Name, member: MemberId) {
        let key: Rc<str> = token(&name).into();
        let known = self.follows.borrow().get(&key).cloned();
        if let Some(following) = known {
            let room = following.room.borrow().upgrade();
            if let Some(room) = room {
                return self.order(member.shard, Order::Opened { member, room: Ok(room) });
            }
            if !following.waiting.borrow().is_empty() {
                return following.waiting.borrow_mut().push((member, Instant::now()));
            }
            // It has been forgotten here, and is loaded anew.
        }
        let (follow, step) = Follow::begin();
        let following = Rc::new(Following {
            namespace,
            name,
            follow: RefCell::new(follow),
            room: RefCell::default(),
            waiting: RefCell::new(vec![(member, Instant::now())]),
            reader: Task::default(),
            fetcher: Task::default(),
        });
        self.follows.borrow_mut().insert(Rc::clone(&key), Rc::clone(&following));
        let (cluster, reading) = (Rc::clone(self), Rc::downgrade(&following));
        following.reader.start(async move { cluster.read(key, &reading, step).await });
    }

    /// Reads the records of a room for as long as it is followed.
    async fn read(self: Rc<Self>, key: Rc<str>, following: &std::rc::Weak<Following>, first: Step) {
        let mut records = loop {
            match self.log.follow(&key).await {
                Ok(records) => break records,
                Err(_) => tokio::time::sleep(TICK).await,
            }
        };
        if let Some(following) = following.upgrade() {
            self.carry_out(&key, &following, vec![first]);
        }
        while let Some(message) = records.next().await {
            let Some(following) = following.upgrade() else { return };
            let Some(record) = nats::record(&message) else { continue };
            let mut steps = Vec::new();
            following.follow.borrow_mut().arrived(record, &mut steps);
            self.carry_out(&key, &following, steps);
        }
    }

    fn carry_out(self: &Rc<Self>, key: &Rc<str>, following: &Rc<Following>, steps: Vec<Step>) {
        let mut wakes = Wakes::default();
        for step in steps {
            match step {
                Step::Place { epoch, record } => self.place(following, epoch, &record, &mut wakes),
                Step::Ready { epoch, last_seq } => self.ready(following, epoch, last_seq, &mut wakes),
                Step::Fetch { from } => {
                    let fetch = Rc::clone(self).fetch(Rc::clone(key), Rc::downgrade(following), from);
                    following.fetcher.start(fetch);
                }
                Step::BeginLife { instead_of } => {
                    let number = self.outward.next_number();
                    let heading = Heading { kind: Kind::Life, epoch: instead_of, node: self.settings.node, number };
                    self.wait_for(Rc::clone(key), heading, String::new(), None);
                    let cluster = Rc::clone(self);
                    drop(spawn_local(async move { cluster.send(number).await }));
                }
            }
        }
        wakes.wake_all(self.registry.inboxes());
        // Only now: what they join with includes all of the room that has just been loaded.
        let room = following.room.borrow().upgrade();
        if let Some(room) = room {
            for (member, _) in following.waiting.take() {
                self.order(member.shard, Order::Opened { member, room: Ok(Arc::clone(&room)) });
            }
        }
    }

    /// A message has its number: it goes to the members here, and its publisher is told.
    fn place(self: &Rc<Self>, following: &Following, epoch: u64, record: &Record, wakes: &mut Wakes) {
        let place = Placed { seq: record.value, epoch };
        let mut asked = None;
        let is_ours = record.heading.node == self.settings.node;
        let pending = is_ours.then(|| self.pending.borrow_mut().remove(&record.heading.number)).flatten();
        if let Some(pending) = pending {
            let given_up = self.outgoing.borrow_mut().stored(&pending.room, record.heading.number);
            given_up.into_iter().for_each(|number| self.give_up(number));
            self.outward.settled(pending.json.len());
            match pending.asker {
                Some(Asker::Shard(shard)) => asked = Some((shard, record.heading.number)),
                Some(Asker::Outside(asker)) => drop(asker.send(Ok(place))),
                None => {}
            }
        }
        let Some(room) = following.room.borrow().upgrade() else { return };
        let now = Self::now();
        let age_ms = now.unix_ms.saturating_sub(record.unix_ms);
        let at = Time { unix_ms: record.unix_ms, monotonic_ms: now.monotonic_ms.saturating_sub(age_ms) };
        room.place(place, &record.json, at, asked, wakes);
    }

    /// The room is loaded, or begins a new life.
    fn ready(&self, following: &Following, epoch: u64, last_seq: u64, wakes: &mut Wakes) {
        let known = following.room.borrow().upgrade();
        let waits = !following.waiting.borrow().is_empty();
        let room =
            known.or_else(|| waits.then(|| self.registry.open(following.namespace, &following.name, Self::now())));
        let Some(room) = room else { return };
        room.begin_life(epoch, last_seq, wakes);
        *following.room.borrow_mut() = Arc::downgrade(&room);
    }

    async fn fetch(self: Rc<Self>, key: Rc<str>, following: std::rc::Weak<Following>, from: Option<u64>) {
        let since = (Self::now().unix_ms).saturating_sub(self.settings.replay_age_ms);
        let found = self.log.records(&key, from, since).await;
        if found.is_err() {
            tokio::time::sleep(TICK).await;
        }
        let Some(following) = following.upgrade() else { return };
        // Over: what it finds may need the next one.
        following.fetcher.0.take();
        let mut steps = Vec::new();
        match found {
            Ok((records, last_at)) => following.follow.borrow_mut().fetched(records, last_at, &mut steps),
            Err(_) => following.follow.borrow_mut().failed(&mut steps),
        }
        self.carry_out(&key, &following, steps);
    }

    fn connection_changed(self: &Rc<Self>, is_connected: bool) {
        if is_connected {
            return self.returning.start(Rc::clone(self).come_back());
        }
        self.returning.stop();
        if !self.away.replace(true) {
            warn!("the connection to {} is lost (--cluster)", self.settings.servers.join(","));
        }
        self.outgoing.borrow_mut().disconnected();
        self.pending.borrow_mut().retain(|_, pending| pending.heading.kind != Kind::Life);
    }

    /// The connection is there again: nothing is shown before it is known that the log has kept what was shown.
    async fn come_back(self: Rc<Self>) {
        let created = loop {
            match self.log.prepare(&self.settings).await {
                Ok(created) => break created,
                Err(sentence) => warn!("{sentence}"),
            }
            tokio::time::sleep(PAUSE).await;
        };
        let is_another = self.created.replace(created.clone()) != created;
        self.away.set(false);
        info!("connected to {} again (--cluster)", self.settings.servers.join(","));
        let follows: Vec<_> = self.follows.borrow().iter().map(|(key, f)| (Rc::clone(key), Rc::clone(f))).collect();
        for (key, following) in follows {
            let was_asking = following.fetcher.stop();
            let mut steps = Vec::new();
            {
                let mut follow = following.follow.borrow_mut();
                if is_another {
                    follow.forget(&mut steps)
                } else {
                    follow.reconnected(&mut steps)
                }
                if was_asking {
                    follow.failed(&mut steps);
                }
            }
            self.carry_out(&key, &following, steps);
        }
    }

    async fn tick(self: &Rc<Self>) {
        let now_ms = Self::now().monotonic_ms;
        let is_seen = |room: &str| {
            let follows = self.follows.borrow();
            !self.away.get() && follows.get(room).is_some_and(|following| following.follow.borrow().is_whole())
        };
        let due = self.outgoing.borrow_mut().due(now_ms, self.settings.timeout_ms, is_seen);
        for (room, act) in due {
            match act {
                Act::Look => self.look(&room),
                Act::Send(number) => self.send(number).await,
                Act::GiveUp(number) => self.give_up(number),
            }
        }
        self.look_for_missing();
        self.forget_rooms();
    }

    fn look(self: &Rc<Self>, room: &Rc<str>) {
        let Some(following) = self.follows.borrow().get(room).cloned() else { return };
        let mut steps = Vec::new();
        following.follow.borrow_mut().look(&mut steps);
        self.carry_out(room, &following, steps);
    }

    /// What the log has confirmed, and hasn't been read back in time, was lost on its way.
    fn look_for_missing(self: &Rc<Self>) {
        let is_missing = |pending: &&Pending| pending.stored.is_some_and(|at| at.elapsed() >= MISSING_TIME);
        let rooms: Vec<_> = self.pending.borrow().values().filter(is_missing).map(|p| Rc::clone(&p.room)).collect();
        rooms.iter().for_each(|room| self.look(room));
        let is_lost = |pending: &Pending| match pending.heading.kind {
            Kind::Life => pending.since.elapsed() >= REPLY_TIME_MAX,
            _ => pending.stored.is_some_and(|at| at.elapsed() >= LOAD_TIME_MAX),
        };
        let lost: Vec<u64> =
            self.pending.borrow().iter().filter(|(_, p)| is_lost(p)).map(|(number, _)| *number).collect();
        lost.into_iter().for_each(|number| self.give_up(number));
    }

    /// Rooms that nobody needs any more are not followed; those that can't be loaded in time are not waited for.
    fn forget_rooms(&self) {
        let unavailable = |(member, since): &(MemberId, Instant)| {
            let is_late = since.elapsed() >= LOAD_TIME_MAX;
            if is_late {
                self.order(member.shard, Order::Opened { member: *member, room: Err(Unavailable) });
            }
            !is_late
        };
        self.follows.borrow_mut().retain(|_, following| {
            following.waiting.borrow_mut().retain(unavailable);
            !following.waiting.borrow().is_empty() || following.room.borrow().strong_count() > 0
        });
    }
}
