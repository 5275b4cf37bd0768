//! Every fixed bound, with its unit, and how they relate. What an operator may choose is in `config`; what clients see of it in
//! `docs/limits.md`.

use std::time::Duration;

// Frames and messages
/// Longest payload of a control frame, in bytes (RFC 6455 section 5.5).
pub const CONTROL_BYTES_MAX: usize = 125;
/// Longest reason of a close frame, in bytes: a control frame's payload without the code (RFC 6455 section 5.5).
pub const CLOSE_REASON_BYTES_MAX: usize = CONTROL_BYTES_MAX - 2;

// One connection
/// Bytes of replies that may wait for one connection. A peer that goes on asking without reading is closed.
pub const OUTBOX_BYTES_MAX: usize = 256 * 1024;
/// Pongs (and our own pings) that wait for one connection. Beyond it a newer one takes the place of the last: RFC 6455,
/// 5.5.3 asks only for an answer to the most recent ping.
pub const PONGS_MAX: usize = 16;
/// Bytes of unread replies at which a connection is no longer read, until it reads them.
pub const REPLIES_BYTES_HELD: usize = 64 * 1024;
/// Limit, in bytes, of the frames of its rooms that go to a member ahead of a reply.
pub const SETTLE_BYTES_MAX: usize = 64 * 1024;
/// Limit, in bytes, of room frames moved to the outbox of a member that leaves.
pub const LEAVE_BYTES_MAX: usize = OUTBOX_BYTES_MAX / 4 * 3;
/// Slices that leave in one send.
pub const SLICES_PER_SEND_MAX: usize = 8;
/// One send is cut off after the slice that reaches this many bytes, so that no member holds up a turn.
pub const SEND_BYTES_MAX: usize = 256 * 1024;
/// Limit, in bytes, of what one send carries of what a member has missed.
pub const REPLAY_BYTES_PER_SEND_MAX: usize = 64 * 1024;
/// Pieces of unread input of one connection that are copied while receive buffers are short. Beyond it, the connection is no
/// longer received from.
pub const COPIED_PARTS_MAX: usize = 8;
/// The part of its shard's receive buffers that one connection may hold: one in 32.
pub const BUFFERS_SHARE: usize = 32;
/// Unreadable messages in a row that close the connection.
pub const UNREADABLE_MAX: u8 = 3;
/// Bytes that a listener may send before it is disconnected: no client of HTTP has anything to say here.
pub const IGNORED_BYTES_MAX: u32 = 16 * 1024;
/// Seconds that a peer has to answer our Close, or to end after we did.
pub const CLOSE_SECONDS: u32 = 3;

// One turn of a shard
/// Completions taken in one turn.
pub const COMPLETIONS_PER_TURN: usize = 8192;
/// Calls in which a turn asks the kernel for deferred completions before it reads.
pub const SUBMISSIONS_BEFORE_READING: usize = 16;
/// Receive buffers with unread input at which it stops asking.
pub const BUFFERS_BEFORE_READING: usize = 256;
/// Time that turns may follow one another before the control ring runs.
pub const TURNS_TIME_MAX: Duration = Duration::from_millis(4);
/// Units of work that one turn reads; a unit is about a microsecond: a frame, or a KiB.
pub const WORK_PER_TURN: usize = 1024;
/// Units of work that are read of a connection in its turn, however many others are in line.
pub const WORK_SHARE_MIN: usize = 8;
/// Connections looked at in one turn that had their turn before and have more unread input.
pub const LOOKS_PER_TURN: usize = 1024;
/// Connections and memberships taken down in one turn, so that thousands that end at once don't hold up the others.
pub const ENDS_PER_TURN: usize = 64;
/// Members that a room visits in its turn, however many other rooms are in line.
pub const VISITS_MIN: usize = 16;
/// Holders that give memory back in one turn: about a millisecond's work.
pub const GIVING_PER_TURN: usize = 64;
/// Bytes that they give back in one turn, unless one alone holds more.
pub const GIVEN_BYTES_PER_TURN: usize = 4 * 1024 * 1024;
/// Entries of the vector of drained relays that are kept allocated between turns.
pub const RELAYS_KEPT_MAX: usize = 1024;

// One tick of a shard
/// Members whose cursors one tick looks at to trim the logs: about a millisecond's work. A larger room is still done whole.
pub const MEMBERS_PER_TRIM: usize = 32_768;
/// Dormant rooms that one tick forgets, under the lock of all rooms: about a millisecond's work.
pub const DORMANT_PER_TICK: usize = 1024;
/// Rooms whose replay one tick cuts back: about a millisecond's work.
pub const EXPIRED_PER_TICK: usize = 4096;

