//! The nickname profile of PRECIS (RFC 8266), on the FreeformClass of RFC 8264.
//!
//! Names are enforced before they are shown, and folded before they are compared. The tables are those of the Unicode
//! version that `icu_properties` brings; the one crate that has this profile knows Unicode 6.3 alone, and would refuse
//! every letter and emoji since 2013. The tests hold the two against each other where both know a character.

use std::borrow::Cow;

use icu_normalizer::ComposingNormalizerBorrowed;
use icu_properties::props::{
    CanonicalCombiningClass, GeneralCategory, HangulSyllableType, JoiningType, Script, SoftDotted,
};
use icu_properties::{CodePointMapData, CodePointSetData};

use crate::protocol::unicode::{category, is_invisible, is_mark};

/// Unicode Normalization Form KC.
const NFKC: ComposingNormalizerBorrowed<'static> = ComposingNormalizerBorrowed::new_nfkc();
/// The rules are applied this often until they change nothing more (RFC 8264, 7).
const PASSES_MAX: usize = 4;
const ZERO_WIDTH_NON_JOINER: char = '\u{200c}';
const ZERO_WIDTH_JOINER: char = '\u{200d}';
const DOT_ABOVE: char = '\u{307}';

/// Why the profile refuses a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Prohibited {
    /// No name may have this character.
    Disallowed(char),
    /// It may stand in another place only.
    OutOfPlace(char),
    /// Unicode knows no such character.
    Unassigned(char),
    /// The rules don't come to an end.
    Unstable,
}

/// The form in which a name is used (RFC 8266, 2.3): spaces of all kinds become U+0020, none at the ends and never two
/// in a row, and what Unicode calls compatible becomes the same (Normalization Form KC).
pub(super) fn enforce(text: &str) -> Result<String, Prohibited> {
    if text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(text.to_owned());
    }
    let mut text = Cow::Borrowed(text);
    for _ in 0..PASSES_MAX {
        check_class(&text)?;
        let spaced: Vec<_> = text.split(is_space).filter(|word| !word.is_empty()).collect();
        let enforced = NFKC.normalize(&spaced.join(" ")).into_owned();
        if enforced == text {
            return Ok(enforced);
        }
        text = Cow::Owned(enforced);
    }
    Err(Prohibited::Unstable)
}

/// What is compared of an enforced name (RFC 8266, 2.4), and a little more: letters count as the same also where only
/// their capitals are (ß and ss, σ and ς), and what nobody sees counts as nothing: joiners, and a dot on a letter that has
/// one (i and U+0307).
pub(super) fn fold(enforced: &str) -> String {
    if enforced.is_ascii() {
        return enforced.to_ascii_lowercase();
    }
    let mut text = enforced.to_owned();
    for _ in 0..PASSES_MAX {
        let lower = text.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase);
        let mut seen = String::with_capacity(text.len());
        for c in lower {
            let is_seen = match c {
                ZERO_WIDTH_NON_JOINER | ZERO_WIDTH_JOINER => false,
                // Marks may stand between the two: NFKC orders them by their class.
                DOT_ABOVE => !seen.trim_end_matches(is_mark).ends_with(has_dot),
                _ => true,
            };
            if is_seen {
                seen.push(c);
            }
        }
        let folded = NFKC.normalize(&seen).into_owned();
        if folded == text {
            break;
        }
        text = folded;
    }
    text
}

fn has_dot(c: char) -> bool {
    CodePointSetData::new::<SoftDotted>().contains(c)
}

fn is_space(c: char) -> bool {
    category(c) == GeneralCategory::SpaceSeparator
}

