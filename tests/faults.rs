//! The engine under injected faults: sends cut short or refused, completions that come late, buffers that run out,
//! resets; and under members that stall, leave and come back. Whatever happens, a member sees each message of its rooms
//! once, in the room's order, byte for byte, or is told exactly what it missed.
//!
//! The servers run in this process, so that their ring can be one that goes wrong. All traffic is real.

mod support;

use std::collections::{HashMap, VecDeque};
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

use clap::Parser;
use fastrand::Rng;
use hi::config::Config;
use hi::faulty_ring::{self, FaultyRing};
use hi::ring::{DataRing, Ring};
use hi::server::Server;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};
use support::{PATIENCE, seeded};
use tungstenite::{Error, Message, WebSocket};

/// The faults are configured, and file descriptors counted, for the whole process: one server at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
static SHARD_PANICS: AtomicUsize = AtomicUsize::new(0);
/// Speaks much.
const SHOUTER: u32 = 1_000_000;
/// What a marker says: the last message of a scenario.
const MARKER: &str = "that was all";

/// A server in this process.
struct Running {
    server: Server,
    address: SocketAddr,
    files_before: usize,
    _alone: MutexGuard<'static, ()>,
}

impl Running {
    fn start<R: DataRing + 'static>(seed: u64, resets: bool, args: &[&str]) -> Self {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let report = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                if std::thread::current().name().is_some_and(|name| name.starts_with("hi-shard")) {
                    SHARD_PANICS.fetch_add(1, Ordering::SeqCst);
                }
                report(panic);
            }));
        });
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let start = || {
            faulty_ring::configure(seed, resets);
            let common = ["hi", "--listen", "127.0.0.1:0", "--rate-limit", "0", "--max-message", "128k"];
            let config = Config::try_parse_from(common.iter().chain(args)).expect("the arguments are right");
            Server::start::<R>(config).expect("the server starts")
        };
        // The first one opens what the process keeps for ever.
        static FIRST: Once = Once::new();
        FIRST.call_once(|| {
            let server = start();
            server.stop();
            server.join();
        });
        let files_before = open_files();
        let server = start();
        let address = server.addresses()[0];
        Self { server, address, files_before, _alone: alone }
    }

    /// Stops the server and sees that it leaves nothing behind.
    fn stop(self) {
        self.server.stop();
        self.server.join();
        assert_eq!(SHARD_PANICS.load(Ordering::SeqCst), 0, "a shard has panicked");
        wait_for_files(self.files_before);
    }
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Waits until only so many files are open: every connection is released.
#[track_caller]
fn wait_for_files(count: usize) {
    let deadline = Instant::now() + PATIENCE;
    while open_files() > count {
        assert!(Instant::now() < deadline, "{} files are open instead of {count}", open_files());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What a sender says at its n-th time: anyone can tell from the beginning of it what all of it has to be.
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

/// The same for raw rooms: half of it is binary.
fn payload(sender: u32, number: u32) -> Message {
    let text = text(sender, number);
    if number.is_multiple_of(2) { Message::text(text) } else { Message::binary(text.into_bytes()) }
}

fn sender_and_number(text: &str) -> (u32, u32) {
    let mut parts = text.splitn(3, ':').map(|part| part.parse().unwrap_or(u32::MAX));
    (parts.next().unwrap(), parts.next().expect("a number"))
}

/// Something that a peer is going to do.
#[derive(Clone, Debug)]
enum Plan {
    Say(String),
    /// Ask who is in a room.
    List(String),
    /// Speak to a room that doesn't exist.
    Nowhere,
    Ping,
    Join(String),
    Leave(String),
    /// Stop reading for so many rounds.
    Stall(u32),
}

/// What a member has seen of a room.
#[derive(Default)]
struct Seen {
    epoch: String,
    /// `None` until the first message comes: in raw rooms always.
    next_seq: Option<u64>,
    /// Who said what, in the order in which it came.
    heard: Vec<(u32, u32)>,
    last_of: HashMap<u32, u32>,
    marked: bool,
}

/// How much a member may lose.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Loss {
    Nothing,
    /// What it is told in a gap, or, if it is a raw member, by a Close with 4101, or because it asked for `lossy`.
    Told,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Chat,
    Raw { echo: bool, lossy: bool },
}

struct Peer {
    socket: WebSocket<TcpStream>,
    id: u32,
    role: Role,
    loss: Loss,
    rooms: HashMap<String, Seen>,
    plans: VecDeque<Plan>,
    said: u32,
    /// Answers to questions and refusals that have to come.
    due: VecDeque<&'static str>,
    pings: u32,
    pongs: u32,
    leaving: Option<String>,
    unflushed: bool,
    stalled: u32,
    gaps: usize,
    /// The code of a Close that came, or 0 for a reset.
    gone: Option<u16>,
}

impl Peer {
    /// Connects; in chat, the name is made of the number. `None`: it was reset.
    fn connect(server: &Running, id: u32, role: Role, room: &str, loss: Loss, narrow: bool) -> Option<Self> {
        let stream = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        if narrow {
            stream.set_recv_buffer_size(32 * 1024).unwrap();
        }
        stream.connect(&server.address.into()).expect("the server accepts");
        let stream = TcpStream::from(stream);
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let path = match role {
            Role::Chat => format!("ws?username=p{id}&room={room}"),
            Role::Raw { echo, lossy } => format!("raw/{room}?echo={}&lossy={}", u8::from(echo), u8::from(lossy)),
        };
        let (socket, _) = tungstenite::client(format!("ws://{}/{path}", server.address), stream).ok()?;
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
            said: 0,
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

    fn is_done(&self) -> bool {
        self.gone.is_some()
            || self.plans.is_empty() && !self.unflushed && self.due.is_empty() && self.pongs == self.pings
    }

    fn is_alive(&self) -> bool {
        self.gone.is_none()
    }

    /// Does what can be done now; false if that was nothing.
    fn step(&mut self) -> bool {
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
                    self.hear(message);
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
            // Whether what it says now comes back depends on who is faster.
            return false;
        }
        let Some(plan) = self.plans.pop_front() else { return false };
        let room = self.rooms.keys().next().cloned().unwrap_or_default();
        let chat = |room: &str, text: &str| Message::text(json!({"Room": room, "Message": text}).to_string());
        let message = match plan {
            Plan::Say(room) if self.rooms.contains_key(&room) => {
                self.said += 1;
                match self.role {
                    Role::Chat => chat(&room, &text(self.id, self.said)),
                    Role::Raw { .. } => payload(self.id, self.said),
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
            // A connection that has left all rooms could not come back.
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

    fn failed(&mut self, error: Error) {
        match error {
            Error::Io(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Error::Io(_) | Error::ConnectionClosed | Error::AlreadyClosed => self.gone = self.gone.or(Some(0)),
            Error::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake) => {
                self.gone = self.gone.or(Some(0));
            }
            error => panic!("peer {}: {error}", self.id),
        }
    }

    fn hear(&mut self, message: Message) {
        match message {
            Message::Close(frame) => self.gone = Some(frame.map_or(1005, |frame| frame.code.into())),
            Message::Pong(number) => {
                // A pong that waits may be replaced by a newer one: the last counts.
                let number = u32::from_be_bytes(number[..].try_into().expect("as sent"));
                assert!(number > self.pongs && number <= self.pings, "pong {number} after {}", self.pongs);
                self.pongs = number;
            }
            Message::Ping(_) => self.unflushed = true,
            message if self.role == Role::Chat => {
                let value = serde_json::from_str(message.to_text().expect("text")).expect("JSON");
                self.hear_chat(&value);
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

    fn hear_chat(&mut self, value: &Value) {
        let room = value["Room"].as_str().unwrap();
        let said = value["Message"].as_str().unwrap();
        let left = self.leaving.as_ref().map(|room| format!("Left channel {room}."));
        if value["Event"] == "gap" {
            self.gaps += 1;
            assert!(self.loss == Loss::Told, "nobody is slow, but {value}");
            let seen = self.rooms.get_mut(room).expect("a gap in a room that it is in");
            let (from, to) = (value["FromSeq"].as_u64().unwrap(), value["ToSeq"].as_u64().unwrap());
            assert!(from <= to && seen.next_seq.is_none_or(|next| next == from), "{:?}: {value}", seen.next_seq);
            seen.next_seq = Some(to + 1);
        } else if let Some(seq) = value["Seq"].as_u64() {
            let Some(seen) = self.rooms.get_mut(room) else { panic!("peer {} is not in it: {value}", self.id) };
            let epoch = value["Epoch"].as_str().unwrap();
            assert!(seen.next_seq.is_none_or(|next| next == seq), "peer {}: {:?} {value}", self.id, seen.next_seq);
            assert!(seen.epoch.is_empty() || seen.epoch == epoch, "a room is not made anew under its members");
            seen.next_seq = Some(seq + 1);
            epoch.clone_into(&mut seen.epoch);
            if value["Meta"] == false {
                if let Some((sender, number)) = sender_and_number_or_marker(said) {
                    assert!(said == text(sender, number), "{room}: other text than sent");
                    assert_eq!(value["From"], format!("p{sender}"));
                }
                self.note(&room.to_owned(), said);
            }
        } else if left.is_some_and(|left| said == left) {
            self.rooms.remove(&self.leaving.take().unwrap());
        } else {
            let due = self.due.pop_front().unwrap_or_else(|| panic!("peer {} did not ask: {value}", self.id));
            match due {
                "list" => assert!(said.split(", ").any(|user| user == format!("p{}", self.id)), "{due}: {value}"),
                refusal => assert_eq!(said, refusal),
            }
        }
    }

    /// Someone said this in a room: it has to be the next of what that sender said there, if nothing may be lost.
    fn note(&mut self, room: &str, said: &str) {
        let seen = self.rooms.get_mut(room).unwrap();
        let Some((sender, number)) = sender_and_number_or_marker(said) else {
            seen.marked = true;
            return;
        };
        assert!(sender != self.id || self.role != Role::Raw { echo: false, lossy: false }, "its own message came back");
        let before = seen.last_of.insert(sender, number);
        let gapless = matches!(self.role, Role::Raw { lossy: false, .. });
        let follows = |before| if gapless { before + 1 == number } else { before < number };
        assert!(before.is_none_or(follows), "{room}: {number} of {sender} after {before:?}");
        seen.heard.push((sender, number));
    }
}

fn sender_and_number_or_marker(said: &str) -> Option<(u32, u32)> {
    (said != MARKER).then(|| sender_and_number(said))
}

/// Lets everyone act until `done`.
#[track_caller]
fn drive(peers: &mut [Peer], mut done: impl FnMut(&[Peer]) -> bool) {
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
            let rooms: Vec<_> = peer.rooms.iter().map(|(name, seen)| (name, seen.next_seq, seen.heard.len())).collect();
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

/// Has someone say the last word in each room, and waits until everyone there has heard it.
fn mark(server: &Running, peers: &mut Vec<Peer>, rooms: &[(&str, Role)], next_id: &mut u32) {
    for &(room, role) in rooms {
        let has_heard = |peer: &Peer| {
            (peer.role == Role::Chat) != (role == Role::Chat) || peer.rooms.get(room).is_none_or(|seen| seen.marked)
        };
        // One that is reset has perhaps said it, and perhaps not.
        loop {
            *next_id += 1;
            let Some(mut marker) = Peer::connect(server, *next_id, role, room, Loss::Told, false) else { continue };
            let text = json!({"Room": room, "Message": MARKER}).to_string();
            let message = if role == Role::Chat { Message::text(text) } else { Message::text(MARKER) };
            marker.unflushed = true;
            marker.socket.write(message).unwrap_or_else(|error| marker.failed(error));
            peers.push(marker);
            drive(peers, |peers| {
                let (marker, others) = peers.split_last().unwrap();
                let all = others.iter().all(|peer| !peer.is_alive() || has_heard(peer));
                !marker.is_alive() || all && has_heard(marker)
            });
            if peers.pop().unwrap().is_alive() {
                break;
            }
        }
    }
}

/// What those who were there from the beginning to the end have heard in a room must be the same.
fn compare(peers: &[Peer], room: &str) {
    let alive: Vec<_> = peers.iter().filter(|peer| peer.is_alive() && peer.rooms.contains_key(room)).collect();
    let Some(longest) = alive.iter().map(|peer| &peer.rooms[room].heard).max_by_key(|heard| heard.len()) else {
        return;
    };
    for peer in &alive {
        let own = matches!(peer.role, Role::Raw { echo: false, .. }).then_some(peer.id);
        let expected: Vec<_> = longest.iter().filter(|(sender, _)| Some(*sender) != own).collect();
        let heard: Vec<_> = peer.rooms[room].heard.iter().collect();
        assert!(heard == expected, "peer {} in {room}: {heard:?} instead of {expected:?}", peer.id);
    }
    for sender in &alive {
        let numbers: Vec<_> = longest.iter().filter(|(id, _)| *id == sender.id).map(|(_, number)| *number).collect();
        assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]));
    }
}

const ROOMS: [&str; 3] = ["ant", "bee", "cat"];
const ECHO: Role = Role::Raw { echo: true, lossy: false };
const NO_ECHO: Role = Role::Raw { echo: false, lossy: false };

/// Chat in several rooms and traffic in a raw one, with everything that a connection can have to send at once.
fn everyone_talks(seed: u64, resets: bool, args: &[&str]) {
    let server = Running::start::<FaultyRing>(seed, resets, args);
    let mut random = Rng::with_seed(seed);
    let files = open_files();
    let mut peers = Vec::new();
    let mut id = 0;
    for role in [Role::Chat, Role::Chat, Role::Chat, Role::Chat, Role::Chat, ECHO, ECHO, ECHO, NO_ECHO, NO_ECHO] {
        id += 1;
        let room = if role == Role::Chat { ROOMS[0] } else { "raw" };
        let Some(mut peer) = Peer::connect(&server, id, role, room, Loss::Nothing, random.bool()) else { continue };
        if role == Role::Chat {
            peer.plans.extend(ROOMS[1..].iter().map(|room| Plan::Join((*room).to_owned())));
            // The answers tell that it has joined.
            peer.plans.extend(ROOMS.iter().map(|room| Plan::List((*room).to_owned())));
        }
        peers.push(peer);
    }
    drive(&mut peers, |peers| peers.iter().all(Peer::is_done));
    for peer in &mut peers {
        for _ in 0..60 {
            let room = if peer.role == Role::Chat { *random.choice(&ROOMS).unwrap() } else { "raw" }.to_owned();
            let plan = match random.u8(..12) {
                0 => Plan::Ping,
                1 => Plan::Stall(random.u32(..300)),
                2 if peer.role == Role::Chat => Plan::List(room),
                3 if peer.role == Role::Chat => Plan::Nowhere,
                _ => Plan::Say(room),
            };
            peer.plans.push_back(plan);
        }
        // Its pong says that everything before it has been published.
        peer.plans.push_back(Plan::Ping);
    }
    drive(&mut peers, |peers| peers.iter().all(Peer::is_done));
    mark(&server, &mut peers, &[("ant", Role::Chat), ("bee", Role::Chat), ("cat", Role::Chat), ("raw", ECHO)], &mut id);
    let rooms = ["ant", "bee", "cat", "raw"];
    rooms.iter().for_each(|room| compare(&peers, room));
    if !resets {
        assert!(peers.iter().all(Peer::is_alive), "nobody is closed");
        // Every sender's messages are heard by everyone else in the room: none is missing in between, none at the end.
        for sender in &peers {
            let heard = |peer: &Peer| -> usize {
                let all = peer.rooms.values().flat_map(|seen| &seen.heard);
                all.filter(|(id, _)| *id == sender.id).count()
            };
            let listeners = peers.iter().filter(|peer| peer.id != sender.id);
            for peer in listeners.filter(|peer| (peer.role == Role::Chat) == (sender.role == Role::Chat)) {
                assert_eq!(heard(peer), sender.said as usize, "{} hears {}", peer.id, sender.id);
            }
        }
    }
    for peer in &mut peers {
        let _ = peer.socket.close(None);
        peer.unflushed = true;
    }
    drive(&mut peers, |peers| peers.iter().all(|peer| peer.gone.is_some()));
    drop(peers);
    wait_for_files(files);
    server.stop();
}

/// The seed of this run, and some more that follow from it.
fn seeds(count: usize) -> Vec<u64> {
    let mut random = seeded();
    std::iter::repeat_with(|| random.u64(1..)).take(count).collect()
}

#[test]
fn nothing_is_lost_to_short_sends_refusals_and_late_completions() {
    for (index, seed) in seeds(8).into_iter().enumerate() {
        let shards = if index % 2 == 0 { "1" } else { "2" };
        everyone_talks(seed, false, &["--shards", shards, "--backlog-bytes", "512m"]);
    }
}

#[test]
fn nothing_is_lost_when_receive_buffers_run_out() {
    for (index, seed) in seeds(4).into_iter().enumerate() {
        let shards = if index % 2 == 0 { "1" } else { "2" };
        everyone_talks(seed, false, &["--shards", shards, "--backlog-bytes", "512m", "--receive-buffers", "2"]);
    }
}

#[test]
fn who_survives_resets_hears_everything_in_order() {
    for (index, seed) in seeds(8).into_iter().enumerate() {
        let shards = if index % 2 == 0 { "1" } else { "2" };
        let buffers = if index % 4 < 2 { "2" } else { "1024" };
        everyone_talks(seed, true, &["--shards", shards, "--backlog-bytes", "512m", "--receive-buffers", buffers]);
    }
}

/// Members of all kinds stop reading, leave, come back, vanish, while a shouter says more than any buffer holds.
/// Returns how many gaps they were told.
fn members_come_and_go<R: DataRing + 'static>(seed: u64, args: &[&str]) -> usize {
    let server = Running::start::<R>(seed, false, args);
    let mut random = Rng::with_seed(seed);
    let files = open_files();
    let mut next_id = 0;
    let lossy = Role::Raw { echo: true, lossy: true };
    let mut connect = |role: Role, random: &mut Rng| {
        next_id += 1;
        let room = if role == Role::Chat { random.choice(ROOMS).unwrap() } else { "raw" };
        let peer = Peer::connect(&server, next_id, role, room, Loss::Told, true).expect("no resets");
        (peer, next_id)
    };
    let roles = [Role::Chat, Role::Chat, Role::Chat, Role::Chat, Role::Chat, Role::Chat, ECHO, ECHO, lossy, lossy];
    let mut peers: Vec<_> = roles.into_iter().map(|role| connect(role, &mut random).0).collect();
    let mut gaps = 0;
    for round in 0..4 {
        let room = if round % 2 == 0 { "raw" } else { random.choice(ROOMS).unwrap() };
        let role = if room == "raw" { NO_ECHO } else { Role::Chat };
        let mut shouter = Peer::connect(&server, SHOUTER + round, role, room, Loss::Told, false).expect("no resets");
        shouter.plans.extend(vec![Plan::Say(room.to_owned()); 350]);
        shouter.plans.push_back(Plan::Ping);
        peers.push(shouter);
        for peer in &mut peers {
            for _ in 0..12 {
                let room = if peer.role == Role::Chat { random.choice(ROOMS).unwrap() } else { "raw" }.to_owned();
                peer.plans.push_back(match random.u8(..10) {
                    0..2 if peer.role == Role::Chat => Plan::Join(room),
                    2..4 if peer.role == Role::Chat => Plan::Leave(room),
                    4 => Plan::Ping,
                    5 if peer.role == Role::Chat => Plan::List(room),
                    _ => Plan::Say(room),
                });
            }
            if peer.id < SHOUTER && random.bool() {
                peer.stalled = u32::MAX;
            }
        }
        let stalled: Vec<_> = peers.iter().map(|peer| peer.stalled > 0).collect();
        drive(&mut peers, |peers| peers.iter().zip(&stalled).all(|(peer, stalled)| *stalled || peer.is_done()));
        peers.iter_mut().for_each(|peer| peer.stalled = 0);
        drive(&mut peers, |peers| peers.iter().all(Peer::is_done));
        gaps += peers.iter_mut().map(|peer| std::mem::take(&mut peer.gaps)).sum::<usize>();
        assert!(peers.pop().unwrap().is_alive(), "the shouter has read all the time");
        for (peer, role) in peers.iter_mut().zip(roles) {
            let told = matches!(peer.gone, None | Some(4101)) || (peer.role == ECHO && peer.gone == Some(0));
            assert!(told, "peer {} is gone with {:?}", peer.id, peer.gone);
            if peer.gone.is_some() || random.u8(..4) == 0 {
                *peer = connect(role, &mut random).0;
            }
        }
    }
    let marked: Vec<_> = ROOMS.iter().filter(|room| peers.iter().any(|peer| peer.rooms.contains_key(**room))).collect();
    let mut marked: Vec<_> = marked.into_iter().map(|room| (*room, Role::Chat)).collect();
    marked.push(("raw", ECHO));
    let mut marker_id = 2 * SHOUTER;
    mark(&server, &mut peers, &marked, &mut marker_id);
    drop(peers);
    wait_for_files(files);
    server.stop();
    gaps
}

#[test]
fn who_falls_behind_is_told_exactly_what_it_missed() {
    let mut gaps = 0;
    for (index, seed) in seeds(4).into_iter().enumerate() {
        let shards = if index % 2 == 0 { "1" } else { "2" };
        let args = ["--shards", shards, "--backlog-bytes", "256k"];
        gaps += if index < 2 {
            members_come_and_go::<FaultyRing>(seed, &args)
        } else {
            members_come_and_go::<Ring>(seed, &args)
        };
    }
    assert!(gaps > 0, "the test has to make gaps");
}
