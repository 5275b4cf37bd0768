//! The ports: bound for the shards and for the internal port, with a sentence where that fails, and as links in the log.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{StartError, cores};
use crate::address::ListenAddress;
use crate::api::InternalPort;
use crate::api::key::Keys;
use crate::config::{self, Config};
use crate::limits::{PREDECESSOR_POLL, PREDECESSOR_TIME_MAX};
use crate::os;

/// The ports of a server. They exist before it starts, so the caller knows the addresses.
#[derive(Debug)]
pub struct Listeners {
    /// The addresses that are listened on.
    pub addresses: Vec<ListenAddress>,
    pub(super) files: Vec<SocketFile>,
    pub(super) of_shards: Vec<ShardListeners>,
    pub(super) internal: Option<Internal>,
}

/// The listeners of one shard, one for each address.
pub(super) type ShardListeners = Vec<OwnedFd>;

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
        let (ips, paths) = wanted(config);
        let mut addresses = Vec::with_capacity(ips.len() + paths.len());
        let mut of_shards: Vec<_> = (0..shards).map(|_| ShardListeners::new()).collect();
        let mut add = |address, listeners: Vec<OwnedFd>| {
            addresses.push(address);
            of_shards.iter_mut().zip(listeners).for_each(|(of_shard, listener)| of_shard.push(listener));
        };
        for ip in &ips {
            let (bound, listeners) = bind(*ip, has_ipv4_beside(*ip, &ips), shards)?;
            add(ListenAddress::Ip(bound), listeners);
        }
        let mut files = Vec::new();
        for path in paths {
            let (file, listeners) = bind_unix(path, shards)?;
            add(ListenAddress::Unix(path.to_owned()), listeners);
            files.push(file);
        }
        let keys = config.api_key_file.as_deref().map_or(Ok(Keys::default()), Keys::load).map_err(StartError)?;
        let internal = match config.internal {
            config::Internal::Off => None,
            config::Internal::At(address) => Some(Internal { port: bind_internal(address)?, keys }),
        };
        Ok(Self { addresses, files, of_shards, internal })
    }
}

/// A socket in the file system, which would outlive its server. Dropping this removes it, unless another server has replaced it.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl SocketFile {
    fn at(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), inode: inode(path)? })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if inode(&self.path).is_ok_and(|inode| inode == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn inode(path: &Path) -> io::Result<u64> {
    Ok(fs::symlink_metadata(path)?.ino())
}

/// What has to be bound.
fn wanted(config: &Config) -> (Vec<SocketAddr>, Vec<&Path>) {
    if config.listen.is_empty() {
        return (vec![os::any_address(config.port)], Vec::new());
    }
    let (mut ips, mut paths) = (Vec::new(), Vec::new());
    for address in &config.listen {
        match address {
            ListenAddress::Ip(ip) => ips.push(*ip),
            ListenAddress::Unix(path) if paths.contains(&path.as_path()) => {}
            ListenAddress::Unix(path) => paths.push(path.as_path()),
        }
    }
    (apart(&ips), paths)
}

fn bind_unix(path: &Path, shards: usize) -> Result<(SocketFile, Vec<OwnedFd>), StartError> {
    let bound = os::bind_unix(path, shards).and_then(|listeners| Ok((SocketFile::at(path)?, listeners)));
    bound.map_err(|error| {
        let fix = match error.kind() {
            io::ErrorKind::AddrInUse => "something listens there already: stop it, or choose another path",
            io::ErrorKind::AlreadyExists => "it is no socket: remove it, or choose another path",
            io::ErrorKind::NotFound => "its folder doesn't exist: create it (RuntimeDirectory= in systemd)",
            io::ErrorKind::PermissionDenied => "hi may not write to its folder: choose another, or change its owner",
            _ => "choose another path with --listen",
        };
        StartError(format!("can't listen on unix:{} ({error}): {fix}.", path.display()))
    })
}

fn bind(address: SocketAddr, ipv6_only: bool, shards: usize) -> Result<(SocketAddr, Vec<OwnedFd>), StartError> {
    // A server that has just ended may keep its port for a moment, until the kernel has torn down its rings: an operator
    // who restarts hi must not be told that something listens there.
    let bind = || os::bind_shards(address, ipv6_only, shards);
    let listeners = os::retry_while_in_use(PREDECESSOR_TIME_MAX, PREDECESSOR_POLL, bind).map_err(|error| {
        let fix = match error.kind() {
            io::ErrorKind::AddrInUse => "something listens there already: stop it, or choose another port with -p",
            io::ErrorKind::PermissionDenied => {
                "ports below 1024 need the capability CAP_NET_BIND_SERVICE: choose another with -p"
            }
            io::ErrorKind::AddrNotAvailable => "no interface of this machine has that address: see `ip address`",
            _ => "choose another address with --listen, or another port with -p",
        };
        StartError(format!("can't listen on {address} ({error}): {fix}."))
    })?;
    let bound = listeners[0].local_addr().map_err(|error| StartError(format!("a listener has no address: {error}")))?;
    Ok((bound, listeners.into_iter().map(OwnedFd::from).collect()))
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

/// Addresses as links that a browser opens, where it can.
pub(super) fn links(addresses: &[ListenAddress]) -> String {
    let mut links: Vec<String> = Vec::new();
    for address in addresses {
        let link = match address {
            ListenAddress::Ip(ip) if ip.ip().is_unspecified() => format!("http://localhost:{}/", ip.port()),
            ListenAddress::Ip(ip) => format!("http://{ip}/"),
            ListenAddress::Unix(_) => address.to_string(),
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
        let all = ["0.0.0.0:80", "[::]:80", "[::1]:81", "unix:/run/hi.sock"].map(|address| address.parse().unwrap());
        assert_eq!(links(&all), "http://localhost:80/, http://[::1]:81/, unix:/run/hi.sock");
    }
}
