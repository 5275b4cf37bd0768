//! Handshakes that fail: the status, what the client is told, and what the log says.

mod support;

use serde_json::Value;
use support::Server;
use support::listener::Listener;
use support::wire::{KEY, Wire, handshake, handshake_but};

/// The longest request head, in bytes.
const HEAD_BYTES_MAX: usize = 16_384;
const PATH: &str = "/raw/refusals";

/// A handshake for [`PATH`] without the headers named in `without`, and with those in `with`.
fn changed(without: &[&str], with: &[&str]) -> String {
    handshake_but(PATH, without, with)
}

#[test]
fn a_head_beyond_the_limits_is_431() {
    let many: Vec<_> = (0..96).map(|number| format!("X-{number}: {number}")).collect();
    let many = changed(&[], &many.iter().map(String::as_str).collect::<Vec<_>>());
    let endless = format!("GET {PATH} HTTP/1.1\r\nHost: hi\r\nCookie: {}", "x".repeat(1 << 20));
    let (long, line) = (
        changed(&[], &[&format!("X-Padding: {}", "x".repeat(HEAD_BYTES_MAX))]),
        format!("GET /{} ", "x".repeat(HEAD_BYTES_MAX)),
    );
    for (request, says) in
        [(&long, "16384 bytes"), (&many, "more than 100 headers"), (&endless, "16384 bytes"), (&line, "16384 bytes")]
    {
        // Each on a fresh server: failures of the same kind are logged once a minute.
        let server = Server::start(&[]);
        let mut wire = server.wire();
        // hi reads only the beginning of an endless head.
        wire.send_what_is_taken(request.as_bytes());
        let answer = wire.answer();
        assert_eq!((answer.status, answer.header("Connection")), (431, Some("close")), "{}", answer.body);
        assert!(answer.body.contains(says), "{}", answer.body);
        let logged = server.wait_for_log(&refused(&wire));
        assert!(logged.contains(says), "{logged}");
    }
}

/// The start of the log line about this connection.
fn refused(wire: &Wire) -> String {
    format!("handshake from {} refused: ", wire.stream.local_addr().unwrap())
}

/// A request that is no handshake: its description, the status, the reason in the log, what body and log report as
/// missing, and what they must not mention.
struct Failure {
    request: String,
    status: u16,
    reason: &'static str,
    missing: &'static [&'static str],
    intact: &'static [&'static str],
}

