//! A client's message, read key by key: the first thing wrong with it is told, and its `Ref` is known all the same.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::{Command, Fault, Ref, Request};
use crate::protocol::broadcast::parse_epoch;
use crate::protocol::json::{self, Json, Key, Spelled};
use crate::protocol::position::Since;

/// Reads one message.
pub fn parse(payload: &[u8]) -> Request<'_> {
    match serde_json::from_slice::<Fields<'_>>(payload) {
        Ok(mut fields) => {
            let reference = std::mem::take(&mut fields.reference).value();
            Request { reference, command: fields.command() }
        }
        Err(error) => Request { reference: None, command: Err(Fault::Unreadable(json::explain(&error))) },
    }
}

#[derive(Default)]
struct Fields<'de> {
    op: Spelled<Cow<'de, str>>,
    reference: Spelled<Ref<'de>>,
    room: Spelled<Cow<'de, str>>,
    message: Spelled<Cow<'de, str>>,
    prefix: Spelled<Cow<'de, str>>,
    since: Spelled<Since>,
    /// The first key of the wrong type.
    fault: Option<String>,
}

impl<'de> Fields<'de> {
    fn command(self) -> Result<Command<'de>, Fault> {
        if let Some(fault) = self.fault {
            return Err(Fault::Unreadable(format!("Can't read that message: {fault}.")));
        }
        let room = |room: Spelled<_>| required(room, "Room");
        match self.op.value().as_deref() {
            None | Some("pub") => {
                Ok(Command::Publish { room: room(self.room)?, message: required(self.message, "Message")? })
            }
            Some("join") => Ok(Command::Join { room: room(self.room)?, since: self.since.value() }),
            Some("leave") => Ok(Command::Leave { room: room(self.room)? }),
            Some("who") => Ok(Command::Who { room: room(self.room)? }),
            Some("rooms") => Ok(Command::Rooms { prefix: self.prefix.value().unwrap_or_default() }),
            Some("ping") => Ok(Command::Ping),
            Some(_) => {
                Err(Fault::Meaningless("Op is none of those known here: pub, join, leave, who, rooms, ping.".into()))
            }
        }
    }

    /// Takes the value of one key.
    fn read<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match key {
            "Op" | "op" => self.op.put(key, text(key, map.next_value()?, &mut self.fault)),
            "Ref" | "ref" => self.reference.put(key, reference(key, map.next_value()?, &mut self.fault)),
            "Room" | "room" => self.room.put(key, text(key, map.next_value()?, &mut self.fault)),
            "Message" | "message" => self.message.put(key, text(key, map.next_value()?, &mut self.fault)),
            "Prefix" | "prefix" => self.prefix.put(key, text(key, map.next_value()?, &mut self.fault)),
            "Since" | "since" => self.since.put(key, since(key, map.next_value()?, &mut self.fault)),
            // The server sets both; they are read only to see that they are of the right type.
            "From" | "from" => drop(text(key, map.next_value()?, &mut self.fault)),
            "Meta" | "meta" => match map.next_value()? {
                Json::Null | Json::Boolean => {}
                other => wrong(&mut self.fault, key, "true or false", &other),
            },
            _ => drop(map.next_value::<IgnoredAny>()?),
        }
        Ok(())
    }
}

fn required<'de>(value: Spelled<Cow<'de, str>>, key: &str) -> Result<Cow<'de, str>, Fault> {
    value.value().ok_or_else(|| Fault::Meaningless(format!("{key} is missing.")))
}

/// Notes that a key has the wrong type, unless another one had before.
fn wrong(fault: &mut Option<String>, key: &str, expected: &str, found: &Json<'_>) {
    fault.get_or_insert_with(|| format!("{key} has to be {expected}, not {}", found.kind()));
}

fn text<'de>(key: &str, value: Json<'de>, fault: &mut Option<String>) -> Option<Cow<'de, str>> {
    match value {
        Json::Null => None,
        Json::Text(text) => Some(text),
        other => {
            wrong(fault, key, "a string", &other);
            None
        }
    }
}

fn reference<'de>(key: &str, value: Json<'de>, fault: &mut Option<String>) -> Option<Ref<'de>> {
    match value {
        Json::Null => None,
        Json::Text(text) => Some(Ref::Text(text)),
        Json::Integer(number) => Some(Ref::Integer(number)),
        Json::Number => {
            fault.get_or_insert_with(|| format!("{key} has to be a string or an integer of at most 64 bits"));
            None
        }
        other => {
            wrong(fault, key, "a string or an integer", &other);
            None
        }
    }
}

fn since(key: &str, value: Json<'_>, fault: &mut Option<String>) -> Option<Since> {
    let members = match value {
        Json::Null => return None,
        Json::Object(members) => members,
        other => {
            wrong(fault, key, "an object with Epoch and Seq", &other);
            return None;
        }
    };
    let (mut epoch, mut seq) = (Spelled::default(), Spelled::default());
    for (name, value) in members {
        match (&*name, value) {
            ("Epoch" | "epoch", Json::Text(text)) => epoch.put(&name, Some(parse_epoch(&text))),
            ("Epoch" | "epoch", other) => wrong(fault, &format!("{key}.{name}"), "a string", &other),
            ("Seq" | "seq", Json::Integer(number)) if u64::try_from(number).is_ok() => {
                seq.put(&name, Some(number as u64))
            }
            ("Seq" | "seq", Json::Integer(_) | Json::Number) => {
                fault.get_or_insert_with(|| format!("{key}.{name} has to be a whole number from 0 to 2^64 - 1"));
            }
            ("Seq" | "seq", other) => wrong(fault, &format!("{key}.{name}"), "a number", &other),
            _ => {}
        }
    }
    match (epoch.value(), seq.value()) {
        (Some(epoch), Some(seq)) => Some(Since { epoch, seq }),
        (epoch, _) => {
            let missing = if epoch.is_none() { "Epoch" } else { "Seq" };
            fault.get_or_insert_with(|| format!("{key}.{missing} is missing: Epoch and Seq travel together"));
            None
        }
    }
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with the key Op")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        let mut fields = Fields::default();
        while let Some(Key(key)) = map.next_key()? {
            fields.read(&key, &mut map)?;
        }
        Ok(fields)
    }
}
