//! A map that is kept in the order of its names, so that a list costs what it shows, and that counts without looking at
//! each: the rooms of the server, and the users of a room.
//!
//! Pure. The entries lie in chunks of bounded size, in order; an empty map owns no memory, and one of few entries a
//! single chunk. Whatever asks for a name halves its way to it; a change moves at most one chunk; and a count adds up
//! the lengths of chunks: some thousand numbers for a million entries.

use std::borrow::Borrow;

use smallvec::SmallVec;

/// Entries of a chunk at most.
const CHUNK_ENTRIES_MAX: usize = 256;

/// See the module. `N` is a name; `MAX` is how many entries a chunk may have.
#[derive(Debug)]
pub struct Sorted<N, V, const MAX: usize = CHUNK_ENTRIES_MAX> {
    /// None of them is empty, and all names of one come before those of the next.
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
        const { assert!(MAX >= 2, "a full chunk is parted in two") };
        Self { chunks: SmallVec::new(), len: 0 }
    }
}

impl<N: Borrow<str>, V, const MAX: usize> Sorted<N, V, MAX> {
    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The value of a name.
    pub fn get(&self, name: &str) -> Option<&V> {
        let Place { chunk, index } = self.find(name).ok()?;
        Some(&self.chunks[chunk][index].1)
    }

    /// Sets the value of a name, and returns the one that it had.
    pub fn insert(&mut self, name: N, value: V) -> Option<V> {
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

    /// Takes out a name with its value.
    pub fn remove(&mut self, name: &str) -> Option<(N, V)> {
        let Place { chunk, index } = self.find(name).ok()?;
        let entry = self.chunks[chunk].remove(index);
        self.len -= 1;
        self.give_memory_back(chunk);
        self.check();
        Some(entry)
    }

    /// The entries whose names begin with `prefix`, in order, and how many there are.
    pub fn with_prefix(&self, prefix: &str) -> (impl Iterator<Item = (&N, &V)>, usize) {
        let first = self.place(|name| name < prefix);
        let end = self.place(|name| name < prefix || name.starts_with(prefix));
        let count = self.rank(end) - self.rank(first);
        let chunks = self.chunks.get(first.chunk..).unwrap_or_default();
        let entries = chunks.iter().flatten().skip(first.index).take(count);
        (entries.map(|(name, value)| (name, value)), count)
    }

    /// All entries in order.
    pub fn iter(&self) -> impl Iterator<Item = (&N, &V)> {
        self.chunks.iter().flatten().map(|(name, value)| (name, value))
    }

    /// The place of a name, or the one that it would get.
    fn find(&self, name: &str) -> Result<Place, Place> {
        let place = self.place(|other| other < name);
        match self.chunks.get(place.chunk).and_then(|entries| entries.get(place.index)) {
            Some((found, _)) if found.borrow() == name => Ok(place),
            _ => Err(place),
        }
    }

    /// The first place whose name does not come before what is sought; behind all entries, if there is none. `is_before`
    /// is true for the names up to some point, and false from there on.
    fn place(&self, is_before: impl Fn(&str) -> bool) -> Place {
        let chunk =
            self.chunks.partition_point(|entries| entries.last().is_some_and(|(name, _)| is_before(name.borrow())));
        let Some(entries) = self.chunks.get(chunk) else {
            let last = self.chunks.len().saturating_sub(1);
            return Place { chunk: last, index: self.chunks.last().map_or(0, Vec::len) };
        };
        Place { chunk, index: entries.partition_point(|(name, _)| is_before(name.borrow())) }
    }

    /// How many entries are before a place.
    fn rank(&self, Place { chunk, index }: Place) -> usize {
        self.chunks[..chunk].iter().map(Vec::len).sum::<usize>() + index
    }

    /// An entry of this chunk has gone: joins it with a neighbour if both are small, and keeps no more capacity than that
    /// for as many entries again.
    fn give_memory_back(&mut self, chunk: usize) {
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

    /// Joins a chunk with the next one, if both together are small; whether it did.
    fn join_with_next(&mut self, chunk: usize) -> bool {
        let is_small = self.chunks.get(chunk + 1).is_some_and(|next| self.chunks[chunk].len() + next.len() <= MAX / 2);
        if is_small {
            let next = self.chunks.remove(chunk + 1);
            self.chunks[chunk].extend(next);
        }
        is_small
    }

    /// The order of all names is checked while there are few: at full length it would make debug builds crawl.
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
