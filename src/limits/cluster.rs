//! The bounds of `--cluster`.

use std::time::Duration;

/// Records of one room that a node holds because others are missing before them; beyond it, the oldest are fetched again.
pub(crate) const HELD_RECORDS_MAX: usize = 1024;
/// Records of a room that are read at once.
pub(crate) const BATCH_RECORDS: usize = 512;
/// Time within which the log answers to a record, in milliseconds; then it is sent again.
pub(crate) const ACK_MS_MAX: u64 = 5000;
/// Time within which the log answers to a question.
pub(crate) const REPLY_TIME_MAX: Duration = Duration::from_secs(5);
/// Time within which the log can be connected to at the start.
pub(crate) const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// Time within which a log that has just been started is ready.
pub(crate) const PREPARE_TIME_MAX: Duration = Duration::from_secs(5);
/// Time within which servers write the names of their members again into a log that has lost them.
pub(crate) const NAMES_TIME: Duration = Duration::from_secs(2);
/// Time for which the log remembers that a name is free, in seconds.
pub(crate) const FREE_NAME_SECONDS: u64 = 60;
/// Time within which the other servers close the connections of a user.
pub(crate) const DISCONNECT_TIME_MAX: Duration = Duration::from_secs(2);
/// Time within which another server says whether a name is still held there.
pub(crate) const HOLDER_TIME_MAX: Duration = Duration::from_secs(1);
/// Attempts to claim a name that others claim or release at the same time.
pub(crate) const CLAIMS_MAX: usize = 5;
/// Time until a server of the log that lags is asked again.
pub(crate) const LAG_PAUSE: Duration = Duration::from_millis(20);
/// Time until a log that is not as it has to be is looked at again.
pub(crate) const PAUSE: Duration = Duration::from_secs(1);
/// Servers of the log that keep a copy of each record, if there are so many.
pub(crate) const REPLICAS_AUTO: usize = 3;
/// Time between two probes whether the log answers.
pub(crate) const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// Time within which it answers a probe; without an answer to two of them in a row, it is away.
pub(crate) const PROBE_TIME_MAX: Duration = Duration::from_secs(2);
/// Time for which the log is away before clients are sent elsewhere.
pub(crate) const UNREADY_AFTER: Duration = Duration::from_secs(10);
/// Time for which the log is away before members are told.
pub(crate) const AWAY_TOLD_AFTER: Duration = Duration::from_secs(2);
/// Time between two looks whether rooms that are silent have missed something.
pub(crate) const TIPS_INTERVAL: Duration = Duration::from_secs(30);
/// Rooms that are asked about at once.
pub(crate) const TIPS_MAX: usize = 500;
/// Time between two looks at what waits for the log.
pub(crate) const TICK: Duration = Duration::from_millis(100);
/// Time after which a record that the log has confirmed is looked for.
pub(crate) const MISSING_TIME: Duration = Duration::from_secs(1);
/// Time within which a room is loaded; longer waits end with an error.
pub(crate) const LOAD_TIME_MAX: Duration = Duration::from_secs(10);
/// Bytes that a message to the log may have at least, including its headers.
pub(crate) const PAYLOAD_BYTES_MIN: usize = 128 * 1024;
/// Time between two signs of life of a server.
pub(crate) const BEAT_TIME: Duration = Duration::from_secs(1);
/// Rooms whose counts are told in one message.
pub(crate) const BEAT_ROOMS_MAX: usize = 400;
/// Messages of a raw room that the log keeps for servers that have missed some.
pub(crate) const RAW_RECORDS_MAX: usize = 1024;
/// Time for which it keeps them, in milliseconds.
pub(crate) const RAW_AGE_MS: u64 = 30_000;
/// Bytes that it keeps of all raw rooms.
pub(crate) const RAW_BYTES_MAX: i64 = 64 * 1024 * 1024;
/// Bytes of the headers of a record, at most: what a message may have less than the server of the log takes.
pub(crate) const HEADER_BYTES_MAX: usize = 4096;
