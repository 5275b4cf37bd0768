//! The wire as clients see it: frames and server-sent events. Shares no code with the server's own.

use bytes::{Buf, Bytes, BytesMut};

use crate::random::Random;

/// Opcodes (RFC 6455, 5.2).
pub const CONTINUATION: u8 = 0;
/// Text.
pub const TEXT: u8 = 1;
/// Binary.
pub const BINARY: u8 = 2;
/// Close.
pub const CLOSE: u8 = 8;
/// Ping.
pub const PING: u8 = 9;
/// Pong.
pub const PONG: u8 = 10;

/// A frame of a client, masked.
pub fn frame(random: &Random, fin: bool, opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![if fin { 0x80 } else { 0 } | opcode];
    match payload.len() {
        len @ 0..126 => frame.push(0x80 | len as u8),
        len @ 126..0x1_0000 => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    let mask = (random.number() as u32).to_be_bytes();
    frame.extend_from_slice(&mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// A message, in one frame or in several.
pub fn message(random: &Random, opcode: u8, payload: &[u8]) -> Vec<u8> {
    if payload.len() < 2 || !random.one_in(8) {
        return frame(random, true, opcode, payload);
    }
    let (first, rest) = payload.split_at(random.below(payload.len()));
    let mut frames = frame(random, false, opcode, first);
    if random.one_in(2) {
        frames.extend(frame(random, true, PONG, b"in between"));
    }
    frames.extend(frame(random, true, CONTINUATION, rest));
    frames
}

/// An event of a stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// `event:`, empty if there is none.
    pub name: String,
    /// `id:`, as epoch and `Seq`.
    pub id: Option<(u64, u64)>,
    /// `data:`
    pub data: Bytes,
    /// Whether there was a `retry:`.
    pub retry: bool,
}

/// What has come of a connection and was not understood yet.
#[derive(Debug, Default)]
pub struct Reader(BytesMut);

impl Reader {
    /// Appends what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Whether a frame or an event is cut off.
    pub fn is_cut_off(&self) -> bool {
        !self.0.is_empty()
    }

    /// The head of the answer, once it is whole.
    pub fn head(&mut self) -> Option<Bytes> {
        self.until(b"\r\n\r\n")
    }

    fn until(&mut self, end: &[u8]) -> Option<Bytes> {
        let at = self.0.windows(end.len()).position(|window| window == end)?;
        Some(self.0.split_to(at + end.len()).freeze())
    }

    /// The next frame: opcode and payload.
    ///
    /// # Panics
    /// If a server may not send that.
    pub fn frame(&mut self) -> Option<(u8, Bytes)> {
        let first = *self.0.first()?;
        assert!(first & 0xf0 == 0x80, "whole frames without extensions, not {first:#x}");
        let (header, len) = match *self.0.get(1)? {
            127 => (10, u64::from_be_bytes(self.0.get(2..10)?.try_into().expect("eight bytes")) as usize),
            126 => (4, u16::from_be_bytes(self.0.get(2..4)?.try_into().expect("two bytes")).into()),
            len @ 0..126 => (2, len.into()),
            masked => panic!("a server masks nothing, but {masked:#x}"),
        };
        if self.0.len() < header + len {
            return None;
        }
        self.0.advance(header);
        Some((first & 15, self.0.split_to(len).freeze()))
    }

    /// The next event; a comment is one without anything.
    ///
    /// # Panics
    /// If it can't be read.
    pub fn event(&mut self) -> Option<Event> {
        let block = self.until(b"\n\n")?;
        let mut event = Event::default();
        for line in block[..block.len() - 2].split(|byte| *byte == b'\n') {
            let text = String::from_utf8_lossy(line);
            match text.split_once(": ") {
                Some(("id", id)) => event.id = Some(position(id)),
                Some(("data", _)) => event.data = block.slice_ref(&line[6..]),
                Some(("event", name)) => name.clone_into(&mut event.name),
                Some(("retry", _)) => event.retry = true,
                _ => assert!(line.first() == Some(&b':'), "neither a field nor a comment: {text}"),
            }
        }
        Some(event)
    }
}

/// Reads an `id:`.
fn position(id: &str) -> (u64, u64) {
    let (epoch, seq) = id.split_once(':').expect("an epoch and a Seq");
    (epoch_number(epoch), seq.parse().expect("a number"))
}

/// Reads an epoch.
pub fn epoch_number(text: &str) -> u64 {
    u64::from_str_radix(text, 16).expect("an epoch is a hexadecimal number")
}
