//! A number that one thread writes and others read. A relaxed load and a relaxed store are then enough, and cost what a plain
//! variable costs: no locked instruction.

use std::sync::atomic::{AtomicU64, Ordering};

/// The owner makes sure that only one thread writes.
#[derive(Debug, Default)]
pub(crate) struct Number(AtomicU64);

impl Number {
    pub(crate) fn add(&self, count: u64) {
        self.0.store(self.get().wrapping_add(count), Ordering::Relaxed);
    }

    /// Subtracts, where the number is a level.
    pub(crate) fn subtract(&self, count: u64) {
        self.0.store(self.get().wrapping_sub(count), Ordering::Relaxed);
    }

    #[cfg(feature = "cluster")]
    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
