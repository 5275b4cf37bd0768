//! The data ring: receives and sends of upgraded connections, whose sockets it owns.
//!
//! - [`DataRing`]: what a shard asks of it, and what it answers
//! - [`uring`]: the kernel's
//! - [`buffers`]: the memory that is received into
//! - [`control`]: the other ring of a shard's thread, and the sockets that come from there
//! - [`probe`]: tries at start what both rings need of the kernel

use std::io;
use std::net::Shutdown;
use std::os::fd::{OwnedFd, RawFd};

use crate::slice::Slice;

pub mod buffers;
pub mod control;
pub mod probe;
pub mod uring;

pub use buffers::{BufferPool, Received};
pub use control::Socket;
pub use uring::Ring;

/// What a shard asks of its data ring. A trait, so that a seeded stand-in can be the network.
///
/// The ring owns the sockets. A connection is named by its token, from [`DataRing::adopt`] to [`DataRing::release`]; nothing
/// is asked for a token that isn't adopted, and a token is released only when the ring holds nothing for it: no receive, no
/// send, no wait for room. Nothing is done before [`DataRing::submit`].
pub trait DataRing {
    /// A connection's socket, as it comes from the handshake.
    type Socket;

    /// Takes over a socket.
    fn adopt(&mut self, token: u32, socket: Self::Socket);
    /// Closes the socket, of which nothing is in flight any more.
    fn release(&mut self, token: u32);
    /// Receives; each arrival is a [`Completion::Received`].
    fn receive(&mut self, token: u32, how: Receive);
    /// Ends a receive that goes on by itself: it completes with `ECANCELED`, unless it has ended meanwhile. What has
    /// arrived before comes first.
    fn cancel(&mut self, token: u32);
    /// Sends `slices`, at most [`SLICES_PER_SEND_MAX`](crate::limits::SLICES_PER_SEND_MAX), in order, as far as the socket has room.
    fn send(&mut self, token: u32, slices: Slices);
    /// Waits until there is room to send again, or the socket is at its end.
    fn await_writable(&mut self, token: u32);
    /// Shuts the socket down: with [`Shutdown::Both`] all that is in flight completes.
    fn shutdown(&mut self, token: u32, how: Shutdown);

    /// Gives everything asked for since the last call to the kernel, and lets it finish what it deferred. True: it has
    /// deferred more than it finishes in one call (20 pieces of work, since Linux 6.13).
    ///
    /// # Errors
    /// When the kernel refuses the ring itself: a bug of ours, or out of memory.
    fn submit(&mut self) -> io::Result<bool>;
    /// The next completion, if there is one.
    fn next(&mut self) -> Option<Completion>;
    /// Completions are looked for from now on: the thread need not be woken for them.
    fn suppress_wakeups(&mut self);
    /// From now on completions wake the thread again. False if there are some of which it has not been told, or something was
    /// asked for that the kernel has not been given.
    fn arm_wakeups(&mut self) -> bool;

    /// The buffers that it receives into.
    fn buffers(&self) -> &BufferPool;
    /// The number of a connection's socket, by which [`DataRing::peer_has_ended`] knows it.
    fn descriptor(&self, token: u32) -> RawFd;
    /// Whether the peer of a socket has ended what it says, or is gone; what it said before may still be unread. Asked from any
    /// thread, for sockets that are not released.
    fn peer_has_ended(descriptor: RawFd) -> bool;
}

/// A data ring that can be opened on the thread of a shard, and takes the sockets of the control ring.
pub trait OpenRing: DataRing<Socket = Socket> + Sized {
    /// A ring with `receive_buffers` provided buffers (a power of two, at most 32,768) that signals the eventfd `wake_up`
    /// when there is a completion, unless [wake-ups are suppressed](DataRing::suppress_wakeups).
    ///
    /// # Errors
    /// What the kernel refused; see [`RingError`].
    fn open(receive_buffers: u16, wake_up: OwnedFd) -> Result<Self, RingError>;
}

/// How much a receive takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receive {
    /// All that comes, until the peer ends or buffers run out.
    All,
    /// One buffer at most.
    Once,
}

/// What one send holds: nearly always a single slice.
#[derive(Debug)]
pub enum Slices {
    /// One contiguous range.
    One(Slice),
    /// Several, in order.
    Many(Vec<Slice>),
}

impl Slices {
    /// Bytes in all.
    pub fn len(&self) -> usize {
        self.as_slice().iter().map(Slice::len).sum()
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them, in order.
    pub fn as_slice(&self) -> &[Slice] {
        match self {
            Self::One(slice) => std::slice::from_ref(slice),
            Self::Many(slices) => slices,
        }
    }
}

/// Something that the kernel finished. `token` is the one that it was asked with.
#[derive(Debug)]
pub enum Completion {
    /// Bytes arrived (`Ok(Some)`), the peer has ended (`Ok(None)`), or the receive failed. `ENOBUFS` is no failure of the
    /// connection: buffers have run out.
    Received {
        /// The connection.
        token: u32,
        /// Bytes, the end, or an error.
        result: io::Result<Option<Received>>,
        /// Whether more will come by itself; otherwise [`DataRing::receive`] has to be called for more.
        armed: bool,
    },
    /// A send ended: how many bytes the kernel took of `slices`, or why none (`EAGAIN`: there is no room).
    Sent {
        /// The connection.
        token: u32,
        /// Bytes taken.
        result: io::Result<usize>,
        /// What was to be sent.
        slices: Slices,
    },
    /// The wait for room has ended.
    Writable {
        /// The connection.
        token: u32,
    },
}

/// Why a data ring can't be had.
#[derive(Debug)]
pub struct RingError {
    /// The operation, or the step of the set-up, that the kernel refused.
    pub operation: &'static str,
    /// Its answer.
    pub error: io::Error,
}
