//! The command line: what to measure.

use std::path::PathBuf;

use clap::Parser;

use crate::frames::Frames;
use crate::servers::Kind;

/// Bytes of a chat message.
const PAYLOAD_BYTES: usize = 128;
/// Deliveries a second at a steady rate, for any number of members below this,
const DELIVERIES_PER_SECOND: usize = 100_000;
const MANY_MEMBERS: usize = 9_000;
/// and from then on, because a delivery to one of many takes longer: no server may come near a whole core.
const DELIVERIES_PER_SECOND_TO_MANY: usize = 72_000;
/// Bytes a second at most, for any size.
const BYTES_PER_SECOND: usize = 400 << 20;
/// Messages a second at most: with few members, time would be spent on waiting.
const RATE_MAX: usize = 2_000;
/// Rounds of a table unless the command line says otherwise.
const ROUNDS: usize = 8;
/// The cases of a run without arguments.
const MEMBERS: [usize; 5] = [1, 100, 1_000, 5_000, 9_000];
const LARGE_BYTES: [usize; 3] = [1 << 10, 16 << 10, 256 << 10];
const LARGE_MEMBERS: usize = 100;

/// hi beside other servers, measured in turn, slice by slice. Without options: every table.
#[derive(Clone, Debug, Parser)]
#[command(name = "figures")]
pub(crate) struct Options {
    /// Fan-out to this number of members only
    #[arg(long, value_name = "COUNT")]
    pub(crate) members: Option<usize>,
    /// Fan-out of messages of this size only
    #[arg(long, value_name = "BYTES")]
    pub(crate) size: Option<usize>,
    /// Messages a second of the steady rate [default: 100,000 deliveries a second; 72,000 from 9,000 members on]
    #[arg(long, value_name = "COUNT")]
    pub(crate) rate: Option<usize>,
    /// Rounds: how often each server has its turn
    #[arg(long, value_name = "COUNT", default_value_t = ROUNDS, value_parser = parse_rounds)]
    pub(crate) rounds: usize,
    /// Only these servers, the first is what the others are compared with
    #[arg(long, value_name = "SERVER", value_delimiter = ',')]
    pub(crate) only: Vec<Kind>,
    /// Another build of hi, as one more server
    #[arg(long, value_name = "FILE")]
    pub(crate) against: Option<PathBuf>,
    /// How long a message takes to the last of its members
    #[arg(long)]
    pub(crate) last: bool,
    /// What accepting and upgrading costs
    #[arg(long)]
    pub(crate) accept: bool,
    /// Two shards against one
    #[arg(long)]
    pub(crate) shards: bool,
    /// What idle connections cost: memory, and pings
    #[arg(long)]
    pub(crate) idle: bool,
    /// Serve, for another process of this program
    #[arg(long, hide = true)]
    pub(crate) serve: Option<Kind>,
    /// Start a server with its members, and do what standard input says
    #[arg(long, hide = true)]
    pub(crate) drive: Option<Kind>,
    /// What cargo says to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

/// One room and its messages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) members: usize,
    pub(crate) frames: Frames,
    /// Messages a second at the steady rate.
    pub(crate) rate: usize,
}

impl Options {
    /// The rooms that fan-out is measured with.
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

    /// Whether no part was asked for: then all of them are meant.
    pub(crate) fn is_default(&self) -> bool {
        !(self.last || self.accept || self.shards || self.idle) && self.members.is_none() && self.size.is_none()
    }

    /// Whether fan-out is to be measured.
    pub(crate) fn is_fan_out(&self) -> bool {
        !(self.last || self.accept || self.shards || self.idle)
    }
}

fn parse_rounds(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(rounds @ 1..) => Ok(rounds),
        _ => Err("at least one round is needed".into()),
    }
}
