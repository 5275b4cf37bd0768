//! `hi doctor` against a real hi, directly and through proxies, and against servers with odd answers.

#![allow(unsafe_code, reason = "a filter is set between fork and exec")]

#[path = "support/doctor.rs"]
mod run;
mod support;

use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use run::{Proxy, Reply, Run, doctor, doctor_text, is_handshake, odd_server, response, switching};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use serde_json::{Value, json};
use support::{Client, PATIENCE, Server};
use tungstenite::Message;

/// A full run against a healthy server takes less.
const SOUND_RUN_MAX: Duration = Duration::from_secs(5);

fn at(port: u16) -> String {
    format!("ws://127.0.0.1:{port}/ws")
}

fn examine(port: u16) -> Run {
    doctor(&[&at(port), "--timeout", "2s"])
}

/// Drops what a proxy drops by default.
fn without(head: &str, names: &[&str]) -> String {
    let keeps = |line: &&str| !names.iter().any(|name| line.to_ascii_lowercase().starts_with(name));
    head.split("\r\n").filter(keeps).collect::<Vec<_>>().join("\r\n")
}

fn through(server: &Server, rewrite: fn(&str) -> String) -> Run {
    let proxy = Proxy { rewrite, ..Proxy::default() };
    examine(proxy.start("127.0.0.1:0".parse().unwrap(), server.address()))
}

#[test]
fn a_healthy_server_is_found_healthy_in_little_time() {
    let server = Server::start(&[]);
    let run = doctor(&[&at(server.port())]);
    run.expect("sound", 0);
    assert!(run.took < SOUND_RUN_MAX, "{:?}", run.took);
    assert_eq!(run.others(), Vec::<&str>::new());
    let address = run.address("127.0.0.1");
    assert_eq!(address["tls"], "skipped");
    for step in ["echo", "echo_upgrade"] {
        let diff = &address[step]["done"]["diff"];
        assert_eq!((diff["removed"].clone(), diff["hops"].clone()), (json!([]), json!([])), "{diff}");
    }
    for way in ["chat", "raw"] {
        for step in ["message", "ping", "large"] {
            assert!(address[way]["done"][step]["done"]["ms"].as_f64().unwrap() > 0.0, "{way} {step}: {address}");
        }
    }
}

