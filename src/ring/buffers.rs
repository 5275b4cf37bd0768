//! The buffers that the kernel receives into: one piece of memory, and the ring of entries (`IORING_REGISTER_PBUF_RING`) from
//! which the kernel takes them.

use crate::limits::RECEIVE_BUFFER_BYTES;
use std::alloc::Layout;
use std::cell::{Cell, RefCell};
use std::io;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

/// Received bytes, in one of the buffers of a pool. Dropping this gives the buffer back.
#[derive(Debug)]
pub struct Received {
    buffer: u16,
    len: usize,
    pool: BufferPool,
}

impl Received {
    /// Number of received bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether no bytes were received.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes, to be read and unmasked in place.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: `buffer` has been out of the pool since this value was made, and until it is dropped nobody else uses it:
        // neither the kernel nor another `Received`. The pool keeps it allocated, and `len` is at most its size.
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts_mut(self.pool.0.memory.buffer(self.buffer), self.len)
        }
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        self.pool.0.held.update(|held| held - 1);
        self.pool.0.returned.borrow_mut().push(self.buffer);
    }
}

/// The receive buffers of one shard, shared by everything that holds one.
#[derive(Clone, Debug)]
pub struct BufferPool(Rc<Pool>);

#[derive(Debug)]
struct Pool {
    memory: BufferMemory,
    /// Number of buffers inside a [`Received`].
    held: Cell<usize>,
    /// Buffers that have been given back and are not in use again yet.
    returned: RefCell<Vec<u16>>,
}

impl BufferPool {
    /// A pool of `buffers` buffers, none of them in use.
    pub fn new(buffers: u16) -> Self {
        let returned = RefCell::new((0..buffers).rev().collect());
        Self(Rc::new(Pool { memory: BufferMemory::new(buffers), held: Cell::new(0), returned }))
    }

    /// Number of buffers, in use or not.
    pub fn size(&self) -> usize {
        self.0.memory.layout.size() / RECEIVE_BUFFER_BYTES
    }

    /// Number of buffers that hold received bytes.
    pub fn held(&self) -> usize {
        self.0.held.get()
    }

    /// Receives for a ring that is not io_uring's: lets `receive` fill a buffer, and keeps as many bytes as it says. `None` if no
    /// buffer is free.
    pub fn fill_by(&self, receive: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> Option<io::Result<Received>> {
        let buffer = self.0.returned.borrow_mut().pop()?;
        let mut received = self.received(buffer, RECEIVE_BUFFER_BYTES);
        Some(receive(received.bytes()).map(|len| {
            received.len = len.min(RECEIVE_BUFFER_BYTES);
            received
        }))
    }

    /// The first `len` bytes of `buffer`, which is out of the pool and used by nobody.
    fn received(&self, buffer: u16, len: usize) -> Received {
        self.0.held.update(|held| held + 1);
        Received { buffer, len: len.min(RECEIVE_BUFFER_BYTES), pool: self.clone() }
    }
}

/// The memory of all receive buffers, one after the other. It never moves.
#[derive(Debug)]
struct BufferMemory {
    start: NonNull<u8>,
    layout: Layout,
}

#[allow(unsafe_code)]
impl BufferMemory {
    fn new(buffers: u16) -> Self {
        let layout = Layout::array::<[u8; RECEIVE_BUFFER_BYTES]>(buffers.into()).expect("at most 128 MiB");
        // SAFETY: the layout's size is not zero: there is at least one buffer.
        let start = unsafe { std::alloc::alloc_zeroed(layout) };
        let start = NonNull::new(start).unwrap_or_else(|| std::alloc::handle_alloc_error(layout));
        Self { start, layout }
    }

    fn buffer(&self, index: u16) -> *mut u8 {
        let offset = usize::from(index) * RECEIVE_BUFFER_BYTES;
        assert!(offset < self.layout.size(), "the kernel returns only buffers that it was given");
        // SAFETY: the offset lies inside the allocation, as just asserted.
        unsafe { self.start.as_ptr().add(offset) }
    }
}

#[allow(unsafe_code)]
impl Drop for BufferMemory {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout, freed only here.
        unsafe { std::alloc::dealloc(self.start.as_ptr(), self.layout) }
    }
}

/// The ring of buffers that the kernel takes from: entries shared with it, and a tail that we write.
pub(super) struct BufferRing {
    entries: NonNull<BufRingEntry>,
    layout: Layout,
    mask: u16,
    tail: u16,
    pool: BufferPool,
}

