use ring::hmac;
use serde_json::json;

use super::super::keys::{KeySet, Origin};
use super::super::tests::{NOW, SECRET, encode, pairs, token};
use super::*;

/// The payload of the examples in RFC 7515.
const PAYLOAD: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";

fn set(jwk: &str) -> KeySet {
    KeySet::of_jwks(jwk.as_bytes(), Origin::File).unwrap()
}

fn secret() -> KeySet {
    KeySet::of_key_file(SECRET.as_bytes()).unwrap()
}

fn refused(token: &str, keys: &KeySet) -> Reason {
    payload(token, keys).unwrap_err().reason
}

/// A token with any header, signed as the secret signs.
fn with_header(header: &str, key: &[u8], algorithm: hmac::Algorithm) -> String {
    let message = format!("{}.{}", encode(header), encode(r#"{"sub":"ada"}"#));
    let signature = hmac::sign(&hmac::Key::new(algorithm, key), message.as_bytes());
    format!("{message}.{}", encode(signature))
}

#[test]
fn the_examples_of_the_rfcs_are_right() {
    let hs256 =
        r#"{"kty":"oct","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"}"#;
    let rs256 = r#"{"kty":"RSA","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ","e":"AQAB"}"#;
    let es256 = r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;
    let eddsa = r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
    for (example, key, header, body, signature) in [
        (
            "RFC 7515 A.1",
            hs256,
            "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9",
            PAYLOAD,
            "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
        ),
        (
            "RFC 7515 A.2",
            rs256,
            "eyJhbGciOiJSUzI1NiJ9",
            PAYLOAD,
            "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
        ),
        (
            "RFC 7515 A.3",
            es256,
            "eyJhbGciOiJFUzI1NiJ9",
            PAYLOAD,
            "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
        ),
        (
            "RFC 8037 A.4",
            eddsa,
            "eyJhbGciOiJFZERTQSJ9",
            "RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc",
            "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
        ),
    ] {
        let read = payload(&format!("{header}.{body}.{signature}"), &set(key));
        assert_eq!(read.map(encode).as_deref(), Ok(body), "{example}");
        let other = payload(&format!("{header}.{body}x.{signature}"), &set(key));
        assert_eq!(other.unwrap_err().reason, Reason::TokenBadSignature, "{example}");
    }
}

#[test]
fn a_header_does_not_choose_the_algorithm() {
    // RFC 7519, 6.1: an unsecured JWT.
    for alg in ["none", "None", "NONE", "nOnE"] {
        let unsigned = format!("{}.{}.", encode(format!(r#"{{"alg":"{alg}"}}"#)), encode(r#"{"sub":"root"}"#));
        let refused = payload(&unsigned, &secret()).unwrap_err();
        assert_eq!(
            (refused.reason, refused.to_string().contains("not signed")),
            (Reason::TokenAlgorithm, true),
            "{alg}"
        );
    }
    // What everybody knows, a public key, used as a secret.
    let rsa = &pairs()[2].1;
    let spki = include_bytes!("../../../tests/support/rsa.pem");
    for public in [&spki[..], b"", b"MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A"] {
        let forged = with_header(r#"{"alg":"HS256"}"#, public, hmac::HMAC_SHA256);
        assert_eq!(refused(&forged, rsa), Reason::TokenAlgorithm);
    }
    for alg in ["HS1", "RS256", "ES256", "EdDSA", "ES256K", "", "HS256 "] {
        let token = with_header(&format!(r#"{{"alg":"{alg}"}}"#), SECRET.as_bytes(), hmac::HMAC_SHA256);
        assert_eq!(refused(&token, &secret()), Reason::TokenAlgorithm, "{alg}");
    }
    // Within its own kind, a header may: a secret is for all three.
    let hs512 = with_header(r#"{"alg":"HS512"}"#, SECRET.as_bytes(), hmac::HMAC_SHA512);
    assert!(payload(&hs512, &secret()).is_ok());
    // Not if the key says which one.
    let only = set(&json!({"kty": "oct", "alg": "HS256", "k": encode(SECRET)}).to_string());
    assert_eq!(refused(&hs512, &only), Reason::TokenAlgorithm);
}

#[test]
fn what_is_no_signed_token_is_named() {
    let good = token(&json!({"sub": "ada", "exp": NOW}));
    let parts: Vec<_> = good.split('.').collect();
    for (token, why) in [
        (String::new(), "three parts"),
        ("a.b".to_owned(), "three parts"),
        ("a.b.c.d".to_owned(), "three parts"),
        ("a.b.c.d.e".to_owned(), "encrypted"),
        ("..".to_owned(), "header is not a JSON object"),
        (format!("{good}="), "signature is not base64url"),
        (format!("{good}.{good}"), "three parts"),
        (format!("!.{}.{}", parts[1], parts[2]), "header is not base64url"),
        (format!("{}.{}.{}", encode("[]"), parts[1], parts[2]), "header is not a JSON object"),
        (format!("{}.{}.{}", encode("{}"), parts[1], parts[2]), "with the key alg"),
        (format!("{}.{}.{}", encode(r#"{"alg":1}"#), parts[1], parts[2]), "with the key alg"),
        (format!("{}.{}.{}", encode(r#"{"alg":"HS256","alg":"none"}"#), parts[1], parts[2]), "with the key alg"),
        ("x".repeat(4097), "4097 bytes"),
        (with_header(r#"{"alg":"HS256","crit":["b64"],"b64":false}"#, SECRET.as_bytes(), hmac::HMAC_SHA256), "crit"),
    ] {
        let refused = payload(&token, &secret()).unwrap_err();
        assert_eq!(refused.reason, Reason::TokenMalformed, "{token}");
        assert!(refused.to_string().contains(why), "{token}: {refused}");
    }
    // As deep as a token can be.
    let deep = format!("{{\"alg\":\"HS256\",\"x\":{}{}}}", "[".repeat(700), "]".repeat(700));
    assert!(payload(&with_header(&deep, SECRET.as_bytes(), hmac::HMAC_SHA256), &secret()).is_ok());
}

#[test]
fn the_id_of_a_key_chooses_among_keys_and_nothing_else() {
    let keys: Vec<_> =
        ["a", "b"].iter().map(|id| json!({"kty": "oct", "kid": id, "k": encode(format!("{SECRET}{id}"))})).collect();
    let keys = set(&json!({"keys": keys}).to_string());
    let signed = |id: &str, by: &str| {
        let header = format!(r#"{{"alg":"HS256","kid":{}}}"#, json!(id));
        with_header(&header, format!("{SECRET}{by}").as_bytes(), hmac::HMAC_SHA256)
    };
    assert!(payload(&signed("a", "a"), &keys).is_ok());
    assert_eq!(refused(&signed("a", "b"), &keys), Reason::TokenBadSignature);
    for id in ["c", "", "../../dev/null", "' OR 1=1", "\u{1b}[31m\n", "a\0"] {
        let refused = payload(&signed(id, "a"), &keys).unwrap_err();
        assert_eq!(refused.reason, Reason::TokenUnknownKey, "{id:?}");
        let told = refused.to_string() + refused.detail.as_deref().unwrap_or_default();
        assert!(!told.contains(char::is_control), "{told:?}");
    }
    // Without an id, each key is tried.
    assert!(
        payload(&with_header(r#"{"alg":"HS256"}"#, format!("{SECRET}b").as_bytes(), hmac::HMAC_SHA256), &keys).is_ok()
    );
    // A key without an id is for tokens with any.
    assert!(
        payload(&with_header(r#"{"alg":"HS256","kid":"z"}"#, SECRET.as_bytes(), hmac::HMAC_SHA256), &secret()).is_ok()
    );
}

#[test]
fn no_text_has_any_part_of_the_token() {
    let good = token(&json!({"sub": "ada", "exp": NOW}));
    let (message, signature) = good.rsplit_once('.').unwrap();
    for broken in [
        format!("{message}.{}", signature.replace(['a', 'b', 'c', 'd', 'e'], "f")),
        format!("{good}.x"),
        format!("{good}!"),
    ] {
        let refused = payload(&broken, &secret()).unwrap_err();
        let told = format!("{refused} {:?}", refused.detail);
        assert!(broken.split('.').filter(|part| part.len() > 8).all(|part| !told.contains(part)), "{told}");
    }
}
