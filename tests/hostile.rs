//! Peers that reset, stall, flood and lie, against the real binary. Whatever they do, other clients are not affected:
//! witnesses chat throughout and miss nothing, and afterwards the server has no more files open than before.

mod support;

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use support::wire::{BINARY, CLOSE, CONTINUATION, FIN, PING, PONG, TEXT, Wire, close_frame, frame, handshake, header};
use support::{Client, PATIENCE, Server, reset, seeded, wait_while};
use tungstenite::Message;

/// Enough that on two shards, they are hardly ever all on one.
const WITNESSES: usize = 4;
/// Few enough that all are in use at once, so that later growth of memory is not theirs.
const FEW_BUFFERS: [&str; 2] = ["--receive-buffers", "64"];
/// The default of `--max-message`.
const MESSAGE_BYTES_MAX: usize = 16 * 1024;

/// Runs an attack against a server with witnesses. They take turns to send, one message after the other, as fast as all
/// of them get it; the attack is over when the server has as many files open as before.
fn with_witnesses(args: &[&str], attack: impl FnOnce(&Server)) {
    let args: Vec<_> = args.iter().copied().chain(["--rate-limit", "0"]).collect();
    let server = Server::start(&args);
    let mut witnesses: Vec<_> =
        (0..WITNESSES).map(|number| server.join_quietly(&format!("w{number}"), "calm")).collect();
    let files = open_files(&server);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let chat = scope.spawn(|| {
            let mut said = 0;
            // One more round afterwards: they are still served.
            let mut rounds_left = WITNESSES;
            while rounds_left > 0 {
                rounds_left -= usize::from(over.load(Ordering::Relaxed));
                speak_and_hear(&mut witnesses, said);
                said += 1;
            }
            said
        });
        // However the attack ends, the witnesses must stop.
        let attacked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            attack(&server);
            wait_for_files(&server, files);
        }));
        over.store(true, Ordering::Relaxed);
        let said = chat.join().expect("the witnesses miss nothing");
        attacked.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        println!("the witnesses said {said} messages meanwhile");
    });
}

/// One of the witnesses sends a number, and all get it as their next message.
fn speak_and_hear(witnesses: &mut [Client], number: usize) {
    let speaker = number % WITNESSES;
    witnesses[speaker].say("calm", &number.to_string());
    for witness in witnesses {
        // Joins and leaves are announced.
        let heard = std::iter::repeat_with(|| witness.json()).find(|value| value["Meta"] == false).unwrap();
        assert_eq!((&heard["From"], &heard["Message"]), (&format!("w{speaker}").into(), &number.to_string().into()));
    }
}

fn open_files(server: &Server) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", server.pid())).expect("hi runs").count()
}

/// Waits until the server has at most this many files open.
#[track_caller]
fn wait_for_files(server: &Server, count: usize) {
    wait_while(|| open_files(server) > count, || format!("{} files are open instead of {count}", open_files(server)));
}

/// Random bytes.
fn garbage(random: &mut Rng, len: usize) -> Vec<u8> {
    std::iter::repeat_with(|| random.u8(..)).take(len).collect()
}

/// A connection that publishes more than its socket holds and reads nothing, so that the server's send is stuck. It
/// reads only as much as requested.
fn stuck(server: &Server, room: &str) -> Wire {
    let mut wire = Wire::new(server.connect_narrow());
    wire.send(handshake(&format!("/raw/{room}?lossy=1")));
    wire.expect_101();
    // More than the kernel buffers for one socket: see tcp_wmem.
    let message = frame(FIN | BINARY, &[7; MESSAGE_BYTES_MAX]);
    (0..400).for_each(|_| wire.send(&message));
    wire
}

