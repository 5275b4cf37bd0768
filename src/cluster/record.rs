//! Records of a chat room in the log: what they carry, and the names that rooms have there. Pure.
//!
//! The log counts the records of each room, and the count is the message's `Seq`. A record has two headers of ours: `H` says what
//! it is and who published it, `B` is the frame's JSON, still without `Seq`, `Epoch` and `Ts`.

use std::rc::Rc;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sha1::{Digest, Sha1};

use crate::frame::OpCode;
use crate::protocol::Namespace;
use crate::protocol::name::Name;
use crate::protocol::position::Epoch;
pub use crate::room::outward::Content;

/// Before the token of a raw room.
const RAW: char = '=';

/// Version of the headers: a node ignores records of another one.
const VERSION: &str = "1";

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A message or a notice: it has a `Seq`.
    Message,
    /// Keeps the count of a silent room alive; not shown, and not counted.
    Touch,
    /// A new life of the room begins after it; not shown, and not counted.
    Life,
    /// A message of a raw room, as text.
    Text,
    /// The same, as bytes.
    Binary,
}

impl Kind {
    const ALL: [(Self, &'static str); 5] =
        [(Self::Message, "m"), (Self::Touch, "t"), (Self::Life, "e"), (Self::Text, "x"), (Self::Binary, "b")];

    /// That of a raw message.
    pub fn of_raw(opcode: OpCode) -> Self {
        if opcode == OpCode::Text { Self::Text } else { Self::Binary }
    }

    /// How a raw message is sent on; `None` for all others.
    pub fn opcode(self) -> Option<OpCode> {
        match self {
            Self::Text => Some(OpCode::Text),
            Self::Binary => Some(OpCode::Binary),
            Self::Message | Self::Touch | Self::Life => None,
        }
    }

    fn as_str(self) -> &'static str {
        Self::ALL.into_iter().find_map(|(kind, word)| (kind == self).then_some(word)).expect("all kinds are listed")
    }

    /// Whether the log counts it.
    pub fn counts(self) -> bool {
        self == Self::Message
    }
}

/// The header `H`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heading {
    /// What it is.
    pub kind: Kind,
    /// What the publisher takes for the room's epoch; `None` if it doesn't know.
    pub epoch: Option<u64>,
    /// The node that published it,
    pub node: u64,
    /// and the number that it gave the record.
    pub number: u64,
}

impl Heading {
    /// The header's value.
    pub fn write(&self) -> String {
        let epoch = self.epoch_or_dash();
        format!("{VERSION};{};{epoch};{};{}", self.kind.as_str(), Epoch(self.node), self.number)
    }

    fn epoch_or_dash(&self) -> String {
        self.epoch.map_or_else(|| "-".to_owned(), |epoch| Epoch(epoch).to_string())
    }

    /// Reads exactly what [`Heading::write`] writes; `None` for any other text.
    pub fn read(value: &str) -> Option<Self> {
        let mut parts = value.strip_prefix(VERSION)?.strip_prefix(';')?.split(';');
        let (kind, epoch, node, number) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let heading = Self {
            kind: Kind::ALL.into_iter().find_map(|(found, word)| (word == kind).then_some(found))?,
            epoch: if epoch == "-" { None } else { Some(Epoch::parse(epoch)?) },
            node: Epoch::parse(node)?,
            number: number.parse().ok()?,
        };
        (heading.write() == value).then_some(heading)
    }

    /// What the log knows the record of this room by: it stores none that it knows already. All nodes that would begin the same life
    /// call its record the same, and only the first is stored, however late the others are. `lost`: a number of its own for
    /// the next one, if the log knows such a record and doesn't have it any more.
    pub fn message_id(&self, room: &str, lost: Option<u64>) -> String {
        match (self.kind, lost) {
            (Kind::Life, None) => format!("life-{room}-{}", self.epoch_or_dash()),
            (Kind::Life, Some(at)) => format!("life-{room}-{}-{at}", self.epoch_or_dash()),
            _ => format!("{:x}-{}", self.node, self.number),
        }
    }

    /// Distinguishes the record from all others.
    pub fn id(&self) -> (u64, u64) {
        (self.node, self.number)
    }

