//! Every fixed bound with its unit, and how the bounds relate. What an operator can configure is in `config`; what clients
//! notice of it is in `docs/limits.md`.

use std::time::Duration;

#[cfg(feature = "cluster")]
pub(crate) mod cluster;
pub(crate) mod tokens;

// Requests on the control ring
/// Connections accepted in a row before those already accepted are served.
pub(crate) const ACCEPTS_PER_ROW: usize = 64;
/// Initial size, in bytes, of the buffer for a request head. Most heads fit.
pub(crate) const HEAD_BYTES_USUAL: usize = 1024;
/// Lingering close: bytes to read and discard after the last answer, so that a reset does not destroy it.
pub(crate) const LINGER_BYTES_MAX: usize = 64 * 1024;
/// Lingering close: how long that may take.
pub(crate) const LINGER_TIME_MAX: Duration = Duration::from_secs(1);
/// Addresses that are limited each for itself. Beyond it, new ones have no limits.
pub(crate) const ADDRESSES_MAX: usize = 256 * 1024;
/// Parts of the table of addresses, each with a lock of its own.
pub(crate) const ADDRESS_PARTS: usize = 16;
/// Entries of that table that are looked at, to forget them, whenever one is added.
pub(crate) const ADDRESS_LOOKS: usize = 4;
/// Seconds without use after which the entry of an address without connections is forgotten: by then it may do again all that it
/// may do at once.
pub(crate) const ADDRESS_IDLE_SECONDS: u32 = 60;
/// Seconds after which an address with too many connections is told to try again.
pub(crate) const ADDRESS_RETRY_SECONDS: u64 = 10;
/// Number of hops that are counted separately in failed handshakes.
pub(crate) const HOPS_MAX: usize = 32;
/// How long a hop keeps its count after its last failure.
pub(crate) const HOP_IDLE_MAX: Duration = Duration::from_secs(3600);
/// Log lines about failed handshakes in one interval, of all hops and reasons together.
pub(crate) const FAILURE_LINES_PER_INTERVAL: u32 = 30;

// Request heads
/// Longest request head, in bytes, from the first byte to the end of the empty line.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Header lines in one head.
pub(crate) const HEADERS_MAX: usize = 100;
/// Empty lines ignored before the request line (RFC 9112 section 2.2 requires at least one). Bounded, because the start is
/// checked again with every packet.
pub(crate) const EMPTY_LINES_MAX: usize = 4;
/// Media ranges that are read of an `Accept`; browsers send about eight, Prometheus five.
pub(crate) const MEDIA_RANGES_MAX: usize = 32;
/// Addresses in forwarding headers that are read: no real request passes more hops.
pub(crate) const FORWARDED_ADDRESSES_MAX: usize = 64;
/// Entries of such a list, from its end, that are followed to find the client's address.
pub(crate) const CLIENT_HOPS_MAX: usize = 32;
/// Longest PROXY header of version 1, in bytes: its specification knows no longer one.
pub(crate) const PROXY_HEADER_V1_BYTES_MAX: usize = 107;
/// Longest PROXY header of version 2, in bytes: addresses, and what a proxy tells of TLS.
pub(crate) const PROXY_HEADER_V2_BYTES_MAX: usize = 16 + 2048;
/// Earlier hops listed in a diagnosis.
pub(crate) const EARLIER_HOPS_MAX: usize = 4;
/// Headers listed as evidence in a diagnosis.
pub(crate) const EVIDENCE_MAX: usize = 8;
/// Bytes of a received value that are shown.
pub(crate) const SHOWN_BYTES_MAX: usize = 60;
/// Values of one header that are shown.
pub(crate) const SHOWN_VALUES_MAX: usize = 3;
/// Bytes of the longest origin that is suggested as a value for `--origins`.
pub(crate) const ORIGIN_BYTES_SHOWN: usize = 120;
/// Allowed origins that are listed in the log.
pub(crate) const ORIGINS_LISTED_MAX: usize = 10;

