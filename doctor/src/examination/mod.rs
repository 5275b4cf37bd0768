//! `hi doctor`: why doesn't a WebSocket address work?
//!
//! Tries every address that any resolver names, step by step, compares each request as it was sent with the request as it
//! arrived, and ends with one verdict. It needs no io_uring: it runs on any Linux.
//!
//! | module | what it does |
//! | --- | --- |
//! | `url` | the address, parsed (pure) |
//! | `dns` | what each resolver and `/etc/hosts` say |
//! | `net` | TCP and TLS, with a limit on every wait |
//! | `http` | one HTTP/1.1 request and its answer, byte for byte |
//! | `websocket` | frames after the handshake: messages, pings, silence |
//! | `probe` | one IP address, step by step |
//! | `facts` | what was found (plain data) |
//! | `secrets` | secrets in the address, which no report repeats (pure) |
//! | `diff` | what the hops on the way did to a request (pure) |
//! | `verdict` | the kinds of verdict (pure) |
//! | `diagnosis` | from the facts to one verdict (pure) |
//! | `faults` | what is wrong with one address alone (pure) |
//! | `certificate` | a certificate in words (pure) |
//! | `report` | the table for a reader (pure) |

mod certificate;
mod diagnosis;
mod dns;
pub(crate) mod facts;
mod faults;
pub(crate) mod http;
pub(crate) mod net;
mod probe;
mod report;
pub(crate) mod secrets;
mod url;
pub(crate) mod verdict;
pub(crate) mod websocket;

use std::io::{self, IsTerminal};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

use crate::printable::printable_json;
use crate::time;
use facts::{Facts, Source};
use net::Trust;
use report::Color;
pub use url::{Target, TargetParser};
use verdict::Diagnosis;

/// How long one step (a question to a resolver, a connection, an answer) may take. Proxies report a dead server
/// late: HAProxy tries for more than three seconds before its 503.
pub(crate) const STEP_TIME: Duration = Duration::from_secs(5);
/// Limit of addresses that are examined.
const ADDRESSES_MAX: usize = 32;
/// The port of DNS (RFC 1035 4.2).
const DNS_PORT: u16 = 53;
/// Exit code when users are affected.
const EXIT_BROKEN: u8 = 1;

/// What to examine, and how.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) target: Target,
    /// The resolvers to ask; if empty, what the system uses: `/etc/hosts` and `/etc/resolv.conf`.
    pub(crate) resolvers: Vec<SocketAddr>,
    /// Addresses that should be there. They are examined even if no resolver names them.
    pub(crate) expected: Vec<IpAddr>,
    /// A PEM file of certificates to trust in addition to the system's.
    pub(crate) ca: Option<PathBuf>,
    /// The `Origin` of the handshake; if none, it is tried without one and with that of the site.
    pub(crate) origin: Option<String>,
    /// How long one step may take.
    pub(crate) step_time: Duration,
    /// Whether messages are sent, and how long silence is tried.
    pub(crate) depth: Depth,
}

/// How far an examination goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// DNS, TCP, TLS, the echo and the WebSocket handshake. Nothing is sent through the WebSocket but its Close.
    Handshake,
    /// The same, then messages and a ping, in rooms of the doctor's own.
    Messages,
    /// The same, then silence of up to this long.
    Idle(Duration),
}

