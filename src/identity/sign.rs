//! Makes tokens, for `hi token`: applications make theirs with a library of their own language.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::EncodingKey;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, RSA_PKCS1_SHA256,
    RsaKeyPair,
};
use ring::{error, hmac};
use serde_json::{Map, Value, json};

use crate::limits::tokens::SECRET_BYTES_MIN;

/// A key that signs tokens.
pub(super) enum SigningKey {
    Secret(hmac::Key),
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl SigningKey {
    /// Reads a private key in PEM, or else a secret.
    ///
    /// # Errors
    /// What is wrong with it, for the end of a sentence that begins with the file's name.
    pub(super) fn of_file(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if !text.contains("-----BEGIN") {
            return match text.len() < SECRET_BYTES_MIN {
                true => Err(format!(
                    "has a secret of {} bytes, which servers refuse: at least {SECRET_BYTES_MIN}",
                    text.len()
                )),
                false => Ok(Self::Secret(hmac::Key::new(hmac::HMAC_SHA256, text.as_bytes()))),
            };
        }
        if text.contains("-----BEGIN EC PRIVATE KEY") {
            return Err(
                "is in the old form of elliptic keys: convert it with `openssl pkcs8 -topk8 -nocrypt -in FILE`".into(),
            );
        }
        if !text.contains("PRIVATE KEY-----") {
            return Err("has a public key, which can only check tokens: give the private one".to_owned());
        }
        Self::of_pem(text.as_bytes())
            .ok_or_else(|| "has no private key in PEM (PKCS#8) of RSA, P-256, P-384 or Ed25519".to_owned())
    }

    fn of_pem(pem: &[u8]) -> Option<Self> {
        let random = SystemRandom::new();
        if let Ok(key) = EncodingKey::from_rsa_pem(pem) {
            return RsaKeyPair::from_der(key.as_bytes()).ok().map(Self::Rsa);
        }
        if let Ok(key) = EncodingKey::from_ec_pem(pem) {
            let of = |algorithm| EcdsaKeyPair::from_pkcs8(algorithm, key.as_bytes(), &random).ok();
            let p256 = of(&ECDSA_P256_SHA256_FIXED_SIGNING).map(Self::P256);
            return p256.or_else(|| of(&ECDSA_P384_SHA384_FIXED_SIGNING).map(Self::P384));
        }
        let key = EncodingKey::from_ed_pem(pem).ok()?;
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(key.as_bytes()).ok().map(Self::Ed25519)
    }

    fn algorithm(&self) -> &'static str {
        match self {
            Self::Secret(_) => "HS256",
            Self::Rsa(_) => "RS256",
            Self::P256(_) => "ES256",
            Self::P384(_) => "ES384",
            Self::Ed25519(_) => "EdDSA",
        }
    }

    /// A token with these claims; `id` names the key.
    pub(super) fn token(&self, claims: &Map<String, Value>, id: Option<&str>) -> String {
        let mut header = json!({"alg": self.algorithm(), "typ": "JWT"});
        if let Some(id) = id {
            header["kid"] = id.into();
        }
        let claims = Value::Object(claims.clone());
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(&header), part(&claims));
        let signature = self.sign(message.as_bytes()).expect("the system has random numbers");
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, error::Unspecified> {
        let random = SystemRandom::new();
        Ok(match self {
            Self::Secret(key) => hmac::sign(key, message).as_ref().to_vec(),
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature)?;
                signature
            }
            Self::P256(key) | Self::P384(key) => key.sign(&random, message)?.as_ref().to_vec(),
            Self::Ed25519(key) => key.sign(message).as_ref().to_vec(),
        })
    }
}
