//! The command line, and the plan that it asks for: everything that contradicts itself is refused here, in one sentence.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::payload::STAMP_BYTES;
use crate::plan::{Dialect, Mode, Outputs, Plan, Subject};
use crate::schedule::Step;
use crate::target::{Target, Template};

/// More threads than this only get in each other's way.
const THREADS_MAX: usize = 1024;
/// Longer times are typing errors, in seconds: 1000 hours.
const TIME_MAX_SECONDS: f64 = 3.6e6;

/// Measures a WebSocket server under load, honestly: an open loop with latencies from the intended send time, an audit of
/// every delivery, and a watch on itself.
///
/// Without --url it starts a private hi on a free port, measures it and stops it. Ctrl-C or SIGTERM ends a run early: what
/// was measured until then is reported, and written. A second one ends loadgen at once.
///
/// Exit code: 0 OK, 1 the server lost, doubled or reordered messages or closed connections, 2 usage, 3 the load
/// generator itself was the limit, 130 cut short by Ctrl-C, 143 by SIGTERM.
#[derive(Debug, Parser)]
#[command(name = "loadgen", version, max_term_width = 110, args_conflicts_with_subcommands = true)]
pub struct CommandLine {
    /// Something else than a run.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The run.
    #[command(flatten)]
    pub run: Options,
}

/// What loadgen does beside running.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Puts one or more runs, written with --json, beside each other
    Report {
        /// Files that --json wrote
        #[arg(required = true, value_name = "RUN.json")]
        runs: Vec<PathBuf>,
        /// Write an HTML page that needs nothing else
        #[arg(long, value_name = "FILE")]
        html: Option<PathBuf>,
        /// Write the chart alone
        #[arg(long, value_name = "FILE")]
        svg: Option<PathBuf>,
    },
}

/// The options of a run.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Clients that receive
    #[arg(long, value_name = "COUNT", default_value_t = 1000)]
    clients: usize,
    /// Server to measure, e.g. ws://127.0.0.1:8080 or ws://USER:PASSWORD@HOST (Basic credentials); a path may hold {room} and
    /// {client} [default: a private hi]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// URL that publishers connect to, if it is another
    #[arg(long, value_name = "URL")]
    publish_url: Option<String>,
    /// Messages a second in each room, all its publishers together
    #[arg(long, value_name = "PER_SECOND", default_value_t = 10.0)]
    rate: f64,
    /// Bytes of each message's text
    #[arg(long, value_name = "BYTES", default_value_t = 128)]
    size: usize,
    /// Publishers in each room
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    publishers: usize,
    /// Rooms that the clients are spread over
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    rooms: usize,
    /// Measured time (with --find-limit: of each rate)
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_time)]
    duration: Duration,
    /// Time at full load that is thrown away first
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_time)]
    warmup: Duration,
    /// New connections a second; 0: as fast as the server takes them
    #[arg(long, value_name = "PER_SECOND", default_value_t = 0)]
    ramp: u32,
    /// Speak hi's chat dialect: JSON, each client a user (the default)
    #[arg(long)]
    chat: bool,
    /// Use hi's raw rooms: payloads as they are
    #[arg(long)]
    raw: bool,
    /// For any other server: what a client sends once it is connected; {client} and {room} are replaced
    #[arg(long, value_name = "TEXT")]
    subscribe: Option<String>,
    /// For any other server: what a publisher sends; {payload}, {client} and {room} are replaced [default: {payload}]
    #[arg(long, value_name = "TEXT")]
    publish: Option<String>,
    /// Clients that read slowly: a number, or a part such as 1%
    #[arg(long, value_name = "COUNT|PERCENT", default_value = "0")]
    slow: String,
    /// The --slow clients read nothing at all once they are connected
    #[arg(long)]
    stuck: bool,
    /// Clients a second that leave and reconnect
    #[arg(long, value_name = "PER_SECOND", default_value_t = 0.0)]
    churn: f64,
    /// Cut all connections at once in the middle of the run, and let all reconnect
    #[arg(long)]
    storm: bool,
    /// Connect and hold for the duration, publish nothing: what does a connection cost?
    #[arg(long)]
    idle: bool,
    /// Raise the rate until p99 latency passes --slo, and report the knee
    #[arg(long)]
    find_limit: bool,
    /// With --find-limit: the p99 latency that has to hold [default: 50ms]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    slo: Option<Duration>,
    /// Process whose CPU time and memory are the server's (a private hi's is known)
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,
    /// The hi to start, if there is no --url [default: built from this workspace, or found beside loadgen or in PATH]
    #[arg(long, value_name = "FILE")]
    hi: Option<PathBuf>,
    /// Shards of the private hi [default: half of the cores]
    #[arg(long, value_name = "COUNT")]
    shards: Option<usize>,
    /// Threads that read and send [default: the cores that the private hi leaves, or half of all]
    #[arg(long, value_name = "COUNT")]
    threads: Option<usize>,
    /// What to call the run in reports
    #[arg(long)]
    name: Option<String>,
    /// Write the result as JSON, for `loadgen report`
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the latency distribution in HdrHistogram's percentile format
    #[arg(long, value_name = "FILE")]
    hgrm: Option<PathBuf>,
    /// Write a report that needs nothing else
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write the chart alone
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// No progress, only the result
    #[arg(long, short)]
    quiet: bool,
}

