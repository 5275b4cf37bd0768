//! A load generator that can't lie: what a stalled server costs is shown whole, and its own lateness is not blamed on anyone.

mod support;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use loadgen::results::Verdict;
use rustix::process::{Pid, Signal, kill_process};
use support::server::{Fault, PAUSE, Server};
use support::{Ending, Folder, MESSAGES, Outcome, command, finish, loadgen, measure, short, spawn};

/// No event that a test waits for takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

fn wait_until(what: &str, mut happened: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !happened() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn pid(child: &Ending) -> Pid {
    Pid::from_child(&child.0)
}

#[test]
fn a_stall_of_a_second_shows_in_the_corrected_percentiles_alone() {
    let pause_us = PAUSE.as_micros() as u64;
    let args = short(&["--duration", "3s"]);
    let outcome = measure(|| Server::start(Fault::Stalls { at: 120 }), &args);
    let run = outcome.sound();
    assert_eq!(run.deliveries, 10 * 300);
    let (corrected, uncorrected) = (&run.latency, &run.latency_uncorrected);
    let about_the_pause = pause_us * 8 / 10..=pause_us * 16 / 10;
    assert!(about_the_pause.contains(&corrected.p99_us), "p99 {}", corrected.p99_us);
    assert!(about_the_pause.contains(&corrected.max_us), "max {}", corrected.max_us);
    // A third of the messages was due during the stall, and each had to wait for what was left of it.
    assert!((pause_us / 2..=pause_us * 12 / 10).contains(&corrected.p90_us), "p90 {}", corrected.p90_us);
    // A tool that waits for each answer would have sent one message during the stall, and seen one that was late.
    assert!(uncorrected.p90_us < pause_us / 10, "uncorrected p90 {}", uncorrected.p90_us);
    assert!(about_the_pause.contains(&uncorrected.max_us), "uncorrected max {}", uncorrected.max_us);
    let left_out = corrected.count - uncorrected.count;
    assert!(left_out >= 500, "{left_out} deliveries are left out, of about a thousand that fell due during the stall");
    let slow_seconds = run.timeline.iter().filter(|second| second.max_us > pause_us / 2).count();
    assert!((1..=2).contains(&slow_seconds), "{:?}", run.timeline);
}

#[test]
fn a_message_has_arrived_when_its_last_byte_has() {
    let last = Fault::HoldsBack { member: 3, at: MESSAGES - 1 };
    let outcome = measure(|| Server::start(last.clone()), &short(&["--size", "20000"]));
    let run = outcome.sound();
    assert!(run.latency.max_us >= PAUSE.as_micros() as u64, "{}", run.latency.max_us);
    assert_eq!(run.latency.count, run.deliveries);
}

#[test]
fn a_load_generator_that_was_stopped_for_a_while_is_invalid() {
    let server = Server::start(Fault::None);
    let folder = Folder::new();
    let json = folder.file("run.json");
    let mut prepared = command();
    prepared.args(short(&["--url", &server.room_url()])).arg("--json").arg(&json);
    let child = spawn(prepared);
    wait_until("messages", || server.messages() >= 40);
    kill_process(pid(&child), Signal::STOP).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    kill_process(pid(&child), Signal::CONT).unwrap();
    let outcome = finish(child, Some(&json));
    invalid(&outcome, "it sent messages up to ");
    assert!(outcome.stdout.contains("INVALID: load generator bound"), "{}", outcome.stdout);
}

/// The run was `INVALID`, for a reason that begins like this.
fn invalid(outcome: &Outcome, reason: &str) {
    let Verdict::Invalid(reasons) = &outcome.run().verdict else { panic!("{outcome:?}") };
    assert!(reasons.iter().any(|given| given.starts_with(reason)), "{reasons:?}");
    assert_eq!(outcome.code, Some(3));
}

/// The cores that a thread may use, and its number: `(thread, cores)`, in the order in which they were started.
fn threads(child: &Ending) -> Vec<(u32, String)> {
    let folder = format!("/proc/{}/task", child.0.id());
    let Ok(tasks) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut threads: Vec<_> = tasks
        .flatten()
        .filter_map(|task| {
            let status = std::fs::read_to_string(task.path().join("status")).ok()?;
            let cores = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
            Some((task.file_name().to_str()?.parse().ok()?, cores.trim().to_owned()))
        })
        .collect();
    threads.sort_unstable();
    threads
}

#[test]
fn a_thread_that_only_reads_and_has_no_core_to_itself_makes_it_invalid() {
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        println!("skipped: there is one core, and both threads would starve");
        return;
    }
    let server = Server::start(Fault::None);
    let folder = Folder::new();
    let json = folder.file("run.json");
    let mut prepared = Command::new("nice");
    // The first thread has the publisher; the second one has nothing but a client, and shares its core with a busy loop
    // that goes first.
    prepared.args(["-n", "19", env!("CARGO_BIN_EXE_loadgen")]);
    prepared.args(short(&["--url", &server.room_url(), "--threads", "2", "--clients", "2", "--duration", "2s"]));
    prepared.arg("--json").arg(&json);
    let child = spawn(prepared);
    let pinned = |child: &Ending| threads(child).get(2).filter(|(_, cores)| cores.parse::<usize>().is_ok()).cloned();
    wait_until("two threads", || pinned(&child).is_some());
    let (_, core) = pinned(&child).unwrap();
    let busy = || {
        let mut command = Command::new("taskset");
        command.args(["-c", &core, "sh", "-c", "ulimit -t 10; while :; do :; done"]);
        Ending(command.stdin(Stdio::null()).spawn().expect("a busy loop"))
    };
    let loops = [busy(), busy(), busy()];
    let outcome = finish(child, Some(&json));
    drop(loops);
    invalid(&outcome, "it read messages up to ");
}

#[test]
fn a_rate_that_one_thread_cannot_send_is_not_the_servers_fault() {
    let server = Server::start(Fault::Sinks);
    let url = server.room_url();
    let outcome =
        loadgen(&short(&["--url", &url, "--clients", "1", "--threads", "1", "--rate", "1000000", "--size", "1000"]));
    match &outcome.run().verdict {
        Verdict::Invalid(reasons) => {
            assert!(reasons[0].contains("had not been sent when the run ended"), "{reasons:?}")
        }
        // It came to send everything in the end, and this server delivers nothing.
        Verdict::Failed(reasons) => {
            let told = reasons.iter().any(|reason| reason.starts_with("beside that, the load generator was bound"));
            assert!(told, "{reasons:?}");
        }
        Verdict::Sound => panic!("nothing was delivered"),
    }
    assert_eq!(outcome.code, Some(outcome.run().verdict.exit_code().into()));
}
