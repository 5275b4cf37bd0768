//! `hi.v1`: a client's requests as commands, and the answers and errors as frames.
//!
//! Clients send the object of v0 with `Op`, and a `Ref` that the answer repeats. Broadcasts are those of v0: see
//! [`super::broadcast`].

use std::borrow::Cow;

use bytes::Bytes;
use serde::Serialize;

use crate::frame::OpCode;
use crate::frame::encode::FrameWriter;
use crate::protocol::position::{Epoch, Since};
use crate::words::words;

mod parse;

pub use parse::parse;

/// The name in `Sec-WebSocket-Protocol`.
pub(crate) const SUBPROTOCOL: &str = "hi.v1";

/// `Ref`: chosen by the client, repeated as it came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Ref<'a> {
    /// A string.
    Text(Cow<'a, str>),
    /// An integer that fits 64 bits, with or without a sign.
    Integer(i128),
}

impl Ref<'_> {
    /// A copy that may be kept.
    pub(crate) fn to_static(&self) -> Ref<'static> {
        match self {
            Self::Text(text) => Ref::Text(Cow::Owned(text.to_string())),
            Self::Integer(number) => Ref::Integer(*number),
        }
    }
}

/// One message of a client.
#[derive(Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// Repeated in the answer; known even if the rest could not be read.
    pub reference: Option<Ref<'a>>,
    /// What is asked for.
    pub command: Result<Command<'a>, RequestFault>,
}

/// A client's request. Rooms are as they arrived, not checked.
#[derive(Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// Tell all members.
    Publish {
        /// The room that it is for.
        room: Cow<'a, str>,
        /// The text; a slash has no meaning here.
        message: Cow<'a, str>,
    },
    /// Join, or rejoin after a reconnect.
    Join {
        /// The room to join.
        room: Cow<'a, str>,
        /// The client's position in the room.
        since: Option<Since>,
    },
    /// Leave this room.
    Leave(Cow<'a, str>),
    /// Asks for the users of this room.
    Who(Cow<'a, str>),
    /// Asks for the names of rooms that begin with this.
    Rooms(Cow<'a, str>),
    /// Asks for the server's time.
    Ping,
    /// Says who the user is, or renews a token before it expires.
    Auth(Cow<'a, str>),
}

/// Why a message is no command.
#[derive(Debug, PartialEq, Eq)]
pub enum RequestFault {
    /// Not JSON, not an object, or a key of the wrong type; three in a row close the connection.
    Unreadable(String),
    /// A key is missing, or has an unknown value.
    Meaningless(String),
}

words! {
    /// `Code` of an error, as it is on the wire.
    pub enum Code {
        /// Nobody is in that room.
        RoomNotFound = "room_not_found",
        /// A member of the room has the name.
        NameTaken = "name_taken",
        /// The connection is in as many rooms as it may be.
        TooManyRooms = "too_many_rooms",
        /// The connection is not in that room.
        NotJoined = "not_joined",
        /// Beyond the rate limit.
        TooManyRequests = "too_many_requests",
        /// The message can't be read, or is no request.
        BadRequest = "bad_request",
        /// The log that several servers share can't be reached.
        Unavailable = "unavailable",
        /// The token does not allow it, or is refused.
        Denied = "denied",
    }
}

impl Code {
    /// Whether the same request may succeed a moment later.
    pub(crate) fn is_temporary(self) -> bool {
        matches!(self, Self::TooManyRequests | Self::Unavailable)
    }
}

/// An error to answer with.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    pub(crate) code: Code,
    pub(crate) message: String,
}

impl Refusal {
    /// A refusal with this sentence.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// The answer to the request with this `Ref`.
    pub fn frame(&self, reference: Option<&Ref<'_>>) -> Bytes {
        #[derive(Serialize)]
        #[serde(rename_all = "PascalCase")]
        struct Error<'a> {
            code: &'static str,
            message: &'a str,
            temporary: bool,
        }
        let (code, temporary) = (self.code.as_str(), self.code.is_temporary());
        encode(&Tagged { op: "err", reference, body: Error { code, message: &self.message, temporary } })
    }
}

/// The first frame of a connection.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Hello<'a> {
    pub(crate) op: &'static str,
    /// The connection, as this server's log knows it.
    pub(crate) client: String,
    pub(crate) user: &'a str,
    /// Seconds between two WebSocket pings.
    pub(crate) ping: u64,
    pub(crate) instance: &'a str,
    pub(crate) version: &'static str,
    /// What the client may send.
    pub(crate) limits: Limits,
    /// The secret with which a new connection takes the name over.
    pub(crate) resume: String,
    /// Seconds until the token expires.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expires: Option<u64>,
}

