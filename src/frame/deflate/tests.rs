//! Tests of `deflate.rs`, beside it.

use proptest::prelude::*;

use super::*;
use crate::frame::OpCode;

const MAX: usize = 16 * 1024;

/// A message that compresses well, of about `bytes` bytes.
fn json(bytes: usize) -> Vec<u8> {
    let items =
        (0..).map(|number| format!("{{\"Id\":{number},\"Price\":{}.{:02}}},", number * 7919 % 997, number % 100));
    let mut text = String::from("[");
    for item in items {
        text.push_str(&item);
        if text.len() >= bytes {
            break;
        }
    }
    text.into_bytes()
}

fn inflated(deflated: &[u8]) -> Result<Vec<u8>, Violation> {
    Inflater::default().message(MessageKind::Binary, deflated, MAX)
}

/// The payload of a compressed frame.
#[track_caller]
fn payload_of(frame: &Bytes) -> &[u8] {
    assert_eq!(frame[0] & 0xf0, 0xc0, "FIN and RSV1");
    let (payload, rest) = encode::split(frame);
    assert!(rest.is_empty());
    payload
}

#[test]
fn the_examples_of_rfc_7692_section_7_2_3() {
    for (what, deflated) in [
        ("one block", &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00][..]),
        ("a block without compression", &[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00]),
        ("a block with BFINAL, and an empty one", &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00]),
        ("two blocks", &[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00]),
    ] {
        assert_eq!(inflated(deflated), Ok(b"Hello".to_vec()), "{what}");
    }
    assert_eq!(inflated(&[0x00]), Ok(Vec::new()), "an empty message (section 7.2.3.6)");
}

#[test]
fn whatever_is_no_whole_deflate_data_is_refused() {
    let mut whole = Deflater::new(0);
    let whole = whole.frame(&encode::frame(OpCode::Text, &json(1000)));
    let whole = payload_of(&whole);
    for (what, deflated) in [
        ("nothing: an empty message has one byte", &[][..]),
        ("a reserved type of block", &[0x06, 0x00]),
        ("a block that ends too soon", &whole[..whole.len() / 2]),
        ("a block with BFINAL and nothing behind it", &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]),
        ("a length that contradicts its check", &[0x00, 0x05, 0x00, 0x05, 0x00, 0x48]),
        ("a distance beyond the beginning", &[0x02, 0x05, 0x00]),
        ("the end that is to be left out, twice and cut off", &[0x00, 0x00, 0xff, 0xff, 0x00, 0x00]),
    ] {
        assert_eq!(inflated(deflated), Err(Violation::NotDeflate), "{what}");
    }
}

#[test]
fn nothing_is_remembered_from_one_message_to_the_next() {
    let (mut deflater, mut inflater) = (Deflater::new(0), Inflater::default());
    let frame = encode::frame(OpCode::Text, &json(1000));
    let first = deflater.frame(&frame);
    assert_eq!(deflater.frame(&frame), first);
    for _ in 0..2 {
        assert_eq!(inflater.message(MessageKind::Binary, &[0xff; 9], MAX), Err(Violation::NotDeflate));
        let message = inflater.message(MessageKind::Text, payload_of(&first), MAX).unwrap();
        assert_eq!(message, json(1000));
        inflater.reuse(message);
    }
}

#[test]
fn a_frame_stays_as_it_is_unless_compression_saves_a_tenth() {
    let mut random = fastrand::Rng::with_seed(7);
    let noise = std::iter::repeat_with(|| random.u8(..)).take(2000).collect();
    let mut deflater = Deflater::new(512);
    for (what, opcode, payload) in [
        ("too short", OpCode::Text, json(400)),
        ("incompressible", OpCode::Binary, noise),
        ("too long", OpCode::Text, json(DEFLATED_MESSAGE_BYTES_MAX + 1)),
    ] {
        let frame = encode::frame(opcode, &payload);
        assert_eq!(deflater.frame(&frame), frame, "{what}");
    }
    assert_eq!(deflater.take_volume(), Volume::default());
    for short in ["", "a", "aaaa"] {
        let frame = encode::frame(OpCode::Text, short.as_bytes());
        assert_eq!(Deflater::new(0).frame(&frame), frame, "{short}");
    }
    let long = json(520);
    let frame = deflater.frame(&encode::frame(OpCode::Text, &long));
    assert!(frame[0] == 0xc1 && payload_of(&frame).len() < long.len() / 2, "{frame:?}");
    let volume = Volume { plain: long.len() as u64, deflated: payload_of(&frame).len() as u64 };
    assert_eq!((deflater.take_volume(), deflater.take_volume()), (volume, Volume::default()));
    assert_eq!(deflater.frame(&encode::frame(OpCode::Binary, &long))[0], 0xc2);
}

