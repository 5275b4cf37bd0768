//! What hi counts, for Prometheus.
//!
//! - `scrape`: what all threads [count](crate::counters), added up when metrics are requested
//! - `cluster`: what a server counts that shares its rooms
//! - `format`: the text formats of the answer
//!
//! Other parts of hi register collectors of their own: see `Metrics::registry`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::encoding::text;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::counters::{self, Counters, Readings};
use crate::room;

pub(crate) mod addresses;
#[cfg(feature = "cluster")]
pub(crate) mod cluster;
pub(crate) mod format;
pub(crate) mod memory;
pub(crate) mod scrape;

use format::Format;

/// Everything at `/metrics`.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    of_shards: Arc<[Readings]>,
    /// The writer's halves that no thread has taken yet: one for each shard, and last the internal port's.
    untaken: Mutex<Vec<Option<Counters>>>,
}

impl Metrics {
    /// Metrics of this process, which serves with `backend`: counters of `shards` shards and of the internal port, and figures
    /// of `rooms`.
    pub fn new(instance: &str, backend: &'static str, shards: usize, rooms: Arc<room::registry::Registry>) -> Self {
        let mut registry = Registry::default();
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        registry.register("hi_build", "The version that runs", Info::new(version));
        let of_backend = Family::<[(&str, &str); 1], Gauge>::default();
        of_backend.get_or_create(&[("backend", backend)]).set(1);
        registry.register(
            "hi_backend",
            "What connections are served with: io_uring, or epoll where that is refused",
            of_backend,
        );
        let instance = [("instance", instance.to_owned())];
        registry.register("hi_instance", "This process, as its answers name it", Info::new(instance));
        let (mut counters, of_shards): (Vec<_>, Vec<_>) = (0..shards).map(|_| counters::counters()).unzip();
        let (of_internal_port, internal_port) = counters::counters();
        counters.push(of_internal_port);
        let of_shards: Arc<[_]> = of_shards.into();
        let shards = Arc::clone(&of_shards);
        registry.register_collector(Box::new(scrape::Scrape { shards, internal_port, rooms }));
        let untaken = Mutex::new(counters.into_iter().map(Some).collect());
        Self { registry: Mutex::new(registry), of_shards, untaken }
    }

    /// What a shard has counted.
    pub(crate) fn of_shard(&self, shard: usize) -> &Readings {
        &self.of_shards[shard]
    }

    /// The counters of a shard, to be moved to its thread.
    ///
    /// # Panics
    /// If they were taken before.
    pub(crate) fn counters_of_shard(&self, shard: usize) -> Counters {
        self.take(shard)
    }

    /// The counters of the internal port, to be moved to its thread.
    ///
    /// # Panics
    /// If they were taken before.
    pub(crate) fn counters_of_internal_port(&self) -> Counters {
        self.take(self.of_shards.len())
    }

    fn take(&self, thread: usize) -> Counters {
        let mut untaken = self.untaken.lock().unwrap_or_else(PoisonError::into_inner);
        untaken[thread].take().expect("one thread counts here")
    }

    /// The registry, to which metrics and collectors may be added at any time.
    pub(crate) fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn encode(&self, format: Format) -> String {
        let mut text = String::new();
        text::encode(&mut text, &self.registry()).expect("memory takes text");
        format.convert(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::resume::ResumeKey;
    use crate::room::replay::ReplayBounds;

    #[test]
    fn others_add_what_they_count() {
        let rooms =
            Arc::new(room::registry::Registry::new(Arc::new([]), 1, ResumeKey::new(0, [1, 2]), ReplayBounds::OFF));
        let metrics = Metrics::new("0123", "epoll", 0, rooms);
        let gauge = Gauge::<i64>::default();
        metrics.registry().register("hi_canary_ok", "The canary", gauge.clone());
        gauge.set(1);
        let text = metrics.encode(Format::OpenMetrics);
        for line in ["hi_canary_ok 1\n", "hi_backend{backend=\"epoll\"} 1\n", "hi_instance_info{instance=\"0123\"} 1\n"]
        {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
