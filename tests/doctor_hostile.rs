//! `hi doctor` and `hi checklist` against hostile servers: bounded in time and memory, and their text is harmless in a terminal
//! and in a document.

#[path = "support/doctor.rs"]
mod run;
mod support;

use std::process::Command;
use std::time::Duration;

use run::{Reply, doctor, doctor_text, dripping_server, is_handshake, odd_server, response, switching};

/// Two steps of one second each, and the time of a slow machine.
const RUN_MAX: Duration = Duration::from_secs(10);
/// Moves the cursor (7 and 8 bit), changes the reading direction, and looks like a link.
const NASTY: &str = "evil\u{1b}[2J\u{9b}2J\u{202e} [a](http://x.example) ![b](http://x.example/b.png) <script>";

fn at(port: u16) -> String {
    format!("ws://127.0.0.1:{port}/ws")
}

fn nobody(head: &str) -> Option<Reply> {
    (!is_handshake(head)).then(|| Reply::Answer(response("404 No", "", "")))
}

#[test]
fn a_message_without_an_end_is_not_collected() {
    // A text frame and continuations without FIN: 64 KiB each.
    let frame = |opcode: u8| [&[opcode, 127, 0, 0, 0, 0, 0, 1, 0, 0], vec![b'a'; 1 << 16].as_slice()].concat();
    let port = odd_server(move |head| {
        let first = String::from_utf8_lossy(&[0x01, 0x00]).into_owned();
        nobody(head).unwrap_or_else(|| Reply::AnswerAndFlood(switching(head) + &first, frame(0x00)))
    });
    let run = doctor(&[&at(port), "--timeout", "1s"]);
    let said = run.expect("message_lost", 1);
    assert!(said.contains("a message arrives that does not end"), "{said}");
    assert!(run.took < RUN_MAX, "{:?}", run.took);
}

#[test]
fn a_flood_of_messages_and_a_frame_of_an_exabyte_are_cut_off() {
    let tiny = b"\x81\x02hi".repeat(4096);
    let huge = b"\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xff".to_vec();
    for flood in [tiny, huge] {
        let port = odd_server(move |head| {
            nobody(head).unwrap_or_else(|| Reply::AnswerAndFlood(switching(head), flood.clone()))
        });
        let run = doctor(&[&at(port), "--timeout", "1s"]);
        run.expect("message_lost", 1);
        assert!(run.took < RUN_MAX, "{:?}", run.took);
    }
}

#[test]
fn endless_heads_and_bodies_are_cut_off() {
    let start = "HTTP/1.1 200 OK\r\n".to_owned();
    let heads = [
        (start.clone(), b"X-A: b\r\n".to_vec()),
        (start.clone() + "X-A: ", b"bbbbbbbbbb".repeat(100)),
        (String::new(), b"HTTP/1.1 103 Early Hints\r\n\r\n".to_vec()),
    ];
    for (answer, flood) in heads {
        let port = odd_server(move |_| Reply::AnswerAndFlood(answer.clone(), flood.clone()));
        let run = doctor(&[&at(port), "--timeout", "1s"]);
        assert_eq!(run.code, 1, "{:#}", run.json["diagnosis"]);
        assert!(run.took < RUN_MAX, "{:?}", run.took);
    }
    let bodies = [("\r\n", "more of it"), ("Transfer-Encoding: chunked\r\n\r\n", "1\r\na\r\n")];
    for (headers, flood) in bodies {
        let answer = start.clone() + headers;
        let port = odd_server(move |_| Reply::AnswerAndFlood(answer.clone(), flood.as_bytes().repeat(100)));
        let run = doctor(&[&at(port), "--timeout", "1s"]);
        run.expect("ok_200_instead_of_101", 1);
        assert!(run.took < RUN_MAX, "{:?}", run.took);
        let kept = run.address("127.0.0.1")["handshake"]["done"]["answer"]["body"].as_str().unwrap();
        assert!(kept.len() <= 4096, "{} bytes", kept.len());
    }
}

