//! A ring of provided buffers to send from: what a bundle takes its frames out of.

use std::alloc::Layout;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

/// Registered as group 0; lives as long as the process, since the kernel reads it until its io_uring is gone.
pub(crate) struct Provided {
    entries: &'static mut [BufRingEntry],
    tail: u16,
}

#[allow(unsafe_code)]
impl Provided {
    /// `count`: a power of two, at most 32,768.
    pub(crate) fn new(uring: &IoUring, count: usize) -> Self {
        let layout = Layout::array::<BufRingEntry>(count).and_then(|layout| layout.align_to(4096)).expect("512 KiB");
        // SAFETY: the layout's size is not zero, and all-zero is a valid entry.
        let entries = unsafe {
            let start = std::alloc::alloc_zeroed(layout).cast::<BufRingEntry>();
            assert!(!start.is_null(), "out of memory");
            std::slice::from_raw_parts_mut(start, count)
        };
        // SAFETY: page-aligned, as many entries as said, never freed.
        unsafe { uring.submitter().register_buf_ring_with_flags(entries.as_ptr() as u64, count as u16, 0, 0) }
            .expect("the kernel takes provided buffers");
        Self { entries, tail: 0 }
    }

    /// Provides each of the message's frames once for every member. The kernel has used up what was provided before.
    pub(crate) fn fill(&mut self, message: &[u8], frame_bytes: usize, members: usize) {
        let mask = self.entries.len() - 1;
        for _ in 0..members {
            for frame in message.chunks(frame_bytes) {
                let entry = &mut self.entries[usize::from(self.tail) & mask];
                entry.set_addr(frame.as_ptr() as u64);
                entry.set_len(frame.len() as u32);
                self.tail = self.tail.wrapping_add(1);
            }
        }
        // SAFETY: the tail lies in the first entry, aligned, and is written by us only; the kernel reads it atomically.
        unsafe {
            let tail = BufRingEntry::tail(self.entries.as_ptr()).cast_mut();
            AtomicU16::from_ptr(tail).store(self.tail, Ordering::Release);
        }
    }
}
