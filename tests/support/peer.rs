//! Peers for `tests/faults.rs`: each follows a plan, never blocks, and checks everything that it receives.

#![allow(unreachable_pub, reason = "a test has no outside")]

use std::collections::{HashMap, VecDeque};
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use fastrand::Rng;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};
use tungstenite::{Error, Message, WebSocket};

use crate::support::PATIENCE;

/// Peers with this number or a higher one send large messages.
pub const SHOUTER: u32 = 1_000_000;
/// The last message of a scenario.
pub const MARKER: &str = "that was all";

/// The n-th message of a sender. Its beginning determines the whole text, so that any receiver can check it.
fn text(sender: u32, number: u32) -> String {
    let mut random = Rng::with_seed(u64::from(sender) << 32 | u64::from(number));
    let len = match random.u8(..24) {
        _ if sender >= SHOUTER => 16_000,
        0 => random.usize(15_000..17_000),
        1 => random.usize(17_000..90_000),
        2..5 => random.usize(1000..9000),
        _ => random.usize(..200),
    };
    let letters = ['a', 'b', 'c', ' ', '"', '\\', '<', 'é', '🙂'];
    let filler: String = std::iter::repeat_with(|| random.choice(letters).unwrap()).take(len.min(251)).collect();
    let mut text = format!("{sender}:{number}:{}", filler.repeat(len / 251 + 1));
    while text.len() > len + 20 {
        text.pop();
    }
    text
}

/// The n-th message for a raw room: every other one is binary.
fn payload(sender: u32, number: u32) -> Message {
    let text = text(sender, number);
    if number.is_multiple_of(2) { Message::text(text) } else { Message::binary(text.into_bytes()) }
}

fn sender_and_number(text: &str) -> (u32, u32) {
    let mut parts = text.splitn(3, ':').map(|part| part.parse().unwrap_or(u32::MAX));
    (parts.next().unwrap(), parts.next().expect("a number"))
}

/// An action that a peer has planned.
#[derive(Clone, Debug)]
pub enum Plan {
    Say(String),
    /// Ask for the users of a room.
    List(String),
    /// Send a message to a room that doesn't exist.
    Nowhere,
    Ping,
    Join(String),
    Leave(String),
    /// Stop reading for a number of rounds.
    Stall(u32),
}

/// What a peer has received of a room.
#[derive(Default)]
pub struct Seen {
    epoch: String,
    /// `None` until the first message arrives; in raw rooms always.
    next_seq: Option<u64>,
    /// Sender and number of each message, in the order in which they arrived.
    pub received: Vec<(u32, u32)>,
    last_of: HashMap<u32, u32>,
    pub marked: bool,
}

/// What a peer may lose.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    Nothing,
    /// Messages that it is told about in a gap. A raw peer is closed with 4101 instead, or loses them because it asked for
    /// `lossy`.
    Told,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Chat,
    Raw { echo: bool, lossy: bool },
}

pub struct Peer {
    pub socket: WebSocket<TcpStream>,
    pub id: u32,
    pub role: Role,
    loss: Loss,
    pub rooms: HashMap<String, Seen>,
    pub plans: VecDeque<Plan>,
    pub sent: u32,
    /// Answers and refusals that have to arrive.
    due: VecDeque<&'static str>,
    pings: u32,
    pongs: u32,
    leaving: Option<String>,
    pub unflushed: bool,
    pub stalled: u32,
    pub gaps: usize,
    /// The code of the Close that arrived, or 0 after a reset.
    pub gone: Option<u16>,
}

impl Peer {
    /// Connects; in chat, the name is derived from the number. `None`: it was reset.
    pub fn connect(server: SocketAddr, id: u32, role: Role, room: &str, loss: Loss, narrow: bool) -> Option<Self> {
        let stream = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        if narrow {
            stream.set_recv_buffer_size(128 * 1024).unwrap();
        }
        stream.connect(&server.into()).expect("the server accepts");
        let stream = TcpStream::from(stream);
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let path = match role {
            Role::Chat => format!("ws?username=p{id}&room={room}"),
            Role::Raw { echo, lossy } => format!("raw/{room}?echo={}&lossy={}", u8::from(echo), u8::from(lossy)),
        };
        let (socket, _) = tungstenite::client(format!("ws://{server}/{path}"), stream).ok()?;
        socket.get_ref().set_nonblocking(true).unwrap();
        let rooms = HashMap::from([(room.to_owned(), Seen::default())]);
        let (plans, due) = Default::default();
        let peer = Self {
            socket,
            id,
            role,
            loss,
            rooms,
            plans,
            due,
            sent: 0,
            pings: 0,
            pongs: 0,
            leaving: None,
            unflushed: false,
            stalled: 0,
            gaps: 0,
            gone: None,
        };
        Some(peer)
    }

