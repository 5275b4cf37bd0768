//! Seeds that have to hold, that a seed repeats itself, and that all of them together see what a simulation is there for.

use hi::ring::Backend;
use sim::seen::Seen;
use sim::{STEPS, seeds};

/// Seeds of every run.
const SEEDS: u64 = 200;

#[test]
fn what_has_to_hold_holds_for_every_seed() {
    seeds::keep_panics();
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    for backend in Backend::ALL {
        let report = seeds::run(backend, 1, SEEDS, STEPS, jobs);
        if let Some(failure) = report.failure {
            panic!("{}", sim::describe(&failure, STEPS));
        }
        for seen in Seen::ALL {
            assert!(report.totals.of(seen) > 0, "{seen:?} is never seen on {backend:?}: {}", report.totals);
        }
    }
}

#[test]
fn a_seed_repeats_itself_to_the_byte() {
    for backend in Backend::ALL {
        let run = |seed| sim::run(seed, backend, STEPS, false);
        for seed in [3, 7, 1000, u64::MAX] {
            assert_eq!(run(seed), run(seed), "{seed}");
        }
        assert_ne!(run(3), run(4));
    }
}
