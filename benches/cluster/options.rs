//! The command line: what to measure.

use std::net::SocketAddr;

use clap::Parser;

use crate::messages::Dialect;

/// Measures what a cluster costs. Without options: every table.
#[derive(Clone, Debug, Parser)]
#[command(name = "cluster")]
pub(crate) struct Options {
    /// Measure what a message costs and how long it takes on its way over the log
    #[arg(long)]
    pub(crate) hop: bool,
    /// Measure how long a client waits for what it missed, on a server that never had its room
    #[arg(long)]
    pub(crate) recovery: bool,
    /// Measure what 10,000 rooms cost
    #[arg(long)]
    pub(crate) rooms: bool,
    /// Measure one room over several servers
    #[arg(long)]
    pub(crate) many: bool,
    /// Rounds of --hop: how many turns each server gets
    #[arg(long, value_name = "COUNT", default_value_t = 16)]
    pub(crate) rounds: usize,
    /// Shuffle the turns with this seed
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Servers of --many
    #[arg(long, value_name = "COUNT", default_value_t = 5)]
    pub(crate) servers: usize,
    /// Members on each server of --many
    #[arg(long, value_name = "COUNT", default_value_t = 18_000)]
    pub(crate) members: usize,
    /// Messages of --many, from publishers on all servers together
    #[arg(long, value_name = "COUNT", default_value_t = 30)]
    pub(crate) messages: usize,
    /// Messages per second of --many
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    pub(crate) rate: u32,
    /// What the members of --many speak
    #[arg(long, value_enum, default_value_t = Dialect::Chat)]
    pub(crate) dialect: Dialect,
    /// Internal: be the members on the server with this address, and report on standard output
    #[arg(long, hide = true, value_name = "ADDR:PORT")]
    pub(crate) read: Option<SocketAddr>,
    /// Internal: the number of the first member
    #[arg(long, hide = true, default_value_t = 0)]
    pub(crate) first: usize,
    /// Passed by cargo to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    /// Whether to measure a table, which `asked` says. Without any: all of them.
    pub(crate) fn measures(&self, asked: bool) -> bool {
        asked || !(self.hop || self.recovery || self.rooms || self.many)
    }
}
