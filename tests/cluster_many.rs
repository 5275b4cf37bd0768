//! Several servers that share many rooms: those of a bundle are read by one subscription, and those that are wanted at the same time
//! are loaded together.

#[path = "support/broker.rs"]
mod broker;
mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use broker::Broker;
use serde_json::{Value, json};
use support::{Client, Server};

/// Waiting longer than this for a server is a failure.
const SOON: Duration = Duration::from_secs(20);

fn node(broker: &Broker, further: &[&str]) -> Server {
    let url = broker.url();
    let args = ["--internal", "127.0.0.1:0", "--rate-limit", "0", "--max-per-address", "0", "--max-rooms", "500"];
    Server::start(&[&["--cluster", &url][..], &args, further].concat())
}

/// Names of rooms that are in one bundle: NATS and hi compute the same hash of their tokens.
fn rooms_of_one_bundle(count: usize) -> Vec<String> {
    let bundle = |room: &str| {
        let token = BASE64_URL_SAFE_NO_PAD.encode(room);
        token.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)) % 256
    };
    let names = (0..).map(|number| format!("room{number}"));
    names.filter(|name| bundle(name) == bundle("room0")).take(count).collect()
}

/// Publishes a message and waits until it has its number.
fn publish(server: &Server, room: &str, text: &str) {
    let (status, answer) = server.internal().post("/api/publish", &json!({"room": room, "message": text}));
    assert_eq!(status, 200, "{answer}");
}

/// Reads what a program has published in a room, until it is this text.
fn read_until(member: &mut Client, last: &str) -> Vec<String> {
    let mut texts = Vec::new();
    while texts.last().is_none_or(|text| text != last) {
        let message = member.json();
        let is_notice = message["Message"].as_str().is_some_and(|text| text.starts_with("Welcome to"));
        texts.extend((!is_notice).then(|| message["Message"].as_str().expect("a message").to_owned()));
    }
    texts
}

