//! From a failed handshake to a verdict: the reason, the hop that is the likely cause, the evidence, a sentence for the
//! client, one for the operator, and the lines that fix it. Pure; [`super::head`], [`super::target`], [`super::upgrade`] and
//! `origin` find what failed.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use doctor::proxy::{EXAMPLE_UPSTREAM, Lines, Proxy};
use serde_json::json;

use super::accept::{Media, wanted};
use super::head::{Head, HeadError};
use super::hops::Hop;
use super::origin::OriginRefused;
use super::reason::Reason;
use super::response::Response;
use super::target::TargetError;
use super::upgrade::UpgradeRefusal;
use crate::address::PeerAddress;
use crate::address::proxy_header::ProxyHeaderError;
use crate::address::table::{AddressLimit, Excess};
use crate::identity::refused::Refused;
use crate::identity::rights::Denied;
use crate::limits::ORIGIN_BYTES_SHOWN;

/// What failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The head can't be read.
    Head(HeadError),
    /// The head did not arrive within this time.
    Timeout(Duration),
    /// The connection ended after this many bytes of a head.
    CutOff(usize),
    /// The address asked for.
    Target(TargetError),
    /// The upgrade.
    Upgrade(UpgradeRefusal),
    /// The page that asks.
    Origin(OriginRefused),
    /// Raw rooms are switched off.
    RawRoomsOff,
    /// The token, or that there is none.
    Token(Refused),
    /// What the token, or the rules for guests, allow.
    Denied(Denied),
    /// The client's address is over one of its limits.
    Address(Excess),
    /// The PROXY header in front of the request.
    ProxyHeader(ProxyHeaderError),
}

macro_rules! faults {
    ($($error:ty => $fault:ident,)+) => {
        $(impl From<$error> for Fault {
            fn from(error: $error) -> Self {
                Self::$fault(error)
            }
        })+
    };
}

faults! { HeadError => Head, TargetError => Target, UpgradeRefusal => Upgrade, OriginRefused => Origin, Excess => Address,
ProxyHeaderError => ProxyHeader, Refused => Token, Denied => Denied, }

/// The two ends of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The other end: the last hop, or the client.
    pub peer: PeerAddress,
    /// This end, as the peer reached it, if known: the upstream that a proxy has to be given.
    pub local: Option<SocketAddr>,
}

/// The verdict on a handshake that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Why it failed.
    pub reason: Reason,
    /// The hop that passed it to this server.
    pub(crate) hop: Hop,
    /// Whether the head could be read, and searched for signs of a proxy.
    pub(crate) head_was_read: bool,
    /// Everything missing or wrong: what was expected, and what arrived instead.
    pub(crate) missing: Vec<String>,
    /// End-to-end headers of the handshake that did arrive: the proof that a WebSocket client sent the request.
    pub(crate) survived: Vec<&'static str>,
    /// What to tell the client: one or two sentences.
    pub(crate) sentence: String,
    /// Details for the operator only.
    pub(crate) detail: Option<String>,
    /// What to change in which proxy; empty if no proxy is the cause.
    pub(crate) fixes: Vec<Lines>,
    /// Seconds after which the client may try again, if that can help.
    pub(crate) retry_after: Option<u64>,
}

/// The verdict on a failed handshake; `head` is its head, if it could be read.
pub fn diagnose(fault: Fault, head: Option<&Head<'_>>, ends: Ends) -> Verdict {
    let peer = ends.peer.ip();
    let mut verdict = Verdict {
        reason: Reason::Malformed,
        hop: head.map_or_else(|| Hop::unread(peer), |head| Hop::of(head, peer)),
        head_was_read: head.is_some(),
        missing: Vec::new(),
        survived: Vec::new(),
        sentence: String::new(),
        detail: None,
        fixes: Vec::new(),
        retry_after: None,
    };
    verdict.fill(fault, ends.peer);
    let upstream = ends.local.map_or_else(|| EXAMPLE_UPSTREAM.to_owned(), |local| local.to_string());
    verdict.fixes = verdict.fixes_for(&upstream);
    verdict
}

