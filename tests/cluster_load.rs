//! loadgen against three servers that share their rooms: one order over all of them, and clients that reconnect at another
//! one get everything that they missed.

#[path = "support/broker.rs"]
mod broker;
mod support;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

use broker::Broker;
use rustix::process::Signal;
use serde_json::Value;
use support::Server;

/// How often a run is repeated if this machine was too busy.
const TRIES: usize = 3;

/// loadgen, as this workspace has it.
static LOADGEN: LazyLock<PathBuf> = LazyLock::new(|| {
    let beside = Path::new(env!("CARGO_BIN_EXE_hi")).with_file_name("loadgen");
    let target = beside.ancestors().nth(2).expect("target/PROFILE/loadgen");
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.args(["build", "--quiet", "--package", "loadgen", "--target-dir"]).arg(target);
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    // Variables that cargo sets for this test would make build scripts that read them run again.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CARGO_PKG_")) {
        build.env_remove(name);
    }
    assert!(build.status().is_ok_and(|status| status.success()), "loadgen can't be built");
    beside
});

/// What a run of loadgen found, printed and ended with.
struct Measured {
    run: Value,
    said: String,
    code: Option<i32>,
}

impl Measured {
    fn count(&self, pointer: &str) -> u64 {
        self.run.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("no {pointer}: {}", self.run))
    }

    /// Nothing is lost, doubled, or in another order.
    #[track_caller]
    fn has_one_order(&self) {
        for fault in ["lost", "doubled", "reordered", "disordered", "holes", "unrecovered"] {
            assert_eq!(self.count(&format!("/audit/{fault}")), 0, "{fault}: {}", self.said);
        }
    }
}

/// Starts loadgen against these servers.
fn begin(nodes: &[Server], more: &[&str]) -> (Child, PathBuf) {
    let urls: Vec<_> = nodes.iter().map(|node| format!("ws://{}", node.address())).collect();
    let json = std::env::temp_dir().join(format!("hi-load-{}-{:x}.json", std::process::id(), fastrand::u64(..)));
    let mut loadgen = Command::new(&*LOADGEN);
    loadgen.args(["--url", &urls.join(","), "--clients", "60", "--publishers", "6", "--rate", "120"]);
    loadgen.args(["--duration", "3s", "--warmup", "1s", "--json"]).arg(&json).args(more);
    (loadgen.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap(), json)
}

fn finish((child, json): (Child, PathBuf)) -> Measured {
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    let run = std::fs::read(&json).unwrap_or_else(|error| panic!("{error}: {said}"));
    std::fs::remove_file(&json).unwrap();
    Measured { run: serde_json::from_slice(&run).unwrap(), said, code: output.status.code() }
}

/// Measures these servers together, again if this machine was too busy.
fn measure(nodes: &[Server], more: &[&str]) -> Measured {
    let mut tries = 1;
    loop {
        let measured = finish(begin(nodes, more));
        if measured.code != Some(3) || tries == TRIES {
            return measured;
        }
        tries += 1;
    }
}

fn nodes(broker: &Broker) -> Vec<Server> {
    let url = broker.url();
    let options = ["--cluster", &url, "--rate-limit", "0", "--raw-rate-limit", "0"];
    std::iter::repeat_with(|| Server::start(&options)).take(3).collect()
}

#[test]
fn all_clients_of_three_servers_see_one_order_and_recover_at_any_of_them() {
    let broker = Broker::start();
    let nodes = nodes(&broker);
    for more in [&["--churn", "20"][..], &["--storm"], &["--rooms", "4"], &["--raw"]] {
        let measured = measure(&nodes, more);
        let said = &measured.said;
        assert!(matches!(measured.code, Some(0 | 3)), "{said}");
        measured.has_one_order();
        assert_eq!(measured.count("/audit/closed"), 0, "{said}");
        assert_eq!(measured.count("/deliveries"), measured.count("/deliveries_expected"), "{said}");
        for index in 0..nodes.len() {
            let deliveries = measured.count(&format!("/servers/{index}/deliveries"));
            assert!(deliveries > 20 * 100, "each has its part: {said}");
        }
        let reconnects = more.contains(&"--churn") || more.contains(&"--storm");
        assert_eq!(measured.count("/audit/recovered") >= 50, reconnects, "{said}");
    }
}

#[test]
fn when_a_server_is_killed_its_clients_recover_at_the_others_and_nothing_acknowledged_is_lost() {
    let broker = Broker::start();
    let nodes = nodes(&broker);
    // Clients reconnect if they do so at all.
    let (mut child, json) = begin(&nodes, &["--churn", "1"]);
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let mut seen = Vec::new();
    while !seen.last().is_some_and(|line: &String| line.starts_with("measuring")) {
        seen.push(lines.next().unwrap_or_else(|| panic!("it does not measure: {seen:?}")));
    }
    nodes[2].signal(Signal::KILL);
    let rest = std::thread::spawn(move || lines.collect::<Vec<_>>());
    let measured = finish((child, json));
    let said = format!("{}\n{}", measured.said, rest.join().unwrap().join("\n"));
    measured.has_one_order();
    assert_eq!(measured.code, Some(1), "ended connections are told: {said}");
    assert!(measured.count("/audit/closed") >= 20, "{said}");
    assert!(measured.count("/audit/recovered") >= 20, "{said}");
}
