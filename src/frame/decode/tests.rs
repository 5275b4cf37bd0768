//! One test for each rule, with the byte at which it must bite.

use super::*;
use crate::frame::RSV1;
use crate::limits::CONTROL_BYTES_MAX;

const MAX: usize = 1 << 20;
const FIN: u8 = 0x80;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A client's frame; `first` is the first byte as it goes out.
pub(super) fn client_frame(first: u8, mask: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        length @ ..126 => frame.push(0x80 | length as u8),
        length @ 126..65536 => {
            frame.push(0x80 | 126);
            frame.extend((length as u16).to_be_bytes());
        }
        length => {
            frame.push(0x80 | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend(mask);
    frame.extend(payload.iter().enumerate().map(|(index, byte)| byte ^ mask[index % 4]));
    frame
}

fn stream(frames: &[(u8, &[u8])]) -> Vec<u8> {
    frames.iter().flat_map(|&(first, payload)| client_frame(first, MASK, payload)).collect()
}

/// Everything that a decoder made of a stream.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Outcome {
    pub(super) events: Vec<Decoded<'static>>,
    pub(super) violation: Option<Violation>,
    /// Whether anything was held at the end.
    pub(super) idle: bool,
    /// Pieces that were fed before a violation or a close ended it.
    pub(super) pieces_fed: usize,
}

fn owned(event: Decoded<'_>) -> Decoded<'static> {
    let cow = |payload: Cow<'_, [u8]>| Cow::Owned(payload.into_owned());
    match event {
        Decoded::Message { kind, is_deflated, payload } => {
            Decoded::Message { kind, is_deflated, payload: cow(payload) }
        }
        Decoded::Ping(payload) => Decoded::Ping(cow(payload)),
        Decoded::Pong(payload) => Decoded::Pong(cow(payload)),
        Decoded::Close(close) => Decoded::Close(close),
    }
}

/// Feeds the pieces one after the other, as packets come, and holds the decoder to what it promises in between.
pub(super) fn feed<'p>(pieces: impl IntoIterator<Item = &'p [u8]>, message_bytes_max: usize) -> Outcome {
    feed_to(false, pieces, message_bytes_max)
}

/// The same, for a decoder of a client that may compress its messages if it `deflates`.
pub(super) fn feed_to<'p>(
    deflates: bool,
    pieces: impl IntoIterator<Item = &'p [u8]>,
    message_bytes_max: usize,
) -> Outcome {
    let mut decoder = Decoder::new();
    let mut outcome = Outcome::default();
    let mut arrived = 0;
    for piece in pieces {
        outcome.pieces_fed += 1;
        arrived += piece.len();
        let mut packet = piece.to_vec();
        let mut input = &mut packet[..];
        loop {
            match decoder.next(&mut input, message_bytes_max, deflates) {
                Ok(Some(event)) => outcome.events.push(owned(event)),
                Ok(None) => break assert!(input.is_empty(), "more bytes are asked for while some are left"),
                Err(violation) => outcome.violation = Some(violation),
            }
            if outcome.violation.is_some() || matches!(outcome.events.last(), Some(Decoded::Close(_))) {
                outcome.idle = decoder.buffered_bytes() == 0;
                return outcome;
            }
        }
        let ahead = (arrived / 4).max(CONTROL_BYTES_MAX);
        assert!(decoder.buffered_bytes() <= size_of::<Partial>() + 32 + arrived + ahead);
    }
    outcome.idle = decoder.buffered_bytes() == 0;
    outcome
}

fn feed_bytewise(stream: &[u8], message_bytes_max: usize) -> Outcome {
    feed(stream.chunks(1), message_bytes_max)
}

/// Asserts that the stream is refused for this reason when its last byte is in and not before, whole or bytewise.
#[track_caller]
fn assert_refused_at_end(stream: &[u8], violation: Violation, close_code: u16) {
    assert_refused_at_end_of(stream, MAX, violation, close_code);
}

