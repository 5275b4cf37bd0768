//! The `hi` command.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use hi::config::Config;
use hi::ring::Ring;
use hi::server;

/// Exit code for what the operator can mend: options, ports, the kernel's refusals.
const EXIT_USAGE: u8 = 2;
/// Exit code for a bug of ours.
const EXIT_BUG: i32 = 70;

fn main() -> ExitCode {
    let config = Config::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_max_level(config.log)
        .with_target(false)
        // Who reads the log may end before hi does. To complain about that on stderr would be a panic.
        .log_internal_errors(false)
        .init();
    end_on_panic();
    match server::serve::<Ring>(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The exit code is the same if nobody reads this.
            let _ = writeln!(std::io::stderr(), "{error}");
            ExitCode::from(EXIT_USAGE)
        }
    }
}

/// A shard that died would take its connections with it and leave their rooms half served: better none than that.
fn end_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        tracing::error!("a bug in hi: {panic}; the process ends so that it can be started again");
        std::process::exit(EXIT_BUG);
    }));
}
