//! The canary: the server dials itself through its public address, and reports what it finds to the log, to metrics and to
//! `/readyz`. The look itself is [`doctor::canary`].
//!
//! It runs on a thread of its own, and only with `--public-url`. It reads answers of foreign servers: should one ever
//! make it panic, that look has failed, and the server goes on.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use doctor::canary::{Plan, Status, look};
use doctor::examination::runtime;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use tracing::{error, info, warn};

use crate::api::health::Check;
use crate::metrics::Metrics;
use crate::os;

/// The part of the interval that is random: one in ten, so that many servers don't dial at once.
const JITTER_PART: u32 = 10;
/// The first look comes soon after the start, when the listeners are there.
const FIRST_AFTER: Duration = Duration::from_secs(1);
/// The name of its thread.
const THREAD: &str = "hi-canary";
/// What a check on `/readyz` says before the first look.
const NOT_LOOKED_YET: &str = "not checked yet";

/// The gauges at `/metrics`. They are there from the first look on: before it, nothing is known.
#[derive(Clone, Debug, Default)]
struct Gauges {
    ok: Gauge,
    instance_match: Gauge,
    seconds: Gauge<f64, AtomicU64>,
    dns_addresses: Gauge,
}

impl Gauges {
    fn register(&self, registry: &mut Registry) {
        let help = "Whether users get a WebSocket at every address of the public URL";
        registry.register("hi_public_path_ok", help, self.ok.clone());
        let help = "Whether this server, or one of its group or cluster, answers at the public URL";
        registry.register("hi_public_path_instance_match", help, self.instance_match.clone());
        let help = "How long the last check of the public URL took";
        registry.register_with_unit("hi_public_path", help, Unit::Seconds, self.seconds.clone());
        let help = "Addresses in the DNS records of the public URL";
        registry.register("hi_public_dns_addresses", help, self.dns_addresses.clone());
    }

    fn set(&self, status: &Status) {
        self.ok.set(status.works.into());
        self.instance_match.set(status.instance_matches.into());
        self.seconds.set(status.seconds);
        self.dns_addresses.set(status.dns_addresses as i64);
    }
}

/// The last look, for metrics and `/readyz`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Canary {
    last: Arc<Mutex<Option<Status>>>,
    gauges: Gauges,
}

impl Canary {
    /// For `/readyz`: whether the public path is right, and the sentence about it. It decides nothing there: a load balancer
    /// that took servers out because of it would make sure that the path stays broken.
    pub(crate) fn check(&self) -> Check {
        let status = self.last();
        let (ok, detail) = match &*status {
            Some(status) => (status.is_good(), status.to_string()),
            None => (false, NOT_LOOKED_YET.to_owned()),
        };
        Check { name: "public path", ok, decides: false, detail }
    }

    fn last(&self) -> MutexGuard<'_, Option<Status>> {
        // A status is replaced as a whole.
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts to look, until the process ends.
    ///
    /// # Errors
    /// The thread or its runtime can't be had.
    pub(crate) fn start(plan: Plan, metrics: Arc<Metrics>) -> std::io::Result<Self> {
        let canary = Self::default();
        let ours = canary.clone();
        let runtime = runtime()?;
        let look_around = move || {
            thread::sleep(FIRST_AFTER.min(plan.interval));
            loop {
                ours.note(&plan.target.url, surviving(|| look(&runtime, &plan)), &metrics);
                thread::sleep(pause(plan.interval, os::random_u64().unwrap_or(0)));
            }
        };
        thread::Builder::new().name(THREAD.to_owned()).spawn(look_around)?;
        Ok(canary)
    }

    fn note(&self, url: &str, status: Status, metrics: &Metrics) {
        self.gauges.set(&status);
        let before = self.last().replace(status.clone());
        if before.is_none() {
            self.gauges.register(&mut metrics.registry());
        }
        if before.is_some_and(|before| before.is_like(&status)) {
            return;
        }
        if status.is_good() { info!("public path {url}: {status}") } else { warn!("public path {url}: {status}") }
    }
}

/// Whether this thread is the canary's: a panic here ends one look, and not the process.
pub fn is_this_thread() -> bool {
    thread::current().name() == Some(THREAD)
}

/// A look; a panic in it is a status like any other.
fn surviving(look: impl FnOnce() -> Status) -> Status {
    let began = Instant::now();
    // What a look leaves behind is replaced as a whole.
    catch_unwind(AssertUnwindSafe(look)).unwrap_or_else(|_| {
        error!("the check of the public address ended in a bug in hi; connections are not affected");
        Status::failed("a bug in hi ended the check, see the log", began.elapsed())
    })
}

/// The time between two looks: the interval plus or minus a random part.
fn pause(interval: Duration, random: u64) -> Duration {
    let span = interval / JITTER_PART;
    let offset = span.mul_f64(2.0 * (random as f64 / u64::MAX as f64));
    interval - span + offset
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_is_the_interval_plus_or_minus_a_tenth() {
        let interval = Duration::from_secs(60);
        assert_eq!(pause(interval, 0), Duration::from_secs(54));
        assert_eq!(pause(interval, u64::MAX), Duration::from_secs(66));
    }

    #[test]
    fn a_panic_is_a_look_that_failed() {
        let status = surviving(|| panic!("on purpose, in a test"));
        assert!(!status.is_good());
        assert_eq!(status.to_string(), "It could not be checked: a bug in hi ended the check, see the log.");
        let other = Status::failed("another reason", Duration::ZERO);
        assert_eq!(surviving(|| other.clone()), other);
    }
}
