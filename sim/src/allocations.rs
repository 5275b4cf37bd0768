//! What the server has really allocated, against what its ledgers say.
//!
//! A thread that simulates says which of the two it is just now, the server or the simulation around it, and allocations are
//! counted accordingly.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static IS_SERVER: Cell<bool> = const { Cell::new(false) };
    static BYTES: Cell<isize> = const { Cell::new(0) };
}

/// The system's allocator, counting.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count(bytes: isize) {
    if IS_SERVER.get() {
        BYTES.set(BYTES.get() + bytes);
    }
}

// SAFETY: every call goes to the system's allocator as it came. Beside that, two numbers without a destructor are read and
// written, which allocates nothing.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promise is the one that is asked for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the same.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the same.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize);
        // SAFETY: the same.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// Sets back on drop whose allocations are counted: also when a simulation fails.
struct Before(bool);

impl Drop for Before {
    fn drop(&mut self) {
        IS_SERVER.set(self.0);
    }
}

/// What happens in here is the server's.
pub fn of_server<T>(act: impl FnOnce() -> T) -> T {
    let _before = Before(IS_SERVER.replace(true));
    act()
}

/// What happens in here is not the server's, though it is the server that calls.
pub fn of_simulation<T>(act: impl FnOnce() -> T) -> T {
    let _before = Before(IS_SERVER.replace(false));
    act()
}

/// Bytes that the server has allocated on this thread and not freed, beyond those of earlier simulations.
pub fn server_bytes() -> isize {
    BYTES.get()
}
