//! Starts the shards, waits for a signal, and stops them.

use std::fmt;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::SockRef;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

use crate::api::health::{Check, Readiness};
use crate::api::key::Keys;
use crate::api::{App, InternalPort};
use crate::canary::{Canary, Plan};
use crate::config::{Config, Internal};
use crate::descriptors::Descriptors;
use crate::handshake::{self, Door, Front};
use crate::handshake_failures::{FailureMetric, Failures};
use crate::metrics::Metrics;
use crate::metrics::counters::Counters;
use crate::os;
use crate::probe;
use crate::protocol::resume::ResumeKey;
use crate::relay;
use crate::ring::{DataRing, RingError};
use crate::room::registry::Registry;
use crate::shard::Shard;
use crate::shard::run::{Stop, control_ring, run};

mod ports;

use ports::{Links, bind, bind_internal};

/// From the first signal, so much time remains until the process is gone.
const STOP_TIME_MAX: Duration = Duration::from_millis(4800);
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
    metrics: Arc<Metrics>,
    readiness: Arc<Readiness>,
    registry: Arc<Registry>,
    failures: Arc<Failures>,
    stop: Arc<Stop>,
    listeners: Vec<TcpListener>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// Starts every shard; when this returns, connections are accepted.
    ///
    /// # Errors
    /// An address that can't be bound, a thread or a ring that can't be had.
    pub fn start<R: DataRing + 'static>(config: Config) -> Result<Self, StartError> {
        let cores = allowed_cores()?;
        let shards = config.shard_count(cores.len());
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
            readiness: Arc::new(Readiness::new(Arc::clone(&stop))),
            registry,
            failures,
            stop,
            listeners: Vec::new(),
            threads: Vec::new(),
        };
        server.metrics.registry().register_collector(Box::new(FailureMetric(Arc::clone(&server.failures))));
        let mut listeners: Vec<Vec<TcpListener>> = (0..shards).map(|_| Vec::new()).collect();
        for of_address in per_address {
            for (shard, listener) in of_address.into_iter().enumerate() {
                server.listeners.push(listener.try_clone().map_err(out_of_files)?);
                listeners[shard].push(listener);
            }
        }
        let (ready, started) = std::sync::mpsc::channel();
        for (id, (listeners, wake_up)) in listeners.into_iter().zip(wake_ups).enumerate() {
            let thread = ShardThread {
                id,
                core: cores[id % cores.len()],
                listeners,
                wake_up,
                counters: Arc::clone(server.metrics.of_shard(id)),
                config: Arc::clone(&config),
                registry: Arc::clone(&server.registry),
                instance: Arc::clone(&instance),
                failures: Arc::clone(&server.failures),
                descriptors: Arc::clone(&descriptors),
                stop: Arc::clone(&server.stop),
            };
            let ready = ready.clone();
            let spawned = std::thread::Builder::new()
                .name(format!("hi-shard-{id}"))
                .spawn(move || thread.run::<R>(&ready))
                .map_err(|error| StartError(format!("can't start a thread: {error}")))?;
            server.threads.push(spawned);
        }
        for _ in 0..shards {
            let outcome: Result<(), RingError> = started.recv().expect("every shard reports");
            outcome.map_err(|RingError { operation, error }| {
                StartError(format!("can't start a shard: the kernel refused {operation}: {error}"))
            })?;
        }
        if let Some(port) = internal {
            let Self { registry, metrics, readiness, .. } = &server;
            let app = App::new(Arc::clone(registry), Arc::clone(metrics), Arc::clone(readiness), config.raw, keys);
            port.serve(Arc::new(app), config.keepalive_timeout).map_err(out_of_files)?;
        }
        if let Some(target) = &config.public_url {
            let plan = Plan {
                target: target.clone(),
                interval: config.public_interval,
                instance,
                group: config.group.clone(),
            };
            let canary = Canary::start(plan, Arc::clone(&server.metrics)).map_err(out_of_files)?;
            server.readiness.add(move || {
                let (ok, detail) = canary.readiness();
                Check { name: "public path", ok, decides: false, detail }
            });
        }
        Ok(server)
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

