//! API keys of the internal port, and what is let in without one.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use ctutils::{Choice, CtEq as _};
use hyper::{HeaderMap, header};

use super::call::ApiError;
use crate::http::origin::split_port;
use crate::limits::{API_KEY_BYTES_MIN, API_KEY_FILE_BYTES_MAX};

/// The valid keys. Without any, the port is open to everything that reaches it, except for web pages.
/// Clones share them.
#[derive(Clone, Default)]
pub struct Keys(Arc<ArcSwap<Vec<String>>>);

impl Keys {
    /// Reads a file of keys, one a line.
    ///
    /// # Errors
    /// One sentence: the file can't be read, or has a line that is not a key.
    pub(crate) fn load(path: &Path) -> Result<Self, String> {
        let shown = path.display();
        let cannot = |error| format!("can't read the API key from {shown} ({error}): check --api-key-file.");
        if std::fs::metadata(path).map_err(cannot)?.len() > API_KEY_FILE_BYTES_MAX {
            return Err(format!("{shown} is too large to be a file of API keys: check --api-key-file."));
        }
        let text = std::fs::read_to_string(path).map_err(cannot)?;
        Self::parse(&text).map_err(|why| format!("{shown} (--api-key-file) {why}"))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let keys: Vec<_> = lines.map(str::to_owned).collect();
        let make = "make one with `openssl rand -hex 32`.";
        if keys.is_empty() {
            return Err(format!("has no key in it: {make}"));
        }
        if keys.iter().any(|key| key.len() < API_KEY_BYTES_MIN || key.bytes().any(|byte| !byte.is_ascii_graphic())) {
            return Err(format!(
                "has a line that is no key (at least {API_KEY_BYTES_MIN} visible ASCII characters, no spaces): {make}"
            ));
        }
        Ok(Self(Arc::new(ArcSwap::from_pointee(keys))))
    }

    /// From now on, these and all clones are the others.
    pub(crate) fn replace(&self, others: &Self) {
        self.0.store(others.0.load_full());
    }

    /// Whether any key is set.
    pub(crate) fn is_set(&self) -> bool {
        !self.0.load().is_empty()
    }

    /// Reads the first key of a file.
    ///
    /// # Errors
    /// As [`Keys::load`].
    #[cfg(feature = "doctor")]
    pub(super) fn load_first(path: &Path) -> Result<String, String> {
        Self::load(path).map(|keys| keys.0.load()[0].clone())
    }

    /// Whether a request may pass.
    ///
    /// # Errors
    /// The key is missing or wrong (401); or there are no keys, and the request comes, or may come, from a web page (403).
    pub(crate) fn admit(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        if !self.is_set() {
            return admit_no_page(headers);
        }
        let problem = match presented(headers) {
            Some(key) if self.opens(key) => return Ok(()),
            Some(_) => "That is not the API key of this server",
            None => "This address asks for an API key",
        };
        let message = format!("{problem}: send the key as `Authorization: Bearer KEY` or as `X-API-Key: KEY`.");
        Err(ApiError::new(401, "denied", message).header("www-authenticate", "Bearer"))
    }

    /// In constant time for keys of the same length.
    pub(super) fn opens(&self, presented: &[u8]) -> bool {
        self.0.load().iter().fold(Choice::FALSE, |opens, key| opens | key.as_bytes().ct_eq(presented)).to_bool()
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys", self.0.load().len())
    }
}