    pub fn is_done(&self) -> bool {
        self.gone.is_some()
            || self.plans.is_empty() && !self.unflushed && self.due.is_empty() && self.pongs == self.pings
    }

    pub fn is_alive(&self) -> bool {
        self.gone.is_none()
    }

    /// Does what can be done now. False: there was nothing to do.
    pub fn step(&mut self) -> bool {
        if self.gone.is_some() {
            return false;
        }
        let mut moved = self.write();
        if self.stalled > 0 {
            self.stalled -= 1;
            return true;
        }
        for _ in 0..32 {
            match self.socket.read() {
                Ok(message) => {
                    moved = true;
                    self.receive(message);
                }
                Err(error) => {
                    self.failed(error);
                    break;
                }
            }
            if self.gone.is_some() {
                break;
            }
        }
        moved
    }

    fn write(&mut self) -> bool {
        if self.unflushed {
            let flushed = self.socket.flush();
            self.unflushed = flushed.is_err();
            let moved = flushed.is_ok();
            flushed.unwrap_or_else(|error| self.failed(error));
            return moved;
        }
        if self.leaving.is_some() {
            // Whether a message sent now would come back is a race.
            return false;
        }
        let Some(plan) = self.plans.pop_front() else { return false };
        let room = self.rooms.keys().next().cloned().unwrap_or_default();
        let chat = |room: &str, text: &str| Message::text(json!({"Room": room, "Message": text}).to_string());
        let message = match plan {
            Plan::Say(room) if self.rooms.contains_key(&room) => {
                self.sent += 1;
                match self.role {
                    Role::Chat => chat(&room, &text(self.id, self.sent)),
                    Role::Raw { .. } => payload(self.id, self.sent),
                }
            }
            Plan::List(room) if self.rooms.contains_key(&room) => {
                self.due.push_back("list");
                chat(&room, "/list")
            }
            Plan::Nowhere => {
                self.due.push_back("room does not exist.");
                chat("nowhere", "hello?")
            }
            Plan::Join(new) if !self.rooms.contains_key(&new) => {
                self.rooms.insert(new.clone(), Seen::default());
                chat(&room, &format!("/join {new}"))
            }
            // A connection that has left all rooms could not rejoin.
            Plan::Leave(old) if self.rooms.len() > 1 && self.rooms.contains_key(&old) => {
                self.leaving = Some(old.clone());
                chat(&old, &format!("/leave {old}"))
            }
            Plan::Ping => {
                self.pings += 1;
                Message::Ping(self.pings.to_be_bytes().to_vec().into())
            }
            Plan::Stall(rounds) => {
                self.stalled = rounds;
                return true;
            }
            _ => return true,
        };
        self.unflushed = true;
        self.socket.write(message).unwrap_or_else(|error| self.failed(error));
        true
    }

    pub fn failed(&mut self, error: Error) {
        match error {
            Error::Io(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Error::Io(_) | Error::ConnectionClosed | Error::AlreadyClosed => self.gone = self.gone.or(Some(0)),
            Error::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake) => {
                self.gone = self.gone.or(Some(0));
            }
            error => panic!("peer {}: {error}", self.id),
        }
    }

    fn receive(&mut self, message: Message) {
        match message {
            Message::Close(frame) => self.gone = Some(frame.map_or(1005, |frame| frame.code.into())),
            Message::Pong(number) => {
                // A queued pong may be replaced by a newer one: only the last one counts.
                let number = u32::from_be_bytes(number[..].try_into().expect("as sent"));
                assert!(number > self.pongs && number <= self.pings, "pong {number} after {}", self.pongs);
                self.pongs = number;
            }
            Message::Ping(_) => self.unflushed = true,
            message if self.role == Role::Chat => {
                let value = serde_json::from_str(message.to_text().expect("text")).expect("JSON");
                self.receive_chat(&value);
            }
            message => {
                let text = std::str::from_utf8(match &message {
                    Message::Text(text) => text.as_bytes(),
                    Message::Binary(bytes) => bytes,
                    other => panic!("{other:?}"),
                });
                let room = self.rooms.keys().next().unwrap().clone();
                let text = text.expect("as sent").to_owned();
                let expected = sender_and_number_or_marker(&text).map(|(sender, number)| payload(sender, number));
                assert!(expected.is_none_or(|expected| expected == message), "{room}: other bytes than sent");
                self.note(&room, &text);
            }
        }
    }

