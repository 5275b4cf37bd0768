//! The time that a shard spends on checking tokens: a signature of a public key takes eighty microseconds, twice as long as the
//! rest of a handshake, and everybody can send wrong ones. Beyond a quarter of the time, handshakes queue.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Semaphore;
use tokio::time::sleep;

use crate::admission::Check;
use crate::clock::unix_time;
use crate::identity::{Authority, Checker};
use crate::limits::tokens::{VERIFICATION_DEBT_MAX, VERIFICATION_SHARE};

/// Whether a handshake has queued for the time that its token may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// Not yet.
    New,
    /// It is its turn.
    Waited,
}

/// See the module. Without `--auth` there is nothing in it.
pub(crate) struct Verification(Option<Work>);

struct Work {
    checker: Checker,
    /// When the time that was spent is paid back.
    even_at: Cell<Instant>,
    /// Held by the handshake whose turn is next.
    turn: Semaphore,
}

impl Verification {
    pub(crate) fn new(authority: Option<&Arc<Authority>>) -> Self {
        Self(authority.map(|authority| Work {
            checker: Checker::new(Arc::clone(authority)),
            even_at: Cell::new(Instant::now()),
            turn: Semaphore::new(1),
        }))
    }

    /// Whether a handshake has to queue.
    pub(super) fn is_exhausted(&self, patience: Patience) -> bool {
        patience == Patience::New
            && self.0.as_ref().is_some_and(|work| {
                work.turn.available_permits() == 0 || work.even_at.get() > Instant::now() + VERIFICATION_DEBT_MAX
            })
    }

    /// Queues until a token may be checked.
    pub(super) async fn wait(&self) {
        let Some(work) = &self.0 else { return };
        let _turn = work.turn.acquire().await;
        sleep(work.even_at.get().saturating_duration_since(Instant::now())).await;
    }

    /// Does something with what tokens are checked with, and counts the time. `is_trusted`: a trusted proxy has passed the request on.
    pub(super) fn timing<T>(&self, is_trusted: bool, act: impl FnOnce(Option<Check<'_>>) -> T) -> T {
        let Some(work) = &self.0 else { return act(None) };
        let (began, now) = (Instant::now(), unix_time().as_secs());
        let outcome = act(Some(Check { checker: &work.checker, now, is_trusted }));
        let took = began.elapsed();
        work.even_at.set(work.even_at.get().max(began) + took * VERIFICATION_SHARE);
        outcome
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::identity::Rules;
    use crate::identity::keys::KeySet;
    use crate::identity::rights::{DEFAULT, Rights, Source};

    #[tokio::test]
    async fn without_tokens_nothing_waits() {
        let verification = Verification::new(None);
        assert!(verification.timing(false, |check| check.is_none()));
        assert!(!verification.is_exhausted(Patience::New));
        verification.wait().await;
    }

    #[tokio::test]
    async fn handshakes_queue_once_too_much_time_was_spent_and_go_on_when_it_is_paid_back() {
        let rights = Arc::new(Rights::parse(DEFAULT, Source::TokensWithout).unwrap());
        let rules = Rules { issuers: Vec::new(), audiences: Vec::new(), leeway: Duration::ZERO, rights };
        let authority = Arc::new(Authority::new(KeySet::default(), rules, None));
        let verification = Verification::new(Some(&authority));
        assert!(!verification.is_exhausted(Patience::New));
        // Much more than may be owed.
        verification.timing(false, |_| std::thread::sleep(VERIFICATION_DEBT_MAX));
        assert!(verification.is_exhausted(Patience::New) && !verification.is_exhausted(Patience::Waited));
        verification.wait().await;
        assert!(!verification.is_exhausted(Patience::New));
    }
}
