//! RFC 6455 to the letter, with hand-made frames: violations end with the right code and a clean close, and valid
//! frames are served whatever their shape.

mod support;

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use socket2::{Domain, Socket, Type};
use support::wire::{
    BINARY, CLOSE, CONTINUATION, FIN, Frame, MASKED, PING, PONG, TEXT, Wire, close_frame, frame, handshake, header,
};
use support::{PATIENCE, Server, reset, seeded};

/// The default of `--max-message`.
const MESSAGE_BYTES_MAX: usize = 16 * 1024;
/// Codes that RFC 6455 7.4 and IANA's registry let an endpoint send.
const CODES_SENDABLE: [u16; 16] =
    [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999];
const CODES_FORBIDDEN: [u16; 14] = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 9999, 65535];

fn text(message: &str) -> Vec<u8> {
    frame(FIN | TEXT, message.as_bytes())
}

/// Violations: name, bytes (up to the first that shows it, where that matters), close code.
fn violations() -> Vec<(String, Vec<u8>, u16)> {
    let mut all = Vec::new();
    let mut add = |name: &str, bytes: &[&[u8]], code| all.push((name.to_owned(), bytes.concat(), code));
    add("a text without a mask", &[b"\x81\x02hi"], 1002);
    add("an empty text without a mask", &[b"\x81\x00"], 1002);
    add("a ping without a mask", &[b"\x89\x00"], 1002);
    add("a close without a mask", &[b"\x88\x02\x03\xe8"], 1002);
    for opcode in [TEXT, BINARY, PING, PONG, CLOSE] {
        for bit in [0x40, 0x20, 0x10] {
            add(&format!("RSV {bit:#x} with opcode {opcode}"), &[&frame(FIN | bit | opcode, b"")], 1002);
        }
    }
    add("RSV in a continuation", &[&frame(TEXT, b"a"), &frame(FIN | 0x40, b"b")], 1002);
    for opcode in (3..=7).chain(11..=15) {
        add(&format!("opcode {opcode}"), &[&frame(FIN | opcode, b"")], 1002);
        add(&format!("opcode {opcode} in a message"), &[&frame(TEXT, b"a"), &frame(FIN | opcode, b"")], 1002);
    }
    for opcode in [PING, PONG, CLOSE] {
        add(&format!("a fragment of opcode {opcode}"), &[&frame(opcode, b"")], 1002);
        add(&format!("126 bytes with opcode {opcode}"), &[&frame(FIN | opcode, &[b'x'; 126])], 1002);
        add(&format!("64 bits of length with opcode {opcode}"), &[&[FIN | opcode, MASKED | 127]], 1002);
    }
    add("a continuation of nothing", &[&frame(FIN | CONTINUATION, b"x")], 1002);
    add("a fragment that continues nothing", &[&frame(CONTINUATION, b"x")], 1002);
    add("a continuation of a whole message", &[&text("a"), &frame(FIN | CONTINUATION, b"x")], 1002);
    add("a text within a message", &[&frame(TEXT, b"a"), &text("b")], 1002);
    add("a binary within a text", &[&frame(TEXT, b"a"), &frame(CONTINUATION, b"b"), &frame(FIN | BINARY, b"c")], 1002);
    add("16 bits for 125 bytes", &[&[FIN | BINARY, MASKED | 126, 0, 125]], 1002);
    add("64 bits for 65535 bytes", &[&[FIN | BINARY, MASKED | 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff]], 1002);
    add("64 bits for no bytes", &[&[FIN | BINARY, MASKED | 127, 0, 0, 0, 0, 0, 0, 0, 0]], 1002);
    add("the top bit of the length", &[&[FIN | BINARY, MASKED | 127, 0x80, 0, 0, 0, 0, 0, 0, 1]], 1002);
    add("half a close code", &[&frame(FIN | CLOSE, b"\x03")], 1002);
    for code in CODES_FORBIDDEN {
        add(&format!("close code {code}"), &[&close_frame(code, b"")], 1002);
    }
    add("a reason that is not UTF-8", &[&close_frame(1000, b"caf\xe9")], 1007);
    for (name, bytes) in NOT_UTF8 {
        add(name, &[&frame(FIN | TEXT, &[b"fine until ", bytes].concat())], 1007);
    }
    // Header only: refused before any payload.
    add("one byte too many", &[&header(FIN | BINARY, MESSAGE_BYTES_MAX + 1)], 1009);
    add("one byte too many in a fragment", &[&header(TEXT, MESSAGE_BYTES_MAX + 1)], 1009);
    add("exabytes", &[&[FIN | BINARY, MASKED | 127, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]], 1009);
    let most = frame(BINARY, &[b'x'; MESSAGE_BYTES_MAX - 1]);
    add("fragments that are too long together", &[&most, &header(CONTINUATION, 1), b"x", &header(FIN, 1)], 1009);
    all
}

