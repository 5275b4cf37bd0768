//! The control side of a shard's thread: the runtime for everything that is not a connection of the data ring, and its sockets.
//! On io_uring that is tokio-uring, which nothing outside [`crate::ring`] names; on epoll, plain tokio.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use bytes::Bytes;
use socket2::SockRef;
use tokio::task::{LocalSet, spawn_local};
use tokio_uring::buf::BoundedBuf;

use super::Backend;

/// Runs `future`, and the tasks that it [spawns](spawn), on the calling thread.
///
/// # Errors
/// Out of file descriptors or memory.
pub(crate) fn run<T>(backend: Backend, future: impl Future<Output = T>) -> io::Result<T> {
    match backend {
        Backend::IoUring => {
            // Its completions wait until the thread enters the kernel of its own accord, as it does every turn: nothing
            // interrupts the thread before that.
            let mut flags = tokio_uring::uring_builder();
            flags.setup_coop_taskrun();
            let mut builder = tokio_uring::builder();
            builder.uring_builder(&flags);
            Ok(tokio_uring::Runtime::new(&builder)?.block_on(future))
        }
        Backend::Epoll => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(LocalSet::new().block_on(&runtime, future))
        }
    }
}

/// Spawns a task on the calling thread.
pub(crate) fn spawn(task: impl Future<Output = ()> + 'static) {
    drop(spawn_local(task));
}

/// A socket that is read and answered by tasks.
pub enum Stream {
    /// Of the control ring.
    IoUring(tokio_uring::net::TcpStream),
    /// Of tokio's epoll.
    Epoll(tokio::net::TcpStream),
}

impl Stream {
    /// Takes over a socket that was accepted or connected.
    ///
    /// # Errors
    /// Epoll watches as many sockets as it may, or is out of memory.
    pub(crate) fn new(backend: Backend, socket: OwnedFd) -> io::Result<Self> {
        // Whatever its family: neither runtime asks for it.
        let stream = TcpStream::from(socket);
        Ok(match backend {
            Backend::IoUring => Self::IoUring(tokio_uring::net::TcpStream::from_std(stream)),
            Backend::Epoll => {
                stream.set_nonblocking(true)?;
                Self::Epoll(tokio::net::TcpStream::from_std(stream)?)
            }
        })
    }

    /// Appends the bytes that arrive next to `buffer`, up to its capacity. 0: the peer has ended.
    pub(crate) async fn read(&self, mut buffer: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        match self {
            Self::IoUring(stream) => {
                let (len, capacity) = (buffer.len(), buffer.capacity());
                let (read, slice) = stream.read(buffer.slice(len..capacity)).await;
                (read, slice.into_inner())
            }
            Self::Epoll(stream) => loop {
                let read = match stream.readable().await {
                    Ok(()) => stream.try_read_buf(&mut buffer),
                    Err(error) => Err(error),
                };
                if !is_early(&read) {
                    return (read, buffer);
                }
            },
        }
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// The connection is broken.
    pub(crate) async fn write_all(&self, mut bytes: Bytes) -> io::Result<()> {
        match self {
            Self::IoUring(stream) => stream.write_all(bytes).await.0,
            Self::Epoll(stream) => {
                while !bytes.is_empty() {
                    stream.writable().await?;
                    let written = stream.try_write(&bytes);
                    if !is_early(&written) {
                        drop(bytes.split_to(written?));
                    }
                }
                Ok(())
            }
        }
    }

    /// Shuts the socket down. An error means that the connection is broken already, which is just as good.
    pub(crate) fn shutdown(&self, how: Shutdown) {
        let _ = SockRef::from(self).shutdown(how);
    }
}

/// Whether the runtime only believed that the socket was ready.
fn is_early(result: &io::Result<usize>) -> bool {
    result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::IoUring(stream) => descriptor(stream),
            Self::Epoll(stream) => stream.as_fd(),
        }
    }
}

#[allow(unsafe_code)]
fn descriptor(stream: &tokio_uring::net::TcpStream) -> BorrowedFd<'_> {
    // SAFETY: the stream owns its descriptor and is borrowed for longer than the descriptor is.
    unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) }
}

/// A socket on its way to the data ring.
pub enum Socket {
    /// A socket that no runtime knows.
    Accepted(OwnedFd),
    /// A socket that a task of the control ring has read from.
    Read(tokio_uring::net::TcpStream),
}

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Self {
        Self::Accepted(stream.into())
    }
}

impl From<Stream> for Socket {
    fn from(stream: Stream) -> Self {
        match stream {
            Stream::IoUring(stream) => Self::Read(stream),
            Stream::Epoll(stream) => stream.into_std().expect("epoll gives back what it has").into(),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Accepted(socket) => socket.as_fd(),
            Self::Read(stream) => descriptor(stream),
        }
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}
