//! Servers that share their rooms, speak `hi.v1` and raw rooms, and misbehave on command.

use std::collections::HashMap;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::Role;
use tungstenite::{Message, WebSocket};

use super::server::{frame, read_head};

/// How long a client that reconnects waits for its answer: it misses messages meanwhile.
const REJOIN_TIME: Duration = Duration::from_millis(100);

/// What the servers do wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breach {
    /// Nothing is wrong.
    None,
    /// The second server exchanges two neighbours of different publishers now and then, and numbers them as it sends them.
    OtherOrder,
    /// A client that reconnects doesn't get the first message that it missed.
    LosesWhatWasMissed,
    /// A client that reconnects gets the last message that it had once more.
    RepeatsWhatWasSeen,
    /// A client that reconnects is told that it can't get what it missed.
    Forgets,
    /// Clients of the second server don't get every tenth message, which has no number then.
    LosesAcknowledged,
    /// Every tenth message is refused, and nobody gets it.
    Refuses,
    /// Publishers get no answers.
    NeverAnswers,
    /// Clients of the second server never learn which message has one of the numbers.
    LeavesOutNumber,
    /// Now and then, a client that reconnects finds its name taken.
    NameTaken,
    /// The second server doesn't know the subprotocol.
    NoSubprotocol,
}

/// The servers. Their threads end with the test's process.
pub struct Cluster {
    addresses: Vec<SocketAddr>,
    shared: Arc<Shared>,
}

/// Who joined: server, name, and the number that it had got to.
pub type Join = (usize, String, Option<u64>);

struct Shared {
    breach: Breach,
    rooms: Mutex<HashMap<String, Room>>,
    joins: Mutex<Vec<Join>>,
}

#[derive(Default)]
struct Room {
    /// Sender and text of each message; the first one has number 1.
    log: Vec<(String, String)>,
    members: Vec<Member>,
    /// Index of a message that the second server has yet to send.
    held: Option<usize>,
}

struct Member {
    server: usize,
    raw: bool,
    out: Sender<Vec<u8>>,
}

impl Room {
    fn send(&self, to: impl Fn(&Member) -> bool, index: usize, number: usize) {
        for member in self.members.iter().filter(|member| to(member)) {
            // One that has left no longer has a writer.
            let _ = member.out.send(self.message(index, number, member.raw));
        }
    }

    fn message(&self, index: usize, number: usize, raw: bool) -> Vec<u8> {
        let (from, text) = &self.log[index];
        let text = if raw {
            text.clone()
        } else {
            format!(
                "{{\"From\":\"{from}\",\"Message\":\"{text}\",\"Seq\":{number},\"Epoch\":\"00000000000000ab\",\"Ts\":1}}"
            )
        };
        frame(0x81, text.as_bytes())
    }
}

impl Cluster {
    /// This many servers.
    pub fn start(count: usize, breach: Breach) -> Self {
        let shared = Arc::new(Shared { breach, rooms: Mutex::default(), joins: Mutex::default() });
        let addresses = (0..count).map(|server| {
            let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
            let address = listener.local_addr().expect("the port");
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let shared = Arc::clone(&shared);
                    std::thread::spawn(move || shared.serve(server, stream));
                }
            });
            address
        });
        Self { addresses: addresses.collect(), shared: Arc::clone(&shared) }
    }

    /// The URL of each.
    pub fn urls(&self) -> Vec<String> {
        self.addresses.iter().map(|address| format!("ws://{address}")).collect()
    }

    /// Everyone that has joined, in order.
    pub fn joins(&self) -> Vec<Join> {
        self.shared.joins.lock().unwrap().clone()
    }
}

