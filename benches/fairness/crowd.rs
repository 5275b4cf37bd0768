//! Connections whose input is read and discarded, or not read at all.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::OwnedFd;
use socket2::{Domain, Socket, Type};

use crate::connect::{Opened, open_many, upgrade, wait};

/// Polling interval while nothing arrives.
const WAIT: Duration = Duration::from_secs(1);
/// Receive buffer of a socket that is read slowly, in bytes: small, so that the kernel doesn't read for it.
const SMALL_BUFFER_BYTES: usize = 4096;

/// Opens `count` connections, and reads them in a thread as fast as data arrives.
pub(crate) fn reading(address: SocketAddr, path: &str, count: usize) {
    let Opened { streams, epoll } = open_many(address, path, count);
    read(streams, epoll);
}

/// The same for existing connections.
pub(crate) fn reading_these(streams: Vec<TcpStream>) {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll instance");
    for (index, stream) in streams.iter().enumerate() {
        stream.set_nonblocking(true).unwrap();
        epoll::add(&epoll, stream, EventData::new_u64(index as u64), EventFlags::IN).unwrap();
    }
    read(streams, epoll);
}

fn read(mut streams: Vec<TcpStream>, epoll: OwnedFd) {
    std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        loop {
            for event in wait(&epoll, Instant::now() + WAIT) {
                let stream = &mut streams[event.data.u64() as usize];
                if !goes_on(stream.read(&mut buffer)) {
                    // The server may close one for good reason; there are others.
                    let _ = epoll::delete(&epoll, &*stream);
                }
            }
        }
    });
}

/// Whether a connection is still open after this read.
pub(crate) fn goes_on(read: std::io::Result<usize>) -> bool {
    match read {
        Ok(count) => count > 0,
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}

/// Opens `count` connections with small receive buffers, not read yet.
pub(crate) fn small(address: SocketAddr, path: &str, count: usize) -> Vec<TcpStream> {
    let open = |_| {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a file descriptor is free");
        socket.set_recv_buffer_size(SMALL_BUFFER_BYTES).unwrap();
        socket.connect(&address.into()).expect("the server accepts");
        upgrade(socket.into(), path, "")
    };
    (0..count).map(open).collect()
}
