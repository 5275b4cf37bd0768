//! The plain HTTP side of the public port: page, health, echo, and refusals.

mod support;

use std::io::Write;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::Server;
use support::wire::Answer;

const FILES: [(&str, &str); 4] = [
    ("/", "text/html; charset=utf-8"),
    ("/index.html", "text/html; charset=utf-8"),
    ("/app.js", "text/javascript; charset=utf-8"),
    ("/style.css", "text/css; charset=utf-8"),
];

/// A request without a body that leaves the connection open.
fn request(method: &str, path: &str, headers: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: hi\r\n{headers}\r\n")
}

fn get(server: &Server, path: &str, headers: &str) -> Answer {
    server.ask(request("GET", path, headers))
}

#[test]
fn the_page_comes_with_its_types_and_a_strict_policy() {
    let server = Server::start(&[]);
    for (path, content_type) in FILES {
        let answer = get(&server, path, "");
        assert_eq!((answer.status, answer.header("Content-Type")), (200, Some(content_type)), "{path}");
        assert_eq!(answer.header("X-Content-Type-Options"), Some("nosniff"));
        assert_eq!(answer.header("Cache-Control"), Some("no-cache"));
        assert_eq!(answer.header("Referrer-Policy"), Some("no-referrer"));
        let policy = answer.header("Content-Security-Policy").expect("a policy");
        let directives: Vec<_> = policy.split(';').map(str::trim).collect();
        for directive in ["default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"] {
            assert!(directives.contains(&directive), "{policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains("http"), "{policy}");
    }
    let page = get(&server, "/", "").body;
    assert!(page.to_lowercase().starts_with("<!doctype html>"), "{}", &page[..page.len().min(80)]);
    // Every file that the page requests exists.
    for file in ["app.js", "style.css"] {
        assert!(page.contains(file) && !get(&server, &format!("/{file}"), "").body.is_empty(), "{file}");
    }
    assert_eq!(get(&server, "/index.html", "").body, page);
    assert_eq!(get(&server, "/?room=tea&username=ann", "").body, page, "a query changes nothing");
}

#[test]
fn a_cached_file_is_not_sent_again() {
    let server = Server::start(&[]);
    let etag = |path| get(&server, path, "").header("ETag").expect("a tag").to_owned();
    for (path, _) in FILES {
        let tag = etag(path);
        for known in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}"), "*".to_owned()] {
            let mut wire = server.wire();
            wire.send(request("GET", path, &format!("If-None-Match: {known}\r\n")));
            let answer = wire.answer();
            assert_eq!((answer.status, answer.header("ETag")), (304, Some(&*tag)), "{known}");
            assert_eq!(answer.header("Content-Length"), None);
            // No body: what follows is the next answer.
            wire.send(request("GET", "/healthz", ""));
            assert_eq!(wire.answer().body, "ok");
        }
        assert_eq!(get(&server, path, "If-None-Match: \"other\"\r\n").status, 200);
    }
    let tags = ["/", "/app.js", "/style.css"].map(etag);
    assert!(tags[0] != tags[1] && tags[1] != tags[2] && tags[0] != tags[2], "{tags:?}");
}

#[test]
fn head_is_get_without_the_body() {
    let server = Server::start(&[]);
    for path in ["/", "/app.js", "/style.css", "/healthz", "/nowhere"] {
        let mut wire = server.wire();
        wire.send([request("HEAD", path, ""), request("GET", path, "")].concat());
        let (head, whole) = (wire.answer_to("HEAD"), wire.answer());
        assert_eq!(head.head, whole.head, "{path}");
        assert!(!whole.body.is_empty());
    }
}

#[test]
fn one_connection_carries_many_requests() {
    let server = Server::start(&[]);
    let mut wire = server.wire();
    for (path, content_type) in FILES.iter().cycle().take(20) {
        wire.send(request("GET", path, ""));
        let answer = wire.answer();
        assert_eq!(
            (answer.header("Content-Type"), answer.header("Connection")),
            (Some(*content_type), Some("keep-alive"))
        );
    }
    // Refusals after which the start of the next request is certain keep the connection.
    wire.send(request("GET", "/nowhere", ""));
    assert_eq!(wire.answer().status, 404);
    wire.send(request("DELETE", "/", ""));
    assert_eq!(wire.answer().status, 405);
    wire.send(request("GET", "/", "Connection: close\r\n"));
    assert_eq!(wire.answer().header("Connection"), Some("close"));
    wire.expect_end();
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let server = Server::start(&[]);
    let mut wire = server.wire();
    // More than one buffer of heads; empty lines between requests are ignored (RFC 9112 2.2).
    let path = |number: usize| format!("/-/doctor/echo?{number}={}", "x".repeat(number * 7 % 200));
    let requests = (0..200).map(|number| request("GET", &path(number), "") + ["", "\r\n"][number % 2]);
    wire.send(requests.collect::<String>());
    for number in 0..200 {
        let echoed: Value = serde_json::from_str(&wire.answer().body).unwrap();
        assert_eq!(echoed["path"], path(number));
    }
}