#[test]
fn members_of_a_room_do_not_notice_the_doctor() {
    let server = Server::start(&[]);
    let mut ann = server.join("ann", "general");
    let mut raw = server.websocket("/raw/general");
    let url = format!("ws://127.0.0.1:{}/ws?username=ann&room=general", server.port());
    doctor(&[&url]).expect("sound", 0);
    // The next message that both receive is the one sent now.
    ann.say("general", "still alone");
    ann.expect_message("ann", "still alone");
    let mut other: Client = server.websocket("/raw/general");
    other.socket.send(Message::text("mine")).unwrap();
    assert_eq!(raw.text(), "mine");
    // A room is gone once the server has noticed that its last member left.
    let deadline = Instant::now() + PATIENCE;
    let rooms = loop {
        ann.say("general", "/channels");
        let rooms = ann.json()["Message"].clone();
        if rooms == "general" || Instant::now() > deadline {
            break rooms;
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    assert_eq!(rooms, "general", "the doctor's rooms are gone");
}

#[test]
fn the_report_is_plain_when_piped_and_ends_with_the_verdict() {
    let server = Server::start(&[]);
    let (code, text) = doctor_text(&[&at(server.port())]);
    assert_eq!(code, 0);
    assert!(!text.contains('\u{1b}'), "{text:?}");
    let verdict = text.rsplit_once("\n\n").expect("the verdict stands apart").1;
    assert!(verdict.starts_with("verdict: sound\n"), "{text}");
    for part in ["tcp ", "echo, upgrade ", "101 at /ws", "raw room, 16 KiB", "arrives as sent"] {
        assert!(text.contains(part), "{part:?} in {text}");
    }
}

#[test]
fn a_command_line_that_makes_no_sense_exits_with_2() {
    for args in [
        &["chat.example.com"][..],
        &["ftp://chat.example.com/"],
        &["ws://h/", "--resolver", "nobody"],
        &["ws://h/", "--timeout", "2h"],
        &["wss://h/", "--ca", "/nowhere/ca.pem"],
        &[],
    ] {
        let (code, text) = doctor_text(args);
        assert_eq!(code, 2, "{args:?}: {text}");
    }
}

#[test]
fn raw_rooms_that_are_off_are_a_note_and_not_a_fault() {
    for mode in ["off", "listen"] {
        let server = Server::start(&["--raw", mode]);
        let run = examine(server.port());
        run.expect("sound", 0);
        assert_eq!(run.others(), ["raw_unavailable"], "--raw {mode}");
        assert!(!run.address("127.0.0.1")["chat"]["done"]["large"]["done"].is_null(), "the chat carries 16 KiB");
    }
}

#[test]
fn a_server_that_accepts_only_small_messages_is_a_note() {
    let server = Server::start(&["--max-message", "4k"]);
    let run = examine(server.port());
    run.expect("sound", 0);
    assert_eq!(run.others(), ["too_big"]);
}

#[test]
fn nothing_listens() {
    let port = support::proxies::free_port();
    let said = examine(port).expect("refused", 1);
    assert!(said.contains(&format!("nothing listens there on port {port}")), "{said}");
}

#[test]
fn headers_that_a_proxy_drops_are_named_and_so_is_the_proxy() {
    let server = Server::start(&[]);
    let both = through(&server, |head| {
        without(head, &["upgrade:", "connection:"]).replace("Host:", "Via: 1.1 edge (squid/5.7)\r\nHost:")
    });
    let said = both.expect("upgrade_stripped", 1);
    assert!(said.contains("(Via: 1.1 edge (squid/5.7)) answers there and drops Upgrade and Connection"), "{said}");
    let lines = &both.json["diagnosis"]["verdict"]["mend"]["lines"];
    assert!(lines.to_string().contains("http_upgrade_request_protocols"), "the lines of Squid: {lines}");

    through(&server, |head| without(head, &["upgrade:"])).expect("upgrade_stripped", 1);
    let connection = through(&server, |head| without(head, &["connection:"]));
    let said = connection.expect("connection_stripped", 1);
    assert!(said.contains("drops Connection"), "{said}");
    let removed = &connection.address("127.0.0.1")["echo_upgrade"]["done"]["diff"]["removed"];
    assert_eq!(removed, &json!([["Connection", "Upgrade"]]));

    let old = through(&server, |head| {
        let head = without(head, &["upgrade:", "connection:"]).replace("HTTP/1.1", "HTTP/1.0");
        head.replace("Host:", "Via: 1.0 old-host\r\nHost:")
    });
    let said = old.expect("http10_hop", 1);
    assert!(said.contains("an HTTP/1.0 proxy (Via: 1.0 old-host) answers there and drops Upgrade"), "{said}");
}

#[test]
fn a_proxy_that_mounts_hi_below_a_path_is_found() {
    let server = Server::start(&[]);
    let proxy = Proxy { rewrite: |head| head.replacen(" /chat/", " /", 1), ..Proxy::default() };
    let port = proxy.start("127.0.0.1:0".parse().unwrap(), server.address());
    // At the root there is something else.
    let front = odd_server(move |head| match head.contains(" /chat/") {
        true => Reply::Pass(port),
        false => Reply::Answer(response("200 OK", "Content-Type: text/html\r\n", "<html>")),
    });
    let run = doctor(&[&format!("ws://127.0.0.1:{front}/chat/ws")]);
    run.expect("sound", 0);
    assert_eq!(
        run.address("127.0.0.1")["raw"]["done"]["path"].as_str().map(|path| path.starts_with("/chat/raw/")),
        Some(true)
    );
}

#[test]
fn idle_connections_that_a_proxy_cuts() {
    let server = Server::start(&[]);
    let proxy = Proxy { idle: Duration::from_millis(1500), ..Proxy::default() };
    let port = proxy.start("127.0.0.1:0".parse().unwrap(), server.address());
    let run = doctor(&[&at(port), "--idle=4s"]);
    let said = run.expect("idle_timeout", 1);
    assert!(said.contains("--ping-interval 1s"), "{said}");
    let connections = run.address("127.0.0.1")["idle"]["done"]["connections"].as_array().unwrap();
    assert_eq!(connections[0]["fate"], "alive", "one second is shorter: {connections:?}");

    let run = doctor(&[&at(server.port()), "--idle=2s"]);
    run.expect("sound", 0);
}

#[test]
fn each_wrong_answer_to_a_handshake_has_a_verdict() {
    let html = "<!doctype html><title>Welcome</title>";
    let page = response("200 OK", "Server: Apache/2.4.57\r\nContent-Type: text/html\r\n", html);
    let cases: [(&str, String, &str); 8] = [
        (
            "redirect",
            response("301 Moved", "Location: https://chat.example.com/ws\r\n", ""),
            "https://chat.example.com/ws",
        ),
        ("html_instead_of_json", page, "Apache/2.4.57"),
        ("ok_200_instead_of_101", response("200 OK", "Content-Type: text/plain\r\n", "ok"), "200 instead of 101"),
        ("bad_gateway", response("502 Bad Gateway", "Server: nginx/1.22.1\r\n", html), "nginx/1.22.1 is up"),
        ("bad_gateway", response("504 Gateway Timeout", "", ""), "(504)"),
        ("not_found", response("404 Not Found", "", ""), "nothing at /ws"),
        ("forbidden", response("403 Forbidden", "", "keep out"), "keep out"),
        ("unexpected_status", response("500 Oops", "", "oops"), "500"),
    ];
    for (kind, answer, part) in cases {
        let said = examine(odd_server(move |_| Reply::Answer(answer.clone()))).expect(kind, 1);
        assert!(said.contains(part), "{part:?} in {said}");
    }
}

#[test]
fn the_origin_can_decide() {
    let picky = odd_server(|head| match (is_handshake(head), head.contains("Origin: http://127.0.0.1:")) {
        (false, _) => Reply::Answer(response("404 Not Found", "", "")),
        (true, true) => Reply::WebSocket(switching(head)),
        (true, false) => Reply::Answer(response("403 Forbidden", "", "")),
    });
    let run = examine(picky);
    run.expect("not_hi", 0);
    assert_eq!(run.others(), ["forbidden_origin"], "browsers get in");

    let strict = odd_server(|head| match head.contains("Origin: https://elsewhere.example") {
        true => Reply::Answer(response("403 Forbidden", "", "")),
        false => Reply::WebSocket(switching(head)),
    });
    let run = doctor(&[&at(strict), "--origin", "https://elsewhere.example"]);
    let said = run.expect("forbidden_origin", 1);
    assert!(said.contains("add https://elsewhere.example"), "{said}");
}

#[test]
fn refused_pages_of_the_site_are_worth_a_note() {
    let server = Server::start(&["--origins", "https://elsewhere.example"]);
    let run = examine(server.port());
    run.expect("sound", 0);
    assert_eq!(run.others(), ["forbidden_origin"]);
    let said = run.json["diagnosis"]["others"][0]["mend"]["text"].as_str().unwrap().to_owned();
    assert!(said.contains(&format!("add http://127.0.0.1:{} to", server.port())), "{said}");
    let run = doctor(&[&at(server.port()), "--origin", "https://elsewhere.example"]);
    run.expect("sound", 0);
    assert_eq!(run.others(), Vec::<&str>::new());
}

#[test]
fn a_successful_handshake_with_nothing_behind_it() {
    let wrong_key = odd_server(|head| {
        let answer = switching("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==");
        if is_handshake(head) { Reply::Answer(answer) } else { Reply::Answer(response("404 No", "", "")) }
    });
    examine(wrong_key).expect("wrong_accept_key", 1);

    let mute = odd_server(|head| match is_handshake(head) {
        true => Reply::AnswerAndFallSilent(switching(head)),
        false => Reply::Answer(response("404 No", "", "")),
    });
    let said = examine(mute).expect("message_lost", 1);
    assert!(said.contains("a ping does not come back"), "{said}");
}

#[test]
fn a_websocket_server_that_is_not_hi() {
    let other = odd_server(|head| match is_handshake(head) && head.contains("GET /ws") {
        true => Reply::WebSocket(switching(head)),
        false => Reply::Answer(response("404 No", "", "")),
    });
    let run = examine(other);
    let said = run.expect("not_hi", 0);
    assert!(said.contains("OK as far as can be seen"), "{said}");
    let chat = &run.address("127.0.0.1")["chat"]["done"];
    assert_eq!(chat["message"], "skipped", "only a ping is sent to strangers");
    assert!(!chat["ping"]["done"].is_null());
}

#[test]
fn a_listener_that_is_not_a_web_server() {
    let silent = examine(odd_server(|_| Reply::Silence));
    silent.expect("no_http_answer", 1);
    assert!(silent.took < Duration::from_secs(12), "every step has a limit: {:?}", silent.took);
    let mail = examine(odd_server(|_| Reply::Answer("220 mail.example.com ESMTP\r\n".to_owned())));
    let said = mail.expect("not_http", 1);
    assert!(said.contains("220 mail"), "{said}");
    let settings = "\0\0\u{6}\u{4}\0\0\0\0\0\0\u{3}\0\0\0d".to_owned();
    examine(odd_server(move |_| Reply::Answer(settings.clone()))).expect("http2_only", 1);
}

#[test]
fn the_identity_of_the_server_is_in_the_json() {
    let server = Server::start(&[]);
    let run = examine(server.port());
    let echo: Value = serde_json::from_str(server.get("/-/doctor/echo").split("\r\n\r\n").nth(1).unwrap()).unwrap();
    let received = &run.address("127.0.0.1")["echo"]["done"]["received"];
    assert_eq!((&received["instance"], &received["version"]), (&echo["instance"], &echo["version"]));
    let sent: Vec<_> = received["headers"].as_array().unwrap().iter().map(|pair| pair[0].as_str().unwrap()).collect();
    assert_eq!(sent, ["Host", "User-Agent", "X-Hi-Doctor"], "exactly what is listed is sent");
}

#[test]
fn it_runs_where_io_uring_is_forbidden() {
    let server = Server::start(&[]);
    let mut command = run::command(&[&at(server.port())]);
    let calls = [libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];
    let filter = SeccompFilter::new(
        calls.map(|call| (call, Vec::new())).into(),
        SeccompAction::Allow,
        SeccompAction::KillProcess,
        std::env::consts::ARCH.try_into().expect("an architecture that seccompiler knows"),
    );
    let filter: BpfProgram = filter.unwrap().try_into().unwrap();
    let apply = move || seccompiler::apply_filter(&filter).map_err(|_| std::io::ErrorKind::Other.into());
    // SAFETY: the closure makes two system calls with a filter that was made before the fork; it takes no lock and
    // allocates nothing.
    unsafe { command.pre_exec(apply) };
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

/// Runs a command whose report goes to `output`: the exit code and stderr.
fn reporting_to(output: std::fs::File, args: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hi"));
    let output = command.args(args).stdout(output).stderr(Stdio::piped()).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_lost_report_is_an_error_and_a_reader_that_left_is_not() {
    let server = Server::start(&[]);
    let url = at(server.port());
    let nowhere = at(support::proxies::free_port());
    for (args, code) in [
        (&["doctor", &url][..], 0),
        (&["doctor", &url, "--json"], 0),
        (&["doctor", &nowhere], 1),
        (&["checklist", "before", &nowhere, "--elsewhere"], 1),
    ] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let (lost, said) = reporting_to(full, args);
        assert!(lost != 0 && lost != code && said.lines().count() == 1, "{args:?}: {lost} {said}");
        assert!(said.contains("can't write"), "{said}");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        assert_eq!(reporting_to(OwnedFd::from(writer).into(), args), (code, String::new()), "{args:?}");
    }
}
