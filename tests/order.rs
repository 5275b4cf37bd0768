//! One order for everyone, over real sockets: whoever publishes, on whichever shard, and however much at once.

mod support;

use std::collections::HashMap;
use std::io::Read;
use std::net::TcpStream;

use support::wire::{self, BINARY, FIN, TEXT};
use support::{Client, Server, seeded};

const ROOMS: [&str; 3] = ["tea", "milk", "honey"];
const PUBLISHERS: usize = 6;
const MESSAGES_EACH: usize = 150;

/// What a member saw of one room: `Seq`, sender and text, in the order of arrival.
type Seen = Vec<(u64, String, String)>;

/// Reads on until every publisher has said "end" in every room that the member is in.
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

/// Publishes to random rooms, as fast as it goes.
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
    // Members are in one room or in all of them, and publishers in a room of their own.
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
            assert!(longest.ends_with(seen), "{room}: the same for all, from when each came in");
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

/// 300 members, 200 messages from 8 of them, half of which don't want their own.
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
        assert!(due.eq(&messages), "one order for all, without one's own where that was asked for");
    }
}

/// The next bytes have to be these.
#[track_caller]
fn read_exactly(stream: &mut TcpStream, due: &[u8]) {
    let mut came = vec![0; due.len()];
    stream.read_exact(&mut came).expect("as many bytes as are due");
    if let Some(at) = came.iter().zip(due).position(|(came, due)| came != due) {
        panic!("at byte {at} of {}: {:?}", due.len(), came[at..(at + 60).min(due.len())].escape_ascii().to_string());
    }
}

#[test]
fn who_reads_is_never_lapped_however_much_comes_at_once() {
    // So many messages cost far more than the backlog in the room's log, and fit the kernel's buffers when they leave.
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