#[test]
fn http_1_0_closes_unless_asked_not_to() {
    let server = Server::start(&[]);
    let mut wire = server.wire();
    wire.send("GET /healthz HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n");
    assert_eq!(wire.answer().header("Connection"), Some("keep-alive"));
    wire.send("GET /healthz HTTP/1.0\r\n\r\n");
    assert_eq!(wire.answer().header("Connection"), Some("close"));
    wire.expect_end();
}

#[test]
fn unknown_paths_are_404_and_other_methods_405() {
    let server = Server::start(&[]);
    for path in
        ["/nowhere", "/-/", "/-/doctor", "/-/ws", "/App.js", "/app.js/", "/../src/main.rs", "/ws/", "/healthz/ws/x"]
    {
        let answer = get(&server, path, "");
        assert_eq!(answer.status, 404, "{path}");
        assert!(answer.body.contains("/ws"), "it says where to go: {}", answer.body);
    }
    for method in ["POST", "PUT", "DELETE", "PATCH", "BREW"] {
        for path in ["/", "/app.js", "/healthz", "/-/doctor/echo"] {
            let answer = server.ask(request(method, path, ""));
            assert_eq!((answer.status, answer.header("Allow")), (405, Some("GET, HEAD, OPTIONS")), "{method} {path}");
        }
    }
}

#[test]
fn options_lists_allowed_methods_also_for_http_1_0() {
    let server = Server::start(&[]);
    for (path, allow) in [
        ("/", "GET, HEAD, OPTIONS"),
        ("*", "GET, HEAD, OPTIONS"),
        ("/app.js", "GET, HEAD, OPTIONS"),
        ("/healthz", "GET, HEAD, OPTIONS"),
        ("/-/doctor/echo", "GET, HEAD, OPTIONS"),
        ("/ws", "GET, OPTIONS"),
        ("/raw/tea", "GET, OPTIONS"),
        ("/stream/tea", "GET, HEAD, OPTIONS"),
    ] {
        // HAProxy's bare `option httpchk`.
        let mut wire = server.wire();
        wire.send(format!("OPTIONS {path} HTTP/1.0\r\n\r\n"));
        let answer = wire.answer_to("OPTIONS");
        assert_eq!((answer.status, answer.header("Allow")), (204, Some(allow)), "{path}");
        assert_eq!((answer.header("Content-Length"), answer.header("Connection")), (None, Some("close")), "{path}");
        wire.expect_end();
        let mut wire = server.wire();
        wire.send(request("OPTIONS", path, ""));
        assert_eq!(wire.answer_to("OPTIONS").header("Allow"), Some(allow), "{path}");
    }
    assert_eq!(server.ask(request("OPTIONS", "/nowhere", "")).status, 404);
}

#[test]
fn healthz_answers_ok() {
    let server = Server::start(&[]);
    let answer = get(&server, "/healthz", "");
    assert_eq!((answer.status, &*answer.body), (200, "ok"));
    assert_eq!(answer.header("Cache-Control"), Some("no-store"), "no cache may answer in its place");
}

