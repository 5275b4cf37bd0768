//! `--flush-interval`: messages of a room that wait to be sent together, and what doesn't wait for them. First with one shard on
//! the thread of the test, which decides what time it is; then the real binary.

#[macro_use]
#[path = "support/forward.rs"]
mod forward;
#[path = "support/any_ring.rs"]
mod any_ring;
#[path = "support/arrived.rs"]
mod arrived;
#[allow(dead_code, reason = "each test file uses its own part of it")]
#[path = "support/bench.rs"]
mod bench;
mod support;

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use arrived::{arrived, expect};
use bench::Bench;
use hi::clock::Now;
use hi::connection::Role;
use hi::protocol::Namespace;
use hi::protocol::name::Name;
use serde_json::json;
use support::wire::{self, BINARY, FIN, PING, PONG, TEXT, frame};
use support::{PATIENCE, Server, seeded};

/// So long that no message leaves for its time alone, unless the test says that it has passed.
const LONG: &str = "10s";

fn raw() -> Role {
    Role::Raw { echo: true, lossy: false }
}

fn v0(name: &str) -> Role {
    Role::V0 { user: Name::user(name).unwrap() }
}

fn v1(name: &str) -> Role {
    Role::V1 { user: Name::user(name).unwrap(), predecessor: None }
}

fn data(text: &str) -> Vec<u8> {
    frame(FIN | BINARY, text.as_bytes())
}

/// A chat message, or a command, in the room `tea`.
fn chat(text: &str) -> Vec<u8> {
    frame(FIN | TEXT, json!({"Room": "tea", "Message": text}).to_string().as_bytes())
}

/// A shard, and a room `tea` on it that has just been fanned out: what is said there now has to wait.
struct Busy {
    bench: Bench,
    kind: Namespace,
    peers: Vec<TcpStream>,
}

impl Busy {
    fn new(kind: Namespace, roles: Vec<Role>) -> Self {
        let mut bench = Bench::with(&["--flush-interval", LONG]);
        let peers = roles.into_iter().map(|role| bench.connect(role, "tea")).collect();
        let mut busy = Self { bench, kind, peers };
        busy.bench.turn_until_idle();
        busy.says(0, &if kind == Namespace::Raw { data("first") } else { chat("first") });
        busy.let_time_pass();
        (0..busy.peers.len()).for_each(|peer| expect(&mut busy.peers[peer], &[b"first"]));
        busy.peers.iter().for_each(|peer| peer.set_nonblocking(true).unwrap());
        busy
    }

    fn raw(members: usize) -> Self {
        Self::new(Namespace::Raw, (0..members).map(|_| raw()).collect())
    }

    fn chat(roles: [Role; 2]) -> Self {
        Self::new(Namespace::Chat, roles.into())
    }

