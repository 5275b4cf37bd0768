//! `hi doctor` with real DNS servers: their answers, disagreements and silence; and a record that still points to the old
//! address.

#[path = "support/dns.rs"]
mod dns;
#[path = "support/doctor.rs"]
mod run;
mod support;

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use dns::{Dns, Entry};
use run::{Proxy, Run, doctor};
use support::Server;

fn url(server: &Server) -> String {
    format!("ws://chat.example.com:{}/ws", server.port())
}

/// A resolver that never answers.
fn silent_resolver() -> (UdpSocket, String) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap().to_string();
    (socket, address)
}

/// hi on 127.0.0.3, and before it, on the same port of 127.0.0.2, the forgotten proxy: HTTP/1.0, without upgrades.
fn moved() -> Server {
    let server = Server::start_on("127.0.0.3:0", &[]);
    let upstream = SocketAddr::from(([127, 0, 0, 3], server.port()));
    let rewrite = |head: &str| {
        let keeps = |line: &&str| !["Upgrade:", "Connection:"].iter().any(|name| line.starts_with(name));
        let head: Vec<_> = head.split("\r\n").filter(keeps).collect();
        head.join("\r\n").replace("HTTP/1.1", "HTTP/1.0").replace("Host:", "Via: 1.0 old-host\r\nHost:")
    };
    let proxy = Proxy { rewrite, ..Proxy::default() };
    proxy.start(SocketAddr::from(([127, 0, 0, 2], server.port())), upstream);
    server
}

#[test]
fn the_whole_story() {
    let server = moved();
    let before = Dns::with_addresses(&[("chat", 3540, "127.0.0.2"), ("chat", 3540, "127.0.0.3")]);
    let run = doctor(&[&url(&server), "--resolver", &before.address()]);
    let said = run.expect("stale_address", 1);
    assert_eq!(
        said,
        "127.0.0.2 is not this server: an HTTP/1.0 proxy (Via: 1.0 old-host) answers there and drops Upgrade. The A record \
         of chat.example.com still points to it (TTL 3,540 s). point the record at 127.0.0.3"
    );
    // Everything else works through it: the same hi answers.
    let instance = |run: &Run, ip: &str| run.address(ip)["echo"]["done"]["received"]["instance"].clone();
    assert_eq!(instance(&run, "127.0.0.2"), instance(&run, "127.0.0.3"));

    let after = Dns::with_addresses(&[("chat", 60, "127.0.0.3")]);
    doctor(&[&url(&server), "--resolver", &after.address()]).expect("sound", 0);
}

#[test]
fn the_only_record_points_to_the_old_address() {
    let server = moved();
    let dns = Dns::with_addresses(&[("chat", 300, "127.0.0.2")]);
    // Without a healthy address to compare with, the hop itself is the verdict.
    doctor(&[&url(&server), "--resolver", &dns.address()]).expect("http10_hop", 1);
    // Whoever knows the new address learns more: it is examined although no record names it.
    let run = doctor(&[&url(&server), "--resolver", &dns.address(), "--expect-ip", "127.0.0.3"]);
    let said = run.expect("stale_address", 1);
    assert!(said.contains("127.0.0.2 is not this server") && said.ends_with("127.0.0.3"), "{said}");
    assert_eq!(run.others(), ["missing_address"]);
    assert!(!run.address("127.0.0.3")["handshake"]["done"].is_null());
}

#[test]
fn an_unexpected_address() {
    let server = Server::start_on("0.0.0.0:0", &[]);
    let dns = Dns::with_addresses(&[("chat", 60, "127.0.0.1"), ("chat", 60, "127.0.0.2")]);
    let args = |expected: &'static [&str]| {
        let mut args = vec![url(&server), "--resolver".into(), dns.address()];
        args.extend(expected.iter().flat_map(|ip| ["--expect-ip".to_owned(), (*ip).to_owned()]));
        args
    };
    let run = |args: Vec<String>| doctor(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let said = run(args(&["127.0.0.1"])).expect("unexpected_address", 1);
    assert!(said.contains("127.0.0.2 is not among the expected"), "{said}");
    run(args(&["127.0.0.1", "127.0.0.2"])).expect("sound", 0);
    let missing = run(args(&["127.0.0.1", "127.0.0.2", "127.0.0.4"])).expect("missing_address", 1);
    assert!(missing.contains("127.0.0.4"), "{missing}");
}