const NOT_UTF8: [(&str, &[u8]); 8] = [
    ("a lone continuation byte", b"\x80."),
    ("a byte that is never used", b"\xff."),
    ("an overlong slash", b"\xc0\xaf"),
    ("an overlong NUL of three bytes", b"\xe0\x80\x80"),
    ("a surrogate", b"\xed\xa0\x80"),
    ("beyond U+10FFFF", b"\xf4\x90\x80\x80"),
    ("a character cut by another", b"\xce."),
    ("a character cut by the end", b"\xf0\x9f\x98"),
];

#[test]
fn every_violation_ends_with_its_code_and_harms_no_other_client() {
    let server = Server::start(&[]);
    let mut bystander = server.upgraded("/raw/bystander");
    let sockets = server.sockets();
    let (began, violations) = (Instant::now(), violations());
    let count = violations.len();
    for (name, bytes, code) in violations {
        println!("{name}");
        let mut wire = server.upgraded("/raw/strict");
        wire.send(&bytes);
        let mut frame = wire.frame();
        if name == "a continuation of a whole message" {
            frame = wire.frame();
        }
        assert_eq!(frame.first, FIN | CLOSE, "{name}");
        let (found, reason) = frame.payload.split_first_chunk().expect("a code");
        let reason = std::str::from_utf8(reason).expect("UTF-8");
        assert_eq!(u16::from_be_bytes(*found), code, "{name}: {reason}");
        assert!(!reason.is_empty(), "{name}: the reason says what was wrong");
        wire.expect_end();
        bystander.expect_echo(&name);
    }
    assert_ended_at_once(began, count);
    server.wait_for_sockets(sockets);
}

/// hi ended its streams without waiting for its time limit (3 s each).
#[track_caller]
fn assert_ended_at_once(began: Instant, streams: usize) {
    let (took, most) = (began.elapsed(), Duration::from_secs(streams as u64));
    assert!(took < most, "{streams} streams took {took:?} to end");
}

#[test]
fn no_reset_overtakes_the_close() {
    let server = Server::start(&[]);
    let flood = vec![b'x'; 2 << 20];
    for (violation, code) in
        [(frame(FIN | 0x3, b""), 1002), (frame(FIN | TEXT, b"\xff"), 1007), (header(FIN | TEXT, 1 << 40), 1009)]
    {
        // The Close is read only after megabytes have been sent after the violation, and accepted: a reset would show
        // up in a write or a read.
        let mut wire = server.upgraded("/raw/strict");
        wire.send(&violation);
        wire.send(&flood);
        wire.expect_close(code);
        wire.expect_end();
        // And while they are being sent.
        let mut wire = server.upgraded("/raw/strict");
        let mut writer = Wire::new(wire.stream.try_clone().unwrap());
        std::thread::scope(|scope| {
            scope.spawn(|| writer.send([&violation[..], &flood].concat()));
            wire.expect_close(code);
            wire.expect_end();
        });
    }
}

#[test]
fn frames_before_a_violation_are_served_first() {
    let server = Server::start(&[]);
    let mut member = server.upgraded("/raw/strict");
    let mut wire = server.upgraded("/raw/strict");
    let long = "long ".repeat(3000);
    wire.send([text("one"), text(&long), frame(FIN | BINARY, b"\xff"), frame(FIN | 0x3, b""), text("late")].concat());
    for peer in [&mut wire, &mut member] {
        peer.expect_frame(TEXT, "one");
        peer.expect_frame(TEXT, &long);
        peer.expect_frame(BINARY, b"\xff");
    }
    wire.expect_close(1002);
    wire.expect_end();
    member.expect_echo("nothing came late");
}

