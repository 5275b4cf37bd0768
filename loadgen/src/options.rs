//! The command line, and the plan made from it. Whatever contradicts itself is refused here.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use clap::{Args, Parser, Subcommand};

use crate::payload::STAMP_BYTES;
use crate::plan::{Dialect, Mode, Outputs, Plan, Subject};
use crate::schedule::Step;
use crate::secrets::{split_urls, without_secrets};
use crate::target::{Target, Template};

/// Bytes of text after which a message's `Seq` is still among the bytes that are looked at.
const V1_TEXT_BYTES_MAX: usize = 768;
/// Beyond this number, threads only get in each other's way.
const THREADS_MAX: usize = 1024;
/// Seconds (1000 hours): a longer time is a typing error.
const TIME_MAX_SECONDS: f64 = 3.6e6;

/// Measures a WebSocket server under load: an open loop that counts latency from the intended send time, audits every
/// delivery, and checks that the load generator itself was not the limit.
///
/// Without --url it starts a private hi on a free port, measures it, and stops it. Ctrl-C or SIGTERM ends a run early and
/// reports what was measured so far; a second one quits at once.
///
/// Exit code: 0 OK, 1 the server lost, duplicated or reordered messages or closed connections, 2 usage, 3 the load
/// generator itself was the limit, 130 cut short by Ctrl-C, 143 by SIGTERM.
#[derive(Debug, Parser)]
#[command(name = "loadgen", version, max_term_width = 110, args_conflicts_with_subcommands = true)]
pub struct CommandLine {
    /// Anything other than a run.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The options of the run.
    #[command(flatten)]
    pub run: Options,
}

/// What loadgen does apart from running.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Compare runs that were written with --json
    Report {
        /// Files written by --json
        #[arg(required = true, value_name = "RUN.json")]
        runs: Vec<PathBuf>,
        /// Write a self-contained HTML page
        #[arg(long, value_name = "FILE")]
        html: Option<PathBuf>,
        /// Write the chart as SVG
        #[arg(long, value_name = "FILE")]
        svg: Option<PathBuf>,
    },
}

/// The options of a run.
#[derive(Clone, Debug, Args)]
pub struct Options {
    #[command(flatten, next_help_heading = "Server")]
    server: ServerOptions,
    #[command(flatten, next_help_heading = "Dialect")]
    dialect: DialectOptions,
    #[command(flatten, next_help_heading = "Load")]
    load: LoadOptions,
    #[command(flatten, next_help_heading = "Kind of run")]
    mode: ModeOptions,
    #[command(flatten, next_help_heading = "Misbehaving clients")]
    misbehaviour: MisbehaviourOptions,
    #[command(flatten, next_help_heading = "Output")]
    output: OutputOptions,
}

#[derive(Clone, Debug, Args)]
struct ServerOptions {
    /// Server to measure, e.g. ws://127.0.0.1:8080 or ws://USER:PASSWORD@HOST (Basic credentials). The path may contain
    /// {room} and {client}. Passwords and query parameters appear in no output [default: a private hi]
    ///
    /// Several servers that share their rooms (separated by commas, or several --url): clients and publishers are spread
    /// over them, one that reconnects does so at the next one, and all clients of a room have to see one order.
    #[arg(long, value_name = "URL,...")]
    url: Vec<String>,
    /// URL for publishers, if it differs from --url
    #[arg(long, value_name = "URL", requires = "url")]
    publish_url: Option<String>,
    /// Process to take the server's CPU time and memory from (known for a private hi)
    #[arg(long, value_name = "PID", requires = "url")]
    server_pid: Option<u32>,
    /// The hi to start when there is no --url [default: built from this workspace, or found next to loadgen or in PATH]
    #[arg(long, value_name = "FILE", conflicts_with = "url")]
    hi: Option<PathBuf>,
    /// Shards of the private hi [default: half of the cores]
    #[arg(long, value_name = "COUNT", value_parser = count(1, usize::MAX), conflicts_with = "url")]
    shards: Option<usize>,
}

