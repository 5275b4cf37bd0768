//! The figures of the README, measured side by side in one run: `cargo bench --bench figures`.
//!
//! One core serves, the other reads. In turn, round after round, the same members get the same messages from (a) hi, one
//! shard, as a whole: receive, decode, order, log, send; (b) a loop of `send(2)`; (c) a bare io_uring batch, the floor;
//! (d) tokio and fastwebsockets with a task and a bounded queue for each connection. First at a steady rate: CPU time of
//! the serving process per delivery (schedstat: what the scheduler counted in nanoseconds, kernel work included). Then one
//! message at a time, the next when all have it: wall time per delivery. Every delivery is checked: each member must have
//! got each byte of each frame in order, or the run fails.

mod bare;
mod frames;
mod members;
mod servers;
mod tokio_peer;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use frames::Frames;
use members::{Members, open};
use servers::{Guard, cpu_time, resident_bytes, start_hi, start_other};

/// A chat message.
const PAYLOAD_BYTES: usize = 128;
/// Larger ones, and the members that get them.
const LARGE: [usize; 3] = [1 << 10, 16 << 10, 256 << 10];
const LARGE_MEMBERS: usize = 100;
/// Deliveries a second at a steady rate, for any number of members,
const DELIVERIES_PER_SECOND: usize = 100_000;
/// and bytes a second, for any size.
const BYTES_PER_SECOND: usize = 400 << 20;
/// Messages a second at most: with few members, time would be spent on waiting.
const RATE_MAX: usize = 2_000;

/// The servers, in the order of their rounds.
const SERVERS: [(&str, &str); 4] = [
    ("hi", "hi"),
    ("send", "a loop of send(2)"),
    ("io_uring", "a bare io_uring batch, the floor"),
    ("tokio", "tokio and fastwebsockets, a task and a queue per connection"),
];

/// What to measure, from the command line: `--members 1000`, `--size 128`, `--seconds 5`, `--rounds 5`; `--idle` alone:
/// only the memory of idle connections.
struct Plan {
    /// Numbers of members, and the size of the messages that they get.
    cases: Vec<(usize, Frames)>,
    seconds: usize,
    rounds: usize,
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let size = |default| Frames { payload_bytes: number(&args, "--size", default) };
    match value(&args, "--serve").as_deref() {
        Some("tokio") => return tokio_peer::serve(),
        Some(kind) => return bare::serve(kind, number(&args, "--members", 1000), size(PAYLOAD_BYTES)),
        None => {}
    }
    hi::os::raise_file_limit().expect("the file limit can be raised to the hard limit");
    if args.iter().any(|arg| arg == "--idle") {
        return idle_memory();
    }
    let all = value(&args, "--members").is_none() && value(&args, "--size").is_none();
    let cases = if all {
        let small = [1, 100, 1000, 5000].map(|members| (members, PAYLOAD_BYTES));
        let large = LARGE.map(|payload_bytes| (LARGE_MEMBERS, payload_bytes));
        let all = small.into_iter().chain(large);
        all.map(|(members, payload_bytes)| (members, Frames { payload_bytes })).collect()
    } else {
        vec![(number(&args, "--members", 1000), size(PAYLOAD_BYTES))]
    };
    let plan = Plan { cases, seconds: number(&args, "--seconds", 5), rounds: number(&args, "--rounds", 5) };
    for (members, frames) in &plan.cases {
        fan_out(*members, *frames, &plan);
    }
    if all {
        idle_memory();
    }
}

fn value(args: &[String], name: &str) -> Option<String> {
    args.iter().position(|arg| arg == name).and_then(|index| args.get(index + 1)).cloned()
}

fn number(args: &[String], name: &str, default: usize) -> usize {
    value(args, name).map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name} takes a number")))
}

/// What one server's round came to, in microseconds per delivery.
#[derive(Clone, Copy)]
struct Cost {
    /// CPU time at a steady rate.
    cpu: f64,
    /// Wall time, one message at a time.
    wall: f64,
}

