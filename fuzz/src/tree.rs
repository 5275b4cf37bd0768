//! JSON as written: serde_json's own parser, but without merging duplicate keys.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// A value, as far as the dialects distinguish them.
#[derive(Debug)]
pub(crate) enum Tree {
    Null,
    Boolean,
    Signed(i64),
    Unsigned(u64),
    Number,
    Text(String),
    Array,
    Object(Vec<(String, Tree)>),
}

impl Tree {
    /// The members of a JSON object; `None` if the payload isn't one.
    pub(crate) fn members(payload: &[u8]) -> Option<Vec<(String, Self)>> {
        match serde_json::from_slice(payload) {
            Ok(Self::Object(members)) => Some(members),
            _ => None,
        }
    }

    pub(crate) fn is_text_or_null(&self) -> bool {
        matches!(self, Self::Text(_) | Self::Null)
    }

    pub(crate) fn is_boolean_or_null(&self) -> bool {
        matches!(self, Self::Boolean | Self::Null)
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Tree, E> {
        Ok(Tree::Boolean)
    }

    fn visit_i64<E>(self, number: i64) -> Result<Tree, E> {
        Ok(Tree::Signed(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Tree, E> {
        Ok(Tree::Unsigned(number))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Tree, E> {
        Ok(Tree::Number)
    }

    fn visit_str<E>(self, text: &str) -> Result<Tree, E> {
        Ok(Tree::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Tree, A::Error> {
        while items.next_element::<Tree>()?.is_some() {}
        Ok(Tree::Array)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Tree::Object(members))
    }
}
