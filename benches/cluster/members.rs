//! The members of a room on one server: they join, read everything, and compare the order.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::OwnedFd;
use socket2::SockRef;

use crate::connect::{upgrade, wait};
use crate::frames::{Arriving, masked};
use crate::messages::{Dialect, Message, now};

/// Members that join at the same time.
const AT_ONCE: usize = 16;
/// The beginning of the answer to a member that has joined.
pub(crate) const JOINED: &[u8] = br#"{"Op":"ok","Ref":0"#;
/// The same of a refusal.
const REFUSED: &[u8] = br#"{"Op":"err""#;
/// A message that takes longer is lost.
const ARRIVES_WITHIN: Duration = Duration::from_secs(60);

pub(crate) struct Members {
    members: Vec<Member>,
    epoll: OwnedFd,
    buffer: Vec<u8>,
    /// The messages, in the order of the member that got them first.
    order: Vec<u64>,
    /// Milliseconds from the time that a message was due until a member has read it.
    latencies_ms: Vec<f64>,
}

struct Member {
    stream: TcpStream,
    arriving: Arriving,
    /// Messages that it has got.
    got: usize,
}

impl Members {
    pub(crate) fn new() -> Self {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll instance");
        Self { members: Vec::new(), epoll, buffer: vec![0; 1 << 16], order: Vec::new(), latencies_ms: Vec::new() }
    }

    /// Adds members with these numbers; `room` names the room of each.
    pub(crate) fn join(
        &mut self,
        address: SocketAddr,
        dialect: Dialect,
        numbers: Range<usize>,
        room: impl Fn(usize) -> String + Sync,
    ) {
        let member = |number: usize| {
            let (stream, arriving) = join(address, dialect, &room(number), number);
            // Ends with a reset: thousands of sockets in TIME_WAIT would weigh on the next measurement.
            SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
            stream.set_nonblocking(true).unwrap();
            Member { stream, arriving, got: 0 }
        };
        let (count, part) = (numbers.len(), numbers.len().div_ceil(AT_ONCE).max(1));
        let numbers: Vec<usize> = numbers.collect();
        let (sender, joined) = mpsc::channel();
        std::thread::scope(|scope| {
            let sender = sender;
            for part in numbers.chunks(part) {
                let (sender, member) = (sender.clone(), &member);
                scope.spawn(move || part.iter().try_for_each(|number| sender.send(member(*number))));
            }
            drop(sender);
            // Those that are in the room already read what is said there meanwhile.
            for _ in 0..count {
                let member = loop {
                    match joined.recv_timeout(Duration::ZERO) {
                        Ok(member) => break member,
                        Err(RecvTimeoutError::Timeout) => self.read(Instant::now() + Duration::from_millis(1)),
                        Err(RecvTimeoutError::Disconnected) => panic!("a member can't join"),
                    }
                };
                let index = EventData::new_u64(self.members.len() as u64);
                epoll::add(&self.epoll, &member.stream, index, EventFlags::IN).unwrap();
                self.members.push(member);
            }
        });
    }

    /// The member that joined last publishes.
    pub(crate) fn publish(&mut self, frame: &[u8]) {
        let publisher = &mut self.members.last_mut().expect("somebody has joined").stream;
        publisher.write_all(frame).expect("there is room for a message");
    }

    /// Reads what arrives until then.
    pub(crate) fn read_until(&mut self, until: Instant) {
        while Instant::now() < until {
            self.read(until);
        }
    }

    /// Reads until each member has got `messages` messages since it joined.
    pub(crate) fn read_all(&mut self, messages: usize) {
        let deadline = Instant::now() + ARRIVES_WITHIN;
        while self.members.iter().any(|member| member.got < messages) {
            assert!(Instant::now() < deadline, "messages are missing: {}", self.missing(messages));
            self.read(Instant::now() + Duration::from_millis(20));
        }
        assert!(self.order.len() == messages, "there are more messages than were published");
    }

    fn missing(&self, messages: usize) -> String {
        let behind = self.members.iter().filter(|member| member.got < messages);
        let (count, least) = behind.fold((0, messages), |(count, least), member| (count + 1, least.min(member.got)));
        format!("{count} of {} members have as few as {least} of {messages}", self.members.len())
    }

    /// The order of all messages so far.
    pub(crate) fn order(&self) -> &[u64] {
        &self.order
    }

    /// The latencies since the last call.
    pub(crate) fn latencies_ms(&mut self) -> Vec<f64> {
        std::mem::take(&mut self.latencies_ms)
    }

    fn read(&mut self, until: Instant) {
        for event in wait(&self.epoll, until) {
            let member = &mut self.members[event.data.u64() as usize];
            let count = match member.stream.read(&mut self.buffer) {
                Ok(0) => panic!("the server ended a member's connection"),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => panic!("a member: {error}"),
            };
            let (now, order, latencies_ms) = (now(), &mut self.order, &mut self.latencies_ms);
            let Member { stream, arriving, got } = member;
            arriving.take(&self.buffer[..count], |opcode, payload| match opcode {
                8 => panic!("the server closes a member: {}", String::from_utf8_lossy(payload)),
                9 => stream.write_all(&masked(10, payload)).expect("the server reads the pong"),
                _ => {
                    let Some(Message { number, due }) = Message::find(payload) else {
                        let text = String::from_utf8_lossy(payload);
                        return assert!(!text.contains(r#""Event":"gap""#), "a member was too slow: {text}");
                    };
                    if *got == order.len() {
                        order.push(number);
                    }
                    assert_eq!(order[*got], number, "message {got} is another one than for the first member");
                    *got += 1;
                    latencies_ms.push(now.saturating_sub(due) as f64 / 1e6);
                }
            });
        }
    }
}

/// A member's connection, once it is in the room, and what it got besides.
fn join(address: SocketAddr, dialect: Dialect, room: &str, number: usize) -> (TcpStream, Arriving) {
    let stream = TcpStream::connect(address).expect("the server accepts");
    let (path, line) = dialect.handshake(room, number);
    let (mut stream, mut arriving) = (upgrade(stream, &path, line), Arriving::default());
    if let Some(request) = dialect.join(room) {
        stream.write_all(&request).expect("the server reads");
        let (mut buffer, mut joined) = ([0; 4096], false);
        while !joined {
            let count = stream.read(&mut buffer).expect("the server answers");
            assert!(count > 0, "the server refused a member");
            arriving.take(&buffer[..count], |_, payload| {
                assert!(!payload.starts_with(REFUSED), "{}", String::from_utf8_lossy(payload));
                joined |= payload.starts_with(JOINED);
            });
        }
    }
    (stream, arriving)
}
