//! The strict server-side decoder of RFC 6455: a client's bytes in, messages and control frames out.
//!
//! A violation is refused at the first byte that shows it, wherever the network cut the stream: header fields are checked one
//! by one as they arrive, and text is validated piece by piece. Memory is spent only on bytes that have arrived, never on what
//! a header claims, and only while a frame or message is incomplete.
//!
//! The common case copies nothing: a message that is complete in the input is unmasked in place and borrowed.

use std::borrow::Cow;

pub use self::header::deflated_bytes_max;
use self::header::{Context, Frame, HEADER_BYTES_MAX};
pub(crate) use self::violation::Violation;
use super::OpCode;
use crate::memory::{ALLOCATION_OVERHEAD_BYTES, Held, What};

mod header;
mod violation;

// Every connection carries a decoder; an idle one must cost no more than this.
const _: () = assert!(size_of::<Decoder>() <= 16);

/// What a message carries (RFC 6455 section 5.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// Valid UTF-8: the decoder has checked it.
    Text,
    /// Any bytes.
    Binary,
}

/// A message or control frame of the client. Payloads are unmasked, and borrowed from the input unless they had to be joined
/// from several frames or packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// A whole message, from one frame or many.
    Message {
        /// Text or binary.
        kind: MessageKind,
        /// Whether the payload is compressed (RFC 7692 section 6): then it is not checked, and up to [`deflated_bytes_max`]
        /// bytes long.
        is_deflated: bool,
        /// The message, at most `message_bytes_max` bytes; valid UTF-8 where `kind` is text.
        payload: Cow<'a, [u8]>,
    },
    /// A ping: the server owes a pong with the same payload, at most 125 bytes (RFC 6455 section 5.5.2).
    Ping(Cow<'a, [u8]>),
    /// A pong, asked for or not (RFC 6455 section 5.5.3).
    Pong(Cow<'a, [u8]>),
    /// A close frame, with its code and reason if it had any (RFC 6455 section 5.5.1). Nothing follows it.
    Close(Option<(u16, String)>),
}

/// Whether a close frame may carry this code: those of RFC 6455 section 7.4.1, 1012 to 1014 from IANA's registry, and
/// 3000 to 4999 for libraries and applications. 1004 to 1006 and 1015 are only ever reported, never sent.
pub(crate) const fn close_code_is_sendable(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// One connection's decoder. It takes two words while nothing is incomplete.
#[derive(Debug, Default)]
pub struct Decoder {
    partial: Option<Box<Partial>>,
}

/// What has to be kept until more bytes arrive.
#[derive(Debug)]
struct Partial {
    /// The first bytes of an incomplete header.
    header: [u8; HEADER_BYTES_MAX],
    /// How many bytes of `header` have arrived.
    header_len: u8,
    /// A frame whose header is complete and whose payload isn't; never together with an incomplete header.
    frame: Option<Frame>,
    /// Payload so far, if `frame` is a control frame.
    control: Vec<u8>,
    /// The open message: fragmented, or its only frame is `frame`.
    message: Option<Message>,
    held: Held,
}

impl Default for Partial {
    fn default() -> Self {
        Self {
            header: [0; HEADER_BYTES_MAX],
            header_len: 0,
            frame: None,
            control: Vec::new(),
            message: None,
            held: Held::new(What::Messages),
        }
    }
}

impl Partial {
    /// Heap memory that it takes, in bytes, itself included.
    fn bytes(&self) -> usize {
        let message_bytes = self.message.as_ref().map_or(0, |message| message.payload.capacity());
        size_of::<Self>() + ALLOCATION_OVERHEAD_BYTES + self.control.capacity() + message_bytes
    }

    fn is_empty(&self) -> bool {
        self.header_len == 0 && self.frame.is_none() && self.message.is_none()
    }
}

/// A message that is being joined.
#[derive(Debug)]
struct Message {
    kind: MessageKind,
    is_deflated: bool,
    payload: Vec<u8>,
    /// Leading bytes that are valid UTF-8; if this is plain text, at most 3 bytes after them begin a character.
    valid_bytes: usize,
}

impl Decoder {
    /// A decoder at the start of a stream.
    pub const fn new() -> Self {
        Self { partial: None }
    }

    /// Takes the next event from `input`, which is unmasked in place and moved past the bytes that were used.
    /// `Ok(None)`: the input is used up and more bytes are needed.
    ///
    /// `message_bytes_max` limits a message's payload in bytes, its fragments added up; a frame that would go beyond
    /// is refused once its header is complete. `deflates`: messages may be compressed (permessage-deflate was agreed on).
    ///
    /// # Errors
    /// The first rule of RFC 6455 that the client broke. After that, and after [`Decoded::Close`], the rest of the stream has no
    /// meaning, and must not be passed to the decoder.
    pub fn next<'a>(
        &mut self,
        input: &mut &'a mut [u8],
        message_bytes_max: usize,
        deflates: bool,
    ) -> Result<Option<Decoded<'a>>, Violation> {
        let event = self.next_event(input, message_bytes_max, deflates);
        if event.is_err() {
            self.partial = None;
        } else if let Some(partial) = &mut self.partial {
            partial.held.set(partial.bytes());
        }
        event
    }

    fn next_event<'a>(
        &mut self,
        input: &mut &'a mut [u8],
        message_bytes_max: usize,
        deflates: bool,
    ) -> Result<Option<Decoded<'a>>, Violation> {
        while !input.is_empty() {
            let resumed = self.partial.as_mut().and_then(|partial| partial.frame.take());
            let frame = match resumed {
                Some(frame) => frame,
                None => match self.header_take(input, message_bytes_max, deflates)? {
                    Some(frame) => frame,
                    None => return Ok(None),
                },
            };
            // An empty payload is complete already: a frame that waits for nothing is never kept.
            if let Some(event) = self.payload_take(frame, input)? {
                self.partial.take_if(|partial| partial.is_empty());
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// Heap memory held for what is incomplete, in bytes: 0 between two messages; otherwise a small constant, and at most a
    /// quarter more than the payload that has arrived.
    pub fn buffered_bytes(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| partial.bytes())
    }

    /// Payload bytes that have arrived of an incomplete frame.
    pub(crate) fn frame_bytes(&self) -> usize {
        self.partial.as_ref().and_then(|partial| partial.frame).map_or(0, |frame| frame.taken_bytes)
    }

    /// Takes a header from `input`, or the part of it that is there. `None`: the input ends before the header does.
    fn header_take(
        &mut self,
        input: &mut &mut [u8],
        message_bytes_max: usize,
        deflates: bool,
    ) -> Result<Option<Frame>, Violation> {
        let open = self.partial.as_ref().and_then(|partial| partial.message.as_ref());
        let open = open.map(|message| (message.payload.len(), message.is_deflated));
        let context = Context { open, message_bytes_max, deflates };
        let held = self.partial.as_ref().map_or(0, |partial| usize::from(partial.header_len));
        if held == 0
            && let Some((frame, header_bytes)) = Frame::parse(input, context)?
        {
            advance(input, header_bytes);
            return Ok(Some(frame));
        }
        let partial = self.partial.get_or_insert_default();
        let end = HEADER_BYTES_MAX.min(held + input.len());
        partial.header[held..end].copy_from_slice(&input[..end - held]);
        match Frame::parse(&partial.header[..end], context)? {
            Some((frame, header_bytes)) => {
                partial.header_len = 0;
                advance(input, header_bytes - held);
                Ok(Some(frame))
            }
            None => {
                assert!(end < HEADER_BYTES_MAX, "the longest header is whole");
                partial.header_len = end as u8;
                advance(input, end - held);
                Ok(None)
            }
        }
    }

    /// Takes the frame's payload as far as `input` has it. `None`: no event yet, because bytes or fragments are missing.
    fn payload_take<'a>(
        &mut self,
        mut frame: Frame,
        input: &mut &'a mut [u8],
    ) -> Result<Option<Decoded<'a>>, Violation> {
        if input.is_empty() && !frame.is_whole() {
            // No payload has arrived: if all of it arrives in one piece, it is borrowed from there.
            self.partial.get_or_insert_default().frame = Some(frame);
            return Ok(None);
        }
        let piece = advance(input, input.len().min(frame.payload_bytes - frame.taken_bytes));
        let mut mask = frame.mask;
        mask.rotate_left(frame.taken_bytes % 4);
        unmask(piece, mask);

        let at_once = frame.taken_bytes == 0 && piece.len() == frame.payload_bytes;
        frame.taken_bytes += piece.len();
        if frame.is_control() {
            self.control_take(frame, piece, at_once)
        } else {
            self.data_take(frame, piece, at_once)
        }
    }

    /// A piece of a ping, pong or close.
    fn control_take<'a>(
        &mut self,
        frame: Frame,
        piece: &'a mut [u8],
        at_once: bool,
    ) -> Result<Option<Decoded<'a>>, Violation> {
        let payload = if at_once {
            Cow::Borrowed(&*piece)
        } else {
            let partial = self.partial.get_or_insert_default();
            partial.control.extend_from_slice(piece);
            if !frame.is_whole() {
                partial.frame = Some(frame);
                return Ok(None);
            }
            Cow::Owned(std::mem::take(&mut partial.control))
        };
        match frame.opcode {
            OpCode::Ping => Ok(Some(Decoded::Ping(payload))),
            OpCode::Pong => Ok(Some(Decoded::Pong(payload))),
            _ => close_parse(&payload).map(|close| Some(Decoded::Close(close))),
        }
    }

    /// A piece of a message.
    fn data_take<'a>(
        &mut self,
        frame: Frame,
        piece: &'a mut [u8],
        at_once: bool,
    ) -> Result<Option<Decoded<'a>>, Violation> {
        let kind = if frame.opcode == OpCode::Text { MessageKind::Text } else { MessageKind::Binary };
        let is_deflated = frame.is_deflated;
        if at_once && frame.fin && frame.opcode != OpCode::Continuation {
            if kind == MessageKind::Text && !is_deflated && simdutf8::basic::from_utf8(piece).is_err() {
                return Err(Violation::TextNotUtf8);
            }
            return Ok(Some(Decoded::Message { kind, is_deflated, payload: Cow::Borrowed(piece) }));
        }

        let partial = self.partial.get_or_insert_default();
        // A continuation without an open message has been refused by its header.
        let begin = || Message { kind, is_deflated, payload: Vec::new(), valid_bytes: 0 };
        let message = partial.message.get_or_insert_with(begin);
        message.append(piece, frame.payload_bytes - frame.taken_bytes)?;
        if !frame.is_whole() {
            partial.frame = Some(frame);
            return Ok(None);
        }
        if !frame.fin {
            return Ok(None);
        }
        partial.message.take().map(Message::finish).transpose()
    }
}