fn failures() -> Vec<Failure> {
    const UPGRADE: &str = "Upgrade: websocket (absent)";
    const CONNECTION: &str = "Connection: Upgrade (absent)";
    const KEY_MISSING: &str = "one Sec-WebSocket-Key that is base64 of 16 bytes (absent)";
    let failure =
        |request: String, status, reason, missing, intact| Failure { request, status, reason, missing, intact };
    vec![
        failure(changed(&["Upgrade"], &[]), 426, "upgrade_stripped", &[UPGRADE], &["Connection: Upgrade (", "base64"]),
        failure(changed(&["Connection"], &[]), 426, "connection_stripped", &[CONNECTION], &["Upgrade: websocket ("]),
        failure(
            changed(&["Connection"], &["Connection: close"]),
            426,
            "connection_stripped",
            &["Connection: Upgrade (arrived: \"close\")"],
            &["Upgrade: websocket ("],
        ),
        failure(
            changed(&["Upgrade", "Connection"], &[]),
            426,
            "upgrade_stripped",
            &[UPGRADE, CONNECTION],
            &["base64", "Sec-WebSocket-Version: 13 ("],
        ),
        failure(
            changed(&[], &[]).replace("HTTP/1.1", "HTTP/1.0"),
            426,
            "http10_hop",
            &["HTTP/1.1 (arrived: HTTP/1.0)"],
            &["Upgrade: websocket (", "Connection: Upgrade ("],
        ),
        failure(
            changed(&["Sec-WebSocket-Version"], &["Sec-WebSocket-Version: 8"]),
            426,
            "version_unsupported",
            &["Sec-WebSocket-Version: 13 (arrived: \"8\")"],
            &["Upgrade: websocket (", "base64"],
        ),
        failure(changed(&["Sec-WebSocket-Key"], &[]), 400, "key_missing", &[KEY_MISSING], &["Upgrade: websocket ("]),
        failure(
            changed(&["Sec-WebSocket-Key"], &["Sec-WebSocket-Key: c2hvcnQ="]),
            400,
            "key_invalid",
            &["base64 of 16 bytes (arrived: \"c2hvcnQ=\")"],
            &["Upgrade: websocket ("],
        ),
        failure(
            changed(&[], &[&format!("Sec-WebSocket-Key: {KEY}")]),
            400,
            "key_invalid",
            &["one Sec-WebSocket-Key"],
            &["Upgrade: websocket ("],
        ),
        failure(
            changed(&[], &[]).replace("GET ", "POST "),
            400,
            "method_not_get",
            &["the method GET (arrived: \"POST\")"],
            &["Upgrade: websocket ("],
        ),
        failure(
            changed(&[], &["Content-Length: 5"]),
            400,
            "body_declared",
            &["a request without a body"],
            &["Upgrade: websocket ("],
        ),
        failure(
            changed(&["Upgrade", "Connection", "Sec-WebSocket-Key", "Sec-WebSocket-Version"], &[]),
            426,
            "not_a_websocket_request",
            &[UPGRADE, CONNECTION, KEY_MISSING, "Sec-WebSocket-Version: 13 (absent)"],
            &["HTTP/1.1 (arrived"],
        ),
    ]
}

#[test]
fn a_failed_upgrade_tells_client_and_log_exactly_what_is_missing() {
    for Failure { request, status, reason, missing, intact } in failures() {
        let server = Server::start(&[]);
        let mut wire = server.wire();
        wire.send(&request);
        let answer = wire.answer();
        assert_eq!(answer.status, status, "{request}{}", answer.body);
        assert_eq!(answer.header("Upgrade"), (status == 426).then_some("websocket"), "RFC 9110 15.5.22");
        assert_eq!(answer.header("Sec-WebSocket-Version"), (status == 426).then_some("13"), "RFC 6455 4.4");
        let logged = server.wait_for_log(&refused(&wire));
        assert!(logged.contains(reason), "{logged}");
        for text in [&answer.body, &logged] {
            missing.iter().for_each(|part| assert!(text.contains(part), "no {part:?} in: {text}"));
            intact.iter().for_each(|part| assert!(!text.contains(part), "{part:?} is not missing: {text}"));
        }
    }
}

#[test]
fn a_surviving_key_proves_that_a_proxy_dropped_headers_and_the_fix_is_named() {
    let server = Server::start(&[]);
    let mut wire = server.wire();
    wire.send(changed(&["Upgrade", "Connection"], &[]));
    let body = wire.answer().body;
    let logged = server.wait_for_log(&refused(&wire));
    for text in [&body, &logged] {
        for part in [
            "Sec-WebSocket-Key and Sec-WebSocket-Version arrived",
            "reverse proxy",
            "proxy_http_version 1.1;",
            "proxy_set_header Upgrade $http_upgrade;",
            "proxy_set_header Connection \"upgrade\";",
        ] {
            assert!(text.contains(part), "no {part:?} in: {text}");
        }
    }
}

#[test]
fn a_plain_get_on_an_upgrade_path_is_426() {
    let server = Server::start(&[]);
    for path in ["/ws", "//ws", "/below/ws", "/ws?username=ann", "/raw/x", "/raw/ws"] {
        let answer = server.ask(format!("GET {path} HTTP/1.1\r\nHost: hi\r\n\r\n"));
        assert_eq!(answer.status, 426, "{path}");
        assert_eq!(answer.header("Upgrade"), Some("websocket"));
        assert_eq!(answer.header("Connection"), Some("Upgrade, keep-alive"));
    }
}

