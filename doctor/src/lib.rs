//! Why doesn't a WebSocket address work? The doctor of hi: it goes to every address, through every hop, and ends with
//! one verdict and the fix.
//!
//! | module | what it does |
//! | --- | --- |
//! | [`proxy`] | reverse proxies: how they are known, and the lines that fix them (pure) |
//! | [`reason`] | the names of handshakes that fail, as hi answers, logs and counts them (pure) |
//! | [`mod@printable`] | foreign text, made harmless for a terminal, a log or a document (pure) |
//! | [`mod@time`] | times on a command line (pure) |
//! | [`examination`] | `hi doctor`: from an address to a verdict |
//! | [`checklist`] | `hi checklist`: what to do around a move, each item ticked by a real check |
//! | [`canary`] | one look of a server at its own public address |
//! | [`fetch`] | one document over HTTPS: the keys that tokens are checked with |
//! | [`client`] | a client's connection to hi: WebSockets and server-sent events |
//! | [`internal`] | `hi pub` and `hi rooms`: the internal port from the command line |
//!
//! The server shares the first four with its doctor. Without the feature `examination` there is nothing else, and no
//! dependency but humantime and serde.

#[cfg(feature = "examination")]
pub mod canary;
#[cfg(feature = "examination")]
pub mod checklist;
#[cfg(feature = "examination")]
pub mod client;
#[cfg(feature = "examination")]
pub mod examination;
#[cfg(feature = "examination")]
pub mod fetch;
#[cfg(feature = "examination")]
pub mod internal;
pub mod printable;
pub mod proxy;
pub mod reason;
pub mod time;

/// Where the internal port of hi listens, and where `hi pub` and `hi rooms` look for it.
pub const INTERNAL_ADDRESS_DEFAULT: &str = "127.0.0.1:8081";
