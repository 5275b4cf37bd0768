//! The keys that tokens are checked with: secrets, public keys in PEM, and sets of keys in JSON (RFC 7517). A key knows which
//! algorithms it is for, and a token's header can't change that. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind};
use ring::{hmac, signature};
use serde_json::Value;

use crate::limits::tokens::{KEYS_MAX, KEYS_WITHOUT_ID_MAX, RSA_KEY_BYTES_MIN, SECRET_BYTES_MIN};

/// A key that signatures are checked with.
#[derive(Clone)]
pub(super) struct Key {
    /// How tokens name it (`kid`).
    pub(super) id: Option<String>,
    /// What it is for: a header that says otherwise is refused.
    pub(super) algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

/// Where a set of keys comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A file of the operator's.
    File,
    /// The network: a secret in it would be no secret.
    Url,
}

/// All keys that tokens are checked with.
#[derive(Clone, Default)]
pub struct KeySet {
    keys: Vec<Key>,
}

impl Key {
    /// A key for what its kind can do, or for one algorithm of these.
    fn new(id: Option<String>, key: DecodingKey, only: Option<Algorithm>) -> Result<Self, String> {
        let short = |what: &str| Err(format!("has an RSA key of {what}: make one of 2048 bits or more"));
        let family = key.family();
        let of_kind: &[Algorithm] = match (family, key.kind()) {
            (AlgorithmFamily::Hmac, DecodingKeyKind::SecretOrDer(secret)) if secret.len() < SECRET_BYTES_MIN => {
                return Err(format!(
                    "has a secret of {} bytes, and a short one can be guessed: make one of {SECRET_BYTES_MIN} or more with \
                     `openssl rand -hex 32`",
                    secret.len()
                ));
            }
            (AlgorithmFamily::Ec, DecodingKeyKind::SecretOrDer(point)) => match (point.len(), point.first()) {
                (65, Some(4)) => &[Algorithm::ES256],
                (97, Some(4)) => &[Algorithm::ES384],
                _ => return Err("has an elliptic key that is not on P-256 or P-384, uncompressed".to_owned()),
            },
            (AlgorithmFamily::Ed, DecodingKeyKind::SecretOrDer(point)) if point.len() != 32 => {
                return Err("has an Edwards key that is not on Ed25519".to_owned());
            }
            (AlgorithmFamily::Rsa, DecodingKeyKind::RsaModulusExponent { n, .. }) if n.len() < RSA_KEY_BYTES_MIN => {
                return short("fewer than 2048 bits");
            }
            (AlgorithmFamily::Rsa, DecodingKeyKind::SecretOrDer(der)) if der.len() < RSA_KEY_BYTES_MIN => {
                return short("fewer than 2048 bits");
            }
            _ => family.algorithms(),
        };
        let algorithms: Vec<_> = of_kind.iter().copied().filter(|it| only.is_none_or(|only| only == *it)).collect();
        match algorithms.is_empty() {
            false => Ok(Self { id, algorithms, key }),
            true => Err("has a key whose alg is not for keys of its kind".to_owned()),
        }
    }

    fn of_jwk(jwk: &Jwk, origin: Origin) -> Result<Self, String> {
        let unreadable = |_| "has a key that can't be decoded".to_owned();
        let key = match &jwk.algorithm {
            AlgorithmParameters::OctetKey(_) if origin == Origin::Url => {
                return Err("has a secret (kty oct), which everybody can read there: use a public key".to_owned());
            }
            AlgorithmParameters::OctetKeyPair(pair) if pair.curve != EllipticCurve::Ed25519 => {
                return Err("has a key on another curve than Ed25519".to_owned());
            }
            _ => DecodingKey::from_jwk(jwk).map_err(unreadable)?,
        };
        let key = match key.kind() {
            // Java writes a leading zero, which is not part of the number.
            DecodingKeyKind::RsaModulusExponent { n, e } => {
                let zeros = n.iter().take_while(|byte| **byte == 0).count();
                DecodingKey::from_rsa_raw_components(&n[zeros..], e)
            }
            DecodingKeyKind::SecretOrDer(_) => key,
        };
        let only = jwk.common.key_algorithm.map(Algorithm::try_from).transpose();
        Self::new(jwk.common.key_id.clone(), key, only.map_err(|_| "has a key for another purpose".to_owned())?)
    }

