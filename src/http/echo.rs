//! `GET /-/doctor/echo`: the request as this server received it. The doctor compares it with what it sent, which shows what
//! the hops between have changed.

use std::borrow::Cow;
use std::net::IpAddr;

use serde::Serialize;

use super::bearer;
use super::head::Head;
use crate::address::PeerAddress;
use crate::address::client::{ClientAddress, Source};

/// Headers whose values are shown: those that tell how the request got here. Other headers that a proxy adds may be secrets
/// between it and the server (`X-Origin-Verify`), which clients must not learn.
const SHOWN: [&str; 13] = [
    "connection",
    "forwarded",
    "host",
    "keep-alive",
    "origin",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "via",
    // The doctor sends it, with a name that it makes up.
    "x-hi-doctor",
];
/// Prefixes of the names of further headers whose values are shown.
const SHOWN_PREFIXES: [&str; 2] = ["sec-websocket-", "x-forwarded-"];
/// Words in a name that are exceptions from [`SHOWN_PREFIXES`]: proxies that authenticate users pass on their identity and
/// credentials (`X-Forwarded-Access-Token`, `X-Forwarded-Email`, `X-Forwarded-Client-Cert`).
const MASKED: [&str; 9] = ["auth", "cert", "cookie", "email", "group", "password", "secret", "token", "user"];

#[derive(Serialize)]
struct Echo<'r> {
    method: &'r str,
    path: &'r str,
    http_version: &'static str,
    peer: PeerAddress,
    client: IpAddr,
    client_from: Source,
    headers: Vec<(&'r str, Cow<'r, str>)>,
    #[serde(flatten)]
    identity: &'r Identity<'r>,
}

/// Which server answers.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Identity<'r> {
    /// The name of the process, a new one with each start.
    pub instance: &'r str,
    /// The name that it shares with other servers behind the same public address, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<&'r str>,
    /// hi's version.
    pub version: &'r str,
    /// What it serves connections with: `io_uring` or `epoll`.
    pub backend: &'r str,
    /// Whom it shares its rooms with, if it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<&'r Cluster>,
}

/// The cluster that a server belongs to. Nothing of it is secret: it says only whether two servers share their rooms.
#[derive(Clone, Debug, Serialize)]
pub struct Cluster {
    /// Its name.
    pub name: String,
    /// A number of its log, which servers have in common that share their rooms.
    pub log: String,
    /// For how long the log can't be reached, if it can't.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub away_seconds: Option<u64>,
}

/// The body, JSON: `method`, `path` (the whole target, undecoded; a token is masked), `http_version` (`HTTP/1.1`), `peer` (address
/// and port of the last hop), `client` (the address that this server takes the client to have) and `client_from` (`peer`, `header` or
/// `proxy_protocol`), `headers` (`[name, value]` pairs in order, names in the case that they came in), and the
/// parts of the [`Identity`]. Bytes that are not UTF-8 become U+FFFD.
pub fn echo(head: &Head<'_>, from: &ClientAddress, identity: &Identity<'_>) -> Vec<u8> {
    let echo = Echo {
        method: head.method,
        path: &bearer::mask_query(head.target),
        http_version: head.version.as_str(),
        peer: from.peer,
        client: from.address,
        client_from: from.source,
        headers: head.headers.iter().map(|(name, value)| (*name, visible(name, value))).collect(),
        identity,
    };
    // Strings and an address always serialize.
    serde_json::to_vec(&echo).unwrap_or_default()
}

fn visible<'b>(name: &str, value: &'b [u8]) -> Cow<'b, str> {
    let lower = name.to_ascii_lowercase();
    if is_shown(&lower) {
        let shown = String::from_utf8_lossy(value);
        return match lower == "sec-websocket-protocol" {
            true => bearer::mask_subprotocols(&shown).into_owned().into(),
            false => shown,
        };
    }
    format!("(masked, {} bytes)", value.len()).into()
}

fn is_shown(lower: &str) -> bool {
    let of_a_family = SHOWN_PREFIXES.iter().any(|prefix| lower.starts_with(prefix));
    SHOWN.contains(&lower) || of_a_family && !MASKED.iter().any(|word| lower.contains(word))
}

#[cfg(test)]
mod tests {
    use std::iter;

    use super::super::head::parse;
    use super::*;
    use crate::address::client::{ClientHeader, Trust};
    use crate::address::networks::Networks;

    fn echoed(request: &[u8]) -> serde_json::Value {
        let (head, _) = parse(request).expect("well-formed").expect("whole");
        let peer = PeerAddress::Ip("[2001:db8::1]:443".parse().expect("an address"));
        let cluster = Cluster { name: "hi".to_owned(), log: "00ab".to_owned(), away_seconds: None };
        let identity =
            Identity { instance: "i-1", group: None, version: "0.1.0", backend: "epoll", cluster: Some(&cluster) };
        let trust = Trust { proxies: Networks::default(), header: ClientHeader::XForwardedFor };
        let from = trust.locate(peer, None, iter::empty());
        serde_json::from_slice(&echo(&head, &from, &identity)).expect("JSON")
    }

    #[test]
    fn the_request_comes_back_as_it_arrived() {
        let request = b"GET /-/doctor/echo?a=%20 HTTP/1.1\r\nHost: x\r\nVia: \xe9\"\r\nvia: 2\r\nX-B: 2\r\n\r\n";
        assert_eq!(
            echoed(request),
            serde_json::json!({
                "method": "GET", "path": "/-/doctor/echo?a=%20", "http_version": "HTTP/1.1", "peer": "[2001:db8::1]:443",
                "client": "2001:db8::1", "client_from": "peer",
                "headers": [["Host", "x"], ["Via", "\u{fffd}\""], ["via", "2"], ["X-B", "(masked, 1 bytes)"]],
                "instance": "i-1", "version": "0.1.0", "backend": "epoll", "cluster": {"name": "hi", "log": "00ab"},
            })
        );
    }

    #[test]
    fn what_tells_the_way_is_shown_and_all_else_masked() {
        let shown = [
            "HOST",
            "Connection",
            "Upgrade",
            "Keep-Alive",
            "TE",
            "Trailer",
            "Transfer-Encoding",
            "Proxy-Connection",
            "Origin",
            "Via",
            "Forwarded",
            "User-Agent",
            "Sec-WebSocket-Key",
            "sec-websocket-protocol",
            "X-Forwarded-For",
            "X-Forwarded-Proto",
            "X-FORWARDED-HOST",
            "X-Forwarded-Port",
            "X-Hi-Doctor",
        ];
        let masked = [
            "Cookie",
            "Authorization",
            "Proxy-Authorization",
            "Proxy-Authenticate",
            "Set-Cookie",
            "X-API-Key",
            "X-Origin-Verify",
            "X-Azure-FDID",
            "X-Amzn-Oidc-Data",
            "X-Origin-Secret",
            "X-Real-IP",
            "Referer",
            "Accept",
            "X-Forwarded-Access-Token",
            "X-Forwarded-User",
            "X-Forwarded-Email",
            "X-Forwarded-Client-Cert",
            "X-Whatever",
            "X-Host",
            "Hosts",
            "CF-Access-Jwt-Assertion",
        ];
        for (names, expected) in [(&shown[..], "hush"), (&masked[..], "(masked, 4 bytes)")] {
            for name in names {
                assert_eq!(visible(name, b"hush"), expected, "{name}");
            }
        }
    }
}