impl Options {
    /// The plan.
    ///
    /// # Errors
    /// One sentence: what contradicts what.
    pub fn plan(self) -> Result<Plan, String> {
        let refuse = |condition: bool, sentence: &str| if condition { Err(sentence.to_owned()) } else { Ok(()) };
        refuse(self.clients == 0, "--clients has to be at least 1.")?;
        refuse(self.rooms == 0 || self.rooms > self.clients, "--rooms has to be from 1 to the number of --clients.")?;
        refuse(self.publishers == 0 || self.publishers > 1000, "--publishers has to be from 1 to 1000.")?;
        refuse(!(self.rate > 0.0 && self.rate <= 1e6), "--rate has to be above 0 and at most 1000000.")?;
        refuse(!(self.churn >= 0.0 && self.churn <= 1e5), "--churn has to be from 0 to 100000 a second.")?;
        refuse(
            self.size < STAMP_BYTES,
            &format!("--size has to be at least {STAMP_BYTES}: every message carries a stamp."),
        )?;
        refuse(self.size > 1 << 20, "--size has to be at most 1048576.")?;
        refuse(self.duration < Duration::from_secs(1), "--duration has to be at least 1s.")?;
        refuse(self.chat && self.raw, "--chat and --raw contradict each other: choose one.")?;
        let template = self.subscribe.is_some() || self.publish.is_some();
        refuse(
            template && (self.chat || self.raw),
            "--subscribe and --publish are for servers that speak neither --chat nor --raw.",
        )?;
        refuse(
            template && self.url.is_none(),
            "--subscribe and --publish need the --url of a server that understands them.",
        )?;
        refuse(
            self.publish.as_ref().is_some_and(|publish| !publish.contains("{payload}")),
            "--publish has to contain {payload}: without its stamp, no message is known again.",
        )?;
        let own_path =
            self.url.as_ref().is_some_and(|url| Target::parse(url).is_ok_and(|target| target.path.is_some()));
        let told_apart =
            [&self.url, &self.subscribe].iter().any(|text| text.as_ref().is_some_and(|text| text.contains("{room}")));
        refuse(
            (template || own_path) && self.rooms > 1 && !told_apart,
            "--rooms needs {room} in --url or in --subscribe: otherwise the server can't tell them apart.",
        )?;
        refuse(
            !self.idle && self.rate * self.duration.as_secs_f64() < self.publishers as f64,
            "--rate is so low that within --duration not every one of the --publishers has a message to send.",
        )?;
        refuse(self.publish_url.is_some() && self.url.is_none(), "--publish-url needs --url too.")?;
        refuse(
            self.url.is_some() && self.hi.is_some(),
            "--hi starts a private server and --url names a running one: choose one.",
        )?;
        refuse(
            self.url.is_some() && self.shards.is_some(),
            "--shards is for a private hi; the server at --url has its own.",
        )?;
        refuse(self.url.is_none() && self.server_pid.is_some(), "--server-pid needs the --url of that server.")?;
        refuse(self.slo.is_some() && !self.find_limit, "--slo is for --find-limit.")?;
        refuse(
            self.idle && self.find_limit,
            "--idle publishes nothing and --find-limit as much as possible: choose one.",
        )?;
        refuse(self.idle && self.storm, "--idle holds all connections and --storm cuts them: choose one.")?;
        refuse(self.storm && self.find_limit, "--storm and --find-limit contradict each other: choose one.")?;
        refuse(
            self.churn > 0.0 && (self.idle || self.storm || self.find_limit),
            "--churn goes with neither --idle, --storm nor --find-limit.",
        )?;
        refuse(
            !self.idle && Step::new(0, self.rate, self.publishers, 0, (self.warmup, self.duration)).is_none(),
            "--rate for that --duration is more messages than have numbers, four billion of each publisher: take a shorter \
             --duration or a lower --rate.",
        )?;
        refuse(
            self.threads.is_some_and(|threads| threads == 0 || threads > THREADS_MAX),
            &format!("--threads has to be from 1 to {THREADS_MAX}."),
        )?;
        let outputs = [&self.json, &self.hgrm, &self.html, &self.svg];
        let named_before = |index: usize| outputs[..index].iter().any(|before| *before == outputs[index]);
        refuse(
            (1..outputs.len()).any(|index| outputs[index].is_some() && named_before(index)),
            "--json, --hgrm, --html and --svg each need a file of their own.",
        )?;
        refuse(self.shards == Some(0), "--shards has to be at least 1.")?;
        let slow_clients = slow_clients(&self.slow, self.clients)?;
        refuse(
            self.stuck && slow_clients == 0,
            "--stuck says how the clients of --slow read: give --slow a number too.",
        )?;
        refuse(slow_clients >= self.clients, "--slow leaves no client that reads at full speed.")?;
        if let Some(url) = &self.url {
            Target::parse(url)?;
        }
        if let Some(url) = &self.publish_url {
            Target::parse(url)?;
        }
        if let Some(pid) = self.server_pid {
            let lives = std::path::Path::new(&format!("/proc/{pid}/stat")).exists();
            refuse(!lives, &format!("--server-pid: there is no process {pid}."))?;
        }
        let dialect = match (self.raw, template) {
            (_, true) => Dialect::Template {
                subscribe: self.subscribe.map(Template::new),
                publish: Template::new(self.publish.unwrap_or_else(|| "{payload}".to_owned())),
            },
            (true, _) => Dialect::Raw,
            _ => Dialect::Chat,
        };
        let mode = match (self.storm, self.idle, self.find_limit) {
            (true, ..) => Mode::Storm,
            (_, true, _) => Mode::Idle,
            (.., true) => Mode::FindLimit(self.slo.unwrap_or(Duration::from_millis(50))),
            _ => Mode::Steady,
        };
        let subject = match self.url {
            Some(url) => Subject::Given { url, pid: self.server_pid },
            None => Subject::Private { binary: self.hi, shards: self.shards },
        };
        Ok(Plan {
            subject,
            publish_url: self.publish_url,
            dialect,
            mode,
            clients: self.clients,
            rooms: self.rooms,
            publishers: self.publishers,
            rate: self.rate,
            message_bytes: self.size,
            duration: self.duration,
            warmup: self.warmup,
            ramp: self.ramp,
            slow_clients,
            slow_are_stuck: self.stuck,
            churn_per_second: self.churn,
            threads: self.threads,
            name: self.name,
            outputs: Outputs { json: self.json, hgrm: self.hgrm, html: self.html, svg: self.svg },
            quiet: self.quiet,
        })
    }
}

