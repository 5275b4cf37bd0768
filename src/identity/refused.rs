//! Why a token is refused: the reason, as it is counted, a sentence for the client, and more for the operator. The token itself
//! is in none of them.

use doctor::reason::Reason;

use crate::limits::tokens::TEXT_CHARS_SHOWN;

/// Why a token, or a client without one, is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{sentence}")]
pub struct Refused {
    /// As it is counted and logged.
    pub reason: Reason,
    /// What is wrong, and what the client can do.
    pub(crate) sentence: String,
    /// What only the operator should see.
    pub(crate) detail: Option<String>,
}

impl Refused {
    pub(crate) fn new(reason: Reason, sentence: impl Into<String>) -> Self {
        Self { reason, sentence: sentence.into(), detail: None }
    }

    pub(super) fn malformed(what: &str) -> Self {
        Self::new(Reason::TokenMalformed, format!("The token is not a signed JWT: {what}."))
    }

    pub(super) fn claims(what: impl std::fmt::Display) -> Self {
        Self::new(Reason::TokenClaims, format!("The token is signed, but can't be used here: {what}."))
    }

    /// There are no keys yet.
    pub(super) fn keys_unavailable() -> Self {
        let text = "The keys that tokens are checked with could not be loaded yet: try again in a few seconds.";
        Self::new(Reason::KeysUnavailable, text).with("see the log lines about --jwks")
    }

    /// For a connection that is another user's.
    pub(crate) fn other_user() -> Self {
        let text = "The token is of another user than this connection: connect again with it.";
        Self::new(Reason::TokenOtherUser, text)
    }

    /// Adds what only the operator should see.
    pub(crate) fn with(self, detail: impl Into<String>) -> Self {
        Self { detail: Some(detail.into()), ..self }
    }
}

/// A text from a token, shortened, and harmless in a log or an answer.
pub(super) fn shown(text: &str) -> String {
    let more = if text.chars().nth(TEXT_CHARS_SHOWN).is_some() { "..." } else { "" };
    let cut: String = text.chars().take(TEXT_CHARS_SHOWN).flat_map(char::escape_default).collect();
    format!("\"{cut}{more}\"")
}

/// A number of seconds as a person says it.
pub(super) fn time(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}
