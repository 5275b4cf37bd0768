//! What somebody may do in which rooms: rules such as `team-*=join,pub`. Pure.
//!
//! The most specific rule for a room decides: its name, before the longest beginning of it. So `*=join,pub news=join` makes a
//! room that can only be read.

use std::fmt;

use serde_json::Value;

use super::refused::shown;
use crate::limits::tokens::{RULES_BYTES_SHOWN, RULES_MAX};
use crate::protocol::Namespace;
use crate::protocol::name::{Name, room_key_prefix};
use crate::words::words;

/// What tokens without rooms, and guests, may do unless the operator says otherwise.
pub const DEFAULT: &str = "*=join,pub";

words! {
    /// One thing that may be done in a room.
    pub enum Right {
        /// Be a member of a chat room, seen by the others. It includes [`Right::Listen`].
        Join = "join",
        /// Publish: in the chat also without being a member.
        Publish = "pub",
        /// Read without being seen: server-sent events of a chat room, or a raw room.
        Listen = "listen",
    }
}

impl Right {
    fn parse(word: &str) -> Result<Self, String> {
        match word {
            "publish" => Ok(Self::Publish),
            _ => Self::ALL
                .into_iter()
                .find(|right| right.as_str() == word)
                .ok_or_else(|| format!("{} is no right: they are join, pub and listen", shown(word))),
        }
    }

    /// What is not allowed, up to the room's name.
    fn verb(self) -> &'static str {
        match self {
            Self::Join => "join",
            Self::Publish => "publish in",
            Self::Listen => "listen to",
        }
    }
}

/// A set of [`Right`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct RightSet(u8);

impl RightSet {
    fn with(self, right: Right) -> Self {
        Self(self.0 | 1 << right as u8)
    }

    fn has(self, right: Right) -> bool {
        let has = |right: Right| self.0 & (1 << right as u8) != 0;
        has(right) || right == Right::Listen && has(Right::Join)
    }
}

impl fmt::Display for RightSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = Right::ALL.into_iter().filter(|right| self.0 & (1 << *right as u8) != 0).map(Right::as_str);
        f.write_str(&words.collect::<Vec<_>>().join(","))
    }
}

/// Rooms, by the name in which they are compared.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    /// This one.
    Room(String),
    /// Those whose names begin so.
    Prefix(String),
}

impl Pattern {
    fn matches(&self, key: &str) -> bool {
        match self {
            Self::Room(room) => room == key,
            Self::Prefix(prefix) => key.starts_with(prefix),
        }
    }

    /// The larger, the more specific.
    fn weight(&self) -> usize {
        match self {
            Self::Room(_) => usize::MAX,
            Self::Prefix(prefix) => prefix.len(),
        }
    }
}

/// What is allowed in the rooms of one pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    namespace: Namespace,
    pattern: Pattern,
    rights: RightSet,
    /// The pattern as it was written.
    written: String,
}

impl Rule {
    fn new(pattern: &str, rights: RightSet) -> Result<Self, String> {
        let (namespace, name) =
            pattern.strip_prefix("raw:").map_or((Namespace::Chat, pattern), |name| (Namespace::Raw, name));
        let refuse = |why: &str| Err(format!("{}: {why}", shown(pattern)));
        let matched = match name.strip_suffix('*') {
            Some(prefix) => match (room_key_prefix(prefix), Name::room(&format!("{prefix}a"))) {
                (Some(_), Ok(_)) if prefix.contains('*') => return refuse("one * may stand in it, at its end"),
                (Some(prefix), Ok(_)) => Pattern::Prefix(prefix),
                // A room of which this is the beginning would have the same fault.
                (_, Err(why)) => return refuse(&why.to_string()),
                (None, Ok(_)) => return refuse("no room has so long a name"),
            },
            None => match Name::room(name) {
                Ok(name) if !name.as_str().contains('*') => Pattern::Room(name.key().to_owned()),
                Ok(_) => return refuse("one * may stand in it, at its end"),
                Err(why) => return refuse(&why.to_string()),
            },
        };
        Ok(Self { namespace, pattern: matched, rights, written: pattern.to_owned() })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.written, self.rights)
    }
}

/// Who says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The claim `rooms` of the token.
    Token,
    /// `--auth-rooms`, for tokens without that claim.
    TokensWithout,
    /// `--guest-rooms`.
    Guests,
}

impl Source {
    fn describe(self) -> &'static str {
        match self {
            Self::Token => "the token's rooms allow",
            Self::TokensWithout => "the token has no rooms, and --auth-rooms allows",
            Self::Guests => "without a token, --guest-rooms allows",
        }
    }
}

/// What somebody may do in which rooms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rights {
    source: Source,
    rules: Vec<Rule>,
}

/// Why something is not allowed; `Display` is the sentence for the client, which names the rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("You may not {} {room}: {}", .right.verb(), .why)]
pub struct Denied {
    right: Right,
    room: String,
    why: String,
}

