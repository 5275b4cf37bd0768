//! What a server that shares its rooms counts.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use super::scrape::Page;
use crate::cluster::stats::{Published, Repair, STORED_MICROS, Stats};

/// `hi_cluster_*`.
#[derive(Debug)]
pub(crate) struct ClusterMetric(pub(crate) Arc<Stats>);

impl Collector for ClusterMetric {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (mut page, stats) = (Page(encoder), &*self.0);
        let gauges = [
            ("hi_cluster_up", "1 while the shared log can be reached", u64::from(stats.away_for().is_none())),
            ("hi_cluster_nodes", "Servers that share the rooms, with this one", stats.nodes.get()),
            ("hi_cluster_followed_rooms", "Rooms that are read from the shared log", stats.followed_rooms.get()),
            ("hi_cluster_names", "Names that members of this server have claimed", stats.names.get()),
            ("hi_cluster_in_flight", "Messages that have no number yet", stats.in_flight.get()),
        ];
        for (name, help, value) in gauges {
            page.gauge(name, help, value)?;
        }
        let help = "What messages take that have no number yet";
        page.0
            .encode_descriptor("hi_cluster_queue", help, Some(&Unit::Bytes), MetricType::Gauge)?
            .encode_gauge(&(stats.queue_bytes.get() as i64))?;
        let help = "Time for which the shared log could not be reached";
        page.seconds("hi_cluster_away", help, stats.away_millis.get() as f64 / 1e3)?;
        let published = Published::ALL.map(|outcome| (outcome.as_str(), stats.published(outcome).get()));
        let help = "Messages and notices for the shared log, by what became of them";
        page.family("hi_cluster_published", help, None, MetricType::Counter, "outcome", published)?;
        let bounds = STORED_MICROS.map(|micros| micros as f64 / 1e6);
        let counts: Vec<u64> = stats.stored_times.iter().map(|count| count.get()).collect();
        let (help, sum) = ("Time until the shared log had stored a message", stats.stored_micros.get() as f64 / 1e6);
        page.histogram("hi_cluster_publish", help, Some(Unit::Seconds), &bounds, &counts, sum)?;
        let help = "What was read from the shared log";
        page.counter("hi_cluster_received", help, Some(Unit::Bytes), stats.received_bytes.get())?;
        let repairs = Repair::ALL.map(|outcome| (outcome.as_str(), stats.repairs(outcome).get()));
        let help = "Times that records were missing, by whether all were found";
        page.family("hi_cluster_repairs", help, None, MetricType::Counter, "outcome", repairs)?;
        let counters = [
            ("hi_cluster_received_records", "Records that were read from the shared log", &stats.received),
            ("hi_cluster_unwanted_records", "Records of rooms that are not followed here", &stats.unwanted),
            ("hi_cluster_reconnects", "Times that the shared log was there again", &stats.reconnects),
            ("hi_cluster_lives", "Rooms with members whose numbers began anew", &stats.lives),
            ("hi_cluster_reaped_names", "Names of servers that were gone, freed by this one", &stats.reaped_names),
        ];
        for (name, help, number) in counters {
            page.counter(name, help, None, number.get())?;
        }
        Ok(())
    }
}
