//! `hi pub` and `hi rooms`: the internal port from the command line.
//!
//! Exit codes: 0 done, 1 the server refused or can't be reached, 2 the command line is wrong, 74 the output can't be
//! written ([`output::EXIT_OUTPUT`]).

use std::io::{self, IsTerminal, Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::ADDRESS_DEFAULT;
use super::call::BODY_BYTES_MAX;
use super::key::Keys;
use super::request;
use crate::output;
use crate::protocol::name::Name;
use crate::protocol::unicode::is_blank;

/// The server refused, or can't be reached.
const EXIT_REFUSED: u8 = 1;
/// The command line is wrong.
const EXIT_USAGE: u8 = 2;

#[derive(clap::Args, Debug)]
struct ServerArgs {
    /// The internal port of the server
    #[arg(long, value_name = "HOST:PORT", env = "HI_INTERNAL", default_value = ADDRESS_DEFAULT)]
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

/// Why a command failed: the exit code, and a sentence.
#[derive(Debug)]
struct Failure(u8, String);

impl Failure {
    fn usage(sentence: impl Into<String>) -> Self {
        Self(EXIT_USAGE, sentence.into())
    }
}

/// `hi pub`: publishes one message.
pub fn publish(args: PublishArgs) -> ExitCode {
    finish(try_publish(&args))
}

/// `hi rooms`: lists the rooms.
pub fn rooms(args: RoomsArgs) -> ExitCode {
    finish(try_rooms(&args))
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

fn finish(outcome: Result<String, Failure>) -> ExitCode {
    match outcome {
        Ok(text) => output::print(text + "\n", ExitCode::SUCCESS),
        Err(Failure(code, sentence)) => {
            // The exit code says it too, so a closed stderr is no further error.
            let _ = writeln!(io::stderr(), "{sentence}");
            ExitCode::from(code)
        }
    }
}

fn try_publish(args: &PublishArgs) -> Result<String, Failure> {
    Name::room(&args.room).map_err(|why| Failure::usage(why.to_string()))?;
    Name::of_program(&args.from).map_err(|why| Failure::usage(format!("--from: {why}")))?;
    let message = match &args.message {
        Some(message) if message != "-" => message.clone().into_bytes(),
        explicit => from_stdin(explicit.is_some())?,
    };
    let (line, content_type, body) = if args.raw {
        let text = simdutf8::basic::from_utf8(&message).is_ok();
        let content_type = if text { "text/plain; charset=utf-8" } else { "application/octet-stream" };
        (format!("POST /pub/{}", encoded(&args.room)), content_type, message)
    } else {
        let text = String::from_utf8(message)
            .map_err(|_| Failure::usage("The message is not UTF-8, and chat is text: publish it with --raw."))?;
        // A shell adds a line break to what it pipes.
        let is_piped = args.message.as_deref().is_none_or(|message| message == "-");
        let text = text.strip_suffix('\n').filter(|_| is_piped).unwrap_or(&text);
        if is_blank(text) {
            return Err(Failure::usage("The message is empty: give one in which something can be seen."));
        }
        let body = json!({"room": args.room, "message": text, "from": args.from});
        ("POST /api/publish".to_owned(), "application/json", body.to_string().into_bytes())
    };
    let Published { seq, members } = ask(&args.server, &line, content_type, &body)?;
    Ok(match seq {
        None => format!("Nobody is in {}: nobody got the message.", args.room),
        Some(seq) => format!("Message {seq} of {} goes to {}.", args.room, count(members, "member")),
    })
}

fn try_rooms(args: &RoomsArgs) -> Result<String, Failure> {
    let prefix = args.prefix.as_deref().unwrap_or_default();
    let kind = if args.raw { "&kind=raw" } else { "" };
    let line = format!("GET /api/rooms?prefix={}{kind}", encoded(prefix));
    let Rooms { rooms, count: all } = ask(&args.server, &line, "", b"")?;
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

fn from_stdin(explicit: bool) -> Result<Vec<u8>, Failure> {
    let stdin = io::stdin();
    if !explicit && stdin.is_terminal() {
        return Err(Failure::usage("There is no message: give one behind the room, or - to type it here."));
    }
    let mut message = Vec::new();
    let read = stdin.lock().take(BODY_BYTES_MAX as u64 + 1).read_to_end(&mut message);
    read.map_err(|error| Failure::usage(format!("Standard input can't be read: {error}.")))?;
    if message.len() > BODY_BYTES_MAX {
        return Err(Failure::usage(format!("The message is longer than {BODY_BYTES_MAX} bytes (1 MiB): send less.")));
    }
    Ok(message)
}

/// Sends a request with this first line, and returns the JSON that the server answers with.
fn ask<T: DeserializeOwned>(server: &ServerArgs, line: &str, content_type: &str, body: &[u8]) -> Result<T, Failure> {
    let address = server.internal.clone();
    if address == "off" {
        return Err(Failure::usage(
            "The internal port is off (HI_INTERNAL or --internal): name a server that has one.",
        ));
    }
    let keys = server.api_key_file.as_deref().map(Keys::load).transpose().map_err(Failure::usage)?;
    let mut head = format!("{line} HTTP/1.1\r\nConnection: close\r\n");
    if !content_type.is_empty() {
        head += &format!("Content-Type: {content_type}\r\nContent-Length: {}\r\n", body.len());
    }
    let name = keys.map(|keys| {
        head += &format!("Authorization: Bearer {}\r\n", keys.first());
        address.clone()
    });
    let body = body.to_vec();
    let request = move |peer: SocketAddr| {
        // Without a key, the port accepts only requests to its IP address, not to a name.
        let host = name.unwrap_or_else(|| peer.to_string());
        [format!("{head}Host: {host}\r\n\r\n").into_bytes(), body].concat()
    };
    let (status, body) = request::send(address.clone(), request).map_err(|error| {
        let sentence = format!(
            "The internal port at {address} can't be asked ({error}): is hi running, and is --internal its address?"
        );
        Failure(EXIT_REFUSED, sentence)
    })?;
    if (200..300).contains(&status) {
        return serde_json::from_slice(&body).map_err(|_| not_ours(server));
    }
    let value: Value = serde_json::from_slice(&body).map_err(|_| not_ours(server))?;
    let message = value["error"]["message"].as_str().ok_or_else(|| not_ours(server))?;
    let hint = if status == 401 { " (--api-key-file)" } else { "" };
    Err(Failure(EXIT_REFUSED, format!("hi refused: {message}{hint}")))
}

fn not_ours(server: &ServerArgs) -> Failure {
    let address = &server.internal;
    Failure(EXIT_REFUSED, format!("What answers at {address} is not the internal port of hi: check --internal."))
}
