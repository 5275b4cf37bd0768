//! What a chat room keeps for clients that reconnect: its last frames, once for all shards.
//!
//! Pure: time comes in as milliseconds of a clock that never goes back. The frames are the same shared bytes that went to the
//! shards; the list is protected by the room's lock, which a publish holds anyway. Its bounds are its own: how far slow members
//! may lag is up to [`super::log`].

use std::collections::VecDeque;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::memory::{ALLOCATION_OVERHEAD_BYTES, Held, What};
use crate::protocol::position::Batch;

/// Bytes that a frame costs on top of its own: counted against the bound.
const FRAME_OVERHEAD_BYTES: usize = size_of::<Kept>();
/// Bytes that shared bytes cost on top of their own: their allocation, and that of the reference count.
const SHARED_OVERHEAD_BYTES: usize = 2 * ALLOCATION_OVERHEAD_BYTES + 24;

/// How much a room keeps for replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplayBounds {
    /// Largest number of frames.
    pub frames_max: usize,
    /// Largest number of bytes, including overhead.
    pub bytes_max: usize,
    /// Largest age of a frame, in milliseconds.
    pub age_max_ms: u64,
}

impl ReplayBounds {
    /// Nothing is kept, and no client recovers.
    pub const OFF: Self = Self { frames_max: 0, bytes_max: 0, age_max_ms: 0 };

    /// Whether one of the bounds is 0, which turns replay off.
    pub(crate) fn is_off(&self) -> bool {
        self.frames_max == 0 || self.bytes_max == 0 || self.age_max_ms == 0
    }
}

/// Frames to be replayed, not yet joined to one piece.
#[derive(Debug)]
pub(crate) struct Gathered {
    /// Never empty.
    frames: SmallVec<[Bytes; 1]>,
    /// Bytes of all frames together.
    bytes: usize,
    end_seq: u64,
}

impl Gathered {
    /// These frames, and the cursor after them; `None` if there are none.
    pub(super) fn of(frames: SmallVec<[Bytes; 1]>, end_seq: u64) -> Option<Self> {
        let bytes = frames.iter().map(Bytes::len).sum();
        (!frames.is_empty()).then_some(Self { frames, bytes, end_seq })
    }

    /// Number of frames.
    pub(crate) fn frames(&self) -> usize {
        self.frames.len()
    }

    /// Joins the frames: a single one is shared, several are copied.
    pub(crate) fn batch(mut self) -> Batch {
        let end_seq = self.end_seq;
        if self.frames.len() == 1
            && let Some(bytes) = self.frames.pop()
        {
            return Batch { bytes, end_seq };
        }
        let mut all = Vec::with_capacity(self.bytes);
        self.frames.iter().for_each(|frame| all.extend_from_slice(frame));
        Batch { bytes: all.into(), end_seq }
    }
}

#[derive(Debug)]
struct Kept {
    frame: Bytes,
    /// When it was published (see [`crate::clock::Time::monotonic_ms`]).
    at_ms: u64,
}

/// The last frames of a room, whose `Seq` have no gaps.
#[derive(Debug)]
pub(crate) struct Replay {
    bounds: ReplayBounds,
    /// `Seq` of the next frame.
    end_seq: u64,
    bytes: usize,
    frames: VecDeque<Kept>,
    held: Held,
}

impl Replay {
    /// An empty list whose first frame will be `first_seq`.
    pub(crate) fn new(first_seq: u64, bounds: ReplayBounds) -> Self {
        Self { bounds, end_seq: first_seq, bytes: 0, frames: VecDeque::new(), held: Held::new(What::Replay) }
    }

    /// Drops everything; the next frame will be `seq`.
    pub(crate) fn begin_at(&mut self, seq: u64) {
        *self = Self::new(seq, self.bounds);
    }

    /// Whether replay is turned off.
    pub(crate) fn is_off(&self) -> bool {
        self.bounds.is_off()
    }

