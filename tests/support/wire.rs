//! A connection on which the test writes and reads every byte itself: hand-made HTTP and WebSocket frames, including
//! those that no client library would send.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use super::Server;

pub const CONTINUATION: u8 = 0x0;
pub const TEXT: u8 = 0x1;
pub const BINARY: u8 = 0x2;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xa;
/// The bit of a frame's first byte that marks the last fragment.
pub const FIN: u8 = 0x80;
/// The bit of a frame's second byte that announces a mask.
pub const MASKED: u8 = 0x80;
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
/// The key of RFC 6455 1.3.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// A whole handshake for `path`.
pub fn handshake(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: hi\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {KEY}\r\n\
         Sec-WebSocket-Version: 13\r\n\r\n"
    )
}

/// A handshake for `path` without the headers named in `without`, and with the lines in `with`.
pub fn handshake_but(path: &str, without: &[&str], with: &[&str]) -> String {
    let sound = handshake(path);
    let lines = sound.trim_end().lines();
    let kept = lines.filter(|line| !without.iter().any(|name| line.starts_with(&format!("{name}:"))));
    let lines: Vec<_> = kept.chain(with.iter().copied()).collect();
    format!("{}\r\n\r\n", lines.join("\r\n"))
}

/// A masked frame with the shortest length encoding; `first` is its first byte: FIN, RSV and opcode.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(first, payload.len());
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// The header of a masked frame that promises `payload_bytes`.
pub fn header(first: u8, payload_bytes: usize) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload_bytes {
        0..=125 => bytes.push(MASKED | payload_bytes as u8),
        126..=0xffff => {
            bytes.push(MASKED | 126);
            bytes.extend((payload_bytes as u16).to_be_bytes());
        }
        _ => {
            bytes.push(MASKED | 127);
            bytes.extend((payload_bytes as u64).to_be_bytes());
        }
    }
    bytes.extend(MASK);
    bytes
}

/// A Close frame with a code and a reason.
pub fn close_frame(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(FIN | CLOSE, &[&code.to_be_bytes(), reason].concat())
}

/// A frame that hi sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// FIN, RSV and opcode.
    pub first: u8,
    pub payload: Vec<u8>,
}

/// An HTTP response that hi sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// From the status line to the empty line.
    pub head: String,
    pub body: String,
}

impl Answer {
    /// Names (as they came) and values, in order.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.head.lines().skip(1).filter_map(|line| line.split_once(": "))
    }

    /// The value of a header that may occur once.
    #[track_caller]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers().filter(|(header, _)| header.eq_ignore_ascii_case(name));
        let value = values.next().map(|(_, value)| value);
        assert_eq!(values.next(), None, "{name} twice in {}", self.head);
        value
    }
}

/// See the module.
pub struct Wire {
    pub stream: TcpStream,
    /// Received, but not parsed yet.
    unread: Vec<u8>,
}

impl Server {
    /// A bare connection.
    pub fn wire(&self) -> Wire {
        Wire::new(self.connect())
    }

    /// A connection that was upgraded on `path`.
    pub fn upgraded(&self, path: &str) -> Wire {
        let mut wire = self.wire();
        wire.send(handshake(path));
        wire.expect_101();
        wire
    }

    /// One request on a separate connection, and the answer; then either side closes.
    pub fn ask(&self, request: impl AsRef<[u8]>) -> Answer {
        let mut wire = self.wire();
        wire.send(request);
        wire.answer()
    }
}

