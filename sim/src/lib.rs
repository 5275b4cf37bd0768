//! hi in one thread, from one seed: its shards, the network, clients of every dialect, time and faults.
//!
//! A seed decides everything that happens, and so repeats it exactly. The files, in the order in which a byte meets them:
//!
//! | module | what it is |
//! | --- | --- |
//! | [`client`] | clients: what they do, and what they check |
//! | [`wire`] | frames and events, as clients see them |
//! | [`network`] | links, their buffers, and how they break |
//! | [`shared`] | the sockets of the server, and what one send comes to |
//! | [`io_uring`], [`epoll`] | what finishes when; what is ready, and how much a call takes |
//! | [`ring`] | the data ring of a simulated shard; asserts what shards owe to a ring |
//! | [`server`] | shards and the registry, and what wakes them |
//! | [`truth`] | what is known of each room's one order |
//! | [`allocations`] | what the server has really allocated |
//! | [`world`] | the scheduler: what happens next, and what has to hold |
//! | [`cluster`] | what several servers do with the log that they share |
//! | [`seen`] | what simulations are there to see, and how often they saw it |
//! | [`seeds`] | many of them, on several threads |
//! | [`plan`], [`random`], [`clock`], [`trace`], [`scene`] | what a seed decides, chance, time, what happened, and all of it together |

pub mod allocations;
pub mod client;
pub mod clock;
pub mod cluster;
mod epoll;
mod io_uring;
pub mod network;
pub mod plan;
pub mod random;
pub mod ring;
pub mod scene;
pub mod seeds;
pub mod seen;
pub mod server;
pub mod shared;
pub mod trace;
pub mod truth;
pub mod wire;
pub mod world;

use hi::ring::Backend;
use seeds::Failure;
use world::World;

/// Steps of a round, unless said otherwise.
pub const STEPS: usize = 4000;

/// Runs the simulation of a seed on a backend; `prints` shows every step. Returns what was seen, and the hash of its trace.
///
/// # Panics
/// If anything that has to hold does not.
pub fn run(seed: u64, backend: Backend, steps: usize, prints: bool) -> String {
    cluster::run(seed);
    let mut world = World::new(seed, backend, steps, prints);
    world.run();
    format!("trace {:016x}, {}", world.scene().trace.hash(), world.totals())
}

/// What a seed has found, and the command that repeats it.
pub fn describe(failure: &Failure, steps: usize) -> String {
    let Failure { seed, backend, message } = failure;
    let backend = backend.as_str();
    let release = if cfg!(debug_assertions) { "" } else { "--release " };
    let steps = if steps == STEPS { String::new() } else { format!(" --steps {steps}") };
    format!(
        "seed {seed} failed on {backend}: {message}\nrepeat it: cargo run {release}-p sim -- --seed {seed} --backend \
         {backend}{steps} --trace"
    )
}
