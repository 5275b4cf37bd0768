//! Starts the shards, waits for a signal, and stops them.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::task::JoinHandle as Task;
use tracing::{info, warn};

use crate::api::health::{Check, Readiness};
use crate::api::key::Keys;
use crate::api::{App, InternalPort};
use crate::canary::{Canary, Plan};
use crate::config::{Config, Internal};
use crate::cores::{Cores, Unpinned};
use crate::descriptors::Descriptors;
use crate::handshake::{self, Door, Front};
use crate::handshake_failures::{FailureMetric, Failures};
use crate::log;
use crate::memory::{Memory, MemoryMetric, Size};
use crate::metrics::Metrics;
use crate::metrics::counters::{Counters, Speech};
use crate::os;
use crate::probe::{self, Kernel};
use crate::protocol::resume::ResumeKey;
use crate::relay;
use crate::ring::{DataRing, RingError};
use crate::room::registry::Registry;
use crate::shard::Shard;
use crate::shard::run::{Stop, control_ring, run};

mod ports;
pub mod signals;

use ports::{Links, bind, bind_internal};
use signals::Signals;

/// From the first signal to the end of the process.
const STOP_TIME_MAX: Duration = Duration::from_millis(4800);
/// What the log gets on top of it, if all of that time was needed.
const LOG_TIME_MIN: Duration = Duration::from_millis(100);
/// How long a start that is interrupted by a signal may take to its end: until then it is not known whether somebody is
/// connected.
const START_TIME_MAX: Duration = Duration::from_millis(2500);
/// File descriptors of each shard that are no connections: its rings, its runtime, eventfds.
const FILES_PER_SHARD: u64 = 9;
/// And for each address: the shard's listener, the handle that shuts it down, and a connection that waits for a descriptor.
const FILES_PER_LISTENER: u64 = 3;
/// Those of the internal port: its listener and its runtime, and the connections that it can have whatever the public port
/// does.
const FILES_OF_INTERNAL_PORT: u64 = 4 + FILES_RESERVED;
/// Connections of the internal port for which files are kept, and some for what the process opens for a moment.
const FILES_RESERVED: u64 = 48;
/// The kernel's table of our files has room for so many from the start: half a megabyte at most.
const FILES_AT_START_MAX: u64 = 65_536;
/// Those of the process: standard streams, the main thread's runtime, signals, and some to spare.
const FILES_BESIDE: u64 = 16;

/// Why the server can't start. The sentence says what to do.
#[derive(Debug)]
pub struct StartError(String);

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A server that runs: its shards accept.
pub struct Server {
    addresses: Vec<SocketAddr>,
    internal: Option<SocketAddr>,
    /// Whether the internal port asks for no key.
    internal_is_open: bool,
    instance: Arc<str>,
    metrics: Arc<Metrics>,
    readiness: Arc<Readiness>,
    registry: Arc<Registry>,
    failures: Arc<Failures>,
    stop: Arc<Stop>,
    listeners: Vec<TcpListener>,
    threads: Vec<JoinHandle<()>>,
    /// Why not every shard is pinned.
    unpinned: Option<Unpinned>,
}

