//! Whether one client's load harms others: `cargo bench --bench fairness`. `benches/README.md` says how to read it.
//!
//! One shard of hi has the first core. The others, whose messages are measured, are a small chat room and a small raw
//! room at a modest rate; everything else is on the last core. Each attack has its own server and its own process,
//! which opens its connections once and then attacks in every second slice: unloaded, attacked, unloaded, attacked. The
//! attackers run under `SCHED_IDLE`, so that the others' reader never waits for them: the delay measured is the
//! server's. Latency counts from the time a message was due until each member has read it.
//!
//! - [`options`]: what to measure
//! - [`others`]: the rooms that must not be affected
//! - [`attacker`]: the attacking process; [`attacks`]: what it does; [`crowd`]: connections whose input is discarded
//! - [`frames`]: the frames that clients send and receive
//! - `connect`, `priority`, `process`, `statistics`: shared with `figures`

mod attacker;
mod attacks;
#[path = "../figures/connect.rs"]
mod connect;
mod crowd;
mod frames;
mod gate;
mod options;
mod others;
#[path = "../figures/priority.rs"]
mod priority;
#[path = "../figures/process.rs"]
mod process;
#[path = "../figures/statistics.rs"]
mod statistics;

use clap::Parser;

use attacker::Attacker;
use attacks::Attack;
use options::Options;
use others::{Others, Slice};
use process::Server;
use statistics::{Sure, median};

/// Members that read nothing must not be disconnected for missing pongs.
const PATIENT: [&str; 4] = ["--ping-interval", "1h", "--ping-timeout", "1h"];

fn main() {
    let options = Options::parse();
    hi::os::raise_file_limit().expect("the file limit can be raised to the hard limit");
    if let (Some(attack), Some(address)) = (options.attack, options.address) {
        return attacker::obey(attack, address);
    }
    let (rounds, slice) = (options.rounds(), options.slice());
    println!("others' messages on the same shard: {rounds} rounds, {slice:?} unloaded and {slice:?} attacked; ms");
    println!(
        "{:42} {:>13} {:>13}   {:20} {:20} {:>8} {:>6}",
        "attack", "unloaded p99", "attacked p99", "added to p99", "attacked / unloaded", "longest", "lost"
    );
    for attack in options.attacks() {
        row(attack, &measure(attack, &options));
    }
}

/// Slices, alternately unloaded and attacked.
fn measure(attack: Attack, options: &Options) -> Vec<[Slice; 2]> {
    let server = Server::hi(&options.hi(), "1", &PATIENT);
    let mut others = Others::connect(server.address);
    let mut attacker = Attacker::start(attack, server.address);
    let slice = options.slice();
    // The first slice warms up caches and buffers.
    others.measure(slice / 2);
    let mut round = || {
        server.settles();
        let unloaded = others.measure(slice);
        attacker.go();
        // The attack is running before anything is counted.
        others.measure(slice / 4);
        let attacked = others.measure(slice);
        attacker.stop();
        [unloaded, attacked]
    };
    (0..options.rounds()).map(|_| round()).collect()
}

fn row(attack: Attack, rounds: &[[Slice; 2]]) {
    let p99 = |side: usize| rounds.iter().map(|round| round[side].p99_ms()).collect::<Vec<_>>();
    let (unloaded, attacked) = (p99(0), p99(1));
    let added: Vec<f64> = unloaded.iter().zip(&attacked).map(|(unloaded, attacked)| attacked - unloaded).collect();
    let longest = rounds.iter().map(|round| round[1].longest_ms()).fold(0.0, f64::max);
    let lost: u32 = rounds.iter().flatten().map(|slice| slice.lost).sum();
    println!(
        "{:42} {:13.2} {:13.2}   {:20} {:20} {longest:8.1} {lost:6}",
        attack.what(),
        median(&unloaded),
        median(&attacked),
        format!("{:.1}", Sure::of(&added)),
        format!("{:.1}", Sure::of_ratios(&attacked, &unloaded)),
    );
}
