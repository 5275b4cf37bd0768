//! Several servers that share their rooms: when a room begins a new life, of which its members are told with a `gap`, and when its
//! life goes on.

#[path = "support/broker.rs"]
mod broker;
#[path = "support/relay.rs"]
mod relay;
mod support;

use std::time::{Duration, Instant};

use broker::Broker;
use relay::{Relay, Way};
use rustix::process::Signal;
use serde_json::{Value, json};
use support::{Client, PATIENCE, Server, wait_for};

fn node(url: &str, further: &[&str]) -> Server {
    Server::start(&[&["--cluster", url, "--internal", "127.0.0.1:0", "--rate-limit", "0"], further].concat())
}

/// The next frame of which this is true.
fn next(member: &mut Client, is_meant: impl Fn(&Value) -> bool) -> Value {
    let began = Instant::now();
    loop {
        let frame = member.json();
        if is_meant(&frame) {
            return frame;
        }
        assert!(began.elapsed() < PATIENCE, "the last one: {frame}");
    }
}

fn next_gap(member: &mut Client) -> Value {
    next(member, |frame| frame["Event"] == "gap")
}

/// How often the lives of rooms that somebody was in have ended.
fn lives(nodes: &[Server]) -> Vec<f64> {
    nodes.iter().map(|node| node.internal().metric("hi_cluster_lives_total")).collect()
}

/// Each of them has found it empty, and one is slow to say so.
#[test]
fn a_room_that_two_servers_open_at_once_begins_one_life() {
    let broker = Broker::start();
    let relay = Relay::start(broker.port());
    let nodes = [node(&broker.url(), &[]), node(&relay.url(), &[])];
    relay.hold_from(Way::ToLog, "H: 1;e;");
    let (mut bob, _) = nodes[1].v1("username=bob");
    bob.send_text(&json!({"Op": "join", "Ref": "join", "Room": "tea"}).to_string());
    wait_for(&true, || relay.holds(Way::ToLog));
    let (mut ann, _) = nodes[0].join_v1("ann", "tea");
    let first = ann.publish("tea", "first");
    relay.let_go();
    let joined = next(&mut bob, |frame| frame["Ref"] == "join");
    assert_eq!((&joined["Op"], &joined["Epoch"]), (&json!("ok"), &first["Epoch"]), "{joined}");
    let second = bob.publish("tea", "second");
    assert_eq!(second["Epoch"], first["Epoch"]);
    next(&mut ann, |frame| frame["Message"] == "second");
    assert_eq!(lives(&nodes), [0.0; 2]);
}

