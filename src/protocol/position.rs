//! Positions in a room's order, and the frames between two of them.

use bytes::Bytes;

/// Where a client that reconnects stopped: `Since` on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Since {
    /// The epoch that it knows; `None` if no room of ours could have had it.
    pub epoch: Option<u64>,
    /// `Seq` of the last frame that it got.
    pub seq: u64,
}

/// Whole frames, one behind the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Ready to be sent.
    pub bytes: Bytes,
    /// `Seq` of the frame behind the last one.
    pub end_seq: u64,
}