// File descriptors
/// File descriptors of each shard beside connections: its rings, its runtime, eventfds.
pub(crate) const FILES_PER_SHARD: u64 = 10;
/// File descriptors of each listener: itself, its eventfd, and a connection that waits for a descriptor.
pub(crate) const FILES_PER_LISTENER: u64 = 3;
/// File descriptors reserved for connections of the internal port, and for what the process opens for a moment.
pub(crate) const FILES_RESERVED: u64 = 48;
/// File descriptors of the internal port: its listener and its runtime, and those that are reserved for its connections.
pub(crate) const FILES_OF_INTERNAL_PORT: u64 = 4 + FILES_RESERVED;
/// File descriptors of the process: standard streams, the main thread's runtime, signals, the canary, and some to spare.
pub(crate) const FILES_BESIDE: u64 = 24;
/// Files that the kernel's table for this process has room for from the start, at most: half a megabyte.
pub(crate) const FILES_AT_START_MAX: u64 = 65_536;
/// Pause between two checks whether a file descriptor has become free.
pub(crate) const DESCRIPTOR_PAUSE: Duration = Duration::from_millis(100);
/// The same pause, after an idle connection was told to close.
pub(crate) const IDLE_DESCRIPTOR_PAUSE: Duration = Duration::from_millis(5);

// Frames and messages
/// Longest payload of a control frame, in bytes (RFC 6455 section 5.5).
pub(crate) const CONTROL_BYTES_MAX: usize = 125;
/// Longest reason of a Close frame, in bytes: the payload of a control frame without the code (RFC 6455 section 5.5).
pub(crate) const CLOSE_REASON_BYTES_MAX: usize = CONTROL_BYTES_MAX - 2;

/// Longest message, in bytes, that is compressed for the members that take it so: about two milliseconds' work. Longer ones
/// leave as they are.
pub(crate) const DEFLATED_MESSAGE_BYTES_MAX: usize = 256 * 1024;
/// Bytes of scratch memory that are kept between two compressed messages, in each direction on each shard.
pub(crate) const DEFLATE_SCRATCH_BYTES: usize = 64 * 1024;

// One connection
/// Bytes of replies that may wait for one connection. A peer that keeps sending requests without reading the replies is closed.
pub(crate) const OUTBOX_BYTES_MAX: usize = 256 * 1024;
/// Pongs and pings that may wait for one connection. Beyond that, a new one replaces the last: only the most recent ping has to
/// be answered (RFC 6455 section 5.5.3).
pub(crate) const PONGS_MAX: usize = 16;
/// Bytes of unread replies beyond which a connection is not read.
pub(crate) const REPLIES_BYTES_HELD: usize = 64 * 1024;
/// Limit, in bytes, of room frames moved to a member's outbox ahead of a reply.
pub(crate) const SETTLE_BYTES_MAX: usize = 64 * 1024;
/// Limit, in bytes, of room frames moved to the outbox of a member that leaves.
pub(crate) const LEAVE_BYTES_MAX: usize = OUTBOX_BYTES_MAX / 4 * 3;
/// Slices in one send.
pub const SLICES_PER_SEND_MAX: usize = 8;
/// Bytes of one slice from which on it is sent by itself, even if more follows in the next chunk of the log: the rest is worth a
/// send of its own.
pub(crate) const SENT_ALONE_BYTES_MIN: usize = 16 * 1024;
/// Bytes after which a send takes no further slice, so that no single member holds up a turn.
pub(crate) const SEND_BYTES_MAX: usize = 256 * 1024;
/// Limit, in bytes, of replayed frames in one send.
pub(crate) const REPLAY_BYTES_PER_SEND_MAX: usize = 64 * 1024;
/// Messages that a member with `?latest=1` may have that it has not confirmed to have read; fewer if it reads slowly.
pub(crate) const UNREAD_MESSAGES_MAX: u32 = 1024;
/// How long a pong of such a member may be late before fewer messages are sent to it; nothing is sent while one is.
pub(crate) const UNREAD_WAIT_MAX: Duration = Duration::from_millis(150);
/// How long it may be late if more messages are to be sent.
pub(crate) const UNREAD_WAIT_USUAL: Duration = Duration::from_millis(50);
/// Longest time until a pong, even without delay, at which more messages are sent: a client that takes longer for a single message
/// is slow rather than far away.
pub(crate) const UNREAD_ROUND_MAX: Duration = Duration::from_millis(400);
/// Shortest time between a pong and the next ping, unless half of what may be on its way is.
pub(crate) const UNREAD_PING_INTERVAL_MIN: Duration = Duration::from_millis(20);
/// Longest `interval` of such a member.
pub(crate) const LATEST_INTERVAL_MAX: Duration = Duration::from_secs(60);
/// Messages that may be sent ahead of older ones with other keys. Beyond it, the oldest ones are sent.
pub(crate) const SENT_AHEAD_MAX: usize = 16;
/// Pieces of unread input of one connection that are copied while receive buffers are short. Beyond that, nothing more is
/// received from it.
pub(crate) const COPIED_PARTS_MAX: usize = 8;
/// One connection may hold one part in this many of its shard's receive buffers.
pub(crate) const BUFFERS_SHARE: usize = 32;
/// Consecutive messages that can't be parsed before the connection is closed.
pub(crate) const UNREADABLE_MAX: u8 = 3;
/// Bytes that a listener may send before it is disconnected: an HTTP client has nothing to send here.
pub(crate) const IGNORED_BYTES_MAX: u32 = 16 * 1024;
/// Seconds that a peer has to answer our Close, or to end after it.
pub(crate) const CLOSE_SECONDS: u32 = 3;