#[derive(Clone, Debug, Args)]
struct DialectOptions {
    /// Speak hi's chat dialect: JSON, one user per client (the default)
    #[arg(long, conflicts_with = "raw")]
    chat: bool,
    /// Chat by the subprotocol hi.v1 (the default with several servers): a client that reconnects asks for what it missed,
    /// and has to get all of it, once and in order
    #[arg(long, conflicts_with_all = ["raw", "subscribe", "publish"])]
    v1: bool,
    /// Use hi's raw rooms: payloads are sent unchanged
    #[arg(long)]
    raw: bool,
    /// For any other server: text that a client sends once it is connected; {client} and {room} are replaced
    #[arg(long, value_name = "TEXT", requires = "url", conflicts_with_all = ["chat", "raw"])]
    subscribe: Option<String>,
    /// For any other server: text that a publisher sends; {payload}, {client} and {room} are replaced [default: {payload}]
    #[arg(long, value_name = "TEXT", requires = "url", conflicts_with_all = ["chat", "raw"], value_parser = parse_publish)]
    publish: Option<String>,
}

#[derive(Clone, Debug, Args)]
struct LoadOptions {
    /// Clients that receive
    #[arg(long, value_name = "COUNT", default_value_t = 1000, value_parser = count(1, usize::MAX))]
    clients: usize,
    /// Rooms to spread the clients over
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = count(1, usize::MAX))]
    rooms: usize,
    /// Publishers per room
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = count(1, 1000))]
    publishers: usize,
    /// Messages per second in each room, from all its publishers together
    #[arg(long, value_name = "PER_SECOND", default_value_t = 10.0, value_parser = parse_rate, allow_negative_numbers = true)]
    rate: f64,
    /// Bytes of text per message
    #[arg(long, value_name = "BYTES", default_value_t = 128, value_parser = count(STAMP_BYTES, 1 << 20))]
    size: usize,
    /// Time to measure (with --find-limit: at each rate)
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    duration: Duration,
    /// Time at full load before measuring starts
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_time)]
    warmup: Duration,
    /// New connections per second; 0: as fast as the server accepts them
    #[arg(long, value_name = "PER_SECOND", default_value_t = 0)]
    ramp: u32,
    /// Threads that read and send [default: the cores that the private hi leaves, or half of all cores]
    #[arg(long, value_name = "COUNT", value_parser = count(1, THREADS_MAX))]
    threads: Option<usize>,
}

#[derive(Clone, Debug, Args)]
struct ModeOptions {
    /// Connect and hold for the duration without publishing: shows what a connection costs
    #[arg(long, group = "mode")]
    idle: bool,
    /// Cut all connections at once halfway through the run, and let every client reconnect
    #[arg(long, group = "mode")]
    storm: bool,
    /// Raise the rate until p99 latency exceeds --slo, and report the knee
    #[arg(long, group = "mode")]
    find_limit: bool,
    /// With --find-limit: p99 latency that must not be exceeded [default: 50ms]
    #[arg(long, value_name = "TIME", value_parser = parse_time, requires = "find_limit")]
    slo: Option<Duration>,
}

#[derive(Clone, Debug, Args)]
struct MisbehaviourOptions {
    /// Clients that read slowly: a number, or a percentage such as 1%
    #[arg(long, value_name = "COUNT|PERCENT", value_parser = parse_portion)]
    slow: Option<Portion>,
    /// Let the --slow clients read nothing at all once they are connected
    #[arg(long, requires = "slow")]
    stuck: bool,
    /// Clients per second that leave and reconnect
    #[arg(long, value_name = "PER_SECOND", default_value_t = 0.0, value_parser = parse_churn, conflicts_with = "mode",
        allow_negative_numbers = true)]
    churn: f64,
}

#[derive(Clone, Debug, Args)]
struct OutputOptions {
    /// Name of the run in reports
    #[arg(long)]
    name: Option<String>,
    /// Write the result as JSON, for `loadgen report`
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the latency distribution in HdrHistogram's percentile format
    #[arg(long, value_name = "FILE")]
    hgrm: Option<PathBuf>,
    /// Write a self-contained HTML report
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write the chart as SVG
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print only the result, no progress
    #[arg(long, short)]
    quiet: bool,
}

