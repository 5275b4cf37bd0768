//! `Idempotency-Key`: a request that is repeated with its key is not carried out again; it gets the first one's answer.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use sha1::{Digest, Sha1};

use super::call::{ApiAnswer, ApiError};
use crate::limits::{IDEMPOTENCY_BYTES_MAX, IDEMPOTENCY_ENTRY_BYTES, IDEMPOTENCY_TIME_MAX};

/// Tells apart different requests that use the same key.
pub(super) type Fingerprint = [u8; 20];

/// The fingerprint of a request that consists of these parts.
pub(super) fn fingerprint(parts: &[&[u8]]) -> Fingerprint {
    let mut hash = Sha1::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// How far a request has come; `P` is what has been done for one part of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress<P> {
    InFlight,
    /// It ended with only these parts done: the same request may be sent again for the rest.
    Interrupted(Vec<P>),
    Answered(ApiAnswer),
}

#[derive(Debug)]
struct Remembered<P> {
    fingerprint: Fingerprint,
    state: Progress<P>,
}

impl<P> Remembered<P> {
    fn bytes(&self, key: &str) -> usize {
        let of_state = match &self.state {
            Progress::InFlight => 0,
            Progress::Interrupted(parts) => parts.capacity() * size_of::<P>(),
            Progress::Answered(answer) => answer.body.len(),
        };
        key.len() + of_state + IDEMPOTENCY_ENTRY_BYTES
    }
}

/// What to do with a request that has a key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Lookup<R> {
    /// Carry it out, except for the parts that are done already, then call [`IdempotencyCache::end`].
    Run(R),
    /// Give it this answer: it was carried out before.
    Answered(ApiAnswer),
}

/// The requests of the last minutes, by key.
#[derive(Debug, Default)]
pub(super) struct IdempotencyCache<P> {
    by_key: HashMap<Arc<str>, Remembered<P>>,
    /// When each request began, oldest first.
    in_order: VecDeque<(Instant, Arc<str>)>,
    bytes: usize,
}

impl<P> IdempotencyCache<P> {
    /// Looks a request up by its key; one that is to be carried out is in flight from now on.
    ///
    /// # Errors
    /// The key was used for another request, or the same one is in flight (409), or the cache is full (503).
    pub(super) fn begin(
        &mut self,
        key: &str,
        fingerprint: Fingerprint,
        now: Instant,
    ) -> Result<Lookup<Vec<P>>, ApiError> {
        self.forget_old(now);
        let Some(entry) = self.by_key.get_mut(key) else {
            if self.bytes >= IDEMPOTENCY_BYTES_MAX {
                return Err(ApiError::temporary(
                    503,
                    "too_many_keys",
                    "Idempotency-Key: too many were used in the last 5 minutes to remember one more. Nothing was \
                     published; wait, or publish without a key.",
                ));
            }
            let (key, entry) = (Arc::<str>::from(key), Remembered { fingerprint, state: Progress::InFlight });
            self.bytes += entry.bytes(&key);
            self.in_order.push_back((now, Arc::clone(&key)));
            self.by_key.insert(key, entry);
            return Ok(Lookup::Run(Vec::new()));
        };
        if entry.fingerprint != fingerprint {
            return Err(ApiError::new(
                409,
                "key_reused",
                "Idempotency-Key: it was used within 5 minutes for a request with another body: take a new key for every \
                 new request.",
            ));
        }
        match &mut entry.state {
            Progress::Answered(answer) => Ok(Lookup::Answered(answer.clone())),
            Progress::InFlight => Err(ApiError::temporary(
                409,
                "busy",
                "Idempotency-Key: the first request with this key is still running. Retry in a second.",
            )),
            Progress::Interrupted(parts) => {
                let parts = std::mem::take(parts);
                self.bytes -= parts.capacity() * size_of::<P>();
                entry.state = Progress::InFlight;
                Ok(Lookup::Run(parts))
            }
        }
    }

