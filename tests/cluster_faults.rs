//! Several servers that share their rooms, when the servers of their log fail: what members are told, and what is kept.

#[path = "support/broker.rs"]
mod broker;
mod support;

use std::time::{Duration, Instant};

use broker::Broker;
use rustix::process::Signal;
use serde_json::{Value, json};
use support::{Client, PATIENCE, Server, hi, run};

fn node(broker: &Broker, further: &[&str]) -> Server {
    let url = broker.url();
    Server::start(&[&["--cluster", &url, "--internal", "127.0.0.1:0"], further].concat())
}

/// The next frame with this event.
fn event(member: &mut Client, event: &str) -> Value {
    let began = Instant::now();
    loop {
        let frame = member.json();
        if frame["Event"] == event {
            return frame;
        }
        assert!(began.elapsed() < PATIENCE, "no {event}");
    }
}

/// The check of `/readyz` that is about the others.
fn cluster_check(node: &Server) -> Value {
    let (_, ready) = node.internal().get("/readyz");
    let checks = ready["checks"].as_array().unwrap_or_else(|| panic!("{ready}"));
    checks.iter().find(|check| check["name"] == "cluster").unwrap_or_else(|| panic!("{ready}")).clone()
}

#[test]
fn members_are_told_that_the_log_is_away_and_what_they_say_meanwhile_arrives_when_it_is_back() {
    let mut broker = Broker::start();
    let nodes = [node(&broker, &[]), node(&broker, &[])];
    let (mut ann, _) = nodes[0].join_v1("ann", "tea");
    let mut bob = nodes[1].join_quietly("bob", "tea");
    assert_eq!(cluster_check(&nodes[0])["ok"], true);
    nodes[0].internal().wait_for_metric("hi_cluster_nodes", 2.0);
    broker.kill();
    bob.say("tea", "anybody?");
    event(&mut ann, "away");
    event(&mut bob, "away");
    let check = cluster_check(&nodes[0]);
    assert_eq!((&check["ok"], &check["decides"]), (&json!(false), &json!(false)), "not for long yet: {check}");
    assert_eq!(nodes[0].internal().metric("hi_cluster_up"), 0.0);
    broker.restart();
    event(&mut bob, "back");
    while ann.json()["Message"] != "anybody?" {}
    nodes[0].internal().wait_for_metric("hi_cluster_up", 1.0);
    assert_eq!(nodes[0].internal().metric("hi_cluster_reconnects_total"), 1.0);
    assert!(nodes[0].internal().metric("hi_cluster_away_seconds_total") > 0.0);
    assert_eq!(ann.publish("tea", "here")["Op"], "ok");
}

#[test]
fn a_log_that_lives_and_does_not_answer_is_away_and_loses_nothing() {
    let broker = Broker::start();
    // Long enough to find out twice that it doesn't answer.
    let options = ["--cluster-timeout", "30s"];
    let nodes = [node(&broker, &options), node(&broker, &options)];
    let (mut ann, _) = nodes[0].join_v1("ann", "tea");
    let (mut bob, _) = nodes[1].join_v1("bob", "tea");
    broker.pause();
    ann.send_text(&json!({"Op": "pub", "Ref": 1, "Room": "tea", "Message": "one"}).to_string());
    event(&mut ann, "away");
    event(&mut bob, "away");
    broker.go_on();
    event(&mut bob, "back");
    assert_eq!(bob.publish("tea", "two")["Op"], "ok");
    // What is behind it in the order of its publisher.
    ann.send_text(&json!({"Op": "pub", "Ref": 2, "Room": "tea", "Message": "three"}).to_string());
    let mut seen = Vec::new();
    while !seen.contains(&"three".to_owned()) {
        seen.push(ann.json()["Message"].as_str().unwrap_or_default().to_owned());
    }
    assert_eq!(seen.iter().filter(|text| *text == "one").count(), 1, "{seen:?}");
}

