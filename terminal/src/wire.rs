//! The JSON of hi.v1, and of events: what arrives, as plain data. Pure.

use serde::{Deserialize, Serialize};

/// A place in a room's order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
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
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Frame {
    pub(crate) op: String,
    #[serde(rename = "Ref")]
    pub(crate) reference: u64,
    pub(crate) room: String,
    pub(crate) epoch: Option<String>,
    pub(crate) seq: Option<u64>,
    // Of an answer.
    pub(crate) recovered: bool,
    /// A number, or a list of names.
    pub(crate) users: Users,
    pub(crate) count: Option<u64>,
    pub(crate) code: String,
    pub(crate) temporary: bool,
    // Of `hello`.
    pub(crate) user: String,
    pub(crate) resume: String,
    pub(crate) limits: Limits,
    /// Seconds between two pings of the server.
    pub(crate) ping: u64,
    // Of a message or a notice.
    pub(crate) from: String,
    pub(crate) message: String,
    pub(crate) meta: bool,
    pub(crate) event: String,
    pub(crate) ts: Option<u64>,
    pub(crate) joined: u64,
    pub(crate) left: u64,
    pub(crate) joined_users: Vec<String>,
    pub(crate) left_users: Vec<String>,
    pub(crate) from_seq: Option<u64>,
    pub(crate) to_seq: Option<u64>,
}

impl Frame {
    /// Its position, if it has one.
    pub(crate) fn position(&self) -> Option<Position> {
        Some(Position { epoch: self.epoch.clone()?, seq: self.seq? })
    }
}

/// Who is in a room.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Users {
    Count(u64),
    Names(Vec<String>),
}

impl Default for Users {
    fn default() -> Self {
        Self::Count(0)
    }
}

/// What the server takes; 0: no limit.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Limits {
    /// Bytes of a message.
    pub(crate) message: usize,
    /// Messages a second.
    pub(crate) rate: u32,
}

/// A request.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Request<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) op: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) room: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) since: Option<&'a Position>,
    #[serde(rename = "Ref")]
    pub(crate) reference: u64,
}

impl Request<'_> {
    pub(crate) fn json(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers are JSON")
    }
}
