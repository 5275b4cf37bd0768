//! The alert rules, by Prometheus's own tool: each fires when it has to, and not otherwise (tests/alerts.yml).

use std::process::{Command, Output};

fn promtool(args: &[&str]) -> Output {
    // `./check` puts it there, so that no Prometheus has to be installed, and started, on this machine.
    let built = concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/bin/promtool");
    let program = if std::path::Path::new(built).exists() { built } else { "promtool" };
    Command::new(program).args(args).output().expect("promtool: ./check installs it")
}

fn passes(args: &[&str]) {
    let output = promtool(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_alert_rules_are_valid() {
    passes(&["check", "rules", concat!(env!("CARGO_MANIFEST_DIR"), "/docs/alerts.yml")]);
}

#[test]
fn each_alert_fires_when_it_has_to() {
    passes(&["test", "rules", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/alerts.yml")]);
}
