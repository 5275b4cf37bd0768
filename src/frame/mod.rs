//! RFC 6455 frames as a server sees them: [`decode`] turns a client's bytes into messages and control frames,
//! [`encode`] turns payloads into bytes that every member of a room can share, and [`deflate`] compresses and decompresses
//! messages for clients that agree on it (RFC 7692).
//!
//! All are pure: bytes in, values out, no IO and no clock.

pub mod decode;
pub mod deflate;
pub mod encode;

/// The reserved bit that marks a compressed message, on its first frame (RFC 7692 section 6).
const RSV1: u8 = 0x40;

/// What a frame is (RFC 6455 section 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpCode {
    /// A further fragment of a message.
    Continuation = 0x0,
    /// A text message, or its first fragment.
    Text = 0x1,
    /// A binary message, or its first fragment.
    Binary = 0x2,
    /// The last frame of its sender.
    Close = 0x8,
    /// To be answered with a pong.
    Ping = 0x9,
    /// The answer to a ping, or a sign of life.
    Pong = 0xa,
}

impl OpCode {
    const ALL: [Self; 6] = [Self::Continuation, Self::Text, Self::Binary, Self::Close, Self::Ping, Self::Pong];

    /// The opcode with this number; `None` if the number is reserved.
    fn parse(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|opcode| *opcode as u8 == number)
    }

    /// Whether the frame may come between the fragments of a message (RFC 6455 section 5.5).
    fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}