    /// Takes turns until `condition` holds.
    fn turn_until(&mut self, condition: impl Fn(&mut Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition(self) {
            assert!(Instant::now() < deadline, "it never happens");
            self.bench.turn_until_idle();
        }
    }

    /// A peer says something in the room, and the room has it.
    fn says(&mut self, peer: usize, bytes: &[u8]) {
        let room = self.bench.room(self.kind, "tea");
        let last_seq = room.last_seq();
        self.peers[peer].write_all(bytes).unwrap();
        self.turn_until(|_| room.last_seq() > last_seq);
        self.bench.turn_until_idle();
    }

    /// Takes a turn at the time at which something is due; and again, for as long as something is.
    fn let_time_pass(&mut self) {
        while let Some(due) = self.bench.shard.next_due() {
            self.turn_at(due);
            self.bench.turn_until_idle();
        }
    }

    fn turn_at(&mut self, instant: Instant) {
        self.bench.shard.turn(Now { instant, ..Now::read() });
    }

    /// What has arrived at a peer since the last call, once `last` has.
    fn received(&mut self, peer: usize, last: &str) -> String {
        let mut received = String::new();
        let deadline = Instant::now() + PATIENCE;
        while !received.contains(last) {
            assert!(Instant::now() < deadline, "no {last:?} in {received:?}");
            self.bench.turn_until_idle();
            received.push_str(&characters(&arrived(&mut self.peers[peer])));
        }
        received
    }

    #[track_caller]
    fn expect_nothing(&mut self, peer: usize) {
        self.bench.turn_until_idle();
        let received = arrived(&mut self.peers[peer]);
        assert!(received.is_empty(), "{:?}", received.escape_ascii().to_string());
    }
}

/// Bytes as text, each a character: headers of frames are no UTF-8.
fn characters(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

/// Checks that the parts stand in a text, in this order.
#[track_caller]
fn assert_in_order(text: &str, parts: &[&str]) {
    let mut rest = text;
    for part in parts {
        let (_, behind) = rest.split_once(part).unwrap_or_else(|| panic!("no {part:?} at its place in {text:?}"));
        rest = behind;
    }
}

#[test]
fn the_first_message_of_a_quiet_room_leaves_at_once_and_those_that_follow_leave_together() {
    let mut busy = Busy::raw(3);
    for text in ["two", "three", "four"] {
        busy.says(0, &data(text));
    }
    (0..3).for_each(|peer| busy.expect_nothing(peer));
    let due = busy.bench.shard.next_due().expect("something waits");
    busy.turn_at(due - Duration::from_millis(1));
    (0..3).for_each(|peer| busy.expect_nothing(peer));
    busy.turn_at(due);
    for peer in 0..3 {
        // One turn gives each connection one send at most.
        assert_in_order(&characters(&arrived(&mut busy.peers[peer])), &["two", "three", "four"]);
    }
    assert_eq!(busy.bench.shard.next_due(), None);
    // A message that comes later than that finds the room quiet again.
    busy.bench.turn_until_idle();
    busy.peers[0].write_all(&data("five")).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while busy.bench.room(Namespace::Raw, "tea").last_seq() < 5 {
        assert!(Instant::now() < deadline);
        busy.turn_at(due + Duration::from_secs(11));
    }
    assert_in_order(&busy.received(2, "five"), &["five"]);
}

#[test]
fn a_reply_brings_what_waits_and_only_to_the_one_that_asked() {
    let mut busy = Busy::chat([v0("ann"), v0("bob")]);
    busy.says(0, &chat("second"));
    busy.expect_nothing(1);
    busy.peers[1].write_all(&chat("/list")).unwrap();
    assert_in_order(&busy.received(1, "ann, bob"), &["second", "ann, bob"]);
    busy.expect_nothing(0);
    busy.let_time_pass();
    assert_in_order(&busy.received(0, "second"), &["second"]);
    busy.expect_nothing(1);
}

#[test]
fn an_acknowledged_message_is_acknowledged_at_once_and_behind_what_came_before_it() {
    let mut busy = Busy::new(Namespace::Chat, vec![v0("ann"), v0("bob")]);
    let mut eve = busy.bench.connect(v1("eve"), "tea");
    busy.says(0, &chat("second"));
    let asking = json!({"Room": "tea", "Message": "third", "Ref": "please"}).to_string();
    eve.write_all(&frame(FIN | TEXT, asking.as_bytes())).unwrap();
    busy.peers.push(eve);
    assert_in_order(&busy.received(2, "please"), &["second", "third", "please"]);
    busy.expect_nothing(1);
}

#[test]
fn a_pong_does_not_wait_and_takes_along_what_does() {
    let mut busy = Busy::raw(2);
    busy.says(0, &data("second"));
    busy.peers[1].write_all(&frame(FIN | PING, b"are you there")).unwrap();
    let received = busy.received(1, "second");
    assert!(received.starts_with(char::from(FIN | PONG)), "{received:?}");
    assert_in_order(&received, &["are you there", "second"]);
    busy.expect_nothing(0);
}

#[test]
fn a_member_that_joins_in_between_misses_what_waits_and_gets_its_welcome_at_once() {
    let mut busy = Busy::chat([v0("ann"), v0("bob")]);
    let mut eve = busy.bench.connect(v0("eve"), "milk");
    busy.says(0, &chat("second"));
    let join = json!({"Room": "milk", "Message": "/join tea"}).to_string();
    eve.write_all(&frame(FIN | TEXT, join.as_bytes())).unwrap();
    busy.peers.push(eve);
    let received = busy.received(2, "Welcome to tea, eve!");
    assert!(!received.contains("second"), "{received}");
    busy.says(1, &chat("fourth"));
    (0..2).for_each(|peer| busy.expect_nothing(peer));
    busy.let_time_pass();
    for peer in 0..2 {
        assert_in_order(&busy.received(peer, "fourth"), &["second", "Welcome to tea, eve!", "fourth"]);
    }
    assert!(!busy.received(2, "fourth").contains("second"));
}

#[test]
fn a_member_that_leaves_gets_what_waits_and_the_others_are_told_with_it() {
    let mut busy = Busy::chat([v0("ann"), v0("bob")]);
    busy.says(0, &chat("second"));
    busy.says(1, &chat("/leave tea"));
    assert_in_order(&busy.received(1, "Left channel tea."), &["second", "Left channel tea."]);
    busy.expect_nothing(0);
    busy.let_time_pass();
    assert_in_order(&busy.received(0, "User bob left channel."), &["second", "User bob left channel."]);
}

#[test]
fn a_close_comes_after_what_waits() {
    let mut busy = Busy::raw(2);
    busy.says(0, &data("second"));
    busy.peers[1].write_all(&wire::close_frame(1000, b"")).unwrap();
    busy.turn_until(|busy| busy.bench.shard.connections() == 1);
    expect(&mut busy.peers[1], &[b"second\x88\x02\x03\xe8"]);
}

#[test]
fn nothing_waits_when_the_server_stops() {
    let mut busy = Busy::chat([v0("ann"), v1("bob")]);
    busy.says(0, &chat("second"));
    busy.bench.shard.stop(Now::read());
    let going_away = characters(&[3, 233]);
    assert_in_order(&busy.received(0, &going_away), &["second", &going_away]);
    assert_in_order(&busy.received(1, "drain"), &["second", "drain"]);
}

#[test]
fn listeners_of_a_room_wait_as_its_members_do() {
    let mut busy = Busy::new(Namespace::Chat, vec![v0("ann"), v0("bob"), Role::Sse { ignored_bytes: 0 }]);
    for text in ["second", "third"] {
        busy.says(0, &chat(text));
    }
    (0..3).for_each(|peer| busy.expect_nothing(peer));
    busy.let_time_pass();
    (0..3).for_each(|peer| assert_in_order(&busy.received(peer, "third"), &["second", "third"]));
}

#[test]
fn a_room_with_much_to_send_waits_no_longer_and_no_one_loses_anything() {
    let mut busy = Busy::new(Namespace::Raw, vec![raw(), Role::Raw { echo: true, lossy: true }]);
    let texts: Vec<_> = ('a'..='h').map(|letter| letter.to_string().repeat(15_000)).collect();
    let room = busy.bench.room(Namespace::Raw, "tea");
    let mut first_sent = None;
    for text in &texts {
        busy.says(0, &data(text));
        assert!(!room.is_behind(), "publishers don't wait for a room that waits");
        if first_sent.is_none() && busy.bench.shard.next_due().is_none() {
            first_sent = Some(text);
        }
    }
    assert_eq!(first_sent, Some(&texts[4]), "half of what makes publishers wait leaves at once");
    busy.let_time_pass();
    for peer in 0..2 {
        let received = busy.received(peer, texts.last().unwrap());
        assert_in_order(&received, &texts.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

/// Starts `hi` with an internal port, and one shard.
fn one_shard(args: &[&str]) -> Server {
    Server::start_on_one_shard(&[&["--internal", "127.0.0.1:0"], args].concat())
}

#[test]
fn what_waits_leaves_in_time_though_nothing_else_happens() {
    for interval in ["30ms", "raw=30ms", "auto"] {
        let server = one_shard(&["--flush-interval", interval, "--ping-interval", "1h"]);
        let mut members: Vec<_> = (0..3).map(|_| server.upgraded("/raw/tea")).collect();
        for number in 0..20 {
            let texts = ["first", "second"].map(|text| format!("{text} {number}"));
            texts.iter().for_each(|text| members[0].send(frame(FIN | BINARY, text.as_bytes())));
            for member in &mut members {
                texts.iter().for_each(|text| member.expect_frame(BINARY, text));
            }
        }
    }
}

#[test]
fn rooms_of_the_other_kind_do_not_wait() {
    let server = one_shard(&["--flush-interval", &format!("chat={LONG}")]);
    let mut member = server.upgraded("/raw/tea");
    let began = Instant::now();
    for _ in 0..3 {
        member.expect_echo("at once");
    }
    assert!(began.elapsed() < Duration::from_secs(10), "as if it waited");
    let (mut ann, _) = server.join_v1("ann", "tea");
    ann.say("tea", "one");
    let mut bob = server.websocket("/ws?username=bob&room=milk");
    bob.expect_message("#milk", "Welcome to milk, bob!");
}

#[test]
fn every_fan_out_is_counted_with_its_messages() {
    let server = one_shard(&["--ping-interval", "1h"]);
    let internal = server.internal();
    let mut members: Vec<_> = (0..3).map(|_| server.upgraded("/raw/tea")).collect();
    for _ in 0..4 {
        members[0].send(frame(FIN | BINARY, b"x"));
        members.iter_mut().for_each(|member| member.expect_frame(BINARY, "x"));
    }
    let flushes = |what: &str| internal.metric(&format!("hi_flush_messages_{what}"));
    assert_eq!((flushes("count"), flushes("sum"), flushes("bucket{le=\"1.0\"}")), (4.0, 4.0, 4.0));
}

#[test]
fn the_wait_counts_as_time_of_delivery() {
    const INTERVAL: Duration = Duration::from_secs(1);
    let server = one_shard(&["--flush-interval", "1s", "--ping-interval", "1h"]);
    let internal = server.internal();
    let mut member = server.upgraded("/raw/tea");
    let began = Instant::now();
    member.expect_echo("first");
    // One message in 100 ms is timed.
    std::thread::sleep(Duration::from_millis(110));
    member.send(frame(FIN | BINARY, b"second"));
    internal.wait_for_metric("hi_messages_in_total{dialect=\"raw\"}", 2.0);
    let has_arrived = began.elapsed();
    member.expect_frame(BINARY, "second");
    internal.wait_for_metric("hi_delivery_seconds_count", 2.0);
    let waited = internal.metric("hi_delivery_seconds_sum");
    assert!(waited >= INTERVAL.saturating_sub(has_arrived).as_secs_f64(), "{waited} s after {has_arrived:?}");
}

#[test]
fn members_on_two_shards_see_one_order_and_fewer_fan_outs_than_messages() {
    const MEMBERS: usize = 10;
    let mut random = seeded();
    let (server, internal) = Server::start_with_internal(&["--flush-interval", "20ms", "--ping-interval", "1h"]);
    let mut members: Vec<_> = (0..MEMBERS).map(|_| server.websocket("/raw/tea")).collect();
    let count = 400;
    for number in 0..count {
        let member = &mut members[random.usize(..MEMBERS)];
        member.socket.send(tungstenite::Message::text(number.to_string())).unwrap();
    }
    let orders: Vec<Vec<_>> = members.iter_mut().map(|member| (0..count).map(|_| member.text()).collect()).collect();
    assert!(orders.iter().all(|order| *order == orders[0]));
    let mut numbers: Vec<u32> = orders[0].iter().map(|text| text.parse().unwrap()).collect();
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(0..count));
    let (fan_outs, messages) = (internal.metric("hi_flush_messages_count"), internal.metric("hi_flush_messages_sum"));
    assert_eq!(messages, f64::from(count) * 2.0, "on each shard");
    assert!(fan_outs < messages, "{fan_outs}");
}

#[test]
fn nothing_waits_while_memory_is_short() {
    let args = ["--flush-interval", LONG, "--memory-max", "32m", "--backlog-bytes", "64m", "--ping-interval", "1h"];
    let server = one_shard(&args);
    let internal = server.internal();
    let mut member = server.upgraded("/raw/tea");
    let began = Instant::now();
    ["first", "second"].iter().for_each(|text| member.send(frame(FIN | BINARY, text.as_bytes())));
    member.expect_frame(BINARY, "first");
    // One that doesn't read, and what it would have to read.
    let _stuck = server.narrow_upgraded("/raw/bulk?lossy=1");
    let mut speaking = server.upgraded("/raw/bulk?echo=0");
    let message = frame(FIN | BINARY, &[0; 15_000]);
    while internal.metric("hi_memory_laps_total{what=\"logs\"}") == 0.0 {
        (0..100).for_each(|_| speaking.send(&message));
    }
    member.expect_frame(BINARY, "second");
    assert!(began.elapsed() < Duration::from_secs(10), "it has waited");
    assert_eq!(internal.metric("hi_lapped_total{policy=\"close\"}"), 0.0);
}
