//! The address to examine: a WebSocket or HTTP URL (RFC 6455 3, RFC 3986). Pure.

use std::ffi::OsStr;
use std::net::IpAddr;

use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use serde::Serialize;
use url::Host;

use super::secrets::{Query, Secrets, has_secrets, shown, shown_path};

/// Where hi serves the chat: the path of an address that names none.
const PATH_DEFAULT: &str = "/ws";

/// A parsed URL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Target {
    /// The address as it was given, with its secrets masked.
    pub url: String,
    /// Whether TLS is spoken (`wss`, `https`).
    pub(crate) tls: bool,
    /// The name or IP address, in ASCII, without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// The path; `/ws` if the URL has none.
    pub(crate) path: String,
    /// Behind the `?`; empty if there is none.
    pub(crate) query: Query,
}

impl Target {
    /// Parses an address.
    ///
    /// # Errors
    /// It is not a `ws`, `wss`, `http` or `https` URL, or has a part that a WebSocket URL can't have: a sentence with what to
    /// give instead.
    pub(crate) fn parse(url: &str) -> Result<Self, String> {
        let fail = |why: &str| format!("{}: {why}", shown(url));
        if url.chars().any(|letter| letter.is_control() || letter.is_whitespace()) {
            return Err(fail("an address has no spaces or control characters"));
        }
        let Some((scheme, rest)) = url.split_once("://") else {
            let bare = url.trim_start_matches('/');
            let scheme = if is_local(bare) { "ws" } else { "wss" };
            return Err(fail(&format!("give the whole address, e.g. {scheme}://{}", shown(bare))));
        };
        let (tls, is_page) = match &*scheme.to_ascii_lowercase() {
            "ws" => (false, false),
            "wss" => (true, false),
            "http" => (false, true),
            "https" => (true, true),
            _ => return Err(fail("an address begins with wss://, ws://, https:// or http://")),
        };
        if rest.contains('#') {
            return Err(fail("a WebSocket address has no fragment (#...)"));
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, tail) = rest.split_at(end);
        if authority.contains('@') {
            return Err(fail("leave the user name and password out: browsers don't send them with a WebSocket"));
        }
        let (host, port) = split_port(authority).ok_or_else(|| fail("the host or its port is not valid"))?;
        let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
        // The root of a site is its page, not its WebSocket.
        let path = if path.is_empty() || is_page && path == "/" { PATH_DEFAULT } else { path };
        if !path.is_ascii() || !query.is_ascii() {
            return Err(fail("write non-ASCII characters as %XX"));
        }
        Ok(Self {
            url: shown(url),
            tls,
            host: ascii_host(host).ok_or_else(|| fail("that is not a host name"))?,
            port: port.unwrap_or(if tls { 443 } else { 80 }),
            path: path.to_owned(),
            query: Query::new(query),
        })
    }

    /// The same with TLS.
    pub(crate) fn with_tls(&self) -> Self {
        Self { tls: true, ..self.clone() }
    }

    /// What a report must not repeat.
    pub(crate) fn secrets(&self) -> Secrets {
        Secrets::of(&self.path, &self.query)
    }

    /// Whether it holds something that looks like a secret.
    pub(crate) fn has_secrets(&self) -> bool {
        has_secrets(&self.path) || self.query.has_secrets()
    }

    /// For a report: with a masked path. (The query masks itself.)
    pub(crate) fn masked(&self) -> Self {
        Self { path: shown_path(&self.path), ..self.clone() }
    }

