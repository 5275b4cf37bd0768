//! The secret in `hello` with which a client takes its name over from a connection that it has lost.
//!
//! Nothing is stored: the secret names the connection, and a tag that only this process can make proves that it was
//! given to that connection.

use sha1::{Digest as _, Sha1};

use crate::protocol::MemberId;

/// Bytes of the tag.
const TAG_BYTES: usize = 16;
/// Shard, slot and serial number in front of the tag, 4 bytes each.
const ID_BYTES: usize = 12;

/// What makes and reads the secrets of one process.
#[derive(Clone)]
pub struct ResumeKey([u64; 2]);

impl std::fmt::Debug for ResumeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ResumeKey(..)")
    }
}

impl ResumeKey {
    /// A key of random numbers.
    pub fn new(random: [u64; 2]) -> Self {
        Self(random)
    }

    /// The secret of a connection, in hexadecimal digits.
    pub fn issue(&self, member: MemberId) -> String {
        let id = id_of(member);
        id.iter().chain(&self.tag(&id)).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whose secret that is; `None` if this process has not made it.
    pub fn redeem(&self, secret: &str) -> Option<MemberId> {
        let digits = secret.as_bytes();
        if digits.len() != 2 * (ID_BYTES + TAG_BYTES) {
            return None;
        }
        let mut bytes = [0; ID_BYTES + TAG_BYTES];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |at: usize| char::from(pair[at]).to_digit(16);
            *byte = (digit(0)? << 4 | digit(1)?) as u8;
        }
        let (id, tag) = bytes.split_first_chunk::<ID_BYTES>()?;
        // As long for a wrong tag as for a nearly right one.
        let differs = self.tag(id).iter().zip(tag).fold(0, |differs, (ours, theirs)| differs | (ours ^ theirs));
        let (numbers, _) = id.as_chunks();
        let number = |at: usize| u32::from_be_bytes(numbers[at]);
        (differs == 0).then(|| MemberId { shard: number(0), slot: number(1), serial: number(2) })
    }

    /// The key stands on both sides, and the length is fixed: a tag can't be continued.
    fn tag(&self, id: &[u8; ID_BYTES]) -> [u8; TAG_BYTES] {
        let mut hash = Sha1::new();
        hash.update(self.0[0].to_be_bytes());
        hash.update(self.0[1].to_be_bytes());
        hash.update(id);
        hash.update(self.0[0].to_be_bytes());
        hash.update(self.0[1].to_be_bytes());
        let mut tag = [0; TAG_BYTES];
        tag.copy_from_slice(&hash.finalize()[..TAG_BYTES]);
        tag
    }
}

fn id_of(member: MemberId) -> [u8; ID_BYTES] {
    let mut id = [0; ID_BYTES];
    let (places, _) = id.as_chunks_mut();
    for (place, number) in places.iter_mut().zip([member.shard, member.slot, member.serial]) {
        *place = number.to_be_bytes();
    }
    id
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
            changed[at] = if changed[at] == b'0' { b'1' } else { b'0' };
            assert_eq!(key.redeem(std::str::from_utf8(&changed).unwrap()), None, "digit {at}");
        }
        for other in ["", "0", &secret[1..], &format!("{secret}0"), &"é".repeat(secret.len() / 2)] {
            assert_eq!(key.redeem(other), None, "{other}");
        }
    }
}
