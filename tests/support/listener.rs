//! A listener to server-sent events that parses the stream as the standard says (WHATWG HTML, 9.2.6).

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::Value;

use super::Server;

/// An event, as an `EventSource` dispatches it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// `message`, unless it has another name.
    pub name: String,
    pub id: String,
    pub data: String,
}

impl Event {
    /// Its data, which has to be JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }
}

/// See the module.
pub struct Listener {
    pub stream: TcpStream,
    /// The head of the answer.
    pub head: String,
    chunked: bool,
    /// Received, but still chunked.
    wire: Vec<u8>,
    /// Text of the stream that is not parsed yet.
    text: Vec<u8>,
    /// What it would send as `Last-Event-ID`.
    pub last_event_id: String,
    /// The delay before it would reconnect.
    pub retry_ms: Option<u64>,
    /// Comments so far.
    pub comments: Vec<String>,
}

impl Server {
    /// A listener that has its position: it is in the room.
    pub fn listen(&self, room: &str, last_event_id: Option<&str>) -> Listener {
        Listener::open(self.connect(), room, last_event_id)
    }
}

impl Listener {
    /// Requests a room over a connection. It may be in it only when it has its position ([`Listener::opened`]).
    pub fn open(stream: TcpStream, room: &str, last_event_id: Option<&str>) -> Self {
        let last_event_id = last_event_id.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
        Self::ask(stream, &format!("GET /stream/{room} HTTP/1.1\r\nHost: hi\r\n{last_event_id}\r\n"))
    }

    /// The same with a custom request.
    pub fn ask(mut stream: TcpStream, request: &str) -> Self {
        stream.write_all(request.as_bytes()).expect("it takes the request");
        let mut listener = Self {
            stream,
            head: String::new(),
            chunked: false,
            wire: Vec::new(),
            text: Vec::new(),
            last_event_id: String::new(),
            retry_ms: None,
            comments: Vec::new(),
        };
        let end = loop {
            match listener.wire.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                Some(at) => break at + 4,
                None => assert!(listener.read_wire(), "a head expected: {:?}", String::from_utf8_lossy(&listener.wire)),
            }
        };
        listener.head = String::from_utf8(listener.wire.drain(..end).collect()).expect("UTF-8");
        assert!(listener.head.starts_with("HTTP/1.1 200 OK\r\n"), "{}", listener.head);
        listener.chunked = listener.head.to_ascii_lowercase().contains("\r\ntransfer-encoding: chunked\r\n");
        listener
    }

    /// Reads until it has its position, for a first connection or without a gap.
    #[track_caller]
    pub fn opened(mut self) -> Self {
        while self.last_event_id.is_empty() {
            assert_eq!(self.block(), Some(None), "first the position, then events");
        }
        self
    }

    /// The next event; `None` at the end of the stream.
    #[track_caller]
    pub fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.block()? {
                return Some(event);
            }
        }
    }

    /// The next event that doesn't tell whether other servers can be reached, which depends on how long that took.
    #[track_caller]
    fn next_of_room(&mut self) -> Event {
        loop {
            let event = self.next().expect("an event");
            if !["away", "back"].contains(&event.name.as_str()) {
                return event;
            }
        }
    }

    /// The JSON of the next event, which must be the next broadcast.
    #[track_caller]
    pub fn message(&mut self) -> Value {
        let event = self.next_of_room();
        let json = event.json();
        assert_eq!(event.name, "message", "{event:?}");
        assert_eq!(event.id, format!("{}:{}", json["Epoch"].as_str().unwrap(), json["Seq"]), "{event:?}");
        json
    }

    /// The JSON of the next event, which must be a gap.
    #[track_caller]
    pub fn gap(&mut self) -> Value {
        let event = self.next_of_room();
        assert_eq!(event.name, "gap", "{event:?}");
        let json = event.json();
        assert!(json["Event"] == "gap" && json["Meta"] == true, "{json}");
        json
    }

    /// Waits for `count` comments; no event may come before.
    #[track_caller]
    pub fn wait_for_comments(&mut self, count: usize) {
        while self.comments.len() < count {
            assert_eq!(self.block(), Some(None), "comments alone");
        }
    }

    /// The lines up to the next empty one, which may form an event; `None` at the end of the stream.
    #[track_caller]
    fn block(&mut self) -> Option<Option<Event>> {
        let (mut name, mut data) = ("message".to_owned(), None);
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Some(data.map(|data| Event { name, id: self.last_event_id.clone(), data }));
            }
            let (field, value) = line.split_once(':').expect("every line of ours has a colon");
            let value = value.strip_prefix(' ').unwrap_or(value).to_owned();
            match field {
                "" => self.comments.push(value),
                "event" => name = value,
                "data" => assert_eq!(data.replace(value), None, "one line of data"),
                "id" => self.last_event_id = value,
                "retry" => self.retry_ms = Some(value.parse().expect("digits")),
                other => panic!("unknown field {other}"),
            }
        }
    }

    #[track_caller]
    fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.text.iter().position(|byte| *byte == b'\n') {
                let line = self.text.drain(..=end).take(end).collect();
                return Some(String::from_utf8(line).expect("UTF-8"));
            }
            if !self.read_text() {
                assert!(self.text.is_empty(), "cut off in a line: {:?}", String::from_utf8_lossy(&self.text));
                return None;
            }
        }
    }

    /// Reads more of the text; false at its end.
    #[track_caller]
    fn read_text(&mut self) -> bool {
        if !self.chunked {
            let more = !self.wire.is_empty() || self.read_wire();
            self.text.append(&mut self.wire);
            return more;
        }
        loop {
            if let Some(end) = self.wire.windows(2).position(|bytes| bytes == b"\r\n") {
                let size = std::str::from_utf8(&self.wire[..end]).ok();
                let size = size.and_then(|size| usize::from_str_radix(size, 16).ok()).expect("the size of a chunk");
                if self.wire.len() >= end + 2 + size + 2 {
                    self.text.extend_from_slice(&self.wire[end + 2..end + 2 + size]);
                    self.wire.drain(..end + 2 + size + 2);
                    return size > 0;
                }
            }
            if !self.read_wire() {
                return false;
            }
        }
    }

    #[track_caller]
    fn read_wire(&mut self) -> bool {
        let mut buffer = [0; 64 * 1024];
        let count = self.stream.read(&mut buffer).expect("bytes or the end of the stream, in time");
        self.wire.extend_from_slice(&buffer[..count]);
        count > 0
    }
}
