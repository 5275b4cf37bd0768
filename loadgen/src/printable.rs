//! Text from others, made harmless: text from a server, a file or a URL reaches a terminal only through here. Pure.

/// Replaces each character that is not shown.
const REPLACEMENT: char = '\u{fffd}';

/// The text in one line, without anything that moves a terminal's cursor, changes the direction of writing, is
/// invisible, or is forbidden in XML.
pub fn printable(text: &str) -> String {
    text.chars().map(|letter| if matches!(letter, '\t' | '\n' | '\r') { ' ' } else { shown(letter) }).collect()
}

/// The same, but keeping line ends.
pub fn printable_lines(text: &str) -> String {
    text.chars().map(|letter| if letter == '\n' { letter } else { shown(letter) }).collect()
}

fn shown(letter: char) -> char {
    if letter.is_control() || is_format(letter) { REPLACEMENT } else { letter }
}

/// Unicode's format characters and separators of lines and paragraphs (general categories Cf, Zl and Zp: directions,
/// zero widths, tags), invisible letters, variation selectors beyond those of emoji, and what is no character.
fn is_format(letter: char) -> bool {
    matches!(letter,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{8e2}' | '\u{feff}'
        | '\u{110bd}' | '\u{110cd}' | '\u{115f}'..='\u{1160}' | '\u{3164}' | '\u{ffa0}'
        | '\u{600}'..='\u{605}' | '\u{890}'..='\u{891}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{fff0}'..='\u{fffb}' | '\u{fffe}'..='\u{ffff}'
        | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_from_outside_stays_text() {
        assert_eq!(printable("a\x1b[31m\nb\u{202e}c\0"), "a\u{fffd}[31m b\u{fffd}c\u{fffd}");
        assert_eq!(printable_lines("a\u{2028}\nb\r\u{9b}2J"), "a\u{fffd}\nb\u{fffd}\u{fffd}2J");
        for text in ["Bücher, 日本, 👍🏽, ❤\u{fe0f}, שלום", "a\u{300}"] {
            assert_eq!(printable(text), text);
        }
        for hidden in ['\u{200b}', '\u{200f}', '\u{2066}', '\u{61c}', '\u{ad}', '\u{feff}', '\u{e0041}', '\u{2029}'] {
            assert_eq!(printable(&format!("a{hidden}b")), "a\u{fffd}b", "{hidden:?}");
        }
    }

    proptest! {
        #[test]
        fn no_active_character_is_left(text in any::<String>()) {
            let acts = |letter: char| letter.is_control() || is_format(letter);
            prop_assert!(!printable(&text).contains(acts));
            prop_assert!(!printable_lines(&text).contains(|letter| letter != '\n' && acts(letter)));
            prop_assert_eq!(printable(&text).chars().count(), text.chars().count());
        }
    }
}
