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
    /// As [`Self::Frames`], for members that skip to the newest message of each key (`?latest=1`).
    Latest,
    /// As [`Self::Deflated`], for such members.
    LatestDeflated,
}

impl Encoding {
    /// All of them, in the order of their declaration.
    pub(crate) const ALL: [Self; 5] = [Self::Frames, Self::Events, Self::Deflated, Self::Latest, Self::LatestDeflated];

    /// Whether payloads are compressed.
    pub(crate) fn is_deflated(self) -> bool {
        matches!(self, Self::Deflated | Self::LatestDeflated)
    }

    /// Whether members skip to the newest message of each key.
    pub(crate) fn is_latest(self) -> bool {
        matches!(self, Self::Latest | Self::LatestDeflated)
    }

    /// The same for members that skip to the newest message of each key.
    pub(crate) fn latest(self) -> Self {
        if self.is_deflated() { Self::LatestDeflated } else { Self::Latest }
    }

    /// The bytes of the frame that was published as `seq`; `deflate` compresses it.
    pub(crate) fn encode(self, frame: &Bytes, epoch: u64, seq: u64, deflate: impl FnOnce() -> Bytes) -> Bytes {
        match self {
            Self::Frames | Self::Latest => frame.clone(),
            Self::Events => sse::event(frame, epoch, seq),
            Self::Deflated | Self::LatestDeflated => deflate(),
        }
    }

    /// The bytes of several frames, the first of which was published as `first_seq`. They are for one member, so they are not
    /// compressed: nobody would share the result.
    pub(crate) fn encode_batch(self, batch: Batch, epoch: u64, first_seq: u64) -> Batch {
        match self {
            Self::Frames | Self::Deflated | Self::Latest | Self::LatestDeflated => batch,
            Self::Events => sse::events(&batch, epoch, first_seq),
        }
    }
}
