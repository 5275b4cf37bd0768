//! The command line: what to measure.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::attacks::Attack;
use crate::process::hi_here;

/// Rounds, and the length of each of a round's two slices.
const ROUNDS: usize = 8;
const SLICE: Duration = Duration::from_secs(3);
/// The same with `--quick`.
const QUICK_ROUNDS: usize = 2;
const QUICK_SLICE: Duration = Duration::from_secs(1);

/// Measures what one client's load costs the others on its shard. Without options: every attack.
#[derive(Clone, Debug, Parser)]
#[command(name = "fairness")]
pub(crate) struct Options {
    /// Measure only these attacks
    #[arg(long, value_name = "ATTACK", value_delimiter = ',')]
    only: Vec<Attack>,
    /// Rounds: how many times each attack is compared with the unloaded server
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// Two short rounds, to check that the benchmark works
    #[arg(long)]
    quick: bool,
    /// Use another build of hi instead of this one
    #[arg(long, value_name = "FILE")]
    hi: Option<PathBuf>,
    /// Internal: attack when told to on standard input
    #[arg(long, hide = true, requires = "address")]
    pub(crate) attack: Option<Attack>,
    /// Internal: address to attack
    #[arg(long, hide = true)]
    pub(crate) address: Option<SocketAddr>,
    /// Passed by cargo to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    pub(crate) fn attacks(&self) -> Vec<Attack> {
        if self.only.is_empty() { Attack::value_variants().to_vec() } else { self.only.clone() }
    }

    pub(crate) fn rounds(&self) -> usize {
        self.rounds.map_or(if self.quick { QUICK_ROUNDS } else { ROUNDS }, |rounds| rounds as usize)
    }

    /// How long each slice of a round is measured.
    pub(crate) fn slice(&self) -> Duration {
        if self.quick { QUICK_SLICE } else { SLICE }
    }

    /// The server to measure.
    pub(crate) fn hi(&self) -> PathBuf {
        self.hi.clone().unwrap_or_else(hi_here)
    }
}
