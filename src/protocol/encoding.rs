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
}

impl Encoding {
    /// All of them, in the order of their declaration.
    pub(crate) const ALL: [Self; 2] = [Self::Frames, Self::Events];

    /// The bytes of the frame that was published as `seq`.
    pub(crate) fn encode(self, frame: &Bytes, epoch: u64, seq: u64) -> Bytes {
        match self {
            Self::Frames => frame.clone(),
            Self::Events => sse::event(frame, epoch, seq),
        }
    }

    /// The bytes of several frames, the first of which was published as `first_seq`.
    pub(crate) fn encode_batch(self, batch: Batch, epoch: u64, first_seq: u64) -> Batch {
        match self {
            Self::Frames => batch,
            Self::Events => sse::events(&batch, epoch, first_seq),
        }
    }
}
