use proptest::prelude::*;
use serde_json::json;

use super::super::tests::{NOW, rules};
use super::*;

fn read(claims: Value) -> Result<Principal, Refused> {
    principal(claims.to_string().as_bytes(), &rules(), NOW)
}

fn reason(claims: Value) -> Reason {
    read(claims).unwrap_err().reason
}

#[test]
fn a_token_is_good_for_its_time_and_the_leeway() {
    let with = |key: &str, at: i64| read(json!({"sub": "ada", key: NOW as i64 + at})).map(|principal| principal.ends);
    assert_eq!(with("exp", 1), Ok(NOW + 31));
    assert_eq!(with("exp", -29), Ok(NOW + 1));
    assert_eq!(with("exp", -30).unwrap_err().reason, Reason::TokenExpired);
    assert_eq!(with("nbf", 30), Ok(u64::MAX));
    assert_eq!(with("nbf", 31).unwrap_err().reason, Reason::ClockSkew);
    assert_eq!(with("nbf", 3600).unwrap_err().reason, Reason::TokenNotYetValid);
    // Issued in the future is no reason by itself: few issuers mean it as a condition.
    assert_eq!(with("iat", 3600), Ok(u64::MAX));
    let both = json!({"sub": "ada", "nbf": NOW + 3600, "iat": NOW + 3600});
    assert_eq!(reason(both), Reason::ClockSkew);
    let later = json!({"sub": "ada", "nbf": NOW + 60, "iat": NOW});
    assert_eq!(reason(later), Reason::TokenNotYetValid);
}

#[test]
fn times_are_numbers_of_any_kind_and_nothing_else() {
    for exp in [json!(NOW + 9), json!(NOW as f64 + 9.5), json!(1e300), json!(u64::MAX), json!(null)] {
        assert!(read(json!({"sub": "ada", "exp": exp})).is_ok(), "{exp}");
    }
    for exp in [json!(0), json!(-1), json!(-1e300), json!(i64::MIN), json!(0.5)] {
        assert_eq!(reason(json!({"sub": "ada", "exp": exp})), Reason::TokenExpired, "{exp}");
    }
    for exp in [json!("1787300009"), json!(true), json!([NOW + 9]), json!({})] {
        assert_eq!(reason(json!({"sub": "ada", "exp": exp})), Reason::TokenClaims, "{exp}");
        assert_eq!(reason(json!({"sub": "ada", "nbf": exp})), Reason::TokenClaims, "{exp}");
    }
}

#[test]
fn a_token_names_a_user_that_can_be_in_the_chat() {
    for (claims, why) in [
        (json!({}), "no sub"),
        (json!({"sub": null, "name": "ada"}), "no sub"),
        (json!({"sub": ""}), "no sub"),
        (json!({"sub": 42}), "sub has to be a string"),
        (json!({"sub": "42", "name": 3}), "name has to be a string"),
        (json!({"sub": "hi"}), "sub is no name for the chat"),
        (json!({"sub": "42", "name": "#x"}), "name is no name for the chat"),
        (json!({"sub": "x".repeat(80)}), "sub is no name for the chat"),
        (json!({"sub": "42", "name": "~ada"}), "marks guests"),
        (json!({"sub": "42", "rooms": 3}), "rooms: it has to be an object"),
        (json!({"sub": "42", "rooms": {"tea": ["fly"]}}), "is no right"),
        (json!({"sub": "42", "rooms": {"a*b": ["join"]}}), "at its end"),
        (json!({"sub": "42", "rooms": {"tea": 1}}), "list of rights"),
    ] {
        let refused = read(claims.clone()).unwrap_err();
        assert_eq!(refused.reason, Reason::TokenClaims, "{claims}");
        assert!(refused.to_string().contains(why), "{claims}: {refused}");
    }
    let long = json!({"sub": "x".repeat(80), "name": "ada"});
    assert_eq!(read(long).unwrap().user.as_str(), "ada");
    assert_eq!(principal(b"[1]", &rules(), NOW).unwrap_err().reason, Reason::TokenMalformed);
    let deep = format!("{}{}", "[".repeat(2000), "]".repeat(2000));
    let deep = format!("{{\"sub\":\"ada\",\"x\":{deep}}}");
    assert_eq!(principal(deep.as_bytes(), &rules(), NOW).unwrap_err().reason, Reason::TokenMalformed);
}

#[test]
fn issuer_and_audience_count_once_they_are_set() {
    let rules = Rules { issuers: vec!["https://app".into()], audiences: vec!["hi".into(), "chat".into()], ..rules() };
    let read = |claims: Value| principal(claims.to_string().as_bytes(), &rules, NOW).map_err(|refused| refused.reason);
    for aud in [json!("hi"), json!(["x", "chat"])] {
        assert!(read(json!({"sub": "ada", "iss": "https://app", "aud": aud})).is_ok(), "{aud}");
    }
    for iss in [json!(null), json!("https://app/"), json!("HTTPS://app"), json!(3), json!({"https://app": 1})] {
        assert_eq!(read(json!({"sub": "ada", "iss": iss, "aud": "hi"})), Err(Reason::TokenIssuer), "{iss}");
    }
    for aud in [json!(null), json!("HI"), json!([]), json!(["x"]), json!([["hi"]]), json!(1)] {
        assert_eq!(read(json!({"sub": "ada", "iss": "https://app", "aud": aud})), Err(Reason::TokenAudience), "{aud}");
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,90}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("\\PC{0,12}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    /// Whatever an issuer writes, it is read or refused in a line that is safe in a log.
    #[test]
    fn any_claims_are_read_or_refused_in_one_line(values in prop::collection::btree_map("sub|name|exp|nbf|iat|iss|aud|rooms", any_json(), 0..8)) {
        let claims = Value::Object(values.into_iter().collect());
        let rules = Rules { issuers: vec!["a".into()], ..rules() };
        for rules in [super::super::tests::rules(), rules] {
            match principal(claims.to_string().as_bytes(), &rules, NOW) {
                Ok(principal) => prop_assert!(principal.subject.is_some() && principal.is_valid_at(NOW)),
                Err(refused) => {
                    let told = refused.to_string() + refused.detail.as_deref().unwrap_or_default();
                    prop_assert!(!told.contains(char::is_control) && refused.to_string().len() < 400, "{}", told);
                }
            }
        }
    }
}
