//! What is measured in one go.

use crate::frames::Frames;

/// One room and its messages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) members: usize,
    pub(crate) frames: Frames,
    /// Messages per second at the steady rate.
    pub(crate) rate: usize,
}
