//! The figures of `benches/README.md`, measured side by side in one run: `cargo bench --bench figures`.
//!
//! One core serves, the other reads. All servers get the same messages for the same number of members: (a) hi, one
//! shard, as a whole: receive, decode, order, log, send; (b) a loop of `send(2)`; (c) a bare io_uring batch, the floor;
//! (d) tokio and fastwebsockets; (e) any other that `--other` starts. All
//! of them are up at the same time with all their members, and take turns of half a second in an order shuffled each
//! round, so that disturbances affect all of them alike. CPU time is that of the serving process (schedstat: nanoseconds counted by the scheduler,
//! including kernel work). Every delivery is checked: if a member does not get each byte of each frame in order, the
//! run fails.
//!
//! - [`options`]: what to measure
//! - [`fan_out`], [`last`], [`accept`] (a storm, and one by one), [`shards`], [`idle`]: the tables
//! - [`sides`] and [`driver`]: the servers of a table take [`turns`], each driven by a separate process
//! - [`servers`], [`process`] and [`usage`]: the measured processes; [`bare`] and [`tokio_peer`]: those other than hi
//! - [`members`], [`connect`] and [`frames`]: the readers, and what they expect
//! - [`statistics`]: medians and their confidence intervals
//! - [`steering`]: what receiving costs, on the reader's core; [`awake`]: cores that don't halt

mod accept;
mod awake;
mod bare;
mod case;
mod connect;
mod driver;
mod fan_out;
mod frames;
mod idle;
mod last;
mod members;
mod options;
mod priority;
mod process;
mod servers;
mod shards;
mod sides;
mod stamps;
mod statistics;
mod steering;
mod tokio_peer;
mod turns;
mod usage;

use std::process::ExitCode;

use clap::Parser;

use options::Options;
use process::ALL_CORES;
use servers::Kind;
use steering::Steering;

fn main() -> ExitCode {
    let mut options = Options::parse();
    hi::os::raise_file_limit().expect("the file limit can be raised to the hard limit");
    let case = options.cases()[0];
    match options.serve {
        Some(Kind::Tokio) => tokio_peer::serve(),
        Some(kind) => bare::serve(kind == Kind::IoUring, case),
        None if options.drive => driver::drive(&options.subjects()[0], case, options.against.as_deref()),
        None => {
            let seed = *options.seed.get_or_insert_with(|| fastrand::u64(..1 << 32));
            println!("turns in an order shuffled with --seed {seed}");
            if let Err(sentence) = measure(&options) {
                eprintln!("figures: {sentence}");
                return ExitCode::from(2);
            }
        }
    }
    ExitCode::SUCCESS
}

/// Every table that is wanted.
fn measure(options: &Options) -> Result<(), String> {
    let _steering = if options.steer { Some(steer()?) } else { None };
    if options.awake {
        awake::keep_awake(&ALL_CORES);
        println!("no core halts: each one spins while it has nothing to do (--awake)");
    }
    let all = options.is_default();
    if options.is_fan_out() {
        fan_out::run(options);
    }
    if all || options.last {
        last::run(options);
    }
    if all || options.accept {
        accept::storms(options);
    }
    if all || options.connects {
        accept::one_by_one(options);
    }
    if all || options.shards {
        shards::run(options);
    }
    if all || options.idle {
        idle::run(options);
    }
    Ok(())
}

/// Moves what receiving costs to the reader's core.
fn steer() -> Result<Steering, String> {
    let reader = *ALL_CORES.last().expect("there is a core");
    let steering = Steering::to_core(reader, steering::FILE.as_ref())?;
    println!("loopback's receive work is on core {reader}, the reader's (--steer)");
    Ok(steering)
}
