//! Untrusted input, and what must hold for any of it: nothing panics, errors are sentences that say what is wrong, and
//! accepted input means the same to an independent parser.
//!
//! Each module is one target with a function `check` that takes bytes. `fuzz_targets/` connects them to libFuzzer;
//! `tests/fuzz.rs` feeds them some thousand mutations of `seeds/` in every test run.

pub mod api;
pub mod frames;
pub mod heads;
pub mod origins;
pub mod tokens;
mod tree;
pub mod v0;
pub mod v1;

/// Errors are for people and logs: they are not empty, and nothing in them can break out of a line.
#[track_caller]
pub(crate) fn assert_sentence(text: &str) {
    assert!(!text.is_empty() && !text.contains(char::is_control), "{text:?}");
}

/// The JSON in one of the server's text frames.
#[track_caller]
pub(crate) fn json_of(frame: &[u8]) -> serde_json::Value {
    let header = match frame[1] {
        0..=125 => 2,
        126 => 4,
        _ => 10,
    };
    serde_json::from_slice(&frame[header..]).expect("what we send is JSON")
}
