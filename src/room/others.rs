//! How many members rooms have on other servers, as those have told (`--cluster`).
//!
//! Pure. Nothing is in here on a server that has its rooms for itself.

use std::collections::HashMap;

use super::sorted::Sorted;
use crate::protocol::name::Name;

/// Members of a room, and those of them that have a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections.
    pub members: usize,
    /// Users.
    pub users: usize,
}

/// The rooms of one kind that have members on other servers.
#[derive(Debug, Default)]
pub(super) struct Others {
    all: HashMap<Name, Counts>,
    /// Those of them that have no members here: lists count them beside the rooms that do.
    away: Sorted<Name, Counts>,
}

impl Others {
    /// The room has so many members elsewhere. `is_here`: and some here.
    pub(super) fn set(&mut self, name: &Name, counts: Counts, is_here: bool) {
        if counts == Counts::default() {
            self.all.remove(name);
            self.away.remove(name.key());
            return;
        }
        self.all.insert(name.clone(), counts);
        self.set_here(name, is_here);
    }

    /// The room has its first member here, or no longer has one.
    pub(super) fn set_here(&mut self, name: &Name, is_here: bool) {
        match self.all.get(name) {
            Some(counts) if !is_here => drop(self.away.insert(name.clone(), *counts)),
            _ => drop(self.away.remove(name.key())),
        }
    }

    /// The members that a room has elsewhere.
    pub(super) fn of(&self, name: &Name) -> Counts {
        self.all.get(name).copied().unwrap_or_default()
    }

    /// The rooms without members here whose keys begin with `prefix`, in order, and their number.
    pub(super) fn with_prefix(&self, prefix: &str) -> (impl Iterator<Item = (&Name, &Counts)>, usize) {
        self.away.with_prefix(prefix)
    }
}
