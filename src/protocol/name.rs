//! Which names users and rooms may have, and which names are equal: the one place with these rules, for the handshake, for
//! commands and for the internal port.
//!
//! Names follow the nickname profile of RFC 8266 (`precis`): two that differ only in case, width or composition are equal, and
//! invisible characters and changes of direction are not allowed. Letters of other alphabets that look alike (a Cyrillic а)
//! are different letters: a name proves nothing.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use icu_normalizer::DecomposingNormalizerBorrowed;
use icu_properties::props::GeneralCategory;

use super::unicode::{category, is_invisible, is_mark};

mod precis;

/// The longest user name, in bytes of UTF-8. The original hi promised "shorter than 80 characters" and counted bytes.
pub(crate) const USER_BYTES_MAX: usize = 79;

/// The longest room name, in bytes of UTF-8.
pub(crate) const ROOM_BYTES_MAX: usize = 64;

/// Limit of marks on one letter (UTS 39, 5.4): more of them run into the lines above and below.
const MARKS_MAX: usize = 4;

/// Characters that look like the `#` in the sender of a room's notices: U+0023 and similar signs.
const HASHES: [char; 5] = ['#', '\u{266f}', '\u{22d5}', '\u{2317}', '\u{29e3}'];

/// Senders of system messages, and of messages of the internal port without a name.
const RESERVED: [&str; 2] = [SERVER, API];
const SERVER: &str = "hi";
const API: &str = "api";

/// The name of a user or a room, prepared: as it is shown, and as it is compared.
///
/// Equality, order and hash are those of `Name::key`: `Ada` and `ada` are the same name.
#[derive(Clone)]
pub struct Name(
    /// The name as it is shown; then its key, if different; then one character, the length of the shown name. One allocation,
    /// because every connection holds a name.
    Arc<str>,
);

impl Name {
    /// Prepares the name of a user: 1 to `USER_BYTES_MAX` bytes before and after, not starting with something like `#`
    /// (which marks the notices of rooms), and neither `hi` nor `api`.
    ///
    /// # Errors
    /// The first rule that the name breaks, as a sentence for the user.
    pub fn user(text: &str) -> Result<Self, NameError> {
        Self::of_user(text, &RESERVED)
    }

    /// Prepares the name under which a program of the operator publishes: that of a user, or `api`.
    ///
    /// # Errors
    /// As [`Name::user`].
    pub(crate) fn of_program(text: &str) -> Result<Self, NameError> {
        Self::of_user(text, &[SERVER])
    }

    fn of_user(text: &str, reserved: &[&'static str]) -> Result<Self, NameError> {
        let refuse = |problem| NameError { of: "user", problem };
        if text.starts_with('#') {
            return Err(refuse(Problem::StartsWithHash));
        }
        let name = Self::prepare(text, USER_BYTES_MAX).map_err(refuse)?;
        if name.as_str().starts_with(HASHES) {
            return Err(refuse(Problem::StartsWithHash));
        }
        match reserved.iter().find(|reserved| **reserved == name.key()) {
            Some(reserved) => Err(refuse(Problem::Reserved(reserved))),
            None => Ok(name),
        }
    }

    /// Prepares the name of a room: 1 to `ROOM_BYTES_MAX` bytes before and after, no white space.
    ///
    /// # Errors
    /// The first rule that the name breaks, as a sentence for the user.
    pub fn room(text: &str) -> Result<Self, NameError> {
        let refuse = |problem| NameError { of: "room", problem };
        let white_space = |text: &str| {
            text.chars()
                .find(|c| c.is_whitespace() && !c.is_control())
                .map(|c| refuse(Problem::Disallowed(WHITE_SPACE, c)))
        };
        if text.len() <= ROOM_BYTES_MAX
            && let Some(error) = white_space(text)
        {
            return Err(error);
        }
        let name = Self::prepare(text, ROOM_BYTES_MAX).map_err(refuse)?;
        // An accent by itself becomes a space and a mark.
        match white_space(name.as_str()) {
            Some(error) => Err(error),
            None => Ok(name),
        }
    }

    /// The rules that users and rooms share. The length comes first, which bounds the rest of the work.
    fn prepare(text: &str, bytes_max: usize) -> Result<Self, Problem> {
        let fits = |text: &str| match text.len() {
            0 => Err(Problem::Empty { bytes_max }),
            bytes if bytes > bytes_max => Err(Problem::TooLong { bytes, bytes_max }),
            _ => Ok(()),
        };
        fits(text)?;
        let shown = precis::enforce(text).map_err(Problem::from)?;
        fits(&shown)?;
        check_marks(&shown)?;
        let key = precis::fold(&shown);
        let length = u8::try_from(shown.len()).expect("shorter than 80 bytes");
        let mut packed = shown;
        if key != packed {
            packed.push_str(&key);
        }
        packed.push(char::from(length));
        Ok(Self(packed.into()))
    }

    /// The name as it is shown, and as it is on the wire.
    pub fn as_str(&self) -> &str {
        let (both, length) = self.unpack();
        &both[..length]
    }

    /// The form in which names are compared.
    pub(crate) fn key(&self) -> &str {
        match self.unpack() {
            (both, length) if length == both.len() => both,
            (both, length) => &both[length..],
        }
    }

    fn unpack(&self) -> (&str, usize) {
        let (both, length) = self.0.split_at(self.0.len() - 1);
        (both, usize::from(length.as_bytes()[0]))
    }
}

/// The beginning of the [`Name::key`] of rooms whose names begin with `text`; `None` if there can be none.
pub(crate) fn room_key_prefix(text: &str) -> Option<String> {
    (text.len() <= ROOM_BYTES_MAX).then(|| precis::fold(text))
}

/// Checks that every mark follows a letter, and that no letter has too many.
fn check_marks(shown: &str) -> Result<(), Problem> {
    const NFD: DecomposingNormalizerBorrowed<'static> = DecomposingNormalizerBorrowed::new_nfd();
    if shown.is_ascii() {
        return Ok(());
    }
    let (mut before, mut stacked) = (' ', 0);
    for c in NFD.normalize(shown).chars() {
        if is_mark(c) && before == ' ' {
            return Err(Problem::LooseMark(c));
        }
        let takes_no_place = matches!(category(c), GeneralCategory::NonspacingMark | GeneralCategory::EnclosingMark);
        stacked = if takes_no_place { stacked + 1 } else { 0 };
        if stacked > MARKS_MAX || takes_no_place && c == before {
            return Err(Problem::TooManyMarks);
        }
        before = c;
    }
    Ok(())
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Name {}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(other.key())
    }
}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

