//! The bounds of `--cluster`.

use std::time::Duration;

/// Records of one room that a node holds because others are missing before them; beyond it, the oldest are fetched again.
pub(crate) const HELD_RECORDS_MAX: usize = 1024;
/// Epochs of a room before the last one that a node remembers: publishers may still take one of them for the last.
pub(crate) const PAST_EPOCHS: usize = 6;
/// Records of a room that are read at once.
pub(crate) const BATCH_RECORDS: usize = 512;
/// And bytes of them: an answer of more than what waits for a client at most (`max_pending` of NATS) would end the connection, and so
/// would the next one.
pub(crate) const BATCH_BYTES: usize = 256 * 1024;
/// Names that are read at once: NATS gives the last records of 1,024 subjects in one answer.
pub(crate) const NAMES_AT_ONCE_MAX: usize = 1024;
/// Rooms whose names are read at once.
pub(crate) const NAMED_ROOMS_MAX: usize = 256;
/// Time within which the log answers to a record, in milliseconds; then it is sent again.
pub(crate) const ACK_MS_MAX: u64 = 5000;
/// Time within which the log answers to a question; then it is asked again, for it may have elected another leader.
pub(crate) const REPLY_TIME_MAX: Duration = Duration::from_secs(2);
/// Records and questions that may wait for the connection to the log before whoever sends has to wait, too: 10,000 a second until
/// two probes have failed.
pub(crate) const COMMANDS_MAX: usize = 65_536;
/// Time within which the log can be connected to at the start.
pub(crate) const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// Time within which a log that has just been started, or elects a leader, is ready.
pub(crate) const PREPARE_TIME_MAX: Duration = Duration::from_secs(30);
/// Time within which servers write the names of their members again into a log that has lost them.
pub(crate) const NAMES_TIME: Duration = Duration::from_secs(2);
/// Time for which the log remembers that a name is free, in seconds.
pub(crate) const FREE_NAME_SECONDS: u64 = 60;
/// Time within which the other servers close the connections of a user.
pub(crate) const DISCONNECT_TIME_MAX: Duration = Duration::from_secs(2);
/// Time within which another server says whether a name is still held there, or is connected to the log again to be asked.
pub(crate) const HOLDER_TIME_MAX: Duration = Duration::from_secs(1);
/// Names that are claimed at once: what waits for an answer takes memory.
pub(crate) const CLAIMS_AT_ONCE_MAX: usize = 256;
/// Attempts to claim a name that others claim or release at the same time.
pub(crate) const CLAIMS_MAX: usize = 5;
/// Time until a server of the log that lags is asked again.
pub(crate) const LAG_PAUSE: Duration = Duration::from_millis(20);
/// Times that it is asked again.
pub(crate) const LAGS_MAX: usize = 100;
/// Time until a shard that has enough to do is given more.
pub(crate) const FULL_PAUSE: Duration = Duration::from_millis(2);
/// Time until a log that is not as it has to be is looked at again, and until a connection is closed whose user has reconnected if
/// the order to do so has not come.
pub(crate) const PAUSE: Duration = Duration::from_secs(1);
/// Servers of the log that keep a copy of each record, if its cluster has as many.
pub(crate) const REPLICAS_AUTO: usize = 3;
/// Time between two probes whether the log answers.
pub(crate) const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// Time within which it answers a probe; without an answer to two of them in a row, it is away.
pub(crate) const PROBE_TIME_MAX: Duration = Duration::from_secs(2);
/// Time for which the log is away before clients are sent elsewhere.
pub(crate) const UNREADY_AFTER: Duration = Duration::from_secs(10);
/// Time for which the log is away before members are told.
pub(crate) const AWAY_TOLD_AFTER: Duration = Duration::from_secs(2);
/// Time between two looks whether rooms that are silent have missed something; at most an eighth of the time for which the log
/// keeps them, because these looks also keep them alive.
pub(crate) const TIPS_INTERVAL: Duration = Duration::from_secs(30);
/// Shortest time for which the log keeps the messages of a room.
pub(crate) const ROOM_MEMORY_MIN: Duration = Duration::from_secs(4);
/// Time for which the log knows a message that it gets twice: longer than an answer to a question is waited for, so that a server
/// which has found a room empty can't begin its life long after another one has.
pub(crate) const DUPLICATES_TIME: Duration = Duration::from_secs(30);
/// Rooms whose messages or names are read at once, and rooms that are looked at because they may have missed some. The log answers one question after the other, and one that it hasn't answered in
/// time is asked again: with thousands at once it would do little else.
pub(crate) const LOADS_MAX: usize = 32;
/// Rooms that wait to be loaded before they are read all at once, with the records of all others. For one room alone the log looks
/// at each record between those of that room, which takes it 50 ns; with all others, each takes 8 us to be read.
pub(crate) const SWEEP_ROOMS_MIN: usize = 160;
/// Records of one answer of those, and bytes.
pub(crate) const SWEEP_BATCH_RECORDS: usize = 8192;
pub(crate) const SWEEP_BATCH_BYTES: usize = 8 * 1024 * 1024;
/// Records that are read at once; if there are more, each room is read alone.
pub(crate) const SWEEP_RECORDS_MAX: u64 = 200_000;
/// Bytes of those that are wanted.
pub(crate) const SWEEP_BYTES_MAX: usize = 32 * 1024 * 1024;
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
/// Shortest time after which a server that has told nothing is gone, in milliseconds: three signs of life.
pub(crate) const SILENT_MS_MIN: u64 = 3000;
/// Time in which a server that is not stopped hears itself, in milliseconds: a sign of life and a quarter.
pub(crate) const DEAF_MS_MIN: u64 = 1250;
/// Time within which all servers have told their counts to one that has just come, in milliseconds.
pub(crate) const COUNTS_MS_MAX: u64 = 3000;
/// Rooms whose counts are told in one message.
pub(crate) const BEAT_ROOMS_MAX: usize = 400;
/// Messages of a raw room that the log keeps for servers that have missed some.
pub(crate) const RAW_RECORDS_MAX: usize = 1024;
/// Time for which it keeps them, in milliseconds.
pub(crate) const RAW_AGE_MS: u64 = 30_000;
/// Time in which a server hears nothing before a raw message may be gone that it has not seen, in milliseconds: less than for which
/// they are kept, because it takes a moment to read them.
pub(crate) const RAW_DEAF_MS_MAX: u64 = RAW_AGE_MS - 5000;
/// Bytes that it keeps of all raw rooms.
pub(crate) const RAW_BYTES_MAX: i64 = 64 * 1024 * 1024;
/// Log lines a minute about messages that the log has not stored.
pub(crate) const UNSTORED_LINES_PER_MINUTE: u32 = 3;
/// Bytes of the headers of a record, at most: what a message may have less than the server of the log takes.
pub(crate) const HEADER_BYTES_MAX: usize = 4096;
/// Bundles of rooms of one kind: those of a bundle may share a subscription.
pub(crate) const BUNDLES: u32 = 256;
/// Rooms of a bundle that a server follows before it subscribes to the bundle instead of each room.
pub(crate) const BUNDLE_ROOMS_MIN: usize = 4;
/// Bytes that have arrived and wait because the rooms they belong to are not shown fast enough.
pub(crate) const BACKLOG_BYTES_MAX: usize = 64 * 1024 * 1024;
/// What it costs to read a record, in bytes of one that cost as much.
pub(crate) const RECORD_COST: u64 = 512;
/// What records of rooms that a server doesn't follow may cost, beside what those of followed rooms do, before a bundle is given up:
/// 100 short ones in a window.
pub(crate) const UNWANTED_COST_MAX: u64 = 100 * 1024;
/// The window, in milliseconds.
pub(crate) const UNWANTED_WINDOW_MS: u64 = 10_000;
/// Time for which a bundle that was given up is not formed again, in milliseconds.
pub(crate) const BUNDLE_APART_MS: u64 = 600_000;
