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
    let candidates = keys.candidates(id);
    if candidates.clone().next().is_none() {
        let (named, fix) = match id {
            Some(id) => {
                (format!("by the key {}", shown(id)), "get a new token; if the issuer has a new key, add it to --jwks")
            }
            None => ("without the id of its key (kid)".to_owned(), "no key was loaded"),
        };
        let text = format!("The token is signed {named}, which this server does not have: get a new one.");
        return Err(Refused::new(Reason::TokenUnknownKey, text).with(format!("{fix}; keys here: {}", keys.describe())));
    }
    let algorithm: Option<Algorithm> = header.alg.parse().ok();
    let fitting = candidates.filter(|key| algorithm.is_some_and(|algorithm| key.algorithms.contains(&algorithm)));
    let mut fitting = fitting.take(KEYS_WITHOUT_ID_MAX).peekable();
    let (Some(algorithm), Some(_)) = (algorithm, fitting.peek()) else {
        let text = match header.alg.eq_ignore_ascii_case("none") {
            true => "The token is not signed (alg none).".to_owned(),
            false => {
                format!("The token says {} as its alg, and no key of this server is for that.", shown(&header.alg))
            }
        };
        return Err(Refused::new(Reason::TokenAlgorithm, text).with(format!("keys here: {}", keys.describe())));
    };
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

fn decode(part: &str, name: &str) -> Result<Vec<u8>, Refused> {
    let fault = |_| Refused::malformed(&format!("its {name} is not base64url without padding"));
    URL_SAFE_NO_PAD.decode(part).map_err(fault)
}

#[cfg(test)]
mod tests;
