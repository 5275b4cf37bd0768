//! What keeps the internal port from starting, and what a build without the doctor says.

mod support;

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
    ] {
        let (code, _, stderr) = hi(command, "");
        assert_eq!((code, stderr.contains("built without its doctor")), (2, features == "none"), "{stderr}");
    }
}
