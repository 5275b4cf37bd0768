//! Several servers of a cluster with the log that they share: their own code, but for sockets.
//!
//! - [`messages`]: what they publish, are told and show, in chat rooms and raw ones
//! - [`members`]: which names their members have, and what they tell each other of themselves; `local`: the room of one server

mod local;
pub mod members;
pub mod messages;

/// Runs all of it from a seed, until nothing fails any more.
///
/// # Panics
/// If anything that has to hold does not.
pub fn run(seed: u64) {
    messages::run(seed);
    members::run(seed);
}