#[test]
fn two_servers_under_one_name() {
    let one = Server::start_on("127.0.0.2:0", &[]);
    let _other = Server::start_on(&format!("127.0.0.3:{}", one.port()), &[]);
    let dns = Dns::with_addresses(&[("chat", 60, "127.0.0.2"), ("chat", 60, "127.0.0.3")]);
    let run = doctor(&[&url(&one), "--resolver", &dns.address()]);
    run.expect("sound", 0);
    assert_eq!(run.others(), ["another_instance"]);
}

#[test]
fn one_family_is_dead() {
    let server = Server::start(&[]);
    let dns = Dns::with_addresses(&[("chat", 60, "127.0.0.1"), ("chat", 60, "::1")]);
    let run = doctor(&[&url(&server), "--resolver", &dns.address()]);
    if TcpListener::bind("[::1]:0").is_err() {
        // A machine without IPv6 can't judge it.
        run.expect("sound", 0);
        return assert_eq!(run.others(), ["no_route_here"]);
    }
    let said = run.expect("ipv6_broken", 1);
    assert!(said.contains("::1: nothing listens there") && said.contains("AAAA record away"), "{said}");
}

#[test]
fn resolvers_that_disagree_are_both_shown() {
    let server = Server::start_on("0.0.0.0:0", &[]);
    let (one, other) =
        (Dns::with_addresses(&[("chat", 300, "127.0.0.1")]), Dns::with_addresses(&[("chat", 60, "127.0.0.2")]));
    let run = doctor(&[&url(&server), "--resolver", &one.address(), "--resolver", &other.address()]);
    run.expect("sound", 0);
    assert_eq!(run.others(), ["resolvers_disagree"]);
    let text = run.json["diagnosis"]["others"][0].to_string();
    for part in [&one.address(), "127.0.0.1 (TTL 300 s)", &other.address(), "127.0.0.2 (TTL 60 s)", "in 300 s"] {
        assert!(text.contains(part), "{part:?} in {text}");
    }
}

#[test]
fn aliases_are_followed_and_the_record_behind_them_is_named() {
    let server = moved();
    let dns = Dns::start(&[
        ("chat", 30, Entry::Alias("front")),
        ("front", 20, Entry::Alias("old")),
        ("old", 10, Entry::Address("127.0.0.2".parse().unwrap())),
        ("old", 10, Entry::Address("127.0.0.3".parse().unwrap())),
    ]);
    let run = doctor(&[&url(&server), "--resolver", &dns.address()]);
    let said = run.expect("stale_address", 1);
    assert!(said.contains("The A record of old.example.com still points to it (TTL 10 s)"), "{said}");
    let aliases = run.json["facts"]["dns"][0]["a"]["aliases"].as_array().unwrap();
    let names: Vec<_> = aliases.iter().map(|alias| (&alias["name"], &alias["ttl_seconds"])).collect();
    assert_eq!(
        format!("{names:?}"),
        r#"[(String("chat.example.com"), Number(30)), (String("front.example.com"), Number(20))]"#
    );
}

#[test]
fn names_that_lead_nowhere() {
    let dns = Dns::start(&[("bare", 60, Entry::Text)]);
    let run = |name: &str| doctor(&[&format!("ws://{name}.example.com/ws"), "--resolver", &dns.address()]);
    let said = run("nobody").expect("dns_no_such_name", 1);
    assert!(said.contains("NXDOMAIN") && said.contains(&dns.address()), "{said}");
    run("bare").expect("dns_no_address", 1);
}

#[test]
fn a_resolver_that_does_not_answer_takes_a_bounded_time() {
    let (_socket, silent) = silent_resolver();
    let run = doctor(&["ws://chat.example.com/ws", "--resolver", &silent, "--timeout", "1s"]);
    let said = run.expect("dns_no_answer", 1);
    assert!(said.contains(&silent), "{said}");
    assert!(run.took < Duration::from_secs(8), "{:?}", run.took);

    // If another one answers, it is a note.
    let server = Server::start(&[]);
    let dns = Dns::with_addresses(&[("chat", 60, "127.0.0.1")]);
    let both = ["--resolver", &silent, "--resolver", &dns.address(), "--timeout", "1s"];
    let run = doctor(&[&[url(&server).as_str()], &both[..]].concat());
    run.expect("sound", 0);
    assert_eq!(run.others(), ["resolver_silent"]);
}
