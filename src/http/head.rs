//! The request head: from bytes to method, target, version and headers (RFC 9112), around httparse.
//!
//! httparse parses the lines. This file adds the limits, refuses what a server behind a proxy must not accept (RFC 9112 11.2:
//! two parties that disagree about where a request ends), and says in sentences what is wrong.

use super::reason::Reason;
use crate::address::proxy_header::{self, ProxyHeaderError};
pub use crate::limits::HEAD_BYTES_MAX;
use crate::limits::{EMPTY_LINES_MAX, HEADERS_MAX};

/// The first bytes of HTTP/2 with prior knowledge (RFC 9113 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";

/// The HTTP version of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// HTTP/1.0: no upgrades, no persistent connections unless asked for.
    Http10,
    /// HTTP/1.1.
    Http11,
}

impl Version {
    /// As in the request line.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
        }
    }
}

/// A parsed request head; everything in it borrows from the bytes that were parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head<'b> {
    pub(crate) method: &'b str,
    /// The request target as it arrived, still percent-encoded (RFC 9112 3.2).
    pub target: &'b str,
    pub(crate) version: Version,
    /// Names (in their original case) and values (without surrounding white space), in order.
    pub headers: Vec<(&'b str, &'b [u8])>,
}

impl<'b> Head<'b> {
    /// All values of the header `name`, in order; names compare without case.
    pub(crate) fn header<'h>(&'h self, name: &'h str) -> impl Iterator<Item = &'b [u8]> + 'h {
        self.headers.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
    }

    /// The elements of the comma-separated list that all headers `name` form together, empty ones left out
    /// (RFC 9110 5.6.1).
    pub(crate) fn tokens<'h>(&'h self, name: &'h str) -> impl Iterator<Item = &'b [u8]> + 'h {
        self.header(name).flat_map(|value| value.split(|b| *b == b',')).map(trim).filter(|element| !element.is_empty())
    }

    /// Whether the list of the headers `name` has the element `token`; compared without case.
    pub(crate) fn has_token(&self, name: &str, token: &str) -> bool {
        self.tokens(name).any(|element| element.eq_ignore_ascii_case(token.as_bytes()))
    }

    /// Whether a body follows the head (RFC 9112 6.3). A caller that does not read it must close the connection after its
    /// answer: the body would be taken for the next request.
    pub(crate) fn body_declared(&self) -> bool {
        self.header("transfer-encoding").next().is_some()
            || self.header("content-length").any(|value| value.iter().any(|b| *b != b'0'))
    }

    /// Whether the client expects the connection to stay open after the answer (RFC 9112 9.3).
    pub(crate) fn keep_alive(&self) -> bool {
        if self.has_token("connection", "close") {
            return false;
        }
        self.version == Version::Http11 || self.has_token("connection", "keep-alive")
    }
}

/// Why a request head was refused; `Display` is the sentence for the client and the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// No end within [`HEAD_BYTES_MAX`].
    #[error(
        "The request head does not end within {HEAD_BYTES_MAX} bytes: send fewer or shorter headers (cookies are the usual \
         cause)."
    )]
    TooLarge,
    /// More than `HEADERS_MAX` header lines.
    #[error("The request has more than {HEADERS_MAX} headers: send fewer.")]
    TooManyHeaders,
    /// Not HTTP/1.x as RFC 9112 writes it; the text says what is wrong and repeats nothing of what came.
    #[error("This is not a valid HTTP/1.1 request: {0}.")]
    Malformed(String),
    /// Well-formed, but neither HTTP/1.0 nor HTTP/1.1; the version as it came.
    #[error("{0} is not spoken here: use HTTP/1.1.")]
    VersionUnsupported(String),
    /// A TLS handshake: the client was told `https://` or `wss://` and this port speaks plain HTTP.
    #[error(
        "A TLS handshake arrived on a port that speaks plain HTTP: use http:// or ws:// for this port, or put a reverse \
         proxy that speaks TLS in front of it."
    )]
    Tls,
    /// A header of the PROXY protocol, from a peer that is not to send one.
    #[error(transparent)]
    ProxyHeader(ProxyHeaderError),
    /// HTTP/2 without an upgrade (RFC 9113 3.3).
    #[error(
        "HTTP/2 without an upgrade arrived, and this port speaks HTTP/1.1: let the client or the proxy in front use \
         HTTP/1.1 towards this server."
    )]
    Http2,
}

impl HeadError {
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::TooLarge | Self::TooManyHeaders => Reason::HeadTooLarge,
            Self::Malformed(_) => Reason::Malformed,
            Self::VersionUnsupported(_) => Reason::HttpVersionUnsupported,
            Self::ProxyHeader(_) => Reason::ProxyHeaderUnexpected,
            Self::Tls => Reason::TlsOnPlainPort,
            Self::Http2 => Reason::Http2OnHttp1Port,
        }
    }
}

