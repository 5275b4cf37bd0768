//! One thread of the load generator: its clients in one epoll loop, its publishers on their schedule.
//!
//! The loop reads, and between two batches sends what is due: the schedule decides, never the server's answers.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::time::Timespec;

use crate::audit::{Auditor, Seen};
use crate::client::{Client, Progress, Role, State};
use crate::options::{Dialect, Plan};
use crate::os;
use crate::payload::{Stamp, Stamper};
use crate::stats::{Collected, Stats};
use crate::target::Template;
use crate::wire;

/// Connects under way at once in one thread: more would only queue up in the server's backlog.
const CONNECTING_MAX: usize = 256;
/// A handshake that takes longer has failed.
const HANDSHAKE_TIME_MAX_US: u64 = 30_000_000;
/// One that has no answer for so long when the run ends counts as failed, too.
const UNANSWERED_US: u64 = 3_000_000;
/// Events taken at once: between two batches the schedule is looked at.
const EVENTS: usize = 256;
/// In the middle of a fan-out, fewer events than this are not worth a wake-up: the thread waits for more of them,
const EVENTS_WORTH_WAKING: usize = 64;
/// so long (the kernel's timer slack comes on top; it all counts as lateness of reading). Otherwise half of the CPU time
/// of server and load generator would go into waking a thread once per message.
const GATHER: Duration = Duration::from_micros(50);
/// The last batch came so recently that a fan-out is under way.
const FAN_OUT_GAP_US: u64 = 300;
/// The receive buffer that all clients of a thread share.
const BUFFER_BYTES: usize = 256 * 1024;
/// Slow clients read so much,
const SLOW_READ_BYTES: usize = 1024;
/// so often.
const SLOW_READ_EVERY_US: u64 = 100_000;
/// Receive buffer of a slow client's socket, so that the kernel doesn't read for it.
const SLOW_SOCKET_BYTES: usize = 4096;
/// How often progress is reported.
const PROGRESS_EVERY_US: u64 = 250_000;
/// Pause before a connection is tried again.
const RETRY_AFTER_US: u64 = 100_000;
/// Messages that are sent before the thread reads again: one that is behind its schedule must still read and answer.
const SEND_BATCH_MAX: usize = 1024;
/// A client that came back has to see every message that is due so long after its handshake.
const RETURN_TIME_US: u64 = 1_000_000;
/// A publisher whose messages the server doesn't take is given up at so many bytes.
const UNSENT_BYTES_MAX: usize = 64 << 20;

/// What all threads of a run share.
pub struct Shared {
    /// What was asked for.
    pub plan: Plan,
    /// Where clients connect.
    pub address: SocketAddr,
    /// The `Host` header.
    pub host: String,
    /// The path that members ask for.
    pub path: Template,
    /// Where publishers connect: address, host, path.
    pub publish_at: (SocketAddr, String, Template),
    /// Writes and finds stamps.
    pub stamper: Stamper,
    /// The run's clock begins here.
    pub clock: Instant,
    /// How many threads there are.
    pub threads: usize,
}

impl Shared {
    /// Microseconds since the run's clock began.
    pub fn now_us(&self) -> u64 {
        self.clock.elapsed().as_micros() as u64
    }
}

/// A time of messages at one rate.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// When the first message is due (run's clock).
    pub start_us: u64,
    /// Between two messages of a room, in nanoseconds.
    pub interval_ns: u64,
    /// Number of the first message of each publisher.
    pub first: u32,
    /// Messages of each publisher that are thrown away.
    pub warm: u32,
    /// Messages of each publisher that are measured.
    pub measured: u32,
}

impl Step {
    /// When message `index` of the publisher `number` of `publishers` is due.
    fn due_us(&self, index: u32, number: u16, publishers: usize) -> u64 {
        let place = u64::from(index) * publishers as u64 + u64::from(number);
        self.start_us + place * self.interval_ns / 1000
    }

    /// When the measured time begins.
    pub fn measured_from_us(&self, publishers: usize) -> u64 {
        self.due_us(self.warm, 0, publishers)
    }

    /// Number of a message from which on all are due at `us` or later.
    fn due_from(&self, us: u64, publishers: usize) -> u32 {
        let place = us.saturating_sub(self.start_us) * 1000 / self.interval_ns.max(1);
        let index = place / publishers as u64 + 1;
        self.first_measured().max(self.first.saturating_add(u32::try_from(index).unwrap_or(u32::MAX)))
    }

