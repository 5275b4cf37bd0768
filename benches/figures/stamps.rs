//! The kernel's receive times.

use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::{Duration, SystemTime};

/// Makes the kernel note when it receives something for this socket (SO_TIMESTAMPNS, socket(7)).
#[allow(unsafe_code)]
pub(crate) fn stamp(socket: &TcpStream) -> io::Result<()> {
    let on: libc::c_int = 1;
    let len = size_of_val(&on) as libc::socklen_t;
    // SAFETY: the option's value outlives the call, which reads `len` bytes of it.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, (&raw const on).cast(), len)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// When the kernel received the segment that can be read next, which stays there. An error if there is none yet.
#[allow(unsafe_code)]
pub(crate) fn received_at(socket: &TcpStream) -> io::Result<SystemTime> {
    let mut byte = 0_u8;
    let mut data = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    // Aligned for its header.
    let mut control = [0_u64; 8];
    // SAFETY: a plain C struct, for which all-zero is valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    (message.msg_iov, message.msg_iovlen) = (&raw mut data, 1);
    (message.msg_control, message.msg_controllen) = ((&raw mut control).cast(), size_of_val(&control));
    // SAFETY: the buffers outlive the call, which writes no more than their lengths say.
    let count = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_PEEK | libc::MSG_DONTWAIT) };
    match count {
        1 => {}
        0 => return Err(io::ErrorKind::UnexpectedEof.into()),
        _ => return Err(io::Error::last_os_error()),
    }
    // SAFETY: `recvmsg` has filled in the control data; its first header is checked before its content is read.
    let stamp = unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        assert!(!header.is_null() && (*header).cmsg_type == libc::SCM_TIMESTAMPNS, "a receive time comes first");
        libc::CMSG_DATA(header).cast::<libc::timespec>().read_unaligned()
    };
    Ok(SystemTime::UNIX_EPOCH + Duration::new(stamp.tv_sec as u64, stamp.tv_nsec as u32))
}