#[test]
fn a_name_that_was_claimed_too_late_is_free() {
    let broker = Broker::start();
    let options = ["--cluster-timeout", "30s"];
    let nodes = [node(&broker, &options), node(&broker, &options)];
    let (mut ann, _) = nodes[0].join_v1("ann", "tea");
    let (mut bob, _) = nodes[1].join_v1("bob", "tea");
    let names = || broker.stream("names").map_or(0, |info| info["state"]["last_seq"].as_u64().unwrap());
    let before = names();
    broker.pause();
    let (mut cid, _) = nodes[0].v1("username=cid");
    let refused = cid.answer_to(&json!({"Op": "join", "Ref": 1, "Room": "tea"}));
    assert_eq!(refused["Code"], "unavailable", "{refused}");
    broker.go_on();
    let began = Instant::now();
    while names() < before + 2 {
        assert!(began.elapsed() < PATIENCE, "the claim and its end are not written");
        std::thread::sleep(Duration::from_millis(20));
    }
    for member in [&mut ann, &mut bob] {
        member.wait_for_users("tea", &["ann", "bob"]);
    }
}

#[test]
fn what_can_t_be_published_in_time_is_refused() {
    let mut broker = Broker::start();
    let node = node(&broker, &["--cluster-timeout", "1s"]);
    let ((mut ann, _), mut bob) = (node.join_v1("ann", "tea"), node.join_quietly("bob", "tea"));
    broker.kill();
    let answer = ann.publish("tea", "one");
    assert_eq!(
        (&answer["Op"], &answer["Code"], &answer["Temporary"]),
        (&json!("err"), &json!("unavailable"), &json!(true))
    );
    bob.say("tea", "two");
    let refused = event_or_text(&mut bob, "may not have been delivered");
    assert_eq!(refused["From"], "hi", "{refused}");
    let (status, body) = node.internal().post("/api/publish", &json!({"room": "tea", "message": "three"}));
    assert_eq!((status, &body["error"]["code"]), (503, &json!("unavailable")), "{body}");
    assert!(node.internal().metric("hi_cluster_published_total{outcome=\"unavailable\"}") >= 3.0);
    broker.restart();
    while ann.publish("tea", "four")["Op"] != "ok" {}
}

fn event_or_text(member: &mut Client, part: &str) -> Value {
    loop {
        let frame = member.json();
        if frame["Message"].as_str().is_some_and(|text| text.contains(part)) {
            return frame;
        }
    }
}

#[test]
fn members_of_a_log_that_has_lost_its_memory_go_on_and_are_told_that_they_may_have_missed_something() {
    let mut broker = Broker::start();
    let in_memory = ["--cluster-storage", "memory", "--cluster-bytes", "128m"];
    let nodes = [node(&broker, &in_memory), node(&broker, &in_memory)];
    let (mut ann, joined) = nodes[0].join_v1("ann", "tea");
    let (mut bob, _) = nodes[1].join_v1("bob", "tea");
    let mut cid = nodes[1].join_quietly("cid", "tea");
    let mut listener = nodes[1].listen("tea", None).opened();
    for text in ["one", "two", "three"] {
        assert_eq!(ann.publish("tea", text)["Op"], "ok");
    }
    for member in [&mut bob, &mut cid] {
        event_or_text(member, "three");
    }
    while listener.message()["Message"] != "three" {}
    broker.kill();
    broker.restart();
    for member in [&mut ann, &mut bob, &mut cid] {
        let gap = event(member, "gap");
        assert!(gap["Epoch"] != joined["Epoch"] && gap["FromSeq"].is_null(), "{gap}");
    }
    let answer = ann.publish("tea", "four");
    assert!(answer["Op"] == "ok" && answer["Epoch"] != joined["Epoch"], "{answer}");
    for member in [&mut bob, &mut cid] {
        let heard = event_or_text(member, "four");
        assert_eq!((&heard["Seq"], &heard["Epoch"]), (&answer["Seq"], &answer["Epoch"]), "{heard}");
    }
    assert_eq!(listener.gap()["Epoch"], answer["Epoch"]);
    while listener.message()["Message"] != "four" {}
    // Their names are written again, and nobody else gets them.
    for member in [&mut ann, &mut bob] {
        member.wait_for_users("tea", &["ann", "bob", "cid"]);
    }
    let began = Instant::now();
    loop {
        let (mut other, _) = nodes[0].v1("username=bob");
        let refused = other.ask(&json!({"Op": "join", "Ref": 1, "Room": "tea"}));
        assert_eq!(refused["Code"], "name_taken", "{refused}");
        if began.elapsed() > Duration::from_millis(300) {
            break;
        }
    }
}

