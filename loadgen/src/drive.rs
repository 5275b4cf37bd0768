//! The run: connect, warm up, measure, drain, judge. The threads do the work; this decides when, and what it means.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;

use crate::options::{Dialect, Mode, Plan, Subject};
use crate::os;
use crate::payload::Stamper;
use crate::preflight;
use crate::private_server::PrivateServer;
use crate::progress::Display;
use crate::results::{
    Audit, Connects, Distribution, Generator, Limit, LimitStep, Machine, Run, Second, ServerCost, Storm, Verdict,
};
use crate::stats::{Collected, Faults, add};
use crate::target::{Target, Template};
use crate::worker::{Command, Report, Shared, Step, Worker, room_name};

/// All clients are in within this time, or nothing moves any more.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(120);
/// After the last message is due, so long may nothing arrive before the rest counts as lost.
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// A thread that has not handed over its figures by then has ended, and has said why.
const COLLECT_TIME_MAX: Duration = Duration::from_secs(30);
/// Between a command and its first message.
const LEAD_US: u64 = 200_000;
/// A thread that is busier than this could not have read faster.
const BUSY_SHARE_MAX: f64 = 0.95;
/// Lateness of the load generator below this is never held against a run, in microseconds.
const LATE_US_MIN: u64 = 2_000;
/// Above it, it may be such a part of the p99 latency.
const LATE_PART_MAX: f64 = 0.5;
/// `--find-limit` raises the rate by this factor, until it doesn't hold,
const LIMIT_FACTOR: f64 = 1.6;
/// and then halves the interval so often.
const LIMIT_REFINEMENTS: usize = 3;
/// More steps are not tried.
const LIMIT_STEPS_MAX: usize = 30;

/// So begins the reason of a step that the load generator didn't hold.
const BOUND: &str = "load generator bound";

/// Runs the plan.
///
/// # Errors
/// One sentence: why there is nothing to measure.
pub fn run(plan: Plan, command: String) -> Result<Run, String> {
    let started_unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    preflight::check_limits(&plan)?;
    let cores = os::cores();
    let (server, url, pid) = match &plan.subject {
        Subject::Private { binary, shards } => {
            let server = PrivateServer::start(binary.clone(), *shards)?;
            let (url, pid) = (server.url.clone(), server.pid());
            (Some(server), url, Some(pid))
        }
        Subject::Given { url, pid } => (None, url.clone(), *pid),
    };
    // The first cores are the server's, as far as there are others: a private hi pins its shards to them.
    let private = server.is_some();
    let of_server = server.as_ref().map_or(cores.len() / 2, |server| server.shards);
    let threads = plan.threads.unwrap_or(cores.len().saturating_sub(of_server)).max(1);
    let ours = cores[cores.len() - threads.min(cores.len())..].to_vec();
    let machine = Machine { cores: cores.len(), processor: os::processor(), kernel: os::kernel() };
    let name = plan.name.clone().unwrap_or_else(|| {
        let what = if private { "hi".to_owned() } else { url.clone() };
        format!("{what}, {} clients", plan.clients)
    });
    let run_summary = plan.summary(&url);
    let shared = Arc::new(share(plan, &url, threads)?);
    let display = Display::new(&shared.plan, &url, private);
    let mut driver = Driver::start(Arc::clone(&shared), &ours, pid, display)?;
    let outcome = driver.run()?;
    drop(driver);
    drop(server);
    Ok(Run { name, command, started_unix_ms, machine, plan: run_summary, ..outcome })
}

fn share(plan: Plan, url: &str, threads: usize) -> Result<Shared, String> {
    let target = Target::parse(url)?;
    let default_path = |publisher: bool| {
        Template::new(match (&plan.dialect, publisher) {
            (Dialect::Chat, _) => "/ws?username={client}&room={room}",
            (Dialect::Raw, false) => "/raw/{room}",
            (Dialect::Raw, true) => "/raw/{room}?echo=0",
            (Dialect::Template { .. }, _) => "/",
        })
    };
    let publish_target = plan.publish_url.as_deref().map_or_else(|| Ok(target.clone()), Target::parse)?;
    let address = target.address()?;
    let publish_at = (
        publish_target.address()?,
        publish_target.host.clone(),
        publish_target.path.clone().unwrap_or_else(|| default_path(true)),
    );
    let path = target.path.clone().unwrap_or_else(|| default_path(false));
    preflight::try_target(address, &target.host, &path.fill(&room_name(0), "loadgen-preflight", ""))?;
    preflight::try_target(publish_at.0, &publish_at.1, &publish_at.2.fill(&room_name(0), "loadgen-preflight", ""))?;
    Ok(Shared {
        plan,
        address,
        host: target.host,
        path,
        publish_at,
        stamper: Stamper::new(fastrand::u32(..)),
        clock: Instant::now(),
        threads,
    })
}

