//! One connection of the load generator: from the connect to the last frame. It has no thread, task or buffer of its
//! own.

use std::collections::VecDeque;
use std::io::{self, Read, Write};

use socket2::Socket;

use crate::audit::Auditor;
use crate::os;
use crate::wire::{self, Answer, Event, Reader};

/// Pings and pongs that a server may send at once, and per second after that. More is a flood.
const CONTROLS_MAX: u32 = 1_000;

/// Start of the reason of a connection that the server closed as too slow.
pub const TOO_SLOW: &str = "the server closed: 4101 ";

/// The states of a connection.
#[derive(Debug)]
pub enum State {
    /// No socket: before the connect, or after the end.
    Away,
    /// The TCP connect is under way.
    Connecting(Socket),
    /// The request has been sent, and this much of the answer has arrived.
    Handshaking(Socket, Vec<u8>),
    /// The WebSocket is open, and the answer to the join has yet to come (`hi.v1`).
    Joining(Socket),
    /// The WebSocket is open, and the client in its room.
    Open(Socket),
}

impl State {
    /// The socket, once there is something to read or write.
    fn socket(&self) -> Option<&Socket> {
        match self {
            Self::Away | Self::Connecting(_) => None,
            Self::Handshaking(socket, _) | Self::Joining(socket) | Self::Open(socket) => Some(socket),
        }
    }
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Receives, and is audited.
    Member {
        /// Whether it reads slowly.
        slow: bool,
    },
    /// Sends; whatever it receives is ignored.
    Publisher {
        /// Its number in its room.
        number: u16,
    },
}

/// One connection.
#[derive(Debug)]
pub struct Client {
    /// Its number among all clients, or among all publishers.
    pub number: usize,
    /// Its room's number.
    pub room: usize,
    /// What it is for.
    pub role: Role,
    /// The number of the server that it connects to.
    pub server: usize,
    /// Its state.
    pub state: State,
    /// When it began to connect or, once open, when it opened: microseconds on the run's clock.
    pub since_us: u64,
    /// It has ended and won't reconnect.
    pub gone: bool,
    /// Its end has been counted, and it hasn't been open since.
    pub missed: bool,
    /// It was closed as too slow.
    pub too_slow: bool,
    /// What it has received, audited.
    pub auditor: Auditor,
    /// Arrival of the last message that a closed-loop tool (one that waits for each answer) would have sent.
    pub answered_us: u64,
    reader: Reader,
    controls: Controls,
    /// Output that the socket had no room for.
    unsent: Option<Box<Unsent>>,
}

/// Output that waits for room in a socket.
#[derive(Debug, Default)]
struct Unsent {
    bytes: VecDeque<u8>,
    /// The answer to the latest ping; earlier ones no longer need an answer (RFC 6455, 5.5.3).
    pong: Option<Vec<u8>>,
}

/// Recent pings and pongs; each counts for a while.
#[derive(Clone, Copy, Debug, Default)]
struct Controls {
    count: u32,
    /// When the count was taken, in milliseconds on the run's clock.
    at_ms: u32,
}

impl Controls {
    /// Counts one more. False if they are a flood.
    fn take(&mut self, now_us: u64) -> bool {
        let now_ms = (now_us / 1000) as u32;
        let gone = u64::from(now_ms.saturating_sub(self.at_ms)) * u64::from(CONTROLS_MAX) / 1000;
        *self = Self { count: self.count.saturating_sub(u32::try_from(gone).unwrap_or(u32::MAX)) + 1, at_ms: now_ms };
        self.count <= CONTROLS_MAX
    }
}

/// The result of reading.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing more to read for now.
    Waiting,
    /// The handshake is done.
    Opened,
    /// Why the connection ended, or the handshake failed.
    Ended(String),
}

