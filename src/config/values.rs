//! Values of options: sizes and times with units, within the bounds of what makes sense.

use std::time::Duration;

use crate::limits;
use crate::memory;

/// A number of bytes: digits, and k, m or g.
fn parse_bytes(text: &str) -> Result<usize, String> {
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|letter: char| !letter.is_ascii_digit());
    let not_a_size = || format!("{text} is not a size: give bytes, e.g. 65536, 64k or 1m");
    let unit: usize = match &lower[digits.len()..] {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        _ => return Err(not_a_size()),
    };
    let number: usize = digits.parse().map_err(|_| not_a_size())?;
    number.checked_mul(unit).ok_or_else(|| format!("{text} is too much: no machine has as many bytes"))
}

/// The same, for what is counted in 32 bits: frames and chunks.
pub(super) fn parse_size(text: &str) -> Result<usize, String> {
    parse_bytes(text).and_then(|bytes| match bytes {
        0..=0x4000_0000 => Ok(bytes),
        _ => Err(format!("{text} is too much: at most 1g")),
    })
}

pub(super) fn parse_memory(text: &str) -> Result<usize, String> {
    parse_bytes(text).and_then(|bytes| match bytes {
        limits::BUDGET_BYTES_MIN.. => Ok(bytes),
        _ => Err(format!("{text} is too little: give at least {}", memory::Size(limits::BUDGET_BYTES_MIN))),
    })
}

pub(super) fn parse_message_bytes(text: &str) -> Result<usize, String> {
    parse_size(text).and_then(|bytes| match bytes {
        0..=124 => Err(format!("{text} is too little: give at least 125 bytes")),
        _ => Ok(bytes),
    })
}

/// A time of up to a day.
pub(super) fn parse_time(text: &str) -> Result<Duration, String> {
    doctor::time::parse(text).and_then(|time| match time.as_millis() {
        1..=86_400_000 => Ok(time),
        _ => Err(format!("{text} is out of range: give 1ms to 24h")),
    })
}

/// The same, or 0.
pub(super) fn parse_time_or_0(text: &str) -> Result<Duration, String> {
    if doctor::time::parse(text) == Ok(Duration::ZERO) { Ok(Duration::ZERO) } else { parse_time(text) }
}

/// A time of whole seconds: the timer wheel counts in them.
pub(super) fn parse_seconds(text: &str) -> Result<Duration, String> {
    let time = parse_time(text)?;
    if time.subsec_nanos() == 0 { Ok(time) } else { Err(format!("{text}: give whole seconds")) }
}

/// A time between two checks of the public address.
#[cfg(feature = "doctor")]
pub(super) fn parse_interval(text: &str) -> Result<Duration, String> {
    /// More checks would be a load of their own.
    const INTERVAL_MIN: Duration = Duration::from_millis(100);
    let time = parse_time(text)?;
    if time >= INTERVAL_MIN { Ok(time) } else { Err(format!("{text} is too short: give 100ms or more")) }
}

pub(super) fn parse_buffers(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(count @ 2..=32_768u16) if count.is_power_of_two() => Ok(count),
        _ => Err(format!("{text} is not a power of two from 2 to 32768")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_have_units() {
        assert_eq!(parse_size("16k"), Ok(16_384));
        assert_eq!(parse_size("32M"), Ok(32 << 20));
        assert!(parse_size("many").is_err());
        assert!(parse_size("99g").is_err());
        assert_eq!(parse_memory("99g"), Ok(99 << 30));
        assert!(parse_memory("15m").unwrap_err().contains("at least 16 MiB"));
        assert!(parse_memory("99999999999g").unwrap_err().contains("too much"));
        assert_eq!(parse_time("1500ms"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_time("2m"), Ok(Duration::from_secs(120)));
        assert!(parse_time("0s").is_err());
        assert!(parse_seconds("1500ms").is_err());
        assert!(parse_buffers("3").is_err());
    }
}
