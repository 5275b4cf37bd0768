//! The kinds of servers: how each starts, and what it costs.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use clap::ValueEnum;

use crate::case::Case;
use crate::process::{SETTLED_AFTER_MAX, first_line, hi_here};

pub(crate) use crate::process::Server;

/// Members read, and answer pings, only during their turn.
const PATIENT: [&str; 4] = ["--ping-interval", "1h", "--ping-timeout", "1h"];
/// Members may lag by a few of the largest messages.
const ROOMY: [&str; 4] = ["--max-message", "1m", "--backlog-bytes", "16m"];

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    Hi,
    OtherHi,
    TwoShards,
    Send,
    IoUring,
    Tokio,
}

impl Kind {
    /// The name that the command line knows.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().expect("every kind has a name").get_name().to_owned()
    }

    /// Its description in tables.
    pub(crate) fn what(self) -> &'static str {
        match self {
            Self::Hi => "hi",
            Self::OtherHi => "another build of hi",
            Self::TwoShards => "hi with two shards",
            Self::Send => "a loop of send(2)",
            Self::IoUring => "a bare io_uring batch, the floor",
            Self::Tokio => "tokio and fastwebsockets, a task and a queue per connection",
        }
    }

    /// Whether it reads messages from a publisher's WebSocket; the others read only their numbers.
    pub(crate) fn is_whole(self) -> bool {
        !matches!(self, Self::Send | Self::IoUring)
    }
}

impl Server {
    /// Starts a server. The caller stays on the last core from now on: the serving thread is pinned to the first one.
    pub(crate) fn start(kind: Kind, case: Case, other_hi: Option<&Path>) -> Self {
        match kind {
            Kind::Hi => Self::hi(&hi_here(), "1", &[PATIENT, ROOMY].concat()),
            Kind::OtherHi => Self::hi(other_hi.expect("--against says which build"), "1", &[PATIENT, ROOMY].concat()),
            Kind::TwoShards => Self::hi(&hi_here(), "2", &[PATIENT, ROOMY].concat()),
            Kind::Send | Kind::IoUring | Kind::Tokio => {
                let mut command = Command::new(std::env::current_exe().expect("this program has a file"));
                command.args(["--serve", &kind.name(), "--members", &case.members.to_string()]);
                command.args(["--size", &case.frames.payload_bytes.to_string()]);
                Self::spawn(command.stdout(Stdio::piped()), |child| first_line(child.stdout.as_mut().unwrap()))
            }
        }
    }

    /// One shard of this build's hi, with its default for pings.
    pub(crate) fn hi_with_pings() -> Self {
        Self::hi(&hi_here(), "1", &ROOMY)
    }

    /// CPU time of all its threads in nanoseconds, as counted by the scheduler. Waits until all of them sleep: the time
    /// of a running thread is counted only at the next tick.
    pub(crate) fn cpu_time(&self) -> Duration {
        assert!(self.settles(), "the server is still busy {SETTLED_AFTER_MAX:?} after its last message");
        Duration::from_nanos(self.threads().iter().map(|thread| nanoseconds(thread)).sum())
    }

    /// Resident memory.
    pub(crate) fn resident_bytes(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a process has memory");
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
    }
}

fn nanoseconds(thread: &Path) -> u64 {
    let text = std::fs::read_to_string(thread.join("schedstat")).expect("the thread lives");
    text.split_whitespace().next().and_then(|first| first.parse().ok()).expect("a number comes first")
}