/// Waits until NATS has no more of them: a server gives one up when it has begun to read by another.
fn wait_for_subscriptions(broker: &Broker, at_most: u64) {
    let began = Instant::now();
    while broker.subscriptions() > at_most {
        assert!(began.elapsed() < SOON, "{} subscriptions instead of {at_most}", broker.subscriptions());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Joins a room, whatever is announced meanwhile; returns the answer.
fn join(client: &mut Client, room: &str) -> Value {
    client.send_text(&json!({"Op": "join", "Ref": room, "Room": room}).to_string());
    loop {
        let answer = client.json();
        if answer["Ref"] == room {
            assert_eq!(answer["Op"], "ok", "{answer}");
            return answer;
        }
    }
}

#[test]
fn rooms_of_one_bundle_share_a_subscription_and_nobody_misses_a_message() {
    let broker = Broker::start();
    let nodes = [node(&broker, &["--replay-age", "1s"]), node(&broker, &["--replay-age", "1s"])];
    let rooms = rooms_of_one_bundle(24);
    let before = broker.subscriptions();
    let done = AtomicBool::new(false);
    // Published on the other server while the bundle is formed: it has no members there.
    let (mut members, published) = std::thread::scope(|scope| {
        let mut members = vec![nodes[0].join_quietly("m0", &rooms[0])];
        let publishing = scope.spawn(|| {
            let mut published = 0;
            while !done.load(Ordering::SeqCst) {
                publish(&nodes[1], &rooms[0], &published.to_string());
                published += 1;
            }
            published
        });
        let others =
            rooms[1..].iter().zip(1..).map(|(room, number)| nodes[0].join_quietly(&format!("m{number}"), room));
        members.extend(others);
        done.store(true, Ordering::SeqCst);
        (members, publishing.join().unwrap())
    });
    publish(&nodes[1], &rooms[0], "last");
    let expected: Vec<String> = (0..published).map(|number| number.to_string()).chain(["last".to_owned()]).collect();
    assert!(published > 0);
    assert_eq!(read_until(&mut members[0], "last"), expected);
    for (member, room) in members.iter_mut().zip(&rooms).skip(1) {
        publish(&nodes[1], room, "hello");
        assert_eq!(read_until(member, "hello"), ["hello"], "{room}");
    }
    wait_for_subscriptions(&broker, before + 4);
    drop(members);
    nodes.iter().for_each(|node| node.internal().wait_for_metric("hi_cluster_followed_rooms", 0.0));
    // One of each server stays, for the answers to its questions.
    wait_for_subscriptions(&broker, before + 2);
}

#[test]
fn a_bundle_that_brings_mostly_messages_of_other_rooms_is_given_up() {
    const MESSAGES: usize = 400;
    let broker = Broker::start();
    let nodes = [node(&broker, &[]), node(&broker, &[])];
    let rooms = rooms_of_one_bundle(9);
    let (busy, quiet) = rooms.split_last().unwrap();
    let mut members: Vec<Client> = quiet.iter().map(|room| nodes[0].join_quietly("ann", room)).collect();
    let mut talker = nodes[1].join_quietly("bob", busy);
    let mut talk = |text: &str| {
        for number in 0..MESSAGES {
            talker.say(busy, &number.to_string());
        }
        read_until(&mut talker, &(MESSAGES - 1).to_string());
        for (member, room) in members.iter_mut().zip(quiet) {
            publish(&nodes[1], room, text);
            assert_eq!(read_until(member, text), [text], "{room}");
        }
    };
    talk("hello");
    let unwanted = nodes[0].internal().metric("hi_cluster_unwanted_records_total");
    assert!((1.0..MESSAGES as f64 / 2.0).contains(&unwanted), "{unwanted} of {MESSAGES}");
    // Now they are read one by one.
    talk("again");
    assert_eq!(nodes[0].internal().metric("hi_cluster_unwanted_records_total"), unwanted);
}

#[test]
fn rooms_that_are_wanted_at_once_are_loaded_with_all_that_was_said_there() {
    const ROOMS: usize = 300;
    let broker = Broker::start();
    let nodes = [node(&broker, &[]), node(&broker, &[])];
    let (mut ann, _) = nodes[0].v1("username=ann");
    let joined: Vec<Value> = (0..ROOMS).map(|number| join(&mut ann, &format!("room{number}"))).collect();
    for text in ["one", "two", "three"] {
        for number in 0..ROOMS {
            publish(&nodes[0], &format!("room{number}"), text);
        }
    }
    let mut clients: Vec<Client> = (0..ROOMS).map(|number| nodes[1].v1(&format!("username=u{number}")).0).collect();
    // So that all of them wait.
    broker.pause();
    for (number, client) in clients.iter_mut().enumerate() {
        let since = json!({"Epoch": joined[number]["Epoch"], "Seq": 0});
        let join = json!({"Op": "join", "Ref": 0, "Room": format!("room{number}"), "Since": since});
        client.send_text(&join.to_string());
    }
    nodes[1].internal().wait_for_metric("hi_cluster_followed_rooms", ROOMS as f64);
    broker.go_on();
    for (number, client) in clients.iter_mut().enumerate() {
        let mut said = Vec::new();
        let mut answer = Value::Null;
        while said.len() < 3 || answer.is_null() {
            let message = client.json();
            assert_ne!(message["Op"], "err", "{message}");
            if message["Op"] == "ok" {
                answer = message;
            } else if let Some(text) = message["Message"].as_str().filter(|text| !text.starts_with("Welcome")) {
                said.push((message["Seq"].as_u64().unwrap(), text.to_owned()));
            }
        }
        assert_eq!(answer["Recovered"], true, "{answer}");
        assert_eq!(answer["Epoch"], joined[number]["Epoch"], "{answer}");
        let texts: Vec<&str> = said.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(texts, ["one", "two", "three"]);
        assert!(said.is_sorted() && said[2].0 - said[0].0 == 2, "{said:?}");
    }
}
