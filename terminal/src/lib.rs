//! hi in a terminal: `hi chat` is a chat of lines, `hi tail` listens.
//!
//! | module | what it does |
//! | --- | --- |
//! | `address` | which hi, and which room, an address names (pure) |
//! | `wire` | the JSON of hi.v1 and of events (pure) |
//! | `told` | a room's frames in their order, each once (pure) |
//! | `session` | one room from connection to connection: what is sent when, what was delivered (pure) |
//! | `pace` | as fast as the server allows (pure) |
//! | `backoff` | how long to wait before the next attempt |
//! | `sse` | server-sent events (pure) |
//! | `show` | lines for people, JSON for programs (pure) |
//! | `link` | one WebSocket |
//! | `input` | lines that are piped in or typed |
//! | `line` | the line that is being typed (pure) |
//! | `output` | where lines go |
//! | `chat` | `hi chat` |
//! | `tail` | `hi tail` |
//!
//! Exit codes: 0 done, 1 no connection or not everything delivered, 2 the command line is wrong or the server refuses the user or the
//! room.

mod address;
mod backoff;
mod chat;
mod input;
mod line;
mod link;
mod output;
mod pace;
mod session;
mod show;
mod sse;
mod tail;
mod told;
mod wire;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use address::{Place, place, place_or_room};
use chat::Chat;
use doctor::client::Site;
use doctor::examination::runtime;
use output::style;
use tail::Tail;

/// There is no connection, or not everything was delivered.
const EXIT_ENDED: u8 = 1;
/// The command line is wrong, or the server refuses the user or the room.
const EXIT_REFUSED: u8 = 2;

/// What became of standard output, and the exit code; or the sentence for stderr and its exit code.
pub type Outcome = Result<(io::Result<()>, ExitCode), (String, ExitCode)>;

/// Why a command failed.
#[derive(Debug)]
struct Failure {
    code: u8,
    sentence: String,
}

/// How a command ended: what became of standard output, and the exit code.
type Ended = Result<(io::Result<()>, u8), Failure>;

/// The command line of `hi chat`.
#[derive(clap::Args, Debug)]
pub struct ChatArgs {
    /// The address of the chat, e.g. `https://chat.example.com/`; `#ROOM` at its end is the room
    #[arg(value_name = "URL")]
    url: String,

    /// The room [default: that of the address, or general]
    room: Option<String>,

    /// Your name in the room [default: the user of this machine]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// Write one JSON object a line
    #[arg(long)]
    json: bool,

    /// A file with your token, for a server with --auth. --name has to be the name in it
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// Certificates to trust in addition to the system's, in PEM
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

/// The command line of `hi tail`.
#[derive(clap::Args, Debug)]
pub struct TailArgs {
    /// The address of the chat, e.g. `https://chat.example.com/#tea`, or a room of the hi on this machine
    #[arg(value_name = "URL|ROOM")]
    place: String,

    /// The room [default: that of the address, or general]
    room: Option<String>,

    /// Write one JSON object a line
    #[arg(long)]
    json: bool,

    /// Connect again after this long without a sign of life; a server sends one each 25 s by default (--ping-interval)
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = doctor::time::parse)]
    silence: Duration,

    /// A file with your token, for a server with --auth.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// Certificates to trust in addition to the system's, in PEM
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

/// `hi chat`: standard input to a room, and the room to standard output.
///
/// # Errors
/// There is no connection, or the server refuses; or the command line is wrong.
pub fn chat(args: &ChatArgs) -> Outcome {
    let Place { url, room } = place(&args.url, args.room.as_deref());
    let user =
        || ["USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()));
    let name = args.name.clone().or_else(user);
    finish(name.ok_or_else(|| usage("Say who you are: --name NAME.")).and_then(|name| {
        let site = site(&url, args.ca.as_deref(), args.token_file.as_deref())?;
        run(Chat::new(site, &room, &name, style(args.json)).run())
    }))
}

/// `hi tail`: a room to standard output.
///
/// # Errors
/// As [`chat`].
pub fn tail(args: &TailArgs) -> Outcome {
    let Place { url, room } = place_or_room(&args.place, args.room.as_deref());
    let site = site(&url, args.ca.as_deref(), args.token_file.as_deref());
    finish(site.and_then(|site| run(Tail::new(site, room, style(args.json), args.silence).run())))
}

fn site(url: &str, ca: Option<&Path>, token: Option<&Path>) -> Result<Site, Failure> {
    let read = |path: &Path| {
        let text = std::fs::read_to_string(path);
        text.map_err(|error| usage(format!("Can't read {}: {error}.", path.display())))
    };
    let token = token.map(read).transpose()?.map(|text| text.trim().to_owned());
    if token.as_ref().is_some_and(|token| token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic())) {
        return Err(usage("The token file has to contain one token, and nothing else."));
    }
    Ok(Site::new(url, ca).map_err(usage)?.with_token(token))
}

fn usage(sentence: impl Into<String>) -> Failure {
    Failure { code: EXIT_REFUSED, sentence: sentence.into() }
}

fn run(command: impl Future<Output = Ended>) -> Ended {
    let runtime = runtime().map_err(|error| usage(format!("Can't start a runtime: {error}.")))?;
    let ended = runtime.block_on(command);
    // A name lookup has no time limit of its own: nothing waits for the thread that it blocks.
    runtime.shutdown_background();
    ended
}

fn finish(ended: Ended) -> Outcome {
    match ended {
        Ok((written, code)) => Ok((written, ExitCode::from(code))),
        Err(Failure { code, sentence }) => Err((sentence, ExitCode::from(code))),
    }
}