    /// The host, if it is an IP address.
    pub(crate) fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// The value of `Host`: with the port, unless it is the scheme's.
    pub(crate) fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.tls, self.port) {
            (false, 80) | (true, 443) => host,
            _ => format!("{host}:{}", self.port),
        }
    }

    /// The `Origin` of a page of this host.
    pub(crate) fn origin(&self) -> String {
        self.origin_of(&self.authority())
    }

    /// The `Origin` of a page of another host, with or without a port, of the same scheme.
    pub(crate) fn origin_of(&self, host: &str) -> String {
        format!("{}://{host}", if self.tls { "https" } else { "http" })
    }

    /// An address on the same host for WebSocket clients, without a query.
    pub(crate) fn websocket(&self, path: &str) -> String {
        format!("{}://{}{path}", if self.tls { "wss" } else { "ws" }, self.authority())
    }

    /// Where hi's own addresses (`/-/doctor/echo`, `/raw/ROOM`) may be mounted: the root of the host, and what is before
    /// the last part of the path.
    pub(crate) fn bases(&self) -> Vec<String> {
        let mounted = self.path.rsplit_once('/').map_or("", |(base, _)| base.trim_end_matches('/'));
        let mut bases = vec![String::new()];
        if !mounted.is_empty() {
            bases.push(mounted.to_owned());
        }
        bases
    }

    /// The target of a handshake that disturbs no users: in hi's chat, user and room are the doctor's own. A query without
    /// a user is left as it is, unless hi is known to be there.
    pub(crate) fn handshake_target(&self, own_name: &str, is_hi: bool) -> String {
        let query = self.query.as_sent();
        let names_a_user = parameters(query).any(|key| key == "username");
        let looks_like_hi = is_hi || (query.is_empty() && self.path.ends_with("/ws"));
        if !names_a_user && !looks_like_hi {
            return self.with_query(query);
        }
        // With the resume secret, the doctor would take over a user's name.
        let is_own = |pair: &&str| names_user_or_room(pair) || key(pair) == "resume";
        let others = query.split('&').filter(|pair| !pair.is_empty() && !is_own(pair));
        let own = [format!("username={own_name}"), format!("room={own_name}")];
        let pairs: Vec<&str> = own.iter().map(String::as_str).chain(others).collect();
        self.with_query(&pairs.join("&"))
    }

    /// The target with the user or the room that the address names, if any, for a plain request: a handshake with it would
    /// enter the room. If only the room is named, the user is the doctor's own.
    pub(crate) fn named_target(&self, own_name: &str) -> Option<String> {
        let pairs = self.query.as_sent().split('&');
        let mut kept: Vec<&str> = pairs.filter(|pair| key(pair) != "resume").collect();
        let names_a_user = kept.iter().any(|pair| key(pair) == "username");
        let names_user_or_room = kept.iter().any(|pair| names_user_or_room(pair));
        let own = format!("username={own_name}");
        if !names_a_user {
            kept.insert(0, &own);
        }
        names_user_or_room.then(|| self.with_query(&kept.join("&")))
    }

    fn with_query(&self, query: &str) -> String {
        if query.is_empty() { self.path.clone() } else { format!("{}?{query}", self.path) }
    }
}

/// For the command line. clap by itself would repeat a refused value, and with it its secrets.
#[derive(Clone, Copy, Debug)]
pub struct TargetParser;

impl TypedValueParser for TargetParser {
    type Value = Target;

    fn parse_ref(
        &self,
        command: &clap::Command,
        arg: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<Target, clap::Error> {
        Target::parse(&value.to_string_lossy()).map_err(|error| {
            // An argument has its variable only if the value came from there (`src/environment.rs`).
            let of_variable = |arg: &clap::Arg| arg.get_env().map(|variable| variable.to_string_lossy().into_owned());
            let name = arg.map(|arg| match of_variable(arg) {
                Some(variable) => format!("{variable} ({arg}): "),
                None => format!("{arg}: "),
            });
            let name = name.unwrap_or_default();
            clap::Error::raw(ErrorKind::ValueValidation, format!("{name}{error}.\n")).with_cmd(command)
        })
    }
}

/// Whether an address without a scheme is local: no certificates there.
fn is_local(bare: &str) -> bool {
    let host = bare.split(['/', '?']).next().and_then(split_port).map_or("", |(host, _)| host);
    host == "localhost" || host.trim_matches(['[', ']']).parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

fn key(pair: &str) -> &str {
    pair.split('=').next().unwrap_or(pair)
}

/// Whether a parameter names the user or the room.
fn names_user_or_room(pair: &str) -> bool {
    matches!(key(pair), "username" | "room")
}

fn parameters(query: &str) -> impl Iterator<Item = &str> {
    query.split('&').map(key)
}

/// Host and port of an authority; an IPv6 address stands in brackets.
fn split_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (authority, ""),
    };
    match port {
        "" => Some((host, None)),
        digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse().ok().filter(|port| *port > 0).map(|port| (host, Some(port)))
        }
        _ => None,
    }
}

