//! Input of a connection that waits for its turn to be read. Allocated only while there is some.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use crate::frame::decode::MessageKind;
use crate::memory::{Held, What};
use crate::ring::Received;
use crate::room::Room;

/// Unread input of one connection, in the order in which it arrived.
#[derive(Debug)]
pub(crate) struct Unread {
    parts: VecDeque<Part>,
    /// Bytes of the first part that have been read already.
    read_bytes: usize,
    /// A message that has been read, and waits for its room to catch up.
    pub parked: Option<Parked>,
    held: Held,
}

impl Default for Unread {
    fn default() -> Self {
        Self { parts: VecDeque::new(), read_bytes: 0, parked: None, held: Held::new(What::Unread) }
    }
}

#[derive(Debug)]
struct Part {
    body: Body,
    at: Instant,
}

#[derive(Debug)]
enum Body {
    /// In the receive buffer that the kernel filled.
    Buffer(Received),
    /// Copied, so that a waiting connection occupies no receive buffer.
    Copy(Box<[u8]>),
}

impl Body {
    fn bytes(&mut self) -> &mut [u8] {
        match self {
            Self::Buffer(received) => received.bytes(),
            Self::Copy(bytes) => bytes,
        }
    }
}

/// A message whose room is behind. It is published once the room has caught up, before anything else is read from the
/// connection.
#[derive(Debug)]
pub(crate) struct Parked {
    /// The room that it will be published to.
    pub room: Arc<Room>,
    /// Whether it was a text or a binary message.
    pub kind: MessageKind,
    /// The message's payload, unmasked.
    pub payload: Box<[u8]>,
    /// When it arrived, if its delivery is timed.
    pub received: Option<Instant>,
}

impl Unread {
    /// Appends a receive buffer, which arrived at `at`.
    pub(crate) fn push(&mut self, received: Received, at: Instant) {
        self.parts.push_back(Part { body: Body::Buffer(received), at });
    }

    /// Appends bytes that are not, or no longer, in a receive buffer.
    pub(crate) fn push_copy(&mut self, bytes: Vec<u8>, at: Instant) {
        self.parts.push_back(Part { body: Body::Copy(bytes.into()), at });
    }

    /// The next bytes to be read, at least one, and when they arrived.
    pub(crate) fn first(&mut self) -> Option<(&mut [u8], Instant)> {
        let Part { body, at } = self.parts.front_mut()?;
        Some((&mut body.bytes()[self.read_bytes..], *at))
    }

    /// Notes that all but the last `left_bytes` of the first part have been read.
    pub(crate) fn advance(&mut self, left_bytes: usize) {
        if left_bytes == 0 {
            self.read_bytes = 0;
            self.parts.pop_front();
        } else if let Some(part) = self.parts.front_mut() {
            self.read_bytes = part.body.bytes().len() - left_bytes;
        }
    }

    /// Whether everything has been read and published.
    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_empty() && self.parked.is_none()
    }

    /// Number of separate pieces.
    pub(crate) fn parts(&self) -> usize {
        self.parts.len()
    }

    /// Whether some of it is still in receive buffers.
    pub(crate) fn has_buffers(&self) -> bool {
        self.parts.iter().any(|part| matches!(part.body, Body::Buffer(_)))
    }

    /// Copies everything out of its receive buffers, and gives them back.
    pub(crate) fn release_buffers(&mut self) {
        for part in &mut self.parts {
            if let Body::Buffer(received) = &mut part.body {
                part.body = Body::Copy((&*received.bytes()).into());
            }
        }
    }

    /// Updates the memory count, without receive buffers. Called when the input is put aside until the connection's next turn.
    pub(crate) fn account(&mut self) {
        let parts = self.parts.capacity() * size_of::<Part>();
        self.held.set(size_of::<Self>() + parts + self.copied_bytes());
    }

    /// Memory taken in bytes, as of the last [`Unread::account`].
    pub(crate) fn held_bytes(&self) -> usize {
        self.held.bytes()
    }

    fn copied_bytes(&self) -> usize {
        let copied = |part: &Part| match &part.body {
            Body::Copy(bytes) => bytes.len(),
            Body::Buffer(_) => 0,
        };
        let parked = self.parked.as_ref().map_or(0, |parked| parked.payload.len());
        self.parts.iter().map(copied).sum::<usize>() + parked
    }
}
