//! The `hi` command.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use hi::config::Config;
use hi::ring::Ring;
use hi::{api, canary, checklist, doctor, server};

/// Exit code for what the operator can mend: options, ports, the kernel's refusals.
const EXIT_USAGE: u8 = 2;
/// Exit code for a bug of ours.
const EXIT_BUG: i32 = 70;

/// hi: a minimal, performant WebSocket chat and broadcast server for Linux on io_uring.
///
/// Without any option it serves the chat page and its rooms on port 8080 of all addresses. Every option can also be set
/// in the environment, under the name shown with it; the command line wins. Sizes take k, m and g (1k = 1,024 bytes),
/// times take ms, s, m and h.
#[derive(Parser)]
#[command(name = "hi", version, max_term_width = 110, args_conflicts_with_subcommands = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    config: Config,
}

/// What else `hi` does than to serve.
#[derive(Subcommand)]
enum Command {
    /// Diagnoses a WebSocket address: checks every IP and proxy on the way, prints one verdict and the fix
    Doctor(Box<doctor::Args>),
    /// The things to do before, during and after a move to another server, each ticked by a real check
    Checklist(checklist::Args),
    /// Publishes a message into a room of a server that runs
    Pub(api::client::PublishArgs),
    /// Shows the rooms of a server that runs
    Rooms(api::client::RoomsArgs),
}

fn main() -> ExitCode {
    let CommandLine { command, config } = CommandLine::parse();
    match command {
        None => serve(config),
        Some(Command::Doctor(args)) => doctor::run(*args),
        Some(Command::Checklist(args)) => checklist::run(args),
        Some(Command::Pub(args)) => api::client::publish(args),
        Some(Command::Rooms(args)) => api::client::rooms(args),
    }
}

fn serve(config: Config) -> ExitCode {
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

/// A shard that died would take its connections with it and leave their rooms half served: better none than that. The
/// canary serves nobody: it looks again.
fn end_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        if canary::is_this_thread() {
            return;
        }
        tracing::error!("a bug in hi: {panic}; the process ends so that it can be started again");
        std::process::exit(EXIT_BUG);
    }));
}
