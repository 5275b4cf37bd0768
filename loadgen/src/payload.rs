//! What a message carries: the run and publisher it is from, its number, when it was due, and padding up to its length.
//!
//! Pure. It is all ASCII and survives being a JSON string; the stamp is found by its marker wherever a server puts it.

use memchr::memmem::Finder;

use crate::wire::PREFIX_BYTES;

/// Length of the marker that begins a stamp.
const MARKER_BYTES: usize = 10;
/// Bytes of a stamp: marker, room (6 hex digits), publisher (4), number (8), intended time in microseconds (10).
pub const STAMP_BYTES: usize = MARKER_BYTES + 6 + 4 + 8 + 10;

/// The beginning of every message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The room's number.
    pub room: u32,
    /// The publisher's number in its room.
    pub publisher: u16,
    /// Counts the publisher's messages, from 0.
    pub sequence: u32,
    /// When it was due, in microseconds on the run's clock.
    pub intended_us: u64,
}

/// Padding of a payload.
const FILLING: [u8; PREFIX_BYTES] = [b'x'; PREFIX_BYTES];

/// Writes and finds the stamps of one run; stamps of other runs are ignored.
#[derive(Clone, Debug)]
pub struct Stamper {
    finder: Finder<'static>,
    payload_bytes: usize,
}

impl Stamper {
    /// For the run with this number, and payloads of `payload_bytes`, at least [`STAMP_BYTES`].
    pub fn new(run: u32, payload_bytes: usize) -> Self {
        Self { finder: Finder::new(format!("lg{run:08x}").as_bytes()).into_owned(), payload_bytes }
    }

    /// The payload with this stamp.
    pub fn payload(&self, stamp: &Stamp) -> String {
        let marker = std::str::from_utf8(self.finder.needle()).expect("hex digits");
        let Stamp { room, publisher, sequence, intended_us } = stamp;
        let mut text = format!("{marker}{room:06x}{publisher:04x}{sequence:08x}{intended_us:010x}");
        text.extend(std::iter::repeat_n('x', self.payload_bytes.saturating_sub(STAMP_BYTES)));
        text
    }

    /// The stamp in `begin`, the beginning of a message of `bytes` bytes, if there is one; and whether the payload is
    /// intact.
    pub fn find(&self, begin: &[u8], bytes: u64) -> Option<(Stamp, bool)> {
        let start = self.finder.find(begin)?;
        let digits = begin.get(start + MARKER_BYTES..start + STAMP_BYTES)?;
        let stamp = Stamp {
            room: hex(&digits[..6])? as u32,
            publisher: hex(&digits[6..10])? as u16,
            sequence: hex(&digits[10..18])? as u32,
            intended_us: hex(&digits[18..])?,
        };
        let end = (start + self.payload_bytes).min(begin.len());
        let filling = begin.get(start + STAMP_BYTES..end).unwrap_or_default();
        let whole = filling == &FILLING[..filling.len()] && bytes >= (start + self.payload_bytes) as u64;
        Some((stamp, whole))
    }
}

fn hex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |value, digit| {
        let nibble = NIBBLES[usize::from(*digit)];
        (nibble < 16).then_some(value << 4 | u64::from(nibble))
    })
}

/// The value of a hex digit, 16 for other bytes. It runs for every message of every client, and a table takes half the
/// time of `char::to_digit`.
const NIBBLES: [u8; 256] = {
    let mut nibbles = [16; 256];
    let mut digit = 0;
    while digit < 16 {
        nibbles[b"0123456789abcdef"[digit as usize] as usize] = digit;
        digit += 1;
    }
    nibbles
};

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { room: 65_537, publisher: 513, sequence: 70_000, intended_us: 1 << 39 };

    fn find(stamper: &Stamper, message: &str) -> Option<(Stamp, bool)> {
        stamper.find(&message.as_bytes()[..message.len().min(PREFIX_BYTES)], message.len() as u64)
    }

    #[test]
    fn a_stamp_is_found_inside_whatever_a_server_makes_of_it() {
        for bytes in [STAMP_BYTES, 128, PREFIX_BYTES - 14, PREFIX_BYTES, 5000] {
            let stamper = Stamper::new(0xdead_beef, bytes);
            let payload = stamper.payload(&STAMP);
            assert_eq!(payload.len(), bytes);
            assert_eq!(find(&stamper, &payload), Some((STAMP, true)));
            assert_eq!(find(&stamper, &format!("{{\"Message\":\"{payload}\"}}")), Some((STAMP, true)));
            assert_eq!(find(&Stamper::new(1, bytes), &payload), None, "from another run");
            assert_eq!(find(&stamper, &payload[..STAMP_BYTES - 1]), None, "cut off");
        }
    }

    #[test]
    fn a_payload_that_is_cut_off_or_altered_is_not_whole() {
        for bytes in [128, 5000] {
            let stamper = Stamper::new(0xdead_beef, bytes);
            let payload = stamper.payload(&STAMP);
            for cut_off in [STAMP_BYTES, bytes - 1] {
                assert_eq!(find(&stamper, &payload[..cut_off]), Some((STAMP, false)));
            }
            for at in [STAMP_BYTES, bytes.min(PREFIX_BYTES) - 1] {
                let mut altered = payload.clone();
                altered.replace_range(at..=at, "y");
                assert_eq!(find(&stamper, &altered), Some((STAMP, false)));
            }
        }
    }
}