    /// When it ends: the next message would be due.
    pub fn end_us(&self, publishers: usize) -> u64 {
        self.due_us(self.warm + self.measured, 0, publishers)
    }

    /// Number of the first message that is measured.
    pub fn first_measured(&self) -> u32 {
        self.first + self.warm
    }

    /// Number behind the last message.
    pub fn end(&self) -> u32 {
        self.first + self.warm + self.measured
    }
}

/// What the main thread asks for.
#[derive(Clone, Copy, Debug)]
pub enum Command {
    /// Publish and measure.
    Run(Step),
    /// Cut all members' connections and let them come back.
    Storm,
    /// Report what was measured, and begin anew.
    Collect,
    /// End.
    Stop,
}

/// What a thread reports.
#[derive(Debug)]
pub enum Report {
    /// How far it is.
    Progress {
        /// The thread.
        worker: usize,
        /// Connections open.
        open: usize,
        /// Messages that arrived in the measured time.
        deliveries: u64,
        /// Their latencies so far, in microseconds.
        latency: Box<Histogram<u64>>,
    },
    /// All connections are open (again).
    AllOpen {
        /// The thread.
        worker: usize,
    },
    /// Connecting failed: the run can't begin.
    Fatal(String),
    /// What was asked for with [`Command::Collect`].
    Collected(Box<Collected>),
}

/// One thread's state.
pub struct Worker {
    id: usize,
    shared: Arc<Shared>,
    epoll: OwnedFd,
    clients: Vec<Client>,
    commands: Receiver<Command>,
    reports: Sender<Report>,
    stats: Stats,
    buffer: Vec<u8>,
    /// Clients that have to connect, the last first.
    to_connect: Vec<usize>,
    connecting: usize,
    open: usize,
    /// Whether the connections made now are the first ones, or those after a storm.
    coming_in: bool,
    storm: bool,
    next_connect_us: u64,
    retries: BinaryHeap<Reverse<(u64, usize)>>,
    step: Option<Step>,
    /// When each publisher's next message is due, its index in `clients`, and the message's index in the step.
    due: BinaryHeap<Reverse<(u64, usize, u32)>>,
    /// How many clients have left in this step, to come back.
    churned: f64,
    next_churn: usize,
    last_loop_us: u64,
    next_slow_us: u64,
    next_progress_us: u64,
}

impl Worker {
    /// The thread number `id`, with its share of the clients and publishers.
    ///
    /// # Errors
    /// Out of file descriptors.
    pub fn new(
        id: usize,
        shared: Arc<Shared>,
        commands: Receiver<Command>,
        reports: Sender<Report>,
    ) -> io::Result<Self> {
        let plan = &shared.plan;
        let of_this_thread = |count: usize| (id..count).step_by(shared.threads);
        let members = of_this_thread(plan.clients).map(|number| {
            let slow = number >= plan.clients - plan.slow_clients;
            Client::new(number, number % plan.rooms, Role::Member { slow }, plan.publishers)
        });
        let publishers = of_this_thread(plan.rooms * plan.publishers).map(|number| {
            let role = Role::Publisher { number: (number / plan.rooms) as u16 };
            Client::new(number, number % plan.rooms, role, plan.publishers)
        });
        let publishes = !matches!(plan.mode, crate::options::Mode::Idle);
        let clients: Vec<_> = members.chain(publishers.filter(|_| publishes)).collect();
        Ok(Self {
            id,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            to_connect: (0..clients.len()).rev().collect(),
            clients,
            commands,
            reports,
            stats: Stats::default(),
            buffer: vec![0; BUFFER_BYTES],
            connecting: 0,
            open: 0,
            coming_in: true,
            storm: false,
            next_connect_us: 0,
            retries: BinaryHeap::new(),
            step: None,
            due: BinaryHeap::new(),
            churned: 0.0,
            next_churn: 0,
            last_loop_us: 0,
            next_slow_us: 0,
            next_progress_us: 0,
            shared,
        })
    }

