//! A client's connection to a hi, wherever it is mounted: what `hi chat` and `hi tail` are made of.
//!
//! Unlike an examination, it trusts no certificate that has a fault, and takes the first address that answers.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use fastwebsockets::OpCode;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::net::lookup_host;
use tokio::time::timeout;

use crate::examination::Target;
use crate::examination::http::{Body, Exchange, Request, begin, exchange};
use crate::examination::net::{Route, Stream, Trust};
use crate::examination::websocket::{Came, Reader, Writer, accept_of, halves, random_key, upgrade_headers};

/// Limit for connecting to one of several addresses, and again for TLS.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// Limit for the name, and for the answer to a request.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);
/// What is read of the reason of a refusal.
const REASON_BYTES_MAX: usize = 64 * 1024;
/// The statuses with which a server refuses what was asked for; to ask again would not help. (404 is also what some proxies answer
/// while a server restarts.)
const REFUSALS: [u16; 3] = [400, 401, 403];

/// Why there is no connection.
#[derive(Clone, Debug)]
pub struct Problem {
    /// Whether the server refused, so that the same request would be refused again.
    pub is_refusal: bool,
    /// What is wrong: one sentence or two.
    pub sentence: String,
}

impl Problem {
    fn of_network(sentence: impl Into<String>) -> Self {
        Self { is_refusal: false, sentence: sentence.into() }
    }
}

/// A hi, by its address.
#[derive(Clone, Debug)]
pub struct Site {
    target: Target,
    trust: Option<Trust>,
    /// What its own paths begin with; ends in a slash.
    base: String,
    /// Says who the user is.
    token: Option<String>,
}

impl Site {
    /// The hi at an address: that of its page or that of its WebSocket. `ca` is a PEM file of certificates to trust in addition to
    /// the system's.
    ///
    /// # Errors
    /// The address is not valid, or the file can't be read: a sentence for the user.
    pub fn new(url: &str, ca: Option<&Path>) -> Result<Self, String> {
        let target = Target::parse(url)?;
        let trust = if target.tls { Some(Trust::load(ca)?) } else { None };
        let base = match target.path.strip_suffix("ws") {
            Some(base) if base.ends_with('/') => base.to_owned(),
            _ => format!("{}/", target.path.trim_end_matches('/')),
        };
        Ok(Self { target, trust, base, token: None })
    }

    /// The same, with a token (`--auth`).
    #[must_use]
    pub fn with_token(self, token: Option<String>) -> Self {
        Self { token, ..self }
    }

    /// The address of its WebSocket, without the query: for `hi doctor`.
    pub fn websocket_address(&self) -> String {
        self.target.websocket(&format!("{}ws", self.base))
    }

    /// Opens a WebSocket with a subprotocol. `path` is relative to the site, and percent-encoded.
    ///
    /// # Errors
    /// There is none.
    pub async fn websocket(&self, path: &str, subprotocol: &str) -> Result<(Incoming, Outgoing), Problem> {
        let mut stream = self.connect().await?;
        let key = random_key();
        let mut request = self.request(path, "application/json");
        let asked = upgrade_headers(&key).into_iter().chain([("Sec-WebSocket-Protocol", subprotocol.to_owned())]);
        request.headers.extend(asked.map(|(name, value)| (name.to_owned(), value)));
        let answered = exchange(&mut stream, &request, ANSWER_TIME_MAX).await;
        let Exchange { answer, leftover } =
            answered.map_err(|failure| Problem::of_network(self.said(&failure.detail)))?;
        if answer.status != 101 {
            return Err(self.refused(answer.status, &answer.body));
        }
        if answer.header("sec-websocket-accept") != Some(&accept_of(&key)) {
            return Err(Problem::of_network(self.said("what answers is not a WebSocket server")));
        }
        if answer.header("sec-websocket-protocol") != Some(subprotocol) {
            let why = format!(
                "the answer doesn't name the subprotocol {subprotocol}: is it hi, and does a proxy drop Sec-WebSocket-Protocol?"
            );
            return Err(Problem::of_network(self.said(&why)));
        }
        let (reader, writer) = halves(stream, leftover);
        Ok((Incoming(reader), Outgoing(writer)))
    }

