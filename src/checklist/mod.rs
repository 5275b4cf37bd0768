//! `hi checklist`: what to do before, during and after a move to another server, each ticked by a real check.

pub mod document;
pub mod facts;
pub mod items;
#[cfg(test)]
mod tests;

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
