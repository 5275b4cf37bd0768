//! Bytes that the kernel may still be reading: append-only chunks, and slices of them.
//!
//! A room log writes frames one after the other into a [`Chunk`], so that everything from a member's cursor to the tip is one
//! contiguous [`Slice`] and leaves in one `send`. The chunk keeps growing behind the slices taken from it: bytes once written
//! never change. Reference counts are not atomic, since a chunk never leaves its shard.

use std::cell::Cell;
use std::fmt;
use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;

/// An append-only buffer of fixed capacity, at most 4 GiB.
///
/// Invariant: the first `filled` bytes never change while the chunk lives; only bytes after them are written.
pub struct Chunk {
    cells: Box<[Cell<u8>]>,
    filled: Cell<usize>,
}

impl Chunk {
    /// An empty chunk with room for `capacity` bytes.
    pub(crate) fn with_capacity(capacity: usize) -> Rc<Self> {
        Rc::new(Self { cells: vec![Cell::new(0); capacity].into_boxed_slice(), filled: Cell::new(0) })
    }

    /// Appends `bytes`, and returns their range in the chunk; `None` if they don't fit.
    pub(crate) fn append(&self, bytes: &[u8]) -> Option<Range<usize>> {
        let start = self.filled.get();
        let end = start.checked_add(bytes.len())?;
        let target = self.cells.get(start..end)?;
        for (cell, byte) in target.iter().zip(bytes) {
            cell.set(*byte);
        }
        self.filled.set(end);
        Some(start..end)
    }

    /// Number of bytes that the chunk can hold.
    pub(crate) fn capacity(&self) -> usize {
        self.cells.len()
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunk({} of {} bytes)", self.filled.get(), self.cells.len())
    }
}

/// A range of bytes, together with what keeps them alive.
#[derive(Clone, Debug)]
pub enum Slice {
    /// Frames in a chunk of a room log.
    Chunk {
        /// The chunk, which the slice keeps alive.
        chunk: Rc<Chunk>,
        /// Range in the chunk, always within the filled part.
        range: Range<u32>,
    },
    /// A single frame: a reply, or one that is too large to be worth copying into a chunk.
    Shared(Bytes),
}

impl Slice {
    /// The bytes of `chunk` in `range`. Panics if they are not filled, since they could still change.
    pub(crate) fn of_chunk(chunk: &Rc<Chunk>, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= chunk.filled.get(), "a slice of unwritten bytes");
        let range = to_u32(range.start)..to_u32(range.end);
        Self::Chunk { chunk: Rc::clone(chunk), range }
    }

    /// Number of bytes in the slice.
    pub fn len(&self) -> usize {
        match self {
            Self::Chunk { range, .. } => (range.end - range.start) as usize,
            Self::Shared(bytes) => bytes.len(),
        }
    }

    /// Whether the slice has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Address of the first byte. The bytes don't change or move while any clone of the slice lives.
    pub(crate) fn as_ptr(&self) -> *const u8 {
        match self {
            Self::Chunk { chunk, range } => chunk.cells[range.start as usize..].as_ptr().cast(),
            Self::Shared(bytes) => bytes.as_ptr(),
        }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        // SAFETY: the range was filled when the slice was made, and lies in a chunk that the slice keeps alive; filled bytes are
        // never written again.
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts(self.as_ptr(), self.len())
        }
    }

    /// Drops the first `count` bytes. Panics if there are fewer.
    pub(crate) fn advance(&mut self, count: usize) {
        assert!(count <= self.len(), "advance beyond the end of a slice");
        match self {
            Self::Chunk { range, .. } => range.start += to_u32(count),
            Self::Shared(bytes) => drop(bytes.split_to(count)),
        }
    }

    /// Shortens the slice to its first `count` bytes, if it is longer.
    pub fn truncate(&mut self, count: usize) {
        match self {
            Self::Chunk { range, .. } => range.end = range.end.min(range.start.saturating_add(to_u32(count))),
            Self::Shared(bytes) => bytes.truncate(count),
        }
    }

    /// The bytes, independent of any chunk: a member that is stuck in the middle of a frame keeps that frame alive, not the
    /// whole chunk around it.
    pub fn detached(self) -> Bytes {
        match self {
            Self::Chunk { .. } => Bytes::copy_from_slice(self.as_bytes()),
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