#[track_caller]
fn assert_refused_at_end_of(stream: &[u8], message_bytes_max: usize, violation: Violation, close_code: u16) {
    assert_eq!(feed([stream], message_bytes_max).violation, Some(violation), "fed at once");
    let bytewise = feed_bytewise(stream, message_bytes_max);
    assert_eq!(bytewise.violation, Some(violation), "fed bytewise");
    assert_eq!(bytewise.pieces_fed, stream.len(), "refused at this byte");
    assert_eq!(violation.close_code(), close_code);
}

#[track_caller]
fn assert_events(stream: &[u8], events: &[Decoded<'static>]) {
    for outcome in [feed([stream], MAX), feed_bytewise(stream, MAX)] {
        assert_eq!(outcome.violation, None);
        assert_eq!(outcome.events, events);
        assert!(outcome.idle, "nothing is held when all is said");
    }
}

fn text(payload: &str) -> Decoded<'static> {
    Decoded::Message { kind: MessageKind::Text, is_deflated: false, payload: Cow::Owned(payload.as_bytes().to_vec()) }
}

fn binary(payload: &[u8]) -> Decoded<'static> {
    Decoded::Message { kind: MessageKind::Binary, is_deflated: false, payload: Cow::Owned(payload.to_vec()) }
}

#[test]
fn the_masked_hello_of_rfc_6455_section_5_7() {
    let hello = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    assert_events(&hello, &[text("Hello")]);
}

#[test]
fn messages_and_control_frames_come_out_in_order() {
    let stream = stream(&[
        (FIN | TEXT, b"one"),
        (FIN | PING, b"?"),
        (FIN | BINARY, &[0xff, 0xfe]),
        (FIN | PONG, b""),
        (FIN | TEXT, b""),
        (FIN | CLOSE, b"\x03\xe8bye"),
    ]);
    let events = [
        text("one"),
        Decoded::Ping(Cow::Borrowed(b"?")),
        binary(&[0xff, 0xfe]),
        Decoded::Pong(Cow::Borrowed(b"")),
        text(""),
        Decoded::Close(Some((1000, "bye".to_owned()))),
    ];
    assert_events(&stream, &events);
}

#[test]
fn fragments_are_put_together_around_control_frames() {
    let stream = stream(&[
        (TEXT, "gr\u{fc}".as_bytes()),
        (FIN | PING, b"now?"),
        (0, b""),
        (FIN | PONG, b"later"),
        (FIN, "\u{df}e".as_bytes()),
        (BINARY, b""),
        (FIN, b""),
    ]);
    let ping = Decoded::Ping(Cow::Borrowed(&b"now?"[..]));
    let pong = Decoded::Pong(Cow::Borrowed(&b"later"[..]));
    assert_events(&stream, &[ping, pong, text("gr\u{fc}\u{df}e"), binary(b"")]);
}

#[test]
fn a_whole_message_is_borrowed_from_the_input_and_a_partial_one_is_not() {
    let mut packet = stream(&[(FIN | TEXT, b"hello"), (FIN | PING, b"p"), (FIN | BINARY, b"split")]);
    let cut = packet.len() - 2;
    let range = packet.as_ptr_range();
    let (mut first, mut second) = packet.split_at_mut(cut);
    let mut decoder = Decoder::new();
    for expected in [&b"hello"[..], b"p"] {
        match decoder.next(&mut first, MAX, false) {
            Ok(Some(
                Decoded::Message { payload: Cow::Borrowed(payload), .. } | Decoded::Ping(Cow::Borrowed(payload)),
            )) => {
                assert_eq!(payload, expected);
                assert!(range.contains(&payload.as_ptr()));
            }
            other => panic!("not borrowed: {other:?}"),
        }
        assert_eq!(decoder.buffered_bytes(), 0);
    }
    assert_eq!(decoder.next(&mut first, MAX, false), Ok(None));
    assert_ne!(decoder.buffered_bytes(), 0);
    let event = decoder.next(&mut second, MAX, false);
    assert_eq!(event, Ok(Some(binary(b"split"))));
    assert!(matches!(event, Ok(Some(Decoded::Message { payload: Cow::Owned(_), .. }))));
    assert_eq!(decoder.buffered_bytes(), 0);
}

