//! Two client libraries that share no code with the server agree with it: tungstenite, and fastwebsockets' client over
//! hyper and tokio.

mod support;

use std::collections::VecDeque;
use std::future::Future;

use fastwebsockets::{Frame, OpCode, Payload, WebSocket, WebSocketError};
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::header::{CONNECTION, HOST, UPGRADE};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use rustix::process::Signal;
use support::{Client, PATIENCE, Server, seeded};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tungstenite::Message;
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::Frame as TungsteniteFrame;
use tungstenite::protocol::frame::coding::{Data, OpCode as TungsteniteOpCode};

const MAX_MESSAGE: [&str; 2] = ["--max-message", "1m"];

/// A message; its type tells text from binary.
#[derive(Clone, PartialEq, Eq)]
enum Said {
    Text(Vec<u8>),
    Binary(Vec<u8>),
}

impl Said {
    fn bytes(&self) -> &[u8] {
        let (Self::Text(bytes) | Self::Binary(bytes)) = self;
        bytes
    }

    fn is_text(&self) -> bool {
        matches!(self, Self::Text(_))
    }
}

/// What a client receives, except pings, which the libraries answer.
enum Heard {
    Message(Said),
    Pong(Vec<u8>),
    Close(Option<u16>),
}

/// A client library.
trait Oracle: Send {
    /// Sends one fragment of a message.
    fn send(&mut self, first: bool, fin: bool, fragment: Said);
    fn ping(&mut self, payload: &[u8]);
    fn hear(&mut self) -> Heard;
    /// Starts the close handshake.
    fn close(&mut self, code: u16);
    /// Whether the stream has ended cleanly.
    fn has_ended(&mut self) -> bool;
}

impl Oracle for Client {
    fn send(&mut self, first: bool, fin: bool, fragment: Said) {
        let data = match (first, &fragment) {
            (false, _) => Data::Continue,
            (true, Said::Text(_)) => Data::Text,
            (true, Said::Binary(_)) => Data::Binary,
        };
        let frame = TungsteniteFrame::message(fragment.bytes().to_vec(), TungsteniteOpCode::Data(data), fin);
        self.socket.send(Message::Frame(frame)).expect("hi takes it");
    }

    fn ping(&mut self, payload: &[u8]) {
        self.socket.send(Message::Ping(payload.to_vec().into())).expect("hi takes it");
    }

    fn hear(&mut self) -> Heard {
        loop {
            return match self.socket.read().expect("a valid frame") {
                Message::Text(text) => Heard::Message(Said::Text(text.as_bytes().to_vec())),
                Message::Binary(bytes) => Heard::Message(Said::Binary(bytes.to_vec())),
                Message::Pong(payload) => Heard::Pong(payload.to_vec()),
                Message::Close(frame) => Heard::Close(frame.map(|frame| frame.code.into())),
                Message::Ping(_) => continue,
                Message::Frame(_) => unreachable!("is only ever sent"),
            };
        }
    }

    fn close(&mut self, code: u16) {
        self.socket.close(Some(CloseFrame { code: code.into(), reason: "bye".into() })).expect("hi takes it");
    }

    fn has_ended(&mut self) -> bool {
        matches!(self.socket.read(), Err(tungstenite::Error::ConnectionClosed))
    }
}

/// fastwebsockets' client, with its own runtime.
struct Fast {
    socket: WebSocket<TokioIo<Upgraded>>,
    runtime: Runtime,
}

/// Hands hyper's tasks to tokio.
struct Spawn;

impl<F> hyper::rt::Executor<F> for Spawn
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        tokio::spawn(future);
    }
}

impl Fast {
    fn connect(server: &Server, path: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let address = server.address();
        let request = hyper::Request::get(path)
            .header(HOST, address.to_string())
            .header(UPGRADE, "websocket")
            .header(CONNECTION, "upgrade")
            .header("Sec-WebSocket-Key", fastwebsockets::handshake::generate_key())
            .header("Sec-WebSocket-Version", "13")
            .body(Empty::<Bytes>::new())
            .unwrap();
        let socket = runtime.block_on(async {
            let stream = TcpStream::connect(address).await.expect("hi accepts");
            let (socket, _) = fastwebsockets::handshake::client(&Spawn, request, stream).await.expect("hi upgrades");
            socket
        });
        Self { socket, runtime }
    }

    fn write(&mut self, frame: Frame<'static>) {
        wait(&self.runtime, self.socket.write_frame(frame)).expect("hi takes it");
    }
}

fn wait<T>(runtime: &Runtime, future: impl Future<Output = T>) -> T {
    runtime.block_on(async { tokio::time::timeout(PATIENCE, future).await.expect("in time") })
}

