//! Several servers that share their rooms: what each knows of the others, and what happens when one of them is gone or cut off.

#[path = "support/broker.rs"]
mod broker;
mod support;

use broker::Broker;
use rustix::process::Signal;
use serde_json::{Value, json};
use support::{Server, wait_for};
use tungstenite::Message;

/// A server that the others give up after three seconds.
fn node(broker: &Broker, further: &[&str]) -> Server {
    let url = broker.url();
    let arguments = ["--cluster", &url, "--cluster-timeout", "2s", "--internal", "127.0.0.1:0"];
    Server::start(&[&arguments, further].concat())
}

#[test]
fn every_server_lists_the_rooms_of_all_with_the_members_of_all() {
    let broker = Broker::start();
    let nodes = [node(&broker, &[]), node(&broker, &[])];
    let _members = [nodes[0].join_v1("ann", "tea"), nodes[1].join_v1("bob", "tea"), nodes[1].join_v1("cid", "milk")];
    let listed = json!({"rooms": [
        {"room": "milk", "kind": "chat", "members": 1},
        {"room": "tea", "kind": "chat", "members": 2},
    ], "count": 2});
    for node in &nodes {
        wait_for(&(200, listed.clone()), || node.internal().get("/api/rooms"));
        let (mut dora, _) = node.v1("username=dora");
        let answer = dora.ask(&json!({"Op": "rooms", "Ref": 1}));
        assert_eq!(answer["Rooms"], json!([{"Room": "milk", "Users": 1}, {"Room": "tea", "Users": 2}]), "{answer}");
        let (status, room) = node.internal().get("/api/rooms/milk");
        assert_eq!((status, &room["members"], &room["users"]), (200, &json!(1), &json!(["cid"])), "{room}");
        assert_eq!(node.internal().get("/api/rooms/water").0, 404);
    }
    // A third server learns of everything that it has not seen.
    let third = node(&broker, &[]);
    wait_for(&(200, listed), || third.internal().get("/api/rooms"));
}

#[test]
fn a_visitor_asks_and_publishes_in_a_room_of_another_server() {
    let broker = Broker::start();
    let nodes = [node(&broker, &[]), node(&broker, &[])];
    let (mut ann, _) = nodes[0].join_v1("ann", "tea");
    ann.expect_message("#tea", "Welcome to tea, ann!");
    let (mut bob, _) = nodes[1].v1("username=bob");
    assert_eq!(bob.users("tea"), ["ann"]);
    let answer = bob.ask(&json!({"Op": "pub", "Ref": 1, "Room": "tea", "Message": "hello"}));
    let heard = ann.expect_message("bob", "hello");
    assert_eq!((&answer["Op"], &answer["Seq"]), (&json!("ok"), &heard["Seq"]), "{answer}");
    // Their order is kept although the first one had to look for the room.
    let mut cid = nodes[1].join_quietly("cid", "milk");
    for text in ["one", "two", "three"] {
        cid.send_text(&json!({"Room": "tea", "Message": text}).to_string());
    }
    for text in ["one", "two", "three"] {
        ann.expect_message("cid", text);
    }
    let answer = bob.ask(&json!({"Op": "pub", "Ref": 2, "Room": "water", "Message": "hello"}));
    assert_eq!(answer["Code"], "room_not_found", "{answer}");
    let (mut other, _) = nodes[1].v1("username=ann");
    let answer = other.ask(&json!({"Op": "pub", "Ref": 1, "Room": "tea", "Message": "hello"}));
    assert_eq!(answer["Code"], "name_taken", "{answer}");
}

#[test]
fn a_user_is_disconnected_from_all_servers() {
    let broker = Broker::start();
    let nodes = [node(&broker, &[]), node(&broker, &[])];
    nodes[0].internal().wait_for_metric("hi_cluster_nodes", 2.0);
    let mut connections = [nodes[0].join_v1("ann", "tea").0, nodes[1].join_v1("ann", "milk").0];
    let order = json!({"user": "Ann", "reason": "enough"});
    assert_eq!(nodes[0].internal().post("/api/disconnect", &order), (200, json!({"closed": 2})));
    for connection in &mut connections {
        while !matches!(connection.next(), Message::Close(Some(close)) if close.reason.as_str() == "enough") {}
    }
    nodes[1].signal(Signal::STOP);
    let (status, body) = nodes[0].internal().post("/api/disconnect", &order);
    nodes[1].signal(Signal::CONT);
    // After a while, it is gone, and nobody waits for it.
    assert!(status == 200 || body["error"]["code"] == "unavailable" && body["error"]["temporary"] == true, "{body}");
}

