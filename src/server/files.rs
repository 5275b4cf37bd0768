//! File descriptors: the limit is raised, and those that are not connections are counted.

use std::fmt;

use super::{StartError, cores};
use crate::config::{Config, Internal};
use crate::os;
use doctor::printable::thousands;

/// File descriptors of each shard beside connections: its rings, its runtime, eventfds.
const FILES_PER_SHARD: u64 = 9;
/// Those of each listener: itself, its eventfd, and a connection that waits for a descriptor.
const FILES_PER_LISTENER: u64 = 3;
/// Those of the internal port: its listener and its runtime, and those that are reserved for its connections.
const FILES_OF_INTERNAL_PORT: u64 = 4 + FILES_RESERVED;
/// Reserved for connections of the internal port, and for what the process opens for a moment.
const FILES_RESERVED: u64 = 48;
/// Files that the kernel's table for this process has room for from the start, at most: half a megabyte.
const FILES_AT_START_MAX: u64 = 65_536;
/// Those of the process: standard streams, the main thread's runtime, signals, the canary, and some to spare.
const FILES_BESIDE: u64 = 24;

/// The limit of open files, and how many of them are not connections.
#[derive(Debug)]
pub(super) struct Files {
    limit: u64,
    needed: u64,
}

impl Files {
    /// Raises the limit as far as it goes.
    pub(super) fn prepare(config: &Config) -> Result<Self, StartError> {
        let limit = os::raise_file_limit()
            .map_err(|error| StartError(format!("can't raise the limit of open files to the hard limit: {error}")))?;
        let shards = config.shard_count(cores()?.parallelism()) as u64;
        let addresses = config.listen.len().max(1) as u64;
        let internal = if config.internal == Internal::Off { 0 } else { FILES_OF_INTERNAL_PORT };
        let needed = FILES_BESIDE + internal + shards * (FILES_PER_SHARD + addresses * FILES_PER_LISTENER);
        os::try_files(needed).map_err(|error| {
            StartError(format!(
                "can't open the {needed} files that the shards need ({error}, the limit is {limit}): raise it with \
                 `ulimit -n`, or LimitNOFILE= in systemd, or lower --shards."
            ))
        })?;
        // Before there are threads. An error means that the table grows later, which takes its time.
        let _ = os::grow_file_table(limit.min(FILES_AT_START_MAX));
        Ok(Self { limit, needed })
    }
}

impl fmt::Display for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { limit, needed } = self;
        write!(
            f,
            "room for {} connections (file limit {})",
            thousands(limit.saturating_sub(*needed)),
            thousands(*limit)
        )
    }
}

/// File descriptors that the public port leaves to the internal one, and those that its listeners may use beyond.
pub(super) fn files_reserved(config: &Config, listeners: usize) -> u64 {
    match config.internal {
        Internal::Off => 0,
        Internal::At(_) => FILES_RESERVED + listeners as u64,
    }
}
