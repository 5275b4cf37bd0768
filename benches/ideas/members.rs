//! Sockets to send to, and the thread at their other ends.

use std::cell::Cell;
use std::io::{ErrorKind, Read};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::epoll;
use rustix::time::Timespec;

/// Every byte of every message.
pub(crate) const BYTE: u8 = 0x5a;

/// The sending ends of the sockets, and the thread that reads at the other ends.
pub(crate) struct Members {
    sending: Vec<TcpStream>,
    received: Arc<AtomicU64>,
    expected: Cell<u64>,
    reader: Option<JoinHandle<()>>,
}

impl Members {
    /// `count` connections over loopback, read on `reading_core`.
    pub(crate) fn connect(count: usize, reading_core: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let mut sending = Vec::with_capacity(count);
        let mut reading = Vec::with_capacity(count);
        for _ in 0..count {
            reading.push(TcpStream::connect(address).expect("our own listener"));
            let (stream, _) = listener.accept().expect("a connection");
            stream.set_nodelay(true).expect("a socket");
            sending.push(stream);
        }
        let received = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&received);
        let reader = std::thread::spawn(move || {
            hi::os::pin_to_core(reading_core).expect("our own core");
            read(reading, &counter);
        });
        Self { sending, received, expected: Cell::new(0), reader: Some(reader) }
    }

    pub(crate) fn len(&self) -> usize {
        self.sending.len()
    }

    pub(crate) fn sending(&self) -> &[TcpStream] {
        &self.sending
    }

    /// Waits until each has got exactly `bytes_each` more.
    pub(crate) fn wait_for_all(&self, bytes_each: usize) {
        let expected = self.expected.get() + (bytes_each * self.sending.len()) as u64;
        self.expected.set(expected);
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let received = self.received.load(Ordering::Acquire);
            assert!(received <= expected, "more arrived than was sent");
            if received == expected {
                return;
            }
            assert!(Instant::now() < deadline, "deliveries are missing");
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        self.sending.clear();
        if let Some(reader) = self.reader.take()
            && reader.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the reader has found an error");
        }
    }
}

/// Reads until all connections have ended; all must have got the same.
fn read(mut streams: Vec<TcpStream>, received: &AtomicU64) {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll");
    for (index, stream) in streams.iter().enumerate() {
        stream.set_nonblocking(true).expect("a socket");
        epoll::add(&epoll, stream, epoll::EventData::new_u64(index as u64), epoll::EventFlags::IN).expect("a socket");
    }
    let mut counts = vec![0u64; streams.len()];
    let mut open = streams.len();
    let mut buffer = vec![0; 256 << 10];
    let mut events = Vec::with_capacity(1024);
    let patience = Timespec { tv_sec: 60, tv_nsec: 0 };
    while open > 0 {
        events.clear();
        match epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), Some(&patience)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("epoll: {error}"),
        }
        for event in &events {
            let index = event.data.u64() as usize;
            match streams[index].read(&mut buffer) {
                Ok(0) => {
                    epoll::delete(&epoll, &streams[index]).expect("it was added");
                    open -= 1;
                }
                Ok(count) => {
                    assert!(buffer[..count].iter().all(|byte| *byte == BYTE), "member {index} got other bytes");
                    counts[index] += count as u64;
                    received.fetch_add(count as u64, Ordering::Release);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("member {index}: {error}"),
            }
        }
    }
    assert!(counts.iter().all(|count| *count == counts[0]), "one member got more than another");
}
