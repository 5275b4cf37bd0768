//! Values of options: sizes and times within the bounds of what makes sense.

use std::time::Duration;

use crate::memory;
use crate::units::{parse_bytes, parse_size, parse_time};

/// The shortest time between two checks of the public address.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

pub(super) fn parse_memory(text: &str) -> Result<usize, String> {
    parse_bytes(text).and_then(|bytes| match bytes {
        memory::BUDGET_BYTES_MIN.. => Ok(bytes),
        _ => Err(format!("{text} is too little: give at least {}", memory::Size(memory::BUDGET_BYTES_MIN))),
    })
}

pub(super) fn parse_message_bytes(text: &str) -> Result<usize, String> {
    parse_size(text).and_then(|bytes| match bytes {
        0..=124 => Err(format!("{text} is too little: give at least 125 bytes")),
        _ => Ok(bytes),
    })
}

/// A time, or 0.
pub(super) fn parse_time_or_0(text: &str) -> Result<Duration, String> {
    if matches!(text, "0" | "0s" | "0ms") { Ok(Duration::ZERO) } else { parse_time(text) }
}

/// A time of whole seconds: the timer wheel counts in them.
pub(super) fn parse_seconds(text: &str) -> Result<Duration, String> {
    let time = parse_time(text)?;
    if time.subsec_nanos() == 0 { Ok(time) } else { Err(format!("{text}: give whole seconds")) }
}

/// A time between two checks of the public address: a shorter one would be a load of its own.
pub(super) fn parse_interval(text: &str) -> Result<Duration, String> {
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
    fn what_makes_no_sense_is_refused() {
        assert_eq!(parse_memory("99g"), Ok(99 << 30));
        assert!(parse_memory("15m").unwrap_err().contains("at least 16 MiB"));
        assert!(parse_seconds("1500ms").is_err());
        assert!(parse_buffers("3").is_err());
    }
}
