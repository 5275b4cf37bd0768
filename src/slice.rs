//! Bytes that the kernel may still be reading: append-only chunks and slices of them.
//!
//! A room log writes frames one behind the other into a [`Chunk`], so that everything from a member's cursor to the
//! tip is one contiguous [`Slice`] and leaves in one `send`. The chunk goes on growing behind the slices that were
//! taken from it: bytes once written never change. Reference counts are not atomic, as a chunk never leaves its shard.

use std::cell::Cell;
use std::fmt;
use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;

/// An append-only buffer of fixed capacity, at most 4 GiB.
///
/// Invariant: the first `filled` bytes never change while the chunk lives; only the bytes behind them are written.
pub struct Chunk {
    cells: Box<[Cell<u8>]>,
    filled: Cell<usize>,
}

impl Chunk {
    /// A chunk that has room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Rc<Self> {
        Rc::new(Self { cells: vec![Cell::new(0); capacity].into_boxed_slice(), filled: Cell::new(0) })
    }

    /// Writes `bytes` behind what is there and returns where they lie; `None` if they don't fit.
    pub fn append(&self, bytes: &[u8]) -> Option<Range<usize>> {
        let start = self.filled.get();
        let end = start.checked_add(bytes.len())?;
        let target = self.cells.get(start..end)?;
        for (cell, byte) in target.iter().zip(bytes) {
            cell.set(*byte);
        }
        self.filled.set(end);
        Some(start..end)
    }

    /// How many bytes the chunk can hold.
    pub fn capacity(&self) -> usize {
        self.cells.len()
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunk({} of {} bytes)", self.filled.get(), self.cells.len())
    }
}

/// A range of bytes together with what keeps them alive.
#[derive(Clone, Debug)]
pub enum Slice {
    /// Frames in a shard's own chunk.
    Chunk {
        /// Keeps the bytes alive.
        chunk: Rc<Chunk>,
        /// Where in the chunk; always within what is filled.
        range: Range<u32>,
    },
    /// A frame of its own: a reply, or one too large to be worth copying into a chunk.
    Shared(Bytes),
}

impl Slice {
    /// The part `range` of `chunk`. Panics if the range is not filled: such bytes could still change.
    pub fn of_chunk(chunk: &Rc<Chunk>, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= chunk.filled.get(), "a slice of unwritten bytes");
        let range = to_u32(range.start)..to_u32(range.end);
        Self::Chunk { chunk: Rc::clone(chunk), range }
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        match self {
            Self::Chunk { range, .. } => (range.end - range.start) as usize,
            Self::Shared(bytes) => bytes.len(),
        }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Address of the first byte. What lies there stays as it is while any clone of the slice lives.
    pub fn as_ptr(&self) -> *const u8 {
        match self {
            Self::Chunk { chunk, range } => chunk.cells[range.start as usize..].as_ptr().cast(),
            Self::Shared(bytes) => bytes.as_ptr(),
        }
    }

    /// Drops the first `count` bytes. Panics if there are fewer.
    pub fn advance(&mut self, count: usize) {
        assert!(count <= self.len(), "advance beyond the end of a slice");
        match self {
            Self::Chunk { range, .. } => range.start += to_u32(count),
            Self::Shared(bytes) => drop(bytes.split_to(count)),
        }
    }

    /// Cuts the slice to its first `count` bytes, if it is longer.
    pub fn truncate(&mut self, count: usize) {
        match self {
            Self::Chunk { range, .. } => range.end = range.end.min(range.start.saturating_add(to_u32(count))),
            Self::Shared(bytes) => bytes.truncate(count),
        }
    }

    /// The same bytes, independent of any chunk: a member that is stuck in the middle of a frame keeps that frame
    /// alive, not the whole chunk around it.
    pub fn detached(self) -> Bytes {
        match self {
            Self::Chunk { chunk, range } => {
                chunk.cells[range.start as usize..range.end as usize].iter().map(Cell::get).collect()
            }
            Self::Shared(bytes) => bytes,
        }
    }
}

impl From<Bytes> for Slice {
    fn from(bytes: Bytes) -> Self {
        Self::Shared(bytes)
    }
}

fn to_u32(offset: usize) -> u32 {
    u32::try_from(offset).expect("chunks are smaller than 4 GiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_keeps_its_bytes_while_the_chunk_grows() {
        let chunk = Chunk::with_capacity(8);
        let first = chunk.append(b"abc").unwrap();
        let slice = Slice::of_chunk(&chunk, first);
        assert_eq!(chunk.append(b"defgh"), Some(3..8));
        assert_eq!(chunk.append(b"i"), None);
        assert_eq!(slice.detached(), "abc");
    }

    #[test]
    fn advance_and_truncate_narrow_both_kinds() {
        let chunk = Chunk::with_capacity(6);
        let range = chunk.append(b"abcdef").unwrap();
        for mut slice in [Slice::of_chunk(&chunk, range), Bytes::from_static(b"abcdef").into()] {
            slice.advance(2);
            slice.truncate(3);
            assert_eq!(slice.len(), 3);
            assert_eq!(slice.detached(), "cde");
        }
    }

    #[test]
    #[should_panic(expected = "unwritten")]
    fn unwritten_bytes_cannot_be_sliced() {
        let _ = Slice::of_chunk(&Chunk::with_capacity(4), 0..1);
    }
}
