//! The data ring where io_uring is forbidden: the same operations on epoll.
//!
//! Receives and waits are interests of a level-triggered epoll: whatever is not taken now is reported again, so nothing that
//! arrives can be missed. An interest that has ended stays registered until the kernel reports it once in vain, since most are
//! soon wanted again. Sends wait for [`DataRing::submit`], which makes a batch of them.
//!
//! [`Calls`] are the system calls, a trait, so that a simulated network can take the kernel's place under this very code.

use std::collections::VecDeque;
use std::io;
use std::net::Shutdown;
use std::os::fd::RawFd;

use super::buffers::BufferPool;
use super::{Completion, DataRing, Receive, Slices};
use crate::limits::{RECEIVE_BUFFER_BYTES, RECEIVES_PER_EVENT};
use crate::slice::Slice;

mod aio;
mod kernel;

pub use kernel::KernelCalls;

/// The data ring of the kernel's epoll.
pub type Epoll = EpollRing<KernelCalls>;

/// What a socket is watched for, or what it is ready for. A broken one is ready for everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Bytes have arrived, or the peer has ended.
    pub readable: bool,
    /// There is room to send.
    pub writable: bool,
}

impl Readiness {
    /// Ready for nothing, or not watched.
    pub const NONE: Self = Self { readable: false, writable: false };

    fn contains(self, other: Self) -> bool {
        (self.readable || !other.readable) && (self.writable || !other.writable)
    }

    fn overlaps(self, other: Self) -> bool {
        self.readable && other.readable || self.writable && other.writable
    }
}

/// The system calls of the ring. None of them blocks.
pub trait Calls {
    /// A connection's socket.
    type Socket;

    /// Makes a socket ready for these calls.
    fn adopt(&mut self, socket: &Self::Socket);
    /// Watches the socket of `token` for `wanted` (level-triggered), instead of for `before`.
    ///
    /// # Errors
    /// The kernel watches as many sockets as it may (`ENOSPC`), or is out of memory.
    fn watch(&mut self, token: u32, socket: &Self::Socket, before: Readiness, wanted: Readiness) -> io::Result<()>;
    /// Adds sockets that are ready, by token, to `ready`, which is empty. True: there may be more of them, or
    /// the thread was woken for another reason, and must not sleep.
    ///
    /// # Errors
    /// The kernel refused epoll itself: a bug of ours.
    fn ready(&mut self, ready: &mut Vec<(u32, Readiness)>) -> io::Result<bool>;
    /// Receives into `buffer`; 0: the peer has ended.
    ///
    /// # Errors
    /// Those of recv(2); `WouldBlock` if nothing has arrived.
    fn receive(&mut self, socket: &Self::Socket, buffer: &mut [u8]) -> io::Result<usize>;
    /// Sends slices to sockets, in order, to each as much as it has room for. For each, how many bytes the kernel took is added
    /// to `results`, or an error of sendmsg(2); `WouldBlock` if there is no room.
    fn send<'s>(
        &mut self,
        sends: impl ExactSizeIterator<Item = (&'s Self::Socket, &'s [Slice])>,
        results: &mut Vec<io::Result<usize>>,
    ) where
        Self::Socket: 's;
    /// Shuts the socket down. A broken one may already be shut down.
    fn shutdown(&mut self, socket: &Self::Socket, how: Shutdown);
    /// The number of the socket's descriptor.
    fn descriptor(socket: &Self::Socket) -> RawFd;
    /// See [`DataRing::peer_has_ended`].
    fn peer_has_ended(descriptor: RawFd) -> bool;
}

/// A socket, and what the ring does for it.
struct Watched<S> {
    socket: S,
    receive: Option<Receive>,
    awaits_writable: bool,
    /// What the kernel watches it for: at least what is wanted.
    registered: Readiness,
}

impl<S> Watched<S> {
    fn wanted(&self) -> Readiness {
        Readiness { readable: self.receive.is_some(), writable: self.awaits_writable }
    }
}

/// The data ring of one shard on epoll.
pub struct EpollRing<C: Calls> {
    calls: C,
    /// Indexed by token.
    sockets: Vec<Option<Watched<C::Socket>>>,
    buffers: BufferPool,
    /// Asked for since the last submit.
    sends: Vec<(u32, Slices)>,
    completions: VecDeque<Completion>,
    /// Scratch space of [`EpollRing::send_all`].
    results: Vec<io::Result<usize>>,
    /// Scratch space of [`EpollRing::poll`].
    ready: Vec<(u32, Readiness)>,
}

impl<C: Calls> EpollRing<C> {
    /// A ring without sockets.
    pub fn new(calls: C, receive_buffers: u16) -> Self {
        Self {
            calls,
            sockets: Vec::new(),
            buffers: BufferPool::new(receive_buffers),
            sends: Vec::new(),
            completions: VecDeque::new(),
            results: Vec::new(),
            ready: Vec::new(),
        }
    }

    fn socket(&mut self, token: u32) -> &mut Watched<C::Socket> {
        self.sockets[token as usize].as_mut().expect("the token has been adopted")
    }

    /// Makes the sends that were asked for.
    fn send_all(&mut self) {
        let Self { calls, sockets, sends, completions, results, .. } = self;
        let of_socket = |token: u32| &sockets[token as usize].as_ref().expect("a socket outlives its sends").socket;
        calls.send(sends.iter().map(|(token, slices)| (of_socket(*token), slices.as_slice())), results);
        for ((token, slices), result) in sends.drain(..).zip(results.drain(..)) {
            completions.push_back(Completion::Sent { token, result, slices });
        }
    }