    /// `Seq` of the oldest frame that is kept; of the next frame if there is none.
    pub(crate) fn first_seq(&self) -> u64 {
        self.end_seq - self.frames.len() as u64
    }

    /// Bytes of frames that are kept, including their overhead.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Appends the next frame.
    pub(crate) fn push(&mut self, frame: &Bytes, now_ms: u64) {
        self.end_seq += 1;
        if self.is_off() {
            return;
        }
        self.bytes += frame.len() + FRAME_OVERHEAD_BYTES;
        self.frames.push_back(Kept { frame: frame.clone(), at_ms: now_ms });
        self.cut(now_ms);
    }

    /// Drops the frames that exceed the bounds.
    pub(crate) fn cut(&mut self, now_ms: u64) {
        let ReplayBounds { frames_max, bytes_max, age_max_ms } = self.bounds;
        while let Some(oldest) = self.frames.front()
            && (self.frames.len() > frames_max
                || self.bytes > bytes_max
                || oldest.at_ms.saturating_add(age_max_ms) <= now_ms)
        {
            self.bytes -= oldest.frame.len() + FRAME_OVERHEAD_BYTES;
            self.frames.pop_front();
        }
        if self.frames.is_empty() {
            self.frames = VecDeque::new();
        }
        debug_assert!(self.bytes <= bytes_max && (self.bytes == 0) == self.frames.is_empty());
        self.account();
    }

    /// Memory taken in bytes, including unused capacity of the list.
    pub(crate) fn held_bytes(&self) -> usize {
        let (count, capacity) = (self.frames.len(), self.frames.capacity());
        self.bytes + count * SHARED_OVERHEAD_BYTES + (capacity - count) * size_of::<Kept>()
    }

    /// Drops the oldest frames until at most `held_bytes_max` bytes of memory are taken, and frees the memory at once. A client
    /// that asks for dropped frames is told so.
    pub(crate) fn shrink(&mut self, held_bytes_max: usize) {
        while self.bytes + self.frames.len() * SHARED_OVERHEAD_BYTES > held_bytes_max
            && let Some(oldest) = self.frames.pop_front()
        {
            self.bytes -= oldest.frame.len() + FRAME_OVERHEAD_BYTES;
        }
        self.frames.shrink_to_fit();
        self.account();
    }

    fn account(&mut self) {
        self.held.set(self.held_bytes());
    }

    /// Whether every frame from `seq` on is kept; `seq` may be that of the next frame.
    pub(crate) fn reaches(&self, seq: u64) -> bool {
        !self.is_off() && (self.first_seq()..=self.end_seq).contains(&seq)
    }

    /// When the oldest frame becomes too old; `None` if there is none.
    pub(crate) fn due_ms(&self) -> Option<u64> {
        self.frames.front().map(|oldest| oldest.at_ms.saturating_add(self.bounds.age_max_ms))
    }

