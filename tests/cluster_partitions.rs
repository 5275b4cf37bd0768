//! Several servers, one of which is cut off from the log, or loses what comes from it, while its connections stay.

#[path = "support/broker.rs"]
mod broker;
#[path = "support/relay.rs"]
mod relay;
mod support;

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use broker::Broker;
use relay::{Relay, Way};
use serde_json::{Value, json};
use support::listener::Listener;
use support::{Client, PATIENCE, Server, wait_for};

fn node(url: &str, further: &[&str]) -> Server {
    // Messages wait for as long as it takes to notice that the log is away, and that it is back.
    let arguments = ["--cluster", url, "--cluster-timeout", "30s", "--internal", "127.0.0.1:0", "--rate-limit", "0"];
    Server::start(&[&arguments, further].concat())
}

/// Reads up to a frame of this kind, which it returns; messages with a `Seq` are added to `said`.
fn read_for(member: &mut Client, said: &mut Vec<String>, is_meant: impl Fn(&Value) -> bool) -> Value {
    let began = Instant::now();
    loop {
        let frame = member.json();
        assert_ne!(frame["Event"], "gap", "{frame}");
        said.extend(frame["Message"].as_str().filter(|_| frame["Seq"].is_u64()).map(str::to_owned));
        if is_meant(&frame) {
            return frame;
        }
        assert!(began.elapsed() < PATIENCE, "only {said:?}");
    }
}

/// Reads up to an event of a listener, which gets it as an event of that name without a place in the order.
fn wait_for_notice(listener: &mut Listener, name: &str) {
    let mut position = listener.last_event_id.clone();
    let event = loop {
        let event = listener.next().expect("an event");
        if event.name == name {
            break event;
        }
        assert_eq!(event.name, "message", "{event:?}");
        position = event.id;
    };
    assert_eq!((&event.json()["Event"], event.json()["Meta"] == true), (&json!(name), true));
    assert_eq!(event.id, position, "it moves nobody");
}

/// Reads messages with a `Seq` up to this text: without a hole, behind `seq`. Returns them.
fn read_until(member: &mut Client, text: &str) -> Vec<String> {
    let (mut seen, mut last) = (Vec::new(), None);
    while seen.last().is_none_or(|last| last != text) {
        let frame = member.json();
        assert_ne!(frame["Event"], "gap", "{frame}");
        if let Some(seq) = frame["Seq"].as_u64().filter(|_| frame["Op"].is_null()) {
            assert!(last.is_none_or(|last| last + 1 == seq), "behind {last:?}: {frame}");
            last = Some(seq);
            seen.push(frame["Message"].as_str().unwrap().to_owned());
        }
    }
    seen
}

/// Members of two servers, of which the second is cut off for a while.
fn cut_off_and_back(urls: [&str; 2], cut: impl FnOnce(), repair: impl FnOnce()) {
    let nodes = urls.map(|url| node(url, &[]));
    let (mut ann, _) = nodes[0].join_v1("ann", "tea");
    let (mut bob, _) = nodes[1].join_v1("bob", "tea");
    let mut old = nodes[1].join_quietly("cid", "tea");
    let mut listener = nodes[1].listen("tea", None).opened();
    let mut raw = [nodes[0].websocket("/raw/scores"), nodes[1].websocket("/raw/scores")];
    assert_eq!(ann.publish("tea", "before")["Op"], "ok");
    read_until(&mut bob, "before");
    cut();
    for number in 0..50 {
        assert_eq!(ann.publish("tea", &number.to_string())["Op"], "ok");
        raw[0].send_text(&number.to_string());
    }
    bob.send_text(&json!({"Op": "pub", "Ref": "bob", "Room": "tea", "Message": "from bob"}).to_string());
    let mut said = Vec::new();
    read_for(&mut bob, &mut said, |frame| frame["Event"] == "away");
    wait_for_notice(&mut listener, "away");
    assert_eq!(nodes[1].internal().metric("hi_cluster_up"), 0.0);
    assert_eq!(ann.users("tea"), ["ann", "bob", "cid"], "it is not given up yet");
    repair();
    let answer = read_for(&mut bob, &mut said, |frame| frame["Ref"] == "bob");
    assert_eq!(answer["Op"], "ok", "{answer}");
    let numbers: Vec<String> = (0..50).map(|number| number.to_string()).collect();
    assert_eq!(
        said.iter().filter(|text| *text != "from bob").cloned().collect::<Vec<_>>(),
        numbers,
        "once and in order"
    );
    wait_for_notice(&mut listener, "back");
    assert_eq!(ann.publish("tea", "after")["Op"], "ok");
    let expected: Vec<String> = numbers.iter().cloned().chain(["from bob".into(), "after".into()]).collect();
    let seen = read_until(&mut old, "after");
    assert!(seen.ends_with(&expected), "{seen:?}");
    while listener.message()["Message"] != "after" {}
    raw[0].send_text("after");
    for member in &mut raw {
        let seen: Vec<String> = std::iter::repeat_with(|| member.text()).take(51).collect();
        assert!(seen[..50] == numbers && seen[50] == "after", "{seen:?}");
    }
}

