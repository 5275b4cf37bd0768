//! In a container with less than the machine: shards follow the CPU quota, the memory budget follows the memory limit, and
//! no load makes the kernel end hi.

#![allow(unsafe_code, reason = "the cores are restricted between fork and exec")]

mod support;

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Instant;

use rustix::process::Signal;
use rustix::thread::{CpuSet, sched_setaffinity};
use support::group::{Group, cores_of_shards};
use support::healthy::{Watch, beside_healthy, write_some};
use support::wire::{BINARY, FIN, frame};
use support::{PATIENCE, Server, hi};

/// Starts a server that may use `quota_us` of each tenth of a second. Where no group can be made, it may use as many cores
/// as that is in whole: the standard library answers the same.
fn with_cpu(quota_us: u32) -> (Option<Group>, Server) {
    let group = Group::of_cpu(quota_us);
    let mut command = group.as_ref().map_or_else(|| on_cores((quota_us as usize / 100_000).max(1)), Group::hi);
    command.args(["--listen", "127.0.0.1:0", "--internal", "127.0.0.1:0"]);
    (group, Server::spawn(command))
}

fn on_cores(count: usize) -> Command {
    let mut set = CpuSet::new();
    hi::os::allowed_cores().unwrap().into_iter().take(count).for_each(|core| set.set(core));
    let mut command = hi();
    // SAFETY: the closure makes one system call with a set that was made before the fork.
    unsafe { command.pre_exec(move || Ok(sched_setaffinity(None, &set)?)) };
    command
}

#[test]
fn shards_follow_the_cpu_quota_and_are_not_pinned_under_one() {
    let cores = hi::os::allowed_cores().unwrap().len();
    for (quota_us, whole) in [(50_000, 1), (100_000, 1), (150_000, 1), (200_000, 2)] {
        let (group, mut server) = with_cpu(quota_us);
        let expected = whole.min(cores);
        server.wait_for_log(&format!("; {expected} shard{}; ", if expected == 1 { "" } else { "s" }));
        let of_shards = cores_of_shards(&server);
        assert_eq!(of_shards.len(), expected, "{of_shards:?}");
        if group.is_some() && whole < cores {
            server.wait_for_log("there is a CPU quota");
            assert!(of_shards.iter().all(|cores| cores.parse::<usize>().is_err()), "all cores: {of_shards:?}");
        }
        server.signal(Signal::TERM);
        assert_eq!(server.wait().code(), Some(0));
    }
}

/// Starts a server whose memory is limited. Where no group can be made, it keeps to the budget that it would have there.
fn with_memory(bytes: usize, args: &[&str]) -> (Option<Group>, Server) {
    let group = Group::of_memory(bytes);
    let mut command = group.as_ref().map_or_else(hi, Group::hi);
    if group.is_none() {
        command.args(["--memory-max", &(bytes / 2).to_string()]);
    }
    command.args(["--listen", "127.0.0.1:0", "--internal", "127.0.0.1:0"]).args(args);
    (group, Server::spawn(command))
}

#[test]
fn the_memory_budget_is_half_of_the_limit() {
    for mebibytes in [64, 256] {
        let (_group, server) = with_memory(mebibytes << 20, &[]);
        server.wait_for_log(&format!("memory at most: {} MiB", mebibytes / 2));
        assert_eq!(server.internal().metric("hi_memory_max_bytes"), ((mebibytes / 2) << 20) as f64);
    }
}

/// Clients that send and never read, beside healthy ones, in this much memory and on this many shards.
fn survives_a_flood(limit_bytes: usize, shards: &str) {
    const FLOODERS: usize = 200;
    const EACH_BYTES: usize = 2_400_000;
    hi::os::raise_file_limit().unwrap();
    let (group, mut server) = with_memory(limit_bytes, &["--shards", shards, "--rate-limit", "0"]);
    let internal = server.internal();
    let message = frame(FIN | BINARY, &[b'x'; 16_000]);
    let flood = message.repeat(EACH_BYTES / message.len());
    // Each in a room of its own, and in one that all of them fill: nobody reads.
    let room =
        |number: usize| if number.is_multiple_of(10) { "/raw/all".to_owned() } else { format!("/raw/flood{number}") };
    let flooders: Vec<_> = (0..FLOODERS).map(|number| server.narrow_upgraded(&room(number))).collect();
    flooders.iter().for_each(|wire| wire.stream.set_nonblocking(true).unwrap());
    beside_healthy(&server, || {
        let mut watch = Watch::new(&server, limit_bytes - server.resident_bytes());
        let (mut written, deadline) = (vec![0; FLOODERS], Instant::now() + 3 * PATIENCE);
        // Until the budget has been used up many times over.
        while internal.metric("hi_memory_laps_total{what=\"logs\"}") < 1000.0 {
            assert!(Instant::now() < deadline, "the budget is not used up");
            for (wire, at) in flooders.iter().zip(&mut written) {
                if *at == flood.len() {
                    *at = 0;
                }
                write_some(&wire.stream, &flood, at);
            }
            watch.look();
        }
    });
    assert_eq!(group.as_ref().map_or(0, Group::killed), 0);
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_flood_in_64_mib_harms_no_one_that_reads() {
    survives_a_flood(64 << 20, "2");
}

/// As on 64 cores: config/sizing.rs makes six shards there.
#[test]
fn a_flood_on_the_most_shards_of_128_mib_harms_no_one_that_reads() {
    survives_a_flood(128 << 20, "6");
}
