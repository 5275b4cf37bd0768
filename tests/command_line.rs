//! What keeps the internal port from starting, what a build without the doctor says, and `hi health`.

mod support;

use std::io::Write;
use std::net::TcpListener;
use std::time::Duration;

use rustix::process::Signal;
use support::Server;
use support::internal::{File, Internal, hi};

#[test]
fn a_failure_to_open_the_internal_port_is_one_sentence() {
    let (_server, Internal { address }) = Server::start_with_internal(&[]);
    let (empty, short) = (File::new("\n"), File::new("short\n"));
    let taken = address.to_string();
    for (args, parts) in [
        (["--internal", taken.as_str()], &["--internal ADDR:PORT", "--internal off", taken.as_str()][..]),
        (["--internal", "192.0.2.1:0"], &["no interface", "--internal off"]),
        (["--api-key-file", "/nowhere"], &["/nowhere", "--api-key-file"]),
        (["--api-key-file", empty.path()], &["no key", "openssl rand"]),
        (["--api-key-file", short.path()], &["is no key", "openssl rand"]),
    ] {
        let (code, stdout, stderr) = hi(&[&["--listen", "127.0.0.1:0", "--shards", "1"], &args[..]].concat(), "");
        assert_eq!((code, stdout.as_str(), stderr.lines().count()), (2, "", 1), "{stderr}");
        assert!(parts.iter().all(|part| stderr.contains(part)), "{stderr}");
        assert!(!stderr.contains("short\n"), "{stderr}");
    }
    let (code, _, stderr) = hi(&["--internal", "8081"], "");
    assert!(code == 2 && stderr.contains("or off"), "{stderr}");
}

#[test]
fn a_reachable_port_without_a_key_is_warned_about_and_off_is_off() {
    let server = Server::start(&["--internal", "0.0.0.0:0"]);
    server.wait_for_log("asks for no key");
    let server = Server::start(&["--internal", "off"]);
    server.wait_for_log("file limit");
    assert!(!server.log().contains("internal port"), "{}", server.log());
}

#[test]
fn a_build_without_the_doctor_is_told_apart() {
    let features = if cfg!(feature = "doctor") { "doctor" } else { "none" };
    let version = format!("hi {} (features: {features}; backend here: io_uring)\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(hi(&["--version"], ""), (0, version, String::new()));
    for command in [
        &["doctor", "not-an-address"][..],
        &["checklist", "before", "not-an-address"],
        &["pub", "a room", "x"],
        &["rooms", "--internal", "off"],
        &["chat", "not-an-address", "--name", "ada"],
        &["tail", "not-an-address", "tea"],
    ] {
        let (code, _, stderr) = hi(command, "");
        assert_eq!((code, stderr.contains("built without its doctor")), (2, features == "none"), "{stderr}");
    }
}

/// Runs `hi health` with these arguments and this value of `HI_INTERNAL`.
fn health(args: &[&str], variable: &str) -> (i32, String, String) {
    let mut command = support::hi();
    command.arg("health").args(args).env("HI_INTERNAL", variable);
    let output = support::run(command);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn health_says_whether_a_server_is_ready() {
    let (mut server, Internal { address }) = Server::start_with_internal(&[]);
    let ready = (0, "ready\n".to_owned(), String::new());
    assert_eq!(health(&[&address.to_string()], ""), ready);
    assert_eq!(health(&[&format!("http://{address}/")], "off"), ready, "an argument wins over the environment");
    assert_eq!(health(&[], &address.to_string()), ready);
    assert_eq!(health(&[], &format!("0.0.0.0:{}", address.port())), ready, "all addresses include loopback");
    // One that never answers keeps the server from ending at once.
    let mut silent = server.upgraded("/raw/r");
    server.signal(Signal::TERM);
    silent.expect_close(1001);
    let (code, stdout, stderr) = health(&[], &address.to_string());
    assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
    assert!(stderr.starts_with("not ready: The server stops") && stderr.lines().count() == 1, "{stderr}");
    drop(silent);
    server.wait();
    let (code, _, stderr) = health(&[], &address.to_string());
    assert!(code == 1 && stderr.contains("refused") && stderr.contains("is hi running"), "{stderr}");
}

#[test]
fn health_of_what_is_no_internal_port_is_one_sentence() {
    let server = Server::start(&[]);
    let (code, _, stderr) = health(&[&server.address().to_string()], "");
    assert!(code == 1 && stderr.contains("not the internal port of hi"), "{stderr}");
    // One connects, and is never answered; the other gets a byte now and then.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let dripping = std::thread::spawn(move || {
        let (silent, _) = listener.accept().unwrap();
        let (mut dripping, _) = listener.accept().unwrap();
        while dripping.write_all(b"H").is_ok() {
            std::thread::sleep(Duration::from_millis(100));
        }
        drop(silent);
    });
    for _ in 0..2 {
        let (code, _, stderr) = health(&[&address], "");
        assert!(code == 1 && stderr.contains("no whole answer within 2s"), "{stderr}");
    }
    dripping.join().unwrap();
    for (argument, part) in
        [("off", "is off"), ("8081", "not an address"), ("https://127.0.0.1:8081", "not an address")]
    {
        let (code, _, stderr) = health(&[argument], "");
        assert!(code == 2 && stderr.contains(part), "{argument}: {stderr}");
    }
}