impl Oracle for Fast {
    fn send(&mut self, first: bool, fin: bool, fragment: Said) {
        let opcode = match (first, &fragment) {
            (false, _) => OpCode::Continuation,
            (true, Said::Text(_)) => OpCode::Text,
            (true, Said::Binary(_)) => OpCode::Binary,
        };
        self.write(Frame::new(fin, opcode, None, Payload::Owned(fragment.bytes().to_vec())));
    }

    fn ping(&mut self, payload: &[u8]) {
        self.write(Frame::new(true, OpCode::Ping, None, Payload::Owned(payload.to_vec())));
    }

    fn hear(&mut self) -> Heard {
        let frame = wait(&self.runtime, self.socket.read_frame()).expect("a valid frame");
        assert!(frame.fin, "hi relays whole messages");
        let payload = frame.payload.to_vec();
        match frame.opcode {
            OpCode::Text => Heard::Message(Said::Text(payload)),
            OpCode::Binary => Heard::Message(Said::Binary(payload)),
            OpCode::Pong => Heard::Pong(payload),
            OpCode::Close => Heard::Close(payload.first_chunk().map(|code| u16::from_be_bytes(*code))),
            other => panic!("{other:?}"),
        }
    }

    fn close(&mut self, code: u16) {
        self.write(Frame::close(code, b"bye"));
    }

    fn has_ended(&mut self) -> bool {
        // A reset would be another error.
        matches!(wait(&self.runtime, self.socket.read_frame()), Err(WebSocketError::UnexpectedEOF))
    }
}

/// Both libraries, with `each` clients of both in the room.
fn oracles(server: &Server, path: &str, each: usize) -> Vec<(&'static str, Box<dyn Oracle>)> {
    let mut all: Vec<(_, Box<dyn Oracle>)> = Vec::new();
    for _ in 0..each {
        all.push(("tungstenite", Box::new(server.websocket(path))));
        all.push(("fastwebsockets", Box::new(Fast::connect(server, path))));
    }
    all
}

fn random_message(random: &mut fastrand::Rng, bytes_max: usize) -> Said {
    let most = random.choice([130, 5000, bytes_max]).unwrap_or_default();
    let bytes = random.usize(0..=most.min(bytes_max));
    if random.bool() {
        return Said::Binary(std::iter::repeat_with(|| random.u8(..)).take(bytes).collect());
    }
    let mut text = String::new();
    while text.len() + 4 <= bytes {
        // Characters of one to four bytes.
        let last = random.choice(['\u{7f}', '\u{7ff}', '\u{ffff}', char::MAX]).unwrap_or_default();
        text.push(random.char('\0'..=last));
    }
    Said::Text(text.into_bytes())
}

/// Sends a message in up to four fragments, split anywhere (even within characters), with pings in between. Returns the
/// pings' payloads. hi queues 16 pongs for a peer that doesn't read.
fn send_in_fragments(oracle: &mut dyn Oracle, message: &Said, random: &mut fastrand::Rng) -> Vec<Vec<u8>> {
    let bytes = message.bytes();
    let mut cuts: Vec<_> = (0..random.usize(0..4)).map(|_| random.usize(0..=bytes.len())).collect();
    cuts.sort_unstable();
    cuts.insert(0, 0);
    cuts.push(bytes.len());
    let mut pings = Vec::new();
    for (at, cut) in cuts.windows(2).enumerate() {
        let fragment = bytes[cut[0]..cut[1]].to_vec();
        let fragment = if message.is_text() { Said::Text(fragment) } else { Said::Binary(fragment) };
        oracle.send(at == 0, at + 2 == cuts.len(), fragment);
        if random.u8(0..4) == 0 {
            let payload = random.u64(..).to_be_bytes().repeat(random.usize(0..=15));
            oracle.ping(&payload);
            pings.push(payload);
        }
    }
    pings
}

fn expect_close(oracle: &mut dyn Oracle) -> Option<u16> {
    match oracle.hear() {
        Heard::Close(code) => code,
        Heard::Message(said) => panic!("a message of {} bytes instead of a Close", said.bytes().len()),
        Heard::Pong(_) => panic!("a pong instead of a Close"),
    }
}