// One turn of a shard
/// Completions processed in one turn.
pub(crate) const COMPLETIONS_PER_TURN: usize = 8192;
/// Calls that a turn makes for completions that the kernel has deferred, before it reads.
pub(crate) const POLLS_BEFORE_READING: usize = 16;
/// Receive buffers with unread input at which it stops making these calls.
pub(crate) const BUFFERS_BEFORE_READING: usize = 256;
/// Time that a shard takes turns before the control ring runs.
pub(crate) const TURNS_TIME_MAX: Duration = Duration::from_millis(4);
/// Units of work read in one turn. A unit is about a microsecond: a frame, or a KiB.
pub(crate) const WORK_PER_TURN: usize = 1024;
/// Units of work that are always read from a connection in its turn, no matter how many others are queued.
pub(crate) const WORK_SHARE_MIN: usize = 8;
/// Connections with input left over from an earlier turn that one turn looks at.
pub(crate) const LOOKS_PER_TURN: usize = 1024;
/// Connections and memberships ended in one turn: thousands that end at once must not hold up the others.
pub(crate) const ENDS_PER_TURN: usize = 64;
/// Members that a room always visits in its turn, no matter how many other rooms are queued.
pub(crate) const VISITS_MIN: usize = 16;
/// Holders that give memory back in one turn: about a millisecond's work.
pub(crate) const GIVING_PER_TURN: usize = 64;
/// Bytes given back in one turn, unless a single holder has more.
pub(crate) const GIVEN_BYTES_PER_TURN: usize = 4 * 1024 * 1024;
/// Capacity, in entries, that the vector of drained relays keeps between turns.
pub(crate) const RELAYS_KEPT_MAX: usize = 1024;

// One tick of a shard
/// Members whose cursors are read in one tick to trim the logs: about a millisecond's work. A room with more is still done in
/// one go.
pub(crate) const MEMBERS_PER_TRIM: usize = 32_768;
/// Dormant rooms removed in one tick, under the lock of all rooms: about a millisecond's work.
pub(crate) const DORMANT_PER_TICK: usize = 1024;
/// Rooms whose replay is cut back in one tick: about a millisecond's work.
pub(crate) const EXPIRED_PER_TICK: usize = 4096;

