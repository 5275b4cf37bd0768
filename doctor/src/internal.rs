//! `hi pub` and `hi rooms`: the internal port of a server from the command line.
//!
//! Exit codes: 0 done, 1 the server refused or can't be reached, 2 the command line is wrong.

use std::io::{self, IsTerminal, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::lookup_host;
use tokio::time::timeout;

use crate::INTERNAL_ADDRESS_DEFAULT;
use crate::client::open;
use crate::examination::http::{Request, exchange};
use crate::examination::net::Stream;
use crate::examination::runtime;

/// The server refused, or can't be reached.
const EXIT_REFUSED: u8 = 1;
/// The command line is wrong.
const EXIT_USAGE: u8 = 2;
/// Limit from the name lookup to the end of the answer.
const TIME_MAX: Duration = Duration::from_secs(10);
/// Limit for connecting to one of several addresses.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(3);
/// Bytes of the longest answer that is read.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// What the server accepts, checked before it is asked: each check returns a sentence for the operator.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Checks the name of a room.
    pub check_room: fn(&str) -> Result<(), String>,
    /// Checks the name that a message is shown under.
    pub check_from: fn(&str) -> Result<(), String>,
    /// Whether a text shows nothing.
    pub is_blank: fn(&str) -> bool,
    /// Reads the first key of a file of API keys.
    pub load_key: fn(&Path) -> Result<String, String>,
    /// Bytes of the largest body that the server accepts.
    pub body_bytes_max: usize,
}

/// What to print and the exit code; or the sentence for stderr and its exit code.
pub type Outcome = Result<(String, ExitCode), (String, ExitCode)>;

#[derive(clap::Args, Debug)]
struct ServerArgs {
    /// The internal port of the server
    #[arg(long, value_name = "HOST:PORT", env = "HI_INTERNAL", default_value = INTERNAL_ADDRESS_DEFAULT)]
    internal: String,

    /// File whose first line is the server's API key
    #[arg(long, value_name = "FILE", env = "HI_API_KEY_FILE")]
    api_key_file: Option<PathBuf>,
}

/// The command line of `hi pub`.
#[derive(clap::Args, Debug)]
pub struct PublishArgs {
    /// The room
    room: String,

    /// What to say; without it, or with -, standard input is read to its end and published as one message
    message: Option<String>,

    /// The name that the message is shown under
    #[arg(long, value_name = "NAME", default_value = "api", conflicts_with = "raw")]
    from: String,

    /// Publish into the raw room of that name, the bytes as they are: as text if they are UTF-8, otherwise as binary
    #[arg(long)]
    raw: bool,

    #[command(flatten)]
    server: ServerArgs,
}

/// The command line of `hi rooms`.
#[derive(clap::Args, Debug)]
pub struct RoomsArgs {
    /// Only rooms whose names begin with this
    prefix: Option<String>,

    /// Only raw rooms
    #[arg(long)]
    raw: bool,

    #[command(flatten)]
    server: ServerArgs,
}

/// `hi pub`: publishes one message.
///
/// # Errors
/// The server can't be reached or refuses; or the command line is wrong.
pub fn publish(args: &PublishArgs, rules: &Rules) -> Outcome {
    finish(try_publish(args, rules))
}

/// `hi rooms`: lists the rooms.
///
/// # Errors
/// As [`publish`].
pub fn rooms(args: &RoomsArgs, rules: &Rules) -> Outcome {
    finish(try_rooms(args, rules))
}

fn finish(outcome: Result<String, Failure>) -> Outcome {
    match outcome {
        Ok(text) => Ok((text + "\n", ExitCode::SUCCESS)),
        Err(Failure(code, sentence)) => Err((sentence, ExitCode::from(code))),
    }
}

/// Why a command failed: the exit code, and a sentence.
#[derive(Debug)]
struct Failure(u8, String);

impl Failure {
    fn usage(sentence: impl Into<String>) -> Self {
        Self(EXIT_USAGE, sentence.into())
    }
}

/// The parts of the answer to a publication that are shown.
#[derive(Deserialize)]
struct Published {
    seq: Option<u64>,
    members: u64,
}

#[derive(Deserialize)]
struct Rooms {
    rooms: Vec<Room>,
    count: u64,
}

#[derive(Deserialize)]
struct Room {
    room: String,
    kind: String,
    members: u64,
}

fn try_publish(args: &PublishArgs, rules: &Rules) -> Result<String, Failure> {
    (rules.check_room)(&args.room).map_err(Failure::usage)?;
    (rules.check_from)(&args.from).map_err(|why| Failure::usage(format!("--from: {why}")))?;
    let message = match &args.message {
        Some(message) if message != "-" => message.clone().into_bytes(),
        explicit => from_stdin(explicit.is_some(), rules.body_bytes_max)?,
    };
    let (path, content_type, body) = if args.raw {
        let text = std::str::from_utf8(&message).is_ok();
        let content_type = if text { "text/plain; charset=utf-8" } else { "application/octet-stream" };
        (format!("/pub/{}", encoded(&args.room)), content_type, message)
    } else {
        let text = String::from_utf8(message)
            .map_err(|_| Failure::usage("The message is not UTF-8, and chat is text: publish it with --raw."))?;
        // A shell adds a line break to what it pipes.
        let is_piped = args.message.as_deref().is_none_or(|message| message == "-");
        let text = text.strip_suffix('\n').filter(|_| is_piped).unwrap_or(&text);
        if (rules.is_blank)(text) {
            return Err(Failure::usage("The message is empty: give one in which something can be seen."));
        }
        let body = json!({"room": args.room, "message": text, "from": args.from});
        ("/api/publish".to_owned(), "application/json", body.to_string().into_bytes())
    };
    let headers = [("Content-Type", content_type.to_owned()), ("Content-Length", body.len().to_string())];
    let headers = headers.map(|(name, value)| (name.to_owned(), value)).into();
    let request = Request { method: "POST", path, headers, body, answer_bytes_max: ANSWER_BYTES_MAX };
    let Published { seq, members } = ask(&args.server, request, rules)?;
    Ok(match seq {
        None => format!("Nobody is in {}: nobody got the message.", args.room),
        Some(seq) => format!("Message {seq} of {} goes to {}.", args.room, count(members, "member")),
    })
}

