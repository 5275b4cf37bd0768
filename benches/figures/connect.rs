//! Opens connections, one after the other or all at once.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::epoll;
use rustix::fd::OwnedFd;
use rustix::time::Timespec;
use socket2::{Domain, Socket, Type};

/// Connections being opened at the same time.
const AT_ONCE: usize = 512;
/// Time limit for an answer: beyond it, the server is stuck.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);
/// Bytes of a response head at most.
const HEAD_BYTES_MAX: usize = 4096;

/// One upgraded connection, blocking.
pub(crate) fn open(address: SocketAddr, path: &str) -> TcpStream {
    upgrade(TcpStream::connect(address).expect("the server accepts"), path, "")
}

/// Upgrades a connection, with an optional extra line in the request head.
pub(crate) fn upgrade(mut stream: TcpStream, path: &str, line: &str) -> TcpStream {
    stream.set_nodelay(true).unwrap();
    stream.write_all(&request(path, line)).expect("the server reads");
    let mut bytes = [0; HEAD_BYTES_MAX];
    // What follows the head stays in the socket.
    let head = loop {
        let count = stream.peek(&mut bytes).expect("the server answers the handshake");
        assert!((1..HEAD_BYTES_MAX).contains(&count), "an answer has a head and its end");
        if let Some(end) = bytes[..count].windows(4).position(|end| end == b"\r\n\r\n") {
            break &mut bytes[..end + 4];
        }
    };
    stream.read_exact(head).expect("it is there");
    check_head(head);
    stream
}

fn request(path: &str, line: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: bench\r\n{line}Upgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    .into_bytes()
}

fn check_head(head: &[u8]) {
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(head));
}

/// Non-blocking upgraded connections, registered for reading with an epoll instance under their index.
pub(crate) struct Opened {
    pub(crate) streams: Vec<TcpStream>,
    pub(crate) epoll: OwnedFd,
}

/// Opens `count` connections, as fast as the server answers.
pub(crate) fn open_many(address: SocketAddr, path: &str, count: usize) -> Opened {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll instance");
    let mut storm =
        Storm { address, request: request(path, ""), streams: Vec::with_capacity(count), waiting: Vec::new(), epoll };
    storm.waiting.resize(count, Waiting::Request);
    let mut answered = 0;
    while answered < count {
        while storm.streams.len() < count.min(answered + AT_ONCE) {
            storm.begin();
        }
        answered += storm.proceed();
    }
    Opened { streams: storm.streams, epoll: storm.epoll }
}

/// The event that a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    /// To be connected, so that the request can be sent.
    Request,
    Answer,
}

struct Storm {
    address: SocketAddr,
    request: Vec<u8>,
    streams: Vec<TcpStream>,
    waiting: Vec<Waiting>,
    epoll: OwnedFd,
}

impl Storm {
    fn begin(&mut self) {
        let index = self.streams.len();
        let socket =
            Socket::new(Domain::for_address(self.address), Type::STREAM, None).expect("a file descriptor is free");
        socket.set_nonblocking(true).unwrap();
        socket.set_tcp_nodelay(true).unwrap();
        // Ends with a reset: thousands of sockets in TIME_WAIT would weigh on the next measurement.
        socket.set_linger(Some(Duration::ZERO)).unwrap();
        match socket.connect(&self.address.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) => panic!("connection {index}: {error}"),
        }
        self.streams.push(socket.into());
        // On loopback, the answer to the SYN has nearly always arrived already.
        let flags = match self.request(index) {
            true => epoll::EventFlags::IN,
            false => epoll::EventFlags::OUT,
        };
        epoll::add(&self.epoll, &self.streams[index], epoll::EventData::new_u64(index as u64), flags).unwrap();
    }

    /// Whether the request has been sent.
    fn request(&mut self, index: usize) -> bool {
        match self.streams[index].write(&self.request) {
            Ok(count) => assert_eq!(count, self.request.len(), "an empty socket has room for a request"),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => return false,
            Err(error) => panic!("connection {index}: {error}"),
        }
        self.waiting[index] = Waiting::Answer;
        true
    }

    /// Waits for an event. Returns how many more connections are upgraded.
    fn proceed(&mut self) -> usize {
        let events = wait(&self.epoll, Instant::now() + ANSWER_TIME_MAX);
        assert!(!events.is_empty(), "the server is stuck: no answer in {ANSWER_TIME_MAX:?}");
        let mut answered = 0;
        for event in events {
            let index = event.data.u64() as usize;
            match self.waiting[index] {
                Waiting::Request => {
                    if self.request(index) {
                        let data = epoll::EventData::new_u64(index as u64);
                        epoll::modify(&self.epoll, &self.streams[index], data, epoll::EventFlags::IN).unwrap();
                    }
                }
                Waiting::Answer => {
                    let mut head = [0; HEAD_BYTES_MAX];
                    let count = self.streams[index].read(&mut head).expect("the server answers the handshake");
                    check_head(&head[..count]);
                    assert!(head[..count].ends_with(b"\r\n\r\n"), "a head arrives in one piece, with nothing after it");
                    answered += 1;
                }
            }
        }
        answered
    }
}

/// Waits until `until` at most for sockets to become readable or writable.
pub(crate) fn wait(epoll: &OwnedFd, until: Instant) -> Vec<epoll::Event> {
    let mut events = Vec::with_capacity(1024);
    let left = until.saturating_duration_since(Instant::now());
    let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
    match epoll::wait(epoll, rustix::buffer::spare_capacity(&mut events), Some(&left)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => events,
        Err(error) => panic!("epoll: {}", io::Error::from(error)),
    }
}
