//! Several servers whose log is kept by three: any of these may be killed, and most of them for a while.

#[path = "support/broker.rs"]
mod broker;
mod support;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use broker::Broker;
use serde_json::{Value, json};
use support::{Client, PATIENCE, Server, internal};

/// Two servers of hi, whose log all three servers keep: the one that is killed next may not be the only one.
fn start_two(brokers: &[Broker]) -> [Server; 2] {
    let nodes = [start(brokers), start(brokers)];
    broker::wait_until_whole(brokers);
    nodes
}

/// A server of hi, whose messages wait for long enough: an election may take ten seconds.
fn start(brokers: &[Broker]) -> Server {
    start_with(brokers, &[])
}

fn start_with(brokers: &[Broker], further: &[&str]) -> Server {
    let urls = brokers.iter().map(Broker::url).collect::<Vec<_>>().join(",");
    let options = ["--cluster-timeout", "30s", "--rate-limit", "0", "--ping-interval", "120s"];
    Server::start(&[&["--cluster", &urls, "--internal", "127.0.0.1:0"][..], &options, further].concat())
}

/// Which of the servers decides about a stream.
fn leader(brokers: &[Broker], stream: &str) -> Option<usize> {
    let name = brokers.iter().find_map(|broker| Some(broker.stream(stream)?["cluster"]["leader"].clone()))?;
    (0..brokers.len()).find(|number| name == format!("n{number}"))
}

/// Has one of the servers decide about all streams.
fn let_lead(brokers: &[Broker], number: usize) {
    let began = Instant::now();
    for stream in broker::STREAMS {
        while leader(brokers, stream) != Some(number) {
            assert!(began.elapsed() < ANSWER_TIME_MAX, "it is never elected");
            broker::step_down(brokers[number].port(), stream);
            // An election.
            std::thread::sleep(Duration::from_millis(300));
        }
    }
}

/// A message waits for `--cluster-timeout`, and then for ten seconds until it can be read back.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(60);

/// A member that waits for as long as an answer may take, and the answer to its join.
fn join(node: &Server, user: &str) -> (Client, Value) {
    let (client, joined) = node.join_v1(user, "tea");
    client.socket.get_ref().set_read_timeout(Some(ANSWER_TIME_MAX)).unwrap();
    (client, joined)
}

/// Any of three servers of the log may be killed, also the one that decides: nothing acknowledged is lost, and the order stays.
#[test]
fn of_three_servers_of_the_log_any_may_be_killed() {
    let mut brokers = Broker::start_three();
    let nodes = start_two(&brokers);
    let (mut ann, _) = join(&nodes[0], "ann");
    let (mut bob, _) = join(&nodes[1], "bob");
    let mut acknowledged = Vec::new();
    for number in 0..90 {
        if number % 30 == 10 {
            brokers[number / 30].kill();
        }
        if number % 30 == 20 {
            brokers[number / 30].restart();
        }
        let text = number.to_string();
        let answer = ann.publish("tea", &text);
        assert_eq!(answer["Op"], "ok", "{answer}");
        acknowledged.push((answer["Seq"].as_u64().unwrap(), text));
    }
    let mut seen = Vec::new();
    while seen.len() < acknowledged.len() {
        let frame = bob.json();
        assert!(frame["Event"] != "gap", "{frame}");
        if frame["From"] == "ann" {
            seen.push((frame["Seq"].as_u64().unwrap(), frame["Message"].as_str().unwrap().to_owned()));
        }
    }
    assert_eq!(seen, acknowledged);
}