#[test]
fn a_message_whose_header_alone_was_cut_is_still_borrowed() {
    let mut packet = stream(&[(FIN | TEXT, b"hello")]);
    let (mut first, mut second) = packet.split_at_mut(3);
    let mut decoder = Decoder::new();
    assert_eq!(decoder.next(&mut first, MAX, false), Ok(None));
    let event = decoder.next(&mut second, MAX, false);
    assert!(matches!(event, Ok(Some(Decoded::Message { payload: Cow::Borrowed(b"hello"), .. }))));
    assert_eq!(decoder.buffered_bytes(), 0);
}

#[test]
fn every_length_encoding_is_read() {
    for length in [0, 1, 125, 126, 127, 65535, 65536, 65537] {
        let payload: Vec<u8> = (0..length).map(|index| index as u8).collect();
        let stream = client_frame(FIN | BINARY, MASK, &payload);
        assert_events(&stream, &[binary(&payload)]);
    }
}

#[test]
fn reserved_bits_and_opcodes_are_refused_at_the_first_byte() {
    for bit in [0x40, 0x20, 0x10] {
        assert_refused_at_end(&[FIN | bit | TEXT], Violation::ReservedBits, 1002);
    }
    for opcode in (3..8).chain(11..16) {
        assert_refused_at_end(&[FIN | opcode], Violation::ReservedOpcode(opcode), 1002);
    }
}

#[test]
fn fragmentation_out_of_order_is_refused_at_the_first_byte() {
    for control in [CLOSE, PING, PONG] {
        assert_refused_at_end(&[control], Violation::ControlFragmented, 1002);
    }
    for continuation in [0, FIN] {
        assert_refused_at_end(&[continuation], Violation::ContinuationWithoutStart, 1002);
        let after_a_message = [stream(&[(TEXT, b"a"), (FIN, b"b")]), vec![continuation]].concat();
        assert_refused_at_end(&after_a_message, Violation::ContinuationWithoutStart, 1002);
    }
    for start in [TEXT, BINARY, FIN | TEXT, FIN | BINARY] {
        let interrupted = [stream(&[(TEXT, b"a"), (FIN | PING, b"")]), vec![start]].concat();
        assert_refused_at_end(&interrupted, Violation::MessageInterrupted, 1002);
    }
}

#[test]
fn unmasked_frames_and_long_control_frames_are_refused_at_the_second_byte() {
    assert_refused_at_end(&[FIN | TEXT, 5], Violation::Unmasked, 1002);
    assert_refused_at_end(&[FIN | CLOSE, 0], Violation::Unmasked, 1002);
    for control in [CLOSE, PING, PONG] {
        for length in [126, 127] {
            assert_refused_at_end(&[FIN | control, 0x80 | length], Violation::ControlTooLong, 1002);
        }
    }
    let longest = [7; CONTROL_BYTES_MAX];
    assert_events(&stream(&[(FIN | PING, &longest)]), &[Decoded::Ping(Cow::Owned(longest.to_vec()))]);
}

#[test]
fn lengths_must_be_minimal_and_63_bits() {
    for length in [0_u16, 1, 125] {
        let header = [&[FIN | BINARY, 0x80 | 126][..], &length.to_be_bytes()].concat();
        assert_refused_at_end(&header, Violation::LengthNotMinimal, 1002);
    }
    for (length, violation) in [
        (0_u64, Violation::LengthNotMinimal),
        (125, Violation::LengthNotMinimal),
        (65535, Violation::LengthNotMinimal),
        (1 << 63, Violation::LengthTopBit),
        (u64::MAX, Violation::LengthTopBit),
    ] {
        let header = [&[FIN | BINARY, 0x80 | 127][..], &length.to_be_bytes()].concat();
        assert_refused_at_end(&header, violation, 1002);
    }
}

