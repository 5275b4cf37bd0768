//! All counters added up, and the current figures of the rooms and of the system.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use crate::address::client::ClientHeader;
use crate::counters::{
    BATCH_BOUNDS, CLOSE_CODES, Compression, DELIVERY_BOUNDS, Direction, ERROR_CODES, Histogram, Lapped, Reading,
    Readings, Replay,
};
use crate::log;
use crate::os;
use crate::protocol::v1::Code;
use crate::protocol::{Namespace, Protocol};
use crate::room::registry::Registry;

/// Collects everything when metrics are requested.
#[derive(Debug)]
pub(crate) struct Scrape {
    pub(crate) shards: Arc<[Readings]>,
    /// What the internal port counts.
    pub(crate) internal_port: Readings,
    /// All rooms, and the inboxes of the shards.
    pub(crate) rooms: Arc<Registry>,
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        self.connections(&mut page)?;
        self.messages(&mut page)?;
        self.losses(&mut page)?;
        self.refusals(&mut page)?;
        self.shards(&mut page)?;
        system(&mut page)
    }
}

impl Scrape {
    fn all(&self) -> impl Iterator<Item = &Readings> {
        self.shards.iter().chain([&self.internal_port])
    }

    fn sum(&self, counter: impl Fn(&Readings) -> &Reading) -> u64 {
        // A level may wrap on a single thread; the wrapping sum is right.
        self.all().fold(0, |sum, readings| sum.wrapping_add(counter(readings).get()))
    }

    fn connections(&self, page: &mut Page<'_>) -> fmt::Result {
        let connections = Protocol::ALL.map(|protocol| (protocol.as_str(), self.sum(|c| c.connections(protocol))));
        let help = "Connections that are open, by what they speak";
        page.family("hi_connections", help, None, MetricType::Gauge, "dialect", connections)?;
        page.counter("hi_accepts", "Connections accepted", None, self.sum(|c| &c.accepts))?;
        let help = "Times that accepting paused because the system had no file or memory left";
        page.counter("hi_accept_pauses", help, None, self.sum(|c| &c.accept_pauses))?;
        let headers = ClientHeader::ALL.map(|header| (header.as_str(), self.sum(|c| c.untrusted_headers(header))));
        let headers = headers.into_iter().chain([("user-header", self.sum(|c| &c.untrusted_users))]);
        let help = "Requests with this header (user-header: that of --user-header) that did not come from a trusted proxy: it was ignored";
        page.family("hi_untrusted_headers", help, None, MetricType::Counter, "header", headers)?;
        let help = "Connections to the internal port";
        page.gauge("hi_internal_connections", help, self.sum(|c| &c.api_connections))?;
        let codes = CLOSE_CODES.map(|code| (code.to_string(), self.sum(|c| c.disconnects(code))));
        let codes = codes.into_iter().chain([("other".to_owned(), self.sum(|c| c.disconnects(0)))]);
        let help = "WebSockets and streams that ended, by the first close code given or due";
        page.family("hi_disconnects", help, None, MetricType::Counter, "code", codes)?;
        let rooms = Namespace::ALL.map(|namespace| (namespace.as_str(), self.rooms.len(namespace) as u64));
        page.family("hi_rooms", "Rooms", None, MetricType::Gauge, "kind", rooms)?;
        let (dormant, evicted) = self.rooms.dormant();
        page.gauge("hi_sleeping_rooms", "Rooms that nobody is in, kept for clients that reconnect", dormant as u64)?;
        let help = "Rooms that nobody is in, dropped before their time because too many were kept";
        page.counter("hi_sleeping_rooms_dropped", help, None, evicted)
    }

