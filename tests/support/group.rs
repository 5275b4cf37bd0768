//! Control groups with a limit, of version 1 or 2, and what a server does in them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use clap::CommandFactory;
use hi::config::Config;

use super::{PATIENCE, Server};

/// A control group that ends with the test, if what runs in it has been dropped before.
pub struct Group(PathBuf);

impl Group {
    /// A group with this much time in each tenth of a second, in microseconds; `None` if this process may make none.
    pub fn of_cpu(quota_us: u32) -> Option<Self> {
        let two = format!("{quota_us} 100000");
        Self::with("cpu", "cpu.cfs_quota_us", &quota_us.to_string(), "cpu.max", &two)
    }

    /// A group with this much memory; `None` if this process may make none.
    pub fn of_memory(bytes: usize) -> Option<Self> {
        Self::with("memory", "memory.limit_in_bytes", &bytes.to_string(), "memory.max", &bytes.to_string())
    }

    fn with(controller: &str, file_1: &str, value_1: &str, file_2: &str, value_2: &str) -> Option<Self> {
        let root = Path::new("/sys/fs/cgroup");
        let name = format!("hi-test-{}-{:x}", std::process::id(), fastrand::u64(..));
        for (parent, file, value) in [(root.join(controller), file_1, value_1), (root.to_owned(), file_2, value_2)] {
            if !parent.join("cgroup.procs").exists() || fs::create_dir(parent.join(&name)).is_err() {
                continue;
            }
            let group = Self(parent.join(&name));
            if fs::write(group.0.join(file), value).is_ok() {
                return Some(group);
            }
        }
        None
    }

    /// `hi` inside it.
    pub fn hi(&self) -> Command {
        let mut command = Command::new("sh");
        let enter = format!("echo 0 > {}/cgroup.procs && exec \"$0\" \"$@\"", self.0.display());
        command.args(["-c", &enter, env!("CARGO_BIN_EXE_hi")]);
        for name in Config::command().get_arguments().filter_map(|argument| argument.get_env()) {
            if name != "HI_BACKEND" {
                command.env_remove(name);
            }
        }
        command
    }

    /// Processes of the group that the kernel has ended because its memory was used up.
    pub fn killed(&self) -> u32 {
        let files = ["memory.events", "memory.oom_control"].map(|file| fs::read_to_string(self.0.join(file)));
        let text = files.into_iter().flatten().next().expect("a group of memory");
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.expect("Linux 4.13 or newer").parse().unwrap()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A process may leave its group a moment after it has been waited for.
        let deadline = Instant::now() + PATIENCE;
        while fs::remove_dir(&self.0).is_err() && Instant::now() < deadline && !std::thread::panicking() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The cores that the shards of a server may use, as the kernel writes them: `0-1`.
pub fn cores_of_shards(server: &Server) -> Vec<String> {
    let threads = fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap().flatten();
    let shards = threads.filter(|thread| {
        fs::read_to_string(thread.path().join("comm")).is_ok_and(|name| name.starts_with("hi-shard-"))
    });
    let status = shards.map(|thread| fs::read_to_string(thread.path().join("status")).unwrap());
    let cores = status.map(|status| {
        status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim().to_owned()
    });
    cores.collect()
}
