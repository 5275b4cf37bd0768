//! `hi pub` and `hi rooms`: the internal port from the command line.
//!
//! Exit codes: 0 done, 1 the server refused or can't be reached, 2 the command line is wrong, 74 the output can't be
//! written ([`output::EXIT_OUTPUT`]).

use std::io::{self, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::ADDRESS_DEFAULT;
use super::call::BODY_BYTES_MAX;
use super::request::{Request, Response};
use crate::output;
use crate::protocol::name::Name;
use crate::protocol::unicode::is_blank;

/// The server is there and says no, or it isn't there.
const EXIT_REFUSED: u8 = 1;
/// The command line is wrong.
const EXIT_USAGE: u8 = 2;

/// Where the server is.
#[derive(clap::Args, Debug)]
struct ServerArgs {
    /// The internal port of the server
    #[arg(long, value_name = "HOST:PORT", env = "HI_INTERNAL", default_value = ADDRESS_DEFAULT)]
    internal: String,

    /// File whose first line is the key that the server asks for
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

/// Why a command ends without having done what it should: the exit code, and a sentence.
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

fn finish(outcome: Result<String, Failure>) -> ExitCode {
    match outcome {
        Ok(text) => output::print(text + "\n", ExitCode::SUCCESS),
        Err(Failure(code, sentence)) => {
            // The exit code is the same if nobody reads this.
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
    let (path, content_type, body) = if args.raw {
        let text = simdutf8::basic::from_utf8(&message).is_ok();
        let content_type = if text { "text/plain; charset=utf-8" } else { "application/octet-stream" };
        (format!("/pub/{}", encoded(&args.room)), content_type, message)
    } else {
        let text = String::from_utf8(message)
            .map_err(|_| Failure::usage("The message is not UTF-8, and chat is text: publish it with --raw."))?;
        // A shell ends what it pipes with a line break that nobody meant to say.
        let text = if args.message.as_deref().is_none_or(|message| message == "-") {
            text.strip_suffix('\n').unwrap_or(&text)
        } else {
            &text
        };
        if is_blank(text) {
            return Err(Failure::usage("The message is empty: give one in which something can be seen."));
        }
        let body = json!({"room": args.room, "message": text, "from": args.from});
        ("/api/publish".to_owned(), "application/json", body.to_string().into_bytes())
    };
    let answer = ask(&args.server, "POST", path, content_type, body)?;
    Ok(match (answer["members"].as_u64(), answer["seq"].as_u64()) {
        (Some(0), None) => format!("Nobody is in {}: nobody got the message.", args.room),
        (Some(members), Some(seq)) => format!("Message {seq} of {} goes to {}.", args.room, count(members, "member")),
        _ => return Err(not_ours(&args.server)),
    })
}

fn try_rooms(args: &RoomsArgs) -> Result<String, Failure> {
    let prefix = args.prefix.as_deref().unwrap_or_default();
    let kind = if args.raw { "&kind=raw" } else { "" };
    let path = format!("/api/rooms?prefix={}{kind}", encoded(prefix));
    let answer = ask(&args.server, "GET", path, "", Vec::new())?;
    let (Some(rooms), Some(all)) = (answer["rooms"].as_array(), answer["count"].as_u64()) else {
        return Err(not_ours(&args.server));
    };
    if rooms.is_empty() {
        let which = if prefix.is_empty() { String::new() } else { format!(" whose name begins with {prefix}") };
        return Ok(format!("Nobody is in any {}room{which}.", if args.raw { "raw " } else { "" }));
    }
    let mut lines = Vec::new();
    for room in rooms {
        let (Some(name), Some(kind), Some(members)) =
            (room["room"].as_str(), room["kind"].as_str(), room["members"].as_u64())
        else {
            return Err(not_ours(&args.server));
        };
        lines.push(format!("{members:>7} {:<7} {kind:<4} {name}", if members == 1 { "member" } else { "members" }));
    }
    let left_out = all.saturating_sub(rooms.len() as u64);
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

/// Asks the server, and returns the JSON that it answers with.
fn ask(
    server: &ServerArgs,
    method: &'static str,
    path: String,
    content_type: &'static str,
    body: Vec<u8>,
) -> Result<Value, Failure> {
    let address = &server.internal;
    if address == "off" {
        return Err(Failure::usage(
            "The internal port is off (HI_INTERNAL or --internal): name a server that has one.",
        ));
    }
    let key = server.api_key_file.as_ref().map(|path| {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::usage(format!("can't read the API key from {} ({error}).", path.display())))?;
        let key = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default().to_owned();
        if key.bytes().all(|byte| byte.is_ascii_graphic()) && !key.is_empty() {
            Ok(key)
        } else {
            Err(Failure::usage(format!("{} has no key in its first line.", path.display())))
        }
    });
    let request = Request { method, path, content_type, key: key.transpose()?, body };
    let Response { status, body } = request.send(address).map_err(|error| {
        Failure(
            EXIT_REFUSED,
            format!(
                "The internal port at {address} can't be asked ({error}): is hi running, and is --internal its address?"
            ),
        )
    })?;
    let value: Value = serde_json::from_slice(&body).map_err(|_| not_ours(server))?;
    if (200..300).contains(&status) {
        return Ok(value);
    }
    let message = value["error"]["message"].as_str().ok_or_else(|| not_ours(server))?;
    let hint = if status == 401 { " (--api-key-file)" } else { "" };
    Err(Failure(EXIT_REFUSED, format!("hi refused: {message}{hint}")))
}

fn not_ours(server: &ServerArgs) -> Failure {
    let address = &server.internal;
    Failure(EXIT_REFUSED, format!("What answers at {address} is not the internal port of hi: check --internal."))
}
