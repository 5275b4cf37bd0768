//! The reading side: members, and what they expect.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rustix::fd::OwnedFd;

use crate::connect::{Opened, open_many, wait};
use crate::frames::{Expected, Frames};
use crate::stamps::{received_at, stamp};

/// An empty ping, and its answer with a zero mask.
const PING: [u8; 2] = [0x89, 0];
const PONG: [u8; 6] = [0x8a, 0x80, 0, 0, 0, 0];
/// Deliveries that take longer than this are missing.
const DELIVERED_AFTER_MAX: Duration = Duration::from_secs(30);

/// The reading side: one epoll loop, every byte checked, every ping answered.
pub(crate) struct Members {
    streams: Vec<TcpStream>,
    read: Vec<u64>,
    total: u64,
    /// Number of pings so far.
    pub(crate) pings: usize,
    epoll: OwnedFd,
    frame_bytes: u64,
    expected: Expected,
    buffer: Vec<u8>,
    timed: Timed,
}

/// Messages whose latency counts, and the latencies so far.
#[derive(Debug, Default)]
struct Timed {
    /// The number of the first one.
    first: u64,
    /// When each one is due.
    due: Vec<Instant>,
    /// One for each delivery, in milliseconds.
    latencies: Vec<f64>,
}

impl Members {
    /// Opens `count` connections, as fast as the server answers.
    pub(crate) fn connect(address: SocketAddr, count: usize, frames: Frames) -> Self {
        let Opened { streams, epoll } = open_many(address, "/raw/figures", count);
        let (frame_bytes, expected) = (frames.len(), Expected::new(frames));
        let buffer = vec![0; 64 * 1024];
        let timed = Timed::default();
        Self { read: vec![0; count], streams, total: 0, pings: 0, epoll, frame_bytes, expected, buffer, timed }
    }

    /// From now on, the latency of these messages counts: from the time that each is due until a member has read it, so
    /// that a late publisher or reader is not left out.
    pub(crate) fn time(&mut self, first: u32, due: Vec<Instant>) {
        let latencies = Vec::with_capacity(due.len() * self.streams.len());
        self.timed = Timed { first: first.into(), due, latencies };
    }

    /// The latencies since then, in milliseconds.
    pub(crate) fn latencies(&mut self) -> Vec<f64> {
        std::mem::take(&mut self.timed).latencies
    }

    /// From now on, the kernel notes when it receives something for a member.
    pub(crate) fn stamp(&self) {
        self.streams.iter().for_each(|stream| stamp(stream).expect("the kernel can"));
    }

    /// When the kernel received the last member's next message, which is read later and fits a segment. Sleeps until
    /// all have theirs.
    pub(crate) fn last_received_at(&self) -> SystemTime {
        let deadline = Instant::now() + DELIVERED_AFTER_MAX;
        let received = |stream| loop {
            match received_at(stream) {
                Ok(time) => return time,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(1)),
                Err(error) => panic!("a member: {error}"),
            }
            assert!(Instant::now() < deadline, "deliveries are missing");
        };
        self.streams.iter().map(received).max().expect("a room has members")
    }

    pub(crate) fn read_while(&mut self, until: Instant) {
        while Instant::now() < until {
            self.poll(until);
        }
    }

    /// Reads until each member has got `messages` messages, and nothing more.
    pub(crate) fn read_until(&mut self, messages: u32) {
        let bytes_each = self.frame_bytes * u64::from(messages);
        let deadline = Instant::now() + DELIVERED_AFTER_MAX;
        while self.total < bytes_each * self.streams.len() as u64 {
            assert!(Instant::now() < deadline, "deliveries are missing");
            self.poll(deadline);
        }
        assert!(self.read.iter().all(|read| *read == bytes_each), "one member got more than another");
    }

    fn poll(&mut self, until: Instant) {
        let mut buffer = std::mem::take(&mut self.buffer);
        for event in wait(&self.epoll, until) {
            let index = event.data.u64() as usize;
            match self.streams[index].read(&mut buffer) {
                Ok(0) => panic!("the server closed member {index}"),
                Ok(count) => self.check(index, &buffer[..count], Instant::now()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => panic!("member {index}: {error}"),
            }
        }
        self.buffer = buffer;
    }

    fn check(&mut self, index: usize, mut bytes: &[u8], now: Instant) {
        while !bytes.is_empty() {
            let read = self.read[index];
            if read.is_multiple_of(self.frame_bytes) && bytes.starts_with(&PING) {
                self.streams[index].write_all(&PONG).expect("the server reads the pong");
                self.pings += 1;
                bytes = &bytes[PING.len()..];
                continue;
            }
            let count = self.expected.take(read, bytes);
            self.read[index] += count as u64;
            self.total += count as u64;
            bytes = &bytes[count..];
            if self.read[index].is_multiple_of(self.frame_bytes) {
                self.timed.delivered(self.read[index] / self.frame_bytes - 1, now);
            }
        }
    }
}

impl Timed {
    fn delivered(&mut self, message: u64, now: Instant) {
        let number = message.wrapping_sub(self.first) as usize;
        if let Some(due) = self.due.get(number) {
            self.latencies.push(now.saturating_duration_since(*due).as_secs_f64() * 1e3);
        }
    }
}
