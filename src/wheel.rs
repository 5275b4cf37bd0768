//! A shard's timers: one wheel for all its connections, instead of a task or a kernel timer for each.
//!
//! Time is a tick, a number that only grows; the caller decides how long one is (it must last: 2^32 ticks of 10 ms are
//! 497 days). The wheel has a slot for each of the next [`SLOTS`] ticks. A deadline further away shares the slot of a
//! nearer one and stays there, looked at once a round, until its own tick comes.
//!
//! There is no cancel. The caller remembers the tick of the deadline that counts and ignores the others as they come out:
//! moving a deadline costs one entry, and nothing has to be found.

/// Slots of a wheel, one tick each.
pub(crate) const SLOTS: usize = 64;
/// Entries that an emptied slot keeps room for: enough for a quiet shard never to allocate, and small beside it.
const SLOT_ENTRIES_KEPT: usize = 64;

const _: () = assert!(SLOTS.is_power_of_two());

/// Deadlines, each with a key by which the caller knows it.
#[derive(Debug)]
pub(crate) struct Wheel<K: Copy> {
    /// An entry is in the slot of its tick, or, if that had passed already, in the slot of the next one.
    slots: [Vec<(u32, K)>; SLOTS],
    /// Everything up to this tick has come out.
    now_tick: u32,
}

impl<K: Copy> Wheel<K> {
    /// An empty wheel at this tick.
    pub(crate) fn new(now_tick: u32) -> Self {
        Self { slots: std::array::from_fn(|_| Vec::new()), now_tick }
    }

    /// Has `key` come out at `due_tick`; with the next tick, if that has passed.
    pub(crate) fn schedule(&mut self, due_tick: u32, key: K) {
        let slot = slot_of(due_tick.max(self.now_tick.saturating_add(1)));
        self.slots[slot].push((due_tick, key));
    }

    /// Moves on to `now_tick` and appends to `due` what is due by then, with the tick that it was scheduled for: in
    /// the order of those ticks, and of scheduling where they are equal. A tick that isn't later than the last one
    /// changes nothing.
    pub(crate) fn advance(&mut self, now_tick: u32, due: &mut Vec<(u32, K)>) {
        let start = due.len();
        // After one round every slot has been seen, however long the caller was away.
        let ticks = now_tick.saturating_sub(self.now_tick).min(SLOTS as u32);
        for passed in 1..=ticks {
            let entries = &mut self.slots[slot_of(self.now_tick + passed)];
            due.extend(entries.extract_if(.., |entry| entry.0 <= now_tick));
            give_memory_back(entries);
        }
        self.now_tick = self.now_tick.max(now_tick);
        let due = &mut due[start..];
        // Tick by tick the order is there already; a sort would allocate for nothing.
        if !due.is_sorted_by_key(|entry| entry.0) {
            due.sort_by_key(|entry| entry.0);
        }
    }

    /// Entries scheduled and not come out yet, stale ones included.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.slots.iter().map(Vec::len).sum()
    }
}

fn slot_of(tick: u32) -> usize {
    tick as usize % SLOTS
}

/// Ten thousand connections that came in the same second must not leave their slot large for ever.
fn give_memory_back<T>(entries: &mut Vec<T>) {
    if entries.capacity() > SLOT_ENTRIES_KEPT && entries.len() <= entries.capacity() / 4 {
        entries.shrink_to(SLOT_ENTRIES_KEPT.max(entries.len() * 2));
    }
}

#[cfg(test)]
mod tests;
