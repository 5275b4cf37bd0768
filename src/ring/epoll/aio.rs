//! Linux AIO (io_submit(2)): many sends with one system call, where io_uring is forbidden. What io_submit does for a socket
//! that doesn't block is what send(2) would do, at once and in order; nothing is in flight when it returns. Docker's default
//! seccomp profile allows it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use crate::limits::SENDS_PER_CALL;
use crate::slice::Slice;

/// `IOCB_CMD_PWRITE` and `IOCB_CMD_PWRITEV` (linux/aio_abi.h).
const WRITE: u16 = 1;
const WRITE_SLICES: u16 = 8;

/// `struct iocb` (linux/aio_abi.h) of little-endian machines.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Write {
    data: u64,
    key: u32,
    flags_of_write: i32,
    opcode: u16,
    priority: i16,
    socket: u32,
    /// The bytes, or the vector of slices.
    address: u64,
    len: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    eventfd: u32,
}

/// `struct io_event` (linux/aio_abi.h).
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Written {
    data: u64,
    write: u64,
    result: i64,
    second_result: i64,
}

/// A context of the kernel, and what is told to it.
pub(super) struct Aio {
    context: libc::c_ulong,
    writes: Vec<Write>,
    /// The vectors of those writes that have several slices, one after the other.
    vectors: Vec<libc::iovec>,
    addresses: Vec<*mut Write>,
    written: Vec<Written>,
}

impl Aio {
    /// A new context.
    ///
    /// # Errors
    /// The kernel has none (`ENOSYS`) or forbids it, or all that there may be are taken (`EAGAIN`; `fs.aio-max-nr`).
    #[allow(unsafe_code)]
    pub(super) fn new() -> io::Result<Self> {
        if cfg!(target_endian = "big") {
            // The fields of `Write` would be in another order.
            return Err(io::ErrorKind::Unsupported.into());
        }
        let mut context: libc::c_ulong = 0;
        // SAFETY: the kernel writes the context's number to where it is told to.
        let result = unsafe { libc::syscall(libc::SYS_io_setup, SENDS_PER_CALL, &raw mut context) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            context,
            writes: Vec::with_capacity(SENDS_PER_CALL),
            vectors: Vec::new(),
            addresses: Vec::with_capacity(SENDS_PER_CALL),
            written: Vec::with_capacity(SENDS_PER_CALL),
        })
    }

    /// Sends to sockets that must not block; see [`Calls::send`](super::Calls::send).
    pub(super) fn send<'s, S: AsFd + 's>(
        &mut self,
        mut sends: impl Iterator<Item = (&'s S, &'s [Slice])>,
        results: &mut Vec<io::Result<usize>>,
    ) {
        loop {
            self.writes.clear();
            self.vectors.clear();
            for (socket, slices) in sends.by_ref().take(SENDS_PER_CALL) {
                self.add(socket.as_fd(), slices);
            }
            if self.writes.is_empty() {
                return;
            }
            self.submit(results);
        }
    }

    fn add(&mut self, socket: BorrowedFd<'_>, slices: &[Slice]) {
        let (opcode, address, len) = match slices {
            [slice] => (WRITE, slice.as_ptr() as u64, slice.len()),
            // Where the vector is, is known when all of them are there.
            slices => (WRITE_SLICES, self.vectors.len() as u64, slices.len()),
        };
        if opcode == WRITE_SLICES {
            let vector =
                |slice: &Slice| libc::iovec { iov_base: slice.as_ptr().cast_mut().cast(), iov_len: slice.len() };
            self.vectors.extend(slices.iter().map(vector));
        }
        let (data, socket) = (self.writes.len() as u64, socket.as_raw_fd() as u32);
        self.writes.push(Write { data, opcode, socket, address, len: len as u64, ..Write::default() });
    }

    /// Gives the kernel the writes, and adds their results.
    #[allow(unsafe_code)]
    fn submit(&mut self, results: &mut Vec<io::Result<usize>>) {
        let vectors = self.vectors.as_ptr();
        self.addresses.clear();
        for write in &mut self.writes {
            if write.opcode == WRITE_SLICES {
                write.address = vectors.wrapping_add(write.address as usize) as u64;
            }
            self.addresses.push(write);
        }
        let first = results.len();
        // Stays the result of those that the kernel has no memory for: they are tried again once the socket is writable.
        results.extend(self.writes.iter().map(|_| Err(io::ErrorKind::WouldBlock.into())));
        let mut taken = 0;
        while taken < self.addresses.len() {
            let rest = &self.addresses[taken..];
            // SAFETY: each address is that of an element of `writes`, which has not grown since; what each of those points to is
            // a slice that the caller of `send` has borrowed, or vectors of such slices. The kernel uses none of it after the
            // call: a write to a socket that doesn't block is over when io_submit returns.
            let submitted = unsafe { libc::syscall(libc::SYS_io_submit, self.context, rest.len(), rest.as_ptr()) };
            let count = usize::try_from(submitted).unwrap_or(0);
            self.reap(count, &mut results[first..]);
            // One that the kernel doesn't take must not hold up the others.
            taken += count.max(1);
        }
    }

    /// Takes the results of `count` writes, which are there.
    #[allow(unsafe_code)]
    fn reap(&mut self, mut count: usize, results: &mut [io::Result<usize>]) {
        while count > 0 {
            self.written.clear();
            let space = self.written.spare_capacity_mut();
            let no_time_limit = std::ptr::null_mut::<libc::timespec>();
            // SAFETY: there is space for `count` results: at most `SENDS_PER_CALL` were submitted. The kernel fills as many as it
            // returns.
            let reaped = unsafe {
                let reaped = libc::syscall(
                    libc::SYS_io_getevents,
                    self.context,
                    count,
                    count,
                    space.as_mut_ptr(),
                    no_time_limit,
                );
                let reaped = usize::try_from(reaped).unwrap_or(0);
                self.written.set_len(reaped);
                reaped
            };
            for Written { data, result, .. } in &self.written {
                results[*data as usize] = match usize::try_from(*result) {
                    Ok(len) => Ok(len),
                    Err(_) => Err(io::Error::from_raw_os_error(-*result as i32)),
                };
            }
            count -= reaped;
        }
    }
}

