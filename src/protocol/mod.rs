//! The dialects: frames to commands and back. Pure.

pub mod broadcast;
pub mod close_code;
mod json;
pub mod name;
pub mod resume;
pub mod sse;
pub mod surrogates;
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
