//! The real hi, started by loadgen: every kind of run works, and every output is written.

mod support;

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::sync::{LazyLock, Once};
use std::time::{Duration, Instant};

use loadgen::results::{Run, Verdict};
use rustix::process::{Pid, Signal, kill_process_group};
use support::{Folder, Outcome, beside_each_other, command, finish, finish_within, loadgen, spawn};

/// How often a run is repeated if this machine was too busy.
const TRIES: usize = 3;

/// The first run without `--url` builds hi, which takes a while.
fn build_hi() {
    static BUILT: Once = Once::new();
    BUILT.call_once(|| {
        let mut first = command();
        first.args(["--idle", "--clients", "1", "--duration", "1s", "--quiet"]);
        let outcome = finish_within(spawn(first), None, Duration::from_secs(900));
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
    });
}

/// The path of that hi: asking cargo again takes longer than most runs.
fn hi() -> &'static str {
    build_hi();
    static HI: LazyLock<String> = LazyLock::new(|| {
        let beside = Path::new(env!("CARGO_BIN_EXE_loadgen")).with_file_name("hi");
        beside.to_str().expect("a path in UTF-8").to_owned()
    });
    &HI
}

/// Runs loadgen until it is not `INVALID`.
fn measure(args: &[&str]) -> Outcome {
    let args = [&["--hi", hi()], args].concat();
    let mut outcome = loadgen(&args);
    for _ in 1..TRIES {
        if outcome.code != Some(3) {
            break;
        }
        outcome = loadgen(&args);
    }
    outcome
}

#[test]
fn two_hundred_clients_get_everything_in_every_dialect() {
    beside_each_other(&["--chat", "--raw"], |dialect| {
        let outcome =
            measure(&[dialect, "--clients", "200", "--rate", "20", "--duration", "1s", "--warmup", "500ms", "--quiet"]);
        let run = outcome.sound();
        assert_eq!(run.deliveries, 200 * 20);
        assert_eq!(run.deliveries_expected, run.deliveries);
        assert_eq!(run.plan.dialect, dialect[2..]);
        assert_eq!(run.plan.clients, 200);
        assert_eq!(run.connects.count, 201);
        assert_eq!(run.connects.handshake.count, 201);
        let server = run.server.as_ref().expect("a private hi's process is known");
        assert!(server.cpu_us_per_delivery > 0.0 && server.cores > 0.0, "{server:?}");
        assert!(server.memory_bytes_per_connection > 0.0, "{server:?}");
        assert!(server.resident_bytes > 1 << 20, "{server:?}");
        assert!(run.latency.p50_us > 0 && run.latency.p50_us <= run.latency.p99_us);
        assert!(run.latency.p99_us <= run.latency.max_us);
        assert_eq!(outcome.stderr, "", "--quiet is quiet");
    });
}

#[test]
fn rooms_and_publishers() {
    let outcome = measure(&[
        "--raw",
        "--clients",
        "30",
        "--rooms",
        "3",
        "--publishers",
        "2",
        "--rate",
        "40",
        "--duration",
        "1s",
        "--warmup",
        "0s",
        "--size",
        "2000",
        "--quiet",
    ]);
    assert_eq!(outcome.sound().deliveries, 30 * 40);
}

#[test]
fn chat_clients_that_reconnect_are_no_false_alarm() {
    let outcome =
        measure(&["--clients", "50", "--churn", "30", "--rate", "50", "--duration", "2s", "--warmup", "0s", "--quiet"]);
    let run = outcome.sound();
    assert!(run.connects.handshake.count > 51 + 20, "{}", run.connects.handshake.count);
}

#[test]
fn chat_clients_of_v1_that_reconnect_get_everything_they_missed() {
    for kind in [&["--churn", "30"][..], &["--storm"]] {
        let args = ["--v1", "--clients", "50", "--publishers", "2", "--rate", "50", "--duration", "2s", "--quiet"];
        let outcome = measure(&[&args[..], kind].concat());
        let audit = &outcome.sound().audit;
        assert!(audit.recovered >= 20, "{audit:?}");
        assert_eq!((audit.lost, audit.holes, audit.unrecovered), (0, 0, 0), "{audit:?}");
        assert_eq!((audit.refused, audit.unanswered), (0, 0), "{audit:?}");
    }
}

