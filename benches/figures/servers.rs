//! The processes that are measured: how they start, and what they cost.

use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use clap::ValueEnum;

use crate::options::Case;

/// A server that has been given nothing to do sleeps after at most so long.
const SETTLED_AFTER_MAX: Duration = Duration::from_secs(5);

/// Members read, and answer pings, only while they have their turn.
const PATIENT: [&str; 4] = ["--ping-interval", "1h", "--ping-timeout", "1h"];

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

    /// What it is, for tables.
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

    /// Whether it takes messages from a publisher's WebSocket; the others take their numbers.
    pub(crate) fn is_whole(self) -> bool {
        !matches!(self, Self::Send | Self::IoUring)
    }
}

/// A server that runs, and ends with its measurement.
pub(crate) struct Server {
    process: Child,
    pub(crate) address: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Server {
    /// Starts what is to be measured. Whoever calls this stays on the last core from now on: the serving thread is pinned
    /// to the first one.
    pub(crate) fn start(kind: Kind, case: Case, other_hi: Option<&Path>) -> Self {
        match kind {
            Kind::Hi => Self::hi(&hi_here(), "1", &PATIENT),
            Kind::OtherHi => Self::hi(other_hi.expect("--against says which build"), "1", &PATIENT),
            Kind::TwoShards => Self::hi(&hi_here(), "2", &PATIENT),
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
        Self::hi(&hi_here(), "1", &[])
    }

    fn hi(file: &Path, shards: &str, args: &[&str]) -> Self {
        let mut command = Command::new(file);
        command.args(["--listen", "127.0.0.1:0", "--internal", "off", "--shards", shards]);
        // Whatever else is pinned there: we are, and so is the build that this one is compared with.
        command.env("HI_PIN", "on");
        // Members may lag by a few of the largest messages.
        command.args(["--max-message", "1m", "--backlog-bytes", "16m"]);
        Self::spawn(command.args(args).stderr(Stdio::piped()), |child| {
            let line = first_line(child.stderr.as_mut().unwrap());
            let address = line.split("http://").nth(1).and_then(|rest| rest.split('/').next());
            address.unwrap_or_else(|| panic!("hi says its address first, but it said: {line}")).to_owned()
        })
    }

    fn spawn(command: &mut Command, address: impl FnOnce(&mut Child) -> String) -> Self {
        hi::os::allow_cores(&ALL_CORES).expect("our own cores");
        let mut process = command.spawn().expect("the server starts");
        let address = address(&mut process).parse().expect("an address");
        // What the server started has its cores; from now on only we move.
        hi::os::pin_to_core(*ALL_CORES.last().expect("there is a core")).expect("our own core");
        Self { process, address }
    }

    /// CPU time of all its threads, from what the scheduler counted in nanoseconds. Waits until all of them sleep: of a
    /// thread that runs, the scheduler counts the time only at its next tick.
    pub(crate) fn cpu_time(&self) -> Duration {
        let deadline = Instant::now() + SETTLED_AFTER_MAX;
        loop {
            let threads = self.threads();
            if threads.iter().all(|thread| sleeps(thread)) {
                return Duration::from_nanos(threads.iter().map(|thread| nanoseconds(thread)).sum());
            }
            assert!(Instant::now() < deadline, "the server still runs {SETTLED_AFTER_MAX:?} after its last message");
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Resident memory.
    pub(crate) fn resident_bytes(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a process has memory");
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
    }

    fn threads(&self) -> Vec<PathBuf> {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.process.id())).expect("the server lives");
        threads.map(|thread| thread.unwrap().path()).collect()
    }
}

/// The cores that we and the servers may use.
static ALL_CORES: LazyLock<Vec<usize>> = LazyLock::new(|| hi::os::allowed_cores().expect("the kernel tells"));

fn hi_here() -> PathBuf {
    env!("CARGO_BIN_EXE_hi").into()
}

/// The letter behind the name in parentheses (proc_pid_stat(5)).
fn sleeps(thread: &Path) -> bool {
    let stat = std::fs::read_to_string(thread.join("stat")).expect("the thread lives");
    stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('S'))
}

fn nanoseconds(thread: &Path) -> u64 {
    let text = std::fs::read_to_string(thread.join("schedstat")).expect("the thread lives");
    text.split_whitespace().next().and_then(|first| first.parse().ok()).expect("a number comes first")
}

/// Byte by byte: what comes after the line stays in the pipe.
fn first_line(pipe: &mut impl Read) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    while pipe.read(&mut byte).expect("the server talks") == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    String::from_utf8(line).expect("text")
}
