//! `hi doctor`: why doesn't a WebSocket address work?
//!
//! Goes to every address that every resolver names, takes each as far as it goes, compares what was sent with what
//! arrived, and ends with one verdict. It needs no io_uring: it runs wherever the program starts.
//!
//! | module | what it does |
//! | --- | --- |
//! | [`url`] | the address, taken apart (pure) |
//! | [`dns`] | what each resolver and `/etc/hosts` say |
//! | [`net`] | TCP and TLS, with a limit on every wait |
//! | [`http`] | one HTTP/1.1 request and its answer, to the byte |
//! | [`websocket`] | frames after the handshake: messages, pings, silence |
//! | [`probe`] | one IP address, step by step |
//! | [`facts`] | what was found (plain data) |
//! | [`diff`] | what the hops between did to a request (pure) |
//! | [`verdict`] | the words for what can be wrong (pure) |
//! | [`diagnosis`] | from the facts to one verdict (pure) |
//! | [`report`] | the table for a reader (pure) |

pub mod diff;
pub mod facts;
pub mod url;
pub mod verdict;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;

use facts::Facts;
use url::{Target, UrlError};
use verdict::Diagnosis;

/// How long one step (a question to a resolver, a connection, an answer) may take.
pub const STEP_TIME: Duration = Duration::from_secs(3);

/// What to examine, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The address.
    pub target: Target,
    /// Whom to ask; empty: as the system does (`/etc/hosts` and `/etc/resolv.conf`).
    pub resolvers: Vec<SocketAddr>,
    /// Addresses that should be there. They are examined even if no resolver names them.
    pub expected: Vec<IpAddr>,
    /// A PEM file of certificates to trust beside the system's.
    pub ca: Option<PathBuf>,
    /// The `Origin` of the handshake; none: none is sent at first.
    pub origin: Option<String>,
    /// How long one step may take.
    pub step_time: Duration,
    /// Whether messages are sent, and for how long silence is tried.
    pub depth: Depth,
}

/// How far an examination goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// DNS, TCP, TLS, the echo and the WebSocket handshake. Nothing is sent through the WebSocket but its Close.
    Handshake,
    /// The same, then messages and a ping, in rooms of the doctor's own.
    Messages,
    /// The same, then silence of up to this long.
    Idle(Duration),
}

impl Options {
    /// A full examination without silence, as the system resolves the name.
    pub fn new(target: Target) -> Self {
        Self {
            target,
            resolvers: Vec::new(),
            expected: Vec::new(),
            ca: None,
            origin: None,
            step_time: STEP_TIME,
            depth: Depth::Messages,
        }
    }
}

/// The result of an examination.
#[derive(Clone, Debug, Serialize)]
pub struct Examination {
    /// What was found: per resolver the records with their TTLs, per IP address each step.
    pub facts: Facts,
    /// What it means: the one verdict, and what else deserves attention.
    pub diagnosis: Diagnosis,
    /// How long it took, in milliseconds.
    pub ms: f64,
}

/// Examines an address: DNS, then every IP address in parallel. Bounded: each step by `options.step_time`, all of it by a
/// few of them (and the time of silence). Runs on any tokio runtime with IO and time; touches no io_uring.
///
/// # Errors
/// The CA file can't be read: a sentence for the operator. Everything else is a finding.
pub async fn examine(options: &Options) -> Result<Examination, String> {
    todo!("{options:?}")
}

/// The light variant for a server that looks at its own public address again and again: DNS, TCP, TLS, the echo and the
/// handshake, in a room of the doctor's own; no messages. Compare [`facts::Address::instance`] with one's own.
///
/// # Errors
/// The URL is not one.
pub async fn probe_public(url: &str) -> Result<Examination, UrlError> {
    todo!("{url}")
}

/// The command line.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The address
    pub url: String,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    todo!("{args:?}")
}
