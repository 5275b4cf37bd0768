//! One order for all members, over real sockets, whichever client publishes, on whichever shard, and however much at
//! once. And each connection's own order: answers, and the end of a membership, come after the messages before them.

mod support;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::json;
use support::wire::{self, BINARY, FIN, TEXT};
use support::{Client, Server, seeded};

const ROOMS: [&str; 3] = ["tea", "milk", "honey"];
const PUBLISHERS: usize = 6;
const MESSAGES_EACH: usize = 150;

/// What a member got from one room: `Seq`, sender and text, in the order of arrival.
type Seen = Vec<(u64, String, String)>;

/// Reads until every publisher has sent "end" to every room of the member.
fn read_rooms(member: &mut Client, rooms: usize) -> HashMap<String, Seen> {
    let mut seen: HashMap<String, Seen> = HashMap::new();
    let mut ends = 0;
    while ends < PUBLISHERS * rooms {
        let frame = member.json();
        let text = |key: &str| frame[key].as_str().unwrap().to_owned();
        assert!(frame["Event"] != "gap", "{frame}");
        ends += usize::from(frame["Message"] == "end");
        seen.entry(text("Room")).or_default().push((frame["Seq"].as_u64().unwrap(), text("From"), text("Message")));
    }
    seen
}

/// Publishes to random rooms, as fast as possible.
fn publish(publisher: &mut Client, name: usize, random: &mut fastrand::Rng) {
    for number in 0..MESSAGES_EACH {
        let padding: String = (0..random.usize(..300)).map(|_| random.alphanumeric()).collect();
        publisher.say(random.choice(ROOMS).unwrap(), &format!("{name} {number} {padding}"));
    }
    for room in ROOMS {
        publisher.say(room, "end");
    }
}

#[test]
fn all_members_of_a_room_see_the_same_messages_in_the_same_order() {
    let mut random = seeded();
    let server = Server::start(&["--rate-limit", "0"]);
    // Members are in one room or in all of them, and publishers in another room.
    let mut members = Vec::new();
    for number in 0..24 {
        let room = ROOMS[number % 3];
        let mut member = server.join_quietly(&format!("m{number}"), room);
        let in_all = number % 4 == 0;
        for other in ROOMS.iter().filter(|other| in_all && **other != room) {
            member.say(room, &format!("/join {other}"));
            while member.json()["Message"] != format!("Welcome to {other}, m{number}!") {}
        }
        members.push((member, if in_all { ROOMS.len() } else { 1 }));
    }
    let mut publishers: Vec<Client> =
        (0..PUBLISHERS).map(|name| server.join(&format!("p{name}"), &format!("desk{name}"))).collect();
    let seen: Vec<HashMap<String, Seen>> = std::thread::scope(|scope| {
        let readers: Vec<_> =
            members.iter_mut().map(|(member, rooms)| scope.spawn(|| read_rooms(member, *rooms))).collect();
        for (name, publisher) in publishers.iter_mut().enumerate() {
            let mut random = random.fork();
            scope.spawn(move || publish(publisher, name, &mut random));
        }
        readers.into_iter().map(|reader| reader.join().unwrap()).collect()
    });
    let mut said = 0;
    for room in ROOMS {
        let of_room: Vec<&Seen> = seen.iter().filter_map(|seen| seen.get(room)).collect();
        assert!(of_room.len() >= 8);
        let longest = of_room.iter().max_by_key(|seen| seen.len()).unwrap();
        for seen in &of_room {
            assert!(seen.windows(2).all(|pair| pair[1].0 == pair[0].0 + 1), "{room}: Seq is dense");
            assert!(longest.ends_with(seen), "{room}: the same for all, from each one's join on");
        }
        for name in 0..PUBLISHERS {
            let own = longest.iter().filter(|(_, from, text)| *from == format!("p{name}") && text != "end");
            let numbers: Vec<usize> = own.map(|(.., text)| text.split(' ').nth(1).unwrap().parse().unwrap()).collect();
            assert!(numbers.is_sorted_by(|a, b| a < b), "{room}, p{name}: in the order in which it was said");
            said += numbers.len();
        }
    }
    assert_eq!(said, PUBLISHERS * MESSAGES_EACH, "nothing is lost");
}

