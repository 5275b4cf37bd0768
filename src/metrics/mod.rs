//! What hi counts, for Prometheus.
//!
//! - [`counters`]: what one thread counts while it works; only that thread writes it
//! - [`delivery`]: how long messages take, of some of them
//! - [`scrape`]: all of it added up, at the moment when somebody asks
//!
//! Whoever has something else to tell registers a collector: see [`Metrics::registry`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::encoding::text;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::room;

pub mod counters;
pub mod delivery;
pub mod scrape;

use counters::Counters;

/// The media type of [`Metrics::encode`] (OpenMetrics 1.0).
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Everything that can be asked for at `/metrics`.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
}

impl Metrics {
    /// Metrics of this process: what the threads count in `counters` (a shard's number with each, or none), and what
    /// `rooms` knows.
    pub fn new(
        instance: &str,
        counters: Vec<(Option<usize>, Arc<Counters>)>,
        rooms: Arc<room::registry::Registry>,
    ) -> Self {
        let mut registry = Registry::default();
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        registry.register("hi_build", "The version that runs", Info::new(version));
        let instance = [("instance", instance.to_owned())];
        registry.register("hi_instance", "This process, as its answers name it", Info::new(instance));
        registry.register_collector(Box::new(scrape::Scrape { counters, rooms }));
        Self { registry: Mutex::new(registry) }
    }

    /// The registry, to add metrics or collectors of one's own, at any time.
    pub fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All metrics as text: see [`CONTENT_TYPE`].
    pub fn encode(&self) -> String {
        let mut text = String::new();
        text::encode(&mut text, &self.registry()).expect("memory takes text");
        text
    }
}