#[test]
fn text_that_is_not_utf8_is_found_before_its_frame_ends() {
    let server = Server::start(&[]);
    for (name, bytes) in &NOT_UTF8[..7] {
        println!("{name}");
        // The first few bytes of a frame of 1000.
        let whole = frame(FIN | TEXT, &[b"fine until ", *bytes, &[b'x'; 1000]].concat());
        let shown = header(FIN | TEXT, 1000).len() + b"fine until ".len() + bytes.len();
        let mut wire = server.upgraded("/raw/strict");
        wire.send(&whole[..shown]);
        wire.expect_close(1007);
        wire.expect_end();
        // Bytes of one character in two fragments, neither of which is the last.
        let mut wire = server.upgraded("/raw/strict");
        wire.send(frame(TEXT, &[b"fine until ", &bytes[..1]].concat()));
        wire.send_what_is_taken(&frame(CONTINUATION, &bytes[1..]));
        wire.expect_close(1007);
        wire.expect_end();
    }
    // Characters split by fragments, pings and packets stay intact.
    let mut wire = server.upgraded("/raw/strict");
    let sent = "κόσμε 😀 \u{10ffff}\u{0}";
    for (at, byte) in sent.bytes().enumerate() {
        wire.send(frame(if at == 0 { TEXT } else { CONTINUATION }, &[byte]));
        wire.send(frame(FIN | PONG, b"unasked"));
    }
    wire.send(frame(FIN | CONTINUATION, b""));
    wire.expect_frame(TEXT, sent);
    // Binary messages may have any bytes.
    wire.send(frame(FIN | BINARY, b"\xff\xfe\x80"));
    wire.expect_frame(BINARY, b"\xff\xfe\x80");
}

#[test]
fn messages_up_to_the_limit_pass_whatever_their_fragments() {
    let server = Server::start(&[]);
    let mut wire = server.upgraded("/raw/strict");
    let largest = vec![b'x'; MESSAGE_BYTES_MAX];
    for bytes in [0, 1, 125, 126, 127, 4095, 4096, 4097, MESSAGE_BYTES_MAX - 1, MESSAGE_BYTES_MAX] {
        wire.send(frame(FIN | TEXT, &largest[..bytes]));
        wire.expect_frame(TEXT, &largest[..bytes]);
    }
    let mut random = seeded();
    for _ in 0..20 {
        let cut = random.usize(0..=MESSAGE_BYTES_MAX);
        wire.send([frame(BINARY, &largest[..cut]), frame(FIN, &largest[cut..])].concat());
        wire.expect_frame(BINARY, &largest);
    }
    // Any number of empty fragments counts as nothing.
    let empty = frame(CONTINUATION, b"").repeat(5000);
    wire.send([frame(TEXT, b""), empty, frame(FIN, b"")].concat());
    wire.expect_frame(TEXT, b"");
}

#[test]
fn control_frames_between_fragments_are_answered_and_split_nothing() {
    let server = Server::start(&[]);
    let mut wire = server.upgraded("/raw/strict");
    wire.send([frame(TEXT, b"one "), frame(FIN | PING, b"between")].concat());
    wire.expect_frame(PONG, "between");
    wire.send([frame(FIN | PONG, b"unasked"), frame(CONTINUATION, b"and ")].concat());
    wire.send([frame(FIN | PING, b""), frame(FIN | CONTINUATION, b"two")].concat());
    let mut frames = [wire.frame(), wire.frame()];
    frames.sort_by_key(|frame| frame.first);
    let expected = [(TEXT, &b"one and two"[..]), (PONG, b"")];
    assert_eq!(frames, expected.map(|(opcode, payload)| Frame { first: FIN | opcode, payload: payload.to_vec() }));
    // A Close in the middle of a message ends the connection, and the half message reaches no one.
    wire.send([frame(TEXT, b"never"), close_frame(1000, b"")].concat());
    wire.expect_close(1000);
    wire.expect_end();
}

#[test]
fn pings_are_answered_in_order_with_their_payload() {
    let server = Server::start(&[]);
    let mut wire = server.upgraded("/raw/strict");
    for payload in [&b""[..], b"x", b"\0\xff\xfe", &[b'p'; 125]] {
        wire.send(frame(FIN | PING, payload));
        wire.expect_frame(PONG, payload);
    }
    let pings = (0..10).map(|number| frame(FIN | PING, format!("{number}").as_bytes()));
    wire.send(pings.collect::<Vec<_>>().concat());
    (0..10).for_each(|number| wire.expect_frame(PONG, format!("{number}")));
    // Also byte by byte.
    frame(FIN | PING, b"slow").iter().for_each(|byte| wire.send([*byte]));
    wire.expect_frame(PONG, "slow");
}

