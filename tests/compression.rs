//! Compressed messages (permessage-deflate, RFC 7692): agreed on only if the operator wants it, made once for all members of a
//! room that take them, and harmless whatever a client sends.

mod support;

use serde_json::{Value, json};
use support::deflate::{DeflateClient, OFFER, RSV1, deflated, deflated_frame};
use support::healthy::beside_healthy;
use support::internal::Internal;
use support::wire::{BINARY, CLOSE, FIN, PING, PONG, TEXT, Wire, frame, handshake_but};
use support::{Client, Server, seeded, wait_while};

/// The server's default.
const MESSAGE_BYTES_MAX: usize = 16 * 1024;

fn start(args: &[&str]) -> (Server, Internal) {
    Server::start_with_internal(&[&["--compression", "on", "--rate-limit", "0"], args].concat())
}

/// Live data of about `bytes` bytes.
fn quotes(random: &mut fastrand::Rng, bytes: usize) -> String {
    let mut text = String::from("{\"Quotes\":[");
    while text.len() < bytes {
        text += &format!("{{\"Id\":{},\"Price\":{}.{:02}}},", random.u16(..), random.u8(..), random.u8(..100));
    }
    text + "{}]}"
}

fn sum(internal: Internal, name: &str, direction: &str) -> usize {
    internal.metric(&format!("{name}_bytes_total{{dir={direction:?}}}")) as usize
}

/// Waits until at least this many bytes of messages have been compressed, and returns how many: they are counted once they have
/// left.
fn wait_until_compressed(internal: Internal, bytes: usize) -> usize {
    let made = || sum(internal, "hi_deflate_plain", "out");
    wait_while(|| made() < bytes, || format!("{} bytes compressed instead of {bytes}", made()));
    made()
}

#[test]
fn it_is_off_unless_switched_on() {
    let (server, internal) = Server::start_with_internal(&[]);
    let mut wire = server.wire();
    wire.send(handshake_but("/raw/tea", &[], &[OFFER]));
    assert_eq!(wire.expect_101().header("Sec-WebSocket-Extensions"), None);
    wire.expect_echo(&"plain ".repeat(1000));
    wire.send(deflated_frame(TEXT, b"compressed"));
    assert!(wire.expect_close(1002).contains("RSV"));
    for outcome in ["agreed", "received", "declined", "safari"] {
        assert_eq!(internal.metric(&format!("hi_deflate_offers_total{{outcome={outcome:?}}}")), 0.0);
    }
}

#[test]
fn offers_are_answered_and_counted() {
    let (server, internal) = start(&[]);
    let safari = "User-Agent: Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) \
                  Version/15.2 Safari/605.1.15";
    let offer = |parameters: &str| format!("Sec-WebSocket-Extensions: permessage-deflate{parameters}");
    for (lines, agreed) in [
        (vec![offer("")], true),
        (vec![offer("; server_max_window_bits=15")], true),
        (vec![offer("; server_max_window_bits=10")], true),
        (vec![offer("; mystery")], false),
        (vec![offer(""), safari.to_owned()], false),
        (vec![], false),
    ] {
        for path in ["/raw/tea", "/ws?username=ann"] {
            let mut wire = server.wire();
            wire.send(handshake_but(path, &[], &lines.iter().map(String::as_str).collect::<Vec<_>>()));
            let answer = wire.expect_101();
            assert_eq!(answer.header("Sec-WebSocket-Extensions").is_some(), agreed, "{lines:?}");
            if path == "/raw/tea" {
                wire.expect_echo("it works either way");
            }
        }
    }
    for (outcome, count) in [("agreed", 4.0), ("received", 2.0), ("declined", 2.0), ("safari", 2.0)] {
        internal.wait_for_metric(&format!("hi_deflate_offers_total{{outcome={outcome:?}}}"), count);
    }
}

