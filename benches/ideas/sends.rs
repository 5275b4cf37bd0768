//! The ways to send: a description of each, and one loop that follows it.

use std::io::Write;
use std::net::TcpStream;
use std::os::fd::AsRawFd;

use io_uring::types::Fd;
use io_uring::{IoUring, cqueue, opcode, squeue};

use crate::members::BYTE;

/// What each member gets per message.
#[derive(Clone, Copy)]
pub(crate) struct Message {
    pub(crate) frames: usize,
    pub(crate) frame_bytes: usize,
}

impl Message {
    pub(crate) fn bytes(self) -> usize {
        self.frames * self.frame_bytes
    }
}

/// The operation used.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    /// `send(2)`, one call per member: no ring.
    SystemCall,
    Send,
    SendMsg,
    SendZc,
    Write,
    Linked,
}

/// The order of the members.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Accepted,
    Backwards,
    Shuffled,
}

/// One way to send a message to all members.
#[derive(Clone, Copy)]
pub(crate) struct Way {
    pub(crate) operation: Operation,
    pub(crate) flags: i32,
    pub(crate) registered_files: bool,
    pub(crate) skip_success: bool,
    /// Submissions in one `io_uring_enter`.
    pub(crate) slice: usize,
    pub(crate) defer_taskrun: bool,
    pub(crate) order: Order,
}

/// The bare batch of the figures.
pub(crate) const FLOOR: Way = Way {
    operation: Operation::Send,
    flags: libc::MSG_WAITALL | libc::MSG_NOSIGNAL,
    registered_files: false,
    skip_success: false,
    slice: usize::MAX,
    defer_taskrun: true,
    order: Order::Accepted,
};

/// All ways of a table, over the same sockets.
pub(crate) struct Ways<'a> {
    sockets: &'a [TcpStream],
    message: Vec<u8>,
    batches: Vec<Batch>,
}

impl<'a> Ways<'a> {
    pub(crate) fn new(ways: &[(&'static str, Way)], sockets: &'a [TcpStream], message: Message, seed: u64) -> Self {
        let batches = ways.iter().map(|(_, way)| Batch::new(*way, sockets, message, seed)).collect();
        Self { sockets, message: vec![BYTE; message.bytes()], batches }
    }

    /// Sends one message to all members, in the way with this number.
    pub(crate) fn send(&mut self, way: usize) {
        let batch = &mut self.batches[way];
        if batch.way.operation == Operation::SystemCall {
            for mut socket in self.sockets {
                socket.write_all(&self.message).expect("send");
            }
        } else {
            batch.send(&self.message);
        }
    }
}

/// A ring, and the memory that its submissions point to.
struct Batch {
    way: Way,
    ring: IoUring,
    /// File descriptors, or indices into the table of registered files.
    files: Vec<i32>,
    message: Message,
    /// A vector entry per frame, and the header for them; the same for every member.
    vector: Vec<libc::iovec>,
    header: Box<libc::msghdr>,
}

impl Batch {
    #[allow(unsafe_code)]
    fn new(way: Way, sockets: &[TcpStream], message: Message, seed: u64) -> Self {
        let for_each = if way.operation == Operation::Linked { message.frames } else { 1 };
        let mut builder = IoUring::builder();
        builder.setup_single_issuer();
        if way.defer_taskrun {
            builder.setup_defer_taskrun();
        }
        let entries = (sockets.len() * for_each).min(way.slice).next_power_of_two();
        let ring: IoUring = builder.setup_cqsize(32_768).build(entries.min(32_768) as u32).expect("io_uring");
        let mut files: Vec<i32> = sockets.iter().map(AsRawFd::as_raw_fd).collect();
        if way.registered_files {
            ring.submitter().register_files(&files).expect("the kernel takes the files");
            files = (0..files.len() as i32).collect();
        }
        match way.order {
            Order::Accepted => {}
            Order::Backwards => files.reverse(),
            Order::Shuffled => fastrand::Rng::with_seed(seed).shuffle(&mut files),
        }
        let vector = vec![libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; message.frames];
        // SAFETY: a plain C struct of integers and pointers, for which all-zero is valid.
        let header = Box::new(unsafe { std::mem::zeroed() });
        Self { way, ring, files, message, vector, header }
    }

    fn send(&mut self, bytes: &[u8]) {
        let base = bytes.as_ptr().cast_mut();
        for (index, entry) in self.vector.iter_mut().enumerate() {
            let iov_base = base.wrapping_add(index * self.message.frame_bytes).cast();
            *entry = libc::iovec { iov_base, iov_len: self.message.frame_bytes };
        }
        (self.header.msg_iov, self.header.msg_iovlen) = (self.vector.as_mut_ptr(), self.vector.len());
        let mut pending = 0;
        for index in 0..self.files.len() {
            if self.way.operation == Operation::Linked {
                for (number, frame) in bytes.chunks(self.message.frame_bytes).enumerate() {
                    let last = number + 1 == self.message.frames;
                    let flags = if last { squeue::Flags::empty() } else { squeue::Flags::IO_LINK };
                    self.push(index, Operation::Send, frame, flags);
                }
            } else {
                self.push(index, self.way.operation, bytes, squeue::Flags::empty());
            }
            pending += 1;
            if pending == self.way.slice {
                self.ring.submit().expect("submit");
                pending = 0;
            }
        }
        self.finish(bytes.len());
    }

    #[allow(unsafe_code)]
    fn push(&mut self, index: usize, operation: Operation, bytes: &[u8], mut extra: squeue::Flags) {
        if self.way.skip_success {
            extra |= squeue::Flags::SKIP_SUCCESS;
        }
        if self.way.registered_files {
            extra |= squeue::Flags::FIXED_FILE;
        }
        let (file, length, flags) = (Fd(self.files[index]), bytes.len() as u32, self.way.flags);
        let entry = match operation {
            Operation::Send | Operation::Linked | Operation::SystemCall => {
                opcode::Send::new(file, bytes.as_ptr(), length).flags(flags).build()
            }
            Operation::SendMsg => opcode::SendMsg::new(file, &raw const *self.header).flags(flags as u32).build(),
            Operation::SendZc => opcode::SendZc::new(file, bytes.as_ptr(), length).flags(flags).build(),
            Operation::Write => opcode::Write::new(file, bytes.as_ptr(), length).build(),
        };
        // SAFETY: the message, the vector and its header outlive `send`, which waits for every completion. The file is
        // a descriptor of an open socket, or, with `FIXED_FILE`, its index in the table.
        unsafe { self.ring.submission().push(&entry.flags(extra)) }.expect("as many entries as sends");
    }

    /// Submits the rest, and checks that every send was complete.
    fn finish(&mut self, length: usize) {
        if self.way.skip_success {
            self.ring.submit().expect("submit");
            // Each was done within the submission, and only failures are reported.
            assert_eq!(self.ring.completion().len(), 0, "a send failed or was cut short");
            return;
        }
        let linked = self.way.operation == Operation::Linked;
        let (each, mut left) = if linked {
            (self.message.frame_bytes, self.message.frames * self.files.len())
        } else {
            (length, self.files.len())
        };
        while left > 0 {
            self.ring.submit_and_wait(left.min(self.files.len())).expect("submit");
            for completion in self.ring.completion() {
                if !cqueue::notif(completion.flags()) {
                    assert_eq!(completion.result(), each as i32, "send");
                }
                // A zero-copy send has two completions: it was done, and its memory is free again.
                if !cqueue::more(completion.flags()) {
                    left -= 1;
                }
            }
        }
    }
}
