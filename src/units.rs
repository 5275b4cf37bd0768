//! Sizes and times as people write them: `64k`, `25s` (pure).

use std::time::Duration;

/// A number of bytes: digits, and k, m or g (1k is 1,024).
///
/// # Errors
/// What is wrong, and what to give instead.
pub(crate) fn parse_bytes(text: &str) -> Result<usize, String> {
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
///
/// # Errors
/// As above.
pub(crate) fn parse_size(text: &str) -> Result<usize, String> {
    parse_bytes(text).and_then(|bytes| match bytes {
        0..=0x4000_0000 => Ok(bytes),
        _ => Err(format!("{text} is too much: at most 1g")),
    })
}

/// A time: digits, and ms, s (which may be left out), m or h.
///
/// # Errors
/// What is wrong, and what to give instead.
pub(crate) fn parse_time(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|letter: char| !letter.is_ascii_digit());
    let milliseconds: u64 = match &text[digits.len()..] {
        "ms" => 1,
        "" | "s" => 1000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        _ => return Err(format!("{text} is not a time: give e.g. 500ms, 25s, 2m")),
    };
    let number: u64 = digits.parse().map_err(|_| format!("{text} is not a time: give e.g. 500ms, 25s, 2m"))?;
    number
        .checked_mul(milliseconds)
        .filter(|ms| (1..=86_400_000).contains(ms))
        .map(Duration::from_millis)
        .ok_or_else(|| format!("{text} is out of range: give 1ms to 24h"))
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
        assert!(parse_bytes("99999999999g").unwrap_err().contains("too much"));
        assert_eq!(parse_time("1500ms"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_time("2m"), Ok(Duration::from_secs(120)));
        assert!(parse_time("0s").is_err());
    }
}
