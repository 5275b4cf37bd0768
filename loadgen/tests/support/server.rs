//! A broadcast server that misbehaves on command. It uses threads and another WebSocket library's reader, and shares no
//! code with loadgen. Each member has a writer thread with a queue, so that a slow reader holds up no one else.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::Role;
use tungstenite::{Message, WebSocket};

use super::fault::{Fault, Manner, PAUSE};

/// The server. Its threads end with the test's process.
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    fault: Fault,
    manner: Manner,
    rooms: Mutex<HashMap<String, Room>>,
    handshakes: AtomicUsize,
    /// Messages that it didn't understand.
    misunderstood: Mutex<Vec<String>>,
}

#[derive(Default)]
struct Room {
    members: Vec<Arc<Peer>>,
    messages: u64,
    names: Vec<String>,
}

struct Peer {
    name: String,
    /// Its queue.
    out: Sender<Out>,
    pongs: AtomicU64,
    /// Gets nothing.
    forgotten: AtomicBool,
    /// The message to be sent after its successor.
    held: Mutex<Option<Vec<u8>>>,
}

enum Out {
    Bytes(Vec<u8>),
    Pause,
    End,
}

impl Peer {
    fn send(&self, bytes: Vec<u8>) {
        // A peer that has left no longer has a writer.
        let _ = self.out.send(Out::Bytes(bytes));
    }

    fn is(&self, member: usize) -> bool {
        self.name == format!("loadgen-{member}")
    }
}

impl Server {
    /// A server whose paths name the room.
    pub fn start(fault: Fault) -> Self {
        Self::start_with(fault, Manner::Paths)
    }

    /// A server that speaks this protocol.
    pub fn start_with(fault: Fault, manner: Manner) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = listener.local_addr().expect("the port");
        let shared = Arc::new(Shared {
            fault,
            manner,
            rooms: Mutex::default(),
            handshakes: AtomicUsize::new(0),
            misunderstood: Mutex::default(),
        });
        let of_connections = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&of_connections);
                std::thread::spawn(move || shared.serve(stream));
            }
        });
        Self { address, shared }
    }

    /// Its URL, with this path.
    pub fn url(&self, path: &str) -> String {
        format!("ws://{}{path}", self.address)
    }

    /// The URL of the rooms.
    pub fn room_url(&self) -> String {
        self.url("/room/{room}?client={client}")
    }

    /// Number of handshakes so far.
    pub fn handshakes(&self) -> usize {
        self.shared.handshakes.load(Ordering::SeqCst)
    }

    /// Number of messages published so far.
    pub fn messages(&self) -> u64 {
        self.shared.rooms.lock().unwrap().values().map(|room| room.messages).sum()
    }

    /// Every client that has been a member of a room.
    pub fn members(&self) -> Vec<String> {
        self.shared.rooms.lock().unwrap().values().flat_map(|room| room.names.clone()).collect()
    }

    /// Messages that it didn't understand.
    pub fn misunderstood(&self) -> Vec<String> {
        self.shared.misunderstood.lock().unwrap().clone()
    }
}

