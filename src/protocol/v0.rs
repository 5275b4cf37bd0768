//! The dialect of 2017: a client's messages as commands, and the server's answers as texts.
//!
//! Clients send `{"From","Message","Room","Meta"}`, the keys also in lower case. `From` and `Meta` are only checked for
//! their types: the server sets both.

use std::borrow::Cow;

use serde::de::{IgnoredAny, MapAccess};

use super::json::{self, Json, Keys, Spelled};

/// What a client sent: a text, to a room.
#[derive(Debug, PartialEq, Eq)]
pub struct Said<'a> {
    /// The room that it is for; empty if none was given.
    pub(crate) room: Cow<'a, str>,
    /// The text, or a slash command.
    pub message: Cow<'a, str>,
}

/// The command in a text, once its room is known to exist.
#[derive(Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// Tell all members.
    Say,
    /// `/join R`.
    Join(&'a str),
    /// `/leave R`.
    Leave(&'a str),
    /// `/list`: the users of the room.
    List,
    /// `/channels`: all rooms.
    Channels,
    /// A command with the wrong number of words.
    Malformed,
}

/// Reads one message.
///
/// # Errors
/// A sentence for the client: not JSON, not an object, or which key has the wrong type.
pub fn parse(payload: &[u8]) -> Result<Said<'_>, String> {
    let Fields { room, message, fault } = json::read(payload)?;
    match fault {
        Some(fault) => Err(json::unreadable(&fault)),
        None => Ok(Said { room: room.value().unwrap_or_default(), message: message.value().unwrap_or_default() }),
    }
}

/// The keys of a message; those of v1 have more.
#[derive(Debug, Default)]
pub(super) struct Fields<'de> {
    pub(super) room: Spelled<Cow<'de, str>>,
    pub(super) message: Spelled<Cow<'de, str>>,
    /// The first key that has the wrong type.
    pub(super) fault: Option<String>,
}

impl<'de> Keys<'de> for Fields<'de> {
    const EXPECTED: &'static str = "an object with the keys Message and Room";

    fn take<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match key {
            "Room" | "room" => self.room.put(key, text_of(key, map.next_value()?, &mut self.fault)),
            "Message" | "message" => self.message.put(key, text_of(key, map.next_value()?, &mut self.fault)),
            "From" | "from" => drop(text_of(key, map.next_value()?, &mut self.fault)),
            "Meta" | "meta" => match map.next_value()? {
                Json::Null | Json::Boolean => {}
                other => wrong(&mut self.fault, key, "true or false", &other),
            },
            _ => drop(map.next_value::<IgnoredAny>()?),
        }
        Ok(())
    }
}

/// A string; null is read as "not given", as the Go program did.
pub(super) fn text_of<'de>(key: &str, value: Json<'de>, fault: &mut Option<String>) -> Option<Cow<'de, str>> {
    match value {
        Json::Null => None,
        Json::Text(text) => Some(text),
        other => {
            wrong(fault, key, "a string", &other);
            None
        }
    }
}

/// Notes that a key has the wrong type, unless another one had before.
pub(super) fn wrong(fault: &mut Option<String>, key: &str, expected: &str, found: &Json<'_>) {
    fault.get_or_insert_with(|| format!("{key} has to be {expected}, not {}", found.kind()));
}

/// The command in a text. Its first word decides; words are separated by single spaces.
pub fn command(message: &str) -> Command<'_> {
    let mut words = message.split(' ');
    let first = words.next().unwrap_or_default();
    let argument = match (words.next(), words.next()) {
        (Some(word), None) if !word.is_empty() => Some(word),
        _ => None,
    };
    match (first, argument) {
        ("/join", Some(room)) => Command::Join(room),
        ("/leave", Some(room)) => Command::Leave(room),
        ("/join" | "/leave", None) => Command::Malformed,
        ("/list", _) => Command::List,
        ("/channels", _) => Command::Channels,
        _ => Command::Say,
    }
}

/// The texts of 2017, to the letter, and those of the limits that came later.
pub mod text {
    /// A room that nobody is in.
    pub(crate) const NO_ROOM: &str = "room does not exist.";

    /// A message that shows nothing.
    pub(crate) const EMPTY: &str = "The message is empty.";

    /// A name that another member has.
    pub(crate) fn taken(user: &str) -> String {
        format!("User {user} is already in room.")
    }

    /// The confirmation of `/leave`.
    pub(crate) fn left(room: &str) -> String {
        format!("Left channel {room}.")
    }

    /// `/leave` of a room that the user isn't in.
    pub(crate) fn not_present(room: &str, user: &str) -> String {
        format!("Couldn't leave channel {room}: User {user} not present in room {room}.")
    }

    /// `/leave` of a room that nobody is in.
    pub(crate) fn does_not_exist(room: &str) -> String {
        format!("Couldn't leave channel {room}: Room {room} does not exist.")
    }

