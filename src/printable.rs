//! Text that can do nothing in a terminal, a log or a document, whoever wrote its parts. Pure.
//!
//! Servers, proxies, name servers and certificates that nobody knows are quoted by the doctor, the canary and the
//! checklist. What the public port quotes of requests is bytes: [`crate::http`] has its own, stricter rule.

use std::borrow::Cow;
use std::fmt::Write as _;

/// The text, with `?` for each character that moves the cursor, ends a line, changes the direction of reading, or can't
/// be seen.
pub fn printable(text: &str) -> Cow<'_, str> {
    if text.contains(is_unsafe) { text.replace(is_unsafe, "?").into() } else { text.into() }
}

/// JSON that means the same, with an escape for each such character; line ends between its parts stay.
pub fn printable_json(json: &str) -> Cow<'_, str> {
    // serde_json escapes those of ASCII itself, but DEL. They can stand in strings only.
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

/// Text that is no markup in Markdown, in one line: no link, no image, no HTML. Code spans and emphasis do no harm.
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

fn is_unsafe(letter: char) -> bool {
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
    fn what_acts_on_a_terminal_is_gone_and_words_stay() {
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