/// 300 members, 200 messages from 8 of them, half of which turn echo off.
#[test]
fn all_members_of_a_raw_room_get_the_same_bytes() {
    const MEMBERS: usize = 300;
    const RAW_PUBLISHERS: usize = 8;
    let mut random = seeded();
    let server = Server::start(&[]);
    let path =
        |number: usize| if number % 2 == 1 && number < RAW_PUBLISHERS { "/raw/data?echo=0" } else { "/raw/data" };
    let mut members: Vec<_> = (0..MEMBERS).map(|number| server.upgraded(path(number))).collect();
    std::thread::scope(|scope| {
        for (name, publisher) in members.iter_mut().take(RAW_PUBLISHERS).enumerate() {
            let mut random = random.fork();
            scope.spawn(move || {
                for number in 0..200 / RAW_PUBLISHERS {
                    let padding: String = (0..random.usize(..2000)).map(|_| random.alphanumeric()).collect();
                    publisher.send(wire::frame(FIN | BINARY, format!("{name} {number} {padding}").as_bytes()));
                }
            });
        }
    });
    let mut orders = members.iter_mut().enumerate().map(|(number, member)| {
        let is_quiet = number % 2 == 1 && number < RAW_PUBLISHERS;
        let count = if is_quiet { 200 - 200 / RAW_PUBLISHERS } else { 200 };
        let messages = (0..count).map(|_| String::from_utf8(member.frame().payload).unwrap());
        (is_quiet.then(|| format!("{number} ")), messages.collect::<Vec<_>>())
    });
    let (_, first) = orders.next().unwrap();
    for name in 0..RAW_PUBLISHERS {
        let own = first.iter().filter_map(|message| message.strip_prefix(&format!("{name} ")));
        let numbers: Vec<usize> = own.map(|rest| rest.split(' ').next().unwrap().parse().unwrap()).collect();
        assert_eq!(numbers, (0..200 / RAW_PUBLISHERS).collect::<Vec<_>>());
    }
    for (own, messages) in orders {
        let due = first.iter().filter(|message| own.as_ref().is_none_or(|own| !message.starts_with(own)));
        assert!(due.eq(&messages), "one order for all, without the sender's own messages if echo is off");
    }
}

/// Expects these bytes next.
#[track_caller]
fn read_exactly(stream: &mut TcpStream, due: &[u8]) {
    let mut came = vec![0; due.len()];
    stream.read_exact(&mut came).expect("the expected number of bytes");
    if let Some(at) = came.iter().zip(due).position(|(came, due)| came != due) {
        panic!("at byte {at} of {}: {:?}", due.len(), came[at..(at + 60).min(due.len())].escape_ascii().to_string());
    }
}

#[test]
fn a_member_that_reads_is_never_lapped() {
    // These messages take far more than the backlog in the room's log, but fit the kernel's buffers when sent.
    const BURST: usize = 10_000;
    let mut random = seeded();
    // No ping may come in between.
    let server = Server::start(&["--backlog-bytes", "64k", "--ping-interval", "1h"]);
    let mut members: Vec<_> = (0..8).map(|_| server.upgraded("/raw/data")).collect();
    let mut publisher = server.upgraded("/raw/data?echo=0");
    for _ in 0..20 {
        let letters: Vec<u8> = std::iter::repeat_with(|| random.alphanumeric() as u8).take(BURST).collect();
        let sent: Vec<u8> = letters.iter().flat_map(|letter| wire::frame(FIN | TEXT, &[*letter])).collect();
        let due: Vec<u8> = letters.iter().flat_map(|letter| [FIN | TEXT, 1, *letter]).collect();
        publisher.send(&sent);
        for member in &mut members {
            read_exactly(&mut member.stream, &due);
        }
    }
}

