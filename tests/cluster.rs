//! Several servers that share their rooms through a real NATS server: one order for all members, on whichever server they are,
//! and nothing lost that was acknowledged.

#[path = "support/broker.rs"]
mod broker;
mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use broker::Broker;
use rustix::process::Signal;
use serde_json::{Value, json};
use support::listener::Listener;
use support::{Client, Server, hi, run};

/// A server that shares its rooms.
fn node(broker: &Broker) -> Server {
    Server::start(&["--cluster", &broker.url(), "--cluster-timeout", "30s", "--rate-limit", "0"])
}

/// Reads the same as a listener.
fn listen(listener: &mut Listener, ends: usize) -> Seen {
    let (mut seen, mut ended) = (Seen::new(), 0);
    while ended < ends {
        let frame = listener.message();
        let text = |key: &str| frame[key].as_str().unwrap_or_default().to_owned();
        ended += usize::from(frame["Message"] == "end");
        seen.push((text("Epoch"), frame["Seq"].as_u64().unwrap(), text("From"), text("Message")));
    }
    seen
}

/// What a member gets of a room: `Epoch`, `Seq`, sender and text.
type Seen = Vec<(String, u64, String, String)>;

/// Reads until `ends` messages say that they are the last ones.
fn read(member: &mut Client, ends: usize) -> Seen {
    let (mut seen, mut ended) = (Seen::new(), 0);
    while ended < ends {
        let frame = member.json();
        let text = |key: &str| frame[key].as_str().unwrap_or_default().to_owned();
        assert!(frame["Event"] != "gap", "{frame}");
        if frame["Seq"].is_null() || !frame["Op"].is_null() {
            continue;
        }
        ended += usize::from(frame["Message"] == "end");
        seen.push((text("Epoch"), frame["Seq"].as_u64().unwrap(), text("From"), text("Message")));
    }
    seen
}

/// Publishes `count` messages and "end", one after the other, and returns the `Seq` of each.
fn publish(publisher: &mut Client, count: usize) -> BTreeMap<String, u64> {
    let mut acknowledged = BTreeMap::new();
    for number in 0..=count {
        let text = if number == count { "end".to_owned() } else { number.to_string() };
        let request = json!({"Op": "pub", "Ref": number, "Room": "tea", "Message": text});
        // What the room says comes in between.
        let answer = publisher.answer_to(&request);
        assert_eq!(answer["Op"], "ok", "{answer}");
        acknowledged.insert(text, answer["Seq"].as_u64().unwrap());
    }
    acknowledged
}

/// All have seen the same, from each one's beginning on; everything that was acknowledged is there, under its `Seq`.
fn check(seen: &[Seen], acknowledged: &BTreeMap<String, BTreeMap<String, u64>>) {
    let longest = seen.iter().max_by_key(|seen| seen.len()).unwrap();
    for seen in seen {
        assert!(
            seen.windows(2).all(|pair| pair[0].0 == pair[1].0 && pair[0].1 + 1 == pair[1].1),
            "Seq is dense: {seen:?}"
        );
        assert!(longest.ends_with(seen), "the same for all: {seen:?}\n{longest:?}");
    }
    for (publisher, messages) in acknowledged {
        for (text, seq) in messages {
            let found: Vec<_> = longest.iter().filter(|(.., from, said)| from == publisher && said == text).collect();
            assert_eq!(found.len(), 1, "{publisher} {text}");
            assert_eq!(found[0].1, *seq, "{publisher} {text}");
        }
    }
}

/// Says that it is over, also when something has failed.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Members and publishers on each of the servers; `meanwhile` runs beside them, until it is told that they are done.
fn exchange(nodes: &[Server], count: usize, meanwhile: impl FnOnce(&AtomicBool) + Send) {
    let mut members: Vec<Client> = Vec::new();
    for (number, node) in nodes.iter().enumerate() {
        members.push(node.join_quietly(&format!("old{number}"), "tea"));
        members.push(node.join_v1(&format!("new{number}"), "tea").0);
    }
    let mut listeners: Vec<Listener> = nodes.iter().map(|node| node.listen("tea", None).opened()).collect();
    let mut publishers: Vec<(String, Client)> = Vec::new();
    for (number, node) in nodes.iter().enumerate() {
        let name = format!("p{number}");
        publishers.push((name.clone(), node.join_v1(&name, "tea").0));
    }
    let (ends, done) = (publishers.len(), AtomicBool::new(false));
    let (seen, acknowledged) = std::thread::scope(|scope| {
        scope.spawn(|| meanwhile(&done));
        let _over = Over(&done);
        let reading = members.iter_mut().map(|member| scope.spawn(move || read(member, ends)));
        let listening = listeners.iter_mut().map(|listener| scope.spawn(move || listen(listener, ends)));
        let readers: Vec<_> = reading.chain(listening).collect();
        let publishing: Vec<_> = publishers
            .iter_mut()
            .map(|(name, publisher)| (name.clone(), scope.spawn(move || publish(publisher, count))))
            .collect();
        let seen: Vec<Seen> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
        let acknowledged = publishing.into_iter().map(|(name, thread)| (name, thread.join().unwrap())).collect();
        (seen, acknowledged)
    });
    check(&seen, &acknowledged);
}

#[test]
fn members_on_three_servers_see_one_order_and_publishers_are_told_their_place_in_it() {
    let broker = Broker::start();
    let nodes = [node(&broker), node(&broker), node(&broker)];
    exchange(&nodes, 200, |_| {});
}

