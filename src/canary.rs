//! The canary: the server dials itself through its public address, DNS and every hop included, as a user would.
//!
//! What a server can't see from inside is that nobody reaches it. It runs on a thread of its own, and only with
//! `--public-url`; what it sends stays in a room of its own. It reads what strangers answer: should that ever make it
//! panic, one look has failed, and the server goes on.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use tracing::{error, info, warn};

use crate::doctor::facts::Facts;
use crate::doctor::url::Target;
use crate::doctor::verdict::{Diagnosis, Finding, Kind};
use crate::doctor::{self, Depth, Examination, Options, examine};
use crate::metrics::Metrics;
use crate::os;

/// The part of the interval that is random: one in ten, so that many servers don't dial at once.
const JITTER_PART: u32 = 10;
/// The first look comes soon after the start, when the listeners are there.
const FIRST_AFTER: Duration = Duration::from_secs(1);
/// The name of its thread.
const THREAD: &str = "hi-canary";

/// The address to dial, and the server that should answer.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The public address.
    pub target: Target,
    /// Time between two looks.
    pub interval: Duration,
    /// The instance that should answer.
    pub instance: Arc<str>,
    /// Or any that is of this group.
    pub group: Option<String>,
}

/// What the last look found.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// Whether a user gets a WebSocket at every address.
    pub works: bool,
    /// Whether this server answers, or one of its group, at every address that answers as hi.
    pub instance_matches: bool,
    /// How long the look took, in seconds.
    pub seconds: f64,
    /// Different addresses in the records.
    pub dns_addresses: usize,
    /// The doctor's verdict, with its fix; or why the look itself failed.
    pub sentence: String,
    /// `None`: the look itself failed.
    verdict: Option<Kind>,
}

impl Status {
    /// Nothing to do for anybody.
    pub fn is_good(&self) -> bool {
        self.works && self.instance_matches
    }

    /// A change of these is worth a line in the log; times and addresses change all the time.
    fn state(&self) -> (bool, bool, Option<Kind>) {
        (self.works, self.instance_matches, self.verdict)
    }
}

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
        let help = "Whether this server, or one of its group, answers at the public URL";
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
pub struct Canary {
    last: Arc<Mutex<Option<Status>>>,
    gauges: Gauges,
}

impl Canary {
    /// The last look; `None` before the first.
    pub fn status(&self) -> Option<Status> {
        self.last().clone()
    }

    /// For `/readyz`: whether the public path is right, and the sentence about it. It decides nothing there: a load balancer
    /// that took servers out because of it would make sure that the path stays broken.
    pub fn readiness(&self) -> (bool, String) {
        self.status().map_or((false, NOT_LOOKED_YET.to_owned()), |status| (status.is_good(), status.to_string()))
    }

    fn last(&self) -> MutexGuard<'_, Option<Status>> {
        // A status is replaced as a whole.
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts to look, until the process ends.
    ///
    /// # Errors
    /// The thread can't be had.
    pub fn start(plan: Plan, metrics: Arc<Metrics>) -> std::io::Result<Self> {
        let canary = Self::default();
        let ours = canary.clone();
        let runtime = doctor::runtime()?;
        std::thread::Builder::new()
            .name(THREAD.to_owned())
            .spawn(move || runtime.block_on(ours.look_around(plan, &metrics)))?;
        Ok(canary)
    }

    async fn look_around(self, plan: Plan, metrics: &Metrics) {
        tokio::time::sleep(FIRST_AFTER.min(plan.interval)).await;
        let options = Options { depth: Depth::Handshake, ..Options::new(plan.target.clone()) };
        loop {
            let began = Instant::now();
            let options = options.clone();
            let status = match surviving(async move { examine(&options).await }).await {
                Ok(Examination { facts, diagnosis, .. }) => {
                    status(&facts, &diagnosis, who_answers(&facts, &plan), began.elapsed())
                }
                Err(why) => failed(&why, began.elapsed()),
            };
            self.note(&plan.target.url, status, metrics);
            tokio::time::sleep(pause(plan.interval, os::random_u64().unwrap_or(0))).await;
        }
    }

    fn note(&self, url: &str, status: Status, metrics: &Metrics) {
        self.gauges.set(&status);
        let before = self.last().replace(status.clone());
        if before.is_none() {
            self.gauges.register(&mut metrics.registry());
        }
        if before.is_some_and(|before| before.state() == status.state()) {
            return;
        }
        if status.is_good() { info!("public path {url}: {status}") } else { warn!("public path {url}: {status}") }
    }
}

