//! `sim`: runs seeds, or repeats one of them.

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use hi::ring::Backend;
use sim::{STEPS, seeds};

/// Runs hi's shards, their network, clients and faults in one thread, from a seed; what has to hold is checked all along.
///
/// A seed that finds something prints itself and the command that repeats it, step by step.
#[derive(Parser)]
#[command(name = "sim")]
struct Options {
    /// Seeds to run, one after the other; stops at the first that fails
    #[arg(long, value_name = "COUNT", default_value_t = 1000)]
    seeds: u64,

    /// The first of them
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    from: u64,

    /// Run this seed alone, and say what was seen
    #[arg(long, value_name = "SEED", conflicts_with_all = ["seeds", "from", "jobs"])]
    seed: Option<u64>,

    /// Run on this backend alone
    #[arg(long, value_name = "BACKEND", value_parser = backend)]
    backend: Option<Backend>,

    /// Print every step of the seed
    #[arg(long, requires = "seed")]
    trace: bool,

    /// Steps between two checks of everything that is owed; a seed means another run with another number
    #[arg(long, value_name = "COUNT", default_value_t = STEPS)]
    steps: usize,

    /// Seeds that run at the same time, each on a thread of its own [default: one for each core]
    #[arg(long, value_name = "COUNT")]
    jobs: Option<usize>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let backends = options.backend.map_or(Backend::ALL.to_vec(), |backend| vec![backend]);
    if let Some(seed) = options.seed {
        for backend in backends {
            let seen = sim::run(seed, backend, options.steps, options.trace);
            println!("seed {seed} on {}: {seen}", backend.as_str());
        }
        return ExitCode::SUCCESS;
    }
    let jobs = options.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    seeds::keep_panics();
    for backend in backends {
        let began = Instant::now();
        let report = seeds::run(backend, options.from, options.seeds, options.steps, jobs);
        let (seeds, time) = (report.seeds, began.elapsed().as_secs_f64());
        println!("{seeds} seeds on {} in {time:.1} s: {}", backend.as_str(), report.totals);
        if let Some(failure) = report.failure {
            println!("{}", sim::describe(&failure, options.steps));
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn backend(name: &str) -> Result<Backend, String> {
    let all = Backend::ALL.map(Backend::as_str);
    let found = Backend::ALL.into_iter().find(|backend| backend.as_str() == name);
    found.ok_or_else(|| format!("{name} is none of {}", all.join(", ")))
}
