//! The data ring of io_uring. Only this file, and [`super::buffers`] for received bytes, name the `io-uring` crate.
//!
//! A shard owns one [`Ring`]. Everything that it hands to the kernel stays alive until its completion: a send owns its
//! [`Slice`]s here, a socket is closed only when nothing is in flight for it, and a receive buffer belongs either to the kernel
//! or to one [`Received`](super::Received). Nothing reaches the kernel before [`DataRing::submit`]: one system call per turn,
//! no matter how many sends.
//!
//! Sends never block: the kernel takes as much as the socket has room for, or answers `EAGAIN`. Then
//! [`DataRing::await_writable`] waits without holding any of our memory.

use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{Ordering, fence};

use io_uring::types::Fd;
use io_uring::{IoUring, cqueue, opcode, squeue};
use slab::Slab;
use socket2::SockRef;

use super::buffers::BufferRing;
use super::{Backend, BufferPool, Completion, DataRing, OpenRing, Receive, RingError, Slices, Socket};
use crate::limits::{COMPLETION_ENTRIES, SLICES_PER_SEND_MAX, SUBMISSION_ENTRIES};
use crate::os;
use crate::slice::Slice;

/// The only group of provided buffers.
const BUFFER_GROUP: u16 = 0;

/// A send in flight.
struct InFlight {
    token: u32,
    slices: Slices,
    /// With several slices: the structure that the submission points to.
    _gather: Option<Box<Gather>>,
}

/// A `msghdr` and its vector, at an address that doesn't change.
struct Gather {
    header: libc::msghdr,
    vector: [libc::iovec; SLICES_PER_SEND_MAX],
}

impl Gather {
    #[allow(unsafe_code)]
    fn new(slices: &[Slice]) -> Box<Self> {
        assert!(slices.len() <= SLICES_PER_SEND_MAX, "a send has at most {SLICES_PER_SEND_MAX} slices");
        // SAFETY: both are plain C structs of integers and pointers, for which all-zero is valid.
        let mut gather: Box<Self> = unsafe { Box::new(std::mem::zeroed()) };
        for (entry, slice) in gather.vector.iter_mut().zip(slices) {
            *entry = libc::iovec { iov_base: slice.as_ptr().cast_mut().cast(), iov_len: slice.len() };
        }
        gather.header.msg_iov = gather.vector.as_mut_ptr();
        gather.header.msg_iovlen = slices.len();
        gather
    }
}

/// The kind of operation that a completion belongs to, in the two lowest bits of `user_data`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    Receive = 0,
    Send = 1,
    Writable = 2,
    Cancel = 3,
}

impl Operation {
    fn user_data(self, value: u64) -> u64 {
        value << 2 | self as u64
    }
}

const SEND_FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;

/// The data ring of one shard (`SINGLE_ISSUER | DEFER_TASKRUN`), used by the thread that made it.
pub struct Ring {
    uring: IoUring,
    /// Registered with the ring: a completion signals it.
    wake_up: OwnedFd,
    /// Indexed by token. Declared after `uring`, and so closed after it: see `drop`.
    sockets: Vec<Option<Socket>>,
    buffers: BufferRing,
    sends: Slab<InFlight>,
    /// Completions moved out of the kernel's queue to make room in it.
    aside: VecDeque<cqueue::Entry>,
    /// Number of receives and polls in flight.
    waiting: usize,
    /// `SINGLE_ISSUER`: the kernel takes submissions only from the thread that made the ring, so it must not be `Send`.
    _not_send: PhantomData<*const ()>,
}

impl Ring {
    /// Checks that an io_uring can be set up and entered at all, without the features that this ring needs.
    ///
    /// # Errors
    /// The step that the kernel refused.
    #[allow(unsafe_code)]
    pub(crate) fn try_plain() -> Result<(), RingError> {
        let step = |operation| move |error| RingError { operation, error };
        let mut uring: IoUring = IoUring::new(2).map_err(step("io_uring_setup"))?;
        // SAFETY: a no-op points to no memory.
        unsafe { uring.submission().push(&opcode::Nop::new().build()) }.expect("a new ring has room");
        uring.submit_and_wait(1).map_err(step("io_uring_enter"))?;
        Ok(())
    }

