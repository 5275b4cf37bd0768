//! The key of a raw message: of all messages with the same key, members with `?latest=1` need only the newest.

use serde::Deserialize;
use serde_json::Value;

use crate::limits::{KEY_BYTES_MAX, KEYED_MESSAGE_BYTES_MAX};

#[derive(Deserialize)]
struct Keyed {
    key: Value,
}

/// The key in a payload, as JSON: the value of the top-level `key` of an object, if that is a string or a number. `None` if
/// there is no such key, if it is longer than [`KEY_BYTES_MAX`], or if the payload is longer than [`KEYED_MESSAGE_BYTES_MAX`].
pub(crate) fn key(payload: &[u8]) -> Option<String> {
    // An array is refused here: to serde it would be an object without names.
    if payload.len() > KEYED_MESSAGE_BYTES_MAX || !payload.trim_ascii_start().starts_with(b"{") {
        return None;
    }
    let Keyed { key } = serde_json::from_slice(payload).ok()?;
    let key = (key.is_string() || key.is_number()).then(|| key.to_string())?;
    Some(key).filter(|key| key.len() <= KEY_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_a_string_or_a_number_at_the_top_of_an_object() {
        for (payload, expected) in [
            (r#"{"key":"btc","price":1}"#, Some(r#""btc""#)),
            (r#" {"price":{"key":"inner"},"key":"\u0062tc"}"#, Some(r#""btc""#)),
            (r#"{"key":7}"#, Some("7")),
            (r#"{"key":"7"}"#, Some(r#""7""#)),
            (r#"{"key":-0.5}"#, Some("-0.5")),
            (r#"{"key":""}"#, Some(r#""""#)),
            (r#"{"key":null}"#, None),
            (r#"{"key":true}"#, None),
            (r#"{"key":["btc"]}"#, None),
            (r#"{"Key":"btc"}"#, None),
            (r#"{"key":"btc","key":"eth"}"#, None),
            (r#"["btc"]"#, None),
            (r#"[{"key":"btc"}]"#, None),
            (r#""key""#, None),
            (r#"{"key":"btc""#, None),
            (r#"{"key":"btc"} "#, Some(r#""btc""#)),
            (r#"{"key":"btc"}x"#, None),
            ("btc 1", None),
            ("", None),
        ] {
            assert_eq!(key(payload.as_bytes()).as_deref(), expected, "{payload}");
        }
        assert_eq!(key(b"{\"key\":\"\xff\"}"), None, "a binary message may be no UTF-8");
    }

    #[test]
    fn a_key_or_a_message_that_is_too_long_counts_as_none() {
        let of_len = |len: usize| key(format!(r#"{{"key":"{}"}}"#, "k".repeat(len - 2)).as_bytes());
        assert_eq!(of_len(KEY_BYTES_MAX).map(|key| key.len()), Some(KEY_BYTES_MAX));
        assert_eq!(of_len(KEY_BYTES_MAX + 1), None);
        let padded = |len: usize| key(format!(r#"{{"key":1,"x":"{}"}}"#, "x".repeat(len - 16)).as_bytes());
        assert_eq!(padded(KEYED_MESSAGE_BYTES_MAX), Some("1".to_owned()));
        assert_eq!(padded(KEYED_MESSAGE_BYTES_MAX + 1), None);
    }
}
