//! `hi doctor` where a path, a proxy or an access rule is in the way: the verdict names that and nothing else.

#[path = "support/doctor.rs"]
mod run;
mod support;

use run::{Proxy, Reply, Run, doctor, doctor_text, is_handshake, odd_server, response, switching};
use support::Server;

fn at(port: u16, path: &str) -> String {
    format!("ws://127.0.0.1:{port}{path}")
}

fn examine(port: u16) -> Run {
    doctor(&[&at(port, "/ws"), "--timeout", "2s"])
}

/// A proxy before hi that answers handshakes itself.
fn front(server: &Server, answer: String) -> u16 {
    let hi = server.port();
    odd_server(move |head| if is_handshake(head) { Reply::Answer(answer.clone()) } else { Reply::Pass(hi) })
}

#[test]
fn directly_at_hi_a_wrong_path_is_at_fault_and_no_proxy_is_blamed() {
    let server = Server::start(&[]);
    let used = format!("use {}", at(server.port(), "/ws"));
    for (path, kind, says) in [
        ("/nothing", "not_found", "hi answers there and has nothing at /nothing (404)"),
        ("/ws/", "not_found", "hi answers there and has nothing at /ws/ (404)"),
        ("/healthz", "ok_200_instead_of_101", "/healthz is not a WebSocket address of hi: it is its health check"),
        ("/stream/tea", "ok_200_instead_of_101", "server-sent events at /stream/tea"),
        ("/index.html", "ok_200_instead_of_101", "/index.html is not a WebSocket address of hi: it is its page"),
        ("/app.js", "ok_200_instead_of_101", "/app.js is not a WebSocket address of hi: it is its page"),
        ("/raw/a%20b", "unexpected_status", "hi refuses the handshake (400)"),
    ] {
        let (code, text) = doctor_text(&[&at(server.port(), path)]);
        let verdict = text.rsplit_once("\n\n").expect("the verdict stands apart").1;
        assert_eq!(code, 1, "{text}");
        assert!(verdict.starts_with(&format!("verdict: {kind}\n")) && verdict.contains(says), "{path}: {text}");
        assert!(!verdict.contains("proxy") && !verdict.contains("does not name itself"), "{path}: {text}");
        assert!(text.contains("hi 0.") && (path.starts_with("/raw") || verdict.contains(&used)), "{path}: {text}");
    }
    let (_server, internal) = Server::start_with_internal(&[]);
    let said = doctor(&[&at(internal.address.port(), "/ws")]).expect("not_found", 1);
    assert!(said.contains("hi's internal port answers there") && !said.contains("proxy"), "{said}");
    let off = Server::start(&["--raw", "off"]);
    let said = doctor(&[&at(off.port(), "/raw/tea")]).expect("forbidden", 1);
    assert!(said.contains("--raw off") && said.contains("--raw open") && !said.contains("proxy"), "{said}");
}

/// The doctor enters under its own name, and still checks the name in the address.
#[test]
fn a_user_or_a_room_that_hi_refuses_is_at_fault() {
    let server = Server::start(&[]);
    for (query, says) in [
        ("username=%23x", "Need a valid username"),
        ("username=ann&room=%20", "The room name contains the white space character U+0020"),
        ("room=a%E2%80%8Bb", "U+200B"),
    ] {
        let url = at(server.port(), &format!("/ws?{query}"));
        let said = doctor(&[&url]).expect("unexpected_status", 1);
        assert!(said.contains("hi refuses the handshake (400): ") && said.contains(says), "{said}");
        assert!(said.contains(&format!("correct the address ({url})")), "{said}");
    }
    doctor(&[&at(server.port(), "/ws?username=ann&room=tea")]).expect("sound", 0);
}

#[test]
fn envoy_without_upgrade_configs_is_named_with_its_lines() {
    let server = Server::start(&[]);
    let envoy = "HTTP/1.1 403 Forbidden\r\ndate: x\r\nserver: envoy\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    let run = examine(front(&server, envoy.to_owned()));
    let said = run.expect("upgrade_refused", 1);
    assert!(said.contains("envoy refuses every upgrade (403") && said.contains("let Envoy pass upgrades on"), "{said}");
    let lines = &run.json["diagnosis"]["verdict"]["mend"]["lines"];
    assert_eq!(lines[0]["lines"], serde_json::json!(["upgrade_configs:", "- upgrade_type: websocket"]));
    // An access rule refuses pages too.
    let rule = examine(odd_server(move |_| Reply::Answer(envoy.to_owned())));
    rule.expect("forbidden", 1);
}

