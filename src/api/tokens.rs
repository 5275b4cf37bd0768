//! Tokens beside keys: a request that has one is its user's.

use std::sync::Arc;
use std::time::Instant;

use hyper::HeaderMap;
use serde_json::json;
use tracing::info;

use super::call::ApiError;
use super::caller::Caller;
use super::key::{Keys, bearer};
use crate::clock::unix_time;
use crate::failures::Failures;
use crate::http::reason::Reason;
use crate::identity::refused::Refused;
use crate::identity::{Authority, Checker, Principal};

/// The hop under which refused tokens are counted: nothing is known of what is in front of the internal port.
const ON_THE_INTERNAL_PORT: &str = "internal";

/// What tokens are checked with on the internal port. They are checked on its own thread, so they hold up no shard.
pub(super) struct Tokens {
    checker: Checker,
    failures: Arc<Failures>,
}

impl Tokens {
    pub(super) fn new(authority: Arc<Authority>, failures: Arc<Failures>) -> Self {
        Self { checker: Checker::new(authority), failures }
    }

    fn check(&self, token: &str) -> Result<Arc<Principal>, Refused> {
        self.checker.check(token, unix_time().as_secs())
    }

    /// Counts and logs that a token was refused.
    fn note(&self, refused: &Refused) {
        if self.failures.note(refused.reason, ON_THE_INTERNAL_PORT.to_owned(), Instant::now()).is_some() {
            let detail = refused.detail.as_ref().map(|detail| format!(" ({detail})")).unwrap_or_default();
            info!("token on the internal port refused: {}; {refused}{detail}", refused.reason.as_str());
        }
    }
}

/// Whose a request with these headers is.
///
/// # Errors
/// The token is refused (401, or 503 before there are keys), or those of [`Keys::admit`].
pub(super) fn identify(keys: &Keys, tokens: Option<&Tokens>, headers: &HeaderMap) -> Result<Caller, ApiError> {
    let Some((tokens, presented)) = tokens.zip(bearer(headers)).filter(|(_, presented)| !keys.opens(presented)) else {
        return keys.admit(headers).map(|()| Caller::Operator);
    };
    // What is not UTF-8 is no token, and is refused as one.
    let refused = match tokens.check(&String::from_utf8_lossy(presented)) {
        Ok(principal) => return Ok(Caller::User(principal)),
        Err(refused) => refused,
    };
    // Rather a wrong key than a broken token.
    if refused.reason == Reason::TokenMalformed && keys.is_set() {
        return keys.admit(headers).map(|()| Caller::Operator);
    }
    tokens.note(&refused);
    let error = match refused.reason.status() {
        503 => ApiError::temporary(503, "unavailable", refused.to_string()),
        status => ApiError::new(status, "denied", refused.to_string()).header("www-authenticate", "Bearer"),
    };
    Err(error.with(json!({"reason": refused.reason.as_str()})))
}
