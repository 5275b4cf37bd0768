//! What a room tells, for whoever reads it. Pure.

use std::time::Duration;

use crate::wire::{Frame, Position};

/// One thing to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Message {
        from: String,
        text: String,
        /// In ms since 1970.
        time: Option<u64>,
        position: Option<Position>,
        is_own: bool,
    },
    Presence {
        joined: Vec<String>,
        left: Vec<String>,
        /// How many joined and left; the lists may be shorter.
        counts: (u64, u64),
        users: u64,
    },
    Notice {
        event: String,
        text: String,
    },
    /// Messages are missing here: `Seq` of the first and of the last, if that is known.
    Gap(Option<(u64, u64)>),
    /// The room is joined, or joined again.
    Connected {
        is_again: bool,
    },
    /// The connection is lost, and tried again after this time.
    Lost {
        reason: String,
        retry: Duration,
    },
    /// The server doesn't take this line.
    NotSent {
        text: String,
        why: String,
    },
    /// Who is in the room; the list may be shorter than the count.
    Users {
        names: Vec<String>,
        count: u64,
    },
    /// A word to the user.
    Hint(String),
}

/// A room's frames in their order, each once.
#[derive(Debug, Default)]
pub(crate) struct Feed {
    /// Of the last message.
    pub(crate) position: Option<Position>,
}

impl Feed {
    /// Takes a frame of the room; `own` is the reader's name.
    pub(crate) fn take(&mut self, frame: Frame, own: &str) -> Vec<Told> {
        let mut told = Vec::new();
        if frame.text("Event") == "gap" {
            let missing = frame.number("FromSeq").zip(frame.number("ToSeq"));
            if let Some((_, seq)) = missing {
                self.position = Some(Position { epoch: frame.text("Epoch").to_owned(), seq });
            }
            return vec![Told::Gap(missing)];
        }
        if let Some(position) = frame.position() {
            if let Some(before) = self.position.as_ref().filter(|before| before.epoch == position.epoch) {
                if position.seq <= before.seq {
                    return told;
                }
                if position.seq > before.seq + 1 {
                    told.push(Told::Gap(Some((before.seq + 1, position.seq - 1))));
                }
            }
            self.position = Some(position);
        }
        told.push(shown(&frame, own));
        told
    }
}

fn shown(frame: &Frame, own: &str) -> Told {
    let text = |key| frame.text(key).to_owned();
    let count = |key| frame.number(key).unwrap_or_default();
    if !frame.is_true("Meta") {
        let (from, position, time) = (text("From"), frame.position(), frame.number("Ts"));
        return Told::Message { is_own: from == own, from, text: text("Message"), time, position };
    }
    let (joined, left, counts) = match frame.text("Event") {
        "join" => (vec![text("User")], Vec::new(), (1, 0)),
        "leave" => (Vec::new(), vec![text("User")], (0, 1)),
        "presence" => (frame.names("JoinedUsers"), frame.names("LeftUsers"), (count("Joined"), count("Left"))),
        _ => return Told::Notice { event: text("Event"), text: text("Message") },
    };
    Told::Presence { joined, left, counts, users: count("Users") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(json: &str) -> Frame {
        Frame::parse(json).unwrap()
    }

    fn message(seq: u64) -> Frame {
        frame(&format!(
            r##"{{"From":"ada","Room":"tea","Message":"{seq}","Meta":false,"Seq":{seq},"Epoch":"e","Ts":5}}"##
        ))
    }

    #[test]
    fn each_message_comes_once_and_what_is_missing_is_told() {
        let mut feed = Feed::default();
        let texts = |told: Vec<Told>| -> Vec<String> {
            let text = |told| match told {
                Told::Message { text, .. } => text,
                Told::Gap(Some((from, to))) => format!("{from}-{to}"),
                other => format!("{other:?}"),
            };
            told.into_iter().map(text).collect()
        };
        assert_eq!(texts(feed.take(message(1), "bob")), ["1"]);
        assert_eq!(texts(feed.take(message(1), "bob")), [""; 0]);
        assert_eq!(texts(feed.take(message(4), "bob")), ["2-3", "4"]);
        let gap = frame(r##"{"From":"#tea","Meta":true,"Event":"gap","FromSeq":5,"ToSeq":9,"Epoch":"e"}"##);
        assert_eq!(texts(feed.take(gap, "bob")), ["5-9"]);
        assert_eq!(texts(feed.take(message(10), "bob")), ["10"]);
    }

    #[test]
    fn notices_are_told_by_their_fields() {
        let mut feed = Feed::default();
        let join = frame(r##"{"From":"#tea","Message":"Welcome","Meta":true,"Event":"join","User":"bob","Users":2}"##);
        let bob = vec!["bob".to_owned()];
        let expected = Told::Presence { joined: bob, left: Vec::new(), counts: (1, 0), users: 2 };
        assert_eq!(feed.take(join, "ada"), [expected]);
    }
}
