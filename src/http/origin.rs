//! Origins of web pages (RFC 6454): which of them may open WebSockets here.
//!
//! Any site can open a WebSocket to this one, with this site's cookies: the same-origin policy does not prevent it. The server
//! has to check the `Origin` header. A client that sends none is not a browser.

use std::fmt;
use std::str::FromStr;

use super::head::Head;
use super::shown::arrived;
use crate::limits::ORIGINS_LISTED_MAX;

/// Scheme, host and port, compared according to RFC 6454 5: scheme and host in lower case, with the scheme's default port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `https://chat.example.com`.
    Web {
        /// In lower case.
        scheme: String,
        /// In lower case; an IPv6 address in brackets.
        host: String,
        /// `None` if none is given and the scheme has no default.
        port: Option<u16>,
    },
    /// `null`: a file or a sandboxed frame (RFC 6454 6.1).
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
        let (host, port) = split_port(authority).ok_or_else(fault)?;
        let port = port.or(match &*scheme {
            "http" | "ws" => Some(80),
            "https" | "wss" => Some(443),
            _ => None,
        });
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

/// One entry of `--origins`: which pages may open WebSockets and streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// Pages of the host that the request's `Host` header names.
    SameHost,
    /// All pages.
    Any,
    /// Pages of this origin.
    Origin(Origin),
}

impl FromStr for Allowed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "same-host" => Ok(Self::SameHost),
            "any" => Ok(Self::Any),
            _ => text.parse().map(Self::Origin).map_err(|fault| format!("{fault}, or same-host, or any")),
        }
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SameHost => f.write_str("same-host"),
            Self::Any => f.write_str("any"),
            Self::Origin(origin) => origin.fmt(f),
        }
    }
}

impl Allowed {
    fn admits(&self, origin: &Origin, host: Option<&str>) -> bool {
        match self {
            Self::SameHost => host.is_some_and(|host| is_same_host(origin, host)),
            Self::Any => true,
            Self::Origin(allowed) => allowed == origin,
        }
    }
}

/// Whether the page comes from the host in `Host`. Behind a proxy that terminates TLS the scheme of `Host` is unknown, so the
/// default ports of both schemes count as none.
fn is_same_host(origin: &Origin, host: &str) -> bool {
    let Origin::Web { host: page_host, port: page_port, .. } = origin else { return false };
    let Some((host, port)) = split_port(host) else { return false };
    let explicit = |port: Option<u16>| port.filter(|port| !matches!(port, 80 | 443));
    is_host(host) && host.eq_ignore_ascii_case(page_host) && explicit(port) == explicit(*page_port)
}

/// Host and port of an authority (RFC 3986 3.2), without user information. `None`: the port is invalid.
pub(crate) fn split_port(authority: &str) -> Option<(&str, Option<u16>)> {
    // A colon inside the brackets of an IPv6 address does not start a port.
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            let is_number = port.bytes().all(|b| b.is_ascii_digit());
            is_number.then(|| port.parse().ok()).flatten().map(|port| (host, Some(port)))
        }
        _ => Some((authority, None)),
    }
}

/// A page that may not open WebSockets or streams here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginRefused {
    /// Its origin as it arrived, for one line of text.
    pub(crate) arrived: String,
    /// Its origin as a value for `--origins`; `None` if it is invalid.
    pub(crate) origin: Option<String>,
    /// The `Host` that arrived, if pages of the same host are allowed: a proxy may have rewritten it.
    pub(crate) host: Option<String>,
    /// The allowed origins, for one line of text: for the operator only.
    pub(crate) allowed: String,
}

/// Whether this request may open a WebSocket or a stream.
///
/// # Errors
/// Its `Origin` matches no entry of `allowed`, is invalid, or occurs twice.
pub(crate) fn check(head: &Head<'_>, allowed: &[Allowed]) -> Result<(), OriginRefused> {
    let mut values = head.header("origin");
    let Some(value) = values.next().filter(|_| !allowed.contains(&Allowed::Any)) else { return Ok(()) };
    let origin = std::str::from_utf8(value).ok().and_then(|value| value.parse::<Origin>().ok());
    let origin = origin.filter(|_| values.next().is_none());
    let host = head.header("host").next().and_then(|host| std::str::from_utf8(host).ok());
    if origin.as_ref().is_some_and(|origin| allowed.iter().any(|entry| entry.admits(origin, host))) {
        return Ok(());
    }
    let mut listed: Vec<_> = allowed.iter().take(ORIGINS_LISTED_MAX).map(ToString::to_string).collect();
    if allowed.len() > ORIGINS_LISTED_MAX {
        listed.push(format!("{} more", allowed.len() - ORIGINS_LISTED_MAX));
    }
    let host = allowed.contains(&Allowed::SameHost).then(|| arrived(head, "host"));
    let origin = origin.as_ref().map(ToString::to_string);
    Err(OriginRefused { arrived: arrived(head, "origin"), origin, host, allowed: listed.join(", ") })
}

