//! The control ring of a shard's thread, which is tokio-uring's runtime, and the type of its sockets, which nothing outside
//! [`crate::ring`] names.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use bytes::Bytes;
use tokio_uring::buf::BoundedBuf;

/// The runtime that shards use. Its completions wait until the thread enters the kernel of its own accord, as it does every
/// turn: nothing interrupts the thread before that.
pub(crate) fn control_ring() -> tokio_uring::Builder {
    let mut flags = tokio_uring::uring_builder();
    flags.setup_coop_taskrun();
    let mut builder = tokio_uring::builder();
    builder.uring_builder(&flags);
    builder
}

/// Spawns a task on the control ring of the calling thread.
pub(crate) fn spawn(task: impl Future<Output = ()> + 'static) {
    drop(tokio_uring::spawn(task));
}

/// A socket that is read and answered on the control ring.
pub struct Stream(tokio_uring::net::TcpStream);

impl Stream {
    /// Takes over a socket that was accepted or connected.
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self(tokio_uring::net::TcpStream::from_std(stream))
    }

    /// Appends the bytes that arrive next to `buffer`, up to its capacity. 0: the peer has ended.
    pub(crate) async fn read(&self, buffer: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        let (len, capacity) = (buffer.len(), buffer.capacity());
        let (read, slice) = self.0.read(buffer.slice(len..capacity)).await;
        (read, slice.into_inner())
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// The connection is broken.
    pub(crate) async fn write_all(&self, bytes: Bytes) -> io::Result<()> {
        self.0.write_all(bytes).await.0
    }

    /// Shuts the socket down. An error means that the connection is broken already, which is just as good.
    pub(crate) fn shutdown(&self, how: Shutdown) {
        let _ = self.0.shutdown(how);
    }
}

impl AsFd for Stream {
    #[allow(unsafe_code)]
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the stream owns its descriptor and is borrowed for longer than the descriptor is.
        unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) }
    }
}

/// A socket on its way to the data ring.
pub enum Socket {
    /// A socket whose handshake was done right after the accept, without the control ring.
    Accepted(OwnedFd),
    /// A socket that a task of the control ring has read from.
    Read(Stream),
}

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Self {
        Self::Accepted(stream.into())
    }
}

impl From<Stream> for Socket {
    fn from(stream: Stream) -> Self {
        Self::Read(stream)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Accepted(socket) => socket.as_fd(),
            Self::Read(stream) => stream.as_fd(),
        }
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}
