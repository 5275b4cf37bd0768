//! Whatever can't work is refused with exit code 2 before anything is measured, and before anything is connected if the
//! options alone show it.

mod support;

use std::io::ErrorKind;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::fault::Fault;
use support::server::Server;
use support::{Folder, Outcome, command, finish, loadgen, short, spawn};

/// Runs loadgen without the `--json` that other tests read.
fn run(args: &[&str]) -> Outcome {
    let mut command = command();
    command.args(args);
    finish(spawn(command), None)
}

/// A complaint is one line that ends like a sentence.
fn assert_sentence(complaint: &str) {
    assert_eq!(complaint.lines().count(), 1, "{complaint}");
    assert!(complaint.ends_with('.'), "{complaint}");
}

#[test]
fn bad_options_are_refused_before_connecting() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let in_rooms = format!("{url}{{room}}");
    let folder = Folder::new();
    let file = folder.file("twice").to_str().unwrap().to_owned();
    for (args, parts) in [
        (&["--chat", "--raw"][..], &["--chat", "--raw"][..]),
        (&["--raw", "--subscribe", "x"], &["--subscribe", "--raw"]),
        (&["--publish", "hello"], &["--publish", "{payload}"]),
        (&["--publish", "{payload}", "--rooms", "2"], &["--rooms", "{room}"]),
        (&["--url", "http://127.0.0.1:1/"], &["ws://"]),
        (&["--url", "wss://127.0.0.1:1/"], &["ws://"]),
        (&["--url", "ws:///path"], &["host"]),
        (&["--publish-url", "127.0.0.1:1"], &["ws://"]),
        (&["--url", "ws://127.0.0.1:1,wss://127.0.0.1:2"], &["wss://127.0.0.1:2", "ws://"]),
        (&["--url", "ws://127.0.0.1:1/a,ws://127.0.0.1:2/b", "--raw"], &["127.0.0.1:1/a", "127.0.0.1:2/b", "paths"]),
        (&["--url", "ws://127.0.0.1:1", "--url", "ws://127.0.0.1:1"], &["127.0.0.1:1", "twice"]),
        (&["--url", "ws://127.0.0.1:1,ws://127.0.0.1:2", "--server-pid", "1"], &["--server-pid", "--url"]),
        (&["--url", "ws://127.0.0.1:1,ws://127.0.0.1:2", "--publish-url", "ws://127.0.0.1:3"], &["--publish-url"]),
        (&["--url", "ws://127.0.0.1:1,ws://127.0.0.1:2", "--size", "1000"], &["--size", "768"]),
        (&["--url", "ws://127.0.0.1:1,ws://127.0.0.1:2", "--hi", "x"], &["--hi", "--url"]),
        (&["--hi", "/bin/true"], &["--hi", "--url"]),
        (&["--shards", "2"], &["--shards"]),
        (&["--server-pid", "4000000000"], &["--server-pid", "4000000000"]),
        (&["--slo", "5ms"], &["--slo", "--find-limit"]),
        (&["--idle", "--find-limit"], &["--idle", "--find-limit"]),
        (&["--idle", "--storm"], &["--idle", "--storm"]),
        (&["--storm", "--find-limit"], &["--storm", "--find-limit"]),
        (&["--churn", "5", "--storm"], &["--churn", "--storm"]),
        (&["--churn", "-1"], &["--churn"]),
        (&["--clients", "0"], &["--clients"]),
        (&["--rooms", "0"], &["--rooms"]),
        (&["--rooms", "1001"], &["--rooms"]),
        (&["--publishers", "0"], &["--publishers"]),
        (&["--publishers", "200"], &["--rate", "--publishers"]),
        (&["--rate", "0"], &["--rate"]),
        (&["--rate", "NaN"], &["--rate"]),
        (&["--rate", "0.01"], &["--rate", "--duration"]),
        (&["--size", "3"], &["--size"]),
        (&["--size", "2000000"], &["--size"]),
        (&["--duration", "10ms"], &["--duration"]),
        (&["--slow", "100%"], &["--slow"]),
        (&["--slow", "some"], &["--slow"]),
        (&["--threads", "0"], &["--threads"]),
        (&["--json", &file, "--html", &file], &["--json", "--html"]),
    ] {
        let in_room = if parts.contains(&"{room}") { &url } else { &in_rooms };
        let url = if args.contains(&"--url") { &[][..] } else { &["--url", in_room] };
        let outcome = run(&[url, args].concat());
        let complaint = outcome.refused();
        assert!(complaint.starts_with("error: ") || complaint.lines().count() == 1, "{args:?}: {complaint}");
        assert!(parts.iter().all(|part| complaint.contains(part)), "{args:?}: {complaint}");
    }
    for args in [&["--rate", "fast"][..], &["--no-such-option"], &["--duration", "soon"]] {
        let outcome = run(&[&["--url", &url], args].concat());
        assert!(outcome.refused().starts_with("error: "), "{outcome:?}");
    }
    listener.set_nonblocking(true).unwrap();
    assert_eq!(listener.accept().map(drop).unwrap_err().kind(), ErrorKind::WouldBlock, "nobody may have connected");
    assert!(!folder.file("twice").exists(), "nothing may have been written");
}