impl Shared {
    fn serve(&self, server: usize, mut stream: TcpStream) {
        stream.set_nodelay(true).unwrap();
        let Some(head) = read_head(&mut stream) else { return };
        let path = head.split(' ').nth(1).expect("a path");
        let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).expect("a key");
        let knows_it = !(server == 1 && self.breach == Breach::NoSubprotocol);
        let chosen = if head.contains("Sec-WebSocket-Protocol: hi.v1\r\n") && knows_it {
            "Sec-WebSocket-Protocol: hi.v1\r\n"
        } else {
            ""
        };
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{chosen}\
             Sec-WebSocket-Accept: {}\r\n\r\n",
            derive_accept_key(key.trim().as_bytes())
        );
        let (out, queue) = channel::<Vec<u8>>();
        let raw_room = path.strip_prefix("/raw/").map(|rest| rest.split('?').next().unwrap().to_owned());
        if let Some(room) = raw_room.as_ref().filter(|_| !path.ends_with("?echo=0")) {
            let member = Member { server, raw: true, out: out.clone() };
            self.rooms.lock().unwrap().entry(room.clone()).or_default().members.push(member);
        }
        stream.write_all(answer.as_bytes()).unwrap();
        let mut writer = stream.try_clone().unwrap();
        std::thread::spawn(move || queue.iter().try_for_each(|bytes| writer.write_all(&bytes)));
        // A raw publisher has no name of its own.
        let name = path.split("username=").nth(1).map_or_else(|| format!("{:?}", stream.peer_addr()), str::to_owned);
        let mut socket = WebSocket::from_raw_socket(stream, Role::Server, None);
        while let Ok(message) = socket.read() {
            let Message::Text(text) = message else { continue };
            match &raw_room {
                Some(room) => self.publish(room, &name, text.as_str()),
                None => self.obey(server, &name, &out, &serde_json::from_str(text.as_str()).expect("JSON")),
            }
        }
    }

    fn obey(&self, server: usize, name: &str, out: &Sender<Vec<u8>>, op: &Value) {
        let room = op["Room"].as_str().expect("a room");
        match op["Op"].as_str() {
            Some("join") => self.join(server, name, room, out, op["Since"]["Seq"].as_u64()),
            Some("pub") => {
                let number = op["Ref"].as_u64().expect("a number");
                let mut answer = json!({"Op": "ok", "Ref": number});
                if self.breach == Breach::Refuses && number % 10 == 9 {
                    answer = json!({"Op": "err", "Ref": number, "Code": "unavailable", "Message": "not now"});
                } else {
                    self.publish(room, name, op["Message"].as_str().expect("a text"));
                }
                if self.breach != Breach::NeverAnswers {
                    let _ = out.send(frame(0x81, answer.to_string().as_bytes()));
                }
            }
            _ => panic!("{op}"),
        }
    }

    fn join(&self, server: usize, name: &str, room: &str, out: &Sender<Vec<u8>>, since: Option<u64>) {
        if since.is_some() {
            std::thread::sleep(REJOIN_TIME);
        }
        let joins = {
            let mut joins = self.joins.lock().unwrap();
            joins.push((server, name.to_owned(), since));
            joins.len()
        };
        if self.breach == Breach::NameTaken && since.is_some() && joins % 2 == 0 {
            let answer = json!({"Op": "err", "Ref": "join", "Code": "name_taken", "Message": "wait"});
            return drop(out.send(frame(0x81, answer.to_string().as_bytes())));
        }
        let mut rooms = self.rooms.lock().unwrap();
        let room = rooms.entry(room.to_owned()).or_default();
        let end = room.log.len();
        let mut answer = json!({"Op": "ok", "Ref": "join", "Epoch": "00000000000000ab", "Seq": end});
        let mut missed = end..end;
        if let Some(since) = since {
            let recovered = self.breach != Breach::Forgets;
            answer["Recovered"] = recovered.into();
            if recovered {
                answer["Seq"] = since.into();
                missed = match self.breach {
                    Breach::LosesWhatWasMissed => since as usize + 1..end,
                    Breach::RepeatsWhatWasSeen => since as usize - 1..end,
                    _ => since as usize..end,
                };
            }
        }
        let _ = out.send(frame(0x81, answer.to_string().as_bytes()));
        for index in missed {
            let _ = out.send(room.message(index, index + 1, false));
        }
        room.members.push(Member { server, raw: false, out: out.clone() });
    }

    fn publish(&self, room: &str, from: &str, text: &str) {
        let mut rooms = self.rooms.lock().unwrap();
        let room = rooms.entry(room.to_owned()).or_default();
        let index = room.log.len();
        room.log.push((from.to_owned(), text.to_owned()));
        if self.breach == Breach::LeavesOutNumber && index == 50 {
            // Only the first server's clients get this; it is no message of loadgen.
            room.log.insert(index, ("somebody".to_owned(), "hello".to_owned()));
            room.send(|member| member.server == 0, index, index + 1);
            return room.send(|_| true, index + 1, index + 2);
        }
        room.send(|member| member.server != 1, index, index + 1);
        match room.held.take() {
            Some(held) if room.log[held].0 != from => {
                room.send(|member| member.server == 1, index, held + 1);
                room.send(|member| member.server == 1, held, index + 1);
            }
            Some(held) => {
                for index in [held, index] {
                    room.send(|member| member.server == 1, index, index + 1);
                }
            }
            None if self.breach == Breach::LosesAcknowledged && index % 10 == 9 => {}
            None if self.breach == Breach::OtherOrder && index % 10 == 8 => room.held = Some(index),
            None => room.send(|member| member.server == 1, index, index + 1),
        }
    }
}
