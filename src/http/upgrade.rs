//! Whether a request head is a WebSocket handshake, and if not, what exactly is missing (RFC 6455 4.2, RFC 9110 7.6.1, 7.8).
//!
//! `Upgrade` and `Connection` are hop-by-hop: every proxy drops them unless it is told to forward them. `Sec-WebSocket-*`
//! are end-to-end and survive. A request with the key and without `Upgrade` therefore proves that something between the
//! client and this server removed it.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use sha1::{Digest as _, Sha1};

use super::head::{Head, Version, is_token_byte};
use super::reason::Reason;
use super::shown::{arrived, shown};

/// Appended to the key before it is hashed (RFC 6455 1.3).
const ACCEPT_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Bytes of the nonce in Sec-WebSocket-Key (RFC 6455 4.1, 7).
const KEY_BYTES: usize = 16;

/// RFC 6455 requires 16 bytes in base64. Extra bits after the last byte are ignored: keys typed by hand have them.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical)
        .with_decode_allow_trailing_bits(true),
);

/// A valid handshake, as the 101 needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handshake {
    /// The value of `Sec-WebSocket-Accept`: base64 of 20 bytes, ASCII.
    pub(crate) accept: [u8; 28],
    /// The subprotocols that the client offers, in its order of preference; tokens, compared with case (RFC 6455 4.1).
    pub(crate) protocols: Vec<String>,
}

impl Handshake {
    /// Whether the client offers this subprotocol.
    pub(crate) fn offers(&self, protocol: &str) -> bool {
        self.protocols.iter().any(|offered| offered == protocol)
    }
}

/// A request that is no handshake: the cause and its evidence. [`super::diagnosis`] explains it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The first cause: it may explain the others.
    pub(crate) reason: Reason,
    /// Everything missing or wrong, not only the cause: what was expected, and what arrived instead.
    pub(crate) missing: Vec<String>,
    /// End-to-end headers of the handshake that did arrive: the proof that a WebSocket client sent the request.
    pub(crate) survived: Vec<&'static str>,
}

/// The verdict on a request on an upgrade path, from its head alone.
///
/// # Errors
/// The refusal to answer with, when the head is not a handshake that RFC 6455 4.2.1 accepts.
pub fn examine(head: &Head<'_>) -> Result<Handshake, Refusal> {
    let facts = Facts::of(head);
    let Some(reason) = facts.verdict() else {
        return Ok(Handshake { accept: facts.accept(), protocols: offered_protocols(head) });
    };
    Err(Refusal { reason, missing: facts.missing(head), survived: facts.survived() })
}

/// The 101 that completes the handshake (RFC 6455 4.2.2), with the subprotocol chosen from those offered. What follows
/// on the connection is frames.
pub fn response_101(handshake: &Handshake, protocol: Option<&str>) -> Bytes {
    debug_assert!(protocol.is_none_or(|chosen| handshake.offers(chosen)), "a subprotocol that was not offered");
    let mut bytes = Vec::with_capacity(192);
    bytes.extend_from_slice(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ",
    );
    bytes.extend_from_slice(&handshake.accept);
    if let Some(chosen) = protocol {
        bytes.extend_from_slice(b"\r\nSec-WebSocket-Protocol: ");
        bytes.extend_from_slice(chosen.as_bytes());
    }
    bytes.extend_from_slice(b"\r\n\r\n");
    bytes.into()
}

/// Everything that a handshake needs, as found in the head.
struct Facts<'b> {
    method_is_get: bool,
    http11: bool,
    upgrade: bool,
    connection: bool,
    version_sent: bool,
    version_is_13: bool,
    keys: usize,
    /// The key, if there is one and it is valid.
    key: Option<&'b [u8]>,
    body: bool,
}