#[test]
fn hi_survives_a_storm() {
    beside_each_other(&["--chat", "--raw"], |dialect| {
        let args =
            [dialect, "--clients", "100", "--storm", "--rate", "50", "--duration", "2s", "--warmup", "0s", "--quiet"];
        let outcome = measure(&args);
        let run = outcome.sound();
        let storm = run.storm.as_ref().expect("a storm");
        assert_eq!((storm.connections, storm.handshake.count), (100, 100));
        assert!(storm.seconds > 0.0 && storm.handshake.max_us > 0);
        let each_us = [run.connects.server_cpu_us_per_connection, storm.server_cpu_us_per_connection];
        assert!(each_us.iter().all(|us| us.is_some_and(|us| us > 0.0)), "{each_us:?}");
        assert!(run.deliveries > 100 * 50, "they had reconnected for the second half: {}", run.deliveries);
    });
}

#[test]
fn idle_connections_show_what_one_costs() {
    let outcome = measure(&["--idle", "--clients", "200", "--duration", "1s", "--quiet"]);
    let run = outcome.sound();
    assert_eq!((run.deliveries, run.deliveries_expected, run.plan.rate), (0, 0, 0.0));
    assert_eq!(run.connects.count, 200, "without a publisher");
    let cost = run.server.as_ref().expect("a private hi's process is known").memory_bytes_per_connection;
    assert!((100.0..200_000.0).contains(&cost), "{cost}");
}

#[test]
fn the_search_narrows_down_the_limit() {
    let outcome = loadgen(&[
        "--hi",
        hi(),
        "--raw",
        "--find-limit",
        "--slo",
        "10ms",
        "--clients",
        "10",
        "--rate",
        "2000",
        "--duration",
        "1s",
        "--warmup",
        "0s",
    ]);
    let run = outcome.run();
    // How much a debug build on a busy machine delivers doesn't matter here; the search has to make sense.
    assert!(!matches!(run.verdict, Verdict::Failed(_)), "{:?}", run.verdict);
    assert_eq!(outcome.code, Some(run.verdict.exit_code().into()));
    let limit = run.limit.as_ref().expect("a limit");
    assert_eq!(limit.slo_us, 10_000);
    let held = limit.steps.iter().filter(|step| step.held).map(|step| step.rate).fold(0.0, f64::max);
    let broken = limit.steps.iter().filter(|step| !step.held).map(|step| step.rate).fold(f64::INFINITY, f64::min);
    assert_eq!(limit.rate, held);
    assert!(broken.is_finite(), "it ends because a rate was too high: {limit:?}");
    assert!(limit.steps.iter().all(|step| step.held == step.reason.is_none()));
    assert!(limit.steps.iter().filter(|step| step.held).all(|step| step.p99_us <= limit.slo_us));
    assert_eq!(run.connects.handshake.count, 11, "whichever step is shown");
    let told = outcome.stderr.lines().filter(|line| line.starts_with("rate ")).count();
    assert_eq!(told, limit.steps.len(), "{}", outcome.stderr);
}

