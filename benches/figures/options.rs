//! The command line: what to measure.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use crate::case::Case;
use crate::frames::Frames;
use crate::servers::{Kind, Other, Subject};

/// Bytes of a chat message.
const PAYLOAD_BYTES: usize = 128;
/// Deliveries per second at a steady rate.
const DELIVERIES_PER_SECOND: usize = 100_000;
/// From this number of members on, deliveries take longer, and no server may come near a whole core.
const MANY_MEMBERS: usize = 9_000;
/// Deliveries per second at a steady rate to that many members.
const DELIVERIES_PER_SECOND_TO_MANY: usize = 72_000;
/// Bytes per second at most, for any size.
const BYTES_PER_SECOND: usize = 400 << 20;
/// Messages per second at most: with few members, a higher rate would measure waiting.
const RATE_MAX: usize = 2_000;
/// Rounds of a table unless the command line says otherwise: the fewest whose intervals leave out extreme rounds.
const ROUNDS: usize = 9;
/// Milliseconds of a turn at a steady rate: short, because the machine's speed drifts within seconds.
const SLICE_MS: u64 = 500;
/// The servers of a run without `--only`.
const SERVERS: [Kind; 4] = [Kind::Hi, Kind::Send, Kind::IoUring, Kind::Tokio];
/// The cases of a run without arguments.
const MEMBERS: [usize; 5] = [1, 100, 1_000, 5_000, 9_000];
const LARGE_BYTES: [usize; 3] = [1 << 10, 16 << 10, 256 << 10];
const LARGE_MEMBERS: usize = 100;

/// Compares hi with other servers, measured in turns, slice by slice. Without options: every table.
#[derive(Clone, Debug, Parser)]
#[command(name = "figures", args_override_self = true)]
pub(crate) struct Options {
    /// Measure fan-out to this number of members only
    #[arg(long, value_name = "COUNT", visible_alias = "clients")]
    pub(crate) members: Option<usize>,
    /// Measure fan-out of messages of this size only
    #[arg(long, value_name = "BYTES")]
    pub(crate) size: Option<usize>,
    /// Messages per second at the steady rate [default: 100,000 deliveries per second; 72,000 from 9,000 members on]
    #[arg(long, value_name = "COUNT")]
    pub(crate) rate: Option<usize>,
    /// Rounds: how many turns each server gets
    #[arg(long, value_name = "COUNT", default_value_t = ROUNDS, value_parser = parse_rounds)]
    pub(crate) rounds: usize,
    /// Length of a turn at the steady rate, in milliseconds
    #[arg(long, value_name = "MILLISECONDS", default_value_t = SLICE_MS, value_parser = clap::value_parser!(u64).range(1..))]
    slice: u64,
    /// Shuffle the turns with this seed, to repeat their order [default: another one in each run, which is printed]
    #[arg(long, value_name = "NUMBER")]
    pub(crate) seed: Option<u64>,
    /// Measure only these servers; the others are compared with the first one
    #[arg(long, value_name = "SERVER", value_delimiter = ',')]
    pub(crate) only: Vec<Kind>,
    /// Add another build of hi
    #[arg(long, value_name = "FILE")]
    pub(crate) against: Option<PathBuf>,
    /// Add any other server: a command that prints the address it listens on (benches/README.md, "Another server")
    #[arg(long = "other", value_name = "NAME=COMMAND")]
    pub(crate) others: Vec<Other>,
    /// Move what loopback's receivers cost to the reader's core, as a network card would (root; put back at the end)
    #[arg(long)]
    pub(crate) steer: bool,
    /// Keep every core from halting: one that has nothing to do spins (at the lowest priority; stops at the end)
    #[arg(long)]
    pub(crate) awake: bool,
    /// Measure how long a message takes to reach the last member
    #[arg(long)]
    pub(crate) last: bool,
    /// Measure the cost of accepting and upgrading: thousands at once
    #[arg(long)]
    pub(crate) accept: bool,
    /// Measure the cost of accepting and upgrading: one connection after the other
    #[arg(long)]
    pub(crate) connects: bool,
    /// Compare two shards with one: cost, and how long a message takes to reach the last member
    #[arg(long)]
    pub(crate) shards: bool,
    /// Measure the cost of idle connections: memory and pings
    #[arg(long)]
    pub(crate) idle: bool,
    /// Internal: serve, for another process of this program
    #[arg(long, hide = true)]
    pub(crate) serve: Option<Kind>,
    /// Internal: start a server with its members, and take orders from standard input
    #[arg(long, hide = true)]
    pub(crate) drive: bool,
    /// Passed by cargo to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    /// The servers to compare, the first one with all others.
    pub(crate) fn subjects(&self) -> Vec<Subject> {
        let nothing_said = self.only.is_empty() && !self.drive;
        let known = if nothing_said { &SERVERS } else { self.only.as_slice() };
        let against = self.against.as_ref().filter(|_| !self.drive).map(|_| Kind::OtherHi);
        let known = known.iter().copied().chain(against).map(Subject::from);
        known.chain(self.others.iter().cloned().map(Subject::Other)).collect()
    }

    /// Length of a turn at the steady rate.
    pub(crate) fn slice(&self) -> Duration {
        Duration::from_millis(self.slice)
    }

    /// The seed of this run's order.
    pub(crate) fn seed(&self) -> u64 {
        self.seed.expect("it is chosen when the run begins")
    }

    /// The rooms to measure fan-out with.
    pub(crate) fn cases(&self) -> Vec<Case> {
        if !self.is_default() {
            return vec![self.case(self.members.unwrap_or(1_000), self.size.unwrap_or(PAYLOAD_BYTES))];
        }
        let small = MEMBERS.map(|members| self.case(members, PAYLOAD_BYTES));
        let large = LARGE_BYTES.map(|payload_bytes| self.case(LARGE_MEMBERS, payload_bytes));
        small.into_iter().chain(large).collect()
    }

    /// A room of `members`, and messages of `payload_bytes`.
    pub(crate) fn case(&self, members: usize, payload_bytes: usize) -> Case {
        let small = if members < MANY_MEMBERS { DELIVERIES_PER_SECOND } else { DELIVERIES_PER_SECOND_TO_MANY };
        let rate = (small.min(BYTES_PER_SECOND / payload_bytes) / members).clamp(1, RATE_MAX);
        Case { members, frames: Frames { payload_bytes }, rate: self.rate.unwrap_or(rate) }
    }

    /// A chat room of `members`.
    pub(crate) fn chat(&self, members: usize) -> Case {
        self.case(members, PAYLOAD_BYTES)
    }

    /// Whether no part was selected, which means all of them.
    pub(crate) fn is_default(&self) -> bool {
        self.is_fan_out() && self.members.is_none() && self.size.is_none()
    }

    /// Whether to measure fan-out.
    pub(crate) fn is_fan_out(&self) -> bool {
        !(self.last || self.accept || self.connects || self.shards || self.idle)
    }
}

fn parse_rounds(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(rounds @ 1..) => Ok(rounds),
        _ => Err("at least one round is needed".into()),
    }
}
