//! The ports: bound for the shards and for the internal port, with a sentence where that fails, and as links in the log.

use std::io;
use std::net::{SocketAddr, TcpListener};

use super::{StartError, cores};
use crate::api::InternalPort;
use crate::api::key::Keys;
use crate::config::{self, Config};
use crate::limits::{PREDECESSOR_POLL, PREDECESSOR_TIME_MAX};
use crate::os;

/// The ports of a server. They exist before it starts, so the caller knows the addresses.
#[derive(Debug)]
pub struct Listeners {
    /// The addresses that are listened on.
    pub addresses: Vec<SocketAddr>,
    pub(super) of_shards: Vec<ShardListeners>,
    pub(super) internal: Option<Internal>,
}

/// The listeners of one shard, one for each address.
pub(super) type ShardListeners = Vec<TcpListener>;

/// The internal port, and the keys that it asks for.
#[derive(Debug)]
pub(super) struct Internal {
    pub(super) port: InternalPort,
    pub(super) keys: Keys,
}

impl Listeners {
    /// Binds all ports: for each address one listener for every shard.
    ///
    /// # Errors
    /// An address that can't be bound, or a key file that can't be used.
    pub fn bind(config: &Config) -> Result<Self, StartError> {
        let shards = config.shard_count(cores()?.parallelism);
        let wanted = if config.listen.is_empty() { vec![os::any_address(config.port)] } else { apart(&config.listen) };
        let mut addresses = Vec::with_capacity(wanted.len());
        let mut of_shards: Vec<_> = (0..shards).map(|_| ShardListeners::new()).collect();
        for address in &wanted {
            let listeners = bind(*address, has_ipv4_beside(*address, &wanted), shards)?;
            addresses.push(local_address(&listeners[0])?);
            of_shards.iter_mut().zip(listeners).for_each(|(of_shard, listener)| of_shard.push(listener));
        }
        let keys = config.api_key_file.as_deref().map_or(Ok(Keys::default()), Keys::load).map_err(StartError)?;
        let internal = match config.internal {
            config::Internal::Off => None,
            config::Internal::At(address) => Some(Internal { port: bind_internal(address)?, keys }),
        };
        Ok(Self { addresses, of_shards, internal })
    }
}

fn local_address(listener: &TcpListener) -> Result<SocketAddr, StartError> {
    listener.local_addr().map_err(|error| StartError(format!("a listener has no address: {error}")))
}

fn bind(address: SocketAddr, ipv6_only: bool, shards: usize) -> Result<Vec<TcpListener>, StartError> {
    // A server that has just ended may keep its port for a moment, until the kernel has torn down its rings: an operator
    // who restarts hi must not be told that something listens there.
    let bind = || os::bind_shards(address, ipv6_only, shards);
    os::retry_while_in_use(PREDECESSOR_TIME_MAX, PREDECESSOR_POLL, bind).map_err(|error| {
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
}

/// The addresses without those that another one covers: binding both would fail, since hi itself listens there already.
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

/// Whether an IPv4 address with the same port is listened on as well: then all IPv6 addresses must not include those of
/// IPv4, as they do otherwise.
fn has_ipv4_beside(address: SocketAddr, all: &[SocketAddr]) -> bool {
    address.port() != 0 && all.iter().any(|other| other.is_ipv4() && other.port() == address.port())
}

fn bind_internal(address: SocketAddr) -> Result<InternalPort, StartError> {
    InternalPort::bind(address).map_err(|error| {
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

/// Addresses as links that a browser opens.
pub(super) fn links(addresses: &[SocketAddr]) -> String {
    let mut links: Vec<String> = Vec::new();
    for address in addresses {
        let link = match address.ip().is_unspecified() {
            true => format!("http://localhost:{}/", address.port()),
            false => format!("http://{address}/"),
        };
        // All of IPv4 and all of IPv6 are the same link.
        if !links.contains(&link) {
            links.push(link);
        }
    }
    links.join(", ")
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
        assert_eq!(links(&all), "http://localhost:80/, http://[::1]:81/");
    }
}
