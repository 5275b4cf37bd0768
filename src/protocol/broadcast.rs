//! What goes to every member of a chat room: one JSON text frame, encoded once, valid in every dialect.

use std::io::Write;

use bytes::Bytes;
use serde::Serialize;

use crate::frame::OpCode;
use crate::frame::encode::FrameWriter;
use crate::protocol::name::Name;
use crate::protocol::notice::{Event, Folded, Notice};
use crate::protocol::position::Epoch;

/// Bytes of the keys around the texts, and of what [`Unnumbered::number`] adds.
const KEYS_BYTES: usize = 160;

/// A broadcast without its position in the room's order, so that little is left to write under the room's lock.
#[derive(Debug)]
pub struct Unnumbered(FrameWriter);

impl Unnumbered {
    /// A message of `user` in `room`.
    pub fn message(user: &str, room: &str, text: &str) -> Self {
        Self::begin(user, room, text, false)
    }

    /// A notice of the room itself, which now has `users` users.
    pub(crate) fn notice(room: &str, notice: &Notice, users: usize) -> Self {
        let mut message = Self::begin(&format!("#{room}"), room, &notice.text, true);
        message.write(format_args!(",\"Event\":\"{}\"", notice.event.as_str()));
        match &notice.event {
            Event::Join(user) | Event::Leave(user) => {
                message.write(format_args!(",\"User\":"));
                message.write_json(user.as_str());
            }
            Event::Presence { joined, left } => {
                message.write(format_args!(",\"Joined\":{},\"Left\":{}", joined.count, left.count));
            }
        }
        message.write(format_args!(",\"Users\":{users}"));
        if let Event::Presence { joined, left } = &notice.event {
            message.write_names("JoinedUsers", joined);
            message.write_names("LeftUsers", left);
        }
        message
    }

    /// Adds `Seq`, `Epoch` and `Ts` (ms since 1970) and closes the frame.
    pub fn number(mut self, seq: u64, epoch: u64, unix_ms: u64) -> Bytes {
        self.write(format_args!(",\"Seq\":{seq},\"Epoch\":\"{}\",\"Ts\":{unix_ms}}}", Epoch(epoch)));
        self.0.finish(OpCode::Text)
    }

    /// Bytes of [`Unnumbered::into_json`].
    pub(crate) fn len(&self) -> usize {
        self.0.payload_len()
    }

    /// What is there so far: one line of JSON without its end.
    pub fn into_json(self) -> String {
        String::from_utf8(self.0.into_payload()).expect("JSON is UTF-8")
    }

    /// The same, as it was before [`Unnumbered::into_json`].
    pub fn from_json(json: &str) -> Self {
        let mut message = Self(FrameWriter::with_capacity(KEYS_BYTES + json.len()));
        message.0.bytes.extend_from_slice(json.as_bytes());
        message
    }

    /// The four keys of 2017, in their order; the object stays open for newer ones.
    fn begin(from: &str, room: &str, text: &str, meta: bool) -> Self {
        let mut message =
            Self(FrameWriter::with_capacity(KEYS_BYTES + from.len() + room.len() + text.len() + text.len() / 8));
        for (key, value) in [("{\"From\":", from), (",\"Room\":", room), (",\"Message\":", text)] {
            message.write(format_args!("{key}"));
            message.write_json(value);
        }
        message.write(format_args!(",\"Meta\":{meta}"));
        message
    }

    fn write_names(&mut self, key: &str, users: &Folded) {
        self.write(format_args!(",\"{key}\":"));
        self.write_json(&users.first.iter().map(Name::as_str).collect::<Vec<_>>());
    }

    fn write(&mut self, text: std::fmt::Arguments<'_>) {
        self.0.bytes.write_fmt(text).expect("writing to memory");
    }

    fn write_json(&mut self, value: &(impl Serialize + ?Sized)) {
        serde_json::to_writer(&mut self.0.bytes, value).expect("strings are JSON, memory takes them");
    }
}

/// A system message to one connection, outside any room's order. `from` is `hi`, or `#ROOM` for the answer of a room.
pub fn to_one(from: &str, room: &str, text: &str) -> Bytes {
    let mut message = Unnumbered::begin(from, room, text, true);
    message.write(format_args!("}}"));
    message.0.finish(OpCode::Text)
}

