//! The address of a client behind proxies: what the connection shows, and what headers tell, as far as trusted proxies
//! wrote them (pure).
//!
//! Each proxy adds the address that it was reached from at the end of the list. So the list is read from the right: while the
//! address found so far is a trusted proxy's, the next entry is what that proxy has seen. Entries further to the left were
//! written by nobody knows whom, often by the client itself.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use clap::ValueEnum;
use serde::Serialize;

use super::PeerAddress;
use super::networks::Networks;
use crate::limits::CLIENT_HOPS_MAX;
use crate::words::words;

words! {
    /// The header in which trusted proxies pass the client's address on. Only one is read: a client could send another one
    /// through a proxy that writes this one.
    #[derive(ValueEnum)]
    pub enum ClientHeader {
        /// A list of addresses.
        XForwardedFor = "x-forwarded-for",
        /// RFC 7239.
        Forwarded = "forwarded",
        /// What Cloudflare adds.
        CfConnectingIp = "cf-connecting-ip",
        /// What some proxies write instead of a list.
        XRealIp = "x-real-ip",
    }
}

/// What tells a client's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The connection: its peer.
    Peer,
    /// The PROXY header in front of the first request.
    ProxyProtocol,
    /// The header of a request that came through trusted proxies.
    Header,
}

/// Where a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddress {
    /// The other end of the connection: the client, or the last proxy.
    pub peer: PeerAddress,
    /// The client's address, as far as trusted proxies tell it; 127.0.0.1 stands for a program behind a unix socket.
    pub address: IpAddr,
    /// What tells it.
    pub source: Source,
    /// Whether a trusted proxy passed the request on: what else this proxy says of the client may be believed.
    pub through_trusted_proxy: bool,
    /// Whether the request has the header although no trusted proxy sent it.
    pub header_ignored: bool,
}

impl fmt::Display for ClientAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.source {
            Source::Peer => self.peer.fmt(f),
            Source::ProxyProtocol | Source::Header => write!(f, "{} (through {})", self.address, self.peer),
        }
    }
}

/// Which proxies are believed, and in which header.
#[derive(Clone, Debug)]
pub struct Trust {
    /// The proxies.
    pub proxies: Networks,
    /// Their header.
    pub header: ClientHeader,
}

impl Trust {
    /// Where a request comes from that has these values of the header, in their order. `proxied` is what a PROXY header says in
    /// place of the peer.
    pub fn locate<'h>(
        &self,
        peer: PeerAddress,
        proxied: Option<SocketAddr>,
        values: impl Iterator<Item = &'h [u8]>,
    ) -> ClientAddress {
        let (start, source) = match proxied {
            Some(address) => (PeerAddress::Ip(address), Source::ProxyProtocol),
            None => (peer, Source::Peer),
        };
        let mut values = values.peekable();
        let through_trusted_proxy = self.proxies.contains_peer(start);
        let told = if through_trusted_proxy { self.told(values.by_ref().collect()) } else { None };
        ClientAddress {
            peer,
            address: told.unwrap_or_else(|| start.ip().to_canonical()),
            source: if told.is_some() { Source::Header } else { source },
            through_trusted_proxy,
            header_ignored: !through_trusted_proxy && values.peek().is_some(),
        }
    }

    /// The client's address in the lines of the header, which all together are one list that a trusted proxy has written the last
    /// entry of. `None`: that entry is no address.
    fn told(&self, lines: Vec<&[u8]>) -> Option<IpAddr> {
        // A comma within quotes divides, too: no proxy writes one, and quotes that a client leaves open must not swallow what
        // proxies add behind them.
        let entries = lines.into_iter().rev().flat_map(|line| line.rsplit(|b| *b == b','));
        let mut found = None;
        for entry in entries.map(<[u8]>::trim_ascii).filter(|entry| !entry.is_empty()).take(CLIENT_HOPS_MAX) {
            let Some(address) = self.address_in(entry) else { break };
            found = Some(address);
            if !self.proxies.contains(address) {
                break;
            }
        }
        found
    }

    fn address_in(&self, entry: &[u8]) -> Option<IpAddr> {
        let entry = std::str::from_utf8(entry).ok()?;
        let node = if self.header == ClientHeader::Forwarded { for_of(entry)? } else { entry };
        address_of(node)
    }
}

/// The value of `for` in an element of `Forwarded` that has one (RFC 7239 4).
fn for_of(element: &str) -> Option<&str> {
    let pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let mut values = pairs.filter(|(name, _)| name.trim().eq_ignore_ascii_case("for")).map(|(_, value)| value.trim());
    values.next().filter(|_| values.next().is_none())
}

/// An address, with or without a port, brackets and quotes (RFC 7239 6). Names and `unknown` are none.
fn address_of(node: &str) -> Option<IpAddr> {
    let node = match node.strip_prefix('"') {
        Some(quoted) => quoted.strip_suffix('"')?,
        None => node,
    };
    let bare = || node.strip_prefix('[')?.strip_suffix(']')?.parse().ok().map(IpAddr::V6);
    let with_port = || node.parse::<SocketAddr>().ok().map(|address| address.ip());
    let address = node.parse().ok().or_else(bare).or_else(with_port)?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests;
