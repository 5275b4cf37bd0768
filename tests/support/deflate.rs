//! A client that agrees on permessage-deflate (RFC 7692): its frames are made by hand, with flate2 for their payloads.

use std::net::TcpStream;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use serde_json::{Value, json};

use super::Server;
use super::wire::{BINARY, FIN, Frame, TEXT, Wire, frame, handshake_but};

/// The bit of a frame's first byte that marks a compressed message.
pub const RSV1: u8 = 0x40;
/// The end that compressed messages leave out.
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];
/// What browsers offer.
pub const OFFER: &str = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits";
/// What hi answers.
pub const AGREED: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// The payload of a compressed message.
pub fn deflated(message: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(message.len() + message.len() / 8 + 64);
    Compress::new(Compression::default(), false).compress_vec(message, &mut bytes, FlushCompress::Sync).unwrap();
    assert!(bytes.ends_with(&TAIL));
    bytes.truncate(bytes.len() - TAIL.len());
    bytes
}

/// The message in the payload of a compressed one.
#[track_caller]
pub fn inflated(payload: &[u8]) -> Vec<u8> {
    let input = [payload, &TAIL].concat();
    let (mut decompress, mut message) = (Decompress::new(false), Vec::with_capacity(4 * input.len() + 64));
    while (decompress.total_in() as usize) < input.len() || message.len() == message.capacity() {
        message.reserve(message.len().max(64));
        let taken = decompress.total_in() as usize;
        decompress.decompress_vec(&input[taken..], &mut message, FlushDecompress::Sync).expect("deflate data");
    }
    message
}

/// A compressed message in one frame.
pub fn deflated_frame(opcode: u8, message: &[u8]) -> Vec<u8> {
    frame(FIN | RSV1 | opcode, &deflated(message))
}

/// A message that hi sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    pub opcode: u8,
    pub message: Vec<u8>,
    pub was_deflated: bool,
}

impl Received {
    #[track_caller]
    pub fn json(&self) -> Value {
        assert_eq!(self.opcode, TEXT, "{self:?}");
        serde_json::from_slice(&self.message).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }
}

/// See the module.
pub struct DeflateClient {
    pub wire: Wire,
}

impl Server {
    /// A client that agrees on compression on `path`.
    pub fn deflating(&self, path: &str) -> DeflateClient {
        DeflateClient::open(self.connect(), path, &[])
    }

    /// The same in `hi.v1`, with its `hello`.
    pub fn deflating_v1(&self, query: &str) -> (DeflateClient, Received) {
        let lines = ["Sec-WebSocket-Protocol: hi.v1"];
        let mut client = DeflateClient::open(self.connect(), &format!("/ws?{query}"), &lines);
        let hello = client.next();
        assert_eq!(hello.json()["Op"], "hello", "{hello:?}");
        (client, hello)
    }
}

impl DeflateClient {
    /// Over a connection of one's own, with further lines in the head of the request.
    #[track_caller]
    pub fn open(stream: TcpStream, path: &str, lines: &[&str]) -> Self {
        let mut wire = Wire::new(stream);
        wire.send(handshake_but(path, &[], &[&[OFFER], lines].concat()));
        assert_eq!(wire.expect_101().header("Sec-WebSocket-Extensions"), Some(AGREED));
        Self { wire }
    }

    /// Sends a compressed text.
    #[track_caller]
    pub fn send_text(&mut self, text: &str) {
        self.wire.send(deflated_frame(TEXT, text.as_bytes()));
    }

    /// The next message, decompressed.
    #[track_caller]
    pub fn next(&mut self) -> Received {
        let Frame { first, payload } = self.wire.frame();
        let (opcode, was_deflated) = (first & 0x0f, first & RSV1 != 0);
        assert!(first & 0xb0 == FIN && [TEXT, BINARY].contains(&opcode), "a message, not {first:#x} {payload:?}");
        Received { opcode, message: if was_deflated { inflated(&payload) } else { payload }, was_deflated }
    }

    /// The next message, as JSON.
    #[track_caller]
    pub fn json(&mut self) -> Value {
        self.next().json()
    }

    /// Asks for something in `hi.v1`, and returns what comes next.
    #[track_caller]
    pub fn ask(&mut self, request: &Value) -> Received {
        self.send_text(&request.to_string());
        self.next()
    }

    /// Joins a room in `hi.v1`, with what is known of it, and returns the answer.
    #[track_caller]
    pub fn join_room(&mut self, room: &str, since: Option<&Value>) -> Value {
        let answer = self.ask(&json!({"Op": "join", "Ref": "join", "Room": room, "Since": since}));
        let json = answer.json();
        assert!(json["Op"] == "ok" && json["Room"] == room && !answer.was_deflated, "{answer:?}");
        json
    }
}
