//! Every bound bites and is counted: what `docs/limits.md` lists and no other test shows.

mod support;

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::internal::{self, File, Internal};
use support::wire::{BINARY, FIN, TEXT, frame, handshake, handshake_but};
use support::{Client, Server};

/// The value of the only sample of a counter with this code.
#[track_caller]
fn coded(internal: Internal, counter: &str, code: &str) -> f64 {
    internal.metric(&format!("{counter}{{code=\"{code}\"}}"))
}

/// Requests that were refused so far, by code.
#[track_caller]
fn expect_refused(internal: Internal, expected: [(&str, f64); 5]) {
    let counted = expected.map(|(code, _)| (code, coded(internal, "hi_refused_requests_total", code)));
    assert_eq!(counted, expected);
}

#[test]
fn refused_commands_of_2017_are_counted_by_what_was_wrong() {
    let (server, internal) = Server::start_with_internal(&["--max-rooms", "1", "--rate-limit", "0"]);
    let mut ann = server.join("ann", "tea");
    let mut bob = server.join("bob", "bar");
    let _other_bob = server.join_quietly("bob", "tea");
    ann.expect_message("#tea", "Welcome to tea, bob!");
    let refused = |client: &mut Client, text: &str, room: &str, part: &str| {
        client.say(room, text);
        let answer = client.json();
        assert!(answer["Message"].as_str().unwrap().contains(part), "{answer}");
    };
    refused(&mut ann, "hello", "nowhere", "does not exist");
    refused(&mut ann, "/leave nowhere", "tea", "does not exist");
    refused(&mut ann, "/leave bar", "tea", "not present");
    refused(&mut ann, "/join other", "tea", "1 room");
    refused(&mut ann, &format!("/join {}", "r".repeat(65)), "tea", "room name");
    refused(&mut ann, "/join", "tea", "Malformatted");
    refused(&mut ann, "/join tea", "tea", "already in room");
    ann.send_text("{");
    assert!(ann.json()["Message"].as_str().unwrap().contains("not JSON"));
    expect_refused(
        internal,
        [
            ("room_not_found", 2.0),
            ("name_taken", 1.0),
            ("too_many_rooms", 1.0),
            ("not_joined", 1.0),
            ("bad_request", 3.0),
        ],
    );
    // What is done is not counted.
    bob.say("bar", "/list");
    bob.expect_message("#bar", "bob");
    assert_eq!(coded(internal, "hi_refused_requests_total", "bad_request"), 3.0);
}

#[test]
fn refused_requests_of_v1_are_counted_by_their_code() {
    let args = ["--max-rooms", "1", "--rate-limit", "1", "--rate-burst", "7"];
    let (server, internal) = Server::start_with_internal(&args);
    let (mut ann, _) = server.join_v1("ann", "tea");
    ann.expect_message("#tea", "Welcome to tea, ann!");
    let (_bob, _) = server.join_v1("bob", "bar");
    for (request, code) in [
        (json!({"Op": "pub", "Room": "nowhere", "Message": "x"}), "room_not_found"),
        (json!({"Op": "leave", "Room": "bar"}), "not_joined"),
        (json!({"Op": "join", "Room": "tea"}), "name_taken"),
        (json!({"Op": "join", "Room": "other"}), "too_many_rooms"),
        (json!({"Op": "join", "Room": "a b"}), "bad_request"),
        (json!({"Op": "dance"}), "bad_request"),
    ] {
        let answer = ann.ask(&request);
        assert_eq!((&answer["Op"], &answer["Code"]), (&json!("err"), &json!(code)), "{answer}");
    }
    expect_refused(
        internal,
        [
            ("room_not_found", 1.0),
            ("name_taken", 1.0),
            ("too_many_rooms", 1.0),
            ("not_joined", 1.0),
            ("bad_request", 2.0),
        ],
    );
    // Beyond the rate, which is counted where the other dialects' is.
    let mut limited = 0;
    while limited == 0 {
        limited += usize::from(ann.ask(&json!({"Op": "ping"}))["Code"] == "too_many_requests");
    }
    assert_eq!(internal.metric("hi_rate_limited_total{dialect=\"v1\"}"), 1.0);
}