impl Shared {
    fn serve(&self, mut stream: TcpStream) {
        stream.set_nodelay(true).unwrap();
        let Some(head) = read_head(&mut stream) else { return };
        let number = self.handshakes.fetch_add(1, Ordering::SeqCst);
        let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).expect("a key").trim();
        let key = if matches!(self.fault, Fault::WrongAccept) { "dGhlIHNhbXBsZSBub25jZQ==" } else { key };
        let mut answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\r\n",
            derive_accept_key(key.as_bytes())
        )
        .into_bytes();
        match &self.fault {
            Fault::Answers(answer) => return refuse(stream, answer),
            Fault::Full { after } if number >= *after => {
                return refuse(stream, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 7\r\n\r\nfull up");
            }
            Fault::NeverAnswers => return wait_for_end(stream),
            Fault::Drips => return drip(stream),
            Fault::FloodsPings { after } if number >= *after => {
                return while stream.write_all(&std::mem::replace(&mut answer, frame(0x89, b"still there?"))).is_ok() {
                };
            }
            Fault::ClosesAtOnce { after } if number >= *after => {
                answer.extend(close_frame(1013, "try again later"));
                stream.write_all(&answer).unwrap();
                return wait_for_end(stream);
            }
            _ => {}
        }
        let path = head.split(' ').nth(1).expect("a path").to_owned();
        let (out, queue) = channel();
        let name = path.split("client=").nth(1).unwrap_or_default().to_owned();
        let peer = Arc::new(Peer {
            name,
            out,
            pongs: AtomicU64::new(0),
            forgotten: AtomicBool::new(false),
            held: Mutex::default(),
        });
        let listens = !matches!(self.fault, Fault::Floods | Fault::Sinks);
        // Before the answer: a client that has received the 101 is a member, however late this thread runs again.
        if let Some(room) = room_in(&path, "/room/").filter(|_| listens) {
            self.join(&peer, &room);
        }
        stream.write_all(&answer).unwrap();
        let writer = stream.try_clone().unwrap();
        std::thread::spawn(move || write(writer, &queue));
        match self.fault {
            Fault::Floods => return self.flood(&peer, stream),
            Fault::Sinks => return wait_for_end(stream),
            _ => {}
        }
        self.listen(&peer, &path, stream);
        for room in self.rooms.lock().unwrap().values_mut() {
            room.members.retain(|member| !Arc::ptr_eq(member, &peer));
        }
        let _ = peer.out.send(Out::End);
    }

    fn flood(&self, peer: &Peer, mut stream: TcpStream) {
        stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        loop {
            peer.send(frame(0x81, b"more"));
            match stream.read(&mut [0; 1024]) {
                Ok(0) => return,
                Err(error) if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return,
                _ => {}
            }
        }
    }

    fn listen(&self, peer: &Arc<Peer>, path: &str, stream: TcpStream) {
        let room = room_in(path, "/room/").or_else(|| room_in(path, "/publish/"));
        let mut socket = WebSocket::from_raw_socket(stream, Role::Server, None);
        while let Ok(message) = socket.read() {
            let Message::Text(text) = message else {
                peer.pongs.fetch_add(u64::from(message.is_pong()), Ordering::SeqCst);
                continue;
            };
            match (self.manner, &room) {
                (Manner::Paths, Some(room)) => self.publish(room, text.as_str()),
                (Manner::Subscribe, _) => match (text.strip_prefix("sub "), serde_json::from_str(text.as_str())) {
                    (Some(room), _) => self.join(peer, room),
                    (None, Ok(serde_json::Value::Object(wish))) => {
                        let room = wish["room"].as_str().expect("a room");
                        let wrapped = serde_json::json!({ "Event": "message", "room": room, "data": wish["data"] });
                        self.publish(room, &wrapped.to_string());
                    }
                    _ => self.misunderstood.lock().unwrap().push(text.to_string()),
                },
                _ => self.misunderstood.lock().unwrap().push(text.to_string()),
            }
        }
    }

    fn join(&self, peer: &Arc<Peer>, room: &str) {
        let mut rooms = self.rooms.lock().unwrap();
        let room = rooms.entry(room.to_owned()).or_default();
        let returned = room.names.contains(&peer.name);
        room.names.push(peer.name.clone());
        let forgotten = returned && matches!(self.fault, Fault::ForgetsReturned);
        peer.forgotten.store(forgotten, Ordering::SeqCst);
        room.members.push(Arc::clone(peer));
    }

    fn publish(&self, name: &str, text: &str) {
        let mut rooms = self.rooms.lock().unwrap();
        let room = rooms.entry(name.to_owned()).or_default();
        let number = room.messages;
        room.messages += 1;
        // Anything after that message arrives on a connection that has ended, though the end may arrive later.
        if matches!(self.fault, Fault::CutsPublishers { at } if number > at) {
            return;
        }
        if matches!(self.fault, Fault::Stalls { at } if at == number) {
            std::thread::sleep(PAUSE);
        }
        let everywhere = matches!(self.fault, Fault::ForgetsRooms);
        for (_, room) in rooms.iter().filter(|(other, _)| everywhere || *other == name) {
            for peer in room.members.iter().filter(|peer| !peer.forgotten.load(Ordering::SeqCst)) {
                self.deliver(peer, number, text);
            }
        }
    }

    /// Sends one message to one member, with its faults.
    fn deliver(&self, peer: &Peer, number: u64, text: &str) {
        let bytes = frame(0x81, text.as_bytes());
        match &self.fault {
            Fault::Drops { member, every } if peer.is(*member) && number % every == every - 1 => {}
            Fault::DropsFirst { member, count } if peer.is(*member) && number < *count => {}
            Fault::Doubles { member, every } if peer.is(*member) && number.is_multiple_of(*every) => {
                peer.send([&bytes[..], &bytes].concat());
            }
            Fault::Swaps { member, every } if peer.is(*member) && number % every == every - 2 => {
                *peer.held.lock().unwrap() = Some(bytes);
            }
            Fault::Swaps { .. } => {
                peer.send(bytes);
                peer.held.lock().unwrap().take().into_iter().for_each(|held| peer.send(held));
            }
            Fault::Loses { members, told, from, to } if (*from..=*to).contains(&number) => {
                if !members.iter().any(|member| peer.is(*member)) {
                    peer.send(bytes);
                }
                if number == *to && told.contains(&peer.name) {
                    let notice = format!("{{\"Event\":\"gap\",\"FromSeq\":{from},\"ToSeq\":{to}}}");
                    peer.send(frame(0x81, notice.as_bytes()));
                }
            }
            Fault::Damages { member, cut_off, .. } if peer.is(*member) && number == *cut_off => {
                peer.send(frame(0x81, &text.as_bytes()[..text.len() - 9]));
            }
            Fault::Damages { member, altered, .. } if peer.is(*member) && number == *altered => {
                let mut bytes = bytes;
                *bytes.last_mut().expect("a message") = b'?';
                peer.send(bytes);
            }
            Fault::Fragments => {
                let (begin, rest) = text.as_bytes().split_at(5);
                let (middle, end) = rest.split_at(9);
                let parts = [frame(0x01, begin), frame(0x00, middle), frame(0x89, b"still there?"), frame(0x80, end)];
                peer.send(parts.concat());
            }
            Fault::HoldsBack { member, at } if peer.is(*member) && number == *at => {
                let (begin, end) = bytes.split_at(4000);
                peer.send(begin.to_vec());
                let _ = peer.out.send(Out::Pause);
                peer.send(end.to_vec());
            }
            Fault::Sends { member, at, bytes, end } if peer.is(*member) && number == *at => {
                peer.send(bytes.clone());
                if *end {
                    let _ = peer.out.send(Out::End);
                }
            }
            Fault::EndsWith { member, at } if peer.is(*member) && number == *at => {
                // So that loadgen finds both at once: when they arrive, it has read nothing for a while.
                peer.send(bytes);
                let _ = peer.out.send(Out::End);
            }
            Fault::CutsPublishers { at } if peer.name.contains("publisher") && number == *at => {
                let _ = peer.out.send(Out::End);
            }
            Fault::ToldPublishers { at, bytes: told } if peer.name.contains("publisher") && number == *at => {
                peer.send([&bytes[..], told].concat());
                let _ = peer.out.send(Out::End);
            }
            Fault::Pings if number == 20 => peer.send([bytes, frame(0x89, b"are you there?")].concat()),
            Fault::Pings if number == 110 && peer.pongs.load(Ordering::SeqCst) == 0 => {
                peer.send(close_frame(1011, "no pong"));
                let _ = peer.out.send(Out::End);
            }
            _ => peer.send(bytes),
        }
    }
}

