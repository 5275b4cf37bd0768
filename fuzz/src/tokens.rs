//! Tokens, JWK sets and rules about rooms: whatever comes, nothing is accepted that no key has signed, and every refusal is a line.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use hi::identity::keys::{KeySet, Origin};
use hi::identity::rights::{DEFAULT, Right, Rights, Source};
use hi::identity::{Authority, Checker, Rules};
use hi::protocol::Namespace;
use hi::protocol::name::Name;

use super::assert_sentence;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
/// Signed with the secret, and good for ever: `{"sub":"ada"}`.
const GOOD: &str = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhZGEifQ.XZ9KL7ZohTLsRrkBsqXfZb33bIYCzMePxOf3oNBuE5Y";

static CHECKER: LazyLock<Arc<Authority>> = LazyLock::new(|| {
    let rights = Arc::new(Rights::parse(DEFAULT, Source::TokensWithout).expect("rules"));
    let rules = Rules { issuers: Vec::new(), audiences: Vec::new(), leeway: Duration::from_secs(30), rights };
    Arc::new(Authority::new(KeySet::of_key_file(SECRET.as_bytes()).expect("a secret"), rules, None))
});

/// One text, taken for a token, for keys and for rules.
pub fn check(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    check_token(text.trim_end());
    check_keys(bytes);
    for source in [Source::TokensWithout, Source::Guests] {
        match Rights::parse(&text, source) {
            // What is written is read again, and decides in the same way.
            Ok(rights) => {
                let again = Rights::parse(&rights.to_string(), source).expect("what was written");
                let room = Name::room("tea").expect("a name");
                for right in Right::ALL {
                    for namespace in Namespace::ALL {
                        let (one, other) =
                            (rights.allow(right, namespace, &room), again.allow(right, namespace, &room));
                        assert_eq!(one.is_ok(), other.is_ok());
                        if let Err(denied) = one {
                            assert_sentence(&denied.to_string());
                        }
                    }
                }
            }
            Err(why) => assert_sentence(&why),
        }
    }
}

fn check_token(token: &str) {
    const NOW: u64 = 1_787_300_000;
    let checker = Checker::new(Arc::clone(&CHECKER));
    let (first, again) = (checker.check(token, NOW), checker.check(token, NOW));
    assert_eq!(first, again, "the cache changes nothing");
    match first {
        // Nobody but the holder of the secret makes one.
        Ok(_) => assert_eq!(token, GOOD),
        Err(refused) => {
            assert_sentence(&refused.to_string());
            let secrets = token.split('.').filter(|part| part.len() > 40);
            assert!(secrets.into_iter().all(|part| !refused.to_string().contains(part)), "{refused}");
        }
    }
}

fn check_keys(bytes: &[u8]) {
    for keys in [KeySet::of_key_file(bytes), KeySet::of_jwks(bytes, Origin::File), KeySet::of_jwks(bytes, Origin::Url)]
    {
        match keys {
            Ok(keys) => {
                assert_sentence(&keys.describe());
                // No key verifies what was not signed with it.
                let rules = Rules {
                    issuers: Vec::new(),
                    audiences: Vec::new(),
                    leeway: Duration::ZERO,
                    rights: Arc::new(Rights::parse("", Source::TokensWithout).expect("no rules")),
                };
                if String::from_utf8_lossy(bytes).trim() != SECRET {
                    assert!(Authority::new(keys, rules, None).check(GOOD, 0).is_err());
                }
            }
            Err(why) => assert_sentence(&why),
        }
    }
}
