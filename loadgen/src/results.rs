//! What a run found: the numbers behind every output, and the format of `--json`.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Steps per halving of the distance to 100 % in a [`Distribution`]'s curve, as HdrHistogram's own percentile output.
const TICKS_PER_HALF: u32 = 5;

/// One run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// What to call it in a report: `--name`, or the target and the number of clients.
    pub name: String,
    /// The command line that made it.
    pub command: String,
    /// When it began, in milliseconds of Unix time.
    pub started_unix_ms: u64,
    /// Where it ran.
    pub machine: Machine,
    /// The plan of the run.
    pub plan: PlanSummary,
    /// Whether a signal (Ctrl-C, SIGTERM) ended it early.
    #[serde(default)]
    pub cut_short: bool,
    /// Whether the numbers can be trusted, and what was wrong.
    pub verdict: Verdict,
    /// Messages that arrived in the measured time, counted once per client.
    pub deliveries: u64,
    /// Messages that should have arrived in the measured time, counted once per connected client that reads at full
    /// speed: those that did, and those that were lost.
    pub deliveries_expected: u64,
    /// Length of the measured time in seconds.
    pub seconds: f64,
    /// `deliveries / seconds`.
    pub deliveries_per_second: f64,
    /// Delivery latency from the time that each message was due.
    pub latency: Distribution,
    /// Delivery latency as a closed-loop tool would see it: without the messages that fell due while the client still
    /// waited for an earlier one (coordinated omission).
    pub latency_uncorrected: Distribution,
    /// The measured time, second by second.
    pub timeline: Vec<Second>,
    /// How the clients connected.
    pub connects: Connects,
    /// Bytes of frames that arrived in the measured time.
    pub bytes_received: u64,
    /// What the server used, if its process is known.
    pub server: Option<ServerCost>,
    /// What each of several servers did.
    #[serde(default)]
    pub servers: Vec<ServerShare>,
    /// How busy and how late the load generator itself was.
    pub generator: Generator,
    /// Which messages did not arrive once and in order.
    pub audit: Audit,
    /// The steps of `--find-limit`.
    pub limit: Option<Limit>,
    /// How long it took every client to reconnect in a `--storm`.
    pub storm: Option<Storm>,
}

/// The machine of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// Cores available to the load generator.
    pub cores: usize,
    /// The processor's name.
    pub processor: String,
    /// `uname -sr`.
    pub kernel: String,
}

/// The plan of the run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PlanSummary {
    /// The server's address.
    pub target: String,
    /// `chat`, `raw`, or `template`.
    pub dialect: String,
    /// Clients that receive.
    pub clients: usize,
    /// Rooms that the clients are spread over.
    pub rooms: usize,
    /// Publishers in each room.
    pub publishers: usize,
    /// Messages a second in each room.
    pub rate: f64,
    /// Bytes of one message.
    pub message_bytes: usize,
    /// Measured time in seconds.
    pub duration_seconds: f64,
    /// Warm-up before it, in seconds.
    pub warmup_seconds: f64,
    /// Clients that read slowly.
    pub slow_clients: usize,
    /// Clients per second that leave and reconnect.
    pub churn_per_second: f64,
}

/// Whether a run's numbers can be trusted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", content = "reasons", rename_all = "snake_case")]
pub enum Verdict {
    /// Every message arrived once and in order, or its loss was announced; the load generator was not the limit.
    Sound,
    /// The server lost, duplicated or reordered messages, or closed connections.
    Failed(Vec<String>),
    /// The load generator was the bottleneck: the numbers say nothing about the server.
    Invalid(Vec<String>),
}

impl Verdict {
    /// Its exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Sound => 0,
            Self::Failed(_) => 1,
            Self::Invalid(_) => 3,
        }
    }
}