    /// Opens a stream of server-sent events. `path` is relative to the site, and percent-encoded.
    ///
    /// # Errors
    /// There is none.
    pub async fn events(&self, path: &str) -> Result<Events, Problem> {
        let mut stream = self.connect().await?;
        let request = self.request(path, "text/event-stream, application/json");
        let fail = |detail: &str| Problem::of_network(self.said(detail));
        let begun = begin(&mut stream, &request, ANSWER_TIME_MAX).await.map_err(|failure| fail(&failure.detail))?;
        let status = begun.answer.status;
        let is_stream = begun.answer.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream"));
        let mut events = Events(Body::new(stream, begun));
        if status == 200 && is_stream {
            return Ok(events);
        }
        // The reason, if it comes with the head or soon after it; as JSON it may come in parts.
        let mut body = Vec::new();
        let read = async {
            while let Ok(Some(part)) = events.0.next().await {
                body.extend(part);
                let is_cut = body.starts_with(b"{") && serde_json::from_slice::<Value>(&body).is_err();
                if !is_cut || body.len() > REASON_BYTES_MAX {
                    break;
                }
            }
        };
        let _ = timeout(ANSWER_TIME_MAX, read).await;
        Err(self.refused(status, &String::from_utf8_lossy(&body)))
    }

    fn request(&self, path: &str, accept: &str) -> Request {
        let query = self.target.query.as_sent();
        let joint = if query.is_empty() {
            ""
        } else if path.contains('?') {
            "&"
        } else {
            "?"
        };
        let headers = [
            ("Host", self.target.authority()),
            ("User-Agent", concat!("hi/", env!("CARGO_PKG_VERSION")).to_owned()),
            ("Accept", accept.to_owned()),
        ];
        let token = self.token.as_ref().map(|token| ("Authorization", format!("Bearer {token}")));
        let headers = headers.into_iter().chain(token).map(|(name, value)| (name.to_owned(), value));
        Request::get(format!("{}{path}{joint}{query}", self.base), headers.collect())
    }

    async fn connect(&self) -> Result<Stream, Problem> {
        let tls = match &self.trust {
            Some(trust) => {
                let name = ServerName::try_from(self.target.host.clone());
                Some((name.map_err(|error| Problem::of_network(self.said(&error.to_string())))?, trust.clone()))
            }
            None => None,
        };
        let host = (self.target.host.as_str(), self.target.port);
        let addresses = timeout(ANSWER_TIME_MAX, lookup_host(host)).await;
        let addresses = addresses.map_err(|_| "its name is not resolved in time".to_owned());
        let addresses = addresses.and_then(|found| found.map_err(|_| "its name can't be resolved".to_owned()));
        let opened = match addresses {
            Ok(addresses) => open(addresses, tls, CONNECT_TIME_MAX).await,
            Err(why) => Err(why),
        };
        opened.map(|(stream, _)| stream).map_err(|why| Problem::of_network(self.said(&why)))
    }

    fn said(&self, why: &str) -> String {
        format!("Can't connect to {}: {why}.", self.target.authority())
    }

    /// An answer that is neither a WebSocket nor a stream, in the server's own words if it is hi.
    fn refused(&self, status: u16, body: &str) -> Problem {
        let told: Value = serde_json::from_str(body).unwrap_or_default();
        let words = ["detail", "sentence"].into_iter().find_map(|key| told[key].as_str());
        // A stream is refused in plain text, the reason first; a proxy's page is none.
        let line = body.trim().lines().next().filter(|line| REFUSALS.contains(&status) && !line.starts_with('<'));
        let sentence = match words.or(line) {
            Some(words) => format!("The server refused: {words}"),
            None => self.said(&format!("the server answers {status} at {}", self.base)),
        };
        Problem { is_refusal: REFUSALS.contains(&status), sentence }
    }
}

