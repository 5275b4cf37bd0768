//! Random streams, valid and corrupted, cut anywhere: the decoder must agree with a twin that is as naive as can be.

use std::collections::HashSet;
use std::sync::LazyLock;

use fastwebsockets::{Frame as ClientFrame, Payload};
use proptest::prelude::*;

use super::tests::{Outcome, client_frame, feed, feed_to};
use super::*;

/// What the twin makes of a stream: events, and the close code of a violation.
type TwinOutcome = (Vec<Decoded<'static>>, Option<u16>);

/// Every beginning of a character that is not the whole of it.
static CHARACTER_STARTS: LazyLock<HashSet<Vec<u8>>> = LazyLock::new(|| {
    let mut starts = HashSet::new();
    for character in '\u{80}'..=char::MAX {
        let mut buffer = [0; 4];
        let encoded = character.encode_utf8(&mut buffer).as_bytes();
        // Neighbours share their starts; the last of each 64 stands for all.
        if encoded[encoded.len() - 1] == 0xbf {
            starts.extend((1..encoded.len()).map(|length| encoded[..length].to_vec()));
        }
    }
    starts
});

/// True if more bytes could make this a valid text.
fn text_can_continue(bytes: &[u8]) -> bool {
    (0..=3.min(bytes.len())).any(|tail| {
        let (head, tail) = bytes.split_at(bytes.len() - tail);
        std::str::from_utf8(head).is_ok() && (tail.is_empty() || CHARACTER_STARTS.contains(tail))
    })
}

/// The twin: looks at the whole stream, copies everything, and remembers nothing but its position.
fn twin(deflates: bool, stream: &[u8], message_bytes_max: usize) -> TwinOutcome {
    let mut events = Vec::new();
    let code = twin_run(deflates, stream, message_bytes_max, &mut events).err();
    (events, code)
}

fn refuse_if(broken: bool, code: u16) -> Result<(), u16> {
    if broken { Err(code) } else { Ok(()) }
}

fn twin_run(deflates: bool, mut rest: &[u8], max: usize, events: &mut Vec<Decoded<'static>>) -> Result<(), u16> {
    let mut open: Option<(u8, bool, Vec<u8>)> = None;
    loop {
        let Some((&first, after)) = rest.split_first() else { return Ok(()) };
        let (fin, opcode, control) = (first >= 128, first & 15, first & 8 == 8);
        let compressed = deflates && first & 0b0100_0000 != 0 && [1, 2].contains(&opcode);
        let reserved = first & if compressed { 0b0011_0000 } else { 0b0111_0000 };
        refuse_if(reserved != 0 || ![0, 1, 2, 8, 9, 10].contains(&opcode), 1002)?;
        refuse_if(if control { !fin } else { (opcode == 0) != open.is_some() }, 1002)?;
        let Some((&second, after)) = after.split_first() else { return Ok(()) };
        refuse_if(second < 128 || (control && second > 128 + 125) || (opcode == 8 && second == 129), 1002)?;
        let length_bytes = [0, 2, 8][usize::from(second.saturating_sub(128 + 125))];
        if after.len() < length_bytes {
            return Ok(());
        }
        let (length, after) = after.split_at(length_bytes);
        let length = match length_bytes {
            0 => u128::from(second - 128),
            _ => length.iter().fold(0, |sum, &byte| sum * 256 + u128::from(byte)),
        };
        refuse_if(length >= 1 << 63 || length < [0, 0, 126, 0, 0, 0, 0, 0, 65536][length_bytes], 1002)?;
        let before = open.as_ref().map_or(0, |(_, _, payload)| payload.len());
        // Nine bits for each byte, at worst.
        let max_compressed = max as u128 + max as u128 / 8 + 16;
        let max = if open.as_ref().map_or(compressed, |open| open.1) { max_compressed } else { max as u128 };
        refuse_if(!control && before as u128 + length > max.min(usize::MAX as u128), 1009)?;
        let Some((mask, after)) = after.split_at_checked(4) else { return Ok(()) };
        let there = after.len().min(length as usize);
        let payload: Vec<u8> = (0..there).map(|index| after[index] ^ mask[index % 4]).collect();
        let whole = there == length as usize;
        if control {
            if !whole {
                return Ok(());
            }
            twin_control(opcode, payload, events)?;
            if opcode == 8 {
                return Ok(());
            }
        } else {
            let (kind, compressed, message) = open.get_or_insert((opcode, compressed, Vec::new()));
            let (is_text, is_deflated) = (*kind == 1 && !*compressed, *compressed);
            message.extend(payload);
            refuse_if(is_text && !text_can_continue(message), 1007)?;
            if whole && fin {
                refuse_if(is_text && std::str::from_utf8(message).is_err(), 1007)?;
                let kind = if *kind == 1 { MessageKind::Text } else { MessageKind::Binary };
                let payload = Cow::Owned(std::mem::take(message));
                events.push(Decoded::Message { kind, is_deflated, payload });
                open = None;
            }
        }
        rest = &after[there..];
    }
}

fn twin_control(opcode: u8, payload: Vec<u8>, events: &mut Vec<Decoded<'static>>) -> Result<(), u16> {
    events.push(match opcode {
        9 => Decoded::Ping(Cow::Owned(payload)),
        10 => Decoded::Pong(Cow::Owned(payload)),
        _ if payload.is_empty() => Decoded::Close(None),
        _ => {
            let code = u16::from(payload[0]) * 256 + u16::from(payload[1]);
            let known = (1000..1015).contains(&code) && ![1004, 1005, 1006].contains(&code);
            refuse_if(!known && !(3000..5000).contains(&code), 1002)?;
            let reason = String::from_utf8(payload[2..].to_vec()).map_err(|_| 1007_u16)?;
            Decoded::Close(Some((code, reason)))
        }
    });
    Ok(())
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => "\\PC{0,12}".prop_map(String::into_bytes),
        2 => proptest::collection::vec(any::<u8>(), 0..20),
        1 => (120..140_usize).prop_map(|length| vec![b'a'; length]),
    ]
}