#[test]
fn nothing_acknowledged_is_lost_when_the_broker_is_killed_and_comes_back() {
    let mut broker = Broker::start();
    let nodes = [node(&broker), node(&broker), node(&broker)];
    let stored = |broker: &Broker| broker.stream("chat").map_or(0, |info| info["state"]["last_seq"].as_u64().unwrap());
    let mut kills = 0;
    exchange(&nodes, 1500, |done| {
        while !done.load(Ordering::SeqCst) {
            let before = stored(&broker);
            while !done.load(Ordering::SeqCst) && stored(&broker) < before + 50 {
                std::thread::sleep(Duration::from_millis(20));
            }
            broker.kill();
            broker.restart();
            kills += 1;
        }
    });
    assert!(kills > 1, "it was killed while they published");
}

#[test]
fn a_client_recovers_on_another_server_what_it_has_missed() {
    let broker = Broker::start();
    let nodes = [node(&broker), node(&broker)];
    let (mut ann, joined) = nodes[0].join_v1("ann", "tea");
    ann.expect_message("#tea", "Welcome to tea, ann!");
    let (mut bob, _) = nodes[0].join_v1("bob", "tea");
    let last = ann.expect_message("#tea", "Welcome to tea, bob!");
    ann.close();
    publish(&mut bob, 100);
    let (mut ann, _) = nodes[1].v1("username=ann");
    let since = json!({"Epoch": joined["Epoch"], "Seq": last["Seq"]});
    let answer = ann.join_room("tea", Some(&since));
    assert!(
        answer["Recovered"] == true && answer["Epoch"] == joined["Epoch"] && answer["Seq"] == last["Seq"],
        "{answer}"
    );
    let missed = read(&mut ann, 1);
    let said: Vec<&str> = missed.iter().filter(|(.., from, _)| from == "bob").map(|(.., said)| said.as_str()).collect();
    assert_eq!((said.len(), said[0], said[100]), (101, "0", "end"));
    assert_eq!(Value::from(missed[0].1 - 1), last["Seq"]);
}

#[test]
fn a_program_publishes_through_any_server() {
    let broker = Broker::start();
    let start = || Server::start(&["--cluster", &broker.url(), "--internal", "127.0.0.1:0"]);
    let nodes = [start(), start()];
    let mut ann = nodes[0].join("ann", "tea");
    let publish =
        |node: &Server, room: &str| node.internal().post("/api/publish", &json!({"room": room, "message": "hello"}));
    for node in &nodes {
        let (status, body) = publish(node, "tea");
        let heard = ann.expect_message("api", "hello");
        assert_eq!((status, &body["seq"], &body["epoch"]), (200, &heard["Seq"], &heard["Epoch"]), "{body}");
        assert_eq!(body["members"], 1, "{body}");
    }
    let (status, body) = publish(&nodes[1], "milk");
    assert_eq!((status, &body["seq"]), (202, &Value::Null), "nobody is in it: {body}");
}

#[test]
fn all_servers_list_the_users_of_all_and_a_name_is_free_when_its_holder_leaves() {
    let broker = Broker::start();
    let nodes = [node(&broker), node(&broker)];
    let (mut ann, _) = nodes[0].join_v1("Ann", "tea");
    ann.expect_message("#tea", "Welcome to tea, Ann!");
    let (mut bob, joined) = nodes[1].join_v1("bob", "tea");
    assert_eq!(joined["Users"], 2, "{joined}");
    ann.wait_for_users("tea", &["Ann", "bob"]);
    assert_eq!(bob.users("tea"), ["Ann", "bob"]);
    let (mut other, _) = nodes[1].v1("username=ann");
    let refused = other.ask(&json!({"Op": "join", "Ref": 1, "Room": "tea"}));
    assert_eq!(refused["Code"], "name_taken", "{refused}");
    ann.close();
    while bob.json()["Message"] != "User Ann left channel." {}
    let answer = other.join_room("tea", None);
    assert_eq!(answer["Users"], 2, "{answer}");
    while bob.json()["Message"] != "Welcome to tea, ann!" {}
    assert_eq!(bob.users("tea"), ["ann", "bob"]);
}

#[test]
fn the_names_of_a_server_that_was_killed_are_free_for_those_that_ask() {
    let broker = Broker::start();
    let mut nodes = vec![node(&broker), node(&broker)];
    let (_ann, _) = nodes[1].join_v1("ann", "tea");
    let (mut ann, _) = nodes[0].v1("username=ann");
    let refused = ann.ask(&json!({"Op": "join", "Ref": 1, "Room": "tea"}));
    assert_eq!(refused["Code"], "name_taken", "{refused}");
    drop(nodes.pop());
    ann.join_room("tea", None);
}

#[test]
fn a_server_that_stops_takes_its_users_out_of_the_rooms_of_the_others() {
    let broker = Broker::start();
    let mut nodes = [node(&broker), node(&broker)];
    let (mut ann, _) = nodes[0].join_v1("ann", "tea");
    ann.expect_message("#tea", "Welcome to tea, ann!");
    let (mut bob, _) = nodes[1].join_v1("bob", "tea");
    nodes[1].signal(Signal::TERM);
    assert_eq!(nodes[1].wait().code(), Some(0));
    while bob.socket.read().is_ok() {}
    ann.expect_message("#tea", "Welcome to tea, bob!");
    ann.expect_message("#tea", "User bob left channel.");
    assert_eq!(ann.users("tea"), ["ann"]);
}

#[test]
fn what_does_not_work_is_said_at_the_start() {
    let refuse = |arguments: &[&str], sentence: &str| {
        let mut command = hi();
        command.args(["--listen", "127.0.0.1:0", "--cluster"]).args(arguments);
        let output = run(command);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && said.contains(sentence), "{said}");
    };
    // Port 1 is nobody's.
    refuse(&["nats://127.0.0.1:1"], "can't connect to nats://127.0.0.1:1 (--cluster)");
    refuse(&["nats://127.0.0.1:1", "--max-message", "64k"], "lower --max-message");
}