    /// The request with this key is no longer in flight.
    pub(super) fn end(&mut self, key: &str, state: Progress<P>) {
        // The entry may have expired while the request ran.
        let Some(entry) = self.by_key.get_mut(key) else { return };
        self.bytes -= entry.bytes(key);
        entry.state = state;
        self.bytes += entry.bytes(key);
    }

    fn forget_old(&mut self, now: Instant) {
        while self.in_order.front().is_some_and(|(began, _)| now.duration_since(*began) >= IDEMPOTENCY_TIME_MAX) {
            let (_, key) = self.in_order.pop_front().expect("it was there");
            let entry = self.by_key.remove(&key).expect("what is in order is there");
            self.bytes -= entry.bytes(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn answer(text: &str) -> ApiAnswer {
        ApiAnswer::text("text/plain", text.to_owned())
    }

    #[test]
    fn an_answer_is_given_again_for_five_minutes() {
        let (mut cache, start) = (IdempotencyCache::<()>::default(), Instant::now());
        let [one, other] = [fingerprint(&[b"a", b"b"]), fingerprint(&[b"ab", b""])];
        assert_ne!(one, other);
        assert_eq!(cache.begin("k", one, start), Ok(Lookup::Run(Vec::new())));
        cache.end("k", Progress::Answered(answer("done")));
        let late = start + IDEMPOTENCY_TIME_MAX - Duration::from_millis(1);
        assert_eq!(cache.begin("k", one, late), Ok(Lookup::Answered(answer("done"))));
        assert_eq!(cache.begin("k", other, late).unwrap_err().code, "key_reused");
        assert_eq!(cache.begin("k", other, start + IDEMPOTENCY_TIME_MAX), Ok(Lookup::Run(Vec::new())));
        cache.forget_old(start + 2 * IDEMPOTENCY_TIME_MAX);
        assert_eq!((cache.bytes, cache.in_order.len(), cache.by_key.len()), (0, 0, 0));
    }

    #[test]
    fn a_request_runs_once_at_a_time_and_goes_on_where_it_broke_off() {
        let (mut cache, start) = (IdempotencyCache::default(), Instant::now());
        let one = fingerprint(&[b"a"]);
        assert_eq!(cache.begin("k", one, start), Ok(Lookup::Run(Vec::new())));
        let refusal = cache.begin("k", one, start).unwrap_err();
        assert_eq!((refusal.status, refusal.code, refusal.temporary), (409, "busy", true));
        cache.end("k", Progress::Interrupted(vec!["tea", "milk"]));
        assert_eq!(cache.begin("k", one, start), Ok(Lookup::Run(vec!["tea", "milk"])));
        cache.end("k", Progress::Answered(answer("all of it")));
        assert_eq!(cache.begin("k", one, start), Ok(Lookup::Answered(answer("all of it"))));
        cache.forget_old(start + IDEMPOTENCY_TIME_MAX);
        assert_eq!(cache.bytes, 0);
    }

    #[test]
    fn memory_is_bounded_and_comes_back() {
        let (mut cache, start) = (IdempotencyCache::<()>::default(), Instant::now());
        let large = "x".repeat(1 << 20);
        let mut done = 0;
        while cache.begin(&done.to_string(), [0; 20], start) == Ok(Lookup::Run(Vec::new())) {
            cache.end(&done.to_string(), Progress::Answered(answer(&large)));
            done += 1;
            assert!(done <= IDEMPOTENCY_BYTES_MAX >> 20);
        }
        let refusal = cache.begin("new", [0; 20], start).unwrap_err();
        assert!(refusal.temporary && refusal.status == 503);
        assert!(matches!(cache.begin("0", [0; 20], start), Ok(Lookup::Answered(_))));
        assert_eq!(cache.begin("new", [0; 20], start + IDEMPOTENCY_TIME_MAX), Ok(Lookup::Run(Vec::new())));
    }
}
