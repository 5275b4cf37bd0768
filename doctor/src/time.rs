//! Times on a command line.

use std::time::Duration;

/// A time with its unit, or a bare number of seconds.
///
/// # Errors
/// It is none: a sentence that says what to give.
pub fn parse(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(_) => {
            humantime::parse_duration(text).map_err(|_| format!("{text} is not a time: give e.g. 500ms, 25s, 2m"))
        }
    }
}
