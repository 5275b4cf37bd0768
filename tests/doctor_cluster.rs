//! `hi doctor` and several servers under one name: it finds the one that shares its rooms with others, and the one that
//! can't reach the log.

#[path = "support/broker.rs"]
mod broker;
#[path = "support/dns.rs"]
mod dns;
#[path = "support/doctor.rs"]
mod run;
mod support;

use std::time::{Duration, Instant};

use broker::Broker;
use dns::Dns;
use run::{Run, doctor, doctor_text};
use support::{PATIENCE, Server};

/// The addresses of `chat.example.com`, one server at each.
const ADDRESSES: [&str; 3] = ["127.0.0.2", "127.0.0.3", "127.0.0.4"];

/// Three servers, each with its own options.
fn nodes(options: [&[&str]; 3]) -> Vec<Server> {
    let mut nodes: Vec<Server> = Vec::new();
    for (ip, options) in ADDRESSES.iter().zip(options) {
        let port = nodes.first().map_or(0, Server::port);
        nodes.push(Server::start_on(&format!("{ip}:{port}"), options));
    }
    nodes
}

/// The name server, and the arguments of the doctor.
fn arguments(nodes: &[Server]) -> (Dns, Vec<String>) {
    let dns = Dns::with_addresses(&ADDRESSES.map(|ip| ("chat", 60, ip)));
    let url = format!("ws://chat.example.com:{}/ws", nodes[0].port());
    let resolver = dns.address();
    (dns, vec![url, "--resolver".into(), resolver])
}

fn examine(nodes: &[Server]) -> Run {
    let (_dns, arguments) = arguments(nodes);
    doctor(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn servers_that_share_their_rooms_are_one() {
    let broker = Broker::start();
    let url = broker.url();
    let options = ["--cluster", &url, "--cluster-name", "tea"];
    let nodes = nodes([&options; 3]);
    let run = examine(&nodes);
    run.expect("sound", 0);
    assert_eq!(run.others(), [""; 0]);
    let seen = ADDRESSES.map(|ip| run.address(ip)["echo"]["done"]["received"]["cluster"].clone());
    assert!(seen[0]["name"] == "tea" && seen[0]["log"].as_str().is_some_and(|log| log.len() == 16), "{seen:?}");
    assert!(seen.iter().all(|cluster| *cluster == seen[0]), "{seen:?}");
    let (_dns, arguments) = arguments(&nodes);
    let (_, text) = doctor_text(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(text.contains(&format!(" of the cluster tea ({}); ", seen[0]["log"].as_str().unwrap())), "{text}");
}

#[test]
fn a_server_of_the_cluster_may_answer_at_the_public_address() {
    let (broker, another) = (Broker::start(), Broker::start());
    let (url, other_url) = (broker.url(), another.url());
    let at_the_address = Server::start(&["--cluster", &url]);
    let public = format!("ws://{}/ws", at_the_address.address());
    for (cluster, said) in [(&url, "works, and leads here"), (&other_url, "leads to another server than this one")] {
        let node = Server::start(&["--cluster", cluster, "--public-url", &public, "--public-interval", "100ms"]);
        let line = node.wait_for_log("public path");
        assert!(line.contains(said), "{line}");
    }
}

#[test]
fn a_server_of_another_cluster_is_named() {
    let (broker, another) = (Broker::start(), Broker::start());
    let (url, other_url) = (broker.url(), another.url());
    let ours = &["--cluster", &url][..];
    for (theirs, what, fix) in [
        (&["--cluster", &url, "--cluster-name", "tea"][..], "the cluster tea and not to hi", "--cluster-name hi"),
        (&["--cluster", &other_url], "another cluster of the name hi", "the --cluster of 127.0.0."),
        (&[], "shares its rooms with no other server", "the --cluster of 127.0.0."),
    ] {
        let nodes = nodes([ours, theirs, ours]);
        let run = examine(&nodes);
        let said = run.expect("another_cluster", 1);
        assert!(said.starts_with("127.0.0.3 ") && said.contains(what) && said.contains(fix), "{said}");
        assert_eq!(run.json["diagnosis"]["verdict"]["address"], "127.0.0.3");
        assert_eq!(run.others(), [""; 0]);
    }
}

#[test]
fn a_server_that_cannot_reach_the_log_is_named() {
    let (mut broker, mut another) = (Broker::start(), Broker::start());
    let (url, other_url) = (broker.url(), another.url());
    let nodes = nodes([&["--cluster", &url], &["--cluster", &url], &["--cluster", &other_url]]);
    another.kill();
    let run = when_away(&nodes, &["127.0.0.4"]);
    let said = run.expect("cluster_away", 1);
    assert!(said.starts_with("127.0.0.4: hi has not reached the NATS servers of its cluster hi for "), "{said}");
    assert!(said.contains("/readyz"), "{said}");
    assert_eq!((away(&run, "127.0.0.2"), away(&run, "127.0.0.3")), (None, None));
    broker.kill();
    when_away(&nodes, &ADDRESSES).expect("cluster_away", 1);
}

/// For how many seconds the server at an address has not reached the log.
fn away(run: &Run, ip: &str) -> Option<u64> {
    run.address(ip)["echo"]["done"]["received"]["cluster"]["away_seconds"].as_u64()
}

/// What the doctor finds once these servers have been away long enough for their users to be told.
fn when_away(nodes: &[Server], ips: &[&str]) -> Run {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let run = examine(nodes);
        if ips.iter().all(|ip| away(&run, ip).is_some_and(|seconds| seconds >= 2)) {
            return run;
        }
        assert!(Instant::now() < deadline, "they are away: {:#}", run.json);
        std::thread::sleep(Duration::from_millis(100));
    }
}