impl<'b> Facts<'b> {
    fn of(head: &Head<'b>) -> Self {
        let mut keys = head.header("sec-websocket-key");
        let mut versions = head.header("sec-websocket-version");
        Self {
            method_is_get: head.method == "GET",
            http11: head.version == Version::Http11,
            upgrade: head.has_token("upgrade", "websocket"),
            connection: head.has_token("connection", "upgrade"),
            version_sent: head.header("sec-websocket-version").next().is_some(),
            version_is_13: versions.next() == Some(b"13") && versions.next().is_none(),
            keys: head.header("sec-websocket-key").count(),
            key: keys.next().filter(|key| is_valid_key(key)).filter(|_| keys.next().is_none()),
            body: head.body_declared(),
        }
    }

    /// The cause, if there is one. The order matters: what a hop removed comes before what the client did wrong, and a version
    /// other than 13 before the key, which other versions write differently.
    fn verdict(&self) -> Option<Reason> {
        // `Connection: upgrade` proves nothing: proxies that write it into every request are common.
        let client_means_websocket = self.keys > 0 || self.version_sent || self.upgrade;
        if !self.method_is_get {
            Some(Reason::MethodNotGet)
        } else if !client_means_websocket {
            Some(Reason::NotAWebsocketRequest)
        } else if !self.http11 {
            Some(Reason::Http10Hop)
        } else if !self.upgrade {
            Some(Reason::UpgradeStripped)
        } else if !self.connection {
            Some(Reason::ConnectionStripped)
        } else if !self.version_is_13 {
            Some(Reason::VersionUnsupported)
        } else if self.keys == 0 {
            Some(Reason::KeyMissing)
        } else if self.key.is_none() {
            Some(Reason::KeyInvalid)
        } else {
            self.body.then_some(Reason::BodyDeclared)
        }
    }

    fn missing(&self, head: &Head<'_>) -> Vec<String> {
        let came = |name| arrived(head, name);
        let mut missing = Vec::new();
        if !self.method_is_get {
            missing.push(format!("the method GET (arrived: {})", shown(head.method.as_bytes())));
        }
        if !self.http11 {
            missing.push(format!("HTTP/1.1 (arrived: {})", head.version.as_str()));
        }
        if !self.upgrade {
            missing.push(format!("Upgrade: websocket ({})", came("upgrade")));
        }
        if !self.connection {
            missing.push(format!("Connection: Upgrade ({})", came("connection")));
        }
        if !self.version_is_13 {
            missing.push(format!("Sec-WebSocket-Version: 13 ({})", came("sec-websocket-version")));
        }
        if self.key.is_none() {
            let came = came("sec-websocket-key");
            missing.push(format!("one Sec-WebSocket-Key that is base64 of {KEY_BYTES} bytes ({came})"));
        }
        if self.body {
            missing.push("a request without a body (one is announced)".to_owned());
        }
        missing
    }

    fn survived(&self) -> Vec<&'static str> {
        let sent = [(self.keys > 0, "Sec-WebSocket-Key"), (self.version_sent, "Sec-WebSocket-Version")];
        sent.into_iter().filter_map(|(sent, name)| sent.then_some(name)).collect()
    }

    /// RFC 6455 4.2.2, 5.4: base64 of SHA-1 of key and GUID.
    fn accept(&self) -> [u8; 28] {
        let mut hash = Sha1::new();
        hash.update(self.key.unwrap_or_default());
        hash.update(ACCEPT_GUID);
        let mut accept = [0; 28];
        let written = BASE64.encode_slice(hash.finalize(), &mut accept);
        debug_assert_eq!(written, Ok(accept.len()));
        accept
    }
}

fn is_valid_key(key: &[u8]) -> bool {
    let mut nonce = [0; KEY_BYTES + 2];
    key.len() == KEY_BYTES.div_ceil(3) * 4 && BASE64.decode_slice(key, &mut nonce) == Ok(KEY_BYTES)
}

/// The subprotocols in the head. What is not a token is left out: browsers never send it.
fn offered_protocols(head: &Head<'_>) -> Vec<String> {
    head.tokens("sec-websocket-protocol")
        .filter(|name| name.iter().all(|b| is_token_byte(*b)))
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect()
}

#[cfg(test)]
mod tests;
