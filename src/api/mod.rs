//! The internal HTTP port: placeholder.

pub mod client;