    /// Adds a submission; if the queue is full, submits it first.
    ///
    /// # Safety
    /// Everything that the entry points to stays in place and unchanged until the operation completes.
    #[allow(unsafe_code)]
    unsafe fn push(&mut self, entry: squeue::Entry) {
        loop {
            // SAFETY: the caller guarantees exactly what `push` requires.
            if unsafe { self.uring.submission().push(&entry) }.is_ok() {
                return;
            }
            self.submit().expect("a working ring accepts submissions");
        }
    }

    /// Submits what is in the queue, and lets the kernel run what it has deferred.
    fn enter(&mut self) -> io::Result<()> {
        self.buffers.publish();
        loop {
            match self.uring.submit() {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The kernel has no memory for requests at the moment.
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => std::thread::yield_now(),
                // The completion queue is full, and so is its overflow list: make room.
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => self.aside.extend(self.uring.completion()),
                Err(error) => return Err(error),
            }
        }
    }

    fn fd(&self, token: u32) -> Fd {
        Fd(self.descriptor(token))
    }

    fn completion(&mut self, entry: &cqueue::Entry) -> Completion {
        let (value, result, flags) = (entry.user_data() >> 2, entry.result(), entry.flags());
        let result = if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result as usize) };
        let kind = entry.user_data() & 3;
        if kind == Operation::Send as u64 {
            let InFlight { token, slices, .. } = self.sends.remove(value as usize);
            return Completion::Sent { token, result, slices };
        }
        let token = value as u32;
        let armed = cqueue::more(flags);
        if !armed {
            self.waiting -= 1;
        }
        if kind == Operation::Writable as u64 {
            return Completion::Writable { token };
        }
        let received = cqueue::buffer_select(flags)
            .map(|buffer| self.buffers.received(buffer, result.as_ref().map_or(0, |len| *len)));
        let result = match received {
            Some(received) if !received.is_empty() => Ok(Some(received)),
            _ => result.map(|_| None),
        };
        Completion::Received { token, result, armed }
    }
}

impl OpenRing for Ring {
    #[allow(unsafe_code)]
    fn open(receive_buffers: u16, wake_up: OwnedFd) -> Result<Self, RingError> {
        let step = |operation| move |error| RingError { operation, error };
        let uring: IoUring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(COMPLETION_ENTRIES)
            .dontfork()
            .build(SUBMISSION_ENTRIES)
            .map_err(step("io_uring_setup with SINGLE_ISSUER and DEFER_TASKRUN"))?;
        let submitter = uring.submitter();
        submitter.register_eventfd(wake_up.as_raw_fd()).map_err(step("IORING_REGISTER_EVENTFD"))?;
        let mut buffers = BufferRing::new(receive_buffers);
        // SAFETY: the entries are page-aligned, there are `receive_buffers` of them, and they live until the ring is dropped:
        // see `drop`.
        unsafe { submitter.register_buf_ring_with_flags(buffers.address(), receive_buffers, BUFFER_GROUP, 0) }
            .map_err(step("IORING_REGISTER_PBUF_RING"))?;
        buffers.publish();
        Ok(Self {
            uring,
            wake_up,
            buffers,
            sockets: Vec::new(),
            sends: Slab::new(),
            aside: VecDeque::new(),
            waiting: 0,
            _not_send: PhantomData,
        })
    }

    fn backend() -> Backend {
        Backend::IoUring
    }

    fn wake_descriptor(&self) -> BorrowedFd<'_> {
        self.wake_up.as_fd()
    }
}

impl DataRing for Ring {
    type Socket = Socket;

    fn adopt(&mut self, token: u32, socket: Socket) {
        let index = token as usize;
        if index >= self.sockets.len() {
            self.sockets.resize_with(index + 1, || None);
        }
        let before = self.sockets[index].replace(socket);
        assert!(before.is_none(), "a token stands for one socket at a time");
    }

    fn release(&mut self, token: u32) {
        let socket = self.sockets[token as usize].take();
        assert!(socket.is_some(), "only a socket that was adopted is released");
        debug_assert!(self.sends.iter().all(|(_, send)| send.token != token), "a socket outlives its sends");
    }

    fn shutdown(&mut self, token: u32, how: Shutdown) {
        if let Some(socket) = &self.sockets[token as usize] {
            // An error means that the connection is broken already.
            let _ = SockRef::from(socket).shutdown(how);
        }
    }

