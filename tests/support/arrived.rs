//! What has arrived at the peer of a shard on the thread of the test.

#![allow(unreachable_pub, reason = "a test has no outside")]

use std::io::{ErrorKind, Read};
use std::net::TcpStream;

use crate::support::PATIENCE;

/// The bytes that have arrived at a peer.
pub fn arrived(peer: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    match peer.read_to_end(&mut bytes) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => bytes,
        other => panic!("{other:?} after {:?}", bytes.escape_ascii().to_string()),
    }
}

/// Reads until all `parts` have arrived. The shard has sent them; when they arrive is up to the kernel.
pub fn expect(peer: &mut TcpStream, parts: &[&[u8]]) {
    peer.set_nonblocking(false).unwrap();
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut received, mut buffer) = (Vec::new(), [0; 4096]);
    while !parts.iter().all(|part| contains(&received, part)) {
        match peer.read(&mut buffer) {
            Ok(count @ 1..) => received.extend_from_slice(&buffer[..count]),
            end => panic!("{end:?} after {:?}", received.escape_ascii().to_string()),
        }
    }
}

pub fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
