//! The ring of the backend that the tests are run with: `HI_BACKEND=epoll`, or io_uring.

#![allow(unreachable_pub, reason = "a test has no outside")]

use std::io;
use std::net::Shutdown;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

use hi::ring::{Backend, BufferPool, Completion, DataRing, Epoll, OpenRing, Receive, Ring, RingError, Slices, Socket};

/// The real ring, of either kind.
pub enum AnyRing {
    IoUring(Box<Ring>),
    Epoll(Box<Epoll>),
}

macro_rules! either {
    ($self:ident, $ring:ident => $call:expr) => {
        match $self {
            Self::IoUring($ring) => $call,
            Self::Epoll($ring) => $call,
        }
    };
}

impl OpenRing for AnyRing {
    fn open(receive_buffers: u16, wake_up: OwnedFd) -> Result<Self, RingError> {
        Ok(match Self::backend() {
            Backend::IoUring => Self::IoUring(Box::new(Ring::open(receive_buffers, wake_up)?)),
            Backend::Epoll => Self::Epoll(Box::new(Epoll::open(receive_buffers, wake_up)?)),
        })
    }

    fn backend() -> Backend {
        match std::env::var("HI_BACKEND").as_deref() {
            Err(_) | Ok("io_uring") => Backend::IoUring,
            Ok("epoll") => Backend::Epoll,
            Ok(other) => panic!("HI_BACKEND={other}"),
        }
    }

    fn wake_descriptor(&self) -> BorrowedFd<'_> {
        either!(self, ring => ring.wake_descriptor())
    }
}

impl DataRing for AnyRing {
    type Socket = Socket;

    fn adopt(&mut self, token: u32, socket: Socket) {
        either!(self, ring => ring.adopt(token, socket))
    }

    fn release(&mut self, token: u32) {
        either!(self, ring => ring.release(token))
    }

    fn receive(&mut self, token: u32, how: Receive) {
        either!(self, ring => ring.receive(token, how))
    }

    fn cancel(&mut self, token: u32) {
        either!(self, ring => ring.cancel(token))
    }

    fn send(&mut self, token: u32, slices: Slices) {
        either!(self, ring => ring.send(token, slices))
    }

    fn await_writable(&mut self, token: u32) {
        either!(self, ring => ring.await_writable(token))
    }

    fn shutdown(&mut self, token: u32, how: Shutdown) {
        either!(self, ring => ring.shutdown(token, how))
    }

    fn submit(&mut self) -> io::Result<()> {
        either!(self, ring => ring.submit())
    }

    fn poll(&mut self) -> io::Result<bool> {
        either!(self, ring => ring.poll())
    }

    fn next(&mut self) -> Option<Completion> {
        either!(self, ring => ring.next())
    }

    fn suppress_wakeups(&mut self) {
        either!(self, ring => ring.suppress_wakeups())
    }

    fn arm_wakeups(&mut self) -> bool {
        either!(self, ring => ring.arm_wakeups())
    }

    fn buffers(&self) -> &BufferPool {
        either!(self, ring => ring.buffers())
    }

    fn descriptor(&self, token: u32) -> RawFd {
        either!(self, ring => ring.descriptor(token))
    }

    fn peer_has_ended(descriptor: RawFd) -> bool {
        Ring::peer_has_ended(descriptor)
    }
}
