//! The secret in `hello`, with which a client takes over its name from a connection that it has lost.
//!
//! Nothing is stored: the secret contains the identity of the connection, and a tag that only this process can make, or all
//! servers that share their rooms.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::Sha1;

use crate::protocol::MemberId;

const TAG_BYTES: usize = 16;
/// Bytes of the process, the shard, the slot and the serial number in front of the tag.
const ID_BYTES: usize = 20;

/// Issues and redeems the secrets of one process.
#[derive(Clone, Debug)]
pub struct ResumeKey {
    node: u64,
    key: Hmac<Sha1>,
}

/// A lost connection, whose name another one of the same client may take over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Predecessor {
    /// One of this process.
    Here(MemberId),
    /// One of another server with the same rooms.
    Elsewhere {
        /// The server.
        node: u64,
        /// The connection there.
        member: MemberId,
    },
}

impl Predecessor {
    /// The connection, if it is one of this process.
    pub(crate) fn here(self) -> Option<MemberId> {
        if let Self::Here(member) = self { Some(member) } else { None }
    }
}

impl ResumeKey {
    /// A key of the process `node` from random numbers.
    pub fn new(node: u64, random: [u64; 2]) -> Self {
        let key = random.map(u64::to_be_bytes);
        Self { node, key: Hmac::new_from_slice(key.as_flattened()).expect("a key may have any length") }
    }

    /// The secret of a connection, in characters that need no escaping in a URL.
    pub(crate) fn issue(&self, member: MemberId) -> String {
        let MemberId { shard, slot, serial } = member;
        let high_low = [self.node >> 32, self.node].map(|half| half as u32);
        let id = [high_low[0], high_low[1], shard, slot, serial].map(u32::to_be_bytes);
        let tag = self.key.clone().chain_update(id.as_flattened()).finalize().into_bytes();
        BASE64_URL_SAFE_NO_PAD.encode([id.as_flattened(), &tag[..TAG_BYTES]].concat())
    }

    /// The connection that this secret was issued to; `None` if it was issued with another key.
    pub(crate) fn redeem(&self, secret: &str) -> Option<Predecessor> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(secret).ok()?;
        let (id, tag) = bytes.split_first_chunk::<ID_BYTES>().filter(|(_, tag)| tag.len() == TAG_BYTES)?;
        self.key.clone().chain_update(id).verify_truncated_left(tag).ok()?;
        let number = |at: usize| u32::from_be_bytes(id.as_chunks().0[at]);
        let node = u64::from(number(0)) << 32 | u64::from(number(1));
        let member = MemberId { shard: number(2), slot: number(3), serial: number(4) };
        Some(if node == self.node { Predecessor::Here(member) } else { Predecessor::Elsewhere { node, member } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_servers_with_the_key_that_a_secret_was_issued_with_redeem_it() {
        let node = u64::MAX - 1;
        let (ours, theirs) = (ResumeKey::new(node, [1, 2]), ResumeKey::new(node, [1, 3]));
        let member = MemberId { shard: 3, slot: 5, serial: 7 };
        let secret = ours.issue(member);
        assert_eq!(ours.redeem(&secret), Some(Predecessor::Here(member)));
        assert_eq!(theirs.redeem(&secret), None);
        assert_eq!(ResumeKey::new(4, [1, 2]).redeem(&secret), Some(Predecessor::Elsewhere { node, member }));
    }

    #[test]
    fn a_secret_that_was_changed_anywhere_is_none() {
        let key = ResumeKey::new(0, [1, 2]);
        let secret = key.issue(MemberId { shard: 0, slot: 9, serial: 1 });
        for at in 0..secret.len() {
            let mut changed = secret.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(key.redeem(std::str::from_utf8(&changed).unwrap()), None, "character {at}");
        }
        for other in ["", "0", &secret[1..], &format!("{secret}0"), &"é".repeat(secret.len() / 2)] {
            assert_eq!(key.redeem(other), None, "{other}");
        }
    }
}
