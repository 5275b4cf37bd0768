//! `hi pub` and `hi rooms`: placeholder.

use std::process::ExitCode;

/// The command line of `hi pub`.
#[derive(clap::Args, Debug)]
pub struct PublishArgs {
    /// The room
    pub room: String,
}

/// The command line of `hi rooms`.
#[derive(clap::Args, Debug)]
pub struct RoomsArgs {
    /// Names begin with this
    pub prefix: Option<String>,
}

/// Publishes.
pub fn publish(args: PublishArgs) -> ExitCode {
    todo!("{args:?}")
}

/// Lists.
pub fn rooms(args: RoomsArgs) -> ExitCode {
    todo!("{args:?}")
}
