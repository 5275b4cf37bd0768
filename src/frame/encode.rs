//! Server frames of RFC 6455: whole (FIN), unmasked, ready to be shared by every member of a room.
//!
//! Each is one [`Bytes`], header and payload together, so that it is written once and sent any number of times.

use bytes::{Buf, Bytes};

use super::decode::close_code_is_sendable;
use super::{OpCode, RSV1};
use crate::limits::{CLOSE_REASON_BYTES_MAX, CONTROL_BYTES_MAX};

/// The bit of a message's last frame; hi's messages have one frame.
const FIN: u8 = 0x80;
/// Longest header of a server's frame, in bytes: 2 and the 64-bit length (RFC 6455 section 5.2).
const HEADER_BYTES_MAX: usize = 10;
/// Bytes that may be allocated beyond a frame's length: what waits for a slow member is accounted by length.
const SPARE_BYTES_MAX: usize = 1024;

/// A frame with this payload (RFC 6455 section 5.2). A text payload must be UTF-8: it isn't checked here.
///
/// A close frame without a code, the answer to one without, is `frame(OpCode::Close, b"")`.
///
/// # Panics
/// If a control frame's payload is longer than 125 bytes, or the opcode is a continuation: the server sends whole
/// messages.
pub fn frame(opcode: OpCode, payload: &[u8]) -> Bytes {
    whole(header(opcode, payload), payload)
}

/// A frame like `like`, one of ours, with its payload in compressed form (RFC 7692 section 6.1).
pub(crate) fn deflated(like: &[u8], payload: &[u8]) -> Bytes {
    let (mut header, header_bytes) = header(opcode(like), payload);
    header[0] |= RSV1;
    whole((header, header_bytes), payload)
}

fn whole((header, header_bytes): ([u8; HEADER_BYTES_MAX], usize), payload: &[u8]) -> Bytes {
    let mut bytes = Vec::with_capacity(header_bytes + payload.len());
    bytes.extend_from_slice(&header[..header_bytes]);
    bytes.extend_from_slice(payload);
    Bytes::from(bytes)
}

/// The payload of the first of several whole frames of ours, and the frames after it.
///
/// # Panics
/// If there is no whole frame.
pub(crate) fn split(frames: &[u8]) -> (&[u8], &[u8]) {
    // Ours are unmasked: the second byte is the length, or tells how many bytes of it follow (RFC 6455 section 5.2).
    let (start, len) = match frames[1] {
        126 => (4, usize::from(u16::from_be_bytes([frames[2], frames[3]]))),
        127 => {
            let len = frames[2..10].try_into().expect("eight bytes");
            (10, usize::try_from(u64::from_be_bytes(len)).expect("it is in memory"))
        }
        len => (2, usize::from(len)),
    };
    (&frames[start..start + len], &frames[start + len..])
}

/// The opcode of a whole frame of ours.
pub(crate) fn opcode(frame: &[u8]) -> OpCode {
    OpCode::parse(frame[0] & 0x0f).expect("a frame of ours")
}

/// A close frame with a code and a reason (RFC 6455 section 5.5.1). A reason longer than [`CLOSE_REASON_BYTES_MAX`] is cut at
/// a character boundary.
///
/// # Panics
/// If the code may not be sent: see [`close_code_is_sendable`].
pub(crate) fn close(code: u16, reason: &str) -> Bytes {
    assert!(close_code_is_sendable(code), "close code {code} may not be sent");
    let mut end = reason.len().min(CLOSE_REASON_BYTES_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let mut payload = [0; CONTROL_BYTES_MAX];
    payload[..2].copy_from_slice(&code.to_be_bytes());
    payload[2..2 + end].copy_from_slice(&reason.as_bytes()[..end]);
    frame(OpCode::Close, &payload[..2 + end])
}

/// Builds a frame whose payload has an unknown length until it is written, such as JSON.
///
/// It reserves space for the longest header, and finally writes the header right before the payload: nothing is copied or
/// moved.
#[derive(Debug)]
pub(crate) struct FrameWriter {
    /// Space for the header, then the payload so far: to be written to, not to be cut.
    pub(crate) bytes: Vec<u8>,
}

impl FrameWriter {
    /// An empty frame with space for a payload of `payload_bytes`. If the estimate is too large, up to 1 KiB of the excess stays
    /// allocated as long as the frame lives.
    pub(crate) fn with_capacity(payload_bytes: usize) -> Self {
        let mut bytes = Vec::with_capacity(HEADER_BYTES_MAX + payload_bytes);
        bytes.resize(HEADER_BYTES_MAX, 0);
        Self { bytes }
    }

    /// Bytes of the payload so far.
    pub(crate) fn payload_len(&self) -> usize {
        self.bytes.len() - HEADER_BYTES_MAX
    }

    /// The payload so far, without a frame.
    pub(crate) fn into_payload(mut self) -> Vec<u8> {
        self.bytes.split_off(HEADER_BYTES_MAX)
    }

    /// The frame, whole (RFC 6455 section 5.2). A text payload must be UTF-8: it isn't checked here.
    ///
    /// # Panics
    /// As [`frame`] does.
    pub(crate) fn finish(mut self, opcode: OpCode) -> Bytes {
        let (header, header_bytes) = header(opcode, &self.bytes[HEADER_BYTES_MAX..]);
        let start = HEADER_BYTES_MAX - header_bytes;
        self.bytes[start..HEADER_BYTES_MAX].copy_from_slice(&header[..header_bytes]);
        if self.bytes.capacity() - self.bytes.len() > SPARE_BYTES_MAX {
            self.bytes.shrink_to_fit();
        }
        let mut bytes = Bytes::from(self.bytes);
        bytes.advance(start);
        bytes
    }
}

/// The header for this payload, and its length.
fn header(opcode: OpCode, payload: &[u8]) -> ([u8; HEADER_BYTES_MAX], usize) {
    assert!(opcode != OpCode::Continuation, "the server sends whole messages");
    assert!(!opcode.is_control() || payload.len() <= CONTROL_BYTES_MAX, "a control frame has at most 125 bytes");
    let mut header = [0; HEADER_BYTES_MAX];
    header[0] = FIN | opcode as u8;
    let header_bytes = match payload.len() {
        len @ ..126 => {
            header[1] = len as u8;
            2
        }
        len @ 126..=0xffff => {
            header[1] = 126;
            header[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            4
        }
        len => {
            header[1] = 127;
            header[2..].copy_from_slice(&(len as u64).to_be_bytes());
            10
        }
    };
    (header, header_bytes)
}

#[cfg(test)]
mod tests;