/// One table: each server's cost, and its ratio to hi's.
fn fan_out(members: usize, frames: Frames, plan: &Plan) {
    let payload_bytes = frames.payload_bytes;
    let per_second = DELIVERIES_PER_SECOND.min(BYTES_PER_SECOND / payload_bytes);
    let rate = (per_second / members).clamp(1, RATE_MAX);
    println!("\n{members} members, {rate} messages/s of {payload_bytes} bytes, {} rounds", plan.rounds);
    let mut costs: [Vec<Cost>; SERVERS.len()] = Default::default();
    for _ in 0..plan.rounds {
        for (index, (server, _)) in SERVERS.iter().enumerate() {
            costs[index].push(measure(server, members, frames, rate, plan.seconds));
        }
    }
    println!("{:>9} {:>9} {:>13} {:>13}", "CPU us", "wall us", "hi's CPU", "hi's wall");
    for ((_, what), of_server) in SERVERS.iter().zip(&costs) {
        let of = |part: fn(&Cost) -> f64| median(of_server.iter().map(part).collect());
        let ratio = |part: fn(&Cost) -> f64| {
            median(costs[0].iter().zip(of_server).map(|(ours, theirs)| part(ours) / part(theirs)).collect())
        };
        let (cpu, wall) = (of(|cost| cost.cpu), of(|cost| cost.wall));
        let (cpu_ratio, wall_ratio) = (ratio(|cost| cost.cpu), ratio(|cost| cost.wall));
        println!("{cpu:9.3} {wall:9.3} {cpu_ratio:8.2} of it {wall_ratio:7.2} of it   {what}");
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// One server's cost in one round.
fn measure(server: &str, members: usize, frames: Frames, rate: usize, seconds: usize) -> Cost {
    let (child, address) = match server {
        // Members may lag by a few of the largest messages.
        "hi" => start_hi(&["--shards", "1", "--max-message", "1m", "--backlog-bytes", "16m"]),
        other => start_other(other, members, frames.payload_bytes),
    };
    let child = Guard(child);
    // The serving thread is pinned to the first core; the children have started, so only we move.
    hi::os::pin_to_core(*ALL_CORES.last().expect("there is a core")).expect("our own core");
    let path = matches!(server, "hi" | "tokio").then_some("/raw/figures");
    let mut reading = Members::connect(address, path, members, frames);
    let mut publisher = match path {
        Some(path) => open(address, Some(&format!("{path}?echo=0"))),
        None => TcpStream::connect(address).expect("the server accepts the control connection"),
    };
    let mut sent = 0;
    let mut publish_next = |publisher: &mut TcpStream| -> u32 {
        let bytes = if path.is_some() { frames.masked(sent) } else { sent.to_be_bytes().to_vec() };
        publisher.write_all(&bytes).expect("the server takes the message");
        sent += 1;
        sent
    };
    // One message to warm up, and to know that everyone is in.
    let mut due = publish_next(&mut publisher);
    reading.read_until(due);
    let before = cpu_time(child.0.id());
    let began = Instant::now();
    let messages = rate * seconds;
    for message in 1..=messages {
        reading.read_while(began + Duration::from_secs(1) * message as u32 / rate as u32);
        due = publish_next(&mut publisher);
    }
    reading.read_until(due);
    let cpu = cpu_time(child.0.id()) - before;
    let began = Instant::now();
    let alone = (messages / 5).max(3);
    for _ in 0..alone {
        due = publish_next(&mut publisher);
        reading.read_until(due);
    }
    let wall = began.elapsed();
    hi::os::allow_cores(&ALL_CORES).expect("our own cores");
    let per_delivery = |time: Duration, messages: usize| time.as_secs_f64() * 1e6 / (messages * members) as f64;
    Cost { cpu: per_delivery(cpu, messages), wall: per_delivery(wall, alone) }
}

static ALL_CORES: std::sync::LazyLock<Vec<usize>> =
    std::sync::LazyLock::new(|| hi::os::allowed_cores().expect("the kernel tells"));

/// Resident bytes per idle connection: 9,000 against 1,000.
fn idle_memory() {
    let (child, address) = start_hi(&["--shards", "1"]);
    let child = Guard(child);
    let mut held: Vec<TcpStream> = Vec::new();
    let mut resident = |count: usize| {
        while held.len() < count {
            held.push(open(address, Some("/raw/idle")));
        }
        // A round trip through each shard: what was asked for before is done.
        let mut last = open(address, Some("/raw/other"));
        let done = Frames { payload_bytes: 4 };
        last.write_all(&done.masked(0)).unwrap();
        last.read_exact(&mut [0; 6]).unwrap();
        resident_bytes(child.0.id())
    };
    let few = resident(1000);
    let many = resident(9000);
    println!("idle connections: {} bytes of resident memory each (9,000 against 1,000)", (many - few) / 8000);
}
