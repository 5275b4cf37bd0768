//! The data ring: receives and sends of upgraded connections. Nothing but this file and `ring/buffers.rs`, for what
//! arrives, names the `io-uring` crate.
//!
//! A shard owns one [`Ring`]. What it hands to the kernel stays alive until its completion: a send owns its
//! [`Slice`]s here, and a receive buffer is either the kernel's, or inside one [`Received`]. Nothing is sent to the
//! kernel before [`DataRing::submit`]: one system call a turn, whatever the number of sends.
//!
//! Sends never block: the kernel takes what the socket has room for, or answers `EAGAIN`, and then
//! [`DataRing::await_writable`] waits without keeping any of our memory.

mod buffers;

use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{Ordering, fence};

use io_uring::types::Fd;
use io_uring::{IoUring, cqueue, opcode, squeue};
use slab::Slab;

use crate::slice::Slice;
use buffers::BufferRing;
pub use buffers::{RECEIVE_BUFFER_BYTES, Received};

/// Sends, receives and polls that fit between two submissions; more submit by themselves.
const SUBMISSION_ENTRIES: u32 = 2048;
/// Completions that fit before the kernel has to keep them aside.
const COMPLETION_ENTRIES: u32 = 16 * 1024;
/// The one group of provided buffers.
const BUFFER_GROUP: u16 = 0;
/// Slices that leave in one send.
pub const SLICES_PER_SEND_MAX: usize = 8;