/// A server that doesn't read is cut off by the log, and gets everything when it reads again.
#[test]
fn a_server_that_is_too_slow_for_the_log_misses_nothing() {
    let broker = Broker::start_with("max_pending: 1MB\nwrite_deadline: \"1s\"\n");
    let nodes =
        [node(&broker, &["--max-message", "48k", "--rate-limit", "0"]), node(&broker, &["--backlog-bytes", "64m"])];
    let (mut ann, _) = nodes[0].join_v1("ann", "tea");
    let (mut bob, _) = nodes[1].join_v1("bob", "tea");
    assert_eq!(ann.publish("tea", "before")["Op"], "ok");
    event_or_text(&mut bob, "before");
    nodes[1].signal(Signal::STOP);
    let long = "x".repeat(15_000);
    for number in 0..600 {
        assert_eq!(ann.publish("tea", &format!("{number} {long}"))["Op"], "ok");
    }
    broker.wait_for_log("Slow Consumer");
    nodes[1].signal(Signal::CONT);
    for number in 0..600 {
        let frame = std::iter::repeat_with(|| bob.json())
            .find(|frame| frame["From"] == "ann" || frame["Event"] == "gap")
            .unwrap();
        let text = frame["Message"].as_str().unwrap_or_default();
        assert!(text.starts_with(&format!("{number} ")), "{number}: {}", &frame.to_string()[..100]);
    }
}

#[test]
fn what_the_log_refuses_is_told_at_once_and_the_reason_is_logged() {
    let broker = Broker::start();
    let server = node(&broker, &[]);
    let (mut ann, _) = server.join_v1("ann", "tea");
    assert_eq!(ann.publish("tea", "short")["Op"], "ok");
    broker.change("chat", "max_msg_size", json!(400));
    let answer = ann.publish("tea", &"long".repeat(100));
    assert_eq!((&answer["Op"], &answer["Code"]), (&json!("err"), &json!("unavailable")), "{answer}");
    assert_eq!(server.internal().metric("hi_cluster_published_total{outcome=\"refused\"}"), 1.0);
    server.wait_for_log(
        "NATS has not stored a message: message size exceeds maximum allowed; its publisher is told (--cluster)",
    );
    assert_eq!(ann.publish("tea", "again")["Op"], "ok");
}

#[test]
fn a_room_that_the_log_refuses_to_begin_is_there_as_soon_as_it_does_not() {
    let broker = Broker::start();
    let server = node(&broker, &[]);
    broker.change("chat", "max_msg_size", json!(100));
    let (mut ann, _) = server.v1("username=ann");
    ann.send_text(&json!({"Op": "join", "Ref": "join", "Room": "tea"}).to_string());
    server.wait_for_log(
        "NATS has not stored a message: message size exceeds maximum allowed; it is sent again (--cluster)",
    );
    broker.change("chat", "max_msg_size", json!(-1));
    assert_eq!(ann.json()["Op"], "ok");
}

#[test]
fn a_log_with_other_settings_is_not_used() {
    let broker = Broker::start();
    let _node = node(&broker, &[]);
    let mut command = hi();
    let url = broker.url();
    command.args(["--listen", "127.0.0.1:0", "--cluster", &url, "--cluster-room-memory", "2h"]);
    let output = run(command);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && said.contains("other settings"), "{said}");
}

#[test]
fn a_server_of_the_log_that_is_too_old_is_not_used() {
    // The oldest that counts is 2.12; one before it takes the settings, and ignores what it doesn't know.
    let broker = Broker::start_version("2.11.11");
    let mut command = hi();
    command.args(["--listen", "127.0.0.1:0", "--cluster", &broker.url()]);
    let output = run(command);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let sentence = "is nats-server 2.11.11, and --cluster needs 2.12 or newer: update it";
    assert!(output.status.code() == Some(2) && said.contains(sentence), "{said}");
}