    /// Whether `signature` is this key's, with an algorithm that the key is for.
    pub(super) fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        let bytes = match self.key.kind() {
            DecodingKeyKind::SecretOrDer(bytes) => bytes,
            DecodingKeyKind::RsaModulusExponent { n, e } => {
                let key = signature::RsaPublicKeyComponents { n, e };
                return rsa(algorithm).is_some_and(|rsa| key.verify(rsa, message, signature).is_ok());
            }
        };
        if let Some(hmac) = hmac(algorithm) {
            return hmac::verify(&hmac::Key::new(hmac, bytes), message, signature).is_ok();
        }
        let verification: &dyn signature::VerificationAlgorithm = match algorithm {
            Algorithm::ES256 => &signature::ECDSA_P256_SHA256_FIXED,
            Algorithm::ES384 => &signature::ECDSA_P384_SHA384_FIXED,
            Algorithm::EdDSA => &signature::ED25519,
            _ => match rsa(algorithm) {
                Some(rsa) => rsa,
                None => return false,
            },
        };
        signature::UnparsedPublicKey::new(verification, bytes).verify(message, signature).is_ok()
    }
}

pub(super) fn hmac(algorithm: Algorithm) -> Option<hmac::Algorithm> {
    match algorithm {
        Algorithm::HS256 => Some(hmac::HMAC_SHA256),
        Algorithm::HS384 => Some(hmac::HMAC_SHA384),
        Algorithm::HS512 => Some(hmac::HMAC_SHA512),
        _ => None,
    }
}

fn rsa(algorithm: Algorithm) -> Option<&'static signature::RsaParameters> {
    match algorithm {
        Algorithm::RS256 => Some(&signature::RSA_PKCS1_2048_8192_SHA256),
        Algorithm::RS384 => Some(&signature::RSA_PKCS1_2048_8192_SHA384),
        Algorithm::RS512 => Some(&signature::RSA_PKCS1_2048_8192_SHA512),
        Algorithm::PS256 => Some(&signature::RSA_PSS_2048_8192_SHA256),
        Algorithm::PS384 => Some(&signature::RSA_PSS_2048_8192_SHA384),
        Algorithm::PS512 => Some(&signature::RSA_PSS_2048_8192_SHA512),
        _ => None,
    }
}