/// A distribution of times, in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// How many values.
    pub count: u64,
    /// Smallest.
    pub min_us: u64,
    /// Mean.
    pub mean_us: f64,
    /// Standard deviation.
    pub deviation_us: f64,
    /// 50 % of the values are at most this.
    pub p50_us: u64,
    /// 90 %.
    pub p90_us: u64,
    /// 99 %.
    pub p99_us: u64,
    /// 99.9 %.
    pub p999_us: u64,
    /// Largest.
    pub max_us: u64,
    /// Points of the whole curve, enough to draw it and to write it in HdrHistogram's percentile format.
    pub curve: Vec<CurvePoint>,
}

/// A point of a distribution's curve.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// From 0 to 1.
    pub quantile: f64,
    /// The value at this quantile, in microseconds.
    pub value_us: u64,
    /// Number of values up to this one.
    pub count: u64,
}

impl Distribution {
    /// From a histogram of microseconds.
    pub fn of(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        let curve = histogram
            .iter_quantiles(TICKS_PER_HALF)
            .scan(0, |count, value| {
                *count += value.count_since_last_iteration();
                Some(CurvePoint {
                    quantile: value.quantile_iterated_to(),
                    value_us: value.value_iterated_to(),
                    count: *count,
                })
            })
            .collect();
        Self {
            count: histogram.len(),
            min_us: histogram.min(),
            mean_us: histogram.mean(),
            deviation_us: histogram.stdev(),
            p50_us: histogram.value_at_quantile(0.5),
            p90_us: histogram.value_at_quantile(0.9),
            p99_us: histogram.value_at_quantile(0.99),
            p999_us: histogram.value_at_quantile(0.999),
            max_us: histogram.max(),
            curve,
        }
    }
}

/// One second of the measured time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Second {
    /// Its number, from 0 at the beginning of the measured time.
    pub second: u32,
    /// Messages that arrived in it.
    pub deliveries: u64,
    /// Their corrected latency, in microseconds.
    pub p50_us: u64,
    /// See `p50_us`.
    pub p99_us: u64,
    /// See `p50_us`.
    pub max_us: u64,
}

/// How the clients connected.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Connects {
    /// Connections made.
    pub count: u64,
    /// Connections a second.
    pub per_second: f64,
    /// From the connect to the 101.
    pub handshake: Distribution,
    /// The server's CPU time per connection while they connected, in microseconds, if its process is known.
    #[serde(default)]
    pub server_cpu_us_per_connection: Option<f64>,
}

/// What the server's process used.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServerCost {
    /// CPU time per delivery in the measured time, in microseconds.
    pub cpu_us_per_delivery: f64,
    /// CPU time in the measured time, in cores.
    pub cores: f64,
    /// Resident memory per connection, in bytes: the process's growth while the clients connected.
    pub memory_bytes_per_connection: f64,
    /// Resident memory at the end, in bytes.
    pub resident_bytes: u64,
}

/// What one of several servers did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerShare {
    /// Its URL.
    pub url: String,
    /// Clients that connected to it, also again.
    pub connects: u64,
    /// Messages that they got from it in the measured time.
    pub deliveries: u64,
}

/// How busy and how late the load generator was.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Generator {
    /// Threads that read and send.
    pub threads: usize,
    /// Growth of the load generator's resident memory per client, in bytes, from before its clients were set up until
    /// the end of the measured time. It includes shared buffers and histograms.
    #[serde(default)]
    pub memory_bytes_per_client: f64,
    /// Its resident memory at the end of the measured time, in bytes.
    #[serde(default)]
    pub resident_bytes: u64,
    /// The busiest thread's CPU time as a share of the measured time; 1 is saturated.
    pub busiest_thread_share: f64,
    /// How much later than due messages were sent.
    pub send_late: Distribution,
    /// Upper bound of how much later messages were read than they arrived in the kernel: the wait for a core, and for
    /// messages read before.
    pub read_late: Distribution,
    /// Latencies beyond p99 that the load generator itself caused.
    #[serde(default)]
    pub own_tail: Option<OwnTail>,
}