#[test]
fn every_output_is_written_and_a_pipe_gets_plain_lines() {
    build_hi();
    let folder = Folder::new();
    let names = ["run.json", "run.hgrm", "run.html", "run.svg"];
    let files = names.map(|name| folder.file(name).to_str().unwrap().to_owned());
    let [json, hgrm, html, svg] = &files;
    let mut prepared = command();
    prepared.args(["--clients", "20", "--rate", "50", "--duration", "1s", "--warmup", "100ms", "--name", "a name"]);
    prepared.args(["--json", json, "--hgrm", hgrm, "--html", html, "--svg", svg]);
    let outcome = finish(spawn(prepared), Some(Path::new(json)));
    let run: &Run = outcome.run();
    assert!(!matches!(run.verdict, Verdict::Failed(_)), "{:?}", run.verdict);
    assert_eq!(run.name, "a name");
    assert!(run.command.contains("--clients 20"), "{}", run.command);
    assert!(run.plan.target.starts_with("ws://127.0.0.1:"));
    for (file, begin) in [(hgrm, "       Value"), (html, "<!DOCTYPE html>"), (svg, "<svg")] {
        let text = std::fs::read_to_string(file).unwrap();
        assert!(text.to_lowercase().trim_start().starts_with(begin.to_lowercase().trim_start()), "{file}: {text:.100}");
    }
    for text in [&outcome.stdout, &outcome.stderr] {
        assert!(!text.contains(['\u{1b}', '\r']), "plain lines: {text:?}");
    }
    let headline = outcome.stdout.lines().next().unwrap();
    assert!(headline.contains("deliveries per second") && headline.contains("p99"), "{headline}");
    assert!(outcome.stderr.contains("a private hi"), "{}", outcome.stderr);
    for phase in ["connecting", "warming up", "measuring"] {
        assert!(outcome.stderr.lines().any(|line| line.starts_with(phase)), "{phase}: {}", outcome.stderr);
    }

    let (html, svg) = (folder.file("both.html"), folder.file("both.svg"));
    let mut prepared = command();
    prepared.args(["report", json, json, "--html", html.to_str().unwrap(), "--svg", svg.to_str().unwrap()]);
    let outcome = finish(spawn(prepared), None);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.stdout.contains("a name"), "{}", outcome.stdout);
    assert!(html.metadata().unwrap().len() > 0 && svg.metadata().unwrap().len() > 0);
}

/// Processes whose parent is this one.
fn children(parent: u32) -> Vec<u32> {
    let is_child = |pid: &u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().any(|line| line == format!("PPid:\t{parent}"))
    };
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_child).collect()
}

fn is_hi(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "hi")
}

#[test]
fn the_private_hi_ends_with_loadgen_even_if_loadgen_is_killed() {
    let mut prepared = command();
    prepared.args(["--hi", hi(), "--idle", "--clients", "5", "--duration", "60s"]);
    let mut child = spawn(prepared);
    let deadline = Instant::now() + Duration::from_secs(60);
    let server = loop {
        if let Some(pid) = children(child.0.id()).into_iter().find(|pid| is_hi(*pid)) {
            break pid;
        }
        assert!(Instant::now() < deadline, "hi starts");
        std::thread::sleep(Duration::from_millis(10));
    };
    child.0.kill().unwrap();
    child.0.wait().unwrap();
    while is_hi(server) {
        assert!(Instant::now() < deadline, "hi ends");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn ctrl_c_in_a_terminal_does_not_reach_the_private_hi() {
    let folder = Folder::new();
    let json = folder.file("run.json");
    let mut command = command();
    command.args(["--hi", hi(), "--clients", "5", "--rate", "50", "--warmup", "200ms", "--duration", "60s"]);
    command.arg("--json").arg(&json);
    // A process group of its own, as a shell gives each command: Ctrl-C goes to the whole group.
    command.process_group(0);
    let mut child = spawn(command);
    let mut lines = BufReader::new(child.0.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.starts_with("measuring")), "it measures");
    kill_process_group(Pid::from_child(&child.0), Signal::INT).unwrap();
    let rest = std::thread::spawn(move || lines.collect::<Vec<_>>().join("\n"));
    let status = child.0.wait().unwrap();
    let said = rest.join().unwrap();
    assert_eq!(status.code(), Some(130), "{said}");
    let run = loadgen::report::load(&json).unwrap();
    assert!(run.cut_short && run.audit.closed == 0 && run.audit.lost == run.audit.announced, "{:?}", run.audit);
    assert!(said.contains("ending the run"), "{said}");
}
