//! Compressed messages (permessage-deflate, RFC 7692), each one on its own: nothing is remembered from one to the next, so
//! that all members of a room can share what was compressed once, and an idle connection costs nothing.
//!
//! Both halves belong to a shard. Their memory (371 KiB to compress, 48 KiB to decompress) is allocated with their first message.

use bytes::Bytes;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::decode::{MessageKind, Violation, deflated_bytes_max};
use super::encode;
use crate::limits::{DEFLATE_SCRATCH_BYTES, DEFLATED_MESSAGE_BYTES_MAX};

/// Levels from 4 on take up to twice the time for 1 % fewer bytes of JSON; level 1 makes it a third longer.
const LEVEL: Compression = Compression::new(3);
/// The end of each compressed message, which is left out on the wire (RFC 7692 section 7.2.1).
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];
/// An empty last block: only a message whose last block is complete ends with it.
const LAST_BLOCK: [u8; 5] = [0x01, 0x00, 0x00, 0xff, 0xff];
/// How many times its compressed size a message usually has.
const USUAL_RATIO: usize = 4;
/// Bytes that the memory for a message grows by, at least.
const GROWTH_BYTES_MIN: usize = 1024;

/// Bytes before and after compression.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Volume {
    /// Bytes of plain payload.
    pub plain: u64,
    /// Bytes of the same payload, compressed.
    pub deflated: u64,
}

/// Compresses frames.
#[derive(Debug, Default)]
pub struct Deflater {
    /// Bytes of the shortest payload that is compressed.
    bytes_min: usize,
    compress: Option<Compress>,
    scratch: Vec<u8>,
    volume: Volume,
}

impl Deflater {
    /// Compresses payloads of `bytes_min` or more.
    pub fn new(bytes_min: usize) -> Self {
        Self { bytes_min, ..Self::default() }
    }

    /// The compressed form of a data frame of ours. It is the frame itself if the payload is too short or too long, or if that
    /// saves less than a tenth of it: members pay for decompression, too.
    pub fn frame(&mut self, frame: &Bytes) -> Bytes {
        let payload = encode::split(frame).0;
        if !(self.bytes_min..=DEFLATED_MESSAGE_BYTES_MAX).contains(&payload.len()) {
            return frame.clone();
        }
        let compress = self.compress.get_or_insert_with(|| Compress::new(LEVEL, false));
        compress.reset();
        // As much as it can take, even if less would do: zlib-rs (0.6.8) panics some messages after one whose output was not
        // taken whole before the reset.
        self.scratch.reserve_exact(deflated_bytes_max(payload.len()) + TAIL.len());
        let status = compress.compress_vec(payload, &mut self.scratch, FlushCompress::Sync);
        let is_whole = matches!(status, Ok(Status::Ok)) && self.scratch.len() < self.scratch.capacity();
        if !is_whole {
            debug_assert!(false, "{status:?} after {} of {} bytes", self.scratch.len(), payload.len());
            self.compress = None;
        }
        let deflated = match self.scratch.strip_suffix(&TAIL) {
            Some(deflated) if is_whole && deflated.len() * 10 <= payload.len() * 9 => {
                self.volume.plain += payload.len() as u64;
                self.volume.deflated += deflated.len() as u64;
                encode::deflated(frame, deflated)
            }
            _ => frame.clone(),
        };
        self.scratch.clear();
        self.scratch.shrink_to(DEFLATE_SCRATCH_BYTES);
        deflated
    }

    /// What was compressed since the last call.
    pub fn take_volume(&mut self) -> Volume {
        std::mem::take(&mut self.volume)
    }
}

/// Decompresses messages.
#[derive(Debug, Default)]
pub struct Inflater {
    decompress: Option<Decompress>,
    scratch: Vec<u8>,
}

impl Inflater {
    /// The message in a compressed payload, at most `message_bytes_max` bytes; valid UTF-8 where `kind` is text. Give its memory
    /// back with [`Inflater::reuse`].
    ///
    /// # Errors
    /// It is longer, no deflate data, or a text that is not valid UTF-8.
    pub fn message(
        &mut self,
        kind: MessageKind,
        deflated: &[u8],
        message_bytes_max: usize,
    ) -> Result<Vec<u8>, Violation> {
        let mut message = std::mem::take(&mut self.scratch);
        message.clear();
        self.inflate(deflated, &mut message, message_bytes_max)?;
        if kind == MessageKind::Text && simdutf8::basic::from_utf8(&message).is_err() {
            return Err(Violation::TextNotUtf8);
        }
        Ok(message)
    }

    /// Takes back the memory of a message.
    pub fn reuse(&mut self, mut message: Vec<u8>) {
        message.clear();
        message.shrink_to(DEFLATE_SCRATCH_BYTES);
        self.scratch = message;
    }

    fn inflate(&mut self, deflated: &[u8], message: &mut Vec<u8>, message_bytes_max: usize) -> Result<(), Violation> {
        let decompress = self.decompress.get_or_insert_with(|| Decompress::new(false));
        decompress.reset(false);
        let mut is_last = false;
        for mut input in [deflated, &TAIL, &LAST_BLOCK] {
            while !input.is_empty() {
                if is_last {
                    // A client may end its blocks with a last one, and begin anew (RFC 7692 section 7.2.3.4).
                    decompress.reset(false);
                }
                if message.len() == message.capacity() {
                    // One byte more than a message may have shows that it is too long.
                    let ahead = message.len().max(deflated.len() * USUAL_RATIO).max(GROWTH_BYTES_MIN);
                    message.reserve_exact(ahead.min(message_bytes_max + 1 - message.len()));
                }
                let (bytes_in, bytes_out) = (decompress.total_in(), message.len());
                let status = decompress.decompress_vec(input, message, FlushDecompress::None);
                let taken = (decompress.total_in() - bytes_in) as usize;
                input = &input[taken..];
                if message.len() > message_bytes_max {
                    return Err(Violation::TooBig { message_bytes_max });
                }
                is_last = matches!(status, Ok(Status::StreamEnd));
                if status.is_err() || !is_last && taken == 0 && message.len() == bytes_out {
                    return Err(Violation::NotDeflate);
                }
            }
        }
        if is_last { Ok(()) } else { Err(Violation::NotDeflate) }
    }
}

#[cfg(test)]
mod tests;
