//! The dialects: frames to commands and back. Pure.

pub mod broadcast;
pub mod close_code;
mod json;
pub mod name;
pub mod notice;
pub mod position;
pub mod resume;
pub mod sse;
pub mod surrogates;
pub mod unicode;
pub mod v0;
pub mod v1;

/// Users in one list: the answers to `/list` and `who`, and on the internal port.
pub const USERS_LISTED_MAX: usize = 100;
/// Rooms in one list: the answers to `/channels` and `rooms`, and on the internal port.
pub const ROOMS_LISTED_MAX: usize = 1000;

/// What a chat connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// No subprotocol: the dialect of 2017.
    V0,
    /// `hi.v1`.
    V1,
}

/// Chat rooms and raw rooms never meet, even under the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Namespace {
    /// `/ws`: JSON, users, presence.
    Chat,
    /// `/raw/ROOM`: payloads as they come.
    Raw,
}

/// One connection as the other shards know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberId {
    /// The shard that accepted it.
    pub shard: u32,
    /// Its slot there,
    pub slot: u32,
    /// safe against the reuse of the slot.
    pub serial: u32,
}