#[test]
fn options_for_a_running_server_need_a_url() {
    for (args, parts) in [
        (&["--subscribe", "x"][..], &["--subscribe", "--url"][..]),
        (&["--publish", "{payload}"], &["--publish", "--url"]),
        (&["--publish-url", "ws://127.0.0.1:1"], &["--publish-url", "--url"]),
        (&["--server-pid", "1"], &["--server-pid", "--url"]),
        (&["--shards", "0"], &["--shards"]),
        (&["--hi", "/nowhere/hi"], &["/nowhere/hi"]),
    ] {
        let outcome = run(args);
        outcome.refused();
        assert!(parts.iter().all(|part| outcome.stderr.contains(part)), "{args:?}: {}", outcome.stderr);
    }
    // A program that isn't hi ends without printing an address.
    let outcome = run(&["--hi", "/bin/true"]);
    assert!(outcome.refused().contains("/bin/true did not start"), "{outcome:?}");
}

#[test]
fn unwritable_files_are_reported_before_connecting() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    for option in ["--json", "--hgrm", "--html", "--svg"] {
        for path in ["/nowhere/file", "/"] {
            let outcome = run(&["--url", &url, option, path]);
            assert_sentence(outcome.refused());
            assert!(outcome.stderr.starts_with(&format!("{path} can't be written: ")), "{}", outcome.stderr);
        }
    }
    let outcome = run(&["report", "/nowhere/run.json", "--html", "/nowhere/file"]);
    assert_sentence(outcome.refused());
    listener.set_nonblocking(true).unwrap();
    assert_eq!(listener.accept().map(drop).unwrap_err().kind(), ErrorKind::WouldBlock, "nobody may have connected");
}

#[test]
fn outputs_that_would_overwrite_each_other_are_refused() {
    let folder = Folder::new();
    let path = |name: &str| folder.file(name).to_str().unwrap().to_owned();
    let (one, other, run_file) = (path("one"), path("other"), path("run.json"));
    std::os::unix::fs::symlink(&one, &other).unwrap();
    let expect_same = |outcome: Outcome| {
        assert_sentence(outcome.refused());
        assert!(outcome.stderr.contains("are the same file"), "{}", outcome.stderr);
    };
    expect_same(run(&["--url", "ws://127.0.0.1:1/", "--json", &one, "--html", &other]));
    let server = Server::start(Fault::None);
    let ran = run(&short(&["--url", &server.room_url(), "--json", &run_file]));
    assert_ne!(ran.code, Some(2), "{ran:?}");
    let before = std::fs::read(&run_file).unwrap();
    expect_same(run(&["report", &run_file, "--html", &run_file]));
    expect_same(run(&["report", &run_file, "--html", &one, "--svg", &other]));
    assert_eq!(std::fs::read(&run_file).unwrap(), before, "the run is still there");
}