    fn messages(&self, page: &mut Page<'_>) -> fmt::Result {
        let speakers = [Protocol::V0, Protocol::V1, Protocol::Raw];
        let messages = speakers.map(|protocol| (protocol.as_str(), self.sum(|c| c.messages_in(protocol))));
        let messages = messages.into_iter().chain([("api", self.sum(|c| &c.api_messages_in))]);
        let help = "Messages that arrived and were admitted";
        page.family("hi_messages_in", help, None, MetricType::Counter, "dialect", messages)?;
        // The internal port has no rate limit: it answers `busy` while the shards lag.
        let limited = speakers.map(|protocol| (protocol.as_str(), self.sum(|c| c.rate_limited(protocol))));
        let help = "Messages refused for their rate";
        page.family("hi_rate_limited", help, None, MetricType::Counter, "dialect", limited)?;
        let help = "Messages and notices of rooms that the kernel took, once for each member";
        page.counter("hi_deliveries", help, None, self.sum(|c| &c.deliveries))?;
        let help = "What the kernel took of all that leaves through WebSockets and streams";
        page.counter("hi_sent", help, Some(Unit::Bytes), self.sum(|c| &c.sent_bytes))?;
        let help = "What arrived through WebSockets and from listeners";
        page.counter("hi_received", help, Some(Unit::Bytes), self.sum(|c| &c.received_bytes))?;
        self.compression(page)?;
        let help = "From the receipt of a message to its acceptance by the kernel for each member, of sampled messages";
        let mut counts = [0; DELIVERY_BOUNDS.len() + 1];
        let sum: u64 = self.all().map(|c| c.delivery.add_to(&mut counts)).sum();
        let bounds = DELIVERY_BOUNDS.map(|nanos| nanos as f64 / 1e9);
        page.histogram("hi_delivery", help, Some(Unit::Seconds), &bounds, &counts, sum as f64 / 1e9)?;
        let mut batches = |name, help, of: fn(&Readings) -> &Histogram<{ BATCH_BOUNDS.len() }, Reading>| {
            let bounds = BATCH_BOUNDS.map(|count| count as f64);
            let mut counts = [0; BATCH_BOUNDS.len() + 1];
            let sum: u64 = self.all().map(|c| of(c).add_to(&mut counts)).sum();
            page.histogram(name, help, None, &bounds, &counts, sum as f64)
        };
        batches("hi_send_batch_size", "Sends given to the kernel together", |c| &c.send_batch)?;
        let help = "Messages of a room for which a shard visited its members together";
        batches("hi_flush_messages", help, |c| &c.flush)
    }

    fn compression(&self, page: &mut Page<'_>) -> fmt::Result {
        let offers = Compression::ALL.map(|outcome| (outcome.as_str(), self.sum(|c| c.compression(outcome))));
        let help = "Offers of clients to compress messages (permessage-deflate), by what became of them";
        page.family("hi_deflate_offers", help, None, MetricType::Counter, "outcome", offers)?;
        let deflated = Direction::ALL.map(|dir| (dir.as_str(), self.sum(|c| c.deflated_bytes(dir))));
        let help = "Compressed messages: from clients (in), and for members (out), once for all of them";
        page.family("hi_deflate", help, Some(Unit::Bytes), MetricType::Counter, "dir", deflated)?;
        let plain = Direction::ALL.map(|dir| (dir.as_str(), self.sum(|c| c.deflate_plain_bytes(dir))));
        let help = "The same messages, uncompressed";
        page.family("hi_deflate_plain", help, Some(Unit::Bytes), MetricType::Counter, "dir", plain)
    }

    fn losses(&self, page: &mut Page<'_>) -> fmt::Result {
        page.counter("hi_gaps", "Notices of a gap to slow members", None, self.sum(|c| &c.gaps))?;
        let lapped = Lapped::ALL.map(|outcome| (outcome.as_str(), self.sum(|c| c.lapped(outcome))));
        let help = "Members that fell behind the oldest message kept";
        page.family("hi_lapped", help, None, MetricType::Counter, "policy", lapped)?;
        page.counter("hi_lost_messages", "Messages that lapped members lost", None, self.sum(|c| &c.lost))?;
        let help =
            "Messages that slow members with latest=1 were not sent because a newer one of the same key had come";
        page.counter("hi_conflated_messages", help, None, self.sum(|c| &c.conflated))?;
        let replays = Replay::ALL.map(|outcome| (outcome.as_str(), self.sum(|c| c.replays(outcome))));
        let help = "Requests for what was missed while away";
        page.family("hi_replay_requests", help, None, MetricType::Counter, "outcome", replays)
    }

