//! Many seeds, on several threads: one seed never uses more than one.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hi::ring::Backend;

use crate::cluster;
use crate::seen::Totals;
use crate::world::World;

thread_local! {
    /// What the last panic on this thread said.
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Characters of a panic's message that are kept: there may be a whole frame in it.
const MESSAGE_CHARS_MAX: usize = 1000;

/// A seed that has found something.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// What was behind the rings.
    pub backend: Backend,
    /// What does not hold, and where that was noticed.
    pub message: String,
}

/// What became of many seeds.
#[derive(Debug, Default)]
pub struct Report {
    /// The failure with the lowest seed.
    pub failure: Option<Failure>,
    /// What was seen in all of them together.
    pub totals: Totals,
    /// Seeds that have run.
    pub seeds: u64,
}

/// Runs `count` seeds from `first` on, on one backend, `jobs` at a time, until one fails. All seeds before that one have run, too.
pub fn run(backend: Backend, first: u64, count: u64, steps: usize, jobs: usize) -> Report {
    let (next, failed) = (AtomicU64::new(first), AtomicBool::new(false));
    let report = Mutex::new(Report::default());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while !failed.load(Ordering::SeqCst) {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= first.saturating_add(count) {
                        return;
                    }
                    let outcome = run_one(seed, backend, steps);
                    let mut report = report.lock().expect("nothing panics while it is held");
                    report.seeds += 1;
                    match outcome {
                        Ok(totals) => report.totals.add(&totals),
                        Err(failure) => {
                            failed.store(true, Ordering::SeqCst);
                            if report.failure.as_ref().is_none_or(|known| failure.seed < known.seed) {
                                report.failure = Some(failure);
                            }
                        }
                    }
                }
            });
        }
    });
    report.into_inner().expect("nothing panics while it is held")
}

fn run_one(seed: u64, backend: Backend, steps: usize) -> Result<Totals, Failure> {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        cluster::run(seed);
        let mut world = World::new(seed, backend, steps, false);
        world.run();
        world.totals()
    }));
    outcome.map_err(|_| Failure { seed, backend, message: PANIC.take() })
}

/// From now on panics are kept for the report of their seed instead of being printed.
pub fn keep_panics() {
    std::panic::set_hook(Box::new(|panic| {
        PANIC.set(panic.to_string().chars().take(MESSAGE_CHARS_MAX).collect());
    }));
}
