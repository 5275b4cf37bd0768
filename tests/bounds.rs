//! Every bound of `docs/limits.md` takes effect and is counted, as far as no other test shows it.

mod support;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::internal::{self, File, Internal};
use support::wire::{BINARY, FIN, TEXT, Wire, frame, handshake, handshake_but};
use support::{Client, Server};

/// The value of the only sample of a counter with this code.
#[track_caller]
fn coded(internal: Internal, counter: &str, code: &str) -> f64 {
    internal.metric(&format!("{counter}{{code=\"{code}\"}}"))
}

/// Requests refused so far, by code.
#[track_caller]
fn expect_refused(internal: Internal, expected: [(&str, f64); 5]) {
    let counted = expected.map(|(code, _)| (code, coded(internal, "hi_refused_requests_total", code)));
    assert_eq!(counted, expected);
}

#[test]
fn refused_v0_commands_are_counted_by_reason() {
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
    // Commands that succeed are not counted.
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
    // Beyond the rate, counted like in other dialects.
    let mut limited = 0;
    while limited == 0 {
        limited += usize::from(ann.ask(&json!({"Op": "ping"}))["Code"] == "too_many_requests");
    }
    assert_eq!(internal.metric("hi_rate_limited_total{dialect=\"v1\"}"), 1.0);
}

#[test]
fn rate_limited_raw_messages_and_oversized_messages_are_counted() {
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
    let padding = format!("X-Padding: {}", "x".repeat(16_384));
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
fn memory_of_idempotency_keys_is_bounded_and_overflow_is_counted() {
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
    assert_eq!(ask("0"), 202, "known keys are answered");
    assert_eq!(internal.post("/api/publish", &json!({"room": "tea", "message": "x"})).0, 202, "and the port works");
}

#[test]
fn connections_to_the_internal_port_are_a_gauge() {
    let (_server, internal) = Server::start_with_internal(&[]);
    let health = internal::request("GET", "/healthz", &[], 0);
    let mut open: Vec<_> = (0..5).map(|_| internal.wire()).collect();
    for wire in &mut open {
        wire.send(&health);
        assert_eq!(wire.answer().body, "ok");
    }
    // Those, plus the one that asks.
    assert_eq!(internal.metric("hi_internal_connections"), 6.0);
    drop(open);
    internal.wait_for_metric("hi_internal_connections", 1.0);
}

#[test]
fn empty_rooms_are_a_gauge() {
    let (server, internal) = Server::start_with_internal(&["--replay-age", "2s"]);
    let (mut ann, _) = server.join_v1("ann", "tea");
    ann.expect_message("#tea", "Welcome to tea, ann!");
    assert_eq!(internal.metric("hi_sleeping_rooms"), 0.0);
    assert_eq!(ann.ask(&json!({"Op": "leave", "Room": "tea"}))["Op"], "ok");
    assert_eq!(internal.metric("hi_sleeping_rooms"), 1.0);
    // Its time is up, which is no loss.
    internal.wait_for_metric("hi_sleeping_rooms", 0.0);
    assert_eq!(internal.metric("hi_sleeping_rooms_dropped_total"), 0.0);
}

/// Connection slots of the internal port, and the number from which on answers end their connections.
const SLOTS: usize = 256;
const CROWDED_FROM: usize = 192;

#[test]
fn many_keep_alive_publishers_lose_nothing_and_are_told_before_a_connection_ends() {
    const ROUNDS: usize = 3;
    let (_server, internal) = Server::start_with_internal(&[]);
    let body = json!({"room": "tea", "message": "x"}).to_string();
    let publish = internal::request("POST", "/api/publish", &[], body.len()) + &body;
    let (mut ends, mut kept_max) = (0, 0);
    let mut wires: Vec<Option<Wire>> = (0..CROWDED_FROM + 40).map(|_| None).collect();
    for _ in 0..ROUNDS {
        for slot in &mut wires {
            let mut wire = slot.take().unwrap_or_else(|| internal.wire());
            wire.send(&publish);
            let answer = wire.answer_to("POST");
            assert_eq!(answer.status, 202, "{answer:?}");
            if answer.header("Connection") == Some("close") {
                ends += 1;
                wire.expect_end();
            } else {
                *slot = Some(wire);
            }
        }
        kept_max = kept_max.max(wires.iter().flatten().count());
        // Longer than an idle connection is kept while others wait for a slot; here none waits.
        assert!(wires.iter().flatten().next().expect("one that is kept").is_silent_for(Duration::from_millis(1100)));
    }
    assert!(ends > 0 && (40..CROWDED_FROM).contains(&kept_max), "{ends} ended, {kept_max} kept");
    let sent = (wires.len() * ROUNDS) as f64;
    assert_eq!(internal.metric("hi_messages_in_total{dialect=\"api\"}"), sent);
}

#[test]
fn slow_heads_free_their_slot_and_get_408() {
    let (_server, internal) = Server::start_with_internal(&[]);
    let health = internal::request("GET", "/healthz", &[], 0);
    let mut slow: Vec<_> = (0..SLOTS + 20).map(|_| internal.wire()).collect();
    for wire in &mut slow {
        wire.send(&health[..10]);
    }
    let began = Instant::now();
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(internal.ask("GET", path, &[], b"").status, 200);
    }
    assert!(began.elapsed() < Duration::from_secs(8), "long before a slow head's time is up: {:?}", began.elapsed());
    let told = slow.iter().filter(|wire| wire.has_something()).count();
    assert!((20..SLOTS).contains(&told), "{told}");
    for mut wire in slow {
        if wire.has_something() {
            let (status, body) = internal::json(&wire.answer());
            assert_eq!((status, &body["error"]["code"]), (408, &json!("too_late")), "{body}");
        } else {
            // It is not too late for the others.
            wire.send(&health[10..]);
            assert_eq!(wire.answer().status, 200);
        }
    }
}