/// Waits until the log, which keeps what is written for four seconds, has forgotten twice what was.
fn outlive_the_log(broker: &Broker) {
    let stored = || broker.stream("chat").map(|info| info["state"]["first_seq"].as_u64());
    let at_first = stored();
    let began = Instant::now();
    while stored() == at_first || began.elapsed() < Duration::from_secs(9) {
        assert!(began.elapsed() < PATIENCE, "nothing is forgotten");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// It was found empty before the server was stopped, and for longer than the log knows which life has begun.
#[test]
fn a_server_that_was_stopped_while_it_opened_a_room_goes_on_with_the_life_that_others_have_begun() {
    let broker = Broker::start();
    let relay = Relay::start(broker.port());
    // The log knows for four seconds which records it has stored.
    let options = ["--cluster-room-memory", "4s", "--replay-age", "4s"];
    let nodes = [node(&broker.url(), &options), node(&relay.url(), &options)];
    let (mut bob, _) = nodes[1].v1("username=bob");
    relay.hold_from(Way::FromLog, "no message found");
    bob.send_text(&json!({"Op": "join", "Ref": "join", "Room": "tea"}).to_string());
    wait_for(&true, || relay.holds(Way::FromLog));
    nodes[1].signal(Signal::STOP);
    relay.let_go();
    let (mut ann, _) = nodes[0].join_v1("ann", "tea");
    let first = ann.publish("tea", "first");
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(6) {
        assert_eq!(ann.publish("tea", "meanwhile")["Epoch"], first["Epoch"]);
        std::thread::sleep(Duration::from_millis(100));
    }
    nodes[1].signal(Signal::CONT);
    let joined = next(&mut bob, |frame| frame["Ref"] == "join");
    assert_eq!((&joined["Op"], &joined["Epoch"]), (&json!("ok"), &first["Epoch"]), "{joined}");
    assert_eq!(bob.publish("tea", "last")["Epoch"], first["Epoch"]);
    next(&mut ann, |frame| frame["Message"] == "last");
    assert_eq!(lives(&nodes), [0.0; 2]);
}

/// All that the log has of it is what keeps its count alive.
#[test]
fn a_silent_room_goes_on_at_a_server_that_has_not_followed_it() {
    let broker = Broker::start();
    let options = ["--replay-age", "1s", "--cluster-room-memory", "4s"];
    let silent = node(&broker.url(), &options);
    let (mut ann, _) = silent.join_v1("ann", "tea");
    let first = ann.publish("tea", "first");
    outlive_the_log(&broker);
    let cold = node(&broker.url(), &options);
    let (mut bob, _) = cold.join_v1("bob", "tea");
    let second = bob.publish("tea", "second");
    assert_eq!(second["Epoch"], first["Epoch"]);
    next(&mut ann, |frame| frame["Message"] == "second");
    assert_eq!(silent.internal().metric("hi_cluster_lives_total"), 0.0);
}

#[test]
fn a_silent_room_outlives_the_time_for_which_the_log_keeps_it() {
    let broker = Broker::start();
    let options = ["--replay-age", "1s", "--cluster-room-memory", "4s"];
    let nodes = [node(&broker.url(), &options), node(&broker.url(), &options)];
    let (mut ann, _) = nodes[0].join_v1("ann", "tea");
    let (mut bob, _) = nodes[1].join_v1("bob", "tea");
    let first = bob.publish("tea", "first");
    outlive_the_log(&broker);
    let second = ann.publish("tea", "second");
    assert_eq!(second["Epoch"], first["Epoch"]);
    assert_eq!(second["Seq"].as_u64(), first["Seq"].as_u64().map(|seq| seq + 1));
    assert_eq!(nodes[0].internal().metric("hi_cluster_lives_total"), 0.0);
}

/// The log has no room for all rooms: one that is quiet loses its numbers, and its members are told.
#[test]
fn a_quiet_room_whose_messages_had_to_go_begins_a_new_life() {
    let broker = Broker::start();
    let small = ["--cluster-bytes", "16m", "--max-message", "48k"];
    let nodes = [node(&broker.url(), &small), node(&broker.url(), &small)];
    let (mut ann, joined) = nodes[0].join_v1("ann", "tea");
    let (mut bob, _) = nodes[1].join_v1("bob", "tea");
    assert_eq!(ann.publish("tea", "before")["Op"], "ok");
    next(&mut bob, |frame| frame["Message"] == "before");
    let mut cid = nodes[0].join_quietly("cid", "milk");
    let oldest = || broker.stream("chat").and_then(|info| info["state"]["first_seq"].as_u64()).unwrap_or_default();
    let long = "x".repeat(45_000);
    while oldest() < 12 {
        cid.say("milk", &long);
        next(&mut cid, |frame| frame["Message"] == *long);
    }
    let (status, answer) = nodes[1].internal().post("/api/publish", &json!({"room": "tea", "message": "after"}));
    assert!(status == 200 && answer["epoch"] != joined["Epoch"], "{answer}");
    for member in [&mut ann, &mut bob] {
        let gap = next_gap(member);
        assert!(gap["Epoch"] == answer["epoch"] && gap["FromSeq"].is_null(), "{gap}");
        let after = next(member, |frame| frame["Message"] == "after");
        assert_eq!(after["Seq"], answer["seq"]);
    }
    assert_eq!(lives(&nodes), [1.0; 2]);
}

/// As the error says about one with other settings: the servers that still run go on with the new one.
#[test]
fn streams_that_somebody_removes_are_made_again_and_nobody_loses_a_name() {
    let broker = Broker::start();
    // They look every half second.
    let options = ["--cluster-room-memory", "4s", "--replay-age", "4s", "--cluster-timeout", "2s"];
    let nodes = [node(&broker.url(), &options), node(&broker.url(), &options)];
    let (mut ann, joined) = nodes[0].join_v1("ann", "tea");
    let (mut bob, _) = nodes[1].join_v1("bob", "tea");
    assert_eq!(bob.publish("tea", "before")["Op"], "ok");
    broker::STREAMS.iter().for_each(|stream| broker.remove(stream));
    let began = Instant::now();
    let answer = loop {
        let answer = ann.publish("tea", "after");
        if answer["Op"] == "ok" {
            break answer;
        }
        assert!(answer["Code"] == "unavailable" && began.elapsed() < PATIENCE, "{answer}");
    };
    assert_ne!(answer["Epoch"], joined["Epoch"], "its numbers begin anew: {answer}");
    next(&mut bob, |frame| frame["Message"] == "after");
    for (server, other) in [(&nodes[0], "bob"), (&nodes[1], "ann")] {
        let (mut thief, _) = server.v1(&format!("username={other}"));
        assert_eq!(thief.ask(&json!({"Op": "join", "Ref": 1, "Room": "tea"}))["Code"], "name_taken");
    }
    for member in [&mut ann, &mut bob] {
        member.wait_for_users("tea", &["ann", "bob"]);
    }
}

/// Each server notices by itself that the stream is another one, and the last may do so when the others have begun anew.
#[test]
fn a_stream_that_somebody_removes_ends_one_life_of_each_room() {
    let broker = Broker::start();
    // They look every half second.
    let options = ["--cluster-room-memory", "4s", "--replay-age", "4s", "--cluster-timeout", "2s"];
    let nodes = [(); 3].map(|()| node(&broker.url(), &options));
    let mut members = [("ann", 0), ("bob", 1), ("cid", 2)].map(|(user, node)| nodes[node].join_v1(user, "tea").0);
    for round in [1.0, 2.0, 3.0] {
        broker.remove("chat");
        nodes.iter().for_each(|node| node.internal().wait_for_metric("hi_cluster_reconnects_total", round));
        let began = Instant::now();
        for member in &mut members {
            // Its server has loaded the room by then.
            while member.publish("tea", "again")["Op"] != "ok" {
                assert!(began.elapsed() < PATIENCE, "it is not made again");
            }
        }
        assert_eq!(lives(&nodes), [round; 3]);
    }
}

/// The log still knows that the life of the room has begun, and refuses to have it begun again.
#[test]
fn a_room_whose_records_somebody_removes_begins_anew() {
    let broker = Broker::start();
    let nodes = [node(&broker.url(), &[]), node(&broker.url(), &[])];
    let (mut ann, _) = nodes[0].join_v1("ann", "tea");
    let first = ann.publish("tea", "first");
    broker.purge("chat");
    let (mut bob, _) = nodes[1].join_v1("bob", "tea");
    let second = bob.publish("tea", "second");
    assert_eq!(second["Op"], "ok", "{second}");
    assert_ne!(second["Epoch"], first["Epoch"]);
    next_gap(&mut ann);
    next(&mut ann, |frame| frame["Message"] == "second");
}
