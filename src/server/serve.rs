//! The `hi` command: serves until a signal, and logs what it does.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use doctor::printable::thousands;
use tokio::task::JoinHandle as Task;
use tracing::{info, warn};

use super::listeners::links;
use super::reload::{Options, Reload};
use super::signals::Signals;
use super::{Listeners, Server, StartError, cores, files, notify};
use crate::cores::Unpinned;
use crate::limits::{LOG_TIME_MIN, START_TIME_MAX, STOP_TIME_MAX};
use crate::log;
use crate::memory::Size;
use crate::ring::probe::{self, Kernel};
use crate::ring::{Backend, Epoll, Ring};

/// The `hi` command: raises the file limit, listens to signals, chooses the backend, serves until a signal, and stops.
///
/// # Errors
/// Why it can't start.
pub fn serve(options: Options) -> Result<Infallible, StartError> {
    let config = options.config.clone();
    // Takes no time. Listening to signals needs files.
    let room = files::prepare(&config)?;
    // Before anything that takes time: a signal without a handler would end hi without a log line, or be lost (PID 1).
    let (runtime, signals) =
        Signals::listen().map_err(|error| StartError(format!("can't listen to signals: {error}")))?;
    let (memory_max, asks_for_key) = (Size(config.memory_bytes_max()), config.api_key_file.is_some());
    let mut warnings = config.size_warnings(cores()?.parallelism);
    warnings.extend(config.identity_warnings());
    runtime.block_on(async {
        let starting = tokio::task::spawn_blocking(move || {
            let kernel = probe::try_kernel(config.backend).map_err(StartError)?;
            if let Some(refused) = &kernel.refused {
                warn!("{refused}");
            }
            let (listeners, stop) = (Listeners::bind(&config)?, Arc::default());
            let server = match kernel.backend {
                Backend::IoUring => Server::start::<Ring>(&config, listeners, stop),
                Backend::Epoll => Server::start::<Epoll>(&config, listeners, stop),
            };
            server.map(|server| (kernel, server))
        });
        let (kernel, server, mut signals) = start_unless_stopped(starting, signals).await?;
        announce(&server, &kernel, asks_for_key);
        info!("{room}; memory at most: {memory_max} (--memory-max)");
        warnings.iter().for_each(|warning| warn!("{warning}"));
        let mut reload = Reload::new(options, &server);
        notify::ready(server.addresses(), server.internal);
        while !signals.asked_to_stop().await {
            reload.run(&server);
        }
        stop(server, signals, Instant::now()).await
    })
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

/// Logs where the server is and how it runs.
fn announce(server: &Server, kernel: &Kernel, asks_for_key: bool) {
    let shards = server.threads.len();
    let plural = if shards == 1 { "" } else { "s" };
    info!("hi is open at {}; {shards} shard{plural}; {kernel}", links(server.addresses()));
    if let Some(identity) = &server.identity {
        info!("{identity}");
    }
    match server.unpinned {
        None | Some(Unpinned::Asked) => {}
        Some(why) => info!("not every shard is pinned to a core: {why}; --pin on pins them all the same"),
    }
    if let Some(address) = server.internal {
        info!("the internal port is at http://{address}/ (publishing, rooms, health, metrics)");
        if !asks_for_key && !address.ip().to_canonical().is_loopback() {
            warn!(
                "anyone who reaches the internal port may publish: it is not on loopback, and asks for no key; set one with \
                 --api-key-file"
            );
        }
    }
}

/// Stops the server, and ends the process within [`STOP_TIME_MAX`] from `began`; at once at another signal to stop.
async fn stop(server: Server, mut signals: Signals, began: Instant) -> ! {
    let who = match server.clients() {
        0 => "no client is connected".to_owned(),
        1 => "asking 1 client to reconnect".to_owned(),
        clients => format!("asking {} clients to reconnect", thousands(clients)),
    };
    info!("stopping: {who}; send the signal again to quit now");
    notify::stopping();
    server.stop();
    let stopped = tokio::task::spawn_blocking(|| server.join());
    tokio::select! {
        left = stopped => {
            let time = thousands(began.elapsed().as_millis() as u64);
            match left.unwrap_or_default() {
                0 => info!("stopped after {time} ms"),
                1 => warn!("stopped after {time} ms; 1 connection had not closed in time"),
                left => warn!("stopped after {time} ms; {} connections had not closed in time", thousands(left as u64)),
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
