//! The dialects: frames to commands and back. Pure.

pub mod broadcast;
pub(crate) mod close_code;
pub(crate) mod encoding;
mod json;
pub(crate) mod key;
pub mod name;
pub(crate) mod notice;
pub mod position;
pub mod resume;
pub(crate) mod sse;
pub mod surrogates;
pub(crate) mod unicode;
pub mod v0;
pub mod v1;

pub(crate) use encoding::Encoding;

use crate::words::words;

/// Users in one list: the answers to `/list` and `who`, and on the internal port.
pub const USERS_LISTED_MAX: usize = 100;
/// Rooms in one list: the answers to `/channels` and `rooms`, and on the internal port.
pub const ROOMS_LISTED_MAX: usize = 1000;

words! {
    /// What a connection speaks, with its label in metrics.
    pub enum Protocol {
        /// `/ws` without a subprotocol: the dialect of 2017.
        V0 = "v0",
        /// `/ws` with the subprotocol `hi.v1`.
        V1 = "v1",
        /// `/raw/ROOM`: payloads as they come.
        Raw = "raw",
        /// `/stream/ROOM`: server-sent events; nothing is said.
        Sse = "sse",
    }
}

impl Protocol {
    /// The rooms that it reaches.
    pub(crate) fn namespace(self) -> Namespace {
        match self {
            Self::V0 | Self::V1 | Self::Sse => Namespace::Chat,
            Self::Raw => Namespace::Raw,
        }
    }

    /// The form in which it gets what they publish, if the client agreed on compression or not.
    pub(crate) fn encoding(self, deflates: bool) -> Encoding {
        match self {
            Self::V0 | Self::V1 | Self::Raw if deflates => Encoding::Deflated,
            Self::V0 | Self::V1 | Self::Raw => Encoding::Frames,
            Self::Sse => Encoding::Events,
        }
    }
}

words! {
    /// Chat rooms and raw rooms never meet, even under the same name.
    #[derive(Hash)]
    pub enum Namespace {
        /// `/ws`: JSON, users, presence.
        Chat = "chat",
        /// `/raw/ROOM`: payloads as they come.
        Raw = "raw",
    }
}

/// One connection as the other shards know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MemberId {
    /// The shard that accepted it.
    pub shard: u32,
    /// Its slot there,
    pub slot: u32,
    /// safe against the reuse of the slot.
    pub serial: u32,
}
