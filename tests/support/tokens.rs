//! Tokens as other programs make them: signed with ring, and put together by hand.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};

use super::internal::File;

/// The secret of [`token`].
pub const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A file with the secret.
pub fn secret_file() -> File {
    File::new(SECRET)
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A token with these claims.
pub fn token(claims: &Value) -> String {
    signed(&json!({"alg": "HS256"}), claims, |message| {
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes()), message).as_ref().to_vec()
    })
}

/// A token for this user, with these rooms, for an hour.
pub fn token_of(user: &str, rooms: &Value) -> String {
    token(&json!({"sub": user, "exp": now() + 3600, "rooms": rooms}))
}

/// A token with any header.
pub fn signed(header: &Value, claims: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let message = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
    let signature = sign(message.as_bytes());
    format!("{message}.{}", encode(signature))
}

/// A key on P-256 with an id, as an issuer has it.
pub struct IssuerKey {
    pub id: String,
    pair: EcdsaKeyPair,
}

impl IssuerKey {
    /// A new key.
    pub fn new(id: &str) -> Self {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).unwrap();
        Self { id: id.to_owned(), pair }
    }

    /// Its public half, as JWK sets have it.
    pub fn jwk(&self) -> Value {
        let (x, y) = self.pair.public_key().as_ref()[1..].split_at(32);
        json!({"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.id, "x": encode(x), "y": encode(y)})
    }

    /// A token with these claims.
    pub fn token(&self, claims: &Value) -> String {
        signed(&json!({"alg": "ES256", "kid": self.id}), claims, |message| {
            self.pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()
        })
    }
}
