//! Frames read back by hand, by the decoder, and compared with what fastwebsockets writes.

use std::borrow::Cow;
use std::io::Write;

use fastwebsockets::{Frame, Payload};
use proptest::prelude::*;

use super::super::decode::{Decoded, Decoder, MessageKind};
use super::*;

/// What fastwebsockets would send.
fn oracle(opcode: OpCode, payload: &[u8]) -> Vec<u8> {
    let opcode = fastwebsockets::OpCode::try_from(opcode as u8).expect("it knows all of them");
    let mut buffer = Vec::new();
    Frame::new(true, (opcode as u8).try_into().unwrap(), None, Payload::Borrowed(payload)).write(&mut buffer).to_vec()
}

/// The frame as a client would have sent it: masked.
fn as_client(frame: &[u8], payload_bytes: usize, mask: [u8; 4]) -> Vec<u8> {
    let (header, payload) = frame.split_at(frame.len() - payload_bytes);
    let masked = payload.iter().enumerate().map(|(index, byte)| byte ^ mask[index % 4]);
    let mut client = header.to_vec();
    client[1] |= 0x80;
    client.extend(mask);
    client.extend(masked);
    client
}

fn written(opcode: OpCode, capacity: usize, pieces: &[&[u8]]) -> Bytes {
    let mut writer = FrameWriter::with_capacity(capacity);
    for piece in pieces {
        writer.bytes.write_all(piece).expect("memory");
    }
    writer.finish(opcode)
}

#[test]
fn headers_are_as_short_as_possible() {
    for (length, header) in [
        (0, &[0x82, 0][..]),
        (125, &[0x82, 125]),
        (126, &[0x82, 126, 0, 126]),
        (65535, &[0x82, 126, 0xff, 0xff]),
        (65536, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
    ] {
        let payload = vec![7; length];
        let expected = [header, &payload].concat();
        assert_eq!(frame(OpCode::Binary, &payload), expected);
        assert_eq!(written(OpCode::Binary, 0, &[&payload]), expected);
        assert_eq!(written(OpCode::Binary, length, &[&payload]), expected);
        assert_eq!(oracle(OpCode::Binary, &payload), expected);
    }
}

#[test]
fn a_frame_of_the_estimated_length_is_not_copied() {
    let mut writer = FrameWriter::with_capacity(1000);
    writer.bytes.write_all(&[b'x'; 1000]).expect("memory");
    let payload_at = writer.bytes[HEADER_BYTES_MAX..].as_ptr();
    let frame = writer.finish(OpCode::Text);
    assert_eq!(frame[4..].as_ptr(), payload_at);
}

#[test]
fn close_frames_carry_code_and_reason() {
    assert_eq!(close(4002, "name taken")[..], *b"\x88\x0c\x0f\xa2name taken");
    assert_eq!(close(1000, "")[..], *b"\x88\x02\x03\xe8");
    assert_eq!(frame(OpCode::Close, b"")[..], *b"\x88\x00");
}

#[test]
fn long_reasons_are_cut_between_characters() {
    assert_eq!(close(1000, &"x".repeat(123)).len(), 127);
    assert_eq!(close(1000, &"x".repeat(124)).len(), 127);
    let grinning = format!("x{}", "\u{1f600}".repeat(40));
    let sent = close(1000, &grinning);
    let reason = std::str::from_utf8(&sent[4..]).expect("whole characters");
    assert_eq!(reason.len(), 121);
    assert!(grinning.starts_with(reason));
}

#[test]
#[should_panic(expected = "at most 125 bytes")]
fn a_long_control_frame_is_our_bug() {
    frame(OpCode::Ping, &[0; 126]);
}

#[test]
#[should_panic(expected = "may not be sent")]
fn a_code_that_is_only_reported_is_our_bug() {
    close(1006, "");
}

proptest! {
    #[test]
    fn frames_read_back_as_they_were_written(
        pieces in proptest::collection::vec("\\PC{0,60}", 0..5),
        capacity in 0..400_usize,
        mask in any::<[u8; 4]>(),
        binary in any::<bool>(),
    ) {
        let opcode = if binary { OpCode::Binary } else { OpCode::Text };
        let kind = if binary { MessageKind::Binary } else { MessageKind::Text };
        let payload = pieces.concat().into_bytes();
        let pieces: Vec<&[u8]> = pieces.iter().map(|piece| piece.as_bytes()).collect();
        let whole = frame(opcode, &payload);
        prop_assert_eq!(&whole, &written(opcode, capacity, &pieces));
        prop_assert_eq!(&whole[..], &oracle(opcode, &payload)[..]);

        let mut client = as_client(&whole, payload.len(), mask);
        let event = Decoder::new().next(&mut &mut client[..], usize::MAX, false);
        prop_assert_eq!(event, Ok(Some(Decoded::Message { kind, is_deflated: false, payload: Cow::Borrowed(&payload) })));
    }

    #[test]
    fn close_frames_read_back_as_they_were_written(
        code in 3000..5000_u16,
        reason in "\\PC{0,80}",
        mask in any::<[u8; 4]>(),
    ) {
        let frame = close(code, &reason);
        let mut client = as_client(&frame, frame.len() - 2, mask);
        let Ok(Some(Decoded::Close(Some((code_read, reason_read))))) = Decoder::new().next(&mut &mut client[..], 0, false) else {
            return Err(TestCaseError::fail("no close frame"));
        };
        prop_assert_eq!(code_read, code);
        prop_assert!(reason.starts_with(&reason_read));
        prop_assert!(reason.len() <= CLOSE_REASON_BYTES_MAX || reason_read.len() > CLOSE_REASON_BYTES_MAX - 4);
    }
}
