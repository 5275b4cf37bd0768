//! A load generator that can't lie: it shows the full cost of a stalled server, and doesn't blame its own lateness on
//! the server.

mod support;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use loadgen::results::Verdict;
use rustix::process::{Pid, Signal, kill_process};
use support::fault::{Fault, PAUSE};
use support::server::{Server, close_frame};
use support::{Ending, Folder, MESSAGES, Outcome, command, finish, loadgen, measure, short, spawn};

/// How often a run is repeated if this machine stalled, too.
const TRIES: usize = 3;
/// Time limit for any event that a test waits for.
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
    // A third of the messages fell due during the stall, and each had to wait for the rest of it.
    assert!((pause_us / 2..=pause_us * 12 / 10).contains(&corrected.p90_us), "p90 {}", corrected.p90_us);
    // A closed-loop tool would have sent one message during the stall, and seen one late one.
    assert!(uncorrected.p90_us < pause_us / 10, "uncorrected p90 {}", uncorrected.p90_us);
    assert!(about_the_pause.contains(&uncorrected.max_us), "uncorrected max {}", uncorrected.max_us);
    let left_out = corrected.count - uncorrected.count;
    assert!(left_out >= 500, "{left_out} deliveries are left out, of about a thousand that fell due during the stall");
    let slow_seconds = run.timeline.iter().filter(|second| second.max_us > pause_us / 2).count();
    assert!((1..=2).contains(&slow_seconds), "{:?}", run.timeline);
}

#[test]
fn a_message_arrives_with_its_last_byte() {
    let last = Fault::HoldsBack { member: 3, at: MESSAGES - 1 };
    let outcome = measure(|| Server::start(last.clone()), &short(&["--size", "20000"]));
    let run = outcome.sound();
    assert!(run.latency.max_us >= PAUSE.as_micros() as u64, "{}", run.latency.max_us);
    assert_eq!(run.latency.count, run.deliveries);
}

/// A run in which loadgen is stopped for a while, after `after_messages` published messages.
fn frozen(fault: Fault, args: &[&str], after_messages: u64, frozen: Duration) -> Outcome {
    let server = Server::start(fault);
    let folder = Folder::new();
    let json = folder.file("run.json");
    let mut prepared = command();
    prepared.args(short(&[&["--url", &server.room_url()], args].concat())).arg("--json").arg(&json);
    let child = spawn(prepared);
    wait_until("messages", || server.messages() >= after_messages);
    kill_process(pid(&child), Signal::STOP).unwrap();
    std::thread::sleep(frozen);
    kill_process(pid(&child), Signal::CONT).unwrap();
    finish(child, Some(&json))
}

const HALF_A_SECOND: Duration = Duration::from_millis(500);

#[test]
fn a_load_generator_that_was_stopped_for_a_while_is_invalid() {
    let outcome = frozen(Fault::None, &[], 40, HALF_A_SECOND);
    invalid(&outcome, "it sent messages up to ");
    assert!(outcome.stdout.contains("INVALID: load generator bound"), "{}", outcome.stdout);
}

#[test]
fn a_client_closed_as_too_slow_while_loadgen_was_stopped_is_not_the_servers_fault() {
    let fault = Fault::Sends { member: 3, at: 60, bytes: close_frame(4101, "too slow"), end: true };
    let outcome = frozen(fault, &[], 40, HALF_A_SECOND);
    invalid(&outcome, "1 clients were closed as too slow (4101), and may have been");
    let audit = &outcome.run().audit;
    assert_eq!((audit.closed, audit.closed_as_too_slow, audit.lost), (1, 1, 60), "{audit:?}");
}

#[test]
fn a_freeze_that_p99_does_not_show_is_told_below_the_latencies() {
    // Half a percent of the time.
    let (freeze, args) = (Duration::from_millis(20), ["--duration", "4s", "--clients", "2", "--rate", "500"]);
    let mut outcome = frozen(Fault::None, &args, 300, freeze);
    for _ in 1..TRIES {
        if outcome.code != Some(3) {
            break;
        }
        outcome = frozen(Fault::None, &args, 300, freeze);
    }
    let run = outcome.sound();
    let own = run.generator.own_tail.as_ref().expect("it was late");
    let late_us = own.sent_late_us.expect("messages fell due meanwhile");
    assert!(late_us >= 15_000 && own.quantiles.contains(&"max".to_owned()), "{own:?}");
    assert!(outcome.stdout.contains("max are caused by the load generator: it sent up to"), "{}", outcome.stdout);
}

#[test]
fn messages_that_arrive_while_loadgen_is_stopped_are_read_late() {
    // No message falls due while it is stopped, so its sends show nothing; the rest of one message arrives.
    let held = Fault::HoldsBack { member: 0, at: 1 };
    let args = ["--duration", "6s", "--warmup", "0s", "--clients", "2", "--rate", "0.5", "--size", "20000"];
    let outcome = frozen(held, &args, 2, PAUSE + Duration::from_millis(300));
    invalid(&outcome, "it read messages up to 1");
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
        println!("skipped: there is only one core, and both threads would starve");
        return;
    }
    let mut outcome = starved_reader();
    for _ in 1..TRIES {
        if !matches!(&outcome.run().verdict, Verdict::Invalid(reasons) if reasons[0].starts_with("it sent ")) {
            break;
        }
        outcome = starved_reader();
    }
    invalid(&outcome, "it read messages up to ");
}

/// A run whose second thread, which only reads, hardly gets its core.
fn starved_reader() -> Outcome {
    let server = Server::start(Fault::None);
    let folder = Folder::new();
    let json = folder.file("run.json");
    // The first thread has the publisher; the second one has only a client, and shares its core with busy loops of higher
    // priority.
    let mut prepared = command();
    prepared.args(short(&["--url", &server.room_url(), "--threads", "2", "--clients", "2", "--duration", "2s"]));
    prepared.arg("--json").arg(&json);
    let child = spawn(prepared);
    let pinned = |child: &Ending| threads(child).get(2).filter(|(_, cores)| cores.parse::<usize>().is_ok()).cloned();
    wait_until("two threads", || pinned(&child).is_some());
    let (reader, core) = pinned(&child).unwrap();
    let lowered = Command::new("renice").args(["-n", "19", "-p", &reader.to_string()]).stdout(Stdio::null()).status();
    assert!(lowered.expect("renice").success());
    let busy = || {
        let mut command = Command::new("taskset");
        command.args(["-c", &core, "sh", "-c", "ulimit -t 10; while :; do :; done"]);
        Ending(command.stdin(Stdio::null()).spawn().expect("a busy loop"))
    };
    let loops = [busy(), busy(), busy()];
    let outcome = finish(child, Some(&json));
    drop(loops);
    outcome
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
        // It managed to send everything in the end, and this server delivers nothing.
        Verdict::Failed(reasons) => {
            let told = reasons.iter().any(|reason| reason.starts_with("in addition, the load generator was bound"));
            assert!(told, "{reasons:?}");
        }
        Verdict::Sound => panic!("nothing was delivered"),
    }
    let run = outcome.run();
    assert_eq!(outcome.code, Some(run.verdict.exit_code().into()));
    // A million were due. The ones that were sent are lost, the others were never sent.
    let audit = &run.audit;
    assert_eq!((run.deliveries, run.deliveries_expected), (0, audit.lost), "{audit:?}");
    assert_eq!(audit.lost + audit.never_sent.min(1_000_000), 1_000_000, "{audit:?}");
}
