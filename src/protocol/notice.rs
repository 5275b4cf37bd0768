//! Notices of a room to all its members: joins and leaves.

use super::name::Name;
use crate::limits::NAMES_TOLD_MAX;

/// What a notice tells; its name is the value of `Event` on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// This user came.
    Join(Name),
    /// This user left.
    Leave(Name),
    /// Several came or left.
    Presence {
        /// Those that came.
        joined: Folded,
        /// Those that left.
        left: Folded,
    },
}

/// Users of a folded notice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Folded {
    /// The first of them, three at most.
    pub first: Vec<Name>,
    /// How many there are.
    pub count: usize,
}

impl Folded {
    /// Adds one; only the first few are named.
    pub fn push(&mut self, user: &Name) {
        if self.first.len() < NAMES_TOLD_MAX {
            self.first.push(user.clone());
        }
        self.count += 1;
    }
}

impl Event {
    /// The word on the wire.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Join(_) => "join",
            Self::Leave(_) => "leave",
            Self::Presence { .. } => "presence",
        }
    }
}

/// A notice to all members of a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// What happened.
    pub event: Event,
    /// The text that people read.
    pub text: String,
}