    /// Frames from `from` to before `until`: at most `bytes_max` bytes, but always the first. `None` if they are no longer
    /// kept. No frame is copied, since the room's lock is held.
    pub(crate) fn gather(&self, from: u64, until: u64, bytes_max: usize) -> Option<Gathered> {
        if from < self.first_seq() || until > self.end_seq || from >= until {
            return None;
        }
        let start = (from - self.first_seq()) as usize;
        let mut gathered = Gathered { frames: SmallVec::new(), bytes: 0, end_seq: from };
        for Kept { frame, .. } in self.frames.range(start..start + (until - from) as usize) {
            if !gathered.frames.is_empty() && gathered.bytes + frame.len() > bytes_max {
                break;
            }
            gathered.bytes += frame.len();
            gathered.end_seq += 1;
            gathered.frames.push(frame.clone());
        }
        Some(gathered)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: ReplayBounds = ReplayBounds { frames_max: 4, bytes_max: 1 << 20, age_max_ms: 1000 };

    fn read(replay: &Replay, from: u64, until: u64, bytes_max: usize) -> Option<Batch> {
        replay.gather(from, until, bytes_max).map(Gathered::batch)
    }

    fn frame(seq: u64) -> Bytes {
        format!("<{seq}>").into()
    }

    #[test]
    fn the_last_frames_are_kept_within_the_bounds() {
        let mut replay = Replay::new(1, BOUNDS);
        (1..=6).for_each(|seq| replay.push(&frame(seq), seq * 100));
        assert_eq!(replay.first_seq(), 3, "four frames");
        assert!(!replay.reaches(2) && replay.reaches(3) && replay.reaches(7) && !replay.reaches(8));
        assert_eq!(read(&replay, 3, 7, 1000), Some(Batch { bytes: "<3><4><5><6>".into(), end_seq: 7 }));
        assert_eq!(read(&replay, 4, 7, 6), Some(Batch { bytes: "<4><5>".into(), end_seq: 6 }));
        assert_eq!(read(&replay, 4, 7, 0), Some(Batch { bytes: "<4>".into(), end_seq: 5 }), "always the first");
        assert_eq!(read(&replay, 2, 7, 1000), None);
        replay.cut(1400);
        assert_eq!((replay.first_seq(), replay.due_ms()), (5, Some(1500)), "a second old is too old");
        replay.cut(9000);
        assert_eq!((replay.first_seq(), replay.bytes(), replay.due_ms()), (7, 0, None));
        assert!(replay.reaches(7), "a client that has everything recovers");
    }

    #[test]
    fn a_frame_beyond_the_bound_is_not_kept_and_neither_are_those_before_it() {
        let mut replay = Replay::new(1, ReplayBounds { bytes_max: 200, ..BOUNDS });
        replay.push(&frame(1), 0);
        replay.push(&vec![b'x'; 300].into(), 0);
        replay.push(&frame(3), 0);
        assert_eq!(replay.first_seq(), 3);
    }

    #[test]
    fn a_bound_of_0_switches_it_off() {
        for off in [
            ReplayBounds { frames_max: 0, ..BOUNDS },
            ReplayBounds { bytes_max: 0, ..BOUNDS },
            ReplayBounds { age_max_ms: 0, ..BOUNDS },
        ] {
            let mut replay = Replay::new(1, off);
            replay.push(&frame(1), 0);
            assert!(!replay.reaches(1) && !replay.reaches(2) && replay.bytes() == 0, "{off:?}");
        }
    }

    #[test]
    fn shrinking_drops_the_oldest_frames_and_keeps_the_tip() {
        let mut replay = Replay::new(1, ReplayBounds { frames_max: 1000, ..BOUNDS });
        (1..=100).for_each(|_| replay.push(&vec![b'x'; 1000].into(), 0));
        assert!(replay.held_bytes() > 100_000 && replay.held.bytes() == replay.held_bytes());
        replay.shrink(20_000);
        assert!((15_000..=20_000).contains(&replay.held_bytes()), "{}", replay.held_bytes());
        assert!(replay.first_seq() > 80 && !replay.reaches(80) && replay.reaches(100));
        replay.shrink(0);
        assert_eq!((replay.first_seq(), replay.held_bytes(), replay.bytes()), (101, 0, 0));
        assert!(!replay.reaches(100) && replay.reaches(101), "a client that has everything recovers");
    }

    proptest! {
        #[test]
        fn batches_joined_up_are_the_frames_in_order(count in 1..60u64, from in 1..60u64, bytes_max in 0..40usize) {
            let mut replay = Replay::new(1, ReplayBounds { frames_max: 40, ..BOUNDS });
            (1..=count).for_each(|seq| replay.push(&frame(seq), 0));
            let mut at = from.max(replay.first_seq());
            let due: String = (at..=count).map(|seq| format!("<{seq}>")).collect();
            let mut came = Vec::new();
            while at <= count {
                let batch = read(&replay, at, count + 1, bytes_max).unwrap();
                prop_assert!(batch.end_seq > at);
                came.extend_from_slice(&batch.bytes);
                at = batch.end_seq;
            }
            prop_assert_eq!(String::from_utf8(came).unwrap(), due);
        }
    }
}
