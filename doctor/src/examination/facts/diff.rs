//! What the hops on the way did to a request: what was sent against what arrived, and the hops that left a trace. Pure.
//!
//! The server names hops too (`src/http/hops.rs`), from one request of an unknown client. Here both ends of the way are
//! known. The tables are shared: [`crate::proxy`].

use serde::Serialize;

use super::{Answer, Received};
use crate::proxy::{FORWARDING, HINTS, Proxy};

/// The difference between a request as it was sent and as it arrived.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Diff {
    /// The version in which it arrived, if it is not `HTTP/1.1`.
    pub(crate) http_version: Option<String>,
    /// The path with which it arrived, if it was changed.
    pub(crate) path: Option<String>,
    /// Headers that were sent and did not arrive.
    pub(crate) removed: Vec<(String, String)>,
    /// Headers that arrived with a different value.
    pub(crate) changed: Vec<Changed>,
    /// Headers that arrived and were not sent.
    pub(crate) added: Vec<(String, String)>,
    /// The hops that left a trace, in the order of the way from the client.
    pub(crate) hops: Vec<Hop>,
}

/// A header whose value was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Changed {
    pub(crate) name: String,
    pub(crate) sent: String,
    pub(crate) arrived: String,
}

/// A hop that left a trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Hop {
    /// The trace: `Via: 1.0 old-host`.
    pub(crate) trace: String,
    /// Its product, if the trace names it.
    #[serde(serialize_with = "product")]
    pub(crate) proxy: Option<Proxy>,
}

fn product<S: serde::Serializer>(proxy: &Option<Proxy>, serializer: S) -> Result<S::Ok, S::Error> {
    match proxy {
        Some(proxy) => serializer.serialize_some(proxy.name()),
        None => serializer.serialize_none(),
    }
}

impl Diff {
    /// Compares the headers that were sent, and the answer, with what hi says it received.
    pub(crate) fn between(path: &str, sent: &[(String, String)], received: &Received, answer: &Answer) -> Self {
        let mut diff = Self {
            http_version: Some(received.http_version.clone()).filter(|version| version != "HTTP/1.1"),
            path: Some(received.path.clone()).filter(|arrived| arrived != path),
            ..Self::default()
        };
        for (name, value) in sent {
            match header(&received.headers, name) {
                None => diff.removed.push((name.clone(), value.clone())),
                Some(arrived) if !same(name, value, arrived) => {
                    diff.changed.push(Changed { name: name.clone(), sent: value.clone(), arrived: arrived.to_owned() });
                }
                Some(_) => {}
            }
        }
        let is_new = |name: &str| header(sent, name).is_none();
        diff.added = received.headers.iter().filter(|(name, _)| is_new(name)).cloned().collect();
        diff.hops = hops(&diff.added, answer);
        diff
    }

    /// Whether the request arrived as it was sent.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether this header did not arrive with this token in it.
    pub(crate) fn lacks(&self, name: &str, token: &str) -> bool {
        let is = |header: &str| header.eq_ignore_ascii_case(name);
        let has = |value: &str| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token));
        self.removed.iter().any(|(header, _)| is(header))
            || self.changed.iter().any(|changed| is(&changed.name) && !has(&changed.arrived))
    }

    /// The last hop that names its product.
    pub(crate) fn proxy(&self) -> Option<Proxy> {
        self.hops.iter().rev().find_map(|hop| hop.proxy)
    }
}

/// Whether a header arrived as it was sent. The options of `Connection` and `Upgrade` are case-insensitive (RFC 9110 7.6.1,
/// 7.8). A value that hi masks counts as the same.
fn same(name: &str, sent: &str, arrived: &str) -> bool {
    let has_options = ["connection", "upgrade"].iter().any(|options| name.eq_ignore_ascii_case(options));
    sent == arrived || is_masked(arrived) || has_options && sent.eq_ignore_ascii_case(arrived)
}

/// hi's echo masks the values of most headers (`src/http/echo.rs`).
fn is_masked(value: &str) -> bool {
    value.starts_with("(masked")
}