// One room
/// Bytes of a room, including their overhead, that its members have not been visited for, beyond which its publishers wait.
pub(crate) const ROOM_BYTES_HELD: usize = 128 * 1024;
/// Bytes of replay returned by the join itself; the rest is read while sending.
pub(crate) const REPLAY_HEAD_BYTES_MAX: usize = 64 * 1024;
/// Longest frame, in bytes, that is copied into a chunk of the room's log, so that many leave in one send. Longer ones stay the
/// shared bytes that they were encoded into.
pub(crate) const COPIED_FRAME_BYTES_MAX: usize = 16 * 1024;
/// Longest `--flush-interval`.
pub(crate) const FLUSH_INTERVAL_MAX: Duration = Duration::from_secs(10);
/// Longest wait of a message in a room whose pace is `auto`, if the operator sets no other.
pub(crate) const FLUSH_AUTO_WAIT: Duration = Duration::from_millis(50);
/// Such a room is fanned out during one part in this many of the time.
pub(crate) const FLUSH_SHARE: u32 = 4;
/// Sends in one turn from which on their time is measured for this.
pub(crate) const FLUSH_MEASURED_SENDS_MIN: u64 = 16;
/// Shortest wait for such a room's next fan-out: timers are no more exact.
pub(crate) const FLUSH_WAIT_MIN: Duration = Duration::from_millis(1);
/// Bytes of a room, including their overhead, that wait for its next fan-out at most.
pub(crate) const FLUSH_BYTES_WAITING: usize = ROOM_BYTES_HELD / 2;
/// The same of all rooms of a shard: should memory become short, they leave within a turn, beside what it reads.
pub(crate) const FLUSH_BYTES_WAITING_OF_SHARD: u64 = 512 * 1024;
/// Keys of which a shard keeps the newest message for the members of a room with `?latest=1`. Beyond it, the message that is the
/// newest of its key for longest is dropped.
pub(crate) const NEWEST_KEYS_MAX: usize = 1024;
/// Bytes of these messages, including their overhead; the newest of all is kept, no matter how large.
pub(crate) const NEWEST_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of the log that such members read while they keep up.
pub(crate) const NEWEST_LOG_BYTES_MAX: usize = 64 * 1024;
/// Longest key, in bytes of JSON. A message with a longer one counts as one without a key.
pub(crate) const KEY_BYTES_MAX: usize = 128;
/// Longest message, in bytes of payload, whose key is looked for: about a tenth of a millisecond's work.
pub(crate) const KEYED_MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// Size of a log's first chunk in bytes, small so that a quiet room costs little. Each further chunk is twice as large, up to
/// the maximum.
pub(crate) const CHUNK_BYTES_MIN: usize = 1024;
/// Size of a log's largest chunk in bytes.
pub(crate) const CHUNK_BYTES_MAX: usize = 64 * 1024;
/// Number of members up to which a room announces each join and leave.
pub(crate) const MEMBERS_ANNOUNCED_MAX: usize = 32;
/// Notices in one second beyond which joins and leaves are folded.
pub(crate) const NOTICES_PER_SECOND_MAX: usize = 16;
/// Names listed in a folded notice.
pub(crate) const NAMES_TOLD_MAX: usize = 3;
/// Messages of one room that are timed at once.
pub(crate) const SAMPLES_MAX: usize = 64;
/// Timed deliveries between two reports; further ones are not timed.
pub(crate) const PENDING_MAX: usize = 1024;

// Empty rooms
/// Number of dormant rooms; beyond it, the oldest is dropped.
pub(crate) const DORMANT_ROOMS_MAX: usize = 16_384;
/// Bytes of replay in all dormant rooms together; beyond it, the oldest room is dropped.
pub(crate) const DORMANT_BYTES_MAX: usize = 64 * 1024 * 1024;

// Between shards
/// Bytes of relays in one inbox, including their overhead, at which all publishers wait.
pub(crate) const INBOX_BYTES_HELD: usize = 1024 * 1024;
/// Bytes of an inbox reserved for notices of joins and leaves, which don't wait.
pub(crate) const NOTICE_BYTES_MAX: usize = 1024 * 1024;
/// Bytes that a message can gain on its way into a frame: header, keys, names, numbers.
pub(crate) const ENVELOPE_BYTES_MAX: usize = 1024;
/// Orders that may wait in one inbox. Dropping one is safe: a stale connection still times out, and the API answers 503.
pub(crate) const ORDERS_MAX: usize = 16_384;

