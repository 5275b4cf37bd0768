//! A shard's timers: one wheel for all its connections, instead of a task or a kernel timer for each.
//!
//! Time is measured in ticks, a number that only grows; the caller decides how long a tick is (2^32 ticks of 10 ms are 497
//! days). The wheel has a slot for each of the next [`SLOTS`] ticks. A deadline further away shares the slot of a nearer one
//! and stays there, looked at once per round, until its own tick comes.
//!
//! There is no cancel. The caller remembers which deadline is current, and ignores the others when they expire: so moving a
//! deadline costs one entry, and nothing has to be searched for.

/// Number of slots in a wheel, one tick each.
pub(crate) const SLOTS: usize = 64;
/// Capacity, in entries, that an emptied slot keeps: small, and enough that a quiet shard never allocates.
const SLOT_ENTRIES_KEPT: usize = 64;

const _: () = assert!(SLOTS.is_power_of_two());

/// Deadlines, each with a key by which the caller knows it.
#[derive(Debug)]
pub(crate) struct Wheel<K: Copy> {
    /// An entry is in the slot of its tick, or, if that tick had already passed, in the slot of the next one.
    slots: [Vec<(u32, K)>; SLOTS],
    /// The last tick that was handled.
    now_tick: u32,
}

impl<K: Copy> Wheel<K> {
    /// An empty wheel that starts at this tick.
    pub(crate) fn new(now_tick: u32) -> Self {
        Self { slots: std::array::from_fn(|_| Vec::new()), now_tick }
    }

    /// Schedules `key` for `due_tick`, or for the next tick if that has passed.
    pub(crate) fn schedule(&mut self, due_tick: u32, key: K) {
        let slot = slot_of(due_tick.max(self.now_tick.saturating_add(1)));
        self.slots[slot].push((due_tick, key));
    }

    /// Advances to `now_tick`, and appends everything that is due to `due`, with the tick that it was scheduled for: ordered by
    /// tick, then in the order of scheduling. A tick that isn't later than the last one changes nothing.
    pub(crate) fn advance(&mut self, now_tick: u32, due: &mut Vec<(u32, K)>) {
        let start = due.len();
        // One round covers every slot, no matter how long ago the last call was.
        let ticks = now_tick.saturating_sub(self.now_tick).min(SLOTS as u32);
        for passed in 1..=ticks {
            let entries = &mut self.slots[slot_of(self.now_tick + passed)];
            due.extend(entries.extract_if(.., |entry| entry.0 <= now_tick));
            shrink(entries);
        }
        self.now_tick = self.now_tick.max(now_tick);
        let due = &mut due[start..];
        // Advancing tick by tick, they are sorted already, and sorting would allocate for nothing.
        if !due.is_sorted_by_key(|entry| entry.0) {
            due.sort_by_key(|entry| entry.0);
        }
    }

    /// Number of scheduled entries, including stale ones.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.slots.iter().map(Vec::len).sum()
    }
}

fn slot_of(tick: u32) -> usize {
    tick as usize % SLOTS
}

/// Shrinks a slot: ten thousand connections made in the same second must not leave it large forever.
fn shrink<T>(entries: &mut Vec<T>) {
    if entries.capacity() > SLOT_ENTRIES_KEPT && entries.len() <= entries.capacity() / 4 {
        entries.shrink_to(SLOT_ENTRIES_KEPT.max(entries.len() * 2));
    }
}

#[cfg(test)]
mod tests;
