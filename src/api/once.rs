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

/// What became of a request.
#[derive(Debug)]
enum Outcome<P> {
    /// Nothing yet.
    Running,
    /// It broke off with these parts of it done.
    BrokenOff(Vec<P>),
    /// It was answered.
    Answered(Answer),
}

#[derive(Debug)]
struct Known<P> {
    fingerprint: Fingerprint,
    outcome: Outcome<P>,
}

impl<P> Known<P> {
    fn bytes(&self, key: &str) -> usize {
        let of_outcome = match &self.outcome {
            Outcome::Running => 0,
            Outcome::BrokenOff(parts) => parts.capacity() * size_of::<P>(),
            Outcome::Answered(answer) => answer.body.len(),
        };
        key.len() + of_outcome + OVERHEAD_BYTES
    }
}

/// What [`Once::begin`] finds.
#[derive(Debug, PartialEq, Eq)]
pub enum Begun<R> {
    /// It is to be done, but for the parts that are done already. It is running until [`Once::end`].
    Run(R),
    /// It was done, and this is its answer.
    Answered(Answer),
}

/// How a request ends.
#[derive(Debug)]
pub enum End<P> {
    /// With these parts of it done; it may be sent again for the rest.
    BrokenOff(Vec<P>),
    /// With this answer.
    Answered(Answer),
}

/// Requests by key; `P` is a part of one.
#[derive(Debug)]
pub struct Once<P> {
    by_key: HashMap<Arc<str>, Known<P>>,
    /// When each began, the oldest first.
    in_order: VecDeque<(Instant, Arc<str>)>,
    bytes: usize,
}

impl<P> Default for Once<P> {
    fn default() -> Self {
        Self { by_key: HashMap::new(), in_order: VecDeque::new(), bytes: 0 }
    }
}

impl<P> Once<P> {
    /// A request with this key begins, or was answered before.
    ///
    /// # Errors
    /// The key was used for another request, or the same one is still running (409), or too many are remembered (503).
    pub fn begin(&mut self, key: &str, fingerprint: Fingerprint, now: Instant) -> Result<Begun<Vec<P>>, ApiError> {
        self.forget_old(now);
        let Some(known) = self.by_key.get_mut(key) else {
            if self.bytes >= BYTES_MAX {
                return Err(ApiError::temporary(
                    503,
                    "too_many_keys",
                    "Idempotency-Key: too many were used in the last 5 minutes to remember one more. Nothing was \
                     published; wait, or publish without a key.",
                ));
            }
            let (key, known) = (Arc::<str>::from(key), Known { fingerprint, outcome: Outcome::Running });
            self.bytes += known.bytes(&key);
            self.in_order.push_back((now, Arc::clone(&key)));
            self.by_key.insert(key, known);
            return Ok(Begun::Run(Vec::new()));
        };
        if known.fingerprint != fingerprint {
            return Err(ApiError::new(
                409,
                "key_reused",
                "Idempotency-Key: it was used within 5 minutes for a request with another body: take a new key for every \
                 new request.",
            ));
        }
        match &mut known.outcome {
            Outcome::Answered(answer) => Ok(Begun::Answered(answer.clone())),
            Outcome::Running => Err(ApiError::temporary(
                409,
                "busy",
                "Idempotency-Key: the first request with this key is still running. Retry in a second.",
            )),
            Outcome::BrokenOff(parts) => {
                let parts = std::mem::take(parts);
                self.bytes -= parts.capacity() * size_of::<P>();
                known.outcome = Outcome::Running;
                Ok(Begun::Run(parts))
            }
        }
    }

    /// A request that [`Once::begin`] let run has ended.
    pub fn end(&mut self, key: &str, end: End<P>) {
        // It may have been forgotten while it ran.
        let Some(known) = self.by_key.get_mut(key) else { return };
        self.bytes -= known.bytes(key);
        known.outcome = match end {
            End::BrokenOff(parts) => Outcome::BrokenOff(parts),
            End::Answered(answer) => Outcome::Answered(answer),
        };
        self.bytes += known.bytes(key);
    }

    fn forget_old(&mut self, now: Instant) {
        while self.in_order.front().is_some_and(|(began, _)| now.duration_since(*began) >= REMEMBERED) {
            let (_, key) = self.in_order.pop_front().expect("it was there");
            let known = self.by_key.remove(&key).expect("what is in order is there");
            self.bytes -= known.bytes(&key);
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
        let (mut once, start) = (Once::<()>::default(), Instant::now());
        let [one, other] = [fingerprint(&[b"a", b"b"]), fingerprint(&[b"ab", b""])];
        assert_ne!(one, other);
        assert_eq!(once.begin("k", one, start), Ok(Begun::Run(Vec::new())));
        once.end("k", End::Answered(answer("done")));
        let late = start + REMEMBERED - Duration::from_millis(1);
        assert_eq!(once.begin("k", one, late), Ok(Begun::Answered(answer("done"))));
        assert_eq!(once.begin("k", other, late).unwrap_err().code, "key_reused");
        assert_eq!(once.begin("k", other, start + REMEMBERED), Ok(Begun::Run(Vec::new())));
        once.forget_old(start + 2 * REMEMBERED);
        assert_eq!((once.bytes, once.in_order.len(), once.by_key.len()), (0, 0, 0));
    }

    #[test]
    fn a_request_runs_once_at_a_time_and_goes_on_where_it_broke_off() {
        let (mut once, start) = (Once::default(), Instant::now());
        let one = fingerprint(&[b"a"]);
        assert_eq!(once.begin("k", one, start), Ok(Begun::Run(Vec::new())));
        let refusal = once.begin("k", one, start).unwrap_err();
        assert_eq!((refusal.status, refusal.code, refusal.temporary), (409, "busy", true));
        once.end("k", End::BrokenOff(vec!["tea", "milk"]));
        assert_eq!(once.begin("k", one, start), Ok(Begun::Run(vec!["tea", "milk"])));
        once.end("k", End::Answered(answer("all of it")));
        assert_eq!(once.begin("k", one, start), Ok(Begun::Answered(answer("all of it"))));
        once.forget_old(start + REMEMBERED);
        assert_eq!(once.bytes, 0);
    }

    #[test]
    fn memory_is_bounded_and_comes_back() {
        let (mut once, start) = (Once::<()>::default(), Instant::now());
        let large = "x".repeat(1 << 20);
        let mut done = 0;
        while once.begin(&done.to_string(), [0; 20], start) == Ok(Begun::Run(Vec::new())) {
            once.end(&done.to_string(), End::Answered(answer(&large)));
            done += 1;
            assert!(done <= BYTES_MAX >> 20);
        }
        let refusal = once.begin("new", [0; 20], start).unwrap_err();
        assert!(refusal.temporary && refusal.status == 503);
        assert!(matches!(once.begin("0", [0; 20], start), Ok(Begun::Answered(_))));
        assert_eq!(once.begin("new", [0; 20], start + REMEMBERED), Ok(Begun::Run(Vec::new())));
    }
}