impl Server {
    /// Starts every shard; when this returns, connections are accepted.
    ///
    /// # Errors
    /// An address that can't be bound, a thread or a ring that can't be had, a shard that panics. Nothing is left running.
    pub fn start<R: DataRing + 'static>(config: Config) -> Result<Self, StartError> {
        let cores = cores()?;
        let shards = config.shard_count(cores.parallelism());
        let config = Arc::new(config);
        let per_address = bind(&config, shards)?;
        let keys = config.api_key_file.as_deref().map_or(Ok(Keys::default()), Keys::load).map_err(StartError)?;
        let internal = bind_internal(&config)?;
        let addresses = per_address.iter().map(|listeners| local_address(&listeners[0])).collect::<Result<_, _>>()?;
        let wake_ups = many(shards, os::new_eventfd)?;
        let mut to_wake = wake_ups.iter();
        let to_wake = many(shards, || to_wake.next().expect("one each").try_clone())?;
        let random = || os::random_u64().map_err(|error| StartError(format!("no random numbers: {error}")));
        let instance: Arc<str> = format!("{:016x}", random()?).into();
        let registry = Arc::new(Registry::new(
            relay::inboxes(to_wake, config.inbox_bytes_max(shards)),
            random()?,
            ResumeKey::new([random()?, random()?]),
            config.replay_bounds(),
        ));
        let failures = Arc::new(Failures::new(config.failure_log_interval));
        let descriptors = Arc::new(Descriptors::new(os::file_limit(), files_reserved(&config, shards)));
        let stop = Arc::<Stop>::default();
        let mut server = Self {
            addresses,
            internal: internal.as_ref().map(InternalPort::address),
            internal_is_open: !keys.is_set(),
            metrics: Arc::new(Metrics::new(&instance, shards, Arc::clone(&registry))),
            instance,
            readiness: Arc::new(Readiness::new(Arc::clone(&stop))),
            registry,
            failures,
            stop,
            listeners: Vec::new(),
            threads: Vec::new(),
            unpinned: None,
        };
        let memory = Arc::new(Memory::new(config.memory_bytes_max(), shards));
        let metric = MemoryMetric { memory: Arc::clone(&memory), rooms: Arc::clone(&server.registry) };
        server.metrics.registry().register_collector(Box::new(metric));
        server.metrics.registry().register_collector(Box::new(FailureMetric(Arc::clone(&server.failures))));
        let mut listeners: Vec<Vec<TcpListener>> = (0..shards).map(|_| Vec::new()).collect();
        for of_address in per_address {
            for (shard, listener) in of_address.into_iter().enumerate() {
                server.listeners.push(listener.try_clone().map_err(out_of_files)?);
                listeners[shard].push(listener);
            }
        }
        // It lives until the shards are pinned.
        let placement = cores.place(config.pin, shards);
        server.unpinned = placement.why;
        let threads = listeners.into_iter().zip(wake_ups).zip(&placement.cores).enumerate();
        let threads = threads.map(|(id, ((listeners, wake_up), core))| ShardThread {
            id,
            core: *core,
            listeners,
            wake_up,
            counters: Arc::clone(server.metrics.of_shard(id)),
            config: Arc::clone(&config),
            registry: Arc::clone(&server.registry),
            memory: Arc::clone(&memory),
            instance: Arc::clone(&server.instance),
            failures: Arc::clone(&server.failures),
            descriptors: Arc::clone(&descriptors),
            stop: Arc::clone(&server.stop),
        });
        let threads: Vec<_> = threads.collect();
        let started =
            server.start_shards::<R>(threads).and_then(|()| server.start_beside(&config, internal, keys, memory));
        match started {
            Ok(()) => Ok(server),
            Err(error) => {
                // Those that did start.
                server.stop();
                server.join();
                Err(error)
            }
        }
    }

    /// Starts what runs beside the shards: the internal port, and the canary.
    fn start_beside(
        &self,
        config: &Config,
        port: Option<InternalPort>,
        keys: Keys,
        memory: Arc<Memory>,
    ) -> Result<(), StartError> {
        if let Some(port) = port {
            let Self { registry, metrics, readiness, .. } = self;
            let app = App::new(Arc::clone(registry), Arc::clone(metrics), Arc::clone(readiness), config.raw, keys);
            port.serve(Arc::new(app), config.keepalive_timeout, memory).map_err(out_of_files)?;
        }
        if let Some(target) = &config.public_url {
            let plan = Plan {
                target: target.clone(),
                interval: config.public_interval,
                instance: Arc::clone(&self.instance),
                group: config.group.clone(),
            };
            let canary = Canary::start(plan, Arc::clone(&self.metrics)).map_err(out_of_files)?;
            self.readiness.add(move || {
                let (ok, detail) = canary.readiness();
                Check { name: "public path", ok, decides: false, detail }
            });
        }
        Ok(())
    }

    /// Starts the threads of the shards, and waits until each has reported.
    fn start_shards<R: DataRing + 'static>(&mut self, threads: Vec<ShardThread>) -> Result<(), StartError> {
        let (ready, started) = std::sync::mpsc::channel();
        let shards = threads.len();
        for thread in threads {
            let ready = ready.clone();
            let spawned = std::thread::Builder::new()
                .name(format!("hi-shard-{}", thread.id))
                .spawn(move || thread.run::<R>(&ready))
                .map_err(|error| StartError(format!("can't start a thread: {error}")))?;
            self.threads.push(spawned);
        }
        // Only the shards hold it now: when all of them have ended, nothing is left to wait for.
        drop(ready);
        for _ in 0..shards {
            let outcome: Result<(), RingError> = started
                .recv()
                .map_err(|_| StartError("can't start a shard: it has panicked, which is a bug in hi".to_owned()))?;
            outcome.map_err(|RingError { operation, error }| {
                StartError(format!("can't start a shard: the kernel refused {operation}: {error}"))
            })?;
        }
        Ok(())
    }

    /// The addresses that it listens on.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The address of the internal port, unless it is off.
    pub fn internal_address(&self) -> Option<SocketAddr> {
        self.internal
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.threads.len()
    }

    /// WebSockets and streams that are open.
    pub fn clients(&self) -> u64 {
        let dialects = || Speech::ALL.into_iter().filter(|dialect| *dialect != Speech::Api);
        let of_shard = |shard| dialects().map(move |dialect| self.metrics.of_shard(shard).connections(dialect).get());
        // Levels may wrap on one thread: a wrapping sum sets that right.
        (0..self.shards()).flat_map(of_shard).fold(0, u64::wrapping_add)
    }

    /// Asks every shard to close its connections and to end; [`Server::join`] waits for it.
    pub fn stop(&self) {
        self.stop.request();
        for listener in &self.listeners {
            // Shutting a listener down ends its accepts, and refuses who comes now.
            let _ = SockRef::from(listener).shutdown(Shutdown::Both);
        }
        for inbox in self.registry.inboxes() {
            inbox.wake();
        }
    }

    /// Waits until every shard has ended; how many connections had not closed by then.
    pub fn join(self) -> usize {
        for thread in self.threads {
            // A panic has been reported where it happened.
            let _ = thread.join();
        }
        self.stop.left()
    }
}

