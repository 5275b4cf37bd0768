//! Which connections count among those of an address with limits.

use std::sync::Arc;

use crate::address::table::{AddressTable, Seat, SeatId};
use crate::rate::RateLimit;

/// By the slots of the connections: where none has limits, nothing is kept.
#[derive(Default)]
pub(super) struct Seats {
    table: Arc<AddressTable>,
    kept: Vec<Option<SeatId>>,
}

impl Seats {
    /// Nobody has connected yet.
    pub(super) fn new(table: Arc<AddressTable>) -> Self {
        Self { table, kept: Vec::new() }
    }

    /// A connection takes its slot.
    pub(super) fn take(&mut self, slot: u32, seat: Option<Seat>) {
        let Some(id) = seat.and_then(Seat::keep) else { return };
        let slot = slot as usize;
        if self.kept.len() <= slot {
            self.kept.resize(slot + 1, None);
        }
        self.kept[slot] = Some(id);
    }

    /// A connection gives its slot back.
    pub(super) fn leave(&mut self, slot: u32) {
        if let Some(id) = self.kept.get_mut(slot as usize).and_then(Option::take) {
            self.table.leave(id);
        }
    }

    /// Whether a message of this connection is within what all connections of its address may send.
    pub(super) fn admit_message(&self, slot: u32, limit: &RateLimit, now_ms: u64) -> bool {
        let id = self.kept.get(slot as usize).copied().flatten();
        id.is_none_or(|id| self.table.admits_message(id, limit, now_ms))
    }
}
