//! Which messages a server has acknowledged, and so has to deliver. The others may arrive or not.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard};

/// The messages of all publishers that have not been acknowledged.
pub struct Promises(Box<[Mutex<Open>]>);

/// Those of one publisher, by number.
#[derive(Default)]
struct Open {
    /// Sent, without an answer so far.
    unanswered: BTreeSet<u32>,
    /// The server has answered that it doesn't take them, or doesn't know.
    refused: BTreeSet<u32>,
}

impl Promises {
    /// For this many publishers.
    pub fn new(publishers: usize) -> Self {
        Self(std::iter::repeat_with(Mutex::default).take(publishers).collect())
    }

    fn of(&self, publisher: usize) -> MutexGuard<'_, Open> {
        self.0[publisher].lock().expect("no thread panics while it holds this")
    }

    /// A step begins: what was before is over.
    pub fn begin(&self, publisher: usize) {
        *self.of(publisher) = Open::default();
    }

    /// A message was sent.
    pub fn sent(&self, publisher: usize, sequence: u32) {
        self.of(publisher).unanswered.insert(sequence);
    }

    /// The server has taken it.
    pub fn acknowledged(&self, publisher: usize, sequence: u32) {
        self.of(publisher).unanswered.remove(&sequence);
    }

    /// The server has not taken it, or doesn't know whether it has.
    pub fn refused(&self, publisher: usize, sequence: u32) {
        let mut open = self.of(publisher);
        if open.unanswered.remove(&sequence) {
            open.refused.insert(sequence);
        }
    }

    /// Messages without an answer.
    pub fn unanswered_count(&self, publisher: usize) -> u64 {
        self.of(publisher).unanswered.len() as u64
    }

    /// Messages that were refused.
    pub fn refused_count(&self, publisher: usize) -> u64 {
        self.of(publisher).refused.len() as u64
    }

    /// The messages of this range that need not arrive.
    pub fn not_given(&self, publisher: usize, range: Range<u32>) -> Vec<u32> {
        let open = self.of(publisher);
        open.unanswered.range(range.clone()).chain(open.refused.range(range)).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_acknowledged_messages_have_to_arrive() {
        let promises = Promises::new(2);
        (0..5).for_each(|sequence| promises.sent(1, sequence));
        promises.acknowledged(1, 0);
        promises.refused(1, 2);
        promises.acknowledged(1, 3);
        promises.refused(1, 3);
        assert_eq!((promises.unanswered_count(1), promises.refused_count(1)), (2, 1));
        assert_eq!(promises.not_given(1, 0..5), [1, 4, 2]);
        assert_eq!(promises.not_given(1, 2..4), [2]);
        assert_eq!(promises.not_given(0, 0..5), [0; 0]);
        promises.begin(1);
        assert_eq!(promises.not_given(1, 0..5), [0; 0]);
    }
}