#[test]
fn a_raw_room_gives_each_member_its_own_form_of_the_same_messages() {
    let (server, internal) = start(&[]);
    let mut random = seeded();
    let mut plain = server.upgraded("/raw/quotes");
    let mut members: Vec<_> = (0..6).map(|_| server.deflating("/raw/quotes")).collect();
    internal.wait_for_metric("hi_connections{dialect=\"raw\"}", 7.0);
    let (mut bytes_out, mut bytes_in) = (0, 0);
    for number in 0..60 {
        let opcode = random.choice([TEXT, BINARY]).unwrap();
        let length = random.choice([10, 400, 511, 512, 1000, 4000, 15_000]).unwrap();
        let message = quotes(&mut random, length).into_bytes();
        if number % 3 == 0 {
            plain.send(frame(FIN | opcode, &message));
        } else {
            members[number % 6].wire.send(deflated_frame(opcode, &message));
            bytes_in += message.len();
        }
        plain.expect_frame(opcode, &message);
        let is_long = message.len() >= 512;
        bytes_out += if is_long { message.len() } else { 0 };
        for member in &mut members {
            let received = member.next();
            assert!(received.opcode == opcode && received.message == message, "{received:?}");
            assert_eq!(received.was_deflated, is_long, "{} bytes", message.len());
        }
    }
    // Six members on two shards: each message was compressed by one of them, or by both at the same time.
    let made = wait_until_compressed(internal, bytes_out);
    assert!((bytes_out..=2 * bytes_out).contains(&made), "{made} bytes compressed, for {bytes_out}");
    assert_eq!(sum(internal, "hi_deflate_plain", "in"), bytes_in);
    let ratio = sum(internal, "hi_deflate", "out") as f64 / made as f64;
    assert!(ratio < 0.5, "{ratio}");
}

#[test]
fn a_message_is_compressed_once_for_all_members_and_never_for_none() {
    let server = Server::start_on_one_shard(&["--compression", "on", "--internal", "127.0.0.1:0"]);
    let internal = server.internal();
    let message = "once ".repeat(300);
    let mut plain = server.upgraded("/raw/quotes");
    plain.expect_echo(&message);
    assert_eq!(sum(internal, "hi_deflate_plain", "out"), 0, "nobody takes it compressed");
    let mut members: Vec<_> = (0..10).map(|_| server.deflating("/raw/quotes")).collect();
    internal.wait_for_metric("hi_connections{dialect=\"raw\"}", 11.0);
    plain.expect_echo(&message);
    for member in &mut members {
        assert!(member.next().was_deflated);
    }
    assert_eq!(wait_until_compressed(internal, message.len()), message.len());
    drop(members);
    internal.wait_for_metric("hi_connections{dialect=\"raw\"}", 1.0);
    plain.expect_echo(&message);
    assert_eq!(sum(internal, "hi_deflate_plain", "out"), message.len(), "nobody does any more");
}

#[test]
fn a_chat_room_of_all_dialects_has_one_order() {
    let (server, internal) = start(&[]);
    let mut random = seeded();
    let mut listener = server.listen("tea", None).opened();
    let mut plain_v0 = server.join_quietly("plain", "tea");
    let (mut plain_v1, _) = server.join_v1("plain1", "tea");
    let mut small_v0 = server.deflating("/ws?username=small&room=tea");
    let (mut small_v1, _) = server.deflating_v1("username=small1");
    small_v1.join_room("tea", None);
    let text = |random: &mut fastrand::Rng, number: usize| format!("{number} {}", quotes(random, 40 << (number % 9)));
    for number in 0..40 {
        let said = json!({"Room": "tea", "Message": text(&mut random, number)}).to_string();
        match number % 5 {
            0 => plain_v0.send_text(&said),
            1 => plain_v1.send_text(&said),
            2 => small_v0.send_text(&said),
            3 => small_v1.send_text(&said),
            _ => {
                let body = json!({"room": "tea", "from": "desk", "message": text(&mut random, number)});
                assert_eq!(internal.post("/api/publish", &body).0, 200);
            }
        }
    }
    // Whatever they joined before, from here on all have the same.
    let mut deflated = 0;
    let messages = |next: &mut dyn FnMut() -> Value| -> Vec<Value> {
        let mut all = Vec::new();
        while all.len() < 40 {
            let json = next();
            if json["Meta"] == false {
                all.push(json);
            }
        }
        all
    };
    let expected = messages(&mut || listener.message());
    assert!(expected.windows(2).all(|pair| pair[0]["Seq"].as_u64() < pair[1]["Seq"].as_u64()));
    assert_eq!(messages(&mut || plain_v0.json()), expected);
    assert_eq!(messages(&mut || plain_v1.json()), expected);
    for client in [&mut small_v0, &mut small_v1] {
        let same = messages(&mut || {
            let received = client.next();
            deflated += usize::from(received.was_deflated);
            received.json()
        });
        assert_eq!(same, expected);
    }
    assert!(deflated > 20, "{deflated} messages were compressed");
}

