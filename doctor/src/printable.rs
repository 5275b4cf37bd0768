//! Text that is harmless in a terminal, a log or a document, whoever wrote its parts; numbers for readers. Pure.
//!
//! The doctor, the canary and the checklist quote foreign servers, proxies, name servers and certificates. The public port of hi quotes bytes of requests, under a stricter rule of its own (`src/http/shown.rs`).

use std::borrow::Cow;
use std::fmt::Write as _;

/// The text, with `?` for each character that moves the cursor, ends a line, changes the reading direction, or is
/// invisible.
pub fn printable(text: &str) -> Cow<'_, str> {
    if text.contains(is_unsafe) { text.replace(is_unsafe, "?").into() } else { text.into() }
}

/// Equivalent JSON with an escape for each such character; line ends between its parts stay.
pub fn printable_json(json: &str) -> Cow<'_, str> {
    // serde_json escapes the ASCII ones, except DEL. They can occur in strings only.
    let escapes = |letter: char| is_unsafe(letter) && letter != '\n';
    if !json.contains(escapes) {
        return json.into();
    }
    let mut escaped = String::with_capacity(json.len());
    for letter in json.chars() {
        if escapes(letter) {
            for unit in letter.encode_utf16(&mut [0; 2]) {
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        } else {
            escaped.push(letter);
        }
    }
    escaped.into()
}

/// The text in one line of Markdown, without links, images or HTML. Code spans and emphasis are harmless.
pub fn printable_markdown(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for letter in printable(text).chars() {
        match letter {
            '<' => line.push_str("&lt;"),
            '\\' | '[' | ']' => line.extend(['\\', letter]),
            letter => line.push(letter),
        }
    }
    line
}

/// A number with commas between its thousands: `3,540`.
pub fn thousands(number: impl Into<u64>) -> String {
    let digits = number.into().to_string();
    let groups = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy);
    groups.collect::<Vec<_>>().join(",")
}

/// Whether a character moves the cursor, ends a line, changes the reading direction, or is invisible.
pub fn is_unsafe(letter: char) -> bool {
    letter.is_control()
        || matches!(letter,
            '\u{61c}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(
            [0, 999, 1000, 3540, 20_000, 1_234_567_u32].map(thousands),
            ["0", "999", "1,000", "3,540", "20,000", "1,234,567"]
        );
    }

    #[test]
    fn control_characters_are_replaced_and_words_stay() {
        assert_eq!(printable("a\u{1b}[2J\u{9b}2J\u{202e}b\nc\u{7f}"), "a?[2J?2J?b?c?");
        assert!(matches!(printable("Bücher, 日本, 👍"), Cow::Borrowed(_)));
    }

    #[test]
    fn json_means_the_same() {
        let value = serde_json::json!({ "server": "a\u{9b}2J\u{202e}\u{e0041}\u{7f}\n\u{1b}é" });
        let json = serde_json::to_string_pretty(&value).unwrap();
        let escaped = printable_json(&json);
        assert!(!escaped.contains(|letter| is_unsafe(letter) && letter != '\n'), "{escaped:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).unwrap(), value);
    }

    #[test]
    fn markdown_gets_no_links_and_no_html() {
        assert_eq!(
            printable_markdown("`x` [a](http://b) ![i](c) <b> \\[d\\](e)\n# f"),
            "`x` \\[a\\](http://b) !\\[i\\](c) &lt;b> \\\\\\[d\\\\\\](e)?# f"
        );
    }
}