impl Options {
    /// The plan. The parser has already refused options that contradict each other; what is left depends on values.
    ///
    /// # Errors
    /// One sentence: what is wrong, and how to fix it.
    pub fn plan(self) -> Result<Plan, String> {
        let Self { mut server, dialect, load, mode, misbehaviour, output } = self;
        server.url = server.url.iter().flat_map(|list| split_urls(list)).collect();
        let refuse = |condition: bool, sentence: &str| if condition { Err(sentence.to_owned()) } else { Ok(()) };
        refuse(load.rooms > load.clients, "--rooms has to be at most the number of --clients.")?;
        let slow_clients = misbehaviour.slow.map_or(0, |portion| portion.of(load.clients));
        refuse(slow_clients >= load.clients, "--slow leaves no client that reads at full speed.")?;
        let is_template = dialect.subscribe.is_some() || dialect.publish.is_some();
        if load.rooms > 1 && !tells_rooms_apart(&server, &dialect) {
            return Err(
                "--rooms needs {room} in --url or in --subscribe: otherwise the server can't tell the rooms apart."
                    .into(),
            );
        }
        refuse(
            !mode.idle && load.rate * load.duration.as_secs_f64() < load.publishers as f64,
            "--rate is too low: within --duration, not every one of the --publishers has a message to send.",
        )?;
        let steps = || Step::new(0, load.rate, load.publishers, 0, (load.warmup, load.duration));
        refuse(
            !mode.idle && steps().is_none(),
            "--rate times --duration exceeds the four billion messages that a publisher can number: take a shorter \
             --duration or a lower --rate.",
        )?;
        let outputs = Outputs { json: output.json, hgrm: output.hgrm, html: output.html, svg: output.svg };
        refuse(outputs.share_a_file(), "--json, --hgrm, --html and --svg each need a file of their own.")?;
        for url in server.url.iter().chain(&server.publish_url) {
            Target::parse(url)?;
        }
        if server.url.len() > 1 {
            check_several(&server)?;
        }
        if let Some(pid) = server.server_pid {
            let lives = std::path::Path::new(&format!("/proc/{pid}/stat")).exists();
            refuse(!lives, &format!("--server-pid: there is no process {pid}."))?;
        }
        let dialect = match (dialect.raw, is_template) {
            (_, true) => Dialect::Template {
                subscribe: dialect.subscribe.map(Template::new),
                publish: Template::new(dialect.publish.unwrap_or_else(|| "{payload}".to_owned())),
            },
            (true, _) => Dialect::Raw,
            _ if dialect.v1 || server.url.len() > 1 => Dialect::ChatV1,
            _ => Dialect::Chat,
        };
        if matches!(dialect, Dialect::ChatV1) {
            refuse(
                server.url.iter().any(|url| url.contains("{room}")),
                "clients of hi.v1 join their rooms once they are connected: leave {room} out of --url.",
            )?;
            refuse(
                load.size > V1_TEXT_BYTES_MAX,
                &format!(
                    "--size can be at most {V1_TEXT_BYTES_MAX} with hi.v1: each message's number stands behind its text."
                ),
            )?;
        }
        let mode = match (mode.storm, mode.idle, mode.find_limit) {
            (true, ..) => Mode::Storm,
            (_, true, _) => Mode::Idle,
            (.., true) => Mode::FindLimit(mode.slo.unwrap_or(Duration::from_millis(50))),
            _ => Mode::Steady,
        };
        let subject = if server.url.is_empty() {
            Subject::Private { binary: server.hi, shards: server.shards }
        } else {
            Subject::Given { urls: server.url, pid: server.server_pid }
        };
        Ok(Plan {
            subject,
            publish_url: server.publish_url,
            dialect,
            mode,
            clients: load.clients,
            rooms: load.rooms,
            publishers: load.publishers,
            rate: load.rate,
            message_bytes: load.size,
            duration: load.duration,
            warmup: load.warmup,
            ramp: load.ramp,
            slow_clients,
            slow_are_stuck: misbehaviour.stuck,
            churn_per_second: misbehaviour.churn,
            threads: load.threads,
            name: output.name,
            outputs,
            quiet: output.quiet,
        })
    }
}

