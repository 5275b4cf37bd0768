//! The hops between the client and this server, as far as the request shows them: `Via` (RFC 9110 7.6.3), `Forwarded` (RFC
//! 7239) and its predecessors, headers typical of products, the HTTP version. Pure.
//!
//! Only the peer's address is certain: it is the last hop's, or the client's own. Everything else comes from the request, and
//! the client may have forged it.

use std::net::IpAddr;

use doctor::proxy::{FORWARDING, HINTS, Proxy};

use super::head::{Head, Version};
use super::shown::{bare, shown};
use crate::limits::{EARLIER_HOPS_MAX, EVIDENCE_MAX, FORWARDED_ADDRESSES_MAX};

/// The hop that passed the request to this server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hop {
    pub(crate) address: IpAddr,
    /// Its name in `Via`.
    pub(crate) name: Option<String>,
    /// The product.
    pub(crate) proxy: Option<Proxy>,
    /// Whether the hop names its product; otherwise the product is only likely.
    pub(crate) certain: bool,
    /// Earlier hops, starting at the client, as named in `Via` or the forwarding headers.
    pub(crate) earlier: Vec<String>,
    /// The headers that show this, as they arrived.
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
        // The last entry in `Via` is not the last hop if the forwarding headers have more hops, or if other headers are typical of
        // another product.
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

    /// Whether the request shows that a proxy has forwarded it.
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

/// The host or pseudonym in an element of Via, after the protocol.
fn received_by(element: &[u8]) -> Option<String> {
    element.split(|b| matches!(b, b' ' | b'\t')).filter(|word| !word.is_empty()).nth(1).map(bare)
}

/// The addresses from which the hops received the request, starting with the (alleged) client.
fn forwarded_addresses(head: &Head<'_>) -> Vec<String> {
    let listed: Vec<_> = head.tokens("x-forwarded-for").take(FORWARDED_ADDRESSES_MAX).map(bare).collect();
    if !listed.is_empty() {
        return listed;
    }
    let elements = head
        .tokens("forwarded")
        .take(FORWARDED_ADDRESSES_MAX)
        .map(|element| String::from_utf8_lossy(element).into_owned());
    let of_element = |element: String| {
        let mut pairs = element.split(';').filter_map(|pair| pair.trim().split_once('='));
        let (_, address) = pairs.find(|(key, _)| key.eq_ignore_ascii_case("for"))?;
        Some(bare(address.trim_matches('"').as_bytes()))
    };
    elements.map(|element| of_element(element).unwrap_or_else(|| "unknown".to_owned())).collect()
}

/// The hops before the last: by their entries in `Via`, or by their addresses if there are more. The first address is the
/// client's.
fn earlier(signatures: &[&[u8]], addresses: &[String]) -> Vec<String> {
    let further = addresses.get(1..).unwrap_or_default();
    let count = signatures.len().max(further.len());
    let mut earlier: Vec<_> = match signatures.len() == count {
        true => signatures.iter().take(EARLIER_HOPS_MAX).map(|element| bare(element)).collect(),
        false => further.iter().take(EARLIER_HOPS_MAX).cloned().collect(),
    };
    if count > EARLIER_HOPS_MAX {
        earlier.push(format!("{} more", count - EARLIER_HOPS_MAX));
    }
    earlier
}

/// Headers which show that a proxy has forwarded the request.
fn evidence(head: &Head<'_>) -> Vec<String> {
    let hints = HINTS.iter().map(|(name, _)| *name);
    let names = ["via"].into_iter().chain(FORWARDING).chain(hints);
    names
        .filter_map(|name| head.headers.iter().find(|(came, _)| came.eq_ignore_ascii_case(name)))
        .map(|(name, value)| format!("{name}: {}", shown(value)))
        .take(EVIDENCE_MAX)
        .collect()
}

/// nginx's `proxy_pass` without further lines: HTTP/1.0, and `Connection: close` before the client's headers, after nothing
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

/// Headers that these products add by default, and others only if configured.
fn habits(head: &Head<'_>) -> Option<Proxy> {
    let has = |name| head.header(name).next().is_some();
    if has("x-forwarded-server") {
        return Some(if has("x-forwarded-port") { Proxy::Traefik } else { Proxy::Apache });
    }
    has("x-real-ip").then_some(Proxy::Nginx)
}

/// Cloud services don't connect from this machine or a private network: then the last hop is a nearer one, which does not
/// identify itself.
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