#[cfg(test)]
mod tests {
    use super::super::head::parse;
    use super::*;

    fn judge(allowed: &[&str], headers: &str) -> Result<(), OriginRefused> {
        judge_at(allowed, "Host: x\r\n", headers)
    }

    fn judge_at(allowed: &[&str], host: &str, headers: &str) -> Result<(), OriginRefused> {
        let allowed: Vec<Allowed> = allowed.iter().map(|text| text.parse().expect("an entry")).collect();
        let text = format!("GET /ws HTTP/1.0\r\n{host}{headers}\r\n");
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
    fn by_default_pages_of_the_same_host_may() {
        for (host, origin, same) in [
            ("chat.example.com", "https://chat.example.com", true),
            ("chat.example.com", "http://chat.example.com:80", true),
            ("chat.example.com:443", "https://chat.example.com", true),
            ("chat.example.com:80", "https://chat.example.com:443", true),
            ("CHAT.example.com", "https://chat.EXAMPLE.com", true),
            ("chat.example.com:8080", "http://chat.example.com:8080", true),
            ("[2001:DB8::1]", "http://[2001:db8::1]", true),
            ("[::1]:8080", "http://[::1]:8080", true),
            ("127.0.0.1:8080", "http://127.0.0.1:8080", true),
            ("chat.example.com", "http://chat.example.com:8080", false),
            ("chat.example.com:8080", "http://chat.example.com", false),
            ("[::1]:8080", "http://[::1]:8081", false),
            ("[::1]", "http://[::2]", false),
            ("example.com", "https://chat.example.com", false),
            ("chat.example.com", "https://chat.example.com.evil.example", false),
            ("chat.example.com:x", "https://chat.example.com", false),
            ("null", "null", false),
            ("", "null", false),
            ("", "https://", false),
            ("user@chat.example.com", "https://user@chat.example.com", false),
        ] {
            let host_line = format!("Host: {host}\r\n");
            let judged = judge_at(&["same-host"], &host_line, &format!("Origin: {origin}\r\n"));
            assert_eq!(judged.is_ok(), same, "{host} {origin}");
        }
        assert!(judge_at(&["same-host"], "", "Origin: https://chat.example.com\r\n").is_err(), "HTTP/1.0 without Host");
        assert_eq!(judge_at(&["same-host"], "", ""), Ok(()), "programs send no Origin");
    }

    #[test]
    fn any_may_where_any_is_allowed_and_without_the_header_it_is_no_browser() {
        for origin in ["https://evil.example", "null", ""] {
            assert_eq!(judge(&["any"], &format!("Origin: {origin}\r\n")), Ok(()), "{origin}");
        }
        assert_eq!(judge(&["https://chat.example.com"], ""), Ok(()));
        let twice = "Origin: https://chat.example.com\r\norigin: https://chat.example.com\r\n";
        assert!(judge(&["https://chat.example.com"], twice).is_err());
        let both = ["same-host", "https://a.example"];
        assert_eq!(judge(&both, "Origin: http://x\r\n"), Ok(()));
        assert_eq!(judge(&both, "Origin: https://a.example\r\n"), Ok(()));
        assert!(judge(&both[1..], "Origin: http://x\r\n").is_err(), "a list says all that may come");
    }

    #[test]
    fn a_refusal_names_what_came_and_what_may() {
        let refused = judge(&["https://a.example", "http://b.example:80"], "Origin: https://e\x09vil\r\n").unwrap_err();
        assert_eq!(refused.arrived, "arrived: \"https://e\\tvil\"");
        assert_eq!(refused.allowed, "https://a.example, http://b.example");
        assert_eq!((refused.origin, refused.host), (None, None));
        let refused = judge(&["same-host"], "Origin: HTTPS://a.example\r\n").unwrap_err();
        assert_eq!(refused.origin.as_deref(), Some("https://a.example"));
        assert_eq!((refused.host.as_deref(), &*refused.allowed), (Some("arrived: \"x\""), "same-host"));
    }

    #[test]
    fn what_is_no_origin_is_refused_with_a_sentence() {
        for text in
            ["", "chat.example.com", "https://", "https://a/", "https://a b", "https://a:b", "https://a:99999", "*"]
        {
            assert!(text.parse::<Allowed>().is_err_and(|fault| fault.contains("e.g. https://")), "{text}");
        }
    }
}