/// A connection with such a small receive buffer that hi soon has to wait for it.
fn slow_reader(server: &Server, path: &str) -> Wire {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&server.address().into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let mut wire = Wire::new(stream);
    wire.send(handshake(path));
    wire.expect_101();
    wire
}

#[test]
fn pings_are_answered_under_back_pressure() {
    const MESSAGES: usize = 2000;
    const PINGS: usize = 100;
    let server = Server::start_on_one_shard(&["--backlog-bytes", "64m"]);
    let mut member = slow_reader(&server, "/raw/busy");
    let mut publisher = server.upgraded("/raw/busy?echo=0");
    let mut message = vec![b'x'; MESSAGE_BYTES_MAX];
    for number in 0..MESSAGES as u32 {
        message[..4].copy_from_slice(&number.to_be_bytes());
        publisher.send(frame(FIN | BINARY, &message));
    }
    // Input of one shard is read in order: each pong shows that hi has read everything before.
    publisher.send(frame(FIN | PING, b"published"));
    publisher.expect_frame(PONG, b"published");
    for number in 0..PINGS {
        member.send(frame(FIN | PING, format!("{number}").as_bytes()));
    }
    publisher.send(frame(FIN | PING, b"pinged"));
    publisher.expect_frame(PONG, b"pinged");

    let (mut messages, mut pongs, mut last_pong_at) = (0, Vec::new(), 0);
    while messages < MESSAGES {
        let Frame { first, payload } = member.frame();
        if first == FIN | PONG {
            pongs.push(String::from_utf8(payload).unwrap().parse::<usize>().unwrap());
            last_pong_at = messages;
        } else {
            assert_eq!((first, payload.len()), (FIN | BINARY, MESSAGE_BYTES_MAX));
            assert_eq!(payload[..4], (messages as u32).to_be_bytes(), "complete and in order");
            messages += 1;
        }
    }
    assert_eq!(pongs.last(), Some(&(PINGS - 1)), "RFC 6455 5.5.3: at least the last ping is answered");
    assert!(pongs.is_sorted() && pongs.len() < PINGS, "a bounded number of pongs waits: {pongs:?}");
    assert!((1..MESSAGES).contains(&last_pong_at), "they overtake what waits for the member, not what has left");
}

#[test]
fn a_close_is_answered_with_its_code_and_hi_closes_first() {
    let server = Server::start(&[]);
    let (began, sockets) = (Instant::now(), server.sockets());
    for code in CODES_SENDABLE {
        let mut wire = server.upgraded("/raw/strict");
        wire.send([text("before"), close_frame(code, "grüße".as_bytes())].concat());
        wire.expect_frame(TEXT, "before");
        wire.expect_close(code);
        wire.expect_end();
    }
    // Without a code, and with the longest reason.
    let mut wire = server.upgraded("/raw/strict");
    wire.send(frame(FIN | CLOSE, b""));
    wire.expect_frame(CLOSE, b"");
    wire.expect_end();
    let mut wire = server.upgraded("/raw/strict");
    wire.send(close_frame(4000, &[b'r'; 123]));
    wire.expect_close(4000);
    wire.expect_end();
    // hi has closed although no peer has closed its end.
    assert_ended_at_once(began, CODES_SENDABLE.len() + 2);
    server.wait_for_sockets(sockets);
}

#[test]
fn frames_after_a_close_are_ignored() {
    let server = Server::start(&[]);
    let mut member = server.upgraded("/raw/strict");
    for behind in [text("late"), frame(FIN | PING, b"late"), close_frame(1002, b""), b"\xff\xff\xff".to_vec()] {
        let mut wire = server.upgraded("/raw/strict");
        wire.send([close_frame(1000, b""), behind].concat());
        wire.expect_close(1000);
        wire.expect_end();
    }
    member.expect_echo("nothing came late");
}

