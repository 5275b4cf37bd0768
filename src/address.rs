//! Where connections come in, and where they come from: addresses with a port, and sockets in the file system.
//!
//! - [`networks`]: sets of addresses, as an operator writes them
//! - [`client`]: the address of a client behind proxies
//! - [`proxy_header`]: what the PROXY protocol tells of it
//! - [`table`]: what each address uses, and may use

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use serde::Serialize;

pub mod client;
pub mod networks;
pub mod proxy_header;
pub mod table;

/// What stands before the path of a socket.
const UNIX: &str = "unix:";

/// Where connections come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// An address with a port.
    Ip(SocketAddr),
    /// A socket at an absolute path of the file system (unix(7)), for proxies on the same machine.
    Unix(PathBuf),
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(path) = text.strip_prefix(UNIX) else {
            let wrong = |_| {
                format!("{text} is no address with a port: give e.g. 127.0.0.1:8080, [::1]:8080 or unix:/run/hi.sock")
            };
            return text.parse().map(Self::Ip).map_err(wrong);
        };
        if path.starts_with('/') {
            Ok(Self::Unix(path.into()))
        } else {
            Err(format!("{text} names no socket: give an absolute path, e.g. unix:/run/hi.sock"))
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub enum PeerAddress {
    /// An address with a port.
    Ip(SocketAddr),
    /// A program on this machine, through a socket in the file system.
    Unix,
}

impl PeerAddress {
    /// The IP address; 127.0.0.1 stands for a program on this machine.
    pub fn ip(self) -> IpAddr {
        match self {
            Self::Ip(address) => address.ip(),
            Self::Unix => Ipv4Addr::LOCALHOST.into(),
        }
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix => f.write_str("a unix socket"),
        }
    }
}

impl From<PeerAddress> for String {
    fn from(address: PeerAddress) -> Self {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_as_it_is_written() {
        for text in ["127.0.0.1:8080", "[::1]:0", "unix:/run/hi/hi.sock"] {
            assert_eq!(text.parse::<ListenAddress>().unwrap().to_string(), text);
        }
        for (wrong, why) in
            [("8080", "is no address with a port"), ("unix:hi.sock", "absolute path"), ("unix:", "absolute")]
        {
            let said = wrong.parse::<ListenAddress>().unwrap_err();
            assert!(said.contains(why), "{said}");
        }
        assert_eq!(PeerAddress::Unix.ip().to_string(), "127.0.0.1");
    }
}
