//! What has arrived of a room, and waits until what arrived before it is shown: a shard that has enough to do gets no more. Pure.
//!
//! All rooms together may keep a bounded number of bytes. What a room can't keep it reads again later, from the log.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;

use crate::limits::cluster::BACKLOG_BYTES_MAX;

/// That of one room.
#[derive(Debug)]
pub(super) struct Backlog<T> {
    waiting: VecDeque<(T, usize)>,
    bytes: usize,
    /// Those of all rooms.
    all: Rc<Cell<usize>>,
    /// Whether it has let something go, and keeps nothing until that is known.
    is_cut: bool,
}

impl<T> Backlog<T> {
    /// An empty one; `all` has the bytes of all rooms.
    pub(super) fn new(all: Rc<Cell<usize>>) -> Self {
        Self { waiting: VecDeque::new(), bytes: 0, all, is_cut: false }
    }

    /// Whether nothing waits, and nothing was let go.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && !self.is_cut
    }

    /// Something of this many bytes has arrived.
    pub(super) fn push(&mut self, arrived: T, bytes: usize) {
        if self.all.get() + bytes > BACKLOG_BYTES_MAX {
            self.clear();
            self.is_cut = true;
        }
        if !self.is_cut {
            self.waiting.push_back((arrived, bytes));
            self.bytes += bytes;
            self.all.update(|all| all + bytes);
        }
    }

    /// What has waited for longest.
    pub(super) fn pop(&mut self) -> Option<T> {
        let (arrived, bytes) = self.waiting.pop_front()?;
        self.bytes -= bytes;
        self.all.update(|all| all - bytes);
        Some(arrived)
    }

    /// Whether something was let go: the log has to be asked for it.
    pub(super) fn take_cut(&mut self) -> bool {
        std::mem::take(&mut self.is_cut)
    }

    /// The log has forgotten it.
    pub(super) fn clear(&mut self) {
        self.waiting = VecDeque::new();
        self.all.update(|all| all - self.bytes);
        self.bytes = 0;
    }
}

impl<T> Drop for Backlog<T> {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_rooms_together_keep_a_bounded_number_of_bytes() {
        let all = Rc::default();
        let (mut tea, mut milk) = (Backlog::new(Rc::clone(&all)), Backlog::new(Rc::clone(&all)));
        let most = BACKLOG_BYTES_MAX - 10;
        tea.push(1, most);
        milk.push(2, 10);
        assert_eq!((tea.pop(), tea.take_cut(), all.get()), (Some(1), false, 10));
        tea.push(3, most);
        tea.push(4, 1);
        tea.push(5, 1);
        assert_eq!((tea.pop(), all.get()), (None, 10), "what is behind a gap is read again, too");
        assert!(tea.take_cut() && !tea.take_cut());
        tea.push(6, 1);
        assert_eq!(tea.pop(), Some(6));
        drop(milk);
        assert_eq!(all.get(), 0);
    }
}
