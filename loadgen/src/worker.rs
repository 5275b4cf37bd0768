//! One thread of the load generator, with clients in an epoll loop and publishers on their schedule.
//!
//! The loop reads, and between two batches sends messages that are due. The schedule decides, never the server's
//! answers.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::event::epoll;
use rustix::time::Timespec;

use crate::client::{Client, Role};
use crate::faults::Whose;
use crate::order::Orders;
use crate::os;
use crate::payload::Stamper;
use crate::plan::{Mode, Plan};
use crate::promises::Promises;
use crate::schedule::Step;
use crate::stats::{Collected, Stats};
use crate::target::Endpoint;

mod connecting;
mod ending;
mod publishing;
mod reading;

pub use ending::CATCH_UP_TIME_MAX_US;
use ending::End;

/// Events per batch; the schedule is checked between two batches.
const EVENTS: usize = 256;
/// During a fan-out, fewer events than this are not worth a wake-up: the thread waits for more, at most for [`GATHER`].
const EVENTS_WORTH_WAKING: usize = 64;
/// How long it waits for more events (plus the kernel's timer slack; all of it counts as lateness of reading).
/// Otherwise half the CPU time of server and load generator would go into waking a thread once per message.
const GATHER: Duration = Duration::from_micros(50);
/// If the last batch came this recently, a fan-out is under way.
const FAN_OUT_GAP_US: u64 = 300;
/// A wait that ends later than this was a stopped process, not a late timer: those are a millisecond late on some
/// virtual machines.
const OVERSLEPT_US: u64 = 10_000;
/// The receive buffer that all clients of a thread share.
const BUFFER_BYTES: usize = 256 * 1024;
/// How often progress is reported.
const PROGRESS_EVERY_US: u64 = 250_000;

/// State shared by all threads of a run.
pub struct Shared {
    /// The plan of the run.
    pub plan: Plan,
    /// Where members connect: at one of these.
    pub members_at: Vec<Endpoint>,
    /// Where publishers connect.
    pub publishers_at: Vec<Endpoint>,
    /// The order that all clients of a room have to see, if there are several servers.
    pub orders: Option<Orders>,
    /// What the servers have acknowledged, if they do that.
    pub promises: Option<Promises>,
    /// Writes and finds stamps.
    pub stamper: Stamper,
    /// Start of the run's clock.
    pub clock: Instant,
    /// Number of threads.
    pub threads: usize,
    /// Ports per source address.
    pub ports: usize,
    /// The number after the last message that each publisher has sent.
    pub sent: Vec<AtomicU32>,
}

impl Shared {
    /// Microseconds on the run's clock.
    pub fn now_us(&self) -> u64 {
        self.clock.elapsed().as_micros() as u64
    }

    /// Whether messages are acknowledged and numbered, and clients that reconnect ask for what they missed (`hi.v1`).
    pub fn recovers(&self) -> bool {
        self.promises.is_some()
    }

    /// Where a client connects.
    pub fn endpoint(&self, role: Role, server: usize) -> &Endpoint {
        let all = if matches!(role, Role::Member { .. }) { &self.members_at } else { &self.publishers_at };
        &all[server % all.len()]
    }

    /// A member, as faults name it.
    fn whose(&self, client: usize, server: usize) -> Whose<'_> {
        let server = (self.members_at.len() > 1).then(|| self.members_at[server].shown.as_str());
        Whose { client, server }
    }
}

/// Commands from the main thread.
#[derive(Clone, Copy, Debug)]
pub enum Command {
    /// Publish and measure.
    Run(Step),
    /// The step ends early.
    Shorten(Step),
    /// Cut all members' connections and reconnect them.
    Storm,
    /// Send overdue messages, then nothing more.
    Cease,
    /// Report when the clients have everything that was sent.
    Settle,
    /// Report what was measured, and start over.
    Collect,
    /// End.
    Stop,
}

/// Reports to the main thread.
#[derive(Debug)]
pub enum Report {
    /// What the run has counted so far, for the display.
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
    /// All connections are open, or open again.
    AllOpen {
        /// The thread.
        worker: usize,
        /// Their number.
        open: usize,
    },
    /// Nothing more will be sent.
    Ceased,
    /// This thread's clients have everything that was sent.
    Settled,
    /// Connecting failed: the run can't begin.
    Fatal(String),
    /// The answer to [`Command::Collect`].
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
    /// Clients with more to read than one batch allows.
    unread: Vec<usize>,
    /// Clients whose connections a storm has yet to cut.
    to_cut: Vec<usize>,
    /// Clients that have yet to connect, in reverse order.
    to_connect: Vec<usize>,
    connecting: usize,
    open: usize,
    /// Whether connections are the first ones, or those after a storm.
    coming_in: bool,
    storm: bool,
    next_connect_us: u64,
    retries: BinaryHeap<Reverse<(u64, usize)>>,
    step: Option<Step>,
    /// When each publisher's next message is due, its index in `clients`, and the message's index in the step.
    due: BinaryHeap<Reverse<(u64, usize, u32)>>,
    /// Progress of ending the step.
    end: End,
    /// How many clients have left in this step, to reconnect.
    churned: f64,
    next_churn: usize,
    last_loop_us: u64,
    next_slow_us: u64,
    next_progress_us: u64,
}