#[test]
fn other_protocols_are_told_at_once_that_this_is_http_1() {
    let client_hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 and so on";
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x12\x04\0\0\0\0\0";
    let cases: [(&[u8], u16, &str); 4] = [
        (client_hello, 400, "TLS"),
        (&client_hello[..1], 400, "TLS"),
        (preface, 505, "HTTP/2"),
        (b"\0\0\0\x01binary", 400, "not a valid HTTP/1.1 request"),
    ];
    for (bytes, status, says) in cases {
        // An answer that waited for the time limit would come too late.
        let server = Server::start(&["--handshake-timeout", "1h"]);
        let mut wire = server.wire();
        wire.send(bytes);
        let answer = wire.answer();
        assert_eq!(answer.status, status);
        assert!(answer.body.contains(says), "{}", answer.body);
        wire.expect_end();
        assert!(server.wait_for_log(&refused(&wire)).contains(says));
    }
}

#[test]
fn disabled_raw_rooms_say_so() {
    let server = Server::start(&["--raw", "off"]);
    let answer = server.ask(changed(&[], &[]));
    assert_eq!(answer.status, 403);
    assert!(answer.body.contains("--raw off"), "{}", answer.body);
}

#[test]
fn a_bad_name_gets_the_known_text_and_the_log_has_the_reason() {
    let server = Server::start(&[]);
    let text = "Need a valid username (shorter than 80 characters and does not start with a hash)";
    let answer = server.ask(handshake("/ws?username=%23ann"));
    assert_eq!((answer.status, &*answer.body), (400, text));
    let line = server.wait_for_log("name_invalid");
    assert!(line.contains("starts with a hash (#), which marks the notices of rooms"), "{line}");
    let json = server.ask(handshake_but("/ws?username=%23ann", &[], &["Accept: application/json"]));
    let json: Value = serde_json::from_str(&json.body).expect("JSON");
    assert_eq!((&json["reason"], &json["sentence"]), (&"name_invalid".into(), &text.into()), "{json}");
    let detail = json["detail"].as_str().expect("the reason");
    assert!(detail.starts_with("The user name starts with a hash (#)"), "{detail}");
}

#[test]
fn only_pages_of_the_named_origins_open_websockets() {
    let server = Server::start(&["--origins", "https://chat.example.com,http://localhost:3000"]);
    for origin in ["https://chat.example.com", "HTTPS://CHAT.example.com:443", "http://localhost:3000"] {
        assert_eq!(server.ask(changed(&[], &[&format!("Origin: {origin}")])).status, 101, "{origin}");
    }
    // Programs send no Origin, and requests for pages need none.
    assert_eq!(server.ask(changed(&[], &[])).status, 101);
    assert_eq!(server.ask("GET / HTTP/1.1\r\nHost: hi\r\nOrigin: https://evil.example\r\n\r\n").status, 200);
    let origins =
        ["https://evil.example", "http://chat.example.com", "https://chat.example.com.evil.example", "null", ""];
    for origin in origins {
        let answer = server.ask(changed(&[], &[&format!("Origin: {origin}"), "Accept: application/json"]));
        assert_eq!((answer.status, answer.header("Content-Type")), (403, Some("application/json")), "{origin}");
        let json: Value = serde_json::from_str(&answer.body).expect("JSON");
        assert_eq!(json["reason"], "origin_refused");
        assert!(!answer.body.contains("localhost:3000"), "{}", answer.body);
    }
    let line = server.wait_for_log("origin_refused");
    assert!(line.contains("\"https://evil.example\""), "{line}");
    assert!(line.contains("--origins allows https://chat.example.com, http://localhost:3000"), "{line}");
}

