//! Raw rooms of several servers: one order for all members, whatever a client sends unchanged.

#[path = "support/broker.rs"]
mod broker;
mod support;

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use broker::Broker;
use support::{Client, Server};
use tungstenite::Message;

fn node(broker: &Broker) -> Server {
    Server::start(&["--cluster", &broker.url(), "--internal", "127.0.0.1:0"])
}

/// The next message of a raw room, which has to be text.
fn text(member: &mut Client) -> String {
    match member.next() {
        Message::Text(text) => text.to_string(),
        other => panic!("{other:?}"),
    }
}

/// Members on all servers, and a publisher on each that sends `count` messages and "end"; returns what the members got.
fn exchange(nodes: &[Server], count: usize, meanwhile: impl FnOnce(&AtomicBool) + Send) -> Vec<Vec<String>> {
    let mut members: Vec<Client> = nodes.iter().map(|node| node.websocket("/raw/scores")).collect();
    let mut publishers: Vec<Client> = nodes.iter().map(|node| node.websocket("/raw/scores?echo=0")).collect();
    let (ends, done) = (nodes.len(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| meanwhile(&done));
        let read = move |member: &mut Client, own: Option<usize>| {
            let (mut seen, mut ended) = (Vec::new(), usize::from(own.is_some()));
            while ended < ends {
                let text = text(member);
                assert!(own.is_none_or(|own| !text.starts_with(&format!("{own}:"))), "{text} comes back");
                ended += usize::from(text.ends_with(":end"));
                seen.push(text);
            }
            seen
        };
        let readers: Vec<_> = members.iter_mut().map(|member| scope.spawn(move || read(member, None))).collect();
        let publishing = publishers.iter_mut().enumerate().map(|(number, publisher)| {
            scope.spawn(move || {
                for message in 0..count {
                    publisher.send_text(&format!("{number}:{message}"));
                    if message % 10 == 9 {
                        std::thread::sleep(Duration::from_millis(2));
                    }
                }
                publisher.send_text(&format!("{number}:end"));
                read(publisher, Some(number))
            })
        });
        let publishing: Vec<_> = publishing.collect();
        let seen: Vec<_> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
        for publisher in publishing {
            assert_eq!(publisher.join().unwrap().len(), (count + 1) * (ends - 1));
        }
        done.store(true, Ordering::SeqCst);
        seen
    })
}

fn check(seen: &[Vec<String>], count: usize) {
    for other in &seen[1..] {
        assert_eq!(other, &seen[0], "one order");
    }
    let all: BTreeSet<&String> = seen[0].iter().collect();
    assert_eq!((all.len(), seen[0].len()), ((count + 1) * seen.len(), (count + 1) * seen.len()), "each once");
    for publisher in 0..seen.len() {
        let prefix = format!("{publisher}:");
        let own: Vec<&str> = seen[0].iter().filter_map(|text| text.strip_prefix(&prefix)).collect();
        let sent = (0..count).map(|number| number.to_string()).chain(["end".to_owned()]);
        assert!(own.into_iter().eq(sent), "the order of each publisher is kept");
    }
}

#[test]
fn members_on_three_servers_see_one_order_and_nobody_gets_its_own_if_it_does_not_want_that() {
    let broker = Broker::start();
    let nodes = [node(&broker), node(&broker), node(&broker)];
    check(&exchange(&nodes, 300, |_| {}), 300);
}

#[test]
fn bytes_and_programs_reach_members_on_all_servers() {
    let broker = Broker::start();
    let nodes = [node(&broker), node(&broker)];
    let (mut first, mut second) = (nodes[0].websocket("/raw/scores"), nodes[1].websocket("/raw/scores"));
    let bytes: Vec<u8> = (0..=255).chain([13, 10]).collect();
    first.socket.send(Message::binary(bytes.clone())).unwrap();
    for member in [&mut first, &mut second] {
        assert_eq!(member.next(), Message::binary(bytes.clone()));
    }
    second.close();
    let answer = nodes[1].internal().ask("POST", "/pub/scores", &[("Content-Type", "text/plain")], b"hello");
    assert_eq!(text(&mut first), "hello");
    assert!([200, 202].contains(&answer.status), "{answer:?}");
}

#[test]
fn a_publisher_is_closed_if_its_message_may_be_lost_and_members_stay() {
    let mut broker = Broker::start();
    let node = Server::start(&["--cluster", &broker.url(), "--cluster-timeout", "1s"]);
    let (mut member, mut publisher) = (node.websocket("/raw/scores"), node.websocket("/raw/scores"));
    publisher.send_text("one");
    assert_eq!((text(&mut member), text(&mut publisher)), ("one".into(), "one".into()));
    broker.kill();
    publisher.send_text("two");
    assert_eq!(publisher.expect_close().0, 1013);
    broker.restart();
    let mut publisher = node.websocket("/raw/scores?echo=0");
    publisher.send_text("three");
    // What the log has lost with its memory, nobody knows: a member that can't be told is closed, unless it asked for less.
    assert_eq!(member.expect_close().0, 4101);
}

#[test]
fn nothing_comes_before_the_answer_to_a_handshake_that_waits_for_its_room() {
    let broker = Broker::start();
    let url = broker.url();
    let node = Server::start(&["--cluster", &url, "--cluster-timeout", "5s", "--ping-interval", "1s"]);
    broker.pause();
    let mut stream = node.connect();
    let request = "GET /raw/scores HTTP/1.1\r\nHost: hi\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut beginning = [0; 9];
    stream.read_exact(&mut beginning).unwrap();
    broker.go_on();
    assert_eq!(str::from_utf8(&beginning), Ok("HTTP/1.1 "));
}

#[test]
fn a_member_that_joins_behind_a_loss_has_missed_nothing() {
    let mut broker = Broker::start();
    let node = node(&broker);
    let (mut strict, mut lossy) = (node.websocket("/raw/scores"), node.websocket("/raw/scores?lossy=1"));
    strict.send_text("one");
    assert_eq!((text(&mut strict), text(&mut lossy)), ("one".into(), "one".into()));
    broker.kill();
    broker.restart();
    assert_eq!(strict.expect_close().0, 4101, "it is told at once");
    // On both shards, one of which has a member.
    let mut late: Vec<Client> = (0..6).map(|_| node.websocket("/raw/scores")).collect();
    late[0].send_text("two");
    for member in late.iter_mut().chain([&mut lossy]) {
        assert_eq!(text(member), "two");
    }
}
