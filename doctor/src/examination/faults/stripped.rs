//! 400 and 426: a hop has dropped something, and the echo or the answer shows what. Pure.

use serde::de::IntoDeserializer as _;
use serde::de::value::StringDeserializer;
use serde::{Deserialize, Deserializer};

use super::super::facts::Diff;
use super::super::facts::{Address, Answer, Facts, Handshake};
use super::super::verdict::Kind;
use super::Fault;
use super::front::{cut, product, server, unexpected};
use crate::proxy::{Lines, Proxy};
use crate::reason::Reason;

/// Phrases in the answers of hi (plain text) and of common libraries, in lower case.
const SAID: [(&str, Kind); 11] = [
    ("http/1.1 (arrived", Kind::Http10Hop),
    ("upgrade: websocket (", Kind::UpgradeStripped),
    ("connection: upgrade (", Kind::ConnectionStripped),
    ("'upgrade' token not found in 'connection'", Kind::ConnectionStripped),
    ("'websocket' token not found in 'upgrade'", Kind::UpgradeStripped),
    ("\"connection\" must be \"upgrade\"", Kind::ConnectionStripped),
    ("connection header", Kind::ConnectionStripped),
    ("can \"upgrade\" only to \"websocket\"", Kind::UpgradeStripped),
    ("upgrade header", Kind::UpgradeStripped),
    ("upgrade required", Kind::UpgradeStripped),
    ("not a websocket", Kind::UpgradeStripped),
];

/// What hi says about a handshake that it refuses (`src/http/diagnosis.rs`).
#[derive(Deserialize)]
pub(in crate::examination) struct Told {
    /// `None`: a reason that only a later version of hi knows.
    #[serde(deserialize_with = "known")]
    pub(super) reason: Option<Reason>,
    pub(super) sentence: String,
}

fn known<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Reason>, D::Error> {
    let name = String::deserialize(deserializer)?;
    Ok(Reason::deserialize(name.into_deserializer() as StringDeserializer<D::Error>).ok())
}

impl Told {
    /// Whether no hop is to blame: the address itself is wrong.
    pub(in crate::examination) fn is_about_the_address(&self) -> bool {
        matches!(self.reason, Some(Reason::NameInvalid | Reason::QueryInvalid | Reason::PathInvalid))
    }

    /// The verdict, where a hop on the way is to blame.
    fn verdict(&self) -> Option<Kind> {
        match self.reason? {
            Reason::Http10Hop => Some(Kind::Http10Hop),
            Reason::UpgradeStripped | Reason::NotAWebsocketRequest => Some(Kind::UpgradeStripped),
            Reason::ConnectionStripped => Some(Kind::ConnectionStripped),
            _ => None,
        }
    }
}

pub(in crate::examination) fn told_by_hi(answer: &Answer) -> Option<Told> {
    serde_json::from_str(&answer.body).ok()
}

pub(super) fn stripped(address: &Address, handshake: &Handshake, facts: &Facts) -> Fault {
    let answer = &handshake.answer;
    let diff = address.echo_upgrade.done().and_then(|echo| echo.diff.as_ref());
    match proven(diff).or_else(|| told(address, answer)) {
        Some(kind) => by(kind, address, answer, diff),
        None => match told_by_hi(answer) {
            Some(told) => refused_by_hi(&told, answer.status, facts),
            None => unexpected(address, answer, answer.status),
        },
    }
}

fn proven(diff: Option<&Diff>) -> Option<Kind> {
    let diff = diff?;
    let http10 = diff.http_version.as_deref() == Some("HTTP/1.0");
    let (upgrade, connection) = (diff.lacks("upgrade", "websocket"), diff.lacks("connection", "upgrade"));
    match (http10, upgrade, connection) {
        (true, _, _) => Some(Kind::Http10Hop),
        (_, true, _) => Some(Kind::UpgradeStripped),
        (_, _, true) => Some(Kind::ConnectionStripped),
        _ => None,
    }
}

