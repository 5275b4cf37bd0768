//! What a run has to do, validated.

use std::path::PathBuf;
use std::time::Duration;

use crate::results::PlanSummary;
use crate::target::Template;

/// How messages are encoded.
#[derive(Clone, Debug)]
pub enum Dialect {
    /// hi's chat.
    Chat,
    /// The same by the subprotocol `hi.v1`: clients that reconnect ask for what they missed.
    ChatV1,
    /// hi's raw rooms.
    Raw,
    /// Any other server.
    Template {
        /// Sent by each client once it is connected.
        subscribe: Option<Template>,
        /// Sent by a publisher.
        publish: Template,
    },
}

impl Dialect {
    /// Its name in results.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::ChatV1 => "chat v1",
            Self::Raw => "raw",
            Self::Template { .. } => "template",
        }
    }
}

/// What kind of run it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One rate, measured.
    Steady,
    /// The same, with all connections cut in the middle.
    Storm,
    /// Hold connections, publish nothing.
    Idle,
    /// Rising rates, until the p99 latency passes this.
    FindLimit(Duration),
}

/// The server to measure, or several.
#[derive(Clone, Debug)]
pub enum Subject {
    /// A private hi.
    Private {
        /// `--hi`.
        binary: Option<PathBuf>,
        /// `--shards`.
        shards: Option<usize>,
    },
    /// A running server.
    Given {
        /// Where clients connect to: servers that share their rooms.
        urls: Vec<String>,
        /// The process, if it is one server and known.
        pid: Option<u32>,
    },
}

/// Files to write.
#[derive(Clone, Debug, Default)]
pub struct Outputs {
    /// `--json`.
    pub json: Option<PathBuf>,
    /// `--hgrm`.
    pub hgrm: Option<PathBuf>,
    /// `--html`.
    pub html: Option<PathBuf>,
    /// `--svg`.
    pub svg: Option<PathBuf>,
}

impl Outputs {
    /// Whether two of them name the same file.
    pub fn share_a_file(&self) -> bool {
        let named: Vec<_> = [&self.json, &self.hgrm, &self.html, &self.svg].into_iter().flatten().collect();
        (1..named.len()).any(|index| named[..index].contains(&named[index]))
    }
}

/// A run whose options make sense.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What to measure.
    pub subject: Subject,
    /// `--publish-url`.
    pub publish_url: Option<String>,
    /// How to talk to it.
    pub dialect: Dialect,
    /// What kind of run.
    pub mode: Mode,
    /// Clients that receive.
    pub clients: usize,
    /// Rooms.
    pub rooms: usize,
    /// Publishers in each room.
    pub publishers: usize,
    /// Messages a second in each room.
    pub rate: f64,
    /// Bytes of a message's text.
    pub message_bytes: usize,
    /// Measured time.
    pub duration: Duration,
    /// Warm-up before it.
    pub warmup: Duration,
    /// Connects per second; 0: no limit.
    pub ramp: u32,
    /// Number of clients that read slowly: the last ones.
    pub slow_clients: usize,
    /// Whether the slow clients read nothing at all.
    pub slow_are_stuck: bool,
    /// Clients per second that leave and reconnect.
    pub churn_per_second: f64,
    /// `--threads`.
    pub threads: Option<usize>,
    /// `--name`.
    pub name: Option<String>,
    /// Files to write.
    pub outputs: Outputs,
    /// No progress.
    pub quiet: bool,
}

impl Plan {
    /// Connections that a run holds: clients, and publishers if there are any.
    pub fn connections(&self) -> usize {
        self.clients + if self.mode == Mode::Idle { 0 } else { self.rooms * self.publishers }
    }

    /// For the result.
    pub fn summary(&self, target: &str) -> PlanSummary {
        PlanSummary {
            target: target.to_owned(),
            dialect: self.dialect.name().to_owned(),
            clients: self.clients,
            rooms: self.rooms,
            publishers: self.publishers,
            rate: if self.mode == Mode::Idle { 0.0 } else { self.rate },
            message_bytes: self.message_bytes,
            duration_seconds: self.duration.as_secs_f64(),
            warmup_seconds: self.warmup.as_secs_f64(),
            slow_clients: self.slow_clients,
            churn_per_second: self.churn_per_second,
        }
    }
}
