//! Every limit over real sockets: what is refused, what the client is told, and that no one else is harmed.

mod support;

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;
use support::wire::{self, BINARY, CONTINUATION, FIN, PING, TEXT, frame, handshake};
use support::{Client, Server};
use tungstenite::Message;

/// A chat message of exactly `bytes` bytes.
fn message_of(bytes: usize) -> String {
    let frame = r#"{"Room":"tea","Message":""}"#;
    format!("{}{}\"}}", &frame[..frame.len() - 2], "x".repeat(bytes - frame.len()))
}

#[test]
fn messages_above_16384_bytes_end_in_1009() {
    let server = Server::start(&[]);
    let mut ann = server.join("ann", "tea");
    let mut bob = server.join("bob", "tea");
    ann.expect_message("#tea", "Welcome to tea, bob!");
    bob.send_text(&message_of(16_384));
    for client in [&mut ann, &mut bob] {
        let message = client.json();
        assert_eq!((&message["From"], message["Message"].as_str().unwrap().len()), (&json!("bob"), 16_384 - 27));
    }
    bob.send_text(&message_of(16_385));
    assert_eq!(bob.expect_close().0, 1009);
    ann.expect_message("#tea", "User bob left channel.");
}

#[test]
fn a_length_beyond_the_limit_is_refused_before_any_payload() {
    let server = Server::start(&["--max-message", "1000"]);
    let mut member = server.upgraded("/raw/data");
    for (first, bytes) in [(TEXT, 1 << 30), (FIN | BINARY, 1001), (FIN | TEXT, 70_000), (TEXT, (1 << 62) + 1)] {
        let mut wire = server.upgraded("/raw/data");
        wire.send(wire::header(first, bytes));
        wire.expect_close(1009);
        wire.expect_end();
    }
    // Fragments count together; the one that exceeds the limit is refused by its header.
    let mut wire = server.upgraded("/raw/data");
    for first in [BINARY, CONTINUATION] {
        wire.send(wire::frame(first, &[7; 400]));
    }
    wire.send(wire::header(FIN | CONTINUATION, 201));
    wire.expect_close(1009);
    wire.expect_end();
    let whole = [7; 1000];
    member.send(wire::frame(FIN | BINARY, &whole));
    member.expect_frame(BINARY, whole);
}

#[test]
fn a_connection_may_be_in_32_rooms() {
    let server = Server::start(&["--rate-limit", "0"]);
    let mut ann = server.join("ann", "r0");
    let join = |ann: &mut Client, number: usize| {
        ann.say("r0", &format!("/join r{number}"));
        ann.expect_message(&format!("#r{number}"), &format!("Welcome to r{number}, ann!"));
    };
    for number in 1..32 {
        join(&mut ann, number);
    }
    ann.say("r0", "/join r32");
    let refusal = ann.json();
    assert!(refusal["From"] == "hi" && refusal["Message"].as_str().unwrap().contains("32 rooms"), "{refusal}");
    ann.say("r32", "hello");
    ann.expect_system("room does not exist.");
    ann.say("r0", "/leave r7");
    ann.expect_system("Left channel r7.");
    join(&mut ann, 32);
    ann.say("r31", "still here");
    ann.expect_message("ann", "still here");
}

#[test]
fn max_rooms_is_per_connection() {
    let server = Server::start(&["--max-rooms", "1"]);
    let mut ann = server.join("ann", "tea");
    let mut bob = server.join("bob", "general");
    ann.say("tea", "/join general");
    assert!(ann.json()["Message"].as_str().unwrap().contains("1 room"));
    bob.say("general", "/list");
    bob.expect_message("#general", "bob");
}