/// Maps of names are searched by `Name::key`.
impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        self.key()
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a name was refused. `Display` is one sentence: what, why, and what to do. It never contains the name itself, so
/// that it is safe in a log, in a terminal and in a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("The {of} name {problem}")]
pub struct NameError {
    /// What it names: a user or a room.
    of: &'static str,
    problem: Problem,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Problem {
    #[error("is empty: choose one of 1 to {bytes_max} bytes.")]
    Empty { bytes_max: usize },
    #[error("is {bytes} bytes long (UTF-8) and at most {bytes_max} are allowed: choose a shorter one.")]
    TooLong { bytes: usize, bytes_max: usize },
    #[error("starts with a hash (#), which marks the notices of rooms: choose one without it.")]
    StartsWithHash,
    #[error("reads as {0:?}, which is a name of the server itself: choose another one.")]
    Reserved(&'static str),
    #[error("contains the {0} {code}, which is not allowed: leave it out.", code = code_point(*.1))]
    Disallowed(&'static str, char),
    #[error("contains the character {}, which is allowed between certain letters only: leave it out.", code_point(*.0))]
    OutOfPlace(char),
    #[error("contains the mark {} without a letter in front of it: leave it out.", code_point(*.0))]
    LooseMark(char),
    #[error("has a letter with more than {MARKS_MAX} marks, or one of them twice: use fewer.")]
    TooManyMarks,
    #[error("has no normal form (RFC 8264): choose another one.")]
    Unstable,
}

/// What rooms refuse in names, and users for the most part.
const WHITE_SPACE: &str = "white space character";

impl From<precis::Prohibited> for Problem {
    fn from(fault: precis::Prohibited) -> Self {
        match fault {
            precis::Prohibited::Disallowed(c) if c.is_control() => Self::Disallowed("control character", c),
            precis::Prohibited::Disallowed(c) if c.is_whitespace() => Self::Disallowed(WHITE_SPACE, c),
            precis::Prohibited::Disallowed(c) | precis::Prohibited::OutOfPlace(c) if is_invisible(c) => {
                Self::Disallowed("invisible character", c)
            }
            precis::Prohibited::Disallowed(c) => Self::Disallowed("character", c),
            precis::Prohibited::OutOfPlace(c) => Self::OutOfPlace(c),
            precis::Prohibited::Unassigned(c) => Self::Disallowed("unknown character", c),
            precis::Prohibited::Unstable => Self::Unstable,
        }
    }
}

fn code_point(c: char) -> String {
    format!("U+{:04X}", u32::from(c))
}

#[cfg(test)]
mod tests;