/// [`parse_more`], for bytes that were not searched before.
///
/// # Errors
/// See [`HeadError`].
pub fn parse(bytes: &[u8]) -> Result<Option<(Head<'_>, usize)>, HeadError> {
    parse_more(bytes, 0)
}

/// Parses a head from the start of `bytes`. The first `searched_before` bytes were passed to this function before, and had no
/// end. `None`: more bytes are needed. Otherwise the head and its length in bytes; what follows belongs to the upgraded
/// protocol, to a body or to the next request.
///
/// A head that arrives byte by byte is searched once, not once per byte; it is parsed when it is whole.
///
/// # Errors
/// See [`HeadError`]. An error is final: more bytes don't change it.
pub fn parse_more(bytes: &[u8], searched_before: usize) -> Result<Option<(Head<'_>, usize)>, HeadError> {
    let start = check_start(bytes)?;
    let window = &bytes[..bytes.len().min(HEAD_BYTES_MAX)];
    match find_end(window, searched_before) {
        Some(end) => Ok(Some((parse_whole(&window[start..end])?, end))),
        None if window.len() == HEAD_BYTES_MAX => Err(HeadError::TooLarge),
        None => Ok(None),
    }
}

/// The length in bytes up to and including the empty line that ends the head, if it has arrived (RFC 9112 2.1). The first
/// `searched_before` bytes were searched before, and are not searched again.
///
/// A bare LF counts as the end of a line, so that [`parse_more`] refuses it at once and not after a time-out.
pub(crate) fn find_end(bytes: &[u8], searched_before: usize) -> Option<usize> {
    // The end is LF CR LF at the longest: two of its bytes may have arrived before.
    let from = empty_lines(bytes).max(searched_before.saturating_sub(2));
    let unseen = bytes.get(from..)?;
    unseen.iter().enumerate().filter(|(_, b)| **b == b'\n').find_map(|(at, _)| match unseen[at + 1..] {
        [b'\n', ..] => Some(from + at + 2),
        [b'\r', b'\n', ..] => Some(from + at + 3),
        _ => None,
    })
}

/// Length of the run of CR and LF at the start.
fn empty_lines(bytes: &[u8]) -> usize {
    bytes.iter().position(|b| !matches!(b, b'\r' | b'\n')).unwrap_or(bytes.len())
}

/// Where the request line starts. Refuses by the first bytes whatever can be refused by them: TLS, HTTP/2 and binary protocols
/// would otherwise keep the connection until the handshake times out.
fn check_start(bytes: &[u8]) -> Result<usize, HeadError> {
    if proxy_header::begins(bytes) == Some(true) {
        return Err(HeadError::ProxyHeader(ProxyHeaderError::Unexpected));
    }
    let limited = &bytes[..bytes.len().min(2 * EMPTY_LINES_MAX + 1)];
    let start = empty_lines(limited);
    if limited[..start].iter().zip(b"\r\n".iter().cycle()).any(|(is, should)| is != should) {
        return malformed("a line in front of the request line does not end with CR LF");
    }
    if start > 2 * EMPTY_LINES_MAX {
        return malformed("there are too many empty lines in front of the request line");
    }
    match bytes.get(start) {
        // Content type 22, handshake: the first byte of every ClientHello (RFC 8446 5.1).
        Some(0x16) if start == 0 => Err(HeadError::Tls),
        Some(_) if start % 2 == 1 => malformed("a CR stands without its LF"),
        Some(b) if !is_token_byte(*b) => malformed("it does not start with a method"),
        Some(_) if bytes[start..].starts_with(HTTP2_PREFACE) => Err(HeadError::Http2),
        _ => Ok(start),
    }
}

fn malformed<T>(what: &str) -> Result<T, HeadError> {
    Err(HeadError::Malformed(what.to_owned()))
}

/// Parses a head from request line to empty line.
fn parse_whole(bytes: &[u8]) -> Result<Head<'_>, HeadError> {
    check_line_ends(bytes)?;
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(used)) => debug_assert_eq!(used, bytes.len()),
        // The empty line is there, so this is a line that httparse does not understand.
        Ok(httparse::Status::Partial) => return malformed("a line breaks off"),
        Err(error) => return Err(explain(error, bytes)),
    }
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version) else {
        return malformed("the request line is incomplete");
    };
    let head = Head {
        method,
        target,
        version: if minor == 0 { Version::Http10 } else { Version::Http11 },
        headers: request.headers.iter().map(|header| (header.name, header.value)).collect(),
    };
    check_host(&head)?;
    check_framing(&head)?;
    Ok(head)
}

