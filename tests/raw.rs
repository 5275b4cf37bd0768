//! Raw rooms over real sockets, and slow readers in any room.

mod support;

use std::collections::BTreeSet;

use serde_json::Value;
use support::wire::{self, BINARY, CONTINUATION, FIN, PING, PONG, TEXT, handshake};
use support::{Client, Server, seeded};
use tungstenite::Message;

/// Enough connections that both of two shards have some of them.
const MEMBERS_ON_BOTH_SHARDS: usize = 10;

fn raw_members(server: &Server, path: &str, count: usize) -> Vec<Client> {
    (0..count).map(|_| server.websocket(path)).collect()
}

fn bytes(random: &mut fastrand::Rng, len: usize) -> Vec<u8> {
    std::iter::repeat_with(|| random.u8(..)).take(len).collect()
}

/// A text of exactly `len` bytes, with characters of every length.
fn text(random: &mut fastrand::Rng, len: usize) -> String {
    let mut text = String::with_capacity(len);
    while text.len() < len {
        let character = random.char(..);
        if text.len() + character.len_utf8() <= len {
            text.push(character);
        }
    }
    text
}

/// Compares contents without printing megabytes.
#[track_caller]
fn assert_same(received: &Message, sent: &Message) {
    let kinds = (received.is_text(), received.is_binary()) == (sent.is_text(), sent.is_binary());
    let (received, sent) = (received.clone().into_data(), sent.clone().into_data());
    let differs = received.iter().zip(&sent).position(|(received, sent)| received != sent);
    assert!(
        kinds && received == sent,
        "{} bytes instead of {}, kinds alike: {kinds}, differing from {differs:?}",
        received.len(),
        sent.len()
    );
}

#[test]
fn messages_of_every_size_reach_all_members_byte_for_byte() {
    let mut random = seeded();
    // Without pings: on a busy machine this test may take longer to read a member than the ping timeout.
    let server = Server::start(&["--max-message", "32m", "--ping-interval", "1h"]);
    let mut members = raw_members(&server, "/raw/data", MEMBERS_ON_BOTH_SHARDS);
    for len in [0, 1, 125, 126, 127, 4082, 4096, 16_384, 16_385, 65_535, 65_536, 65_537, (1 << 20) + 7, 2 << 20] {
        for sent in [Message::binary(bytes(&mut random, len)), Message::text(text(&mut random, len))] {
            members[random.usize(..MEMBERS_ON_BOTH_SHARDS)].socket.send(sent.clone()).unwrap();
            for member in &mut members {
                assert_same(&member.next(), &sent);
            }
        }
    }
}

#[test]
fn fragments_are_joined_into_one_frame() {
    let mut random = seeded();
    let server = Server::start(&["--max-message", "1m"]);
    let mut publisher = server.upgraded("/raw/data?echo=0");
    let mut member = server.upgraded("/raw/data");
    for round in 0..40 {
        let len = random.usize(..if round % 4 == 0 { 100_000 } else { 300 });
        let (opcode, content) = match random.bool() {
            true => (TEXT, text(&mut random, len).into_bytes()),
            false => (BINARY, bytes(&mut random, len)),
        };
        // Split anywhere, even inside a character; equal positions make empty fragments.
        let mut cuts: Vec<usize> = (0..random.usize(1..6)).map(|_| random.usize(..=content.len())).collect();
        cuts.extend([0, content.len()]);
        cuts.sort_unstable();
        let fragments: Vec<&[u8]> = cuts.windows(2).map(|cut| &content[cut[0]..cut[1]]).collect();
        for (number, fragment) in fragments.iter().enumerate() {
            let fin = if number + 1 == fragments.len() { FIN } else { 0 };
            let opcode = if number == 0 { opcode } else { CONTINUATION };
            if random.u8(..4) == 0 {
                publisher.send(wire::frame(FIN | PING, &[round]));
                publisher.expect_frame(PONG, [round]);
            }
            publisher.send(wire::frame(fin | opcode, fragment));
        }
        member.expect_frame(opcode, &content);
    }
}

#[test]
fn with_echo_0_the_sender_gets_everything_but_its_own() {
    let mut random = seeded();
    let server = Server::start(&[]);
    let mut quiet: Vec<Client> = raw_members(&server, "/raw/data?echo=0", 2);
    let mut member = server.websocket("/raw/data?echo=1");
    let mut sent = Vec::new();
    for number in 0..300 {
        let sender = random.usize(..3);
        let message = format!("{sender} {number}");
        let client = if sender == 2 { &mut member } else { &mut quiet[sender] };
        client.send_text(&message);
        assert_eq!(member.text(), message);
        sent.push((sender, message));
    }
    member.send_text("end");
    for (own, client) in quiet.iter_mut().enumerate() {
        for (_, message) in sent.iter().filter(|(sender, _)| *sender != own) {
            assert_eq!(client.text(), *message);
        }
        assert_eq!(client.text(), "end");
    }
}