impl Verdict {
    fn fill(&mut self, fault: Fault, peer: PeerAddress) {
        (self.reason, self.sentence) = match fault {
            Fault::Head(HeadError::ProxyHeader(error)) | Fault::ProxyHeader(error) => {
                self.detail = Some(proxy_header_fix(&error, peer));
                (proxy_header_reason(&error), error.to_string())
            }
            Fault::Head(error) => (error.reason(), error.to_string()),
            Fault::Address(excess) => {
                self.retry_after = Some(excess.retry_after);
                self.detail = Some(format!(
                    "if {} is a proxy, add it to --trusted-proxies; if many people share it, to --unlimited-addresses",
                    excess.network
                ));
                (Reason::TooManyFromAddress, address_advice(&excess))
            }
            Fault::Timeout(limit) => {
                self.detail = Some(format!("it had {limit:?} (--handshake-timeout)"));
                let text = "The request head did not arrive in time (--handshake-timeout). Send it whole, at once.";
                (Reason::HeadTimeout, text.to_owned())
            }
            Fault::CutOff(bytes) => {
                (Reason::HeadCutOff, format!("The connection ended after {bytes} bytes of a request head."))
            }
            Fault::Target(error) => {
                self.detail = (error.detail != error.text).then_some(error.detail);
                (error.reason, error.text)
            }
            Fault::Origin(refused) => {
                self.missing = vec![format!("an Origin that is allowed here ({})", refused.arrived)];
                self.detail = Some(format!("--origins allows {}", refused.allowed));
                (Reason::OriginRefused, origin_advice(&refused))
            }
            Fault::RawRoomsOff => {
                (Reason::RawRoomsOff, "Raw rooms are switched off on this server (--raw off).".to_owned())
            }
            Fault::Token(refused) => {
                self.detail = refused.detail;
                (refused.reason, refused.sentence)
            }
            Fault::Denied(denied) => (Reason::Denied, denied.to_string()),
            Fault::Upgrade(refusal) => {
                let reason = refusal.reason;
                (self.missing, self.survived) = (refusal.missing, refusal.survived);
                (reason, advice(reason).map_or_else(|| self.proof(reason), str::to_owned))
            }
        };
    }

    /// What the headers that arrived prove about those that did not, and the likely cause.
    fn proof(&self, reason: Reason) -> String {
        let did = match reason {
            Reason::Http10Hop => "passes requests on as HTTP/1.0, which has no Upgrade",
            _ => "removed what is missing",
        };
        let last = self.hop.describe();
        let who = match self.hop.is_seen() || self.hop.proxy.is_some() {
            true => format!("the last hop before this server, the reverse proxy at {last},"),
            false => format!("something between the client and this server, most likely a reverse proxy at {last},"),
        };
        let mut proof = match &self.survived[..] {
            [] => format!("If the client sent a whole handshake, {who} {did}."),
            survived => format!("{} arrived, so a WebSocket client sent this; {who} {did}.", survived.join(" and ")),
        };
        let connection_is_missing = self.missing.iter().any(|item| item.starts_with("Connection:"));
        if reason == Reason::UpgradeStripped && !connection_is_missing {
            proof.push_str(
                " Connection: Upgrade did arrive: the last hop writes it by itself, and either lacks its line for Upgrade or \
                 got none from a hop before it.",
            );
        }
        if !self.hop.earlier.is_empty() {
            let _ = write!(
                proof,
                " It is the last of several hops; one before it may be the cause as well: {}.",
                self.hop.earlier.join(", ")
            );
        }
        proof
    }

    /// The fixes for the proxy that the evidence names; if it names none, for the most common ones, the likely one first.
    fn fixes_for(&self, upstream: &str) -> Vec<Lines> {
        let fix: fn(Proxy, &str) -> Lines = match self.reason {
            reason if reason.points_at_a_proxy() => Proxy::upgrade_fix,
            reason if reason.is_wrong_protocol() => Proxy::plain_fix,
            _ => return Vec::new(),
        };
        let mut proxies: Vec<Proxy> = self.hop.proxy.into_iter().collect();
        if !self.hop.certain {
            proxies.extend(Proxy::COMMON.into_iter().filter(|common| Some(*common) != self.hop.proxy));
        }
        proxies.into_iter().map(|proxy| fix(proxy, upstream)).collect()
    }

    /// The hop's label in metrics and in the log's counts: its address if there is a sign of a hop or the head could not be
    /// read; `direct` if nothing suggests a proxy.
    pub fn hop_label(&self) -> String {
        let hop = !self.head_was_read || self.hop.is_seen() || self.hop.proxy.is_some() || self.reason.is_stripped();
        if hop { self.hop.address.to_string() } else { "direct".to_owned() }
    }