    #[allow(unsafe_code)]
    fn receive(&mut self, token: u32, how: Receive) {
        self.waiting += 1;
        let fd = self.fd(token);
        let entry = match how {
            Receive::All => opcode::RecvMulti::new(fd, BUFFER_GROUP).build(),
            Receive::Once => {
                let entry = opcode::Recv::new(fd, std::ptr::null_mut(), 0).buf_group(BUFFER_GROUP).build();
                entry.flags(squeue::Flags::BUFFER_SELECT)
            }
        };
        // SAFETY: the entry points to none of our memory; the kernel fills registered buffers, which outlive the ring.
        unsafe { self.push(entry.user_data(Operation::Receive.user_data(token.into()))) };
    }

    #[allow(unsafe_code)]
    fn cancel(&mut self, token: u32) {
        let entry = opcode::AsyncCancel::new(Operation::Receive.user_data(token.into())).build();
        // SAFETY: the entry points to no memory: the receive is identified by its number.
        unsafe { self.push(entry.user_data(Operation::Cancel.user_data(token.into()))) };
    }

    #[allow(unsafe_code)]
    fn send(&mut self, token: u32, slices: Slices) {
        let fd = self.fd(token);
        let (entry, gather) = match &slices {
            Slices::One(slice) => {
                // Chunks and frames are smaller than 4 GiB: see `slice`.
                let entry = opcode::Send::new(fd, slice.as_ptr(), slice.len() as u32).flags(SEND_FLAGS).build();
                (entry, None)
            }
            Slices::Many(slices) => {
                let gather = Gather::new(slices);
                (opcode::SendMsg::new(fd, &raw const gather.header).flags(SEND_FLAGS as u32).build(), Some(gather))
            }
        };
        let key = self.sends.insert(InFlight { token, slices, _gather: gather });
        // SAFETY: the slices, and the vector that points to them, are in `self.sends` until the completion. They stay in place
        // even if the slab moves: slices are shared memory on the heap, and the vector is boxed.
        unsafe { self.push(entry.user_data(Operation::Send.user_data(key as u64))) };
    }

    #[allow(unsafe_code)]
    fn await_writable(&mut self, token: u32) {
        self.waiting += 1;
        let fd = self.fd(token);
        let entry = opcode::PollAdd::new(fd, libc::POLLOUT as u32).build();
        // SAFETY: a poll points to no memory.
        unsafe { self.push(entry.user_data(Operation::Writable.user_data(token.into()))) };
    }

    fn submit(&mut self) -> io::Result<()> {
        if self.uring.submission().is_empty() { Ok(()) } else { self.enter() }
    }

    fn poll(&mut self) -> io::Result<bool> {
        let queue = self.uring.submission();
        if !queue.taskrun() && !queue.cq_overflow() {
            // What is in the queue waits for the turn's only submission.
            return Ok(false);
        }
        drop(queue);
        self.enter()?;
        Ok(self.uring.submission().taskrun())
    }

    fn next(&mut self) -> Option<Completion> {
        loop {
            let entry = self.aside.pop_front().or_else(|| self.uring.completion().next())?;
            // The result of a cancel is reported by the receive itself.
            if entry.user_data() & 3 != Operation::Cancel as u64 {
                return Some(self.completion(&entry));
            }
        }
    }

    fn suppress_wakeups(&mut self) {
        self.uring.completion().disable_eventfd();
    }

    fn arm_wakeups(&mut self) -> bool {
        self.uring.completion().enable_eventfd();
        // The kernel adds work first and then checks whether to signal; we do it the other way round. Whatever the order, one
        // of the two sees what the other did.
        fence(Ordering::SeqCst);
        let queue = self.uring.submission();
        let all_is_submitted = queue.is_empty() && !queue.taskrun();
        drop(queue);
        all_is_submitted && self.aside.is_empty() && self.uring.completion().is_empty()
    }

    fn buffers(&self) -> &BufferPool {
        self.buffers.pool()
    }

    fn descriptor(&self, token: u32) -> RawFd {
        self.sockets[token as usize].as_ref().expect("the token has been adopted").as_raw_fd()
    }

    fn peer_has_ended(descriptor: RawFd) -> bool {
        os::peer_has_ended(descriptor)
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.waiting == 0 && self.sends.is_empty() {
            return;
        }
        // The kernel finishes operations some time after the ring is closed, so their memory is leaked.
        std::mem::forget(std::mem::take(&mut self.sends));
        let buffers = std::mem::replace(&mut self.buffers, BufferRing::new(1));
        std::mem::forget(buffers);
    }
}
