//! The secret in `hello`, with which a client takes over its name from a connection that it has lost.
//!
//! Nothing is stored: the secret contains the identity of the connection, and a tag that only this process can make.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::Sha1;

use crate::protocol::MemberId;

const TAG_BYTES: usize = 16;
/// Bytes of the shard, the slot and the serial number in front of the tag.
const ID_BYTES: usize = 12;

/// Issues and redeems the secrets of one process.
#[derive(Clone, Debug)]
pub struct ResumeKey(Hmac<Sha1>);

impl ResumeKey {
    /// A key from random numbers.
    pub fn new(random: [u64; 2]) -> Self {
        let key = random.map(u64::to_be_bytes);
        Self(Hmac::new_from_slice(key.as_flattened()).expect("a key may have any length"))
    }

    /// The secret of a connection, in characters that need no escaping in a URL.
    pub(crate) fn issue(&self, member: MemberId) -> String {
        let id = [member.shard, member.slot, member.serial].map(u32::to_be_bytes);
        let tag = self.0.clone().chain_update(id.as_flattened()).finalize().into_bytes();
        BASE64_URL_SAFE_NO_PAD.encode([id.as_flattened(), &tag[..TAG_BYTES]].concat())
    }

    /// The connection that this secret was issued to; `None` if this process has not issued it.
    pub(crate) fn redeem(&self, secret: &str) -> Option<MemberId> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(secret).ok()?;
        let (id, tag) = bytes.split_first_chunk::<ID_BYTES>().filter(|(_, tag)| tag.len() == TAG_BYTES)?;
        self.0.clone().chain_update(id).verify_truncated_left(tag).ok()?;
        let number = |at: usize| u32::from_be_bytes(id.as_chunks().0[at]);
        Some(MemberId { shard: number(0), slot: number(1), serial: number(2) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_process_that_issued_a_secret_redeems_it() {
        let (ours, theirs) = (ResumeKey::new([1, 2]), ResumeKey::new([1, 3]));
        let member = MemberId { shard: 3, slot: 5, serial: 7 };
        let secret = ours.issue(member);
        assert_eq!(ours.redeem(&secret), Some(member));
        assert_eq!(theirs.redeem(&secret), None);
    }

    #[test]
    fn a_secret_that_was_changed_anywhere_is_none() {
        let key = ResumeKey::new([1, 2]);
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