/// A browser on this machine reaches loopback too, and any page can make it send requests there. Only browsers send `Origin`
/// and `Sec-Fetch-Site`. Neither comes with every request of a page; but a page whose own name resolves to this port (DNS
/// rebinding) sends that name as `Host`.
fn admit_no_page(headers: &HeaderMap) -> Result<(), ApiError> {
    let is =
        |name: &str, value: &[u8]| headers.get_all(name).iter().any(|it| it.as_bytes().eq_ignore_ascii_case(value));
    let sign = if headers.contains_key(header::ORIGIN) {
        "has an Origin header"
    } else if is("sec-fetch-site", b"cross-site") {
        "says Sec-Fetch-Site: cross-site"
    } else if is("sec-fetch-site", b"same-site") {
        "says Sec-Fetch-Site: same-site"
    } else if headers.get_all(header::HOST).iter().all(|host| is_address_or_localhost(host.as_bytes())) {
        return Ok(());
    } else {
        let message = "The Host header is a name, and a web page whose name leads here (DNS rebinding) would send just \
                       that. Ask by an IP address or as localhost, or with an API key (--api-key-file).";
        return Err(ApiError::new(403, "denied", message));
    };
    let message =
        format!("The request {sign}, so it comes from a web page. Pages get in only with an API key (--api-key-file).");
    Err(ApiError::new(403, "denied", message))
}

/// Whether a Host header is one that no page's name can be.
fn is_address_or_localhost(host: &[u8]) -> bool {
    let Some((host, _)) = std::str::from_utf8(host).ok().and_then(split_port) else { return false };
    match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => host.eq_ignore_ascii_case("localhost") || host.parse::<Ipv4Addr>().is_ok(),
    }
}

fn presented(headers: &HeaderMap) -> Option<&[u8]> {
    bearer(headers).or_else(|| Some(headers.get("x-api-key")?.as_bytes().trim_ascii()))
}

/// What a request has in `Authorization: Bearer`: a key, or a token.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let (scheme, key) = headers.get(header::AUTHORIZATION)?.as_bytes().split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| key.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0123456789abcdef";

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        headers
    }

    #[test]
    fn every_line_is_a_key() {
        let keys = Keys::parse(&format!("{KEY}\n\n  fedcba9876543210 \n")).unwrap();
        for key in [KEY, "fedcba9876543210"] {
            assert!(keys.admit(&headers("authorization", &format!("bearer {key}"))).is_ok());
            assert!(keys.admit(&headers("x-api-key", key)).is_ok());
        }
        for wrong in ["", "0123456789abcdeF", "0123456789abcde", "0123456789abcdef0"] {
            assert_eq!(keys.admit(&headers("x-api-key", wrong)).unwrap_err().status, 401, "{wrong}");
        }
        assert_eq!(keys.admit(&headers("authorization", &format!("Basic {KEY}"))).unwrap_err().status, 401);
        assert_eq!(keys.admit(&HeaderMap::new()).unwrap_err().status, 401);
        assert!(!format!("{keys:?}").contains(KEY));
    }

    #[test]
    fn a_file_without_a_valid_key_is_refused() {
        for text in ["", "\n \n", "short", "0123456789 abcdef", "0123456789abcdef\nshort"] {
            assert!(Keys::parse(text).unwrap_err().contains("openssl rand"), "{text:?}");
        }
    }

    #[test]
    fn without_a_key_all_but_pages_get_in() {
        let keys = Keys::default();
        let in_alone = |name, value| keys.admit(&headers(name, value)).is_ok();
        assert!(keys.admit(&HeaderMap::new()).is_ok(), "HTTP/1.0 without Host");
        assert_eq!(keys.admit(&headers("origin", "null")).unwrap_err().status, 403);
        for site in ["cross-site", "Cross-Site", "same-site"] {
            assert!(!in_alone("sec-fetch-site", site), "{site}");
        }
        assert!(in_alone("sec-fetch-site", "none") && in_alone("sec-fetch-site", "same-origin"));
        for host in ["127.0.0.1", "127.0.0.1:8081", "10.0.0.7:80", "[::1]", "[::1]:8081", "localhost", "LocalHost:8081"]
        {
            assert!(in_alone("host", host), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8081",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "x@localhost",
            "::1",
            "",
            "127.1",
        ] {
            assert!(!in_alone("host", host), "{host}");
        }
        let mut two = headers("host", "localhost");
        two.append("host", "evil.example".parse().unwrap());
        assert!(keys.admit(&two).is_err());
    }
}
