//! The cost of idle connections: resident memory, and CPU time for pings.

use std::time::{Duration, Instant};

use crate::connect::open;
use crate::members::Members;
use crate::options::Options;
use crate::servers::{Kind, Server};

/// Connections whose memory is compared.
const FEW: usize = 1_000;
const MANY: usize = 9_000;
/// Connections that are pinged.
const PINGED: usize = 10_000;
/// The default of `--ping-interval`: in this time, each connection is pinged once.
const PING_INTERVAL: Duration = Duration::from_secs(25);

/// Both figures.
pub(crate) fn run(options: &Options) {
    memory(options);
    pings(options);
}

/// Resident bytes per idle connection.
fn memory(options: &Options) {
    let server = Server::start(&Kind::Hi.into(), options.chat(MANY), None);
    let connect = |count| {
        let members = Members::connect(server.address, count, options.chat(count).frames);
        // A round trip: everything requested before is done.
        drop(open(server.address, "/raw/other"));
        (members, server.resident_bytes())
    };
    let (_few, before) = connect(FEW);
    let (_many, after) = connect(MANY - FEW);
    let each = (after - before) / (MANY - FEW);
    println!("\nidle connections: {each} bytes of resident memory each ({MANY} against {FEW})");
}

/// CPU time of a server whose connections only answer pings.
fn pings(options: &Options) {
    let server = Server::hi_with_pings();
    let mut members = Members::connect(server.address, PINGED, options.chat(PINGED).frames);
    let (before, pings_before, began) = (server.cpu_time(), members.pings, Instant::now());
    members.read_while(began + PING_INTERVAL);
    let (cpu, wall, pings) = (server.cpu_time() - before, began.elapsed(), members.pings - pings_before);
    assert!(pings * 10 > PINGED * 9, "only {pings} of {PINGED} connections were pinged");
    let percent = cpu.as_secs_f64() / wall.as_secs_f64() * 100.0;
    println!(
        "{PINGED} idle connections, {pings} pings answered in {:.0} s: {percent:.2} % of a core, {:.1} us for a ping and its pong",
        wall.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / pings as f64,
    );
}