/// The first of these addresses that answers, with TLS if it is asked for.
///
/// # Errors
/// None does: why the last one didn't.
pub(crate) async fn open(
    addresses: impl Iterator<Item = SocketAddr>,
    tls: Option<(ServerName<'static>, Trust)>,
    step_time: Duration,
) -> Result<(Stream, SocketAddr), String> {
    let mut last = "its name has no address".to_owned();
    for address in addresses {
        let route = Route { address, tls: tls.clone(), step_time };
        let opened = async { route.tls(route.tcp().await?.0).await };
        match opened.await {
            Ok((stream, secured)) => match secured.and_then(|tls| tls.fault) {
                None => return Ok((stream, address)),
                Some(fault) => last = format!("its certificate is refused ({})", fault.detail),
            },
            Err(failure) => last = failure.detail,
        }
    }
    Err(last)
}

/// What comes through a WebSocket of [`Site::websocket`].
#[derive(Debug)]
pub enum Arrival {
    /// A message.
    Text(String),
    /// A ping, which [`Outgoing::pong`] answers.
    Ping(Vec<u8>),
    /// Something that shows only that the path works.
    Sign,
    /// The server's Close: its code and its reason. It is the last that comes.
    Close(u16, String),
    /// The connection broke. It is the last that comes.
    Lost(String),
}

/// The receiving half of a WebSocket.
pub struct Incoming(Reader);

impl Incoming {
    /// What comes next.
    pub async fn next(&mut self) -> Arrival {
        match self.0.next().await {
            Ok(Came::Message(bytes)) => Arrival::Text(String::from_utf8_lossy(&bytes).into_owned()),
            Ok(Came::Ping(payload)) => Arrival::Ping(payload),
            Ok(Came::Pong(_)) => Arrival::Sign,
            Ok(Came::Close(code, reason)) => Arrival::Close(code.unwrap_or(1005), reason),
            Err(failure) => Arrival::Lost(failure.detail),
        }
    }
}

/// The sending half of a WebSocket. A send that fails shows in the other half, too.
pub struct Outgoing(Writer);

impl Outgoing {
    /// Sends a message. Returns whether it could be written.
    pub async fn text(&mut self, text: String) -> bool {
        self.0.write(OpCode::Text, text.into_bytes()).await.is_ok()
    }

    /// Answers a ping.
    pub async fn pong(&mut self, payload: Vec<u8>) -> bool {
        self.0.write(OpCode::Pong, payload).await.is_ok()
    }

    /// Closes in order.
    pub async fn close(&mut self) -> bool {
        self.0.close().await.is_ok()
    }
}

/// A stream of server-sent events, as bytes.
pub struct Events(Body<Stream>);

impl Events {
    /// What comes next; `None` if the stream has ended.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        self.0.next().await.ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_is_found_from_the_address_of_its_page_or_of_its_websocket() {
        for (url, path) in [
            ("http://h:8080/", "/stream/tea"),
            ("ws://h/ws", "/stream/tea"),
            ("ws://h/", "/stream/tea"),
            ("http://h/chat/", "/chat/stream/tea"),
            ("http://h/chat", "/chat/stream/tea"),
            ("ws://h/chat/ws", "/chat/stream/tea"),
            ("ws://h/news", "/news/stream/tea"),
            ("ws://h/ws?token=a", "/stream/tea?token=a"),
        ] {
            let site = Site::new(url, None).unwrap();
            assert_eq!(site.request("stream/tea", "").path, path, "{url}");
        }
        let site = Site::new("ws://h/ws?token=a", None).unwrap();
        assert_eq!(site.request("ws?username=a", "").path, "/ws?username=a&token=a");
        assert_eq!(site.websocket_address(), "ws://h/ws");
    }

    #[test]
    fn a_refusal_is_told_in_the_server_s_words() {
        let site = Site::new("ws://h/ws", None).unwrap();
        let told = r#"{"reason":"name_invalid","sentence":"Need a valid username","detail":"Names have ink."}"#;
        assert_eq!(site.refused(400, told).sentence, "The server refused: Names have ink.");
        let other = site.refused(503, "<html>");
        assert!(!other.is_refusal && other.sentence.contains("answers 503"), "{other:?}");
    }
}