/// Latencies that the load generator itself caused: it was late by more than half of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnTail {
    /// `p99.9`, `max`, or both.
    pub quantiles: Vec<String>,
    /// Maximum lateness of sending there, in microseconds; none if it was on time.
    pub sent_late_us: Option<u64>,
    /// Maximum lateness of reading there, in microseconds; none if it was on time.
    pub read_late_us: Option<u64>,
}

/// Which messages did not arrive once and in order.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Audit {
    /// Sent, and never arrived. The warm-up counts too, and so do slow clients if a later message arrived.
    pub lost: u64,
    /// Arrived more than once.
    pub doubled: u64,
    /// Arrived after a later one.
    pub reordered: u64,
    /// Arrived in another order than at other clients, see [`crate::order`].
    #[serde(default)]
    pub disordered: u64,
    /// Numbers (`Seq`) that a client didn't get, without a word: of lost messages, and of the room's own.
    #[serde(default)]
    pub holes: u64,
    /// Clients that reconnected and got everything that they had missed (`Recovered`), apart from other faults.
    #[serde(default)]
    pub recovered: u64,
    /// Messages that they got that way.
    #[serde(default)]
    pub replayed: u64,
    /// Messages that the server did not take, or did not know whether it had, and said so; not counted as lost.
    #[serde(default)]
    pub refused: u64,
    /// Messages that the server never acknowledged or refused, although it does that; not counted as lost.
    #[serde(default)]
    pub unanswered: u64,
    /// Times that a client was told that it can't get what it has missed.
    #[serde(default)]
    pub unrecovered: u64,
    /// Arrived at a client in another room.
    #[serde(default)]
    pub astray: u64,
    /// Arrived shorter than sent, or with other bytes within the first KiB.
    #[serde(default)]
    pub damaged: u64,
    /// Lost, and announced by the server.
    pub announced: u64,
    /// Connections that the server closed, or that broke; without slow clients that were closed as too slow.
    pub closed: u64,
    /// Closed clients that should have read at full speed, and that the server closed as too slow (4101).
    #[serde(default)]
    pub closed_as_too_slow: u64,
    /// Slow clients (`--slow`) that the server closed as too slow (4101), which it may.
    #[serde(default)]
    pub slow_closed: u64,
    /// Messages that the load generator never got to send; not counted as lost.
    #[serde(default)]
    pub never_sent: u64,
    /// Messages that could not be sent because their publisher's connection had ended; not counted as lost.
    #[serde(default)]
    pub unsendable: u64,
    /// The first ten faults, in words.
    pub first: Vec<String>,
}

/// What `--find-limit` found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Limit {
    /// The p99 latency that must not be exceeded, in microseconds.
    pub slo_us: u64,
    /// The highest rate per room that was held, in messages per second; 0 if none was.
    pub rate: f64,
    /// Deliveries per second at that rate.
    pub deliveries_per_second: f64,
    /// Every rate that was tried, in order.
    pub steps: Vec<LimitStep>,
}

/// One rate that was tried.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LimitStep {
    /// Messages a second in each room.
    pub rate: f64,
    /// Deliveries a second.
    pub deliveries_per_second: f64,
    /// p50 latency (corrected), in microseconds.
    pub p50_us: u64,
    /// p99 latency (corrected), in microseconds.
    pub p99_us: u64,
    /// Whether the rate was held: p99 within the SLO, nothing lost, the load generator not the limit.
    pub held: bool,
    /// Why it wasn't held.
    pub reason: Option<String>,
}

/// How a reconnect storm went.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Storm {
    /// Connections that were cut.
    pub connections: u64,
    /// Cut connections that did not reconnect within `seconds`.
    #[serde(default)]
    pub missing: u64,
    /// Seconds until the last one had reconnected, or was no longer waited for.
    pub seconds: f64,
    /// From the connect to the 101.
    pub handshake: Distribution,
    /// The server's CPU time per connection from the cut until the last reconnect, in microseconds, if its process is
    /// known. It includes ending the old connections, and deliveries meanwhile.
    #[serde(default)]
    pub server_cpu_us_per_connection: Option<f64>,
}
