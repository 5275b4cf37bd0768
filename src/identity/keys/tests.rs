use serde_json::json;

use super::super::tests::{RSA, SECRET, encode};
use super::*;

const RSA_1024: &str = "-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQC+zig+tOU0Jg7oqL9rog06yCSW
+S3nsoIKATg4hv+PcC4tdq4mQwX/L/8RfcrgaC6D/H92vLLpJFQB9k5s2dA9JPT3
1zKGqNuS3IK1lE4yWB+k5pIm7Q/k1Nm2jCALY0U4YkUFZL26JUq5/LYS6DK6bfQF
1H+EqfQNMACSXc5I8wIDAQAB
-----END PUBLIC KEY-----
";
/// Made with `openssl pkey -pubout` from keys that nobody has.
const P384: &str = "\
-----BEGIN PUBLIC KEY-----
MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEBEZZYU2w9OSCkIfJdL/PxXBLnJfU/nsF
tqNChIXn8RvAmBTiy7f8CIcqOjmfETnd117L0JMykhjpyy2/ymPqSHb4TdJeHdWp
+SGpjdTbLGMgQbFFuMqvR8c6w4Ah4Blu
-----END PUBLIC KEY-----
";

fn why(text: &str) -> String {
    KeySet::of_key_file(text.as_bytes()).unwrap_err()
}

#[test]
fn a_public_key_is_never_taken_for_a_secret() {
    let flat: String = P384.lines().filter(|line| !line.starts_with('-')).collect();
    assert!(why(&flat).contains("looks like a public key"));
    let flat: String = RSA_1024.lines().filter(|line| !line.starts_with('-')).collect();
    assert!(why(&flat).contains("looks like a public key"));
    assert!(why(&format!("key:\n{P384}").replace("BEGIN PUBLIC", "BEGIN OTHER")).contains("no public key in PEM"));
    assert!(why("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB ada@host").contains("without spaces"));
    assert!(why(&json!({"kty": "oct", "k": encode(SECRET)}).to_string()).contains("--jwks"));
    assert!(KeySet::of_key_file(&[0x30, 0x82, 0xff, 0xfe]).unwrap_err().contains("not text"));
    assert_eq!(KeySet::of_key_file(P384.as_bytes()).unwrap().describe(), "ES384");
}

#[test]
fn weak_and_private_keys_are_refused() {
    assert!(why(&SECRET[1..]).contains("31 bytes") && why("").contains("0 bytes"));
    assert!(
        KeySet::of_key_file(format!(" {SECRET}\r\n").as_bytes()).is_ok(),
        "the end of a line is not part of a secret"
    );
    assert!(why(RSA_1024).contains("2048 bits"));
    assert!(why(RSA).contains("private key"));
}

fn jwks(keys: &serde_json::Value, origin: Origin) -> Result<String, String> {
    KeySet::of_jwks(json!({"keys": keys}).to_string().as_bytes(), origin).map(|keys| keys.describe())
}

#[test]
fn a_set_leaves_out_what_it_cannot_use() {
    let oct = json!({"kty": "oct", "kid": "s", "alg": "HS256", "k": encode(SECRET)});
    let p256 = json!({"kty": "EC", "crv": "P-256", "kid": "p", "use": "sig",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"});
    let mut encryption = p256.clone();
    encryption["use"] = json!("enc");
    let others = [
        json!({"kty": "OKP", "crv": "X25519", "x": encode([7; 32])}),
        json!({"kty": "OKP", "crv": "Ed25519", "x": encode([7; 31])}),
        json!({"kty": "EC", "crv": "P-521", "x": "AA", "y": "AA"}),
        json!({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}),
        json!({"kty": "EC", "crv": "P-256", "x": "!", "y": "AA"}),
        json!({"kty": "RSA", "n": encode([255; 128]), "e": "AQAB"}),
        json!({"kty": "RSA", "n": encode([255; 256]), "e": "AQAB", "alg": "RSA-OAEP"}),
        json!({"kty": "oct", "k": encode(SECRET), "alg": "RS256"}),
        json!({"kty": "future", "z": 1}),
        json!({"kid": "x"}),
        json!(3),
        encryption,
    ];
    for other in &others {
        assert!(jwks(&json!([other]), Origin::File).is_err(), "{other}");
        assert_eq!(jwks(&json!([other, p256]), Origin::File).as_deref(), Ok("ES256 (kid \"p\")"), "{other}");
    }
    assert_eq!(jwks(&json!([oct, p256]), Origin::File).as_deref(), Ok("HS256 (kid \"s\"), ES256 (kid \"p\")"));
    // A secret that everybody can fetch is none.
    assert_eq!(jwks(&json!([oct, p256]), Origin::Url).as_deref(), Ok("ES256 (kid \"p\")"));
    assert!(jwks(&json!([oct]), Origin::Url).unwrap_err().contains("secret"));
    for (text, why) in [
        ("", "not JSON"),
        ("{}", "no list"),
        ("[]", "no list"),
        ("{\"keys\":[]}", "no key"),
        ("{\"keys\":3}", "no list"),
    ] {
        assert!(KeySet::of_jwks(text.as_bytes(), Origin::File).unwrap_err().contains(why), "{text}");
    }
}

#[test]
fn keys_are_bounded() {
    let keys = |count: usize, id: bool| {
        let key = |n| match id {
            true => json!({"kty": "oct", "kid": format!("{n}"), "k": encode(format!("{SECRET}{n}"))}),
            false => json!({"kty": "oct", "k": encode(format!("{SECRET}{n}"))}),
        };
        jwks(&json!((0..count).map(key).collect::<Vec<_>>()), Origin::File)
    };
    assert!(keys(64, true).is_ok() && keys(65, true).unwrap_err().contains("65 keys"));
    assert!(keys(4, false).is_ok() && keys(5, false).unwrap_err().contains("without an id"));
    assert!(KeySet::default().is_empty());
}
