//! One budget for everything that is kept for others: room logs, replay, inboxes, outboxes, half-read messages and heads.
//!
//! - [`held`]: what each holder has taken, counted where it is taken and given back
//! - [`plan`]: which holders give, and how much (pure)
//! - [`machine`]: what the machine allows
//!
//! Each thread counts in a [`Ledger`] of its own, so that counting costs a few additions. A shard that has taken more looks
//! at the sum; above the budget the largest holders of the whole process give first, each on its own shard (see
//! [`crate::shard::hub`]). Small holders are not touched while there are larger ones.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tracing::warn;

use crate::limits::{HEADS_PART, REVIEW_STEP_BYTES, TRIM_INTERVAL};
use crate::throttle::Throttle;

pub mod held;
pub mod machine;
pub mod plan;

pub use held::{Held, Ledger, What};
use machine::Resident;
use plan::Sizes;

/// What an allocation costs beside its bytes: the allocator's header and rounding.
pub const ALLOCATION_OVERHEAD_BYTES: usize = 16;

/// What one shard has to give back now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    /// Holders that are not larger than this, in bytes, are left alone.
    pub floor_bytes: usize,
    /// Bytes that this shard's logs, outboxes and half messages give.
    pub own_bytes: usize,
    /// Bytes that replays give: whichever shard asks sees to it.
    pub replay_bytes: usize,
    /// Whether other shards have larger holders than this one.
    pub others: bool,
}

/// The budget, and how much of it each thread has taken.
#[derive(Debug)]
pub struct Memory {
    bytes_max: usize,
    ledgers: Box<[Arc<Ledger>]>,
    /// Counted up when a shard asks the others to look.
    calls: AtomicU64,
    /// Given back since the allocator was last asked to give it back to the system.
    given_bytes: AtomicUsize,
    /// How often the allocator is asked without that.
    trims: Mutex<Throttle>,
    lines: Mutex<Throttle>,
    resident: Resident,
}

impl Memory {
    /// A budget of `bytes_max` for `shards` shards and the internal port; see [`Memory::enroll`].
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

    /// No limit.
    pub fn unlimited() -> Self {
        Self::new(usize::MAX, 0)
    }

    /// The same budget for what the holders say alone, whatever else the process has resident: a simulation depends on nothing
    /// but its seed.
    pub fn of_holders_alone(self) -> Self {
        Self { resident: Resident::unknown(), ..self }
    }

    /// The budget in bytes.
    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// From now on the calling thread counts as this shard.
    pub fn enroll(&self, shard: usize) {
        held::count_in(Arc::clone(&self.ledgers[shard]));
    }

    /// From now on the calling thread counts as the internal port.
    pub fn enroll_internal_port(&self) {
        self.enroll(self.ledgers.len() - 1);
    }

    /// Bytes that holders of this kind have taken, on all threads.
    pub fn bytes(&self, what: What) -> usize {
        // Taken on one thread and given back on another: only the wrapping sum is right, and for a moment not even that.
        let sum = self.ledgers.iter().fold(0u64, |sum, ledger| sum.wrapping_add(ledger.bytes(what)));
        usize::try_from(sum.cast_signed()).unwrap_or(0)
    }

    /// Holders of this kind that had to give.
    pub fn laps(&self, what: What) -> u64 {
        self.ledgers.iter().map(|ledger| ledger.laps(what).get()).sum()
    }

    /// Whether a request head may take `more_bytes`.
    pub fn admits_head(&self, more_bytes: usize) -> bool {
        self.bytes(What::Heads) + more_bytes <= self.bytes_max / HEADS_PART
    }

    /// Whether the calling thread has to look at the sum: its holders have grown, or another shard asks for it. `seen` is the
    /// number of the last call that it followed.
    pub fn wants_review(&self, seen: &mut u64) -> bool {
        let calls = self.calls.load(Ordering::Acquire);
        let called = std::mem::replace(seen, calls) != calls;
        held::has_grown_by(REVIEW_STEP_BYTES) || called
    }

    /// What the calling shard has to give, if too much is taken, `inbox_bytes` of it in inboxes. While it still owes frames to members that read (`is_busy`),
    /// it may go to the limit: they would lose what they are about to be sent.
    pub fn review(&self, inbox_bytes: usize, is_busy: bool) -> Option<Demand> {
        let taken = self.taken(inbox_bytes);
        let excess = plan::excess(self.bytes_max, taken, self.resident.bytes(), is_busy)?;
        let (on_shards, replays) = (Sizes::default(), Sizes::default());
        for ledger in &self.ledgers {
            ledger.add_sizes(&on_shards, &replays);
        }
        Some(held::with_sizes_here(|own| plan::divide(excess, &on_shards, &replays, own)))
    }

    /// Bytes that are kept for others, all together.
    pub fn taken(&self, inbox_bytes: usize) -> usize {
        inbox_bytes + What::ALL.iter().map(|what| self.bytes(*what)).sum::<usize>()
    }

    /// Bytes that are resident.
    pub fn resident_bytes(&self) -> usize {
        self.resident.bytes()
    }

    /// Whether more is resident than may be: what can be given back was not enough.
    pub fn is_exhausted(&self) -> bool {
        self.resident.bytes() > self.bytes_max
    }

    /// Whether the allocator should give back what it keeps: three quarters of the budget are resident. Once a second at most.
    pub fn wants_trim(&self) -> bool {
        self.resident.bytes() > self.bytes_max - self.bytes_max / 4
            && self.trims.lock().unwrap_or_else(PoisonError::into_inner).admit(Instant::now()).is_some()
    }

    /// Asks all other shards to look, too.
    pub fn call(&self, seen: &mut u64) {
        *seen = self.calls.fetch_add(1, Ordering::AcqRel) + 1;
    }

    /// Notes that holders have given `bytes` back. True: enough for the allocator to give it back to the system, which it
    /// would otherwise keep for the thread that took it.
    pub fn gave(&self, bytes: usize) -> bool {
        let given = self.given_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        given >= self.bytes_max / 8 && self.given_bytes.swap(0, Ordering::Relaxed) > 0
    }

    /// Says, once a minute at most, that holders had to give.
    pub fn say(&self, demand: &Demand) {
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

/// A number of bytes as people read it.
#[derive(Clone, Copy, Debug)]
pub struct Size(pub usize);

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
