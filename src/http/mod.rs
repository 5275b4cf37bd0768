//! HTTP/1.1 as hi needs it: bytes in, values out. Nothing here reads, waits or looks at a clock (RFC 9110, 9112, 6455).
//!
//! In the order in which a request passes: [`head`] finds and parses the request head, [`target`] says what is asked for,
//! [`upgrade`] says whether the request is a WebSocket handshake, `origin` whether its page may open one, [`bearer`] which token
//! it has. If it fails,
//! `hops` says what forwarded it, and [`diagnosis`] what to tell the client and the operator. Answers come from `page` (the
//! chat page), `stream` (the head of server-sent events), [`echo`] (the request as it arrived) and [`response`] (the bytes on
//! the wire); `accept` says which form the client prefers.

pub(crate) mod accept;
pub mod bearer;
pub mod diagnosis;
pub mod echo;
pub mod head;
pub(crate) mod hops;
pub(crate) mod origin;
pub(crate) mod page;
pub mod response;
mod shown;
pub(crate) mod stream;
pub mod target;
pub mod upgrade;

pub(crate) use doctor::reason;
