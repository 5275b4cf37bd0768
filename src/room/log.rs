//! The room log: the encoded frames of a room on one shard. It is append-only and bounded, and members are cursors into it.
//!
//! Pure: no socket, no clock. A frame is found by its `Seq`, and everything from a cursor to the end of a chunk is one
//! contiguous [`Slice`]. How far a stuck member may lag behind is bounded here and nowhere else: it has no queue of its own,
//! and when the frames that it waits for are dropped, it is *lapped*.

use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;

use crate::limits::{CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, COPIED_FRAME_BYTES_MAX};
use crate::memory::{ALLOCATION_OVERHEAD_BYTES, Held, What};
use crate::slice::{Chunk, Slice};

/// Bytes that a frame costs on top of its own: counted against the bound, so that a flood of tiny frames is bounded, too.
pub(crate) const FRAME_OVERHEAD_BYTES: usize = size_of::<Frame>();

const _: () = assert!(COPIED_FRAME_BYTES_MAX <= CHUNK_BYTES_MAX / 4);

/// Where a frame is stored.
#[derive(Clone, Copy, Debug)]
struct Frame {
    /// Number of its chunk, counting from the log's first one.
    chunk: u64,
    start: u32,
    len: u32,
}

#[derive(Debug)]
enum Body {
    /// Several frames, one after the other.
    Copied(Rc<Chunk>),
    /// One large frame.
    Shared(Bytes),
}

#[derive(Debug)]
struct Stored {
    body: Body,
    /// `Seq` after that of the last frame in here.
    end_seq: u64,
    /// Number of bytes written.
    end: usize,
}

/// What a member finds at its cursor: see [`Log::read`].
#[derive(Debug)]
pub enum Read {
    /// Nothing: the cursor is at the tip.
    AtTip,
    /// Complete frames, and the cursor after them.
    Frames(Slice, u64),
    /// The cursor is before everything that is kept. The member can go on at this `Seq`: the oldest one kept, or the tip.
    Lapped(u64),
}

/// A bounded, append-only log of frames whose `Seq` have no gaps.
#[derive(Debug)]
pub struct Log {
    bytes_max: usize,
    bytes: usize,
    first_seq: u64,
    frames: VecDeque<Frame>,
    /// Number of the first chunk in `chunks`.
    first_chunk: u64,
    chunks: VecDeque<Stored>,
    /// Memory that the bodies in `chunks` take, in bytes.
    body_bytes: usize,
    held: Held,
}

impl Stored {
    /// Memory that its body takes, in bytes: for a chunk its whole capacity, no matter how much is written.
    fn body_bytes(&self) -> usize {
        ALLOCATION_OVERHEAD_BYTES
            + match &self.body {
                Body::Copied(chunk) => chunk.capacity(),
                Body::Shared(bytes) => bytes.len(),
            }
    }
}

impl Log {
    /// An empty log whose next frame will be `first_seq`. It keeps at most `bytes_max` bytes, and always the newest frame, no
    /// matter how large.
    pub fn new(first_seq: u64, bytes_max: usize) -> Self {
        Self {
            bytes_max,
            bytes: 0,
            first_seq,
            frames: VecDeque::new(),
            first_chunk: 0,
            chunks: VecDeque::new(),
            body_bytes: 0,
            held: Held::new(What::Logs),
        }
    }

    /// `Seq` of the oldest frame that is kept; the tip if there is none.
    pub(crate) fn first_seq(&self) -> u64 {
        self.first_seq
    }

    /// `Seq` of the next frame.
    pub fn tip(&self) -> u64 {
        self.first_seq + self.frames.len() as u64
    }

    /// Bytes of frames that are kept, including their overhead.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Memory taken in bytes, including unused capacity.
    pub(crate) fn held_bytes(&self) -> usize {
        self.body_bytes + self.frames.capacity() * size_of::<Frame>() + self.chunks.capacity() * size_of::<Stored>()
    }

    /// Appends the frame `seq`. A frame older than the tip is from before this log began, and ignored. With a newer one, frames
    /// are missing because the shard's inbox overflowed: then everything kept is dropped, and every member behind `seq` is
    /// lapped and will be told.
    pub fn append(&mut self, seq: u64, frame: &Bytes) {
        if seq < self.tip() {
            return;
        }
        if seq > self.tip() {
            self.clear();
            self.first_seq = seq;
        }
        let (start, len) = self.store(frame);
        let chunk = self.first_chunk + self.chunks.len() as u64 - 1;
        self.frames.push_back(Frame { chunk, start, len });
        self.bytes += frame.len() + FRAME_OVERHEAD_BYTES;
        self.cut_back(self.bytes_max);
    }

    /// Moves the tip to `seq`, because the missing frames will never arrive: every cursor before `seq` is lapped. False if no
    /// frames are missing.
    pub(crate) fn skip_to(&mut self, seq: u64) -> bool {
        if seq <= self.tip() {
            return false;
        }
        self.clear();
        self.first_seq = seq;
        true
    }

