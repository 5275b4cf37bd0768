//! One budget for all memory that is kept on behalf of clients: room logs, replay, inboxes, outboxes, incomplete messages and
//! request heads.
//!
//! - [`held`]: how much each holder has taken, counted when it is taken and given back
//! - [`plan`]: which holders give memory back, and how much (pure)
//! - [`machine`]: how much the machine allows
//!
//! Each thread counts in its own [`Ledger`], so that counting costs a few additions. A shard that has taken more reviews the
//! sum. If it exceeds the budget, the largest holders of the whole process give memory back, each on its own shard (see
//! [`crate::shard::hub`]). Small holders are left alone while there are larger ones.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tracing::warn;

use crate::limits::{HEADS_PART, REVIEW_STEP_BYTES, TRIM_INTERVAL};
use crate::throttle::Throttle;

pub(crate) mod held;
pub(crate) mod machine;
pub(crate) mod plan;

pub use held::What;
pub(crate) use held::{Held, Ledger};
use machine::Resident;
use plan::Sizes;

/// Bytes that an allocation costs on top of its own: the allocator's header, and rounding.
pub(crate) const ALLOCATION_OVERHEAD_BYTES: usize = 16;

/// What one shard has to give back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Demand {
    /// Holders up to this size, in bytes, are left alone.
    pub floor_bytes: usize,
    /// Bytes to take from this shard's logs, outboxes, incomplete messages and unread input.
    pub own_bytes: usize,
    /// Bytes to take from replays, which belong to no shard: the shard that reviews the budget does it.
    pub replay_bytes: usize,
    /// Whether other shards have to give memory back as well.
    pub others: bool,
}

/// The budget, and how much of it each thread has taken.
#[derive(Debug)]
pub struct Memory {
    bytes_max: usize,
    ledgers: Box<[Arc<Ledger>]>,
    /// Incremented when a shard asks the others to review the budget.
    calls: AtomicU64,
    /// Bytes given back since the allocator was last asked to return memory to the system.
    given_bytes: AtomicUsize,
    /// Limits how often the allocator is asked apart from that.
    trims: Mutex<Throttle>,
    lines: Mutex<Throttle>,
    resident: Resident,
}

impl Memory {
    /// A budget of `bytes_max` bytes for `shards` shards and the internal port, whose threads [enroll](Memory::enroll).
    pub fn new(bytes_max: usize, shards: usize) -> Self {
        Self {
            bytes_max,
            ledgers: (0..=shards).map(|_| Arc::default()).collect(),
            calls: AtomicU64::new(0),
            given_bytes: AtomicUsize::new(0),
            trims: Mutex::new(Throttle::every(TRIM_INTERVAL, 1)),
            resident: Resident::open(),
            lines: Mutex::new(Throttle::new(1)),
        }
    }

    /// A budget without a limit, for a shard that runs outside a server.
    pub(crate) fn unlimited() -> Self {
        Self::new(usize::MAX, 0)
    }

    /// Counts only what the holders report, and ignores the resident memory of the process: a simulation must depend on nothing
    /// but its seed.
    pub fn of_holders_alone(self) -> Self {
        Self { resident: Resident::unknown(), ..self }
    }

    /// The size of the budget in bytes.
    pub(crate) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Makes the calling thread count as this shard.
    pub fn enroll(&self, shard: usize) {
        held::count_in(Arc::clone(&self.ledgers[shard]));
    }

    /// Makes the calling thread count as the internal port.
    pub fn enroll_internal_port(&self) {
        self.enroll(self.ledgers.len() - 1);
    }

    /// Bytes taken by holders of this kind, on all threads.
    pub fn bytes(&self, what: What) -> usize {
        // Memory may be taken on one thread and given back on another: only the wrapping sum is right, and even that may be off
        // for a moment.
        let sum = self.ledgers.iter().fold(0u64, |sum, ledger| sum.wrapping_add(ledger.bytes(what)));
        usize::try_from(sum.cast_signed()).unwrap_or(0)
    }