    /// Runs until [`Command::Stop`], or until the main thread is gone.
    pub fn run(mut self) {
        let mut events = Vec::with_capacity(EVENTS);
        let core_wait = os::CoreWait::of_this_thread();
        let mut waited_us = 0;
        let mut to_collect = false;
        loop {
            let now_us = self.shared.now_us();
            self.connect_some(now_us);
            self.report_all_open();
            self.publish(now_us);
            self.churn(now_us);
            self.read_slowly(now_us);
            if now_us >= self.next_progress_us && !self.report_progress(now_us) {
                return;
            }
            events.clear();
            let timeout = self.sleep_time();
            let spec = Timespec { tv_sec: 0, tv_nsec: timeout.as_nanos() as _ };
            let slept_us = self.shared.now_us();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&spec)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return drop(self.reports.send(Report::Fatal(format!("epoll failed: {error}.")))),
            }
            let woken_us = self.shared.now_us();
            let waited_before_us = std::mem::replace(&mut waited_us, core_wait.total_us());
            // What arrived while the last batch was read has waited since that batch began at the longest; what woke the
            // thread, for as long as the thread then waited for a core.
            let waiting_since_us = if woken_us - slept_us > 50 {
                slept_us.max(woken_us - (waited_us - waited_before_us))
            } else {
                self.last_loop_us
            };
            let fan_out = !events.is_empty() && woken_us - self.last_loop_us < FAN_OUT_GAP_US;
            self.last_loop_us = woken_us;
            self.stats.watch_window(woken_us);
            // Before anything is read: a step's messages must not arrive before the step has begun. And what has arrived
            // when the end is asked for belongs to it.
            while let Ok(command) = self.commands.try_recv() {
                match command {
                    Command::Run(step) => self.begin(step),
                    Command::Storm => self.cut_all(),
                    Command::Collect => to_collect = true,
                    Command::Stop => return,
                }
            }
            for event in &events {
                self.ready(event.data.u64() as usize, event.flags, waiting_since_us);
            }
            if to_collect && events.len() < EVENTS {
                to_collect = false;
                self.collect();
            }
            if fan_out && events.len() < EVENTS_WORTH_WAKING {
                std::thread::sleep(GATHER);
            }
        }
    }

    fn sleep_time(&self) -> Duration {
        let now_us = self.shared.now_us();
        let mut wake_us = now_us + 10_000;
        if let Some(Reverse((due_us, ..))) = self.due.peek() {
            wake_us = wake_us.min(*due_us);
        }
        if !self.to_connect.is_empty() && self.connecting < CONNECTING_MAX {
            wake_us = wake_us.min(self.next_connect_us);
        }
        Duration::from_micros(wake_us.saturating_sub(now_us))
    }

    fn connect_some(&mut self, now_us: u64) {
        while let Some(Reverse((due_us, index))) = self.retries.peek().copied() {
            if due_us > now_us {
                break;
            }
            self.retries.pop();
            self.to_connect.push(index);
        }
        let plan = &self.shared.plan;
        let interval_us =
            if plan.ramp == 0 { 0 } else { 1_000_000 * self.shared.threads as u64 / u64::from(plan.ramp) };
        while self.connecting < CONNECTING_MAX && self.next_connect_us <= now_us {
            let Some(index) = self.to_connect.pop() else { return };
            self.next_connect_us =
                if interval_us == 0 { 0 } else { self.next_connect_us.max(now_us - now_us.min(100_000)) + interval_us };
            self.connect(index, now_us);
        }
    }

    /// Everyone is in, or is not expected any more; a thread without connections is done at once.
    fn report_all_open(&mut self) {
        let awaited = self.connecting + self.to_connect.len() + self.retries.len();
        if (self.coming_in || self.storm) && awaited == 0 {
            self.coming_in = false;
            self.storm = false;
            let _ = self.reports.send(Report::AllOpen { worker: self.id });
        }
    }

    fn connect(&mut self, index: usize, now_us: u64) {
        let client = &mut self.clients[index];
        let address = match client.role {
            Role::Member { .. } => self.shared.address,
            Role::Publisher { .. } => self.shared.publish_at.0,
        };
        let receive_buffer = matches!(client.role, Role::Member { slow: true }).then_some(SLOW_SOCKET_BYTES);
        let added = os::connect(address, client.number, receive_buffer).and_then(|socket| {
            let interest = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
            epoll::add(&self.epoll, &socket, EventData::new_u64(index as u64), interest)?;
            Ok(socket)
        });
        match added {
            Ok(socket) => {
                client.connect(socket, now_us);
                self.connecting += 1;
            }
            Err(error) => {
                let mend = match error.raw_os_error() {
                    Some(libc::EADDRNOTAVAIL) => {
                        "; the ephemeral ports are used up: widen net.ipv4.ip_local_port_range"
                    }
                    Some(libc::EMFILE | libc::ENFILE) => "; raise the file limit: ulimit -n",
                    _ => "",
                };
                self.failed(index, &format!("a socket can't be had: {error}{mend}"));
            }
        }
    }

    /// Something has happened on a connection.
    fn ready(&mut self, index: usize, flags: EventFlags, waiting_since_us: u64) {
        if flags.intersects(EventFlags::OUT | EventFlags::ERR) {
            let shared = Arc::clone(&self.shared);
            let client = &mut self.clients[index];
            let (number, room, role) = (client.number, client.room, client.role);
            let progress = client.writable(|| request(&shared, number, room, role));
            if let Progress::Ended(why) = progress {
                return self.ended(index, &why);
            }
        }
        if matches!(self.clients[index].role, Role::Member { slow: true }) && self.clients[index].is_open() {
            return;
        }
        if flags.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP) {
            let mut buffer = std::mem::take(&mut self.buffer);
            while self.read(index, &mut buffer, waiting_since_us) {}
            if flags.intersects(EventFlags::RDHUP | EventFlags::HUP) {
                // The end that this edge told of lies behind what was read; no other edge will tell of it.
                self.read(index, &mut buffer, waiting_since_us);
            }
            self.buffer = buffer;
        }
    }

    /// Reads once; true if there may be more.
    fn read(&mut self, index: usize, buffer: &mut [u8], waiting_since_us: u64) -> bool {
        let client = &mut self.clients[index];
        let (stats, shared) = (&mut self.stats, &self.shared);
        let (role, number, room) = (client.role, client.number, client.room);
        let mut reading = Reading { client: number, room, now_us: 0, messages: 0, longest_us: 0 };
        let (bytes, more, progress) = client.read(buffer, |auditor, answered_us, begin| {
            if reading.now_us == 0 {
                reading.now_us = shared.now_us();
            }
            match shared.stamper.find(begin) {
                Some(stamp) => {
                    if let Role::Member { slow } = role {
                        reading.arrived(stats, auditor, answered_us, &stamp, slow);
                    }
                }
                None => stats.notice(begin, auditor, matches!(role, Role::Publisher { .. })),
            }
        });
        stats.bytes += bytes as u64;
        if reading.messages > 0 {
            // One late read makes many late messages; none is later than its whole way took.
            let late_us = reading.now_us.saturating_sub(waiting_since_us);
            stats.read_late(late_us.min(reading.longest_us), reading.messages);
        }
        match progress {
            Progress::Waiting => more,
            Progress::Opened => {
                self.opened(index);
                more
            }
            Progress::Ended(why) => {
                self.ended(index, &why);
                false
            }
        }
    }

    fn opened(&mut self, index: usize) {
        let client = &mut self.clients[index];
        self.connecting -= 1;
        self.open += 1;
        let took_us = self.shared.now_us() - client.connecting_since_us;
        self.stats.connected(took_us, self.storm);
        if let Dialect::Template { subscribe: Some(subscribe), .. } = &self.shared.plan.dialect
            && matches!(client.role, Role::Member { .. })
        {
            let mut frame = Vec::new();
            let text = subscribe.fill(&room_name(client.room), &client_name(client.number), "");
            wire::write_frame(&mut frame, wire::TEXT, text.as_bytes());
            client.send(&frame);
        }
        if let Some(step) = &self.step {
            let due_from = step.due_from(self.shared.now_us() + RETURN_TIME_US, self.shared.plan.publishers);
            client.auditor.expect_from(due_from);
        }
    }

    /// A connection is over, or could not be opened.
    fn ended(&mut self, index: usize, why: &str) {
        match self.clients[index].state {
            State::Open(_) => self.open -= 1,
            _ => self.connecting -= 1,
        }
        self.failed(index, why);
    }

    fn failed(&mut self, index: usize, why: &str) {
        let client = &mut self.clients[index];
        client.cut();
        let what = match client.role {
            Role::Member { slow: true } if why.contains("4101") => return self.stats.slow_closed += 1,
            Role::Member { .. } => format!("client {}", client.number),
            Role::Publisher { .. } => format!("publisher {}", client.number),
        };
        if self.coming_in {
            let _ = self.reports.send(Report::Fatal(format!("{what}: {why}")));
            return;
        }
        self.stats.closed(format!("{what}: {why}"));
        let comes_back = self.storm || self.shared.plan.churn_per_second > 0.0;
        if comes_back || matches!(self.shared.plan.mode, crate::options::Mode::FindLimit(_)) {
            client.auditor.begin_again();
            self.retries.push(Reverse((self.shared.now_us() + RETRY_AFTER_US, index)));
        }
    }

    /// A step begins: every publisher gets its first date.
    fn begin(&mut self, step: Step) {
        let publishers = self.shared.plan.publishers;
        self.step = Some(step);
        self.stats.begin(&step, publishers);
        self.due.clear();
        self.churned = 0.0;
        for (index, client) in self.clients.iter_mut().enumerate() {
            match client.role {
                Role::Publisher { number } => self.due.push(Reverse((step.due_us(0, number, publishers), index, 0))),
                Role::Member { .. } => {
                    client.auditor.begin_again();
                    client.answered_us = 0;
                    if client.is_open() {
                        // The warm-up is time enough for a subscription.
                        client.auditor.expect_from(step.first_measured());
                    }
                }
            }
        }
    }

    fn publish(&mut self, now_us: u64) {
        let Some(step) = self.step else { return };
        let publishers = self.shared.plan.publishers;
        for _ in 0..SEND_BATCH_MAX {
            let Some(Reverse((due_us, index, message))) = self.due.peek().copied() else { return };
            if due_us > now_us {
                return;
            }
            self.due.pop();
            let client = &mut self.clients[index];
            let Role::Publisher { number } = client.role else { unreachable!("only publishers are due") };
            let stamp = Stamp {
                room: client.room as u32,
                publisher: number,
                sequence: step.first + message,
                intended_us: due_us,
            };
            let frame = message_frame(&self.shared, client, &stamp);
            // One that is away, or on its way back, sends nothing: what was due then is lost.
            let progress = if client.is_open() { client.send(&frame) } else { Progress::Waiting };
            let stuck = client.unsent_bytes() > UNSENT_BYTES_MAX;
            self.stats.sent(self.shared.now_us().saturating_sub(due_us), stamp.sequence);
            match progress {
                Progress::Ended(why) => self.ended(index, &why),
                _ if stuck => self.ended(index, "the server doesn't take its messages: 64 MiB wait"),
                _ => {}
            }
            if message + 1 < step.warm + step.measured {
                self.due.push(Reverse((step.due_us(message + 1, number, publishers), index, message + 1)));
            }
        }
    }

    fn churn(&mut self, now_us: u64) {
        let per_second = self.shared.plan.churn_per_second / self.shared.threads as f64;
        let Some(step) = self.step else { return };
        if self.clients.is_empty() {
            return;
        }
        let due = per_second * now_us.saturating_sub(step.start_us) as f64 / 1e6;
        while self.churned + 1.0 <= due {
            self.churned += 1.0;
            self.next_churn = (self.next_churn + 1) % self.clients.len();
            let client = &mut self.clients[self.next_churn];
            if client.is_open() && client.role == (Role::Member { slow: false }) {
                let mut close = Vec::new();
                wire::write_frame(&mut close, wire::CLOSE, &1000u16.to_be_bytes());
                client.send(&close);
                client.cut();
                client.auditor.begin_again();
                self.open -= 1;
                self.to_connect.push(self.next_churn);
            }
        }
    }

    fn cut_all(&mut self) {
        self.storm = true;
        for (index, client) in self.clients.iter_mut().enumerate() {
            if client.is_open() && matches!(client.role, Role::Member { .. }) {
                client.cut();
                client.auditor.begin_again();
                self.open -= 1;
                self.to_connect.push(index);
            }
        }
    }

    fn read_slowly(&mut self, now_us: u64) {
        if self.shared.plan.slow_clients == 0 || now_us < self.next_slow_us {
            return;
        }
        self.next_slow_us = now_us + SLOW_READ_EVERY_US;
        let mut buffer = [0; SLOW_READ_BYTES];
        for index in 0..self.clients.len() {
            if self.clients[index].role == (Role::Member { slow: true }) && self.clients[index].is_open() {
                self.read(index, &mut buffer, now_us);
            }
        }
    }

    /// False: the main thread is gone.
    fn report_progress(&mut self, now_us: u64) -> bool {
        self.next_progress_us = now_us + PROGRESS_EVERY_US;
        self.give_up_late_handshakes(now_us);
        let progress = Report::Progress {
            worker: self.id,
            open: self.open,
            deliveries: self.stats.deliveries,
            latency: Box::new(self.stats.latency_so_far()),
        };
        self.reports.send(progress).is_ok()
    }

    fn give_up_late_handshakes(&mut self, now_us: u64) {
        if self.connecting == 0 {
            return;
        }
        for index in 0..self.clients.len() {
            let client = &self.clients[index];
            let handshaking = matches!(client.state, State::Connecting(_) | State::Handshaking(..));
            if handshaking && now_us - client.connecting_since_us > HANDSHAKE_TIME_MAX_US {
                self.ended(index, "no answer to the handshake within 30 s");
            }
        }
    }

    /// A handshake that is under way may be young; one that the server has left lying must not go unnoticed.
    fn count_unanswered(&self, stats: &mut Stats) {
        let now_us = self.shared.now_us();
        for client in &self.clients {
            let handshaking = matches!(client.state, State::Connecting(_) | State::Handshaking(..));
            let waits_us = now_us - client.connecting_since_us;
            if handshaking && waits_us > UNANSWERED_US {
                let seconds = waits_us / 1_000_000;
                stats
                    .closed(format!("client {}: no answer to the handshake for {seconds} s at the end", client.number));
            }
        }
    }

    fn collect(&mut self) {
        let mut stats = std::mem::take(&mut self.stats);
        self.count_unanswered(&mut stats);
        if let Some(step) = self.step.take() {
            let messages = step.warm + step.measured;
            stats.never_sent(self.due.iter().map(|Reverse((.., message))| u64::from(messages - message)).sum());
            for client in &mut self.clients {
                let mut missing_at_end = 0;
                // A slow client may be behind: that is what it is for.
                if client.role == (Role::Member { slow: false }) {
                    for publisher in 0..self.shared.plan.publishers as u16 {
                        let (first, end) = (step.first_measured(), step.end());
                        let missing = client.auditor.missing_at_end(publisher, first, end);
                        stats.missing_at_end(client.number, missing, end);
                        missing_at_end += u64::from(missing);
                    }
                }
                stats.announced(client.auditor.excused(missing_at_end));
            }
        }
        let _ = self.reports.send(Report::Collected(Box::new(stats.collected())));
    }
}

