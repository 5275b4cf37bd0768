//! Clients that come and go: each move to another server goes on where the last one ended.

#![allow(unreachable_pub, reason = "a test has no outside")]

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

/// Time for a connection and its handshake.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(3);
/// Time after which a read returns without anything.
const READ_TIME_MAX: Duration = Duration::from_millis(50);
/// Time within which a server says whether a room can be joined.
const JOIN_TIME_MAX: Duration = Duration::from_secs(15);

/// The dialect of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    V0,
    V1,
    Sse,
    Raw,
}

/// What a connection brings.
#[derive(Debug)]
pub enum Incoming {
    /// A message, or an answer.
    Json(Value),
    /// A message of a raw room.
    Raw(String),
    /// An event that is no message: its name, the position in its `id:`, its content.
    Event(String, String, Value),
    Nothing,
    /// Why it has ended: the code of a Close, if there was one.
    Ended(Option<u16>),
}

/// A position in a room.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub epoch: String,
    pub seq: u64,
}

impl Position {
    /// That of a message, or of an answer.
    pub fn of(value: &Value) -> Option<Self> {
        Some(Self { epoch: value["Epoch"].as_str()?.to_owned(), seq: value["Seq"].as_u64()? })
    }

    fn parse(id: &str) -> Option<Self> {
        let (epoch, seq) = id.split_once(':')?;
        Some(Self { epoch: epoch.to_owned(), seq: seq.parse().ok()? })
    }
}

/// How a connection has begun.
pub struct Begun {
    pub link: Link,
    /// The position that the client was told, if any.
    pub position: Option<Position>,
    /// Whether it was told that it gets everything since the last message that it has seen.
    pub recovered: Option<bool>,
}

/// A connection that is in its room.
pub enum Link {
    Socket(Box<WebSocket<TcpStream>>, Dialect),
    Stream(Lines),
}

/// The lines of a stream of events.
pub struct Lines {
    reader: BufReader<TcpStream>,
    line: Vec<u8>,
    name: String,
    data: String,
    id: String,
}

fn connect(address: SocketAddr) -> Option<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, CONNECT_TIME_MAX).ok()?;
    stream.set_read_timeout(Some(CONNECT_TIME_MAX)).unwrap();
    stream.set_write_timeout(Some(CONNECT_TIME_MAX)).unwrap();
    stream.set_nodelay(true).unwrap();
    Some(stream)
}

/// Asks once, and returns the status and the body; `None` if there is no answer.
pub fn post(address: SocketAddr, path: &str, kind: &str, body: &str) -> Option<(u16, String)> {
    let mut stream = connect(address)?;
    stream.set_read_timeout(Some(JOIN_TIME_MAX)).unwrap();
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all((head + body).as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.get(9..12)?.parse().ok()?, body.to_owned()))
}

impl Link {
    /// Joins a room; `None` if that is refused, or takes too long.
    pub fn open(
        address: SocketAddr,
        dialect: Dialect,
        user: &str,
        room: &str,
        since: Option<&Position>,
    ) -> Option<Begun> {
        let stream = connect(address)?;
        let url = |path: &str| format!("ws://{address}{path}");
        match dialect {
            Dialect::Sse => return Lines::open(stream, room, since),
            Dialect::V1 => {
                let request =
                    tungstenite::ClientRequestBuilder::new(url(&format!("/ws?username={user}")).parse().unwrap());
                let (socket, _) = tungstenite::client(request.with_sub_protocol("hi.v1"), stream).ok()?;
                return Self::Socket(Box::new(socket), dialect).join(room, since);
            }
            Dialect::V0 | Dialect::Raw => {}
        }
        let path = match dialect {
            Dialect::Raw => format!("/raw/{room}"),
            _ => format!("/ws?username={user}&room={room}"),
        };
        let (socket, _) = tungstenite::client(url(&path), stream).ok()?;
        socket.get_ref().set_read_timeout(Some(READ_TIME_MAX)).unwrap();
        Some(Begun { link: Self::Socket(Box::new(socket), dialect), position: None, recovered: None })
    }