fn try_rooms(args: &RoomsArgs, rules: &Rules) -> Result<String, Failure> {
    let prefix = args.prefix.as_deref().unwrap_or_default();
    let kind = if args.raw { "&kind=raw" } else { "" };
    let path = format!("/api/rooms?prefix={}{kind}", encoded(prefix));
    let request = Request { answer_bytes_max: ANSWER_BYTES_MAX, ..Request::get(path, Vec::new()) };
    let Rooms { rooms, count: all } = ask(&args.server, request, rules)?;
    if rooms.is_empty() {
        let which = if prefix.is_empty() { String::new() } else { format!(" whose name begins with {prefix}") };
        return Ok(format!("Nobody is in any {}room{which}.", if args.raw { "raw " } else { "" }));
    }
    let left_out = all.saturating_sub(rooms.len() as u64);
    let line = |Room { room, kind, members }| {
        format!("{members:>7} {:<7} {kind:<4} {room}", if members == 1 { "member" } else { "members" })
    };
    let mut lines: Vec<_> = rooms.into_iter().map(line).collect();
    if left_out > 0 {
        lines.push(format!("... and {}: give the beginning of the name.", count(left_out, "more room")));
    }
    Ok(lines.join("\n"))
}

fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn from_stdin(explicit: bool, bytes_max: usize) -> Result<Vec<u8>, Failure> {
    let stdin = io::stdin();
    if !explicit && stdin.is_terminal() {
        return Err(Failure::usage("There is no message: give one behind the room, or - to type it here."));
    }
    let mut message = Vec::new();
    let read = stdin.lock().take(bytes_max as u64 + 1).read_to_end(&mut message);
    read.map_err(|error| Failure::usage(format!("Standard input can't be read: {error}.")))?;
    if message.len() > bytes_max {
        return Err(Failure::usage(format!("The message is longer than {bytes_max} bytes (1 MiB): send less.")));
    }
    Ok(message)
}

/// Sends a request, and returns the JSON that the server answers with.
fn ask<T: DeserializeOwned>(server: &ServerArgs, mut request: Request, rules: &Rules) -> Result<T, Failure> {
    let address = &server.internal;
    if address == "off" {
        return Err(Failure::usage(
            "The internal port is off (HI_INTERNAL or --internal): name a server that has one.",
        ));
    }
    let key = server.api_key_file.as_deref().map(rules.load_key).transpose().map_err(Failure::usage)?;
    let has_key = key.is_some();
    request.headers.extend(key.map(|key| ("Authorization".to_owned(), format!("Bearer {key}"))));
    let (status, body) = within_time(answer(address, request, has_key)).map_err(|why| {
        let hint = "is hi running, and is --internal its address?";
        Failure(EXIT_REFUSED, format!("The internal port at {address} can't be asked ({why}): {hint}"))
    })?;
    let not_ours = || {
        let sentence = format!("What answers at {address} is not the internal port of hi: check --internal.");
        Failure(EXIT_REFUSED, sentence)
    };
    if (200..300).contains(&status) {
        return serde_json::from_str(&body).map_err(|_| not_ours());
    }
    let value: Value = serde_json::from_str(&body).map_err(|_| not_ours())?;
    let message = value["error"]["message"].as_str().ok_or_else(not_ours)?;
    let hint = if status == 401 { " (--api-key-file)" } else { "" };
    Err(Failure(EXIT_REFUSED, format!("hi refused: {message}{hint}")))
}

/// Runs a request, for at most [`TIME_MAX`].
fn within_time<T>(request: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let runtime = runtime().map_err(|error| error.to_string())?;
    let outcome = runtime.block_on(async { timeout(TIME_MAX, request).await });
    // A name lookup has no time limit of its own: nothing waits for the thread that it blocks.
    runtime.shutdown_background();
    outcome.unwrap_or_else(|_| Err(format!("no whole answer within {TIME_MAX:?}")))
}

/// The HTTP status and the body of the answer.
async fn answer(address: &str, mut request: Request, has_key: bool) -> Result<(u16, String), String> {
    let (mut stream, peer) = connect(address).await?;
    // Without a key, the port accepts only requests to its IP address, not to a name.
    let host = if has_key { address.to_owned() } else { peer.to_string() };
    request
        .headers
        .extend([("Host", host), ("Connection", "close".to_owned())].map(|(name, value)| (name.into(), value)));
    // The caller's limit comes first: no answer is cut.
    let got = exchange(&mut stream, &request, 2 * TIME_MAX).await.map_err(|failure| failure.detail)?;
    Ok((got.answer.status, got.answer.body))
}

/// A connection, and the IP address and port that it leads to (without an IPv6 scope).
async fn connect(address: &str) -> Result<(Stream, SocketAddr), String> {
    let addresses = lookup_host(address).await.map_err(|error| error.to_string())?;
    let (stream, address) = open(addresses, None, CONNECT_TIME_MAX).await?;
    Ok((stream, SocketAddr::new(address.ip(), address.port())))
}
