//! Frames for one connection only, and what a partial send left over. Allocated only while there is something in it.

use std::collections::VecDeque;

use bytes::Bytes;

use super::Own;
use crate::counters::delivery::Carried;
use crate::limits::{OUTBOX_BYTES_MAX, PONGS_MAX};
use crate::memory::{ALLOCATION_OVERHEAD_BYTES, Held, What};
use crate::slice::Slice;

/// Bytes that a queued frame costs on top of its own: its entry in the list, its allocation and its reference count.
const FRAME_OVERHEAD_BYTES: usize = size_of::<Owed>() + 2 * ALLOCATION_OVERHEAD_BYTES + 24;

/// Bytes that a connection is owed.
#[derive(Debug)]
pub(super) struct Owed {
    pub(super) bytes: Bytes,
    pub(super) own: Own,
}

impl Owed {
    pub(super) fn whole(slice: Slice, carried: Carried) -> Self {
        Self { bytes: slice.detached(), own: Own { carried, pinned_bytes: 0 } }
    }

    /// The rest of a slice that keeps `pinned_bytes` in memory. If less than half of that is left, the rest is copied: a stuck
    /// member never pins more than twice what it is owed.
    pub(super) fn rest(slice: Slice, carried: Carried, pinned_bytes: usize) -> Self {
        let (bytes, pinned_bytes) = match slice {
            Slice::Shared(bytes) if bytes.len() < pinned_bytes.div_ceil(2) => (Bytes::copy_from_slice(&bytes), 0),
            // A frame is smaller than 4 GiB.
            Slice::Shared(bytes) => (bytes, pinned_bytes as u32),
            chunk => (chunk.detached(), 0),
        };
        Self { bytes, own: Own { carried, pinned_bytes } }
    }

    /// Bytes that they keep in memory.
    fn pinned_bytes(&self) -> usize {
        self.bytes.len().max(self.own.pinned_bytes as usize)
    }
}

impl From<Bytes> for Owed {
    fn from(bytes: Bytes) -> Self {
        Self { bytes, own: Own::default() }
    }
}

/// The outbox of one connection, in the order in which its parts leave.
#[derive(Debug)]
pub(super) struct Outbox {
    /// The response to the handshake: not even a pong may leave before it.
    response: Option<Bytes>,
    /// What a partial send left over: the rest of a frame, and complete frames of our own. Never more than one send held.
    rest: VecDeque<Owed>,
    pongs: VecDeque<Bytes>,
    replies: VecDeque<Owed>,
    replies_bytes: usize,
    /// The Close frame, which leaves after everything else.
    close: Option<Bytes>,
    /// `Seq` of the connection's own messages, which are not sent back to it (`?echo=0`), ascending.
    own: VecDeque<u64>,
    held: Held,
}

impl Default for Outbox {
    fn default() -> Self {
        Self {
            response: None,
            rest: VecDeque::new(),
            pongs: VecDeque::new(),
            replies: VecDeque::new(),
            replies_bytes: 0,
            close: None,
            own: VecDeque::new(),
            held: Held::new(What::Outboxes),
        }
    }
}

impl Outbox {
    /// Sets the response to the handshake.
    pub(super) fn respond(&mut self, response: Bytes) {
        self.response = Some(response);
        self.account();
    }

    /// Appends a reply, unless too many bytes of replies wait already.
    pub(super) fn reply(&mut self, reply: Owed) -> bool {
        let len = reply.bytes.len();
        if self.replies_bytes + len > OUTBOX_BYTES_MAX && !self.replies.is_empty() {
            return false;
        }
        self.replies_bytes += len;
        self.replies.push_back(reply);
        self.account();
        true
    }

    /// Appends a pong, a ping or a heartbeat.
    pub(super) fn pong(&mut self, frame: Bytes) {
        if self.pongs.len() >= PONGS_MAX {
            self.pongs.pop_back();
        }
        self.pongs.push_back(frame);
        self.account();
    }

    /// Sets the Close frame, or what is left of it.
    pub(super) fn close(&mut self, frame: Bytes) {
        self.close = Some(frame);
        self.account();
    }

    pub(super) fn has_close(&self) -> bool {
        self.close.is_some()
    }

    /// Puts back bytes that must leave first, in order.
    pub(super) fn put_back(&mut self, owed: VecDeque<Owed>) {
        for owed in owed.into_iter().rev() {
            self.rest.push_front(owed);
        }
        self.account();
    }

    /// Takes the next frame: the response first, then the rest of a frame, since nothing may come between its parts, then
    /// pongs, then replies.
    pub(super) fn take(&mut self) -> Option<Owed> {
        let taken = self.take_first();
        self.account();
        taken
    }

    fn take_first(&mut self) -> Option<Owed> {
        let first = self.response.take().map(Owed::from).or_else(|| self.rest.pop_front());
        first.or_else(|| self.pongs.pop_front().map(Owed::from)).or_else(|| {
            let reply = self.replies.pop_front()?;
            self.replies_bytes -= reply.bytes.len();
            Some(reply)
        })
    }

    /// Takes the Close frame, if nothing else is left.
    pub(super) fn take_close(&mut self) -> Option<Bytes> {
        let last = self.response.is_none() && self.rest.is_empty() && self.pongs.is_empty() && self.replies.is_empty();
        if last { self.close.take() } else { None }
    }