/// How far a thread is: connections open, deliveries, latencies so far.
type ThreadProgress = (usize, u64, Option<Box<Histogram<u64>>>);

/// The threads of a run, and what is known of them.
struct Driver {
    shared: Arc<Shared>,
    commands: Vec<Sender<Command>>,
    reports: Receiver<Report>,
    threads: Vec<std::thread::JoinHandle<()>>,
    pid: Option<u32>,
    display: Display,
    progress: Vec<ThreadProgress>,
    all_open: usize,
    next_sequence: u32,
    resident_before: Option<u64>,
    connect_seconds: f64,
}

impl Drop for Driver {
    fn drop(&mut self) {
        for commands in &self.commands {
            let _ = commands.send(Command::Stop);
        }
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so; the run's reports end with it.
            let _ = thread.join();
        }
    }
}

/// What one step measured, all threads together.
struct Measured {
    all: Collected,
    busiest: f64,
    seconds: f64,
    server: Option<(Duration, Duration)>,
}

impl Driver {
    fn start(shared: Arc<Shared>, cores: &[usize], pid: Option<u32>, display: Display) -> Result<Self, String> {
        let (report, reports) = channel();
        let mut driver = Self {
            progress: (0..shared.threads).map(|_| (0, 0, None)).collect(),
            resident_before: pid.and_then(os::process_resident_bytes),
            shared,
            commands: Vec::new(),
            reports,
            threads: Vec::new(),
            pid,
            display,
            all_open: 0,
            next_sequence: 0,
            connect_seconds: 0.0,
        };
        for id in 0..driver.shared.threads {
            let (command, commands) = channel();
            let worker = Worker::new(id, Arc::clone(&driver.shared), commands, report.clone())
                .map_err(|error| format!("a thread can't be set up: {error}."))?;
            driver.commands.push(command);
            let core = cores[id % cores.len()];
            driver.threads.push(std::thread::spawn(move || {
                os::stay_on(&[core]);
                worker.run();
            }));
        }
        Ok(driver)
    }