impl Denied {
    /// For a connection that has not brought its token.
    pub(super) fn until_identified(right: Right, room: &Name) -> Self {
        Self { right, room: room.to_string(), why: "send your token first.".to_owned() }
    }
}

impl Rights {
    /// Reads rules with spaces in between, such as `*=join,pub raw:scores=listen`. Without rights: join and pub.
    ///
    /// # Errors
    /// What is wrong with which rule.
    pub fn parse(text: &str, source: Source) -> Result<Self, String> {
        let rule = |text: &str| match text.rsplit_once('=') {
            None => Rule::new(text, RightSet::default().with(Right::Join).with(Right::Publish)),
            Some((pattern, rights)) => Rule::new(pattern, right_set(rights.split(','))?),
        };
        Self::of(source, text.split_whitespace().map(rule))
    }

    /// Reads the claim `rooms`: an object with patterns and lists of rights.
    ///
    /// # Errors
    /// What is wrong with which rule.
    pub(super) fn of_claim(claim: &Value) -> Result<Self, String> {
        let Value::Object(rooms) = claim else {
            return Err("it has to be an object, such as {\"tea\":[\"join\",\"pub\"]}".to_owned());
        };
        let rule = |(pattern, rights): (&String, &Value)| {
            let not_a_list = || format!("{} has to have a list of rights", shown(pattern));
            let words = match rights {
                Value::Array(words) => words.iter().map(Value::as_str).collect::<Option<Vec<_>>>(),
                Value::String(words) => Some(words.split(',').collect()),
                _ => None,
            };
            Rule::new(pattern, right_set(words.ok_or_else(not_a_list)?)?)
        };
        Self::of(Source::Token, rooms.iter().map(rule))
    }

    fn of(source: Source, rules: impl Iterator<Item = Result<Rule, String>>) -> Result<Self, String> {
        let mut rules = rules.take(RULES_MAX + 1).collect::<Result<Vec<_>, _>>()?;
        if rules.len() > RULES_MAX {
            return Err(format!("at most {RULES_MAX} rules are read"));
        }
        // The most specific one comes first.
        rules.sort_by_key(|rule| std::cmp::Reverse(rule.pattern.weight()));
        let is_again = |(at, rule): &(usize, &Rule)| {
            rules[..*at].iter().any(|other| (other.namespace, &other.pattern) == (rule.namespace, &rule.pattern))
        };
        match rules.iter().enumerate().find(is_again) {
            Some((_, twice)) => Err(format!("two rules are for {}", shown(&twice.written))),
            None => Ok(Self { source, rules }),
        }
    }

    /// Whether something is allowed in a room.
    ///
    /// # Errors
    /// It isn't; which rule decides.
    pub fn allow(&self, right: Right, namespace: Namespace, room: &Name) -> Result<(), Denied> {
        let decides = |rule: &&Rule| rule.namespace == namespace && rule.pattern.matches(room.key());
        let source = self.source.describe();
        let why = match self.rules.iter().find(decides) {
            Some(rule) if rule.rights.has(right) => return Ok(()),
            Some(rule) => format!("{source} {rule} there."),
            None => format!("{source} {}.", self.listed(namespace)),
        };
        let room = match namespace {
            Namespace::Chat => room.as_str().to_owned(),
            Namespace::Raw => format!("the raw room {room}"),
        };
        Err(Denied { right, room, why })
    }

    /// Whether every room of this kind may be read.
    pub fn reads_all(&self, namespace: Namespace) -> bool {
        let mut rules = self.rules.iter().filter(|rule| rule.namespace == namespace).peekable();
        let has_star = |rule: &Rule| rule.pattern == Pattern::Prefix(String::new());
        rules.clone().any(has_star) && rules.all(|rule| rule.rights.has(Right::Listen))
    }

    /// The rules for one kind of room, for the end of a sentence.
    fn listed(&self, namespace: Namespace) -> String {
        let mut listed = String::new();
        for rule in self.rules.iter().filter(|rule| rule.namespace == namespace) {
            if listed.len() > RULES_BYTES_SHOWN {
                return listed + " and others";
            }
            listed = if listed.is_empty() { rule.to_string() } else { format!("{listed} {rule}") };
        }
        match (listed.is_empty(), namespace) {
            (false, _) => listed + " only",
            (true, Namespace::Chat) => "no chat room".to_owned(),
            (true, Namespace::Raw) => "no raw room".to_owned(),
        }
    }
}

/// The rules, as [`Rights::parse`] reads them.
impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rules.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
    }
}

fn right_set<'w>(words: impl IntoIterator<Item = &'w str>) -> Result<RightSet, String> {
    words
        .into_iter()
        .filter(|word| !word.is_empty())
        .try_fold(RightSet::default(), |set, word| Ok(set.with(Right::parse(word)?)))
}

#[cfg(test)]
mod tests;
