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
use smallvec::SmallVec;

use self::extensions::Offered;
use super::head::{Head, Version, is_token_byte};
use super::reason::Reason;
use super::shown::{arrived, shown};

pub(crate) mod extensions;

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
    /// What becomes of the client's offers to compress messages; `None` if it makes none, or if that is switched off.
    pub(crate) compression: Option<Offered>,
}

impl Handshake {
    /// Whether the client offers this subprotocol.
    pub(crate) fn offers(&self, protocol: &str) -> bool {
        self.protocols.iter().any(|offered| offered == protocol)
    }
}

/// A request that is no handshake: the cause and its evidence. [`super::diagnosis`] explains it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpgradeRefusal {
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
pub fn examine(head: &Head<'_>) -> Result<Handshake, UpgradeRefusal> {
    let values = |name| head.header(name).collect::<SmallVec<[&[u8]; 2]>>();
    let (keys, versions) = (values("sec-websocket-key"), values("sec-websocket-version"));
    let key = if let [key] = keys[..] { Some(key).filter(|key| is_valid_key(key)) } else { None };
    let upgrade = head.has_token("upgrade", "websocket");

    // The first fault is the cause. The order matters: what a hop removed comes before what the client did wrong, and a version
    // other than 13 before the key, which other versions write differently.
    let (mut cause, mut missing) = (None, Vec::new());
    let mut require = |holds: bool, otherwise: Reason, what: &dyn Fn() -> String| {
        if !holds {
            cause = cause.or(Some(otherwise));
            missing.push(what());
        }
    };
    require(head.method == "GET", Reason::MethodNotGet, &|| {
        format!("the method GET (arrived: {})", shown(head.method.as_bytes()))
    });
    require(head.version == Version::Http11, Reason::Http10Hop, &|| {
        format!("HTTP/1.1 (arrived: {})", head.version.as_str())
    });
    require(upgrade, Reason::UpgradeStripped, &|| format!("Upgrade: websocket ({})", arrived(head, "upgrade")));
    require(head.has_token("connection", "upgrade"), Reason::ConnectionStripped, &|| {
        format!("Connection: Upgrade ({})", arrived(head, "connection"))
    });
    require(versions[..] == [b"13"], Reason::VersionUnsupported, &|| {
        format!("Sec-WebSocket-Version: 13 ({})", arrived(head, "sec-websocket-version"))
    });
    require(key.is_some(), if keys.is_empty() { Reason::KeyMissing } else { Reason::KeyInvalid }, &|| {
        let arrived = arrived(head, "sec-websocket-key");
        format!("one Sec-WebSocket-Key that is base64 of {KEY_BYTES} bytes ({arrived})")
    });
    require(!head.body_declared(), Reason::BodyDeclared, &|| "a request without a body (one is announced)".to_owned());

    let Some(cause) = cause else {
        return Ok(Handshake {
            accept: accept(key.unwrap_or_default()),
            protocols: offered_protocols(head),
            compression: None,
        });
    };
    // `Connection: upgrade` proves nothing: proxies that write it into every request are common.
    let client_means_websocket = upgrade || !keys.is_empty() || !versions.is_empty();
    let reason =
        if client_means_websocket || cause == Reason::MethodNotGet { cause } else { Reason::NotAWebsocketRequest };
    let sent = [(&keys, "Sec-WebSocket-Key"), (&versions, "Sec-WebSocket-Version")];
    let survived = sent.into_iter().filter(|(values, _)| !values.is_empty()).map(|(_, name)| name).collect();
    Err(UpgradeRefusal { reason, missing, survived })
}

/// The 101 that completes the handshake (RFC 6455 4.2.2), with the subprotocol chosen from those offered, and with the extension
/// if one was agreed on. What follows
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
    if let Some(agreed) = handshake.compression.and_then(Offered::response) {
        bytes.extend_from_slice(b"\r\nSec-WebSocket-Extensions: ");
        bytes.extend_from_slice(agreed.as_bytes());
    }
    bytes.extend_from_slice(b"\r\n\r\n");
    bytes.into()
}

/// RFC 6455 4.2.2, 5.4: base64 of SHA-1 of key and GUID.
fn accept(key: &[u8]) -> [u8; 28] {
    let mut accept = [0; 28];
    let written = BASE64.encode_slice(Sha1::new().chain_update(key).chain_update(ACCEPT_GUID).finalize(), &mut accept);
    debug_assert_eq!(written, Ok(accept.len()));
    accept
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