/// Whether every character belongs to the FreeformClass (RFC 8264, 4.3), where it stands.
fn check_class(text: &str) -> Result<(), Prohibited> {
    let chars: Vec<char> = text.chars().collect();
    chars.iter().enumerate().try_for_each(|(at, c)| match derived_property(*c) {
        Derived::Valid => Ok(()),
        Derived::Contextual if context_allows(&chars, at) => Ok(()),
        Derived::Contextual => Err(Prohibited::OutOfPlace(*c)),
        Derived::Unassigned => Err(Prohibited::Unassigned(*c)),
        Derived::Disallowed => Err(Prohibited::Disallowed(*c)),
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Derived {
    Valid,
    Contextual,
    Disallowed,
    Unassigned,
}

/// The derived property value in the FreeformClass: the rules of RFC 8264, 8 in their order, and the exceptions of 9.6.
/// Beyond them, what nobody sees is disallowed whatever its category.
pub(super) fn derived_property(c: char) -> Derived {
    use GeneralCategory as Category;
    match c {
        '\u{df}' | '\u{3c2}' | '\u{6fd}' | '\u{6fe}' | '\u{f0b}' | '\u{3007}' => return Derived::Valid,
        '\u{b7}' | '\u{375}' | '\u{5f3}' | '\u{5f4}' | '\u{30fb}' | '\u{660}'..='\u{669}' | '\u{6f0}'..='\u{6f9}' => {
            return Derived::Contextual;
        }
        '\u{640}' | '\u{7fa}' | '\u{302e}' | '\u{302f}' | '\u{3031}'..='\u{3035}' | '\u{303b}' => {
            return Derived::Disallowed;
        }
        '\u{21}'..='\u{7e}' => return Derived::Valid,
        ZERO_WIDTH_NON_JOINER | ZERO_WIDTH_JOINER => return Derived::Contextual,
        _ => {}
    }
    let category = category(c);
    if category == Category::Unassigned {
        return Derived::Unassigned;
    }
    let hangul = CodePointMapData::<HangulSyllableType>::new().get(c);
    let is_old_hangul_jamo = matches!(
        hangul,
        HangulSyllableType::LeadingJamo | HangulSyllableType::VowelJamo | HangulSyllableType::TrailingJamo
    );
    if is_old_hangul_jamo || is_invisible(c) {
        return Derived::Disallowed;
    }
    match category {
        Category::Control
        | Category::Format
        | Category::Surrogate
        | Category::PrivateUse
        | Category::LineSeparator
        | Category::ParagraphSeparator => Derived::Disallowed,
        // Letters, digits, marks, spaces, symbols, punctuation.
        _ => Derived::Valid,
    }
}

/// The rules for characters that depend on their neighbours (RFC 5892, appendix A).
fn context_allows(chars: &[char], at: usize) -> bool {
    let (before, after) = (&chars[..at], &chars[at + 1..]);
    let script = |c: Option<&char>| c.map(|c| CodePointMapData::<Script>::new().get(*c));
    let (arabic, extended) = ('\u{660}'..='\u{669}', '\u{6f0}'..='\u{6f9}');
    match chars[at] {
        ZERO_WIDTH_JOINER => follows_virama(before),
        ZERO_WIDTH_NON_JOINER => follows_virama(before) || parts_cursive(before, after),
        '\u{b7}' => before.last() == Some(&'l') && after.first() == Some(&'l'),
        '\u{375}' => script(after.first()) == Some(Script::Greek),
        '\u{5f3}' | '\u{5f4}' => script(before.last()) == Some(Script::Hebrew),
        '\u{30fb}' => {
            chars.iter().any(|c| matches!(script(Some(c)), Some(Script::Hiragana | Script::Katakana | Script::Han)))
        }
        c if arabic.contains(&c) => !chars.iter().any(|c| extended.contains(c)),
        _ => !chars.iter().any(|c| arabic.contains(c)),
    }
}

fn follows_virama(before: &[char]) -> bool {
    let class = CodePointMapData::<CanonicalCombiningClass>::new();
    before.last().is_some_and(|c| class.get(*c) == CanonicalCombiningClass::Virama)
}

/// Whether the letters on both sides would join (RFC 5892, A.1).
fn parts_cursive(before: &[char], after: &[char]) -> bool {
    let joining = CodePointMapData::<JoiningType>::new();
    let mut left = before.iter().rev().map(|c| joining.get(*c)).skip_while(|kind| *kind == JoiningType::Transparent);
    let mut right = after.iter().map(|c| joining.get(*c)).skip_while(|kind| *kind == JoiningType::Transparent);
    matches!(left.next(), Some(JoiningType::LeftJoining | JoiningType::DualJoining))
        && matches!(right.next(), Some(JoiningType::RightJoining | JoiningType::DualJoining))
}