#[test]
fn resets_in_every_state_harm_no_one() {
    let mut random = seeded();
    with_witnesses(&[], |server| {
        for round in 0..20 {
            let wire = |path: &str| server.upgraded(path);
            let raw = &format!("/raw/r{round}");
            // Before the head, in it, after it.
            reset(server.connect());
            let head = handshake(raw);
            let mut begun = server.wire();
            begun.send(&head.as_bytes()[..random.usize(1..head.len())]);
            reset(begun.stream);
            let mut asked = server.wire();
            asked.send(&head);
            reset(asked.stream);
            // In the middle of an answer that isn't read.
            let mut asked = server.wire();
            (0..20).for_each(|_| asked.send("GET / HTTP/1.1\r\nHost: hi\r\n\r\n"));
            reset(asked.stream);
            // Right after the 101, in the middle of a frame, and of a fragmented message.
            reset(wire(raw).stream);
            for first in [FIN | BINARY, BINARY, FIN | PING, FIN | CLOSE] {
                let len = if first & 0x8 == 0 { 9000 } else { 125 };
                let whole = frame(first, &vec![3; len]);
                let mut begun = wire(raw);
                begun.send(&whole[..random.usize(1..whole.len())]);
                reset(begun.stream);
            }
            // With messages in flight to it: it is in the witnesses' room.
            let member = wire(&format!("/ws?username=r{round}&room=calm"));
            let mut gone = wire(&format!("/ws?username=s{round}&room=calm"));
            gone.send(frame(FIN | TEXT, br#"{"Room":"calm","Message":"/list"}"#).repeat(random.usize(1..20)));
            reset(gone.stream);
            reset(member.stream);
            // After our Close: for a violation, for a taken name.
            let mut wrong = wire(raw);
            wrong.send([0xff; 10]);
            if random.bool() {
                wrong.expect_close(1002);
            }
            reset(wrong.stream);
            let mut taken = wire("/ws?username=w0&room=calm");
            if random.bool() {
                taken.frame();
                taken.expect_close(4002);
            }
            reset(taken.stream);
            // After its own Close, with or without reading the answer.
            let mut closing = wire(raw);
            closing.send(close_frame(1000, b"bye"));
            if random.bool() {
                closing.expect_close(1000);
            }
            reset(closing.stream);
        }
        // While the server's send is stuck, with the connection being closed by either side.
        for round in 0..3 {
            let mut wire = stuck(server, &format!("stuck{round}"));
            match round {
                0 => {}
                1 => wire.send(close_frame(1000, b"")),
                _ => wire.send([0xff; 10]),
            }
            reset(wire.stream);
        }
    });
}

#[test]
fn messages_before_a_reset_are_delivered() {
    let server = Server::start_on_one_shard(&[]);
    let mut reader = server.websocket("/raw/r");
    for number in 0..200 {
        // Its own message is echoed and not read, so closing resets.
        let mut hasty = server.upgraded("/raw/r");
        hasty.send(frame(FIN | TEXT, format!("{number}").as_bytes()));
        reset(hasty.stream);
    }
    let mut heard: Vec<u32> = (0..200).map(|_| reader.text().parse().unwrap()).collect();
    heard.sort_unstable();
    assert!(heard.into_iter().eq(0..200));
}

#[test]
fn a_thousand_resets_at_once_harm_no_one() {
    with_witnesses(&[], |server| {
        let all: Vec<_> = (0..1000).map(|number| server.upgraded(&format!("/raw/r{}", number % 10))).collect();
        all.into_iter().for_each(|wire| reset(wire.stream));
    });
}

#[test]
fn garbage_after_a_refused_handshake_harms_no_one() {
    let mut random = seeded();
    with_witnesses(&[], |server| {
        for behind in [
            vec![0x01, 0x00],
            frame(FIN | CLOSE, b""),
            frame(FIN | CLOSE, &[0; 1]),
            frame(FIN | TEXT, b"{}").repeat(9),
            [frame(FIN | PING, b"x"), vec![0xff; 3]].concat(),
            garbage(&mut random, 1000),
        ] {
            for path in ["/ws?username=w1&room=calm", "/raw/x"] {
                let mut wire = server.wire();
                wire.send([handshake(path).as_bytes(), &behind].concat());
                wire.expect_101();
                if path.starts_with("/ws") {
                    // Whatever it sends, it is told why it is refused.
                    let mut taken = wire.frame();
                    while taken.first == FIN | PONG {
                        taken = wire.frame();
                    }
                    assert!(String::from_utf8_lossy(&taken.payload).contains("already"), "{taken:?}");
                    wire.expect_close(4002);
                }
            }
        }
    });
}

#[test]
fn a_peer_that_never_answers_is_disconnected() {
    with_witnesses(&["--handshake-timeout", "1s", "--ping-interval", "3s", "--ping-timeout", "3s"], |server| {
        let files = open_files(server);
        // Peers that send no request, that never finish it, and that vanish in the chat. They stay open until the end.
        let mut silent: Vec<_> = (0..200).map(|_| server.wire()).collect();
        let mut half: Vec<_> = (0..200).map(|_| server.wire()).collect();
        half.iter_mut().for_each(|wire| wire.send("GET /raw/r HTTP/1.1\r\nHost: hi\r\nUpg"));
        let mut vanished: Vec<_> = (0..200).map(|_| server.upgraded("/raw/r")).collect();
        wait_for_files(server, files);
        silent.iter_mut().for_each(Wire::expect_end);
        half.iter_mut().for_each(|wire| assert_eq!(wire.answer().status, 408));
        for wire in &mut vanished {
            assert_eq!(wire.frame_or_ping().first, FIN | PING);
            wire.expect_end();
        }
    });
}

#[test]
fn a_head_that_drips_is_cut_off() {
    with_witnesses(&["--handshake-timeout", "1s"], |server| {
        let files = open_files(server);
        let mut dripping: Vec<_> = (0..100).map(|_| server.connect()).collect();
        let began = Instant::now();
        let endless = b"GET /raw/r HTTP/1.1\r\nX-Drip: ".iter().chain(std::iter::repeat(&b'x'));
        for byte in endless {
            // A byte every 10 ms: a rate, not a wait.
            dripping.retain_mut(|stream| stream.write_all(&[*byte]).is_ok());
            if dripping.is_empty() || open_files(server) <= files {
                break;
            }
            assert!(began.elapsed() < PATIENCE, "{} connections drip on", dripping.len());
            std::thread::sleep(Duration::from_millis(10));
        }
    });
}

#[test]
fn a_claimed_length_costs_nothing() {
    with_witnesses(&["--max-message", "32m", "--receive-buffers", "64"], |server| {
        let mut wires: Vec<_> = (0..1000).map(|_| server.upgraded("/raw/r")).collect();
        let before = server.resident_bytes();
        for wire in &mut wires {
            wire.send(header(FIN | BINARY, 32 << 20));
        }
        // The last bytes of a header follow everything else on its connection: an answer shows that they were read.
        for wire in &mut wires {
            wire.send([1, 2, 3]);
        }
        let mut witness = server.upgraded("/raw/other");
        witness.expect_echo("everything before has been read, or soon will be");
        let grown = server.resident_bytes().saturating_sub(before);
        assert!(grown < 4 << 20, "1,000 claims of 32 MiB cost {grown} bytes");
        wires.into_iter().for_each(|wire| drop(wire.stream));
    });
}

#[test]
fn a_flood_of_pings_without_reading_is_bounded() {
    with_witnesses(&FEW_BUFFERS, |server| {
        let mut wire = Wire::new(server.connect_narrow());
        wire.send(handshake("/raw/pings"));
        wire.expect_101();
        let before = server.resident_bytes();
        let mut number = 0u32;
        for _ in 0..1000 {
            let mut burst = Vec::new();
            for _ in 0..200 {
                number += 1;
                burst.extend(frame(FIN | PING, &[&number.to_be_bytes()[..], &[9; 100]].concat()));
            }
            wire.send(&burst);
        }
        let grown = server.resident_bytes().saturating_sub(before);
        assert!(grown < 8 << 20, "200,000 unread pongs cost {grown} bytes");
        // The most recent ping is answered (RFC 6455, 5.5.3), and answers are in order.
        let mut last = 0;
        while last < number {
            let pong = wire.frame();
            assert_eq!(pong.first, FIN | PONG);
            let answered = u32::from_be_bytes(pong.payload[..4].try_into().unwrap());
            assert!(answered > last && pong.payload[4..] == [9; 100]);
            last = answered;
        }
    });
}

#[test]
fn fragments_of_one_byte_are_joined_up_to_the_limit() {
    with_witnesses(&FEW_BUFFERS, |server| {
        let mut wire = server.upgraded("/raw/crumbs");
        let payload: Vec<u8> = (0..MESSAGE_BYTES_MAX).map(|at| at as u8).collect();
        let mut crumbs = frame(BINARY, &payload[..1]);
        for byte in &payload[1..] {
            crumbs.extend(frame(CONTINUATION, &[*byte]));
        }
        wire.send(&crumbs);
        wire.send(frame(FIN | CONTINUATION, b""));
        wire.expect_frame(BINARY, &payload);
        wire.send(&crumbs);
        wire.send(frame(CONTINUATION, b"x"));
        wire.expect_close(1009);
        // Empty fragments neither end nor grow a message.
        let mut wire = server.upgraded("/raw/nothing");
        let before = server.resident_bytes();
        wire.send(frame(TEXT, b""));
        (0..100).for_each(|_| wire.send(frame(CONTINUATION, b"").repeat(1000)));
        wire.send(frame(FIN | CONTINUATION, b"end"));
        wire.expect_frame(TEXT, "end");
        let grown = server.resident_bytes().saturating_sub(before);
        assert!(grown < 4 << 20, "100,000 empty fragments cost {grown} bytes");
    });
}

#[test]
fn garbage_ends_with_a_reason_and_nothing_else() {
    let mut random = seeded();
    with_witnesses(&[], |server| {
        for _ in 0..20 {
            // Its first byte is wrong in every case: a reserved bit.
            let mut wire = server.upgraded("/raw/r");
            let bytes = garbage(&mut random, 100_000);
            wire.send([0xf1]);
            wire.send_what_is_taken(&bytes);
            wire.expect_close(1002);
            // Instead of a request.
            let mut wire = server.wire();
            wire.send([0]);
            wire.send_what_is_taken(&garbage(&mut random, 20_000));
            assert!(matches!(wire.answer().status, 400 | 431));
        }
        // Wherever else it is wrong, it ends with one of these codes.
        for _ in 0..200 {
            let mut wire = server.upgraded("/raw/r?echo=0&lossy=1");
            let len = random.usize(500..20_000);
            wire.send_what_is_taken(&garbage(&mut random, len));
            wire.half_close();
            drain(&mut wire.stream);
        }
        // A megabyte per second, continuously, after the refusal.
        let mut wire = server.upgraded("/raw/r");
        let began = Instant::now();
        let mut sent = 0;
        while wire.stream.write_all(&garbage(&mut random, 10_000)).is_ok() {
            sent += 10_000;
            assert!(began.elapsed() < PATIENCE, "{sent} bytes of garbage, without any reaction");
            std::thread::sleep(Duration::from_millis(10));
        }
    });
}

/// Reads until the stream ends, in any way.
fn drain(stream: &mut TcpStream) {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
            Err(error) => panic!("the server does not end it: {error}"),
        }
    }
}

