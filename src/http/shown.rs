//! Received bytes made harmless for a terminal, a log or a page: printable ASCII, shortened.

use super::head::Head;
use crate::limits::{SHOWN_BYTES_MAX, SHOWN_VALUES_MAX};

/// The value in quotes.
pub(super) fn shown(value: &[u8]) -> String {
    format!("\"{}\"", bare(value))
}

/// The value without quotes.
pub(super) fn bare(value: &[u8]) -> String {
    let cut = &value[..value.len().min(SHOWN_BYTES_MAX)];
    let more = if cut.len() < value.len() { "..." } else { "" };
    format!("{}{more}", cut.escape_ascii())
}

/// The values of this header, for one line of text: `absent`, or `arrived: ...`.
pub(super) fn arrived(head: &Head<'_>, name: &str) -> String {
    let mut values = head.header(name).map(shown);
    let Some(first) = values.next() else { return "absent".to_owned() };
    let mut text = format!("arrived: {first}");
    for value in values.by_ref().take(SHOWN_VALUES_MAX - 1) {
        text.push_str(" and ");
        text.push_str(&value);
    }
    match values.count() {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}