#[test]
fn messages_before_a_leave_arrive_before_its_confirmation() {
    let server = Server::start(&["--rate-limit", "0"]);
    let mut ann = server.join("ann", "tea");
    let mut others: Vec<Client> = (0..4).map(|number| server.join(&format!("u{number}"), "tea")).collect();
    for (number, other) in others.iter_mut().enumerate() {
        ann.expect_message("#tea", &format!("Welcome to tea, u{number}!"));
        for message in 0..50 {
            other.say("tea", &format!("m{message}"));
        }
    }
    for other in &mut others {
        // A client that has seen all of it knows that the message is in the room's order.
        let mut seen = 0;
        while seen < 200 {
            seen += usize::from(other.json()["Meta"] == false);
        }
    }
    ann.say("tea", "/leave tea");
    for seq in 6..206 {
        assert_eq!(ann.json()["Seq"], seq);
    }
    ann.expect_system("Left channel tea.");
}

#[test]
fn a_lagging_member_that_leaves_is_told_of_every_loss() {
    // Two cases: more is waiting than the kernel buffers, and more than hi keeps for one connection.
    for messages in [250, 1000] {
        let server = Server::start(&["--rate-limit", "0", "--backlog-bytes", "64m"]);
        let mut slow = server.narrow_websocket("/ws?username=slow&room=tea");
        let mut ann = server.join("ann", "tea");
        let text = "x".repeat(10_000);
        for _ in 0..messages {
            ann.say("tea", &text);
            ann.expect_message("ann", &text);
        }
        slow.say("tea", "/leave tea");
        ann.expect_message("#tea", "User slow left channel.");
        slow.expect_message("#tea", "Welcome to tea, slow!");
        let (mut next, mut heard) = (2, 0);
        let last = loop {
            let message = slow.json();
            match message["FromSeq"].as_u64() {
                Some(from) => {
                    assert_eq!((from, &message["Event"]), (next, &json!("gap")));
                    next = message["ToSeq"].as_u64().unwrap() + 1;
                }
                None if message["From"] == "hi" => break message,
                None => {
                    assert_eq!(message["Seq"], next, "neither sent nor announced as lost");
                    next += 1;
                    heard += 1;
                }
            }
        };
        assert_eq!((&last["Message"], next), (&json!("Left channel tea."), messages + 3));
        assert!(heard > 20, "everything in flight has arrived: {heard}");
    }
}

#[test]
fn an_answer_comes_after_the_messages_before_it() {
    let server = Server::start(&["--rate-limit", "0"]);
    let mut others: Vec<Client> = (0..4).map(|number| server.join_quietly(&format!("u{number}"), "tea")).collect();
    let mut ann = server.join_quietly("ann", "tea");
    for round in 0..30 {
        // A client that has read its own message knows that it is in the room's order.
        let other = &mut others[round % 4];
        other.say("tea", &format!("m{round}"));
        while other.json()["Message"] != format!("m{round}") {}
        ann.say("tea", &format!("ann's {round}"));
        ann.say("tea", "/channels");
        ann.expect_message(&format!("u{}", round % 4), &format!("m{round}"));
        ann.expect_message("ann", &format!("ann's {round}"));
        ann.expect_message("#tea", "tea");
    }
}

#[test]
fn a_message_sent_together_with_a_leave_reaches_all_including_the_sender() {
    let server = Server::start(&["--rate-limit", "0"]);
    let mut ann = server.join("ann", "tea");
    let mut bob = server.join("bob", "tea");
    ann.expect_message("#tea", "Welcome to tea, bob!");
    let said = |text: String| wire::frame(FIN | TEXT, json!({"Room": "tea", "Message": text}).to_string().as_bytes());
    let text = |number: usize| format!("{number} {}", "x".repeat(number * 100));
    let breath: Vec<u8> = (0..50).map(text).chain(["/leave tea".into()]).flat_map(said).collect();
    bob.socket.get_mut().write_all(&breath).unwrap();
    for number in 0..50 {
        for client in [&mut ann, &mut bob] {
            client.expect_message("bob", &text(number));
        }
    }
    bob.expect_system("Left channel tea.");
    ann.expect_message("#tea", "User bob left channel.");
}
