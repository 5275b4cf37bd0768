//! A server: its shards and what runs beside them, started and stopped.
//!
//! - [`serve()`]: the `hi` command, from the first signal handler to the last log line
//! - `listeners`: the ports, bound before the server starts
//! - `shards`: the threads of the shards
//! - `files`: the limit of open files
//! - `notify`: what a service manager is told
//! - `reload`: options that are read again while it runs
//! - [`signals`]: what each signal asks for

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use arc_swap::ArcSwap;

use crate::address::ListenAddress;
use crate::address::table::AddressTable;
use crate::admission::Gate;
use crate::api::App;
use crate::api::health::{Check, Readiness};
use crate::api::key::Keys;
#[cfg(feature = "doctor")]
use crate::canary::Canary;
#[cfg(feature = "cluster")]
use crate::cluster;
use crate::config::Config;
use crate::config::identity::RemoteKeys;
use crate::control::{self, SeeCluster};
use crate::cores::{Cores, Unpinned};
use crate::descriptors::Descriptors;
use crate::failures::{FailureMetric, Failures};
#[cfg(feature = "cluster")]
use crate::http::echo::Cluster;
use crate::identity::Authority;
use crate::identity::keys::KeySet;
#[cfg(feature = "doctor")]
use crate::keys::Fetcher;
use crate::limits::FAREWELL_TIME_MAX;
#[cfg(feature = "cluster")]
use crate::limits::cluster::UNREADY_AFTER;
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::metrics::addresses::AddressMetric;
#[cfg(feature = "cluster")]
use crate::metrics::cluster::ClusterMetric;
use crate::metrics::memory::MemoryMetric;
use crate::os;
use crate::protocol::Protocol;
use crate::protocol::resume::ResumeKey;
use crate::ring::{Backend, OpenRing, RingError};
use crate::room::inbox;
#[cfg(feature = "cluster")]
use crate::room::outward::Outward;
use crate::room::registry::Registry;
use crate::shard;
use crate::stop::Stop;

mod files;
mod listeners;
mod notify;
mod reload;
mod serve;
mod shards;
pub mod signals;

use files::files_reserved;
pub use listeners::Listeners;
use listeners::{Internal, ShardListeners, SocketFile};
pub use reload::{Options, ReadOptions};
pub use serve::serve;
use shards::ShardThread;

/// Why the server can't start. The sentence says what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(String);

/// A running server: its shards accept connections.
pub struct Server {
    addresses: Vec<ListenAddress>,
    _files: Vec<SocketFile>,
    /// The address of the internal port, unless it is off.
    internal: Option<SocketAddr>,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// Who gets in, with `--auth`.
    identity: Option<String>,
    /// Why not every shard is pinned.
    unpinned: Option<Unpinned>,
    live: Live,
}

/// What a reload replaces.
struct Live {
    shard: Arc<ArcSwap<shard::settings::Settings>>,
    control: Arc<ArcSwap<control::Settings>>,
    keys: Keys,
    /// Whose tokens are accepted, with `--auth`.
    gate: Option<Arc<Gate>>,
    shards: usize,
    backend: Backend,
}

impl Live {
    /// What shards and their control sides have to know, of the process `instance`.
    fn settings(&self, config: &Config, instance: &Arc<str>) -> (shard::settings::Settings, control::Settings) {
        let admission = config.admission(self.gate.clone());
        let shard = config.shard_settings(self.shards, Arc::clone(instance));
        let control = config.control(Arc::clone(instance), self.backend);
        let shard = shard::settings::Settings { admission: Arc::clone(&admission), ..shard };
        (shard, control::Settings { admission, ..control })
    }
}

/// What all threads of a server share.
struct Shared {
    /// This process, as clients and `hi doctor` see it.
    instance: Arc<str>,
    registry: Arc<Registry>,
    /// What is counted of the log that several servers share.
    #[cfg_attr(not(feature = "cluster"), expect(dead_code, reason = "there is nothing to count"))]
    sharing: Sharing,
    /// Which cluster this server belongs to.
    cluster: Option<Arc<SeeCluster>>,
    memory: Arc<Memory>,
    metrics: Arc<Metrics>,
    failures: Arc<Failures>,
    descriptors: Arc<Descriptors>,
    addresses: Arc<AddressTable>,
    stop: Arc<Stop>,
}

