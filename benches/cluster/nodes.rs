//! The servers.

use crate::broker::Broker;
use crate::process::{Server, hi_here};

/// Members read only in their turn, and publish as they like.
const PATIENT: [&str; 14] = [
    "--ping-interval",
    "1h",
    "--ping-timeout",
    "1h",
    "--rate-limit",
    "0",
    "--max-per-address",
    "0",
    "--handshakes-per-address",
    "0",
    "--messages-per-address",
    "0",
    "--backlog-bytes",
    "16m",
];

/// A server by itself.
pub(crate) fn alone() -> Server {
    Server::hi(&hi_here(), "1", &PATIENT)
}

/// A server that shares its rooms.
pub(crate) fn node(broker: &Broker) -> Server {
    node_with(broker, &[])
}

/// The same, with further options.
pub(crate) fn node_with(broker: &Broker, options: &[&str]) -> Server {
    Server::hi(&hi_here(), "1", &[&PATIENT[..], &["--cluster", &broker.url()], options].concat())
}