    /// One line for the operator, beginning with the reason.
    pub fn operator_text(&self) -> String {
        let mut line = self.reason.as_str().to_owned();
        if !self.missing.is_empty() {
            let _ = write!(line, "; missing {}", self.missing.join(", "));
        }
        let _ = write!(line, "; {}", self.sentence);
        if let Some(detail) = &self.detail {
            let _ = write!(line, " ({detail})");
        }
        if !self.hop.evidence.is_empty() {
            let _ = write!(line, " Seen: {}.", self.hop.evidence.join(", "));
        }
        // A client that only opened the address as a page needs no fix.
        if self.hop_label() != "direct" {
            self.fixes.iter().enumerate().for_each(|(at, fix)| {
                let _ = write!(line, "{}{fix}", if at == 0 { " Fix: " } else { " | or " });
            });
        }
        line
    }

    /// The body for the client in plain text.
    pub(crate) fn client_text(&self) -> String {
        if self.missing.is_empty() || self.reason == Reason::OriginRefused {
            return self.sentence.clone();
        }
        let mut text = String::from("This address speaks WebSocket, and this request is not a WebSocket handshake.\n");
        text.push_str("Missing or wrong:\n");
        for item in &self.missing {
            let _ = writeln!(text, "  {item}");
        }
        let _ = writeln!(text, "\n{}", self.sentence);
        if self.fixes.is_empty() {
            return text;
        }
        text.push_str(
            "\nUpgrade and Connection are hop-by-hop headers (RFC 9110 7.6.1): a reverse proxy drops them unless it is told \
             to forward them. These lines, in place of those of the same name, make it do so. Meanwhile, GET /stream/ROOM \
             reads a chat room without an upgrade (server-sent events).\n",
        );
        for fix in &self.fixes {
            let _ = writeln!(text, "\nIn {}:\n", fix.place);
            for line in &fix.lines {
                let _ = writeln!(text, "    {line}");
            }
            if !fix.without.is_empty() {
                let _ = writeln!(text, "\n  and without: {}", fix.without.join(", "));
            }
        }
        text
    }

    /// The body for the client in JSON.
    pub fn client_json(&self) -> Vec<u8> {
        let hop = json!({
            "address": self.hop.address,
            "name": self.hop.name,
            "proxy": self.hop.proxy.map(Proxy::name),
            "certain": self.hop.certain,
            "earlier": self.hop.earlier,
        });
        let body = json!({
            "status": self.reason.status(),
            "reason": self.reason.as_str(),
            "sentence": self.sentence,
            // What is wrong with the name, as its sentence is the fixed one that old clients know.
            "detail": self.detail.as_ref().filter(|_| self.reason == Reason::NameInvalid),
            "missing": self.missing,
            "survived": self.survived,
            "hop": hop,
            "evidence": self.hop.evidence,
            "mend": self.fixes,
        });
        body.to_string().into_bytes()
    }

    /// The response: the status, a body in the form that the client prefers, and with 426 the protocol to upgrade to (RFC 9110
    /// 7.8, 15.5.22; RFC 6455 4.4).
    pub fn response(&self, head: Option<&Head<'_>>) -> Response {
        let status = self.reason.status();
        let response = match head.is_some_and(prefers_json) {
            true => Response::json(status, self.client_json()),
            false => Response::text(status, self.client_text()),
        };
        let response = response.header("Vary", "Accept");
        let response = match self.retry_after {
            Some(seconds) => response.header("Retry-After", seconds.to_string()),
            None => response,
        };
        match status {
            426 => response
                .header("Upgrade", "websocket")
                .connection_option("Upgrade")
                .header("Sec-WebSocket-Version", "13"),
            // RFC 6750, 3.
            401 if self.reason == Reason::TokenMissing => response.header("WWW-Authenticate", "Bearer"),
            401 => response.header("WWW-Authenticate", "Bearer error=\"invalid_token\""),
            503 => response.header("Retry-After", "1"),
            _ => response,
        }
    }
}

/// What an address has too much of, and when that changes.
fn address_advice(excess: &Excess) -> String {
    let Excess { limit, max, network, retry_after } = excess;
    match limit {
        AddressLimit::Connections => format!(
            "Your address ({network}) has {max} connections open, and may have no more (--max-per-address). Close some, or try \
             again in {retry_after} s."
        ),
        AddressLimit::Handshakes | AddressLimit::Messages => format!(
            "Your address ({network}) connects too often: {max} times a minute are allowed, and failures count twice \
             (--handshakes-per-address). Try again in {retry_after} s."
        ),
    }
}