/// What a shard asks of its data ring. A trait, so that a seeded stand-in can break the IO (see
/// [`crate::faulty_ring`]).
pub trait DataRing: Sized {
    /// A ring with `receive_buffers` provided buffers (a power of two, at most 32,768) that signals the eventfd `wake_up`
    /// when there is a completion, unless it is [`DataRing::attended`].
    ///
    /// # Errors
    /// What the kernel refused; see [`RingError`].
    fn new(receive_buffers: u16, wake_up: OwnedFd) -> Result<Self, RingError>;
    /// Receives from `fd`; each arrival is a [`Completion::Received`].
    fn receive(&mut self, token: u32, fd: RawFd, how: Receive);
    /// Ends a receive that goes on by itself: it completes with `ECANCELED`, unless it has ended meanwhile. What has
    /// arrived before comes first.
    fn stop_receiving(&mut self, token: u32);
    /// Sends `slices`, at most [`SLICES_PER_SEND_MAX`], in order, as far as the socket has room.
    fn send(&mut self, token: u32, fd: RawFd, slices: Slices);
    /// Waits until `fd` has room to send again, or is at its end.
    fn await_writable(&mut self, token: u32, fd: RawFd);
    /// Gives everything asked for since the last call to the kernel, and lets it finish what it deferred. True: it has
    /// deferred more than it finishes in one call (20 pieces of work, since Linux 6.13).
    ///
    /// # Errors
    /// When the kernel refuses the ring itself: a bug of ours, or out of memory.
    fn submit(&mut self) -> io::Result<bool>;
    /// The next completion, if there is one.
    fn next(&mut self) -> Option<Completion>;
    /// Gives a receive buffer back to the kernel.
    ///
    /// # Panics
    /// It came from another ring.
    fn recycle(&mut self, received: Received);
    /// Completions are looked for from now on: the eventfd need not be signalled.
    fn attended(&mut self);
    /// From now on the eventfd tells of completions again. False if there are some of which it has not told, or something
    /// was asked for that the kernel has not been given.
    fn unattended(&mut self) -> bool;
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
        match self {
            Self::One(slice) => slice.len(),
            Self::Many(slices) => slices.iter().map(Slice::len).sum(),
        }
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Something that the kernel finished. `token` is the one that it was asked with.
#[derive(Debug)]
pub enum Completion {
    /// Bytes arrived (`Ok(Some)`), the peer has ended (`Ok(None)`), or the receive failed. `armed`: it goes on by itself;
    /// otherwise [`DataRing::receive`] has to be called for more. `ENOBUFS` is no failure of the connection: buffers have
    /// run out.
    Received {
        /// Whose.
        token: u32,
        /// What came.
        result: io::Result<Option<Received>>,
        /// Whether more will come by itself.
        armed: bool,
    },
    /// A send ended: how many bytes the kernel took of `slices`, or why none (`EAGAIN`: there is no room).
    Sent {
        /// Whose.
        token: u32,
        /// Bytes taken.
        result: io::Result<usize>,
        /// What was to be sent.
        slices: Slices,
    },
    /// The wait for room has ended.
    Writable {
        /// Whose.
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

/// A send that the kernel holds.
struct InFlight {
    token: u32,
    slices: Slices,
    /// Only for several slices: what the submission points at.
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
        assert!(slices.len() <= SLICES_PER_SEND_MAX, "a send holds {SLICES_PER_SEND_MAX} slices at most");
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

/// What a completion belongs to, in the two lowest bits of `user_data`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Receive = 0,
    Send = 1,
    Writable = 2,
    Stop = 3,
}

impl Kind {
    fn user_data(self, value: u64) -> u64 {
        value << 2 | self as u64
    }
}

const SEND_FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;

/// The data ring of one shard: `SINGLE_ISSUER | DEFER_TASKRUN`, used by the thread that made it.
pub struct Ring {
    uring: IoUring,
    /// Registered with the ring.
    _wake_up: OwnedFd,
    buffers: BufferRing,
    sends: Slab<InFlight>,
    /// Completions taken from the kernel's queue to make room in it.
    aside: VecDeque<cqueue::Entry>,
    /// Receives and polls that the kernel has not finished.
    waiting: usize,
    /// `SINGLE_ISSUER`: the kernel takes submissions from the thread that made the ring, so it is not `Send`.
    _of_this_thread: PhantomData<*const ()>,
}

impl Ring {
    /// Whether an io_uring can be had and entered at all, without any of the features that this ring wants.
    ///
    /// # Errors
    /// What the kernel refused.
    #[allow(unsafe_code)]
    pub fn try_plain() -> Result<(), RingError> {
        let step = |operation| move |error| RingError { operation, error };
        let mut uring: IoUring = IoUring::new(2).map_err(step("io_uring_setup"))?;
        // SAFETY: an operation that does nothing points at no memory.
        unsafe { uring.submission().push(&opcode::Nop::new().build()) }.expect("a new ring has room");
        uring.submit_and_wait(1).map_err(step("io_uring_enter"))?;
        Ok(())
    }

    /// Adds a submission, and submits where there is no room for it.
    ///
    /// # Safety
    /// What the entry points at stays where it is and unchanged until its completion.
    #[allow(unsafe_code)]
    unsafe fn push(&mut self, entry: squeue::Entry) {
        loop {
            // SAFETY: the caller's promise is the one that is asked for.
            if unsafe { self.uring.submission().push(&entry) }.is_ok() {
                return;
            }
            self.submit().expect("the kernel takes submissions of a ring that works");
        }
    }

    fn completion(&mut self, entry: &cqueue::Entry) -> Completion {
        let (value, result, flags) = (entry.user_data() >> 2, entry.result(), entry.flags());
        let result = if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result as usize) };
        let kind = entry.user_data() & 3;
        if kind == Kind::Send as u64 {
            let InFlight { token, slices, .. } = self.sends.remove(value as usize);
            return Completion::Sent { token, result, slices };
        }
        let token = value as u32;
        let armed = cqueue::more(flags);
        if !armed {
            self.waiting -= 1;
        }
        if kind == Kind::Writable as u64 {
            return Completion::Writable { token };
        }
        let received = cqueue::buffer_select(flags)
            .map(|buffer| self.buffers.received(buffer, result.as_ref().map_or(0, |len| *len)));
        let result = match received {
            Some(received) if received.len() > 0 => Ok(Some(received)),
            Some(empty) => {
                self.recycle(empty);
                result.map(|_| None)
            }
            None => result.map(|_| None),
        };
        Completion::Received { token, result, armed }
    }
}

impl DataRing for Ring {
    #[allow(unsafe_code)]
    fn new(receive_buffers: u16, wake_up: OwnedFd) -> Result<Self, RingError> {
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
        // SAFETY: the entries are page-aligned, as many as said, and live until the ring is dropped: see `drop`.
        unsafe { submitter.register_buf_ring_with_flags(buffers.address(), receive_buffers, BUFFER_GROUP, 0) }
            .map_err(step("IORING_REGISTER_PBUF_RING"))?;
        buffers.provide_all();
        Ok(Self {
            uring,
            _wake_up: wake_up,
            buffers,
            sends: Slab::new(),
            aside: VecDeque::new(),
            waiting: 0,
            _of_this_thread: PhantomData,
        })
    }

