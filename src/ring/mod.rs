//! The data ring: receives and sends of upgraded connections, whose sockets it owns.
//!
//! - [`DataRing`]: the operations that a shard starts, and their completions
//! - [`uring`]: the ring of io_uring
//! - [`epoll`]: the same operations where io_uring is forbidden
//! - [`buffers`]: the buffers that they receive into
//! - [`control`]: what else runs on a shard's thread, and the sockets that come from it
//! - [`probe`]: chooses between io_uring and epoll at start, by trying them

use std::io;
use std::net::Shutdown;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

use crate::slice::Slice;
use crate::words::words;

pub(crate) mod buffers;
pub(crate) mod control;
pub mod epoll;
pub mod probe;
pub(crate) mod uring;

pub use buffers::{BufferPool, Received};
pub use control::Socket;
pub use epoll::Epoll;
pub use uring::Ring;

words! {
    /// The interface of the kernel that connections are served with.
    pub enum Backend {
        /// One submission a turn, for any number of sends.
        IoUring = "io_uring",
        /// A system call for each send and each receive.
        Epoll = "epoll",
    }
}

/// The operations that a shard needs from its data ring. A trait, so that a simulated network can take the kernel's place.
///
/// The ring owns the sockets. From [`DataRing::adopt`] to [`DataRing::release`], a connection is identified by its token; no
/// method is called with a token that isn't adopted. A token is released only when the ring holds nothing for it: no receive,
/// no send, no wait until the socket is writable. Operations start at the next [`DataRing::submit`] at the latest.
pub trait DataRing {
    /// A connection's socket, as the handshake hands it over.
    type Socket;

    /// Takes over a socket and gives it the name `token`.
    fn adopt(&mut self, token: u32, socket: Self::Socket);
    /// Closes the socket. Nothing may be in flight for it.
    fn release(&mut self, token: u32);
    /// Starts a receive; each arrival is a [`Completion::Received`].
    fn receive(&mut self, token: u32, how: Receive);
    /// Cancels a multishot receive: it completes with `ECANCELED`, unless it has ended in the meantime. Everything that arrived
    /// before comes first.
    fn cancel(&mut self, token: u32);
    /// Sends `slices` in order, as far as the socket has room; at most
    /// [`SLICES_PER_SEND_MAX`](crate::limits::SLICES_PER_SEND_MAX) of them.
    fn send(&mut self, token: u32, slices: Slices);
    /// Waits until the socket is writable or broken: a [`Completion::Writable`].
    fn await_writable(&mut self, token: u32);
    /// Shuts the socket down. With [`Shutdown::Both`], everything in flight completes.
    fn shutdown(&mut self, token: u32, how: Shutdown);

    /// Gives the kernel all operations since the last call.
    ///
    /// # Errors
    /// The kernel refused the ring itself: a bug of ours, or the kernel is out of memory.
    fn submit(&mut self) -> io::Result<()>;
    /// Lets the kernel run work that it has deferred, and looks what is ready. True: there is more than one call finds (of
    /// io_uring 20 pieces, since Linux 6.13).
    ///
    /// # Errors
    /// As for [`DataRing::submit`].
    fn poll(&mut self) -> io::Result<bool>;
    /// The next completion, if there is one.
    fn next(&mut self) -> Option<Completion>;
    /// From now on the caller polls for completions: they don't wake the thread.
    fn suppress_wakeups(&mut self);
    /// From now on completions wake the thread again. False: some are there already, or there are operations that have not been
    /// submitted.
    fn arm_wakeups(&mut self) -> bool;

    /// The buffers that the ring receives into.
    fn buffers(&self) -> &BufferPool;
    /// The file descriptor of a connection's socket, for [`DataRing::peer_has_ended`].
    fn descriptor(&self, token: u32) -> RawFd;
    /// Whether the peer of a socket has ended, or the connection is broken; there may still be unread input. May be called from
    /// any thread, for sockets that are not released.
    fn peer_has_ended(descriptor: RawFd) -> bool;
}

/// A data ring that can be opened on a shard's thread, and takes the sockets of the thread's [`control`].
pub trait OpenRing: DataRing<Socket = Socket> + Sized {
    /// Opens a ring with `receive_buffers` buffers (a power of two, at most 32,768). `wake_up` is an eventfd: each signal wakes
    /// the thread, too.
    ///
    /// # Errors
    /// The operation that the kernel refused; see [`RingError`].
    fn open(receive_buffers: u16, wake_up: OwnedFd) -> Result<Self, RingError>;
    /// What the ring is made of. The thread's [`control`] is made of the same.
    fn backend() -> Backend;
    /// A descriptor that becomes readable, as an edge, whenever a completion or a signal wakes the thread; by completions only
    /// unless [wake-ups are suppressed](DataRing::suppress_wakeups).
    fn wake_descriptor(&self) -> BorrowedFd<'_>;
}

/// How long a receive goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receive {
    /// Multishot: until the peer ends or the buffers run out.
    All,
    /// Until one buffer, at most, is filled.
    Once,
}

/// The bytes of one send; nearly always a single slice.
#[derive(Debug)]
pub enum Slices {
    /// One contiguous range of bytes.
    One(Slice),
    /// Several ranges, which leave in this order.
    Many(Vec<Slice>),
}

impl Slices {
    /// Total number of bytes.
    pub fn len(&self) -> usize {
        self.as_slice().iter().map(Slice::len).sum()
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The slices, in order.
    pub fn as_slice(&self) -> &[Slice] {
        match self {
            Self::One(slice) => std::slice::from_ref(slice),
            Self::Many(slices) => slices,
        }
    }
}

/// An operation that has completed, or one part of it. `token` is the one that the operation was started with.
#[derive(Debug)]
pub enum Completion {
    /// Bytes have arrived (`Ok(Some)`), the peer has ended (`Ok(None)`), or the receive has failed. `ENOBUFS` doesn't mean that
    /// the connection is broken: the buffers have run out.
    Received {
        /// The token of the connection.
        token: u32,
        /// Bytes, the end of the input, or an error.
        result: io::Result<Option<Received>>,
        /// Whether the receive goes on; otherwise [`DataRing::receive`] has to be called for more.
        armed: bool,
    },
    /// A send has completed: how many bytes of `slices` the kernel took, or why it took none (`EAGAIN`: the socket is full).
    Sent {
        /// The token of the connection.
        token: u32,
        /// Number of bytes taken.
        result: io::Result<usize>,
        /// The slices of the send, given back.
        slices: Slices,
    },
    /// The socket is writable again, or broken.
    Writable {
        /// The token of the connection.
        token: u32,
    },
}

/// Why a data ring can't be opened.
#[derive(Debug)]
pub struct RingError {
    /// The operation, or the step of the setup, that the kernel refused.
    pub operation: &'static str,
    /// The kernel's error.
    pub error: io::Error,
}
