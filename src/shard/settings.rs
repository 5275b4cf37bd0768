//! What the operator configured for the shards.

use std::sync::Arc;

use clap::ValueEnum;

use crate::admission::Admission;
use crate::connection::liveness::Heartbeat;
use crate::protocol::Protocol;
use crate::rate::RateLimit;
use crate::room::pace::Pace;

/// What happens to a chat member that was too slow and lost messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Slow {
    /// It is told which, and stays.
    Gap,
    /// Its connection is closed (code 4101).
    Close,
}

/// What the operator configured for the shards: shared, and constant while the server runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Identifies this process to clients: sent in the `hello` of v1.
    pub instance: Arc<str>,
    /// Rate limit of each chat connection.
    pub chat_rate: RateLimit,
    /// The same limit as clients are told it: messages per second, 0 for none.
    pub chat_messages_per_second: u32,
    /// Rate limit of each raw connection.
    pub raw_rate: RateLimit,
    /// Limit on the chat messages of all connections of an address together.
    pub address_rate: RateLimit,
    /// How soon chat rooms are fanned out again.
    pub chat_pace: Pace,
    /// The same for raw rooms.
    pub raw_pace: Pace,
    /// How often peers are pinged, and how long they have to answer.
    pub heartbeat: Heartbeat,
    /// Seconds that a client of v1 has for its token, if it brings none with its handshake.
    pub identification_seconds: u32,
    /// Largest message, in bytes of payload.
    pub message_bytes_max: usize,
    /// Shortest message, in bytes of payload, that is compressed for clients that agreed on it.
    pub deflated_bytes_min: usize,
    /// Which connections may join rooms, and which may publish to raw rooms.
    pub admission: Arc<Admission>,
    /// Bytes by which a member may lag behind its room.
    pub backlog_bytes: usize,
    /// Capacity of each shard's inbox, in bytes.
    pub inbox_bytes_max: usize,
    /// What happens to chat members that lose messages.
    pub slow: Slow,
}

impl Settings {
    /// The limit on the messages of a connection that speaks this.
    pub(crate) fn rate(&self, protocol: Protocol) -> &RateLimit {
        if protocol == Protocol::Raw { &self.raw_rate } else { &self.chat_rate }
    }

    /// The pace of the rooms that a connection that speaks this may be in.
    pub(crate) fn pace(&self, protocol: Protocol) -> Pace {
        if protocol == Protocol::Raw { self.raw_pace } else { self.chat_pace }
    }
}
