//! The dialects: frames to commands and back. Pure.

pub mod broadcast;
pub mod close_code;
pub mod name;
pub mod v0;
