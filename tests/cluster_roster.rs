//! Rooms with more users than `--roster-max` on several servers: names are claimed, and those of other servers are only counted.

#[path = "support/broker.rs"]
mod broker;
mod support;

use broker::Broker;
use rustix::process::Signal;
use serde_json::json;
use support::{Client, Server, wait_for};
use tungstenite::Message;

/// A server that keeps six names of a room, and that the others give up after three seconds.
fn node(broker: &Broker) -> Server {
    let url = broker.url();
    let arguments = ["--cluster", &url, "--cluster-timeout", "2s", "--roster-max", "6", "--rate-limit", "0"];
    Server::start(&[&arguments, &["--internal", "127.0.0.1:0"][..]].concat())
}

/// The users that a client is told, how many there are, and whether it is told that these are not all.
fn who(client: &mut Client) -> (Vec<String>, u64, bool) {
    client.send_text(&json!({"Op": "who", "Ref": "who", "Room": "tea"}).to_string());
    loop {
        let answer = client.json();
        if answer["Ref"] == "who" {
            let users = answer["Users"].as_array().unwrap_or_else(|| panic!("{answer}"));
            let users = users.iter().map(|user| user.as_str().unwrap().to_owned()).collect();
            return (users, answer["Count"].as_u64().unwrap(), answer["Partial"] == true);
        }
    }
}

/// Asks until this is the answer.
#[track_caller]
fn wait_for_users(client: &mut Client, users: &[&str], count: u64, partial: bool) {
    wait_for(&(users.iter().map(ToString::to_string).collect(), count, partial), || who(client));
}

/// These users join the room tea.
fn join(server: &Server, users: &[&str]) -> Vec<Client> {
    users.iter().map(|user| server.join_v1(user, "tea").0).collect()
}

/// The next `count` users that leave, sorted.
fn left(client: &mut Client, count: usize) -> Vec<String> {
    let frames = std::iter::repeat_with(|| client.json()).filter(|frame| frame["Event"] == "leave");
    let mut users: Vec<_> = frames.take(count).map(|frame| frame["User"].as_str().unwrap().to_owned()).collect();
    users.sort_unstable();
    users
}

#[test]
fn beyond_the_bound_a_room_lists_the_users_of_one_server_and_counts_those_of_all() {
    let broker = Broker::start();
    let nodes = [node(&broker), node(&broker)];
    let (mut here, mut there) = (join(&nodes[0], &["a1", "a2", "a3"]), join(&nodes[1], &["b1", "b2", "b3"]));
    let six = ["a1", "a2", "a3", "b1", "b2", "b3"];
    wait_for_users(&mut here[0], &six, 6, false);
    wait_for_users(&mut there[0], &six, 6, false);
    there.extend(join(&nodes[1], &["b4"]));
    wait_for_users(&mut here[0], &six[..3], 7, true);
    wait_for_users(&mut there[0], &["b1", "b2", "b3", "b4"], 7, true);
    let (_, room) = nodes[0].internal().get("/api/rooms/tea");
    assert_eq!(
        (&room["users"], &room["count"], &room["partial"]),
        (&json!(six[..3]), &json!(7), &json!(true)),
        "{room}"
    );
    let mut v0 = nodes[0].join_quietly("a4", "tea");
    v0.say("tea", "/list");
    let list = "a1, a2, a3, a4, and 4 more (the room has too many users to list those of other servers)";
    while v0.json()["Message"] != list {}

    // A server that has not seen any of them join.
    let third = node(&broker);
    let (mut cid, joined) = third.join_v1("cid", "tea");
    assert_eq!(joined["Users"], 9, "{joined}");
    wait_for_users(&mut cid, &["cid"], 9, true);
    for (server, name) in [(&third, "a1"), (&third, "b4"), (&nodes[0], "b1"), (&nodes[1], "CID")] {
        let (mut other, _) = server.v1(&format!("username={name}"));
        let answer = other.ask(&json!({"Op": "join", "Ref": 1, "Room": "tea"}));
        assert_eq!(answer["Code"], "name_taken", "{name}: {answer}");
        let answer = other.ask(&json!({"Op": "pub", "Ref": 2, "Room": "tea", "Message": "from outside"}));
        assert_eq!(answer["Code"], "name_taken", "{name}: {answer}");
    }
    let (mut visitor, _) = nodes[0].v1("username=dora");
    let answer = visitor.ask(&json!({"Op": "pub", "Ref": 1, "Room": "tea", "Message": "from outside"}));
    let all = [&mut here[0], &mut there[3], &mut v0, &mut cid];
    let heard = all.map(|member| {
        loop {
            let frame = member.json();
            if frame["Message"] == "from outside" {
                break (frame["From"].clone(), frame["Seq"].clone());
            }
        }
    });
    assert_eq!(heard, std::array::from_fn(|_| (json!("dora"), answer["Seq"].clone())), "{answer}");

    // Again small enough.
    v0.close();
    cid.close();
    there.truncate(1);
    wait_for_users(&mut here[0], &["a1", "a2", "a3"], 4, true);
    here.truncate(2);
    wait_for_users(&mut here[0], &["a1", "a2", "b1"], 3, false);
    wait_for_users(&mut there[0], &["a1", "a2", "b1"], 3, false);
}

