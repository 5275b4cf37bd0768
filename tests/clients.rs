//! `hi pub` and `hi rooms`: the internal port from the command line.

mod support;

use std::io::Write;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::internal::{File, Internal, hi};
use support::wire::TEXT;
use support::{PATIENCE, Server};

const BODY_BYTES_MAX: usize = 1 << 20;

#[test]
fn hi_pub_publishes_from_the_command_line() {
    let (server, Internal { address }) = Server::start_with_internal(&[]);
    let address = &address.to_string();
    let run = |args: &[&str], stdin: &str| hi(&[&["pub", "--internal", address], args].concat(), stdin);
    let (mut ann, mut raw) = (server.join("ann", "tea"), server.upgraded("/raw/a%2Fb"));
    let done = |outcome: (i32, String, String)| {
        assert_eq!((outcome.0, outcome.2.as_str()), (0, ""), "{outcome:?}");
        outcome.1
    };
    let said = done(run(&["tea", "a \"b\"\n"], ""));
    let seq = ann.expect_message("api", "a \"b\"\n")["Seq"].clone();
    assert_eq!(said, format!("Message {seq} of tea goes to 1 member.\n"));
    done(run(&["--from", "Robot 1", "tea", "-"], "two\nlines\n"));
    ann.expect_message("Robot 1", "two\nlines");
    done(run(&["tea"], "größer"));
    ann.expect_message("api", "größer");
    done(run(&["--raw", "a/b"], "as it is\n"));
    raw.expect_frame(TEXT, "as it is\n");
    assert_eq!(done(run(&["nowhere", "x"], "")), "Nobody is in nowhere: nobody got the message.\n");
    for (args, part) in [
        (&["a b", "x"][..], "white space"),
        (&["tea", "x", "--from", "#tea"], "--from"),
        (&["tea", "x", "--from", "Hi"], "--from"),
        (&["tea", ""], "The message is empty"),
        (&["tea", " \u{200b}\t"], "The message is empty"),
        (&["tea"], "The message is empty"),
        (&[], "Usage"),
    ] {
        let (code, stdout, stderr) = run(args, "");
        assert!((code, stdout.as_str()) == (2, "") && stderr.contains(part), "{stderr}");
    }
    // In a raw room, an empty payload is allowed.
    done(run(&["--raw", "a/b", ""], ""));
    raw.expect_frame(TEXT, "");
    let (code, _, stderr) = run(&["tea"], &"x".repeat(BODY_BYTES_MAX + 1));
    assert!(code == 2 && stderr.contains("1 MiB"), "{stderr}");
    // It fits as plain text but not as JSON, which the server has to report.
    let (code, _, stderr) = run(&["tea"], &"\"".repeat(BODY_BYTES_MAX - 10));
    assert!(code == 1 && stderr.starts_with("hi refused:") && stderr.contains("1 MiB"), "{stderr}");
}

#[test]
fn unwritable_output_is_a_failure_and_a_reader_that_left_is_not() {
    let (_server, Internal { address }) = Server::start_with_internal(&[]);
    let address = &address.to_string();
    for args in [&["pub", "--internal", address, "tea", "x"][..], &["rooms", "--internal", address]] {
        let run = |stdout: Stdio| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_hi"));
            let child = command.args(args).stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped()).spawn().unwrap();
            let output = child.wait_with_output().unwrap();
            (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
        };
        let (code, stderr) = run(std::fs::File::options().write(true).open("/dev/full").unwrap().into());
        assert_eq!(code, 74, "{args:?}: {stderr}");
        assert!(stderr.contains("standard output") && stderr.lines().count() == 1, "{args:?}: {stderr}");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        assert_eq!(run(writer.into()), (0, String::new()), "{args:?}");
    }
}

#[test]
fn hi_pub_waits_for_an_answer_within_a_time_limit() {
    // A server that sends a byte of its answer now and then, forever.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
        while stream.write_all(b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(200));
        }
    });
    let began = Instant::now();
    let (code, stdout, stderr) = hi(&["pub", "--internal", &address, "tea", "x"], "");
    assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
    assert!(stderr.contains("no whole answer within 10s"), "{stderr}");
    assert!(began.elapsed() < 3 * PATIENCE, "{:?}", began.elapsed());
}

#[test]
fn hi_pub_resolves_a_name() {
    let (_server, Internal { address }) = Server::start_with_internal(&[]);
    // Any name of this machine would do; this one exists everywhere.
    let by_name = format!("localhost:{}", address.port());
    let (code, stdout, stderr) = hi(&["pub", "--internal", &by_name, "tea", "x"], "");
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (0, "Nobody is in tea: nobody got the message.\n", ""));
}

#[test]
fn hi_rooms_lists_them() {
    let key = File::new("correct-horse-battery-staple\n");
    let (server, Internal { address }) = Server::start_with_internal(&["--api-key-file", key.path()]);
    let address = &address.to_string();
    let with_key = ["rooms", "--internal", address, "--api-key-file", key.path()];
    let run = |args: &[&str]| hi(&[&with_key, args].concat(), "");
    let nobody = |text: &str| (0, format!("{text}\n"), String::new());
    assert_eq!(run(&[]), nobody("Nobody is in any room."));
    let (_ann, _bob, _raw) =
        (server.join("ann", "tea"), server.join_quietly("bob", "tea"), server.websocket("/raw/data"));
    let (tea, data) = ("      2 members chat tea\n", "      1 member  raw  data\n");
    assert_eq!(run(&[]), (0, format!("{tea}{data}"), String::new()));
    assert_eq!(run(&["t"]), (0, tea.to_owned(), String::new()));
    assert_eq!(run(&["--raw"]), (0, data.to_owned(), String::new()));
    assert_eq!(run(&["x&y"]), nobody("Nobody is in any room whose name begins with x&y."));
    let (code, stdout, stderr) = hi(&["rooms", "--internal", address], "");
    assert!((code, stdout.as_str()) == (1, "") && stderr.contains("--api-key-file"), "{stderr}");
    // Something else answers there, or nothing.
    let (code, _, stderr) = hi(&["rooms", "--internal", &server.address().to_string()], "");
    assert!(code == 1 && stderr.contains("not the internal port"), "{stderr}");
    drop(server);
    let (code, _, stderr) = run(&[]);
    assert!(code == 1 && stderr.contains("is hi running"), "{stderr}");
    let (code, _, stderr) = hi(&["rooms", "--internal", "off"], "");
    assert!(code == 2 && stderr.contains("off"), "{stderr}");
    let (code, _, stderr) = hi(&["rooms", "--api-key-file", "/nowhere"], "");
    assert!(code == 2 && stderr.contains("/nowhere"), "{stderr}");
}
