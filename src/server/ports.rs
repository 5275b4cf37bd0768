//! The ports: bound for the shards and for the internal port, with a sentence where that fails, and as links in the log.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use super::StartError;
use crate::api::InternalPort;
use crate::config::{Config, Internal};
use crate::os;

/// How long to retry a port that is in use.
const PREDECESSOR_TIME_MAX: Duration = Duration::from_secs(2);
/// Pause between two tries.
const PREDECESSOR_POLL: Duration = Duration::from_millis(20);

/// The listeners of each address, one for every shard.
pub(super) fn bind(config: &Config, shards: usize) -> Result<Vec<Vec<TcpListener>>, StartError> {
    let addresses = if config.listen.is_empty() { vec![os::any_address(config.port)] } else { apart(&config.listen) };
    let bind_one = |address: SocketAddr| {
        bind_patiently(address, has_ipv4_beside(address, &addresses), shards).map_err(|error| {
            let fix = match error.kind() {
                io::ErrorKind::AddrInUse => "something listens there already: stop it, or choose another port with -p",
                io::ErrorKind::PermissionDenied => {
                    "ports below 1024 need the capability CAP_NET_BIND_SERVICE: choose another with -p"
                }
                io::ErrorKind::AddrNotAvailable => "no interface of this machine has that address: see `ip address`",
                _ => "choose another address with --listen, or another port with -p",
            };
            StartError(format!("can't listen on {address} ({error}): {fix}."))
        })
    };
    addresses.iter().copied().map(bind_one).collect()
}

/// The addresses without those that another one covers: binding these as well would fail, at ourselves.
fn apart(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let addresses: Vec<_> = addresses.iter().copied().map(os::canonical).collect();
    let covers = |wide: &SocketAddr, narrow: &SocketAddr| {
        let same_family = wide.is_ipv4() == narrow.is_ipv4();
        same_family && wide.port() == narrow.port() && wide.ip().is_unspecified() && !narrow.ip().is_unspecified()
    };
    let mut apart: Vec<SocketAddr> = Vec::new();
    for address in &addresses {
        // Each port 0 is a port of its own.
        let repeated = apart.contains(address) || addresses.iter().any(|wide| covers(wide, address));
        if address.port() == 0 || !repeated {
            apart.push(*address);
        }
    }
    apart
}

/// Whether an address of IPv4 with the same port is listened on as well: then all addresses of IPv6 must not mean those of
/// IPv4, which they do otherwise.
fn has_ipv4_beside(address: SocketAddr, all: &[SocketAddr]) -> bool {
    address.port() != 0 && all.iter().any(|other| other.is_ipv4() && other.port() == address.port())
}

/// The kernel takes a moment to take the listeners out of the rings of a server that has just ended: an operator that restarts hi
/// must not be told that something listens there.
fn bind_patiently(address: SocketAddr, ipv6_only: bool, shards: usize) -> io::Result<Vec<TcpListener>> {
    let deadline = Instant::now() + PREDECESSOR_TIME_MAX;
    loop {
        match os::bind_shards(address, ipv6_only, shards) {
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
        let mut links: Vec<String> = Vec::new();
        for address in self.0 {
            let link = if address.ip().is_unspecified() {
                format!("http://localhost:{}/", address.port())
            } else {
                format!("http://{address}/")
            };
            // All of IPv4 and all of IPv6 are the same link.
            if !links.contains(&link) {
                links.push(link);
            }
        }
        f.write_str(&links.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_address_covers_is_not_bound_twice() {
        let parse = |list: &[&str]| list.iter().map(|address| address.parse().unwrap()).collect::<Vec<SocketAddr>>();
        for (given, bound) in [
            (&["127.0.0.1:80", "127.0.0.1:80"][..], &["127.0.0.1:80"][..]),
            (&["127.0.0.1:80", "0.0.0.0:80", "127.0.0.1:81"], &["0.0.0.0:80", "127.0.0.1:81"]),
            (&["[::1]:80", "[::]:80", "127.0.0.1:80"], &["[::]:80", "127.0.0.1:80"]),
            (&["[::ffff:127.0.0.1]:80"], &["127.0.0.1:80"]),
            (&["127.0.0.1:0", "127.0.0.1:0", "0.0.0.0:0"], &["127.0.0.1:0", "127.0.0.1:0", "0.0.0.0:0"]),
        ] {
            assert_eq!(apart(&parse(given)), parse(bound), "{given:?}");
        }
    }

    #[test]
    fn all_of_ipv6_means_ipv4_as_well_unless_that_is_listened_on() {
        let all: Vec<SocketAddr> = ["[::]:80", "127.0.0.1:80", "[::]:81", "[::]:0", "0.0.0.0:0"]
            .iter()
            .map(|address| address.parse().unwrap())
            .collect();
        assert_eq!([0, 2, 3].map(|index| has_ipv4_beside(all[index], &all)), [true, false, false]);
    }

    #[test]
    fn the_same_link_is_shown_once() {
        let all: Vec<SocketAddr> = ["0.0.0.0:80", "[::]:80", "[::1]:81"].iter().map(|a| a.parse().unwrap()).collect();
        assert_eq!(Links(&all).to_string(), "http://localhost:80/, http://[::1]:81/");
    }
}
