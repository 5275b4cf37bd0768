//! The keys of `--jwks URL`: fetched on a thread of its own, again every few minutes, and sooner if a token names a key that is not
//! there. The last good set stays in use for as long as no better one comes.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use doctor::examination::runtime;
use doctor::fetch::Document;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tracing::{info, warn};

use crate::identity::Authority;
use crate::identity::keys::{KeySet, Origin};
use crate::limits::tokens::{
    KEY_FETCH_INTERVAL, KEY_FETCH_PAUSE, KEY_FETCH_RETRY, KEY_FETCH_TIME_MAX, KEY_FILE_BYTES_MAX,
};

/// The name of the thread.
const THREAD: &str = "hi-keys";

/// What is known of the keys.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fetcher {
    /// What the last fetch came to.
    last: Arc<Mutex<Option<Result<usize, String>>>>,
    keys: Gauge,
    failures: Counter<u64, AtomicU64>,
}

impl Fetcher {
    /// Fetches keys until the process ends; they join those of the files. `asked` is told when a token needs another key.
    ///
    /// # Errors
    /// The thread or its runtime can't be had.
    pub(crate) fn start(
        document: Document,
        authority: Arc<Authority>,
        of_files: KeySet,
        asked: Receiver<()>,
        metrics: &mut Registry,
    ) -> io::Result<Self> {
        let fetcher = Self::default();
        metrics.register("hi_jwks_keys", "Keys that tokens are checked with", fetcher.keys.clone());
        let help = "Fetches of --jwks that failed, or brought no set of keys";
        metrics.register("hi_jwks_failures", help, fetcher.failures.clone());
        let ours = fetcher.clone();
        let runtime = runtime()?;
        let fetch = move || {
            let bytes_max = KEY_FILE_BYTES_MAX as usize;
            let mut why = Why::Time;
            loop {
                let fetched = catch_unwind(AssertUnwindSafe(|| {
                    let body = runtime.block_on(document.fetch(bytes_max, KEY_FETCH_TIME_MAX))?;
                    let keys = KeySet::of_jwks(body.as_bytes(), Origin::Url).map_err(|why| format!("it {why}"))?;
                    KeySet::joined([of_files.clone(), keys])
                }));
                let fetched = fetched.unwrap_or_else(|_| Err("a bug in hi ended the fetch, see the log".to_owned()));
                let succeeded = fetched.is_ok();
                ours.note(document.url(), fetched, &authority);
                why = wait(&asked, succeeded, why);
            }
        };
        thread::Builder::new().name(THREAD.to_owned()).spawn(fetch)?;
        Ok(fetcher)
    }

    fn note(&self, url: &str, fetched: Result<KeySet, String>, authority: &Authority) {
        let before = self.last();
        let outcome = match fetched {
            Ok(keys) => {
                let (count, described) = (keys.len(), keys.describe());
                let is_new = before != Some(Ok(count)) || described != authority.keys().describe();
                self.keys.set(count as i64);
                authority.replace_keys(keys);
                if is_new {
                    info!("keys for tokens from {url}: {described}");
                }
                Ok(count)
            }
            Err(why) => {
                self.failures.inc();
                if before != Some(Err(why.clone())) {
                    let kept = match authority.keys().is_empty() {
                        true => "until it comes, tokens are answered with 503",
                        false => "the last good set stays in use",
                    };
                    warn!("no keys for tokens from {url} (--jwks): {why}; {kept}");
                }
                Err(why)
            }
        };
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
    }

    /// What the last fetch came to: the number of keys, or why it failed.
    pub(crate) fn last(&self) -> Option<Result<usize, String>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Why keys are fetched.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    /// It was time.
    Time,
    /// A token named another key.
    Asked,
}

/// Waits until it is time to fetch again: soon after a failure, at once if a token asks; but not twice in a row, since anybody can
/// make up a token.
fn wait(asked: &Receiver<()>, succeeded: bool, last: Why) -> Why {
    let began = Instant::now();
    if !succeeded {
        thread::sleep(KEY_FETCH_RETRY);
        return Why::Time;
    }
    if last == Why::Asked {
        thread::sleep(KEY_FETCH_PAUSE);
    }
    let left = KEY_FETCH_INTERVAL.saturating_sub(began.elapsed());
    match asked.recv_timeout(left) {
        Ok(()) => Why::Asked,
        Err(RecvTimeoutError::Timeout) => Why::Time,
        Err(RecvTimeoutError::Disconnected) => {
            thread::sleep(left);
            Why::Time
        }
    }
}

/// Whether this thread is the fetcher's: a panic here ends one fetch, and not the process.
pub fn is_this_thread() -> bool {
    thread::current().name() == Some(THREAD)
}