/// The `hi` command: raises the file limit, tries the kernel, serves until a signal, and stops.
///
/// # Errors
/// Why it can't start.
pub fn serve<R: DataRing + 'static>(config: Config) -> Result<(), StartError> {
    let files = os::raise_file_limit()
        .map_err(|error| StartError(format!("can't raise the limit of open files to the hard limit: {error}")))?;
    let files_needed = files_needed(&config)?;
    os::try_files(files_needed).map_err(|error| {
        StartError(format!(
            "can't open the {files_needed} files that the shards need ({error}, the limit is {files}): raise it with \
             `ulimit -n`, or LimitNOFILE= in systemd, or lower --shards."
        ))
    })?;
    // Before there are threads. An error means that the table grows later, at its price.
    let _ = os::grow_file_table(files.min(FILES_AT_START_MAX));
    let kernel = probe::try_kernel().map_err(StartError)?;
    let budget_config = config.clone();
    let server = Server::start::<R>(config)?;
    let shards = server.shards();
    // Before the line that says that hi is open: who reads it may send a signal at once.
    let signals = Signals::listen()?;
    let plural = if shards == 1 { "" } else { "s" };
    info!("hi is open at {}; {shards} shard{plural}; {kernel}", Links(server.addresses()));
    if let Some(address) = server.internal_address() {
        info!("the internal port is at http://{address}/ (publishing, rooms, health, metrics)");
        if server.internal_is_open && !address.ip().is_loopback() {
            warn!(
                "whoever reaches the internal port may publish: it is not on loopback, and asks for no key (--api-key-file)"
            );
        }
    }
    let connections = files.saturating_sub(files_needed);
    info!("the file limit of {files} allows {connections} connections; {}", budget_config.memory_budget(shards));
    serve_until_signal(server, signals)
}

fn allowed_cores() -> Result<Vec<usize>, StartError> {
    os::allowed_cores().map_err(|error| StartError(format!("can't read the CPU affinity: {error}")))
}

/// File descriptors that are no connections.
fn files_needed(config: &Config) -> Result<u64, StartError> {
    let shards = config.shard_count(allowed_cores()?.len()) as u64;
    let addresses = config.listen.len().max(1) as u64;
    let internal = if config.internal == Internal::Off { 0 } else { FILES_OF_INTERNAL_PORT };
    Ok(FILES_BESIDE + internal + shards * (FILES_PER_SHARD + addresses * FILES_PER_LISTENER))
}

/// File descriptors that the public port leaves to the internal one, and those that its listeners may use beyond.
fn files_reserved(config: &Config, shards: usize) -> u64 {
    match config.internal {
        Internal::Off => 0,
        Internal::At(_) => FILES_RESERVED + (shards * config.listen.len().max(1)) as u64,
    }
}

/// What asks hi to stop, and the main thread's runtime that hears it.
struct Signals {
    runtime: Runtime,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> Result<Self, StartError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| StartError(format!("can't start the main thread's runtime: {error}")))?;
        let listen = |kind| {
            let _inside = runtime.enter();
            signal(kind).map_err(|error| StartError(format!("can't listen to signals: {error}")))
        };
        let (terminate, interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
        Ok(Self { runtime, terminate, interrupt })
    }
}

/// Stops at the first SIGTERM or SIGINT; ends at once at the second.
fn serve_until_signal(server: Server, signals: Signals) -> ! {
    let Signals { runtime, mut terminate, mut interrupt } = signals;
    runtime.block_on(async {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        info!("stopping: no new connections, everyone is told to come back; a second signal ends at once");
        server.stop();
        let mut stopped = tokio::task::spawn_blocking(|| server.join());
        tokio::select! {
            left = &mut stopped => match left.unwrap_or_default() {
                0 => info!("stopped"),
                1 => warn!("stopped; 1 connection had not closed in time"),
                left => warn!("stopped; {left} connections had not closed in time"),
            },
            () = tokio::time::sleep(STOP_TIME_MAX) => warn!("stopped, though not everyone has closed"),
            _ = terminate.recv() => end_at_once(),
            _ = interrupt.recv() => end_at_once(),
        }
    });
    // A thread that has not joined in time must not hold up the process.
    std::process::exit(0)
}

fn end_at_once() {
    warn!("second signal: ended at once");
    std::process::exit(1)
}

/// What one shard's thread starts with.
struct ShardThread {
    id: usize,
    core: usize,
    listeners: Vec<TcpListener>,
    wake_up: OwnedFd,
    counters: Arc<Counters>,
    config: Arc<Config>,
    registry: Arc<Registry>,
    instance: Arc<str>,
    failures: Arc<Failures>,
    descriptors: Arc<Descriptors>,
    stop: Arc<Stop>,
}

impl ShardThread {
    fn run<R: DataRing + 'static>(self, ready: &std::sync::mpsc::Sender<Result<(), RingError>>) {
        if let Err(error) = os::pin_to_core(self.core) {
            warn!("shard {} runs unpinned: core {} can't be had: {error}", self.id, self.core);
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
            let shard = Shard::new(self.id, Arc::clone(&self.config), self.registry, ring).counting_in(self.counters);
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