// Several servers
/// Time within which the other servers are told, at the end of this one, that its members have left.
pub(crate) const FAREWELL_TIME_MAX: Duration = Duration::from_millis(500);
/// Shortest time, in milliseconds, for which a room that was loaded from the shared log is kept for its first member.
pub(crate) const OPENED_ROOM_MS_MIN: u64 = 10_000;
/// Bytes of messages that wait for their numbers in the shared log, at which all publishers wait.
pub(crate) const OUTWARD_BYTES_HELD: usize = 8 * 1024 * 1024;
/// Longest chat message that several servers can share, in bytes of JSON: it travels in a header of 64 KB, with names and keys.
pub(crate) const SHARED_MESSAGE_BYTES_MAX: usize = 48 * 1024;
/// Bytes that such a message costs beside its content.
pub(crate) const OUTWARD_OVERHEAD_BYTES: usize = 512;
// The internal port
/// Simultaneous connections; further ones wait for a slot.
pub(crate) const API_CONNECTIONS_MAX: usize = 256;
/// From this many connections on, each is closed after its answer, so that the remaining slots serve clients with a single
/// request.
pub(crate) const API_CONNECTIONS_CROWDED: usize = 192;
/// Connections that may wait in the kernel while no slot is free.
pub(crate) const API_BACKLOG: i32 = 1024;
/// Pause between two attempts to free a slot or a file descriptor.
pub(crate) const API_SLOT_PAUSE: Duration = Duration::from_millis(50);
/// Bytes of one read from a socket.
pub(crate) const API_READ_BYTES: usize = 8 * 1024;
/// Bytes that hyper may buffer for one connection. It never gets a longer head to see.
pub(crate) const API_BUFFER_BYTES_MAX: usize = 2 * HEAD_BYTES_MAX;
/// Time limit for a request head, from its first byte.
pub(crate) const API_HEAD_TIME_MAX: Duration = Duration::from_secs(10);
/// How long a peer may go without reading any of an answer.
pub(crate) const API_ANSWER_TIME_MAX: Duration = Duration::from_secs(60);
/// Time for a body to arrive.
pub(crate) const BODY_TIME_MAX: Duration = Duration::from_secs(10);
/// Bytes of the largest body that is accepted.
pub(crate) const BODY_BYTES_MAX: usize = 1024 * 1024;
/// A body of up to this many bytes is read at once; larger ones take turns.
pub(crate) const SMALL_BODY_BYTES_MAX: usize = 16 * 1024;
/// Requests with a large body at the same time; further ones wait.
pub(crate) const LARGE_BODIES_MAX: usize = 24;
/// Bytes of an oversized body that are read and discarded, so that a reset does not destroy the answer.
pub(crate) const EXCESS_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Rooms in one broadcast.
pub(crate) const BROADCAST_ROOMS_MAX: usize = 1000;
/// How long a request waits for shards that lag.
pub(crate) const PUBLISH_TIME_MAX: Duration = Duration::from_secs(5);
/// Requests that may wait for them at the same time, so that connections stay free for health checks.
pub(crate) const PUBLISHES_WAITING_MAX: usize = 64;
/// Pause between two checks whether the shards have caught up.
pub(crate) const PUBLISH_LOOK_INTERVAL: Duration = Duration::from_millis(1);
/// How long to wait for a shard's answer; a healthy one answers within a turn.
pub(crate) const SHARD_TIME_MAX: Duration = Duration::from_secs(5);
/// How long an answer is kept for its `Idempotency-Key`.
pub(crate) const IDEMPOTENCY_TIME_MAX: Duration = Duration::from_secs(300);
/// Longest `Idempotency-Key`, in bytes.
pub(crate) const IDEMPOTENCY_KEY_BYTES_MAX: usize = 128;
/// Bytes of all answers that are kept.
pub(crate) const IDEMPOTENCY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes of an entry beside its key and its answer.
pub(crate) const IDEMPOTENCY_ENTRY_BYTES: usize = 256;
/// Bytes of the shortest API key: a shorter one could be guessed.
pub(crate) const API_KEY_BYTES_MIN: usize = 16;
/// Bytes of a file of API keys: enough for several while one replaces another.
pub(crate) const API_KEY_FILE_BYTES_MAX: u64 = 64 * 1024;

/// Time limit of `hi health`, from the connection to the end of the answer: a health check of Docker has 3 seconds or more.
pub(crate) const HEALTH_TIME_MAX: Duration = Duration::from_secs(2);
/// Bytes of a configuration file.
pub(crate) const CONFIG_FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Columns of a configuration file that `hi config default` writes.
pub(crate) const CONFIG_COLUMNS: usize = 110;
/// How similar an option's name has to be to a wrong one to be suggested: 1 is the same (Jaro and Winkler).
pub(crate) const SUGGESTED_SIMILARITY_MIN: f64 = 0.8;
/// Bytes of the longest answer that `hi health` reads.
pub(crate) const HEALTH_ANSWER_BYTES_MAX: usize = 64 * 1024;

