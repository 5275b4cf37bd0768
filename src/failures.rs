//! Failed handshakes of the whole process, counted by reason and hop: for the log, which reports each kind once in a while
//! and never floods, and for the metric `hi_handshake_failures_total{reason,hop}`.
//!
//! Anyone who can connect can fail, under any number of addresses: only a few hops have an entry of their own, the others
//! share one, and a hop without recent failures gives its entry up. All shards share the table; it is off the data path.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use doctor::reason::Reason;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use tokio::sync::Notify;
use tokio::time::sleep;
use tracing::info;

use crate::limits::{FAILURE_LINES_PER_INTERVAL, HOP_IDLE_MAX, HOPS_MAX};
use crate::throttle::Throttle;

/// The label of all other hops.
const OTHER_HOPS: &str = "other";

/// How often handshakes failed for one reason behind one hop since the process started.
#[derive(Clone, Debug, PartialEq, Eq)]
struct FailureCount {
    reason: Reason,
    /// The address of the last hop, `direct`, or [`OTHER_HOPS`].
    hop: String,
    count: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Failures {
    interval: Duration,
    table: Mutex<Table>,
    /// Log lines that say that accepting pauses.
    pauses: Mutex<Throttle>,
    /// Told when something was left out of the log.
    left_out: Notify,
    /// Whether a peer that is not trusted has named a client.
    untrusted: AtomicBool,
}

#[derive(Debug)]
struct Table {
    /// At most [`HOPS_MAX`], and [`OTHER_HOPS`] always.
    hops: HashMap<String, Entry>,
    lines: Throttle,
}

type Kinds = BTreeMap<Reason, Suppressed>;

#[derive(Debug)]
struct Entry {
    failed_at: Instant,
    kinds: Kinds,
}

#[derive(Debug, Default)]
struct Suppressed {
    count: u64,
    logged_at: Option<Instant>,
    /// Failures since then that were not logged.
    left_out: u64,
}

impl Failures {
    /// Nothing has failed yet. The log reports the same kind of failure once in each `interval`.
    pub(crate) fn new(interval: Duration) -> Self {
        let others = Entry { failed_at: Instant::now(), kinds: Kinds::new() };
        let hops = HashMap::from([(OTHER_HOPS.to_owned(), others)]);
        let table = Table { hops, lines: Throttle::every(interval, FAILURE_LINES_PER_INTERVAL) };
        Self {
            interval,
            table: Mutex::new(table),
            pauses: Mutex::new(Throttle::new(1)),
            left_out: Notify::new(),
            untrusted: AtomicBool::new(false),
        }
    }

    /// Whether a peer that is not trusted names a client for the first time, which is worth a line.
    pub(super) fn is_first_untrusted(&self) -> bool {
        !self.untrusted.swap(true, Ordering::Relaxed)
    }

    /// Whether to log that accepting pauses: all shards run out of files at the same time, and one line is enough.
    pub(crate) fn note_pause(&self, now: Instant) -> bool {
        self.pauses.lock().unwrap_or_else(PoisonError::into_inner).admit(now).is_some()
    }

    /// Counts a failure behind this hop. Whether to log it; if so, how many of its kind were left out since the last line about it.
    pub(crate) fn note(&self, reason: Reason, hop: String, now: Instant) -> Option<u64> {
        let mut table = self.table();
        let Table { hops, lines } = &mut *table;
        let kind = kinds_of(hops, hop, now).entry(reason).or_default();
        kind.count += 1;
        let due = kind.logged_at.is_none_or(|logged_at| now.duration_since(logged_at) >= self.interval);
        if due && lines.admit(now).is_some() {
            kind.logged_at = Some(now);
            return Some(std::mem::take(&mut kind.left_out));
        }
        kind.left_out += 1;
        self.left_out.notify_one();
        None
    }

