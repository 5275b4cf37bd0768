//! A WebSocket client: the handshake's keys, messages and their echo, pings, silence.

use std::io::Cursor;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fastwebsockets::{Frame, OpCode, Payload, Role, WebSocket, WebSocketError};
use rustix::rand::{GetRandomFlags, getrandom};
use serde_json::{Value, json};
use sha1::{Digest as _, Sha1};
use tokio::io::{AsyncReadExt, Chain, Join, ReadHalf, WriteHalf};
use tokio::task::coop::consume_budget;
use tokio::time::timeout;

use super::facts::{Carried, Failure, FailureKind, IdleConnection, IdleFate, RoundTrip, Step};
use super::milliseconds;
use super::net::{Stream, refusal, timed_out};

/// Appended to the key before it is hashed (RFC 6455 1.3).
const ACCEPT_GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Size of the large message: hi's default limit (`--max-message`), and more than a buffer of one page.
const LARGE_BYTES: usize = 16 * 1024;
/// Limit of a received message: no answer to ours is longer, even with JSON around the large message.
const MESSAGE_BYTES_MAX: usize = 256 * 1024;
/// How long a server may take to answer a Close before the connection is dropped.
const CLOSE_TIME: Duration = Duration::from_millis(200);
/// Close code for a message that is too big (RFC 6455 7.4.1).
const CODE_TOO_BIG: u16 = 1009;

/// The names of the doctor's users and rooms begin with this.
pub(crate) const NAME_PREFIX: &str = "hi-doctor-";

/// A unique name, for users and rooms of the doctor's own.
pub(crate) fn random_name() -> String {
    let digits: String = random_bytes::<8>().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{NAME_PREFIX}{digits}")
}

pub(crate) fn random_key() -> String {
    STANDARD.encode(random_bytes::<16>())
}

fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // The kernel's generator doesn't fail for a few bytes once the machine is up.
    let _ = getrandom(&mut bytes, GetRandomFlags::empty());
    bytes
}

/// The `Sec-WebSocket-Accept` that belongs to a key (RFC 6455 4.2.2).
pub(crate) fn accept_of(key: &str) -> String {
    STANDARD.encode(Sha1::digest(format!("{key}{ACCEPT_GUID}")))
}

/// How to speak to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// A raw room: messages come back unchanged.
    Raw,
    /// hi's chat: JSON objects.
    Chat,
    /// Not known: only pings are sent, unless hi's welcome comes.
    Unknown,
}

/// A connection whose first bytes have been read already.
type Resumed = Join<Chain<Cursor<Vec<u8>>, ReadHalf<Stream>>, WriteHalf<Stream>>;

/// A WebSocket after its handshake.
pub(crate) struct Socket {
    frames: WebSocket<Resumed>,
    /// The beginning of a fragmented message; at most [`MESSAGE_BYTES_MAX`].
    begun: Vec<u8>,
    /// The room and the user of the doctor.
    name: String,
    /// Whether hi has welcomed us.
    welcomed: bool,
}

enum Came {
    Message(Vec<u8>),
    Pong(Vec<u8>),
    Ping(Vec<u8>),
}

impl Socket {
    /// A WebSocket on a connection after its handshake; `leftover` came behind the answer.
    pub(crate) fn new(stream: Stream, leftover: Vec<u8>, name: &str) -> Self {
        let (read, write) = tokio::io::split(stream);
        let mut socket =
            WebSocket::after_handshake(tokio::io::join(Cursor::new(leftover).chain(read), write), Role::Client);
        socket.set_auto_pong(false);
        socket.set_max_message_size(MESSAGE_BYTES_MAX);
        Self { frames: socket, begun: Vec::new(), name: name.to_owned(), welcomed: false }
    }

    /// Sends a ping, a message and, if `large`, one of 16 KiB, and waits for each to come back.
    pub(crate) async fn converse(&mut self, path: &str, dialect: Dialect, large: bool, step_time: Duration) -> Carried {
        let mut carried = Carried {
            path: path.to_owned(),
            note: None,
            message: Step::Skipped,
            ping: self.timed(step_time, "pong", Self::ping).await,
            large: Step::Skipped,
            welcomed: self.welcomed,
        };
        // Where its echo is off, hi is known by its welcome.
        let (dialect, large) = if self.welcomed { (Dialect::Chat, true) } else { (dialect, large) };
        if dialect == Dialect::Unknown || matches!(carried.ping, Step::Failed(_)) && dialect != Dialect::Raw {
            return carried;
        }
        let small = format!("{}: are you there?", self.name);
        carried.message =
            self.timed(step_time, "message that came back", async |this| this.echo(dialect, small).await).await;
        if large && carried.message.done().is_some() {
            // In a chat, the JSON around the text counts towards the limit.
            let around = if dialect == Dialect::Chat { 128 } else { 0 };
            let text = "0123456789abcdef".repeat(LARGE_BYTES / 16)[around..].to_owned();
            carried.large =
                self.timed(step_time, "message that came back", async |this| this.echo(dialect, text).await).await;
        }
        carried.welcomed = self.welcomed;
        carried
    }

