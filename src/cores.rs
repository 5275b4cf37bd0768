//! On which cores the shards run: how many shards there are by default, and which of them are pinned.
//!
//! A pinned shard keeps its caches. It loses more than that where something else is pinned to the same core, since neither
//! can move away, or where a CPU quota stops all threads of a container for the rest of a period. So by default a shard is
//! pinned only to a core to which no other process is pinned, and hi has to see all processes to know that.

use std::fs;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::thread;

use clap::ValueEnum;
use rustix::process::{Pid, getpid};
use rustix::thread::sched_getaffinity;

use crate::limits::{TURN_POLL, TURN_TIME_MAX};
use crate::os;

/// The PID namespace of the machine (`PROC_PID_INIT_INO` of the kernel).
const PID_NAMESPACE_OF_MACHINE: &str = "pid:[4026531836]";
/// In the abstract namespace of unix sockets (unix(7)): taken while a server chooses its cores.
const TURN_NAME: &str = "hi: cores are being chosen";
/// A thread of the kernel, in the ninth field of proc_pid_stat(5).
const PF_KTHREAD: u64 = 0x0020_0000;

/// Whether shards are pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Pin {
    /// To a core to which no other process is pinned, unless there is a CPU quota.
    Auto,
    /// To a core, whatever else is pinned there.
    On,
    /// Never.
    Off,
}

/// What the process may use of the machine's cores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cores {
    /// Those of its CPU affinity, in order.
    allowed: Vec<usize>,
    /// How many threads can run all the time. What the standard library calls the available parallelism: as many, or as
    /// many as a cgroup's quota pays for without being exceeded.
    pub(crate) parallelism: usize,
}

impl Cores {
    /// Asks the kernel.
    ///
    /// # Errors
    /// The kernel refuses to tell.
    pub(crate) fn of_this_process() -> io::Result<Self> {
        let allowed = os::allowed_cores()?;
        let parallelism = thread::available_parallelism().map_or(allowed.len(), usize::from);
        Ok(Self { parallelism: parallelism.clamp(1, allowed.len()), allowed })
    }

    /// Chooses a core for each of `shards` shards.
    pub(crate) fn place(&self, pin: Pin, shards: usize) -> Placement {
        let none = |why| Placement { cores: vec![None; shards], why: Some(why), _turn: None };
        match pin {
            Pin::On => self.place_beside(&[], shards),
            Pin::Off => none(Unpinned::Asked),
            // There is nothing to choose.
            Pin::Auto if self.allowed.len() == 1 => self.place_beside(&[], shards),
            Pin::Auto if self.parallelism < self.allowed.len() => none(Unpinned::Quota),
            Pin::Auto => match take_turn() {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => none(Unpinned::Busy),
                // Without unix sockets, what may be missed is a server that starts at this very moment.
                turn => match pinned_by_others() {
                    None => none(Unpinned::Unseen),
                    Some(taken) => Placement { _turn: turn.ok(), ..self.place_beside(&taken, shards) },
                },
            },
        }
    }

    fn place_beside(&self, taken: &[usize], shards: usize) -> Placement {
        let free: Vec<_> = self.allowed.iter().copied().filter(|core| !taken.contains(core)).collect();
        let all_free = free.len() == self.allowed.len();
        // More shards than cores share them; but not with others.
        let core = |shard: usize| if all_free { Some(free[shard % free.len()]) } else { free.get(shard).copied() };
        let cores: Vec<_> = (0..shards).map(core).collect();
        let why = cores.contains(&None).then_some(Unpinned::Taken);
        Placement { cores, why, _turn: None }
    }
}

/// Where each shard runs. While this lives, no other hi chooses cores: it would not see the shards yet.
#[derive(Debug)]
pub(crate) struct Placement {
    /// The core of each shard; `None`: any.
    pub cores: Vec<Option<usize>>,
    /// Why not all of them are pinned.
    pub why: Option<Unpinned>,
    _turn: Option<UnixListener>,
}

/// Why a shard is not pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unpinned {
    #[error("--pin off")]
    Asked,
    #[error("there is a CPU quota")]
    Quota,
    #[error("other processes are pinned to the same cores")]
    Taken,
    /// And takes longer than [`TURN_TIME_MAX`].
    #[error("another hi was starting at the same time")]
    Busy,
    /// hi runs in a container, or /proc hides processes.
    #[error("processes outside this container may be pinned to the same cores")]
    Unseen,
}

