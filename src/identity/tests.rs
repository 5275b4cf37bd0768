//! Whole tokens, and what tests of the parts share.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use doctor::reason::Reason;
use proptest::prelude::*;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaPublicKeyComponents};
use serde_json::{Value, json};

use super::rights::Source;
use super::sign::SigningKey;
use super::*;

pub(super) const NOW: u64 = 1_787_300_000;
pub(super) const SECRET: &str = "0123456789abcdef0123456789abcdef";
/// A private key for tests alone.
pub(super) const RSA: &str = include_str!("../../tests/support/rsa.pem");

pub(super) fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A token that is signed by the secret.
pub(super) fn token(claims: &Value) -> String {
    SigningKey::of_file(SECRET).unwrap().token(claims.as_object().unwrap(), None)
}

pub(super) fn rules() -> Rules {
    let rights = Arc::new(Rights::parse(rights::DEFAULT, Source::TokensWithout).unwrap());
    Rules { issuers: Vec::new(), audiences: Vec::new(), leeway: Duration::from_secs(30), rights }
}

pub(super) fn authority() -> Authority {
    Authority::new(KeySet::of_key_file(SECRET.as_bytes()).unwrap(), rules(), None)
}

/// A private key of each kind, with the set that has its public half.
pub(super) fn pairs() -> Vec<(SigningKey, KeySet)> {
    let random = SystemRandom::new();
    let p256 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
    let p256 = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, p256.as_ref(), &random).unwrap();
    let (x, y) = p256.public_key().as_ref()[1..].split_at(32);
    let of_p256 = json!({"kty": "EC", "crv": "P-256", "x": encode(x), "y": encode(y)});
    let ed25519 = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
    let ed25519 = Ed25519KeyPair::from_pkcs8(ed25519.as_ref()).unwrap();
    let of_ed25519 = json!({"kty": "OKP", "crv": "Ed25519", "x": encode(ed25519.public_key())});
    let SigningKey::Rsa(rsa) = SigningKey::of_file(RSA).unwrap() else { panic!("an RSA key") };
    let public: RsaPublicKeyComponents<Vec<u8>> = rsa.public().into();
    // As Java writes it.
    let n = [&[0][..], &public.n].concat();
    let of_rsa = json!({"kty": "RSA", "n": encode(n), "e": encode(&public.e)});
    let set = |jwk: Value| KeySet::of_jwks(jwk.to_string().as_bytes(), keys::Origin::Url).unwrap();
    vec![
        (SigningKey::P256(p256), set(of_p256)),
        (SigningKey::Ed25519(ed25519), set(of_ed25519)),
        (SigningKey::Rsa(rsa), set(of_rsa)),
        (SigningKey::of_file(SECRET).unwrap(), KeySet::of_key_file(SECRET.as_bytes()).unwrap()),
    ]
}

#[test]
fn a_token_of_each_kind_of_key_is_accepted_by_its_own_key_only() {
    let claims = json!({"sub": "42", "name": "ada", "exp": NOW + 60, "rooms": {"tea": ["join", "pub"]}});
    let pairs = pairs();
    for (at, (key, _)) in pairs.iter().enumerate() {
        let token = key.token(claims.as_object().unwrap(), None);
        for (other, (_, keys)) in pairs.iter().enumerate() {
            let outcome = Authority::new(keys.clone(), rules(), None).check(&token, NOW);
            if at == other {
                let principal = outcome.unwrap();
                assert_eq!((principal.user.as_str(), principal.subject.as_deref()), ("ada", Some("42")));
                assert_eq!((principal.expires, principal.ends), (Some(NOW + 60), NOW + 90));
                assert_eq!(principal.rights.to_string(), "tea=join,pub");
            } else {
                assert_eq!(outcome.unwrap_err().reason, Reason::TokenAlgorithm);
            }
        }
    }
}

#[test]
fn a_remembered_token_is_refused_once_it_has_expired_or_its_key_is_gone() {
    let authority = Arc::new(authority());
    let checker = Checker::new(Arc::clone(&authority));
    let token = token(&json!({"sub": "ada", "exp": NOW + 60, "nbf": NOW}));
    let first = checker.check(&token, NOW).unwrap();
    assert!(Arc::ptr_eq(&first, &checker.check(&token, NOW + 89).unwrap()));
    assert_eq!(checker.check(&token, NOW + 90).unwrap_err().reason, Reason::TokenExpired);
    assert_eq!(checker.check(&token, NOW - 31).unwrap_err().reason, Reason::ClockSkew, "the clock was set back");
    authority.replace_keys(KeySet::of_key_file(b"another-secret-of-thirty-two-bytes").unwrap());
    assert_eq!(checker.check(&token, NOW).unwrap_err().reason, Reason::TokenBadSignature);
}

#[test]
fn guests_are_marked_once_and_cannot_have_long_names() {
    let rights = rules().rights;
    let guest = |name: &str| Principal::guest(&Name::user(name).unwrap(), Arc::clone(&rights));
    assert_eq!(guest("Ada").unwrap().user.as_str(), "~Ada");
    assert_eq!(guest("~Ada").unwrap().user.as_str(), "~Ada");
    // A full-width tilde is a tilde.
    assert_eq!(guest("\u{ff5e}Ada").unwrap().user.key(), "~ada");
    assert!(guest(&"a".repeat(79)).is_err());
}

proptest! {
    /// No changed byte goes unnoticed.
    #[test]
    fn a_token_with_another_byte_is_refused(at in 0_usize..10_000, byte in any::<u8>()) {
        let good = token(&json!({"sub": "ada", "exp": NOW + 60}));
        let mut bytes = good.clone().into_bytes();
        let at = at % bytes.len();
        bytes[at] = byte;
        if let Ok(changed) = String::from_utf8(bytes) {
            prop_assert_eq!(authority().check(&changed, NOW).is_ok(), changed == good);
        }
    }

    /// The cache changes nothing but the time that it takes.
    #[test]
    fn remembering_changes_no_answer(asked in proptest::collection::vec((0_u64..6, 0_u64..400), 1..60)) {
        let checker = Checker::new(Arc::new(authority()));
        for (user, at) in asked {
            let token = token(&json!({"sub": format!("u{user}"), "exp": NOW + 50 * user, "nbf": NOW + 30 * user}));
            let (remembered, checked) = (checker.check(&token, NOW + at), authority().check(&token, NOW + at));
            prop_assert_eq!(remembered.map(|principal| (*principal).clone()), checked);
        }
    }
}