/// A host name in ASCII (RFC 5891), or an IP address without brackets.
fn ascii_host(host: &str) -> Option<String> {
    match Host::parse(host).ok()? {
        Host::Domain(name) => Some(name.trim_end_matches('.').to_owned()).filter(|name| !name.is_empty()),
        Host::Ipv4(address) => Some(address.to_string()),
        Host::Ipv6(address) => Some(address.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> Target {
        Target::parse(url).unwrap()
    }

    #[test]
    fn an_address_is_parsed() {
        let target = parsed("wss://Chat.example.com/a/ws?token=1");
        assert_eq!((target.tls, target.port, &*target.path, target.query.as_sent()), (true, 443, "/a/ws", "token=1"));
        assert_eq!(target.bases(), ["", "/a"]);
        assert_eq!(target.origin(), format!("https://{}", target.host));
        assert_eq!(parsed("ws://h").path, "/ws");
        assert_eq!(parsed("ws://h/").path, "/");
        assert_eq!(parsed("https://h/").path, "/ws");
        assert_eq!(parsed("http://h:8080/ws").authority(), "h:8080");
        assert_eq!(parsed("ws://[::1]:81/ws").authority(), "[::1]:81");
        assert_eq!(parsed("https://h?a=b").query.as_sent(), "a=b");
        assert_eq!(parsed("wss://bücher.example/ws").host, "xn--bcher-kva.example");
    }

    #[test]
    fn invalid_addresses_are_refused_with_a_sentence() {
        for (url, part) in [
            ("chat.example.com/ws", "e.g. wss://chat.example.com/ws"),
            ("127.0.0.1:18080/ws", "e.g. ws://127.0.0.1:18080/ws"),
            ("localhost/ws", "e.g. ws://localhost/ws"),
            ("[::1]:80/ws", "e.g. ws://[::1]:80/ws"),
            ("ftp://h/", "begins with wss://"),
            ("ws://h/ws#a", "fragment"),
            ("ws://u:p@h/", "password"),
            ("ws://h:0/", "port"),
            ("ws://h:x/", "port"),
            ("ws:///ws", "host"),
            ("ws://[::1/ws", "host"),
            ("ws://h/a b", "spaces"),
            ("ws://h/\u{e9}", "%XX"),
        ] {
            let error = Target::parse(url).unwrap_err();
            assert!(error.contains(part), "{url}: {error}");
        }
    }

    #[test]
    fn an_address_that_is_refused_keeps_its_secrets() {
        for url in ["ws://ada:s3cret@h/", "h/ws?token=s3cret", "ftp://h/?token=s3cret", "ws://h/ws?token=s3cret#a"] {
            let error = Target::parse(url).unwrap_err();
            assert!(!error.contains("s3cret") && error.contains("***"), "{error}");
        }
        let target = parsed("ws://h/ws?token=s3cret");
        let said = format!("{target:?} {}", serde_json::to_string(&target).unwrap());
        assert!(!said.contains("s3cret"), "{said}");
    }

    #[test]
    fn the_doctor_never_enters_a_room_of_users() {
        let target = |url, is_hi| parsed(url).handshake_target("d", is_hi);
        assert_eq!(target("ws://h/ws", false), "/ws?username=d&room=d");
        assert_eq!(target("ws://h/ws?username=ann&room=tea", true), "/ws?username=d&room=d");
        assert_eq!(target("ws://h/ws?room=tea&token=1&resume=2", true), "/ws?username=d&room=d&token=1");
        assert_eq!(target("ws://h/ws?username=ann", false), "/ws?username=d&room=d");
        assert_eq!(target("ws://h/socket?v=2", false), "/socket?v=2");
        assert_eq!(target("ws://h/socket", false), "/socket");
        let named = |url| parsed(url).named_target("d");
        assert_eq!(named("ws://h/ws?username=%23x&resume=2&v=1"), Some("/ws?username=%23x&v=1".to_owned()));
        assert_eq!(named("ws://h/ws?room=%20"), Some("/ws?username=d&room=%20".to_owned()));
        assert_eq!(named("ws://h/ws?token=1"), None);
    }
}
