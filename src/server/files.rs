//! File descriptors: the limit is raised, and those that are not connections are counted.

use super::{StartError, cores};
use crate::config::{Config, Internal};
use crate::limits::{
    FILES_AT_START_MAX, FILES_BESIDE, FILES_OF_INTERNAL_PORT, FILES_PER_LISTENER, FILES_PER_SHARD, FILES_RESERVED,
};
use crate::os;
use doctor::printable::thousands;

/// Raises the limit of open files as far as it goes. Returns, for the log, how many connections there is room for.
pub(super) fn prepare(config: &Config) -> Result<String, StartError> {
    let limit = os::raise_file_limit()
        .map_err(|error| StartError(format!("can't raise the limit of open files to the hard limit: {error}")))?;
    let shards = config.shard_count(cores()?.parallelism) as u64;
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
    let room = thousands(limit.saturating_sub(needed));
    Ok(format!("room for {room} connections (file limit {})", thousands(limit)))
}

/// File descriptors that the public port leaves to the internal one, and those that its listeners may use beyond.
pub(super) fn files_reserved(config: &Config, listeners: usize) -> u64 {
    match config.internal {
        Internal::Off => 0,
        Internal::At(_) => FILES_RESERVED + listeners as u64,
    }
}