impl Server {
    /// Starts a server that accepts from these listeners until `stop` is requested: when this returns, every shard accepts.
    ///
    /// # Errors
    /// A thread or a ring can't be had, or a shard panics. Nothing is left running.
    pub fn start<R: OpenRing + 'static>(
        config: &Config,
        listeners: Listeners,
        stop: Arc<Stop>,
    ) -> Result<Self, StartError> {
        let Listeners { addresses, files, of_shards, internal } = listeners;
        let wake_ups = of_shards.iter().map(|_| os::new_eventfd());
        let wake_ups = wake_ups.collect::<Result<Vec<_>, _>>().map_err(out_of_files)?;
        let shared = Arc::new(Shared::new::<R>(config, addresses.len(), &wake_ups, stop)?);
        let internal_address = internal.as_ref().map(|internal| internal.port.address());
        let (shards, backend, instance) = (of_shards.len(), R::backend(), Arc::clone(&shared.instance));
        let (gate, remote_keys) = config.gate().map_err(StartError)?;
        let identity = gate.as_ref().map(|gate| config.describe_identity(&gate.authority));
        let live = Live {
            shard: Arc::new(ArcSwap::from_pointee(config.shard_settings(shards, Arc::clone(&instance)))),
            control: Arc::new(ArcSwap::from_pointee(config.control(Arc::clone(&instance), backend))),
            keys: internal.as_ref().map_or_else(Keys::default, |internal| internal.keys.clone()),
            gate: gate.map(Arc::new),
            shards,
            backend,
        };
        let (shard, control) = live.settings(config, &instance);
        live.shard.store(Arc::new(shard));
        live.control.store(Arc::new(control));
        let mut server = Self {
            addresses,
            _files: files,
            internal: internal_address,
            shared,
            threads: Vec::new(),
            identity,
            unpinned: None,
            live,
        };
        if let (Some(gate), Some(remote)) = (&server.live.gate, remote_keys) {
            server.fetch_keys(remote, Arc::clone(&gate.authority))?;
        }
        let started = server
            .start_shards::<R>(config, of_shards, wake_ups)
            .and_then(|()| server.start_beside(config, internal, R::backend()));
        if let Err(error) = started {
            // Some shards may have started.
            server.stop();
            server.join();
            return Err(error);
        }
        Ok(server)
    }

    /// Starts the threads of the shards, and waits until each has reported.
    fn start_shards<R: OpenRing + 'static>(
        &mut self,
        config: &Config,
        listeners: Vec<ShardListeners>,
        wake_ups: Vec<OwnedFd>,
    ) -> Result<(), StartError> {
        let shards = listeners.len();
        // Lives until the shards are pinned: no other hi chooses its cores before.
        let placement = cores()?.place(config.pin, shards);
        self.unpinned = placement.why;
        let receive_buffers = config.receive_buffers;
        let (ready, started) = std::sync::mpsc::channel();
        for (id, (listeners, wake_up)) in listeners.into_iter().zip(wake_ups).enumerate() {
            let (core, ready) = (placement.cores[id], ready.clone());
            let (live, shared) = (&self.live, Arc::clone(&self.shared));
            let (settings, control) = (Arc::clone(&live.shard), Arc::clone(&live.control));
            let thread = ShardThread { id, core, listeners, wake_up, receive_buffers, settings, control, shared };
            let spawned = std::thread::Builder::new()
                .name(format!("hi-shard-{id}"))
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

    /// Starts to fetch the keys for tokens.
    #[cfg(feature = "doctor")]
    fn fetch_keys(&self, remote: RemoteKeys, authority: Arc<Authority>) -> Result<(), StartError> {
        let RemoteKeys { document, of_files, asked } = remote;
        let metrics = &mut self.shared.metrics.registry();
        Fetcher::start(document, authority, of_files, asked, metrics).map(drop).map_err(out_of_files)
    }

    #[cfg(not(feature = "doctor"))]
    fn fetch_keys(&self, remote: RemoteKeys, _: Arc<Authority>) -> Result<(), StartError> {
        match remote {}
    }

    /// Starts what runs beside the shards: the canary and the internal port, where they are wanted.
    fn start_beside(&self, config: &Config, internal: Option<Internal>, backend: Backend) -> Result<(), StartError> {
        let Shared { registry, memory, metrics, stop, .. } = &*self.shared;
        let readiness = Readiness::new(Arc::clone(stop));
        let detail = format!("Connections are served with {}.", backend.as_str());
        readiness.add(move || Check { name: "backend", ok: true, decides: false, detail: detail.clone() });
        #[cfg(feature = "cluster")]
        if let Some(stats) = self.shared.sharing.clone() {
            readiness.add(move || examine_cluster(&stats));
        }
        #[cfg(feature = "doctor")]
        self.start_canary(config, &readiness)?;
        let Some(Internal { port, keys }) = internal else { return Ok(()) };
        let app = App::new(Arc::clone(registry), Arc::clone(metrics), Arc::new(readiness), config.raw, keys);
        let app = match &self.live.gate {
            Some(gate) if gate.places.has_keys => {
                app.accepting(Arc::clone(&gate.authority), Arc::clone(&self.shared.failures))
            }
            _ => app,
        };
        port.serve(app, config.keepalive_timeout, Arc::clone(memory)).map_err(out_of_files)
    }

    #[cfg(feature = "doctor")]
    fn start_canary(&self, config: &Config, readiness: &Readiness) -> Result<(), StartError> {
        let Some(target) = config.public_url.clone() else { return Ok(()) };
        let (interval, group) = (config.public_interval, config.group.clone());
        let (instance, cluster) = (Arc::clone(&self.shared.instance), self.shared.cluster.clone());
        let log = cluster.map(|see| Arc::new(move || see().log) as Arc<dyn Fn() -> String + Send + Sync>);
        let plan = doctor::canary::Plan { target, interval, instance, group, log };
        let canary = Canary::start(plan, Arc::clone(&self.shared.metrics)).map_err(out_of_files)?;
        readiness.add(move || canary.check());
        Ok(())
    }

    /// Serves from now on with what of these options can change while it runs, and with these keys.
    pub(crate) fn apply(&self, config: &Config, keys: Keys, token_keys: Option<KeySet>) {
        let (shard, control) = self.live.settings(config, &self.shared.instance);
        self.live.shard.store(Arc::new(shard));
        self.live.control.store(Arc::new(control));
        self.live.keys.replace(&keys);
        if let (Some(gate), Some(keys)) = (&self.live.gate, token_keys) {
            gate.authority.replace_keys(keys);
        }
    }

    /// The addresses that it listens on.
    pub fn addresses(&self) -> &[ListenAddress] {
        &self.addresses
    }

    /// WebSockets and streams that are open.
    pub(crate) fn clients(&self) -> u64 {
        let of_shard = |shard| {
            let counters = self.shared.metrics.of_shard(shard);
            Protocol::ALL.map(|protocol| counters.connections(protocol).get())
        };
        // Levels may wrap on one thread: a wrapping sum sets that right.
        (0..self.threads.len()).flat_map(of_shard).fold(0, u64::wrapping_add)
    }

    /// Asks every shard to close its connections and to end; [`Server::join`] waits for it.
    pub fn stop(&self) {
        self.shared.stop.request();
    }

    /// Waits until every shard has ended, and returns how many connections had not closed by then.
    pub fn join(self) -> usize {
        for thread in self.threads {
            // A panic has been reported where it happened.
            let _ = thread.join();
        }
        if let Some(outward) = self.shared.registry.outward() {
            outward.finish(FAREWELL_TIME_MAX);
        }
        self.shared.stop.left()
    }
}

impl Shared {
    /// What the shards share that `wake_ups` wake.
    fn new<R: OpenRing>(
        config: &Config,
        addresses: usize,
        wake_ups: &[OwnedFd],
        stop: Arc<Stop>,
    ) -> Result<Self, StartError> {
        let shards = wake_ups.len();
        let instance: Arc<str> = format!("{:016x}", random()?).into();
        let to_wake = wake_ups.iter().map(OwnedFd::try_clone).collect::<Result<Vec<_>, _>>().map_err(out_of_files)?;
        let inboxes = inbox::inboxes(to_wake, config.inbox_bytes_max(shards));
        let resume_key = ResumeKey::new(0, [random()?, random()?]);
        let registry = Registry::new(Arc::clone(&inboxes), random()?, resume_key, config.replay_bounds());
        let (registry, sharing) = share(config, registry.asking(R::peer_has_ended), inboxes)?;
        let memory = Arc::new(Memory::new(config.memory_bytes_max(), shards));
        let failures = Arc::new(Failures::new(config.failure_log_interval));
        let reserved = files_reserved(config, shards * addresses);
        let metrics = Metrics::new(&instance, R::backend().as_str(), shards, Arc::clone(&registry));
        let memory_metric = MemoryMetric { memory: Arc::clone(&memory), rooms: Arc::clone(&registry) };
        metrics.registry().register_collector(Box::new(memory_metric));
        metrics.registry().register_collector(Box::new(FailureMetric(Arc::clone(&failures))));
        #[cfg(feature = "cluster")]
        if let Some(stats) = &sharing {
            metrics.registry().register_collector(Box::new(ClusterMetric(Arc::clone(stats))));
        }
        let cluster = see_cluster(config, &sharing);
        let addresses = Arc::<AddressTable>::default();
        metrics.registry().register_collector(Box::new(AddressMetric(Arc::clone(&addresses))));
        Ok(Self {
            instance,
            registry,
            sharing,
            cluster,
            memory,
            metrics: Arc::new(metrics),
            failures,
            descriptors: Arc::new(Descriptors::new(os::file_limit(), reserved)),
            addresses,
            stop,
        })
    }
}

#[cfg(feature = "cluster")]
type Sharing = Option<Arc<cluster::stats::Stats>>;
#[cfg(not(feature = "cluster"))]
type Sharing = ();

/// Connects the rooms with those of other servers, if that is wanted.
#[cfg(feature = "cluster")]
fn share(
    config: &Config,
    registry: Registry,
    inboxes: Arc<[inbox::Inbox]>,
) -> Result<(Arc<Registry>, Sharing), StartError> {
    let Some(settings) = config.cluster(random()?, [random()?, random()?]).map_err(StartError)? else {
        return Ok((Arc::new(registry), None));
    };
    let (outward, queue) = Outward::new(inboxes);
    let outward = Arc::new(outward);
    let registry = Arc::new(registry.sharing(Arc::clone(&outward)));
    let stats = Arc::<cluster::stats::Stats>::default();
    cluster::start(settings, Arc::clone(&registry), outward, queue, Arc::clone(&stats)).map_err(StartError)?;
    Ok((registry, Some(stats)))
}

#[cfg(not(feature = "cluster"))]
fn share(_: &Config, registry: Registry, _: Arc<[inbox::Inbox]>) -> Result<(Arc<Registry>, Sharing), StartError> {
    Ok((Arc::new(registry), ()))
}

/// Which cluster this server belongs to, for `hi doctor`.
#[cfg(feature = "cluster")]
fn see_cluster(config: &Config, sharing: &Sharing) -> Option<Arc<SeeCluster>> {
    let (stats, name) = (sharing.clone()?, config.shared.cluster_name.clone());
    Some(Arc::new(move || Cluster {
        name: name.clone(),
        log: format!("{:016x}", stats.log.get()),
        away_seconds: stats.away_for().map(|time| time.as_secs()),
    }))
}

#[cfg(not(feature = "cluster"))]
fn see_cluster(_: &Config, (): &Sharing) -> Option<Arc<SeeCluster>> {
    None
}

/// Whether this server reaches the others. Not at once: a server of the log that is restarted is no reason to send clients away.
#[cfg(feature = "cluster")]
fn examine_cluster(stats: &cluster::stats::Stats) -> Check {
    let away = stats.away_for();
    let detail = match away {
        None => format!("{} servers share their rooms.", stats.nodes.get().max(1)),
        Some(time) => {
            let seconds = time.as_secs();
            format!("The servers of --cluster can't be reached for {seconds} s: see the log for why.")
        }
    };
    Check { name: "cluster", ok: away.is_none(), decides: away.is_some_and(|time| time >= UNREADY_AFTER), detail }
}

fn cores() -> Result<Cores, StartError> {
    Cores::of_this_process().map_err(|error| StartError(format!("can't read the CPU affinity: {error}")))
}

fn random() -> Result<u64, StartError> {
    os::random_u64().map_err(|error| StartError(format!("no random numbers: {error}")))
}

fn out_of_files(error: io::Error) -> StartError {
    StartError(format!("can't open what the shards need: {error}; raise the file limit (ulimit -n) or lower --shards"))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;
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
        let listeners = Listeners::bind(&config).unwrap();
        std::thread::spawn(move || ended.send(Server::start::<Ring>(&config, listeners, Arc::default()).map(drop)));
        let outcome = outcome.recv_timeout(Duration::from_secs(20)).expect("the start ends");
        assert!(outcome.unwrap_err().to_string().contains("panicked"));
    }

    #[test]
    fn a_server_runs_until_its_caller_requests_the_stop() {
        let config = Config::parse_from(["hi", "--listen", "127.0.0.1:0", "--internal", "off", "--shards", "2"]);
        let (listeners, stop) = (Listeners::bind(&config).unwrap(), Arc::<Stop>::default());
        let server = Server::start::<Ring>(&config, listeners, Arc::clone(&stop)).unwrap();
        let mut stream = TcpStream::connect(server.addresses()[0].to_string()).unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: hi\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("ok"), "{answer}");
        stop.request();
        assert_eq!(server.join(), 0);
    }
}
