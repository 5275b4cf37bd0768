//! From TCP to 101, however the bytes arrive. Failures are in `tests/refusals.rs`.

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use support::wire::{BINARY, CLOSE, FIN, PING, PONG, TEXT, Wire, close_frame, frame, handshake, handshake_but};
use support::{PATIENCE, Server, reset, seeded};

/// The longest request head, in bytes.
const HEAD_BYTES_MAX: usize = 16_384;
const PATH: &str = "/raw/handshake?echo=1";

/// A handshake for [`PATH`] without the headers named in `without`, and with those in `with`.
fn changed(without: &[&str], with: &[&str]) -> String {
    handshake_but(PATH, without, with)
}

/// A valid handshake of exactly `bytes` bytes.
fn padded(bytes: usize) -> String {
    let head = changed(&[], &["X-Padding: "]);
    head.replace("X-Padding: ", &format!("X-Padding: {}", "x".repeat(bytes - head.len())))
}

fn text(message: &str) -> Vec<u8> {
    frame(FIN | TEXT, message.as_bytes())
}

#[test]
fn the_101_has_the_accept_of_the_key_and_nothing_that_was_not_negotiated() {
    let server = Server::start(&[]);
    let offers = [
        "Sec-WebSocket-Protocol: chat, superchat",
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits, permessage-deflate",
        "Sec-WebSocket-Extensions: x-webkit-deflate-frame",
    ];
    for with in [&[][..], &offers] {
        let answer = server.ask(changed(&[], with));
        assert_eq!(
            answer.headers().collect::<Vec<_>>(),
            // RFC 6455 1.3 has the key and this answer to it.
            [
                ("Upgrade", "websocket"),
                ("Connection", "Upgrade"),
                ("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
            ]
        );
        assert!(answer.head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"));
    }
    // Without the extension, its bit stays reserved.
    let mut wire = server.wire();
    wire.send(changed(&[], &offers));
    wire.expect_101();
    wire.send(frame(FIN | TEXT | 0x40, b"deflated?"));
    wire.expect_close(1002);
}

#[test]
fn every_key_has_its_own_accept() {
    let server = Server::start(&[]);
    for _ in 0..20 {
        let key = tungstenite::handshake::client::generate_key();
        let answer = server.ask(changed(&["Sec-WebSocket-Key"], &[&format!("sec-websocket-key:\t{key} ")]));
        let accept = tungstenite::handshake::derive_accept_key(key.as_bytes());
        assert_eq!(answer.header("Sec-WebSocket-Accept"), Some(&*accept), "{key}");
    }
}

#[test]
fn upgrade_and_connection_are_lists_of_tokens_in_any_case() {
    let server = Server::start(&[]);
    let valid: [&[&str]; 8] = [
        &["upgrade: WEBSOCKET", "CONNECTION: upgrade"],
        &["Upgrade: WebSocket", "Connection: keep-alive, Upgrade"],
        &["Upgrade: websocket", "Connection: Upgrade,keep-alive"],
        &["Upgrade: h2c, websocket", "Connection: HTTP2-Settings , Upgrade"],
        &["Upgrade: h2c", "Upgrade: websocket", "Connection: Upgrade"],
        &["Upgrade: websocket", "Connection: keep-alive", "Connection: upgrade"],
        &["Connection: ,, uPgRaDe ,", "Upgrade:websocket,"],
        &["Upgrade:\t websocket\t ", "Connection: \tUpgrade"],
    ];
    for with in valid {
        let mut wire = server.wire();
        wire.send(changed(&["Upgrade", "Connection"], with));
        wire.expect_101();
        wire.expect_echo("in");
    }
    let unsound: [&[&str]; 6] = [
        &["Upgrade: websockets", "Connection: Upgrade"],
        &["Upgrade: web socket", "Connection: Upgrade"],
        &["Upgrade: \"websocket\"", "Connection: Upgrade"],
        &["Upgrade: websocket", "Connection: Upgraded"],
        &["Upgrade: websocket", "Connection: keep-alive Upgrade"],
        &["Upgrade: websocket", "X-Connection: Upgrade"],
    ];
    for with in unsound {
        assert_eq!(server.ask(changed(&["Upgrade", "Connection"], with)).status, 426, "{with:?}");
    }
}

#[test]
fn a_head_split_at_any_byte_is_read_whole() {
    // On one shard, the answer to a later request proves that the earlier halves were read separately.
    let server = Server::start_on_one_shard(&[]);
    let stream = [changed(&[], &[]).as_bytes(), &text("behind the head")].concat();
    let mut halves: Vec<_> = (1..stream.len())
        .map(|at| {
            let mut wire = server.wire();
            wire.send(&stream[..at]);
            (at, wire)
        })
        .collect();
    assert!(server.get("/healthz").starts_with("HTTP/1.1 200 "));
    // All in one room, so one after the other: each gets its own message, and so do those before it.
    for (at, wire) in &mut halves {
        println!("split at {at}");
        wire.send(&stream[*at..]);
        wire.expect_101();
        wire.expect_frame(TEXT, "behind the head");
    }
}

#[test]
fn a_head_that_comes_byte_by_byte_is_read_whole() {
    let server = Server::start(&[]);
    let mut wire = server.wire();
    wire.stream.set_nodelay(true).unwrap();
    for byte in [changed(&[], &[]).as_bytes(), &text("byte by byte"), &text("and on")].concat() {
        wire.send([byte]);
    }
    wire.expect_101();
    wire.expect_frame(TEXT, "byte by byte");
    wire.expect_frame(TEXT, "and on");
}

#[test]
fn frames_in_the_packet_of_the_head_are_not_lost() {
    let server = Server::start(&[]);
    let long = "long ".repeat(3000);
    let (one, two, three) = (text("one"), frame(FIN | BINARY, b"\0two\xff"), text(&long));
    // All at once, and also more than the head's buffer holds.
    let mut wire = server.wire();
    wire.send([handshake("/raw/all").as_bytes(), &one, &two, &three, &frame(FIN | PING, b"p")].concat());
    wire.expect_101();
    let mut pongs = 0;
    let mut messages = Vec::new();
    while pongs + messages.len() < 4 {
        match wire.frame() {
            pong if pong.first == FIN | PONG => pongs += 1,
            message => messages.push(message.payload),
        }
    }
    assert_eq!(messages, [b"one", &b"\0two\xff"[..], long.as_bytes()]);

    // Pongs may overtake other frames, but never the 101.
    let mut wire = server.wire();
    wire.send([handshake("/raw/ping").as_bytes(), &frame(FIN | PING, b"first")].concat());
    wire.expect_101();
    wire.expect_frame(PONG, b"first");

    // The other half of the frame is sent after the 101.
    for at in [1, 2, 5, 6, 7, 8] {
        let mut wire = server.wire();
        wire.send([handshake(&format!("/raw/half{at}")).as_bytes(), &one, &one[..at]].concat());
        wire.expect_101();
        wire.expect_frame(TEXT, "one");
        wire.send([&one[at..], &two].concat());
        wire.expect_frame(TEXT, "one");
        wire.expect_frame(BINARY, b"\0two\xff");
    }

    // The whole conversation in one packet.
    let mut wire = server.wire();
    wire.send([handshake("/raw/brief").as_bytes(), &one, &close_frame(3333, b"done")].concat());
    wire.expect_101();
    wire.expect_frame(TEXT, "one");
    wire.expect_close(3333);
    wire.expect_end();

    // A frame that breaks the protocol is not parsed as a request, and is handled after the 101.
    let mut wire = server.wire();
    wire.send([handshake("/raw/bad").as_bytes(), &one, b"\x81\x03one"].concat());
    wire.expect_101();
    wire.expect_frame(TEXT, "one");
    wire.expect_close(1002);
    wire.expect_end();
}

#[test]
fn head_and_frames_cut_anywhere_lose_no_byte() {
    let server = Server::start(&[]);
    let mut random = seeded();
    for round in 0..40 {
        let messages: Vec<Vec<u8>> = (0..random.usize(1..8))
            .map(|_| {
                let bytes = [random.usize(0..130), random.usize(0..6000)][random.usize(0..2)];
                std::iter::repeat_with(|| random.u8(..)).take(bytes).collect()
            })
            .collect();
        let mut stream = handshake(&format!("/raw/round{round}")).into_bytes();
        messages.iter().for_each(|message| stream.extend(frame(FIN | BINARY, message)));
        let mut wire = server.wire();
        let mut sent = 0;
        while sent < stream.len() {
            let piece = [random.usize(1..20), random.usize(1..5000)][random.usize(0..2)];
            let end = stream.len().min(sent + piece);
            wire.send(&stream[sent..end]);
            sent = end;
        }
        wire.expect_101();
        messages.iter().for_each(|message| wire.expect_frame(BINARY, message));
    }
}

#[test]
fn a_connection_that_asked_for_pages_can_still_be_upgraded() {
    let server = Server::start(&[]);
    let mut wire = server.wire();
    let ask = "GET /healthz HTTP/1.1\r\nHost: hi\r\n\r\n";
    let failed = changed(&["Sec-WebSocket-Version"], &["Sec-WebSocket-Version: 8"]);
    wire.send([ask, &failed, &changed(&[], &[])].concat());
    wire.send(text("after all"));
    assert_eq!(wire.answer().status, 200);
    let refused = wire.answer();
    assert_eq!((refused.status, refused.header("Sec-WebSocket-Version")), (426, Some("13")));
    wire.expect_101();
    wire.expect_frame(TEXT, "after all");
}

#[test]
fn a_head_of_16384_bytes_and_100_headers_works() {
    let server = Server::start(&[]);
    for frames in [vec![], text("x"), text(&"x".repeat(10_000))] {
        let head = padded(HEAD_BYTES_MAX);
        assert_eq!(head.len(), HEAD_BYTES_MAX);
        let mut wire = server.wire();
        wire.send([head.as_bytes(), &frames].concat());
        wire.expect_101();
        if !frames.is_empty() {
            assert_eq!(wire.frame().first, FIN | TEXT);
        }
        wire.expect_echo("still in step");
    }
    let many: Vec<_> = (0..95).map(|number| format!("X-{number}: {number}")).collect();
    let head = changed(&[], &many.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(head.lines().count(), 102, "request line, 100 headers, empty line");
    assert_eq!(server.ask(head).status, 101);
}

#[test]
fn a_stalled_handshake_times_out_and_harms_no_one() {
    let server = Server::start(&["--handshake-timeout", "1s", "--keepalive-timeout", "2s"]);
    let mut bystander = server.upgraded("/raw/bystander");
    let sockets = server.sockets();
    let done = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&done);
    let chatting = std::thread::spawn(move || {
        while !told.load(Ordering::Relaxed) {
            bystander.expect_echo("still here");
        }
        bystander
    });
    let mut silent: Vec<_> = (0..50).map(|_| server.wire()).collect();
    let mut begun: Vec<_> = (0..50).map(|_| server.wire()).collect();
    begun.iter_mut().for_each(|wire| wire.send(&changed(&[], &[])[..50]));
    let mut waiting = server.wire();
    waiting.send("GET /healthz HTTP/1.1\r\nHost: hi\r\n\r\n");
    assert_eq!(waiting.answer().status, 200);
    // Each byte is on time, the whole head never: the limit is for the whole head.
    let answer = drip(server.connect());
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    for wire in &mut begun {
        let answer = wire.answer();
        assert_eq!((answer.status, answer.header("Connection")), (408, Some("close")));
        wire.expect_end();
    }
    silent.iter_mut().for_each(Wire::expect_end);
    // Between two requests nothing has begun, so nothing is answered.
    waiting.expect_end();
    done.store(true, Ordering::Relaxed);
    let mut bystander = chatting.join().expect("no one else is harmed");
    bystander.expect_echo("and after");
    server.wait_for_sockets(sockets);
}

/// Sends an endless head, one byte each time that nothing has arrived for 50 ms. Returns the final answer.
fn drip(mut stream: TcpStream) -> String {
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
    let _ = stream.write_all(b"GET / HTTP/1.1\r\nX-Endless: ");
    loop {
        match stream.read(&mut buffer) {
            Ok(count @ 1..) => answer.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                assert!(Instant::now() < deadline, "a head that never ends is never cut");
                let _ = stream.write_all(b"x");
            }
            // The last byte may have arrived after the end, and caused a reset.
            Ok(0) | Err(_) => return String::from_utf8(answer).unwrap(),
        }
    }
}

#[test]
fn peers_that_reset_at_once_harm_no_one() {
    let server = Server::start(&[]);
    let mut bystander = server.upgraded("/raw/bystander");
    let sockets = server.sockets();
    let head = changed(&[], &[]);
    for round in 0..500 {
        let mut stream = server.connect();
        // Before the head, within it, after it, and in the middle of a frame.
        let sent = [0, head.len() / 2, head.len(), head.len() + 3][round % 4];
        let bytes = [head.as_bytes(), &text("never whole")].concat();
        stream.write_all(&bytes[..sent]).unwrap();
        reset(stream);
        if round % 50 == 0 {
            bystander.expect_echo(&format!("round {round}"));
        }
    }
    server.wait_for_sockets(sockets);
    bystander.expect_echo("and after");
    server.upgraded("/raw/new").expect_echo("newcomers too");
    bystander.send(close_frame(1000, b""));
    assert_eq!(bystander.frame().first, FIN | CLOSE);
}