// One room
/// Bytes of a room, with their overhead, that wait for members to be visited when its publishers are held back.
pub const ROOM_BYTES_HELD: usize = 128 * 1024;
/// Bytes of replay returned by the join itself; the rest is read while sending.
pub const REPLAY_HEAD_BYTES_MAX: usize = 64 * 1024;
/// Longest frame that is copied into a chunk of the room's log, in bytes, so that many leave in one send. Longer ones stay the
/// shared bytes that they arrived as.
pub const COPIED_FRAME_BYTES_MAX: usize = 16 * 1024;
/// Bytes of a log's first chunk, so that a quiet room costs little. Each further one is twice as large, up to the maximum.
pub const CHUNK_BYTES_MIN: usize = 1024;
/// Bytes of a log's largest chunk.
pub const CHUNK_BYTES_MAX: usize = 64 * 1024;
/// Members of a room up to which joins and leaves are announced one by one.
pub const MEMBERS_ANNOUNCED_MAX: usize = 32;
/// Notices of one second beyond which joins and leaves are folded into one.
pub const NOTICES_PER_SECOND_MAX: usize = 16;
/// Names spelled out in a folded notice.
pub const NAMES_TOLD_MAX: usize = 3;
/// Messages of one room whose deliveries are timed at the same time.
pub const SAMPLES_MAX: usize = 64;
/// Timed messages between two reports of deliveries; more are not timed.
pub const PENDING_MAX: usize = 1024;

// Empty rooms
/// Number of dormant rooms.
pub const DORMANT_ROOMS_MAX: usize = 16_384;
/// Bytes of replay of all dormant rooms.
pub const DORMANT_BYTES_MAX: usize = 64 * 1024 * 1024;

// Between shards
/// Bytes of relays in one inbox, with their overhead, at which publishers are held back.
pub const INBOX_BYTES_HELD: usize = 1024 * 1024;
/// Bytes of an inbox for notices of joins and leaves, which are not held back.
pub const NOTICE_BYTES_MAX: usize = 1024 * 1024;
/// Bytes by which a message grows on its way into a frame: header, keys, names, numbers.
pub const ENVELOPE_BYTES_MAX: usize = 1024;
/// Orders that may wait in one inbox. Dropping one is safe: a stale connection still times out, and the API answers 503.
pub const ORDERS_MAX: usize = 16_384;

// The data ring
/// Bytes of one receive buffer.
pub const RECEIVE_BUFFER_BYTES: usize = 4096;
/// Entries of the submission queue. When it is full, it is submitted.
pub const SUBMISSION_ENTRIES: u32 = 2048;
/// Entries of the completion queue. Beyond it the kernel keeps an overflow list.
pub const COMPLETION_ENTRIES: u32 = 16 * 1024;

// Memory
/// Smallest value of --memory-max, in bytes.
pub const BUDGET_BYTES_MIN: usize = 16 << 20;
/// Bytes by which the holders of one thread grow before it adds up what all threads hold.
pub const REVIEW_STEP_BYTES: u64 = 64 * 1024;
/// The part of the budget for half-read request heads: a quarter. Beyond it, long heads are refused.
pub const HEADS_PART: usize = 4;
/// Pause between two requests to the allocator to return free memory to the system.
pub const TRIM_INTERVAL: Duration = Duration::from_secs(1);

// The end of the server
/// Time for all peers to answer our Close when the server stops.
pub const DRAIN_TIME_MAX: Duration = Duration::from_secs(4);
/// Shortest window in which the clients of a stopped server are told to reconnect, in milliseconds.
pub const RETRY_SPAN_MS_MIN: u64 = 1000;
/// Longest such window, in milliseconds.
pub const RETRY_SPAN_MS_MAX: u64 = 29_000;

// How they relate.

const _: () = {
    assert!(
        SETTLE_BYTES_MAX <= LEAVE_BYTES_MAX && LEAVE_BYTES_MAX < OUTBOX_BYTES_MAX,
        "a reply fits behind what was settled"
    );
    assert!(REPLIES_BYTES_HELD < OUTBOX_BYTES_MAX, "whoever doesn't read is held before it is closed");
    assert!(REPLAY_HEAD_BYTES_MAX <= OUTBOX_BYTES_MAX / 2, "the head of a replay fits into an empty outbox");
    assert!(
        CHUNK_BYTES_MIN <= CHUNK_BYTES_MAX && COPIED_FRAME_BYTES_MAX <= CHUNK_BYTES_MAX,
        "a copied frame fits into a chunk"
    );
    assert!(ROOM_BYTES_HELD < INBOX_BYTES_HELD, "a room is held back before all rooms are");
    assert!(BUFFERS_BEFORE_READING < COMPLETIONS_PER_TURN && COMPLETIONS_PER_TURN <= COMPLETION_ENTRIES as usize);
    assert!(RETRY_SPAN_MS_MIN <= RETRY_SPAN_MS_MAX);
    assert!(TURNS_TIME_MAX.as_millis() * 100 <= DRAIN_TIME_MAX.as_millis(), "a stop takes many turns");
};