    fn run(&mut self) -> Result<Run, String> {
        let began = Instant::now();
        self.wait_all_open("connecting", self.connect_time_max())?;
        self.connect_seconds = began.elapsed().as_secs_f64();
        let resident_after = self.pid.and_then(os::process_resident_bytes);
        let plan = self.shared.plan.clone();
        let mut limit = None;
        let mut storm_seconds = None;
        let measured = match plan.mode {
            Mode::Idle => self.idle(plan.duration)?,
            Mode::Steady => self.steady(plan.rate, plan.warmup, plan.duration, None)?,
            Mode::Storm => self.steady(plan.rate, plan.warmup, plan.duration, Some(&mut storm_seconds))?,
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
        run.limit = limit;
        run.storm = storm_seconds.map(|seconds| Storm {
            connections: plan.clients as u64,
            seconds,
            handshake: Distribution::of(&measured.all.storm),
        });
        if let (Some(before), Some(after), Some(cost)) = (self.resident_before, resident_after, &mut run.server) {
            cost.memory_bytes_per_connection = after.saturating_sub(before) as f64 / connections as f64;
        }
        Ok(run)
    }

    /// Takes reports until `until`, or until `enough` says so.
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
                Ok(Report::AllOpen { .. }) => self.all_open += 1,
                Ok(Report::Fatal(why)) => return Err(why),
                Ok(Report::Collected(_)) => {}
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return Err("the threads have ended.".into()),
            }
            let open = self.progress.iter().map(|(open, ..)| open).sum();
            let deliveries = self.deliveries();
            self.display.show(phase, open, deliveries, left, || merged(&self.progress));
        }
    }

    fn deliveries(&self) -> u64 {
        self.progress.iter().map(|(_, deliveries, _)| deliveries).sum()
    }

    fn wait_all_open(&mut self, phase: &str, time_max: Duration) -> Result<(), String> {
        self.all_open = 0;
        let threads = self.shared.threads;
        self.listen(Instant::now() + time_max, phase, |driver| driver.all_open == threads)?;
        if self.all_open < threads {
            let open: usize = self.progress.iter().map(|(open, ..)| open).sum();
            return Err(format!("after {} s only {open} connections are open.", time_max.as_secs()));
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
        self.listen(began + duration, "holding", |_| false)?;
        let server = self.server_cpu().zip(cpu);
        let (all, busiest) = self.collect()?;
        Ok(Measured { all, busiest, seconds: began.elapsed().as_secs_f64(), server })
    }

    /// One rate: warm-up, measured time, drain.
    fn steady(
        &mut self,
        rate: f64,
        warmup: Duration,
        duration: Duration,
        storm: Option<&mut Option<f64>>,
    ) -> Result<Measured, String> {
        let publishers = self.shared.plan.publishers;
        let each = |time: Duration| (time.as_secs_f64() * rate / publishers as f64).ceil() as u32;
        let step = Step {
            start_us: self.shared.now_us() + LEAD_US,
            interval_ns: (1e9 / rate) as u64,
            first: self.next_sequence,
            warm: each(warmup),
            measured: each(duration).max(1),
        };
        self.next_sequence = step.end();
        for progress in &mut self.progress {
            progress.1 = 0;
        }
        self.tell(Command::Run(step));
        let clock = self.shared.clock;
        let at = |us: u64| clock + Duration::from_micros(us);
        let (from, end) = (at(step.measured_from_us(publishers)), at(step.end_us(publishers)));
        self.listen(from, "warming up", |_| false)?;
        let cpu = self.server_cpu();
        if let Some(seconds) = storm {
            self.listen(from + (end - from) / 2, "measuring", |_| false)?;
            self.all_open = 0;
            let began = Instant::now();
            self.tell(Command::Storm);
            let threads = self.shared.threads;
            self.listen(began + self.connect_time_max(), "reconnecting", |driver| driver.all_open == threads)?;
            *seconds = Some(began.elapsed().as_secs_f64());
        }
        self.listen(end, "measuring", |_| false)?;
        self.drain(&step)?;
        let server = self.server_cpu().zip(cpu);
        let (all, busiest) = self.collect()?;
        let last = at(all.last_arrival_us).max(end);
        Ok(Measured { all, busiest, seconds: (last - from).as_secs_f64(), server })
    }

    /// Waits for what is under way: until all of it is here, or nothing has come for a while.
    fn drain(&mut self, step: &Step) -> Result<(), String> {
        let plan = &self.shared.plan;
        let healthy = (plan.clients - plan.slow_clients) as u64;
        let expected = healthy * u64::from(step.measured) * plan.publishers as u64;
        let (mut seen, mut since) = (self.deliveries(), Instant::now());
        while seen < expected && since.elapsed() < SILENCE_MAX {
            self.listen(Instant::now() + Duration::from_millis(300), "draining", |driver| {
                driver.deliveries() >= expected
            })?;
            if self.deliveries() > seen {
                (seen, since) = (self.deliveries(), Instant::now());
            }
        }
        Ok(())
    }

    fn server_cpu(&self) -> Option<Duration> {
        self.pid.and_then(os::process_cpu_time)
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
                    Err(_) => return Err("a thread does not report: it must have ended.".into()),
                }
            };
            busiest = busiest.max(collected.cpu_share);
            match &mut all {
                None => all = Some(collected),
                Some(all) => merge(all, collected),
            }
        }
        all.map(|all| (all, busiest)).ok_or_else(|| "there are no threads.".to_owned())
    }

    /// Raises the rate until it doesn't hold, then closes in on the knee.
    fn find_limit(&mut self, slo: Duration) -> Result<(Measured, Limit), String> {
        let slo_us = slo.as_micros() as u64;
        let plan = self.shared.plan.clone();
        let mut steps: Vec<LimitStep> = Vec::new();
        let (mut held, mut best): (Option<f64>, Option<Measured>) = (None, None);
        let mut broken: Option<f64> = None;
        let mut rate = plan.rate;
        let mut refinements = 0;
        let mut handshake = None;
        let mut inexcusable = Faults::default();
        while steps.len() < LIMIT_STEPS_MAX && refinements <= LIMIT_REFINEMENTS {
            let measured = self.steady(rate, plan.warmup, plan.duration, None)?;
            let step = judge_step(&measured, rate, slo_us);
            self.display.step(&step);
            handshake.get_or_insert_with(|| measured.all.handshake.clone());
            inexcusable.add(measured.all.faults.inexcusable());
            let holds = step.held;
            steps.push(step);
            if holds {
                held = Some(held.unwrap_or(0.0).max(rate));
                best = Some(measured);
            } else {
                broken = Some(broken.unwrap_or(f64::INFINITY).min(rate));
                best.get_or_insert(measured);
            }
            rate = match (held, broken) {
                (Some(held), Some(broken)) => {
                    refinements += 1;
                    (held * broken).sqrt()
                }
                (_, None) => rate * LIMIT_FACTOR,
                (None, Some(broken)) if broken < 0.1 => break,
                (None, Some(broken)) => broken / 4.0,
            };
        }
        let knee = steps.iter().filter(|step| step.held).max_by(|a, b| a.rate.total_cmp(&b.rate));
        let limit = Limit {
            slo_us,
            rate: knee.map_or(0.0, |step| step.rate),
            deliveries_per_second: knee.map_or(0.0, |step| step.deliveries_per_second),
            steps,
        };
        let mut best = best.expect("at least one step was taken");
        best.all.handshake = handshake.expect("at least one step was taken");
        best.all.faults.replace_inexcusable(inexcusable);
        Ok((best, limit))
    }

    fn result(&self, measured: &Measured, connections: u64) -> Run {
        let Measured { all, busiest, seconds, server } = measured;
        let latency = Distribution::of(&all.latency);
        let generator = Generator {
            threads: self.shared.threads,
            busiest_thread_share: *busiest,
            send_late: Distribution::of(&all.send_late),
            read_late: Distribution::of(&all.read_late),
        };
        let Faults { lost, doubled, reordered, announced, closed, first, .. } = all.faults.clone();
        let audit = Audit { lost, doubled, reordered, announced: announced.min(lost), closed, first };
        let resident = self.pid.and_then(os::process_resident_bytes).unwrap_or(0);
        Run {
            name: String::new(),
            command: String::new(),
            started_unix_ms: 0,
            machine: Machine { cores: 0, processor: String::new(), kernel: String::new() },
            plan: self.shared.plan.summary(""),
            verdict: verdict(all, &audit, &generator, &latency),
            deliveries: all.deliveries,
            deliveries_expected: all.deliveries + lost,
            seconds: *seconds,
            deliveries_per_second: all.deliveries as f64 / seconds.max(1e-9),
            latency,
            latency_uncorrected: Distribution::of(&all.uncorrected),
            timeline: all.timeline.iter().enumerate().map(second).collect(),
            connects: Connects {
                count: connections,
                per_second: connections as f64 / self.connect_seconds.max(1e-9),
                handshake: Distribution::of(&all.handshake),
            },
            bytes_received: all.bytes,
            server: server.map(|(after, before)| {
                // Threads that have ended have taken their time with them.
                let spent = after.saturating_sub(before).as_secs_f64();
                ServerCost {
                    cpu_us_per_delivery: if all.deliveries == 0 { 0.0 } else { spent * 1e6 / all.deliveries as f64 },
                    cores: spent / seconds.max(1e-9),
                    memory_bytes_per_connection: 0.0,
                    resident_bytes: resident,
                }
            }),
            generator,
            audit,
            limit: None,
            storm: None,
        }
    }
}

