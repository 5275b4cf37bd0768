//! Frames for one connection alone, and what a send left over. Exists only while there is something in it.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::metrics::delivery::Carried;

/// Bytes of replies that may wait for one connection; a peer that asks on without reading is closed beyond it.
pub const OUTBOX_BYTES_MAX: usize = 256 * 1024;
/// Pongs (and our own pings) that wait for one connection. Beyond it a newer one takes the place of the last: RFC 6455,
/// 5.5.3 asks only for an answer to the most recent ping.
const PONGS_MAX: usize = 16;

/// Bytes that one connection is owed, and the frames of its rooms among them.
#[derive(Debug)]
pub(super) struct Owed {
    pub(super) bytes: Bytes,
    pub(super) carried: Carried,
}

impl From<Bytes> for Owed {
    fn from(bytes: Bytes) -> Self {
        Self { bytes, carried: Carried::default() }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// The 101 response: not even a pong may leave before it.
    response: Option<Bytes>,
    /// Behind a send that the kernel took only in part: the end of a frame, and whole frames of our own. Never more than
    /// one send held.
    rest: VecDeque<Owed>,
    pongs: VecDeque<Bytes>,
    replies: VecDeque<Owed>,
    /// Bytes in `replies`.
    replies_bytes: usize,
    /// The Close frame: behind everything else.
    close: Option<Bytes>,
    /// `Seq` of the connection's own messages, which it doesn't get (`?echo=0`), ascending.
    own: VecDeque<u64>,
}

impl Outbox {
    /// Sets the 101 response.
    pub(super) fn respond(&mut self, response: Bytes) {
        self.response = Some(response);
    }

    /// Appends a reply, unless too many wait already.
    pub(super) fn reply(&mut self, reply: Owed) -> bool {
        let len = reply.bytes.len();
        if self.replies_bytes + len > OUTBOX_BYTES_MAX && !self.replies.is_empty() {
            return false;
        }
        self.replies_bytes += len;
        self.replies.push_back(reply);
        true
    }

    /// Appends a pong or a ping.
    pub(super) fn pong(&mut self, frame: Bytes) {
        if self.pongs.len() >= PONGS_MAX {
            self.pongs.pop_back();
        }
        self.pongs.push_back(frame);
    }

    /// Sets the Close frame, or what is left of it.
    pub(super) fn close(&mut self, frame: Bytes) {
        self.close = Some(frame);
    }

    /// Whether a Close waits.
    pub(super) fn has_close(&self) -> bool {
        self.close.is_some()
    }

    /// Puts bytes that must leave first back, in order.
    pub(super) fn give_back(&mut self, owed: VecDeque<Owed>) {
        for owed in owed.into_iter().rev() {
            self.rest.push_front(owed);
        }
    }

    /// The next frame: the response first; then the rest of a frame, as nothing may come between its parts; then pongs,
    /// then replies.
    pub(super) fn take(&mut self) -> Option<Owed> {
        let first = self.response.take().map(Owed::from).or_else(|| self.rest.pop_front());
        first.or_else(|| self.pongs.pop_front().map(Owed::from)).or_else(|| {
            let reply = self.replies.pop_front()?;
            self.replies_bytes -= reply.bytes.len();
            Some(reply)
        })
    }

    /// The Close frame, once nothing else is left.
    pub(super) fn take_close(&mut self) -> Option<Bytes> {
        let last = self.response.is_none() && self.rest.is_empty() && self.pongs.is_empty() && self.replies.is_empty();
        if last { self.close.take() } else { None }
    }

    /// Whether a send was cut short, so that replies have to wait.
    pub(super) fn is_lagging(&self) -> bool {
        !self.rest.is_empty()
    }

    /// Bytes of replies that wait.
    pub(super) fn replies_bytes(&self) -> usize {
        self.replies_bytes
    }

    /// Whether there is anything to send.
    pub(super) fn has_frames(&self) -> bool {
        let waiting = !self.rest.is_empty() || !self.pongs.is_empty() || !self.replies.is_empty();
        waiting || self.response.is_some() || self.close.is_some()
    }

    /// Whether it can be forgotten.
    pub(super) fn is_empty(&self) -> bool {
        !self.has_frames() && self.own.is_empty()
    }

    /// Remembers that the message `seq` must not come back; those before `first_kept` can't any more.
    pub(super) fn skip(&mut self, seq: u64, first_kept: u64) {
        self.forget_skipped(first_kept);
        self.own.push_back(seq);
    }

    /// The first message from `cursor` on that must not come back.
    pub(super) fn next_skipped(&self, cursor: u64) -> Option<u64> {
        let index = self.own.partition_point(|seq| *seq < cursor);
        self.own.get(index).copied()
    }

    /// Forgets the skipped messages before `cursor`.
    pub(super) fn forget_skipped(&mut self, cursor: u64) {
        if self.own.front().is_some_and(|seq| *seq < cursor) {
            self.own = self.own.split_off(self.own.partition_point(|seq| *seq < cursor));
        }
    }
}
