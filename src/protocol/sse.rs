//! Server-sent events (WHATWG HTML, 9.2): what listeners of `/stream/ROOM` get. Pure.
//!
//! An event is made from the frame that members get: the same JSON, with its position as `id`, which an `EventSource` sends by
//! itself when it reconnects. Our JSON has no line breaks.

use std::io::Write;

use bytes::Bytes;

use super::close_code::CloseReason;
use crate::frame::encode;
use crate::protocol::position::{Batch, Epoch, Since};

/// A comment, which shows proxies and listeners that the stream is alive.
pub(crate) const HEARTBEAT: &[u8] = b":\n\n";
/// Bytes of an event beside the JSON: names of fields, line breaks, epoch and `Seq`.
const FIELDS_BYTES: usize = 64;

/// The event of the frame that was published as `seq`.
pub(crate) fn event(frame: &[u8], epoch: u64, seq: u64) -> Bytes {
    let mut event = Vec::with_capacity(FIELDS_BYTES + frame.len());
    write_event(&mut event, encode::split(frame).0, epoch, seq);
    event.into()
}

/// The events of the frames in a batch, of which the first was published as `first_seq`.
pub(crate) fn events(batch: &Batch, epoch: u64, first_seq: u64) -> Batch {
    let count = (batch.end_seq - first_seq) as usize;
    let mut events = Vec::with_capacity(FIELDS_BYTES * count + batch.bytes.len());
    let mut rest = &batch.bytes[..];
    for seq in first_seq..batch.end_seq {
        let payload;
        (payload, rest) = encode::split(rest);
        write_event(&mut events, payload, epoch, seq);
    }
    debug_assert!(rest.is_empty(), "a batch holds whole frames");
    Batch { bytes: events.into(), end_seq: batch.end_seq }
}

/// The event `gap`, made from the notice that a member would get. It moves the listener's position to `seq`.
pub(crate) fn gap(notice: &[u8], epoch: u64, seq: u64) -> Bytes {
    let mut event = b"event: gap\n".to_vec();
    write_event(&mut event, encode::split(notice).0, epoch, seq);
    event.into()
}

/// An event of this name, made from a notice to one member. It has no place in the order.
pub(crate) fn notice(name: &str, notice: &[u8]) -> Bytes {
    let json = encode::split(notice).0;
    [format!("event: {name}\ndata: ").as_bytes(), json, b"\n\n"].concat().into()
}

/// The beginning of a stream that continues after `seq`. It is no event, but it sets the listener's position, which matters
/// in a quiet room, and the time after which to reconnect.
pub(crate) fn opening(epoch: u64, seq: u64, retry_ms: u64) -> Bytes {
    format!("retry: {retry_ms}\nid: {}:{seq}\n\n", Epoch(epoch)).into()
}

/// The end of a stream: when to reconnect, or a comment that says why it ends.
pub(crate) fn end(reason: &CloseReason<'_>) -> Bytes {
    match reason {
        CloseReason::Restart { retry_ms } => format!("retry: {retry_ms}\n\n").into(),
        other => format!(": {}\n\n", other.text().replace(['\r', '\n'], " ")).into(),
    }
}

/// The position in the value of `Last-Event-ID`; it has no epoch if the value is not one of ours.
pub(crate) fn parse_last_event_id(value: &[u8]) -> Since {
    let position = std::str::from_utf8(value).ok().and_then(|value| value.split_once(':'));
    let position = position.and_then(|(epoch, seq)| Some((Epoch::parse(epoch)?, parse_seq(seq)?)));
    position.map_or(Since { epoch: None, seq: 0 }, |(epoch, seq)| Since { epoch: Some(epoch), seq })
}

/// Reads digits only, exactly as `Seq` is written.
fn parse_seq(text: &str) -> Option<u64> {
    let seq = text.parse::<u64>().ok()?;
    (seq.to_string() == text).then_some(seq)
}

fn write_event(event: &mut Vec<u8>, json: &[u8], epoch: u64, seq: u64) {
    debug_assert!(!json.contains(&b'\n') && !json.contains(&b'\r'), "a line break would end the field");
    write!(event, "id: {}:{seq}\ndata: ", Epoch(epoch)).expect("writing to memory");
    event.extend_from_slice(json);
    event.extend_from_slice(b"\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::broadcast::{self, Unnumbered};

    fn text(bytes: &Bytes) -> &str {
        std::str::from_utf8(bytes).unwrap()
    }

    #[test]
    fn an_event_carries_the_json_of_its_frame_whatever_its_length() {
        for length in [1, 200, 70_000] {
            let frame = Unnumbered::message("ann", "tea", &"x\n".repeat(length)).number(7, 0xab, 1000);
            let event = event(&frame, 0xab, 7);
            let json = text(&event).strip_prefix("id: 00000000000000ab:7\ndata: ").and_then(|e| e.strip_suffix("\n\n"));
            let json: serde_json::Value = serde_json::from_str(json.expect("id, data, and an empty line")).unwrap();
            assert!(json["Seq"] == 7 && json["Message"] == "x\n".repeat(length));
        }
    }

    #[test]
    fn a_batch_becomes_its_events_one_behind_the_other() {
        let frames: Vec<_> = (5..8).map(|seq| Unnumbered::message("ann", "tea", "hi").number(seq, 1, 0)).collect();
        let expected: Vec<u8> = (5..8).zip(&frames).flat_map(|(seq, frame)| event(frame, 1, seq)).collect();
        let batch = Batch { bytes: frames.concat().into(), end_seq: 8 };
        assert_eq!(events(&batch, 1, 5), Batch { bytes: expected.into(), end_seq: 8 });
    }

    #[test]
    fn a_gap_is_an_event_of_its_own_name_and_moves_the_listener_on() {
        let event = gap(&broadcast::gap("tea", 5, 9, 1), 1, 9);
        assert!(text(&event).starts_with("event: gap\nid: 0000000000000001:9\ndata: {\"From\":\"#tea\""), "{event:?}");
        assert!(text(&event).ends_with("\"FromSeq\":5,\"ToSeq\":9,\"Epoch\":\"0000000000000001\"}\n\n"), "{event:?}");
    }

    #[test]
    fn the_end_says_when_to_come_back_or_why() {
        assert_eq!(end(&CloseReason::Restart { retry_ms: 1234 }), "retry: 1234\n\n");
        assert_eq!(end(&CloseReason::TooSlow), ": too slow: messages were lost; come back\n\n");
    }

    #[test]
    fn positions_are_read_as_they_are_written() {
        let known = |epoch, seq| Since { epoch: Some(epoch), seq };
        assert_eq!(parse_last_event_id(b"00000000000000ab:17"), known(0xab, 17));
        assert_eq!(parse_last_event_id(b"ffffffffffffffff:18446744073709551615"), known(u64::MAX, u64::MAX));
        for other in
            ["", ":", "17", "ab:17", "00000000000000ab:", "00000000000000ab:+7", "00000000000000AB:7", "\u{e9}:1"]
        {
            assert_eq!(parse_last_event_id(other.as_bytes()), Since { epoch: None, seq: 0 }, "{other}");
        }
        assert_eq!(parse_last_event_id(b"\xff"), Since { epoch: None, seq: 0 });
    }
}
