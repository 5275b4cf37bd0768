//! Joins and leaves are announced one by one while a room is small and quiet; a storm of joins causes no storm of notices.
//! `HI_TEST_JOINS=10000 cargo test --release --test presence` makes it 10,000.

mod support;

use std::collections::HashSet;
use std::net::Shutdown;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use support::wire::{FIN, TEXT, Wire, frame, handshake};
use support::{Client, Server, reset, wait_while};

/// Number of members up to which joins may be announced one by one.
const SMALL_ROOM: u64 = 32;
/// Connections opened before waiting for their handshakes: as many as fit the accept queue.
const CONNECTS_AT_A_TIME: usize = 500;

fn joins() -> u64 {
    std::env::var("HI_TEST_JOINS").ok().and_then(|joins| joins.parse().ok()).unwrap_or(2000)
}

/// One notice: when it was published (ms), the users it announces, and how many users there are then.
struct Notice {
    ts: u64,
    joined: u64,
    left: u64,
    users: u64,
}

impl Notice {
    fn next(member: &mut Client) -> Self {
        let notice = member.json();
        let number = |key: &str| notice[key].as_u64().unwrap_or_else(|| panic!("no {key} in {notice}"));
        let (joined, left) = match notice["Event"].as_str() {
            Some("join") => (1, 0),
            Some("leave") => (0, 1),
            Some("presence") => (number("Joined"), number("Left")),
            _ => panic!("no notice: {notice}"),
        };
        assert!(notice["Message"].as_str().unwrap().len() < 500, "{notice}");
        Self { ts: number("Ts"), joined, left, users: number("Users") }
    }
}

/// Each comes at least a second after the one before. `Ts` is from a different clock than the one that measures the
/// second, and both are truncated to milliseconds, so a second may appear one shorter.
#[track_caller]
fn assert_one_a_second(notices: &[Notice]) {
    for pair in notices.windows(2) {
        assert!(pair[1].ts >= pair[0].ts + 999, "{} ms after the one before", pair[1].ts - pair[0].ts);
    }
}

#[test]
fn a_storm_of_joins_and_leaves_is_announced_once_a_second() {
    hi::os::raise_file_limit().unwrap();
    let joins = joins();
    let server = Server::start(&["--ping-interval", "1h"]);
    let mut watcher = server.join("watcher", "tea");
    let began = Instant::now();
    let mut crowd: Vec<Wire> = Vec::new();
    while (crowd.len() as u64) < joins {
        let before = crowd.len();
        for number in before..(before + CONNECTS_AT_A_TIME).min(joins as usize) {
            let mut wire = server.wire();
            wire.send(handshake(&format!("/ws?username=u{number}&room=tea")));
            crowd.push(wire);
        }
        crowd[before..].iter_mut().for_each(|wire| drop(wire.expect_101()));
    }
    let storm = began.elapsed();

    let mut notices = Vec::new();
    let mut told = 0;
    while told < joins {
        let notice = Notice::next(&mut watcher);
        told += notice.joined;
        assert_eq!(notice.left, 0);
        notices.push(notice);
    }
    assert_eq!(told, joins, "every join is announced once");
    assert_eq!(notices.last().unwrap().users, joins + 1);
    let small = notices.iter().take_while(|notice| notice.users <= SMALL_ROOM).count();
    assert!(small <= SMALL_ROOM as usize);
    assert_one_a_second(&notices[small..]);
    let seconds = storm.as_secs() as usize + 2;
    println!("{joins} joins in {storm:?}: {} notices, {small} of them while the room was small", notices.len());
    assert!(notices.len() - small <= seconds, "{} notices in {storm:?}", notices.len());

    // All of them leave at once.
    drop(crowd);
    let mut farewells: Vec<Notice> = Vec::new();
    while farewells.iter().map(|notice| notice.left).sum::<u64>() < joins {
        farewells.push(Notice::next(&mut watcher));
    }
    let last: Value = Value::from(farewells.last().unwrap().users);
    assert_eq!(last, 1);
    let large = farewells.iter().take_while(|notice| notice.users > SMALL_ROOM).count();
    assert_one_a_second(&farewells[..large]);
    println!("and their leaves: {} notices", farewells.len());
}

/// Reads notices until all `names` were announced in order (a folded one names the first three), and checks their
/// texts. Returns when each was published.
fn read_welcomes(client: &mut Client, names: &[String]) -> Vec<(String, u64)> {
    let mut notices = Vec::new();
    let mut rest = names;
    while !rest.is_empty() {
        let notice = client.json();
        let text = notice["Message"].as_str().unwrap().to_owned();
        let more = text.strip_suffix(" more.").and_then(|text| text.rsplit(' ').next()?.parse::<usize>().ok());
        let count = more.map_or(text.matches(", ").count().max(1), |more| 3 + more);
        let count = if text.contains(": ") && more.is_none() { text.matches(", ").count() + 1 } else { count };
        let (now, later) = rest.split_at(count);
        let expected = match now {
            [name] => format!("Welcome to tea, {name}!"),
            [_, _] | [_, _, _] => format!("Welcome to tea: {}.", now.join(", ")),
            many => format!("Welcome to tea: {} and {} more.", many[..3].join(", "), many.len() - 3),
        };
        assert_eq!((notice["From"].as_str(), text.as_str()), (Some("#tea"), expected.as_str()));
        assert_eq!(notice["Event"], if count == 1 { "join" } else { "presence" });
        notices.push((text, notice["Ts"].as_u64().unwrap()));
        rest = later;
    }
    notices
}