fn second((index, histogram): (usize, &Histogram<u64>)) -> Second {
    Second {
        second: index as u32,
        deliveries: histogram.len(),
        p50_us: histogram.value_at_quantile(0.5),
        p99_us: histogram.value_at_quantile(0.99),
        max_us: histogram.max(),
    }
}

fn merged(progress: &[ThreadProgress]) -> Option<Histogram<u64>> {
    let mut histograms = progress.iter().filter_map(|(.., histogram)| histogram.as_deref());
    let mut all = histograms.next()?.clone();
    histograms.for_each(|histogram| add(&mut all, histogram));
    Some(all)
}

fn merge(all: &mut Collected, other: Collected) {
    add(&mut all.latency, &other.latency);
    add(&mut all.uncorrected, &other.uncorrected);
    add(&mut all.handshake, &other.handshake);
    add(&mut all.storm, &other.storm);
    add(&mut all.send_late, &other.send_late);
    add(&mut all.read_late, &other.read_late);
    for (index, histogram) in other.timeline.into_iter().enumerate() {
        match all.timeline.get_mut(index) {
            Some(of_all) => add(of_all, &histogram),
            None => all.timeline.push(histogram),
        }
    }
    all.deliveries += other.deliveries;
    all.bytes += other.bytes;
    all.slow_closed += other.slow_closed;
    all.last_arrival_us = all.last_arrival_us.max(other.last_arrival_us);
    all.faults.add(other.faults);
    all.never_sent += other.never_sent;
    all.publisher_told = all.publisher_told.take().or(other.publisher_told);
}

