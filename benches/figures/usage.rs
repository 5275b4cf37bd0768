//! What a server's process has used.

use std::path::Path;
use std::time::Duration;

use crate::process::{SETTLED_AFTER_MAX, Server};

impl Server {
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

/// 0 for a thread that has ended, as a runtime of another server may do with one.
fn nanoseconds(thread: &Path) -> u64 {
    let text = std::fs::read_to_string(thread.join("schedstat")).unwrap_or_default();
    text.split_whitespace().next().map_or(0, |first| first.parse().expect("a number comes first"))
}