    fn refusals(&self, page: &mut Page<'_>) -> fmt::Result {
        // Those beyond the rate are `hi_rate_limited_total`.
        let codes = Code::ALL.into_iter().filter(|code| *code != Code::TooManyRequests);
        let refused = codes.map(|code| (code.as_str(), self.sum(|c| c.refused(code))));
        let help = "Requests of chat clients that were refused, by the code of the error";
        page.family("hi_refused_requests", help, None, MetricType::Counter, "code", refused)?;
        let errors = ERROR_CODES.map(|code| (code, self.sum(|c| c.api_errors(code))));
        let help = "Requests to the internal port that were refused, by the code of the error";
        page.family("hi_internal_errors", help, None, MetricType::Counter, "code", errors)?;
        let help = "Connections closed because they did not read the replies to them";
        page.counter("hi_replies_unread", help, None, self.sum(|c| &c.replies_unread))?;
        let help = "Connections ended because they gave no sign of life after a ping";
        page.counter("hi_ping_timeouts", help, None, self.sum(|c| &c.ping_timeouts))
    }

    fn shards(&self, page: &mut Page<'_>) -> fmt::Result {
        let mut busy_seconds = page.0.encode_descriptor(
            "hi_shard_busy",
            "Time spent in turns: receiving, ordering, sending",
            Some(&Unit::Seconds),
            MetricType::Counter,
        )?;
        for (shard, counters) in self.shards.iter().enumerate() {
            let labels = [("shard", shard.to_string())];
            let seconds = counters.busy_nanos.get() as f64 / 1e9;
            busy_seconds.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&seconds, None)?;
        }
        let inboxes = self.rooms.inboxes().iter().enumerate();
        let queued = inboxes.clone().map(|(shard, inbox)| (shard.to_string(), inbox.bytes() as u64));
        let help = "What waits in the inbox of a shard";
        page.family("hi_relay_queue", help, Some(Unit::Bytes), MetricType::Gauge, "shard", queued)?;
        let dropped = inboxes.clone().map(|(shard, inbox)| (shard.to_string(), inbox.dropped()));
        let help = "Messages that found the inbox of a shard full";
        page.family("hi_relay_dropped", help, None, MetricType::Counter, "shard", dropped)?;
        let dropped = inboxes.map(|(shard, inbox)| (shard.to_string(), inbox.orders_dropped()));
        let help = "Orders to a shard that found too many others waiting";
        page.family("hi_orders_dropped", help, None, MetricType::Counter, "shard", dropped)
    }
}

fn system(page: &mut Page<'_>) -> fmt::Result {
    let help = "Log lines that were dropped because nothing read stderr, or it took no more";
    page.counter("hi_log_lines_dropped", help, None, log::dropped_lines())?;
    page.gauge("hi_open_files", "Files that the process has open: sockets and some others", os::open_files())?;
    page.gauge("hi_open_files_max", "Files that the process may have open", os::file_limit())
}

/// Writes metrics one after another.
pub(super) struct Page<'a>(pub(super) DescriptorEncoder<'a>);

impl Page<'_> {
    pub(super) fn counter(&mut self, name: &str, help: &str, unit: Option<Unit>, value: u64) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    #[cfg(feature = "cluster")]
    pub(super) fn seconds(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        // The format knows no larger gauge than an i64; "unlimited" would be.
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value.min(i64::MAX as u64))
    }

    pub(super) fn family<L: AsRef<str>>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        kind: MetricType,
        label: &str,
        values: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, unit.as_ref(), kind)?;
        for (value_of_label, value) in values {
            let labels = [(label, value_of_label.as_ref())];
            let mut one = metric.encode_family(&labels)?;
            match kind {
                MetricType::Counter => one.encode_counter::<NoLabelSet, _, u64>(&value, None)?,
                _ => one.encode_gauge(&value.min(i64::MAX as u64))?,
            }
        }
        Ok(())
    }

    pub(super) fn histogram(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        bounds: &[f64],
        counts: &[u64],
        sum: f64,
    ) -> fmt::Result {
        let bounds = bounds.iter().copied().chain([f64::INFINITY]);
        let buckets: Vec<_> = bounds.zip(counts.iter().copied()).collect();
        let mut metric = self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Histogram)?;
        metric.encode_histogram::<NoLabelSet>(sum, counts.iter().sum(), &buckets, None)
    }
}