#[test]
fn only_what_a_room_publishes_is_compressed() {
    let (server, _) = start(&["--compression-min", "0"]);
    let (mut client, hello) = server.deflating_v1("username=ann");
    assert!(!hello.was_deflated, "it has the secret with which the name may be taken over");
    assert!(hello.json()["Resume"].as_str().is_some_and(|secret| secret.len() > 20), "{hello:?}");
    client.join_room("tea", None);
    let welcome = client.next();
    assert_eq!((&welcome.json()["Message"], welcome.was_deflated), (&json!("Welcome to tea, ann!"), true));
    let message = "ab ".repeat(200);
    client.send_text(&json!({"Room": "tea", "Message": message, "Ref": 7}).to_string());
    let published = client.next();
    assert!(published.was_deflated && published.json()["Message"] == message, "{published:?}");
    let acknowledged = client.next();
    assert!(!acknowledged.was_deflated && acknowledged.json()["Ref"] == 7, "{acknowledged:?}");
    for request in [
        json!({"Op": "who", "Room": "tea", "Ref": 8}),
        json!({"Op": "rooms", "Ref": 9}),
        json!({"Op": "leave", "Room": "x".repeat(60), "Ref": 10}),
    ] {
        let answer = client.ask(&request);
        assert!(!answer.was_deflated && answer.json()["Ref"] == request["Ref"], "{answer:?}");
    }
    client.wire.send(frame(FIN | PING, &[b'x'; 125]));
    client.wire.expect_frame(PONG, [b'x'; 125]);
}

/// A client with this connection in a raw room, and what it gets for these bytes.
fn close_for(server: &Server, bytes: &[u8]) -> (u16, String) {
    let mut client = server.deflating("/raw/hostile");
    client.wire.send_what_is_taken(bytes);
    let Some((code, reason)) = close_of(&mut client) else { panic!("no Close for {bytes:?}") };
    client.wire.expect_end();
    (code, reason)
}

/// The Close that comes after any messages.
fn close_of(client: &mut DeflateClient) -> Option<(u16, String)> {
    loop {
        let frame = client.wire.frame();
        if frame.first == FIN | CLOSE {
            let (code, reason) = frame.payload.split_first_chunk()?;
            return Some((u16::from_be_bytes(*code), String::from_utf8(reason.to_vec()).ok()?));
        }
    }
}

/// Compressed zeros: `bytes` of them.
fn bomb(bytes: usize) -> Vec<u8> {
    deflated(&vec![0; bytes])
}

