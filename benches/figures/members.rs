//! The reading side: connections, what they send and what they have to get.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::epoll;
use rustix::time::Timespec;

use crate::frames::{Expected, Frames};

/// A connection, upgraded if there is a path.
pub(crate) fn open(address: SocketAddr, path: Option<&str>) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("the server accepts");
    stream.set_nodelay(true).unwrap();
    if let Some(path) = path {
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        .unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("the server answers the handshake");
            head.push(byte[0]);
        }
        assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    }
    stream
}

/// The reading side: one epoll loop, every byte checked.
pub(crate) struct Members {
    streams: Vec<TcpStream>,
    read: Vec<u64>,
    total: u64,
    epoll: rustix::fd::OwnedFd,
    frame_bytes: u64,
    expected: Expected,
    buffer: Vec<u8>,
}

impl Members {
    pub(crate) fn connect(address: SocketAddr, path: Option<&str>, count: usize, frames: Frames) -> Self {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let streams: Vec<_> = (0..count).map(|_| open(address, path)).collect();
        for (index, stream) in streams.iter().enumerate() {
            stream.set_nonblocking(true).unwrap();
            epoll::add(&epoll, stream, epoll::EventData::new_u64(index as u64), epoll::EventFlags::IN).unwrap();
        }
        let (frame_bytes, expected) = (frames.len(), Expected::new(frames));
        Self { read: vec![0; count], streams, total: 0, epoll, frame_bytes, expected, buffer: vec![0; 64 * 1024] }
    }

    pub(crate) fn read_while(&mut self, until: Instant) {
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            self.poll(left);
        }
    }

    /// Until each member has got so many messages, and nothing more.
    pub(crate) fn read_until(&mut self, messages: u32) {
        let bytes_each = self.frame_bytes * u64::from(messages);
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.total < bytes_each * self.streams.len() as u64 {
            assert!(Instant::now() < deadline, "deliveries are missing");
            self.poll(Duration::from_millis(100));
        }
        assert!(self.read.iter().all(|read| *read == bytes_each), "a member got more, another less");
    }

    fn poll(&mut self, timeout: Duration) {
        let mut events = Vec::with_capacity(1024);
        let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: timeout.subsec_nanos().into() };
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("epoll: {error}"),
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        for event in events {
            let index = event.data.u64() as usize;
            match self.streams[index].read(&mut buffer) {
                Ok(0) => panic!("the server closed member {index}"),
                Ok(count) => self.check(index, &buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => panic!("member {index}: {error}"),
            }
        }
        self.buffer = buffer;
    }

    fn check(&mut self, index: usize, mut bytes: &[u8]) {
        while let Some(first) = bytes.first() {
            let read = self.read[index];
            if read.is_multiple_of(self.frame_bytes) && matches!(first, 0x89 | 0) {
                // The two bytes of a ping.
                bytes = &bytes[1..];
                continue;
            }
            let count = self.expected.take(read, bytes);
            self.read[index] += count as u64;
            self.total += count as u64;
            bytes = &bytes[count..];
        }
    }
}
