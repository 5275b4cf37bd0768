//! What comes from outside and is not ours, and what has to hold for it whatever it is: nothing panics, errors are sentences
//! that name what is wrong, and what is accepted means the same to a reader that is not ours.
//!
//! Each module is one target, with a function `check` that takes bytes. `fuzz_targets/` gives them to libFuzzer; the tests of
//! hi (`tests/fuzz.rs`) give them some thousand mutations of `seeds/` in every run.

pub mod api;
pub mod frames;
pub mod heads;
mod tree;
pub mod v0;
pub mod v1;

/// Errors are for people and for logs: something is said, and nothing in it can break out of a line.
#[track_caller]
pub(crate) fn assert_sentence(text: &str) {
    assert!(!text.is_empty() && !text.contains(char::is_control), "{text:?}");
}

/// The JSON in a text frame of the server.
#[track_caller]
pub(crate) fn json_of(frame: &[u8]) -> serde_json::Value {
    let header = match frame[1] {
        0..=125 => 2,
        126 => 4,
        _ => 10,
    };
    serde_json::from_slice(&frame[header..]).expect("what we send is JSON")
}