#[test]
fn a_message_beyond_the_limit_is_refused_before_its_payload() {
    let too_big = Violation::TooBig { message_bytes_max: 200 };
    let long = |first: u8, length: u16| [&[first, 0x80 | 126][..], &length.to_be_bytes()].concat();
    assert_refused_at_end_of(&long(FIN | BINARY, 201), 200, too_big, 1009);
    assert_refused_at_end_of(&long(TEXT, 201), 200, too_big, 1009);
    let huge = [&[FIN | BINARY, 0x80 | 127][..], &(u64::MAX >> 1).to_be_bytes()].concat();
    assert_refused_at_end_of(&huge, 200, too_big, 1009);
    let sum = [stream(&[(BINARY, &[0; 150]), (FIN | PING, &[0; 100]), (0, &[0; 50])]), vec![FIN, 0x80 | 1]].concat();
    assert_refused_at_end_of(&sum, 200, too_big, 1009);

    let just_fits = stream(&[(BINARY, &[0; 150]), (0, &[0; 50]), (FIN, b"")]);
    assert_eq!(feed([&just_fits[..]], 200).events, [binary(&[0; 200])]);
    let next_message = stream(&[(FIN | BINARY, &[0; 200]), (FIN | BINARY, &[0; 200])]);
    assert_eq!(feed([&next_message[..]], 200).events.len(), 2);
}

#[test]
fn the_limit_of_messages_does_not_touch_control_frames() {
    let stream = stream(&[(FIN | PING, &[1; 125]), (FIN | TEXT, b"")]);
    let outcome = feed([&stream[..]], 0);
    assert_eq!(outcome.violation, None);
    assert_eq!(outcome.events, [Decoded::Ping(Cow::Owned(vec![1; 125])), text("")]);
}

#[test]
fn memory_follows_what_has_arrived_not_what_is_claimed() {
    let claim: u64 = 1 << 40;
    let mut packet = [&[FIN | TEXT, 0x80 | 127][..], &claim.to_be_bytes(), &MASK].concat();
    packet.extend(stream(&[(FIN | TEXT, &[b'a'; 10])]).split_off(6));
    let mut decoder = Decoder::new();
    assert_eq!(decoder.next(&mut &mut packet[..], usize::MAX, false), Ok(None));
    assert!(decoder.buffered_bytes() < 300);
}

#[test]
fn close_frames_carry_nothing_or_a_code_and_a_reason() {
    assert_events(&stream(&[(FIN | CLOSE, b"")]), &[Decoded::Close(None)]);
    assert_events(&stream(&[(FIN | CLOSE, b"\x0f\xa2")]), &[Decoded::Close(Some((4002, String::new())))]);
    let longest = [&1001_u16.to_be_bytes()[..], &[b'x'; 123]].concat();
    assert_events(&stream(&[(FIN | CLOSE, &longest)]), &[Decoded::Close(Some((1001, "x".repeat(123))))]);
    assert_refused_at_end(&[FIN | CLOSE, 0x80 | 1], Violation::CloseCodeCut, 1002);
    let reason = stream(&[(FIN | CLOSE, b"\x03\xe8ok\xff")]);
    assert_refused_at_end(&reason, Violation::CloseReasonNotUtf8, 1007);
    let reason_cut = stream(&[(FIN | CLOSE, b"\x03\xe8ok\xc3")]);
    assert_refused_at_end(&reason_cut, Violation::CloseReasonNotUtf8, 1007);
}

