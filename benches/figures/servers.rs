//! The kinds of servers, and how each starts.

use std::path::Path;
use std::process::{Command, Stdio};
use std::str::FromStr;

use clap::ValueEnum;
use rustix::process::Signal;

use crate::case::Case;
use crate::process::{ALL_CORES, first_line, hi_here};

pub(crate) use crate::process::Server;

/// Members read, and answer pings, only during their turn.
const PATIENT: [&str; 4] = ["--ping-interval", "1h", "--ping-timeout", "1h"];
/// Members may lag by a few of the largest messages.
const ROOMY: [&str; 4] = ["--max-message", "1m", "--backlog-bytes", "16m"];

/// What is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Known(Kind),
    Other(Other),
}

/// The servers that this program knows how to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    Hi,
    OtherHi,
    TwoShards,
    Send,
    IoUring,
    Tokio,
}

/// Any other server: what it is called in tables, and the command that starts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Other {
    pub(crate) name: String,
    pub(crate) command: String,
}

impl FromStr for Other {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some((name, command)) if !name.is_empty() && !command.is_empty() => {
                Ok(Self { name: name.to_owned(), command: command.to_owned() })
            }
            _ => Err("a name, an equals sign and a command are needed, such as 'Bun=bun bun.js'"),
        }
    }
}

impl Subject {
    /// Its description in tables.
    pub(crate) fn what(&self) -> &str {
        match self {
            Self::Known(kind) => kind.what(),
            Self::Other(other) => &other.name,
        }
    }

    /// Whether it reads messages from a publisher's WebSocket; the others read only their numbers.
    pub(crate) fn is_whole(&self) -> bool {
        !matches!(self, Self::Known(Kind::Send | Kind::IoUring))
    }
}

impl From<Kind> for Subject {
    fn from(kind: Kind) -> Self {
        Self::Known(kind)
    }
}

impl Kind {
    /// The name that the command line knows.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().expect("every kind has a name").get_name().to_owned()
    }

    fn what(self) -> &'static str {
        match self {
            Self::Hi => "hi",
            Self::OtherHi => "another build of hi",
            Self::TwoShards => "hi with two shards",
            Self::Send => "a loop of send(2)",
            Self::IoUring => "a bare io_uring batch, the floor",
            Self::Tokio => "tokio and fastwebsockets",
        }
    }
}

impl Server {
    /// Starts a server. The caller stays on the last core from now on: the serving thread is pinned to the first one.
    pub(crate) fn start(subject: &Subject, case: Case, other_hi: Option<&Path>) -> Self {
        match subject {
            Subject::Known(Kind::Hi) => Self::hi(&hi_here(), "1", &[PATIENT, ROOMY].concat()),
            Subject::Known(Kind::OtherHi) => {
                Self::hi(other_hi.expect("--against says which build"), "1", &[PATIENT, ROOMY].concat())
            }
            Subject::Known(Kind::TwoShards) => Self::hi(&hi_here(), "2", &[PATIENT, ROOMY].concat()),
            Subject::Known(kind @ (Kind::Send | Kind::IoUring | Kind::Tokio)) => {
                let mut command = Command::new(std::env::current_exe().expect("this program has a file"));
                command.args(["--serve", &kind.name(), "--members", &case.members.to_string()]);
                command.args(["--size", &case.frames.payload_bytes.to_string()]);
                Self::of_command(&mut command)
            }
            Subject::Other(other) => {
                Self::of_command(Command::new("sh").arg("-c").arg(format!("exec {}", other.command)))
            }
        }
    }

    /// Any command, on the first core. The first line of its output is the address it listens on.
    fn of_command(command: &mut Command) -> Self {
        let mut server = Self::spawn(command.stdout(Stdio::piped()), &ALL_CORES[..1], |child| {
            let mut output = child.stdout.take().unwrap();
            let line = first_line(&mut output);
            std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
            line
        });
        // One with child processes, such as nginx, must be able to end them.
        server.ended_by = Signal::TERM;
        server
    }

    /// One shard of this build's hi, with its default for pings.
    pub(crate) fn hi_with_pings() -> Self {
        Self::hi(&hi_here(), "1", &ROOMY)
    }
}