#[test]
fn raw_rooms_and_chat_rooms_of_the_same_name_are_separate() {
    let server = Server::start(&[]);
    let mut ann = server.join("ann", "general");
    let mut raw = server.websocket("/raw/general");
    let mut other = server.websocket("/raw/general%2Fx");
    let mut alone = server.websocket("/raw/alone");
    let said = r#"{"From":"ann","Message":"hello","Room":"general","Meta":false}"#;
    raw.send_text(said);
    assert_eq!(raw.text(), said);
    ann.say("general", "hello");
    ann.expect_message("ann", "hello");
    ann.say("alone", "hello");
    ann.expect_system("room does not exist.");
    ann.say("general", "/channels");
    ann.expect_message("#general", "general");
    ann.say("general", "/list");
    ann.expect_message("#general", "ann");
    for client in [&mut raw, &mut other, &mut alone] {
        client.send_text("end");
        assert_eq!(client.text(), "end");
    }
}

#[test]
fn in_rooms_that_only_listen_a_publisher_is_closed_with_1008() {
    let server = Server::start(&["--raw", "listen"]);
    let mut members = raw_members(&server, "/raw/data", 3);
    for message in [Message::text(""), Message::binary("x")] {
        let mut publisher = members.pop().unwrap();
        publisher.socket.send(message).unwrap();
        assert_eq!(publisher.expect_close().0, 1008);
    }
    // Listeners have got nothing, and are still connected.
    let mut listener = members.pop().unwrap();
    listener.socket.send(Message::Ping("x".into())).unwrap();
    assert_eq!(listener.socket.read().unwrap(), Message::Pong("x".into()));
}

#[test]
fn disabled_raw_rooms_are_403_and_the_chat_works() {
    let server = Server::start(&["--raw", "off"]);
    let answer = server.ask(handshake("/raw/data"));
    assert!(answer.status == 403 && answer.body.contains("--raw off"), "{answer:?}");
    server.join("ann", "general");
}

#[test]
fn an_invalid_address_is_400() {
    let server = Server::start(&[]);
    let long = "r".repeat(65);
    for address in [
        "data?echo=2",
        "data?echo=",
        "data?echo",
        "data?echo=no",
        "data?echo=0&echo=0",
        "data?lossy=true",
        "data?lossy=1&lossy=0",
        "data?echo=0&lossy=01",
        "",
        "?echo=0",
        "a%20b",
        "a%00b",
        "%E3%80%80",
        "%FF",
        &long,
    ] {
        let answer = server.ask(handshake(&format!("/raw/{address}")));
        assert_eq!(answer.status, 400, "{address}: {answer:?}");
    }
    let mut valid = server.websocket(&format!("/raw/{}?echo=1&lossy=0&x=y", &long[1..]));
    valid.send_text("hello");
    assert_eq!(valid.text(), "hello");
}

/// More than the kernel buffers for one connection (4 MiB by default), so that a stuck member is certainly lapped.
const FLOOD_BYTES: usize = 6 << 20;
/// Bytes of one message of a flood: with a chat message's envelope, just below the default limit.
const FLOOD_MESSAGE_BYTES: usize = 15_000;
const FLOOD_MESSAGES: usize = FLOOD_BYTES / FLOOD_MESSAGE_BYTES;
const BACKLOG: [&str; 4] = ["--backlog-bytes", "64k", "--rate-limit", "0"];

/// Message `number` of a flood: its content follows from it.
fn numbered(number: usize, len: usize) -> String {
    let head = format!("{number} ");
    let letter = char::from(b'a' + (number % 26) as u8);
    head.chars().chain(std::iter::repeat(letter)).take(len).collect()
}

fn number_of(text: &str) -> usize {
    let number = text.split(' ').next().unwrap().parse().unwrap();
    assert_eq!(text, numbered(number, text.len()), "what was sent");
    number
}

/// Publishes a flood while `healthy` members read all of it in order, in step with the publisher: only members that
/// don't read are lapped.
fn flood(publisher: &mut Client, healthy: &mut [Client]) {
    for number in 0..FLOOD_MESSAGES {
        let text = numbered(number, FLOOD_MESSAGE_BYTES);
        publisher.send_text(&text);
        for member in &mut *healthy {
            assert!(member.text() == text, "message {number}");
        }
    }
}

