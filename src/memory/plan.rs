//! Which holders give memory back, and how much: the largest first, and small ones never while larger ones exist.
//!
//! Pure. Every thread keeps the sizes of its holders in classes of powers of two. From the sum of all threads follows the
//! floor, the largest size at which cutting every larger holder down to it is enough; and from a shard's own part in that,
//! what the shard gives. On the shard, [`level`] says exactly how far its largest holders go down.

use crate::metrics::counters::Number;

use super::Demand;

/// Holders smaller than this are one class, in bytes.
const CLASS_BYTES_MIN: usize = 1024;
/// Classes: the last holds everything from half a GiB on.
const CLASSES: usize = 21;

/// Holders by size: how many there are in each class, and how many bytes they hold together.
#[derive(Debug, Default)]
pub struct Sizes {
    holders: [Number; CLASSES],
    bytes: [Number; CLASSES],
}

/// The class of a holder of this size.
fn class(bytes: usize) -> usize {
    ((bytes / CLASS_BYTES_MIN).checked_ilog2().map_or(0, |power| power + 1) as usize).min(CLASSES - 1)
}

/// The size from which holders are in this class or a higher one.
fn smallest(class: usize) -> usize {
    if class == 0 { 0 } else { CLASS_BYTES_MIN << (class - 1) }
}

impl Sizes {
    /// A holder's size has changed; 0 is no holder.
    pub fn change(&self, before: usize, after: usize) {
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
    pub fn add(&self, other: &Self) {
        for (own, other) in self.holders.iter().zip(&other.holders).chain(self.bytes.iter().zip(&other.bytes)) {
            own.add(other.get());
        }
    }

    /// Bytes that come back when every larger holder is cut down to the smallest size of `class`.
    fn gain(&self, class: usize) -> usize {
        // A holder that is given up on another thread than it was taken on counts below zero there.
        let sum =
            |counters: &[Number]| counters[class..].iter().map(|counter| counter.get().cast_signed()).sum::<i64>();
        let (holders, bytes) = (sum(&self.holders).max(0) as usize, sum(&self.bytes).max(0) as usize);
        bytes.saturating_sub(holders.saturating_mul(smallest(class)))
    }
}

/// By how much `taken` bytes are too many, if they are: then a quarter of the budget is free again afterwards, and the next
/// time is not at once. What the process has resident beside them (itself, its connections and buffers, what the allocator
/// keeps) is in the budget, too, but half of it is always there for what is kept for others.
pub fn excess(bytes_max: usize, taken: usize, resident: usize, is_busy: bool) -> Option<usize> {
    let bytes_max = bytes_max - resident.saturating_sub(taken).min(bytes_max / 2);
    let limit = if is_busy { bytes_max } else { bytes_max - bytes_max / 8 };
    (taken > limit).then(|| taken - (bytes_max - bytes_max / 4))
}

/// Divides `excess` bytes. Of what is above the floor, replays give first: they are kept for clients that may never come. The
/// shards (of whose holders `own` are the calling shard's) give the rest, in proportion to what each has.
pub fn divide(excess: usize, on_shards: &Sizes, replays: &Sizes, own: &Sizes) -> Demand {
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

/// The size down to which the largest of `sizes` (descending) go, so that all of what is above it is at least `give` bytes; 0
/// if that is more than there is.
pub fn level(sizes: &[usize], give: usize) -> usize {
    debug_assert!(sizes.is_sorted_by(|a, b| a >= b));
    let mut above = 0;
    for (index, size) in sizes.iter().enumerate() {
        let next = sizes.get(index + 1).copied().unwrap_or(0);
        let count = index + 1;
        // All so far go down to `next`; if that is enough, perhaps not as far.
        let gain = above + (size - next) * count;
        if gain >= give {
            return next + (gain - give) / count;
        }
        above = gain;
    }
    0
}
