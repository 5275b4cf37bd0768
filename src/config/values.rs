//! Values of options: sizes and times with units, within the bounds of what makes sense.

use std::ops::{RangeBounds, RangeInclusive};
use std::time::Duration;

use super::Paces;
use crate::identity::rights::{Rights, Source};
use crate::limits;
use crate::memory;
use crate::room::pace::Pace;

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
    within(..=0x4000_0000, parse_bytes(text)?, || format!("{text} is too much: at most 1g"))
}

pub(super) fn parse_memory(text: &str) -> Result<usize, String> {
    let least = limits::BUDGET_BYTES_MIN;
    within(least.., parse_bytes(text)?, || format!("{text} is too little: give at least {}", memory::Size(least)))
}

pub(super) fn parse_message_bytes(text: &str) -> Result<usize, String> {
    within(125.., parse_size(text)?, || format!("{text} is too little: give at least 125 bytes"))
}

/// A time of up to a day.
pub(super) fn parse_time(text: &str) -> Result<Duration, String> {
    const RANGE: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(86_400);
    within(RANGE, doctor::time::parse(text)?, || format!("{text} is out of range: give 1ms to 24h"))
}

/// The same, or 0.
pub(super) fn parse_time_or_0(text: &str) -> Result<Duration, String> {
    if doctor::time::parse(text) == Ok(Duration::ZERO) { Ok(Duration::ZERO) } else { parse_time(text) }
}

/// Paces of both kinds of rooms: one for both, or `chat=...,raw=...`.
pub(super) fn parse_paces(text: &str) -> Result<Paces, String> {
    if !text.contains('=') {
        let pace = parse_pace(text)?;
        return Ok(Paces { chat: pace, raw: pace });
    }
    let (mut chat, mut raw) = (None, None);
    for part in text.split(',') {
        let (kind, pace) = match part.split_once('=') {
            Some(("chat", pace)) => (&mut chat, pace),
            Some(("raw", pace)) => (&mut raw, pace),
            _ => return Err(format!("{part} is not a kind of room and a time: give e.g. chat=20ms,raw=50ms")),
        };
        if kind.replace(parse_pace(pace)?).is_some() {
            return Err(format!("{text} names a kind of room twice: give e.g. chat=20ms,raw=50ms"));
        }
    }
    Ok(Paces { chat: chat.unwrap_or_default(), raw: raw.unwrap_or_default() })
}

fn parse_pace(text: &str) -> Result<Pace, String> {
    const RANGE: RangeInclusive<Duration> = Duration::from_millis(1)..=limits::FLUSH_INTERVAL_MAX;
    let interval = |text| {
        let time = doctor::time::parse(text).map_err(|why| format!("{why}, or auto"))?;
        within(RANGE, time, || format!("{text} is out of range: give 1ms to {:?}, or 0", limits::FLUSH_INTERVAL_MAX))
    };
    match text.split_once(':') {
        None if text == "auto" => Ok(Pace::Auto(limits::FLUSH_AUTO_WAIT)),
        None if doctor::time::parse(text) == Ok(Duration::ZERO) => Ok(Pace::AtOnce),
        Some(("auto", wait_max)) => interval(wait_max).map(Pace::Auto),
        _ => interval(text).map(Pace::Every),
    }
}

/// Rules about what tokens allow.
pub(super) fn parse_auth_rooms(text: &str) -> Result<Rights, String> {
    Rights::parse(text, Source::TokensWithout)
}

/// Rules about what guests may do.
pub(super) fn parse_guest_rooms(text: &str) -> Result<Rights, String> {
    Rights::parse(text, Source::Guests)
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
    within(INTERVAL_MIN.., parse_time(text)?, || format!("{text} is too short: give 100ms or more"))
}

/// The value, if the range has it.
fn within<T: PartialOrd>(range: impl RangeBounds<T>, value: T, refusal: impl FnOnce() -> String) -> Result<T, String> {
    if range.contains(&value) { Ok(value) } else { Err(refusal()) }
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

    #[test]
    fn paces_are_for_both_kinds_of_rooms_or_for_each() {
        const MS: Duration = Duration::from_millis(1);
        let both = |pace| Ok(Paces { chat: pace, raw: pace });
        assert_eq!(parse_paces("0"), both(Pace::AtOnce));
        assert_eq!(parse_paces("0ms"), both(Pace::AtOnce));
        assert_eq!(parse_paces("20ms"), both(Pace::Every(20 * MS)));
        assert_eq!(parse_paces("auto"), both(Pace::Auto(50 * MS)));
        assert_eq!(parse_paces("auto:20ms"), both(Pace::Auto(20 * MS)));
        let paces = Paces { chat: Pace::Every(20 * MS), raw: Pace::Auto(5 * MS) };
        assert_eq!(parse_paces("raw=auto:5ms,chat=20ms"), Ok(paces));
        assert_eq!(parse_paces("chat=20ms"), Ok(Paces { raw: Pace::AtOnce, ..paces }));
        for (wrong, why) in [
            ("soon", "soon is not a time"),
            ("auto:soon", "soon is not a time"),
            ("11s", "give 1ms to 10s"),
            ("1us", "give 1ms to 10s"),
            ("auto:0", "give 1ms to 10s"),
            ("chat=20ms,chat=1s", "names a kind of room twice"),
            ("chat=20ms,50ms", "50ms is not a kind of room and a time"),
            ("sse=20ms", "give e.g. chat=20ms,raw=50ms"),
            ("20ms,50ms", "20ms,50ms is not a time"),
        ] {
            let said = parse_paces(wrong).unwrap_err();
            assert!(said.contains(why), "{wrong}: {said}");
        }
    }
}