#[test]
fn the_echo_shows_the_request_as_it_arrived() {
    let server = Server::start(&[]);
    let mut wire = server.wire();
    let headers = "Via: 2\r\nx-forwarded-proto:  1 \r\nCookie: session=hush\r\nAuthorization: Bearer hush\r\n\
                   X-Forwarded-For: ::1\r\nVia: again\r\nX-API-Key: hush\r\nX-Origin-Verify: hush\r\nX-Azure-FDID: hush\r\n\
                   X-Amzn-Oidc-Data: hush\r\nX-Forwarded-Access-Token: hush\r\nX-Whatever: hush\r\n";
    wire.send(request("GET", "/-/doctor/echo?a=%20b&c", headers));
    let answer = wire.answer();
    assert_eq!((answer.status, answer.header("Content-Type")), (200, Some("application/json")));
    assert!(!answer.body.contains("hush"), "{}", answer.body);
    let echoed: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(
        echoed["headers"],
        json!([
            ["Host", "hi"],
            ["Via", "2"],
            ["x-forwarded-proto", "1"],
            ["Cookie", "(masked, 12 bytes)"],
            ["Authorization", "(masked, 11 bytes)"],
            ["X-Forwarded-For", "::1"],
            ["Via", "again"],
            ["X-API-Key", "(masked, 4 bytes)"],
            ["X-Origin-Verify", "(masked, 4 bytes)"],
            ["X-Azure-FDID", "(masked, 4 bytes)"],
            ["X-Amzn-Oidc-Data", "(masked, 4 bytes)"],
            ["X-Forwarded-Access-Token", "(masked, 4 bytes)"],
            ["X-Whatever", "(masked, 4 bytes)"],
        ])
    );
    assert_eq!((&echoed["method"], &echoed["path"]), (&json!("GET"), &json!("/-/doctor/echo?a=%20b&c")));
    assert_eq!((&echoed["http_version"], &echoed["version"]), (&json!("HTTP/1.1"), &json!(env!("CARGO_PKG_VERSION"))));
    assert_eq!(echoed["peer"], wire.stream.local_addr().unwrap().to_string());
    assert!(echoed["instance"].as_str().is_some_and(|instance| !instance.is_empty()));
    // Two connections meet the same process, whichever shard has them.
    for _ in 0..8 {
        let other: Value = serde_json::from_str(&get(&server, "/-/doctor/echo", "").body).unwrap();
        assert_eq!(other["instance"], echoed["instance"]);
    }
}

#[test]
fn a_disabled_echo_is_404() {
    let server = Server::start(&["--echo", "off"]);
    for method in ["GET", "OPTIONS"] {
        let answer = server.ask(request(method, "/-/doctor/echo", "X-Forwarded-For: 192.0.2.1\r\n"));
        assert_eq!(answer.status, 404);
        assert!(!answer.body.contains("192.0.2.1"), "{}", answer.body);
    }
    assert_eq!(get(&server, "/healthz", "").status, 200);
}

#[test]
fn idle_connections_and_heads_have_different_time_limits() {
    let server = Server::start(&["--handshake-timeout", "1s", "--keepalive-timeout", "4s"]);
    let mut wire = server.wire();
    wire.send(request("GET", "/healthz", ""));
    assert_eq!(wire.answer().body, "ok");
    // Longer than a head may take, shorter than a connection may be idle.
    assert!(wire.is_silent_for(Duration::from_secs(2)), "it is kept");
    let asked = Instant::now();
    wire.send(request("GET", "/healthz", ""));
    assert_eq!(wire.answer().body, "ok");
    wire.expect_end();
    assert!(asked.elapsed() >= Duration::from_secs(4), "{:?}", asked.elapsed());
    // Once begun, it is a head, and gets an answer.
    let mut wire = server.wire();
    wire.send(request("GET", "/healthz", "") + "GET /heal");
    assert_eq!(wire.answer().body, "ok");
    assert_eq!(wire.answer().status, 408);
    wire.expect_end();
}

#[test]
fn a_request_with_a_body_is_answered_once_and_closed() {
    let server = Server::start(&[]);
    // A body that looks like a request must not become one.
    let smuggled = request("GET", "/healthz", "");
    let length = format!("Content-Length: {}\r\n", smuggled.len());
    let chunked = format!("{:x}\r\n{smuggled}\r\n0\r\n\r\n", smuggled.len());
    for (method, path, headers, body, status) in [
        ("POST", "/", &*length, &smuggled, 405),
        ("GET", "/", &*length, &smuggled, 200),
        ("GET", "/ws", &*length, &smuggled, 426),
        ("POST", "/nowhere", "Transfer-Encoding: chunked\r\n", &chunked, 405),
        ("GET", "/healthz", "Transfer-Encoding: gzip, chunked\r\n", &chunked, 200),
    ] {
        let mut wire = server.wire();
        wire.send(request(method, path, headers) + body);
        let answer = wire.answer();
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
        assert!(answer.header("Connection").is_some_and(|options| options.contains("close")), "{}", answer.head);
        wire.expect_end();
    }
    // An empty body is no body.
    let mut wire = server.wire();
    wire.send(request("POST", "/", "Content-Length: 0\r\n"));
    assert_eq!((wire.answer().status, wire.stream.write(smuggled.as_bytes()).unwrap()), (405, smuggled.len()));
    assert_eq!(wire.answer().status, 200);
}

