//! What a client can do wrong, and the close code for it.

/// What the client did wrong. Displayed, it is one sentence, short enough for the reason of a close frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// An RSV bit is set that no extension was agreed on for (RFC 6455 section 5.2).
    #[error("A reserved (RSV) bit is set, but no extension that uses it was agreed on.")]
    ReservedBits,
    /// RSV1 is set on a frame that doesn't begin a message, although compression was agreed on (RFC 7692 section 6.1).
    #[error("RSV1 is set, but not on the first frame of a message.")]
    DeflatedElsewhere,
    /// A compressed message can't be decompressed (RFC 7692 section 7.2.2).
    #[error("The compressed message is not valid deflate data.")]
    NotDeflate,
    /// This opcode is reserved (RFC 6455 section 5.2).
    #[error("The opcode {0:#x} is reserved.")]
    ReservedOpcode(u8),
    /// The frame is not masked (RFC 6455 section 5.1).
    #[error("A client's frame must be masked.")]
    Unmasked,
    /// A ping, pong or close comes in fragments (RFC 6455 section 5.5).
    #[error("A control frame must not be fragmented.")]
    ControlFragmented,
    /// A ping, pong or close has more than 125 bytes (RFC 6455 section 5.5).
    #[error("A control frame must not be longer than 125 bytes.")]
    ControlTooLong,
    /// A continuation frame arrived while no message was open (RFC 6455 section 5.4).
    #[error("A continuation frame came, but no message is open.")]
    ContinuationWithoutStart,
    /// A new message starts before the previous one's last fragment (RFC 6455 section 5.4).
    #[error("A new message started before the fragmented one was finished.")]
    MessageInterrupted,
    /// The payload length is written in more bytes than it needs (RFC 6455 section 5.2).
    #[error("The payload length is not written in as few bytes as possible.")]
    LengthNotMinimal,
    /// A 64-bit payload length has its top bit set (RFC 6455 section 5.2).
    #[error("The top bit of the 64-bit payload length is set.")]
    LengthTopBit,
    /// The message is longer than the server accepts (RFC 6455 section 10.4).
    #[error("The message is longer than {message_bytes_max} bytes.")]
    TooBig {
        /// The limit, in bytes.
        message_bytes_max: usize,
    },
    /// A text message is not UTF-8 (RFC 6455 section 8.1).
    #[error("The text message is not valid UTF-8.")]
    TextNotUtf8,
    /// A close frame has a payload of one byte: half a code (RFC 6455 section 5.5.1).
    #[error("The close frame has only one byte, which can't be a code.")]
    CloseCodeCut,
    /// A close frame has this code, which may not be sent (RFC 6455 section 7.4).
    #[error("The close code {0} must not be sent.")]
    CloseCodeForbidden(u16),
    /// The reason of a close frame is not UTF-8 (RFC 6455 section 5.5.1).
    #[error("The reason of the close frame is not valid UTF-8.")]
    CloseReasonNotUtf8,
}

impl Violation {
    /// The code to close the connection with: 1002, 1007 or 1009 (RFC 6455 section 7.4.1).
    pub const fn close_code(&self) -> u16 {
        match self {
            Self::TextNotUtf8 | Self::CloseReasonNotUtf8 | Self::NotDeflate => 1007,
            Self::TooBig { .. } => 1009,
            _ => 1002,
        }
    }
}