impl Client {
    /// A client that is not connected yet, in a room with `publishers`.
    pub fn new(number: usize, room: usize, role: Role, publishers: usize, server: usize) -> Self {
        let audited = if matches!(role, Role::Member { .. }) { publishers } else { 0 };
        Self {
            number,
            room,
            role,
            server,
            state: State::Away,
            since_us: 0,
            gone: false,
            missed: false,
            too_slow: false,
            auditor: Auditor::new(audited),
            answered_us: 0,
            reader: Reader::default(),
            controls: Controls::default(),
            unsent: None,
        }
    }

    /// Whether messages can be sent.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    /// Takes over a socket that is connecting.
    pub fn connect(&mut self, socket: Socket, now_us: u64) {
        self.reader = Reader::default();
        self.controls = Controls::default();
        self.unsent = None;
        self.since_us = now_us;
        (self.gone, self.too_slow) = (false, false);
        self.state = State::Connecting(socket);
    }

    /// Asks to join its room: until [`Client::joined`], it isn't open.
    pub fn join(&mut self, frame: &[u8]) -> Progress {
        if let State::Open(socket) | State::Joining(socket) = std::mem::replace(&mut self.state, State::Away) {
            self.state = State::Joining(socket);
        }
        self.send(frame)
    }

    /// It is in its room. False if it had not asked for that.
    pub fn joined(&mut self) -> bool {
        match std::mem::replace(&mut self.state, State::Away) {
            State::Joining(socket) => self.state = State::Open(socket),
            state => {
                self.state = state;
                return false;
            }
        }
        true
    }

    /// Whether its handshake, or its join, has no answer yet.
    pub fn is_connecting(&self) -> bool {
        matches!(self.state, State::Connecting(_) | State::Handshaking(..) | State::Joining(_))
    }

    /// Drops the connection without a Close.
    pub fn cut(&mut self) {
        self.state = State::Away;
        self.unsent = None;
    }

    /// The socket has room: sends the request, or waiting output.
    pub fn writable(&mut self, request: impl FnOnce() -> String) -> Progress {
        match std::mem::replace(&mut self.state, State::Away) {
            State::Connecting(socket) => {
                match socket.take_error() {
                    Ok(None) => {}
                    Ok(Some(error)) | Err(error) => return Progress::Ended(format!("the connect failed: {error}")),
                }
                // epoll also reports edges before the connect is done.
                if socket.peer_addr().is_err() {
                    self.state = State::Connecting(socket);
                    return Progress::Waiting;
                }
                self.state = State::Handshaking(socket, Vec::new());
                self.send(request().as_bytes())
            }
            state => {
                self.state = state;
                self.send_waiting()
            }
        }
    }

