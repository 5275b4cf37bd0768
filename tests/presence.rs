//! A storm of joins is no storm of notices. `HI_TEST_JOINS=10000 cargo test --release --test presence` makes it 10,000.

mod support;

use std::time::Instant;

use serde_json::Value;
use support::wire::{Wire, handshake};
use support::{Client, Server};

/// Members up to which joins may be told one by one.
const SMALL_ROOM: u64 = 32;
/// So many connect before their handshakes are waited for: the accept queue has room for them.
const CONNECTS_AT_A_TIME: usize = 500;

fn joins() -> u64 {
    std::env::var("HI_TEST_JOINS").ok().and_then(|joins| joins.parse().ok()).unwrap_or(2000)
}

/// One notice: when it was published (ms), who it tells of, and how many users there are then.
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

/// Each comes a second or more after the one before.
#[track_caller]
fn assert_one_a_second(notices: &[Notice]) {
    for pair in notices.windows(2) {
        assert!(pair[1].ts >= pair[0].ts + 1000, "{} ms after the one before", pair[1].ts - pair[0].ts);
    }
}

#[test]
fn a_storm_of_joins_and_of_leaves_is_told_once_a_second() {
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
    assert_eq!(told, joins, "everyone is told of, once");
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
