//! What a connection has said and nobody has read yet: it waits here for the connection's turn. Exists only while there is
//! something in it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use crate::frame::decode::Kind;
use crate::memory::{Held, What};
use crate::ring::Received;
use crate::room::Room;

/// See the module.
#[derive(Debug)]
pub struct Unread {
    parts: VecDeque<Part>,
    /// Bytes of the first part that have been read.
    read_bytes: usize,
    /// A message that has been read, and waits for its room.
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
    /// As the kernel received it.
    Buffer(Received),
    /// Copied, so that a connection that has to wait keeps no receive buffer from others.
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

/// A message whose room is behind: it is published as soon as that has caught up, before anything else is read of the
/// connection.
#[derive(Debug)]
pub struct Parked {
    /// Where it goes.
    pub room: Arc<Room>,
    /// Text or binary.
    pub kind: Kind,
    /// What the client sent.
    pub payload: Box<[u8]>,
    /// When it came, if that is known.
    pub received: Option<Instant>,
}

impl Unread {
    /// Appends what the kernel has received.
    pub fn push(&mut self, received: Received, at: Instant) {
        self.parts.push_back(Part { body: Body::Buffer(received), at });
    }

    /// Appends what arrived before the connection was the data ring's.
    pub fn push_copy(&mut self, bytes: Vec<u8>, at: Instant) {
        self.parts.push_back(Part { body: Body::Copy(bytes.into()), at });
    }

    /// What is to be read next, at least one byte, and when it came.
    pub fn first(&mut self) -> Option<(&mut [u8], Instant)> {
        let Part { body, at } = self.parts.front_mut()?;
        Some((&mut body.bytes()[self.read_bytes..], *at))
    }

    /// All but the last `left_bytes` of the first part have been read.
    pub fn advance(&mut self, left_bytes: usize) {
        if left_bytes == 0 {
            self.read_bytes = 0;
            self.parts.pop_front();
        } else if let Some(part) = self.parts.front_mut() {
            self.read_bytes = part.body.bytes().len() - left_bytes;
        }
    }

    /// Whether there is nothing left.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty() && self.parked.is_none()
    }

    /// In how many pieces it came.
    pub fn parts(&self) -> usize {
        self.parts.len()
    }

    /// Whether it holds receive buffers.
    pub fn has_buffers(&self) -> bool {
        self.parts.iter().any(|part| matches!(part.body, Body::Buffer(_)))
    }

    /// Copies what its receive buffers hold, and gives them back.
    pub fn release_buffers(&mut self) {
        for part in &mut self.parts {
            if let Body::Buffer(received) = &mut part.body {
                part.body = Body::Copy((&*received.bytes()).into());
            }
        }
    }

    /// Counts what it holds now, receive buffers apart: called when it is put aside until the connection's next turn.
    pub fn account(&mut self) {
        let parts = self.parts.capacity() * size_of::<Part>();
        self.held.set(size_of::<Self>() + parts + self.copied_bytes());
    }

    /// Bytes of memory as of [`Unread::account`].
    pub fn held_bytes(&self) -> usize {
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
