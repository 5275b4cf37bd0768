//! The run: connect, warm up, measure, drain, report. The threads do the work; this decides when.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;

use crate::interrupt;
use crate::order::Orders;
use crate::os;
use crate::payload::Stamper;
use crate::plan::{Dialect, Mode, Plan, Subject};
use crate::preflight;
use crate::private_server::PrivateServer;
use crate::progress::Display;
use crate::promises::Promises;
use crate::results::{Distribution, Machine, Run, Storm, Verdict};
use crate::schedule::Step;
use crate::secrets::without_secrets;
use crate::session;
use crate::stats::{Collected, add};
use crate::target::{Endpoint, Target, Template};
use crate::worker::{CATCH_UP_TIME_MAX_US, Command, Report, Shared, Worker, room_name};

mod limit;
mod result;

use limit::own_limit;
use result::Measured;

/// All clients must have connected within this time.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(120);
/// In a storm: once no client has reconnected for this long (the limit of a handshake), the rest won't.
const STILL_MAX: Duration = Duration::from_secs(30);
/// After the last send: once nothing has arrived for this long, the rest counts as lost.
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// Time limit for the rest, even while some of it still arrives.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(120);
/// A thread that hasn't handed over its figures within this time has ended, and has said why.
const COLLECT_TIME_MAX: Duration = Duration::from_secs(30);
/// A thread takes a command within this time unless it is stuck.
const COMMAND_TIME_MAX: Duration = Duration::from_secs(1);
/// Microseconds between a command and its first message.
const LEAD_US: u64 = 200_000;

/// Runs the plan.
///
/// # Errors
/// One sentence: why nothing can be measured.
pub fn run(plan: Plan, command: String) -> Result<Run, String> {
    let started_unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    preflight::check_limits(&plan)?;
    let cores = os::cores();
    let (server, urls, pid) = match &plan.subject {
        Subject::Private { binary, shards } => {
            let server = PrivateServer::start(binary.clone(), *shards, plan.message_bytes)?;
            let (url, pid) = (server.url.clone(), server.pid());
            (Some(server), vec![url], Some(pid))
        }
        Subject::Given { urls, pid } => (None, urls.clone(), *pid),
    };
    let shown = urls.iter().map(|url| without_secrets(url)).collect::<Vec<_>>().join(", ");
    // The first cores are left to the server if there are others: a private hi pins its shards to them.
    let private = server.is_some();
    let of_server = server.as_ref().map_or(cores.len() / 2, |server| server.shards);
    let threads = plan.threads.unwrap_or(cores.len().saturating_sub(of_server)).max(1);
    let ours = cores[cores.len() - threads.min(cores.len())..].to_vec();
    let machine = Machine { cores: cores.len(), processor: os::processor(), kernel: os::kernel() };
    let name = plan.name.clone().unwrap_or_else(|| {
        let what = if private { "hi" } else { &shown };
        format!("{what}, {} clients", plan.clients)
    });
    let run_summary = plan.summary(&shown);
    let shared = Arc::new(share(plan, &urls, threads)?);
    let display = Display::new(&shared.plan, &shown, private);
    let mut driver = Driver::start(Arc::clone(&shared), &ours, pid, display)?;
    interrupt::run_begins();
    let outcome = driver.run()?;
    drop(driver);
    drop(server);
    Ok(Run { name, command, started_unix_ms, machine, plan: run_summary, ..outcome })
}

