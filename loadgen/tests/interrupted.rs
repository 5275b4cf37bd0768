//! Ctrl-C and SIGTERM: the first one ends the run with a report; the second one quits. No file is left empty.

mod support;

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use loadgen::results::Verdict;
use rustix::process::{Pid, Signal, kill_process};
use support::fault::Fault;
use support::server::Server;
use support::{Ending, Folder, Outcome, command, finish, short, spawn};

/// Time limit for any event that a test waits for.
const PATIENCE: Duration = Duration::from_secs(40);

fn wait_until(what: &str, mut happened: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !happened() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn signal(child: &Ending, signal: Signal) {
    kill_process(Pid::from_child(&child.0), signal).unwrap();
}

const OUTPUTS: [&str; 4] = ["json", "hgrm", "html", "svg"];

/// A run that would take a minute, and writes every output.
fn long_run(url: &str, folder: &Folder, more: &[&str]) -> Command {
    let mut command = command();
    command.args(short(&[&["--url", url, "--duration", "60s"], more].concat()));
    for name in OUTPUTS {
        command.arg(format!("--{name}")).arg(folder.file(name));
    }
    command
}

fn files(folder: &Folder) -> Vec<PathBuf> {
    OUTPUTS.map(|name| folder.file(name)).into_iter().filter(|file| file.exists()).collect()
}

fn assert_cut_short(outcome: &Outcome, folder: &Folder, code: i32) {
    assert_eq!(outcome.code, Some(code), "{outcome:?}");
    let run = outcome.run();
    assert!(run.cut_short && run.seconds < 60.0, "{run:?}");
    assert!(!matches!(run.verdict, Verdict::Failed(_)), "{:?} {:?}", run.verdict, run.audit);
    assert!(outcome.stdout.contains("cut short after "), "{}", outcome.stdout);
    assert!(outcome.stderr.contains("ending the run; the report follows"), "{}", outcome.stderr);
    assert_eq!(files(folder).len(), OUTPUTS.len());
    assert!(files(folder).iter().all(|file| file.metadata().unwrap().len() > 0));
    assert!(std::fs::read_to_string(folder.file("html")).unwrap().contains("cut short after "));
}

#[test]
fn an_interrupted_run_reports_what_was_measured() {
    for (with, code, more) in [
        (Signal::INT, 130, &[][..]),
        (Signal::TERM, 143, &["--publishers", "7", "--rooms", "2"]),
        (Signal::INT, 130, &["--churn", "20"]),
    ] {
        let server = Server::start(Fault::None);
        let folder = Folder::new();
        let child = spawn(long_run(&server.room_url(), &folder, more));
        wait_until("messages", || server.messages() >= 150);
        signal(&child, with);
        let outcome = finish(child, Some(&folder.file("json")));
        assert_cut_short(&outcome, &folder, code);
        let run = outcome.run();
        assert!(run.deliveries > 0 && run.deliveries == run.deliveries_expected, "{run:?}");
        assert_eq!((run.audit.lost, run.audit.never_sent, run.audit.closed), (0, 0, 0), "{:?}", run.audit);
        assert_eq!(run.latency.count, run.deliveries);
    }
}

#[test]
fn losses_until_then_are_reported() {
    let server = Server::start(Fault::Drops { member: 3, every: 10 });
    let folder = Folder::new();
    let child = spawn(long_run(&server.room_url(), &folder, &[]));
    wait_until("messages", || server.messages() >= 150);
    signal(&child, Signal::INT);
    let outcome = finish(child, Some(&folder.file("json")));
    assert_eq!(outcome.code, Some(130), "{outcome:?}");
    let run = outcome.run();
    assert!(run.audit.lost >= 10 && run.deliveries < run.deliveries_expected, "{:?}", run.audit);
    assert!(outcome.stdout.contains("cut short after ") && outcome.stdout.contains("FAILED: "), "{}", outcome.stdout);
}

#[test]
fn idle_runs_rising_rates_and_storms_are_reported_too() {
    for more in [&["--idle"][..], &["--find-limit", "--slo", "30s"], &["--storm"], &["--warmup", "50s"]] {
        let server = Server::start(Fault::None);
        let folder = Folder::new();
        let child = spawn(long_run(&server.room_url(), &folder, more));
        let idle = more.contains(&"--idle");
        wait_until("the run", || if idle { server.members().len() >= 10 } else { server.messages() >= 50 });
        if idle {
            // All clients are connected: it holds them from now on, or will in a moment.
            std::thread::sleep(Duration::from_millis(500));
        }
        signal(&child, Signal::INT);
        let outcome = finish(child, Some(&folder.file("json")));
        assert_eq!(outcome.code, Some(130), "{more:?}: {outcome:?}");
        assert!(outcome.run().cut_short && outcome.stdout.contains("cut short"), "{more:?}: {}", outcome.stdout);
        assert_eq!(files(&folder).len(), OUTPUTS.len(), "{more:?}");
    }
}

#[test]
fn the_second_one_quits_and_leaves_no_empty_file() {
    let server = Server::start(Fault::None);
    let folder = Folder::new();
    let before = folder.file("html");
    std::fs::write(&before, "the last result").unwrap();
    let child = spawn(long_run(&server.room_url(), &folder, &[]));
    wait_until("messages", || server.messages() >= 30);
    // While stopped, it can't finish handling the first before the second arrives.
    signal(&child, Signal::STOP);
    signal(&child, Signal::INT);
    signal(&child, Signal::TERM);
    signal(&child, Signal::CONT);
    let outcome = finish(child, None);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(130), ""), "{outcome:?}");
    assert!(outcome.stderr.contains("there is no report"), "{}", outcome.stderr);
    assert_eq!(files(&folder), std::slice::from_ref(&before), "only what was there before");
    assert_eq!(std::fs::read_to_string(before).unwrap(), "the last result");
}

#[test]
fn the_first_one_quits_while_there_is_nothing_to_report() {
    let server = Server::start(Fault::NeverAnswers);
    let folder = Folder::new();
    let child = spawn(long_run(&server.room_url(), &folder, &[]));
    wait_until("a handshake", || server.handshakes() > 0);
    signal(&child, Signal::TERM);
    let outcome = finish(child, None);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(143), ""), "{outcome:?}");
    assert!(outcome.stderr.contains("nothing was measured yet"), "{}", outcome.stderr);
    assert!(files(&folder).is_empty(), "{:?}", files(&folder));
}

#[test]
fn a_run_that_cannot_begin_leaves_no_empty_file() {
    let server = Server::start(Fault::Answers("HTTP/1.1 404 Not Found\r\n\r\n"));
    let folder = Folder::new();
    let outcome = finish(spawn(long_run(&server.room_url(), &folder, &[])), None);
    outcome.refused();
    assert!(files(&folder).is_empty(), "{:?}", files(&folder));
}

#[test]
fn an_ignored_signal_stays_ignored() {
    let server = Server::start(Fault::None);
    let mut shell = Command::new("sh");
    // As a non-interactive shell does for background jobs.
    shell.args(["-c", "trap '' INT; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_loadgen")]);
    shell.args(short(&["--url", &server.room_url()]));
    let child = spawn(shell);
    wait_until("messages", || server.messages() >= 10);
    signal(&child, Signal::INT);
    let outcome = finish(child, None);
    assert!(outcome.code != Some(130) && !outcome.stdout.contains("cut short"), "{outcome:?}");
}