/// Autobahn's cases 7.7.* and 7.9.*, and all the others.
#[test]
fn close_codes_are_those_that_may_be_sent() {
    let allowed = |code: u16| match code {
        1004..=1006 | 1015 => false,
        1000..=1014 | 3000..=4999 => true,
        _ => false,
    };
    for code in 0..=u16::MAX {
        assert_eq!(close_code_is_sendable(code), allowed(code), "{code}");
    }
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999_u16] {
        let stream = stream(&[(FIN | CLOSE, &code.to_be_bytes())]);
        assert_events(&stream, &[Decoded::Close(Some((code, String::new())))]);
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535_u16] {
        let stream = stream(&[(FIN | CLOSE, &code.to_be_bytes())]);
        assert_refused_at_end(&stream, Violation::CloseCodeForbidden(code), 1002);
    }
}

/// Autobahn's cases 6.4.*: text is refused at the byte that no continuation can fix, in the middle of a frame.
#[test]
fn invalid_text_is_refused_at_the_byte_that_shows_it() {
    let greek = "\u{3ba}\u{1f79}\u{3c3}\u{3bc}\u{3b5}".as_bytes();
    let refused_at: [(&[u8], usize); 6] = [
        (b"\xf4\x90\x80\x80", 2),
        (b"\xed\xa0\x80", 2),
        (b"\xff", 1),
        (b"\xc0\xaf", 1),
        (b"\xe2\x82z", 3),
        (b"\xf0\x9f\x98\xff", 4),
    ];
    for (bad, bad_bytes) in refused_at {
        let payload = [greek, bad, b"edited"].concat();
        let whole = client_frame(FIN | TEXT, MASK, &payload);
        assert_eq!(feed([&whole[..]], MAX).violation, Some(Violation::TextNotUtf8));
        let cut = whole.len() - b"edited".len() - bad.len() + bad_bytes;
        let bytewise = feed_bytewise(&whole, MAX);
        assert_eq!(bytewise.violation, Some(Violation::TextNotUtf8));
        assert_eq!(bytewise.pieces_fed, cut);

        let fragmented = stream(&[(TEXT, greek), (0, &bad[..bad_bytes])]);
        assert_refused_at_end(&fragmented, Violation::TextNotUtf8, 1007);
    }
}

#[test]
fn a_character_may_be_cut_by_fragments_but_not_by_the_end() {
    let face = "\u{1f600}".as_bytes();
    for cut in 0..=face.len() {
        let (head, tail) = face.split_at(cut);
        assert_events(
            &stream(&[(TEXT, head), (FIN | PING, b""), (FIN, tail)]),
            &[Decoded::Ping(Cow::Borrowed(b"")), text("\u{1f600}")],
        );
        if (1..face.len()).contains(&cut) {
            assert_refused_at_end(&stream(&[(FIN | TEXT, head)]), Violation::TextNotUtf8, 1007);
            assert_refused_at_end(&stream(&[(TEXT, head), (FIN, b"")]), Violation::TextNotUtf8, 1007);
        }
    }
    let one_byte_each: Vec<u8> = [(TEXT, &face[..1]), (0, &face[1..2]), (0, &face[2..3]), (FIN, &face[3..])]
        .iter()
        .flat_map(|&(first, payload)| client_frame(first, MASK, payload))
        .collect();
    assert_events(&one_byte_each, &[text("\u{1f600}")]);
}

#[test]
fn every_violation_fits_into_a_close_frame() {
    for violation in [
        Violation::ReservedBits,
        Violation::ReservedOpcode(15),
        Violation::Unmasked,
        Violation::ControlFragmented,
        Violation::ControlTooLong,
        Violation::ContinuationWithoutStart,
        Violation::MessageInterrupted,
        Violation::LengthNotMinimal,
        Violation::LengthTopBit,
        Violation::TooBig { message_bytes_max: usize::MAX },
        Violation::TextNotUtf8,
        Violation::CloseCodeCut,
        Violation::CloseCodeForbidden(u16::MAX),
        Violation::CloseReasonNotUtf8,
    ] {
        let sentence = violation.to_string();
        assert!(sentence.len() <= 123 && sentence.ends_with('.'), "{sentence}");
        assert!(close_code_is_sendable(violation.close_code()));
    }
}