// The data ring
/// Bytes of one receive buffer.
pub const RECEIVE_BUFFER_BYTES: usize = 4096;
/// Entries of the submission queue. When it is full, it is submitted at once.
pub(crate) const SUBMISSION_ENTRIES: u32 = 2048;
/// Sockets that one look at epoll reports, at most.
pub(crate) const EVENTS_PER_CALL: usize = 256;
/// Sends that one call of io_submit(2) makes, at most. All such calls of the machine's processes together may make
/// `fs.aio-max-nr`, 65,536 by default.
pub(crate) const SENDS_PER_CALL: usize = 256;
/// Below this, each send is a call of its own: io_submit(2) needs two for any number.
pub(crate) const SENDS_PER_CALL_MIN: usize = 4;
/// Receive buffers that one socket may fill at each look at epoll.
pub(crate) const RECEIVES_PER_EVENT: usize = 8;
/// Entries of the completion queue. Beyond that, the kernel keeps an overflow list.
pub(crate) const COMPLETION_ENTRIES: u32 = 16 * 1024;

// Memory
/// Smallest value of --memory-max, in bytes.
pub(crate) const BUDGET_BYTES_MIN: usize = 16 << 20;
/// Bytes that a shard takes, in the process and in the kernel, apart from its receive buffers.
pub(crate) const SHARD_BYTES: usize = 1 << 20;
/// By default, there are no more shards than take one part in this many of the budget when all their buffers are in use.
pub(crate) const SHARDS_PART: usize = 2;
/// Bytes by which the holders on one thread grow before that thread reviews the budget.
pub(crate) const REVIEW_STEP_BYTES: u64 = 64 * 1024;
/// Incomplete request heads may take one part in this many of the budget. Beyond that, long heads are refused.
pub(crate) const HEADS_PART: usize = 4;
/// Pause between two requests to the allocator to return free memory to the system.
pub(crate) const TRIM_INTERVAL: Duration = Duration::from_secs(1);

// The log
/// Bytes of lines that may wait for stderr. As many again may be in the middle of being written.
pub(crate) const LOG_QUEUE_BYTES_MAX: usize = 256 * 1024;
/// How long the process waits at its end for the rest to be written.
pub(crate) const LOG_FLUSH_TIME_MAX: Duration = Duration::from_millis(500);

// The start of the server
/// How long to retry a port that is in use: a server that has just ended may keep it for a moment.
pub(crate) const PREDECESSOR_TIME_MAX: Duration = Duration::from_secs(2);
/// Pause between two tries of a port that is in use.
pub(crate) const PREDECESSOR_POLL: Duration = Duration::from_millis(20);
/// How long to wait for another hi that chooses its cores.
pub(crate) const TURN_TIME_MAX: Duration = Duration::from_secs(1);
/// Pause between two looks whether it has chosen.
pub(crate) const TURN_POLL: Duration = Duration::from_millis(5);

// The end of the server
/// Time from the first signal to the end of the process.
pub(crate) const STOP_TIME_MAX: Duration = Duration::from_millis(4800);
/// Time that the log still gets if all of that was needed.
pub(crate) const LOG_TIME_MIN: Duration = Duration::from_millis(100);
/// How long a start may go on after a signal has interrupted it: until it ends, it is not known whether anybody is connected.
pub(crate) const START_TIME_MAX: Duration = Duration::from_millis(2500);
/// Time that all peers together have to answer our Close when the server stops.
pub(crate) const DRAIN_TIME_MAX: Duration = Duration::from_secs(4);
/// Shortest window, in milliseconds, over which the reconnects of a stopped server's clients are spread.
pub(crate) const RETRY_SPAN_MS_MIN: u64 = 1000;
/// Longest such window, in milliseconds: all clients reconnect within 30 seconds.
pub(crate) const RETRY_SPAN_MS_MAX: u64 = 29_000;

// How they relate.