#[test]
fn two_thousand_come_and_go() {
    let mut random = seeded();
    with_witnesses(&FEW_BUFFERS, |server| {
        let before = server.resident_bytes();
        for number in 0..2000 {
            let stream = match random.u8(..5) {
                0 => server.connect(),
                1 => server.upgraded("/raw/r").stream,
                2 => {
                    let mut wire = server.upgraded(&format!("/raw/room{number}"));
                    wire.send(frame(FIN | TEXT, b"hello"));
                    wire.stream
                }
                3 => {
                    let mut wire = server.upgraded(&format!("/ws?username=u{number}&room=room{}", number % 7));
                    wire.send(close_frame(1000, b""));
                    wire.stream
                }
                _ => server.upgraded(&format!("/ws?username=u{number}&room=room{number}")).stream,
            };
            if random.bool() { reset(stream) } else { drop(stream) }
        }
        let grown = server.resident_bytes().saturating_sub(before);
        assert!(grown < 8 << 20, "2,000 connections that are gone cost {grown} bytes");
    });
}

#[test]
fn a_burst_of_tiny_messages_laps_no_member_that_reads() {
    const WRITERS: usize = 4;
    const EACH: usize = 20_000;
    let server = Server::start(&[]);
    let mut readers: Vec<_> = (0..3).map(|_| server.websocket("/raw/r")).collect();
    let writers: Vec<_> = (0..WRITERS).map(|_| server.upgraded("/raw/r?echo=0&lossy=1")).collect();
    std::thread::scope(|scope| {
        for (writer, mut wire) in writers.into_iter().enumerate() {
            scope.spawn(move || {
                let burst: Vec<u8> =
                    (0..EACH).flat_map(|number| frame(FIN | BINARY, &[writer as u8, number as u8])).collect();
                wire.send(burst);
                drain_until_closed(wire);
            });
        }
        let heard: Vec<_> = readers.iter_mut().map(|reader| scope.spawn(|| hear_all(reader, WRITERS * EACH))).collect();
        let mut heard: Vec<_> = heard.into_iter().map(|heard| heard.join().expect("no member is lapped")).collect();
        let first = heard.pop().unwrap();
        assert!(heard.iter().all(|others| *others == first), "everyone hears the same order");
        let mut next = HashMap::new();
        for message in first.chunks(2) {
            let number: &mut u8 = next.entry(message[0]).or_default();
            assert_eq!(message[1], *number, "writer {} is heard in order", message[0]);
            *number = number.wrapping_add(1);
        }
        drop(server);
    });
}

fn hear_all(reader: &mut Client, count: usize) -> Vec<u8> {
    let mut heard = Vec::new();
    for index in 0..count {
        match reader.socket.read().expect("a message") {
            Message::Binary(bytes) => heard.extend_from_slice(&bytes),
            other => panic!("{other:?} instead of message {index}"),
        }
    }
    heard
}

fn drain_until_closed(mut wire: Wire) {
    drain(&mut wire.stream);
}
