//! The newest message of each key of a room on one shard, for members with `?latest=1` that don't keep up.
//!
//! Pure. Shared by all of these members: each has a cursor, as in a log, and needs the messages from there on. Members that take
//! less than one message of each key at a time get the keys in turn, so that none is left out because others change less often:
//! these members also remember the few messages that were sent ahead of their cursor.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use bytes::Bytes;
use slab::Slab;
use smallvec::SmallVec;

use super::replay::Gathered;
use crate::limits::{NEWEST_BYTES_MAX, NEWEST_KEYS_MAX, SEND_BYTES_MAX, SENT_AHEAD_MAX};
use crate::memory::{ALLOCATION_OVERHEAD_BYTES, Held, What};

/// Bytes that a message costs on top of its own and those of its key: its entries in three collections, and three allocations
/// with reference counts.
const OVERHEAD_BYTES: usize = 2 * size_of::<Kept>() + 96 + 3 * ALLOCATION_OVERHEAD_BYTES;

/// `None`: the key of all messages without one.
type Key = Option<Rc<str>>;

#[derive(Debug)]
struct Kept {
    seq: u64,
    key: Key,
    frame: Bytes,
}

impl Kept {
    fn bytes(&self) -> usize {
        OVERHEAD_BYTES + self.frame.len() + self.key.as_ref().map_or(0, |key| key.len())
    }
}

/// How far a member is, beside its cursor.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// `Seq` of the messages after its cursor that it has been sent, ascending.
    ahead: SmallVec<[u64; 4]>,
    /// The place of the key whose turn it is.
    turn: usize,
}

impl Progress {
    /// Whether it has been sent any message after its cursor.
    pub(crate) fn is_ahead(&self) -> bool {
        !self.ahead.is_empty()
    }
}

/// The newest message of each key, bounded.
#[derive(Debug)]
pub(crate) struct Newest {
    kept: Slab<Kept>,
    by_key: HashMap<Key, usize>,
    by_seq: BTreeMap<u64, usize>,
    bytes: usize,
    /// `Seq` from which on nothing has been dropped that was the newest of its key.
    whole_from: u64,
    held: Held,
}

impl Newest {
    /// Nothing yet; members begin at `first_seq` or later.
    pub(crate) fn new(first_seq: u64) -> Self {
        Self {
            kept: Slab::new(),
            by_key: HashMap::new(),
            by_seq: BTreeMap::new(),
            bytes: 0,
            whole_from: first_seq,
            held: Held::new(What::Logs),
        }
    }

    /// Keeps the message `seq`, the newest of all, in place of the one with the same key. If it is too much, the oldest are dropped.
    pub(crate) fn replace(&mut self, seq: u64, key: Key, frame: &Bytes) {
        if let Some(place) = self.by_key.get(&key) {
            self.remove(self.kept[*place].seq);
        }
        let kept = Kept { seq, key: key.clone(), frame: frame.clone() };
        self.bytes += kept.bytes();
        let place = self.kept.insert(kept);
        self.by_key.insert(key, place);
        self.by_seq.insert(seq, place);
        while self.by_seq.len() > NEWEST_KEYS_MAX || self.bytes > NEWEST_BYTES_MAX && self.by_seq.len() > 1 {
            self.drop_first();
        }
        self.account();
    }

    /// The messages before `next_seq` that are not kept have been lost on their way here.
    pub(crate) fn lose(&mut self, next_seq: u64) {
        self.whole_from = self.whole_from.max(next_seq);
    }

    /// Forgets the messages before `seq`: all members have them.
    pub(crate) fn trim(&mut self, seq: u64) {
        while let Some((first, _)) = self.by_seq.first_key_value()
            && *first < seq
        {
            self.remove(*first);
        }
        if self.by_seq.is_empty() {
            (self.kept, self.by_key) = (Slab::new(), HashMap::new());
        }
        self.account();
    }

    /// Drops the oldest until at most `held_bytes_max` bytes are taken.
    pub(crate) fn shrink(&mut self, held_bytes_max: usize) {
        while self.bytes > held_bytes_max {
            self.drop_first();
        }
        self.account();
    }

