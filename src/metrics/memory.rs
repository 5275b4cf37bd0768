//! The memory budget as metrics.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use super::scrape::Page;
use crate::memory::{Memory, What};
use crate::room::inbox::Inbox;
use crate::room::registry::Registry;

/// `hi_memory_bytes{what}`, `hi_memory_max_bytes` and `hi_memory_laps_total{what}`.
#[derive(Debug)]
pub(crate) struct MemoryMetric {
    pub(crate) memory: Arc<Memory>,
    /// Whose inboxes count, too.
    pub(crate) rooms: Arc<Registry>,
}

impl Collector for MemoryMetric {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        let inboxes: usize = self.rooms.inboxes().iter().map(Inbox::bytes).sum();
        let other = self.memory.resident_bytes().saturating_sub(self.memory.taken(inboxes));
        let held = What::ALL.map(|what| (what.as_str(), self.memory.bytes(what) as u64));
        let held = held.into_iter().chain([("inboxes", inboxes as u64), ("other", other as u64)]);
        let help = "Resident memory: what is kept for others, by kind, and all other";
        page.family("hi_memory", help, Some(Unit::Bytes), MetricType::Gauge, "what", held)?;
        let help = "The budget for all of hi_memory_bytes together";
        let mut metric = page.0.encode_descriptor("hi_memory_max", help, Some(&Unit::Bytes), MetricType::Gauge)?;
        metric.encode_gauge(&(self.memory.bytes_max() as u64).min(i64::MAX as u64))?;
        let laps = What::ALL.map(|what| (what.as_str(), self.memory.laps(what)));
        let help = "Times that something had to give memory back because the budget was used up";
        page.family("hi_memory_laps", help, None, MetricType::Counter, "what", laps)
    }
}