/// A text, binary or close payload, ping or pong, with the first byte of its frame.
fn unit() -> impl Strategy<Value = Vec<(u8, Vec<u8>)>> {
    let text = "\\PC{0,12}".prop_map(String::into_bytes);
    let control = (prop_oneof![Just(0x89_u8), Just(0x8a)], proptest::collection::vec(any::<u8>(), 0..8));
    let close_code = prop_oneof![Just(1000_u16), Just(4001), Just(1005), any::<u16>()];
    let close = (close_code, "\\PC{0,8}").prop_map(|(code, reason)| [&code.to_be_bytes(), reason.as_bytes()].concat());
    prop_oneof![
        4 => text.prop_map(|text| vec![(0x81, text)]),
        2 => payload().prop_map(|payload| vec![(0x82, payload)]),
        2 => control.clone().prop_map(|control| vec![control]),
        6 => (prop_oneof![3 => 1..3_u8, 1 => 0x41..0x43_u8], payload(), proptest::collection::vec(any::<prop::sample::Index>(), 1..4), control)
            .prop_map(|(opcode, payload, cuts, control)| fragments(opcode, &payload, &cuts, control)),
        1 => close.prop_map(|payload| vec![(0x88, payload)]),
        1 => (any::<u8>(), payload()).prop_map(|frame| vec![frame]),
    ]
}

/// Cuts a message into fragments and puts a control frame behind the first of them.
fn fragments(opcode: u8, payload: &[u8], cuts: &[prop::sample::Index], control: (u8, Vec<u8>)) -> Vec<(u8, Vec<u8>)> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(payload.len() + 1)).collect();
    cuts.push(payload.len());
    cuts.sort_unstable();
    let mut start = 0;
    let mut frames = Vec::new();
    for (index, &end) in cuts.iter().enumerate() {
        let fin = if index + 1 == cuts.len() { 0x80 } else { 0 };
        frames.push((fin | if index == 0 { opcode } else { 0 }, payload[start..end].to_vec()));
        start = end;
    }
    frames.insert(1, control);
    frames
}

/// A stream of frames, of which one in two has some bytes overwritten.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let units = proptest::collection::vec((unit(), any::<[u8; 4]>()), 1..6);
    let damage =
        prop_oneof![Just(Vec::new()), proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..3)];
    (units, damage).prop_map(|(units, damage)| {
        let frames = units.iter().flat_map(|(frames, mask)| frames.iter().map(|frame| (frame, *mask)));
        let mut stream: Vec<u8> =
            frames.flat_map(|((first, payload), mask)| client_frame(*first, mask, payload)).collect();
        for (place, byte) in damage {
            let index = place.index(stream.len());
            stream[index] = byte;
        }
        stream
    })
}