    /// Whether there is nothing in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.by_seq.is_empty()
    }

    /// Memory taken, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        self.bytes
    }

    /// Whether a member with this cursor finds the newest message of each key; otherwise some may have been dropped.
    pub(crate) fn is_whole_from(&self, cursor: u64) -> bool {
        cursor >= self.whole_from
    }

    /// Whether this is the newest message of a key.
    pub(crate) fn contains(&self, seq: u64) -> bool {
        self.by_seq.contains_key(&seq)
    }

    /// How many messages a member with this cursor needs, own ones included; at most `max`.
    pub(crate) fn pending(&self, cursor: u64, progress: &Progress, max: usize) -> usize {
        let needed = self.by_seq.range(cursor..).filter(|(seq, _)| progress.ahead.binary_search(seq).is_err());
        needed.take(max).count()
    }

    /// Takes what a member gets next, in order: at most `messages_max` of the messages from its cursor to before `until`, except
    /// those that `is_own`. The cursor moves to the first message that is left, or to `until`. `None`: there is nothing for it.
    pub(crate) fn take(
        &self,
        (cursor, progress): (&mut u64, &mut Progress),
        until: u64,
        messages_max: usize,
        is_own: impl Fn(u64) -> bool,
    ) -> Option<Gathered> {
        progress.ahead.retain(|seq| self.contains(*seq));
        let is_wanted = |seq: &u64, ahead: &[u64]| ahead.binary_search(seq).is_err() && !is_own(*seq);
        let wanted =
            self.by_seq.range(*cursor..until).map(|(seq, _)| *seq).filter(|seq| is_wanted(seq, &progress.ahead));
        let oldest: SmallVec<[u64; 4]> = wanted.take(messages_max.saturating_add(1)).collect();
        let takes_all = oldest.len() <= messages_max;
        let mut taken = if takes_all {
            oldest
        } else {
            let in_turn = messages_max.min(SENT_AHEAD_MAX.saturating_sub(progress.ahead.len()));
            let mut taken = self.in_turn(&mut progress.turn, in_turn, |seq| {
                (*cursor..until).contains(&seq) && is_wanted(&seq, &progress.ahead)
            });
            taken.sort_unstable();
            let others = oldest.into_iter().filter(|seq| taken.binary_search(seq).is_err());
            let others: SmallVec<[u64; 4]> = others.take(messages_max - taken.len()).collect();
            taken.extend(others);
            taken.sort_unstable();
            taken
        };
        let frames = self.frames(&taken);
        let takes_all = takes_all && frames.len() == taken.len();
        taken.truncate(frames.len());
        if takes_all {
            *cursor = until;
        } else {
            progress.ahead.extend(taken);
            progress.ahead.sort_unstable();
            let mut left = self.by_seq.range(*cursor..until).map(|(seq, _)| *seq);
            *cursor = left.find(|seq| is_wanted(seq, &progress.ahead)).unwrap_or(until);
        }
        progress.ahead.retain(|seq| *seq >= *cursor);
        Gathered::of(frames, *cursor)
    }

    /// Up to `count` messages, of the keys whose turn it is.
    fn in_turn(&self, turn: &mut usize, count: usize, is_wanted: impl Fn(u64) -> bool) -> SmallVec<[u64; 4]> {
        let (places, first) = (self.kept.capacity(), *turn);
        let mut taken = SmallVec::new();
        for place in (first..places).chain(0..first.min(places)) {
            if taken.len() == count {
                break;
            }
            if let Some(kept) = self.kept.get(place).filter(|kept| is_wanted(kept.seq)) {
                taken.push(kept.seq);
                *turn = place + 1;
            }
        }
        taken
    }

    /// The frames of these messages, as many as fit into a send, but at least one.
    fn frames(&self, taken: &[u64]) -> SmallVec<[Bytes; 1]> {
        let mut bytes = 0;
        let frames = taken.iter().map(|seq| &self.kept[self.by_seq[seq]].frame);
        let fitting = frames.enumerate().take_while(|(index, frame)| {
            bytes += frame.len();
            *index == 0 || bytes <= SEND_BYTES_MAX
        });
        fitting.map(|(_, frame)| frame.clone()).collect()
    }

    fn remove(&mut self, seq: u64) {
        let place = self.by_seq.remove(&seq).expect("it is kept");
        let kept = self.kept.remove(place);
        self.by_key.remove(&kept.key);
        self.bytes -= kept.bytes();
    }

    /// Drops the message that is the newest of its key for longest.
    fn drop_first(&mut self) {
        if let Some((seq, _)) = self.by_seq.first_key_value() {
            self.whole_from = seq + 1;
            self.remove(*seq);
        }
    }

    fn account(&mut self) {
        self.held.set(self.bytes);
        debug_assert!(self.kept.len() == self.by_seq.len() && self.kept.len() == self.by_key.len());
    }
}

#[cfg(test)]
mod tests;
