//! hi's subprotocol `hi.v1`, as far as a load generator speaks it: joining with a position, and what is said about
//! positions. Pure.

use memchr::memmem;
use serde_json::{Value, json};

use crate::printable::printable;

/// The name of the subprotocol.
pub const SUBPROTOCOL: &str = "hi.v1";

/// How far a client has got in its room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Within an epoch, numbers go on.
    pub epoch: u64,
    /// The number of the last message.
    pub seq: u64,
}

/// What a server says without a stamp.
#[derive(Debug, PartialEq, Eq)]
pub enum Word {
    /// The client is in its room, at this position; whether it gets everything since its own, if it asked for that.
    Joined(Position, Option<bool>),
    /// The room refuses the client, in words; `true` if it may be free soon.
    NotJoined(String, bool),
    /// The publisher's message with this number was accepted.
    Published(u32),
    /// It was not, or nobody knows, in words; without a number if the server names none.
    NotPublished(Option<u32>, String),
    /// A message of the room itself.
    Numbered(Position),
    /// Messages up to this one are missing, and how many.
    Gap(Position, u64),
    /// The numbers began anew, and nobody knows what is missing.
    Anew,
}

/// The request to join a room; `since` is for a client that was there before.
pub fn join(room: &str, since: Option<Position>) -> String {
    let mut request = json!({"Op": "join", "Ref": "join", "Room": room});
    if let Some(Position { epoch, seq }) = since {
        request["Since"] = json!({"Epoch": format!("{epoch:016x}"), "Seq": seq});
    }
    request.to_string()
}

/// The request to publish a text that JSON writes as it is, as the publisher's message `number`.
pub fn publish(room: &str, number: u32, text: &str) -> String {
    format!("{{\"Op\":\"pub\",\"Ref\":{number},\"Room\":\"{room}\",\"Message\":\"{text}\"}}")
}

/// The position of a message, whose beginning this is: it stands behind the text.
pub fn position(begin: &[u8]) -> Option<Position> {
    const BEFORE_EPOCH: &[u8] = b",\"Epoch\":\"";
    const BEFORE_SEQ: &[u8] = b",\"Seq\":";
    let rest = &begin[memmem::rfind(begin, BEFORE_SEQ)? + BEFORE_SEQ.len()..];
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (seq, rest) = rest.split_at(digits);
    let epoch = rest.strip_prefix(BEFORE_EPOCH)?.get(..16)?;
    let text = |bytes| std::str::from_utf8(bytes).ok();
    Some(Position { epoch: u64::from_str_radix(text(epoch)?, 16).ok()?, seq: text(seq)?.parse().ok()? })
}

/// What the server says with a message that has no stamp, if it concerns positions.
pub fn word(message: &[u8]) -> Option<Word> {
    let value: Value = serde_json::from_slice(message).ok()?;
    let epoch = value["Epoch"].as_str().and_then(|text| u64::from_str_radix(text, 16).ok());
    let at = |seq: &Value| Some(Position { epoch: epoch?, seq: seq.as_u64()? });
    let said = || {
        let part = |key: &str| printable(value[key].as_str().unwrap_or_default());
        format!("{} {}", part("Code"), part("Message"))
    };
    let number = value["Ref"].as_u64().and_then(|number| u32::try_from(number).ok());
    match (value["Op"].as_str(), value["Ref"] == "join", value["Event"].as_str()) {
        (Some("ok"), true, _) => Some(Word::Joined(at(&value["Seq"])?, value["Recovered"].as_bool())),
        (Some("err"), true, _) => {
            // The server of the client's last connection may not know yet that it has ended.
            let may_be_free_soon = value["Temporary"] == true || value["Code"] == "name_taken";
            Some(Word::NotJoined(said(), may_be_free_soon))
        }
        (Some("ok"), ..) => Some(Word::Published(number?)),
        (Some("err"), ..) => Some(Word::NotPublished(number, said())),
        (.., Some("gap")) => match (value["FromSeq"].as_u64(), at(&value["ToSeq"])) {
            (Some(from), Some(to)) => Some(Word::Gap(to, to.seq.saturating_add(1).saturating_sub(from))),
            _ => Some(Word::Anew),
        },
        _ => at(&value["Seq"]).map(Word::Numbered),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Position = Position { epoch: 0xab, seq: 7 };

    #[test]
    fn a_message_has_its_position_behind_its_text() {
        let message = br#"{"From":"ann","Room":"tea","Message":",\"Seq\":1,","Meta":false,"Seq":7,"Epoch":"00000000000000ab","Ts":1000}"#;
        assert_eq!((position(message), word(message)), (Some(AT), Some(Word::Numbered(AT))));
        for cut_off in [&message[..message.len() - 30], b"{\"Seq\":7}", b""] {
            assert_eq!(position(cut_off), None);
        }
    }

    #[test]
    fn what_a_server_says_about_a_room() {
        for (message, said) in [
            (r#"{"Op":"ok","Ref":"join","Room":"r","Epoch":"00000000000000ab","Seq":7}"#, Some(Word::Joined(AT, None))),
            (
                r#"{"Op":"ok","Ref":"join","Room":"r","Epoch":"00000000000000ab","Seq":7,"Recovered":true,"Users":3}"#,
                Some(Word::Joined(AT, Some(true))),
            ),
            (
                r#"{"Op":"err","Ref":"join","Code":"name_taken","Message":"no","Temporary":false}"#,
                Some(Word::NotJoined("name_taken no".into(), true)),
            ),
            (
                r#"{"Op":"err","Ref":"join","Code":"forbidden","Message":"no","Temporary":false}"#,
                Some(Word::NotJoined("forbidden no".into(), false)),
            ),
            (r#"{"Op":"ok","Ref":7,"Room":"r","Epoch":"00000000000000ab","Seq":9}"#, Some(Word::Published(7))),
            (
                r#"{"Op":"err","Ref":7,"Code":"unavailable","Message":"no"}"#,
                Some(Word::NotPublished(Some(7), "unavailable no".into())),
            ),
            (
                r#"{"Op":"err","Code":"bad_request","Message":"no"}"#,
                Some(Word::NotPublished(None, "bad_request no".into())),
            ),
            (
                r##"{"From":"#r","Room":"r","Event":"gap","FromSeq":5,"ToSeq":7,"Epoch":"00000000000000ab"}"##,
                Some(Word::Gap(AT, 3)),
            ),
            (r##"{"From":"#r","Room":"r","Event":"gap","Epoch":"00000000000000ab"}"##, Some(Word::Anew)),
            (r#"{"Op":"hello","Epoch":"x"}"#, None),
            ("tea", None),
        ] {
            assert_eq!(word(message.as_bytes()), said, "{message}");
        }
    }

    #[test]
    fn a_client_that_was_there_before_says_how_far_it_got() {
        let asked = |since| serde_json::from_str::<Value>(&join("r", since)).unwrap()["Since"].take();
        assert_eq!(asked(None), Value::Null);
        assert_eq!(asked(Some(AT)), json!({"Epoch": "00000000000000ab", "Seq": 7}));
        let published = serde_json::from_str::<Value>(&publish("r", 7, "x")).unwrap();
        assert_eq!(published, json!({"Op": "pub", "Ref": 7, "Room": "r", "Message": "x"}));
    }
}
