//! The messages; both sides know every byte of each.

use hi::frame::OpCode;

/// Digits of the message's number, which is repeated throughout the payload.
const DIGITS: usize = 8;
/// Bytes of a payload compared at once.
const COMPARED_BYTES: usize = 16 * 1024;

/// Messages of one size.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frames {
    /// Bytes of each payload.
    pub(crate) payload_bytes: usize,
}

impl Frames {
    /// Text at the size of a chat message, otherwise binary.
    fn opcode(self) -> OpCode {
        if self.payload_bytes < 1024 { OpCode::Text } else { OpCode::Binary }
    }

    fn payload(self, message: u32) -> Vec<u8> {
        digits(message).iter().copied().cycle().take(self.payload_bytes).collect()
    }

    /// As a server sends it.
    pub(crate) fn frame(self, message: u32) -> Vec<u8> {
        hi::frame::encode::frame(self.opcode(), &self.payload(message)).to_vec()
    }

    /// As a client sends it: masked, with a zero mask.
    pub(crate) fn masked(self, message: u32) -> Vec<u8> {
        let mut frame = self.frame(message);
        frame[1] |= 0x80;
        let head = self.head_bytes();
        frame.splice(head..head, [0; 4]);
        frame
    }

    /// The pattern that payloads are compared with; long enough to start at any digit.
    fn pattern(self, message: u32) -> Vec<u8> {
        digits(message).repeat(self.payload_bytes.min(COMPARED_BYTES) / DIGITS + 2)
    }

    /// Length of a frame in bytes.
    pub(crate) fn len(self) -> u64 {
        (self.head_bytes() + self.payload_bytes) as u64
    }

    fn head_bytes(self) -> usize {
        match self.payload_bytes {
            0..126 => 2,
            126..65_536 => 4,
            _ => 10,
        }
    }
}

fn digits(message: u32) -> [u8; DIGITS] {
    format!("{message:08}").into_bytes().try_into().expect("eight digits")
}

/// Compares what arrives with what is expected; remembers the last message compared.
pub(crate) struct Expected {
    frames: Frames,
    head: Vec<u8>,
    message: u32,
    pattern: Vec<u8>,
}

impl Expected {
    pub(crate) fn new(frames: Frames) -> Self {
        let mut head = frames.frame(0);
        head.truncate(frames.head_bytes());
        Self { pattern: frames.pattern(0), frames, head, message: 0 }
    }

    /// Checks `bytes`, found at offset `at` of the whole stream. Returns how many were checked.
    pub(crate) fn take(&mut self, at: u64, bytes: &[u8]) -> usize {
        let (message, offset) = ((at / self.frames.len()) as u32, (at % self.frames.len()) as usize);
        if let Some(head) = self.head.get(offset..).filter(|head| !head.is_empty()) {
            let count = head.len().min(bytes.len());
            assert_eq!(bytes[..count], head[..count], "the head of message {message}");
            return count;
        }
        if message != self.message {
            (self.message, self.pattern) = (message, self.frames.pattern(message));
        }
        let offset = offset - self.head.len();
        let count = bytes.len().min(self.frames.payload_bytes - offset).min(COMPARED_BYTES);
        let start = offset % DIGITS;
        assert!(bytes[..count] == self.pattern[start..start + count], "the payload of message {message}");
        count
    }
}