    fn join(mut self, room: &str, since: Option<&Position>) -> Option<Begun> {
        let since = since.map(|since| json!({"Epoch": since.epoch, "Seq": since.seq}));
        self.say(&json!({"Op": "join", "Ref": "join", "Room": room, "Since": since}));
        if let Self::Socket(socket, _) = &self {
            socket.get_ref().set_read_timeout(Some(READ_TIME_MAX)).unwrap();
        }
        let began = Instant::now();
        while began.elapsed() < JOIN_TIME_MAX {
            match self.next() {
                Incoming::Json(answer) if answer["Ref"] == "join" => {
                    let position = Position::of(&answer).filter(|_| answer["Op"] == "ok")?;
                    let recovered = answer["Recovered"].as_bool();
                    return Some(Begun { link: self, position: Some(position), recovered });
                }
                Incoming::Ended(_) => return None,
                _ => {}
            }
        }
        None
    }

    /// Sends a request; that it could not be sent is found out when something is read.
    pub fn say(&mut self, request: &Value) {
        if let Self::Socket(socket, _) = self {
            let _ = socket.send(Message::text(request.to_string()));
        }
    }

    /// The next that arrives, if it does soon.
    pub fn next(&mut self) -> Incoming {
        let (socket, dialect) = match self {
            Self::Stream(lines) => return lines.next(),
            Self::Socket(socket, dialect) => (socket, *dialect),
        };
        match socket.read() {
            Ok(Message::Text(text)) if dialect == Dialect::Raw => Incoming::Raw(text.to_string()),
            Ok(Message::Text(text)) => Incoming::Json(serde_json::from_str(&text).expect("JSON")),
            Ok(Message::Close(close)) => {
                let _ = socket.flush();
                Incoming::Ended(close.map(|close| close.code.into()))
            }
            Ok(_) => Incoming::Nothing,
            Err(tungstenite::Error::Io(error)) if is_timeout(&error) => Incoming::Nothing,
            Err(_) => Incoming::Ended(None),
        }
    }
}

impl Lines {
    fn open(mut stream: TcpStream, room: &str, since: Option<&Position>) -> Option<Begun> {
        let since = since.map(|Position { epoch, seq }| format!("Last-Event-ID: {epoch}:{seq}\r\n"));
        // Of version 1.0: it comes without chunks.
        let request = format!("GET /stream/{room} HTTP/1.0\r\nHost: hi\r\n{}\r\n", since.unwrap_or_default());
        stream.write_all(request.as_bytes()).ok()?;
        stream.set_read_timeout(Some(JOIN_TIME_MAX)).unwrap();
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).ok()? == 0 {
                return None;
            }
        }
        head.starts_with("HTTP/1.1 200 ").then_some(())?;
        assert!(!head.to_ascii_lowercase().contains("chunked"), "{head}");
        reader.get_ref().set_read_timeout(Some(READ_TIME_MAX)).unwrap();
        let (line, name, data, id) = Default::default();
        let lines = Self { reader, line, name, data, id };
        Some(Begun { link: Link::Stream(lines), position: None, recovered: None })
    }

    fn next(&mut self) -> Incoming {
        loop {
            // What has been read of a line is kept.
            match self.reader.read_until(b'\n', &mut self.line) {
                Ok(_) if self.line.ends_with(b"\n") => {}
                Err(error) if is_timeout(&error) => return Incoming::Nothing,
                _ => return Incoming::Ended(None),
            }
            let line = String::from_utf8(std::mem::take(&mut self.line)).expect("UTF-8");
            match line.trim_end_matches('\n').split_once(": ") {
                Some(("event", name)) => name.clone_into(&mut self.name),
                Some(("data", data)) => data.clone_into(&mut self.data),
                Some(("id", id)) => id.clone_into(&mut self.id),
                _ if line == "\n" => {
                    let (name, data) = (std::mem::take(&mut self.name), std::mem::take(&mut self.data));
                    if data.is_empty() {
                        return match Position::parse(&self.id) {
                            Some(_) => Incoming::Event("position".to_owned(), self.id.clone(), Value::Null),
                            None => Incoming::Nothing,
                        };
                    }
                    let json: Value = serde_json::from_str(&data).expect("JSON");
                    let is_message = name.is_empty() || name == "message";
                    return if is_message {
                        Incoming::Json(json)
                    } else {
                        Incoming::Event(name, self.id.clone(), json)
                    };
                }
                _ => {}
            }
        }
    }
}

/// The position in the `id:` of an event.
pub fn position(id: &str) -> Option<Position> {
    Position::parse(id)
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
