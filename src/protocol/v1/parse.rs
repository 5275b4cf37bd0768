//! Reading a client's message key by key: the first fault is reported, and `Ref` is known all the same.

use std::borrow::Cow;

use serde::de::MapAccess;

use super::{Command, Ref, Request, RequestFault};
use crate::protocol::json::{self, Json, Keys, Spelled};
use crate::protocol::position::{Epoch, Since};
use crate::protocol::v0::{self, text_of, wrong};

/// Reads one message.
pub fn parse(payload: &[u8]) -> Request<'_> {
    match json::read::<Fields<'_>>(payload) {
        Ok(mut fields) => {
            let reference = std::mem::take(&mut fields.reference).value();
            Request { reference, command: fields.command() }
        }
        Err(unreadable) => Request { reference: None, command: Err(RequestFault::Unreadable(unreadable)) },
    }
}

#[derive(Default)]
struct Fields<'de> {
    op: Spelled<Cow<'de, str>>,
    reference: Spelled<Ref<'de>>,
    prefix: Spelled<Cow<'de, str>>,
    token: Spelled<Cow<'de, str>>,
    since: Spelled<Since>,
    /// The keys that v0 has as well, and the first fault of all.
    v0: v0::Fields<'de>,
}

impl<'de> Fields<'de> {
    fn command(self) -> Result<Command<'de>, RequestFault> {
        if let Some(fault) = self.v0.fault {
            return Err(RequestFault::Unreadable(json::unreadable(&fault)));
        }
        let room = || required(self.v0.room, "Room");
        match self.op.value().as_deref() {
            None | Some("pub") => {
                Ok(Command::Publish { room: room()?, message: required(self.v0.message, "Message")? })
            }
            Some("join") => Ok(Command::Join { room: room()?, since: self.since.value() }),
            Some("leave") => Ok(Command::Leave(room()?)),
            Some("who") => Ok(Command::Who(room()?)),
            Some("rooms") => Ok(Command::Rooms(self.prefix.value().unwrap_or_default())),
            Some("ping") => Ok(Command::Ping),
            Some("auth") => Ok(Command::Auth(required(self.token, "Token")?)),
            Some(_) => Err(RequestFault::Meaningless(
                "Op is none of those known here: pub, join, leave, who, rooms, ping, auth.".into(),
            )),
        }
    }
}

impl<'de> Keys<'de> for Fields<'de> {
    const EXPECTED: &'static str = "an object with the key Op";

    fn take<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        let fault = &mut self.v0.fault;
        match key {
            "Op" | "op" => self.op.put(key, text_of(key, map.next_value()?, fault)),
            "Ref" | "ref" => self.reference.put(key, reference(key, map.next_value()?, fault)),
            "Prefix" | "prefix" => self.prefix.put(key, text_of(key, map.next_value()?, fault)),
            "Token" | "token" => self.token.put(key, text_of(key, map.next_value()?, fault)),
            "Since" | "since" => self.since.put(key, since(key, map.next_value()?, fault)),
            _ => self.v0.take(key, map)?,
        }
        Ok(())
    }
}

fn required<'de>(value: Spelled<Cow<'de, str>>, key: &str) -> Result<Cow<'de, str>, RequestFault> {
    value.value().ok_or_else(|| RequestFault::Meaningless(format!("{key} is missing.")))
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
            ("Epoch" | "epoch", Json::Text(text)) => epoch.put(&name, Some(Epoch::parse(&text))),
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