fn proxy_header_reason(error: &ProxyHeaderError) -> Reason {
    match error {
        ProxyHeaderError::Missing => Reason::ProxyHeaderMissing,
        ProxyHeaderError::Unexpected => Reason::ProxyHeaderUnexpected,
        ProxyHeaderError::Bad(_) => Reason::ProxyHeaderBad,
    }
}

/// What the operator has to change: in the proxy, or in hi.
fn proxy_header_fix(error: &ProxyHeaderError, peer: PeerAddress) -> String {
    let peer = match peer {
        PeerAddress::Ip(address) => address.ip().to_string(),
        PeerAddress::Unix => "unix".to_owned(),
    };
    let send = "HAProxy: send-proxy-v2, nginx: proxy_protocol on in a stream server, Caddy: proxy_protocol v2";
    match error {
        ProxyHeaderError::Missing => format!("let {peer} send it ({send}), or take it out of --proxy-protocol"),
        ProxyHeaderError::Unexpected => {
            format!("if {peer} is your proxy, add it to --proxy-protocol, or let it send none ({send})")
        }
        ProxyHeaderError::Bad(_) => format!("{peer} is to send version 1 or 2, as --proxy-protocol demands ({send})"),
    }
}

/// Why a page may not connect, and how to allow it. The list of allowed origins is for the operator only.
fn origin_advice(refused: &OriginRefused) -> String {
    let OriginRefused { arrived, origin, host, .. } = refused;
    let mut text =
        format!("This page may not connect: its Origin ({arrived}) is not among those that may (--origins).");
    let mut fixes = Vec::new();
    if let Some(host) = host {
        let _ = write!(text, " By default, pages of the host of the request may, and its Host is another ({host}).");
        fixes.push(
            "let the proxy in front pass Host on as the browser sent it (nginx: proxy_set_header Host $http_host; Apache: \
             ProxyPreserveHost On)"
                .to_owned(),
        );
    }
    match origin {
        Some(origin) if origin == "null" => {
            fixes.push("serve it from a web server: files and sandboxed frames have no origin".to_owned());
        }
        Some(origin) if origin.len() > ORIGIN_BYTES_SHOWN => fixes.push("add its origin to --origins".to_owned()),
        Some(origin) if host.is_some() => fixes.push(format!("start hi with --origins same-host,{origin}")),
        Some(origin) => fixes.push(format!("add {origin} to --origins")),
        None => fixes.push("see that the client sends one whole Origin".to_owned()),
    }
    let _ = write!(text, " If the page is yours: {}.", fixes.join(", or "));
    text
}

/// Advice for a client whose own request is wrong.
fn advice(reason: Reason) -> Option<&'static str> {
    Some(match reason {
        Reason::MethodNotGet => "A handshake is a GET request (RFC 6455 4.1).",
        Reason::VersionUnsupported => "Only version 13 (RFC 6455) is spoken here: use a client that speaks it.",
        Reason::KeyMissing | Reason::KeyInvalid => {
            "The client makes this key anew for each connection (RFC 6455 4.1) and proxies leave it alone: fix or replace \
             the client."
        }
        Reason::BodyDeclared => "A handshake has no body: leave out Content-Length and Transfer-Encoding.",
        Reason::NotAWebsocketRequest => {
            "Open this address with a WebSocket client (ws:// or wss://), not as a page. If a WebSocket client did send the \
             request, something between it and this server has removed what is missing."
        }
        _ => return None,
    })
}

/// Whether `Accept` names JSON and does not prefer text (RFC 9110 12.5.1). Clients that accept anything get text.
fn prefers_json(head: &Head<'_>) -> bool {
    let of = |kind, subtype| wanted(head.tokens("accept"), Media { kind, subtype, parameter: None });
    let named = |kind, subtype| of(kind, subtype).filter(|wanted| wanted.named).map(|wanted| wanted.quality);
    let text = named("text", "plain").or(named("text", "html")).unwrap_or(0.0);
    named("application", "json").is_some_and(|json| json > 0.0 && json >= text)
}

#[cfg(test)]
mod tests;
