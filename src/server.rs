//! A server that runs: its shards and what is beside them, started and stopped.
//!
//! - [`serve()`]: the `hi` command, from the first signal handler to the last log line
//! - `shards`: the threads of the shards
//! - `ports`: addresses, bound and shown
//! - `files`: the limit of open files
//! - [`signals`]: what each signal asks for

use std::fmt;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;

use socket2::SockRef;

use crate::api::health::Readiness;
use crate::api::key::Keys;
use crate::api::{App, InternalPort};
use crate::config::Config;
use crate::cores::{Cores, Unpinned};
use crate::descriptors::Descriptors;
use crate::handshake_failures::{FailureMetric, Failures};
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::metrics::memory::MemoryMetric;
use crate::os;
use crate::protocol::Protocol;
use crate::protocol::resume::ResumeKey;
use crate::ring::{OpenRing, RingError};
use crate::room::inbox;
use crate::room::registry::Registry;
use crate::shard::run::Stop;

mod files;
mod ports;
mod serve;
mod shards;
pub mod signals;

use files::files_reserved;
use ports::{bind, bind_internal};
pub use serve::serve;
use shards::ShardThread;

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
    pub fn start<R: OpenRing + 'static>(config: Config) -> Result<Self, StartError> {
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
        let inboxes = inbox::inboxes(to_wake, config.inbox_bytes_max(shards));
        let resume_key = ResumeKey::new([random()?, random()?]);
        let registry = Registry::new(inboxes, random()?, resume_key, config.replay_bounds());
        let registry = Arc::new(registry.asking(R::peer_has_ended));
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
            counters: server.metrics.counters_of_shard(id),
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
            port.serve(app, config.keepalive_timeout, memory).map_err(out_of_files)?;
        }
        #[cfg(feature = "doctor")]
        if let Some(target) = &config.public_url {
            let plan = doctor::canary::Plan {
                target: target.clone(),
                interval: config.public_interval,
                instance: Arc::clone(&self.instance),
                group: config.group.clone(),
            };
            let canary = crate::canary::Canary::start(plan, Arc::clone(&self.metrics)).map_err(out_of_files)?;
            self.readiness.add(move || canary.check());
        }
        Ok(())
    }

    /// Starts the threads of the shards, and waits until each has reported.
    fn start_shards<R: OpenRing + 'static>(&mut self, threads: Vec<ShardThread>) -> Result<(), StartError> {
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
        let of_shard = |shard| Protocol::ALL.map(|protocol| self.metrics.of_shard(shard).connections(protocol).get());
        // Levels may wrap on one thread: a wrapping sum sets that right.
        (0..self.shards()).flat_map(of_shard).fold(0, u64::wrapping_add)
    }

    /// Asks every shard to close its connections and to end; [`Server::join`] waits for it.
    pub fn stop(&self) {
        self.stop.request();
        for listener in &self.listeners {
            // Shutting a listener down ends its accepts, and refuses those that come now.
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

fn cores() -> Result<Cores, StartError> {
    Cores::of_this_process().map_err(|error| StartError(format!("can't read the CPU affinity: {error}")))
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
    use std::time::Duration;

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
}