    /// How many times holders of this kind had to give memory back.
    pub fn laps(&self, what: What) -> u64 {
        self.ledgers.iter().map(|ledger| ledger.laps(what).get()).sum()
    }

    /// Whether a request head may take `more_bytes` of memory.
    pub(crate) fn admits_head(&self, more_bytes: usize) -> bool {
        self.bytes(What::Heads) + more_bytes <= self.bytes_max / HEADS_PART
    }

    /// Whether the calling thread has to review the budget: its holders have grown, or another shard asks for it. `seen` is the
    /// last request that it has served.
    pub(crate) fn wants_review(&self, seen: &mut u64) -> bool {
        let calls = self.calls.load(Ordering::Acquire);
        let called = std::mem::replace(seen, calls) != calls;
        held::has_grown_by(REVIEW_STEP_BYTES) || called
    }

    /// What the calling shard has to give back, if the budget is exceeded; `inbox_bytes` are the bytes in inboxes. A shard that
    /// still has frames for members that read (`is_busy`) may use the last part of the budget: otherwise they would lose what
    /// they are about to be sent.
    pub(crate) fn review(&self, inbox_bytes: usize, is_busy: bool) -> Option<Demand> {
        let taken = self.taken(inbox_bytes);
        let excess = plan::excess(self.bytes_max, taken, self.resident.bytes(), is_busy)?;
        let (on_shards, replays) = (Sizes::default(), Sizes::default());
        for ledger in &self.ledgers {
            ledger.add_sizes(&on_shards, &replays);
        }
        Some(held::with_sizes_here(|own| plan::divide(excess, &on_shards, &replays, own)))
    }

    /// Bytes that are kept on behalf of clients, all together.
    pub(crate) fn taken(&self, inbox_bytes: usize) -> usize {
        inbox_bytes + What::ALL.iter().map(|what| self.bytes(*what)).sum::<usize>()
    }

    /// Resident memory of the process, in bytes.
    pub(crate) fn resident_bytes(&self) -> usize {
        self.resident.bytes()
    }

    /// Whether the process has more memory resident than the budget: everything that could be given back was not enough.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.resident.bytes() > self.bytes_max
    }

    /// Whether the allocator should return its free memory, because three quarters of the budget are resident. True at most
    /// once a second.
    pub(crate) fn wants_trim(&self) -> bool {
        self.resident.bytes() > self.bytes_max - self.bytes_max / 4
            && self.trims.lock().unwrap_or_else(PoisonError::into_inner).admit(Instant::now()).is_some()
    }

    /// Asks all other shards to review the budget, too.
    pub(crate) fn call(&self, seen: &mut u64) {
        *seen = self.calls.fetch_add(1, Ordering::AcqRel) + 1;
    }

    /// Notes that `bytes` were given back. True if that is enough for the allocator to return memory to the system; it would
    /// otherwise keep it for the thread that took it.
    pub(crate) fn gave(&self, bytes: usize) -> bool {
        let given = self.given_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        given >= self.bytes_max / 8 && self.given_bytes.swap(0, Ordering::Relaxed) > 0
    }

    /// Logs, at most once a minute, that holders had to give memory back.
    pub(crate) fn say(&self, demand: &Demand) {
        if self.lines.lock().unwrap_or_else(PoisonError::into_inner).admit(Instant::now()).is_none() {
            return;
        }
        let parts: Vec<_> = What::GIVING.iter().map(|what| format!("{} {}", self.laps(*what), what.plural())).collect();
        warn!(
            "the memory budget of {} is used up: everything larger than {} gives memory back, the largest first (since the \
             start: {}). Connections that don't read or don't finish their messages are the usual cause; --memory-max \
             raises the budget",
            Size(self.bytes_max),
            Size(demand.floor_bytes),
            parts.join(", ")
        );
    }
}

/// A number of bytes, displayed in KiB or MiB.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size(pub usize);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes >= 1 << 20 => write!(f, "{} MiB", bytes.div_ceil(1 << 20)),
            bytes => write!(f, "{} KiB", bytes.div_ceil(1024)),
        }
    }
}

#[cfg(test)]
mod tests;
