//! Properties of characters, as far as names and messages need them.

use icu_properties::props::{DefaultIgnorableCodePoint, GeneralCategory};
use icu_properties::{CodePointMapData, CodePointSetData};

/// Characters without ink that Unicode counts as letters, marks or symbols: blanks of Braille, music and hieroglyphs,
/// fillers and joiners of scripts, and the place of an object that is not there.
const BLANKS: [char; 8] =
    ['\u{2800}', '\u{2d7f}', '\u{fffc}', '\u{1107f}', '\u{13441}', '\u{13442}', '\u{16fe4}', '\u{1d159}'];

/// The general category (Unicode 4.5).
pub(super) fn category(c: char) -> GeneralCategory {
    CodePointMapData::<GeneralCategory>::new().get(c)
}

/// Whether it is drawn on the character before it.
pub(super) fn is_mark(c: char) -> bool {
    use GeneralCategory::{EnclosingMark, NonspacingMark, SpacingMark};
    matches!(category(c), NonspacingMark | SpacingMark | EnclosingMark)
}

/// Whether it is invisible, though it may change how others are shown. White space does not count.
pub(super) fn is_invisible(c: char) -> bool {
    use GeneralCategory::{Format, LineSeparator, ParagraphSeparator};
    !c.is_ascii()
        && (BLANKS.contains(&c)
            || CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(c)
            || matches!(category(c), Format | LineSeparator | ParagraphSeparator))
}

/// Whether a text shows nothing: it is empty, or consists of white space, control and invisible characters.
pub(crate) fn is_blank(text: &str) -> bool {
    text.chars().all(|c| c.is_whitespace() || c.is_control() || is_invisible(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_sees_is_blank() {
        for text in [
            "",
            " ",
            " \t\r\n\u{b}\u{c}\u{85}\u{a0}\u{1680}\u{2003}\u{2028}\u{2029}\u{202f}\u{205f}\u{3000}",
            "\0\u{1b}\u{7f}",
            "\u{ad}\u{34f}\u{61c}\u{115f}\u{1160}\u{17b4}\u{180e}\u{200b}\u{200c}\u{200d}\u{200e}\u{202e}\u{2060}",
            "\u{2066}\u{2800}\u{3164}\u{fe0f}\u{feff}\u{ffa0}\u{fff9}\u{1d159}\u{1d173}\u{e0001}\u{e0061}\u{e0100}",
        ] {
            assert!(is_blank(text), "{text:?}");
        }
    }

    #[test]
    fn whatever_can_be_seen_is_not() {
        for text in ["a", "  a", ".", "\u{200b}a", "0", "🦀", "日", "\u{301}", "\u{640}", "\u{fffd}", "\u{e000}", "/"]
        {
            assert!(!is_blank(text), "{text:?}");
        }
    }
}
