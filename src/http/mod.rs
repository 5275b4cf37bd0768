//! HTTP/1.1 as hi needs it: bytes in, values out. Nothing here reads, waits or looks at a clock (RFC 9110, 9112, 6455).
//!
//! In the order in which a request passes: [`head`] finds and parses the request head, [`target`] says what is asked for,
//! [`upgrade`] says whether the request is a WebSocket handshake and, when it is not, exactly why. What is answered comes
//! from [`page`] (the chat page), [`echo`] (the request as it arrived) and [`response`] (the bytes on the wire).

pub mod echo;
pub mod head;
pub mod page;
pub mod response;
pub mod target;
pub mod upgrade;