impl Options {
    /// A full examination without silence, with the system's resolvers.
    pub(crate) fn new(target: Target) -> Self {
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
pub(crate) struct Examination {
    /// The records of each resolver with their TTLs, and each step at each IP address.
    pub(crate) facts: Facts,
    /// The one verdict, and what else deserves attention.
    pub(crate) diagnosis: Diagnosis,
    /// How long it took, in milliseconds.
    pub(crate) ms: f64,
}

impl Examination {
    /// All of it as JSON.
    pub(crate) fn json(&self) -> String {
        let json = serde_json::to_string_pretty(self).expect("strings, numbers and addresses are JSON");
        printable_json(&json).into_owned()
    }
}

/// Examines an address: DNS, then every IP address in parallel. Bounded: each step by `options.step_time`, all of it by
/// about ten of them (and the time of silence). Runs on any tokio runtime with IO and time; touches no io_uring.
///
/// # Errors
/// The CA file can't be read: a sentence for the operator. Everything else is a finding.
pub(crate) async fn examine(options: &Options) -> Result<Examination, String> {
    let began = Instant::now();
    let target = &options.target;
    let trust = if target.tls { Some(Trust::load(options.ca.as_deref())?) } else { None };
    let dns = match target.ip() {
        Some(_) => Vec::new(),
        None => dns::look_up(&target.host, &options.resolvers, options.step_time).await,
    };
    let known = known_addresses(target, &dns, &options.expected);
    let mut probes = JoinSet::new();
    for (position, ip) in known.iter().enumerate() {
        let (address, options, trust) = (SocketAddr::new(*ip, target.port), options.clone(), trust.clone());
        probes.spawn(async move { (position, probe::probe(address, &options, trust).await) });
    }
    let mut addresses = probes.join_all().await;
    addresses.sort_by_key(|(position, _)| *position);
    let mut addresses: Vec<_> = addresses.into_iter().map(|(_, address)| address).collect();
    let secrets = target.secrets();
    for address in &mut addresses {
        address.change_texts(|text| secrets.mask(text));
        let ip = address.ip();
        let records = || dns.iter().flat_map(Source::records).filter(move |record| record.ip == ip);
        address.in_dns = target.ip() == Some(ip) || records().next().is_some();
        address.ttl_seconds = records().filter_map(|record| record.ttl_seconds).max();
    }
    let facts = Facts { target: target.masked(), dns, expected: options.expected.clone(), addresses };
    let diagnosis = diagnosis::diagnose(&facts);
    Ok(Examination { facts, diagnosis, ms: milliseconds(began.elapsed()) })
}

/// A runtime for an examination, on this thread.
///
/// # Errors
/// The system has no descriptors left.
pub fn runtime() -> io::Result<Runtime> {
    // The timer is checked after each poll: the usual 61 polls take many seconds if a server floods us.
    Builder::new_current_thread().enable_all().event_interval(1).build()
}

/// Each address once: those of the sources in their order, then those that are only expected.
fn known_addresses(target: &Target, dns: &[Source], expected: &[IpAddr]) -> Vec<IpAddr> {
    let mut known: Vec<IpAddr> = Vec::new();
    let named = dns.iter().flat_map(Source::records).map(|record| record.ip);
    for ip in target.ip().into_iter().chain(named).chain(expected.iter().copied()) {
        if !known.contains(&ip) && known.len() < ADDRESSES_MAX {
            known.push(ip);
        }
    }
    known
}

/// A time as it is reported: in milliseconds, with two decimals.
fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 100_000.0).round() / 100.0
}

/// The command line of `hi doctor`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The address, e.g. wss://chat.example.com/ws; http:// and https:// mean the same
    #[arg(value_name = "URL", value_parser = TargetParser)]
    url: Target,

    /// A resolver to ask, with a port if it is not 53; may be given several times [default: /etc/hosts and the resolvers
    /// of /etc/resolv.conf]
    #[arg(long, value_name = "IP[:PORT]", value_parser = parse_resolver)]
    resolver: Vec<SocketAddr>,

    /// An address that should be there; may be given several times. It is examined even if no resolver names it
    #[arg(long, value_name = "IP")]
    expect_ip: Vec<IpAddr>,

    /// Certificates to trust in addition to the system's, in PEM
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,

    /// The Origin to send with the handshake, e.g. `https://www.example.com` [default: first without one, then with the
    /// site's own]
    #[arg(long, value_name = "ORIGIN", value_parser = parse_origin)]
    origin: Option<String>,

    /// Time for each step: a question to a resolver, a connection, an answer
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_step_time)]
    timeout: Duration,

    /// Find out after what time an idle connection is cut on the way; silence of up to this long is tried
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "60s",
          value_parser = parse_idle)]
    idle: Option<Duration>,

    /// Write everything that was found as JSON
    #[arg(long)]
    json: bool,
}