#[test]
fn messages_of_any_size_and_fragmentation_come_back_byte_for_byte() {
    let server = Server::start(&MAX_MESSAGE);
    let mut random = seeded();
    let oracles: [(_, Box<dyn Oracle>); 2] = [
        ("tungstenite", Box::new(server.websocket("/raw/tungstenite"))),
        ("fastwebsockets", Box::new(Fast::connect(&server, "/raw/fastwebsockets"))),
    ];
    for (name, mut oracle) in oracles {
        for round in 0..60 {
            // Several at once: later ones are sent while earlier ones come back.
            let messages: Vec<_> = (0..random.usize(1..=4)).map(|_| random_message(&mut random, 200 * 1024)).collect();
            let mut pings = VecDeque::new();
            for message in &messages {
                pings.extend(send_in_fragments(&mut *oracle, message, &mut random));
            }
            let mut owed = messages.iter().enumerate();
            let mut heard = 0;
            while heard < messages.len() || !pings.is_empty() {
                match oracle.hear() {
                    Heard::Pong(payload) => assert!(Some(payload) == pings.pop_front(), "{name}: another pong"),
                    Heard::Message(said) => {
                        let (at, message) = owed.next().expect("as many as were sent");
                        let (sent, came) = (message.bytes(), said.bytes());
                        assert_eq!(
                            (said.is_text(), came.len()),
                            (message.is_text(), sent.len()),
                            "{name} {round}.{at}"
                        );
                        assert!(
                            said == *message,
                            "{name} {round}.{at}: {:?}",
                            sent.iter().zip(came).position(|(a, b)| a != b)
                        );
                        heard += 1;
                    }
                    Heard::Close(code) => panic!("{name}: closed with {code:?}"),
                }
            }
        }
        oracle.close(1000);
        assert_eq!(expect_close(&mut *oracle), Some(1000), "{name}");
        assert!(oracle.has_ended(), "{name}: hi ends the stream, in order");
    }
}

#[test]
fn both_libraries_see_one_room_in_one_order() {
    const EACH: usize = 100;
    let server = Server::start(&MAX_MESSAGE);
    let mut random = seeded();
    let oracles = oracles(&server, "/raw/room", 2);
    let count = oracles.len();
    let heard: Vec<Vec<Vec<u8>>> = std::thread::scope(|scope| {
        let members: Vec<_> = oracles
            .into_iter()
            .enumerate()
            .map(|(id, (_, mut oracle))| {
                let mut random = random.fork();
                scope.spawn(move || {
                    let mut heard = Vec::new();
                    for number in 0..EACH {
                        let body = random_message(&mut random, 3000);
                        let mark = [&[id as u8, number as u8], body.bytes()].concat();
                        send_in_fragments(&mut *oracle, &Said::Binary(mark.clone()), &mut random);
                        // No client gets ahead of what it receives: that would be another test.
                        while heard.last() != Some(&mark) {
                            hear_message(&mut *oracle, &mut heard);
                        }
                    }
                    while heard.len() < EACH * count {
                        hear_message(&mut *oracle, &mut heard);
                    }
                    heard
                })
            })
            .collect();
        members.into_iter().map(|member| member.join().unwrap()).collect()
    });
    for (id, member) in heard.iter().enumerate() {
        assert!(*member == heard[0], "member {id} saw another sequence than member 0");
        let own = heard[0].iter().filter(|message| message[0] == id as u8).map(|message| message[1]);
        assert!(own.eq(0..EACH as u8), "what member {id} sent came once each, in order");
    }
}

fn hear_message(oracle: &mut dyn Oracle, heard: &mut Vec<Vec<u8>>) {
    match oracle.hear() {
        Heard::Message(said) => heard.push(said.bytes().to_vec()),
        Heard::Pong(_) => {}
        Heard::Close(code) => panic!("closed with {code:?}"),
    }
}

#[test]
fn pings_come_back_to_both_libraries() {
    let server = Server::start(&[]);
    for (name, mut oracle) in oracles(&server, "/raw/ping", 1) {
        for bytes in [0, 1, 124, 125] {
            let payload = vec![b'p'; bytes];
            oracle.ping(&payload);
            assert!(matches!(oracle.hear(), Heard::Pong(pong) if pong == payload), "{name}, {bytes} bytes");
        }
    }
}

#[test]
fn both_libraries_close_cleanly_from_either_side() {
    let mut server = Server::start(&[]);
    for code in [1000, 1001, 3000, 4999] {
        for (name, mut oracle) in oracles(&server, "/raw/close", 1) {
            oracle.close(code);
            assert_eq!(expect_close(&mut *oracle), Some(code), "{name}");
            assert!(oracle.has_ended(), "{name}");
        }
    }
    let mut oracles = oracles(&server, "/raw/close", 3);
    server.signal(Signal::TERM);
    for (name, oracle) in &mut oracles {
        assert_eq!(expect_close(&mut **oracle), Some(1001), "{name}");
        // The libraries have answered, or answer now.
        assert!(oracle.has_ended(), "{name}");
    }
    assert!(server.wait().success());
}

#[test]
fn messages_beyond_the_limit_are_1009_for_both_libraries() {
    let server = Server::start(&[]);
    for (name, mut oracle) in oracles(&server, "/raw/large", 1) {
        oracle.send(true, false, Said::Binary(vec![0; 16 * 1024]));
        oracle.send(false, true, Said::Binary(vec![0; 1]));
        assert_eq!(expect_close(&mut *oracle), Some(1009), "{name}");
    }
}
