//! `GET /-/doctor/echo`: the request as this server received it. What a client sent and what arrives here differ by what
//! the hops between have changed; the doctor compares the two.

use std::borrow::Cow;
use std::net::SocketAddr;

use serde::Serialize;

use super::head::Head;

/// Words in the names of headers whose values are secrets: the names are shown, the values are not. What a proxy adds so
/// that servers believe it (`X-Origin-Secret`) is not for whoever asks at its other side.
const MASKED: [&str; 8] = ["authorization", "cookie", "secret", "token", "password", "api-key", "jwt", "signature"];

#[derive(Serialize)]
struct Echo<'r> {
    method: &'r str,
    path: &'r str,
    http_version: &'static str,
    peer: SocketAddr,
    headers: Vec<(&'r str, Cow<'r, str>)>,
    #[serde(flatten)]
    identity: &'r Identity<'r>,
}

/// Which server answers.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Identity<'r> {
    /// The name of the process, new with each start.
    pub instance: &'r str,
    /// The name that it shares with the other servers behind its public address, if it was given one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<&'r str>,
    /// hi's version.
    pub version: &'r str,
}

/// The body, JSON: `method`, `path` (the whole target, undecoded), `http_version` (`HTTP/1.1`), `peer` (address and port of
/// the last hop), `headers` (`[name, value]` pairs in order, names in the case that they came in), and the
/// parts of the [`Identity`]. Bytes that are not UTF-8 become U+FFFD.
pub fn echo(head: &Head<'_>, peer: SocketAddr, identity: &Identity<'_>) -> Vec<u8> {
    let echo = Echo {
        method: head.method,
        path: head.target,
        http_version: head.version.as_str(),
        peer,
        headers: head.headers.iter().map(|(name, value)| (*name, visible(name, value))).collect(),
        identity,
    };
    // Strings and an address: nothing in it can fail to be JSON.
    serde_json::to_vec(&echo).unwrap_or_default()
}

fn visible<'b>(name: &str, value: &'b [u8]) -> Cow<'b, str> {
    let lower = name.to_ascii_lowercase();
    if MASKED.iter().any(|masked| lower.contains(masked)) {
        return format!("(masked, {} bytes)", value.len()).into();
    }
    String::from_utf8_lossy(value)
}

#[cfg(test)]
mod tests {
    use super::super::head::parse;
    use super::*;

    fn echoed(request: &[u8]) -> serde_json::Value {
        let (head, _) = parse(request).expect("well-formed").expect("whole");
        let peer = "[2001:db8::1]:443".parse().expect("an address");
        let identity = Identity { instance: "i-1", group: None, version: "0.1.0" };
        serde_json::from_slice(&echo(&head, peer, &identity)).expect("JSON")
    }

    #[test]
    fn the_request_comes_back_as_it_arrived() {
        let request = b"GET /-/doctor/echo?a=%20 HTTP/1.1\r\nHost: x\r\nX-B: \xe9\"\r\nx-b: 2\r\n\r\n";
        assert_eq!(
            echoed(request),
            serde_json::json!({
                "method": "GET", "path": "/-/doctor/echo?a=%20", "http_version": "HTTP/1.1", "peer": "[2001:db8::1]:443",
                "headers": [["Host", "x"], ["X-B", "\u{fffd}\""], ["x-b", "2"]],
                "instance": "i-1", "version": "0.1.0",
            })
        );
    }

    #[test]
    fn secrets_are_masked_whatever_their_case() {
        let request = b"GET / HTTP/1.0\r\nCOOKIE: secret\r\nauthorization: secret\r\nProxy-Authorization: secret\r\n\
            Set-Cookie: secret\r\nX-API-Key: secret\r\nAuthorized: no\r\nX-Origin-Token: secret\r\n\r\n";
        let echoed = echoed(request);
        assert!(!echoed.to_string().contains("secret"));
        assert_eq!(echoed["headers"][0], serde_json::json!(["COOKIE", "(masked, 6 bytes)"]));
        assert_eq!(echoed["headers"][5][1], "no");
    }
}