impl KeySet {
    /// Reads a file of `--jwt-key`: a public key or a certificate in PEM, or else a secret.
    ///
    /// # Errors
    /// What is wrong with it, for the end of a sentence that begins with its name. A public key that were taken for a secret would
    /// let everybody make tokens.
    pub fn of_key_file(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| {
            "is not text: give a public key in PEM, a secret of visible ASCII characters, or a JWK set (--jwks)"
                .to_owned()
        })?;
        let text = text.trim();
        let key = if text.contains("-----BEGIN") { of_pem(text)? } else { of_secret(text)? };
        Self::of_keys(vec![key])
    }

    /// Reads a JWK set, or a single JWK. Keys that no token can be checked with here are left out.
    ///
    /// # Errors
    /// What is wrong with it, for the end of a sentence that begins with its name; or that no key is left.
    pub fn of_jwks(bytes: &[u8], origin: Origin) -> Result<Self, String> {
        let value: Value = serde_json::from_slice(bytes).map_err(|error| format!("is not JSON ({error})"))?;
        let keys = match &value["keys"] {
            Value::Array(keys) => keys.clone(),
            _ if value["kty"].is_string() => vec![value],
            _ => return Err("is no JWK set: it has no list \"keys\"".to_owned()),
        };
        let mut left_out = None;
        let mut usable = Vec::new();
        for key in keys {
            let read = serde_json::from_value::<Jwk>(key).map_err(|_| "has a key that can't be read".to_owned());
            match read.and_then(|jwk| match jwk.common.public_key_use {
                Some(PublicKeyUse::Encryption) => Err("has keys for encryption only".to_owned()),
                _ => Key::of_jwk(&jwk, origin),
            }) {
                Ok(key) => usable.push(key),
                Err(why) => left_out = Some(why),
            }
        }
        match left_out {
            Some(why) if usable.is_empty() => Err(why),
            _ if usable.is_empty() => Err("has no key in it".to_owned()),
            _ => Self::of_keys(usable),
        }
    }

    /// Both sets as one.
    ///
    /// # Errors
    /// There are too many keys.
    pub fn joined(sets: impl IntoIterator<Item = Self>) -> Result<Self, String> {
        Self::of_keys(sets.into_iter().flat_map(|set| set.keys).collect())
    }

    fn of_keys(keys: Vec<Key>) -> Result<Self, String> {
        let without_id = keys.iter().filter(|key| key.id.is_none()).count();
        if keys.len() > KEYS_MAX {
            return Err(format!("has {} keys, and {KEYS_MAX} may be in use at once", keys.len()));
        }
        if without_id > KEYS_WITHOUT_ID_MAX {
            return Err(format!(
                "has {without_id} keys without an id (kid), all of which a token would be checked with: \
                 {KEYS_WITHOUT_ID_MAX} may be in use at once"
            ));
        }
        Ok(Self { keys })
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether a key has this id.
    pub(super) fn has_id(&self, id: &str) -> bool {
        self.keys.iter().any(|key| key.id.as_deref() == Some(id))
    }

    /// The keys that a token may be signed with: those of its id, or without one; a few at most.
    pub(super) fn candidates<'k>(&'k self, id: Option<&'k str>) -> impl Iterator<Item = &'k Key> + Clone {
        let is_known = id.is_some_and(|id| self.has_id(id));
        let may = move |key: &&Key| match (id, is_known) {
            (None, _) => true,
            (Some(_), true) => key.id.as_deref() == id,
            (Some(_), false) => key.id.is_none(),
        };
        self.keys.iter().filter(may)
    }

    /// The keys with their algorithms and ids, for a log line.
    pub fn describe(&self) -> String {
        let describe = |key: &Key| {
            let algorithm = match key.key.family() {
                AlgorithmFamily::Hmac | AlgorithmFamily::Rsa if key.algorithms.len() > 1 => {
                    format!("{:?} and relatives", key.algorithms[0])
                }
                _ => format!("{:?}", key.algorithms[0]),
            };
            match &key.id {
                Some(id) => format!("{algorithm} (kid {})", super::refused::shown(id)),
                None => algorithm,
            }
        };
        self.keys.iter().map(describe).collect::<Vec<_>>().join(", ")
    }
}

/// Keys are never shown.
impl std::fmt::Debug for KeySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.describe())
    }
}

fn of_pem(text: &str) -> Result<Key, String> {
    if text.contains("PRIVATE KEY-----") {
        return Err("has a private key, which signs tokens: give the public one, made with \
                    `openssl pkey -in FILE -pubout`"
            .to_owned());
    }
    let bytes = text.as_bytes();
    let key = DecodingKey::from_rsa_pem(bytes)
        .or_else(|_| DecodingKey::from_ec_pem(bytes))
        .or_else(|_| DecodingKey::from_ed_pem(bytes));
    Key::new(None, key.map_err(|_| "has no public key in PEM of RSA, P-256, P-384 or Ed25519".to_owned())?, None)
}

fn of_secret(text: &str) -> Result<Key, String> {
    if text.starts_with(['{', '[']) {
        return Err("looks like JSON: give a JWK set with --jwks".to_owned());
    }
    if text.bytes().any(|byte| !byte.is_ascii_graphic()) {
        return Err("is neither PEM nor a secret: a secret is one line of visible ASCII characters without spaces (other bytes: \
                    as a JWK with kty oct, --jwks)"
            .to_owned());
    }
    if STANDARD.decode(text).is_ok_and(|bytes| is_der(&bytes)) {
        return Err(
            "looks like a public key without its lines: put -----BEGIN PUBLIC KEY----- before it and -----END PUBLIC \
                    KEY----- after it"
                .to_owned(),
        );
    }
    Key::new(None, DecodingKey::from_secret(text.as_bytes()), None)
}

/// Whether these bytes are one DER sequence, as keys and certificates are.
fn is_der(bytes: &[u8]) -> bool {
    match *bytes {
        [0x30, length @ 0..=0x7f, ref rest @ ..] => rest.len() == usize::from(length),
        [0x30, 0x81, length, ref rest @ ..] => rest.len() == usize::from(length),
        [0x30, 0x82, high, low, ref rest @ ..] => rest.len() == usize::from(u16::from_be_bytes([high, low])),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