fn compressed(kind: MessageKind, payload: &[u8]) -> Decoded<'static> {
    Decoded::Message { kind, is_deflated: true, payload: Cow::Owned(payload.to_vec()) }
}

#[test]
fn a_compressed_message_is_marked_by_rsv1_on_its_first_frame_and_comes_out_unchecked() {
    let stream = stream(&[
        (FIN | RSV1 | TEXT, b"\xf2\x48\xff"),
        (RSV1 | BINARY, b"\x01"),
        (FIN | PING, b"!"),
        (0, b""),
        (FIN, b"\x02\x03"),
        (FIN | TEXT, b"plain"),
        (RSV1 | TEXT, b"\xff"),
        (FIN, b"\xff"),
    ]);
    let ping = Decoded::Ping(Cow::Borrowed(&b"!"[..]));
    let expected = [
        compressed(MessageKind::Text, b"\xf2\x48\xff"),
        ping,
        compressed(MessageKind::Binary, b"\x01\x02\x03"),
        text("plain"),
        compressed(MessageKind::Text, b"\xff\xff"),
    ];
    for outcome in [feed_to(true, [&stream[..]], MAX), feed_to(true, stream.chunks(1), MAX)] {
        assert_eq!((outcome.violation, &outcome.events[..]), (None, &expected[..]));
        assert!(outcome.idle);
    }
}

#[test]
fn rsv1_elsewhere_is_refused_and_so_are_the_others() {
    let open = stream(&[(RSV1 | TEXT, b"a")]);
    for (before, first, violation) in [
        (&[][..], RSV1 | FIN | PING, Violation::DeflatedElsewhere),
        (&[], RSV1 | FIN | CLOSE, Violation::DeflatedElsewhere),
        (&open, RSV1 | FIN, Violation::DeflatedElsewhere),
        (&open, RSV1 | FIN | PONG, Violation::DeflatedElsewhere),
        (&[], 0x20 | FIN | TEXT, Violation::ReservedBits),
        (&[], 0x10 | RSV1 | FIN | TEXT, Violation::ReservedBits),
    ] {
        let stream = [before, &[first]].concat();
        for outcome in [feed_to(true, [&stream[..]], MAX), feed_to(true, stream.chunks(1), MAX)] {
            assert_eq!(outcome.violation, Some(violation), "{first:#x}");
            assert_eq!(outcome.pieces_fed, if outcome.pieces_fed == 1 { 1 } else { stream.len() });
        }
        assert_eq!(violation.close_code(), 1002);
    }
    assert_eq!(feed([&[RSV1 | FIN | TEXT][..]], MAX).violation, Some(Violation::ReservedBits), "not agreed on");
}

#[test]
fn a_compressed_message_may_be_as_long_as_the_longest_one_comes_to_at_worst() {
    assert_eq!((deflated_bytes_max(16_384), deflated_bytes_max(usize::MAX)), (18_448, usize::MAX));
    let longest = vec![0; deflated_bytes_max(1000)];
    let (head, tail) = longest.split_at(600);
    let whole = stream(&[(FIN | RSV1 | BINARY, &longest)]);
    let cut = stream(&[(RSV1 | BINARY, head), (FIN, tail)]);
    for stream in [whole, cut] {
        assert_eq!(feed_to(true, [&stream[..]], 1000).events, [compressed(MessageKind::Binary, &longest)]);
        assert_eq!(feed_to(true, [&stream[..]], 999).violation, Some(Violation::TooBig { message_bytes_max: 999 }));
    }
    let plain = stream(&[(FIN | BINARY, &longest[..1001])]);
    assert_eq!(feed_to(true, [&plain[..]], 1000).violation, Some(Violation::TooBig { message_bytes_max: 1000 }));
}
