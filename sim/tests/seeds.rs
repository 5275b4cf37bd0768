//! Seeds that have to hold, that a seed repeats itself, and that all of them together see what a simulation is there for.

use sim::seen::Seen;
use sim::{STEPS, seeds};

/// Seeds of every run.
const SEEDS: u64 = 200;

#[test]
fn what_has_to_hold_holds_for_every_seed() {
    seeds::keep_panics();
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let report = seeds::run(1, SEEDS, STEPS, jobs);
    if let Some(failure) = report.failure {
        panic!("{}", sim::describe(&failure, STEPS));
    }
    for seen in Seen::ALL {
        assert!(report.totals.of(seen) > 0, "{seen:?} is never seen: {}", report.totals);
    }
}

#[test]
fn a_seed_repeats_itself_to_the_byte() {
    for seed in [3, 7, 1000, u64::MAX] {
        assert_eq!(sim::run(seed, STEPS, false), sim::run(seed, STEPS, false), "{seed}");
    }
    assert_ne!(sim::run(3, STEPS, false), sim::run(4, STEPS, false));
}
