//! JSON values of a message's keys, as far as the dialects tell them apart; texts are borrowed where they have no escapes.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A value.
#[derive(Debug)]
pub(super) enum Json<'de> {
    Null,
    Boolean,
    Text(Cow<'de, str>),
    Integer(i128),
    /// With a fraction, an exponent, or too large for 64 bits.
    Number,
    Array,
    Object(Vec<(Cow<'de, str>, Json<'de>)>),
}

impl Json<'_> {
    /// What it is, behind "not".
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Boolean => "a boolean",
            Self::Text(_) => "a string",
            Self::Integer(_) | Self::Number => "a number",
            Self::Array => "an array",
            Self::Object(_) => "an object",
        }
    }
}

/// One key's value in its two spellings: the exact one wins, whatever the order.
#[derive(Debug)]
pub(super) struct Spelled<T> {
    exact: Option<T>,
    lower: Option<T>,
}

impl<T> Default for Spelled<T> {
    fn default() -> Self {
        Self { exact: None, lower: None }
    }
}

impl<T> Spelled<T> {
    /// The value that came under `key`, if it was not null.
    pub(super) fn put(&mut self, key: &str, value: Option<T>) {
        let spelling =
            if key.starts_with(|first: char| first.is_ascii_uppercase()) { &mut self.exact } else { &mut self.lower };
        *spelling = value;
    }

    pub(super) fn value(self) -> Option<T> {
        self.exact.or(self.lower)
    }
}

/// The key of an object.
pub(super) struct Key<'de>(pub(super) Cow<'de, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.deserialize_str(JsonVisitor)? {
            Json::Text(text) => Ok(Self(text)),
            other => Err(D::Error::custom(format!("a key has to be a string, not {}", other.kind()))),
        }
    }
}

impl<'de> Deserialize<'de> for Json<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

/// What serde_json says about a payload that is not what it should be, without the place in it.
pub(super) fn explain(error: &serde_json::Error) -> String {
    if !error.is_data() {
        return format!("Can't read that message: it is not JSON ({error}).");
    }
    let text = error.to_string();
    let text = text.rsplit_once(" at line ").map_or(&*text, |(text, _)| text);
    format!("Can't read that message: {text}.")
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Json<'de>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Json<'de>, E> {
        Ok(Json::Boolean)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Json<'de>, E> {
        Ok(Json::Integer(number.into()))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Json<'de>, E> {
        Ok(Json::Integer(number.into()))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Json<'de>, E> {
        Ok(Json::Number)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Borrowed(text)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json<'de>, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Json::Array)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json<'de>, A::Error> {
        let mut members = Vec::new();
        while let Some((Key(key), value)) = map.next_entry()? {
            members.push((key, value));
        }
        Ok(Json::Object(members))
    }
}