#[test]
fn a_large_body_does_not_hide_its_answer() {
    let server = Server::start(&[]);
    // Read and discarded: a reset would show up in a write or a read.
    let mut wire = server.wire();
    wire.send(request("POST", "/", "Content-Length: 50000\r\n") + &"x".repeat(50_000));
    assert_eq!(wire.answer().status, 405);
    wire.expect_end();
    // More than hi wants to read.
    let mut wire = server.wire();
    let megabytes = 4 << 20;
    wire.send(request("POST", "/", &format!("Content-Length: {megabytes}\r\n")));
    wire.send_what_is_taken(&vec![b'x'; megabytes]);
    assert_eq!(wire.answer().status, 405);
    assert_eq!(get(&server, "/healthz", "").status, 200);
}

#[test]
fn a_half_closed_client_still_gets_the_answer() {
    let server = Server::start(&[]);
    let mut wire = server.wire();
    wire.send([request("GET", "/app.js", ""), request("GET", "/healthz", "")].concat());
    wire.half_close();
    assert_eq!(wire.answer().status, 200);
    assert_eq!(wire.answer().body, "ok");
    wire.expect_end();
}

#[test]
fn malformed_requests_are_400_and_closed() {
    let server = Server::start(&[]);
    let cases = [
        ("GET / HTTP/1.1\r\n\r\n", "Host header is missing"),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "more than one Host"),
        ("GET / HTTP/1.1\nHost: hi\n\n", "LF alone"),
        ("GET / HTTP/1.1\r\nHost: hi\r\n folded\r\n\r\n", "white space"),
        ("GET / HTTP/1.1\r\nHost : hi\r\n\r\n", "white space"),
        ("GET / HTTP/1.1\r\nHost: hi\r\nno colon\r\n\r\n", "no colon"),
        ("GET / HTTP/1.1\r\nHost: hi\r\nX: a\0b\r\n\r\n", "control character"),
        ("GET  / HTTP/1.1\r\nHost: hi\r\n\r\n", "request line"),
        ("GET /\r\nHost: hi\r\n\r\n", "request line"),
        ("GET / HTTP/1.1 x\r\nHost: hi\r\n\r\n", "request line"),
        ("GET / HTP/1.1\r\nHost: hi\r\n\r\n", "request line"),
        (
            "POST / HTTP/1.1\r\nHost: hi\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "more than one Content-Length",
        ),
        ("POST / HTTP/1.1\r\nHost: hi\r\nContent-Length: -1\r\n\r\n", "not a decimal number"),
        ("POST / HTTP/1.1\r\nHost: hi\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "both"),
        ("POST / HTTP/1.1\r\nHost: hi\r\nTransfer-Encoding: gzip\r\n\r\n", "not chunked"),
        ("\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: hi\r\n\r\n", "empty lines"),
        ("{\"json\":1}\r\n\r\n", "method"),
    ];
    for (malformed, says) in cases {
        let mut wire = server.wire();
        // What follows it must not be parsed as a request.
        wire.send([malformed, &request("GET", "/healthz", "")].concat());
        let answer = wire.answer();
        assert_eq!((answer.status, answer.header("Connection")), (400, Some("close")), "{malformed:?}");
        assert!(answer.body.contains(says), "{malformed:?}: {}", answer.body);
        wire.expect_end();
    }
    let answer = server.ask("GET / HTTP/2.0\r\nHost: hi\r\n\r\n");
    assert!(answer.status == 505 && answer.body.contains("HTTP/2.0"), "{}", answer.body);
}

#[test]
fn targets_that_cannot_be_decoded_are_400() {
    let server = Server::start(&[]);
    for (path, says) in [
        ("/%", "percent"),
        ("/%zz", "percent"),
        ("/raw/%ff", "UTF-8"),
        ("/%00", "control character"),
        ("/a%0d%0ab", "control"),
    ] {
        let answer = get(&server, path, "");
        assert!(answer.status == 400 && answer.body.contains(says), "{path}: {} {}", answer.status, answer.body);
    }
    assert_eq!(get(&server, "/%61pp.js", "").status, 200, "paths are compared decoded");
    assert_eq!(get(&server, "http://hi/healthz", "").body, "ok", "RFC 9112 3.2.2");
}
