//! The JSON of hi.v1, and of events: what arrives, as plain data. Pure.

use serde_json::{Value, json};

/// A place in a room's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) epoch: String,
    pub(crate) seq: u64,
}

impl Position {
    /// From the `id` of an event.
    pub(crate) fn parse(id: &str) -> Option<Self> {
        let (epoch, seq) = id.split_once(':')?;
        Some(Self { epoch: epoch.to_owned(), seq: seq.parse().ok()? })
    }
}

/// Any frame of the server: which keys it has depends on its `Op` and its `Event`.
#[derive(Debug)]
pub(crate) struct Frame(Value);

impl Frame {
    /// A frame, if it is an object.
    pub(crate) fn parse(json: &str) -> Option<Self> {
        serde_json::from_str(json).ok().filter(Value::is_object).map(Self)
    }

    /// The text of a key; empty if there is none.
    pub(crate) fn text(&self, key: &str) -> &str {
        self.0[key].as_str().unwrap_or_default()
    }

    /// The number of a key.
    pub(crate) fn number(&self, key: &str) -> Option<u64> {
        self.0[key].as_u64()
    }

    pub(crate) fn is_true(&self, key: &str) -> bool {
        self.0[key] == true
    }

    /// The names in a list.
    pub(crate) fn names(&self, key: &str) -> Vec<String> {
        let names = self.0[key].as_array().into_iter().flatten();
        names.filter_map(|name| name.as_str().map(str::to_owned)).collect()
    }

    /// A limit of `hello`; 0: none.
    pub(crate) fn limit(&self, key: &str) -> u64 {
        self.0["Limits"][key].as_u64().unwrap_or_default()
    }

    /// Its position, if it has one.
    pub(crate) fn position(&self) -> Option<Position> {
        let (epoch, seq) = (self.0["Epoch"].as_str()?.to_owned(), self.number("Seq")?);
        Some(Position { epoch, seq })
    }
}

/// A request; `op` is empty for a message.
pub(crate) fn request(op: &str, keys: &[(&str, &str)], since: Option<&Position>, reference: u64) -> String {
    let mut request = json!({"Ref": reference});
    for (key, text) in [("Op", op)].iter().chain(keys).filter(|(_, text)| !text.is_empty()) {
        request[*key] = (*text).into();
    }
    if let Some(Position { epoch, seq }) = since {
        request["Since"] = json!({"Epoch": epoch, "Seq": seq});
    }
    request.to_string()
}
