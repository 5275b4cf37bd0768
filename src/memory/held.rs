//! What a holder has taken, counted in the ledger of the thread that takes it or gives it back.

use std::cell::RefCell;
use std::sync::Arc;

use super::plan::Sizes;
use crate::number::Number;
use crate::words::words;

words! {
    /// The kinds of holders, which are also the labels of their metrics.
    pub enum What {
        /// Room logs: frames that slow members have not received.
        Logs = "logs",
        /// Frames that chat rooms keep for clients that reconnect.
        Replay = "replay",
        /// Replies, and what partial sends left over.
        Outboxes = "outboxes",
        /// Frames and messages that have not arrived completely.
        Messages = "messages",
        /// Input of connections that waits to be read.
        Unread = "unread",
        /// Request heads that have not arrived completely.
        Heads = "heads",
    }
}

impl What {
    /// The kinds that give memory back when the budget is used up. A request head is refused before it takes any.
    pub(crate) const GIVING: [Self; 5] = [Self::Logs, Self::Replay, Self::Outboxes, Self::Messages, Self::Unread];

    /// The words for a log line that counts them.
    pub(crate) fn plural(self) -> &'static str {
        match self {
            Self::Logs => "room logs",
            Self::Replay => "replays",
            Self::Outboxes => "unread outboxes",
            Self::Messages => "half-read messages",
            Self::Unread => "unread inputs",
            Self::Heads => "request heads",
        }
    }
}

/// What the holders of one thread have taken. Only that thread writes it.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Ledger {
    bytes: [Number; What::ALL.len()],
    /// Bytes taken since the start; never decreases.
    taken: Number,
    /// `taken` at the last review.
    reviewed: Number,
    on_shard: Sizes,
    replays: Sizes,
    laps: [Number; What::ALL.len()],
}

impl Ledger {
    /// Bytes of this kind that this thread has taken, minus those it has given back. May wrap: see [`super::Memory::bytes`].
    pub(crate) fn bytes(&self, what: What) -> u64 {
        self.bytes[what as usize].get()
    }

    /// How many times holders of this kind had to give memory back.
    pub(crate) fn laps(&self, what: What) -> &Number {
        &self.laps[what as usize]
    }

    /// Adds the sizes of this thread's holders to `on_shards` and `replays`.
    pub(crate) fn add_sizes(&self, on_shards: &Sizes, replays: &Sizes) {
        on_shards.add(&self.on_shard);
        replays.add(&self.replays);
    }

    fn change(&self, what: What, before: usize, after: usize) {
        let counter = &self.bytes[what as usize];
        counter.subtract(before as u64);
        counter.add(after as u64);
        self.taken.add(after.saturating_sub(before) as u64);
        let sizes = match what {
            What::Logs | What::Outboxes | What::Messages | What::Unread => &self.on_shard,
            What::Replay => &self.replays,
            What::Heads => return,
        };
        sizes.change(before, after);
    }
}

thread_local! {
    static LEDGER: RefCell<Arc<Ledger>> = RefCell::default();
}

/// Makes the calling thread count in `ledger`.
pub(super) fn count_in(ledger: Arc<Ledger>) {
    LEDGER.with_borrow_mut(|here| *here = ledger);
}

/// Whether the calling thread has taken `bytes` more since this was last true.
pub(super) fn has_grown_by(bytes: u64) -> bool {
    LEDGER.with_borrow(|here| {
        let grown = here.taken.get().wrapping_sub(here.reviewed.get());
        if grown >= bytes {
            here.reviewed.add(grown);
        }
        grown >= bytes
    })
}

/// Passes on the sizes of the calling thread's holders, without replays.
pub(super) fn with_sizes_here<T>(ask: impl FnOnce(&Sizes) -> T) -> T {
    LEDGER.with_borrow(|here| ask(&here.on_shard))
}

/// Counts that holders had to give memory back.
pub(crate) fn count_lap(what: What, times: u64) {
    LEDGER.with_borrow(|here| here.laps(what).add(times));
}

/// Bytes that one holder has taken: updated by the holder, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    what: What,
    bytes: usize,
}

impl Held {
    /// A holder of this kind that has taken nothing yet.
    pub(crate) const fn new(what: What) -> Self {
        Self { what, bytes: 0 }
    }

    /// Sets how many bytes the holder has: as allocated, that is, capacities with their overhead.
    pub(crate) fn set(&mut self, bytes: usize) {
        if bytes != self.bytes {
            // A thread that is ending has no ledger any more, and nobody would read it.
            let _ = LEDGER.try_with(|here| here.borrow().change(self.what, self.bytes, bytes));
            self.bytes = bytes;
        }
    }

    /// The number of bytes that was last set.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
    }
}
