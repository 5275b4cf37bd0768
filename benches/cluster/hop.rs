//! The way over the log: three servers take turns. One is alone; on one of a cluster messages are published, and delivered
//! to its members; another one of it only follows. The broker's CPU time is not counted, its time is.

use std::time::{Duration, Instant};

use crate::broker::Broker;
use crate::members::Members;
use crate::messages::{Dialect, Message, now};
use crate::nodes::{alone, node};
use crate::options::Options;
use crate::process::Server;
use crate::statistics::{Sure, median, percentile};
use crate::turns::Turns;

/// Members of the room, and messages per second.
const CASES: [(Dialect, usize, u32); 5] = [
    (Dialect::Chat, 1_000, 100),
    (Dialect::Raw, 1_000, 100),
    (Dialect::Chat, 100, 100),
    (Dialect::Chat, 1, 100),
    (Dialect::Chat, 1, 1_000),
];
/// Length of a turn.
const SLICE: Duration = Duration::from_millis(500);

/// A room, and the server that is measured.
struct Side<'a> {
    measured: &'a Server,
    room: String,
    /// The last one publishes.
    members: Members,
    /// Those on the measured server.
    measured_members: usize,
    published: usize,
}

/// The result of a turn: microseconds of CPU time per delivery, and milliseconds of latency.
struct Turn {
    cpu: f64,
    p50: f64,
    p99: f64,
}

pub(crate) fn run(options: &Options) {
    let broker = Broker::start();
    let (alone, first, second) = (alone(), node(&broker), node(&broker));
    let servers = [("publishes", &first, &first), ("follows", &second, &first), ("alone", &alone, &alone)];
    for (number, (dialect, members, rate)) in CASES.into_iter().enumerate() {
        let sides = servers.map(|(what, measured, publishes)| {
            let room = format!("hop{number}-{what}");
            let (mut all, measured_members) =
                (Members::new(), members + usize::from(measured.address == publishes.address));
            all.join(measured.address, dialect, 0..members, |_| room.clone());
            all.join(publishes.address, dialect, members..members + 1, |_| room.clone());
            Side { measured, room, members: all, measured_members, published: 0 }
        });
        let mut turns = Turns::new(sides.into(), options.seed);
        let results = turns.take(options.rounds + 1, |side| side.turn(dialect, rate));
        println!("\n{dialect:?}, {members} members, {rate} messages/s of 128 bytes, {} rounds", options.rounds);
        println!("   CPU us    p50 ms    p99 ms   CPU / alone's      p50, added ms       p99, added ms");
        let each = |turns: &[Turn], of: fn(&Turn) -> f64| turns[1..].iter().map(of).collect::<Vec<_>>();
        let columns: [fn(&Turn) -> f64; 3] = [|turn| turn.cpu, |turn| turn.p50, |turn| turn.p99];
        let base = columns.map(|column| each(&results[2], column));
        for ((what, ..), turns) in servers.iter().zip(&results) {
            let [cpu, p50, p99] = columns.map(|column| each(turns, column));
            let added = |ours: &[f64], theirs: &[f64]| {
                Sure::of(&ours.iter().zip(theirs).map(|(ours, theirs)| ours - theirs).collect::<Vec<_>>()).to_string()
            };
            println!(
                "{:9.3} {:9.3} {:9.3}   {:18} {:19} {:19} {what}",
                median(&cpu),
                median(&p50),
                median(&p99),
                Sure::of_ratios(&cpu, &base[0]).to_string(),
                added(&p50, &base[1]),
                added(&p99, &base[2]),
            );
        }
    }
}

impl Side<'_> {
    fn turn(&mut self, dialect: Dialect, rate: u32) -> Turn {
        let messages = (SLICE.as_secs_f64() * f64::from(rate)) as u32;
        let before = self.measured.cpu_time();
        let began = Instant::now();
        for message in 0..messages {
            let due = began + Duration::from_secs(1) * message / rate;
            self.members.read_until(due);
            let late = due.elapsed().as_nanos() as u64;
            let message = Message { number: self.published as u64, due: now() - late };
            self.members.publish(&dialect.frame(&self.room, message));
            self.published += 1;
        }
        self.members.read_all(self.published);
        let cpu = self.measured.cpu_time() - before;
        let latencies = self.members.latencies_ms();
        let deliveries = messages as usize * self.measured_members;
        Turn {
            cpu: cpu.as_secs_f64() * 1e6 / deliveries as f64,
            p50: percentile(&latencies, 50),
            p99: percentile(&latencies, 99),
        }
    }
}
