//! The opcodes of RFC 6455 (section 5.2), and the mask of a client's payload (section 5.3).

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum OpCode {
    /// A further part of a fragmented message.
    Continuation = 0x0,
    /// A message in UTF-8, or the first part of one.
    Text = 0x1,
    /// A message of bytes, or the first part of one.
    Binary = 0x2,
    /// The end of the connection, with a code and a reason.
    Close = 0x8,
    /// Asks for a [`OpCode::Pong`] with the same payload.
    Ping = 0x9,
    /// Answers a [`OpCode::Ping`], or is a sign of life.
    Pong = 0xa,
}

impl OpCode {
    /// The opcode of these four bits; `None` if they are reserved.
    pub(super) const fn of(bits: u8) -> Option<Self> {
        Some(match bits {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xa => Self::Pong,
            _ => return None,
        })
    }

    /// Whether it is a control frame (section 5.5): short, whole, and allowed between the parts of a message.
    pub(super) const fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// Takes the mask off a payload, in place.
pub(super) fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    // Whole words, which the compiler joins to vectors.
    let (words, rest) = payload.as_chunks_mut();
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ u32::from_ne_bytes(mask)).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask) {
        *byte ^= mask;
    }
}