impl Worker {
    /// Thread number `id`, with its share of the clients and publishers.
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
        // The clients of a room alternate between the servers, and so do the first ones of the rooms.
        let server = |number: usize| (number / plan.rooms + number % plan.rooms) % shared.members_at.len();
        let of_this_thread = |count: usize| (id..count).step_by(shared.threads);
        let members = of_this_thread(plan.clients).map(|number| {
            let slow = number >= plan.clients - plan.slow_clients;
            Client::new(number, number % plan.rooms, Role::Member { slow }, plan.publishers, server(number))
        });
        let publishers = of_this_thread(plan.rooms * plan.publishers).map(|number| {
            let role = Role::Publisher { number: (number / plan.rooms) as u16 };
            Client::new(number, number % plan.rooms, role, plan.publishers, server(number))
        });
        let publishes = !matches!(plan.mode, Mode::Idle);
        let clients: Vec<_> = members.chain(publishers.filter(|_| publishes)).collect();
        Ok(Self {
            id,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            unread: Vec::new(),
            to_cut: Vec::new(),
            to_connect: (0..clients.len()).rev().collect(),
            clients,
            commands,
            reports,
            stats: Stats::new(shared.members_at.len()),
            buffer: vec![0; BUFFER_BYTES],
            connecting: 0,
            open: 0,
            coming_in: true,
            storm: false,
            next_connect_us: 0,
            retries: BinaryHeap::new(),
            step: None,
            due: BinaryHeap::new(),
            end: End::NotYet,
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
            self.cut_some();
            self.connect_some(now_us);
            self.report_all_open();
            self.publish(now_us);
            self.churn(now_us);
            self.read_slowly(now_us);
            self.go_on_ending(now_us);
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
            let for_core_us = waited_us - waited_before_us;
            // Messages that arrived while the last batch was read have waited at most since that batch began; the one
            // that woke the thread, as long as the thread then waited for a core.
            let overslept = woken_us - slept_us > timeout.as_micros() as u64 + for_core_us + OVERSLEPT_US;
            let waiting_since_us = if overslept {
                // The whole process was stopped: whatever is read now may have arrived when that began.
                slept_us
            } else if woken_us - slept_us > 50 {
                slept_us.max(woken_us - for_core_us)
            } else {
                self.last_loop_us
            };
            let fan_out = !events.is_empty() && woken_us - self.last_loop_us < FAN_OUT_GAP_US;
            // A wait ended by a stop returns nothing; events from meanwhile come with the next one.
            self.last_loop_us = if overslept && events.is_empty() { slept_us } else { woken_us };
            self.stats.watch_window(woken_us);
            // Before reading: a step's messages must not arrive before the step has begun, and whatever has arrived
            // when its end is requested belongs to it.
            while let Ok(command) = self.commands.try_recv() {
                match command {
                    Command::Run(step) => self.begin(step),
                    Command::Shorten(step) => self.shorten(step),
                    Command::Storm => self.begin_storm(),
                    Command::Cease => self.cease(woken_us),
                    Command::Settle => self.settle(),
                    Command::Collect => to_collect = true,
                    Command::Stop => return,
                }
            }
            self.read_on(waiting_since_us);
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
        if !self.to_cut.is_empty() || !self.unread.is_empty() {
            return Duration::ZERO;
        }
        let now_us = self.shared.now_us();
        let mut wake_us = now_us + 10_000;
        if let Some(Reverse((due_us, ..))) = self.due.peek() {
            wake_us = wake_us.min(*due_us);
        }
        if !self.to_connect.is_empty() && self.connecting < connecting::CONNECTING_MAX {
            wake_us = wake_us.min(self.next_connect_us);
        }
        Duration::from_micros(wake_us.saturating_sub(now_us))
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
}

/// The name of a room.
pub fn room_name(room: usize) -> String {
    format!("loadgen-{room}")
}

fn client_name(number: usize) -> String {
    format!("loadgen-{number}")
}

fn publisher_name(number: usize) -> String {
    format!("loadgen-publisher-{number}")
}
