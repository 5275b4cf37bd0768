//! Reading a message's JSON key by key. Values are told apart as far as the dialects need it; texts without escapes are
//! borrowed.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

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
    /// What it is, as it reads after "not".
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

/// One key's value in its two spellings; the exact spelling wins, whatever the order.
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
#[derive(Deserialize)]
#[serde(transparent)]
struct Key<'j>(#[serde(borrow)] Cow<'j, str>);

impl<'de> Deserialize<'de> for Json<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

/// A message: an object that is read key by key.
pub(super) trait Keys<'de>: Default {
    /// What a payload has to be, for the error if it is something else.
    const EXPECTED: &'static str;

    /// Takes the value of one key.
    fn take<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error>;
}

/// Reads a message.
///
/// # Errors
/// A sentence for the client: it is not JSON, or not an object.
pub(super) fn read<'de, K: Keys<'de>>(payload: &'de [u8]) -> Result<K, String> {
    let mut json = serde_json::Deserializer::from_slice(payload);
    let keys = json.deserialize_map(KeysVisitor(PhantomData)).and_then(|keys| json.end().map(|()| keys));
    keys.map_err(|error| {
        if !error.is_data() {
            return unreadable(&format!("it is not JSON ({error})"));
        }
        // Without the position in the payload, which is no help to people.
        let text = error.to_string();
        unreadable(text.rsplit_once(" at line ").map_or(&*text, |(text, _)| text))
    })
}

/// The sentence that tells a client what is wrong with its message.
pub(super) fn unreadable(fault: &str) -> String {
    format!("Can't read that message: {fault}.")
}

struct KeysVisitor<K>(PhantomData<K>);

impl<'de, K: Keys<'de>> Visitor<'de> for KeysVisitor<K> {
    type Value = K;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(K::EXPECTED)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<K, A::Error> {
        let mut keys = K::default();
        while let Some(Key(key)) = map.next_key()? {
            keys.take(&key, &mut map)?;
        }
        Ok(keys)
    }
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