/// httparse accepts a bare LF as the end of a line, as RFC 9112 2.2 allows. Proxies differ in it, so that a header could end
/// in two places; no current client sends it.
fn check_line_ends(bytes: &[u8]) -> Result<(), HeadError> {
    let lines = bytes.split_inclusive(|b| *b == b'\n');
    match lines.zip(1..).find(|(line, _)| !line.ends_with(b"\r\n")) {
        Some((_, number)) => malformed(&format!("line {number} ends with LF alone, not with CR LF")),
        None => Ok(()),
    }
}

/// RFC 9112 3.2: a request of HTTP/1.1 without exactly one Host is answered with 400.
fn check_host(head: &Head<'_>) -> Result<(), HeadError> {
    match (head.header("host").count(), head.version) {
        (0, Version::Http10) | (1, _) => Ok(()),
        (0, Version::Http11) => malformed("the Host header is missing"),
        _ => malformed("there is more than one Host header"),
    }
}

/// The length of the body must be unambiguous (RFC 9112 6.1 and 6.3).
fn check_framing(head: &Head<'_>) -> Result<(), HeadError> {
    let mut lengths = head.header("content-length");
    if let Some(length) = lengths.next() {
        if lengths.next().is_some() {
            return malformed("there is more than one Content-Length header");
        }
        if length.is_empty() || !length.iter().all(u8::is_ascii_digit) {
            return malformed("Content-Length is not a decimal number");
        }
    }
    if head.header("transfer-encoding").next().is_none() {
        return Ok(());
    }
    if head.header("content-length").next().is_some() {
        return malformed("it has both Content-Length and Transfer-Encoding");
    }
    if head.version == Version::Http10 {
        return malformed("Transfer-Encoding does not exist in HTTP/1.0");
    }
    let last = head.tokens("transfer-encoding").last();
    if !last.is_some_and(|coding| coding.eq_ignore_ascii_case(b"chunked")) {
        return malformed("the last Transfer-Encoding is not chunked, so the body has no end");
    }
    Ok(())
}

/// httparse reports the kind of error, not the place: this finds the line.
fn explain(error: httparse::Error, bytes: &[u8]) -> HeadError {
    use httparse::Error;
    let mut lines = bytes.split(|b| *b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let request_line = lines.next().unwrap_or_default();
    let what = match error {
        Error::TooManyHeaders => return HeadError::TooManyHeaders,
        Error::Version => match unsupported_version(request_line) {
            Some(version) => return HeadError::VersionUnsupported(version),
            None => "the request line does not end with HTTP/1.1".to_owned(),
        },
        Error::HeaderName | Error::HeaderValue | Error::NewLine => lines
            .zip(2..)
            .find_map(|(line, number)| Some(format!("line {number}: {}", header_fault(line)?)))
            .unwrap_or_else(|| "the request line does not end with HTTP/1.1".to_owned()),
        Error::Token | Error::Status => {
            "the request line is not a method, a target and HTTP/1.1 with one space between".to_owned()
        }
    };
    HeadError::Malformed(what)
}

/// What is wrong with one header line, if anything.
fn header_fault(line: &[u8]) -> Option<&'static str> {
    if line.first().is_some_and(|b| matches!(b, b' ' | b'\t')) {
        return Some("it starts with white space (folded headers are obsolete, RFC 9112 5.2)");
    }
    if line.is_empty() {
        return None;
    }
    let Some(colon) = line.iter().position(|b| *b == b':') else {
        return Some("a header has no colon");
    };
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if name.ends_with(b" ") || name.ends_with(b"\t") {
        return Some("there is white space between a header's name and its colon (RFC 9112 5.1)");
    }
    if name.is_empty() || !name.iter().all(|b| is_token_byte(*b)) {
        return Some("a header's name has a character that names can't have");
    }
    let control = value.iter().any(|b| b.is_ascii_control() && *b != b'\t');
    control.then_some("a header's value has a control character")
}

/// `HTTP/2.0` is another version, `HTP/1.1` is not HTTP.
fn unsupported_version(request_line: &[u8]) -> Option<String> {
    match request_line.splitn(3, |b| *b == b' ').nth(2)? {
        [b'H', b'T', b'T', b'P', b'/', major @ b'0'..=b'9', b'.', minor @ b'0'..=b'9'] => {
            Some(format!("HTTP/{}.{}", char::from(*major), char::from(*minor)))
        }
        _ => None,
    }
}

/// A byte of a token (RFC 9110 5.6.2).
pub(super) fn is_token_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

/// Without the optional white space around it (RFC 9110 5.6.3).
fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

#[cfg(test)]
mod tests;
