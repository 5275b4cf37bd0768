//! Numbers for people, and text from outside made harmless.

pub(super) use crate::printable::printable;

/// `1,234,567`.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 client`, `1,000 clients`.
pub(super) fn plural(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(number), if number == 1 { "" } else { "s" })
}

/// Three significant digits, and all those before the point: `0.712`, `12.3`, `1,234,567`; `-` if it is not a number.
pub(super) fn number(number: f64) -> String {
    match number {
        _ if !number.is_finite() => "-".to_owned(),
        _ if number < 0.0 => format!("-{}", self::number(-number)),
        _ if number >= 999.5 => count(number.round() as u64),
        _ => format!("{number:.*}", decimals(number)),
    }
}

/// The same without trailing zeros: `0.5`, `10`.
pub(super) fn short(number: f64) -> String {
    let text = self::number(number);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// Digits after the point, for three significant ones.
fn decimals(number: f64) -> usize {
    match number {
        _ if number >= 99.95 || number == 0.0 => 0,
        _ if number >= 9.995 => 1,
        _ if number >= 0.9995 => 2,
        _ => 3,
    }
}

/// A time in microseconds: `412 us`, `8.21 ms`, `1.35 s`.
pub(super) fn time(microseconds: f64) -> String {
    let (value, unit) = time_in_unit(microseconds);
    // The kernel's clock has whole microseconds: 8 us, not 8.00 us.
    let whole = unit == "us" && value.fract() == 0.0;
    format!("{} {unit}", if whole { short(value) } else { number(value) })
}

/// The same without trailing zeros: for axis labels, and for times given by the user.
pub(super) fn time_short(microseconds: f64) -> String {
    let (value, unit) = time_in_unit(microseconds);
    format!("{} {unit}", short(value))
}

fn time_in_unit(microseconds: f64) -> (f64, &'static str) {
    // Values that would round to 1,000 of a unit use the next one.
    match microseconds {
        us if us < 999.5 => (us, "us"),
        us if us < 999_500.0 => (us / 1e3, "ms"),
        us => (us / 1e6, "s"),
    }
}

/// A time in seconds: `10 s`, `1.35 s`.
pub(super) fn seconds(seconds: f64) -> String {
    if seconds == 0.0 { "0 s".to_owned() } else { time_short(seconds * 1e6) }
}

/// `512 B`, `2.31 KiB`, `12.3 MiB`.
pub(super) fn bytes(bytes: f64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes;
    let mut unit = 0;
    while value.abs() >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{} {}", if unit == 0 { number(value.round()) } else { number(value) }, UNITS[unit])
}

/// A share from 0 to 1 as `54 %`.
pub(super) fn percent(share: f64) -> String {
    format!("{} %", short(if share >= 0.1 { (share * 100.0).round() } else { share * 100.0 }))
}

/// A part of a whole as `99.9998 %`: 100 % only if nothing is missing.
pub(super) fn part(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "-".to_owned();
    }
    // Cut off and not rounded, so that one message in a billion still shows.
    let millionths = u128::from(part) * 1_000_000 / u128::from(whole);
    let text = format!("{}.{:04}", millionths / 10_000, millionths % 10_000);
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

/// Milliseconds since 1970 as `2026-11-01 09:30 UTC`.
pub(super) fn date(unix_ms: u64) -> String {
    let minutes = unix_ms / 60_000;
    let (days, minute) = (minutes / 1440, minutes % 1440);
    // Civil from days: years begin on 1 March, so that the day that leap years add is the last one.
    // https://howardhinnant.github.io/date_algorithms.html#civil_from_days
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", minute / 60, minute % 60)
}

/// A text that came from outside, for the content and the attributes of XML and HTML.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in printable(text).chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            _ => escaped.push(character),
        }
    }
    escaped
}

/// At most `characters_max` characters, with `...` where it was cut.
pub(super) fn shorten(text: &str, characters_max: usize) -> String {
    if text.chars().count() <= characters_max {
        return text.to_owned();
    }
    text.chars().take(characters_max.saturating_sub(3)).chain("...".chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_show_three_digits_that_count() {
        let cases = [(0.0, "0"), (0.712, "0.712"), (1.0, "1.00"), (12.34, "12.3"), (99.96, "100"), (9.996, "10.0")];
        for (value, text) in cases.into_iter().chain([(999.7, "1,000"), (1_234_567.2, "1,234,567"), (f64::NAN, "-")]) {
            assert_eq!(number(value), text);
        }
        assert_eq!(short(10.0), "10");
        assert_eq!(short(0.5), "0.5");
        assert_eq!(short(100.0), "100");
        assert_eq!(plural(1, "room"), "1 room");
        assert_eq!(plural(20_000, "room"), "20,000 rooms");
    }

    #[test]
    fn times_choose_their_unit_after_rounding() {
        let cases = [(8.0, "8 us"), (0.71, "0.710 us"), (412.0, "412 us"), (8210.0, "8.21 ms"), (999_700.0, "1.00 s")];
        for (microseconds, text) in
            cases.into_iter().chain([(999.8, "1.00 ms"), (1.35e6, "1.35 s"), (1.5e9, "1,500 s")])
        {
            assert_eq!(time(microseconds), text);
        }
        assert_eq!(time_short(2000.0), "2 ms");
        assert_eq!(seconds(10.0), "10 s");
        assert_eq!(seconds(0.0), "0 s");
    }

    #[test]
    fn bytes_and_shares() {
        assert_eq!(bytes(512.0), "512 B");
        assert_eq!(bytes(2365.0), "2.31 KiB");
        assert_eq!(bytes(12.3 * 1048576.0), "12.3 MiB");
        assert_eq!(bytes(-2048.0), "-2.00 KiB");
        assert_eq!(bytes(f64::INFINITY), "- TiB");
        assert_eq!(percent(0.5449), "54 %");
        assert_eq!(percent(0.0012), "0.12 %");
        assert_eq!(part(10, 10), "100 %");
        assert_eq!(part(1_999_999_999, 2_000_000_000), "99.9999 %");
        assert_eq!(part(0, 5), "0 %");
        assert_eq!(part(0, 0), "-");
    }

    #[test]
    fn dates_know_leap_years() {
        assert_eq!(date(0), "1970-01-01 00:00 UTC");
        assert_eq!(date(951_782_400_000), "2000-02-29 00:00 UTC");
        assert_eq!(date(1_793_525_400_000), "2026-11-01 09:30 UTC");
    }

    #[test]
    fn text_from_outside_stays_text() {
        assert_eq!(escape("<b a='1'>&\"\u{ffff}"), "&lt;b a=&#39;1&#39;&gt;&amp;&quot;\u{fffd}");
        assert_eq!(shorten("abcdefgh", 6), "abc...");
        assert_eq!(shorten("abcdef", 6), "abcdef");
    }
}