/// The `hi` command: raises the file limit, listens to signals, tries the kernel, serves until a signal, and stops.
///
/// # Errors
/// Why it can't start.
pub fn serve<R: DataRing + 'static>(config: Config) -> Result<Infallible, StartError> {
    // Needs no time. Listening to signals needs files.
    let files = Files::prepare(&config)?;
    // Before all that takes time: a signal without a handler would end hi without a word, or be lost (PID 1).
    let (runtime, signals) =
        Signals::listen().map_err(|error| StartError(format!("can't listen to signals: {error}")))?;
    let memory_max = Size(config.memory_bytes_max());
    runtime.block_on(async {
        let starting = tokio::task::spawn_blocking(|| {
            let kernel = probe::try_kernel().map_err(StartError)?;
            Server::start::<R>(config).map(|server| (kernel, server))
        });
        let (kernel, server, signals) = start_unless_stopped(starting, signals).await?;
        announce(&server, &kernel);
        info!("{files}; memory at most: {memory_max} (--memory-max)");
        stop_on_signal(server, signals).await
    })
}

fn cores() -> Result<Cores, StartError> {
    Cores::of_this_process().map_err(|error| StartError(format!("can't read the CPU affinity: {error}")))
}

/// The limit of open files, and what of it is no connection.
#[derive(Debug)]
struct Files {
    limit: u64,
    needed: u64,
}