fn share(plan: Plan, urls: &[String], threads: usize) -> Result<Shared, String> {
    let v1 = matches!(plan.dialect, Dialect::ChatV1);
    let default_path = |publisher: bool| {
        Template::new(match (&plan.dialect, publisher) {
            (Dialect::Chat, _) => "/ws?username={client}&room={room}",
            (Dialect::ChatV1, _) => "/ws?username={client}",
            (Dialect::Raw, false) => "/raw/{room}",
            (Dialect::Raw, true) => "/raw/{room}?echo=0",
            (Dialect::Template { .. }, _) => "/",
        })
    };
    let endpoints = |urls: &[String], publisher| {
        urls.iter().map(|url| endpoint(url, default_path(publisher), v1)).collect::<Result<Vec<_>, _>>()
    };
    let members_at = endpoints(urls, false)?;
    let publishers_at = endpoints(plan.publish_url.as_ref().map_or(urls, std::slice::from_ref), true)?;
    let ports = os::ephemeral_ports();
    for endpoint in &members_at {
        preflight::check_ports(plan.connections().div_ceil(members_at.len()), ports, endpoint.address)?;
    }
    // One publisher's order is every auditor's own business.
    let shares_an_order = urls.len() > 1 && plan.publishers > 1 && plan.mode != Mode::Idle;
    let sent = (0..plan.rooms * plan.publishers).map(|_| AtomicU32::new(0)).collect();
    let message_bytes = plan.message_bytes;
    Ok(Shared {
        members_at,
        publishers_at,
        promises: v1.then(|| Promises::new(plan.rooms * plan.publishers)),
        orders: shares_an_order.then(|| Orders::new(plan.rooms, plan.publishers)),
        stamper: Stamper::new(fastrand::u32(..), message_bytes),
        clock: Instant::now(),
        threads,
        ports,
        sent,
        plan,
    })
}

/// Where a server answers; `default_path` is for a URL without a path, and `v1` asks for `hi.v1`.
fn endpoint(url: &str, default_path: Template, v1: bool) -> Result<Endpoint, String> {
    let mut target = Target::parse(url)?;
    target.subprotocol = v1.then_some(session::SUBPROTOCOL);
    let path = target.path.clone().unwrap_or(default_path);
    let tried = path.fill(&room_name(0), "loadgen-preflight", "");
    let address = preflight::try_target(&target.addresses()?, &target, &tried)?;
    Ok(Endpoint { shown: without_secrets(url), address, target, path })
}

/// Progress of a thread: open connections, deliveries, latencies so far.
type ThreadProgress = (usize, u64, Option<Box<Histogram<u64>>>);

/// The outcome of a storm: every client has reconnected, or is no longer waited for.
struct Back {
    /// Clients that haven't reconnected.
    missing: u64,
    /// Duration of the storm.
    seconds: f64,
    /// The server's CPU time meanwhile.
    server_cpu: Option<Duration>,
}

/// The threads of a run, and their progress.
struct Driver {
    shared: Arc<Shared>,
    commands: Vec<Sender<Command>>,
    reports: Receiver<Report>,
    threads: Vec<std::thread::JoinHandle<()>>,
    pid: Option<u32>,
    display: Display,
    progress: Vec<ThreadProgress>,
    all_open: usize,
    ceased: usize,
    settled: usize,
    next_sequence: u32,
    /// Whether a signal has ended a step early.
    cut_short: bool,
    resident_before: Option<u64>,
    own_resident_before: u64,
    connect_seconds: f64,
    /// The server's CPU time while the clients connected.
    connect_cpu: Option<Duration>,
}

impl Drop for Driver {
    fn drop(&mut self) {
        for commands in &self.commands {
            let _ = commands.send(Command::Stop);
        }
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so, and its reports end.
            let _ = thread.join();
        }
    }
}

impl Driver {
    fn start(shared: Arc<Shared>, cores: &[usize], pid: Option<u32>, display: Display) -> Result<Self, String> {
        let (report, reports) = channel();
        let mut driver = Self {
            progress: (0..shared.threads).map(|_| (0, 0, None)).collect(),
            own_resident_before: own_resident_bytes(),
            resident_before: pid.and_then(os::process_resident_bytes),
            shared,
            commands: Vec::new(),
            reports,
            threads: Vec::new(),
            pid,
            display,
            all_open: 0,
            ceased: 0,
            settled: 0,
            next_sequence: 0,
            cut_short: false,
            connect_seconds: 0.0,
            connect_cpu: None,
        };
        for id in 0..driver.shared.threads {
            let (command, commands) = channel();
            let worker = Worker::new(id, Arc::clone(&driver.shared), commands, report.clone())
                .map_err(|error| format!("can't set up a thread: {error}."))?;
            driver.commands.push(command);
            let core = cores[id % cores.len()];
            let thread = std::thread::Builder::new().spawn(move || {
                os::stay_on(&[core]);
                worker.run();
            });
            driver
                .threads
                .push(thread.map_err(|error| format!("can't start a thread: {error}; use fewer --threads."))?);
        }
        Ok(driver)
    }