    /// Sends nothing for the time of `silence`, then pings.
    pub(crate) async fn be_silent(&mut self, silence: Duration, step_time: Duration) -> IdleConnection {
        let began = Instant::now();
        let mut last = began;
        let mut longest = Duration::ZERO;
        let mut server_pings = 0;
        let cut = loop {
            match timeout(silence.saturating_sub(began.elapsed()), self.next()).await {
                Err(_) => break false,
                Ok(Err(_)) => break true,
                Ok(Ok(came)) => {
                    if let Came::Ping(payload) = came {
                        server_pings += 1;
                        // A server that has stopped reading would block the pong, and with it this loop.
                        if !matches!(timeout(step_time, self.write(OpCode::Pong, payload)).await, Ok(Ok(()))) {
                            break true;
                        }
                    }
                    longest = longest.max(last.elapsed());
                    last = Instant::now();
                }
            }
        };
        let silent = if cut { last.elapsed() } else { longest.max(last.elapsed()) };
        let fate = match cut {
            true => IdleFate::Cut,
            false if self.timed(step_time, "pong", Self::ping).await.done().is_some() => IdleFate::Alive,
            false => IdleFate::Deaf,
        };
        let silent_seconds = (silent.as_secs_f64() * 10.0).round() / 10.0;
        IdleConnection { silent_seconds, fate, server_pings }
    }

    /// Closes with a handshake, without a long wait.
    pub(crate) async fn close(mut self) {
        let end = async {
            if self.frames.write_frame(Frame::close(1000, b"")).await.is_ok() {
                while self.next().await.is_ok() {}
            }
        };
        let _ = timeout(CLOSE_TIME, end).await;
    }

    async fn timed(
        &mut self,
        step_time: Duration,
        what: &str,
        step: impl AsyncFnOnce(&mut Self) -> Result<(), Failure>,
    ) -> Step<RoundTrip> {
        let began = Instant::now();
        match timeout(step_time, step(self)).await {
            Ok(Ok(())) => Step::Done(RoundTrip { ms: milliseconds(began.elapsed()) }),
            Ok(Err(failure)) => Step::Failed(failure),
            Err(_) => Step::Failed(timed_out(what, step_time)),
        }
    }

    async fn ping(&mut self) -> Result<(), Failure> {
        let payload = random_bytes::<8>().to_vec();
        self.write(OpCode::Ping, payload.clone()).await?;
        loop {
            match self.next_answered().await? {
                Came::Pong(pong) if pong == payload => return Ok(()),
                _ => {}
            }
        }
    }

    async fn echo(&mut self, dialect: Dialect, text: String) -> Result<(), Failure> {
        let sent = match dialect {
            Dialect::Chat => json!({ "Room": self.name, "Message": text }).to_string(),
            Dialect::Raw | Dialect::Unknown => text.clone(),
        };
        self.write(OpCode::Text, sent.into_bytes()).await?;
        loop {
            let Came::Message(bytes) = self.next_answered().await? else { continue };
            let is_ours = match dialect {
                Dialect::Chat => serde_json::from_slice::<Value>(&bytes).is_ok_and(|value| value["Message"] == *text),
                Dialect::Raw | Dialect::Unknown => bytes == text.as_bytes(),
            };
            if is_ours {
                return Ok(());
            }
        }
    }

    /// The next event that is not a ping; pings are answered.
    async fn next_answered(&mut self) -> Result<Came, Failure> {
        loop {
            match self.next().await? {
                Came::Ping(payload) => self.write(OpCode::Pong, payload).await?,
                came => return Ok(came),
            }
        }
    }

    async fn next(&mut self) -> Result<Came, Failure> {
        loop {
            // Reading frames that have already arrived never yields: without this, a flood of them would outlast every limit.
            consume_budget().await;
            let frame = self.frames.read_frame().await.map_err(|error| failure(&error))?;
            match frame.opcode {
                OpCode::Ping => return Ok(Came::Ping(frame.payload.to_vec())),
                OpCode::Pong => return Ok(Came::Pong(frame.payload.to_vec())),
                OpCode::Close => return Err(closed(&frame.payload)),
                OpCode::Text | OpCode::Binary => self.begun.clear(),
                OpCode::Continuation => {}
            }
            if self.begun.len() + frame.payload.len() > MESSAGE_BYTES_MAX {
                return Err(Failure::new(FailureKind::NotWebsocket, "a message arrives that does not end"));
            }
            self.begun.extend_from_slice(&frame.payload);
            if frame.fin {
                let message = std::mem::take(&mut self.begun);
                self.welcomed |= self.is_welcome(&message);
                return Ok(Came::Message(message));
            }
        }
    }

    /// hi announces each user who enters a room, in the name of the room.
    fn is_welcome(&self, payload: &[u8]) -> bool {
        let room = format!("#{}", self.name);
        serde_json::from_slice::<Value>(payload).is_ok_and(|value| value["From"] == *room && value["Meta"] == true)
    }

    async fn write(&mut self, opcode: OpCode, payload: Vec<u8>) -> Result<(), Failure> {
        let frame = Frame::new(true, opcode, None, Payload::Owned(payload));
        self.frames.write_frame(frame).await.map_err(|error| failure(&error))
    }
}

fn closed(payload: &[u8]) -> Failure {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return Failure::new(FailureKind::Closed, "the server closed the WebSocket");
    };
    let code = u16::from_be_bytes(*code);
    let reason = String::from_utf8_lossy(reason).replace(char::is_control, " ");
    let kind = if code == CODE_TOO_BIG { FailureKind::TooBig } else { FailureKind::Closed };
    Failure::new(kind, format!("the server closed the WebSocket with {code} {reason}").trim_end())
}

fn failure(error: &WebSocketError) -> Failure {
    match error {
        WebSocketError::IoError(error) => refusal(error),
        WebSocketError::UnexpectedEOF | WebSocketError::ConnectionClosed => {
            Failure::new(FailureKind::Closed, "the connection was ended")
        }
        error => Failure::new(FailureKind::NotWebsocket, format!("what arrives is not a WebSocket frame: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_key_is_that_of_the_rfc() {
        assert_eq!(accept_of("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn names_are_valid_and_never_the_same() {
        let (one, other) = (random_name(), random_name());
        assert!(one.len() == 26 && one != other, "{one} {other}");
    }
}
