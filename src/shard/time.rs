//! What time asks of a shard: pings, connections that don't answer, folded notices, logs that everyone has read.

use tracing::debug;

use super::Shard;
use super::reading::{ENDS_PER_TURN, REPLIES_BYTES_HELD};
use crate::clock::Now;
use crate::connection::State;
use crate::os;
use crate::protocol::close_code::CloseReason;
use crate::ring::DataRing;

impl<R: DataRing> Shard<R> {
    pub(super) fn schedule(&mut self, slot: u32, seconds: u32) {
        let due_tick = self.now.time.tick() + seconds.max(1);
        self.connection(slot).due_tick = due_tick;
        let key = self.key(slot);
        self.wheel.schedule(due_tick, key);
    }

    /// Does what time asks for: folded notices, logs that everyone has read. Pings and connections that don't answer are seen
    /// to in the turns that follow: see `hear_timers`.
    pub fn tick(&mut self, now: Now) {
        self.now = now;
        let tick = self.now.time.tick();
        let since_last = tick.saturating_sub(std::mem::replace(&mut self.last_tick, tick));
        if u64::from(since_last) > self.config.ping_timeout.as_secs() {
            self.forgive_silence();
        }
        let mut due = Vec::new();
        self.wheel.advance(tick, &mut due);
        self.due.extend(due);
        self.announce_folded();
        self.trim_logs();
        self.review_memory();
        if self.memory.wants_trim() {
            os::return_free_memory();
        }
        self.nobody_sleeps = self.registry.expire(self.now.time);
    }

    /// The process was stopped, or the machine: answers to pings may lie unread. Their time begins anew.
    fn forgive_silence(&mut self) {
        let tick = self.now.time.tick();
        for (_, connection) in &mut self.connections {
            connection.pinged_tick = tick;
        }
    }

    /// Sees to the timers that are due, some in each turn: those of thousands may be due at once.
    pub(super) fn hear_timers(&mut self) {
        let mut left = ENDS_PER_TURN;
        while left > 0 {
            let Some((due_tick, key)) = self.due.pop_front() else { return };
            if self.is_current(key) && self.connection(key.slot).due_tick == due_tick {
                left = left.saturating_sub(1 + self.connection(key.slot).memberships.len());
                self.timer(key.slot);
            }
        }
    }

    fn timer(&mut self, slot: u32) {
        let (interval, timeout) =
            (self.config.ping_interval.as_secs() as u32, self.config.ping_timeout.as_secs() as u32);
        let tick = self.now.time.tick();
        let connection = self.connection(slot);
        // While the shard itself doesn't listen, an answer may lie unread in the socket. One that doesn't read is silent.
        let heard = connection.heard || !connection.receiving && connection.replies_bytes() <= REPLIES_BYTES_HELD;
        match connection.state {
            State::Open if connection.is_stream() => {
                connection.ping();
                self.schedule(slot, interval);
                self.queue(slot);
            }
            State::Open if connection.pinged && !heard && tick >= connection.pinged_tick + timeout => {
                if connection.replies_bytes() > REPLIES_BYTES_HELD {
                    // It was not heard, because it asks and doesn't read.
                    return self.close(slot, &CloseReason::RepliesUnread);
                }
                debug!(slot, "no sign of life after a ping");
                self.counters.ping_timeouts.add(1);
                self.end(slot);
            }
            State::Open if connection.pinged && heard && timeout < interval => {
                connection.pinged = false;
                self.schedule(slot, interval - timeout);
            }
            State::Open => {
                // The time that it has begins with the first ping that it left unanswered; further ones may follow.
                if heard || !connection.pinged {
                    (connection.pinged, connection.heard, connection.pinged_tick) = (true, false, tick);
                }
                connection.ping();
                let left = connection.pinged_tick + timeout - tick;
                self.schedule(slot, left.min(interval));
                self.queue(slot);
            }
            State::Closing | State::Answering | State::Lingering => self.end(slot),
            State::Ended => {}
        }
    }

    fn announce_folded(&mut self) {
        let now = self.now.time;
        let due: Vec<_> = self.folded.extract_if(.., |(due_ms, _)| *due_ms <= now.monotonic_ms).collect();
        for (_, room) in due {
            room.announce_folded(now, &mut self.wakes);
        }
    }

    /// Drops the frames that every member has got.
    fn trim_logs(&mut self) {
        let connections = &self.connections;
        self.rooms.trim(|room, members| {
            let cursor = |member: &u32| {
                let memberships = &connections[*member as usize].memberships;
                memberships.iter().find(|membership| membership.room == room).map(|membership| membership.cursor)
            };
            members.iter().filter_map(cursor).min().unwrap_or(u64::MAX)
        });
    }
}