#[allow(unsafe_code)]
impl BufferRing {
    /// A ring of `buffers` buffers. The kernel has none of them before [`BufferRing::publish`].
    pub(super) fn new(buffers: u16) -> Self {
        assert!(buffers.is_power_of_two(), "the kernel needs a power of two");
        let layout = Layout::array::<BufRingEntry>(buffers.into())
            .and_then(|layout| layout.align_to(4096))
            .expect("at most 512 KiB");
        // SAFETY: the layout's size is not zero. All-zero is a valid entry.
        let entries = unsafe { std::alloc::alloc_zeroed(layout) };
        let entries = NonNull::new(entries.cast()).unwrap_or_else(|| std::alloc::handle_alloc_error(layout));
        Self { entries, layout, mask: buffers - 1, tail: 0, pool: BufferPool::new(buffers) }
    }

    /// The pool that the buffers are given back to.
    pub(super) fn pool(&self) -> &BufferPool {
        &self.pool
    }

    /// Address of the entries: page-aligned, and valid until the ring is dropped.
    pub(super) fn address(&self) -> u64 {
        self.entries.as_ptr() as u64
    }

    /// The first `len` bytes of `buffer`, which a completion has handed to us.
    pub(super) fn received(&self, buffer: u16, len: usize) -> Received {
        self.pool.received(buffer, len)
    }

    /// Gives `buffer` to the kernel. The kernel must not have it already, and it must not be inside a [`Received`].
    fn provide(&mut self, buffer: u16) {
        let slot = self.tail & self.mask;
        // SAFETY: `slot` is within the entries, and the kernel reads an entry only after the tail has moved past it. There are
        // never more buffers provided than slots, since each buffer is provided at most once at a time. The entry's address and
        // length lie in the pool's memory, which lives at least as long as the ring.
        unsafe {
            let entry = &mut *self.entries.as_ptr().add(usize::from(slot));
            entry.set_addr(self.pool.0.memory.buffer(buffer) as u64);
            entry.set_len(RECEIVE_BUFFER_BYTES as u32);
            entry.set_bid(buffer);
        }
        self.tail = self.tail.wrapping_add(1);
    }

    /// Gives the kernel every buffer that has come back to the pool; called first when the kernel knows the ring's
    /// [`BufferRing::address`].
    pub(super) fn publish(&mut self) {
        let before = self.tail;
        loop {
            let Some(buffer) = self.pool.0.returned.borrow_mut().pop() else { break };
            self.provide(buffer);
        }
        if self.tail == before {
            return;
        }
        // SAFETY: the tail is in the first entry, valid for as long as `entries`, aligned, and written only by us; the kernel
        // reads it atomically. `provide` writes the other fields of that entry, never this one, and its `&mut` has ended.
        unsafe {
            let tail = BufRingEntry::tail(self.entries.as_ptr()).cast_mut();
            AtomicU16::from_ptr(tail).store(self.tail, Ordering::Release);
        }
    }
}

#[allow(unsafe_code)]
impl Drop for BufferRing {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout, freed only here.
        unsafe { std::alloc::dealloc(self.entries.as_ptr().cast(), self.layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_when_its_received_bytes_are_dropped() {
        let mut ring = BufferRing::new(2);
        ring.publish();
        let received = ring.received(1, 4);
        assert_eq!((received.len(), ring.pool.held(), ring.tail), (4, 1, 2));
        drop(received);
        ring.publish();
        assert_eq!((ring.pool.held(), ring.tail), (0, 3));
    }

    #[test]
    fn a_pool_hands_out_each_buffer_once() {
        let pool = BufferPool::new(2);
        let fill = |bytes: &[u8]| {
            let received = pool.fill_by(|buffer| {
                buffer[..bytes.len()].copy_from_slice(bytes);
                Ok(bytes.len())
            });
            received.map(Result::unwrap)
        };
        let (mut one, two) = (fill(b"one").unwrap(), fill(&[7; RECEIVE_BUFFER_BYTES]).unwrap());
        assert!(fill(b"three").is_none());
        assert_eq!((&*one.bytes(), two.len()), (&b"one"[..], RECEIVE_BUFFER_BYTES));
        drop(two);
        assert!(pool.fill_by(|_| Err(io::ErrorKind::WouldBlock.into())).unwrap().is_err());
        assert!(fill(b"three").is_some(), "nothing was received: the buffer is free");
    }
}