fn behind_a_relay(ways: &[Way]) {
    let broker = Broker::start();
    let relay = Relay::start(broker.port());
    let cut = || ways.iter().for_each(|way| relay.hold(*way));
    cut_off_and_back([&broker.url(), &relay.url()], cut, || relay.let_go());
}

#[test]
fn a_server_that_is_cut_off_both_ways_misses_nothing() {
    behind_a_relay(&[Way::ToLog, Way::FromLog]);
}

#[test]
fn a_server_that_can_not_speak_to_the_log_misses_nothing() {
    behind_a_relay(&[Way::ToLog]);
}

#[test]
fn a_server_that_does_not_hear_the_log_misses_nothing() {
    behind_a_relay(&[Way::FromLog]);
}

/// A network in which the log lives, with a link to each server.
struct Network {
    /// Holds it until its standard input ends.
    holder: Child,
    number: u8,
    links: u8,
}

impl Network {
    fn new(links: u8) -> Self {
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", "ip link set lo up && echo ready && exec cat"]);
        let mut holder = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("unshare is there");
        let mut ready = String::new();
        BufReader::new(holder.stdout.as_mut().unwrap()).read_line(&mut ready).unwrap();
        assert_eq!(ready, "ready\n", "this needs root");
        let network = Self { holder, number: fastrand::u8(..), links };
        for link in 0..links {
            let (near, far) = (network.link(link), format!("{}far", network.link(link)));
            let holder = network.holder.id().to_string();
            network.run(&format!("ip link add {near} type veth peer name {far} netns {holder}"), false);
            network.run(&format!("ip addr add {}/30 dev {near}", network.address(link, 1)), false);
            network.run(&format!("ip link set {near} up"), false);
            network.run(&format!("ip addr add {}/30 dev {far}", network.address(link, 2)), true);
            network.run(&format!("ip link set {far} up"), true);
        }
        network
    }

    fn link(&self, link: u8) -> String {
        format!("hi{}x{link}", self.number)
    }

    fn address(&self, link: u8, end: u8) -> String {
        format!("10.201.{}.{}", self.number, 4 * link + end)
    }

    /// Runs a command, also inside.
    fn run(&self, command: &str, inside: bool) {
        let holder = self.holder.id().to_string();
        let enter = ["nsenter", "--net", "--target", &holder, "--"];
        let words = enter.into_iter().filter(|_| inside).chain(command.split(' '));
        let words: Vec<&str> = words.collect();
        let status = Command::new(words[0]).args(&words[1..]).status().expect("iproute2 is there");
        assert!(status.success(), "{command}: this needs root");
    }

