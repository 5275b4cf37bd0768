//! The fields of a JSON body, taken by name; errors name the field.

use serde_json::{Map, Value};

use super::call::ApiError;
use crate::protocol::surrogates::without_lone_surrogates;

/// The fields of a body that have not been taken yet.
#[derive(Debug)]
pub(crate) struct Fields {
    left: Map<String, Value>,
    /// The names of all fields that this address knows.
    known: Vec<&'static str>,
}

impl Fields {
    /// Reads a body.
    ///
    /// # Errors
    /// It is not a JSON object.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        match serde_json::from_slice(&without_lone_surrogates(body)) {
            Ok(Value::Object(left)) => Ok(Self { left, known: Vec::new() }),
            Ok(_) => Err(ApiError::bad_request("The body has to be a JSON object, in braces.")),
            Err(error) => Err(ApiError::bad_request(format!("The body is not JSON: {error}."))),
        }
    }

    /// Takes a required string.
    ///
    /// # Errors
    /// It is missing, or something else.
    pub(crate) fn string(&mut self, name: &'static str) -> Result<String, ApiError> {
        self.optional_string(name)?.ok_or_else(|| missing(name, "a string"))
    }

    /// Takes a string that may be missing or null.
    ///
    /// # Errors
    /// It is something else.
    pub(crate) fn optional_string(&mut self, name: &'static str) -> Result<Option<String>, ApiError> {
        match self.take(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong(name, &other, "a string")),
        }
    }

    /// Takes a required list of strings.
    ///
    /// # Errors
    /// It is missing, or something else.
    pub(crate) fn strings(&mut self, name: &'static str) -> Result<Vec<String>, ApiError> {
        let list = match self.take(name) {
            None | Some(Value::Null) => return Err(missing(name, "a list of strings")),
            Some(Value::Array(list)) => list,
            Some(other) => return Err(wrong(name, &other, "a list of strings")),
        };
        let texts = list.into_iter().enumerate().map(|(index, value)| match value {
            Value::String(text) => Ok(text),
            other => Err(wrong(&format!("{name}[{index}]"), &other, "a string")),
        });
        texts.collect()
    }

    /// Refuses fields that were not taken: a misspelt one must not be ignored.
    ///
    /// # Errors
    /// The body has an unknown field.
    pub(crate) fn finish(self) -> Result<(), ApiError> {
        match self.left.keys().next() {
            None => Ok(()),
            Some(name) => {
                let name = name.escape_debug();
                let known = self.known.join(", ");
                Err(ApiError::bad_request(format!("{name}: there is no such field here; there are {known}.")))
            }
        }
    }

    fn take(&mut self, name: &'static str) -> Option<Value> {
        self.known.push(name);
        self.left.remove(name)
    }
}

fn missing(name: &str, expected: &str) -> ApiError {
    ApiError::bad_request(format!("{name}: it is missing; give {expected}."))
}

fn wrong(name: &str, found: &Value, expected: &str) -> ApiError {
    let found = match found {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    ApiError::bad_request(format!("{name}: it is {found}; give {expected}."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn said<T: std::fmt::Debug>(result: Result<T, ApiError>) -> String {
        let error = result.expect_err("refused");
        assert_eq!((error.status, error.code, error.temporary), (400, "bad_request", false));
        error.message
    }

    #[test]
    fn errors_name_the_field() {
        assert!(said(Fields::parse(b"[1]")).contains("object"));
        assert!(said(Fields::parse(b"{")).contains("not JSON"));
        assert!(said(Fields::parse(b"\xff")).contains("not JSON"));
        let fields = || Fields::parse(br#"{"a": 1, "b": ["x", 2], "c": "y", "d": null}"#).unwrap();
        assert_eq!(said(fields().string("a")), "a: it is a number; give a string.");
        assert_eq!(said(fields().string("d")), "d: it is missing; give a string.");
        assert_eq!(said(fields().strings("b")), "b[1]: it is a number; give a string.");
        assert_eq!(said(fields().strings("c")), "c: it is a string; give a list of strings.");
        assert_eq!((fields().string("c").unwrap(), fields().optional_string("d").unwrap()), ("y".to_owned(), None));
        let cut = Fields::parse(br#"{"c": "cut \ud83d"}"#).unwrap().string("c");
        assert_eq!(cut.unwrap(), "cut \u{fffd}", "JSON.stringify writes half a character so");
        let mut fields = Fields::parse(br#"{"room": "r", "mesage": ""}"#).unwrap();
        fields.string("room").unwrap();
        assert_eq!(said(fields.finish()), "mesage: there is no such field here; there are room.");
    }

    proptest! {
        #[test]
        fn any_body_is_read_or_refused(body in prop::collection::vec(any::<u8>(), 0..100), json in "[\\[{}\\]\",:a0]{0,40}") {
            for body in [&body[..], json.as_bytes()] {
                if let Ok(mut fields) = Fields::parse(body) {
                    let _ = (fields.optional_string("a"), fields.strings("0"), fields.finish());
                }
            }
        }
    }
}
