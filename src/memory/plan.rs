//! Which holders give memory back, and how much: the largest first, and small ones never while there are larger ones.
//!
//! Pure. Each thread counts its holders by size, in classes of powers of two. The sum over all threads gives the floor: the
//! largest size for which it is enough to cut every larger holder down to it. A shard gives its own part of what is above the
//! floor, and [`level`] says exactly how far down its largest holders go.

use crate::number::Number;

use super::Demand;

/// Holders smaller than this, in bytes, are one class.
const CLASS_BYTES_MIN: usize = 1024;
/// Number of classes. The last one has everything from half a GiB on.
const CLASSES: usize = 21;

/// Number and total bytes of the holders in each class.
#[derive(Debug, Default)]
pub(crate) struct Sizes {
    holders: [Number; CLASSES],
    bytes: [Number; CLASSES],
}

/// The class of a holder of this size.
fn class(bytes: usize) -> usize {
    ((bytes / CLASS_BYTES_MIN).checked_ilog2().map_or(0, |power| power + 1) as usize).min(CLASSES - 1)
}

/// The smallest size in this class, in bytes.
fn smallest(class: usize) -> usize {
    if class == 0 { 0 } else { CLASS_BYTES_MIN << (class - 1) }
}

impl Sizes {
    /// Records that a holder's size has changed; a size of 0 means that there is no holder.
    pub(crate) fn change(&self, before: usize, after: usize) {
        if before > 0 {
            self.holders[class(before)].subtract(1);
            self.bytes[class(before)].subtract(before as u64);
        }
        if after > 0 {
            self.holders[class(after)].add(1);
            self.bytes[class(after)].add(after as u64);
        }
    }

    /// Adds the holders of another thread.
    pub(crate) fn add(&self, other: &Self) {
        for (own, other) in self.holders.iter().zip(&other.holders).chain(self.bytes.iter().zip(&other.bytes)) {
            own.add(other.get());
        }
    }

    /// Bytes gained by cutting every larger holder down to the smallest size of `class`.
    fn gain(&self, class: usize) -> usize {
        // A holder that is freed on another thread counts below zero there.
        let sum =
            |counters: &[Number]| counters[class..].iter().map(|counter| counter.get().cast_signed()).sum::<i64>();
        let (holders, bytes) = (sum(&self.holders).max(0) as usize, sum(&self.bytes).max(0) as usize);
        bytes.saturating_sub(holders.saturating_mul(smallest(class)))
    }
}

/// How many bytes have to be given back if `taken` bytes are too many. A quarter of the budget is free afterwards, so that this
/// doesn't happen again at once. What else the process has resident (connections, buffers, the allocator's free memory) counts
/// against the budget, too, but never more than half of it.
pub(crate) fn excess(bytes_max: usize, taken: usize, resident: usize, is_busy: bool) -> Option<usize> {
    let bytes_max = bytes_max - resident.saturating_sub(taken).min(bytes_max / 2);
    let limit = if is_busy { bytes_max } else { bytes_max - bytes_max / 8 };
    (taken > limit).then(|| taken - (bytes_max - bytes_max / 4))
}

/// Divides `excess` bytes among the holders above the floor. Replays give first: they are kept for clients that may never
/// return. The shards give the rest, in proportion to what each has; `own` are the holders of the calling shard.
pub(crate) fn divide(excess: usize, on_shards: &Sizes, replays: &Sizes, own: &Sizes) -> Demand {
    let gain = |class| on_shards.gain(class) + replays.gain(class);
    let class = (0..CLASSES).rev().find(|class| gain(*class) >= excess).unwrap_or(0);
    let replay_bytes = replays.gain(class).min(excess);
    let (own_gain, all_shards) = (own.gain(class), on_shards.gain(class));
    let rest = (excess - replay_bytes).min(all_shards);
    let own_bytes = (rest as u128 * own_gain as u128).div_ceil(all_shards.max(1) as u128) as usize;
    Demand {
        floor_bytes: smallest(class),
        own_bytes: own_bytes.min(own_gain),
        replay_bytes,
        others: rest > 0 && own_gain < all_shards,
    }
}

/// The size to which the largest of `sizes` (descending) have to be cut so that at least `give` bytes are gained; 0 if there
/// are not that many.
pub(crate) fn level(sizes: &[usize], give: usize) -> usize {
    debug_assert!(sizes.is_sorted_by(|a, b| a >= b));
    let mut above = 0;
    for (index, size) in sizes.iter().enumerate() {
        let next = sizes.get(index + 1).copied().unwrap_or(0);
        let count = index + 1;
        // All so far go down to `next`; if that is more than enough, not quite as far.
        let gain = above + (size - next) * count;
        if gain >= give {
            return next + (gain - give) / count;
        }
        above = gain;
    }
    0
}
