//! The WebSocket protocol as far as a load generator needs it: its own small reader, which shares nothing with the
//! server's decoder and so is an independent witness (RFC 6455).
//!
//! Pure, and cheap: bytes are parsed in place, only the beginning of a message is looked at, and a connection holds
//! memory only while it has half of such a beginning.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

use crate::printable::{printable, printable_lines};
use crate::secrets::without_secrets;

/// Bytes of a message that are looked at; they must include the stamp or notice.
pub const PREFIX_BYTES: usize = 1024;
/// Characters shown of a text from the server.
const SHOWN_CHARS_MAX: usize = 600;
/// Bytes of a response head at most.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// RFC 6455, 1.3.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The nonce of every handshake. It is constant: a load generator needs no protection from caches.
const KEY: &str = "bG9hZGdlbiBsb2FkZ2VuIQ==";

/// Something that the server sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// The beginning of a message, at most [`PREFIX_BYTES`], and its length, once all of it has arrived.
    Message(&'a [u8], u64),
    /// To be answered with the same bytes.
    Ping(&'a [u8]),
    /// A pong, unsolicited.
    Pong,
    /// The server closes, with a code if it gave one, and a reason.
    Close(Option<u16>, String),
}

/// The server broke the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation(pub String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The reading side of one connection.
#[derive(Debug, Default)]
#[allow(clippy::box_collection, reason = "nearly always empty: one pointer per client, with ten thousand clients")]
pub struct Reader {
    /// The beginning of a frame, as far as it has arrived.
    stash: Option<Vec<u8>>,
    /// Bytes of the payload still to be skipped.
    skip: u64,
    /// The beginning of a message that isn't complete yet.
    message: Option<Vec<u8>>,
    /// Length so far of that message.
    message_bytes: u64,
    /// Whether the current frame is the message's last one.
    last: bool,
}

impl Reader {
    /// Parses bytes as they arrive; `on` gets the events, in order.
    ///
    /// # Errors
    /// The server broke the protocol, and nothing more can be parsed.
    pub fn feed(&mut self, bytes: &[u8], mut on: impl FnMut(Event<'_>)) -> Result<(), Violation> {
        match self.stash.take() {
            None => self.read(bytes, &mut on),
            Some(mut stash) => {
                stash.extend_from_slice(bytes);
                self.read(&stash, &mut on)
            }
        }
    }

    fn read(&mut self, mut bytes: &[u8], on: &mut impl FnMut(Event<'_>)) -> Result<(), Violation> {
        loop {
            let skipped = self.skip.min(bytes.len() as u64);
            self.skip -= skipped;
            bytes = &bytes[skipped as usize..];
            if self.skip == 0
                && self.last
                && let Some(begin) = self.message.take()
            {
                on(Event::Message(&begin, self.message_bytes));
            }
            if bytes.is_empty() {
                return Ok(());
            }
            let Some(head) = Head::read(bytes)? else { break };
            let looked_at = match head.opcode {
                0..=2 => {
                    let seen = self.message.as_ref().map_or(0, |begin| begin.len());
                    head.len.min((PREFIX_BYTES - seen) as u64) as usize
                }
                _ => head.len as usize,
            };
            let Some(payload) = bytes.get(head.bytes..head.bytes + looked_at) else { break };
            bytes = &bytes[head.bytes + looked_at..];
            self.skip = head.len - looked_at as u64;
            self.frame(&head, payload, on)?;
        }
        self.stash = Some(bytes.to_vec());
        Ok(())
    }

    fn frame(&mut self, head: &Head, payload: &[u8], on: &mut impl FnMut(Event<'_>)) -> Result<(), Violation> {
        match (head.opcode, self.message.is_some()) {
            (0, false) => return Err(Violation("a continuation frame without a message".into())),
            (1 | 2, true) => return Err(Violation("a new message inside a fragmented one".into())),
            (1 | 2, false) if head.fin && self.skip == 0 => on(Event::Message(payload, head.len)),
            (0..=2, _) => {
                self.message_bytes = head.len + if head.opcode == 0 { self.message_bytes } else { 0 };
                self.message.get_or_insert_default().extend_from_slice(payload);
                self.last = head.fin;
            }
            (8, _) => {
                let code = payload.get(..2).map(|code| u16::from_be_bytes([code[0], code[1]]));
                on(Event::Close(code, printable(&String::from_utf8_lossy(payload.get(2..).unwrap_or_default()))));
            }
            (9, _) => on(Event::Ping(payload)),
            (10, _) => on(Event::Pong),
            (opcode, _) => return Err(Violation(format!("a frame with the reserved opcode {opcode}"))),
        }
        Ok(())
    }
}

struct Head {
    fin: bool,
    opcode: u8,
    len: u64,
    bytes: usize,
}

impl Head {
    fn read(bytes: &[u8]) -> Result<Option<Self>, Violation> {
        let [first, second, rest @ ..] = bytes else { return Ok(None) };
        if first & 0x70 != 0 {
            return Err(Violation("a frame with reserved bits, without an extension".into()));
        }
        if second & 0x80 != 0 {
            return Err(Violation("a masked frame from a server".into()));
        }
        let (len, bytes) = match (second & 0x7f, rest) {
            (126, [a, b, ..]) => (u64::from(u16::from_be_bytes([*a, *b])), 4),
            (127, [top, ..]) if top & 0x80 != 0 => return Err(Violation("a frame of 2^63 bytes or more".into())),
            (127, rest) if rest.len() >= 8 => (u64::from_be_bytes(rest[..8].try_into().expect("eight bytes")), 10),
            (126 | 127, _) => return Ok(None),
            (len, _) => (u64::from(len), 2),
        };
        let (fin, opcode) = (first & 0x80 != 0, first & 0x0f);
        if opcode >= 8 && (len > 125 || !fin) {
            return Err(Violation("a control frame that is too long or fragmented".into()));
        }
        Ok(Some(Self { fin, opcode, len, bytes }))
    }
}

/// Appends a masked frame to `out`.
pub fn write_frame(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    // A mask has to be there, but needn't be random: no proxy between us and a server under test has to be protected.
    const MASK: [u8; 4] = [0x5a, 0x17, 0xc3, 0x81];
    out.push(0x80 | opcode);
    match payload.len() {
        len @ 0..=125 => out.push(0x80 | len as u8),
        len @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend((len as u16).to_be_bytes());
        }
        len => {
            out.push(0x80 | 127);
            out.extend((len as u64).to_be_bytes());
        }
    }
    out.extend(MASK);
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

/// The opcode of a text message.
pub const TEXT: u8 = 1;
/// The opcode of a Close.
pub const CLOSE: u8 = 8;
/// The opcode of a pong.
pub const PONG: u8 = 10;

/// The request that opens a WebSocket, with or without an `Authorization` header and a subprotocol.
pub fn request(host: &str, path: &str, authorization: Option<&str>, subprotocol: Option<&str>) -> String {
    let header = |name, value: Option<&str>| value.map_or_else(String::new, |value| format!("{name}: {value}\r\n"));
    let authorization = header("Authorization", authorization);
    let subprotocol = header("Sec-WebSocket-Protocol", subprotocol);
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\n{authorization}{subprotocol}Upgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    )
}

/// The answer to [`request`].
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// It isn't complete yet.
    Partial,
    /// The WebSocket is open; the number is the length of the head, in bytes.
    Open(usize),
    /// Anything else, in words: the status line and the beginning of the body.
    Refused(String),
}

/// Reads the answer to a handshake.
pub fn read_answer(bytes: &[u8]) -> Answer {
    let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else {
        return if bytes.len() > HEAD_BYTES_MAX {
            Answer::Refused(format!("without an end of its head, which begins:\n{}", begin_of(bytes)))
        } else {
            Answer::Partial
        };
    };
    let head = String::from_utf8_lossy(&bytes[..end]);
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    let headers: Vec<_> = lines.filter_map(|line| line.split_once(':')).collect();
    let header = |wanted: &str| {
        headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim())
    };
    match status.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.split(' ').next()) {
        Some("101") => {}
        _ => return Answer::Refused(refusal(status, header("location"), &bytes[end + 4..])),
    }
    let expected = STANDARD.encode(Sha1::digest(format!("{KEY}{GUID}")));
    match header("sec-websocket-accept") {
        Some(value) if value == expected => Answer::Open(end + 4),
        _ => Answer::Refused("101, but its Sec-WebSocket-Accept is not the answer to our key".into()),
    }
}

