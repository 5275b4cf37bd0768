//! In a container with less than the machine: shards follow the CPU quota, the memory budget follows the memory limit, and
//! no load makes the kernel end hi.

#![allow(unsafe_code, reason = "the cores are restricted between fork and exec")]

mod support;

use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::Signal;
use rustix::thread::{CpuSet, sched_setaffinity};
use support::group::{Group, cores_of_shards};
use support::healthy::{Watch, beside_healthy, write_some};
use support::wire::{BINARY, FIN, frame};
use support::{Server, hi};

/// Starts a server that may use `quota_us` of each tenth of a second. Where no group can be made, it may use as many cores
/// as that is in whole: the standard library answers the same.
fn with_cpu(quota_us: u32) -> (Server, Option<Group>) {
    let group = Group::of_cpu(quota_us);
    let mut command = group.as_ref().map_or_else(|| on_cores((quota_us as usize / 100_000).max(1)), Group::hi);
    command.args(["--listen", "127.0.0.1:0", "--internal", "127.0.0.1:0"]);
    (Server::spawn(command), group)
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
        let (mut server, group) = with_cpu(quota_us);
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
fn with_memory(bytes: usize, args: &[&str]) -> (Server, Option<Group>) {
    let group = Group::of_memory(bytes);
    let mut command = group.as_ref().map_or_else(hi, Group::hi);
    if group.is_none() {
        command.args(["--memory-max", &(bytes / 2).to_string()]);
    }
    command.args(["--listen", "127.0.0.1:0", "--internal", "127.0.0.1:0"]).args(args);
    (Server::spawn(command), group)
}

#[test]
fn the_memory_budget_is_half_of_the_limit() {
    for mebibytes in [64, 256] {
        let (server, _group) = with_memory(mebibytes << 20, &[]);
        server.wait_for_log(&format!("memory at most: {} MiB", mebibytes / 2));
        assert_eq!(server.internal().metric("hi_memory_max_bytes"), ((mebibytes / 2) << 20) as f64);
    }
}

#[test]
fn a_flood_in_64_mib_costs_its_senders_their_messages_and_no_one_else_anything() {
    const LIMIT_BYTES: usize = 64 << 20;
    const FLOODERS: usize = 150;
    const EACH_BYTES: usize = 1_200_000;
    hi::os::raise_file_limit().unwrap();
    let (mut server, group) = with_memory(LIMIT_BYTES, &["--shards", "2", "--rate-limit", "0"]);
    let internal = server.internal();
    let message = frame(FIN | BINARY, &[b'x'; 16_000]);
    let flood = message.repeat(EACH_BYTES / message.len());
    // Half of them each in a room of its own, half in one: nobody reads.
    let room = |number: usize| if number % 2 == 0 { "/raw/all".to_owned() } else { format!("/raw/flood{number}") };
    let flooders: Vec<_> = (0..FLOODERS).map(|number| server.narrow_upgraded(&room(number))).collect();
    flooders.iter().for_each(|wire| wire.stream.set_nonblocking(true).unwrap());
    beside_healthy(&server, || {
        let mut watch = Watch::new(&server, LIMIT_BYTES - server.resident_bytes());
        let mut written = vec![0; FLOODERS];
        let mut rounds_without_progress = 0;
        // Those who wait for room that never comes have sent what was taken.
        while written.iter().any(|written| *written < flood.len()) && rounds_without_progress < 500 {
            let wires = flooders.iter().zip(&mut written);
            let more: usize = wires.map(|(wire, at)| write_some(&wire.stream, &flood, at)).sum();
            watch.look();
            rounds_without_progress = if more == 0 { rounds_without_progress + 1 } else { 0 };
            if more == 0 {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
    });
    assert!(internal.metric("hi_memory_laps_total{what=\"logs\"}") > 0.0, "the budget was used up");
    assert_eq!(group.map_or(0, |group| group.killed()), 0);
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
}
