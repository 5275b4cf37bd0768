//! A server's process: how it starts, and when it sleeps.

use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

/// A server without work must be asleep within this time.
pub(crate) const SETTLED_AFTER_MAX: Duration = Duration::from_secs(5);
/// A server that is told to end is killed after this time.
const ENDED_AFTER_MAX: Duration = Duration::from_millis(500);

/// A running server that ends with its measurement.
pub(crate) struct Server {
    pub(crate) process: Child,
    pub(crate) address: SocketAddr,
    /// What ends it. hi is killed: ending in order would take as long as its members need.
    pub(crate) ended_by: Signal,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(Pid::from_child(&self.process), self.ended_by);
        let deadline = Instant::now() + ENDED_AFTER_MAX;
        while self.process.try_wait().is_ok_and(|ended| ended.is_none()) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Server {
    /// hi with `shards` shards. The caller stays on the last core from now on: the shards are pinned to the first ones.
    pub(crate) fn hi(file: &Path, shards: &str, args: &[&str]) -> Self {
        let mut command = Command::new(file);
        command.args(["--listen", "127.0.0.1:0", "--internal", "off", "--shards", shards]);
        // Even if others are pinned there: we are, and so is the build being compared.
        command.env("HI_PIN", "on");
        Self::spawn(command.args(args).stderr(Stdio::piped()), &ALL_CORES, |child| {
            let mut log = child.stderr.take().unwrap();
            let mut lines = String::new();
            let address = loop {
                let line = first_line(&mut log);
                let address = line.split("http://").nth(1).and_then(|rest| rest.split('/').next());
                if let Some(address) = address {
                    break address.to_owned();
                }
                assert!(!line.is_empty(), "hi logs its address, but it logged: {lines}");
                lines += &line;
            };
            // The rest of its output is read and discarded: a full pipe would block it.
            std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
            address
        })
    }

    /// Starts a command on these cores; `address` reads the address it listens on.
    pub(crate) fn spawn(command: &mut Command, cores: &[usize], address: impl FnOnce(&mut Child) -> String) -> Self {
        hi::os::allow_cores(cores).expect("our own cores");
        let mut process = command.spawn().expect("the server starts");
        let address = address(&mut process);
        let address = address.parse().unwrap_or_else(|_| panic!("{command:?} printed no address but: {address:?}"));
        // The server has inherited these cores; from now on only our own pinning changes.
        hi::os::pin_to_core(*ALL_CORES.last().expect("there is a core")).expect("our own core");
        Self { process, address, ended_by: Signal::KILL }
    }

    /// Waits until all its threads sleep. False if they don't in time.
    pub(crate) fn settles(&self) -> bool {
        let deadline = Instant::now() + SETTLED_AFTER_MAX;
        while !self.threads().iter().all(|thread| sleeps(thread)) {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        true
    }

    /// Their folders in `/proc`, and those of the threads of child processes.
    pub(crate) fn threads(&self) -> Vec<PathBuf> {
        let mut all = threads(&self.process.id().to_string());
        assert!(!all.is_empty(), "the server lives");
        let mut at = 0;
        while let Some(thread) = all.get(at) {
            let children = std::fs::read_to_string(thread.join("children")).unwrap_or_default();
            all.extend(children.split_whitespace().flat_map(threads));
            at += 1;
        }
        all
    }
}

/// None if the process has ended.
fn threads(process: &str) -> Vec<PathBuf> {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten();
    threads.map(|thread| thread.expect("/proc can be read").path()).collect()
}

/// The cores that we and the servers may use.
pub(crate) static ALL_CORES: LazyLock<Vec<usize>> =
    LazyLock::new(|| hi::os::allowed_cores().expect("the kernel reports the cores"));

/// This build's hi.
pub(crate) fn hi_here() -> PathBuf {
    env!("CARGO_BIN_EXE_hi").into()
}

/// The state: the letter after the name in parentheses (proc_pid_stat(5)). A thread that has ended doesn't run.
fn sleeps(thread: &Path) -> bool {
    let stat = std::fs::read_to_string(thread.join("stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_none_or(|rest| rest.is_empty() || rest.starts_with('S'))
}

/// Byte by byte, so that anything after the line stays in the pipe.
pub(crate) fn first_line(pipe: &mut impl Read) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    while pipe.read(&mut byte).expect("the server talks") == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    String::from_utf8(line).expect("text")
}