/// The one that decides is left alone. It takes a message that it can't store yet, and doesn't say so: the message is published
/// again meanwhile, and must not be given up because it is known already.
#[test]
fn without_a_majority_nothing_is_lost_and_a_member_that_leaves_is_gone() {
    let mut brokers = Broker::start_three();
    let nodes = [start(&brokers[2..]), start(&brokers[2..])];
    broker::wait_until_whole(&brokers);
    let_lead(&brokers, 2);
    let (mut ann, joined) = join(&nodes[0], "ann");
    let (mut bob, _) = join(&nodes[1], "bob");
    let (cid, _) = join(&nodes[1], "cid");
    assert_eq!(ann.publish("tea", "before")["Op"], "ok");
    brokers[0].kill();
    brokers[1].kill();
    ann.send_text(&json!({"Op": "pub", "Ref": "waits", "Room": "tea", "Message": "waits"}).to_string());
    let mut seen = Vec::new();
    for member in [&mut ann, &mut bob] {
        loop {
            let frame = member.json();
            assert!(frame["Event"] != "back" && frame["Ref"] != "waits", "it is not: {frame}");
            if frame["Event"] == "away" {
                break;
            }
        }
    }
    cid.close();
    brokers[0].restart();
    brokers[1].restart();
    // An election takes its time.
    while seen.last() != Some(&json!("waits")) {
        let frame = bob.json();
        assert_ne!(frame["Event"], "gap", "{frame}");
        assert!(frame["Seq"].is_null() || frame["Epoch"] == joined["Epoch"], "{frame}");
        seen.extend((!frame["Seq"].is_null()).then(|| frame["Message"].clone()));
    }
    let answer = std::iter::repeat_with(|| ann.json()).find(|frame| frame["Ref"] == "waits").unwrap();
    assert_eq!(answer["Op"], "ok", "{answer}");
    assert_eq!(bob.publish("tea", "after")["Op"], "ok");
    let began = Instant::now();
    while ann.users("tea") != ["ann", "bob"] {
        assert!(began.elapsed() < PATIENCE, "cid is still listed: {:?}", ann.users("tea"));
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn raw_rooms_keep_one_order_when_the_server_that_decides_is_killed() {
    let mut brokers = Broker::start_three();
    let nodes = start_two(&brokers);
    let mut members = [nodes[0].websocket("/raw/scores"), nodes[1].websocket("/raw/scores")];
    let over = AtomicBool::new(false);
    let acknowledged: BTreeSet<String> = std::thread::scope(|scope| {
        let publishing = [0, 1].map(|number| {
            let (port, over) = (nodes[number].internal(), &over);
            scope.spawn(move || {
                let mut texts = Vec::new();
                while !over.load(Ordering::SeqCst) {
                    let text = format!("{number} {}", texts.len());
                    let mut wire = port.wire();
                    // Elections take their time.
                    wire.stream.set_read_timeout(Some(PATIENCE * 3)).unwrap();
                    let headers = [("Content-Type", "text/plain")];
                    wire.send(internal::request("POST", "/pub/scores", &headers, text.len()) + &text);
                    let answer = wire.answer_to("POST");
                    assert!([200, 202].contains(&answer.status), "{answer:?} {}", port.metrics());
                    texts.push(text);
                    // The log keeps a thousand for those that miss some.
                    std::thread::sleep(Duration::from_millis(10));
                }
                texts
            })
        });
        for _ in 0..2 {
            let which = leader(&brokers, "raw").expect("one of three");
            brokers[which].kill();
            // It goes on without it.
            let stored = || brokers.iter().find_map(|broker| broker.stream("raw")?["state"]["last_seq"].as_u64());
            let began = Instant::now();
            let before = stored();
            while stored().is_none_or(|now| before.is_some_and(|before| now < before + 50)) {
                assert!(began.elapsed() < PATIENCE * 2, "nothing is stored");
                std::thread::sleep(Duration::from_millis(20));
            }
            brokers[which].restart();
            broker::wait_until_whole(&brokers);
        }
        over.store(true, Ordering::SeqCst);
        publishing.into_iter().flat_map(|publisher| publisher.join().unwrap()).collect()
    });
    nodes[0].internal().ask("POST", "/pub/scores", &[("Content-Type", "text/plain")], b"end");
    let seen = members.each_mut().map(|member| {
        let mut seen: Vec<String> = Vec::new();
        while seen.last().is_none_or(|last| last != "end") {
            seen.push(member.text());
        }
        seen
    });
    assert_eq!(seen[0], seen[1], "one order");
    let all: BTreeSet<String> = seen[0].iter().filter(|text| *text != "end").cloned().collect();
    assert_eq!((all.len() + 1, &all), (seen[0].len(), &acknowledged), "each once");
}

#[test]
fn a_log_of_two_servers_has_three_copies_as_soon_as_there_is_a_third() {
    let ports = Broker::route_ports();
    let mut brokers = Broker::start_routed(&ports[..2], &ports[..2], 0);
    // It looks every half second.
    let options = ["--cluster-room-memory", "4s", "--replay-age", "4s"];
    let node = start_with(&brokers, &options);
    let (mut ann, _) = join(&node, "ann");
    assert_eq!(ann.publish("tea", "before")["Op"], "ok");
    let copies = broker::STREAMS.map(|stream| brokers[0].stream(stream).unwrap()["config"]["num_replicas"].clone());
    assert_eq!(copies, [json!(1), json!(1), json!(1)]);
    brokers.extend(Broker::start_routed(&ports[2..], &ports[..2], 2));
    broker::wait_until_whole(&brokers);
    let other = start_with(&brokers[1..], &options);
    let (mut bob, _) = join(&other, "bob");
    brokers[0].kill();
    assert_eq!(bob.publish("tea", "after")["Op"], "ok");
    while ann.json()["Message"] != "after" {}
}
