//! What a client can do wrong, and the close code for it.

use std::fmt;

/// What the client did wrong. Displayed, it is one sentence, short enough for the reason of a close frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// An RSV bit is set, though no extension was agreed on (RFC 6455 section 5.2).
    ReservedBits,
    /// The opcode, here given, has no meaning (RFC 6455 section 5.2).
    ReservedOpcode(u8),
    /// The frame is not masked (RFC 6455 section 5.1).
    Unmasked,
    /// A ping, pong or close comes in fragments (RFC 6455 section 5.5).
    ControlFragmented,
    /// A ping, pong or close has more than 125 bytes (RFC 6455 section 5.5).
    ControlTooLong,
    /// A continuation frame, and no message is open (RFC 6455 section 5.4).
    ContinuationWithoutStart,
    /// A new message starts before the last fragment of the one before (RFC 6455 section 5.4).
    MessageInterrupted,
    /// The payload length is written in more bytes than it needs (RFC 6455 section 5.2).
    LengthNotMinimal,
    /// A 64-bit payload length has its top bit set (RFC 6455 section 5.2).
    LengthTopBit,
    /// The message is longer than the server takes (RFC 6455 section 10.4).
    TooBig {
        /// The limit, in bytes.
        message_bytes_max: usize,
    },
    /// A text message is not UTF-8 (RFC 6455 section 8.1).
    TextNotUtf8,
    /// A close frame has a payload of one byte: half a code (RFC 6455 section 5.5.1).
    CloseCodeCut,
    /// A close frame has a code, here given, that may not be sent (RFC 6455 section 7.4).
    CloseCodeForbidden(u16),
    /// The reason of a close frame is not UTF-8 (RFC 6455 section 5.5.1).
    CloseReasonNotUtf8,
}

impl Violation {
    /// The code to close the connection with: 1002, 1007 or 1009 (RFC 6455 section 7.4.1).
    pub const fn close_code(&self) -> u16 {
        match self {
            Self::TextNotUtf8 | Self::CloseReasonNotUtf8 => 1007,
            Self::TooBig { .. } => 1009,
            _ => 1002,
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReservedBits => f.write_str("A reserved (RSV) bit is set, but no extension was agreed on."),
            Self::ReservedOpcode(opcode) => write!(f, "The opcode {opcode:#x} is reserved."),
            Self::Unmasked => f.write_str("A client's frame must be masked."),
            Self::ControlFragmented => f.write_str("A control frame must not be fragmented."),
            Self::ControlTooLong => f.write_str("A control frame must not be longer than 125 bytes."),
            Self::ContinuationWithoutStart => f.write_str("A continuation frame came, but no message is open."),
            Self::MessageInterrupted => f.write_str("A new message started before the fragmented one was finished."),
            Self::LengthNotMinimal => f.write_str("The payload length is not written in as few bytes as possible."),
            Self::LengthTopBit => f.write_str("The top bit of the 64-bit payload length is set."),
            Self::TooBig { message_bytes_max } => write!(f, "The message is longer than {message_bytes_max} bytes."),
            Self::TextNotUtf8 => f.write_str("The text message is not valid UTF-8."),
            Self::CloseCodeCut => f.write_str("The close frame has only one byte, which can't be a code."),
            Self::CloseCodeForbidden(code) => write!(f, "The close code {code} must not be sent."),
            Self::CloseReasonNotUtf8 => f.write_str("The reason of the close frame is not valid UTF-8."),
        }
    }
}

impl std::error::Error for Violation {}