#[test]
fn a_stuck_raw_member_is_closed_with_4101_and_the_others_get_everything() {
    let server = Server::start(&BACKLOG);
    let mut stuck = [server.narrow_websocket("/raw/data"), server.narrow_websocket("/raw/data")];
    let mut publisher = server.websocket("/raw/data?echo=0");
    let mut healthy = raw_members(&server, "/raw/data", 4);
    flood(&mut publisher, &mut healthy);
    for stuck in &mut stuck {
        let mut next = 0;
        let close = loop {
            match stuck.next() {
                Message::Text(text) => assert_eq!(number_of(&text), next, "nothing is left out before the Close"),
                Message::Close(close) => break close.unwrap(),
                other => panic!("{other:?}"),
            }
            next += 1;
        };
        assert_eq!(u16::from(close.code), 4101);
        assert!((1..FLOOD_MESSAGES).contains(&next), "{next}");
    }
    publisher.send_text("end");
    for healthy in &mut healthy {
        assert_eq!(healthy.text(), "end");
    }
}

#[test]
fn a_lossy_raw_member_skips_to_the_latest() {
    let server = Server::start(&BACKLOG);
    let mut lossy = server.narrow_websocket("/raw/data?lossy=1");
    let mut publisher = server.websocket("/raw/data?echo=0");
    let mut healthy = raw_members(&server, "/raw/data", 4);
    for first in [true, false] {
        flood(&mut publisher, &mut healthy);
        let mut numbers = vec![number_of(&lossy.text())];
        assert!(numbers[0] == 0 || !first);
        while *numbers.last().unwrap() != FLOOD_MESSAGES - 1 {
            numbers.push(number_of(&lossy.text()));
        }
        assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
        let jumps = numbers.windows(2).filter(|pair| pair[1] != pair[0] + 1).count();
        assert!(jumps >= 1, "6 MiB don't fit 64 KiB and the kernel's buffers: {numbers:?}");
    }
    publisher.send_text("end");
    assert_eq!(lossy.text(), "end");
}

/// What a stuck chat member of `tea` reads once it resumes: the `Seq`s that it got and those announced as lost, in
/// order, up to the message "end".
fn read_to_end(stuck: &mut Client, room: &str, first_seq: u64) -> (Vec<u64>, Vec<(u64, u64)>) {
    let (mut received, mut gaps, mut next) = (Vec::new(), Vec::new(), first_seq);
    let mut epoch = None;
    loop {
        let frame = stuck.json();
        assert_eq!(frame["Room"], room);
        assert_eq!(frame["Epoch"], *epoch.get_or_insert_with(|| frame["Epoch"].clone()));
        if frame["Event"] == "gap" {
            let (from, to) = (frame["FromSeq"].as_u64().unwrap(), frame["ToSeq"].as_u64().unwrap());
            let plural = if from == to { "" } else { "s" };
            let text = format!("You missed {} message{plural}.", to - from + 1);
            assert!(
                frame["From"] == format!("#{room}") && frame["Message"] == text && frame["Meta"] == true,
                "{frame}"
            );
            assert!(frame["Epoch"].is_string() && frame["Seq"].is_null(), "{frame}");
            assert!(from == next && to >= from, "{next} was due: {frame}");
            gaps.push((from, to));
            next = to + 1;
            continue;
        }
        assert_eq!(frame["Seq"], next, "neither sent nor announced as lost");
        received.push(next);
        next += 1;
        if frame["Message"] == "end" {
            return (received, gaps);
        }
    }
}

#[test]
fn a_stuck_chat_member_is_told_exactly_what_it_missed() {
    let server = Server::start(&BACKLOG);
    let mut stuck = server.narrow_websocket("/ws?username=stuck&room=tea");
    stuck.expect_message("#tea", "Welcome to tea, stuck!");
    let mut healthy: Vec<Client> = (0..4).map(|number| server.join(&format!("u{number}"), "tea")).collect();
    for (at, client) in healthy.iter_mut().enumerate() {
        for later in at + 1..4 {
            client.expect_message("#tea", &format!("Welcome to tea, u{later}!"));
        }
    }
    let mut publisher = server.join("publisher", "desk");
    for (round, first_seq) in [(0, 2), (1, 0)] {
        for number in 0..FLOOD_MESSAGES {
            let text = numbered(number, FLOOD_MESSAGE_BYTES);
            publisher.say("tea", &text);
            for client in &mut healthy {
                client.expect_message("publisher", &text);
            }
        }
        publisher.say("tea", "end");
        let end = healthy.iter_mut().map(|client| client.expect_message("publisher", "end")["Seq"].as_u64().unwrap());
        let end = end.collect::<BTreeSet<u64>>();
        assert_eq!(end.len(), 1);
        let first_seq = if round == 0 { first_seq } else { *end.first().unwrap() - (FLOOD_MESSAGES) as u64 };
        let (received, gaps) = read_to_end(&mut stuck, "tea", first_seq);
        assert_eq!(received.last(), end.first());
        assert!(!gaps.is_empty(), "6 MiB don't fit 64 KiB and the kernel's buffers");
    }
}