fn limit() -> impl Strategy<Value = usize> {
    prop_oneof![4 => Just(16384_usize), 1 => 0..150_usize, 1 => Just(usize::MAX)]
}

/// The decoder must say the same wherever the stream is cut, and refuse it at the same byte as the twin.
fn check(deflates: bool, stream: &[u8], max: usize, cuts: &[prop::sample::Index]) -> Result<(), TestCaseError> {
    let twin = |stream, max| twin(deflates, stream, max);
    let expected = twin(stream, max);
    let outcome_of = |outcome: &Outcome| (outcome.events.clone(), outcome.violation.map(|v| v.close_code()));
    let at_once = feed_to(deflates, [stream], max);
    prop_assert_eq!(&outcome_of(&at_once), &expected);

    for cut in 0..=stream.len() {
        let (head, tail) = stream.split_at(cut);
        let cut = feed_to(deflates, [head, tail], max);
        prop_assert_eq!(&cut.events, &at_once.events);
        prop_assert_eq!(cut.violation, at_once.violation);
        prop_assert_eq!(cut.idle || cut.violation.is_some(), at_once.idle || at_once.violation.is_some());
    }

    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
    ends.push(stream.len());
    ends.sort_unstable();
    let starts = std::iter::once(0).chain(ends.iter().copied());
    let random = feed_to(deflates, starts.zip(&ends).map(|(start, &end)| &stream[start..end]), max);
    prop_assert_eq!(&random.events, &at_once.events);
    prop_assert_eq!(random.violation, at_once.violation);

    let bytewise = feed_to(deflates, stream.chunks(1), max);
    prop_assert_eq!(&bytewise.events, &at_once.events);
    prop_assert_eq!(bytewise.violation, at_once.violation);
    if bytewise.violation.is_some() {
        let refused_at = bytewise.pieces_fed;
        prop_assert_eq!(twin(&stream[..refused_at], max).1, expected.1);
        prop_assert_eq!(twin(&stream[..refused_at - 1], max).1, None);
    }
    Ok(())
}

proptest! {
    #[test]
    fn frames_cut_anywhere_decode_as_the_twin_says(
        deflates: bool,
        stream in stream(),
        max in limit(),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        check(deflates, &stream, max, &cuts)?;
    }

    #[test]
    fn arbitrary_bytes_decode_as_the_twin_says(
        deflates: bool,
        stream in proptest::collection::vec(prop_oneof![any::<u8>(), Just(0x81), Just(0x80), Just(0x02), Just(0xc1), Just(0x42)], 0..60),
        max in limit(),
    ) {
        check(deflates, &stream, max, &[])?;
    }

    #[test]
    fn what_fastwebsockets_masks_comes_out_as_it_was(
        binary in any::<bool>(),
        mask in any::<[u8; 4]>(),
        text in "\\PC{0,200}",
        pieces in 1..40_usize,
    ) {
        let opcode = if binary { fastwebsockets::OpCode::Binary } else { fastwebsockets::OpCode::Text };
        let kind = if binary { MessageKind::Binary } else { MessageKind::Text };
        let mut frame = ClientFrame::new(true, (opcode as u8).try_into().unwrap(), Some(mask), Payload::Owned(text.clone().into_bytes()));
        frame.mask();
        let mut buffer = Vec::new();
        let stream = frame.write(&mut buffer);
        let outcome = feed(stream.chunks(pieces), 16384);
        prop_assert_eq!(outcome.violation, None);
        prop_assert_eq!(outcome.events, [Decoded::Message { kind, is_deflated: false, payload: Cow::Owned(text.into_bytes()) }]);
        prop_assert!(outcome.idle);
    }
}

#[test]
fn the_twin_knows_which_texts_can_continue() {
    for (bytes, can) in [
        (&b""[..], true),
        (b"a\xe2\x82", true),
        (b"\xf0\x9f\x98", true),
        (b"\xf4\x8f", true),
        (b"\xf4\x90", false),
        (b"\xed\xa0", false),
        (b"\xed\x9f", true),
        (b"\xe0\x9f", false),
        (b"\xc1", false),
        (b"\x80", false),
    ] {
        assert_eq!(text_can_continue(bytes), can, "{bytes:?}");
    }
}