#[test]
fn the_statuses_of_cloudflare_and_aws_are_named() {
    let cloudflare = "Server: cloudflare\r\nCF-RAY: 8c1-FRA\r\nContent-Type: text/html\r\n";
    for (status, headers, kind, says) in [
        ("521 Down", cloudflare, "bad_gateway", "Cloudflare answers, and the server behind it refuses its connections"),
        ("522 Timeout", cloudflare, "bad_gateway", "takes no connection in time (522)"),
        ("525 TLS", cloudflare, "bad_gateway", "TLS (525)"),
        (
            "464 Protocol",
            "Server: awselb/2.0\r\n",
            "http2_only",
            "set the protocol version of the target group to HTTP1",
        ),
        ("521 Odd", "", "unexpected_status", "521"),
    ] {
        let answer = response(status, headers, "sorry");
        let said = examine(odd_server(move |_| Reply::Answer(answer.clone()))).expect(kind, 1);
        assert!(said.contains(says), "{status}: {said}");
    }
}

#[test]
fn a_login_page_is_not_recommended_as_an_address() {
    let server = Server::start(&[]);
    let login = response("302 Found", "Location: https://login.example.com/?next=%2Fws&state=s3cret\r\n", "");
    let port = front(&server, login);
    let (code, text) = doctor_text(&[&at(port, "/ws"), "--timeout", "2s"]);
    assert_eq!(code, 1);
    assert!(text.contains("to a login page, https://login.example.com/ (302)"), "{text}");
    assert!(text.contains("let /ws pass without that login") && !text.contains("wss://login"), "{text}");
    assert!(!text.contains("s3cret"), "{text}");
    let moved = response("308 Moved", "Location: https://chat.example.com/ws?username=x\r\n", "");
    let said = examine(front(&server, moved)).expect("redirect", 1);
    assert!(said.contains("use wss://chat.example.com/ws"), "{said}");
}

/// The server accepts pages of the requested host, and a proxy changes that host.
#[test]
fn a_proxy_that_changes_host_keeps_the_pages_of_the_site_out() {
    let server = Server::start(&[]);
    let with_another_host = |head: &str| {
        let lines = head.split("\r\n").map(|line| if line.starts_with("Host: ") { "Host: backend" } else { line });
        lines.collect::<Vec<_>>().join("\r\n")
    };
    let rewriting = Proxy { rewrite: with_another_host, ..Proxy::default() };
    let behind = rewriting.start("127.0.0.1:0".parse().unwrap(), server.address());
    let port = odd_server(move |head| {
        let origin = head.lines().find_map(|line| line.strip_prefix("Origin: "));
        match origin.is_none_or(|origin| origin == "http://backend") {
            true => Reply::Pass(behind),
            false => Reply::Answer(response("403 Forbidden", "", "not from there")),
        }
    });
    let run = examine(port);
    let said = run.expect("forbidden_origin", 1);
    assert!(said.contains(&format!("pages of http://127.0.0.1:{port} can't open a WebSocket here (403)")), "{said}");
    assert!(said.contains(&format!("changes Host on the way, from 127.0.0.1:{port} to backend")), "{said}");
    let lines = run.json["diagnosis"]["verdict"]["mend"]["lines"].to_string();
    assert!(lines.contains("proxy_set_header Host") && lines.contains("ProxyPreserveHost On"), "{lines}");
    // The same when the page's origin is given.
    let own = format!("http://127.0.0.1:{port}");
    let said = doctor(&[&at(port, "/ws"), "--origin", &own]).expect("forbidden_origin", 1);
    assert!(said.contains("changes Host on the way"), "{said}");
}

#[test]
fn a_server_without_an_echo_is_healthy_and_nothing_is_blamed() {
    let server = Server::start(&[]);
    let hi = server.port();
    let port = odd_server(move |head| match head.contains("/-/doctor/echo") {
        true => Reply::Answer(response("404 Not Found", "Content-Type: text/plain\r\n", "Nothing here.")),
        false => Reply::Pass(hi),
    });
    let run = examine(port);
    let said = run.expect("sound", 0);
    assert!(said.contains("--echo off"), "{said}");
    assert_eq!(run.others(), Vec::<&str>::new());
    assert!(!run.address("127.0.0.1")["chat"]["done"]["large"]["done"].is_null(), "the chat is tried all the same");
}

#[test]
fn hi_with_its_echo_off_is_healthy() {
    let server = Server::start(&["--echo", "off"]);
    let run = examine(server.port());
    assert!(run.expect("sound", 0).contains("--echo off"), "{:#}", run.json);
    assert_eq!(run.others(), Vec::<&str>::new());
    doctor(&[&at(server.port(), "/nothing")]).expect("not_found", 1);
}

#[test]
fn another_kind_of_websocket_server_gets_no_advice() {
    // It answers 426 for its own reason.
    let tls = odd_server(|_| Reply::Answer(response("426 Upgrade Required", "Upgrade: TLS/1.2\r\n", "")));
    let said = examine(tls).expect("unexpected_status", 1);
    assert!(!said.contains("proxy") && !said.contains("drops"), "{said}");
    let other = odd_server(|head| match is_handshake(head) {
        true => Reply::WebSocket(switching(head)),
        false => Reply::Answer(response("426 Upgrade Required", "Upgrade: websocket\r\n", "Upgrade Required")),
    });
    examine(other).expect("not_hi", 0);
}