/// The notice that frames were lost to a slow reader: `Seq` from `first` to `last`, both inclusive.
pub(crate) fn gap(room: &str, first: u64, last: u64, epoch: u64) -> Bytes {
    let count = last - first + 1;
    let text = format!("You missed {count} message{}.", if count == 1 { "" } else { "s" });
    let mut message = Unnumbered::begin(&format!("#{room}"), room, &text, true);
    let epoch = Epoch(epoch);
    message.write(format_args!(",\"Event\":\"gap\",\"FromSeq\":{first},\"ToSeq\":{last},\"Epoch\":\"{epoch}\"}}"));
    message.0.finish(OpCode::Text)
}

/// The notice of a gap of unknown length: the client's epoch is not this room's.
pub(crate) fn gap_of_unknown_length(room: &str, epoch: u64) -> Bytes {
    let text = "You may have missed messages; nobody knows how many.";
    let mut message = Unnumbered::begin(&format!("#{room}"), room, text, true);
    message.write(format_args!(",\"Event\":\"gap\",\"Epoch\":\"{}\"}}", Epoch(epoch)));
    message.0.finish(OpCode::Text)
}

/// The notice to one client that the servers of its rooms can't reach each other, or can again.
pub(crate) fn reachability(is_away: bool) -> Bytes {
    let (text, event) = match is_away {
        true => ("The servers can't reach each other: messages wait.", "away"),
        false => ("The servers reach each other again.", "back"),
    };
    let mut message = Unnumbered::begin("hi", "", text, true);
    message.write(format_args!(",\"Event\":\"{event}\"}}"));
    message.0.finish(OpCode::Text)
}

/// The notice to one client of v1 that the server stops, and when to reconnect.
pub(crate) fn drain(retry_ms: u64) -> Bytes {
    let text = format!("The server stops: come back in {} s.", retry_ms.div_ceil(1000));
    let mut message = Unnumbered::begin("hi", "", &text, true);
    message.write(format_args!(",\"Event\":\"drain\",\"RetryMs\":{retry_ms}}}"));
    message.0.finish(OpCode::Text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(frame: &Bytes) -> &str {
        let header = if frame[1] < 126 { 2 } else { 4 };
        std::str::from_utf8(&frame[header..]).unwrap()
    }

    #[test]
    fn keys_stand_in_the_order_of_the_wire() {
        let frame = Unnumbered::message("ann", "tea", "a \"b\" <c>\n").number(7, 0xab, 1_000);
        assert_eq!(
            json(&frame),
            r#"{"From":"ann","Room":"tea","Message":"a \"b\" <c>\n","Meta":false,"Seq":7,"Epoch":"00000000000000ab","Ts":1000}"#
        );
        let notice = Notice { event: Event::Join(Name::user("ann").unwrap()), text: "Welcome to tea, ann!".into() };
        assert_eq!(
            json(&Unnumbered::notice("tea", &notice, 3).number(8, 1, 2)),
            r##"{"From":"#tea","Room":"tea","Message":"Welcome to tea, ann!","Meta":true,"Event":"join","User":"ann","Users":3,"Seq":8,"Epoch":"0000000000000001","Ts":2}"##
        );
        let folded = |first: &[&str], count| Folded {
            first: first.iter().map(|name| Name::user(name).unwrap()).collect(),
            count,
        };
        let event = Event::Presence { joined: folded(&["a", "b", "C"], 4), left: folded(&["d\"e"], 1) };
        let notice = Notice { event, text: "...".into() };
        assert_eq!(
            json(&Unnumbered::notice("tea", &notice, 5).number(9, 1, 2)),
            r##"{"From":"#tea","Room":"tea","Message":"...","Meta":true,"Event":"presence","Joined":4,"Left":1,"Users":5,"JoinedUsers":["a","b","C"],"LeftUsers":["d\"e"],"Seq":9,"Epoch":"0000000000000001","Ts":2}"##
        );
    }

    #[test]
    fn system_messages_and_gaps() {
        assert_eq!(
            json(&to_one("hi", "", "room does not exist.")),
            r#"{"From":"hi","Room":"","Message":"room does not exist.","Meta":true}"#
        );
        assert_eq!(
            json(&gap("tea", 5, 124, 1)),
            r##"{"From":"#tea","Room":"tea","Message":"You missed 120 messages.","Meta":true,"Event":"gap","FromSeq":5,"ToSeq":124,"Epoch":"0000000000000001"}"##
        );
    }
}
