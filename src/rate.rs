//! How many messages a connection may send: a token bucket, and when to give up on a connection that never stops.
//!
//! A bucket holds at most a burst of tokens and gains `per_second` of them each second. A message takes one, or is refused. So
//! in any period, at most `burst + per_second * time` messages pass, exactly: tokens are counted in thousandths, so a
//! millisecond gains a whole number of them, and nothing is ever rounded.

/// One token, in the unit of a bucket. A bucket gains `per_second` units each millisecond.
const TOKEN: u32 = 1000;
/// Refusals at least this far apart, in ms, belong to different excesses.
const PAUSE_MS: u16 = 1000;
/// An excess that lasts this long, in ms, has lasted too long.
const EXCESS_MS_MAX: u16 = 10_000;

// Every connection has a bucket.
const _: () = assert!(size_of::<Bucket>() <= 12);

/// A limit, shared by many buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    per_second: u32,
    burst: u32,
}

impl RateLimit {
    /// The largest burst, in messages; a larger number means this one.
    pub(crate) const BURST_MAX: u32 = u32::MAX / TOKEN;
    /// No limit: every message passes.
    #[cfg(test)]
    pub(crate) const OFF: Self = Self::new(0, 1);

    /// `per_second` messages a second in the long run, and `burst` at once after a pause. 0 per second is no limit. A burst is
    /// at least 1, or nothing would ever pass, and at most [`Self::BURST_MAX`].
    pub(crate) const fn new(per_second: u32, burst: u32) -> Self {
        let burst = match burst {
            0 => 1,
            1..Self::BURST_MAX => burst,
            _ => Self::BURST_MAX,
        };
        Self { per_second, burst }
    }

    /// Messages in a second; 0 for no limit.
    pub(crate) const fn per_second(self) -> u32 {
        self.per_second
    }

    /// Tokens in a full bucket.
    const fn tokens_max(self) -> u32 {
        self.burst * TOKEN
    }
}

/// What happens to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admitted {
    /// It is within the rate.
    Pass,
    /// The connection is over its rate: the message is dropped.
    Refused,
    /// The message is dropped, and the connection has been over its rate for 10 s without a pause. More precisely: refusals
    /// less than 1 s apart belong to one excess, no matter what passes between them, and this one comes 10 s or more after the
    /// first. Each further refusal of the same excess gets this verdict, too.
    RefusedTooLong,
}

/// The tokens of one connection.
///
/// Times are ms since an arbitrary moment, the same for all calls, and never go back. Only their last 32 bits are kept: a pause
/// of a multiple of 49.7 days looks like none, which gains fewer tokens than it should, never more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bucket {
    /// When the other fields were last updated, in ms.
    now_ms: u32,
    /// In thousandths of a token.
    tokens: u32,
    /// Time since the last refusal, in ms; at most [`PAUSE_MS`].
    pause_ms: u16,
    /// Time from the first refusal of the excess to the last, in ms; at most [`EXCESS_MS_MAX`].
    excess_ms: u16,
}

impl Bucket {
    /// A full bucket, at `now_ms`.
    pub(crate) const fn new(limit: &RateLimit, now_ms: u64) -> Self {
        Self { now_ms: now_ms as u32, tokens: limit.tokens_max(), pause_ms: PAUSE_MS, excess_ms: 0 }
    }

    /// Takes a token for a message that arrives at `now_ms`.
    pub(crate) fn take(&mut self, limit: &RateLimit, now_ms: u64) -> Admitted {
        if limit.per_second == 0 {
            return Admitted::Pass;
        }
        self.refill(limit, now_ms as u32);
        match self.tokens.checked_sub(TOKEN) {
            Some(tokens) => {
                self.tokens = tokens;
                Admitted::Pass
            }
            None => self.refuse(),
        }
    }

    /// Time until there is a token again, in ms, counted from the last call of [`Bucket::take`].
    pub(crate) fn wait_ms(&self, limit: &RateLimit) -> u64 {
        u64::from(TOKEN.saturating_sub(self.tokens)).div_ceil(u64::from(limit.per_second.max(1)))
    }

    fn refill(&mut self, limit: &RateLimit, now_ms: u32) {
        let passed_ms = now_ms.wrapping_sub(self.now_ms);
        self.now_ms = now_ms;
        // The product of two u32 plus a third fits into a u64; after the cap, each value fits its field.
        let tokens = u64::from(passed_ms) * u64::from(limit.per_second) + u64::from(self.tokens);
        self.tokens = tokens.min(u64::from(limit.tokens_max())) as u32;
        self.pause_ms = passed_ms.saturating_add(u32::from(self.pause_ms)).min(u32::from(PAUSE_MS)) as u16;
    }

    fn refuse(&mut self) -> Admitted {
        let goes_on = self.pause_ms < PAUSE_MS;
        self.excess_ms = if goes_on { (self.excess_ms + self.pause_ms).min(EXCESS_MS_MAX) } else { 0 };
        self.pause_ms = 0;
        if self.excess_ms == EXCESS_MS_MAX { Admitted::RefusedTooLong } else { Admitted::Refused }
    }
}

#[cfg(test)]
mod tests;