    /// Whether a send was cut short, so that replies have to wait.
    pub(super) fn is_lagging(&self) -> bool {
        !self.rest.is_empty()
    }

    /// Bytes of replies that have not left yet.
    pub(super) fn replies_bytes(&self) -> usize {
        self.replies_bytes
    }

    /// Whether there is anything to send.
    pub(super) fn has_frames(&self) -> bool {
        let waiting = !self.rest.is_empty() || !self.pongs.is_empty() || !self.replies.is_empty();
        waiting || self.response.is_some() || self.close.is_some()
    }

    /// Whether it can be freed.
    pub(super) fn is_empty(&self) -> bool {
        !self.has_frames() && self.own.is_empty()
    }

    /// Remembers that the message `seq` must not be sent back. Messages before `first_kept` can't be any more.
    pub(super) fn skip(&mut self, seq: u64, first_kept: u64) {
        self.forget_skipped(first_kept);
        self.own.push_back(seq);
        self.account();
    }

    /// Remembers the same. Where the list would grow, it forgets those that are not kept any more.
    pub(super) fn skip_if(&mut self, seq: u64, is_kept: impl Fn(u64) -> bool) {
        if self.own.len() == self.own.capacity() {
            self.own.retain(|seq| is_kept(*seq));
        }
        self.own.push_back(seq);
        self.account();
    }

    /// The first message at or after `cursor` that must not be sent back.
    pub(super) fn next_skipped(&self, cursor: u64) -> Option<u64> {
        let index = self.own.partition_point(|seq| *seq < cursor);
        self.own.get(index).copied()
    }

    /// Forgets the skipped messages before `cursor`.
    pub(super) fn forget_skipped(&mut self, cursor: u64) {
        if self.own.front().is_some_and(|seq| *seq < cursor) {
            self.own = self.own.split_off(self.own.partition_point(|seq| *seq < cursor));
            self.account();
        }
    }

    /// Memory taken in bytes, including the outbox itself.
    pub(super) fn held_bytes(&self) -> usize {
        self.held.bytes()
    }

    /// Drops everything except the rest of a frame that has partly left: the peer can still read a Close after that.
    pub(super) fn drop_unread(&mut self) {
        self.rest.truncate(1);
        self.rest.shrink_to_fit();
        self.pongs = VecDeque::new();
        self.replies = VecDeque::new();
        self.replies_bytes = 0;
        self.own = VecDeque::new();
        self.account();
    }

    /// Updates the memory count.
    fn account(&mut self) {
        let single = [&self.response, &self.close].into_iter().flatten().map(Bytes::len).sum::<usize>();
        let rest = self.rest.iter().map(Owed::pinned_bytes).sum::<usize>();
        let pongs = self.pongs.iter().map(Bytes::len).sum::<usize>();
        let frames = self.rest.len() + self.pongs.len() + self.replies.len();
        let own = self.own.capacity() * size_of::<u64>();
        let bytes = single + rest + pongs + self.replies_bytes + frames * FRAME_OVERHEAD_BYTES + own;
        self.held.set(size_of::<Self>() + ALLOCATION_OVERHEAD_BYTES + bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rest(frame: &Bytes, left: usize, pinned_bytes: usize) -> Owed {
        Owed::rest(Slice::Shared(frame.slice(frame.len() - left..)), Carried::default(), pinned_bytes)
    }

    #[test]
    fn the_end_of_a_large_frame_counts_as_what_it_keeps_in_memory_or_gets_a_copy_of_its_own() {
        let frame: Bytes = vec![7; 1_000_000].into();
        let large = rest(&frame, 600_000, frame.len());
        assert_eq!((large.pinned_bytes(), large.bytes.as_ptr()), (1_000_000, frame[400_000..].as_ptr()));
        // Cut off again, little by little.
        let small = rest(&frame, 499_999, large.pinned_bytes());
        assert_eq!((small.pinned_bytes(), &small.bytes), (499_999, &frame.slice(500_001..)));
        assert_ne!(small.bytes.as_ptr(), frame[500_001..].as_ptr());
    }

    #[test]
    fn everything_that_waits_is_counted_and_given_up_but_for_the_frame_that_was_cut_off() {
        let mut outbox = Outbox::default();
        let frame: Bytes = vec![7; 100_000].into();
        outbox.put_back([rest(&frame, 90_000, 100_000), rest(&frame, 100_000, 100_000)].into());
        assert!(outbox.reply(frame.clone().into()) && outbox.reply(frame.into()));
        outbox.pong(vec![7; 125].into());
        (0..1000).for_each(|seq| outbox.skip(seq, 0));
        assert!((408_125..415_000).contains(&outbox.held_bytes()), "{}", outbox.held_bytes());
        outbox.drop_unread();
        assert!((100_000..101_000).contains(&outbox.held_bytes()), "{}", outbox.held_bytes());
        outbox.close(Bytes::from_static(b"close"));
        assert_eq!(outbox.take_close(), None, "behind the frame that was cut off");
        assert_eq!(outbox.take().map(|owed| owed.bytes.len()), Some(90_000));
        assert_eq!(outbox.take_close(), Some(Bytes::from_static(b"close")));
    }
}