#[test]
fn users_of_a_server_that_was_killed_leave_a_large_room_once() {
    let broker = Broker::start();
    let mut nodes = vec![node(&broker), node(&broker), node(&broker)];
    let mut here = join(&nodes[0], &["a1", "a2", "a3", "a4"]);
    let mut there = join(&nodes[1], &["b1", "b2", "b3", "b4"]);
    let _gone = join(&nodes[2], &["c1", "c2"]);
    wait_for_users(&mut here[0], &["a1", "a2", "a3", "a4"], 10, true);
    wait_for_users(&mut there[0], &["b1", "b2", "b3", "b4"], 10, true);
    drop(nodes.pop());
    assert_eq!(left(&mut here[1], 2), ["c1", "c2"]);
    wait_for_users(&mut here[0], &["a1", "a2", "a3", "a4"], 8, true);
    wait_for_users(&mut there[0], &["b1", "b2", "b3", "b4"], 8, true);
    let (_c1, joined) = nodes[1].join_v1("c1", "tea");
    assert_eq!(joined["Users"], 9, "{joined}");
    // That is all that is announced: nobody has left twice.
    let frame = here[1].json();
    assert_eq!((&frame["Event"], &frame["User"]), (&json!("join"), &json!("c1")), "{frame}");
    here[0].say("tea", "the end");
    let frame = here[1].json();
    assert_eq!(frame["Message"], "the end", "{frame}");
}

#[test]
fn a_server_that_was_given_up_gets_back_the_names_in_a_large_room_that_nobody_has_taken() {
    let broker = Broker::start();
    let nodes = [node(&broker), node(&broker)];
    let mut here = join(&nodes[0], &["a1", "a2", "a3", "a4", "a5", "a6", "a7"]);
    let mut there = join(&nodes[1], &["bob", "cid"]);
    wait_for_users(&mut there[0], &["bob", "cid"], 9, true);
    nodes[1].signal(Signal::STOP);
    assert_eq!(left(&mut here[0], 2), ["bob", "cid"]);
    let _bob = nodes[0].join_v1("bob", "tea");
    nodes[1].signal(Signal::CONT);
    let close = loop {
        if let Message::Close(Some(close)) = there[0].next() {
            break close;
        }
    };
    assert_eq!(u16::from(close.code), 4002, "another one has its name");
    while here[0].json()["Message"] != "Welcome to tea, cid!" {}
    wait_for_users(&mut there[1], &["cid"], 9, true);
    let (mut thief, _) = nodes[0].v1("username=cid");
    assert_eq!(thief.ask(&json!({"Op": "join", "Ref": 1, "Room": "tea"}))["Code"], "name_taken");
}

#[test]
fn a_name_in_a_large_room_is_taken_over_on_another_server_without_a_notice() {
    let broker = Broker::start();
    let nodes = [node(&broker), node(&broker)];
    let mut here = join(&nodes[0], &["a1", "a2", "a3", "a4", "a5", "a6", "a7"]);
    let (mut bob, hello) = nodes[1].v1("username=bob&room=tea");
    while here[0].json()["Message"] != "Welcome to tea, bob!" {}
    while bob.json()["Message"] != "Welcome to tea, bob!" {}
    let resume = hello["Resume"].as_str().unwrap();
    let (mut again, _) = nodes[0].v1(&format!("username=bob&room=tea&resume={resume}"));
    assert_eq!(bob.expect_close().0, 4003);
    here[0].say("tea", "still here?");
    for member in [&mut here[0], &mut again] {
        assert_eq!(member.json()["Message"], "still here?", "nobody has left or joined");
    }
}