    fn set_link(&self, link: u8, state: &str) {
        self.run(&format!("ip link set {}far {state}", self.link(link)), true);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for link in 0..self.links {
            let _ = Command::new("ip").args(["link", "del", &self.link(link)]).status();
        }
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

#[test]
fn a_server_whose_link_is_down_misses_nothing() {
    let network = Network::new(2);
    let broker = Broker::start_in(network.holder.id());
    let url = |link| format!("nats://{}:{}", network.address(link, 2), broker.port());
    cut_off_and_back([&url(0), &url(1)], || network.set_link(1, "down"), || network.set_link(1, "up"));
}

#[test]
fn a_listener_that_has_seen_more_than_its_new_server_goes_on_without_a_gap() {
    let broker = Broker::start();
    let relay = Relay::start(broker.port());
    let nodes = [node(&broker.url(), &[]), node(&relay.url(), &[])];
    let (mut ann, _) = nodes[0].join_v1("ann", "tea");
    let (mut bob, _) = nodes[1].join_v1("bob", "tea");
    let mut listener = nodes[0].listen("tea", None).opened();
    assert_eq!(ann.publish("tea", "before")["Op"], "ok");
    read_until(&mut bob, "before");
    relay.hold(Way::FromLog);
    assert_eq!(ann.publish("tea", "one")["Op"], "ok");
    while listener.message()["Message"] != "one" {}
    let seen = listener.last_event_id.clone();
    let stream = nodes[1].connect();
    let moved = std::thread::scope(|scope| {
        let opening = scope.spawn(|| Listener::open(stream, "tea", Some(&seen)).opened());
        // It is asked about the room before its log comes through again.
        nodes[1].internal().wait_for_metric("hi_connections{dialect=\"sse\"}", 1.0);
        assert_eq!(ann.publish("tea", "two")["Op"], "ok");
        relay.let_go();
        opening.join().unwrap()
    });
    let mut listener = moved;
    assert_eq!(listener.last_event_id, seen, "it goes on behind what it has seen");
    assert_eq!(listener.message()["Message"], "two");
}

#[test]
fn a_server_that_loses_its_connection_to_the_log_for_a_moment_keeps_the_names_of_its_members() {
    let broker = Broker::start();
    let relay = Relay::start(broker.port());
    let nodes = [node(&broker.url(), &[]), node(&relay.url(), &[])];
    let (mut bob, _) = nodes[1].join_v1("bob", "tea");
    relay.cut();
    nodes[1].internal().wait_for_metric("hi_cluster_up", 0.0);
    wait_for(&1, || broker.clients());
    let (mut rival, _) = nodes[0].v1("username=bob");
    rival.send_text(&json!({"Op": "join", "Ref": "join", "Room": "tea"}).to_string());
    // It is asked about, and nobody answers.
    rival.socket.get_ref().set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let early = rival.socket.read();
    assert!(early.is_err(), "{early:?}");
    rival.socket.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
    relay.let_go();
    let refused = rival.json();
    assert_eq!(refused["Code"], "name_taken", "{refused}");
    assert_eq!(bob.users("tea"), ["bob"]);
}

/// Whoever waits for it keeps it, longer than it is kept without members.
#[test]
fn a_room_whose_names_can_not_be_read_for_a_while_is_there_for_who_still_waits() {
    let broker = Broker::start();
    let relay = Relay::start(broker.port());
    let options = ["--replay-age", "1s"];
    let nodes = [node(&broker.url(), &options), node(&relay.url(), &options)];
    let (mut ann, _) = nodes[0].join_v1("ann", "tea");
    let join = |user: &str| {
        let (mut client, _) = nodes[1].v1(&format!("username={user}"));
        client.send_text(&json!({"Op": "join", "Ref": "join", "Room": "tea"}).to_string());
        client
    };
    // The end of each answer about names.
    relay.lose_next(usize::MAX, "Nats-UpTo-Sequence");
    let mut early = join("bob");
    nodes[1].internal().wait_for_metric("hi_sleeping_rooms", 1.0);
    // The second still waits when the first has given up, and the room has slept for as long as it may.
    std::thread::sleep(Duration::from_secs(5));
    let mut late = join("cid");
    assert_eq!(early.json()["Code"], "unavailable");
    nodes[1].internal().wait_for_metric("hi_sleeping_rooms", 0.0);
    relay.lose_next(0, "");
    let joined = read_for(&mut late, &mut Vec::new(), |frame| frame["Ref"] == "join");
    assert_eq!(joined["Op"], "ok", "{joined}");
    assert_eq!(late.publish("tea", "here")["Op"], "ok");
    read_for(&mut ann, &mut Vec::new(), |frame| frame["Message"] == "here");
}

/// A log that elects a leader answers no question that was asked before.
#[test]
fn a_server_that_gets_no_answer_asks_again_soon() {
    let broker = Broker::start();
    let relay = Relay::start(broker.port());
    let _first = node(&broker.url(), &[]);
    relay.lose_next(1, "stream_msg_get_response");
    let node = node(&relay.url(), &[]);
    assert!(!relay.will_lose());
    let (mut bob, _) = node.join_v1("bob", "tea");
    relay.cut();
    node.internal().wait_for_metric("hi_cluster_up", 0.0);
    relay.lose_next(2, "stream_info_response");
    relay.let_go();
    node.internal().wait_for_metric("hi_cluster_up", 1.0);
    assert!(!relay.will_lose());
    assert_eq!(bob.publish("tea", "after")["Op"], "ok");
}

#[test]
fn a_last_message_that_is_lost_on_its_way_is_found() {
    let broker = Broker::start();
    let relay = Relay::start(broker.port());
    // A silent room is looked at every half second, for it is kept for four.
    let options = ["--replay-age", "1s", "--cluster-room-memory", "4s"];
    let nodes = [node(&broker.url(), &options), node(&relay.url(), &options)];
    let (mut ann, _) = nodes[0].join_v1("ann", "tea");
    let (mut bob, _) = nodes[1].join_v1("bob", "tea");
    assert_eq!(ann.publish("tea", "before")["Op"], "ok");
    read_until(&mut bob, "before");
    relay.lose_next(1, "HMSG hi.d.");
    assert_eq!(ann.publish("tea", "lost")["Op"], "ok");
    read_until(&mut bob, "lost");
    assert!(!relay.will_lose());
    assert_eq!(nodes[1].internal().metric("hi_cluster_repairs_total{outcome=\"whole\"}"), 1.0);
}