/// Waits for the name that a server holds while it chooses its cores, for a second at most.
fn take_turn() -> io::Result<UnixListener> {
    let name = SocketAddr::from_abstract_name(TURN_NAME)?;
    os::retry_while_in_use(TURN_TIME_MAX, TURN_POLL, || UnixListener::bind_addr(&name))
}

/// The cores to which a thread of another process is pinned. `None`: not all processes can be seen.
fn pinned_by_others() -> Option<Vec<usize>> {
    let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
    // The first process is one of those that hidepid= hides (proc(5)).
    if namespace.to_str() != Some(PID_NAMESPACE_OF_MACHINE) || fs::read_dir("/proc/1/task").is_err() {
        return None;
    }
    let processes = numbers_in("/proc").filter(|process| *process != getpid().as_raw_pid());
    let mut taken = Vec::new();
    for process in processes.filter(|process| !is_of_kernel(*process)) {
        for core in numbers_in(&format!("/proc/{process}/task")).filter_map(pinned_to) {
            if !taken.contains(&core) {
                taken.push(core);
            }
        }
    }
    Some(taken)
}

/// The names in a folder that are numbers: of processes, of threads. None if it has gone.
fn numbers_in(folder: &str) -> impl Iterator<Item = i32> + use<> {
    fs::read_dir(folder).into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The only core that a thread may use.
fn pinned_to(thread: i32) -> Option<usize> {
    let set = sched_getaffinity(Some(Pid::from_raw(thread)?)).ok()?;
    if set.count() == 1 { os::cores_in(&set).next() } else { None }
}

fn is_of_kernel(process: i32) -> bool {
    fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|stat| has_kernel_flag(&stat))
}

/// Whether /proc/PID/stat says that this is the kernel's own. The second field, the name, may contain anything.
fn has_kernel_flag(stat: &str) -> bool {
    let behind_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let flags = behind_name.split(' ').nth(6).and_then(|flags| flags.parse::<u64>().ok());
    flags.is_some_and(|flags| flags & PF_KTHREAD != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cores(allowed: &[usize], parallelism: usize) -> Cores {
        Cores { allowed: allowed.to_vec(), parallelism }
    }

    fn parts(placement: Placement) -> (Vec<Option<usize>>, Option<Unpinned>) {
        (placement.cores, placement.why)
    }

    #[test]
    fn a_quota_or_a_word_of_the_operator_unpins_all() {
        let unpinned = |why| (vec![None, None], Some(why));
        assert_eq!(parts(cores(&[0, 1, 2], 2).place(Pin::Auto, 2)), unpinned(Unpinned::Quota));
        assert_eq!(parts(cores(&[0, 1, 2], 3).place(Pin::Off, 2)), unpinned(Unpinned::Asked));
        assert_eq!(parts(cores(&[4, 6], 1).place(Pin::On, 3)), (vec![Some(4), Some(6), Some(4)], None));
        assert_eq!(parts(cores(&[4], 1).place(Pin::Auto, 2)), (vec![Some(4), Some(4)], None));
    }

    #[test]
    fn cores_of_others_are_left_to_them() {
        let place = |taken: &[usize], shards| parts(cores(&[0, 1, 4, 5], 4).place_beside(taken, shards));
        assert_eq!(place(&[], 5), (vec![Some(0), Some(1), Some(4), Some(5), Some(0)], None));
        assert_eq!(place(&[2, 3], 2), (vec![Some(0), Some(1)], None));
        assert_eq!(place(&[0, 4], 2), (vec![Some(1), Some(5)], None));
        assert_eq!(place(&[0, 4], 3), (vec![Some(1), Some(5), None], Some(Unpinned::Taken)));
        assert_eq!(place(&[0, 1, 4, 5], 1), (vec![None], Some(Unpinned::Taken)));
    }

    #[test]
    fn threads_of_the_kernel_are_known() {
        assert!(has_kernel_flag("2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0"));
        assert!(!has_kernel_flag("812 (a) S (b) S 1 812 812 0 -1 4194560 9001 0"));
        assert!(is_of_kernel(2) || fs::read("/proc/2/stat").is_err());
        assert!(!is_of_kernel(getpid().as_raw_pid()));
    }
}