    /// Sends bytes, and keeps what the socket has no room for.
    pub fn send(&mut self, bytes: &[u8]) -> Progress {
        let Some(socket) = self.state.socket() else { return Progress::Waiting };
        if let Some(unsent) = &mut self.unsent {
            unsent.bytes.extend(bytes);
            return Progress::Waiting;
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            match (&*socket).write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.unsent = Some(Box::new(Unsent { bytes: rest.to_vec().into(), pong: None }));
                    return Progress::Waiting;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Progress::Ended(format!("sending failed: {error}")),
            }
        }
        Progress::Waiting
    }

    /// Sends waiting output, as far as the socket has room.
    fn send_waiting(&mut self) -> Progress {
        let Some(socket) = self.state.socket() else { return Progress::Waiting };
        let Some(unsent) = &mut self.unsent else { return Progress::Waiting };
        loop {
            while !unsent.bytes.is_empty() {
                match (&*socket).write(unsent.bytes.as_slices().0) {
                    Ok(count) => drop(unsent.bytes.drain(..count)),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Progress::Waiting,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Progress::Ended(format!("sending failed: {error}")),
                }
            }
            match unsent.pong.take() {
                Some(pong) => unsent.bytes = pong.into(),
                None => break,
            }
        }
        self.unsent = None;
        Progress::Waiting
    }

    /// Answers the latest ping. While the socket has no room, at most one answer waits.
    fn answer_ping(&mut self, payload: &[u8]) -> Progress {
        let mut pong = Vec::new();
        wire::write_frame(&mut pong, wire::PONG, payload);
        match &mut self.unsent {
            Some(unsent) => unsent.pong = Some(pong),
            None => return self.send(&pong),
        }
        Progress::Waiting
    }

    /// Bytes that wait for room in the socket.
    pub fn unsent_bytes(&self) -> usize {
        self.unsent.as_ref().map_or(0, |unsent| unsent.bytes.len())
    }

    /// Reads what has arrived, at most `buffer` at once. `on` gets the beginning of each message; `now_us` reads the
    /// run's clock. Returns the bytes of frames read, and whether there may be more.
    pub fn read(
        &mut self,
        buffer: &mut [u8],
        now_us: impl Fn() -> u64,
        mut on: impl FnMut(&mut Auditor, &mut u64, &[u8], u64),
    ) -> (usize, bool, Progress) {
        let Some(socket) = self.state.socket() else { return (0, false, Progress::Waiting) };
        let count = match (&*socket).read(buffer) {
            Ok(0) => return (0, false, Progress::Ended("the server ended the connection without a Close".into())),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return (0, false, Progress::Waiting),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return (0, true, Progress::Waiting),
            Err(error) => return (0, false, Progress::Ended(format!("the connection broke: {error}"))),
        };
        let more = count == buffer.len();
        if let State::Handshaking(_, answer) = &mut self.state {
            answer.extend_from_slice(&buffer[..count]);
            return match wire::read_answer(answer) {
                Answer::Partial => (0, more, Progress::Waiting),
                Answer::Refused(why) => (0, false, Progress::Ended(format!("the handshake was refused: {why}"))),
                Answer::Open(head) => {
                    let leftover = answer.split_off(head);
                    if let State::Handshaking(socket, _) = std::mem::replace(&mut self.state, State::Away) {
                        os::delay_acknowledgements(&socket);
                        self.state = State::Open(socket);
                    }
                    match self.frames(&leftover, &now_us, &mut on) {
                        Progress::Waiting => (leftover.len(), more, Progress::Opened),
                        ended => {
                            // It ended before it could be counted as open.
                            self.cut();
                            (leftover.len(), false, ended)
                        }
                    }
                }
            };
        }
        match self.frames(&buffer[..count], &now_us, &mut on) {
            Progress::Waiting => (count, more, Progress::Waiting),
            ended => (count, false, ended),
        }
    }

    fn frames(
        &mut self,
        bytes: &[u8],
        now_us: &impl Fn() -> u64,
        on: &mut impl FnMut(&mut Auditor, &mut u64, &[u8], u64),
    ) -> Progress {
        let mut ping: Option<Vec<u8>> = None;
        let (mut closed, mut floods) = (None, false);
        let (auditor, answered_us, controls) = (&mut self.auditor, &mut self.answered_us, &mut self.controls);
        let fed = self.reader.feed(bytes, |event| match event {
            Event::Message(begin, bytes) => on(auditor, answered_us, begin, bytes),
            Event::Ping(payload) => {
                floods |= !controls.take(now_us());
                let latest = ping.get_or_insert_default();
                latest.clear();
                latest.extend_from_slice(payload);
            }
            Event::Pong => floods |= !controls.take(now_us()),
            Event::Close(code, reason) => closed = closed.take().or(Some((code, reason))),
        });
        if let Err(violation) = fed {
            return Progress::Ended(format!("the server broke the WebSocket protocol: {violation}"));
        }
        if let Some((code, reason)) = closed {
            let code = code.map_or_else(|| "no code".to_owned(), |code| code.to_string());
            return Progress::Ended(format!("the server closed: {code} {reason}"));
        }
        if floods {
            return Progress::Ended(format!(
                "the server floods it with control frames: more than {CONTROLS_MAX} pings and pongs in a second"
            ));
        }
        ping.map_or(Progress::Waiting, |payload| self.answer_ping(&payload))
    }
}

