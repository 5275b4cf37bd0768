//! How what a room publishes leaves: once for all members that take it in the same encoding.

use bytes::Bytes;

use super::position::Batch;
use super::sse;

/// What the bytes of a room's messages are, for a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// WebSocket frames, as they were published.
    Frames,
    /// Server-sent events made of them.
    Events,
    /// WebSocket frames whose payloads are compressed where that saves something (RFC 7692).
    Deflated,
}

impl Encoding {
    /// All of them, in the order of their declaration.
    pub(crate) const ALL: [Self; 3] = [Self::Frames, Self::Events, Self::Deflated];

    /// The bytes of the frame that was published as `seq`; `deflate` compresses it.
    pub(crate) fn encode(self, frame: &Bytes, epoch: u64, seq: u64, deflate: impl FnOnce() -> Bytes) -> Bytes {
        match self {
            Self::Frames => frame.clone(),
            Self::Events => sse::event(frame, epoch, seq),
            Self::Deflated => deflate(),
        }
    }

    /// The bytes of several frames, the first of which was published as `first_seq`. They are for one member, so they are not
    /// compressed: nobody would share the result.
    pub(crate) fn encode_batch(self, batch: Batch, epoch: u64, first_seq: u64) -> Batch {
        match self {
            Self::Frames | Self::Deflated => batch,
            Self::Events => sse::events(&batch, epoch, first_seq),
        }
    }
}
