//! `Idempotency-Key`: what has been done is not done again, and is answered as it was.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sha1::{Digest, Sha1};

use super::call::{Answer, ApiError};

/// How long an answer is remembered.
pub const REMEMBERED: Duration = Duration::from_secs(300);
/// Longest key.
pub const KEY_BYTES_MAX: usize = 128;
/// What all answers that are remembered may take.
pub const BYTES_MAX: usize = 16 << 20;
/// What an answer takes beside its body and its key.
const OVERHEAD_BYTES: usize = 256;

/// What a request was, in short.
pub type Fingerprint = [u8; 20];

/// The fingerprint of a request that consists of these parts.
pub fn fingerprint(parts: &[&[u8]]) -> Fingerprint {
    let mut hash = Sha1::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

#[derive(Debug)]
struct Done {
    fingerprint: Fingerprint,
    answer: Answer,
}

impl Done {
    fn bytes(&self, key: &str) -> usize {
        key.len() + self.answer.body.len() + OVERHEAD_BYTES
    }
}

/// Answers by key.
#[derive(Debug, Default)]
pub struct Once {
    by_key: HashMap<Arc<str>, Done>,
    /// When each was done, the oldest first.
    in_order: VecDeque<(Instant, Arc<str>)>,
    bytes: usize,
}

impl Once {
    /// The answer that a request with this key has had. None: it is new, and there is room to remember it.
    ///
    /// # Errors
    /// The key was used for another request (409), or too many are remembered (503).
    pub fn recall(&mut self, key: &str, fingerprint: &Fingerprint, now: Instant) -> Result<Option<Answer>, ApiError> {
        self.forget_old(now);
        match self.by_key.get(key) {
            Some(done) if done.fingerprint == *fingerprint => Ok(Some(done.answer.clone())),
            Some(_) => Err(ApiError::new(
                409,
                "key_reused",
                "Idempotency-Key: it was used within 5 minutes for a request with another body: take a new key for every \
                 new request.",
            )),
            None if self.bytes >= BYTES_MAX => Err(ApiError::temporary(
                503,
                "too_many_keys",
                "Idempotency-Key: too many were used in the last 5 minutes to remember one more. Nothing was published; \
                 wait, or publish without a key.",
            )),
            None => Ok(None),
        }
    }

    /// Remembers what became of a request that [`Once::recall`] found to be new.
    pub fn remember(&mut self, key: &str, fingerprint: Fingerprint, answer: Answer, now: Instant) {
        let key: Arc<str> = key.into();
        let done = Done { fingerprint, answer };
        self.bytes += done.bytes(&key);
        self.in_order.push_back((now, Arc::clone(&key)));
        let before = self.by_key.insert(key, done);
        debug_assert!(before.is_none());
    }

    fn forget_old(&mut self, now: Instant) {
        while self.in_order.front().is_some_and(|(done, _)| now.duration_since(*done) >= REMEMBERED) {
            let (_, key) = self.in_order.pop_front().expect("it was there");
            let done = self.by_key.remove(&key).expect("what is in order is there");
            self.bytes -= done.bytes(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> Answer {
        Answer::text("text/plain", text.to_owned())
    }

    #[test]
    fn an_answer_is_given_again_for_five_minutes() {
        let (mut once, start) = (Once::default(), Instant::now());
        let [one, other] = [fingerprint(&[b"a", b"b"]), fingerprint(&[b"ab", b""])];
        assert_ne!(one, other);
        assert_eq!(once.recall("k", &one, start), Ok(None));
        once.remember("k", one, answer("done"), start);
        let late = start + REMEMBERED - Duration::from_millis(1);
        assert_eq!(once.recall("k", &one, late), Ok(Some(answer("done"))));
        assert_eq!(once.recall("k", &other, late).unwrap_err().status, 409);
        assert_eq!(once.recall("k", &other, start + REMEMBERED), Ok(None));
        assert_eq!((once.bytes, once.in_order.len(), once.by_key.len()), (0, 0, 0));
    }

    #[test]
    fn memory_is_bounded_and_comes_back() {
        let (mut once, start) = (Once::default(), Instant::now());
        let large = "x".repeat(1 << 20);
        let mut done = 0;
        while once.recall(&done.to_string(), &[0; 20], start) == Ok(None) {
            once.remember(&done.to_string(), [0; 20], answer(&large), start);
            done += 1;
            assert!(done <= BYTES_MAX >> 20);
        }
        let refusal = once.recall("new", &[0; 20], start).unwrap_err();
        assert!(refusal.temporary && refusal.status == 503);
        assert!(once.recall("0", &[0; 20], start).unwrap().is_some());
        assert_eq!(once.recall("new", &[0; 20], start + REMEMBERED), Ok(None));
    }
}
