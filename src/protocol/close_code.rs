//! Why hi closes a connection: the codes of the wire (RFC 6455, 7.4, and our own from 4000) and their texts.

use std::borrow::Cow;
use std::fmt;

/// A reason to close, with its code.
#[derive(Clone, Copy)]
pub(crate) enum CloseReason<'a> {
    /// The server stops (1001).
    GoingAway,
    /// The server stops, and a client of v1 should reconnect after this time (1012).
    Restart {
        /// Milliseconds, different for each client.
        retry_ms: u64,
    },
    /// The peer violated the WebSocket protocol, or sent too much (1002, 1007, 1009).
    Violation(u16, &'a dyn fmt::Display),
    /// A binary message in chat (1003).
    BinaryInChat,
    /// Three messages in a row that could not be read (1007).
    Unreadable,
    /// A message to a raw room while clients may only listen (1008).
    ListenOnly,
    /// Too many bytes from a listener to server-sent events (1008).
    ListenerSpeaks,
    /// The operator disconnected it, for this reason (1008).
    Disconnected(&'a str),
    /// Its name is taken in the room of its address (4002).
    NameTaken,
    /// A newer connection of the same client has its name (4003).
    TakenOver,
    /// It reads too slowly to be kept (4101).
    TooSlow,
    /// It sends requests and doesn't read the answers (4101).
    RepliesUnread,
    /// The memory budget is used up, and its incomplete message took the most (1013).
    OutOfMemory,
    /// It kept exceeding the rate limit (4102).
    RateLimit,
}

impl CloseReason<'_> {
    pub(crate) fn code(&self) -> u16 {
        match self {
            Self::GoingAway => 1001,
            Self::Restart { .. } => 1012,
            Self::Violation(code, _) => *code,
            Self::BinaryInChat => 1003,
            Self::Unreadable => 1007,
            Self::ListenOnly | Self::ListenerSpeaks | Self::Disconnected(_) => 1008,
            Self::OutOfMemory => 1013,
            Self::NameTaken => 4002,
            Self::TakenOver => 4003,
            Self::TooSlow | Self::RepliesUnread => 4101,
            Self::RateLimit => 4102,
        }
    }

    /// The sentence that goes with it, at most 123 bytes.
    pub(crate) fn text(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::GoingAway => "the server stops; come back in 1 to 30 seconds",
            Self::Restart { retry_ms } => return Cow::Owned(format!("{{\"retry_ms\":{retry_ms}}}")),
            Self::Violation(_, violation) => return Cow::Owned(violation.to_string()),
            Self::BinaryInChat => "chat takes text messages only; binary ones go to /raw/ROOM",
            Self::Unreadable => "three messages in a row could not be read as JSON objects",
            Self::ListenOnly => "this server's raw rooms are for listening only (--raw listen)",
            Self::ListenerSpeaks => "a stream is there to be read; messages go through /ws",
            Self::Disconnected(reason) => return Cow::Owned((*reason).to_owned()),
            Self::NameTaken => "that name is taken in this room; pick another",
            Self::TakenOver => "a newer connection of yours has taken over",
            Self::TooSlow => "too slow: messages were lost; come back",
            Self::RepliesUnread => "too slow: the replies to you are not being read",
            Self::OutOfMemory => "the server is short of memory for half-sent messages; try again later",
            Self::RateLimit => "over the rate limit for 10 seconds; slow down and come back",
        })
    }

    /// Whether the peer may not answer our Close properly, or its input can't be decoded any more: see
    /// [`State::Lingering`](crate::connection::State::Lingering).
    pub(crate) fn peer_broke_protocol(&self) -> bool {
        matches!(self, Self::Violation(..) | Self::OutOfMemory)
    }
}
