//! Several servers that share their rooms: a client that has lost its connection takes its name over on another server.

#[path = "support/broker.rs"]
mod broker;
mod support;

use broker::Broker;
use serde_json::{Value, json};
use support::{Client, Server};
use tungstenite::Message;

fn node(broker: &Broker, further: &[&str]) -> Server {
    let url = broker.url();
    Server::start(&[&["--cluster", &url, "--internal", "127.0.0.1:0"], further].concat())
}

fn resume(hello: &Value) -> &str {
    hello["Resume"].as_str().expect("a secret")
}

/// A client of this server with the secret of a lost connection, in the room tea from the start.
fn again(server: &Server, hello: &Value) -> (Client, Value) {
    server.v1(&format!("username=ann&room=tea&resume={}", resume(hello)))
}

/// A witness and ann in the room tea, whose notices they have seen; with ann's hello.
fn members(witness: &Server, ann: &Server) -> (Client, Client, Value) {
    let (mut witness, _) = witness.join_v1("witness", "tea");
    witness.expect_message("#tea", "Welcome to tea, witness!");
    let (mut ann, hello) = ann.v1("username=ann&room=tea");
    for client in [&mut ann, &mut witness] {
        client.expect_message("#tea", "Welcome to tea, ann!");
    }
    (witness, ann, hello)
}

/// The client is told that its user has reconnected.
fn expect_taken_over(client: &mut Client) {
    while !matches!(client.next(), Message::Close(Some(close)) if u16::from(close.code) == 4003) {}
}

#[test]
fn a_connection_is_taken_over_on_another_server_as_if_it_had_never_left() {
    let broker = Broker::start();
    let nodes = [node(&broker, &[]), node(&broker, &[]), node(&broker, &[])];
    let (mut witness, mut ann, mut hello) = members(&nodes[0], &nodes[1]);
    // Not only in the rooms that the new connection joins.
    ann.ask(&json!({"Op": "join", "Ref": 1, "Room": "milk"}));
    let mut milk = nodes[0].join_quietly("judge", "milk");
    ann.wait_for_users("milk", &["ann", "judge"]);
    for round in 0..6 {
        let (mut next, next_hello) = again(&nodes[(round + 2) % 3], &hello);
        expect_taken_over(&mut ann);
        assert_ne!(next_hello["Resume"], hello["Resume"]);
        witness.say("tea", &format!("round {round}"));
        for client in [&mut witness, &mut next] {
            assert_eq!(client.json()["Message"], format!("round {round}"), "nobody has left or joined");
        }
        assert_eq!(next.users("tea"), ["ann", "witness"]);
        (ann, hello) = (next, next_hello);
    }
    while milk.json()["Message"] != "User ann left channel." {}
    ann.close();
    witness.expect_message("#tea", "User ann left channel.");
}

#[test]
fn a_room_that_is_joined_later_goes_on_after_the_last_message_that_was_seen() {
    let broker = Broker::start();
    let nodes = [node(&broker, &[]), node(&broker, &[])];
    let (mut witness, mut ann, mut hello) = members(&nodes[0], &nodes[1]);
    // Whether the old one ends before the new one joins is a matter of timing; a leave that is told is followed by a join.
    let mut is_there = true;
    for round in 0..6 {
        let text = format!("round {round}");
        witness.say("tea", &text);
        let seen = until(&mut ann, &text).pop().unwrap();
        let (mut next, next_hello) = nodes[round % 2].v1(&format!("username=ann&resume={}", resume(&hello)));
        expect_taken_over(&mut ann);
        let answer = next.join_room("tea", Some(&json!({"Epoch": seen["Epoch"], "Seq": seen["Seq"]})));
        assert_eq!(answer["Recovered"], true, "{answer}");
        witness.say("tea", "next");
        let (heard, due) = (until(&mut next, "next"), until(&mut witness, "next"));
        let after = due.iter().position(|frame| frame["Seq"] == seen["Seq"]).unwrap() + 1;
        assert_eq!(heard, due[after..], "nothing is lost or doubled");
        let last = due.iter().rfind(|frame| !frame["Event"].is_null());
        is_there = last.map_or(is_there, |frame| frame["Event"] == "join");
        (ann, hello) = (next, next_hello);
    }
    while !is_there {
        is_there = witness.json()["Event"] == "join";
    }
    assert_eq!(witness.users("tea"), ["ann", "witness"]);
}

