//! What the operator has chosen for the shards.

use std::sync::Arc;

use clap::ValueEnum;

use crate::admission::Admission;
use crate::connection::liveness::Heartbeat;
use crate::rate::RateLimit;

/// What happens to a chat member that was too slow and lost messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Slow {
    /// It is told which, and stays.
    Gap,
    /// Its connection is closed (code 4101).
    Close,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This process, as clients see it.
    pub instance: Arc<str>,
    /// Limit on the chat messages of each connection.
    pub chat_rate: RateLimit,
    /// The same as a number that clients are told: messages a second, 0 for no limit.
    pub chat_messages_per_second: u32,
    /// Limit on the raw messages of each connection.
    pub raw_rate: RateLimit,
    /// When peers are pinged, and given up.
    pub heartbeat: Heartbeat,
    /// Largest message, in bytes of payload.
    pub message_bytes_max: usize,
    /// Who may join, and who may publish into raw rooms.
    pub admission: Arc<Admission>,
    /// Bytes of a room that a member may lag behind.
    pub backlog_bytes: usize,
    /// Bytes that an inbox may hold.
    pub inbox_bytes_max: usize,
    /// What happens to chat members that lose messages.
    pub slow: Slow,
}