/// The limits of a connection, so that a client can keep to them; 0 is no limit.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Limits {
    /// Bytes of a message: the payload of its WebSocket frames, added up.
    pub(crate) message: usize,
    /// Rooms that the connection may be in at once.
    pub(crate) rooms: u32,
    pub(crate) rate: u32,
}

impl Hello<'_> {
    pub(crate) fn frame(&self) -> Bytes {
        encode(self)
    }
}

/// A positive answer: `Op` is `ok`, and the other keys depend on the request.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Answer<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    room: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<Epoch>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recovered: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    users: Option<Users<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rooms: Option<Vec<RoomEntry<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<usize>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    partial: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<u64>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Users<'a> {
    Count(usize),
    List(Vec<&'a str>),
}

/// A room in the answer to `rooms`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct RoomEntry<'a> {
    /// Its name.
    pub room: &'a str,
    /// Users in it.
    pub users: usize,
}

impl<'a> Answer<'a> {
    /// To `pub`: the place that the message got.
    pub(crate) fn published(room: &'a str, epoch: u64, seq: u64) -> Self {
        Self { room: Some(room), epoch: Some(Epoch(epoch)), seq: Some(seq), ..Self::default() }
    }

    /// To `join`: the frames after `seq` follow.
    pub(crate) fn joined(room: &'a str, epoch: u64, seq: u64, recovered: Option<bool>, users: usize) -> Self {
        Self { recovered, users: Some(Users::Count(users)), ..Self::published(room, epoch, seq) }
    }

    /// To `auth`: the token is accepted, and expires after this many seconds.
    pub(crate) fn identified(expires: Option<u64>) -> Self {
        Self { expires, ..Self::default() }
    }

    pub(crate) fn left(room: &'a str) -> Self {
        Self { room: Some(room), ..Self::default() }
    }

    /// To `who`: the list may be cut, the count is exact. `partial`: users of other servers are counted, and not listed.
    pub fn who(room: &'a str, users: Vec<&'a str>, count: usize, partial: bool) -> Self {
        Self { room: Some(room), users: Some(Users::List(users)), count: Some(count), partial, ..Self::default() }
    }

    /// To `rooms`: likewise.
    pub fn rooms(rooms: Vec<RoomEntry<'a>>, count: usize) -> Self {
        Self { rooms: Some(rooms), count: Some(count), ..Self::default() }
    }

    /// The frame.
    pub fn frame(&self, reference: Option<&Ref<'_>>) -> Bytes {
        encode(&Tagged { op: "ok", reference, body: self })
    }
}

/// What a client gets instead of `hello` whose handshake had no token, where there has to be one.
pub(crate) fn token_wanted() -> Bytes {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Wanted {
        message: &'static str,
    }
    let message = "This server asks for a token: send {\"Op\":\"auth\",\"Token\":...}.";
    encode(&Tagged { op: "auth", reference: None, body: Wanted { message } })
}

/// The answer to `ping`; the time in ms since 1970.
pub(crate) fn pong(reference: Option<&Ref<'_>>, unix_ms: u64) -> Bytes {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Pong {
        ts: u64,
    }
    encode(&Tagged { op: "pong", reference, body: Pong { ts: unix_ms } })
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Tagged<'a, B: Serialize> {
    op: &'static str,
    #[serde(rename = "Ref", skip_serializing_if = "Option::is_none")]
    reference: Option<&'a Ref<'a>>,
    #[serde(flatten)]
    body: B,
}

fn encode(body: &impl Serialize) -> Bytes {
    let mut frame = FrameWriter::with_capacity(256);
    serde_json::to_writer(&mut frame.bytes, body).expect("strings and numbers are JSON, memory takes them");
    frame.finish(OpCode::Text)
}

#[cfg(test)]
mod tests;