/// What a client gets up to the message with this text.
fn until(client: &mut Client, text: &str) -> Vec<Value> {
    let mut frames = vec![client.json()];
    while frames.last().is_some_and(|frame| frame["Message"] != text) {
        frames.push(client.json());
    }
    frames
}

#[test]
fn the_name_of_a_server_that_was_killed_is_taken_over_at_once() {
    let broker = Broker::start();
    let mut nodes = vec![node(&broker, &[]), node(&broker, &[]), node(&broker, &[])];
    let (mut witness, _lost, hello) = members(&nodes[0], &nodes[2]);
    drop(nodes.pop());
    let (mut ann, _) = again(&nodes[1], &hello);
    ann.say("tea", "here I am");
    for client in [&mut witness, &mut ann] {
        assert_eq!(client.json()["Message"], "here I am", "nobody has left or joined");
    }
    assert_eq!(witness.users("tea"), ["ann", "witness"]);
}

#[test]
fn a_secret_that_these_servers_have_not_issued_is_none() {
    let broker = Broker::start();
    let nodes = [node(&broker, &[]), node(&broker, &[])];
    let others = node(&broker, &["--cluster-name", "others"]);
    let (_witness, mut ann, hello) = members(&nodes[0], &nodes[1]);
    let (_stranger, strangers) = others.v1("username=ann&room=tea");
    let (_thief, thiefs) = nodes[0].v1("username=ann");
    let mut forged = resume(&hello).to_owned();
    let first = if forged.starts_with('A') { "B" } else { "A" };
    forged.replace_range(..1, first);
    for secret in ["", &forged, resume(&strangers), resume(&thiefs)] {
        for node in &nodes {
            let (mut thief, _) = node.v1(&format!("username=ann&resume={secret}"));
            let answer = thief.ask(&json!({"Op": "join", "Ref": 1, "Room": "tea"}));
            assert_eq!(answer["Code"], "name_taken", "{answer}");
        }
    }
    let (mut mallory, _) = nodes[0].v1(&format!("username=mallory&resume={}", resume(&hello)));
    assert_eq!(mallory.users("tea"), ["ann", "witness"]);
    ann.say("tea", "still here");
    ann.expect_message("ann", "still here");
}

#[test]
fn of_two_clients_that_take_over_the_same_connection_one_gets_the_name() {
    let broker = Broker::start();
    let nodes = [node(&broker, &[]), node(&broker, &[]), node(&broker, &[])];
    let (mut witness, mut ann, mut hello) = members(&nodes[0], &nodes[0]);
    for round in 0..5 {
        let both = std::thread::scope(|scope| {
            let hello = &hello;
            let takers = [1, 2].map(|node| &nodes[(round + node) % 3]);
            let takers = takers.map(|node| scope.spawn(move || again(node, hello)));
            takers.map(|taker| taker.join().unwrap())
        });
        expect_taken_over(&mut ann);
        let mut won = Vec::new();
        for (mut taker, hello) in both {
            taker.send_text(&json!({"Op": "who", "Ref": 1, "Room": "tea"}).to_string());
            let is_closed = loop {
                match taker.next() {
                    Message::Close(close) => {
                        assert_eq!(u16::from(close.unwrap().code), 4002, "it is told that the name is taken");
                        break true;
                    }
                    Message::Text(text) if text.contains("\"Users\"") => break false,
                    _ => {}
                }
            };
            if !is_closed {
                won.push((taker, hello));
            }
        }
        assert_eq!(won.len(), 1);
        (ann, hello) = won.remove(0);
        assert_eq!(witness.users("tea"), ["ann", "witness"]);
    }
}

#[test]
fn servers_keep_their_key_when_the_log_forgets_it() {
    let mut broker = Broker::start();
    let further = ["--cluster-storage", "memory", "--cluster-bytes", "64m"];
    let nodes = [node(&broker, &further), node(&broker, &further)];
    let (mut witness, mut ann, hello) = members(&nodes[0], &nodes[1]);
    broker.kill();
    broker.restart();
    for client in [&mut witness, &mut ann] {
        while client.json()["Event"] != "gap" {}
    }
    nodes.iter().for_each(|node| node.internal().wait_for_metric("hi_cluster_reconnects_total", 1.0));
    let third = node(&broker, &further);
    let (mut ann, (mut next, _)) = (ann, again(&third, &hello));
    expect_taken_over(&mut ann);
    assert_eq!(next.users("tea"), ["ann", "witness"]);
}
