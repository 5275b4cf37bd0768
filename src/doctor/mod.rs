//! `hi doctor`: placeholder.

use std::process::ExitCode;

/// The command line.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The address
    pub url: String,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    todo!("{args:?}")
}
