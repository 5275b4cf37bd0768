//! The header of a client's frame (RFC 6455 section 5.2): its fields, each checked as soon as it is there.

use super::Violation;
use crate::frame::{OpCode, RSV1};
use crate::limits::CONTROL_BYTES_MAX;

/// The other two reserved bits of a frame's first byte (RFC 6455 section 5.2).
const RSV2: u8 = 0x20;
const RSV3: u8 = 0x10;
/// Longest header of a client's frame, in bytes: 2, the 64-bit length, the mask (RFC 6455 section 5.2).
pub(super) const HEADER_BYTES_MAX: usize = 14;

/// A frame with a complete header, while its payload arrives.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub(super) fin: bool,
    pub(super) opcode: OpCode,
    /// RSV1: the first frame of a compressed message (RFC 7692 section 6).
    pub(super) is_deflated: bool,
    pub(super) mask: [u8; 4],
    pub(super) payload_bytes: usize,
    /// Payload bytes taken by earlier calls, which is the position in the mask.
    pub(super) taken_bytes: usize,
}

/// What a frame's header is held against.
#[derive(Clone, Copy)]
pub(super) struct Context {
    /// Bytes of the open message's payload so far, and whether it is compressed; `None` if no message is open.
    pub(super) open: Option<(usize, bool)>,
    pub(super) message_bytes_max: usize,
    /// Whether compression was agreed on.
    pub(super) deflates: bool,
}

/// Largest compressed message, in bytes: what `message_bytes_max` bytes come to at worst, with 9 bits for each byte. So no
/// message is too long only because it was compressed.
pub fn deflated_bytes_max(message_bytes_max: usize) -> usize {
    const END_BYTES: usize = 16;
    message_bytes_max.saturating_add(message_bytes_max / 8 + END_BYTES)
}

impl Frame {
    /// Reads a header at the start of `bytes` and returns its length. `None`: it is incomplete.
    ///
    /// Fields are checked in the order of the wire, so that a header that arrives in pieces is refused for the same reason as
    /// one that arrives whole, only sooner.
    pub(super) fn parse(bytes: &[u8], context: Context) -> Result<Option<(Self, usize)>, Violation> {
        let Some(&first) = bytes.first() else { return Ok(None) };
        let (fin, opcode, is_deflated) = first_byte_parse(first, context)?;
        let Some(&second) = bytes.get(1) else { return Ok(None) };
        if second & 0x80 == 0 {
            return Err(Violation::Unmasked);
        }
        let length_short = second & 0x7f;
        if opcode.is_control() {
            if usize::from(length_short) > CONTROL_BYTES_MAX {
                return Err(Violation::ControlTooLong);
            }
            if opcode == OpCode::Close && length_short == 1 {
                return Err(Violation::CloseCodeCut);
            }
        }
        let Some((length, mask_at)) = length_parse(length_short, &bytes[2..])? else { return Ok(None) };
        // Only data frames: a control frame is not part of the message that it interrupts, and has its own limit.
        if !opcode.is_control() && length > context.room(is_deflated) as u64 {
            return Err(Violation::TooBig { message_bytes_max: context.message_bytes_max });
        }
        let Some(&mask) = bytes[mask_at..].first_chunk::<4>() else { return Ok(None) };
        let frame = Self { fin, opcode, is_deflated, mask, payload_bytes: length as usize, taken_bytes: 0 };
        Ok(Some((frame, mask_at + mask.len())))
    }

    pub(super) fn is_control(&self) -> bool {
        self.opcode.is_control()
    }

    pub(super) fn is_whole(&self) -> bool {
        self.taken_bytes == self.payload_bytes
    }
}

impl Context {
    /// Bytes that the message may still take, which is the open one, or one that begins.
    fn room(&self, begins_deflated: bool) -> usize {
        let (bytes, is_deflated) = self.open.unwrap_or((0, begins_deflated));
        let bytes_max = if is_deflated { deflated_bytes_max(self.message_bytes_max) } else { self.message_bytes_max };
        bytes_max.saturating_sub(bytes)
    }
}

/// FIN, opcode, and RSV1, which is the mark of a compressed message on its first frame (RFC 6455 sections 5.2 and 5.4, RFC 7692
/// section 6).
fn first_byte_parse(first: u8, context: Context) -> Result<(bool, OpCode, bool), Violation> {
    let fin = first & 0x80 != 0;
    let is_deflated = context.deflates && first & RSV1 != 0;
    if first & if context.deflates { RSV2 | RSV3 } else { RSV1 | RSV2 | RSV3 } != 0 {
        return Err(Violation::ReservedBits);
    }
    let opcode = OpCode::parse(first & 0x0f).ok_or(Violation::ReservedOpcode(first & 0x0f))?;
    if is_deflated && !matches!(opcode, OpCode::Text | OpCode::Binary) {
        return Err(Violation::DeflatedElsewhere);
    }
    let message_open = context.open.is_some();
    match opcode {
        OpCode::Continuation if !message_open => Err(Violation::ContinuationWithoutStart),
        OpCode::Text | OpCode::Binary if message_open => Err(Violation::MessageInterrupted),
        OpCode::Close | OpCode::Ping | OpCode::Pong if !fin => Err(Violation::ControlFragmented),
        _ => Ok((fin, opcode, is_deflated)),
    }
}

/// The payload length, and where in the header the mask starts; `extended` is what follows the first two bytes. `None`: the
/// length is incomplete.
fn length_parse(length_short: u8, extended: &[u8]) -> Result<Option<(u64, usize)>, Violation> {
    let (length, shortest, mask_at) = match length_short {
        126 => match extended.first_chunk() {
            Some(&length) => (u64::from(u16::from_be_bytes(length)), 126, 4),
            None => return Ok(None),
        },
        127 => match extended.first_chunk() {
            Some(&length) => (u64::from_be_bytes(length), 1 << 16, 10),
            None => return Ok(None),
        },
        length => (u64::from(length), 0, 2),
    };
    if length >> 63 != 0 {
        return Err(Violation::LengthTopBit);
    }
    if length < shortest {
        return Err(Violation::LengthNotMinimal);
    }
    Ok(Some((length, mask_at)))
}