#[test]
fn what_breaks_the_rules_is_closed_with_the_right_code() {
    let (server, internal) = start(&[]);
    let whole = deflated(b"Hello, hello, hello");
    for (what, code, bytes) in [
        ("RSV1 on a continuation", 1002, [frame(RSV1 | TEXT, &whole), frame(FIN | RSV1, &whole)].concat()),
        ("RSV1 on the continuation of a plain one", 1002, [frame(TEXT, b"a"), frame(FIN | RSV1, b"")].concat()),
        ("RSV1 on a ping", 1002, frame(FIN | RSV1 | PING, b"")),
        ("RSV1 on a Close", 1002, frame(FIN | RSV1 | CLOSE, b"")),
        ("RSV2", 1002, frame(FIN | 0x20 | TEXT, &whole)),
        ("RSV3", 1002, frame(FIN | 0x10 | RSV1 | TEXT, &whole)),
        ("no deflate data", 1007, frame(FIN | RSV1 | TEXT, b"Hello")),
        ("nothing", 1007, frame(FIN | RSV1 | TEXT, b"")),
        ("half of it", 1007, frame(FIN | RSV1 | BINARY, &whole[..whole.len() / 2])),
        ("text that is not UTF-8", 1007, deflated_frame(TEXT, b"\xff\xfe")),
        ("a bomb", 1009, frame(FIN | RSV1 | BINARY, &bomb(10 << 20))),
        ("one byte too many", 1009, deflated_frame(BINARY, &[7; MESSAGE_BYTES_MAX + 1])),
        ("a header that promises too much", 1009, support::wire::header(FIN | RSV1 | BINARY, 20_000)),
    ] {
        let (closed, reason) = close_for(&server, &bytes);
        assert!(closed == code && reason.ends_with('.'), "{what}: {closed} {reason}");
    }
    for (code, count) in [(1002, 6.0), (1007, 4.0), (1009, 3.0)] {
        internal.wait_for_metric(&format!("hi_disconnects_total{{code=\"{code}\"}}"), count);
    }
}

#[test]
fn a_compressed_message_may_come_in_fragments_and_be_as_long_as_a_plain_one() {
    let (server, _) = start(&[]);
    let mut random = seeded();
    let mut client = server.deflating("/raw/cut");
    for length in [0, 1, 100, 5000, MESSAGE_BYTES_MAX] {
        // Noise is longer when compressed.
        let noise: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(length).collect();
        let letters: Vec<u8> = std::iter::repeat_with(|| random.alphabetic() as u8).take(length).collect();
        for message in [noise, letters] {
            let payload = deflated(&message);
            client.wire.send(frame(FIN | RSV1 | BINARY, &payload));
            assert_eq!(client.next().message, message);
            let mut stream = Vec::new();
            let piece = random.usize(1..=payload.len());
            let pieces: Vec<_> = payload.chunks(piece).collect();
            for (index, piece) in pieces.iter().enumerate() {
                let opcode = if index == 0 { RSV1 | BINARY } else { 0 };
                let fin = if index + 1 == pieces.len() { FIN } else { 0 };
                stream.extend(frame(fin | opcode, piece));
                if index == 0 {
                    stream.extend(frame(FIN | PING, b"between"));
                }
            }
            for piece in stream.chunks(random.usize(1..3000)) {
                client.wire.send(piece);
            }
            client.wire.expect_frame(PONG, b"between");
            assert_eq!(client.next().message, message);
        }
    }
}

#[test]
fn a_client_that_reconnects_gets_what_it_missed_and_then_compressed_messages_again() {
    let (server, _) = start(&[]);
    let (mut publisher, joined) = server.join_v1("publisher", "tea");
    let epoch = joined["Epoch"].clone();
    let mut random = seeded();
    let mut said: Vec<Value> = vec![publisher.json()];
    let mut say = |said: &mut Vec<Value>, publisher: &mut Client| {
        publisher.say("tea", &quotes(&mut random, 2000));
        said.push(publisher.json());
    };
    (0..100).for_each(|_| say(&mut said, &mut publisher));
    let next = said[60]["Seq"].clone();
    let mut clients: Vec<DeflateClient> = Vec::new();
    for name in ["ann", "bob", "cid"] {
        let (mut client, _) = server.deflating_v1(&format!("username={name}"));
        let answer = client.join_room("tea", Some(&json!({"Epoch": epoch, "Seq": next})));
        assert_eq!(answer["Recovered"], true, "{answer}");
        for missed in &said[61..] {
            assert_eq!(client.json(), *missed);
        }
        clients.push(client);
        said.push(publisher.expect_message("#tea", &format!("Welcome to tea, {name}!")));
        say(&mut said, &mut publisher);
        for client in &mut clients {
            assert_eq!(client.json(), said[said.len() - 2]);
            let received = client.next();
            assert_eq!((received.json(), received.was_deflated), (said[said.len() - 1].clone(), true));
        }
    }
}

