//! Where to connect: `ws://` URLs with templates for rooms and clients. Pure except for the name lookup.

use std::collections::HashSet;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::secrets::without_secrets;
use crate::wire;

/// Time limit for the name lookup.
const LOOKUP_TIME_MAX: Duration = Duration::from_secs(10);

/// A text in which `{room}`, `{client}` and `{payload}` are replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(String);

impl Template {
    /// Makes a template of this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text for one client, or one message.
    pub fn fill(&self, room: &str, client: &str, payload: &str) -> String {
        self.0.replace("{room}", room).replace("{client}", client).replace("{payload}", payload)
    }
}

/// A server's address, and the path to ask it for.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    /// Host and port, as the `Host` header has them.
    pub host: String,
    /// The path; `None` if the URL has none.
    pub path: Option<Template>,
    /// The `Authorization` header, if the URL has a user (RFC 7617).
    authorization: Option<String>,
    /// The subprotocol to ask for.
    pub subprotocol: Option<&'static str>,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("host", &self.host).field("path", &self.path).finish_non_exhaustive()
    }
}

impl Target {
    /// Reads a `ws://` URL.
    ///
    /// # Errors
    /// One sentence on what is wrong with it, without the secrets of the URL.
    pub fn parse(url: &str) -> Result<Self, String> {
        let shown = without_secrets(url);
        let Some((_, rest)) = url.split_once("://").filter(|(scheme, _)| scheme.eq_ignore_ascii_case("ws")) else {
            return Err(format!(
                "{shown:?} has to begin with ws:// (for wss://, measure the server behind its TLS proxy)."
            ));
        };
        let (authority, path) = rest.find(['/', '?', '#']).map_or((rest, ""), |index| rest.split_at(index));
        let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
        let wrong_in = |text: &str| text.contains(|letter: char| letter.is_whitespace() || letter.is_control());
        if wrong_in(path) {
            return Err(format!("the path of {shown:?} has a space or a control character: write it as %20."));
        }
        if path.contains('#') {
            return Err(format!("{shown:?} has a fragment, which no WebSocket has: leave out what begins with #."));
        }
        if host.is_empty() || host.starts_with(':') || wrong_in(host) {
            return Err(format!("{shown:?} has no host: give ws://HOST:PORT/PATH."));
        }
        let port = host.rsplit_once(':').map(|(_, port)| port).filter(|port| !port.ends_with(']'));
        if port.is_some_and(|port| !port.parse::<u16>().is_ok_and(|port| port > 0)) {
            return Err(if user.is_none() && rest.contains('@') {
                format!("the port of {shown:?} is not a number: in a user or a password, write / as %2F and ? as %3F.")
            } else {
                format!("the port of {shown:?} has to be from 1 to 65535.")
            });
        }
        let path = match path {
            "" | "/" => None,
            path if path.starts_with('/') => Some(Template::new(path)),
            query => Some(Template::new(format!("/{query}"))),
        };
        let authorization = user.map(authorization);
        Ok(Self { host: host.to_owned(), path, authorization, subprotocol: None })
    }

    /// The addresses of the host, without duplicates, in the order to try them (RFC 6724).
    ///
    /// # Errors
    /// One sentence: the name can't be resolved.
    pub fn addresses(&self) -> Result<Vec<SocketAddr>, String> {
        let has_port = self.host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let with_port = if has_port { self.host.clone() } else { format!("{}:80", self.host) };
        // The system's lookup has no time limit of its own.
        let (sender, answer) = channel();
        std::thread::spawn(move || sender.send(with_port.to_socket_addrs().map(Vec::from_iter)));
        let mut addresses = match answer.recv_timeout(LOOKUP_TIME_MAX) {
            Ok(addresses) => addresses.map_err(|error| format!("{} can't be resolved: {error}.", self.host))?,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                let seconds = LOOKUP_TIME_MAX.as_secs();
                return Err(format!("{} can't be resolved: no name server answers within {seconds} s.", self.host));
            }
        };
        let mut seen = HashSet::new();
        addresses.retain(|address| seen.insert(*address));
        if addresses.is_empty() { Err(format!("{} has no address.", self.host)) } else { Ok(addresses) }
    }

    /// The request that opens a WebSocket at this path.
    pub fn request(&self, path: &str) -> String {
        wire::request(&self.host, path, self.authorization.as_deref(), self.subprotocol)
    }
}

