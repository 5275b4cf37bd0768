//! Positions in a room's order, and the frames between two of them.

use std::fmt;

use bytes::Bytes;
use serde::{Serialize, Serializer};

/// One life of a room. On the wire: 16 hexadecimal digits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Epoch(pub u64);

impl Epoch {
    /// Reads exactly what `Display` writes; `None` for any other text.
    pub(crate) fn parse(text: &str) -> Option<u64> {
        let epoch = u64::from_str_radix(text, 16).ok()?;
        (Self(epoch).to_string() == text).then_some(epoch)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Serialize for Epoch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Where a client that reconnects stopped: `Since` on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Since {
    /// The epoch that it knows; `None` if it is not one of ours.
    pub epoch: Option<u64>,
    /// `Seq` of the last frame that it got.
    pub seq: u64,
}

/// Whole frames, one after another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    pub(crate) bytes: Bytes,
    /// `Seq` of the frame after the last one.
    pub(crate) end_seq: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_are_read_as_they_are_written() {
        for epoch in [0, 0xab, u64::MAX] {
            assert_eq!(Epoch::parse(&Epoch(epoch).to_string()), Some(epoch));
        }
        for other in ["", "0", "00000000000000AB", "+0000000000000ab", "0000000000000000f"] {
            assert_eq!(Epoch::parse(other), None, "{other}");
        }
    }
}
