//! Notices of a room to all its members: joins and leaves.

use super::name::Name;
use crate::limits::NAMES_TOLD_MAX;

/// What a notice is about; its name is the value of `Event` on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Join(Name),
    Leave(Name),
    Presence { joined: Folded, left: Folded },
}

/// Users of a folded notice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Folded {
    /// The first of them, three at most.
    pub(crate) first: Vec<Name>,
    pub(crate) count: usize,
}

impl Folded {
    /// Adds one; only the first few are named.
    pub(crate) fn push(&mut self, user: &Name) {
        if self.first.len() < NAMES_TOLD_MAX {
            self.first.push(user.clone());
        }
        self.count += 1;
    }
}

impl Event {
    /// The word on the wire.
    pub(crate) fn as_str(&self) -> &'static str {
        match self {
            Self::Join(_) => "join",
            Self::Leave(_) => "leave",
            Self::Presence { .. } => "presence",
        }
    }
}

/// A notice to all members of a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Notice {
    pub(crate) event: Event,
    /// The text that people read.
    pub(crate) text: String,
}