    fn store(&mut self, frame: &Bytes) -> (u32, u32) {
        let end_seq = self.tip() + 1;
        let len = u32::try_from(frame.len()).expect("frames are smaller than 4 GiB");
        if frame.len() > COPIED_FRAME_BYTES_MAX {
            self.push_body(Stored { body: Body::Shared(frame.clone()), end_seq, end: frame.len() });
            return (0, len);
        }
        if let Some(Stored { body: Body::Copied(chunk), end_seq: last_end_seq, end }) = self.chunks.back_mut()
            && let Some(range) = chunk.append(frame)
        {
            *last_end_seq = end_seq;
            *end = range.end;
            return (range.start as u32, len);
        }
        let before = match self.chunks.back() {
            Some(Stored { body: Body::Copied(chunk), .. }) => chunk.capacity(),
            _ => 0,
        };
        let capacity = (before * 2).clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX).max(frame.len());
        let chunk = Chunk::with_capacity(capacity);
        let range = chunk.append(frame).expect("a new chunk has room for the frame");
        self.push_body(Stored { body: Body::Copied(chunk), end_seq, end: range.end });
        (0, len)
    }

    fn push_body(&mut self, stored: Stored) {
        self.body_bytes += stored.body_bytes();
        self.chunks.push_back(stored);
    }

    /// What a member at `cursor` gets next: complete frames, the last of which is before `until` (or the tip).
    pub fn read(&self, cursor: u64, until: u64) -> Read {
        if cursor < self.first_seq {
            return Read::Lapped(self.first_seq);
        }
        let until = until.min(self.tip());
        if cursor >= until {
            return Read::AtTip;
        }
        let frame = self.frame(cursor);
        let stored = &self.chunks[(frame.chunk - self.first_chunk) as usize];
        let (end_seq, end) = if stored.end_seq <= until {
            (stored.end_seq, stored.end)
        } else {
            let last = self.frame(until - 1);
            (until, (last.start + last.len) as usize)
        };
        let slice = match &stored.body {
            Body::Copied(chunk) => Slice::of_chunk(chunk, frame.start as usize..end),
            Body::Shared(bytes) => Slice::Shared(bytes.clone()),
        };
        Read::Frames(slice, end_seq)
    }

    /// Where a send that began at `cursor` stopped after `sent` bytes: the cursor after the frame in which it stopped, and how
    /// many bytes of that frame are missing (0 if it stopped between frames). `None` if those frames are gone.
    pub(crate) fn position_after(&self, mut cursor: u64, mut sent: usize) -> Option<(u64, usize)> {
        while sent > 0 {
            if cursor < self.first_seq || cursor >= self.tip() {
                return None;
            }
            let len = self.frame(cursor).len as usize;
            cursor += 1;
            if sent < len {
                return Some((cursor, len - sent));
            }
            sent -= len;
        }
        Some((cursor, 0))
    }

    /// Drops the oldest frames until at most `bytes_max` bytes are kept; the newest frame always stays.
    pub(crate) fn cut_back(&mut self, bytes_max: usize) {
        while self.bytes > bytes_max && self.frames.len() > 1 {
            self.drop_first();
        }
        self.account();
    }

    /// Drops the oldest frames, a chunk at a time, until at most `held_bytes_max` bytes of memory are taken, and frees the
    /// memory at once. If the last chunk is still too large, all frames go.
    pub(crate) fn shrink(&mut self, held_bytes_max: usize) {
        // What it would take with lists that are no longer than necessary.
        let least = |log: &Self| {
            log.body_bytes + log.frames.len() * size_of::<Frame>() + log.chunks.len() * size_of::<Stored>()
        };
        while least(self) > held_bytes_max {
            let Some(oldest) = self.chunks.front().filter(|_| self.chunks.len() > 1) else {
                self.clear();
                break;
            };
            let end_seq = oldest.end_seq;
            while self.first_seq < end_seq {
                self.drop_first();
            }
        }
        self.frames.shrink_to_fit();
        self.chunks.shrink_to_fit();
        self.account();
    }

    /// Drops all frames before `seq`, because every member has received them.
    pub(crate) fn trim(&mut self, seq: u64) {
        if seq >= self.tip() {
            // All at once, no matter how many there are.
            self.clear();
        }
        while self.first_seq < seq && !self.frames.is_empty() {
            self.drop_first();
        }
        self.account();
    }

    fn frame(&self, seq: u64) -> Frame {
        self.frames[(seq - self.first_seq) as usize]
    }

    fn drop_first(&mut self) {
        let frame = self.frames.pop_front().expect("the log has frames");
        self.first_seq += 1;
        self.bytes -= frame.len as usize + FRAME_OVERHEAD_BYTES;
        while self.chunks.front().is_some_and(|stored| stored.end_seq <= self.first_seq) {
            // The newest chunk stays: the next frame goes into it.
            if self.chunks.len() == 1 && self.frames.is_empty() {
                break;
            }
            if let Some(stored) = self.chunks.pop_front() {
                self.body_bytes -= stored.body_bytes();
            }
            self.first_chunk += 1;
        }
    }

    /// Drops all frames and frees their memory; the tip stays.
    fn clear(&mut self) {
        self.first_seq = self.tip();
        self.first_chunk += self.chunks.len() as u64;
        self.frames = VecDeque::new();
        self.chunks = VecDeque::new();
        self.bytes = 0;
        self.body_bytes = 0;
    }

    /// Updates the memory count; in debug builds, checks it.
    fn account(&mut self) {
        self.held.set(self.held_bytes());
        debug_assert!(
            self.chunks.len() > 64 || self.body_bytes == self.chunks.iter().map(Stored::body_bytes).sum::<usize>()
        );
        // The sum is checked only while the log is short: for a full log it would make debug builds crawl.
        debug_assert!(
            self.frames.len() > 64
                || self.bytes
                    == self.frames.iter().map(|frame| frame.len as usize + FRAME_OVERHEAD_BYTES).sum::<usize>()
        );
        debug_assert!(self.bytes <= self.bytes_max || self.frames.len() <= 1);
        debug_assert!(self.frames.is_empty() || self.chunks.back().is_some_and(|last| last.end_seq == self.tip()));
    }
}

#[cfg(test)]
mod tests;
