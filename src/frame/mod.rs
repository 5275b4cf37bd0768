//! RFC 6455 frames as a server sees them: [`decode`] turns a client's bytes into messages and control frames,
//! [`encode`] turns payloads into bytes that every member of a room can share.
//!
//! Both are pure: bytes in, values out, no IO and no clock.

pub mod decode;
pub mod encode;
mod opcode;

pub use opcode::OpCode;
