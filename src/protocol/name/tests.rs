//! Tests of `name.rs`, beside it.

use std::collections::HashMap;

use precis_core::profile::Profile;
use precis_core::{DerivedPropertyValue, FreeformClass, StringClass};
use precis_profiles::Nickname;
use proptest::prelude::*;

use super::precis::{Derived, derived_property};
use super::*;

#[track_caller]
fn user(text: &str) -> Name {
    Name::user(text).unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

#[track_caller]
fn refused<T: fmt::Debug>(result: Result<T, NameError>) -> String {
    let sentence = result.expect_err("refused").to_string();
    assert!(!sentence.contains(char::is_control) && sentence.ends_with('.'), "{sentence:?}");
    sentence
}

/// What a user who asks for a name is called, or a part of the sentence that refuses it.
const USERS: &[(&str, Result<&str, &str>)] = &[
    // As they are.
    ("a", Ok("a")),
    ("Veit", Ok("Veit")),
    ("two words", Ok("two words")),
    ("Zoë", Ok("Zoë")),
    ("日本語", Ok("日本語")),
    ("a#b", Ok("a#b")),
    ("<b>", Ok("<b>")),
    ("%", Ok("%")),
    ("🦀", Ok("🦀")),
    ("🇩🇪", Ok("🇩🇪")),
    ("👩🏽", Ok("👩🏽")),
    ("O'Neill", Ok("O'Neill")),
    ("Владимир", Ok("Владимир")),
    ("שָׁלוֹם", Ok("שָׁלוֹם")),
    ("مُحَمَّد", Ok("مُحَمَّد")),
    ("ที่รัก", Ok("ที่รัก")),
    ("བསྒྲུབས", Ok("བསྒྲུབས")),
    ("Nguyễn Thị", Ok("Nguyễn Thị")),
    ("한글", Ok("한글")),
    ("Паро\u{301}ль", Ok("Паро\u{301}ль")),
    ("paral·lel", Ok("paral·lel")),
    ("ソ・ラ", Ok("ソ・ラ")),
    ("𞤀𞤣𞤤𞤢𞤥", Ok("𞤀𞤣𞤤𞤢𞤥")),
    ("hi there", Ok("hi there")),
    ("apis", Ok("apis")),
    // Joiners where the script needs them.
    ("می\u{200c}خواهم", Ok("می\u{200c}خواهم")),
    ("ශ්\u{200d}රී", Ok("ශ්\u{200d}රී")),
    ("क्\u{200c}ष", Ok("क्\u{200c}ष")),
    // The same name in another form.
    (" ada ", Ok("ada")),
    ("a  b", Ok("a b")),
    ("a\u{a0}b", Ok("a b")),
    ("\u{3000}ada\u{2003}", Ok("ada")),
    ("ａｄａ", Ok("ada")),
    ("Zoe\u{308}", Ok("Zoë")),
    ("\u{fb01}n", Ok("fin")),
    ("𝒶𝒹𝒶", Ok("ada")),
    ("ﾃｽﾄ", Ok("テスト")),
    ("\u{212b}ngström", Ok("Ångström")),
    ("①", Ok("1")),
    // Nothing there.
    ("", Err("empty")),
    (" ", Err("empty")),
    ("\u{3000}\u{a0}", Err("empty")),
    // Invisible.
    ("ad\u{200b}a", Err("the invisible character U+200B")),
    ("ad\u{200c}a", Err("the invisible character U+200C")),
    ("ad\u{200d}a", Err("the invisible character U+200D")),
    ("ada\u{2060}", Err("the invisible character U+2060")),
    ("\u{feff}ada", Err("the invisible character U+FEFF")),
    ("a\u{ad}da", Err("the invisible character U+00AD")),
    ("a\u{34f}da", Err("the invisible character U+034F")),
    ("ada\u{fe0f}", Err("the invisible character U+FE0F")),
    ("❤\u{fe0f}", Err("the invisible character U+FE0F")),
    ("ada\u{e0100}", Err("the invisible character U+E0100")),
    ("ada\u{e0061}", Err("the invisible character U+E0061")),
    ("\u{e0001}ada", Err("the invisible character U+E0001")),
    ("ada\u{180e}", Err("the invisible character U+180E")),
    ("ada\u{3164}", Err("the invisible character U+3164")),
    ("\u{ffa0}", Err("the invisible character U+FFA0")),
    ("ada\u{115f}", Err("the invisible character U+115F")),
    ("ada\u{1160}", Err("the invisible character U+1160")),
    ("ada\u{17b4}", Err("the invisible character U+17B4")),
    ("\u{2800}", Err("the invisible character U+2800")),
    ("ada\u{1d159}", Err("the invisible character U+1D159")),
    ("ada\u{1d173}", Err("the invisible character U+1D173")),
    ("ada\u{2061}", Err("the invisible character U+2061")),
    ("ada\u{fff9}", Err("the invisible character U+FFF9")),
    ("ada\u{fffc}", Err("the invisible character U+FFFC")),
    ("ada\u{13441}", Err("the invisible character U+13441")),
    ("👩\u{200d}🚀", Err("the invisible character U+200D")),
    // What turns text round.
    ("\u{202e}ada", Err("the invisible character U+202E")),
    ("a\u{202d}da", Err("the invisible character U+202D")),
    ("a\u{2066}da", Err("the invisible character U+2066")),
    ("ada\u{2069}", Err("the invisible character U+2069")),
    ("ada\u{200e}", Err("the invisible character U+200E")),
    ("ada\u{200f}", Err("the invisible character U+200F")),
    ("ada\u{61c}", Err("the invisible character U+061C")),
    // Lines, and control characters.
    ("a\nb", Err("the control character U+000A")),
    ("a\tb", Err("the control character U+0009")),
    ("a\u{85}b", Err("the control character U+0085")),
    ("a\u{2028}b", Err("the white space character U+2028")),
    ("a\u{2029}b", Err("the white space character U+2029")),
    // No characters of anybody's, or of nobody's.
    ("a\u{e000}", Err("the character U+E000")),
    ("a\u{f8ff}", Err("the character U+F8FF")),
    ("a\u{378}", Err("the unknown character U+0378")),
    ("a\u{fdd0}", Err("the unknown character U+FDD0")),
    ("a\u{10ffff}", Err("the unknown character U+10FFFF")),
    ("ada\u{640}", Err("the character U+0640")),
    ("\u{1100}\u{1161}", Err("the character U+1100")),
    ("\u{600}", Err("the invisible character U+0600")),
    // Out of place.
    ("a·b", Err("U+00B7, which is allowed between certain letters only")),
    ("a・b", Err("U+30FB, which is allowed between certain letters only")),
    ("\u{661}\u{6f1}", Err("U+0661, which is allowed between certain letters only")),
    ("a\u{5f3}", Err("U+05F3, which is allowed between certain letters only")),
    // Marks.
    ("\u{301}ada", Err("the mark U+0301 without a letter")),
    ("ada \u{20dd}", Err("the mark U+20DD without a letter")),
    ("O´Brien", Err("the mark U+0301 without a letter")),
    ("a\u{300}\u{301}\u{302}\u{303}\u{304}", Err("more than 4 marks")),
    ("a\u{323}\u{323}", Err("one of them twice")),
    ("á\u{301}", Err("one of them twice")),
    // The signs of the server.
    ("#ada", Err("hash")),
    (" #ada", Err("hash")),
    ("＃ada", Err("hash")),
    ("\u{fe5f}ada", Err("hash")),
    ("♯ada", Err("hash")),
    ("#\u{20e3}", Err("hash")),
    ("hi", Err("reads as \"hi\"")),
    ("HI", Err("reads as \"hi\"")),
    (" Hi ", Err("reads as \"hi\"")),
    ("ｈｉ", Err("reads as \"hi\"")),
    ("ℎ𝐢", Err("reads as \"hi\"")),
    ("hi\u{307}", Err("reads as \"hi\"")),
    ("hı", Err("reads as \"hi\"")),
    ("api", Err("reads as \"api\"")),
    ("ApI", Err("reads as \"api\"")),
    ("ａｐｉ", Err("reads as \"api\"")),
];

#[test]
fn users_are_called_as_they_ask_or_alike_or_told_why_not() {
    for (asked, expected) in USERS {
        match (Name::user(asked), expected) {
            (Ok(name), Ok(called)) => assert_eq!(name.as_str(), *called, "{asked:?}"),
            (Err(error), Err(part)) => assert!(refused::<()>(Err(error)).contains(part), "{asked:?}: {error}"),
            (found, _) => panic!("{asked:?}: {found:?} instead of {expected:?}"),
        }
    }
}

#[test]
fn names_that_differ_in_case_width_or_composition_are_the_same() {
    for (one, other) in [
        ("ada", "Ada"),
        ("ada", "ADA"),
        ("ada", "ＡＤＡ"),
        ("ada", " ada"),
        ("ada l", "Ada\u{a0} L"),
        ("zoë", "ZOE\u{308}"),
        ("straße", "STRASSE"),
        ("straße", "STRAẞE"),
        ("σίσυφος", "ΣΊΣΥΦΟΣ"),
        ("ǆ", "ǅ"),
        ("ﬁn", "FIN"),
        ("işık", "IŞIK"),
        ("é", "e\u{301}"),
        ("Å", "\u{212b}"),
        ("ﾃｽﾄ", "テスト"),
        ("می\u{200c}خواهم", "میخواهم"),
        ("ශ්\u{200d}රී", "ශ්රී"),
        ("Ꭰ", "ꭰ"),
        ("veit", "vei\u{307}t"),
        ("veit", "Veİt"),
        ("ajda", "aj\u{307}da"),
        ("ა", "Ა"),
    ] {
        assert_eq!(user(one), user(other));
        assert_eq!(user(one).key(), user(other).key());
    }
    for (one, other) in
        [("ada", "adа"), ("ada", "ad a"), ("zoe", "zoë"), ("o", "0"), ("ada", "ada."), ("l", "1"), ("か", "カ")]
    {
        assert_ne!(user(one), user(other));
    }
}

#[test]
fn a_name_keeps_its_form_and_is_found_by_its_key() {
    for (text, key) in [("Ada", "ada"), ("ada", "ada"), ("STRAẞE", "strasse"), ("日本", "日本"), ("Z", "z")] {
        let name = user(text);
        assert_eq!((name.as_str(), name.key(), format!("{name}")), (text, key, text.to_owned()));
    }
    let holders = HashMap::from([(user("Ada"), 1)]);
    assert_eq!((holders.get(&user("aDA")), holders.get("ada"), holders.get("Ada")), (Some(&1), Some(&1), None));
    let mut names = vec![user("b"), user("C"), user("A")];
    names.sort();
    assert_eq!(format!("{names:?}"), r#"["A", "b", "C"]"#);
}

#[test]
fn the_limits_are_bytes_and_inclusive_before_and_after() {
    assert_eq!(user(&"u".repeat(79)).as_str().len(), 79);
    assert!(refused(Name::user(&"u".repeat(80))).contains("80 bytes long"));
    assert!(refused(Name::user(&"é".repeat(40))).contains("80 bytes long"));
    assert_eq!(Name::room(&"r".repeat(64)).unwrap().as_str().len(), 64);
    let sentence = refused(Name::room(&"r".repeat(65)));
    assert!(sentence.contains("65 bytes long") && sentence.contains("64"), "{sentence}");
    // One character that becomes eighteen, in 33 bytes; and three that become one.
    assert!(refused(Name::user("\u{fdfa}\u{fdfa}\u{fdfa}")).contains("99 bytes long"));
    assert!(refused(Name::user(&"ａ".repeat(27))).contains("81 bytes long"));
    assert_eq!(user(&"ａ".repeat(26)).as_str(), "a".repeat(26));
    // The key is longer than the name: nobody sees it.
    assert_eq!(user(&"ŉ".repeat(26)).as_str().len(), 78);
}

#[test]
fn a_room_has_no_white_space_and_may_have_any_sign_in_front() {
    for name in ["general", "#odd", "Zoë", "a/b", "日本語", "hi", "api", "🦀"] {
        assert_eq!(Name::room(name).unwrap().as_str(), name);
    }
    assert_eq!(Name::room("Tea").unwrap(), Name::room("ｔｅａ").unwrap());
    for (name, part) in [
        ("", "empty"),
        ("a b", "U+0020"),
        (" tea", "U+0020"),
        ("tea\u{a0}", "U+00A0"),
        ("a\u{3000}b", "U+3000"),
        ("a\u{2028}b", "U+2028"),
        ("a\nb", "U+000A"),
        ("te\u{200b}a", "U+200B"),
        ("\u{202e}tea", "U+202E"),
        ("te´a", "U+0301"),
        ("\u{fdfa}", "U+0020"),
        ("\u{301}", "U+0301"),
    ] {
        let sentence = refused(Name::room(name));
        assert!(sentence.contains(part) && sentence.starts_with("The room name "), "{name:?}: {sentence}");
    }
}

#[test]
fn a_program_of_the_operators_may_sign_as_the_port_but_not_as_the_server() {
    assert_eq!(Name::of_program("api").unwrap().as_str(), "api");
    assert!(refused(Name::of_program("Hi")).contains("hi"));
    assert!(refused(Name::of_program("#tea")).contains("hash"));
}

#[test]
fn a_prefix_finds_what_begins_like_it() {
    let tea = Name::room("Teatime").unwrap();
    for prefix in ["", "t", "T", "TEA", "ｔｅ", "teatime"] {
        assert!(tea.key().starts_with(&room_key_prefix(prefix).unwrap()), "{prefix}");
    }
    assert!(!tea.key().starts_with(&room_key_prefix("ea").unwrap()));
    assert_eq!(room_key_prefix(&"t".repeat(65)), None);
}

#[test]
fn every_character_that_both_implementations_know_is_judged_the_same() {
    let class = FreeformClass::default();
    let (mut known, mut stricter) = (0, Vec::new());
    for c in '\0'..=char::MAX {
        let theirs = match class.get_value_from_char(c) {
            DerivedPropertyValue::PValid | DerivedPropertyValue::SpecClassPval => Derived::Valid,
            DerivedPropertyValue::ContextJ | DerivedPropertyValue::ContextO => Derived::Contextual,
            DerivedPropertyValue::Disallowed | DerivedPropertyValue::SpecClassDis => Derived::Disallowed,
            DerivedPropertyValue::Unassigned => continue,
        };
        known += 1;
        let ours = derived_property(c);
        // What is no character at all is unassigned to Unicode, and disallowed to RFC 8264.
        if ours == theirs || (theirs, ours) == (Derived::Disallowed, Derived::Unassigned) {
            continue;
        }
        assert_eq!((theirs, ours), (Derived::Valid, Derived::Disallowed), "U+{:04X}", u32::from(c));
        stricter.push(c);
    }
    assert!(known > 200_000, "{known}");
    assert_eq!(stricter, ['\u{2800}', '\u{2d7f}', '\u{fffc}', '\u{1d159}'], "what has no ink");
}

const JOINERS: [char; 2] = ['\u{200c}', '\u{200d}'];

/// Text of characters that matter here.
fn text() -> impl Strategy<Value = String> {
    let character = prop_oneof![
        4 => "[a-cA-C#hiHI ]".prop_map(|text| text),
        2 => "[\u{300}-\u{36f}éßşİıſŉǅΐςσΣﬁ①Ａ＃´¨]".prop_map(|text| text),
        2 => "[\u{200b}-\u{200f}\u{2028}-\u{202f}\u{2060}-\u{206f}\u{fe00}-\u{fe0f}\u{a0}\u{3000}क्षमیخ]".prop_map(|text| text),
        1 => any::<char>().prop_map(|c| c.to_string()),
    ];
    prop::collection::vec(character, 0..24).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn an_enforced_name_is_enforced_and_its_key_stays(text in text()) {
        for (name, bytes_max) in [(Name::user(&text), USER_BYTES_MAX), (Name::room(&text), ROOM_BYTES_MAX)] {
            let Ok(name) = name else { continue };
            let shown = name.as_str();
            prop_assert!((1..=bytes_max).contains(&shown.len()));
            let again = if bytes_max == USER_BYTES_MAX { Name::user(shown) } else { Name::room(shown) };
            let again = again.unwrap();
            prop_assert_eq!((again.as_str(), again.key()), (shown, name.key()));
            prop_assert_eq!(precis::fold(name.key()), name.key());
            if let Ok(by_key) = Name::user(name.key()) {
                prop_assert_eq!(by_key.key(), name.key());
            }
        }
    }

    #[test]
    fn nothing_invisible_gets_out(text in text()) {
        for name in [Name::user(&text), Name::room(&text)].into_iter().flatten() {
            for c in name.as_str().chars() {
                let joins = JOINERS.contains(&c);
                prop_assert!(!c.is_control() && (joins || !is_invisible(c)), "{:?}", c);
                prop_assert!(!c.is_whitespace() || c == ' ', "{:?}", c);
            }
            prop_assert!(!name.key().contains(JOINERS), "{:?}", name);
            prop_assert!(!name.as_str().starts_with([' ']) && !name.as_str().ends_with(' '));
        }
        if let Ok(name) = Name::user(&text) {
            prop_assert!(!name.as_str().starts_with(HASHES) && !RESERVED.contains(&name.key()));
        }
    }

    #[test]
    fn what_the_other_implementation_calls_the_same_is_the_same(text in text(), other in text()) {
        let profile = Nickname::new();
        for (one, other) in [(text.clone(), other), (text.to_uppercase(), text.to_lowercase())] {
            let (Ok(ours), Ok(theirs)) = (Name::user(&one), profile.enforce(one.as_str())) else { continue };
            prop_assert_eq!(ours.as_str(), &*theirs);
            if let (Ok(other_name), Ok(same)) = (Name::user(&other), profile.compare(one.as_str(), other.as_str())) {
                prop_assert!(!same || ours == other_name, "{:?} and {:?}", one, other);
            }
        }
    }

    #[test]
    fn no_text_panics_and_no_sentence_repeats_it(text in "\\PC{0,100}|[\\s\\S]{0,100}") {
        for result in [Name::user(&text), Name::room(&text)] {
            if let Err(error) = result {
                prop_assert!(!error.to_string().contains(char::is_control));
            }
        }
    }
}

#[test]
fn a_dot_on_an_i_counts_as_nothing_behind_other_marks_too() {
    let key = |name: &str| Name::user(name).unwrap().key().to_owned();
    assert_eq!(key("क\u{130}\u{94d}"), key("कi\u{94d}\u{307}"));
    assert_eq!(key("\u{130}"), key("i"));
    assert_ne!(key("e\u{307}"), key("e"));
}

#[test]
fn every_character_by_itself_has_one_form() {
    let is_one_of_many = |c| {
        matches!(c, '\u{3400}'..='\u{9fff}' | '\u{ac00}'..='\u{f8ff}' | '\u{17000}'..='\u{18cff}' | '\u{20000}'..='\u{2f7ff}')
            || c > '\u{30000}'
    };
    for c in ('\0'..=char::MAX).filter(|c| !is_one_of_many(*c)) {
        let Ok(name) = Name::user(&c.to_string()) else { continue };
        assert_eq!(user(name.as_str()).as_str(), name.as_str(), "U+{:04X}", u32::from(c));
        assert_eq!(precis::fold(name.key()), name.key(), "U+{:04X}", u32::from(c));
        for cased in [c.to_uppercase().to_string(), c.to_lowercase().to_string()] {
            if let Ok(cased) = Name::user(&cased) {
                assert_eq!(cased, name, "U+{:04X}", u32::from(c));
            }
        }
    }
}
