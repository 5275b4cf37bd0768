//! One connection of the load generator: from the connect to the last frame. No thread, no task, no buffer of its own.

use std::collections::VecDeque;
use std::io::{self, Read, Write};

use socket2::Socket;

use crate::audit::Auditor;
use crate::os;
use crate::wire::{self, Answer, Event, Reader};

/// So begins the reason why a connection ended that the server closed as too slow.
pub const TOO_SLOW: &str = "the server closed: 4101 ";

/// Where a connection is in its life.
#[derive(Debug)]
pub enum State {
    /// There is no socket: before the connect, or after the end.
    Away,
    /// The TCP connect is under way.
    Connecting(Socket),
    /// The request has been sent, and this much of the answer has arrived.
    Handshaking(Socket, Vec<u8>),
    /// The WebSocket is open.
    Open(Socket),
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Receives, and is audited.
    Member {
        /// Whether it reads slowly.
        slow: bool,
    },
    /// Sends; what it receives is not looked at.
    Publisher {
        /// Its number in its room.
        number: u16,
    },
}

/// One connection.
#[derive(Debug)]
#[allow(clippy::box_collection, reason = "nearly always empty: then it takes one pointer of ten thousand clients")]
pub struct Client {
    /// Its number among all clients, or among all publishers.
    pub number: usize,
    /// Its room's number.
    pub room: usize,
    /// What it is for.
    pub role: Role,
    /// Where it is in its life.
    pub state: State,
    /// When its connect began, or, once it is open, when it was opened: in microseconds of the run's clock.
    pub since_us: u64,
    /// It has ended and does not come back.
    pub gone: bool,
    /// Its end has been counted, and it has not been open since.
    pub missed: bool,
    /// It was closed as too slow.
    pub too_slow: bool,
    /// What it has seen.
    pub auditor: Auditor,
    /// When the last message arrived that a tool would have sent that waits for each answer.
    pub answered_us: u64,
    reader: Reader,
    /// What the socket had no room for.
    unsent: Option<Box<VecDeque<u8>>>,
}

/// What reading came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing more to read now.
    Waiting,
    /// The handshake is done.
    Opened,
    /// The connection is over, or the handshake failed: why.
    Ended(String),
}

impl Client {
    /// A client that is not connected yet, in a room with `publishers`.
    pub fn new(number: usize, room: usize, role: Role, publishers: usize) -> Self {
        let audited = if matches!(role, Role::Member { .. }) { publishers } else { 0 };
        Self {
            number,
            room,
            role,
            state: State::Away,
            since_us: 0,
            gone: false,
            missed: false,
            too_slow: false,
            auditor: Auditor::new(audited),
            answered_us: 0,
            reader: Reader::default(),
            unsent: None,
        }
    }

    /// Whether messages can be sent.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    /// Takes a socket whose connect has begun.
    pub fn connect(&mut self, socket: Socket, now_us: u64) {
        self.reader = Reader::default();
        self.unsent = None;
        self.since_us = now_us;
        (self.gone, self.too_slow) = (false, false);
        self.state = State::Connecting(socket);
    }

    /// Drops the connection without a word.
    pub fn cut(&mut self) {
        self.state = State::Away;
        self.unsent = None;
    }

    /// The socket has room: sends the request, or what waits.
    pub fn writable(&mut self, request: impl FnOnce() -> String) -> Progress {
        match std::mem::replace(&mut self.state, State::Away) {
            State::Connecting(socket) => {
                match socket.take_error() {
                    Ok(None) => {}
                    Ok(Some(error)) | Err(error) => return Progress::Ended(format!("the connect failed: {error}")),
                }
                // Edges come also before the connect is done.
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

    /// Sends bytes; what the socket has no room for waits until it has.
    pub fn send(&mut self, bytes: &[u8]) -> Progress {
        let (State::Handshaking(socket, _) | State::Open(socket)) = &self.state else { return Progress::Waiting };
        if let Some(unsent) = &mut self.unsent {
            unsent.extend(bytes);
            return Progress::Waiting;
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            match (&*socket).write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.unsent = Some(Box::new(rest.to_vec().into()));
                    return Progress::Waiting;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Progress::Ended(format!("sending failed: {error}")),
            }
        }
        Progress::Waiting
    }

    /// Sends what waits, as far as the socket has room.
    fn send_waiting(&mut self) -> Progress {
        let (State::Handshaking(socket, _) | State::Open(socket)) = &self.state else { return Progress::Waiting };
        let Some(unsent) = &mut self.unsent else { return Progress::Waiting };
        while !unsent.is_empty() {
            match (&*socket).write(unsent.as_slices().0) {
                Ok(count) => drop(unsent.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Progress::Waiting,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Progress::Ended(format!("sending failed: {error}")),
            }
        }
        self.unsent = None;
        Progress::Waiting
    }

    /// Bytes that wait for room in the socket.
    pub fn unsent_bytes(&self) -> usize {
        self.unsent.as_ref().map_or(0, |unsent| unsent.len())
    }

    /// Reads what has arrived, at most `buffer` at once; `on` gets the begins of messages. Returns the bytes of frames
    /// that were read, and whether there may be more.
    pub fn read(
        &mut self,
        buffer: &mut [u8],
        mut on: impl FnMut(&mut Auditor, &mut u64, &[u8], u64),
    ) -> (usize, bool, Progress) {
        let (State::Handshaking(socket, _) | State::Open(socket)) = &self.state else {
            return (0, false, Progress::Waiting);
        };
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
                    match self.frames(&leftover, &mut on) {
                        Progress::Waiting => (leftover.len(), more, Progress::Opened),
                        ended => {
                            // It was over before anyone could count it as open.
                            self.cut();
                            (leftover.len(), false, ended)
                        }
                    }
                }
            };
        }
        match self.frames(&buffer[..count], &mut on) {
            Progress::Waiting => (count, more, Progress::Waiting),
            ended => (count, false, ended),
        }
    }

    fn frames(&mut self, bytes: &[u8], on: &mut impl FnMut(&mut Auditor, &mut u64, &[u8], u64)) -> Progress {
        let mut pongs = Vec::new();
        let mut closed = None;
        let (auditor, answered_us) = (&mut self.auditor, &mut self.answered_us);
        let fed = self.reader.feed(bytes, |event| match event {
            Event::Message(begin, bytes) => on(auditor, answered_us, begin, bytes),
            Event::Ping(payload) => wire::write_frame(&mut pongs, wire::PONG, payload),
            Event::Close(code, reason) => closed = closed.take().or(Some((code, reason))),
        });
        if let Err(violation) = fed {
            return Progress::Ended(format!("the server broke the WebSocket protocol: {violation}"));
        }
        if let Some((code, reason)) = closed {
            let code = code.map_or_else(|| "no code".to_owned(), |code| code.to_string());
            return Progress::Ended(format!("the server closed: {code} {reason}"));
        }
        if pongs.is_empty() { Progress::Waiting } else { self.send(&pongs) }
    }
}

const _: () = assert!(size_of::<Client>() <= 256, "ten thousand clients have to be cheap");
