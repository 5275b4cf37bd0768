//! The buffers that the kernel receives into: memory in one piece, and the ring of entries (`IORING_REGISTER_PBUF_RING`)
//! from which the kernel takes them.

use std::alloc::Layout;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

/// Bytes of one receive buffer.
pub const RECEIVE_BUFFER_BYTES: usize = 4096;

/// Bytes that arrived, in one of the ring's buffers. Give it back with [`recycle`](super::DataRing::recycle).
#[derive(Debug)]
pub struct Received {
    buffer: u16,
    len: usize,
    memory: Rc<BufferMemory>,
}

impl Received {
    /// How many bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The bytes, to be read and unmasked in place.
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the buffer was given to us by a completion and is not the kernel's again before `recycle` takes this
        // value, so nobody else reads or writes it; `memory` keeps it allocated, and `len` is at most its size.
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts_mut(self.memory.buffer(self.buffer), self.len)
        }
    }
}

/// The memory of all receive buffers, one behind the other, never moved.
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
        assert!(offset < self.layout.size(), "the kernel names only buffers that it was given");
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

/// The ring of buffers that the kernel takes from: entries shared with it, of which we write the tail.
pub(super) struct BufferRing {
    entries: NonNull<BufRingEntry>,
    layout: Layout,
    mask: u16,
    tail: u16,
    /// Buffers came back since the kernel was last told.
    changed: bool,
    memory: Rc<BufferMemory>,
}

#[allow(unsafe_code)]
impl BufferRing {
    /// A ring of `buffers` buffers, of which none is the kernel's before [`BufferRing::provide_all`].
    pub(super) fn new(buffers: u16) -> Self {
        assert!(buffers.is_power_of_two(), "the kernel wants a power of two");
        let layout = Layout::array::<BufRingEntry>(buffers.into())
            .and_then(|layout| layout.align_to(4096))
            .expect("at most 512 KiB");
        // SAFETY: the layout's size is not zero. All-zero is a valid entry.
        let entries = unsafe { std::alloc::alloc_zeroed(layout) };
        let entries = NonNull::new(entries.cast()).unwrap_or_else(|| std::alloc::handle_alloc_error(layout));
        let memory = Rc::new(BufferMemory::new(buffers));
        Self { entries, layout, mask: buffers - 1, tail: 0, changed: false, memory }
    }

    /// Where the entries are: page-aligned, and theirs until the ring is dropped.
    pub(super) fn address(&self) -> u64 {
        self.entries.as_ptr() as u64
    }

    /// Makes all buffers the kernel's: once, when it knows the ring's [`BufferRing::address`].
    pub(super) fn provide_all(&mut self) {
        (0..=self.mask).for_each(|buffer| self.provide(buffer));
        self.publish();
    }

    /// The first `len` bytes of `buffer`, of which a completion said that it is ours.
    pub(super) fn received(&self, buffer: u16, len: usize) -> Received {
        Received { buffer, len: len.min(RECEIVE_BUFFER_BYTES), memory: Rc::clone(&self.memory) }
    }

    /// Makes the buffer the kernel's again, when it is next told. It has to be one of this ring: the buffer of another ring
    /// with the same number may be the kernel's already, or in somebody's hands.
    pub(super) fn recycle(&mut self, received: Received) {
        assert!(Rc::ptr_eq(&received.memory, &self.memory), "a buffer goes back to the ring that it came from");
        self.provide(received.buffer);
    }

    /// Makes `buffer` the kernel's. It must not be the kernel's already, nor inside a [`Received`].
    fn provide(&mut self, buffer: u16) {
        let slot = self.tail & self.mask;
        // SAFETY: `slot` is within the entries, the kernel reads an entry only after the tail has moved past it, and
        // there are never more buffers provided than slots, as each buffer is provided at most once at a time. The
        // entry's address and length lie in `memory`, which lives at least as long as the ring.
        unsafe {
            let entry = &mut *self.entries.as_ptr().add(usize::from(slot));
            entry.set_addr(self.memory.buffer(buffer) as u64);
            entry.set_len(RECEIVE_BUFFER_BYTES as u32);
            entry.set_bid(buffer);
        }
        self.tail = self.tail.wrapping_add(1);
        self.changed = true;
    }

    /// Lets the kernel see what was provided since the last time.
    pub(super) fn publish(&mut self) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        // SAFETY: the tail lies in the first entry, is valid for as long as `entries`, aligned, and written by us only;
        // the kernel reads it atomically. `provide` writes the other fields of that entry, never this one, and its `&mut`
        // has ended.
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
    fn a_buffer_goes_back_once_it_has_been_used() {
        let mut ring = BufferRing::new(2);
        let received = ring.received(1, 4);
        ring.recycle(received);
        assert!(ring.changed);
    }

    #[test]
    #[should_panic(expected = "a buffer goes back to the ring that it came from")]
    fn the_buffer_of_another_ring_is_refused() {
        let (mut one, other) = (BufferRing::new(2), BufferRing::new(2));
        one.recycle(other.received(1, 4));
    }
}