/// Whether the load generator itself was the limit, and why.
fn bound(all: &Collected, generator: &Generator, latency: &Distribution) -> Vec<String> {
    let mut reasons = Vec::new();
    if all.never_sent > 0 {
        reasons.push(format!("{} messages were due and had not been sent when the run ended", all.never_sent));
    }
    if generator.busiest_thread_share > BUSY_SHARE_MAX {
        reasons.push(format!(
            "its busiest thread used {:.0} % of a core: give it more --threads or cores, or fewer clients or a lower rate",
            generator.busiest_thread_share * 100.0
        ));
    }
    let late_max_us = LATE_US_MIN.max((latency.p99_us as f64 * LATE_PART_MAX) as u64);
    for (what, late) in [("sent", &generator.send_late), ("read", &generator.read_late)] {
        if late.p99_us > late_max_us {
            reasons.push(format!(
                "it {what} messages up to {:.1} ms late (p99), against a p99 latency of {:.1} ms",
                late.p99_us as f64 / 1e3,
                latency.p99_us as f64 / 1e3
            ));
        }
    }
    reasons
}

fn verdict(all: &Collected, audit: &Audit, generator: &Generator, latency: &Distribution) -> Verdict {
    let invalid = bound(all, generator, latency);
    let mut failed = Vec::new();
    let unannounced = audit.lost - audit.announced;
    for (count, what) in [
        (unannounced, "messages were lost, and the server did not say so"),
        (audit.doubled, "messages came twice"),
        (audit.reordered, "messages came out of order"),
        (all.faults.astray, "messages came to clients of another room"),
        (audit.closed, "connections were closed or broke"),
    ] {
        if count > 0 {
            failed.push(format!("{count} {what}"));
        }
    }
    if let (Some(told), false) = (&all.publisher_told, failed.is_empty()) {
        failed.push(format!("the server told a publisher: {told}"));
    }
    match (failed.is_empty(), invalid.is_empty()) {
        (true, true) => Verdict::Sound,
        (true, false) => Verdict::Invalid(invalid),
        // What was never sent can't arrive: that is not the server's loss.
        (false, _) if all.never_sent > 0 => Verdict::Invalid(invalid),
        (false, _) => {
            failed.extend(invalid.iter().map(|reason| format!("beside that, the load generator was bound: {reason}")));
            Verdict::Failed(failed)
        }
    }
}

/// Whether the knee is the load generator's own, and how that showed.
fn own_limit(limit: &Limit) -> Option<String> {
    let broken = limit.steps.iter().filter(|step| !step.held).min_by(|a, b| a.rate.total_cmp(&b.rate))?;
    let reason = broken.reason.as_ref()?.strip_prefix(BOUND)?;
    Some(format!("the server may hold more than was found: at {:.1} messages/s{reason}", broken.rate))
}

fn judge_step(measured: &Measured, rate: f64, slo_us: u64) -> LimitStep {
    let latency = Distribution::of(&measured.all.latency);
    let faults = &measured.all.faults;
    let generator = Generator {
        threads: 0,
        busiest_thread_share: measured.busiest,
        send_late: Distribution::of(&measured.all.send_late),
        read_late: Distribution::of(&measured.all.read_late),
    };
    let reason = if let Some(reason) = bound(&measured.all, &generator, &latency).into_iter().next() {
        Some(format!("{BOUND}: {reason}"))
    } else if faults.lost + faults.closed > 0 {
        Some(format!("{} messages lost, {} connections closed", faults.lost, faults.closed))
    } else if latency.p99_us > slo_us {
        Some(format!("p99 {:.1} ms", latency.p99_us as f64 / 1e3))
    } else {
        None
    };
    LimitStep {
        rate,
        deliveries_per_second: measured.all.deliveries as f64 / measured.seconds.max(1e-9),
        p50_us: latency.p50_us,
        p99_us: latency.p99_us,
        held: reason.is_none(),
        reason,
    }
}