#[test]
fn a_stopping_server_says_1001_and_waits_for_the_answers() {
    // Repeated, because a shard that misses the order to stop does so rarely.
    for round in 0..10 {
        let mut server = Server::start(&[]);
        let mut wires: Vec<_> = (0..8).map(|_| server.upgraded("/raw/strict")).collect();
        server.signal(Signal::TERM);
        for (at, wire) in wires.iter_mut().enumerate() {
            wire.expect_close(1001);
            // Frames that cross our Close are neither answered nor relayed.
            wire.send([text("crossing"), frame(FIN | PING, b"crossing")].concat());
            match (at + round) % 3 {
                0 => wire.send(close_frame(1001, b"")),
                1 => wire.send(frame(FIN | CLOSE, b"")),
                _ => wire.half_close(),
            }
            wire.expect_end();
        }
        assert!(server.wait().success());
    }
}

#[test]
fn a_peer_that_never_answers_the_close_is_cut() {
    let server = Server::start(&[]);
    let sockets = server.sockets();
    let began = Instant::now();
    // One that hi closes for its message, and two that broke the protocol; none of them ever closes.
    let mut mute = server.upgraded("/ws?username=mute&room=tea");
    assert_eq!(mute.frame().first, FIN | TEXT, "its welcome");
    mute.send(frame(FIN | BINARY, b"no binary in chat"));
    mute.expect_close(1003);
    let mut broken = server.upgraded("/raw/strict");
    broken.send(frame(FIN | 0x3, b""));
    broken.expect_close(1002);
    let mut flooding = server.upgraded("/raw/strict");
    flooding.send(frame(FIN | 0x3, b""));
    let flood = flooding.stream.try_clone().unwrap();
    let flooding = std::thread::spawn(move || while flooding.stream.write_all(&[b'x'; 64 * 1024]).is_ok() {});
    mute.expect_end();
    broken.expect_end();
    server.wait_for_sockets(sockets);
    // Its kernel may not have noticed yet.
    let _ = flood.shutdown(Shutdown::Both);
    flooding.join().unwrap();
    let waited = began.elapsed();
    assert!(waited >= Duration::from_secs(1), "it had time to answer: {waited:?}");
}

#[test]
fn a_half_closed_peer_still_gets_its_answers() {
    let server = Server::start(&[]);
    let sockets = server.sockets();
    let mut member = server.upgraded("/raw/half");
    // After a Close, a violation, a message, half a message; and all of it in one packet with the head.
    let mut wire = server.upgraded("/raw/half");
    wire.send([text("closing"), close_frame(1000, b"")].concat());
    wire.half_close();
    wire.expect_frame(TEXT, "closing");
    wire.expect_close(1000);
    wire.expect_end();

    let mut wire = server.upgraded("/raw/half");
    wire.send(frame(FIN | 0x3, b""));
    wire.half_close();
    wire.expect_close(1002);
    wire.expect_end();

    let mut wire = server.wire();
    wire.send([handshake("/raw/half").as_bytes(), &text("at once"), &close_frame(1000, b"")].concat());
    wire.half_close();
    wire.expect_101();
    wire.expect_frame(TEXT, "at once");
    wire.expect_close(1000);
    wire.expect_end();

    let mut wire = server.upgraded("/raw/half");
    wire.send([text("no close"), frame(FIN | PING, b"?"), frame(TEXT, b"never whole")].concat());
    wire.half_close();
    let mut owed = [wire.frame(), wire.frame()];
    owed.sort_by_key(|frame| frame.first);
    assert_eq!(owed.map(|frame| frame.payload), [b"no close".to_vec(), b"?".to_vec()]);

    for message in ["closing", "at once", "no close"] {
        member.expect_frame(TEXT, message);
    }
    member.expect_echo("the room continues");
    drop((wire, member));
    server.wait_for_sockets(sockets);
}

#[test]
fn a_peer_that_vanishes_leaves_its_room_at_once() {
    let server = Server::start(&[]);
    let mut watcher = server.join("watcher", "tea");
    for end in ["reset", "close"] {
        let mut wire = server.upgraded("/ws?username=guest&room=tea");
        watcher.expect_message("#tea", "Welcome to tea, guest!");
        // In the middle of a frame.
        wire.send(&text("half a frame")[..9]);
        match end {
            "reset" => reset(wire.stream),
            _ => drop(wire),
        }
        watcher.expect_message("#tea", "User guest left channel.");
    }
}