/// Where connections of one kind go, and the path that they ask for.
pub struct Endpoint {
    /// Its URL, without secrets.
    pub shown: String,
    /// The address that answered.
    pub address: SocketAddr,
    /// The server it belongs to.
    pub target: Target,
    /// The path.
    pub path: Template,
}

impl Endpoint {
    /// The request of one client.
    pub fn request(&self, room: &str, client: &str) -> String {
        self.target.request(&self.path.fill(room, client, ""))
    }
}

/// Basic credentials of `user:password`, each as a URL writes it.
fn authorization(userinfo: &str) -> String {
    let with_colon = if userinfo.contains(':') { userinfo.to_owned() } else { format!("{userinfo}:") };
    format!("Basic {}", STANDARD.encode(percent_decoded(&with_colon)))
}

/// Decodes `%XX` (RFC 3986, 2.1); anything else stays unchanged.
fn percent_decoded(text: &str) -> Vec<u8> {
    let (mut decoded, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let [first, behind @ ..] = rest {
        let digits = behind.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = digits.filter(|digits| *first == b'%' && digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let escaped = escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        decoded.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &behind[2..] } else { behind };
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_templates() {
        let target = Target::parse("ws://host:81/sub?id={room}&me={client}").unwrap();
        assert_eq!(target.host, "host:81");
        assert_eq!(target.path.unwrap().fill("r1", "7", ""), "/sub?id=r1&me=7");
        assert_eq!(Target::parse("ws://host/").unwrap().path, None);
        assert!(Target::parse("wss://host/").is_err());
        assert!(Target::parse("ws:///x").is_err());
        assert!(Target::parse("ws://:80/x").is_err());
        assert!(Target::parse("ws://host/x#top").unwrap_err().contains("fragment"));
        assert!(Target::parse("ws://host/x y").unwrap_err().contains("%20"));
        assert!(Target::parse("ws://host/x\r\nHost: y").unwrap_err().contains("%20"));
        assert_eq!(Target::parse("WS://host/x"), Target::parse("ws://host/x"));
        for port in ["99999", "", "0", "http"] {
            assert!(Target::parse(&format!("ws://host:{port}/")).unwrap_err().contains("port"));
        }
        assert_eq!(Target::parse("ws://[::1]/").unwrap().addresses(), Ok(vec!["[::1]:80".parse().unwrap()]));
        assert_eq!(Target::parse("ws://127.0.0.1:9").unwrap().addresses(), Ok(vec![([127, 0, 0, 1], 9).into()]));
    }

    #[test]
    fn a_user_of_a_url_is_sent_as_basic_credentials() {
        for (url, host, credentials) in [
            ("ws://ada:secret@host:81/x", "host:81", "ada:secret"),
            ("ws://ada@host/x@y", "host", "ada:"),
            ("ws://a%40da:s%3ae%2Fcret%@[::1]:9?q=@", "[::1]:9", "a@da:s:e/cret%"),
            ("ws://a@b:c@host", "host", "a@b:c"),
        ] {
            let target = Target::parse(url).unwrap();
            assert_eq!(target.host, host);
            let line = format!("\r\nAuthorization: Basic {}\r\n", STANDARD.encode(credentials));
            assert!(target.request("/").contains(&line), "{url}");
            assert!(!format!("{target:?}").contains("secret"));
        }
        assert!(!Target::parse("ws://host/@x").unwrap().request("/@x").contains("Authorization"));
    }

    #[test]
    fn complaints_show_no_secret() {
        for url in [
            "wss://ada:secret@host/",
            "ada:secret@host",
            "ws://ada:secret@",
            "ws://ada:secret@host:99999",
            "ws://ada:secret@host/a b",
            "ws://ada:secret@host/#x",
            "ws://ada:sec/secret@host/",
            "ws://ada:sec?secret@host/",
            "ws://ada:sec#secret@host/",
        ] {
            let complaint = Target::parse(url).unwrap_err();
            assert!(!complaint.contains("secret") && complaint.contains("ada:***@"), "{complaint}");
        }
    }
}