impl Drop for Aio {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: nothing is in flight, and nobody else has the context.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.context) };
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use bytes::Bytes;

    use super::*;

    #[test]
    fn a_batch_of_any_size_leaves_in_order_and_each_result_is_its_own() {
        let mut aio = Aio::new().expect("the tests need a kernel with AIO");
        let pairs: Vec<_> = (0..SENDS_PER_CALL + 7).map(|_| UnixStream::pair().unwrap()).collect();
        pairs.iter().for_each(|(ours, _)| ours.set_nonblocking(true).unwrap());
        let slices = |number: usize| -> Vec<Slice> {
            (0..number % 3 + 1).map(|part| Bytes::from(format!("{number}.{part};")).into()).collect()
        };
        let all: Vec<_> = (0..pairs.len()).map(slices).collect();
        pairs[5].0.shutdown(std::net::Shutdown::Write).unwrap();
        let mut results = vec![Ok(77)];
        aio.send(pairs.iter().map(|(ours, _)| ours).zip(all.iter().map(Vec::as_slice)), &mut results);
        assert_eq!((results.len(), results.remove(0).unwrap()), (pairs.len() + 1, 77));
        for (number, ((_, theirs), result)) in pairs.iter().zip(results).enumerate() {
            let expected: String = (0..number % 3 + 1).map(|part| format!("{number}.{part};")).collect();
            if number == 5 {
                assert_eq!(result.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
                continue;
            }
            assert_eq!(result.unwrap(), expected.len());
            let mut received = vec![0; expected.len()];
            (&*theirs).read_exact(&mut received).unwrap();
            assert_eq!(received, expected.as_bytes());
        }
    }

    #[test]
    fn a_full_socket_takes_a_part_and_then_nothing() {
        let mut aio = Aio::new().unwrap();
        let (ours, _theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let frame = [Slice::from(Bytes::from(vec![1; 50_000]))];
        let mut results = Vec::new();
        aio.send(std::iter::repeat_n((&ours, &frame[..]), 20), &mut results);
        assert_eq!(results.len(), 20);
        assert_eq!(results[0].as_ref().unwrap(), &50_000);
        assert_eq!(results[19].as_ref().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