#[test]
fn names_are_limited_to_the_byte() {
    let server = Server::start(&[]);
    // 79 bytes for users, 64 for rooms; in bytes of UTF-8, not in characters.
    for (user, room) in [("u".repeat(79), "r".repeat(64)), ("é".repeat(39) + "u", "é".repeat(32))] {
        let encoded = user.replace('é', "%C3%A9");
        let mut ann = server.websocket(&format!("/ws?username={encoded}&room={}", room.replace('é', "%C3%A9")));
        ann.expect_message(&format!("#{room}"), &format!("Welcome to {room}, {user}!"));
        ann.say(&room, "hello");
        ann.expect_message(&user, "hello");
        assert_eq!(server.ask(handshake(&format!("/ws?username={encoded}u"))).status, 400);
        let other = format!("x{}", &room[room.chars().next().unwrap().len_utf8()..]);
        ann.say(&room, &format!("/join {other}"));
        ann.expect_message(&format!("#{other}"), &format!("Welcome to {other}, {user}!"));
    }
    let mut ann = server.join("ann", "tea");
    for name in ["r".repeat(65), "é".repeat(33), "a\u{a0}b".into(), "a\tb".into(), "\u{7f}".into(), "\u{3000}".into()]
    {
        assert_ne!(server.ask(handshake(&format!("/ws?username=a&room={}", "r".repeat(65)))).status, 101);
        ann.say("tea", &format!("/join {name}"));
        let refusal = ann.json();
        assert!(refusal["From"] == "hi" && refusal["Message"].as_str().unwrap().contains("room name"), "{refusal}");
        ann.say(&name, "hello");
        ann.expect_system("room does not exist.");
    }
}

#[test]
fn rate_limited_messages_are_not_delivered_and_the_sender_is_told() {
    let server = Server::start(&[]);
    let mut ann = server.join("ann", "tea");
    let mut bob = server.join("bob", "tea");
    ann.expect_message("#tea", "Welcome to tea, bob!");
    let began = Instant::now();
    for number in 0..200 {
        bob.say("tea", &format!("m{number}"));
    }
    let (mut delivered, mut refused) = (Vec::new(), 0);
    while delivered.len() + refused < 200 {
        let message = bob.json();
        if message["From"] == "hi" {
            assert!(message["Message"].as_str().unwrap().contains("20 messages a second"), "{message}");
            refused += 1;
        } else {
            delivered.push(message["Message"].as_str().unwrap().to_owned());
        }
    }
    // A burst of 40, plus 20 per second meanwhile.
    let allowed = 40 + (began.elapsed().as_millis() / 50) as usize;
    assert!((40..=allowed).contains(&delivered.len()), "{} of at most {allowed}", delivered.len());
    assert!(delivered.iter().take(40).enumerate().all(|(number, message)| *message == format!("m{number}")));
    for message in &delivered {
        ann.expect_message("bob", message);
    }
    // A token is added every 50 ms.
    std::thread::sleep(Duration::from_millis(60));
    bob.say("tea", "later");
    for client in [&mut ann, &mut bob] {
        client.expect_message("bob", "later");
    }
}

#[test]
fn a_rate_limit_of_0_is_no_limit_and_raw_rooms_have_none() {
    let server = Server::start(&["--rate-limit", "0", "--rate-burst", "1"]);
    let mut ann = server.join("ann", "tea");
    let mut raw = server.websocket("/raw/data");
    for number in 0..500 {
        ann.say("tea", &format!("m{number}"));
        raw.send_text(&format!("m{number}"));
    }
    for number in 0..500 {
        ann.expect_message("ann", &format!("m{number}"));
        assert_eq!(raw.text(), format!("m{number}"));
    }
}

#[test]
fn raw_rooms_may_be_given_a_rate_limit() {
    let server = Server::start(&["--raw-rate-limit", "10", "--rate-burst", "5"]);
    let mut member = server.websocket("/raw/data");
    let mut publisher = server.websocket("/raw/data");
    for number in 0..5 {
        publisher.send_text(&number.to_string());
    }
    for number in 5..50 {
        publisher.send_text(&number.to_string());
    }
    // The pong shows that everything before it has been handled: later messages aren't refused because of earlier ones.
    publisher.socket.send(Message::Ping("all?".into())).unwrap();
    let mut own = Vec::new();
    loop {
        match publisher.socket.read().unwrap() {
            Message::Text(text) => own.push(text.to_string()),
            Message::Pong(_) => break,
            other => panic!("{other:?}"),
        }
    }
    // Raw rooms have no frame for refusals: refused messages are missing, and nothing else is.
    std::thread::sleep(Duration::from_millis(110));
    publisher.send_text("end");
    let mut received = Vec::new();
    while received.last().is_none_or(|last| last != "end") {
        received.push(member.text());
    }
    assert_eq!(received[..5], ["0", "1", "2", "3", "4"]);
    assert!(received.len() < 50, "{received:?}");
    while own.len() < received.len() {
        own.push(publisher.text());
    }
    assert_eq!(own, received);
}

