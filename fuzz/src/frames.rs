//! Bytes of an upgraded connection: the first two set the message limit, whether compression was agreed on, and the packet
//! boundaries; the rest is what the client sends.

use std::borrow::Cow;

use hi::frame::decode::{Decoded, Decoder, MessageKind, deflated_bytes_max};
use hi::frame::deflate::Inflater;

/// Bytes that a decoder may hold in addition to twice what has arrived.
const HELD_BYTES_BESIDE: usize = 512;

/// A stream of frames.
pub fn check(input: &[u8]) {
    let [limit, piece, stream @ ..] = input else { return };
    let message_bytes_max = [0, 125, 1000, 16 * 1024][usize::from(limit % 4)];
    let deflates = limit & 4 != 0;
    let at_once = decode(stream, stream.len().max(1), message_bytes_max, deflates);
    let in_pieces = decode(stream, usize::from(*piece).max(1), message_bytes_max, deflates);
    assert_eq!(at_once, in_pieces, "packets of {piece} bytes");
    for event in &at_once.0 {
        match event {
            Decoded::Message { kind, is_deflated: true, payload } => {
                assert!(deflates && payload.len() <= deflated_bytes_max(message_bytes_max));
                inflate(*kind, payload, message_bytes_max);
            }
            Decoded::Message { kind, is_deflated: false, payload } => {
                assert!(payload.len() <= message_bytes_max);
                assert!(*kind == MessageKind::Binary || std::str::from_utf8(payload).is_ok());
            }
            Decoded::Ping(payload) | Decoded::Pong(payload) => assert!(payload.len() <= 125),
            Decoded::Close(_) => assert_eq!(Some(event), at_once.0.last()),
        }
    }
}

/// A compressed message, which may be anything.
fn inflate(kind: MessageKind, payload: &[u8], message_bytes_max: usize) {
    match Inflater::default().message(kind, payload, message_bytes_max) {
        Ok(message) => {
            assert!(message.len() <= message_bytes_max);
            assert!(kind == MessageKind::Binary || std::str::from_utf8(&message).is_ok());
        }
        Err(violation) => {
            assert!(matches!(violation.close_code(), 1007 | 1009));
            super::assert_sentence(&violation.to_string());
        }
    }
}

/// The events, and the close code of a violation.
fn decode(
    stream: &[u8],
    piece_bytes: usize,
    message_bytes_max: usize,
    deflates: bool,
) -> (Vec<Decoded<'static>>, Option<u16>) {
    let (mut decoder, mut events, mut fed) = (Decoder::new(), Vec::new(), 0);
    for piece in stream.chunks(piece_bytes) {
        let mut piece = piece.to_vec();
        let mut input = &mut piece[..];
        fed += input.len();
        loop {
            match decoder.next(&mut input, message_bytes_max, deflates) {
                Ok(Some(event)) => events.push(owned(event)),
                Ok(None) => break,
                Err(violation) => {
                    assert!(matches!(violation.close_code(), 1002 | 1007 | 1009));
                    super::assert_sentence(&violation.to_string());
                    return (events, Some(violation.close_code()));
                }
            }
            if matches!(events.last(), Some(Decoded::Close(_))) {
                return (events, None);
            }
        }
        assert!(decoder.buffered_bytes() <= 2 * fed + HELD_BYTES_BESIDE, "{} for {fed}", decoder.buffered_bytes());
    }
    (events, None)
}

fn owned(event: Decoded<'_>) -> Decoded<'static> {
    let own = |payload: Cow<'_, [u8]>| Cow::Owned(payload.into_owned());
    match event {
        Decoded::Message { kind, is_deflated, payload } => {
            Decoded::Message { kind, is_deflated, payload: own(payload) }
        }
        Decoded::Ping(payload) => Decoded::Ping(own(payload)),
        Decoded::Pong(payload) => Decoded::Pong(own(payload)),
        Decoded::Close(status) => Decoded::Close(status),
    }
}
