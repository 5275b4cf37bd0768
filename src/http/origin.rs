//! Origins of web pages (RFC 6454): which of them may open WebSockets here.
//!
//! A browser sends cookies of this site with a WebSocket that any other site opens, and the same-origin policy does not
//! hold it back; the `Origin` header is what the server has to judge by. Who sends none is no browser.

use std::fmt;
use std::str::FromStr;

use super::head::Head;
use super::shown::arrived;

/// Scheme, host and port; compared as RFC 6454 5 asks: host and scheme in lower case, the scheme's port if none is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `https://chat.example.com`.
    Web {
        /// In lower case.
        scheme: String,
        /// In lower case; an IPv6 address in brackets.
        host: String,
        /// `None` where the scheme has no port of its own and none is given.
        port: Option<u16>,
    },
    /// `null`: a file, a sandboxed frame (RFC 6454 6.1).
    Null,
}

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fault =
            || format!("{text} is not an origin: give scheme, host and port alone, e.g. https://chat.example.com");
        if text == "null" {
            return Ok(Self::Null);
        }
        let (scheme, authority) = text.split_once("://").ok_or_else(fault)?;
        let is_scheme = |b: u8| b.is_ascii_alphanumeric() || b"+-.".contains(&b);
        if !scheme.starts_with(|first: char| first.is_ascii_alphabetic()) || !scheme.bytes().all(is_scheme) {
            return Err(fault());
        }
        let scheme = scheme.to_ascii_lowercase();
        // A colon within the brackets of an IPv6 address begins no port.
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (authority, None),
        };
        let port = match port {
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => Some(digits.parse().map_err(|_| fault())?),
            Some(_) => return Err(fault()),
            None => match &*scheme {
                "http" | "ws" => Some(80),
                "https" | "wss" => Some(443),
                _ => None,
            },
        };
        if !is_host(host) {
            return Err(fault());
        }
        Ok(Self::Web { scheme, host: host.to_ascii_lowercase(), port })
    }
}

/// ASCII only: browsers send names of other alphabets in their ASCII form.
fn is_host(host: &str) -> bool {
    match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)),
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Web { scheme, host, port } => match (&**scheme, port) {
                (_, None) | ("http" | "ws", Some(80)) | ("https" | "wss", Some(443)) => write!(f, "{scheme}://{host}"),
                (_, Some(port)) => write!(f, "{scheme}://{host}:{port}"),
            },
        }
    }
}

/// A page of an origin that is not allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginRefused {
    /// What came, for one line of text.
    pub arrived: String,
    /// What may come, likewise: for the operator alone.
    pub allowed: String,
}

/// Allowed origins that are listed in the log.
const LISTED_MAX: usize = 10;

/// Whether this request may open a WebSocket; `allowed` empty: any may.
///
/// # Errors
/// It has an `Origin` that is not among `allowed`, is none, or is there twice.
pub fn check(head: &Head<'_>, allowed: &[Origin]) -> Result<(), OriginRefused> {
    let mut values = head.header("origin");
    let Some(value) = values.next().filter(|_| !allowed.is_empty()) else { return Ok(()) };
    let came = std::str::from_utf8(value).ok().and_then(|value| value.parse::<Origin>().ok());
    if values.next().is_none() && came.is_some_and(|came| allowed.contains(&came)) {
        return Ok(());
    }
    let mut listed: Vec<_> = allowed.iter().take(LISTED_MAX).map(ToString::to_string).collect();
    if allowed.len() > LISTED_MAX {
        listed.push(format!("{} more", allowed.len() - LISTED_MAX));
    }
    Err(OriginRefused { arrived: arrived(head, "origin"), allowed: listed.join(", ") })
}

#[cfg(test)]
mod tests {
    use super::super::head::parse;
    use super::*;

    fn judge(allowed: &[&str], headers: &str) -> Result<(), OriginRefused> {
        let allowed: Vec<Origin> = allowed.iter().map(|text| text.parse().expect("an origin")).collect();
        let text = format!("GET /ws HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
        let (head, _) = parse(text.as_bytes()).expect("well-formed").expect("whole");
        check(&head, &allowed)
    }

    #[test]
    fn origins_compare_by_scheme_host_and_port() {
        for (allowed, came, same) in [
            ("https://chat.example.com", "https://chat.example.com", true),
            ("https://Chat.Example.com", "HTTPS://chat.example.COM:443", true),
            ("https://chat.example.com:443", "https://chat.example.com", true),
            ("http://chat.example.com", "http://chat.example.com:80", true),
            ("http://[2001:db8::1]", "http://[2001:DB8::1]:80", true),
            ("null", "null", true),
            ("app+x://shell", "app+x://shell", true),
            ("https://chat.example.com", "http://chat.example.com", false),
            ("https://chat.example.com", "https://chat.example.com:8443", false),
            ("https://chat.example.com", "https://chat.example.com.evil.example", false),
            ("https://example.com", "https://chat.example.com", false),
            ("https://chat.example.com", "https://chat.example.com/", false),
            ("https://chat.example.com", "https://chat.example.com https://evil.example", false),
            ("https://chat.example.com", "null", false),
            ("https://chat.example.com", "", false),
        ] {
            assert_eq!(judge(&[allowed], &format!("Origin: {came}\r\n")).is_ok(), same, "{allowed} {came}");
        }
    }

    #[test]
    fn without_a_list_any_may_and_without_the_header_it_is_no_browser() {
        assert_eq!(judge(&[], "Origin: https://evil.example\r\n"), Ok(()));
        assert_eq!(judge(&["https://chat.example.com"], ""), Ok(()));
        let twice = "Origin: https://chat.example.com\r\norigin: https://chat.example.com\r\n";
        assert!(judge(&["https://chat.example.com"], twice).is_err());
    }

    #[test]
    fn a_refusal_names_what_came_and_what_may() {
        let refused = judge(&["https://a.example", "http://b.example:80"], "Origin: https://e\x09vil\r\n").unwrap_err();
        assert_eq!(refused.arrived, "arrived: \"https://e\\tvil\"");
        assert_eq!(refused.allowed, "https://a.example, http://b.example");
    }

    #[test]
    fn what_is_no_origin_is_refused_with_a_sentence() {
        for text in
            ["", "chat.example.com", "https://", "https://a/", "https://a b", "https://a:b", "https://a:99999", "*"]
        {
            assert!(text.parse::<Origin>().is_err_and(|fault| fault.contains("e.g. https://")), "{text}");
        }
    }
}