/// Takes 10 s, which the protocol grants a sender that never slows down.
#[test]
fn ten_seconds_beyond_the_rate_end_in_4102() {
    let (server, internal) = Server::start_with_internal(&["--rate-limit", "1", "--rate-burst", "1"]);
    let mut ann = server.join("ann", "tea");
    let mut bob = server.join("bob", "tea");
    ann.expect_message("#tea", "Welcome to tea, bob!");
    let mut delivered = 0;
    let began = Instant::now();
    loop {
        bob.say("tea", "again");
        let answer = bob.next();
        let took = began.elapsed();
        match answer {
            Message::Text(text) if text.contains("Too fast") => {}
            Message::Text(_) => delivered += 1,
            Message::Close(close) => {
                assert_eq!(u16::from(close.unwrap().code), 4102);
                assert!(took >= Duration::from_secs(10), "{took:?}");
                break;
            }
            other => panic!("{other:?}"),
        }
        // A second in which this test wasn't scheduled restarts the ten.
        assert!(took < Duration::from_secs(40), "{took:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
    for _ in 0..delivered {
        ann.expect_message("bob", "again");
    }
    ann.expect_message("#tea", "User bob left channel.");
    assert_eq!(internal.metric("hi_disconnects_total{code=\"4102\"}"), 1.0);
}

#[test]
fn a_client_that_never_reads_its_replies_is_closed_with_4101() {
    let args = ["--rate-limit", "0", "--ping-interval", "1s", "--ping-timeout", "2s"];
    let (server, internal) = Server::start_with_internal(&args);
    let mut ann = server.join("ann", "tea");
    let mut deaf = server.narrow_websocket("/ws?username=deaf&room=tea");
    ann.expect_message("#tea", "Welcome to tea, deaf!");
    // The answer repeats the request, 16 KiB each. Once enough answers wait, hi stops reading, and the sockets fill up.
    let question = json!({"Room": "tea", "Message": format!("/join  {}", "x".repeat(16_000))}).to_string();
    let mut asked = 0;
    deaf.socket.get_ref().set_nonblocking(true).unwrap();
    while deaf.socket.send(Message::text(question.as_str())).is_ok() {
        asked += 1;
        assert!(asked < 2000, "32 MB of answers are neither read nor refused");
    }
    deaf.socket.get_ref().set_nonblocking(false).unwrap();
    ann.expect_message("#tea", "User deaf left channel.");
    // The answers given so far arrive complete, followed by the reason.
    deaf.expect_message("#tea", "Welcome to tea, deaf!");
    let mut answers = 0;
    loop {
        match deaf.next() {
            Message::Text(text) => assert!(text.contains("Malformatted arguments: /join  xxx")),
            Message::Close(close) => break assert_eq!(u16::from(close.unwrap().code), 4101),
            other => panic!("{other:?}"),
        }
        answers += 1;
    }
    assert!((4..=asked).contains(&answers), "{answers} of {asked}");
    // Counted separately from members that were too slow for their rooms, and from silent ones.
    assert_eq!(internal.metric("hi_replies_unread_total"), 1.0);
    assert_eq!(internal.metric("hi_disconnects_total{code=\"4101\"}"), 1.0);
    assert_eq!(internal.metric("hi_lapped_total{policy=\"close\"}"), 0.0);
    assert_eq!(internal.metric("hi_ping_timeouts_total"), 0.0);
    ann.say("tea", "/list");
    ann.expect_message("#tea", "ann");
}

#[test]
fn a_client_that_requests_much_before_reading_gets_every_answer() {
    let server = Server::start(&["--rate-limit", "0"]);
    let mut ann = server.join("ann", "tea");
    let mut asking = server.narrow_websocket("/ws?username=asking&room=tea");
    ann.expect_message("#tea", "Welcome to tea, asking!");
    asking.expect_message("#tea", "Welcome to tea, asking!");
    // 3 MB of answers: far more than a connection may have waiting, and than the sockets hold.
    const QUESTIONS: usize = 200;
    let mut writing = asking.socket.get_ref().try_clone().unwrap();
    let mut questions = Vec::new();
    for number in 0..QUESTIONS {
        let text = json!({"Room": "tea", "Message": format!("/join  {number} {}", "x".repeat(15_000))}).to_string();
        questions.extend(frame(FIN | TEXT, text.as_bytes()));
    }
    let writer = std::thread::spawn(move || writing.write_all(&questions).unwrap());
    // A client that doesn't read doesn't hold up the room.
    ann.say("tea", "still here");
    ann.expect_message("ann", "still here");
    for number in 0..QUESTIONS {
        let answer = loop {
            let message = asking.json();
            if message["From"] == "#tea" && message["Meta"] == true {
                break message;
            }
        };
        let expected = format!("Malformatted arguments: /join  {number} x");
        assert!(answer["Message"].as_str().unwrap().starts_with(&expected), "{number}: {answer}");
    }
    writer.join().unwrap();
}

#[test]
fn a_client_that_reads_gets_every_answer_in_a_busy_room() {
    let server = Server::start(&["--rate-limit", "0"]);
    let mut ann = server.join("ann", "tea");
    let mut bob = server.join("bob", "tea");
    ann.expect_message("#tea", "Welcome to tea, bob!");
    // In one write, so that as much as possible is handled at once: far more than an outbox may hold, in frames of
    // which a whole number fills it.
    let said = wire::frame(FIN | TEXT, message_of(16_277).as_bytes());
    let asked = wire::frame(FIN | TEXT, br#"{"Room":"tea","Message":"/list"}"#);
    let burst: Vec<u8> =
        [std::iter::repeat_n(said, 40), std::iter::repeat_n(asked, 40)].into_iter().flatten().flatten().collect();
    for _ in 0..10 {
        bob.socket.get_mut().write_all(&burst).unwrap();
        let (mut heard, mut answers) = (0, 0);
        while heard + answers < 80 {
            let message = bob.json();
            match message["From"].as_str() {
                Some("#tea") => answers += usize::from(message["Message"] == "ann, bob"),
                _ => heard += usize::from(message["Message"].as_str().unwrap().len() == 16_250),
            }
        }
        assert_eq!((heard, answers), (40, 40));
        for _ in 0..40 {
            assert_eq!(ann.json()["From"], "bob");
        }
    }
}

#[test]
fn a_peer_that_does_not_answer_pings_is_closed_and_one_that_does_stays() {
    let (server, internal) = Server::start_with_internal(&["--ping-interval", "1s", "--ping-timeout", "2s"]);
    let mut ann = server.join("ann", "tea");
    let began = Instant::now();
    // This client never writes again, but its kernel still acknowledges everything.
    let mut silent = server.upgraded("/ws?username=silent&room=tea");
    ann.expect_message("#tea", "Welcome to tea, silent!");
    // ann's library answers pings while reading, which continues until the other client is gone.
    ann.expect_message("#tea", "User silent left channel.");
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(1), "it had time to answer: {took:?}");
    silent.frame_or_ping();
    assert_eq!(silent.frame_or_ping().first, FIN | PING);
    // A second ping, unless this machine slept through a tick.
    let mut rest = Vec::new();
    silent.stream.read_to_end(&mut rest).expect("a clean end");
    assert!(rest == [0x89, 0] || rest.is_empty(), "{rest:x?}");
    assert_eq!(internal.metric("hi_ping_timeouts_total"), 1.0);
    assert_eq!(internal.metric("hi_disconnects_total{code=\"1006\"}"), 1.0);
    ann.say("tea", "hello");
    ann.expect_message("ann", "hello");
    // Any traffic counts: this client sends, and never answers a ping.
    let mut busy = server.upgraded("/raw/data");
    let until = Instant::now() + Duration::from_millis(4500);
    let mut pings = 0;
    while Instant::now() < until {
        busy.send(wire::frame(FIN | TEXT, b"x"));
        while busy.frame_or_ping().first == FIN | PING {
            pings += 1;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(pings >= 1, "it was asked");
}

#[test]
fn a_peer_that_answered_while_the_server_was_stopped_stays() {
    // It is random which work a shard finds first when it continues, so this runs eight times.
    let servers: Vec<_> =
        (0..8).map(|_| Server::start_on_one_shard(&["--ping-interval", "1s", "--ping-timeout", "2s"])).collect();
    let mut peers: Vec<_> = servers.iter().map(|server| server.upgraded("/raw/data")).collect();
    for (server, peer) in servers.iter().zip(&mut peers) {
        assert_eq!(peer.frame_or_ping().first, FIN | PING);
        server.signal(Signal::STOP);
        peer.send(wire::frame(FIN | wire::PONG, b""));
    }
    std::thread::sleep(Duration::from_millis(3500));
    servers.iter().for_each(|server| server.signal(Signal::CONT));
    for peer in &mut peers {
        peer.send(wire::frame(FIN | TEXT, b"still here"));
        while peer.frame_or_ping().first == FIN | PING {}
    }
}

#[test]
fn pings_come_at_their_interval_also_if_the_time_for_an_answer_is_longer() {
    let server = Server::start(&["--ping-interval", "1s", "--ping-timeout", "3s"]);
    let mut silent = server.upgraded("/raw/data");
    assert_eq!(silent.frame_or_ping().first, FIN | PING);
    let pinged = Instant::now();
    let mut rest = Vec::new();
    silent.stream.read_to_end(&mut rest).expect("a clean end");
    let took = pinged.elapsed();
    assert!(took > Duration::from_millis(1900), "it has three seconds from the first ping on, not {took:?}");
    // A second and a third ping, unless this machine slept through a tick.
    assert!(!rest.is_empty() && rest.chunks(2).all(|ping| ping == [0x89, 0]), "{rest:x?}");
    // A client that answers late, but in time, stays.
    let mut late = server.upgraded("/raw/data");
    let mut pings = 0;
    while pings < 6 {
        assert_eq!(late.frame_or_ping().first, FIN | PING);
        pings += 1;
        if pings % 2 == 0 {
            late.send(wire::frame(FIN | wire::PONG, b""));
        }
    }
}

#[test]
fn a_handshake_that_takes_too_long_gets_408() {
    let server = Server::start(&["--handshake-timeout", "1s"]);
    let mut ann = server.join("ann", "tea");
    let began = Instant::now();
    let mut silent = server.connect();
    let mut begun = server.wire();
    begun.send("GET /ws?username=a HTTP/1.1\r\nHost: hi\r\n");
    let mut drip = server.connect();
    // Byte by byte: the time limit is for the whole head.
    while began.elapsed() < Duration::from_millis(900) {
        drip.write_all(b"G").unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(begun.answer().status, 408);
    begun.expect_end();
    let mut answer = String::new();
    drip.read_to_string(&mut answer).expect("an answer and the end");
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert_eq!(silent.read(&mut [0; 100]).expect("the end"), 0, "nothing was asked, nothing is said");
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(1), "{took:?}");
    ann.say("tea", "hello");
    ann.expect_message("ann", "hello");
}

#[test]
fn garbage_after_the_handshake_of_a_refused_name_harms_no_one() {
    let server = Server::start_on_one_shard(&[]);
    let mut ann = server.join("ann", "tea");
    for behind in [&b"\xff\xff"[..], b"\x81\x00", &wire::close_frame(1000, b""), &wire::frame(FIN | TEXT, b"{}")] {
        let mut wire = server.wire();
        wire.send([handshake("/ws?username=ann&room=tea").as_bytes(), behind].concat());
        wire.expect_101();
        ann.say("tea", "hello");
        ann.expect_message("ann", "hello");
    }
}
