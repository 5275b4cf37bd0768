//! The wire as clients see it: frames and server-sent events. Shares no code with the server's own.

use std::io::{ErrorKind, Read};

use bytes::{Buf, Bytes, BytesMut};
use flate2::read::DeflateDecoder;
use flate2::{Compress, Compression, FlushCompress};

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

/// Marks the first frame of a compressed message (RFC 7692, 6).
const DEFLATED: u8 = 0x40;
/// What compressed messages leave out at their end (RFC 7692, 7.2.1).
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];

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

/// A message, in one frame or in several; one of a client that `deflates` is often compressed.
pub fn message(random: &Random, deflates: bool, opcode: u8, payload: &[u8]) -> Vec<u8> {
    if deflates && random.one_in(2) {
        return frames(random, DEFLATED | opcode, &deflated(payload));
    }
    frames(random, opcode, payload)
}

/// The payload of a compressed message.
fn deflated(message: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(message.len() + message.len() / 8 + 64);
    let mut compress = Compress::new(Compression::fast(), false);
    compress.compress_vec(message, &mut bytes, FlushCompress::Sync).expect("a compressor takes anything");
    bytes.truncate(bytes.len() - TAIL.len());
    bytes
}

/// The message in the payload of a compressed one.
fn inflated(payload: &[u8]) -> Bytes {
    let mut message = Vec::new();
    let input = [payload, &TAIL].concat();
    let mut decoder = DeflateDecoder::new(&input[..]);
    // There is no last block, so the decoder asks for more at the end.
    let end = decoder.read_to_end(&mut message).map_err(|error| error.kind());
    assert!(matches!(end, Ok(_) | Err(ErrorKind::UnexpectedEof)), "deflate data, not {end:?}");
    message.into()
}

fn frames(random: &Random, opcode: u8, payload: &[u8]) -> Vec<u8> {
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
#[derive(Debug)]
pub struct Reader {
    bytes: BytesMut,
    /// Whether compression was agreed on.
    deflates: bool,
}

/// A frame of the server.
#[derive(Debug)]
pub struct Frame {
    /// What it is.
    pub opcode: u8,
    /// Its payload, decompressed.
    pub payload: Bytes,
    /// Whether it came compressed.
    pub was_deflated: bool,
}

impl Reader {
    /// Nothing has come yet.
    pub fn new(deflates: bool) -> Self {
        Self { bytes: BytesMut::new(), deflates }
    }

    /// Appends what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Whether a frame or an event is cut off.
    pub fn is_cut_off(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// The head of the answer, once it is whole.
    pub fn head(&mut self) -> Option<Bytes> {
        self.until(b"\r\n\r\n")
    }

    fn until(&mut self, end: &[u8]) -> Option<Bytes> {
        let at = self.bytes.windows(end.len()).position(|window| window == end)?;
        Some(self.bytes.split_to(at + end.len()).freeze())
    }

    /// The next frame.
    ///
    /// # Panics
    /// If a server may not send that.
    pub fn frame(&mut self) -> Option<Frame> {
        let first = *self.bytes.first()?;
        let opcode = first & 15;
        let was_deflated = self.deflates && [TEXT, BINARY].contains(&opcode) && first & DEFLATED != 0;
        let reserved = if was_deflated { 0x30 } else { 0x70 };
        assert!(first & (0x80 | reserved) == 0x80, "whole frames, no extension but one, not {first:#x}");
        let (header, len) = match *self.bytes.get(1)? {
            127 => (10, u64::from_be_bytes(self.bytes.get(2..10)?.try_into().expect("eight bytes")) as usize),
            126 => (4, u16::from_be_bytes(self.bytes.get(2..4)?.try_into().expect("two bytes")).into()),
            len @ 0..126 => (2, len.into()),
            masked => panic!("a server masks nothing, but {masked:#x}"),
        };
        if self.bytes.len() < header + len {
            return None;
        }
        self.bytes.advance(header);
        let payload = self.bytes.split_to(len).freeze();
        Some(Frame { opcode, payload: if was_deflated { inflated(&payload) } else { payload }, was_deflated })
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
