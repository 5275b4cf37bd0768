//! A WebSocket client: the handshake's keys, messages and their echo, pings, silence.

use std::io::Cursor;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fastwebsockets::{
    Frame, OpCode, Payload, Role, WebSocketError, WebSocketRead, WebSocketWrite, after_handshake_split,
};
use rustix::rand::{GetRandomFlags, getrandom};
use serde_json::{Value, json};
use sha1::{Digest as _, Sha1};
use tokio::io::{AsyncReadExt, Chain, ReadHalf, WriteHalf};
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

/// The headers with which a WebSocket is asked for (RFC 6455 4.1), beside `Host`.
pub(crate) fn upgrade_headers(key: &str) -> [(&'static str, String); 4] {
    [
        ("Upgrade", "websocket".to_owned()),
        ("Connection", "Upgrade".to_owned()),
        ("Sec-WebSocket-Key", key.to_owned()),
        ("Sec-WebSocket-Version", "13".to_owned()),
    ]
}

/// What comes through a WebSocket.
#[derive(Debug)]
pub(crate) enum Came {
    Message(Vec<u8>),
    Pong(Vec<u8>),
    Ping(Vec<u8>),
    /// The code (if there is one) and the reason of a Close.
    Close(Option<u16>, String),
}

/// The half of a WebSocket that reads.
pub(crate) struct Reader {
    frames: WebSocketRead<Chain<Cursor<Vec<u8>>, ReadHalf<Stream>>>,
    /// The beginning of a fragmented message; at most [`MESSAGE_BYTES_MAX`].
    begun: Vec<u8>,
}

/// The half of a WebSocket that writes.
pub(crate) struct Writer {
    frames: WebSocketWrite<WriteHalf<Stream>>,
}

/// The halves of a WebSocket on a connection after its handshake; `leftover` came behind the answer.
pub(crate) fn halves(stream: Stream, leftover: Vec<u8>) -> (Reader, Writer) {
    let (read, write) = tokio::io::split(stream);
    let (mut read, write) = after_handshake_split(Cursor::new(leftover).chain(read), write, Role::Client);
    read.set_auto_pong(false);
    read.set_auto_close(false);
    read.set_max_message_size(MESSAGE_BYTES_MAX);
    (Reader { frames: read, begun: Vec::new() }, Writer { frames: write })
}

impl Reader {
    /// What comes next. Must not be dropped before it has returned, unless the connection is given up.
    ///
    /// # Errors
    /// The connection has ended, or what comes is not a WebSocket's.
    pub(crate) async fn next(&mut self) -> Result<Came, Failure> {
        loop {
            // Reading frames that have already arrived never yields: without this, a flood of them would outlast every limit.
            consume_budget().await;
            // Pings and Closes are answered by the caller, or not at all.
            let mut answer_nothing = async |_: Frame<'_>| Ok::<(), WebSocketError>(());
            let frame = self.frames.read_frame(&mut answer_nothing).await.map_err(|error| failure(&error))?;
            match frame.opcode {
                OpCode::Ping => return Ok(Came::Ping(frame.payload.to_vec())),
                OpCode::Pong => return Ok(Came::Pong(frame.payload.to_vec())),
                OpCode::Close => return Ok(close(&frame.payload)),
                OpCode::Text | OpCode::Binary => self.begun.clear(),
                OpCode::Continuation => {}
            }
            if self.begun.len() + frame.payload.len() > MESSAGE_BYTES_MAX {
                return Err(Failure::new(FailureKind::NotWebsocket, "a message arrives that does not end"));
            }
            self.begun.extend_from_slice(&frame.payload);
            if frame.fin {
                return Ok(Came::Message(std::mem::take(&mut self.begun)));
            }
        }
    }
}

impl Writer {
    pub(crate) async fn write(&mut self, opcode: OpCode, payload: Vec<u8>) -> Result<(), Failure> {
        let frame = Frame::new(true, opcode, None, Payload::Owned(payload));
        self.frames.write_frame(frame).await.map_err(|error| failure(&error))
    }

    /// Sends a Close without a fault (RFC 6455 7.4.1).
    pub(crate) async fn close(&mut self) -> Result<(), Failure> {
        self.frames.write_frame(Frame::close(1000, b"")).await.map_err(|error| failure(&error))
    }
}

/// A WebSocket after its handshake.
pub(crate) struct Socket {
    reader: Reader,
    writer: Writer,
    /// The room and the user of the doctor.
    name: String,
    /// Whether hi has welcomed us.
    welcomed: bool,
}

impl Socket {
    /// A WebSocket on a connection after its handshake; `leftover` came behind the answer.
    pub(crate) fn new(stream: Stream, leftover: Vec<u8>, name: &str) -> Self {
        let (reader, writer) = halves(stream, leftover);
        Self { reader, writer, name: name.to_owned(), welcomed: false }
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
                        if !matches!(timeout(step_time, self.writer.write(OpCode::Pong, payload)).await, Ok(Ok(()))) {
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
            if self.writer.close().await.is_ok() {
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
        self.writer.write(OpCode::Ping, payload.clone()).await?;
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
        self.writer.write(OpCode::Text, sent.into_bytes()).await?;
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
                Came::Ping(payload) => self.writer.write(OpCode::Pong, payload).await?,
                came => return Ok(came),
            }
        }
    }

    /// The next event; a Close is a failure here.
    async fn next(&mut self) -> Result<Came, Failure> {
        match self.reader.next().await? {
            Came::Close(code, reason) => Err(closed(code, &reason)),
            Came::Message(message) => {
                self.welcomed |= self.is_welcome(&message);
                Ok(Came::Message(message))
            }
            came => Ok(came),
        }
    }

    /// hi announces each user who enters a room, in the name of the room.
    fn is_welcome(&self, payload: &[u8]) -> bool {
        let room = format!("#{}", self.name);
        serde_json::from_slice::<Value>(payload).is_ok_and(|value| value["From"] == *room && value["Meta"] == true)
    }
}

fn close(payload: &[u8]) -> Came {
    let Some((code, reason)) = payload.split_first_chunk() else { return Came::Close(None, String::new()) };
    let reason = String::from_utf8_lossy(reason).replace(char::is_control, " ");
    Came::Close(Some(u16::from_be_bytes(*code)), reason)
}

fn closed(code: Option<u16>, reason: &str) -> Failure {
    let Some(code) = code else {
        return Failure::new(FailureKind::Closed, "the server closed the WebSocket");
    };
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