const _: () = {
    assert!(
        SETTLE_BYTES_MAX <= LEAVE_BYTES_MAX && LEAVE_BYTES_MAX < OUTBOX_BYTES_MAX,
        "a reply fits into the outbox behind what was settled"
    );
    assert!(
        REPLIES_BYTES_HELD < OUTBOX_BYTES_MAX,
        "unread replies first stop reading, and only later close the connection"
    );
    assert!(REPLAY_HEAD_BYTES_MAX <= OUTBOX_BYTES_MAX / 2, "the head of a replay fits into an empty outbox");
    assert!(
        CHUNK_BYTES_MIN <= CHUNK_BYTES_MAX && COPIED_FRAME_BYTES_MAX <= CHUNK_BYTES_MAX,
        "a copied frame fits into a chunk"
    );
    assert!(HEAD_BYTES_USUAL < HEAD_BYTES_MAX && tokens::TOKEN_BYTES_MAX < HEAD_BYTES_MAX);
    assert!(PROXY_HEADER_V2_BYTES_MAX < HEAD_BYTES_MAX, "the buffer for a head takes a PROXY header");
    assert!(SHOWN_BYTES_MAX * SHOWN_VALUES_MAX < HEAD_BYTES_MAX && SHOWN_BYTES_MAX < ORIGIN_BYTES_SHOWN);
    assert!(EARLIER_HOPS_MAX < FORWARDED_ADDRESSES_MAX && CLIENT_HOPS_MAX <= FORWARDED_ADDRESSES_MAX);
    assert!(API_CONNECTIONS_CROWDED < API_CONNECTIONS_MAX, "connections end with their answers before slots run out");
    assert!(
        LARGE_BODIES_MAX + PUBLISHES_WAITING_MAX < API_CONNECTIONS_CROWDED,
        "requests that wait leave connections for health checks"
    );
    assert!(
        HEAD_BYTES_MAX < API_BUFFER_BYTES_MAX && API_READ_BYTES <= API_BUFFER_BYTES_MAX,
        "a head is refused by us, not by hyper"
    );
    assert!(SMALL_BODY_BYTES_MAX < BODY_BYTES_MAX && BODY_BYTES_MAX < EXCESS_BYTES_MAX);
    assert!(
        BODY_TIME_MAX.as_secs() + PUBLISH_TIME_MAX.as_secs() < IDEMPOTENCY_TIME_MAX.as_secs(),
        "a request ends before its key is forgotten"
    );
    assert!(
        FLUSH_BYTES_WAITING < ROOM_BYTES_HELD,
        "a room that waits for its next fan-out never makes publishers wait"
    );
    assert!(ROOM_BYTES_HELD < INBOX_BYTES_HELD, "the publishers of one room wait before all publishers do");
    assert!(BUFFERS_BEFORE_READING < COMPLETIONS_PER_TURN && COMPLETIONS_PER_TURN <= COMPLETION_ENTRIES as usize);
    assert!(RETRY_SPAN_MS_MIN <= RETRY_SPAN_MS_MAX);
    assert!(IDLE_DESCRIPTOR_PAUSE.as_millis() < DESCRIPTOR_PAUSE.as_millis());
    assert!(FILES_OF_INTERNAL_PORT + FILES_BESIDE + FILES_PER_SHARD + FILES_PER_LISTENER < FILES_AT_START_MAX);
    assert!(PREDECESSOR_POLL.as_millis() < PREDECESSOR_TIME_MAX.as_millis());
    assert!(TURN_POLL.as_millis() < TURN_TIME_MAX.as_millis());
    assert!(LOG_TIME_MIN.as_millis() <= LOG_FLUSH_TIME_MAX.as_millis());
    assert!(DRAIN_TIME_MAX.as_millis() < STOP_TIME_MAX.as_millis(), "shards end before the process does");
    assert!(DRAIN_TIME_MAX.as_millis() + FAREWELL_TIME_MAX.as_millis() < STOP_TIME_MAX.as_millis());
    assert!(START_TIME_MAX.as_millis() < STOP_TIME_MAX.as_millis(), "what has started can still be stopped");
    assert!(TURNS_TIME_MAX.as_millis() * 100 <= DRAIN_TIME_MAX.as_millis(), "a stop takes many turns");
};