    /// A command with the wrong number of words, repeated whole.
    pub(crate) fn malformatted(message: &str) -> String {
        format!("Malformatted arguments: {message}")
    }

    /// `/join` of a name that no room can have.
    pub(crate) fn cannot_join(why: impl std::fmt::Display) -> String {
        format!("Couldn't join channel: {why}")
    }

    /// `/join` beyond the limit.
    pub(crate) fn too_many_rooms(rooms_max: usize) -> String {
        format!("Couldn't join channel: you are in {rooms_max} rooms, which is as many as you may. /leave one first.")
    }

    /// The answer to a further `/join` while memory is used up.
    pub(crate) const NO_MEMORY: &str =
        "Couldn't join channel: the server is short of memory for further rooms. Try again later.";

    /// A message whose room could not be reached: several servers share it.
    pub(crate) const NOT_PUBLISHED: &str =
        "The servers can't reach each other: your message may not have been delivered. Try again later.";

    /// A message about a room while it isn't known whether there is one.
    pub(crate) const NOT_REACHED: &str = "The servers can't reach each other: nothing was done. Try again later.";

    /// `/join` while a room can't be reached.
    pub(crate) const NOT_JOINED: &str = "Couldn't join channel: the servers can't reach each other. Try again later.";

    /// The answer to `/list` and `/channels`: the first names of `count`.
    pub fn list(names: &[&str], count: usize) -> String {
        let mut list = names.join(", ");
        if count > names.len() {
            list.push_str(&format!(", and {} more", count - names.len()));
        }
        list
    }

    /// The answer to `/list` in a room with too many users on several servers.
    pub(crate) fn list_partial(names: &[&str], count: usize) -> String {
        let list = list(names, count);
        format!("{list} (the room has too many users to list those of other servers)")
    }

    /// A message beyond the rate limit.
    pub(crate) fn too_fast(per_second: u32) -> String {
        format!("Too fast: that message was not delivered. You may send {per_second} messages a second.")
    }

    /// A message beyond the rate limit of an address.
    pub(crate) fn too_fast_together(per_second: u32) -> String {
        format!(
            "Too fast: that message was not delivered. All connections from your address together may send {per_second} \
             messages a second."
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(payload: &str) -> (String, String) {
        let said = parse(payload.as_bytes()).unwrap();
        (said.room.into_owned(), said.message.into_owned())
    }

    #[test]
    fn both_spellings_are_read_and_the_exact_one_wins() {
        assert_eq!(said(r#"{"From":"x","Message":"hey","Room":"tea","Meta":false}"#), ("tea".into(), "hey".into()));
        assert_eq!(said(r#"{"message":"hey","room":"t\u0065a"}"#), ("tea".into(), "hey".into()));
        assert_eq!(said(r#"{"Room":"tea","room":"no","message":"no","Message":"hey"}"#), ("tea".into(), "hey".into()));
        assert_eq!(said(r#"{"Extra":[1,{"a":2}],"Room":null}"#), (String::new(), String::new()));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (payload, reason) in [
            ("hello", "it is not JSON"),
            (r#"{"Message":"#, "it is not JSON"),
            ("{} x", "it is not JSON"),
            ("[1]", "an object with the keys Message and Room"),
            ("3", "an object with the keys Message and Room"),
            (r#"{"Message":3}"#, "Message has to be a string, not a number"),
            (r#"{"room":{"a":1}}"#, "room has to be a string, not an object"),
            (r#"{"From":["x"]}"#, "From has to be a string, not an array"),
            (r#"{"Meta":"yes"}"#, "Meta has to be true or false, not a string"),
            (r#"{"Message":"\ud800"}"#, "it is not JSON"),
        ] {
            let error = parse(payload.as_bytes()).unwrap_err();
            assert!(error.contains(reason), "{payload}: {error}");
        }
    }

    #[test]
    fn deep_nesting_is_refused_without_harm() {
        let payload = format!("{{\"x\":{}", "[".repeat(16_000));
        assert!(parse(payload.as_bytes()).is_err());
    }

    #[test]
    fn a_list_says_how_many_it_leaves_out() {
        assert_eq!(text::list(&["ann", "bob"], 2), "ann, bob");
        assert_eq!(text::list(&["ann", "bob"], 3), "ann, bob, and 1 more");
        assert_eq!(text::list(&[], 0), "");
    }

    #[test]
    fn the_first_word_decides() {
        assert_eq!(command("/join tea"), Command::Join("tea"));
        assert_eq!(command("/leave tea"), Command::Leave("tea"));
        assert_eq!(command("/list"), Command::List);
        assert_eq!(command("/list me"), Command::List);
        assert_eq!(command("/channels"), Command::Channels);
        for malformed in ["/join", "/join ", "/join a b", "/leave", "/leave  a"] {
            assert_eq!(command(malformed), Command::Malformed, "{malformed}");
        }
        for text in ["", "hey", "/joint a", " /join a", "/JOIN a"] {
            assert_eq!(command(text), Command::Say, "{text}");
        }
    }
}
