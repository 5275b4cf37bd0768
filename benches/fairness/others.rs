//! The others: a small chat room and a small raw room, whose members read everything at once and publish at a modest rate.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::OwnedFd;

use crate::connect::{open, wait};
use crate::frames::{Arriving, chat, masked};
use crate::statistics::percentile;

/// Measured members per room.
const MEMBERS: usize = 10;
/// Publishers per room.
const PUBLISHERS: usize = 5;
/// Messages per second of all publishers of a room together: each publishes half of what hi allows by default.
const RATE: u32 = 50;
/// Time between two messages of a room.
const INTERVAL: Duration = Duration::from_millis(1000 / RATE as u64);
/// Messages that haven't arrived this long after the last one of a slice are lost.
const ARRIVES_WITHIN: Duration = Duration::from_secs(20);
/// Delay before a publisher that couldn't send retries.
const TRY_AGAIN: Duration = Duration::from_millis(1);
/// Prefix of a message's number.
const MARK: &[u8] = b"number-";
const DIGITS: usize = 8;

/// One slice of a measurement.
#[derive(Debug)]
pub(crate) struct Slice {
    latencies_ms: Vec<f64>,
    /// Deliveries that never arrived.
    pub(crate) lost: u32,
}

impl Slice {
    pub(crate) fn p99_ms(&self) -> f64 {
        percentile(&self.latencies_ms, 99)
    }

    pub(crate) fn longest_ms(&self) -> f64 {
        self.latencies_ms.iter().copied().fold(0.0, f64::max)
    }
}

/// Both rooms.
pub(crate) struct Others {
    rooms: [Room; 2],
    clients: Vec<Client>,
    epoll: OwnedFd,
    buffer: Vec<u8>,
}

struct Room {
    is_chat: bool,
    /// The clients that publish.
    publishers: Vec<usize>,
    /// When each message was due.
    due: Vec<Instant>,
}

struct Client {
    stream: TcpStream,
    room: usize,
    /// Whether it is measured, which means that it doesn't publish.
    is_member: bool,
    arriving: Arriving,
    /// Number of the message expected next.
    next: usize,
    unsent: Vec<u8>,
}

impl Others {
    /// Connects all clients.
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll instance");
        let room = |is_chat| Room { is_chat, publishers: Vec::new(), due: Vec::new() };
        let mut others =
            Self { rooms: [room(true), room(false)], clients: Vec::new(), epoll, buffer: vec![0; 1 << 16] };
        for index in 0..2 * (MEMBERS + PUBLISHERS) {
            let (room, is_member) = (index % 2, index / 2 < MEMBERS);
            let stream = match room {
                0 => open(address, &format!("/ws?username=other-{index}&room=others")),
                _ => open(address, "/raw/others?echo=0"),
            };
            stream.set_nonblocking(true).unwrap();
            epoll::add(&others.epoll, &stream, EventData::new_u64(index as u64), EventFlags::IN).unwrap();
            if !is_member {
                others.rooms[room].publishers.push(index);
            }
            let arriving = Arriving::default();
            others.clients.push(Client { stream, room, is_member, arriving, next: 0, unsent: Vec::new() });
        }
        others
    }

    /// Publishes for `time`, and waits until every member has everything.
    pub(crate) fn measure(&mut self, time: Duration) -> Slice {
        let mut slice = Slice { latencies_ms: Vec::new(), lost: 0 };
        let began = Instant::now();
        let messages = (time.as_nanos() / INTERVAL.as_nanos()).max(1) as u32;
        for message in 0..messages {
            for room in 0..self.rooms.len() {
                // The rooms alternate: a delay of one room's message affects few of the other room's.
                let due = began + INTERVAL * message + INTERVAL * room as u32 / 2;
                self.read_until(due, &mut slice);
                self.publish(room, due);
            }
        }
        let deadline = Instant::now() + ARRIVES_WITHIN;
        while self.missing() > 0 && Instant::now() < deadline {
            self.read_until((Instant::now() + Duration::from_millis(50)).min(deadline), &mut slice);
        }
        slice.lost += self.missing();
        for client in &mut self.clients {
            client.next = self.rooms[client.room].due.len();
        }
        slice
    }

    fn publish(&mut self, room: usize, due: Instant) {
        let of_room = &mut self.rooms[room];
        let number = of_room.due.len();
        of_room.due.push(due);
        let text = format!("number-{number:08} and what else there is to say, as in any other chat on a weekday");
        let frame = if of_room.is_chat { chat("others", &text) } else { masked(1, text.as_bytes()) };
        let client = &mut self.clients[of_room.publishers[number % PUBLISHERS]];
        client.unsent.extend(frame);
        client.send();
    }

    /// Deliveries still missing.
    fn missing(&self) -> u32 {
        let members = self.clients.iter().filter(|client| client.is_member);
        members.map(|client| (self.rooms[client.room].due.len() - client.next) as u32).sum()
    }

    fn read_until(&mut self, until: Instant, slice: &mut Slice) {
        let mut buffer = std::mem::take(&mut self.buffer);
        loop {
            let waits = self.clients.iter().any(|client| !client.unsent.is_empty());
            let soon = if waits { until.min(Instant::now() + TRY_AGAIN) } else { until };
            for event in wait(&self.epoll, soon) {
                let client = &mut self.clients[event.data.u64() as usize];
                client.read(&mut buffer, &self.rooms[client.room].due, slice);
            }
            if waits {
                self.clients.iter_mut().for_each(Client::send);
            }
            if Instant::now() >= until {
                break;
            }
        }
        self.buffer = buffer;
    }
}

impl Client {
    fn send(&mut self) {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("a publisher of the others: {error}"),
            }
        }
    }

    fn read(&mut self, buffer: &mut [u8], due: &[Instant], slice: &mut Slice) {
        let count = match self.stream.read(buffer) {
            Ok(0) => panic!("the server closed one of the others, which read everything"),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) => panic!("one of the others: {error}"),
        };
        let now = Instant::now();
        let (is_member, next) = (self.is_member, &mut self.next);
        self.arriving.take(&buffer[..count], |opcode, payload| {
            assert_ne!(opcode, 8, "the server closes one of the others, which read everything");
            let Some(number) = number_in(payload).filter(|number| is_member && *number >= *next) else { return };
            slice.lost += (number - *next) as u32;
            *next = number + 1;
            slice.latencies_ms.push(now.saturating_duration_since(due[number]).as_secs_f64() * 1e3);
        });
    }
}

/// The number of the message in this text; notices have none.
fn number_in(payload: &[u8]) -> Option<usize> {
    let at = payload.windows(MARK.len()).position(|window| window == MARK)? + MARK.len();
    std::str::from_utf8(payload.get(at..at + DIGITS)?).ok()?.parse().ok()
}