fn names(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|number| format!("u{number}")).collect()
}

fn enter(server: &Server, names: &[String]) -> Vec<Client> {
    names.iter().map(|name| server.websocket(&format!("/ws?username={name}&room=tea"))).collect()
}

/// At most `max` in any second.
#[track_caller]
fn assert_notices_per_second(notices: &[(String, u64)], max: usize) {
    for (_, end) in notices {
        let within = notices.iter().filter(|(_, ts)| (end.saturating_sub(999)..=*end).contains(ts)).count();
        assert!(within <= max, "{within} notices in a second: {notices:?}");
    }
}

#[test]
fn the_seventeenth_notice_within_a_second_is_folded() {
    // If this machine is so busy that 20 handshakes take longer, nothing has to be folded: repeat.
    for _attempt in 0..10 {
        let server = Server::start(&[]);
        let began = Instant::now();
        let mut watcher = server.websocket("/ws?username=u0&room=tea");
        let _others = enter(&server, &names(1..20));
        let in_time = began.elapsed() < Duration::from_millis(900);
        let notices = read_welcomes(&mut watcher, &names(0..20));
        assert_notices_per_second(&notices, 16);
        if in_time {
            assert_eq!(notices.len(), 17, "{notices:?}");
            assert_eq!(notices[16].0, "Welcome to tea: u16, u17, u18 and 1 more.");
            return;
        }
    }
    panic!("20 handshakes took more than 0.9 s ten times");
}

#[test]
fn with_more_than_32_members_joins_and_leaves_are_announced_once_a_second() {
    let server = Server::start(&[]);
    let mut watcher = server.websocket("/ws?username=u0&room=tea");
    let mut others = enter(&server, &names(1..33));
    read_welcomes(&mut watcher, &names(0..33));
    // Now with 33 members, and quiet: everything is folded.
    others.extend(enter(&server, &names(33..43)));
    let notices = read_welcomes(&mut watcher, &names(33..43));
    assert_notices_per_second(&notices, 1);
    let mut before = notices.last().unwrap().1;
    let mut left = 0;
    drop(others.split_off(32));
    while left < 10 {
        let notice = watcher.json();
        let text = notice["Message"].as_str().unwrap();
        match text.strip_suffix(" users left channel.") {
            Some(count) => left += count.parse::<usize>().unwrap(),
            None => {
                assert!(text.starts_with("User u") && text.ends_with(" left channel."), "{text}");
                left += 1;
            }
        }
        let ts = notice["Ts"].as_u64().unwrap();
        // By the clock of the system, in whole milliseconds.
        assert!(ts - before >= 999, "{notice}");
        before = ts;
    }
    watcher.say("tea", "/list");
    let users = watcher.json()["Message"].as_str().unwrap().split(", ").count();
    assert_eq!((left, users), (10, 33));
}

/// Connections of the server that are open according to its kernel; all but the watcher's are cut.
fn established(server: &Server) -> usize {
    let (port, established) = (format!(":{:04X}", server.address().port()), "01");
    let all = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let fields = all.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    fields.filter(|fields| fields[1].ends_with(&port) && fields[3] == established).count()
}

#[test]
fn a_client_that_is_cut_and_reconnects_at_once_finds_its_name_free() {
    const USERS: usize = 300;
    let server = Server::start(&[]);
    let mut watcher = server.join("watcher", "tea");
    let path = |user: usize| format!("/ws?username=u{user}&room=tea");
    let said = |text: &str| frame(FIN | TEXT, format!(r#"{{"Message":"{text}","Room":"tea"}}"#).as_bytes());
    let lost: Vec<Wire> = (0..USERS).map(|user| server.upgraded(&path(user))).collect();
    // Everything is waiting when hi continues: last messages, ends, resets, and reconnecting clients.
    server.signal(Signal::STOP);
    let cut = lost.into_iter().enumerate().filter_map(|(user, mut wire)| match user % 2 {
        0 => {
            wire.send(said("last words"));
            wire.stream.shutdown(Shutdown::Write).unwrap();
            Some(wire)
        }
        _ => {
            reset(wire.stream);
            None
        }
    });
    let _cut: Vec<Wire> = cut.collect();
    wait_while(|| established(&server) > 1, || "the ends don't reach the server's side".to_owned());
    let mut back: Vec<Wire> = (0..USERS).map(|_| server.wire()).collect();
    for (user, wire) in back.iter_mut().enumerate() {
        wire.send(handshake(&path(user)));
        wire.send(said("back again"));
    }
    server.signal(Signal::CONT);
    let (mut last_words, mut returned) = (0, HashSet::new());
    while last_words < USERS / 2 || returned.len() < USERS {
        let message = watcher.json();
        match message["Message"].as_str().expect("a text") {
            "last words" => last_words += 1,
            "back again" => assert!(returned.insert(message["From"].to_string()), "{message} twice"),
            _ => {}
        }
    }
    watcher.say("tea", "/list");
    // The first hundred by name, and the number of others.
    let users = loop {
        let message = watcher.json()["Message"].as_str().expect("a text").to_owned();
        let others = message.strip_suffix(" more").and_then(|list| list.rsplit_once(", and "));
        if let Some((names, more)) = others.filter(|(names, _)| names.starts_with("u0, u1, u10, ")) {
            break names.split(", ").count() + more.parse::<usize>().expect("a number");
        }
    };
    assert_eq!((last_words, users), (USERS / 2, USERS + 1));
}