/// Whether this thread is the canary's: a panic here ends one look, and not the process.
pub fn is_this_thread() -> bool {
    std::thread::current().name() == Some(THREAD)
}

/// A look, whose panic is an error like any other.
async fn surviving<T: Send + 'static>(
    look: impl Future<Output = Result<T, String>> + Send + 'static,
) -> Result<T, String> {
    tokio::spawn(look).await.unwrap_or_else(|_| {
        error!("the check of the public address ended in a bug in hi; connections are not affected");
        Err("a bug in hi ended the check, see the log".to_owned())
    })
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.works, self.instance_matches) {
            (true, true) => {
                let plural = if self.dns_addresses == 1 { "" } else { "es" };
                write!(f, "works, and leads here ({} address{plural})", self.dns_addresses)
            }
            (true, false) if self.verdict == Some(Kind::NotHi) => f.write_str(
                "works, but which server answers can't be seen: let the proxy pass /-/doctor/echo on to hi, and don't switch the echo \
                 off (--echo off)",
            ),
            (true, false) => f.write_str(
                "works, but leads to another server than this one: check its DNS records, or give all servers behind it the \
                 same --group",
            ),
            (false, _) => f.write_str(&self.sentence),
        }
    }
}

/// Between two looks: the interval, give or take.
fn pause(interval: Duration, random: u64) -> Duration {
    let span = interval / JITTER_PART;
    let offset = span.mul_f64(2.0 * (random as f64 / u64::MAX as f64));
    interval - span + offset
}

/// Whether everything that answers as hi, at any address, is the instance or of the group. Nobody at all: no.
fn who_answers(facts: &Facts, plan: &Plan) -> bool {
    let mut answers = facts.addresses.iter().filter_map(|address| address.received()).peekable();
    answers.peek().is_some()
        && answers.all(|received| {
            *received.instance == *plan.instance || (plan.group.is_some() && received.group == plan.group)
        })
}

fn status(facts: &Facts, diagnosis: &Diagnosis, instance_matches: bool, took: Duration) -> Status {
    // Several servers of one group are no fault; whether they are of one group has been found out.
    let is_fault = |finding: &&Finding| finding.broken && finding.kind != Kind::AnotherInstance;
    let fault = std::iter::once(&diagnosis.verdict).chain(&diagnosis.others).find(is_fault);
    let said = fault.unwrap_or(&diagnosis.verdict);
    Status {
        works: fault.is_none(),
        instance_matches,
        seconds: took.as_secs_f64(),
        dns_addresses: facts.addresses.iter().filter(|address| address.in_dns).count(),
        sentence: said.to_string(),
        verdict: Some(said.kind),
    }
}

/// What is not known to work is not said to.
fn failed(why: &str, took: Duration) -> Status {
    Status {
        works: false,
        instance_matches: false,
        seconds: took.as_secs_f64(),
        dns_addresses: 0,
        sentence: format!("It could not be checked: {why}."),
        verdict: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_is_the_interval_give_or_take_a_tenth() {
        let interval = Duration::from_secs(60);
        assert_eq!(pause(interval, 0), Duration::from_secs(54));
        assert_eq!(pause(interval, u64::MAX), Duration::from_secs(66));
    }

    #[test]
    fn only_a_change_of_state_is_worth_a_line() {
        let status = |works, seconds| Status {
            works,
            instance_matches: true,
            seconds,
            dns_addresses: 1,
            sentence: String::new(),
            verdict: Some(Kind::Sound),
        };
        assert_eq!(status(true, 0.1).state(), status(true, 0.2).state());
        assert_ne!(status(true, 0.1).state(), status(false, 0.1).state());
    }

    #[test]
    fn a_panic_is_a_look_that_failed() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let why = runtime.block_on(surviving::<()>(async { panic!("on purpose, in a test") })).unwrap_err();
        let status = failed(&why, Duration::ZERO);
        assert!(!status.is_good());
        assert_eq!(status.to_string(), "It could not be checked: a bug in hi ended the check, see the log.");
        assert_eq!(runtime.block_on(surviving(async { Ok(1) })), Ok(1));
    }
}
