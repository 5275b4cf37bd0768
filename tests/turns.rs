//! Fairness and liveness of a shard's turns: one shard on the thread of the test, real sockets, and a data ring whose timing
//! the test controls.

#[macro_use]
#[path = "support/forward.rs"]
mod forward;
#[path = "support/any_ring.rs"]
mod any_ring;
#[path = "support/arrived.rs"]
mod arrived;
#[path = "support/bench.rs"]
mod bench;
mod support;

use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use arrived::{arrived, contains, expect};
use bench::{Bench, take_signal};
use clap::Parser;
use hi::clock::{Now, Time};
use hi::config::Config;
use hi::connection::Role;
use hi::frame::OpCode;
use hi::frame::encode;
use hi::protocol::name::Name;
use hi::protocol::{MemberId, Namespace};
use hi::room::{Joining, Published, Speaker, Wakes};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use support::PATIENCE;
use support::wire::{BINARY, FIN, PING, TEXT, frame};

/// More members than one turn sends to.
const MANY: usize = 1100;

fn wait_for_input(file: &impl AsFd) {
    let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    let came = poll(&mut [PollFd::new(file, PollFlags::IN)], Some(&patience)).unwrap();
    assert_eq!(came, 1, "the kernel reports input");
}

fn chat(user: &str) -> Role {
    Role::V0 { user: Name::user(user).unwrap() }
}

fn raw() -> Role {
    Role::Raw { echo: true, lossy: true }
}

#[test]
fn a_flood_from_another_shard_does_not_keep_this_one_from_reading() {
    let mut bench = Bench::new();
    let raw = Role::Raw { echo: true, lossy: true };
    let mut asking = bench.connect(raw, "flood");
    let _others: Vec<_> = (1..MANY).map(|_| bench.connect(Role::Raw { echo: true, lossy: true }, "flood")).collect();
    bench.turn_until_idle();
    let room = bench.room(Namespace::Raw, "flood");
    *bench.script.flooded.borrow_mut() = Some(room);
    // From now on there is always something to send.
    assert!(bench.shard.turns());
    asking.write_all(&frame(FIN | PING, b"are you there")).unwrap();
    let mut answer = Vec::new();
    for _ in 0..200 {
        bench.shard.turns();
        answer.extend(arrived(&mut asking));
        if contains(&answer, b"are you there") {
            return;
        }
    }
    panic!("no pong in 200 rounds of turns with a fan-out that never ends");
}

#[test]
fn a_leave_late_in_a_turn_is_announced_before_the_shard_sleeps() {
    let mut bench = Bench::new();
    let mut ann = bench.connect(chat("ann"), "tea");
    let _bob = bench.connect(chat("bob"), "tea");
    let member = MemberId { shard: 1, slot: 0, serial: 0 };
    let user = Name::user("far").unwrap();
    let joining = Joining::new(Some(&user), member);
    let tea = Name::room("tea").unwrap();
    let far = bench.registry.join(Namespace::Chat, &tea, &joining, Time::default(), &mut Wakes::default());
    let room = far.unwrap().room;
    bench.turn_until_idle();
    bench.registry.inboxes()[1].drain(&mut Vec::new(), &mut Vec::new());
    arrived(&mut ann);

    bench.script.broken.set(Some(1));
    let speaker = Speaker::Member(&user);
    room.publish_chat(&speaker, "bob doesn't get this", Time::default(), &mut Wakes::default()).unwrap();
    bench.turn_until_asleep();
    expect(&mut ann, &[b"bob doesn't get this", b"User bob left channel."]);
    // The other shard has received both messages, too, and has been woken.
    let mut relays = Vec::new();
    bench.registry.inboxes()[1].drain(&mut relays, &mut Vec::new());
    assert_eq!(relays.len(), 2);
    assert!(bench.script.broken.get().is_none());
}

#[test]
fn a_sleeping_shard_is_woken_by_input_and_never_by_itself() {
    let mut bench = Bench::new();
    let raw = Role::Raw { echo: true, lossy: true };
    let mut speaking = bench.connect(raw, "tea");
    let mut listening = bench.connect(Role::Raw { echo: true, lossy: true }, "tea");
    bench.turn_until_idle();
    for message in [b"one".as_slice(), b"two"] {
        speaking.write_all(&frame(FIN | BINARY, message)).unwrap();
        wait_for_input(&bench.ring_wake_up);
        assert!(take_signal(&bench.ring_wake_up));
        while bench.shard.turns() {}
        expect(&mut listening, &[message]);
        assert!(!take_signal(&bench.inbox_wake_up), "its own message doesn't wake it");
        assert!(!take_signal(&bench.ring_wake_up), "its sends have completed before it sleeps");
    }
}