    fn run(&mut self) -> Result<Run, String> {
        let began = Instant::now();
        let cpu = self.server_cpu();
        self.wait_all_open("connecting", self.connect_time_max())?;
        self.connect_seconds = began.elapsed().as_secs_f64();
        self.connect_cpu = self.server_cpu_since(cpu);
        let resident_after = self.pid.and_then(os::process_resident_bytes);
        let plan = self.shared.plan.clone();
        let mut limit = None;
        let mut back = None;
        let measured = match plan.mode {
            Mode::Idle => self.idle(plan.duration)?,
            Mode::Steady => self.steady(plan.rate, plan.warmup, plan.duration, None)?,
            Mode::Storm => self.steady(plan.rate, plan.warmup, plan.duration, Some(&mut back))?,
            Mode::FindLimit(slo) => {
                let (measured, found) = self.find_limit(slo)?;
                limit = Some(found);
                measured
            }
        };
        self.display.end();
        let connections = plan.connections() as u64;
        let mut run = self.result(&measured, connections);
        if let (Verdict::Sound, Some(reason)) = (&run.verdict, limit.as_ref().and_then(own_limit)) {
            run.verdict = Verdict::Invalid(vec![reason]);
        }
        if run.verdict == Verdict::Sound && plan.mode != Mode::Idle && run.deliveries_expected == 0 {
            run.verdict =
                Verdict::Invalid(vec!["nothing was measured: no client had any message to expect".to_owned()]);
        }
        run.limit = limit;
        run.storm = back.map(|back| Storm {
            connections: plan.clients as u64,
            missing: back.missing,
            seconds: back.seconds,
            handshake: Distribution::of(&measured.all.storm),
            server_cpu_us_per_connection: back.server_cpu.map(|cpu| per_connection_us(cpu, plan.clients)),
        });
        if let (Some(before), Some(after), Some(cost)) = (self.resident_before, resident_after, &mut run.server) {
            cost.memory_bytes_per_connection = after.saturating_sub(before) as f64 / connections as f64;
        }
        Ok(run)
    }

    /// Takes reports until `until`, until `enough` returns true, or until a signal ends the run.
    fn listen_unless_cut(
        &mut self,
        until: Instant,
        phase: &str,
        mut enough: impl FnMut(&Self) -> bool,
    ) -> Result<(), String> {
        self.listen(until, phase, |driver| interrupt::has_come() || enough(driver))
    }

