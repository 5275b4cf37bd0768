//! What a holder has taken: counted in the ledger of the thread that takes it or gives it back.

use std::cell::RefCell;
use std::sync::Arc;

use super::plan::Sizes;
use crate::metrics::counters::Number;

/// Kinds of holders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Room logs.
    Logs,
    /// What chat rooms keep for clients that reconnect.
    Replay,
    /// Replies, and what sends that were cut off left over.
    Outboxes,
    /// Half-read frames and messages.
    Messages,
    /// What connections have said that waits to be read.
    Unread,
    /// Half-read request heads.
    Heads,
}

impl What {
    /// All of them, in the order of their declaration.
    pub const ALL: [Self; 6] = [Self::Logs, Self::Replay, Self::Outboxes, Self::Messages, Self::Unread, Self::Heads];
    /// Those that give memory back when the budget is used up. A head is refused before it takes any.
    pub const GIVING: [Self; 5] = [Self::Logs, Self::Replay, Self::Outboxes, Self::Messages, Self::Unread];

    /// As a label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Logs => "logs",
            Self::Replay => "replay",
            Self::Outboxes => "outboxes",
            Self::Messages => "messages",
            Self::Unread => "unread",
            Self::Heads => "heads",
        }
    }

    /// In a sentence that counts them.
    pub fn plural(self) -> &'static str {
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

/// What the holders of one thread have taken. Only that thread writes.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Ledger {
    bytes: [Number; What::ALL.len()],
    /// How much was taken since the start; never goes back.
    taken: Number,
    /// `taken` at the last review.
    reviewed: Number,
    on_shard: Sizes,
    replays: Sizes,
    laps: [Number; What::ALL.len()],
}

impl Ledger {
    /// Bytes of this kind that this thread has taken and not given back. Wraps: see [`super::Memory::bytes`].
    pub fn bytes(&self, what: What) -> u64 {
        self.bytes[what as usize].get()
    }

    /// Holders of this kind that had to give.
    pub(crate) fn laps(&self, what: What) -> &Number {
        &self.laps[what as usize]
    }

    /// Adds the sizes of this thread's holders to others.
    pub fn add_sizes(&self, on_shards: &Sizes, replays: &Sizes) {
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
    static HERE: RefCell<Arc<Ledger>> = RefCell::default();
}

/// The calling thread counts in `ledger` from now on.
pub(super) fn count_in(ledger: Arc<Ledger>) {
    HERE.with_borrow_mut(|here| *here = ledger);
}

/// Whether the calling thread has taken `bytes` more since this was last true.
pub(super) fn has_grown_by(bytes: u64) -> bool {
    HERE.with_borrow(|here| {
        let grown = here.taken.get().wrapping_sub(here.reviewed.get());
        if grown >= bytes {
            here.reviewed.add(grown);
        }
        grown >= bytes
    })
}

/// Asks for the sizes of the calling thread's logs, outboxes and half messages.
pub(super) fn with_sizes_here<T>(ask: impl FnOnce(&Sizes) -> T) -> T {
    HERE.with_borrow(|here| ask(&here.on_shard))
}

/// Counts that a holder had to give.
pub fn count_lap(what: What, times: u64) {
    HERE.with_borrow(|here| here.laps(what).add(times));
}

/// Bytes that one holder has taken: kept up to date by the holder, given back when it is dropped.
#[derive(Debug)]
pub struct Held {
    what: What,
    bytes: usize,
}

impl Held {
    /// Nothing yet.
    pub const fn new(what: What) -> Self {
        Self { what, bytes: 0 }
    }

    /// The holder has this many bytes now: real ones, capacities with their overhead.
    pub fn set(&mut self, bytes: usize) {
        if bytes != self.bytes {
            // A thread that ends has no ledger any more, and nobody reads it.
            let _ = HERE.try_with(|here| here.borrow().change(self.what, self.bytes, bytes));
            self.bytes = bytes;
        }
    }

    /// What it stands at.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
    }
}