impl Files {
    /// Raises the limit as far as it goes.
    fn prepare(config: &Config) -> Result<Self, StartError> {
        let limit = os::raise_file_limit()
            .map_err(|error| StartError(format!("can't raise the limit of open files to the hard limit: {error}")))?;
        let shards = config.shard_count(cores()?.parallelism()) as u64;
        let addresses = config.listen.len().max(1) as u64;
        let internal = if config.internal == Internal::Off { 0 } else { FILES_OF_INTERNAL_PORT };
        let needed = FILES_BESIDE + internal + shards * (FILES_PER_SHARD + addresses * FILES_PER_LISTENER);
        os::try_files(needed).map_err(|error| {
            StartError(format!(
                "can't open the {needed} files that the shards need ({error}, the limit is {limit}): raise it with \
                 `ulimit -n`, or LimitNOFILE= in systemd, or lower --shards."
            ))
        })?;
        // Before there are threads. An error means that the table grows later, at its price.
        let _ = os::grow_file_table(limit.min(FILES_AT_START_MAX));
        Ok(Self { limit, needed })
    }
}

impl fmt::Display for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { limit, needed } = self;
        write!(f, "room for {} connections (file limit {})", grouped(limit.saturating_sub(*needed)), grouped(*limit))
    }
}

/// A number with commas between its thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy);
    groups.collect::<Vec<_>>().join(",")
}

/// Waits for the start. A signal to stop ends the process instead, once nobody is connected.
async fn start_unless_stopped(
    mut starting: Task<Result<(Kernel, Server), StartError>>,
    mut signals: Signals,
) -> Result<(Kernel, Server, Signals), StartError> {
    tokio::select! {
        started = &mut starting => {
            let panicked = |_| StartError("can't start: hi has panicked, which is a bug".to_owned());
            let (kernel, server) = started.map_err(panicked)??;
            Ok((kernel, server, signals))
        }
        () = signals.stop() => {
            let began = Instant::now();
            info!("stopping during the start");
            // Shards that are ready serve already.
            match tokio::time::timeout(START_TIME_MAX, starting).await {
                Ok(Ok(Ok((_, server)))) => stop(server, signals, began).await,
                _ => log::exit(0, STOP_TIME_MAX),
            }
        }
    }
}

/// Says where the server is and how it runs.
fn announce(server: &Server, kernel: &Kernel) {
    let shards = server.shards();
    let plural = if shards == 1 { "" } else { "s" };
    info!("hi is open at {}; {shards} shard{plural}; {kernel}", Links(server.addresses()));
    match server.unpinned {
        None | Some(Unpinned::Asked) => {}
        Some(why) => info!("not every shard is pinned to a core: {why}; --pin on pins them all the same"),
    }
    if let Some(address) = server.internal_address() {
        info!("the internal port is at http://{address}/ (publishing, rooms, health, metrics)");
        if server.internal_is_open && !address.ip().to_canonical().is_loopback() {
            warn!(
                "anyone who reaches the internal port may publish: it is not on loopback, and asks for no key; set one with \
                 --api-key-file"
            );
        }
    }
}

/// Stops at the first signal that asks for it; ends at once at the second.
async fn stop_on_signal(server: Server, mut signals: Signals) -> ! {
    signals.stop().await;
    stop(server, signals, Instant::now()).await
}

/// Stops the server, and ends the process within [`STOP_TIME_MAX`] from `began`.
async fn stop(server: Server, mut signals: Signals, began: Instant) -> ! {
    let who = match server.clients() {
        0 => "no client is connected".to_owned(),
        1 => "asking 1 client to reconnect".to_owned(),
        clients => format!("asking {} clients to reconnect", grouped(clients)),
    };
    info!("stopping: {who}; send the signal again to quit now");
    server.stop();
    let stopped = tokio::task::spawn_blocking(|| server.join());
    tokio::select! {
        left = stopped => {
            let time = grouped(began.elapsed().as_millis() as u64);
            match left.unwrap_or_default() {
                0 => info!("stopped after {time} ms"),
                1 => warn!("stopped after {time} ms; 1 connection had not closed in time"),
                left => warn!("stopped after {time} ms; {} connections had not closed in time", grouped(left as u64)),
            }
        }
        () = tokio::time::sleep(STOP_TIME_MAX.saturating_sub(began.elapsed())) => {
            warn!("stopped, though not every connection has closed");
        }
        () = signals.stop() => {
            warn!("second signal: ended at once");
            log::exit(1, STOP_TIME_MAX)
        }
    }
    // A thread that has not joined in time must not hold up the process.
    log::exit(0, (STOP_TIME_MAX + LOG_TIME_MIN).saturating_sub(began.elapsed()))
}