#[test]
fn raw_messages_beyond_their_rate_and_messages_that_are_too_large_are_counted() {
    let args = ["--raw-rate-limit", "1", "--rate-burst", "2", "--max-message", "1000"];
    let (server, internal) = Server::start_with_internal(&args);
    let mut raw = server.upgraded("/raw/data");
    (0..5).for_each(|_| raw.send(frame(FIN | BINARY, b"x")));
    raw.expect_frame(BINARY, "x");
    raw.expect_frame(BINARY, "x");
    internal.wait_for_metric("hi_received_bytes_total", 35.0);
    let (admitted, limited) = (
        internal.metric("hi_messages_in_total{dialect=\"raw\"}"),
        internal.metric("hi_rate_limited_total{dialect=\"raw\"}"),
    );
    assert!(admitted + limited == 5.0 && limited >= 1.0, "{admitted} and {limited}");
    let mut large = server.upgraded("/raw/data");
    large.send(frame(FIN | TEXT, &[b'x'; 1001]));
    large.expect_close(1009);
    assert_eq!(coded(internal, "hi_disconnects_total", "1009"), 1.0);
}

#[test]
fn handshakes_beyond_a_bound_are_counted_by_reason() {
    let (server, internal) = Server::start_with_internal(&["--handshake-timeout", "1s", "--raw", "off"]);
    let failures = |reason: &str| {
        let begin = format!("hi_handshake_failures_total{{reason=\"{reason}\"");
        let text = internal.metrics();
        let counts = text.lines().filter(|line| line.starts_with(&begin)).filter_map(|line| line.rsplit_once(' '));
        counts.map(|(_, count)| count.parse::<f64>().unwrap()).sum::<f64>()
    };
    let padding = format!("X-Padding: {}", "x".repeat(8192));
    let many: Vec<_> = (0..101).map(|number| format!("X-{number}: x")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    for (request, status, reason, count) in [
        (handshake_but("/ws?username=a", &[], &[&padding]), 431, "head_too_large", 1.0),
        (handshake_but("/ws?username=a", &[], &many), 431, "head_too_large", 2.0),
        (handshake(&format!("/ws?username={}", "u".repeat(80))), 400, "name_invalid", 1.0),
        (handshake(&format!("/ws?username=a&room={}", "r".repeat(65))), 400, "name_invalid", 2.0),
        (handshake("/raw/data"), 403, "raw_rooms_off", 1.0),
        ("GET /ws".to_owned(), 408, "head_timeout", 1.0),
    ] {
        assert_eq!(server.ask(&request).status, status, "{reason}");
        assert_eq!(failures(reason), count, "{reason}");
    }
}

#[test]
fn errors_of_the_internal_port_are_counted_by_code() {
    let key = File::new("correct-horse-battery-staple\n");
    let (_server, internal) = Server::start_with_internal(&["--api-key-file", key.path()]);
    let with_key = ("X-API-Key", "correct-horse-battery-staple");
    let body = br#"{"room":"tea","message":"x"}"#;
    let once = [with_key, ("Idempotency-Key", "k")];
    let count = |code: &str| coded(internal, "hi_internal_errors_total", code);
    assert_eq!(internal.ask("POST", "/api/publish", &once, body).status, 202);
    for (method, path, headers, body, code) in [
        ("POST", "/api/publish", &[][..], &body[..], "denied"),
        ("POST", "/api/publish", &[with_key], b"{", "bad_request"),
        ("GET", "/nothing", &[with_key], b"", "not_found"),
        ("GET", "/api/publish", &[with_key], b"", "method_not_allowed"),
        ("GET", "/api/rooms/tea", &[with_key], b"", "room_not_found"),
        ("POST", "/pub/tea", &[with_key], &vec![7; (1 << 20) + 1], "too_big"),
        ("POST", "/api/publish", &once, br#"{"room":"tea","message":"y"}"#, "key_reused"),
    ] {
        assert_eq!(count(code), 0.0);
        let answer: Value = serde_json::from_str(&internal.ask(method, path, headers, body).body).expect("JSON");
        assert_eq!(answer["error"]["code"], code, "{answer}");
        assert_eq!(count(code), 1.0, "{code}");
    }
}

#[test]
fn what_is_remembered_of_idempotency_keys_is_bounded_and_what_is_too_much_is_counted() {
    let (_server, internal) = Server::start_with_internal(&[]);
    // An answer names every room: a few hundred of them fill the memory.
    let rooms: Vec<_> = (0..1000).map(|number| format!("{number:0>64}")).collect();
    let body = json!({"rooms": rooms, "message": "x"}).to_string();
    let ask = |key: &str| internal.ask("POST", "/api/broadcast", &[("Idempotency-Key", key)], body.as_bytes()).status;
    let mut keys = 0;
    while ask(&keys.to_string()) == 202 {
        keys += 1;
        assert!(keys < 1000, "16 MiB of answers are remembered, and more");
    }
    assert!(keys > 100, "{keys}");
    assert_eq!(coded(internal, "hi_internal_errors_total", "too_many_keys"), 1.0);
    assert_eq!(ask("0"), 202, "what is remembered is answered");
    assert_eq!(internal.post("/api/publish", &json!({"room": "tea", "message": "x"})).0, 202, "and the port works");
}

#[test]
fn connections_to_the_internal_port_are_a_level() {
    let (_server, internal) = Server::start_with_internal(&[]);
    let health = internal::request("GET", "/healthz", &[], 0);
    let mut open: Vec<_> = (0..5).map(|_| internal.wire()).collect();
    for wire in &mut open {
        wire.send(&health);
        assert_eq!(wire.answer().body, "ok");
    }
    // Those, and the one that asks.
    assert_eq!(internal.metric("hi_internal_connections"), 6.0);
    drop(open);
    internal.wait_for_metric("hi_internal_connections", 1.0);
}

#[test]
fn rooms_that_wait_for_their_last_member_are_a_level() {
    let (server, internal) = Server::start_with_internal(&["--replay-age", "2s"]);
    let (mut ann, _) = server.join_v1("ann", "tea");
    ann.expect_message("#tea", "Welcome to tea, ann!");
    assert_eq!(internal.metric("hi_sleeping_rooms"), 0.0);
    assert_eq!(ann.ask(&json!({"Op": "leave", "Room": "tea"}))["Op"], "ok");
    assert_eq!(internal.metric("hi_sleeping_rooms"), 1.0);
    // Its time is up: that is no loss.
    internal.wait_for_metric("hi_sleeping_rooms", 0.0);
    assert_eq!(internal.metric("hi_sleeping_rooms_dropped_total"), 0.0);
}

#[test]
fn so_many_connections_have_a_place_and_the_next_waits_for_one() {
    let (_server, internal) = Server::start_with_internal(&[]);
    let health = internal::request("GET", "/healthz", &[], 0);
    // With a request that has begun, each keeps its place.
    let mut open: Vec<_> = (0..32).map(|_| internal.wire()).collect();
    for wire in &mut open {
        wire.send(&health);
        assert_eq!(wire.answer().body, "ok");
        wire.send(&health[..10]);
    }
    let mut next = internal.wire();
    next.send(&health);
    next.stream.set_read_timeout(Some(Duration::from_millis(1500))).unwrap();
    let waited = next.stream.read(&mut [0; 1]).expect_err("there is no place");
    assert!(matches!(waited.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{waited}");
    next.stream.set_read_timeout(Some(support::PATIENCE)).unwrap();
    drop(open.pop());
    assert_eq!(next.answer().body, "ok");
}

#[test]
fn who_asks_nothing_makes_room_for_who_does() {
    let (_server, internal) = Server::start_with_internal(&[]);
    let health = internal::request("GET", "/healthz", &[], 0);
    let mut open: Vec<_> = (0..32).map(|_| internal.wire()).collect();
    for (number, wire) in open.iter_mut().enumerate() {
        // Some have asked before, some never.
        if number % 2 == 0 {
            wire.send(&health);
            assert_eq!(wire.answer().body, "ok");
        }
    }
    let began = Instant::now();
    assert_eq!(internal.ask("GET", "/healthz", &[], b"").body, "ok");
    assert!(began.elapsed() < Duration::from_secs(15), "long before a minute of silence: {:?}", began.elapsed());
}

#[test]
fn a_request_that_never_ends_holds_its_place_for_a_bounded_time() {
    let (_server, internal) = Server::start_with_internal(&[]);
    let mut wire = internal.wire();
    wire.send("GET /healthz HTTP/1.1\r\n");
    wire.stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let began = Instant::now();
    // A byte now and then is no progress.
    let ended = loop {
        assert!(began.elapsed() < 2 * support::PATIENCE, "it is still listened to");
        let sent = wire.stream.write_all(b"x");
        let mut byte = [0; 1];
        match wire.stream.read(&mut byte) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) && sent.is_ok() => {}
            _ => break began.elapsed(),
        }
    };
    assert!(ended >= Duration::from_secs(19), "{ended:?}");
}

#[test]
fn a_body_that_stalls_is_told_so() {
    let (_server, internal) = Server::start_with_internal(&[]);
    let mut wire = internal.wire();
    wire.send(internal::request("POST", "/api/publish", &[], 100) + "{");
    let (status, body) = internal::json(&wire.answer_to("POST"));
    let error = &body["error"];
    assert_eq!((status, &error["code"], &error["temporary"]), (408, &json!("too_late"), &json!(true)), "{body}");
    assert_eq!(coded(internal, "hi_internal_errors_total", "too_late"), 1.0);
}
