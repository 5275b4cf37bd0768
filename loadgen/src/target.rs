//! Where to connect: `ws://` URLs with templates for rooms and clients. Pure but for the name look-up.

use std::net::{SocketAddr, ToSocketAddrs};

/// A text in which `{room}`, `{client}` and `{payload}` are replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(String);

impl Template {
    /// Of this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text for one client, or one message.
    pub fn fill(&self, room: &str, client: &str, payload: &str) -> String {
        self.0.replace("{room}", room).replace("{client}", client).replace("{payload}", payload)
    }
}

/// A server's address, and the path to ask it for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Host and port, as the `Host` header has them.
    pub host: String,
    /// The path; `None` if the URL has none.
    pub path: Option<Template>,
}

impl Target {
    /// Reads a `ws://` URL.
    ///
    /// # Errors
    /// One sentence on what is wrong with it.
    pub fn parse(url: &str) -> Result<Self, String> {
        let Some((_, rest)) = url.split_once("://").filter(|(scheme, _)| scheme.eq_ignore_ascii_case("ws")) else {
            return Err(format!(
                "{url:?} has to begin with ws:// (for wss://, measure the server behind the TLS proxy)."
            ));
        };
        let (host, path) = rest.find(['/', '?']).map_or((rest, ""), |index| rest.split_at(index));
        if host.is_empty() || host.contains('@') || host.contains(char::is_whitespace) {
            return Err(format!("{url:?} has no host: give ws://HOST:PORT/PATH."));
        }
        let port = host.rsplit_once(':').map(|(_, port)| port).filter(|port| !port.ends_with(']'));
        if port.is_some_and(|port| !port.parse::<u16>().is_ok_and(|port| port > 0)) {
            return Err(format!("the port of {url:?} has to be from 1 to 65535."));
        }
        let path = match path {
            "" | "/" => None,
            path if path.starts_with('/') => Some(Template::new(path)),
            query => Some(Template::new(format!("/{query}"))),
        };
        Ok(Self { host: host.to_owned(), path })
    }

    /// The first address of the host.
    ///
    /// # Errors
    /// One sentence: the name can't be resolved.
    pub fn address(&self) -> Result<SocketAddr, String> {
        let has_port = self.host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let with_port = if has_port { self.host.clone() } else { format!("{}:80", self.host) };
        let mut addresses =
            with_port.to_socket_addrs().map_err(|error| format!("{} can't be resolved: {error}.", self.host))?;
        addresses.next().ok_or_else(|| format!("{} has no address.", self.host))
    }
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
        assert_eq!(Target::parse("WS://host/x"), Target::parse("ws://host/x"));
        for port in ["99999", "", "0", "http"] {
            assert!(Target::parse(&format!("ws://host:{port}/")).unwrap_err().contains("port"));
        }
        assert_eq!(Target::parse("ws://[::1]/").unwrap().address(), Ok("[::1]:80".parse().unwrap()));
        assert_eq!(Target::parse("ws://127.0.0.1:9").unwrap().address(), Ok(([127, 0, 0, 1], 9).into()));
    }
}
