//! A map ordered by name, whose lists cost only what they show, and that counts entries without visiting each: the rooms of the
//! server, and the users of a room.
//!
//! Pure. The entries are in ordered chunks of bounded size; an empty map allocates nothing, a small one a single chunk. Finding
//! a name is a binary search, a change moves at most one chunk, and counting adds up the lengths of chunks: a few thousand
//! numbers for a million entries.

use std::borrow::Borrow;

use smallvec::SmallVec;

/// Largest number of entries in a chunk.
const CHUNK_ENTRIES_MAX: usize = 256;

/// A map ordered by name. `N` is a name; `MAX` is the largest number of entries in a chunk.
#[derive(Debug)]
pub(crate) struct Sorted<N, V, const MAX: usize = CHUNK_ENTRIES_MAX> {
    /// Never empty ones; all names in one come before those in the next.
    chunks: SmallVec<[Vec<(N, V)>; 1]>,
    len: usize,
}

/// Where an entry is, or belongs.
#[derive(Clone, Copy, Debug)]
struct Place {
    chunk: usize,
    index: usize,
}

impl<N, V, const MAX: usize> Default for Sorted<N, V, MAX> {
    fn default() -> Self {
        const { assert!(MAX >= 2, "a full chunk is split in two") };
        Self { chunks: SmallVec::new(), len: 0 }
    }
}

impl<N: Borrow<str>, V, const MAX: usize> Sorted<N, V, MAX> {
    /// Number of entries.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The value of a name.
    pub(crate) fn get(&self, name: &str) -> Option<&V> {
        let Place { chunk, index } = self.find(name).ok()?;
        Some(&self.chunks[chunk][index].1)
    }

    /// Sets the value of a name, and returns its previous value.
    pub(crate) fn insert(&mut self, name: N, value: V) -> Option<V> {
        let Place { chunk, index } = match self.find(name.borrow()) {
            Ok(Place { chunk, index }) => return Some(std::mem::replace(&mut self.chunks[chunk][index].1, value)),
            Err(place) => place,
        };
        if self.chunks.is_empty() {
            self.chunks.push(Vec::new());
        }
        let entries = &mut self.chunks[chunk];
        entries.insert(index, (name, value));
        if entries.len() > MAX {
            let second_half = entries.split_off(entries.len() / 2);
            self.chunks.insert(chunk + 1, second_half);
        }
        self.len += 1;
        self.check();
        None
    }

    /// Removes a name with its value.
    pub(crate) fn remove(&mut self, name: &str) -> Option<(N, V)> {
        let Place { chunk, index } = self.find(name).ok()?;
        let entry = self.chunks[chunk].remove(index);
        self.len -= 1;
        self.shrink(chunk);
        self.check();
        Some(entry)
    }

    /// The entries whose names begin with `prefix`, in order, and their number.
    pub(crate) fn with_prefix(&self, prefix: &str) -> (impl Iterator<Item = (&N, &V)>, usize) {
        let first = self.place(|name| name < prefix);
        let end = self.place(|name| name < prefix || name.starts_with(prefix));
        let count = self.rank(end) - self.rank(first);
        let chunks = self.chunks.get(first.chunk..).unwrap_or_default();
        let entries = chunks.iter().flatten().skip(first.index).take(count);
        (entries.map(|(name, value)| (name, value)), count)
    }

    /// All entries in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&N, &V)> {
        self.chunks.iter().flatten().map(|(name, value)| (name, value))
    }

    /// The place of a name, or else where it would be inserted.
    fn find(&self, name: &str) -> Result<Place, Place> {
        let place = self.place(|other| other < name);
        match self.chunks.get(place.chunk).and_then(|entries| entries.get(place.index)) {
            Some((found, _)) if found.borrow() == name => Ok(place),
            _ => Err(place),
        }
    }

    /// The first place for which `is_before` is false, or the end. `is_before` is true for all names up to some point, and
    /// false from there on.
    fn place(&self, is_before: impl Fn(&str) -> bool) -> Place {
        let chunk =
            self.chunks.partition_point(|entries| entries.last().is_some_and(|(name, _)| is_before(name.borrow())));
        let Some(entries) = self.chunks.get(chunk) else {
            let last = self.chunks.len().saturating_sub(1);
            return Place { chunk: last, index: self.chunks.last().map_or(0, Vec::len) };
        };
        Place { chunk, index: entries.partition_point(|(name, _)| is_before(name.borrow())) }
    }

    /// Number of entries before a place.
    fn rank(&self, Place { chunk, index }: Place) -> usize {
        self.chunks[..chunk].iter().map(Vec::len).sum::<usize>() + index
    }

    /// Frees memory after an entry of this chunk was removed: joins the chunk with a neighbor if both are small, and shrinks it
    /// to room for twice its entries.
    fn shrink(&mut self, chunk: usize) {
        if self.chunks[chunk].is_empty() {
            self.chunks.remove(chunk);
        } else {
            self.join_with_next(chunk);
            let joined = chunk.checked_sub(1).filter(|previous| self.join_with_next(*previous)).unwrap_or(chunk);
            let entries = &mut self.chunks[joined];
            if entries.len() < entries.capacity() / 4 {
                entries.shrink_to(entries.len() * 2);
            }
        }
        if self.chunks.len() <= self.chunks.capacity() / 4 {
            self.chunks.shrink_to_fit();
        }
    }

    /// Joins a chunk with the next one, if they are small together. Returns whether it did.
    fn join_with_next(&mut self, chunk: usize) -> bool {
        let is_small = self.chunks.get(chunk + 1).is_some_and(|next| self.chunks[chunk].len() + next.len() <= MAX / 2);
        if is_small {
            let next = self.chunks.remove(chunk + 1);
            self.chunks[chunk].extend(next);
        }
        is_small
    }

    /// Checks the structure in debug builds. The order of all names is checked only while there are few: for a large map it
    /// would make debug builds crawl.
    fn check(&self) {
        debug_assert!(self.chunks.iter().all(|entries| (1..=MAX).contains(&entries.len())));
        debug_assert!(
            self.len > 64
                || self.len == self.iter().count() && self.iter().is_sorted_by(|a, b| a.0.borrow() < b.0.borrow())
        );
    }
}

#[cfg(test)]
mod tests;