/// The room in a path after this prefix.
fn room_in(path: &str, prefix: &str) -> Option<String> {
    path.strip_prefix(prefix).and_then(|rest| rest.split('?').next()).map(str::to_owned)
}

pub(super) fn read_head(stream: &mut TcpStream) -> Option<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    String::from_utf8(head).ok()
}

fn refuse(mut stream: TcpStream, answer: &str) {
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    stream.write_all(format!("{head}\r\n\r\n").as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    // A client that left without waiting for the body gets none.
    let _ = stream.write_all(body.as_bytes());
    wait_for_end(stream);
}

/// Bytes come often enough to defeat a time limit that restarts with each.
fn drip(mut stream: TcpStream) {
    let endless = b"HTTP/1.1 101 Switching Protocols\r\nX-Comment: ".iter().chain(std::iter::repeat(&b'x'));
    for byte in endless {
        if stream.write_all(&[*byte]).is_err() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn wait_for_end(mut stream: TcpStream) {
    let mut buffer = vec![0; 1 << 20];
    while matches!(stream.read(&mut buffer), Ok(1..)) {}
}

fn write(mut stream: TcpStream, queue: &Receiver<Out>) {
    for out in queue {
        match out {
            Out::Bytes(bytes) => {
                if stream.write_all(&bytes).is_err() {
                    return;
                }
            }
            Out::Pause => std::thread::sleep(PAUSE),
            Out::End => {
                let _ = stream.shutdown(Shutdown::Both);
                return;
            }
        }
    }
}

/// A frame as servers send it; `first` is its first byte.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        len @ 0..=125 => frame.push(len as u8),
        len @ 126..=0xffff => {
            frame.push(126);
            frame.extend((len as u16).to_be_bytes());
        }
        len => {
            frame.push(127);
            frame.extend((len as u64).to_be_bytes());
        }
    }
    frame.extend(payload);
    frame
}

/// A Close.
pub fn close_frame(code: u16, reason: &str) -> Vec<u8> {
    frame(0x88, &[&code.to_be_bytes(), reason.as_bytes()].concat())
}