#[test]
fn by_default_pages_of_the_same_host_open_websockets_and_streams() {
    let (server, internal) = Server::start_with_internal(&[]);
    let at = |host: &str, origin: &str| changed(&["Host"], &[&format!("Host: {host}"), &format!("Origin: {origin}")]);
    for (host, origin) in [
        ("chat.example.com", "https://chat.example.com"),
        ("chat.example.com", "http://chat.example.com:80"),
        ("Chat.example.com:443", "https://chat.EXAMPLE.com"),
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("[2001:DB8::1]:8080", "http://[2001:db8::1]:8080"),
        ("[::1]", "http://[::1]"),
    ] {
        assert_eq!(server.ask(at(host, origin)).status, 101, "{host} {origin}");
    }
    assert_eq!(server.ask(changed(&[], &[])).status, 101, "programs send no Origin");
    let refused = [
        ("backend:8080", "https://chat.example.com"),
        ("chat.example.com", "http://chat.example.com:3000"),
        ("chat.example.com", "https://evil.example"),
        ("chat.example.com", "https://chat.example.com.evil.example"),
        ("chat.example.com", "null"),
        ("chat.example.com", ""),
    ];
    for (host, origin) in refused {
        let answer = server.ask(at(host, origin));
        assert_eq!(answer.status, 403, "{host} {origin}");
        let parts = [host, origin, "proxy_set_header Host $http_host;", "--origins"];
        for part in parts {
            assert!(answer.body.contains(part), "no {part} in {}", answer.body);
        }
    }
    let line = server.wait_for_log("origin_refused");
    for part in ["\"https://chat.example.com\"", "\"backend:8080\"", "--origins same-host,https://chat.example.com"] {
        assert!(line.contains(part), "no {part} in {line}");
    }
    let stream = |origin: &str| format!("GET /stream/tea HTTP/1.1\r\nHost: a.example\r\nOrigin: {origin}\r\n\r\n");
    assert_eq!(server.ask(stream("https://evil.example")).status, 403);
    let listener = Listener::ask(server.connect(), &stream("https://a.example")).opened();
    assert!(listener.head.contains("\r\nAccess-Control-Allow-Origin: https://a.example\r\n"), "{}", listener.head);
    let sample = "hi_handshake_failures_total{reason=\"origin_refused\",hop=\"direct\"}";
    assert_eq!(internal.metric(sample), refused.len() as f64 + 1.0);
}

#[test]
fn any_page_is_allowed_with_origins_any() {
    let server = Server::start(&["--origins", "any"]);
    for origin in ["https://anywhere.example", "null"] {
        assert_eq!(server.ask(changed(&[], &[&format!("Origin: {origin}")])).status, 101);
    }
    let both = Server::start(&["--origins", "same-host,https://a.example"]);
    for (origin, status) in [("http://hi", 101), ("https://a.example", 101), ("https://b.example", 403)] {
        assert_eq!(both.ask(changed(&[], &[&format!("Origin: {origin}")])).status, status, "{origin}");
    }
}

#[test]
fn truncated_and_late_heads_are_named_in_the_log() {
    let server = Server::start(&[]);
    let mut wire = server.wire();
    wire.send("GET /ws HT");
    wire.half_close();
    wire.expect_end();
    let line = server.wait_for_log("head_cut_off");
    assert!(line.contains("after 10 bytes"), "{line}");
    let server = Server::start(&["--handshake-timeout", "500ms"]);
    let mut wire = server.wire();
    wire.send("GET /ws HT");
    assert_eq!(wire.answer().status, 408);
    assert!(server.wait_for_log("head_timeout").contains("--handshake-timeout"));
}

#[test]
fn a_flood_of_failures_makes_few_log_lines() {
    let server = Server::start(&[]);
    for _ in 0..100 {
        assert_eq!(server.ask(changed(&["Upgrade"], &[])).status, 426);
        assert_eq!(server.ask(changed(&["Sec-WebSocket-Key"], &[])).status, 400);
    }
    for reason in ["upgrade_stripped", "key_missing"] {
        server.wait_for_log(reason);
    }
    assert_eq!(server.log().matches("refused").count(), 2, "{}", server.log());
}
