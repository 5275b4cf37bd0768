//! The ports: bound for the shards and for the internal port, with a sentence where that fails, and as links in the log.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use super::StartError;
use crate::api::InternalPort;
use crate::config::{Config, Internal};
use crate::os;

/// A port that is in use is tried again for so long,
const PREDECESSOR_TIME_MAX: Duration = Duration::from_secs(2);
/// so often.
const PREDECESSOR_POLL: Duration = Duration::from_millis(20);

/// The listeners of each address, one for every shard.
pub(super) fn bind(config: &Config, shards: usize) -> Result<Vec<Vec<TcpListener>>, StartError> {
    let addresses = if config.listen.is_empty() { vec![os::any_address(config.port)] } else { config.listen.clone() };
    let bind_one = |address: SocketAddr| {
        bind_patiently(address, shards).map_err(|error| {
            let mend = match error.kind() {
                io::ErrorKind::AddrInUse => "something listens there already: stop it, or choose another port with -p",
                io::ErrorKind::PermissionDenied => {
                    "ports below 1024 need the capability CAP_NET_BIND_SERVICE: choose another with -p"
                }
                io::ErrorKind::AddrNotAvailable => "no interface of this machine has that address: see `ip address`",
                _ => "choose another address with --listen, or another port with -p",
            };
            StartError(format!("can't listen on {address} ({error}): {mend}."))
        })
    };
    addresses.into_iter().map(bind_one).collect()
}

/// The kernel takes a moment to take the listeners out of the rings of a server that has just ended: who starts hi again
/// must not be told that something listens there.
fn bind_patiently(address: SocketAddr, shards: usize) -> io::Result<Vec<TcpListener>> {
    let deadline = Instant::now() + PREDECESSOR_TIME_MAX;
    loop {
        match os::bind_shards(address, shards) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(PREDECESSOR_POLL);
            }
            outcome => return outcome,
        }
    }
}

/// The internal port, unless it is off.
pub(super) fn bind_internal(config: &Config) -> Result<Option<InternalPort>, StartError> {
    let Internal::At(address) = config.internal else { return Ok(None) };
    InternalPort::bind(address).map(Some).map_err(|error| {
        let cause = match error.kind() {
            io::ErrorKind::AddrInUse => "something listens there already",
            io::ErrorKind::AddrNotAvailable => "no interface of this machine has that address",
            _ => "the system refuses it",
        };
        StartError(format!(
            "can't listen on {address} for the internal port ({error}): {cause}; choose another address with --internal \
             ADDR:PORT, or do without it with --internal off."
        ))
    })
}

/// Addresses as links that a browser takes.
pub(super) struct Links<'a>(pub(super) &'a [SocketAddr]);

impl fmt::Display for Links<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, address) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            if address.ip().is_unspecified() {
                write!(f, "{separator}http://localhost:{}/", address.port())?;
            } else {
                write!(f, "{separator}http://{address}/")?;
            }
        }
        Ok(())
    }
}