#[test]
fn a_member_that_lags_is_told_what_it_lost() {
    const MESSAGES: usize = 6000;
    let server = Server::start_on_one_shard(&[
        "--compression",
        "on",
        "--rate-limit",
        "0",
        "--backlog-bytes",
        "64k",
        // It answers no ping before it reads.
        "--ping-timeout",
        "10m",
        "--internal",
        "127.0.0.1:0",
    ]);
    let internal = server.internal();
    let mut random = seeded();
    let mut stuck = DeflateClient::open(server.connect(), "/ws?username=stuck&room=tea", &[]);
    let mut publisher = server.join_quietly("publisher", "tea");
    let mut said = Vec::new();
    for number in 0..MESSAGES {
        let message = format!("{number} {}", quotes(&mut random, 1500));
        publisher.say("tea", &message);
        loop {
            let json = publisher.json();
            if json["Meta"] == false {
                assert_eq!(json["Message"], message.as_str());
                said.push(json);
                break;
            }
        }
        if number % 100 == 0 && internal.metric("hi_lapped_total{policy=\"gap\"}") > 0.0 {
            break;
        }
    }
    let last = said.last().unwrap()["Seq"].as_u64().unwrap();
    let (mut next, mut gaps, mut was_deflated) = (1, 0, 0);
    while next <= last {
        let received = stuck.next();
        let json = received.json();
        if json["Event"] == "gap" {
            assert!(json["FromSeq"] == next && !received.was_deflated, "{json}");
            next = json["ToSeq"].as_u64().unwrap() + 1;
            gaps += 1;
            continue;
        }
        assert_eq!(json["Seq"], next, "neither sent nor announced as lost");
        if let Some(sent) = said.iter().find(|sent| sent["Seq"] == next) {
            assert_eq!(json, *sent);
            was_deflated += usize::from(received.was_deflated);
        }
        next += 1;
    }
    assert!(gaps > 0 && was_deflated > 0, "{gaps} gaps, {was_deflated} compressed messages");
}

#[test]
fn bombs_cost_others_nothing() {
    let (server, internal) = start(&[]);
    let mut random = seeded();
    // The most output, the most blocks, and the most codes to build for their bytes.
    let zeros = frame(FIN | RSV1 | BINARY, &bomb(MESSAGE_BYTES_MAX));
    let last_blocks = frame(FIN | RSV1 | BINARY, &[[0x03, 0x00].repeat(8000), vec![0x00]].concat());
    let empty_blocks = frame(FIN | RSV1 | BINARY, &[[0x00, 0x00, 0x00, 0xff, 0xff].repeat(3200), vec![0x00]].concat());
    let good: [Vec<u8>; 3] = [zeros, last_blocks, empty_blocks];
    let bad = frame(FIN | RSV1 | BINARY, &bomb(16 << 20));
    beside_healthy(&server, || {
        let mut flooders: Vec<_> =
            (0..20).map(|number| server.deflating(&format!("/raw/bombs{number}?echo=0"))).collect();
        for _ in 0..40 {
            for flooder in &mut flooders {
                flooder.wire.send(&good[random.usize(..good.len())]);
            }
        }
        for mut flooder in flooders {
            flooder.wire.send(&bad);
            let closed = close_of(&mut flooder);
            assert!(closed.as_ref().is_some_and(|(code, _)| *code == 1009), "{closed:?}");
        }
    });
    assert!(sum(internal, "hi_deflate_plain", "in") > 0);
}

#[test]
fn a_client_that_never_finishes_a_compressed_message_holds_no_more_than_a_plain_one_may() {
    let (server, _) = start(&[]);
    let mut wires: Vec<Wire> = (0..4).map(|_| server.deflating("/raw/halves").wire).collect();
    for wire in &mut wires {
        // Each piece is small; together they are too long, compressed or not.
        for number in 0..30 {
            let opcode = if number == 0 { RSV1 | BINARY } else { 0 };
            wire.send_what_is_taken(&frame(opcode, &[0x55; 1000]));
        }
        wire.expect_close(1009);
    }
}
