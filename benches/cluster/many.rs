//! One room over several servers.

use std::time::{Duration, Instant};

use crate::broker::Broker;
use crate::members::Members;
use crate::messages::{Message, now};
use crate::nodes::node;
use crate::options::Options;
use crate::process::Server;
use crate::reader::{ROOM, Reader};

/// Memory that a connection takes at both of its ends, with what the kernel takes for it.
const BYTES_PER_CONNECTION: usize = 40_000;

pub(crate) fn run(options: &Options) {
    let Options { servers: count, members, messages, rate, dialect, .. } = *options;
    let (connections, available) = (count * members, available_bytes());
    println!(
        "\none room ({dialect:?}), {count} servers with {members} members each, {messages} messages, {rate} a second"
    );
    if available < connections * BYTES_PER_CONNECTION {
        println!(
            "SKIPPED: NOT MEASURED: {connections} connections need {BYTES_PER_CONNECTION} bytes each, and only {available} are free"
        );
        return;
    }
    let broker = Broker::start();
    let servers: Vec<Server> = (0..count).map(|_| node(&broker)).collect();
    let empty: Vec<usize> = servers.iter().map(Server::resident_bytes).collect();
    let began = Instant::now();
    let start = |(number, server): (usize, &Server)| Reader::start(server.address, dialect, number * members, members);
    let mut readers: Vec<Reader> = servers.iter().enumerate().map(start).collect();
    readers.iter_mut().for_each(Reader::joined);
    println!("all joined in {:.1} s", began.elapsed().as_secs_f64());
    // What the publishers get waits in their sockets: there is little of it.
    let mut publishers: Vec<Members> = servers
        .iter()
        .enumerate()
        .map(|(number, server)| {
            let mut publisher = Members::new();
            publisher
                .join(server.address, dialect, connections + number..connections + number + 1, |_| ROOM.to_owned());
            publisher
        })
        .collect();
    let before: Vec<Duration> = servers.iter().map(Server::cpu_time).collect();
    let began = Instant::now();
    for number in 0..messages {
        std::thread::sleep((Duration::from_secs(1) * number as u32 / rate).saturating_sub(began.elapsed()));
        let frame = dialect.frame(ROOM, Message { number: number as u64, due: now() });
        publishers[number % count].publish(&frame);
    }
    let got: Vec<_> = readers.iter_mut().map(|reader| reader.got(messages)).collect();
    assert!(got.iter().all(|other| other.order == got[0].order), "the servers have different orders");
    println!("every member got every message, all in the same order");
    println!("   CPU us    p50 ms    p99 ms    max ms    bytes a member");
    for (((server, got), cpu), empty) in servers.iter().zip(&got).zip(before).zip(empty) {
        let cpu = (server.cpu_time() - cpu).as_secs_f64() * 1e6 / (messages * members) as f64;
        let bytes = (server.resident_bytes() - empty) / members;
        println!("{cpu:9.3} {:9.1} {:9.1} {:9.1} {bytes:17}", got.p50_ms, got.p99_ms, got.max_ms);
    }
}

/// Memory that is free, or can be made free.
fn available_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/meminfo").expect("/proc can be read");
    let line = text.lines().find(|line| line.starts_with("MemAvailable:")).expect("the kernel counts its memory");
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}
