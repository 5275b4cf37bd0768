//! What it costs to share rooms with other servers: `cargo bench --bench cluster`. `docs/cluster.md` has the results.
//!
//! A real NATS server, installed as the tests do it, keeps the log on its disk; all of it runs on this machine. Each
//! server is one shard on the first core. Every delivery is checked: a member that misses a message, or gets one in
//! another order than the others, ends the run.
//!
//! - [`options`]: what to measure
//! - [`hop`]: servers take turns: CPU time per delivery and latency, with and without a cluster
//! - [`recovery`]: what a client missed, from a server that never had its room
//! - [`rooms`]: many rooms with a member each
//! - [`many`]: one room over several servers, with more members than one process may have connections
//! - [`nodes`]: the servers; [`members`]: a room's members, in this process or in [`reader`]s; [`messages`]: what they read
//! - `broker`: shared with the tests; `connect`, `process`, `statistics`, `turns`, `usage`: shared with `figures`; `frames`:
//!   shared with `fairness`

#[path = "../../tests/support/broker.rs"]
mod broker;
#[path = "../figures/connect.rs"]
#[allow(dead_code, reason = "members join by several threads, not by one")]
mod connect;
#[path = "../fairness/frames.rs"]
#[allow(dead_code, reason = "chat members speak hi.v1")]
mod frames;
mod hop;
mod many;
mod members;
mod messages;
mod nodes;
mod options;
#[path = "../figures/process.rs"]
mod process;
mod reader;
mod recovery;
mod rooms;
#[path = "../figures/statistics.rs"]
mod statistics;
#[path = "../figures/turns.rs"]
mod turns;
#[path = "../figures/usage.rs"]
mod usage;

use clap::Parser;

use options::Options;

fn main() {
    let options = Options::parse();
    hi::os::raise_file_limit().expect("the file limit can be raised to the hard limit");
    if let Some(address) = options.read {
        return reader::obey(address, &options);
    }
    if options.measures(options.hop) {
        hop::run(&options);
    }
    if options.measures(options.recovery) {
        recovery::run();
    }
    if options.measures(options.rooms) {
        rooms::run();
    }
    if options.measures(options.many) {
        many::run(&options);
    }
}