impl Message {
    /// Appends a piece. The vector grows with what has arrived, not with what the header claims: by a quarter at a time, and
    /// never beyond the `missing_bytes` of the frame.
    fn append(&mut self, piece: &[u8], missing_bytes: usize) -> Result<(), Violation> {
        if self.payload.capacity() - self.payload.len() < piece.len() {
            let ahead = (self.payload.len() / 4).min(missing_bytes);
            self.payload.reserve_exact(piece.len() + ahead);
        }
        self.payload.extend_from_slice(piece);
        if self.kind == MessageKind::Binary || self.is_deflated {
            return Ok(());
        }
        // The incomplete character at the end, at most 3 bytes, is checked again together with what follows it.
        match simdutf8::compat::from_utf8(&self.payload[self.valid_bytes..]) {
            Ok(_) => self.valid_bytes = self.payload.len(),
            Err(error) if error.error_len().is_none() => self.valid_bytes += error.valid_up_to(),
            Err(_) => return Err(Violation::TextNotUtf8),
        }
        debug_assert!(self.payload.len() - self.valid_bytes <= 3);
        Ok(())
    }

    /// The message is complete: no character may be cut off at its end.
    fn finish(self) -> Result<Decoded<'static>, Violation> {
        let Self { kind, is_deflated, payload, valid_bytes } = self;
        if kind == MessageKind::Text && !is_deflated && valid_bytes < payload.len() {
            return Err(Violation::TextNotUtf8);
        }
        Ok(Decoded::Message { kind, is_deflated, payload: Cow::Owned(payload) })
    }
}

/// The payload of a close frame: nothing, or a code and a reason (RFC 6455 section 5.5.1).
fn close_parse(payload: &[u8]) -> Result<Option<(u16, String)>, Violation> {
    let Some((&code, reason)) = payload.split_first_chunk() else { return Ok(None) };
    let code = u16::from_be_bytes(code);
    if !close_code_is_sendable(code) {
        return Err(Violation::CloseCodeForbidden(code));
    }
    match simdutf8::basic::from_utf8(reason) {
        Ok(reason) => Ok(Some((code, reason.to_owned()))),
        Err(_) => Err(Violation::CloseReasonNotUtf8),
    }
}

/// Removes the mask (RFC 6455 section 5.3), four bytes at a time, which the compiler vectorizes.
fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let (words, rest) = payload.as_chunks_mut();
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ u32::from_ne_bytes(mask)).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask) {
        *byte ^= mask;
    }
}

/// Splits the first `bytes` off `input` and moves it past them.
fn advance<'a>(input: &mut &'a mut [u8], bytes: usize) -> &'a mut [u8] {
    let (taken, rest) = std::mem::take(input).split_at_mut(bytes);
    *input = rest;
    taken
}

#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod tests;
