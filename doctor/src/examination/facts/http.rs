//! HTTP: answers, what hi received, handshakes.

use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use super::diff::Diff;

/// An HTTP answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// `HTTP/1.1`.
    pub(crate) http_version: String,
    /// Names and values in order.
    pub(crate) headers: Vec<(String, String)>,
    /// The beginning of the body, as text.
    pub(crate) body: String,
    /// Time from the request to the end of the answer, in milliseconds.
    pub(crate) ms: f64,
}

impl Answer {
    /// The first value under a name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Whether the status refuses access.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self.status, 401 | 403)
    }

    /// Whether it is a web page.
    pub(crate) fn is_html(&self) -> bool {
        self.header("content-type").is_some_and(|kind| kind.to_ascii_lowercase().contains("text/html"))
            || self.body.trim_start().to_ascii_lowercase().starts_with("<!doctype html")
            || self.body.trim_start().to_ascii_lowercase().starts_with("<html")
    }
}

/// An answer of `/-/doctor/echo`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Echo {
    /// The path of the request.
    pub(crate) path: String,
    pub(crate) answer: Answer,
    /// What hi received, if the answer is hi's.
    pub(crate) received: Option<Received>,
    /// What the hops did to the request, if the answer is hi's.
    pub(crate) diff: Option<Diff>,
}

/// The headers in which proxies tell the client's address. The doctor sends none of them.
const CLIENT_HEADERS: [&str; 4] = ["x-forwarded-for", "forwarded", "cf-connecting-ip", "x-real-ip"];

/// A request as hi received it (`src/http/echo.rs`).
#[derive(Clone, Debug, PartialEq, Serialize, serde::Deserialize)]
pub(crate) struct Received {
    /// `GET`.
    pub(crate) method: String,
    pub(crate) path: String,
    /// `HTTP/1.1`.
    pub(crate) http_version: String,
    /// The last hop before hi.
    pub(crate) peer: String,
    /// The address that hi takes the client to have; old servers don't say.
    #[serde(default)]
    pub(crate) client: Option<IpAddr>,
    /// What tells that address: `peer`, `header` or `proxy_protocol`.
    #[serde(default)]
    pub(crate) client_from: Option<String>,
    /// Names and values in order.
    pub(crate) headers: Vec<(String, String)>,
    /// The name of the running server.
    pub(crate) instance: String,
    /// The name that it shares with other servers behind the same public address, if it was given one.
    #[serde(default)]
    pub(crate) group: Option<String>,
    /// The cluster that it belongs to, if it belongs to one.
    #[serde(default)]
    pub(crate) cluster: Option<Cluster>,
    /// hi's version.
    pub(crate) version: String,
    /// What it serves connections with; old servers don't say.
    #[serde(default)]
    pub(crate) backend: Option<String>,
}

/// Servers that share their rooms.
#[derive(Clone, Debug, PartialEq, Serialize, serde::Deserialize)]
pub(crate) struct Cluster {
    /// Its name (`--cluster-name`).
    pub(crate) name: String,
    /// A number of its log: servers with the same one share their rooms.
    pub(crate) log: String,
    /// For how long this server has not reached the log, if it doesn't.
    #[serde(default)]
    pub(crate) away_seconds: Option<u64>,
}

impl Received {
    /// The proxy, as an element of `--trusted-proxies`, that tells hi which address the client has, and isn't believed.
    pub(crate) fn untrusted_proxy(&self) -> Option<String> {
        let is_told =
            self.headers.iter().any(|(name, _)| CLIENT_HEADERS.iter().any(|it| name.eq_ignore_ascii_case(it)));
        let proxy = if self.peer.parse::<SocketAddr>().is_ok() { self.client?.to_string() } else { "unix".into() };
        (is_told && self.client_from.as_deref() == Some("peer")).then_some(proxy)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Handshake {
    /// The target of the request.
    pub(crate) path: String,
    pub(crate) answer: Answer,
    /// Whether `Sec-WebSocket-Accept` is correct (RFC 6455 4.1).
    pub(crate) accept_matches: bool,
    /// The `Origin` that was sent, if any.
    pub(crate) origin: Option<String>,
    /// After a refusal (401, 403): the same handshake with the other kind of `Origin`, the site's or none. After a successful
    /// handshake without `Origin`: the one with the site's, if it was refused.
    pub(crate) other_origin: Option<OtherOrigin>,
    /// If an `Origin` was refused and requests arrive with a changed `Host`: the handshake with that host as its origin.
    pub(crate) host_origin: Option<OtherOrigin>,
}

impl Handshake {
    /// Whether a WebSocket was opened.
    pub(crate) fn is_healthy(&self) -> bool {
        self.answer.status == 101 && self.accept_matches
    }

    /// Whether one `Origin` is accepted and the other is not.
    pub(crate) fn refuses_an_origin(&self) -> bool {
        let other = self.other_origin.as_ref();
        other.is_some_and(|other| (self.answer.status == 101) != (other.status == 101))
    }
}

/// A further handshake after a refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct OtherOrigin {
    /// The `Origin` that was sent this time, if any.
    pub(crate) origin: Option<String>,
    pub(crate) status: u16,
}