#[test]
fn any_number_of_incompressible_messages_may_follow_one_another() {
    let mut random = fastrand::Rng::with_seed(7);
    let mut deflater = Deflater::new(0);
    for length in [1000; 300].into_iter().chain([1, 10, 16_000, 70_000, 200_000]) {
        let noise: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(length).collect();
        let frame = encode::frame(OpCode::Binary, &noise);
        assert_eq!(deflater.frame(&frame), frame);
    }
    let frame = deflater.frame(&encode::frame(OpCode::Text, &json(1000)));
    assert_eq!(inflated(payload_of(&frame)), Ok(json(1000)));
}

#[test]
fn a_bomb_is_cut_off_at_the_limit() {
    let zeros = vec![0; 10 << 20];
    let mut compress = Compress::new(Compression::best(), false);
    let mut bomb = Vec::with_capacity(64 * 1024);
    compress.compress_vec(&zeros, &mut bomb, FlushCompress::Sync).unwrap();
    assert!(bomb.len() < 16 * 1024, "a thousandth");
    let mut inflater = Inflater::default();
    let refused = inflater.message(MessageKind::Binary, &bomb, MAX);
    assert_eq!(refused, Err(Violation::TooBig { message_bytes_max: MAX }));
    assert_eq!(refused.unwrap_err().close_code(), 1009);
    assert!(inflater.decompress.as_ref().unwrap().total_out() <= MAX as u64 + 1, "not a byte more than shows it");
}

#[test]
fn a_message_of_exactly_the_limit_passes_and_one_byte_more_does_not() {
    for payload in [vec![7; MAX], json(MAX)[..MAX].to_vec()] {
        let frame = Deflater::new(0).frame(&encode::frame(OpCode::Binary, &payload));
        assert_eq!(inflated(payload_of(&frame)), Ok(payload));
    }
    let frame = Deflater::new(0).frame(&encode::frame(OpCode::Binary, &[7; MAX + 1]));
    assert_eq!(inflated(payload_of(&frame)), Err(Violation::TooBig { message_bytes_max: MAX }));
}

#[test]
fn text_has_to_be_utf_8_after_decompression() {
    let frame = Deflater::new(0).frame(&encode::frame(OpCode::Binary, &b"\xff".repeat(1000)));
    let mut inflater = Inflater::default();
    let refused = inflater.message(MessageKind::Text, payload_of(&frame), MAX);
    assert_eq!(refused, Err(Violation::TextNotUtf8));
    assert!(inflater.message(MessageKind::Binary, payload_of(&frame), MAX).is_ok());
}

proptest! {
    #[test]
    fn what_is_compressed_comes_back_out_of_any_inflater(
        text in prop_oneof!["[a-c]{0,3000}", "\\PC{0,200}", "(hello ){1,400}"],
        room in 0..3_usize,
    ) {
        let frame = encode::frame(OpCode::Text, text.as_bytes());
        let deflated = Deflater::new(0).frame(&frame);
        if deflated == frame {
            return Ok(());
        }
        prop_assert!(deflated.len() <= frame.len());
        let payload = payload_of(&deflated);
        prop_assert!(payload.len() * 10 <= text.len() * 9);
        let message = Inflater::default().message(MessageKind::Text, payload, text.len() + room);
        prop_assert_eq!(message.as_deref(), Ok(text.as_bytes()));
        // As RFC 7692 section 7.2.2 has it, with a plain decompressor.
        let mut plain = Vec::with_capacity(text.len() + 1);
        let input = [payload, &TAIL].concat();
        prop_assert!(Decompress::new(false).decompress_vec(&input, &mut plain, FlushDecompress::Sync).is_ok());
        prop_assert_eq!(plain, text.as_bytes());
    }

    #[test]
    fn damaged_data_is_refused_or_some_message_within_the_limit(
        bytes in 600..4000_usize,
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let frame = Deflater::new(0).frame(&encode::frame(OpCode::Text, &json(bytes)));
        let mut payload = payload_of(&frame).to_vec();
        for (place, byte) in damage {
            let index = place.index(payload.len());
            payload[index] = byte;
        }
        payload.truncate(cut.index(payload.len()) + 1);
        match Inflater::default().message(MessageKind::Text, &payload, MAX) {
            Ok(message) => prop_assert!(message.len() <= MAX && std::str::from_utf8(&message).is_ok()),
            Err(violation) => prop_assert!(matches!(violation.close_code(), 1007 | 1009)),
        }
    }
}
