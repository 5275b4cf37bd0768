//! What one address may use of a server: connections, handshakes, chat messages; and whom that doesn't concern.

mod support;

use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use serde_json::{Value, json};
use support::wire::{Answer, Wire, handshake};
use support::{Client, PATIENCE, Server};

/// Limits count for the addresses of this machine, too.
const ALL: &str = "--unlimited-addresses=none";

fn connect_from(last: u8, to: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0)).into()).unwrap();
    socket.connect(&to.into()).expect("hi accepts");
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.into()
}

/// A WebSocket from 127.0.0.`last`, or what it is answered.
fn upgrade(server: &Server, last: u8, path: &str) -> Result<Wire, Answer> {
    let mut wire = Wire::new(connect_from(last, server.address()));
    wire.send(handshake(path));
    let answer = wire.answer();
    if answer.status == 101 { Ok(wire) } else { Err(answer) }
}

/// A chat client in the room tea, from 127.0.0.`last`.
fn chat(server: &Server, last: u8, user: &str) -> Client {
    let url = format!("ws://{}/ws?username={user}&room=tea", server.address());
    let (socket, _) = tungstenite::client(url, connect_from(last, server.address())).expect("the handshake succeeds");
    Client { socket }
}

#[test]
fn an_address_may_have_so_many_connections_and_others_are_not_concerned() {
    let (server, internal) = Server::start_with_internal(&[ALL, "--max-per-address", "3"]);
    let mut open: Vec<_> = (0..2).map(|_| upgrade(&server, 1, "/raw/data").expect("within the limit")).collect();
    let mut stream = Wire::new(connect_from(1, server.address()));
    stream.send("GET /stream/tea HTTP/1.1\r\nHost: hi\r\n\r\n");
    internal.wait_for_metric("hi_connections{dialect=\"sse\"}", 1.0);
    let refused = upgrade(&server, 1, "/ws?username=ada").err().expect("one too many");
    assert_eq!((refused.status, refused.header("Retry-After")), (429, Some("10")), "{refused:?}");
    assert!(refused.body.contains("Your address (127.0.0.1) has 3 connections open"), "{}", refused.body);
    let line = server.wait_for_log("refused: too_many_from_address");
    assert!(line.contains("--unlimited-addresses") && line.contains("add it to --trusted-proxies"), "{line}");
    internal.wait_for_metric("hi_address_limited_total{limit=\"connections\"}", 1.0);
    internal.wait_for_metric("hi_handshake_failures_total{reason=\"too_many_from_address\",hop=\"direct\"}", 1.0);
    // Others, and what is no connection.
    let _other = upgrade(&server, 2, "/raw/data").expect("another address");
    assert!(server.get("/").starts_with("HTTP/1.1 200 "));
    internal.wait_for_metric("hi_addresses", 2.0);
    // One ends, another one may come.
    drop(open.pop());
    internal.wait_for_metric("hi_connections{dialect=\"raw\"}", 2.0);
    open.push(upgrade(&server, 1, "/raw/data").expect("within the limit again"));
}

#[test]
fn handshakes_are_counted_and_failures_twice() {
    let (server, internal) = Server::start_with_internal(&[ALL, "--handshakes-per-address=6"]);
    for _ in 0..2 {
        assert_eq!(upgrade(&server, 1, "/ws?username=%23").err().expect("no name").status, 400);
    }
    for _ in 0..2 {
        upgrade(&server, 1, "/raw/data").expect("within the limit");
    }
    let refused = upgrade(&server, 1, "/raw/data").err().expect("one too many");
    assert_eq!(refused.status, 429);
    let wait: u64 = refused.header("Retry-After").expect("when to try again").parse().unwrap();
    assert!((1..=11).contains(&wait), "{wait}");
    assert!(refused.body.contains("connects too often: 6 times a minute"), "{}", refused.body);
    internal.wait_for_metric("hi_address_limited_total{limit=\"handshakes\"}", 1.0);
    upgrade(&server, 2, "/raw/data").expect("another address");
    // Pages are no handshakes.
    for _ in 0..10 {
        assert!(server.get("/healthz").ends_with("ok"));
    }
}