/// Describes an answer other than 101, with the fix where it is known.
fn refusal(status: &str, location: Option<&str>, body: &[u8]) -> String {
    let (shown, code) = (shortened(&printable(status)), status.split(' ').nth(1).unwrap_or_default());
    let what = match location {
        // The body would only repeat that, with the secrets in the link.
        Some(location) if code.starts_with('3') => return format!("{shown}: {}.", redirection(location)),
        _ if code == "401" => format!("{shown}: give a user and a password, as in ws://USER:PASSWORD@HOST"),
        _ => format!("{shown}, not 101 Switching Protocols"),
    };
    let body = begin_of(body);
    what + &if body.is_empty() { ", without a body".to_owned() } else { format!("; the body begins:\n{body}") }
}

/// Where a server redirects to. A load generator doesn't follow: it measures what it was told to measure.
fn redirection(location: &str) -> String {
    let shown = shortened(&printable(&without_secrets(location)));
    let lower = location.to_ascii_lowercase();
    if lower.starts_with("https://") || lower.starts_with("wss://") {
        format!("it redirects to {shown}, which needs TLS: measure the server behind the TLS proxy")
    } else if lower.starts_with("http://") {
        format!("it redirects to {shown}: use that address, with ws:// for http://")
    } else if lower.starts_with("ws://") {
        format!("it redirects to {shown}: use that address")
    } else {
        format!("it redirects to {shown}: use that path")
    }
}