/// Whether the server learns which room a client means. hi's own paths, used where the URL has none, name it.
fn tells_rooms_apart(server: &ServerOptions, dialect: &DialectOptions) -> bool {
    let has_path = |url: &String| Target::parse(url).is_ok_and(|target| target.path.is_some());
    let is_hi = dialect.subscribe.is_none() && dialect.publish.is_none();
    let joins = is_hi && !dialect.raw && (dialect.v1 || server.url.len() > 1);
    let named = |text: &String| text.contains("{room}");
    (is_hi && !server.url.iter().any(has_path))
        || joins
        || server.url.iter().any(named)
        || dialect.subscribe.as_ref().is_some_and(named)
}

/// Servers that can be measured together.
fn check_several(server: &ServerOptions) -> Result<(), String> {
    let of_one = [server.publish_url.as_ref().map(|_| "--publish-url"), server.server_pid.map(|_| "--server-pid")];
    if let Some(option) = of_one.into_iter().flatten().next() {
        return Err(format!("{option} needs a single --url: with several, it says nothing of the others."));
    }
    let targets = server.url.iter().map(|url| Target::parse(url)).collect::<Result<Vec<_>, _>>()?;
    let first = &targets[0];
    for (index, (url, target)) in server.url.iter().zip(&targets).enumerate() {
        let shown = without_secrets(url);
        if target.path != first.path {
            let first = without_secrets(&server.url[0]);
            return Err(format!("--url: {first:?} and {shown:?} have different paths, but their clients share rooms."));
        }
        if targets[..index].iter().any(|other| other.host == target.host) {
            return Err(format!("--url: {shown:?} is there twice."));
        }
    }
    Ok(())
}

/// A number of clients, or a part of them.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Portion {
    Count(usize),
    Percent(f64),
}

impl Portion {
    fn of(self, clients: usize) -> usize {
        match self {
            Self::Count(count) => count,
            Self::Percent(percent) => (clients as f64 * percent / 100.0).ceil() as usize,
        }
    }
}

fn parse_portion(text: &str) -> Result<Portion, String> {
    let parsed = match text.strip_suffix('%') {
        Some(percent) => percent.parse().ok().filter(|percent| (0.0..=100.0).contains(percent)).map(Portion::Percent),
        None => text.parse().ok().map(Portion::Count),
    };
    parsed.ok_or_else(|| "give a number of clients, or a percentage such as 1%".to_owned())
}

fn parse_publish(text: &str) -> Result<String, String> {
    if text.contains("{payload}") {
        return Ok(text.to_owned());
    }
    Err("it has to contain {payload}: the payload's stamp is how messages are recognized on arrival".to_owned())
}

/// A whole number within these bounds.
fn count(min: usize, max: usize) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(min as u64..=max as u64)
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| *rate > 0.0 && *rate <= 1e6);
    rate.ok_or_else(|| "give a number above 0, at most 1000000".to_owned())
}

fn parse_churn(text: &str) -> Result<f64, String> {
    let churn = text.parse().ok().filter(|churn| (0.0..=1e5).contains(churn));
    churn.ok_or_else(|| "give a number from 0 to 100000".to_owned())
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let time = parse_time(text)?;
    if time >= Duration::from_secs(1) { Ok(time) } else { Err("measure for at least 1s".to_owned()) }
}

