//! Complete HTTP/1.1 responses as bytes (RFC 9112 4): status line, headers, body. There is no
//! `Date`, which RFC 9110 6.6.1 requires only of servers with a clock.

use bytes::Bytes;
use hyper::StatusCode;

/// What becomes of the TCP connection after the response (RFC 9112 9.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    /// Closed by this server.
    Close,
    /// Open for the next request.
    KeepAlive,
}

/// What a response may carry, depending on the request's method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// Headers and body.
    Sent,
    /// The headers only, with Content-Length as if there were a body: the answer to HEAD (RFC 9110 9.3.2).
    HeadersOnly,
}

impl Body {
    /// The body that a response to a request with this method may have.
    pub(crate) fn to_method(method: &str) -> Self {
        if method == "HEAD" { Self::HeadersOnly } else { Self::Sent }
    }
}

/// A response before it is written out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    status: u16,
    content_type: &'static str,
    headers: Vec<(&'static str, String)>,
    connection_option: Option<&'static str>,
    body: Bytes,
}

impl Response {
    /// A response with this status, media type and body.
    pub(crate) fn new(status: u16, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self { status, content_type, headers: Vec::new(), connection_option: None, body: body.into() }
    }

    /// A text in UTF-8 that must not be cached.
    pub(crate) fn text(status: u16, text: impl Into<String>) -> Self {
        Self::new(status, "text/plain; charset=utf-8", text.into()).header("Cache-Control", "no-store")
    }

    /// Serialized JSON that must not be cached.
    pub(crate) fn json(status: u16, json: impl Into<Bytes>) -> Self {
        Self::new(status, "application/json", json).header("Cache-Control", "no-store")
    }

    /// Adds a header. Control characters in the value become spaces, so that a value never becomes a line of its own.
    #[must_use]
    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        debug_assert!(name.bytes().all(super::head::is_token_byte), "not a header name: {name}");
        let mut value = value.into();
        if value.contains(char::is_control) {
            value = value.replace(char::is_control, " ");
        }
        self.headers.push((name, value));
        self
    }

    /// Adds an option to the Connection header beside close or keep-alive, as a hop-by-hop header needs it (RFC 9110 7.6.1):
    /// `Upgrade` with a 426.
    #[must_use]
    pub(crate) fn connection_option(mut self, option: &'static str) -> Self {
        self.connection_option = Some(option);
        self
    }

    /// The head of a response without a length, whose body ends with the connection (RFC 9112 6.3).
    pub(crate) fn encode_open(&self) -> Bytes {
        self.head(Connection::Close, None).into()
    }

    /// The bytes to send.
    pub fn encode(&self, connection: Connection, body: Body) -> Bytes {
        let mut bytes = self.head(connection, Some(self.body.len()));
        if body == Body::Sent && !self.never_has_a_body() {
            bytes.extend_from_slice(&self.body);
        }
        bytes.into()
    }

    /// Everything before the body, which is `length` bytes long.
    fn head(&self, connection: Connection, length: Option<usize>) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(512 + length.unwrap_or(0));
        let mut line = |parts: [&str; 3]| {
            parts.iter().for_each(|part| bytes.extend_from_slice(part.as_bytes()));
            bytes.extend_from_slice(b"\r\n");
        };
        let reason = StatusCode::from_u16(self.status).ok().and_then(|status| status.canonical_reason()).unwrap_or("");
        line(["HTTP/1.1 ", &format!("{} ", self.status), reason]);
        if !self.never_has_a_body() {
            line(["Content-Type", ": ", self.content_type]);
            if let Some(length) = length {
                line(["Content-Length", ": ", &length.to_string()]);
            }
        }
        let closing = match connection {
            Connection::Close => "close",
            Connection::KeepAlive => "keep-alive",
        };
        match self.connection_option {
            Some(option) => line(["Connection: ", option, &format!(", {closing}")]),
            None => line(["Connection", ": ", closing]),
        }
        line(["X-Content-Type-Options", ": ", "nosniff"]);
        for (name, value) in &self.headers {
            line([name, ": ", value]);
        }
        line([""; 3]);
        bytes
    }

    /// Responses that end with their head, whatever the headers say (RFC 9110 6.4.1).
    fn never_has_a_body(&self) -> bool {
        matches!(self.status, 100..=199 | 204 | 304)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &Bytes) -> &str {
        std::str::from_utf8(bytes).expect("UTF-8")
    }

    #[test]
    fn a_text_is_written_out_whole() {
        let bytes = Response::text(404, "No such page.\n").encode(Connection::Close, Body::Sent);
        assert_eq!(
            text(&bytes),
            "HTTP/1.1 404 Not Found\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 14\r\n\
             Connection: close\r\nX-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\n\r\nNo such page.\n"
        );
    }

    #[test]
    fn the_answer_to_head_has_the_length_and_not_the_body() {
        let response = Response::json(200, "{\"a\":1}");
        let with = response.encode(Connection::KeepAlive, Body::to_method("GET"));
        let without = response.encode(Connection::KeepAlive, Body::to_method("HEAD"));
        assert!(text(&without).contains("Content-Length: 7\r\n") && text(&without).ends_with("\r\n\r\n"));
        assert_eq!(text(&with), format!("{}{{\"a\":1}}", text(&without)));
        assert!(text(&with).contains("Connection: keep-alive\r\n"));
    }

    #[test]
    fn a_304_has_no_body_and_says_nothing_of_one() {
        let bytes = Response::new(304, "text/html", "x").header("ETag", "\"1\"").encode(Connection::Close, Body::Sent);
        assert!(text(&bytes).starts_with("HTTP/1.1 304 Not Modified\r\nConnection"));
        assert!(text(&bytes).ends_with("ETag: \"1\"\r\n\r\n"));
    }

    #[test]
    fn a_value_never_becomes_a_line_and_options_share_one() {
        let response = Response::text(426, "").header("X-Why", "a\r\nSet-Cookie: b").connection_option("Upgrade");
        let bytes = response.encode(Connection::Close, Body::Sent);
        assert!(text(&bytes).contains("X-Why: a  Set-Cookie: b\r\n"));
        assert!(text(&bytes).contains("Connection: Upgrade, close\r\n"));
    }
}