#[test]
fn a_room_is_written_in_one_way_on_all_servers() {
    let broker = Broker::start();
    let nodes = [node(&broker, &[]), node(&broker, &[])];
    let mut ann = nodes[0].join("ann", "Tea");
    let (mut bob, _) = nodes[1].v1("username=bob");
    let answer = bob.ask(&json!({"Op": "join", "Ref": 1, "Room": "tEA"}));
    assert_eq!((&answer["Op"], &answer["Room"]), (&json!("ok"), &json!("Tea")), "{answer}");
    let heard = ann.json();
    assert_eq!((&heard["Room"], &heard["Message"]), (&json!("Tea"), &json!("Welcome to Tea, bob!")), "{heard}");
    let room = |node: &Server| node.internal().get("/api/rooms/tea").1["room"].take();
    assert_eq!((room(&nodes[0]), room(&nodes[1])), (json!("Tea"), json!("Tea")));
}

#[test]
fn what_is_too_long_for_several_servers_is_refused() {
    let broker = Broker::start();
    let node = node(&broker, &[]);
    let mut ann = node.join("ann", "tea");
    let publish = |text: &str| node.internal().post("/api/publish", &json!({"room": "tea", "message": text}));
    let long = "\u{1}".repeat(8 * 1024 - 1) + "a";
    assert_eq!(publish(&long).0, 200, "as JSON, it is six times as long");
    assert_eq!(ann.expect_message("api", &long)["Room"], "tea");
    let (status, body) = publish(&"x".repeat(48 * 1024));
    assert_eq!((status, &body["error"]["code"]), (413, &json!("too_big")), "{body}");
    let raw = |bytes: usize| node.internal().ask("POST", "/pub/tea", &[], &vec![b'x'; bytes]).status;
    assert_eq!((raw(1000 * 1024), raw(1024 * 1024)), (202, 413), "a message to the log has at most 1 MiB");
}

#[test]
fn the_users_of_a_server_that_was_killed_leave() {
    let broker = Broker::start();
    let mut nodes = vec![node(&broker, &[]), node(&broker, &[]), node(&broker, &["--replay-age", "1s"])];
    let (mut ann, _) = nodes[0].join_v1("ann", "tea");
    ann.expect_message("#tea", "Welcome to tea, ann!");
    let (mut bob, _) = nodes[1].join_v1("bob", "tea");
    let _gone = ["cid", "dora"].map(|name| nodes[2].join_v1(name, "tea").0);
    let _alone = nodes[2].join_v1("emil", "milk");
    let listed = |room: &str, members| json!({"room": room, "kind": "chat", "members": members});
    wait_for(&json!([listed("milk", 1), listed("tea", 4)]), || nodes[0].internal().get("/api/rooms").1["rooms"].take());
    drop(nodes.pop());
    let mut left = Vec::new();
    while left.len() < 2 {
        let text = ann.json()["Message"].as_str().unwrap_or_default().to_owned();
        if text.ends_with("left channel.") {
            left.push(text);
        }
    }
    left.sort_unstable();
    assert_eq!(left, ["User cid left channel.", "User dora left channel."], "once each");
    assert_eq!(bob.users("tea"), ["ann", "bob"]);
    wait_for(&json!([listed("tea", 2)]), || nodes[1].internal().get("/api/rooms").1["rooms"].take());
    // Nobody follows that room, and nobody would ask for the name.
    let late = node(&broker, &["--replay-age", "1s"]);
    wait_for(&404, || late.internal().get("/api/rooms/milk").0);
}

#[test]
fn a_server_that_was_given_up_gets_back_the_names_that_nobody_has_taken() {
    let broker = Broker::start();
    let nodes = [node(&broker, &[]), node(&broker, &[])];
    let (mut ann, _) = nodes[0].join_v1("ann", "tea");
    ann.expect_message("#tea", "Welcome to tea, ann!");
    let (mut bob, _) = nodes[1].join_v1("bob", "tea");
    let (mut cid, _) = nodes[1].join_v1("cid", "tea");
    nodes[1].signal(Signal::STOP);
    let gone: Vec<Value> = std::iter::repeat_with(|| ann.json())
        .filter(|frame| frame["Event"] == "leave")
        .take(2)
        .map(|mut frame| frame["User"].take())
        .collect();
    assert!(gone.contains(&json!("bob")) && gone.contains(&json!("cid")), "{gone:?}");
    let (_bob, joined) = nodes[0].join_v1("bob", "tea");
    assert_eq!(joined["Users"], 2, "{joined}");
    nodes[1].signal(Signal::CONT);
    let close = loop {
        if let Message::Close(Some(close)) = bob.next() {
            break close;
        }
    };
    assert_eq!(u16::from(close.code), 4002, "another one has its name");
    while ann.json()["Message"] != "Welcome to tea, cid!" {}
    for member in [&mut ann, &mut cid] {
        member.wait_for_users("tea", &["ann", "bob", "cid"]);
    }
}