/// A resolver on the command line: an IP address, with a port if it is not 53.
///
/// # Errors
/// It is none: a sentence that says what to give.
pub(crate) fn parse_resolver(text: &str) -> Result<SocketAddr, String> {
    let bare = || text.trim_matches(['[', ']']).parse().map(|ip: IpAddr| SocketAddr::new(ip, DNS_PORT));
    text.parse()
        .or_else(|_| bare())
        .map_err(|_| format!("{text} is not a resolver: give its IP address, e.g. 192.0.2.53"))
}

fn parse_origin(text: &str) -> Result<String, String> {
    match text.contains("://") && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(text.to_owned()),
        false => Err(format!("{text} is not an origin: give e.g. https://www.example.com")),
    }
}

fn parse_step_time(text: &str) -> Result<Duration, String> {
    time::parse(text).and_then(|time| match time.as_millis() {
        100..=60_000 => Ok(time),
        _ => Err(format!("{text} is out of range: give 100ms to 60s")),
    })
}

fn parse_idle(text: &str) -> Result<Duration, String> {
    time::parse(text).and_then(|time| match time.as_secs() {
        1..=3600 => Ok(time),
        _ => Err(format!("{text} is out of range: give 1s to 1h")),
    })
}

/// `hi doctor`: examines. What to print, and the exit code: 0 healthy, 1 something is broken.
///
/// # Errors
/// A sentence for the operator: the command line, or this machine, has to be fixed first.
pub fn run(args: Args) -> Result<(String, ExitCode), String> {
    let json = args.json;
    let options = Options {
        resolvers: args.resolver,
        expected: args.expect_ip,
        ca: args.ca,
        origin: args.origin,
        step_time: args.timeout,
        depth: args.idle.map_or(Depth::Messages, Depth::Idle),
        ..Options::new(args.url)
    };
    let runtime = runtime().map_err(|error| format!("can't start a runtime: {error}"))?;
    let examination = runtime.block_on(examine(&options))?;
    let text = match json {
        true => format!("{}\n", examination.json()),
        false => {
            let color = if is_colorful(&io::stdout()) { Color::Ansi } else { Color::None };
            report::text(&examination, color)
        }
    };
    let code = if examination.diagnosis.is_healthy() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_BROKEN) };
    Ok((text, code))
}

/// Whether to write colors: to a terminal whose user has not asked for none (no-color.org).
pub fn is_colorful(stdout: &io::Stdout) -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
        || std::env::var_os("TERM").is_some_and(|value| value == "dumb");
    stdout.is_terminal() && !refused
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_may_have_a_port() {
        let parsed = |text| parse_resolver(text).map(|address| address.to_string());
        assert_eq!(parsed("192.0.2.53"), Ok("192.0.2.53:53".to_owned()));
        assert_eq!(parsed("192.0.2.53:5353"), Ok("192.0.2.53:5353".to_owned()));
        assert_eq!(parsed("2001:db8::53"), Ok("[2001:db8::53]:53".to_owned()));
        assert_eq!(parsed("[2001:db8::53]:5353"), Ok("[2001:db8::53]:5353".to_owned()));
        assert!(parsed("resolver.example.com").is_err());
    }

    #[test]
    fn times_have_bounds() {
        assert_eq!((parse_step_time("5"), parse_idle("90")), (Ok(STEP_TIME), Ok(Duration::from_secs(90))));
        assert!(parse_step_time("0").is_err() && parse_idle("3601").is_err());
        assert!(parse_step_time("50ms").is_err() && parse_step_time("61s").is_err() && parse_step_time("5s").is_ok());
        assert!(parse_idle("500ms").is_err() && parse_idle("2h").is_err() && parse_idle("5m").is_ok());
    }

    #[test]
    fn each_address_is_examined_once() {
        let target = Target::parse("ws://192.0.2.1/ws").unwrap();
        let expected = ["192.0.2.2", "192.0.2.1"].map(|ip| ip.parse().unwrap());
        let known: Vec<_> = known_addresses(&target, &[], &expected).iter().map(ToString::to_string).collect();
        assert_eq!(known, ["192.0.2.1", "192.0.2.2"]);
    }

    /// The server examines itself beside its other tasks.
    #[test]
    fn an_examination_can_be_spawned() {
        fn spawnable(_: impl Future + Send) {}
        spawnable(examine(&Options::new(Target::parse("ws://h/ws").unwrap())));
    }
}
