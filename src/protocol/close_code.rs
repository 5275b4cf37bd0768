//! Why hi closes a connection: the codes of the wire (RFC 6455, 7.4, and our own from 4000) and their texts.

use std::borrow::Cow;
use std::fmt;

use crate::limits::CLOSE_REASON_BYTES_MAX;

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
    /// It has not shown who it is, or may not be in the room of its address, for this reason (4001).
    Unidentified(&'a str),
    /// Its token has expired (4004).
    TokenExpired,
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
    /// The log that several servers share can't be reached, so it can't join its room (1013).
    Unavailable,
    /// It kept exceeding the rate limit (4102).
    RateLimit,
}

impl CloseReason<'_> {
    pub(crate) fn code(&self) -> u16 {
        self.code_and_text().0
    }

    /// The sentence that goes with it, at most 123 bytes.
    pub(crate) fn text(&self) -> Cow<'_, str> {
        self.code_and_text().1
    }

    fn code_and_text(&self) -> (u16, Cow<'_, str>) {
        let (code, text) = match self {
            Self::GoingAway => (1001, "the server stops; come back in 1 to 30 seconds"),
            Self::Restart { retry_ms } => return (1012, format!("{{\"retry_ms\":{retry_ms}}}").into()),
            Self::Violation(code, violation) => return (*code, violation.to_string().into()),
            Self::BinaryInChat => (1003, "chat takes text messages only; binary ones go to /raw/ROOM"),
            Self::Unreadable => (1007, "three messages in a row could not be read as JSON objects"),
            Self::ListenOnly => (1008, "this server's raw rooms are for listening only (--raw listen)"),
            Self::ListenerSpeaks => (1008, "a stream is there to be read; messages go through /ws"),
            Self::Disconnected(reason) => (1008, *reason),
            Self::Unidentified(why) => (4001, fitting(why)),
            Self::TokenExpired => (4004, "your token has expired; get a new one and come back"),
            Self::NameTaken => (4002, "that name is taken in this room; pick another"),
            Self::TakenOver => (4003, "a newer connection of yours has taken over"),
            Self::TooSlow => (4101, "too slow: messages were lost; come back"),
            Self::RepliesUnread => (4101, "too slow: the replies to you are not being read"),
            Self::OutOfMemory => (1013, "the server is short of memory for half-sent messages; try again later"),
            Self::Unavailable => (1013, "the servers can't reach each other; try again later"),
            Self::RateLimit => (4102, "over the rate limit for 10 seconds; slow down and come back"),
        };
        (code, text.into())
    }

    /// Whether the peer may not answer our Close properly, or its input can't be decoded any more: see
    /// [`State::Lingering`](crate::connection::State::Lingering).
    pub(crate) fn peer_broke_protocol(&self) -> bool {
        matches!(self, Self::Violation(..) | Self::OutOfMemory)
    }
}

/// As much of a sentence as a Close may carry.
fn fitting(text: &str) -> &str {
    let mut end = text.len().min(CLOSE_REASON_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