#[test]
fn slowly_dripping_bytes_do_not_extend_a_step() {
    let ok = "HTTP/1.1 200 OK\r\n";
    for (answer, byte, kind) in [
        (String::new(), b'\n', "no_http_answer"),
        (format!("{ok}X-Drip: "), b'x', "no_http_answer"),
        (format!("{ok}Content-Length: 1000000\r\n\r\n"), b'x', "ok_200_instead_of_101"),
        (format!("{ok}Transfer-Encoding: chunked\r\n\r\nffff\r\n"), b'x', "ok_200_instead_of_101"),
    ] {
        let port = odd_server(move |_| Reply::AnswerAndDrip(answer.clone(), byte));
        let run = doctor(&[&at(port), "--timeout", "1s"]);
        run.expect(kind, 1);
        assert!(run.took < RUN_MAX, "{:?}", run.took);
        let answer = &run.address("127.0.0.1")["handshake"]["done"]["answer"];
        assert!(answer.is_null() || answer["ms"].as_f64().unwrap() < 1_900.0, "one limit for head and body: {answer}");
    }
    // A frame of 64 KiB whose bytes trickle in, and the head of a TLS record.
    let frame = String::from_utf8(b"\x01\x7e\x7f\x7f".to_vec()).unwrap();
    let port =
        odd_server(move |head| nobody(head).unwrap_or_else(|| Reply::AnswerAndDrip(switching(head) + &frame, b'x')));
    let run = doctor(&[&at(port), "--timeout", "1s", "--idle=1s"]);
    run.expect("message_lost", 1);
    assert!(run.took < RUN_MAX, "{:?}", run.took);
    let run = doctor(&[&at(dripping_server(b"\x16\x03\x03\x3f\xff")).replace("ws:", "wss:"), "--timeout", "1s"]);
    run.expect("tls_failed", 1);
    assert!(run.took < RUN_MAX, "{:?}", run.took);
}

#[test]
fn endless_pings_from_a_server_that_reads_nothing_do_not_extend_the_silence() {
    let pings = b"\x89\x7d".iter().copied().chain([b'p'; 125]).collect::<Vec<_>>().repeat(64);
    let port =
        odd_server(move |head| nobody(head).unwrap_or_else(|| Reply::AnswerAndFlood(switching(head), pings.clone())));
    let run = doctor(&[&at(port), "--timeout", "1s", "--idle=1s"]);
    run.expect("message_lost", 1);
    assert!(run.took < RUN_MAX, "{:?}", run.took);
}

/// What is printed to a terminal and what is saved.
fn is_harmless(text: &str) -> bool {
    !text.contains(|letter: char| letter.is_control() && letter != '\n') && !text.contains('\u{202e}')
}

#[test]
fn text_of_a_server_is_harmless_in_a_terminal_and_a_document() {
    // HTTP allows no ESC in a header.
    let headers = format!("Server: {}\r\nContent-Type: text/plain\r\n", NASTY.replace('\u{1b}', ""));
    let url = at(odd_server(move |_| Reply::Answer(response("500 No", &headers, NASTY))));
    for args in [&[&*url][..], &[&*url, "--json"]] {
        let (code, text) = doctor_text(args);
        assert_eq!(code, 1, "{text}");
        assert!(text.contains("evil") && is_harmless(&text), "{text:?}");
    }
    let checklist = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_hi")).arg("checklist").args(args).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let saved = std::env::temp_dir().join(format!("hi-hostile-{}.md", std::process::id()));
    let list = checklist(&["before", &url, "--elsewhere", "--save", saved.to_str().unwrap()]);
    let document = std::fs::read_to_string(&saved).unwrap();
    std::fs::remove_file(&saved).unwrap();
    for text in [list, checklist(&["before", &url, "--elsewhere", "--json"]), document] {
        assert!(text.contains("evil") && is_harmless(&text), "{text:?}");
        let markdown = text.split("<!-- hi-checklist").next().unwrap();
        assert!(markdown.starts_with('{') || !markdown.contains("[a](") && !markdown.contains("<script"), "{text}");
    }
}

#[test]
fn a_forged_list_is_harmless_in_a_terminal() {
    let forged = std::env::temp_dir().join(format!("hi-forged-{}.json", std::process::id()));
    let list = |url: &str| {
        serde_json::json!({
            "phase": "before", "url": url, "made_unix_ms": 0, "items": [],
            "facts": {
                "host": "h", "old": [], "new": [], "resolvers": [], "addresses": [], "machine": null,
                "old_connections": null,
                "verdict": { "name": url, "sound": true, "sentence": "", "mend": "" },
            },
        })
    };
    let second = forged.with_extension("2.json");
    std::fs::write(&forged, list(NASTY).to_string()).unwrap();
    std::fs::write(&second, list("ws://h/ws").to_string()).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_hi")).args(["checklist", "diff"]).args([&forged, &second]).output();
    let output = output.unwrap();
    let _ = (std::fs::remove_file(&forged), std::fs::remove_file(&second));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("evil") && is_harmless(&text), "{text:?} {:?}", String::from_utf8_lossy(&output.stderr));
}