    fn is_ready(&mut self, token: u32, readiness: Readiness) {
        let watched = self.socket(token);
        let wanted = watched.wanted();
        if !wanted.overlaps(readiness) {
            return self.register(token, wanted);
        }
        if readiness.writable && std::mem::take(&mut watched.awaits_writable) {
            self.completions.push_back(Completion::Writable { token });
        }
        if readiness.readable {
            self.receive_now(token);
        }
    }

    /// Receives what has arrived, at most [`RECEIVES_PER_EVENT`] buffers full: a flooder must not hold up the others.
    fn receive_now(&mut self, token: u32) {
        let watched = self.sockets[token as usize].as_mut().expect("only sockets that are adopted are watched");
        for _ in 0..RECEIVES_PER_EVENT {
            let Some(how) = watched.receive else { return };
            let result = match self.buffers.fill_by(|buffer| self.calls.receive(&watched.socket, buffer)) {
                Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => return,
                Some(result) => result.map(|received| (!received.is_empty()).then_some(received)),
                None => Err(io::Error::from_raw_os_error(libc::ENOBUFS)),
            };
            let len = result.as_ref().map_or(0, |received| received.as_ref().map_or(0, |received| received.len()));
            let armed = len > 0 && how == Receive::All;
            if !armed {
                watched.receive = None;
            }
            self.completions.push_back(Completion::Received { token, result, armed });
            if len < RECEIVE_BUFFER_BYTES {
                return;
            }
        }
    }

    /// Makes sure that the kernel watches a socket for everything that is wanted.
    fn want(&mut self, token: u32) {
        let watched = self.socket(token);
        let wanted = watched.wanted();
        if !watched.registered.contains(wanted) {
            self.register(token, wanted);
        }
    }

    fn register(&mut self, token: u32, wanted: Readiness) {
        let watched = self.sockets[token as usize].as_mut().expect("the token has been adopted");
        match self.calls.watch(token, &watched.socket, watched.registered, wanted) {
            Ok(()) => watched.registered = wanted,
            Err(error) => self.cannot_watch(token, error),
        }
    }

    /// What was asked for a socket ends, and so does the connection: nobody would be told of anything.
    fn cannot_watch(&mut self, token: u32, error: io::Error) {
        let watched = self.sockets[token as usize].as_mut().expect("the token has been adopted");
        self.calls.shutdown(&watched.socket, Shutdown::Both);
        if std::mem::take(&mut watched.awaits_writable) {
            self.completions.push_back(Completion::Writable { token });
        }
        if watched.receive.take().is_some() {
            self.completions.push_back(Completion::Received { token, result: Err(error), armed: false });
        }
    }
}

impl<C: Calls> DataRing for EpollRing<C> {
    type Socket = C::Socket;

    fn adopt(&mut self, token: u32, socket: C::Socket) {
        let index = token as usize;
        if index >= self.sockets.len() {
            self.sockets.resize_with(index + 1, || None);
        }
        self.calls.adopt(&socket);
        let watched = Watched { socket, receive: None, awaits_writable: false, registered: Readiness::NONE };
        let before = self.sockets[index].replace(watched);
        assert!(before.is_none(), "a token stands for one socket at a time");
    }

    fn release(&mut self, token: u32) {
        let watched = self.sockets[token as usize].take().expect("only a socket that was adopted is released");
        assert!(watched.wanted() == Readiness::NONE, "a socket outlives what was asked for it");
        if watched.registered != Readiness::NONE {
            // Closing it would not be enough where another process has a duplicate. It can't fail for a socket that is watched.
            let _ = self.calls.watch(token, &watched.socket, watched.registered, Readiness::NONE);
        }
    }

    fn receive(&mut self, token: u32, how: Receive) {
        self.socket(token).receive = Some(how);
        self.want(token);
    }

    fn cancel(&mut self, token: u32) {
        if self.socket(token).receive.take().is_some() {
            let result = Err(io::Error::from_raw_os_error(libc::ECANCELED));
            self.completions.push_back(Completion::Received { token, result, armed: false });
        }
    }

    fn send(&mut self, token: u32, slices: Slices) {
        self.sends.push((token, slices));
    }

    fn await_writable(&mut self, token: u32) {
        self.socket(token).awaits_writable = true;
        self.want(token);
    }

    fn shutdown(&mut self, token: u32, how: Shutdown) {
        if let Some(watched) = &self.sockets[token as usize] {
            self.calls.shutdown(&watched.socket, how);
        }
    }

    fn submit(&mut self) -> io::Result<()> {
        if !self.sends.is_empty() {
            self.send_all();
        }
        Ok(())
    }

    fn poll(&mut self) -> io::Result<bool> {
        let mut ready = std::mem::take(&mut self.ready);
        let more = self.calls.ready(&mut ready)?;
        for (token, readiness) in ready.drain(..) {
            self.is_ready(token, readiness);
        }
        self.ready = ready;
        Ok(more)
    }

    fn next(&mut self) -> Option<Completion> {
        self.completions.pop_front()
    }

    fn suppress_wakeups(&mut self) {
        // What becomes ready meanwhile is noticed by nothing but the epoll of the thread, which sleeps once more for it.
    }

    fn arm_wakeups(&mut self) -> bool {
        // The thread is woken by what becomes ready from now on, so what is ready must have been taken. An error comes again in
        // the next turn.
        self.poll().is_ok_and(|more| !more) && self.completions.is_empty() && self.sends.is_empty()
    }

    fn buffers(&self) -> &BufferPool {
        &self.buffers
    }

    fn descriptor(&self, token: u32) -> RawFd {
        C::descriptor(&self.sockets[token as usize].as_ref().expect("the token has been adopted").socket)
    }

    fn peer_has_ended(descriptor: RawFd) -> bool {
        C::peer_has_ended(descriptor)
    }
}
