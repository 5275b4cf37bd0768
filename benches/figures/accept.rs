//! What a connection costs from accept to 101 when thousands connect at once.

use std::time::Instant;

use crate::members::Members;
use crate::options::Options;
use crate::servers::{Kind, Server, Subject};
use crate::statistics::{Sure, median};
use crate::turns::Turns;

/// Connections of each storm.
const CONNECTIONS: usize = 9_000;
/// The bare server is the one that sends in a loop: before sending, it only accepts.
const SERVERS: [(Kind, &str); 3] = [
    (Kind::Hi, "hi"),
    (Kind::Send, "accept4, read, a fixed answer: nothing else"),
    (Kind::Tokio, "tokio, hyper and fastwebsockets, a task per connection"),
];

/// The table: each server takes a storm in turn, and restarts for the next one.
pub(crate) fn run(options: &Options) {
    let count = options.members.unwrap_or(CONNECTIONS);
    // A round takes as long as several rounds of other tables.
    let rounds = options.rounds.div_ceil(2);
    println!("\n{count} connections at once, accepted and upgraded, {rounds} rounds");
    let wanted = |kind| options.only.is_empty() || options.only.contains(&kind);
    let mut servers: Vec<(Subject, &str)> = Vec::new();
    servers.extend(SERVERS.into_iter().filter(|(kind, _)| wanted(*kind)).map(|(kind, what)| (kind.into(), what)));
    servers.extend(options.others.iter().map(|other| (Subject::Other(other.clone()), other.name.as_str())));
    let subjects = servers.iter().map(|(subject, _)| subject).collect();
    let costs = Turns::new(subjects, options.seed()).take(rounds, |subject| storm(subject, count, options));
    let cpu = |index: usize| costs[index].iter().map(|cost| cost.cpu).collect::<Vec<_>>();
    println!("   CPU us   connections/s   hi: CPU");
    for (index, (_, what)) in servers.iter().enumerate() {
        let per_second = median(&costs[index].iter().map(|cost| cost.per_second).collect::<Vec<_>>());
        let ratio = match index > 0 && wanted(Kind::Hi) {
            true => Sure::of_ratios(&cpu(0), &cpu(index)).to_string(),
            false => "1".into(),
        };
        println!("{:9.3} {per_second:15.0}   {ratio:18}   {what}", median(&cpu(index)));
    }
}

struct Cost {
    /// Microseconds of the server's CPU time per connection.
    cpu: f64,
    per_second: f64,
}

fn storm(subject: &Subject, count: usize, options: &Options) -> Cost {
    let case = options.chat(count);
    let server = Server::start(subject, case, options.against.as_deref());
    let before = server.cpu_time();
    let began = Instant::now();
    let members = Members::connect(server.address, count, case.frames);
    let wall = began.elapsed();
    let cpu = server.cpu_time() - before;
    // The server goes first, so that a profile shows handshakes, not closing.
    drop(server);
    drop(members);
    Cost { cpu: cpu.as_secs_f64() * 1e6 / count as f64, per_second: count as f64 / wall.as_secs_f64() }
}