    #[allow(unsafe_code)]
    fn receive(&mut self, token: u32, fd: RawFd, how: Receive) {
        self.waiting += 1;
        let entry = match how {
            Receive::All => opcode::RecvMulti::new(Fd(fd), BUFFER_GROUP).build(),
            Receive::Once => {
                let entry = opcode::Recv::new(Fd(fd), std::ptr::null_mut(), 0).buf_group(BUFFER_GROUP).build();
                entry.flags(squeue::Flags::BUFFER_SELECT)
            }
        };
        // SAFETY: it points at nothing of ours; the kernel fills registered buffers, which outlive the ring.
        unsafe { self.push(entry.user_data(Kind::Receive.user_data(token.into()))) };
    }

    #[allow(unsafe_code)]
    fn stop_receiving(&mut self, token: u32) {
        let entry = opcode::AsyncCancel::new(Kind::Receive.user_data(token.into())).build();
        // SAFETY: it points at no memory: a receive is named by its number.
        unsafe { self.push(entry.user_data(Kind::Stop.user_data(token.into()))) };
    }

    #[allow(unsafe_code)]
    fn send(&mut self, token: u32, fd: RawFd, slices: Slices) {
        let (entry, gather) = match &slices {
            Slices::One(slice) => {
                // Chunks and frames are smaller than 4 GiB: see `slice`.
                let entry = opcode::Send::new(Fd(fd), slice.as_ptr(), slice.len() as u32).flags(SEND_FLAGS).build();
                (entry, None)
            }
            Slices::Many(slices) => {
                let gather = Gather::new(slices);
                (opcode::SendMsg::new(Fd(fd), &raw const gather.header).flags(SEND_FLAGS as u32).build(), Some(gather))
            }
        };
        let key = self.sends.insert(InFlight { token, slices, _gather: gather });
        // SAFETY: slices, and the vector that points at them, are in `self.sends` until the completion. Neither moves when
        // its owner does: slices are shared memory on the heap, the vector is boxed.
        unsafe { self.push(entry.user_data(Kind::Send.user_data(key as u64))) };
    }

    #[allow(unsafe_code)]
    fn await_writable(&mut self, token: u32, fd: RawFd) {
        self.waiting += 1;
        let entry = opcode::PollAdd::new(Fd(fd), libc::POLLOUT as u32).build();
        // SAFETY: a poll points at no memory.
        unsafe { self.push(entry.user_data(Kind::Writable.user_data(token.into()))) };
    }

    fn submit(&mut self) -> io::Result<bool> {
        self.buffers.publish();
        let queue = self.uring.submission();
        if queue.is_empty() && !queue.taskrun() && !queue.cq_overflow() {
            return Ok(false);
        }
        drop(queue);
        loop {
            match self.uring.submit() {
                Ok(_) => return Ok(self.uring.submission().taskrun()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Out of memory for requests just now.
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => std::thread::yield_now(),
                // The completion queue is full and its overflow too large: make room.
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => self.aside.extend(self.uring.completion()),
                Err(error) => return Err(error),
            }
        }
    }

    fn next(&mut self) -> Option<Completion> {
        loop {
            let entry = self.aside.pop_front().or_else(|| self.uring.completion().next())?;
            // What came of an order to stop is told by the receive itself.
            if entry.user_data() & 3 != Kind::Stop as u64 {
                return Some(self.completion(&entry));
            }
        }
    }

    fn recycle(&mut self, received: Received) {
        self.buffers.recycle(received);
    }

    fn attended(&mut self) {
        self.uring.completion().disable_eventfd();
    }

    fn unattended(&mut self) -> bool {
        self.uring.completion().enable_eventfd();
        // The kernel first adds work and then looks whether to signal; we do it the other way round: whatever the order,
        // one of the two sees the other's.
        fence(Ordering::SeqCst);
        let queue = self.uring.submission();
        let all_is_submitted = queue.is_empty() && !queue.taskrun();
        drop(queue);
        all_is_submitted && self.aside.is_empty() && self.uring.completion().is_empty()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.waiting == 0 && self.sends.is_empty() {
            return;
        }
        // The kernel ends what it still holds some time after the ring is closed: its memory is left to it.
        std::mem::forget(std::mem::take(&mut self.sends));
        let buffers = std::mem::replace(&mut self.buffers, BufferRing::new(1));
        std::mem::forget(buffers);
    }
}