#[test]
fn files_are_written_even_if_stdout_is_not() {
    let folder = Folder::new();
    let file = folder.file("run.json");
    let server = Server::start(Fault::None);
    let url = server.room_url();
    let args = short(&["--url", &url, "--json", file.to_str().unwrap()]);
    for (device, codes) in [("/dev/full", &[2][..]), ("closed", &[0, 3])] {
        let stdout = match device {
            "closed" => Stdio::from(std::io::pipe().unwrap().1),
            device => Stdio::from(std::fs::File::create(device).unwrap()),
        };
        std::fs::write(&file, "").unwrap();
        let output = command().args(&args).stdout(stdout).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code().is_some_and(|code| codes.contains(&code)), "{device}: {output:?}");
        assert_eq!(said.contains("stdout can't be written"), device == "/dev/full", "{said}");
        assert!(serde_json::from_slice::<loadgen::results::Run>(&std::fs::read(&file).unwrap()).is_ok());
    }
    let mut silent = command();
    silent.args(["--rooms", "1001"]).stderr(std::fs::File::create("/dev/full").unwrap());
    assert_eq!(silent.status().unwrap().code(), Some(2), "a complaint that can't be made is no panic");
}

#[test]
fn help_that_cannot_be_written_is_an_error_and_a_reader_that_left_is_not() {
    for args in [&["--help"][..], &["-h"], &["--version"], &["report", "--help"], &["help"]] {
        let to = |stdout: Stdio| command().args(args).stdout(stdout).output().unwrap();
        let lost = to(std::fs::File::create("/dev/full").unwrap().into());
        let said = String::from_utf8_lossy(&lost.stderr);
        assert_eq!(lost.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains("stdout can't be written: No space left"), "{args:?}: {said}");
        assert_sentence(said.trim_end());
        let left = to(std::io::pipe().unwrap().1.into());
        assert_eq!((left.status.code(), &*left.stderr), (Some(0), &[][..]), "{args:?}");
        assert_eq!(run(args).code, Some(0), "{args:?}");
    }
    let mut silent = command();
    silent.arg("--no-such-option").stderr(std::fs::File::create("/dev/full").unwrap());
    assert_eq!(silent.status().unwrap().code(), Some(2));
}

#[test]
fn a_run_that_fails_leaves_the_last_result_alone() {
    let folder = Folder::new();
    let file = folder.file("run.json");
    std::fs::write(&file, "the last result").unwrap();
    let outcome = run(&["--url", "ws://127.0.0.1:1/", "--json", file.to_str().unwrap()]);
    outcome.refused();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "the last result");
    // And a shorter result leaves nothing of a longer one.
    std::fs::write(&file, "x".repeat(10_000_000)).unwrap();
    let server = Server::start(Fault::None);
    let outcome = run(&short(&["--url", &server.room_url(), "--json", file.to_str().unwrap()]));
    assert_ne!(outcome.code, Some(2), "{outcome:?}");
    let text = std::fs::read(&file).unwrap();
    assert!(serde_json::from_slice::<loadgen::results::Run>(&text).is_ok());
}

#[test]
fn an_unreachable_target_is_reported_in_a_sentence() {
    let port = {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        listener.local_addr().unwrap().port()
    };
    let outcome = loadgen(&["--url", &format!("ws://127.0.0.1:{port}/")]);
    assert_sentence(outcome.refused());
    let begin = format!("127.0.0.1:{port} can't be reached at 127.0.0.1:{port}: Connection refused");
    assert!(outcome.stderr.starts_with(&begin), "{}", outcome.stderr);
    let outcome = loadgen(&["--url", "ws://no-such-host.invalid/"]);
    assert_sentence(outcome.refused());
    assert!(outcome.stderr.starts_with("no-such-host.invalid can't be resolved: "), "{}", outcome.stderr);
}