/// A time: digits, and ms, s, m or h.
fn parse_time(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let wrong = || "give a time such as 500ms, 10s or 2m, at most 1000h".to_owned();
    let unit = match &text[digits.len()..] {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(wrong()),
    };
    let seconds = digits.parse::<f64>().map_err(|_| wrong())? * unit;
    if (0.0..=TIME_MAX_SECONDS).contains(&seconds) { Ok(Duration::from_secs_f64(seconds)) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(args: &[&str]) -> Result<Plan, String> {
        let line = CommandLine::try_parse_from(std::iter::once(&"loadgen").chain(args));
        line.map_err(|error| error.to_string())?.run.plan()
    }

    #[test]
    fn the_default_is_one_room_and_one_publisher() {
        let plan = plan(&["--clients", "10000"]).unwrap();
        assert_eq!((plan.clients, plan.rooms, plan.publishers, plan.message_bytes), (10_000, 1, 1, 128));
        assert!(matches!(plan.dialect, Dialect::Chat));
        assert!(matches!(plan.subject, Subject::Private { .. }));
    }

    #[test]
    fn several_servers_are_a_list_or_several_options() {
        for args in [&["--url", "ws://a,ws://b,ws://c"][..], &["--url", "ws://a", "--url", "ws://b,ws://c"]] {
            let plan = plan(&[args, &["--rooms", "3"]].concat()).unwrap();
            assert!(matches!(plan.dialect, Dialect::ChatV1));
            assert!(matches!(plan.subject, Subject::Given { urls, .. } if urls == ["ws://a", "ws://b", "ws://c"]));
        }
        let urls = split_urls("ws://ada:se,cret@a/x,y,ws://b,wss://c");
        assert_eq!(urls, ["ws://ada:se,cret@a/x,y", "ws://b", "wss://c"]);
        assert!(matches!(plan(&["--url", "ws://a,ws://b", "--raw"]).unwrap().dialect, Dialect::Raw));
        assert!(matches!(plan(&["--url", "ws://a"]).unwrap().dialect, Dialect::Chat));
    }

    #[test]
    fn contradictions_are_refused_by_name() {
        for (args, part) in [
            (&["--chat", "--raw"][..], "'--chat' cannot be used with '--raw'"),
            (&["--slo", "5ms"], "--find-limit"),
            (&["--idle", "--find-limit"], "--idle"),
            (&["--size", "3"], "--size"),
            (&["--rooms", "0"], "--rooms"),
            (&["--rooms", "2000"], "--rooms"),
            (&["--subscribe", "x"], "--url <URL,...>"),
            (&["--url", "http://x"], "ws://"),
            (&["--url", "ws://x", "--hi", "y"], "--hi"),
            (&["--server-pid", "1"], "--url"),
            (&["--url", "ws://127.0.0.1:1", "--server-pid", "4000000000"], "no process"),
            (&["--slow", "100%"], "--slow"),
            (&["--slow", "some"], "--slow"),
            (&["--stuck"], "--stuck"),
            (&["--churn", "5", "--storm"], "--churn"),
            (&["--rate", "0"], "--rate"),
            (&["--rate", "100000", "--duration", "12h"], "--duration"),
            (&["--threads", "18446744073709551615"], "--threads"),
            (&["--v1", "--raw"], "--raw"),
            (&["--v1", "--size", "769"], "at most 768"),
            (&["--v1", "--url", "ws://x/ws?room={room}"], "leave {room} out"),
            (&["--url", "ws://x,http://y"], "http://y"),
            (&["--url", "ws://x,ws://y", "--url", "ws://x"], "twice"),
            (&["--url", "ws://x/a,ws://y/b"], "different paths"),
            (&["--url", "ws://x,ws://y", "--server-pid", "1"], "--server-pid"),
            (&["--url", "ws://x,ws://y", "--publish-url", "ws://z"], "--publish-url"),
        ] {
            let sentence = plan(args).unwrap_err();
            assert!(sentence.contains(part), "{args:?}: {sentence}");
        }
    }

    #[test]
    fn times_have_units_and_a_bound() {
        for (text, ms) in [("500ms", 500), ("10", 10_000), ("1.5s", 1500), ("2m", 120_000), ("1000h", 3_600_000_000)] {
            assert_eq!(parse_time(text), Ok(Duration::from_millis(ms)));
        }
        for text in ["", "s", "1d", "-1s", "1001h", "1e19", "NaN", "inf"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn slow_clients_are_a_number_or_a_percentage() {
        for (text, clients, slow) in [("1%", 1000, 10), ("0.1%", 100, 1), ("0%", 100, 0), ("7", 100, 7)] {
            assert_eq!(parse_portion(text).map(|portion| portion.of(clients)), Ok(slow), "{text}");
        }
        for text in ["", "some", "-1", "101%", "NaN%"] {
            assert!(parse_portion(text).is_err(), "{text}");
        }
    }
}