    fn receive_chat(&mut self, value: &Value) {
        let room = value["Room"].as_str().unwrap();
        let message = value["Message"].as_str().unwrap();
        let left = self.leaving.as_ref().map(|room| format!("Left channel {room}."));
        if value["Event"] == "gap" {
            self.gaps += 1;
            assert!(self.loss == Loss::Told, "nothing may be lost, but {value}");
            let seen = self.rooms.get_mut(room).expect("a gap in a room that it is in");
            let (from, to) = (value["FromSeq"].as_u64().unwrap(), value["ToSeq"].as_u64().unwrap());
            assert!(from <= to && seen.next_seq.is_none_or(|next| next == from), "{:?}: {value}", seen.next_seq);
            seen.next_seq = Some(to + 1);
        } else if let Some(seq) = value["Seq"].as_u64() {
            let Some(seen) = self.rooms.get_mut(room) else { panic!("peer {} is not in it: {value}", self.id) };
            let epoch = value["Epoch"].as_str().unwrap();
            assert!(seen.next_seq.is_none_or(|next| next == seq), "peer {}: {:?} {value}", self.id, seen.next_seq);
            assert!(seen.epoch.is_empty() || seen.epoch == epoch, "a room keeps its epoch while it has members");
            seen.next_seq = Some(seq + 1);
            epoch.clone_into(&mut seen.epoch);
            if value["Meta"] == false {
                if let Some((sender, number)) = sender_and_number_or_marker(message) {
                    assert!(message == text(sender, number), "{room}: other text than sent");
                    assert_eq!(value["From"], format!("p{sender}"));
                }
                self.note(room, message);
            }
        } else if left.is_some_and(|left| message == left) {
            self.rooms.remove(&self.leaving.take().unwrap());
        } else {
            let due = self.due.pop_front().unwrap_or_else(|| panic!("peer {} did not ask: {value}", self.id));
            match due {
                "list" => assert!(message.split(", ").any(|user| user == format!("p{}", self.id)), "{due}: {value}"),
                refusal => assert_eq!(message, refusal),
            }
        }
    }

    /// Notes a message in a room. It has to be the sender's next one there, if nothing may be lost.
    fn note(&mut self, room: &str, message: &str) {
        let seen = self.rooms.get_mut(room).unwrap();
        let Some((sender, number)) = sender_and_number_or_marker(message) else {
            seen.marked = true;
            return;
        };
        assert!(
            sender != self.id || !matches!(self.role, Role::Raw { echo: false, .. }),
            "its own message doesn't come back"
        );
        let before = seen.last_of.insert(sender, number);
        let gapless = matches!(self.role, Role::Raw { lossy: false, .. });
        let follows = |before| if gapless { before + 1 == number } else { before < number };
        assert!(before.is_none_or(follows), "{room}: {number} of {sender} after {before:?}");
        seen.received.push((sender, number));
    }
}

fn sender_and_number_or_marker(message: &str) -> Option<(u32, u32)> {
    (message != MARKER).then(|| sender_and_number(message))
}

/// Lets all peers act until `done`.
#[track_caller]
pub fn drive(peers: &mut [Peer], mut done: impl FnMut(&[Peer]) -> bool) {
    let mut deadline = Instant::now() + PATIENCE;
    while !done(peers) {
        let mut moved = false;
        for peer in &mut *peers {
            moved |= peer.step();
        }
        if moved {
            deadline = Instant::now() + PATIENCE;
            continue;
        }
        for peer in peers.iter().filter(|_| Instant::now() > deadline) {
            let rooms: Vec<_> =
                peer.rooms.iter().map(|(name, seen)| (name, seen.next_seq, seen.received.len())).collect();
            eprintln!(
                "peer {}: plans {:?}, due {:?}, {}/{} pongs, unflushed {}, gone {:?}, {rooms:?}",
                peer.id, peer.plans, peer.due, peer.pongs, peer.pings, peer.unflushed, peer.gone
            );
        }
        assert!(Instant::now() < deadline, "nothing has moved for {PATIENCE:?}");
        let alive = peers.iter().filter(|peer| peer.is_alive());
        let mut files: Vec<_> = alive
            .map(|peer| {
                let out = if peer.unflushed { PollFlags::OUT } else { PollFlags::empty() };
                PollFd::new(peer.socket.get_ref(), PollFlags::IN | out)
            })
            .collect();
        let timeout = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        poll(&mut files, Some(&timeout)).expect("poll");
    }
}