    /// The epoch of the life that begins with this record.
    pub fn epoch_begun(&self) -> u64 {
        let hash = Sha1::new().chain_update(self.node.to_be_bytes()).chain_update(self.number.to_be_bytes()).finalize();
        u64::from_be_bytes(*hash.first_chunk().expect("a hash has 20 bytes"))
    }
}

/// A record as the log gives it back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its position in the stream, which all rooms share.
    pub at: u64,
    /// The position of the room's record before it, if the log has said so.
    pub before: Option<u64>,
    /// The room's count with this record.
    pub value: u64,
    /// When the log stored it, in milliseconds since 1970.
    pub unix_ms: u64,
    /// What its publisher has said about it.
    pub heading: Heading,
    /// What is shown; of other records at most the room's name.
    pub content: Content,
}

impl Record {
    /// Whether the log counts from the beginning again: nothing of the room was there before.
    pub fn is_first(&self) -> bool {
        self.before == Some(0) && self.value == u64::from(self.heading.kind.counts())
    }
}

/// What the next record that begins a life is told apart by ([`Heading::message_id`]) when the log has not stored this one, number
/// `number`, because it knows one from position `at`. `before`: what this one was told apart by.
pub fn lost_life(before: Option<u64>, at: u64, number: u64) -> u64 {
    // A log that has forgotten its end may have used the position twice.
    if before == Some(at) { number } else { at }
}

/// What a room is called here: its token, behind a sign that no token has if it is raw.
pub fn key(namespace: Namespace, name: &Name) -> Rc<str> {
    join(namespace, &token(name)).into()
}

/// The same of a token.
pub fn join(namespace: Namespace, token: &str) -> String {
    match namespace {
        Namespace::Chat => token.to_owned(),
        Namespace::Raw => format!("{RAW}{token}"),
    }
}

/// The kind and the token of a room.
pub fn split(key: &str) -> (Namespace, &str) {
    key.strip_prefix(RAW).map_or((Namespace::Chat, key), |token| (Namespace::Raw, token))
}

/// The name of a room or a user as one token of a subject: names that are equal have the same one.
pub fn token(name: &Name) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(name.key())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::broadcast::Unnumbered;

    #[test]
    fn a_heading_has_one_form() {
        let heading = Heading { kind: Kind::Message, epoch: Some(0xab), node: 7, number: 12 };
        assert_eq!(heading.write(), "1;m;00000000000000ab;0000000000000007;12");
        let unknown = Heading { kind: Kind::Life, epoch: None, ..heading };
        assert_eq!(unknown.write(), "1;e;-;0000000000000007;12");
        for other in
            ["", "2;m;-;0000000000000007;1", "1;z;-;0000000000000007;1", "1;m;-;7;1", "1;m;-;0000000000000007;01"]
        {
            assert_eq!(Heading::read(other), None, "{other}");
        }
    }

    #[test]
    fn names_that_are_equal_have_one_token_and_the_longest_fit() {
        let room = |name: &str| token(&Name::room(name).unwrap());
        assert_eq!(room("Tea"), room("tea"));
        assert_ne!(room("tea"), room("milk"));
        assert_eq!(room(&"é".repeat(32)).len(), 86);
        let free = |token: &str| token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        assert!(free(&room("a.b*>ÿ?")), "no dot, no wildcard");
    }

    proptest! {
        #[test]
        fn headings_come_back(kind in 0..5usize, epoch: Option<u64>, node: u64, number: u64) {
            let heading = Heading { kind: Kind::ALL[kind].0, epoch, node, number };
            prop_assert_eq!(Heading::read(&heading.write()), Some(heading));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[1;mte0-9a-f-]{0,60}") {
            if let Some(heading) = Heading::read(&text) {
                prop_assert_eq!(heading.write(), text);
            }
        }

        #[test]
        fn the_json_of_a_message_fits_into_a_header(text in any::<String>(), user in "\\PC{1,20}") {
            let json = Unnumbered::message(&user, "tea", &text).into_json();
            prop_assert!(!json.contains(['\r', '\n']));
        }
    }
}