#[test]
fn an_answer_other_than_101_is_shown() {
    let refusals = [
        (
            "HTTP/1.1 403 Forbidden\r\nContent-Length: 21\r\n\r\nYou are not on a list",
            &["403 Forbidden", "You are not on a list"][..],
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<h1>Welcome</h1>\u{1b}[2J",
            &["200 OK", "<h1>Welcome</h1>"],
        ),
        ("HTTP/1.1 404 Not Found\r\n\r\n", &["404 Not Found", "without a body"]),
    ];
    for (answer, parts) in refusals {
        let server = Server::start(Fault::Answers(answer));
        let outcome = loadgen(&short(&["--url", &server.room_url()]));
        let complaint = outcome.refused();
        assert!(
            complaint.contains("doesn't open a WebSocket at /room/loadgen-0?client=loadgen-preflight"),
            "{complaint}"
        );
        assert!(parts.iter().all(|part| complaint.contains(part)), "{complaint}");
        assert!(!complaint.contains('\u{1b}'), "a terminal would obey it: {complaint:?}");
        assert_eq!(server.handshakes(), 1, "one is enough to know");
    }
    let server = Server::start(Fault::WrongAccept);
    let outcome = loadgen(&short(&["--url", &server.room_url()]));
    assert!(outcome.refused().contains("Sec-WebSocket-Accept"), "{}", outcome.stderr);
}

#[test]
fn a_target_that_never_answers_is_not_waited_for_long() {
    let server = Server::start(Fault::NeverAnswers);
    let outcome = loadgen(&short(&["--url", &server.room_url()]));
    assert_sentence(outcome.refused());
    assert!(outcome.stderr.contains("gave no answer"), "{}", outcome.stderr);
}

#[test]
fn a_target_that_never_stops_talking_is_cut_off() {
    let server = Server::start(Fault::Floods);
    let began = Instant::now();
    let outcome = loadgen(&short(&["--url", &server.room_url(), "--clients", "1"]));
    assert_eq!(outcome.run().audit.lost, support::MEASURED, "it broadcasts nothing");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[test]
fn a_target_that_accepts_only_some_clients_fails_the_run_with_its_reason() {
    for (fault, part) in [
        (Fault::Full { after: 6 }, "the handshake was refused: HTTP/1.1 503 Service Unavailable"),
        (Fault::ClosesAtOnce { after: 6 }, "the server closed: 1013 try again later"),
    ] {
        let server = Server::start(fault.clone());
        let outcome = loadgen(&short(&["--url", &server.room_url()]));
        let complaint = outcome.refused();
        assert!(complaint.starts_with("client ") || complaint.starts_with("publisher "), "{fault:?}: {complaint}");
        assert!(complaint.contains(part), "{fault:?}: {complaint}");
        assert!(!complaint.contains("panicked"), "{complaint}");
    }
}

#[test]
fn a_low_file_limit_is_reported_with_the_command_that_raises_it() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let mut command = Command::new("prlimit");
    command.args(["--nofile=300:300", env!("CARGO_BIN_EXE_loadgen"), "--clients", "500", "--url", &url]);
    let outcome = finish(spawn(command), None);
    let complaint = outcome.refused();
    assert_sentence(complaint);
    // 500 clients, a publisher, and some other files.
    assert!(complaint.starts_with("500 clients need 565 open files and the limit is 300 (hard: 300): "), "{complaint}");
    assert!(complaint.contains("`ulimit -Hn 565 && ulimit -n 565`"), "{complaint}");
    listener.set_nonblocking(true).unwrap();
    assert_eq!(listener.accept().map(drop).unwrap_err().kind(), ErrorKind::WouldBlock, "nobody may have connected");
}

#[test]
fn a_soft_file_limit_is_raised() {
    let server = Server::start(Fault::None);
    let mut command = Command::new("prlimit");
    command.args(["--nofile=40:2000", env!("CARGO_BIN_EXE_loadgen")]);
    command.args(short(&["--url", &server.room_url(), "--clients", "50", "--rate", "10"]));
    let outcome = finish(spawn(command), None);
    assert!(matches!(outcome.code, Some(0 | 3)), "{outcome:?}");
}
