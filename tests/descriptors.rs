//! File descriptors: too few to start, and what happens when all of them are in use.

#![allow(unsafe_code, reason = "a limit is set between fork and exec")]

mod support;

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, setrlimit};
use support::internal::Internal;
use support::wire::handshake;
use support::{PATIENCE, Server, hi, wait_while};

/// Enough for two shards, the internal port, and some connections.
const FEW_FILES: u64 = 150;
/// Enough for many shards.
const ENOUGH_FILES: u64 = 400;

/// The limit of open files, set between fork and exec.
fn limit_files(command: &mut Command, files: u64) {
    let set = move || Ok(setrlimit(Resource::Nofile, Rlimit { current: Some(files), maximum: Some(files) })?);
    // SAFETY: the closure makes one system call; it takes no lock and allocates nothing.
    unsafe { command.pre_exec(set) };
}

#[test]
fn a_low_file_limit_is_enough_or_is_reported_in_one_sentence() {
    let (mut refused, mut started) = (0, 0);
    // From too few to load the program, to enough for some connections.
    for files in 6..64 {
        let mut command = hi();
        command.args(["--listen", "127.0.0.1:0", "--shards", "2"]).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        limit_files(&mut command, files);
        let mut child = command.spawn().unwrap();
        let mut stderr = String::new();
        let mut pipe = std::io::BufReader::new(child.stderr.take().unwrap());
        std::io::BufRead::read_line(&mut pipe, &mut stderr).unwrap();
        if stderr.contains("hi is open") {
            started += 1;
            child.kill().unwrap();
            child.wait().unwrap();
            continue;
        }
        pipe.read_to_string(&mut stderr).unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.code(), Some(2), "{files} files: {stderr}");
        assert!(stderr.lines().count() == 1 && !stderr.contains("panicked"), "{files} files: {stderr}");
        assert!(stderr.contains("ulimit -n"), "{files} files: {stderr}");
        refused += 1;
    }
    assert!(refused > 0 && started > 0, "{refused} refused, {started} started");
}

