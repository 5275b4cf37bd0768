//! What a user and a room may be called; the one place with these rules, for the handshake, for commands and for the
//! internal port alike.

use std::fmt;

/// The longest user name, in bytes of UTF-8. The original hi promised "shorter than 80 characters" and counted bytes.
pub const USER_BYTES_MAX: usize = 79;

/// The longest room name, in bytes of UTF-8.
pub const ROOM_BYTES_MAX: usize = 64;

/// Checks a user name: 1 to [`USER_BYTES_MAX`] bytes, no `#` in front (that is how notices of a room sign), no control
/// characters, no white space but U+0020.
///
/// # Errors
/// The first rule that the name breaks, as a sentence for whoever chose it.
pub fn check_user(name: &str) -> Result<(), NameError> {
    let refuse = |problem| Err(NameError { kind: Kind::User, problem });
    if name.starts_with('#') {
        return refuse(Problem::StartsWithHash);
    }
    match common_problem(name, USER_BYTES_MAX, |c| c == ' ') {
        Some(problem) => refuse(problem),
        None => Ok(()),
    }
}

/// Checks a room name: 1 to [`ROOM_BYTES_MAX`] bytes, no control characters, no Unicode white space.
///
/// # Errors
/// The first rule that the name breaks, as a sentence for whoever chose it.
pub fn check_room(name: &str) -> Result<(), NameError> {
    match common_problem(name, ROOM_BYTES_MAX, |_| false) {
        Some(problem) => Err(NameError { kind: Kind::Room, problem }),
        None => Ok(()),
    }
}

/// Length first: the scan over the characters is then bounded by it.
fn common_problem(name: &str, bytes_max: usize, allowed: impl Fn(char) -> bool) -> Option<Problem> {
    if name.is_empty() {
        return Some(Problem::Empty);
    }
    if name.len() > bytes_max {
        return Some(Problem::TooLong { bytes: name.len(), bytes_max });
    }
    name.chars().find_map(|c| match c {
        c if allowed(c) => None,
        c if c.is_control() => Some(Problem::Control(c)),
        c if c.is_whitespace() => Some(Problem::WhiteSpace(c)),
        _ => None,
    })
}

/// Why a name was refused. `Display` is one sentence: what, why, and what to do. It never contains the name itself, so
/// that it is safe in a log, in a terminal and in a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameError {
    kind: Kind,
    problem: Problem,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    User,
    Room,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Problem {
    Empty,
    TooLong { bytes: usize, bytes_max: usize },
    StartsWithHash,
    Control(char),
    WhiteSpace(char),
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, bytes_max) = match self.kind {
            Kind::User => ("user", USER_BYTES_MAX),
            Kind::Room => ("room", ROOM_BYTES_MAX),
        };
        match self.problem {
            Problem::Empty => {
                write!(f, "The {kind} name is empty: choose one of 1 to {bytes_max} bytes.")
            }
            Problem::TooLong { bytes, bytes_max } => write!(
                f,
                "The {kind} name is {bytes} bytes long (UTF-8) and at most {bytes_max} are allowed: choose a shorter one."
            ),
            Problem::StartsWithHash => write!(
                f,
                "The {kind} name starts with a hash (#), which marks the notices of rooms: choose one without it."
            ),
            Problem::Control(c) => write!(
                f,
                "The {kind} name contains the control character U+{:04X}, which is not allowed: leave it out.",
                u32::from(c)
            ),
            Problem::WhiteSpace(c) => write!(
                f,
                "The {kind} name contains the white space character U+{:04X}, which is not allowed: {}.",
                u32::from(c),
                match self.kind {
                    Kind::User => "use a plain space or leave it out",
                    Kind::Room => "leave it out",
                }
            ),
        }
    }
}

impl std::error::Error for NameError {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn said(result: Result<(), NameError>) -> String {
        result.expect_err("refused").to_string()
    }

    #[test]
    fn ordinary_names_pass() {
        for name in ["a", "Veit", "two words", "Zoë", "日本語", "a#b", "<b>", "%", "🦀"] {
            assert_eq!(check_user(name), Ok(()), "{name}");
        }
        for name in ["general", "#odd", "Zoë", "a/b", "日本語"] {
            assert_eq!(check_room(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn the_limits_are_bytes_and_inclusive() {
        assert_eq!(check_user(&"u".repeat(79)), Ok(()));
        assert!(said(check_user(&"u".repeat(80))).contains("80 bytes long"));
        assert!(said(check_user(&"é".repeat(40))).contains("80 bytes long"));
        assert_eq!(check_room(&"r".repeat(64)), Ok(()));
        let sentence = said(check_room(&"r".repeat(65)));
        assert!(sentence.contains("65 bytes long") && sentence.contains("64"), "{sentence}");
        assert!(said(check_user("")).contains("empty"));
        assert!(said(check_room("")).contains("empty"));
    }

    #[test]
    fn a_user_may_have_plain_spaces_and_a_room_no_white_space() {
        assert_eq!(check_user("a b"), Ok(()));
        assert!(said(check_room("a b")).contains("U+0020"));
        for c in ['\u{a0}', '\u{2003}', '\u{2028}', '\u{3000}'] {
            assert!(check_user(&format!("a{c}b")).is_err(), "{c:?}");
            assert!(check_room(&format!("a{c}b")).is_err(), "{c:?}");
        }
    }

    #[test]
    fn a_user_never_signs_like_a_room() {
        assert!(said(check_user("#general")).contains("hash"));
        assert_eq!(check_room("#general"), Ok(()));
    }

    #[test]
    fn control_characters_are_named_and_never_repeated() {
        for c in ['\0', '\t', '\n', '\r', '\u{1b}', '\u{7f}', '\u{85}'] {
            for sentence in [said(check_user(&format!("a{c}"))), said(check_room(&format!("a{c}")))] {
                assert!(sentence.contains(&format!("U+{:04X}", u32::from(c))), "{sentence}");
                assert!(!sentence.contains(char::is_control), "{sentence:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn the_rules_hold_for_any_string(name in "\\PC{0,100}|[\\s\\S]{0,100}") {
            let user = (1..80).contains(&name.len())
                && !name.starts_with('#')
                && !name.chars().any(|c| c.is_control() || (c.is_whitespace() && c != ' '));
            let room = (1..=64).contains(&name.len())
                && !name.chars().any(|c| c.is_control() || c.is_whitespace());
            prop_assert_eq!(check_user(&name).is_ok(), user);
            prop_assert_eq!(check_room(&name).is_ok(), room);
        }
    }
}