/// File descriptors that the public port leaves to the internal one, and those that its listeners may use beyond.
fn files_reserved(config: &Config, shards: usize) -> u64 {
    match config.internal {
        Internal::Off => 0,
        Internal::At(_) => FILES_RESERVED + (shards * config.listen.len().max(1)) as u64,
    }
}

/// What one shard's thread starts with.
struct ShardThread {
    id: usize,
    core: Option<usize>,
    listeners: Vec<TcpListener>,
    wake_up: OwnedFd,
    counters: Arc<Counters>,
    config: Arc<Config>,
    registry: Arc<Registry>,
    memory: Arc<Memory>,
    instance: Arc<str>,
    failures: Arc<Failures>,
    descriptors: Arc<Descriptors>,
    stop: Arc<Stop>,
}

impl ShardThread {
    fn run<R: DataRing + 'static>(self, ready: &std::sync::mpsc::Sender<Result<(), RingError>>) {
        if let Some(core) = self.core
            && let Err(error) = os::pin_to_core(core)
        {
            warn!("shard {} runs unpinned: core {core} can't be had: {error}", self.id);
        }
        let ring = self
            .wake_up
            .try_clone()
            .map_err(|error| RingError { operation: "a file descriptor", error })
            .and_then(|wake_up| R::new(self.config.receive_buffers, wake_up));
        let ring = match ring {
            Ok(ring) => ring,
            Err(error) => return drop(ready.send(Err(error))),
        };
        control_ring().start(async {
            self.memory.enroll(self.id);
            let shard = Shard::new(self.id, Arc::clone(&self.config), self.registry, ring);
            let shard = shard.counting_in(self.counters).keeping_to(self.memory);
            if self.id == 0 {
                drop(tokio_uring::spawn(handshake::log_left_out(Arc::clone(&self.failures))));
            }
            let front = Rc::new(Front::new(shard, self.config, self.instance, self.failures, self.descriptors));
            match self.listeners.into_iter().map(Door::new).collect::<io::Result<Vec<_>>>() {
                Ok(doors) => doors.into_iter().for_each(|door| {
                    drop(tokio_uring::spawn(handshake::accept(door, Rc::clone(&front))));
                }),
                Err(error) => return drop(ready.send(Err(RingError { operation: "a file descriptor", error }))),
            }
            let _ = ready.send(Ok(()));
            run(front, self.wake_up, self.stop).await;
        });
    }
}

fn local_address(listener: &TcpListener) -> Result<SocketAddr, StartError> {
    listener.local_addr().map_err(|error| StartError(format!("a listener has no address: {error}")))
}

fn many<T>(count: usize, make: impl FnMut() -> io::Result<T>) -> Result<Vec<T>, StartError> {
    std::iter::repeat_with(make).take(count).collect::<Result<_, _>>().map_err(out_of_files)
}

fn out_of_files(error: io::Error) -> StartError {
    StartError(format!("can't open what the shards need: {error}; raise the file limit (ulimit -n) or lower --shards"))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use clap::Parser;

    use super::*;
    use crate::ring::Ring;

    #[test]
    fn a_shard_that_panics_before_it_reports_is_an_error_of_the_start() {
        let mut config = Config::parse_from(["hi", "--listen", "127.0.0.1:0", "--internal", "off", "--shards", "2"]);
        // No option can say so: the ring asserts that it is a power of two.
        config.receive_buffers = 3;
        let (ended, outcome) = mpsc::channel();
        std::thread::spawn(move || ended.send(Server::start::<Ring>(config).map(drop)));
        let outcome = outcome.recv_timeout(Duration::from_secs(20)).expect("the start ends");
        assert!(outcome.unwrap_err().to_string().contains("panicked"));
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0, 999, 1000, 20_000, 1_234_567].map(grouped), ["0", "999", "1,000", "20,000", "1,234,567"]);
    }
}