fn slow_clients(text: &str, clients: usize) -> Result<usize, String> {
    let wrong = || format!("--slow takes a number of clients or a part such as 1%, not {text:?}.");
    match text.strip_suffix('%') {
        Some(percent) => {
            let percent: f64 = percent.parse().map_err(|_| wrong())?;
            if !(0.0..=100.0).contains(&percent) {
                return Err(wrong());
            }
            Ok((clients as f64 * percent / 100.0).ceil() as usize)
        }
        None => text.parse().map_err(|_| wrong()),
    }
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
        let line = CommandLine::try_parse_from(std::iter::once(&"loadgen").chain(args)).expect("clap takes it");
        line.run.plan()
    }

    #[test]
    fn the_default_is_one_room_and_one_publisher() {
        let plan = plan(&["--clients", "10000"]).unwrap();
        assert_eq!((plan.clients, plan.rooms, plan.publishers, plan.message_bytes), (10_000, 1, 1, 128));
        assert!(matches!(plan.dialect, Dialect::Chat));
        assert!(matches!(plan.subject, Subject::Private { .. }));
    }

    #[test]
    fn contradictions_are_one_sentence() {
        for (args, part) in [
            (&["--chat", "--raw"][..], "--chat and --raw"),
            (&["--slo", "5ms"], "--find-limit"),
            (&["--idle", "--find-limit"], "--idle"),
            (&["--size", "3"], "--size"),
            (&["--rooms", "0"], "--rooms"),
            (&["--rooms", "2000"], "--rooms"),
            (&["--subscribe", "x"], "--url"),
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
        ] {
            let sentence = plan(args).unwrap_err();
            assert!(sentence.contains(part), "{args:?}: {sentence}");
            assert_eq!(sentence.lines().count(), 1);
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
    fn slow_clients_are_a_number_or_a_part() {
        assert_eq!(slow_clients("1%", 1000), Ok(10));
        assert_eq!(slow_clients("0.1%", 100), Ok(1), "a part is never nobody");
        assert_eq!(slow_clients("7", 100), Ok(7));
    }
}