/// What one read brought: who read, when, and how many measured messages.
struct Reading {
    client: usize,
    room: usize,
    now_us: u64,
    messages: u64,
    /// The longest latency among them.
    longest_us: u64,
}

impl Reading {
    /// A message has arrived at a member.
    fn arrived(&mut self, stats: &mut Stats, auditor: &mut Auditor, answered_us: &mut u64, stamp: &Stamp, slow: bool) {
        if stamp.room as usize != self.room {
            return stats.astray(self.client, stamp);
        }
        match auditor.see(stamp.publisher, stamp.sequence) {
            Seen::InOrder => {}
            Seen::Ahead(count) => stats.ahead(self.client, stamp, count),
            Seen::Reordered => stats.reordered(self.client, stamp),
            Seen::Doubled => return stats.doubled(self.client, stamp),
        }
        if !slow && stats.is_measured(stamp.sequence) {
            // A tool that waits for its answers would not have sent what was due while it waited.
            let waited = stamp.intended_us < *answered_us;
            if !waited {
                *answered_us = self.now_us;
            }
            let latency_us = self.now_us.saturating_sub(stamp.intended_us);
            stats.delivered(self.now_us, latency_us, waited);
            self.messages += 1;
            self.longest_us = self.longest_us.max(latency_us);
        }
    }
}

