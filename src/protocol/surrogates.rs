//! Lone surrogates in JSON. `JSON.stringify` writes `\ud83d` alone for a text that was cut inside an emoji; no Rust string can
//! hold it, and the Go program of 2017 read it as U+FFFD.

use std::borrow::Cow;

/// Bytes of an escape: `\u` and four hex digits.
const ESCAPE_BYTES: usize = 6;

/// The JSON with U+FFFD in place of every lone surrogate. Invalid JSON stays invalid.
pub fn without_lone_surrogates(json: &[u8]) -> Cow<'_, [u8]> {
    let mut fixed = Cow::Borrowed(json);
    // Most messages have no escape at all.
    let mut at = if json.contains(&b'\\') { 0 } else { json.len() };
    while at < json.len() {
        if json[at] != b'\\' {
            at += 1;
            continue;
        }
        at += match (code_unit(&json[at..]), json.get(at + ESCAPE_BYTES..).and_then(code_unit)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 2 * ESCAPE_BYTES,
            (Some(0xd800..=0xdfff), _) => {
                fixed.to_mut()[at..at + ESCAPE_BYTES].copy_from_slice(b"\\ufffd");
                ESCAPE_BYTES
            }
            // This skips an escaped backslash, too.
            _ => 2,
        };
    }
    fixed
}

/// The UTF-16 code unit whose escape the text begins with.
fn code_unit(text: &[u8]) -> Option<u16> {
    let digits = text.strip_prefix(b"\\u")?.get(..4)?;
    digits.iter().try_fold(0, |unit, digit| Some(unit << 4 | char::from(*digit).to_digit(16)? as u16))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The text of a JSON string.
    fn text(json: &str) -> String {
        serde_json::from_slice(&without_lone_surrogates(json.as_bytes())).unwrap()
    }

    #[test]
    fn half_a_character_is_replaced_and_whole_ones_stay() {
        for (json, expected) in [
            (r#""\ud83d""#, "\u{fffd}"),
            (r#""\uDE00""#, "\u{fffd}"),
            (r#""\uD83D\uDE00""#, "😀"),
            (r#""\ud83d\ud83d\ude00\ude00""#, "\u{fffd}😀\u{fffd}"),
            (r#""\ud83dde00""#, "\u{fffd}de00"),
            (r#""\\ud83d\\""#, r"\ud83d\"),
            (r#""\\\ud83d""#, "\\\u{fffd}"),
            (r#""\ud7ff\ue000""#, "\u{d7ff}\u{e000}"),
        ] {
            assert_eq!(text(json), expected, "{json}");
        }
        assert!(matches!(without_lone_surrogates(br#""\n\ud83d\ude00""#), Cow::Borrowed(_)));
    }

    proptest! {
        #[test]
        fn any_code_units_are_read_as_utf_16(units in prop::collection::vec(prop_oneof![
            any::<u16>(), 0xd800..=0xdfffu16, Just(0x5c), Just(0x22),
        ], 0..20)) {
            let json: String = units.iter().map(|unit| format!("\\u{unit:04x}")).collect();
            prop_assert_eq!(text(&format!("\"{json}\"")), String::from_utf16_lossy(&units));
        }

        #[test]
        fn what_is_no_json_is_no_panic(bytes in "[\\\\ud8cD,\"]{0,30}") {
            prop_assert_eq!(without_lone_surrogates(bytes.as_bytes()).len(), bytes.len());
        }
    }
}
