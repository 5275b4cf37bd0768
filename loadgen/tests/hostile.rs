//! A malicious server: it can neither fill the load generator's memory nor block it, and its text stays text.

mod support;

use std::io::{Read, Write};
use std::net::TcpListener;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use support::fault::{Fault, Manner};
use support::server::{Server, close_frame, frame};
use support::{Folder, beside_each_other, loadgen, measure, short};

#[test]
fn a_flood_of_control_frames_is_reported_as_a_fault() {
    let flood = [frame(0x89, b"still there?"), frame(0x8a, b"")].concat().repeat(3_000);
    let fault = Fault::Sends { member: 3, at: 60, bytes: flood, end: false };
    let outcome = measure(|| Server::start(fault.clone()), &short(&[]));
    let run = outcome.failed();
    assert_eq!(run.audit.closed, 1, "{:?}", run.audit);
    let named =
        run.audit.first.iter().any(|fault| fault.starts_with("client 3: the server floods it with control frames"));
    assert!(named, "{:?}", run.audit);
}

#[test]
fn endless_pings_end_the_connection_and_fill_no_memory() {
    // The trial handshake, and some clients, are served normally.
    for (after, idle) in [(0, true), (3, true), (3, false)] {
        let server = Server::start(Fault::FloodsPings { after });
        let url = server.room_url();
        let mode = if idle { "--idle" } else { "--storm" };
        let outcome = loadgen(&short(&["--url", &url, mode]));
        // Before all clients are connected, it is why the run can't begin; a moment later, a fault in the audit.
        let named = match outcome.code {
            Some(2) => outcome.refused().to_owned(),
            _ => outcome.failed().audit.first.join("\n"),
        };
        assert!(named.contains("the server floods it with control frames"), "{named}");
    }
}

#[test]
fn an_answer_sent_byte_by_byte_has_one_time_limit() {
    let server = Server::start(Fault::Drips);
    let outcome = loadgen(&short(&["--url", &server.room_url()]));
    let complaint = outcome.refused();
    assert!(
        complaint.contains("gave no complete answer to /room/loadgen-0?client=loadgen-preflight within 10 s"),
        "{complaint}"
    );
    assert_eq!(server.handshakes(), 1);
}

/// Characters that a terminal acts on, or that are invisible.
const ACTING: [char; 9] =
    ['\u{1b}', '\u{7}', '\u{9b}', '\u{202e}', '\u{2066}', '\u{200b}', '\u{61c}', '\u{2028}', '\u{e0041}'];

#[test]
fn text_from_a_server_reaches_a_terminal_as_text_only() {
    let acting: String = ACTING.iter().collect();
    let answer: &'static str = format!("HTTP/1.1 403 No{acting}\r\nContent-Length: 99\r\n\r\nnot{acting} you").leak();
    let moved: &'static str = format!("HTTP/1.1 302 Found\r\nLocation: /to{acting}\r\n\r\n").leak();
    for answer in [answer, moved] {
        let server = Server::start(Fault::Answers(answer));
        let outcome = loadgen(&short(&["--url", &server.room_url()]));
        let complaint = outcome.refused();
        assert!(!complaint.contains(ACTING) && complaint.contains('\u{fffd}'), "{complaint:?}");
    }
    let reason = close_frame(1008, &format!("go{acting}"));
    let told = serde_json::json!({ "From": "hi", "Message": format!("too fast{acting}") }).to_string();
    let told = frame(0x81, told.as_bytes());
    let cases =
        [Fault::Sends { member: 3, at: 60, bytes: reason, end: true }, Fault::ToldPublishers { at: 60, bytes: told }];
    beside_each_other(&cases, |fault| {
        let outcome = measure(|| Server::start(fault.clone()), &short(&[]));
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        let json = serde_json::to_string(outcome.run()).unwrap();
        for text in [&outcome.stdout, &outcome.stderr, &json] {
            assert!(!text.contains(ACTING), "{text:?}");
        }
        assert!(
            outcome.stdout.contains("go\u{fffd}") || outcome.stdout.contains("too fast\u{fffd}"),
            "{}",
            outcome.stdout
        );
    });
}

#[test]
fn redirects_are_described() {
    for (location, said) in [
        ("http://127.0.0.1:9/new", "it redirects to http://127.0.0.1:9/new: use that address, with ws:// for http://"),
        ("https://chat.example/", "it redirects to https://chat.example/, which needs TLS"),
        ("/chat/", "it redirects to /chat/: use that path"),
        ("/ws?token=s3cret&v=2", "it redirects to /ws?token=***&v=2: use that path"),
    ] {
        let head = format!("HTTP/1.1 301 Moved Permanently\r\nLocation: {location}\r\n");
        let answer = format!("{head}Content-Length: {}\r\n\r\nto {location}", location.len() + 3);
        let server = Server::start(Fault::Answers(answer.leak()));
        let outcome = loadgen(&short(&["--url", &server.room_url()]));
        let complaint = outcome.refused();
        assert!(complaint.contains("301 Moved Permanently") && complaint.contains(said), "{complaint}");
        assert!(!complaint.contains("s3cret"), "{complaint}");
    }
}

#[test]
fn secrets_in_the_url_are_sent_and_shown_nowhere() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let head = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        stream.write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n").unwrap();
        String::from_utf8(head).unwrap()
    });
    let outcome = loadgen(&short(&["--url", &format!("ws://ada:s%65cret@{address}/x?token=s%65cret2")]));
    let complaint = outcome.refused();
    assert!(complaint.contains("401 Unauthorized: give a user and a password"), "{complaint}");
    assert!(!complaint.contains("cret"), "{complaint}");
    let head = head.join().unwrap();
    let credentials = STANDARD.encode("ada:secret");
    assert!(head.contains(&format!("\r\nAuthorization: Basic {credentials}\r\n")), "{head}");
    assert!(head.contains(&format!("\r\nHost: {address}\r\n")), "{head}");
    assert!(head.starts_with("GET /x?token=s%65cret2 HTTP/1.1\r\n"), "{head}");

    let server = Server::start_with(Fault::None, Manner::Paths);
    let url = server.room_url().replace("ws://", "ws://ada:secret@") + "&token=secret";
    let folder = Folder::new();
    let [html, hgrm] = ["page.html", "hgrm"].map(|name| folder.file(name).to_str().unwrap().to_owned());
    // Not quiet: the first line says what is measured.
    let args = short(&["--url", &url, "--publish-url", &url, "--html", &html, "--hgrm", &hgrm]);
    let outcome = loadgen(&args[1..]);
    let json = serde_json::to_string(outcome.run()).unwrap();
    for text in [&outcome.stdout, &outcome.stderr, &json, &std::fs::read_to_string(html).unwrap()] {
        assert!(!text.contains("secret"), "{text}");
    }
    for text in [&outcome.stderr, &json] {
        assert!(text.contains("ws://ada:***@127.0.0.1:"), "{text}");
        assert!(text.contains("/room/{room}?client={client}&token=***"), "{text}");
    }
    // Complaints of the parser of the command line repeat its words.
    let outcome = loadgen(&["ws://ada:secret@host/?token=secret"]);
    assert!(
        outcome.refused().contains("ws://ada:***@host/?token=***") && !outcome.stderr.contains("secret"),
        "{outcome:?}"
    );
}