fn by(kind: Kind, address: &Address, answer: &Answer, diff: Option<&Diff>) -> Fault {
    let hop = hop(diff, answer);
    let dropped = match (kind, diff.is_some_and(|diff| diff.lacks("connection", "upgrade"))) {
        (Kind::ConnectionStripped, _) => "Connection",
        (Kind::UpgradeStripped, true) => "Upgrade and Connection",
        _ => "Upgrade",
    };
    // Envoy refuses HTTP/1.0: the hop that speaks it is in front of Envoy.
    let before_envoy = kind == Kind::Http10Hop && diff.is_none() && product(address, answer) == Some(Proxy::Envoy);
    let proxy = match before_envoy {
        true => None,
        false => diff.and_then(Diff::proxy).or_else(|| product(address, answer)),
    };
    let clause = match before_envoy {
        true => format!(
            "{} answers there and is asked in HTTP/1.0 by a hop before it, which drops Upgrade",
            server(address, answer)
        ),
        false => format!("{} answers there and drops {dropped}", hop.replacen("a proxy", article(kind), 1)),
    };
    let fix = format!("let {} pass the upgrade on", proxy.map_or("the proxy", Proxy::name));
    Fault::new(kind, clause, fix).lines(Lines::for_upgrade(proxy))
}

fn article(kind: Kind) -> &'static str {
    if kind == Kind::Http10Hop { "an HTTP/1.0 proxy" } else { "a proxy" }
}

/// hi received the whole handshake and refuses it.
fn refused_by_hi(told: &Told, status: u16, facts: &Facts) -> Fault {
    let clause = format!("hi refuses the handshake ({status}): {}", cut(told.sentence.trim_end_matches('.')));
    let fix = match told.is_about_the_address() {
        true => format!("correct the address ({})", facts.target.url),
        false => "find the hop that changes the handshake on the way; hi logs its reason".to_owned(),
    };
    Fault::new(Kind::UnexpectedStatus, clause, fix)
}

/// What is missing according to the answer, hi's or another server's.
fn told(address: &Address, answer: &Answer) -> Option<Kind> {
    if let Some(told) = told_by_hi(answer) {
        return told.verdict();
    }
    // An error page of a proxy says nothing about the server behind it.
    if answer.is_html() && answer.status == 400 || !asks_for_websockets(answer) {
        return None;
    }
    let plain = address.echo.done().map(|echo| echo.answer.status);
    if answer.status == 426 && plain == Some(426) && product(address, answer) == Some(Proxy::Envoy) {
        return Some(Kind::Http10Hop);
    }
    let body = answer.body.to_ascii_lowercase();
    let said = SAID.into_iter().find(|(phrase, _)| body.contains(phrase)).map(|(_, kind)| kind);
    said.or((answer.status == 426).then_some(Kind::UpgradeStripped))
}

/// 426 may also ask for TLS, HTTP/2 or another version of WebSocket (RFC 9110 15.5.22, RFC 6455 4.4).
fn asks_for_websockets(answer: &Answer) -> bool {
    let lists = |name, token: &str| answer.header(name).is_none_or(|value| value.to_ascii_lowercase().contains(token));
    answer.status != 426 || lists("upgrade", "websocket") && lists("sec-websocket-version", "13")
}

/// `a proxy (Via: 1.0 old-host)`.
fn hop(diff: Option<&Diff>, answer: &Answer) -> String {
    let traces: Vec<_> = diff.map(|diff| diff.hops.iter().map(|hop| hop.trace.as_str()).collect()).unwrap_or_default();
    match (traces.as_slice(), answer.header("server"), answer.header("via")) {
        ([], None, None) => "a proxy that does not name itself".to_owned(),
        ([], Some(server), _) => format!("a proxy (Server: {})", cut(server)),
        ([], None, Some(via)) => format!("a proxy (Via: {})", cut(via)),
        ([trace], _, _) => format!("a proxy ({})", cut(trace)),
        // The two ends don't show which of them it was.
        (traces, _, _) => format!("one of the proxies on the way ({})", cut(&traces.join(", then "))),
    }
}