/// The beginning of a text from the server, indented so that its lines can't be mistaken for ours.
fn begin_of(bytes: &[u8]) -> String {
    let text = printable_lines(&String::from_utf8_lossy(&bytes[..bytes.len().min(4 * SHOWN_CHARS_MAX)]));
    let shown: Vec<_> = shortened(text.trim_end()).lines().map(|line| format!("  {line}")).collect();
    shown.join("\n")
}

fn shortened(text: &str) -> String {
    text.chars().take(SHOWN_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn server_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
        let mut masked = Vec::new();
        write_frame(&mut masked, opcode, payload);
        let head = masked.len() - payload.len() - 4;
        masked[1] &= 0x7f;
        masked.truncate(head);
        masked.extend_from_slice(payload);
        masked
    }

    fn owned(event: Event<'_>) -> String {
        format!("{event:?}")
    }

    proptest! {
        #[test]
        fn splitting_the_input_makes_no_difference(
            sizes in prop::collection::vec(prop_oneof![0..200usize, 60_000..70_000usize], 1..6),
            cuts in prop::collection::vec(1..5000usize, 1..50),
        ) {
            let mut bytes = Vec::new();
            for (index, size) in sizes.iter().enumerate() {
                bytes.extend(server_frame(1 + (index % 2) as u8, &vec![index as u8; *size]));
                bytes.extend(server_frame(9, b"ping"));
            }
            bytes.extend(server_frame(8, &[3, 233, b'o', b'k']));
            let mut whole = Vec::new();
            Reader::default().feed(&bytes, |event| whole.push(owned(event))).unwrap();
            prop_assert_eq!(whole.len(), sizes.len() * 2 + 1);
            let (mut reader, mut parts, mut rest) = (Reader::default(), Vec::new(), &bytes[..]);
            for cut in cuts.iter().cycle() {
                let (part, more) = rest.split_at((*cut).min(rest.len()));
                reader.feed(part, |event| parts.push(owned(event))).unwrap();
                rest = more;
                if rest.is_empty() { break; }
            }
            prop_assert_eq!(whole, parts);
        }
    }

    #[test]
    fn a_message_counts_when_its_last_byte_arrives() {
        let large = server_frame(1, &vec![b'a'; 5000]);
        let parts = [&[0x01, 2, b'a', b'b'][..], &server_frame(9, b"ping"), &[0x00, 1, b'c', 0x80, 1, b'd']].concat();
        for (bytes, begin, all) in [(large, &[b'a'; PREFIX_BYTES][..], 5000), (parts, b"abcd", 4)] {
            let (mut reader, mut messages) = (Reader::default(), Vec::new());
            let mut feed = |bytes: &[u8]| {
                let on = |event: Event<'_>| {
                    if let Event::Message(begin, bytes) = event {
                        messages.push((begin.to_vec(), bytes));
                    }
                };
                reader.feed(bytes, on).unwrap();
                messages.len()
            };
            let (last, rest) = bytes.split_last().unwrap();
            assert_eq!(feed(rest), 0);
            assert_eq!(feed(&[*last]), 1);
            assert_eq!(messages, [(begin.to_vec(), all)]);
        }
    }

    #[test]
    fn protocol_violations_are_described() {
        for (bytes, what) in [
            (&[0x81, 0x80, 0, 0, 0, 0][..], "masked"),
            (&[0xc1, 0x00], "reserved bits"),
            (&[0x83, 0x00], "reserved opcode"),
            (&[0x80, 0x00], "continuation"),
            (&[0x09, 0x00], "control frame"),
            (&[0x01, 0x00, 0x81, 0x00], "inside a fragmented"),
            (&[0x81, 0x7f, 0x80, 0, 0, 0, 0, 0, 0, 0], "2^63"),
        ] {
            let violation = Reader::default().feed(bytes, |_| {}).unwrap_err();
            assert!(violation.0.contains(what), "{violation}");
        }
    }

    #[test]
    fn the_answer_is_checked() {
        let accept = STANDARD.encode(Sha1::digest(format!("{KEY}{GUID}")));
        let good = format!("HTTP/1.1 101 Switching Protocols\r\nsec-websocket-accept: {accept}\r\n\r\n");
        assert_eq!(read_answer(good.as_bytes()), Answer::Open(good.len()));
        assert_eq!(read_answer(&good.as_bytes()[..20]), Answer::Partial);
        assert!(matches!(read_answer(b"HTTP/1.1 101 X\r\n\r\n"), Answer::Refused(why) if why.contains("Accept")));
        let refused = read_answer(b"HTTP/1.1 403 Forbidden\r\n\r\nnot you");
        assert!(matches!(refused, Answer::Refused(why) if why.contains("403 Forbidden") && why.contains("not you")));
        let escapes = read_answer(b"HTTP/1.1 403 \x1b[2JNo\r\n\r\n\x1b]0;not\x07 you");
        assert!(
            matches!(escapes, Answer::Refused(why) if why.contains("403 \u{fffd}[2JNo") && !why.contains(['\x1b', '\x07']))
        );
        let turned = read_answer("HTTP/1.1 403 No\u{202e}\r\n\r\na\u{2066}\nsound\u{200b}".as_bytes());
        let shown =
            "HTTP/1.1 403 No\u{fffd}, not 101 Switching Protocols; the body begins:\n  a\u{fffd}\n  sound\u{fffd}";
        assert_eq!(turned, Answer::Refused(shown.into()));
        assert!(matches!(read_answer(b"HTTP/1.1 1012 X\r\n\r\n"), Answer::Refused(_)));
        let endless = read_answer(&[b'g'; 20_000]);
        assert!(matches!(endless, Answer::Refused(why) if why.contains("without an end") && why.contains("ggg")));
    }

    #[test]
    fn redirects_are_described() {
        for (location, said) in [
            ("/new?a=b", "redirects to /new?a=***: use that path"),
            ("/ws?token=s3cret&room=tea", "redirects to /ws?token=***&room=tea: use that path"),
            ("https://h/x;jsessionid=s3cret?s3cret#s3cret", "to https://h/x;jsessionid=***?***, which needs TLS"),
            ("http://other:81/x", "redirects to http://other:81/x: use that address, with ws:// for http://"),
            ("ws://other/x", "redirects to ws://other/x: use that address"),
            ("HTTPS://other/x", "redirects to HTTPS://other/x, which needs TLS"),
            ("http://ada:secret@other/\u{202e}", "redirects to http://ada:***@other/\u{fffd}: use that address"),
        ] {
            for status in ["301 Moved Permanently", "307 Temporary Redirect"] {
                let answer = format!("HTTP/1.1 {status}\r\nLOCATION:  {location}\r\n\r\n<a href=\"{location}\">");
                let Answer::Refused(why) = read_answer(answer.as_bytes()) else { panic!("{answer}") };
                assert!(why.starts_with(&format!("HTTP/1.1 {status}: it ")) && why.contains(said), "{why}");
                assert!(!why.contains("s3cret"), "{why}");
            }
        }
        for answer in ["HTTP/1.1 301 Moved\r\n\r\n", "HTTP/1.1 404 Not Found\r\nLocation: /x\r\n\r\n"] {
            assert!(matches!(read_answer(answer.as_bytes()), Answer::Refused(why) if why.contains("not 101")));
        }
        let unauthorized = read_answer(b"HTTP/1.1 401 Unauthorized\r\n\r\n");
        assert!(matches!(unauthorized, Answer::Refused(why) if why.contains("ws://USER:PASSWORD@HOST")));
    }
}