    /// Failures that were not logged, of kinds that have been quiet for two intervals: to be reported now.
    fn overdue(&self, now: Instant) -> Vec<FailureCount> {
        let mut table = self.table();
        let Table { hops, lines } = &mut *table;
        let mut overdue = Vec::new();
        for (hop, Entry { kinds, .. }) in hops {
            for (reason, kind) in kinds {
                let due = kind.logged_at.is_none_or(|logged_at| now.duration_since(logged_at) >= 2 * self.interval);
                if kind.left_out > 0 && due && lines.admit(now).is_some() {
                    let count = std::mem::take(&mut kind.left_out);
                    overdue.push(FailureCount { reason: *reason, hop: hop.to_owned(), count });
                }
            }
        }
        overdue
    }

    /// Whether anything waits to be reported by [`Failures::overdue`].
    fn has_left_out(&self) -> bool {
        self.table().hops.values().flat_map(|entry| entry.kinds.values()).any(|kind| kind.left_out > 0)
    }

    /// Logs how many failures were left out of the log, once each interval, for as long as there are any.
    pub(crate) async fn report_left_out(&self) {
        loop {
            self.left_out.notified().await;
            while self.has_left_out() {
                sleep(self.interval).await;
                for FailureCount { reason, hop, count } in self.overdue(Instant::now()) {
                    let (plural, reason) = (if count == 1 { "" } else { "s" }, reason.as_str());
                    let interval = self.interval;
                    info!("{count} more handshake{plural} refused in the last {interval:?} ({reason}, via {hop})");
                }
            }
        }
    }

    /// All counts so far: those of at most [`HOPS_MAX`] hops, and those of all others together.
    fn snapshot(&self) -> Vec<FailureCount> {
        let mut counts = Vec::new();
        for (hop, Entry { kinds, .. }) in &self.table().hops {
            let count =
                |(&reason, kind): (_, &Suppressed)| FailureCount { reason, hop: hop.clone(), count: kind.count };
            counts.extend(kinds.iter().map(count));
        }
        counts
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // A panic ends the process; until then the counts are as good as ever.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The counts of this hop: its own, if it has an entry or can get one.
fn kinds_of(hops: &mut HashMap<String, Entry>, hop: String, now: Instant) -> &mut Kinds {
    let may_have_its_own = hops.contains_key(&hop) || hops.len() <= HOPS_MAX || give_up_an_idle_one(hops, now);
    let hop = if may_have_its_own { hop } else { OTHER_HOPS.to_owned() };
    let entry = hops.entry(hop).or_insert_with(|| Entry { failed_at: now, kinds: Kinds::new() });
    entry.failed_at = now;
    &mut entry.kinds
}

/// Makes room for another hop; false if none has been without failures for long enough.
fn give_up_an_idle_one(hops: &mut HashMap<String, Entry>, now: Instant) -> bool {
    let is_idle = |hop: &String, entry: &mut Entry| {
        hop != OTHER_HOPS && now.saturating_duration_since(entry.failed_at) >= HOP_IDLE_MAX
    };
    let Some((_, given_up)) = hops.extract_if(is_idle).next() else { return false };
    // Its failures go on counting among the others: the sum over all hops never falls.
    let others = &mut hops.get_mut(OTHER_HOPS).expect("it is always there").kinds;
    for (reason, kind) in given_up.kinds {
        let other = others.entry(reason).or_default();
        other.count += kind.count;
        other.left_out += kind.left_out;
    }
    true
}

/// `hi_handshake_failures_total{reason,hop}`.
#[derive(Debug)]
pub(crate) struct FailureMetric(pub(crate) Arc<Failures>);

impl Collector for FailureMetric {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Requests for a WebSocket that were refused, by reason and by the hop that is the likely cause";
        let mut metric = encoder.encode_descriptor("hi_handshake_failures", help, None, MetricType::Counter)?;
        for FailureCount { reason, hop, count } in self.0.snapshot() {
            let labels = [("reason", reason.as_str()), ("hop", hop.as_str())];
            metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