fn request(shared: &Shared, number: usize, room: usize, role: Role) -> String {
    let room = room_name(room);
    match role {
        Role::Member { .. } => wire::request(&shared.host, &shared.path.fill(&room, &client_name(number), "")),
        Role::Publisher { .. } => {
            let (_, host, path) = &shared.publish_at;
            wire::request(host, &path.fill(&room, &format!("loadgen-publisher-{number}"), ""))
        }
    }
}

fn message_frame(shared: &Shared, client: &Client, stamp: &Stamp) -> Vec<u8> {
    let payload = shared.stamper.payload(stamp, shared.plan.message_bytes);
    let room = room_name(client.room);
    let text = match &shared.plan.dialect {
        Dialect::Chat => format!("{{\"From\":\"\",\"Message\":\"{payload}\",\"Room\":\"{room}\",\"Meta\":false}}"),
        Dialect::Raw => payload,
        Dialect::Template { publish, .. } => publish.fill(&room, &client_name(client.number), &payload),
    };
    let mut frame = Vec::with_capacity(text.len() + 14);
    wire::write_frame(&mut frame, wire::TEXT, text.as_bytes());
    frame
}

/// The name of a room.
pub fn room_name(room: usize) -> String {
    format!("loadgen-{room}")
}

fn client_name(number: usize) -> String {
    format!("loadgen-{number}")
}
