//! A token's form and its signature: a JWS in compact form (RFC 7515, 3.1), checked with the keys of this server. Pure.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use doctor::reason::Reason;
use jsonwebtoken::Algorithm;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::keys::KeySet;
use super::refused::{Refused, shown};
use crate::limits::tokens::{KEYS_WITHOUT_ID_MAX, TOKEN_BYTES_MAX};

/// What of a token's header is read (RFC 7515, 4.1).
#[derive(Deserialize)]
struct Header<'h> {
    #[serde(borrow)]
    alg: Cow<'h, str>,
    #[serde(borrow, default)]
    kid: Option<Cow<'h, str>>,
    /// Extensions that a reader has to understand: there are none here.
    #[serde(default)]
    crit: Option<IgnoredAny>,
}

/// The payload of a token whose signature is right.
///
/// # Errors
/// It is no signed JWT, or no key of this server has signed it.
pub(super) fn payload(token: &str, keys: &KeySet) -> Result<Vec<u8>, Refused> {
    if token.len() > TOKEN_BYTES_MAX {
        let text = format!("it is {} bytes long, and at most {TOKEN_BYTES_MAX} are read", token.len());
        return Err(Refused::malformed(&text));
    }
    let mut parts = token.split('.');
    let (Some(head), Some(payload), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        let what = match token.split('.').count() {
            5 => "it has five parts, so it is encrypted (JWE), which is not read here",
            _ => "it does not have three parts with dots in between",
        };
        return Err(Refused::malformed(what));
    };
    let header_bytes = decode(head, "header")?;
    let header: Header<'_> = serde_json::from_slice(&header_bytes)
        .map_err(|_| Refused::malformed("its header is not a JSON object with the key alg"))?;
    if header.crit.is_some() {
        return Err(Refused::malformed("its header has crit: extensions are not known here"));
    }
    let signature = decode(signature, "signature")?;
    let message = &token.as_bytes()[..head.len() + 1 + payload.len()];
    check_signature(&header, message, &signature, keys)?;
    decode(payload, "payload")
}

fn check_signature(header: &Header<'_>, message: &[u8], signature: &[u8], keys: &KeySet) -> Result<(), Refused> {
    let id = header.kid.as_deref();
    let algorithm: Option<Algorithm> = header.alg.parse().ok();
    let fitting = keys.candidates(id).filter(|key| algorithm.is_some_and(|it| key.algorithms.contains(&it)));
    let mut fitting = fitting.take(KEYS_WITHOUT_ID_MAX).peekable();
    let (Some(algorithm), Some(_)) = (algorithm, fitting.peek()) else { return Err(no_key(header, algorithm, keys)) };
    if fitting.any(|key| key.verifies(algorithm, message, signature)) {
        return Ok(());
    }
    let text = "The token's signature is not by a key of this server.";
    let detail = format!(
        "the issuer signs with another key of the same kind, or a token of another server was sent; keys here: {}",
        keys.describe()
    );
    Err(Refused::new(Reason::TokenBadSignature, text).with(detail))
}

/// Why no key of this server can have signed a token.
fn no_key(header: &Header<'_>, algorithm: Option<Algorithm>, keys: &KeySet) -> Refused {
    let here = format!("keys here: {}", if keys.is_empty() { "none".to_owned() } else { keys.describe() });
    let id = header.kid.as_deref().filter(|id| !keys.has_id(id));
    match (id, algorithm) {
        (Some(id), Some(_)) => {
            let text = format!(
                "The token is signed by the key {}, which this server does not have: get a new one.",
                shown(id)
            );
            let fix = "if the issuer has a new key, it belongs into --jwks";
            Refused::new(Reason::TokenUnknownKey, text).with(format!("{fix}; {here}"))
        }
        (None, Some(_)) if keys.is_empty() => {
            Refused::new(Reason::TokenUnknownKey, "This server has no key to check tokens with.").with(here)
        }
        _ if header.alg.eq_ignore_ascii_case("none") => {
            Refused::new(Reason::TokenAlgorithm, "The token is not signed (alg none).").with(here)
        }
        _ => {
            let text =
                format!("The token says {} as its alg, and no key of this server is for that.", shown(&header.alg));
            Refused::new(Reason::TokenAlgorithm, text).with(here)
        }
    }
}

fn decode(part: &str, name: &str) -> Result<Vec<u8>, Refused> {
    let fault = |_| Refused::malformed(&format!("its {name} is not base64url without padding"));
    URL_SAFE_NO_PAD.decode(part).map_err(fault)
}

#[cfg(test)]
mod tests;
