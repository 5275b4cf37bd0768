//! What is published, and how a member finds it in what it gets.

use clap::ValueEnum;
use rustix::time::{ClockId, clock_gettime};

use crate::frames::masked;

/// Bytes of a message's text.
const TEXT_BYTES: usize = 128;
/// What a message's number and time begin with.
const NUMBER: &[u8] = b"number-";
const DUE: &[u8] = b"due-";

/// What members and publishers speak: hi.v1, or nothing but payloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Dialect {
    Chat,
    Raw,
}

impl Dialect {
    /// A member's handshake: its path, and a further line of the request.
    pub(crate) fn handshake(self, room: &str, member: usize) -> (String, &'static str) {
        match self {
            Self::Chat => (format!("/ws?username=m{member}"), "Sec-WebSocket-Protocol: hi.v1\r\n"),
            Self::Raw => (format!("/raw/{room}"), ""),
        }
    }

    /// What a member sends to join the room, and is answered with `"Ref":0`. A raw member has joined already.
    pub(crate) fn join(self, room: &str) -> Option<Vec<u8>> {
        let request = format!(r#"{{"Op":"join","Ref":0,"Room":"{room}"}}"#);
        (self == Self::Chat).then(|| masked(1, request.as_bytes()))
    }

    /// A message as its publisher sends it.
    pub(crate) fn frame(self, room: &str, message: Message) -> Vec<u8> {
        let Message { number, due } = message;
        let mut text = format!("number-{number} due-{due} ");
        text.extend(std::iter::repeat_n('x', TEXT_BYTES - text.len()));
        match self {
            Self::Chat => {
                let request = format!(r#"{{"Op":"pub","Ref":1,"Room":"{room}","Message":"{text}"}}"#);
                masked(1, request.as_bytes())
            }
            Self::Raw => masked(1, text.as_bytes()),
        }
    }
}

/// A message that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) number: u64,
    /// When it is due: [`now`] at that time.
    pub(crate) due: u64,
}

impl Message {
    /// The message in what a member got. Notices are none.
    pub(crate) fn find(payload: &[u8]) -> Option<Self> {
        Some(Self { number: after(payload, NUMBER)?, due: after(payload, DUE)? })
    }
}

/// The number after `mark`.
fn after(payload: &[u8], mark: &[u8]) -> Option<u64> {
    let at = payload.windows(mark.len()).position(|window| window == mark)? + mark.len();
    let digits = payload[at..].iter().take_while(|byte| byte.is_ascii_digit());
    Some(digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

/// Nanoseconds of the clock that all processes of this machine share.
pub(crate) fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
