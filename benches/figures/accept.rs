//! What a connection costs from accept to 101: when thousands connect at once, and when they connect one by one.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::connect;
use crate::members::Members;
use crate::options::Options;
use crate::servers::{Kind, Server, Subject};
use crate::statistics::{Sure, median};
use crate::turns::Turns;

/// Connections of each storm.
const AT_ONCE: usize = 9_000;
/// Connections of each turn when they come one by one.
const ONE_BY_ONE: usize = 200;
/// The bare server is the one that sends in a loop: before sending, it only accepts.
const SERVERS: [(Kind, &str); 3] = [
    (Kind::Hi, "hi"),
    (Kind::Send, "accept4, read, a fixed answer: nothing else"),
    (Kind::Tokio, "tokio, hyper and fastwebsockets, a task per connection"),
];

/// The table of storms: each server takes one in turn, and restarts for the next one.
pub(crate) fn storms(options: &Options) {
    let count = options.members.unwrap_or(AT_ONCE);
    // A round takes as long as several rounds of other tables.
    let rounds = options.rounds.div_ceil(2);
    println!("\n{count} connections at once, accepted and upgraded, {rounds} rounds");
    let subjects = subjects(options);
    let costs = Turns::new(subjects.iter().collect(), options.seed())
        .take(rounds, |(subject, _)| storm(subject, count, options));
    table(&subjects, &costs, "connections/s");
}

/// The table of connections that come one by one: all servers are up, and get some in each turn.
pub(crate) fn one_by_one(options: &Options) {
    let (count, rounds) = (options.members.unwrap_or(ONE_BY_ONE), options.rounds);
    println!("\n{count} connections, one after the other, accepted and upgraded, {rounds} rounds");
    let subjects = subjects(options);
    // The bare server accepts this many in all. The first round is a warm-up, which doesn't count.
    let case = options.chat(count * (rounds + 1));
    let start = |(subject, _): &(Subject, &str)| Server::start(subject, case, options.against.as_deref());
    let servers = subjects.iter().map(start).collect();
    let mut costs = Turns::new(servers, options.seed()).take(rounds + 1, |server| connects(server, count));
    costs.iter_mut().for_each(|costs| drop(costs.drain(..1)));
    table(&subjects, &costs, "handshake us");
}

/// The servers and their names in the table.
fn subjects(options: &Options) -> Vec<(Subject, &str)> {
    let is_wanted = |kind: &Kind| options.only.is_empty() || options.only.contains(kind);
    let known = SERVERS.into_iter().filter(|(kind, _)| is_wanted(kind));
    let against = options.against.iter().map(|_| (Kind::OtherHi, "another build of hi"));
    let known = known.chain(against).map(|(kind, what)| (kind.into(), what));
    known.chain(options.others.iter().map(|other| (Subject::Other(other.clone()), other.name.as_str()))).collect()
}

struct Cost {
    /// Microseconds of the server's CPU time per connection.
    cpu: f64,
    /// What else the table shows.
    pace: f64,
}

/// Each server's costs, and the first server's share of them.
fn table(subjects: &[(Subject, &str)], costs: &[Vec<Cost>], pace: &str) {
    let columns: [fn(&Cost) -> f64; 2] = [|cost| cost.cpu, |cost| cost.pace];
    println!("   CPU us   {pace:>13}   {:18} {pace}", format!("{}: CPU", subjects[0].1));
    for ((_, what), of_subject) in subjects.iter().zip(costs) {
        let [(cpu, cpu_share), (pace, pace_share)] = columns.map(|column| {
            let [ours, theirs] = [&costs[0], of_subject].map(|costs| costs.iter().map(column).collect::<Vec<_>>());
            let is_first = std::ptr::eq(&raw const costs[0], of_subject);
            let share = if is_first { "1".into() } else { Sure::of_ratios(&ours, &theirs).to_string() };
            (median(&theirs), share)
        });
        println!("{cpu:9.3}   {pace:13.0}   {cpu_share:18} {pace_share:18} {what}");
    }
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
    Cost { cpu: each(cpu, count), pace: count as f64 / wall.as_secs_f64() }
}

fn connects(server: &Server, count: usize) -> Cost {
    let mut times = Vec::with_capacity(count);
    let before = server.cpu_time();
    let connect = |_| {
        let began = Instant::now();
        let connection = connect::open(server.address, "/raw/figures");
        times.push(each(began.elapsed(), 1));
        connection
    };
    let connections: Vec<TcpStream> = (0..count).map(connect).collect();
    let cpu = server.cpu_time() - before;
    for connection in connections {
        // Ends with a reset: thousands of sockets in TIME_WAIT would weigh on the next measurement.
        SockRef::from(&connection).set_linger(Some(Duration::ZERO)).unwrap();
    }
    // The next server's turn begins when this one has closed all of them.
    server.cpu_time();
    Cost { cpu: each(cpu, count), pace: median(&times) }
}

/// Microseconds.
fn each(time: Duration, count: usize) -> f64 {
    time.as_secs_f64() * 1e6 / count as f64
}