const _: () = assert!(size_of::<Client>() <= 256, "a client has to be cheap: there are ten thousand");

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;

    /// A client whose WebSocket is open, and the server's end.
    fn open() -> (Client, TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let socket = Socket::from(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        socket.set_nonblocking(true).unwrap();
        let mut client = Client::new(0, 0, Role::Member { slow: false }, 1, 0);
        client.state = State::Open(socket);
        (client, listener.accept().unwrap().0)
    }

    fn pings(payloads: std::ops::Range<u32>) -> Vec<u8> {
        payloads.flat_map(|number| [&[0x89, 4][..], &number.to_be_bytes()].concat()).collect()
    }

    fn pong(number: u32) -> Vec<u8> {
        let mut pong = Vec::new();
        wire::write_frame(&mut pong, wire::PONG, &number.to_be_bytes());
        pong
    }

    /// Waits until something has arrived, and reads all of it.
    fn read(client: &mut Client, now_us: u64) -> Progress {
        let State::Open(socket) = &client.state else { panic!("{client:?}") };
        poll(&mut [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN)], None).unwrap();
        client.read(&mut [0; 65536], || now_us, |_, _, _, _| {}).2
    }

    #[test]
    fn the_latest_of_several_pings_is_answered() {
        let (mut client, mut server) = open();
        server.write_all(&pings(0..900)).unwrap();
        assert_eq!(read(&mut client, 0), Progress::Waiting);
        client.cut();
        let mut answered = Vec::new();
        server.read_to_end(&mut answered).unwrap();
        assert_eq!(answered, pong(899));
    }

    #[test]
    fn at_most_one_pong_waits_for_a_full_socket() {
        let (mut client, mut server) = open();
        let mut message = Vec::new();
        wire::write_frame(&mut message, wire::TEXT, &[b'x'; 1 << 20]);
        let mut sent = 0;
        while client.unsent_bytes() == 0 {
            assert_eq!(client.send(&message), Progress::Waiting);
            sent += message.len();
        }
        let waiting = client.unsent_bytes();
        for round in 0..50 {
            server.write_all(&pings(round * 10..round * 10 + 10)).unwrap();
            assert_eq!(read(&mut client, 0), Progress::Waiting);
            assert_eq!(client.unsent_bytes(), waiting);
        }
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            server.read_to_end(&mut all).map(|_| all)
        });
        while client.unsent.is_some() {
            let State::Open(socket) = &client.state else { panic!("{client:?}") };
            poll(&mut [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::OUT)], None).unwrap();
            assert_eq!(client.writable(String::new), Progress::Waiting);
        }
        client.cut();
        let all = reader.join().unwrap().unwrap();
        assert_eq!(all.len(), sent + pong(0).len());
        assert_eq!(all[sent..], pong(499));
    }

    #[test]
    fn a_flood_of_control_frames_is_reported_and_occasional_pings_are_not() {
        let pongs = |count: u32| [0x8a, 0].repeat(count as usize);
        for (flood, name) in [(pings(0..CONTROLS_MAX + 1), "pings"), (pongs(CONTROLS_MAX + 1), "pongs")] {
            let (mut client, mut server) = open();
            server.write_all(&flood).unwrap();
            let mut progress = Progress::Waiting;
            while progress == Progress::Waiting {
                progress = read(&mut client, 5_000_000);
            }
            assert!(matches!(progress, Progress::Ended(why) if why.contains("control frames") && why.contains(name)));
        }
        let (mut client, mut server) = open();
        for second in 0..20 {
            server.write_all(&pings(0..CONTROLS_MAX / 2)).unwrap();
            assert_eq!(read(&mut client, second * 1_000_000), Progress::Waiting);
        }
        let mut long = Controls::default();
        assert!((0..100_000).all(|ping| long.take(ping * 1_001)), "a thousand a second, for a long time");
        assert!(Controls { count: 7, at_ms: u32::MAX }.take(0), "after 49 days the clock begins again");
    }
}