    /// Takes reports until `until`, or until `enough` returns true.
    fn listen(&mut self, until: Instant, phase: &str, mut enough: impl FnMut(&Self) -> bool) -> Result<(), String> {
        loop {
            if enough(self) {
                return Ok(());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            match self.reports.recv_timeout(left.min(Duration::from_millis(100))) {
                Ok(Report::Progress { worker, open, deliveries, latency }) => {
                    self.progress[worker] = (open, deliveries, Some(latency));
                }
                Ok(Report::AllOpen { worker, open }) => {
                    self.progress[worker].0 = open;
                    self.all_open += 1;
                }
                Ok(Report::Ceased) => self.ceased += 1,
                Ok(Report::Settled) => self.settled += 1,
                Ok(Report::Fatal(why)) => return Err(why),
                Ok(Report::Collected(_)) => {}
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return Err("the threads have ended.".into()),
            }
            let open = self.open();
            let deliveries = self.deliveries();
            self.display.show(phase, open, deliveries, left, || merged(&self.progress));
        }
    }

    fn open(&self) -> usize {
        self.progress.iter().map(|(open, ..)| open).sum()
    }

    fn deliveries(&self) -> u64 {
        self.progress.iter().map(|(_, deliveries, _)| deliveries).sum()
    }

    fn wait_all_open(&mut self, phase: &str, time_max: Duration) -> Result<(), String> {
        self.all_open = 0;
        let threads = self.shared.threads;
        self.listen_unless_cut(Instant::now() + time_max, phase, |driver| driver.all_open == threads)?;
        if self.all_open < threads {
            let open = self.open();
            if interrupt::has_come() {
                let all = self.shared.plan.connections();
                return Err(format!(
                    "interrupted: only {open} of {all} connections were open, and nothing was measured yet."
                ));
            }
            return Err(format!("only {open} connections are open after {} s.", time_max.as_secs()));
        }
        Ok(())
    }

    fn connect_time_max(&self) -> Duration {
        let plan = &self.shared.plan;
        let ramp = if plan.ramp == 0 { 0.0 } else { plan.connections() as f64 / f64::from(plan.ramp) };
        CONNECT_TIME_MAX + Duration::from_secs_f64(ramp)
    }

    fn tell(&self, command: Command) {
        for commands in &self.commands {
            // A thread that has ended has sent why.
            let _ = commands.send(command);
        }
    }

    fn idle(&mut self, duration: Duration) -> Result<Measured, String> {
        let cpu = self.server_cpu();
        let began = Instant::now();
        self.listen_unless_cut(began + duration, "holding", |_| false)?;
        self.cut_short = interrupt::has_come();
        let (server, resident) = (self.server_cpu().zip(cpu), own_resident_bytes());
        let (all, busiest) = self.collect()?;
        Ok(Measured { all, busiest, resident, seconds: began.elapsed().as_secs_f64(), server })
    }

    /// The messages of one rate, starting now; none if there are not enough numbers.
    fn step(&self, rate: f64, warmup: Duration, duration: Duration) -> Option<Step> {
        let start_us = self.shared.now_us() + LEAD_US;
        Step::new(start_us, rate, self.shared.plan.publishers, self.next_sequence, (warmup, duration))
    }

    /// Cuts the step off at the current time if a signal has ended the run.
    fn cut(&mut self, step: Step) -> Step {
        if !interrupt::has_come() {
            return step;
        }
        self.cut_short = true;
        let step = step.until(self.shared.now_us(), self.shared.plan.publishers);
        self.tell(Command::Shorten(step));
        step
    }

    /// One rate: warm-up, measured time, drain.
    fn steady(
        &mut self,
        rate: f64,
        warmup: Duration,
        duration: Duration,
        storm: Option<&mut Option<Back>>,
    ) -> Result<Measured, String> {
        let publishers = self.shared.plan.publishers;
        let step = self
            .step(rate, warmup, duration)
            .ok_or("there are more messages than numbers: use a shorter --duration or a lower --rate.")?;
        self.next_sequence = step.end();
        for progress in &mut self.progress {
            (progress.1, progress.2) = (0, None);
        }
        self.tell(Command::Run(step));
        let clock = self.shared.clock;
        let at = |us: u64| clock + Duration::from_micros(us);
        let (from, end) = (at(step.measured_from_us(publishers)), at(step.end_us(publishers)));
        self.listen_unless_cut(from, "warming up", |_| false)?;
        let cpu = self.server_cpu();
        if let Some(back) = storm {
            self.listen_unless_cut(from + (end - from) / 2, "measuring", |_| false)?;
            if !interrupt::has_come() {
                *back = Some(self.storm()?);
            }
        }
        self.listen_unless_cut(end, "measuring", |_| false)?;
        let end = if Instant::now() < end { at(self.cut(step).end_us(publishers)) } else { end };
        self.drain()?;
        let (server, resident) = (self.server_cpu().zip(cpu), own_resident_bytes());
        let (all, busiest) = self.collect()?;
        let last = at(all.last_arrival_us).max(end);
        Ok(Measured { all, busiest, resident, seconds: (last - from).as_secs_f64(), server })
    }

    /// Cuts all connections, and waits until all clients have reconnected.
    fn storm(&mut self) -> Result<Back, String> {
        self.all_open = 0;
        let (began, cpu) = (Instant::now(), self.server_cpu());
        self.tell(Command::Storm);
        let threads = self.shared.threads;
        let (mut last, mut since) = (self.open(), began);
        self.listen_unless_cut(began + self.connect_time_max(), "reconnecting", |driver| {
            if driver.open() != last {
                (last, since) = (driver.open(), Instant::now());
            }
            driver.all_open == threads || since.elapsed() >= STILL_MAX
        })?;
        let open = self.open();
        let missing = if self.all_open == threads { 0 } else { self.shared.plan.connections().saturating_sub(open) };
        let seconds = began.elapsed().as_secs_f64();
        Ok(Back { missing: missing as u64, seconds, server_cpu: self.server_cpu_since(cpu) })
    }

    /// Waits for outstanding messages, until all have arrived or none has for a while.
    fn drain(&mut self) -> Result<(), String> {
        let threads = self.shared.threads;
        (self.ceased, self.settled) = (0, 0);
        self.tell(Command::Cease);
        let catch_up = Duration::from_micros(CATCH_UP_TIME_MAX_US) + COMMAND_TIME_MAX;
        self.listen(Instant::now() + catch_up, "draining", |driver| driver.ceased == threads)?;
        self.tell(Command::Settle);
        let began = Instant::now();
        let (mut seen, mut since) = (self.deliveries(), began);
        while self.settled < threads && since.elapsed() < SILENCE_MAX && began.elapsed() < DRAIN_TIME_MAX {
            self.listen(Instant::now() + Duration::from_millis(300), "draining", |driver| driver.settled == threads)?;
            if self.deliveries() > seen {
                (seen, since) = (self.deliveries(), Instant::now());
            }
        }
        Ok(())
    }

    fn server_cpu(&self) -> Option<Duration> {
        self.pid.and_then(os::process_cpu_time)
    }

    fn server_cpu_since(&self, before: Option<Duration>) -> Option<Duration> {
        // Saturating, because the time of threads that ended meanwhile is missing.
        Some(self.server_cpu()?.saturating_sub(before?))
    }

    fn collect(&mut self) -> Result<(Collected, f64), String> {
        self.tell(Command::Collect);
        let mut all: Option<Collected> = None;
        let mut busiest: f64 = 0.0;
        for _ in 0..self.shared.threads {
            let collected = loop {
                match self.reports.recv_timeout(COLLECT_TIME_MAX) {
                    Ok(Report::Collected(collected)) => break *collected,
                    Ok(_) => {}
                    Err(_) => return Err("a thread doesn't report: it must have ended.".into()),
                }
            };
            busiest = busiest.max(collected.cpu_share);
            match &mut all {
                None => all = Some(collected),
                Some(all) => all.merge(collected),
            }
        }
        all.map(|all| (all, busiest)).ok_or_else(|| "there are no threads.".to_owned())
    }
}

/// CPU time per connection, in microseconds.
fn per_connection_us(cpu: Duration, connections: usize) -> f64 {
    cpu.as_secs_f64() * 1e6 / connections as f64
}

fn own_resident_bytes() -> u64 {
    os::process_resident_bytes(std::process::id()).unwrap_or(0)
}

fn merged(progress: &[ThreadProgress]) -> Option<Histogram<u64>> {
    let mut histograms = progress.iter().filter_map(|(.., histogram)| histogram.as_deref());
    let mut all = histograms.next()?.clone();
    histograms.for_each(|histogram| add(&mut all, histogram));
    Some(all)
}
