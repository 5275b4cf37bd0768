//! What a message carries: which run and publisher it is from, its number, and when it was meant to be sent.
//!
//! Pure. The stamp is plain ASCII, so that it survives being a JSON string, and is found by its marker wherever a server
//! puts it.

use memchr::memmem::Finder;

/// Length of the marker that begins a stamp.
const MARKER_BYTES: usize = 10;
/// Bytes of a stamp: marker, room (6 hex digits), publisher (4), number (8), intended time in microseconds (10).
pub const STAMP_BYTES: usize = MARKER_BYTES + 6 + 4 + 8 + 10;

/// What is written at the begin of every message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The room's number.
    pub room: u32,
    /// The publisher's number in its room.
    pub publisher: u16,
    /// Counts the publisher's messages, from 0.
    pub sequence: u32,
    /// When the schedule meant it to be sent, in microseconds since the run's clock began.
    pub intended_us: u64,
}

/// Writes and finds the stamps of one run; those of other runs are not seen.
#[derive(Clone, Debug)]
pub struct Stamper {
    finder: Finder<'static>,
}

impl Stamper {
    /// For the run with this number.
    pub fn new(run: u32) -> Self {
        Self { finder: Finder::new(format!("lg{run:08x}").as_bytes()).into_owned() }
    }

    /// A payload of `bytes` bytes, at least [`STAMP_BYTES`].
    pub fn payload(&self, stamp: &Stamp, bytes: usize) -> String {
        let marker = std::str::from_utf8(self.finder.needle()).expect("hex digits");
        let Stamp { room, publisher, sequence, intended_us } = stamp;
        let mut text = format!("{marker}{room:06x}{publisher:04x}{sequence:08x}{intended_us:010x}");
        text.extend(std::iter::repeat_n('x', bytes.saturating_sub(STAMP_BYTES)));
        text
    }

    /// The stamp in what arrived, if there is one.
    pub fn find(&self, bytes: &[u8]) -> Option<Stamp> {
        let start = self.finder.find(bytes)? + MARKER_BYTES;
        let digits = bytes.get(start..start + STAMP_BYTES - MARKER_BYTES)?;
        Some(Stamp {
            room: hex(&digits[..6])? as u32,
            publisher: hex(&digits[6..10])? as u16,
            sequence: hex(&digits[10..18])? as u32,
            intended_us: hex(&digits[18..])?,
        })
    }
}

fn hex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |value, digit| {
        let nibble = NIBBLES[usize::from(*digit)];
        (nibble < 16).then_some(value << 4 | u64::from(nibble))
    })
}

/// The value of a hex digit, 16 for other bytes. Every message of every client is read: a table takes half the time of
/// `char::to_digit`.
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

    #[test]
    fn a_stamp_is_found_inside_whatever_a_server_makes_of_it() {
        let stamper = Stamper::new(0xdead_beef);
        let stamp = Stamp { room: 65_537, publisher: 513, sequence: 70_000, intended_us: 1 << 39 };
        let payload = stamper.payload(&stamp, 128);
        assert_eq!(payload.len(), 128);
        assert_eq!(stamper.find(format!("{{\"Message\":\"{payload}\"}}").as_bytes()), Some(stamp));
        assert_eq!(Stamper::new(1).find(payload.as_bytes()), None, "of another run");
        assert_eq!(stamper.find(&payload.as_bytes()[..STAMP_BYTES - 1]), None, "cut off");
    }
}