/// Its server hears all at once that the name was given up, taken and free again.
#[test]
fn a_name_that_was_taken_for_a_while_is_its_members_again() {
    let broker = Broker::start();
    let nodes = [node(&broker, &[]), node(&broker, &[])];
    let (mut ann, _) = nodes[0].join_v1("ann", "tea");
    let (mut bob, _) = nodes[1].join_v1("bob", "tea");
    while ann.json()["Message"] != "Welcome to tea, bob!" {}
    nodes[1].signal(Signal::STOP);
    while ann.json()["Message"] != "User bob left channel." {}
    let (thief, _) = nodes[0].join_v1("bob", "tea");
    while ann.json()["Message"] != "Welcome to tea, bob!" {}
    thief.close();
    while ann.json()["Message"] != "User bob left channel." {}
    nodes[1].signal(Signal::CONT);
    while ann.json()["Message"] != "Welcome to tea, bob!" {}
    ann.wait_for_users("tea", &["ann", "bob"]);
    bob.wait_for_users("tea", &["ann", "bob"]);
    bob.close();
    while ann.json()["Message"] != "User bob left channel." {}
    ann.wait_for_users("tea", &["ann"]);
    nodes[0].join_v1("bob", "tea");
}

#[test]
fn every_message_that_is_stored_is_counted_once() {
    let broker = Broker::start();
    let node = node(&broker, &["--rate-limit", "0"]);
    let (mut ann, _) = node.join_v1("ann", "tea");
    ann.expect_message("#tea", "Welcome to tea, ann!");
    for number in 0..200 {
        assert_eq!(ann.publish("tea", &number.to_string())["Op"], "ok");
    }
    let internal = node.internal();
    internal.wait_for_metric("hi_cluster_published_total{outcome=\"stored\"}", 201.0);
    internal.wait_for_metric("hi_cluster_publish_seconds_count", 201.0);
    assert_eq!(internal.metric("hi_cluster_published_total{outcome=\"duplicate\"}"), 0.0);
}

#[test]
fn a_server_that_was_stopped_does_not_take_the_others_for_gone() {
    let broker = Broker::start();
    let nodes = [node(&broker, &[]), node(&broker, &[])];
    let (mut ann, _) = nodes[0].join_v1("ann", "tea");
    let _bob = nodes[1].join_v1("bob", "tea");
    while ann.json()["Message"] != "Welcome to tea, bob!" {}
    for _ in 0..3 {
        nodes[1].signal(Signal::STOP);
        while ann.json()["Message"] != "User bob left channel." {}
        nodes[1].signal(Signal::CONT);
        loop {
            let frame = ann.json();
            assert_ne!(frame["Message"], "User ann left channel.", "{frame}");
            if frame["Message"] == "Welcome to tea, bob!" {
                break;
            }
        }
    }
    assert_eq!(nodes[1].internal().metric("hi_cluster_reaped_names_total"), 0.0);
}

/// All clients of a server that was killed come to the others at once, with their names and what they have seen last.
#[test]
fn five_hundred_clients_of_a_server_that_was_killed_go_on_elsewhere() {
    const CLIENTS: usize = 500;
    hi::os::raise_file_limit().unwrap();
    let broker = Broker::start();
    // Each client is read in its turn only.
    let patient = ["--ping-interval", "120s"];
    let mut nodes = vec![node(&broker, &patient), node(&broker, &patient), node(&broker, &patient)];
    let (mut ann, _) = nodes[0].join_v1("ann", "tea");
    let name = |number: usize| format!("user{number}");
    let mut clients: Vec<_> = (0..CLIENTS).map(|number| nodes[2].join_v1(&name(number), "tea")).collect();
    let answer = ann.ask(&json!({"Op": "pub", "Ref": 1, "Room": "tea", "Message": "before"}));
    assert!(answer["Ref"].is_null() || answer["Op"] == "ok", "{answer}");
    let seen: Vec<Value> = clients
        .iter_mut()
        .map(|(client, joined)| {
            let last = std::iter::repeat_with(|| client.json()).find(|frame| frame["Message"] == "before").unwrap();
            json!({"Epoch": joined["Epoch"], "Seq": last["Seq"]})
        })
        .collect();
    drop(nodes.pop());
    assert_eq!(nodes[0].internal().post("/api/publish", &json!({"room": "tea", "message": "missed"})).0, 200);
    let mut clients: Vec<_> =
        (0..CLIENTS).map(|number| nodes[number % 2].v1(&format!("username={}", name(number))).0).collect();
    for (client, since) in clients.iter_mut().zip(&seen) {
        client.send_text(&json!({"Op": "join", "Ref": "join", "Room": "tea", "Since": since}).to_string());
    }
    for (client, since) in clients.iter_mut().zip(&seen) {
        let answer = client.json();
        assert!(answer["Op"] == "ok" && answer["Recovered"] == true && answer["Seq"] == since["Seq"], "{answer}");
        let mut next = since["Seq"].as_u64().unwrap() + 1;
        while {
            let frame = client.json();
            assert_eq!(frame["Seq"], next, "{frame}");
            next += 1;
            frame["Message"] != "missed"
        } {}
    }
    wait_for(&json!(CLIENTS + 1), || nodes[1].internal().get("/api/rooms/tea").1["count"].take());
}