/// A member stuck in several rooms, in which it is alone; it reads nothing before the flood is over.
fn stuck_in_rooms(slow: &str, rooms: &[&str]) -> (Server, Client, Client) {
    let server = Server::start_on_one_shard(&[&BACKLOG[..], &["--slow", slow]].concat());
    let mut stuck = server.narrow_websocket(&format!("/ws?username=stuck&room={}", rooms[0]));
    for (at, room) in rooms.iter().enumerate() {
        if at > 0 {
            stuck.say(rooms[0], &format!("/join {room}"));
        }
        stuck.expect_message(&format!("#{room}"), &format!("Welcome to {room}, stuck!"));
    }
    let mut publisher = server.join("publisher", "desk");
    for number in 0..FLOOD_MESSAGES {
        for room in rooms {
            publisher.say(room, &numbered(number, FLOOD_MESSAGE_BYTES / rooms.len()));
        }
    }
    for room in rooms {
        publisher.say(room, "end");
    }
    // On one shard: everything before the answer has been handled.
    publisher.say("desk", "/list");
    // A room may be gone by then, along with its closed member.
    while publisher.json()["From"] != "#desk" {}
    (server, stuck, publisher)
}

#[test]
fn with_slow_close_a_stuck_chat_member_gets_a_prefix_and_4101() {
    for rooms in [&["tea", "milk", "honey"][..], &["tea"]] {
        let (_server, mut stuck, mut publisher) = stuck_in_rooms("close", rooms);
        let mut next = vec![2; rooms.len()];
        let close = loop {
            match stuck.next() {
                Message::Text(text) => {
                    let frame: Value = serde_json::from_str(&text).unwrap();
                    let room = rooms.iter().position(|room| frame["Room"] == *room).unwrap();
                    assert_eq!(frame["Seq"], next[room], "nothing is left out before the Close");
                    next[room] += 1;
                }
                Message::Close(close) => break close.unwrap(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(u16::from(close.code), 4101);
        assert!(next[0] > 2, "something was received");
        publisher.say("desk", "still here");
        publisher.expect_message("publisher", "still here");
    }
}

#[test]
fn a_member_stuck_in_many_rooms_is_told_of_each() {
    let rooms = ["tea", "milk", "honey"];
    let (_server, mut stuck, _publisher) = stuck_in_rooms("gap", &rooms);
    let mut next = [2; 3];
    let mut missed = [0; 3];
    let mut ended = 0;
    while ended < rooms.len() {
        let frame = stuck.json();
        let room = rooms.iter().position(|room| frame["Room"] == *room).unwrap();
        if frame["Event"] == "gap" {
            let (from, to) = (frame["FromSeq"].as_u64().unwrap(), frame["ToSeq"].as_u64().unwrap());
            assert_eq!(
                (from, frame["Message"].as_str().unwrap()),
                (next[room], format!("You missed {} messages.", to + 1 - from).as_str())
            );
            missed[room] += to + 1 - from;
            next[room] = to + 1;
        } else {
            assert_eq!(frame["Seq"], next[room], "neither sent nor announced as lost");
            next[room] += 1;
        }
        ended += usize::from(frame["Message"] == "end");
    }
    assert!(missed.iter().all(|missed| *missed > 0), "{missed:?}");
}

#[test]
fn messages_before_a_close_come_back_before_the_close() {
    let server = Server::start(&["--max-message", "1m"]);
    for (count, bytes) in [(100, 1000), (1, 65_536), (1, 900_000), (3, 65_530)] {
        let mut client = server.websocket("/raw/owed");
        // All at once, including the Close.
        for number in 0..count {
            client.socket.write(Message::text(format!("{number:010}").repeat(bytes / 10))).unwrap();
        }
        client.socket.close(None).unwrap();
        let mut echoed = 0;
        while let Ok(message) = client.socket.read() {
            if let Message::Text(text) = message {
                assert_eq!(text.len(), bytes / 10 * 10);
                echoed += 1;
            }
        }
        assert_eq!(echoed, count, "{bytes} bytes each");
    }
}
