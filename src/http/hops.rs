//! Who stood between the client and this server, as far as the request shows it: `Via` (RFC 9110 7.6.3), `Forwarded`
//! (RFC 7239) and its forerunners, headers that products leave behind, the HTTP version. Pure.
//!
//! The peer's address is certain: it is the last hop's, or the client's own. Everything else is what the request says of
//! itself, and may be of the client's making.

use std::net::IpAddr;

use doctor::proxy::{FORWARDING, HINTS, Proxy};

use super::head::{Head, Version};
use super::shown::{bare, shown};

/// Hops before the last that are named one by one.
const EARLIER_MAX: usize = 4;

/// Addresses in the forwarding headers that are looked at: no real request passes more hops.
const ADDRESSES_MAX: usize = 64;

/// Signs of a hop that are listed.
const EVIDENCE_MAX: usize = 8;

/// The hop that handed the request to this server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hop {
    pub(crate) address: IpAddr,
    /// What it calls itself in `Via`.
    pub(crate) name: Option<String>,
    /// The product that it is.
    pub(crate) proxy: Option<Proxy>,
    /// Whether it names that product itself; else it is only likely.
    pub(crate) certain: bool,
    /// Hops before it, nearest the client first, as `Via` or the forwarding headers name them.
    pub(crate) earlier: Vec<String>,
    /// What all this was taken from, each a header as it came.
    pub(crate) evidence: Vec<String>,
}

impl Hop {
    /// The last hop of a request whose head could not be read.
    pub(crate) fn unread(peer: IpAddr) -> Self {
        let address = peer.to_canonical();
        Self { address, name: None, proxy: None, certain: false, earlier: Vec::new(), evidence: Vec::new() }
    }

    /// The last hop of this request.
    pub(crate) fn of(head: &Head<'_>, peer: IpAddr) -> Self {
        let mut hop = Self::unread(peer);
        let via: Vec<_> = head.tokens("via").collect();
        let addresses = forwarded_addresses(head);
        hop.evidence = evidence(head);
        let habit = nginx_by_default(head);
        let named = via.last().and_then(|element| Proxy::named_in(&bare(element)));
        // The last one to sign is not the last hop where the forwarding headers count more hops, or its habits are another's.
        let is_near = |proxy: &Proxy| could_be_at(*proxy, hop.address);
        let last_signs = via.len() >= addresses.len()
            && named.as_ref().is_none_or(is_near)
            && habit.is_none_or(|habit| named == Some(habit));
        let guesses = [habit, named, hinted(head), habits(head)];
        hop.proxy = guesses.into_iter().flatten().find(is_near);
        hop.certain = last_signs && named.is_some();
        hop.name = via.last().filter(|_| last_signs).and_then(|element| received_by(element));
        hop.earlier = earlier(&via[..via.len().saturating_sub(usize::from(last_signs))], &addresses);
        hop
    }

    /// Whether the request shows that it was passed on.
    pub(crate) fn is_seen(&self) -> bool {
        !self.evidence.is_empty()
    }

    /// Address, name and product, for the middle of a sentence.
    pub(crate) fn describe(&self) -> String {
        let name = self.name.as_ref().map(|name| format!("\"{name}\" in Via"));
        let proxy =
            self.proxy.map(|proxy| if self.certain { proxy.to_string() } else { format!("most likely {proxy}") });
        let parts: Vec<_> = name.into_iter().chain(proxy).collect();
        match parts.is_empty() {
            true => self.address.to_string(),
            false => format!("{} ({})", self.address, parts.join(", ")),
        }
    }
}

/// The host or pseudonym in an element of Via: behind the protocol.
fn received_by(element: &[u8]) -> Option<String> {
    element.split(|b| matches!(b, b' ' | b'\t')).filter(|word| !word.is_empty()).nth(1).map(bare)
}

/// Who the hops received the request from: the client first, or who claims to be it.
fn forwarded_addresses(head: &Head<'_>) -> Vec<String> {
    let listed: Vec<_> = head.tokens("x-forwarded-for").take(ADDRESSES_MAX).map(bare).collect();
    if !listed.is_empty() {
        return listed;
    }
    let elements =
        head.tokens("forwarded").take(ADDRESSES_MAX).map(|element| String::from_utf8_lossy(element).into_owned());
    let of_element = |element: String| {
        let mut pairs = element.split(';').filter_map(|pair| pair.trim().split_once('='));
        let (_, address) = pairs.find(|(key, _)| key.eq_ignore_ascii_case("for"))?;
        Some(bare(address.trim_matches('"').as_bytes()))
    };
    elements.map(|element| of_element(element).unwrap_or_else(|| "unknown".to_owned())).collect()
}

/// Those before the last: by their signatures, or by the addresses if there are more. The first of these is the client's.
fn earlier(signatures: &[&[u8]], addresses: &[String]) -> Vec<String> {
    let further = addresses.get(1..).unwrap_or_default();
    let count = signatures.len().max(further.len());
    let mut earlier: Vec<_> = match signatures.len() == count {
        true => signatures.iter().take(EARLIER_MAX).map(|element| bare(element)).collect(),
        false => further.iter().take(EARLIER_MAX).cloned().collect(),
    };
    if count > EARLIER_MAX {
        earlier.push(format!("{} more", count - EARLIER_MAX));
    }
    earlier
}

/// What shows that the request was passed on.
fn evidence(head: &Head<'_>) -> Vec<String> {
    let hints = HINTS.iter().map(|(name, _)| *name);
    let names = ["via"].into_iter().chain(FORWARDING).chain(hints);
    names
        .filter_map(|name| head.headers.iter().find(|(came, _)| came.eq_ignore_ascii_case(name)))
        .map(|(name, value)| format!("{name}: {}", shown(value)))
        .take(EVIDENCE_MAX)
        .collect()
}

/// `proxy_pass` without further lines: HTTP/1.0, and `Connection: close` in front of what the client sent, behind nothing
/// but other headers that the proxy writes.
fn nginx_by_default(head: &Head<'_>) -> Option<Proxy> {
    let is_written =
        |name: &str| name.eq_ignore_ascii_case("host") || FORWARDING.iter().any(|n| n.eq_ignore_ascii_case(name));
    let (name, value) = head.headers.iter().find(|(name, _)| !is_written(name))?;
    let fits = name.eq_ignore_ascii_case("connection") && value.eq_ignore_ascii_case(b"close");
    (head.version == Version::Http10 && fits).then_some(Proxy::Nginx)
}

fn hinted(head: &Head<'_>) -> Option<Proxy> {
    HINTS.iter().find(|(name, _)| head.header(name).next().is_some()).map(|(_, proxy)| *proxy)
}

/// What products write unless they are told not to; others can be told to write it.
fn habits(head: &Head<'_>) -> Option<Proxy> {
    let has = |name| head.header(name).next().is_some();
    if has("x-forwarded-server") {
        return Some(if has("x-forwarded-port") { Proxy::Traefik } else { Proxy::Apache });
    }
    has("x-real-ip").then_some(Proxy::Nginx)
}

/// Services of others don't connect from this machine or network: something nearer, which says nothing of itself, does.
fn could_be_at(proxy: Proxy, address: IpAddr) -> bool {
    let private = match address {
        IpAddr::V4(address) => address.is_private() || address.is_link_local(),
        IpAddr::V6(address) => address.is_unique_local() || address.is_unicast_link_local(),
    };
    match proxy {
        Proxy::Cloudflare | Proxy::Google => !private && !address.is_loopback(),
        Proxy::Aws => !address.is_loopback(),
        _ => true,
    }
}

#[cfg(test)]
mod tests;