#[test]
fn the_files_that_are_counted_beforehand_are_those_that_are_needed() {
    for (shards, addresses) in [(1, 1), (1, 3), (5, 1), (4, 3)] {
        let mut command = hi();
        command.args(["--internal", "127.0.0.1:0", "--public-url", "ws://127.0.0.1:1/ws", "--shards"]);
        command.arg(shards.to_string()).args(["--listen", "127.0.0.1:0"].repeat(addresses));
        limit_files(&mut command, ENOUGH_FILES);
        let server = Server::spawn(command);
        let line = server.wait_for_log("room for ");
        let room = line.split("room for ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok());
        let counted = ENOUGH_FILES - room.expect("a number");
        let open = files(&server) as u64;
        // For connections of the internal port, and one that waits at each listener.
        let reserved = 48 + (shards * addresses) as u64;
        let spare = counted.checked_sub(open + reserved);
        assert!(
            spare.is_some_and(|spare| spare < 20),
            "{open} open, {counted} counted, {shards} shards, {addresses} addresses"
        );
    }
}

/// A server that may have [`FEW_FILES`] open.
fn start_with_few_files(args: &[&str]) -> (Server, Internal) {
    let mut command = hi();
    command.args(["--listen", "127.0.0.1:0", "--internal", "127.0.0.1:0", "--shards", "2"]).args(args);
    limit_files(&mut command, FEW_FILES);
    let server = Server::spawn(command);
    let internal = server.internal();
    (server, internal)
}

/// Open files of the server that count: inherited ones may lie beyond the limit.
fn files(server: &Server) -> usize {
    let is_open = |fd: &u64| std::fs::exists(format!("/proc/{}/fd/{fd}", server.pid())).unwrap();
    (0..ENOUGH_FILES).filter(is_open).count()
}

/// Waits until no more files are open than before.
#[track_caller]
fn wait_for_files(server: &Server, before: usize) {
    wait_while(|| files(server) > before, || format!("{} files are open instead of {before}", files(server)));
}

#[test]
fn connected_clients_are_not_affected_when_descriptors_run_out() {
    let (server, internal) = start_with_few_files(&[]);
    let mut ann = server.join("ann", "tea");
    let mut bob = server.join("bob", "tea");
    ann.expect_message("#tea", "Welcome to tea, bob!");
    let before = files(&server);
    // More than fit, all at once.
    let mut waiting: Vec<_> = (0..200).map(|_| server.wire()).collect();
    waiting.iter_mut().for_each(|wire| wire.send(handshake("/raw/r")));
    server.wait_for_log("accepting pauses");
    for number in 0..60 {
        let (speaker, from) = if number % 2 == 0 { (&mut ann, "ann") } else { (&mut bob, "bob") };
        speaker.say("tea", &number.to_string());
        ann.expect_message(from, &number.to_string());
        bob.expect_message(from, &number.to_string());
    }
    // Every client connects as others leave, in whatever order the shards accept them.
    let deadline = Instant::now() + 2 * PATIENCE;
    while !waiting.is_empty() {
        assert!(Instant::now() < deadline, "{} still wait", waiting.len());
        waiting.retain_mut(|wire| {
            if !wire.has_something() {
                return true;
            }
            wire.expect_101();
            wire.expect_echo("here I am");
            false
        });
        std::thread::sleep(Duration::from_millis(5));
    }
    let pauses = internal.metric("hi_accept_pauses_total");
    assert!(pauses >= 1.0, "{pauses}");
    wait_for_files(&server, before);
    ann.say("tea", "descriptors ran out");
    bob.expect_message("ann", "descriptors ran out");
    server.wait_for_log("accepting pauses");
    let log = server.log();
    assert_eq!(log.matches("accepting pauses").count(), 1, "one line a minute, of all shards together: {log}");
}

#[test]
fn the_internal_port_answers_when_descriptors_run_out() {
    let (server, internal) = start_with_few_files(&["--handshake-timeout", "10m"]);
    let watched = |how: &str| {
        let began = Instant::now();
        for path in ["/healthz", "/readyz", "/metrics"].iter().cycle().take(30) {
            assert_eq!(internal.ask("GET", path, &[], b"").status, 200, "{path} {how}");
        }
        assert!(
            began.elapsed() < Duration::from_secs(8),
            "before a slow head's time is up: {:?} {how}",
            began.elapsed()
        );
    };
    let crowds: [(&str, &dyn Fn() -> String); 3] = [
        ("that say nothing", &String::new),
        ("with half a head", &|| handshake("/raw/r")[..40].to_owned()),
        ("that are upgraded", &|| handshake("/raw/r")),
    ];
    for (how, says) in crowds {
        let before = files(&server);
        let pauses = internal.metric("hi_accept_pauses_total");
        let mut crowd: Vec<_> = (0..150).map(|_| server.wire()).collect();
        crowd.iter_mut().for_each(|wire| wire.send(says()));
        wait_while(
            || internal.metric("hi_accept_pauses_total") == pauses,
            || format!("{} files are open, and accepting continues", files(&server)),
        );
        watched(how);
        // More slow heads than there are reserved files.
        let mut slow: Vec<_> = (0..60).map(|_| internal.wire()).collect();
        slow.iter_mut().for_each(|wire| wire.send("GET /healthz HTTP/1.1\r\nHo"));
        watched(how);
        drop((crowd, slow));
        wait_for_files(&server, before);
        assert!(server.get("/healthz").ends_with("ok"), "it recovers by itself");
        watched(how);
    }
}

#[test]
fn idle_connections_are_closed_when_descriptors_run_out() {
    let (server, _internal) = start_with_few_files(&["--keepalive-timeout", "1h"]);
    let ask = "GET /healthz HTTP/1.1\r\nHost: hi\r\n\r\n";
    let mut idle = Vec::new();
    // As many as fit; other connections are told that they end, or wait.
    for _ in 0..FEW_FILES {
        let mut wire = server.wire();
        wire.send(ask);
        if wire.answer().header("Connection") == Some("keep-alive") {
            idle.push(wire);
        }
    }
    assert!(idle.len() > 30, "{}", idle.len());
    // No client leaves by itself, and all of these get in.
    let mut members: Vec<_> = (0..30).map(|_| server.wire()).collect();
    for wire in &mut members {
        wire.send(handshake("/raw/r?echo=0"));
        wire.expect_101();
    }
    assert!(idle.iter().filter(|wire| wire.has_something()).count() >= 20, "idle ones were closed");
}