#[test]
fn a_message_behind_many_ends_is_forwarded_in_the_turn_that_receives_it() {
    // The kernel completes the receives of only 20 of them in one call.
    const ENDS: usize = 200;
    const LISTENING: u32 = 1;
    let mut bench = Bench::new();
    let mut speaking = bench.connect(raw(), "tea");
    let spoken_to = bench.newest.take().unwrap();
    let mut listening = bench.connect(raw(), "tea");
    let crowd: Vec<_> = (0..ENDS).map(|_| bench.connect(raw(), "crowd")).collect();
    bench.turn_until_idle();
    drop(crowd);
    speaking.write_all(&frame(FIN | BINARY, b"behind them")).unwrap();
    wait_for_input(&spoken_to);
    let turns = bench.script.turns.get();
    bench.turn_until_idle();
    expect(&mut listening, &[b"behind them"]);
    assert_eq!(bench.script.sent.borrow()[&LISTENING], turns + 1);
}

/// A client that sends frames endlessly and reads nothing.
struct Flooder {
    peer: TcpStream,
    frames: Vec<u8>,
    at: usize,
}

impl Flooder {
    /// Sends as much as the sockets can take.
    fn pour(&mut self) {
        loop {
            match self.peer.write(&self.frames[self.at..]) {
                Ok(count) => self.at = (self.at + count) % self.frames.len(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("the flooder was disconnected: {error}"),
            }
        }
    }
}

#[test]
fn a_flood_waits_for_its_turns_and_others_get_theirs() {
    const READERS: usize = 300;
    let mut bench = Bench::new();
    // Frames that cost nothing to send, and frames that cost a kilobyte per reader.
    let floods = [frame(FIN | BINARY, b"").repeat(100_000), frame(FIN | BINARY, &[7; 1024]).repeat(1000)];
    let mut flooders = floods.map(|frames| Flooder { peer: bench.connect(raw(), "flood"), frames, at: 0 });
    let _readers: Vec<_> = (0..READERS).map(|_| bench.connect(raw(), "flood")).collect();
    let mut speaking = bench.connect(raw(), "tea");
    let mut listening = bench.connect(raw(), "tea");
    let listener = (flooders.len() + READERS + 1) as u32;
    bench.turn_until_idle();
    let flood = bench.room(Namespace::Raw, "flood");
    let began = bench.script.turns.get();
    for message in 1..=20u32 {
        flooders.iter_mut().for_each(Flooder::pour);
        bench.shard.turns();
        let before = bench.script.turns.get();
        speaking.write_all(&frame(FIN | BINARY, &message.to_be_bytes())).unwrap();
        while bench.script.sent.borrow().get(&listener).is_none_or(|turn| *turn <= before) {
            bench.shard.turns();
            assert!(bench.script.turns.get() < before + 100, "message {message} is not forwarded in 100 turns");
        }
        let turns = bench.script.sent.borrow()[&listener] - before;
        assert!(turns <= 3, "message {message} waited for {turns} turns");
        expect(&mut listening, &[&message.to_be_bytes()]);
        listening.set_nonblocking(true).unwrap();
    }
    // And no turn is long, no matter how much there is to do.
    let turns = u64::from(bench.script.turns.get() - began);
    assert!(flood.last_seq() > 10_000, "{} messages are no flood", flood.last_seq());
    assert!(flood.last_seq() / turns < 1100, "{} messages in {turns} turns", flood.last_seq());
    let most = bench.script.most_bytes.get();
    assert!(most < 3 << 20, "{most} bytes in one turn");
}

#[test]
fn a_quiet_connection_does_not_wait_for_many_flooders() {
    const FLOODERS: usize = 600;
    // Fewer buffers than flooders: they must not keep them from others.
    let mut bench = Bench::with(&["--receive-buffers", "256"]);
    let mut flooders: Vec<_> = (0..FLOODERS)
        .map(|number| {
            let role = Role::Raw { echo: false, lossy: true };
            let peer = bench.connect(role, &format!("flood{number}"));
            socket2::SockRef::from(&peer).set_send_buffer_size(64 * 1024).unwrap();
            socket2::SockRef::from(bench.newest.as_ref().unwrap()).set_recv_buffer_size(64 * 1024).unwrap();
            // Every other one sends large frames.
            let frames = frame(FIN | BINARY, &vec![7; number % 2 * 4000]).repeat(20_000 / (1 + number % 2 * 600));
            Flooder { peer, frames, at: 0 }
        })
        .collect();
    let mut speaking = bench.connect(raw(), "tea");
    let mut listening = bench.connect(raw(), "tea");
    bench.turn_until_idle();
    for message in 1..=40u32 {
        flooders.iter_mut().for_each(Flooder::pour);
        bench.shard.turns();
        speaking.write_all(&frame(FIN | BINARY, &message.to_be_bytes())).unwrap();
        let turns = bench.turns_until_sent(FLOODERS as u32 + 1);
        // The first messages are sent while the flood is starting.
        assert!(turns <= 3 || message <= 10, "message {message} waited for {turns} turns");
        expect(&mut listening, &[&message.to_be_bytes()]);
        listening.set_nonblocking(true).unwrap();
    }
}

#[test]
fn a_turn_ends_after_an_answer_that_takes_more_than_a_turn_s_work() {
    const ASKING: u32 = 200;
    let mut bench = Bench::new();
    for number in 0..1000 {
        let (name, user) = (Name::room(&format!("{number:0>64}")).unwrap(), Name::user("far").unwrap());
        let joining = Joining::new(Some(&user), MemberId { shard: 1, slot: number, serial: 0 });
        bench.registry.join(Namespace::Chat, &name, &joining, Time::default(), &mut Wakes::default()).unwrap();
    }
    let mut peers: Vec<_> = (0..ASKING).map(|number| bench.connect(chat(&format!("user{number}")), "tea")).collect();
    bench.turn_until_idle();
    for peer in &mut peers {
        peer.write_all(&frame(FIN | TEXT, br#"{"Room":"tea","Message":"/channels"}"#)).unwrap();
    }
    let before = bench.script.turns.get();
    bench.turn_until_idle();
    let turns = bench.script.turns.get() - before;
    assert!(turns > ASKING / 4, "{ASKING} answers of 66 KB in {turns} turns");
}

#[test]
fn the_bytes_of_a_turn_are_bounded_with_many_rooms_too() {
    const ROOMS: usize = 200;
    let config = Config::try_parse_from(["hi"]).unwrap();
    let mut bench = Bench::with_inboxes(config, 1 << 30);
    let mut members: Vec<_> = (0..ROOMS).map(|number| bench.connect(raw(), &format!("room{number}"))).collect();
    bench.turn_until_idle();
    let part = encode::frame(OpCode::Binary, &[7; 60_000]);
    for number in 0..ROOMS {
        bench.room(Namespace::Raw, &format!("room{number}")).publish_raw(&part, &mut Wakes::default());
    }
    bench.turn_until_idle();
    bench.shard.turns();
    for member in &mut members {
        expect(member, &[&part[..]]);
    }
    let most = bench.script.most_bytes.get();
    assert!(most < 3 << 20, "{most} bytes in one turn");
}

#[test]
fn an_answer_does_not_wait_for_members_that_lag() {
    const LAGGING: u32 = 200;
    let config = Config::try_parse_from(["hi"]).unwrap();
    let mut bench = Bench::with_inboxes(config, 1 << 30);
    let mut lagging: Vec<_> = (0..LAGGING)
        .map(|_| {
            let peer = bench.connect(raw(), "live");
            socket2::SockRef::from(bench.newest.as_ref().unwrap()).set_send_buffer_size(16 * 1024).unwrap();
            peer
        })
        .collect();
    let mut asking = bench.connect(chat("ann"), "tea");
    bench.turn_until_idle();
    let live = bench.room(Namespace::Raw, "live");
    let part = encode::frame(OpCode::Binary, &[7; 100_000]);
    for _ in 0..9 {
        live.publish_raw(&part, &mut Wakes::default());
        bench.turn_until_idle();
    }
    // All of them read what has arrived, so that all have room for more at once.
    assert!(lagging.iter_mut().all(|peer| arrived(peer).len() < 9 * part.len()));
    asking.write_all(&frame(FIN | TEXT, br#"{"Room":"tea","Message":"/list"}"#)).unwrap();
    wait_for_input(&bench.ring_wake_up);
    let turns = bench.turns_until_sent(LAGGING);
    assert!(turns <= 3, "the answer waited for {turns} turns");
    expect(&mut asking, &[br#""Message":"ann""#]);
}

#[test]
fn a_connection_that_is_not_read_does_not_time_out() {
    let mut bench = Bench::with(&["--ping-interval", "1s", "--ping-timeout", "1s"]);
    let mut speaking = bench.connect(raw(), "live");
    bench.turn_until_idle();
    let live = bench.room(Namespace::Raw, "live");
    live.set_behind(true);
    speaking.write_all(&frame(FIN | BINARY, b"waits")).unwrap();
    wait_for_input(&bench.ring_wake_up);
    bench.turn_until_idle();
    // Its answers to pings would wait in the socket.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(100));
        bench.shard.tick(Now::read());
        bench.turn_until_idle();
    }
    live.set_behind(false);
    bench.turn_until_idle();
    expect(&mut speaking, &[b"waits"]);
    // Now that it is read again, it has to answer.
    let began = Instant::now();
    while bench.shard.connections() > 0 {
        assert!(began.elapsed() < PATIENCE, "it is silent, and not closed");
        std::thread::sleep(Duration::from_millis(100));
        bench.shard.tick(Now::read());
        bench.turn_until_idle();
    }
}

#[test]
fn many_timeouts_at_once_take_many_turns() {
    const SILENT: usize = 300;
    let mut bench = Bench::with(&["--ping-interval", "1s", "--ping-timeout", "1s"]);
    let _peers: Vec<_> = (0..SILENT).map(|_| bench.connect(raw(), "crowd")).collect();
    bench.turn_until_idle();
    let crowd = bench.room(Namespace::Raw, "crowd");
    let began = Instant::now();
    while crowd.members() > 0 {
        assert!(began.elapsed() < PATIENCE, "{} are silent, and not closed", crowd.members());
        std::thread::sleep(Duration::from_millis(100));
        let (before, turns) = (crowd.members(), bench.script.turns.get());
        bench.shard.tick(Now::read());
        assert_eq!(crowd.members(), before, "a tick ends no connection");
        bench.turn_until_idle();
        let (ended, turns) = (before - crowd.members(), bench.script.turns.get() - turns);
        assert!(ended <= 32 * turns as usize, "{ended} in {turns} turns");
    }
}

#[test]
fn a_large_room_takes_many_turns_and_a_small_one_does_not_wait_for_them() {
    const LARGE: usize = 3500;
    let mut bench = Bench::new();
    let _large: Vec<_> = (0..LARGE).map(|_| bench.connect(raw(), "large")).collect();
    let mut small = bench.connect(raw(), "small");
    bench.turn_until_idle();
    let [large_room, small_room] = ["large", "small"].map(|name| bench.room(Namespace::Raw, name));
    bench.script.sent.borrow_mut().clear();
    large_room.publish_raw(&encode::frame(OpCode::Text, b"to many"), &mut Wakes::default());
    small_room.publish_raw(&encode::frame(OpCode::Text, b"to one"), &mut Wakes::default());
    bench.turn_until_idle();
    let sent = bench.script.sent.borrow();
    let turns: Vec<_> = (0..LARGE as u32).map(|slot| sent[&slot]).collect();
    let (first, last) = (turns.iter().min().unwrap(), turns.iter().max().unwrap());
    assert!(last - first >= 3, "{LARGE} members in turns {first} to {last}");
    assert_eq!(sent[&(LARGE as u32)], *first);
    expect(&mut small, &[b"to one"]);
}

#[test]
fn a_leave_during_the_visits_makes_no_other_member_miss_one() {
    const MEMBERS: usize = 1500;
    let mut bench = Bench::new();
    let mut members: Vec<_> = (0..MEMBERS).map(|_| Some(bench.connect(raw(), "large"))).collect();
    bench.turn_until_idle();
    let large = bench.room(Namespace::Raw, "large");
    let mut random = fastrand::Rng::with_seed(7);
    let messages = 40u32;
    for message in 1..=messages {
        large.publish_raw(&encode::frame(OpCode::Binary, &message.to_be_bytes()), &mut Wakes::default());
        bench.shard.turns();
        for _ in 0..10 {
            members[random.usize(..MEMBERS)] = None;
        }
    }
    bench.turn_until_idle();
    let all: Vec<u8> =
        (1..=messages).flat_map(|message| encode::frame(OpCode::Binary, &message.to_be_bytes())).collect();
    let mut stayed = 0;
    for member in members.iter_mut().flatten() {
        expect(member, &[&all]);
        stayed += 1;
    }
    assert!((MEMBERS - 400..MEMBERS).contains(&stayed), "{stayed}");
}

#[test]
fn members_are_told_at_once_what_a_full_inbox_dropped() {
    let config = Config::try_parse_from(["hi"]).unwrap();
    let mut bench = Bench::with_inboxes(config, 4096);
    let mut ann = bench.connect(chat("ann"), "tea");
    bench.turn_until_idle();
    expect(&mut ann, &[b"Welcome to tea, ann!"]);
    let tea = bench.room(Namespace::Chat, "tea");
    let text = "x".repeat(200);
    let far = Name::user("far").unwrap();
    let say = |text: &str| match tea.publish_chat(&Speaker::Member(&far), text, Time::default(), &mut Wakes::default())
    {
        Ok(Published::Placed(seq)) => seq,
        other => panic!("{other:?}"),
    };
    let last = (0..100).fold(0, |_, _| say(&text));
    assert!(bench.registry.inboxes()[0].dropped() > 50);
    bench.turn_until_idle();
    expect(&mut ann, &[format!("\"ToSeq\":{last}").as_bytes()]);
    ann.set_nonblocking(true).unwrap();
    // The messages that follow come after the gap.
    let next = say("here again");
    bench.turn_until_idle();
    expect(&mut ann, &[b"here again", format!("\"Seq\":{next}").as_bytes()]);
}

#[test]
fn a_sleeping_shard_is_woken_when_a_full_socket_is_writable_again() {
    let mut bench = Bench::new();
    let mut slow = bench.connect(raw(), "live");
    bench.turn_until_idle();
    let live = bench.room(Namespace::Raw, "live");
    socket2::SockRef::from(bench.newest.as_ref().unwrap()).set_send_buffer_size(16 * 1024).unwrap();
    // More than both sockets can take before the peer reads, and less than a log keeps.
    let part = encode::frame(OpCode::Binary, &[7; 100_000]);
    let bytes = 9 * part.len();
    for _ in 0..9 {
        live.publish_raw(&part, &mut Wakes::default());
        bench.turn_until_asleep();
    }
    take_signal(&bench.ring_wake_up);
    let mut received = arrived(&mut slow).len();
    assert!(received < bytes, "the sockets took everything");
    while received < bytes {
        // Only the ring wakes the shard: no timer runs here.
        wait_for_input(&bench.ring_wake_up);
        take_signal(&bench.ring_wake_up);
        bench.turn_until_asleep();
        received += arrived(&mut slow).len();
    }
}

#[test]
fn a_message_to_a_room_that_is_behind_waits_without_costing_turns() {
    let mut bench = Bench::new();
    let mut ann = bench.connect(chat("ann"), "tea");
    let mut speaking = bench.connect(raw(), "live");
    bench.turn_until_idle();
    expect(&mut ann, &[b"Welcome to tea, ann!"]);
    ann.set_nonblocking(true).unwrap();
    let rooms = [bench.room(Namespace::Chat, "tea"), bench.room(Namespace::Raw, "live")];
    let before = rooms.each_ref().map(|room| room.last_seq());
    rooms.iter().for_each(|room| room.set_behind(true));
    ann.write_all(&frame(FIN | TEXT, br#"{"Room":"tea","Message":"waits"}"#)).unwrap();
    ann.write_all(&frame(FIN | TEXT, br#"{"Room":"tea","Message":"and this"}"#)).unwrap();
    speaking.write_all(&frame(FIN | BINARY, b"waits, too")).unwrap();
    wait_for_input(&bench.ring_wake_up);
    bench.turn_until_idle();
    assert_eq!(rooms.each_ref().map(|room| room.last_seq()), before);
    assert!(!bench.shard.turns(), "a waiting connection costs no turns");
    rooms.iter().for_each(|room| room.set_behind(false));
    bench.registry.inboxes()[1].pressure().released(bench.registry.inboxes());
    assert!(take_signal(&bench.inbox_wake_up), "the shard is woken when the rooms have caught up");
    bench.turn_until_idle();
    expect(&mut ann, &[b"\"waits\"", b"\"and this\""]);
    expect(&mut speaking, &[b"waits, too"]);
    assert_eq!(rooms.each_ref().map(|room| room.last_seq()), [before[0] + 2, before[1] + 1]);
}