/// The last value of a header: a hop that adds another one puts it behind the first.
fn header<'h>(headers: &'h [(String, String)], name: &str) -> Option<&'h str> {
    headers.iter().rev().find(|(header, _)| header.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// The hops that name themselves: each member of `Via`, and a `Server` in the answer (hi sends none). Without either, a
/// header that a product adds, or one that names the client, shows that there was a hop.
fn hops(added: &[(String, String)], answer: &Answer) -> Vec<Hop> {
    let via = added.iter().filter(|(name, _)| name.eq_ignore_ascii_case("via"));
    let mut hops: Vec<Hop> = via
        .flat_map(|(_, value)| value.split(','))
        .map(|member| Hop { trace: format!("Via: {}", member.trim()), proxy: Proxy::named_in(member) })
        .collect();
    if let Some(server) = answer.header("server") {
        let proxy = Proxy::named_in(server);
        // The first product that overwrites Server hides those behind it: it names the first hop without a name in Via. If
        // all have one, it is one more hop.
        match hops.iter_mut().find(|hop| hop.proxy.is_none() || hop.proxy == proxy) {
            Some(hop) => hop.proxy = proxy,
            None => hops.push(Hop { trace: format!("Server: {server}"), proxy }),
        }
    }
    if hops.is_empty() {
        let added = |trace: &str| added.iter().find(|(name, _)| name.eq_ignore_ascii_case(trace));
        let hint = HINTS.iter().find_map(|(trace, proxy)| Some((added(trace)?, Some(*proxy))));
        let trace = hint.or_else(|| FORWARDING.iter().find_map(|trace| Some((added(trace)?, None))));
        hops.extend(trace.map(|((name, value), proxy)| {
            let trace = if is_masked(value) { name.clone() } else { format!("{name}: {value}") };
            Hop { trace, proxy }
        }));
    }
    hops
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn answer(headers: &[(&str, &str)]) -> Answer {
        Answer { status: 200, http_version: "HTTP/1.1".into(), headers: pairs(headers), body: String::new(), ms: 1.0 }
    }

    fn received(version: &str, headers: &[(&str, &str)]) -> Received {
        Received {
            method: "GET".into(),
            path: "/e".into(),
            http_version: version.into(),
            peer: "127.0.0.1:1".into(),
            client: None,
            client_from: None,
            headers: pairs(headers),
            group: None,
            cluster: None,
            instance: "i".into(),
            version: "0".into(),
            backend: None,
        }
    }

    #[test]
    fn removed_changed_and_added_headers_are_told_apart() {
        let sent = pairs(&[("Host", "h"), ("Upgrade", "websocket"), ("Connection", "Upgrade"), ("X-Kept", "1")]);
        let arrived = received(
            "HTTP/1.0",
            &[("host", "backend"), ("connection", "close"), ("X-Kept", "1"), ("Via", "1.1 edge, 1.0 old (squid/5)")],
        );
        let diff = Diff::between("/e", &sent, &arrived, &answer(&[]));
        assert_eq!(diff.http_version.as_deref(), Some("HTTP/1.0"));
        assert_eq!(diff.removed, pairs(&[("Upgrade", "websocket")]));
        assert_eq!(diff.changed.len(), 2);
        assert_eq!(diff.added, pairs(&[("Via", "1.1 edge, 1.0 old (squid/5)")]));
        assert_eq!(diff.hops.len(), 2);
        assert_eq!(diff.proxy(), Some(Proxy::Squid));
        assert!(
            diff.lacks("upgrade", "websocket") && diff.lacks("connection", "upgrade") && !diff.lacks("x-kept", "1")
        );
    }

    #[test]
    fn a_list_that_still_has_the_token_lacks_nothing() {
        let sent = pairs(&[("Connection", "Upgrade")]);
        let arrived = received("HTTP/1.1", &[("Connection", "keep-alive, upgrade")]);
        let diff = Diff::between("/e", &sent, &arrived, &answer(&[]));
        assert!(!diff.lacks("connection", "upgrade") && !diff.is_empty());
    }

    #[test]
    fn a_direct_connection_leaves_no_difference() {
        let sent = pairs(&[("Host", "h")]);
        assert!(Diff::between("/e", &sent, &received("HTTP/1.1", &[("Host", "h")]), &answer(&[])).is_empty());
    }

    #[test]
    fn hops_are_known_by_the_answer_or_by_what_they_add() {
        let arrived = received("HTTP/1.1", &[("X-Forwarded-For", "192.0.2.1")]);
        let named = Diff::between("/e", &[], &arrived, &answer(&[("Server", "nginx/1.22.1")]));
        assert_eq!((named.proxy(), named.hops.len()), (Some(Proxy::Nginx), 1));
        let via = received("HTTP/1.0", &[("Via", "1.0 old-host")]);
        let both = Diff::between("/e", &[], &via, &answer(&[("Server", "nginx")])).hops;
        assert_eq!(both, [Hop { trace: "Via: 1.0 old-host".into(), proxy: Some(Proxy::Nginx) }]);
        let via = received("HTTP/1.1", &[("Via", "1.1 varnish")]);
        let traces = Diff::between("/e", &[], &via, &answer(&[("Server", "nginx")])).hops;
        assert_eq!(traces.len(), 2, "{traces:?}");
        let nameless = Diff::between("/e", &[], &arrived, &answer(&[]));
        assert_eq!(nameless.hops, [Hop { trace: "X-Forwarded-For: 192.0.2.1".into(), proxy: None }]);
        let masked = received("HTTP/1.1", &[("X-Hi-Doctor", "(masked, 3 bytes)"), ("X-Real-IP", "(masked, 9 bytes)")]);
        let masked = Diff::between("/e", &pairs(&[("X-Hi-Doctor", "abc")]), &masked, &answer(&[]));
        assert_eq!((masked.changed.len(), masked.hops[0].trace.as_str()), (0, "X-Real-IP"), "{masked:?}");
        let hinted = received("HTTP/1.1", &[("X-Forwarded-For", "192.0.2.1"), ("CF-Ray", "8-FRA")]);
        let hinted = Diff::between("/e", &[], &hinted, &answer(&[]));
        assert_eq!(hinted.hops, [Hop { trace: "CF-Ray: 8-FRA".into(), proxy: Some(Proxy::Cloudflare) }]);
    }
}