impl Wire {
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, unread: Vec::new() }
    }

    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("hi takes the bytes");
    }

    /// Writes as much as hi accepts before it cuts the connection.
    pub fn send_what_is_taken(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Ends only our direction.
    pub fn half_close(&self) {
        self.stream.shutdown(Shutdown::Write).expect("the connection is there");
    }

    /// Reads more. False at the end of the stream; a reset is an error.
    #[track_caller]
    fn read_more(&mut self) -> bool {
        let mut buffer = [0; 64 * 1024];
        let count = loop {
            match self.stream.read(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read.expect("bytes or the end of the stream, in time"),
            }
        };
        self.unread.extend_from_slice(&buffer[..count]);
        count > 0
    }

    #[track_caller]
    fn need(&mut self, count: usize) {
        while self.unread.len() < count {
            let ended = !self.read_more();
            assert!(
                !ended,
                "{count} bytes expected, the stream ended with {:?}",
                self.unread.escape_ascii().to_string()
            );
        }
    }

    /// The next response, as an answer to GET.
    #[track_caller]
    pub fn answer(&mut self) -> Answer {
        self.answer_to("GET")
    }

    /// The next response to a request with this method.
    #[track_caller]
    pub fn answer_to(&mut self, method: &str) -> Answer {
        let end = loop {
            match self.unread.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                Some(at) => break at + 4,
                None => self.need(self.unread.len() + 1),
            }
        };
        let head = String::from_utf8(self.unread.drain(..end).collect()).expect("UTF-8");
        // The internal port answers in the version of the request.
        let behind_version = head.strip_prefix("HTTP/1.1 ").or(head.strip_prefix("HTTP/1.0 "));
        let status = behind_version.and_then(|rest| rest.get(..3)).and_then(|code| code.parse().ok());
        let mut answer = Answer { status: status.expect("a status line"), head, body: String::new() };
        if method != "HEAD" && !matches!(answer.status, 101 | 204 | 304) {
            let length = answer.header("Content-Length").expect("every body has a length").parse().unwrap();
            self.need(length);
            answer.body = String::from_utf8(self.unread.drain(..length).collect()).expect("UTF-8");
        }
        answer
    }

    #[track_caller]
    pub fn expect_101(&mut self) -> Answer {
        let answer = self.answer();
        assert_eq!(answer.status, 101, "{}{}", answer.head, answer.body);
        answer
    }

    /// The next frame other than hi's pings, which are answered.
    #[track_caller]
    pub fn frame(&mut self) -> Frame {
        loop {
            match self.frame_or_ping() {
                ping if ping.first == FIN | PING => self.send_what_is_taken(&frame(FIN | PONG, &ping.payload)),
                frame => return frame,
            }
        }
    }

    /// The next frame, including pings, which are not answered. The server's frames have no mask and the shortest
    /// length encoding.
    #[track_caller]
    pub fn frame_or_ping(&mut self) -> Frame {
        self.need(2);
        let (first, second) = (self.unread[0], self.unread[1]);
        assert_eq!(second & MASKED, 0, "a server's frame is not masked");
        let (header_bytes, payload_bytes) = match second {
            126 => {
                self.need(4);
                (4, u64::from(u16::from_be_bytes([self.unread[2], self.unread[3]])))
            }
            127 => {
                self.need(10);
                (10, u64::from_be_bytes(self.unread[2..10].try_into().unwrap()))
            }
            short => (2, u64::from(short)),
        };
        let payload_bytes = payload_bytes as usize;
        // Masked headers are 4 bytes longer.
        assert_eq!(header(first, payload_bytes).len() - 4, header_bytes, "the length is not minimal");
        self.need(header_bytes + payload_bytes);
        let payload = self.unread[header_bytes..header_bytes + payload_bytes].to_vec();
        self.unread.drain(..header_bytes + payload_bytes);
        Frame { first, payload }
    }

    /// Expects this frame next, with FIN.
    #[track_caller]
    pub fn expect_frame(&mut self, opcode: u8, payload: impl AsRef<[u8]>) {
        let (frame, payload) = (self.frame(), payload.as_ref());
        let shown = |bytes: &[u8]| bytes[..bytes.len().min(200)].escape_ascii().to_string();
        assert!(
            frame.first == FIN | opcode && frame.payload == payload,
            "{:#x} with {} bytes {:?} instead of opcode {opcode:#x} with {} bytes {:?}",
            frame.first,
            frame.payload.len(),
            shown(&frame.payload),
            payload.len(),
            shown(payload)
        );
    }

    /// Expects a Close with this code next. Returns its reason.
    #[track_caller]
    pub fn expect_close(&mut self, code: u16) -> String {
        let frame = self.frame();
        assert_eq!(frame.first, FIN | CLOSE, "{frame:?} instead of a Close with {code}");
        let (found, reason) = frame.payload.split_first_chunk().expect("a code");
        let reason = String::from_utf8(reason.to_vec()).expect("UTF-8");
        assert_eq!(u16::from_be_bytes(*found), code, "{reason}");
        reason
    }

    /// Everything until the stream ends.
    #[track_caller]
    pub fn rest(&mut self) -> String {
        while self.read_more() {}
        String::from_utf8(std::mem::take(&mut self.unread)).expect("UTF-8")
    }

    /// Nothing more arrives, and the stream ends cleanly, not with a reset.
    #[track_caller]
    pub fn expect_end(&mut self) {
        let ended = self.unread.is_empty() && !self.read_more();
        assert!(ended, "the end of the stream expected, not {:?}", self.unread.escape_ascii().to_string());
    }

    /// Whether nothing arrives for this time, not even the end.
    pub fn is_silent_for(&self, time: Duration) -> bool {
        let before = self.stream.read_timeout().unwrap();
        self.stream.set_read_timeout(Some(time)).unwrap();
        let peeked = self.stream.peek(&mut [0]);
        self.stream.set_read_timeout(before).unwrap();
        peeked.is_err_and(|error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
    }

    /// Whether unread bytes, or the end, have arrived.
    pub fn has_something(&self) -> bool {
        self.stream.set_nonblocking(true).unwrap();
        let peeked = self.stream.peek(&mut [0]);
        self.stream.set_nonblocking(false).unwrap();
        peeked.is_ok()
    }

    /// Sends a text message and expects its echo: the room is served.
    #[track_caller]
    pub fn expect_echo(&mut self, message: &str) {
        self.send(frame(FIN | TEXT, message.as_bytes()));
        self.expect_frame(TEXT, message);
    }
}