#[test]
fn slow_bodies_free_their_slot_and_get_408() {
    let (_server, internal) = Server::start_with_internal(&[]);
    let publish = internal::request("POST", "/api/publish", &[], 100) + "{";
    let mut slow: Vec<_> = (0..SLOTS).map(|_| internal.wire()).collect();
    for wire in &mut slow {
        wire.send(&publish);
    }
    let began = Instant::now();
    assert_eq!(internal.ask("GET", "/healthz", &[], b"").body, "ok");
    assert!(began.elapsed() < Duration::from_secs(8), "long before a body's time is up: {:?}", began.elapsed());
    let told = slow.iter_mut().find(|wire| wire.has_something()).expect("one freed its slot");
    let answer = told.answer_to("POST");
    assert_eq!((answer.status, answer.header("Connection")), (408, Some("close")), "{answer:?}");
}

#[test]
fn idle_connections_free_their_slot_for_requests() {
    let (_server, internal) = Server::start_with_internal(&[]);
    let health = internal::request("GET", "/healthz", &[], 0);
    // Some have sent a request before, most never.
    let mut asked: Vec<_> = (0..10).map(|_| internal.wire()).collect();
    for wire in &mut asked {
        wire.send(&health);
        assert_eq!(wire.answer().header("Connection"), None, "there is a slot for another request");
    }
    let mut never: Vec<_> = (asked.len()..SLOTS).map(|_| internal.wire()).collect();
    let began = Instant::now();
    assert_eq!(internal.ask("GET", "/healthz", &[], b"").body, "ok");
    assert!(began.elapsed() < Duration::from_secs(15), "long before a minute of silence: {:?}", began.elapsed());
    for wire in &mut asked {
        wire.send(&health);
        assert_eq!(wire.answer().body, "ok", "one without a request goes first");
    }
    never.iter_mut().find(|wire| wire.has_something()).expect("one freed its slot").expect_end();
}

#[test]
fn an_idle_connection_to_the_internal_port_is_kept_until_its_timeout() {
    let (_server, internal) = Server::start_with_internal(&["--keepalive-timeout", "2s"]);
    let mut wire = internal.wire();
    let asked = Instant::now();
    wire.send(internal::request("GET", "/healthz", &[], 0));
    assert_eq!(wire.answer().body, "ok");
    wire.expect_end();
    assert!(asked.elapsed() >= Duration::from_millis(1900), "{:?}", asked.elapsed());
}

#[test]
fn an_endless_head_gets_408() {
    let (_server, internal) = Server::start_with_internal(&[]);
    let mut wire = internal.wire();
    let began = Instant::now();
    wire.send("GET /healthz HTTP/1.1\r\nX: ");
    // Single bytes now and then are no progress.
    while wire.is_silent_for(Duration::from_millis(100)) {
        assert!(began.elapsed() < 2 * support::PATIENCE, "it is still read");
        wire.send_what_is_taken(b"x");
    }
    assert!(began.elapsed() >= Duration::from_secs(9), "{:?}", began.elapsed());
    assert_eq!(wire.answer().status, 408);
    assert_eq!(coded(internal, "hi_internal_errors_total", "too_late"), 1.0);
}

#[test]
fn heads_to_the_internal_port_are_limited_to_16384_bytes() {
    let (_server, internal) = Server::start_with_internal(&[]);
    let head = |bytes: usize| {
        let begin = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nCookie: ";
        format!("{begin}{}\r\n\r\n", "x".repeat(bytes - begin.len() - 4))
    };
    let mut wire = internal.wire();
    for _ in 0..3 {
        wire.send(head(16_384));
        assert_eq!(wire.answer().body, "ok");
    }
    wire.send(head(16_385));
    let answer = wire.answer();
    let (status, body) = internal::json(&answer);
    assert_eq!((status, &body["error"]["code"]), (431, &json!("too_big")), "{body}");
    assert!(body["error"]["message"].as_str().unwrap().contains("16384 bytes"), "{body}");
    assert_eq!(answer.header("Connection"), Some("close"));
    assert_eq!(coded(internal, "hi_internal_errors_total", "too_big"), 1.0);
}

#[test]
fn large_bodies_take_turns() {
    let (_server, internal) = Server::start_with_internal(&[]);
    let publish = internal::request("POST", "/pub/data", &[], 100_000);
    // More than are read at the same time; none of them is complete.
    let mut stalled: Vec<_> = (0..30).map(|_| internal.wire()).collect();
    for wire in &mut stalled {
        wire.send(publish.clone() + &"x".repeat(50_000));
    }
    // A small body needs no turn.
    assert_eq!(internal.ask("POST", "/pub/data", &[], b"x").status, 202);
    for wire in &mut stalled {
        wire.send("x".repeat(50_000));
    }
    for wire in &mut stalled {
        assert_eq!(wire.answer_to("POST").status, 202);
    }
}

#[test]
fn a_stalled_body_gets_408() {
    let (_server, internal) = Server::start_with_internal(&[]);
    let mut wire = internal.wire();
    wire.send(internal::request("POST", "/api/publish", &[], 100) + "{");
    let (status, body) = internal::json(&wire.answer_to("POST"));
    let error = &body["error"];
    assert_eq!((status, &error["code"], &error["temporary"]), (408, &json!("too_late"), &json!(true)), "{body}");
    assert_eq!(coded(internal, "hi_internal_errors_total", "too_late"), 1.0);
}
