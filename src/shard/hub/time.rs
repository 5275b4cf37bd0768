//! Everything that becomes due on a shard: pings, connections that don't answer, folded notices, logs that everyone has read.

use std::collections::VecDeque;
use std::sync::Arc;

use tracing::debug;

use super::{Hub, Key};
use crate::clock::Now;
use crate::connection::liveness::Due;
use crate::limits::{ENDS_PER_TURN, REPLIES_BYTES_HELD};
use crate::os;
use crate::protocol::Protocol;
use crate::protocol::close_code::CloseReason;
use crate::room::Room;
use crate::wheel::Wheel;

/// What is due, and when.
#[derive(Debug)]
pub(super) struct Timers {
    wheel: Wheel<Key>,
    /// Timers that have expired and wait to be handled, with their ticks.
    due: VecDeque<(u32, Key)>,
    /// Rooms with folded notices, and when they are due ([`crate::clock::Time::monotonic_ms`]).
    folded: Vec<(u64, Arc<Room>)>,
    /// Whether, as of the last tick, no room keeps anything for clients that reconnect.
    nothing_is_kept: bool,
    /// The last tick that was handled.
    last_tick: u32,
}

impl Timers {
    pub(super) fn new(tick: u32) -> Self {
        Self {
            wheel: Wheel::new(tick),
            due: VecDeque::new(),
            folded: Vec::new(),
            nothing_is_kept: true,
            last_tick: tick,
        }
    }

    /// Whether an expired timer still has to be handled.
    pub(super) fn is_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Remembers that `room` has a folded notice to publish at `due_ms`.
    pub(super) fn fold(&mut self, due_ms: u64, room: Arc<Room>) {
        self.folded.push((due_ms, room));
    }
}

impl Hub {
    /// Whether a tick would do nothing.
    pub(in crate::shard) fn is_idle(&self) -> bool {
        self.connections.is_empty() && self.timers.folded.is_empty() && self.timers.nothing_is_kept
    }

    /// Schedules the first ping. The delay varies from connection to connection, so that a burst of connects isn't followed by
    /// bursts of pings.
    pub(super) fn schedule_first_ping(&mut self, slot: u32) {
        let spread = self.connection(slot).serial.wrapping_mul(0x9e37_79b1) >> 8;
        self.schedule(slot, 1 + spread % self.settings.heartbeat.interval);
    }

    /// Sets the connection's timer to `seconds` from now, in place of the time that it was set to before.
    pub(super) fn schedule(&mut self, slot: u32, seconds: u32) {
        let due_tick = self.now.time.tick() + seconds.max(1);
        self.connection(slot).due_tick = due_tick;
        let key = self.key(slot);
        self.timers.wheel.schedule(due_tick, key);
    }

    /// Handles one tick: folded notices, logs that everyone has read, memory. Timers that expired are handled in the turns that
    /// follow.
    pub(in crate::shard) fn tick(&mut self, now: Now) {
        self.now = now;
        let tick = self.now.time.tick();
        let since_last = tick.saturating_sub(std::mem::replace(&mut self.timers.last_tick, tick));
        if since_last > self.settings.heartbeat.timeout {
            self.restart_ping_timeouts();
        }
        let mut due = Vec::new();
        self.timers.wheel.advance(tick, &mut due);
        self.timers.due.extend(due);
        self.principals.advance(tick);
        self.announce_folded();
        self.trim_logs();
        self.review_memory();
        if self.memory.wants_trim() {
            os::return_free_memory();
        }
        self.timers.nothing_is_kept = self.registry.expire(self.now.time);
    }

    /// The process or the machine was suspended: answers to pings may be waiting in the sockets, so the ping timeouts start
    /// again.
    fn restart_ping_timeouts(&mut self) {
        let tick = self.now.time.tick();
        for (_, connection) in &mut self.connections {
            connection.liveness.restart_timeout(tick);
        }
    }

    /// Handles expired timers, a bounded number in each turn: thousands may expire at once.
    pub(super) fn handle_timers(&mut self) {
        let mut left = ENDS_PER_TURN;
        while left > 0
            && let Some(key) = self.principals.next_over()
        {
            left = left.saturating_sub(1 + self.get(key).map_or(0, |connection| connection.memberships.len()));
            self.end_of_time(key);
        }
        while left > 0 {
            let Some((due_tick, key)) = self.timers.due.pop_front() else { return };
            if self.get(key).is_some_and(|connection| connection.due_tick == due_tick) {
                left = left.saturating_sub(1 + self.connection(key.slot).memberships.len());
                self.timer(key.slot);
            }
        }
    }

    fn timer(&mut self, slot: u32) {
        let (tick, heartbeat) = (self.now.time.tick(), self.settings.heartbeat);
        let waits_for_its_answer = self.elsewhere.holds_response(self.key(slot));
        let connection = self.connection(slot);
        if !connection.life.is_open() {
            // The time to close has run out.
            return self.end(slot);
        }
        if waits_for_its_answer {
            // A ping must not come before the answer to the handshake.
            return self.schedule(slot, heartbeat.interval);
        }
        if connection.protocol() == Protocol::Sse {
            connection.ping();
            self.schedule(slot, heartbeat.interval);
            return self.queue(slot);
        }
        let reads_replies = connection.replies_bytes() <= REPLIES_BYTES_HELD;
        if !connection.life.is_receiving() && reads_replies {
            // The shard itself isn't reading: an answer may be waiting in the socket.
            connection.liveness.heard();
        }
        match connection.liveness.due(tick, heartbeat) {
            Due::Wait(seconds) => self.schedule(slot, seconds),
            Due::Ping(seconds) => {
                connection.ping();
                self.schedule(slot, seconds);
                self.queue(slot);
            }
            Due::Silent if reads_replies => {
                debug!(slot, "no sign of life after a ping");
                self.counters.ping_timeouts.add(1);
                self.end(slot);
            }
            // It has been silent because the shard stopped reading it: it sends requests and doesn't read the replies.
            Due::Silent => self.close(slot, &CloseReason::RepliesUnread),
        }
    }

    fn announce_folded(&mut self) {
        let now = self.now.time;
        let due: Vec<_> = self.timers.folded.extract_if(.., |(due_ms, _)| *due_ms <= now.monotonic_ms).collect();
        for (_, room) in due {
            room.announce_folded(now, &mut self.wakes);
        }
    }

    /// Drops the log entries that every member has received.
    fn trim_logs(&mut self) {
        let connections = &self.connections;
        self.rooms.trim(|room, members| {
            let needed = |member: &u32| connections[*member as usize].needs_from(room);
            members.iter().filter_map(needed).min().unwrap_or(u64::MAX)
        });
    }
}