#[test]
fn all_connections_of_an_address_share_its_messages_also_those_that_come_again() {
    let (server, internal) = Server::start_with_internal(&[ALL, "--messages-per-address=5", "--rate-limit=0"]);
    let (mut v1, _) = server.v1_over(connect_from(1, server.address()), "username=v");
    v1.join_room("coffee", None);
    let mut reader = chat(&server, 2, "reader");
    // 10 at once are allowed, and a client that connects anew for each message has no more.
    let mut refused = 0;
    for number in 0..30 {
        let mut client = chat(&server, 1, &format!("u{number}"));
        client.say("tea", &format!("message {number}"));
        loop {
            let said = client.json();
            if said["Message"] == format!("message {number}") {
                break;
            }
            if said["Message"]
                .as_str()
                .unwrap()
                .starts_with("Too fast: that message was not delivered. All connections")
            {
                refused += 1;
                break;
            }
        }
    }
    assert!((10..=21).contains(&refused), "{refused}");
    internal.wait_for_metric("hi_address_limited_total{limit=\"messages\"}", f64::from(refused));
    internal.wait_for_metric("hi_rate_limited_total{dialect=\"v0\"}", f64::from(refused));
    // Another address goes on, and raw rooms have no such limit.
    reader.say("tea", "from elsewhere");
    while reader.json()["Message"] != "from elsewhere" {}
    let errors = (0..20).filter(|number| {
        v1.send_text(&json!({"Op": "pub", "Ref": number, "Room": "coffee", "Message": "x"}).to_string());
        let answer = loop {
            let answer: Value = v1.json();
            if answer["Ref"] == *number {
                break answer;
            }
        };
        answer["Code"] == "too_many_requests"
    });
    assert!(errors.count() > 5);
}

#[test]
fn this_machine_trusted_proxies_and_listed_networks_have_no_limits() {
    let limits = ["--max-per-address=1", "--handshakes-per-address=2", "--messages-per-address=1"];
    let server = Server::start(&limits);
    let _open: Vec<_> = (0..10).map(|_| upgrade(&server, 1, "/raw/data").expect("this machine")).collect();
    let server =
        Server::start(&[&limits[..], &["--unlimited-addresses=127.0.0.5", "--trusted-proxies=127.0.0.6"]].concat());
    for last in [5, 6] {
        let _open: Vec<_> = (0..10).map(|_| upgrade(&server, last, "/raw/data").expect("no limits")).collect();
    }
    let _one = upgrade(&server, 7, "/raw/data").expect("within the limit");
    assert_eq!(upgrade(&server, 7, "/raw/data").err().expect("one too many").status, 429);
    // Behind a trusted proxy, each client has limits of its own.
    let through_proxy = |client: &str| {
        let mut wire = Wire::new(connect_from(6, server.address()));
        wire.send(handshake("/raw/data").replace("\r\n\r\n", &format!("\r\nX-Forwarded-For: {client}\r\n\r\n")));
        (wire.answer().status, wire)
    };
    let (first, _wire) = through_proxy("203.0.113.7");
    let (second, _) = through_proxy("203.0.113.7");
    let (third, _other) = through_proxy("203.0.113.8");
    assert_eq!((first, second, third), (101, 429, 101));
}

#[test]
fn with_none_unlimited_a_trusted_proxy_has_limits_too() {
    let server = Server::start(&[ALL, "--max-per-address=1", "--trusted-proxies=127.0.0.6"]);
    let _one = upgrade(&server, 6, "/raw/data").expect("within the limit");
    assert_eq!(upgrade(&server, 6, "/raw/data").err().expect("one too many").status, 429);
}
