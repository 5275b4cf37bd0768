//! What a shard gives back when the memory budget is used up; see [`crate::memory`].
//!
//! Room logs are cut back: members that lag are lapped, and told as usual. Connections with a large unread outbox, or with a
//! message that never ends, are closed.

use std::cmp::Reverse;

use super::Hub;
use crate::counters::Lapped;
use crate::limits::{GIVEN_BYTES_PER_TURN, GIVING_PER_TURN};
use crate::memory::held::count_lap;
use crate::memory::{Demand, What, plan};
use crate::os;
use crate::protocol::close_code::CloseReason;
use crate::room::inbox::Inbox;

/// A room log or a connection that holds memory on this shard.
#[derive(Clone, Copy, Debug)]
struct Holder {
    bytes: usize,
    what: What,
    slot: u32,
}

/// How far this shard is with reviewing the memory budget.
#[derive(Debug, Default)]
pub(super) struct Review {
    /// Number of the last request for a review that was served.
    calls: u64,
    /// Whether the last review had to stop at the bound of a turn.
    is_unfinished: bool,
}

impl Review {
    /// Whether there is more to give back in the next turn.
    pub(super) fn is_unfinished(&self) -> bool {
        self.is_unfinished
    }
}

impl Hub {
    /// Reviews the budget if this shard has taken more memory, or if another shard asks for it. Called once a turn, after the
    /// frames that arrived have been sent.
    pub(super) fn relieve_memory(&mut self) {
        if self.memory.wants_review(&mut self.review.calls) || self.review.is_unfinished {
            self.review_memory();
        }
    }

    /// Gives back this shard's part of what exceeds the budget.
    pub(super) fn review_memory(&mut self) {
        let inbox_bytes = self.registry.inboxes().iter().map(Inbox::bytes).sum();
        // What would wait to be sent with later messages is sent before it has to be given back.
        self.review.is_unfinished = self.rooms.hurry(self.memory.review(inbox_bytes, false).is_some());
        if self.review.is_unfinished {
            return;
        }
        let is_busy = self.has_queued_sends() || self.rooms.queued_rooms() > 0;
        let Some(demand) = self.memory.review(inbox_bytes, is_busy) else { return };
        let own_bytes = if demand.own_bytes > 0 { self.give_back(&demand) } else { 0 };
        let mut replay_bytes = 0;
        if demand.replay_bytes > 0 {
            let (gave, bytes) = self.registry.shrink_replays(demand.floor_bytes, demand.replay_bytes);
            count_lap(What::Replay, gave);
            replay_bytes = bytes;
        }
        if demand.others {
            self.memory.call(&mut self.review.calls);
            let others = self.registry.inboxes().iter().enumerate().filter(|(shard, _)| *shard != self.id);
            others.for_each(|(_, inbox)| inbox.wake());
        }
        self.memory.say(&demand);
        if self.memory.gave(own_bytes + replay_bytes) {
            os::return_free_memory();
        }
    }

    /// Cuts the largest holders down to a common level, until enough is given back. Returns the number of bytes.
    fn give_back(&mut self, demand: &Demand) -> usize {
        let mut holders = self.holders(demand.floor_bytes);
        holders.sort_unstable_by_key(|holder| Reverse(holder.bytes));
        let sizes: Vec<_> = holders.iter().map(|holder| holder.bytes).collect();
        let level = plan::level(&sizes, demand.own_bytes);
        let mut given_bytes = 0;
        // Logs first: cutting one back costs nobody a connection.
        let (logs, others): (Vec<_>, Vec<_>) =
            holders.into_iter().filter(|holder| holder.bytes > level).partition(|holder| holder.what == What::Logs);
        for (count, holder) in logs.into_iter().chain(others).enumerate() {
            if given_bytes >= demand.own_bytes {
                break;
            }
            if count >= GIVING_PER_TURN || given_bytes >= GIVEN_BYTES_PER_TURN {
                self.review.is_unfinished = true;
                break;
            }
            count_lap(holder.what, 1);
            given_bytes += match holder.what {
                What::Logs => self.shrink_log(holder, level),
                _ => self.close_holder(holder),
            };
        }
        given_bytes
    }

    fn holders(&self, floor_bytes: usize) -> Vec<Holder> {
        let logs = self.rooms.held_bytes().map(|(slot, bytes)| Holder { bytes, what: What::Logs, slot });
        let connections = self.connections.iter().flat_map(|(slot, connection)| {
            let holder = |what, bytes| Holder { bytes, what, slot: slot as u32 };
            [
                holder(What::Outboxes, connection.outbox_bytes()),
                holder(What::Messages, connection.decoder.buffered_bytes()),
                holder(What::Unread, connection.unread.as_ref().map_or(0, |unread| unread.held_bytes())),
            ]
        });
        logs.chain(connections).filter(|holder| holder.bytes > floor_bytes).collect()
    }

    fn shrink_log(&mut self, Holder { bytes, slot, .. }: Holder, level: usize) -> usize {
        let local = self.rooms.get_mut(slot);
        local.shrink(level);
        bytes.saturating_sub(local.held_bytes())
    }

    /// Closes a connection and frees what it holds at once.
    fn close_holder(&mut self, Holder { bytes, what, slot }: Holder) -> usize {
        // It may just have been closed as the holder of something else.
        let Some(connection) = self.connections.get_mut(slot as usize) else { return 0 };
        let reason = match what {
            What::Messages | What::Unread => CloseReason::OutOfMemory,
            _ if connection.has_replies() => CloseReason::RepliesUnread,
            _ => CloseReason::TooSlow,
        };
        // What follows input that was dropped can't be decoded any more.
        let lost_input = connection.unread.is_some() || connection.decoder.buffered_bytes() > 0;
        connection.free_memory();
        let left_bytes = if what == What::Outboxes { connection.outbox_bytes() } else { 0 };
        let is_open = connection.life.is_open();
        self.forget_unread(slot);
        if !is_open || left_bytes > bytes / 2 {
            // It is already closing, or stuck in the middle of a frame that makes up most of what it holds.
            self.count_end(slot, reason.code());
            self.end_counted(slot);
            return bytes;
        }
        match reason {
            CloseReason::RepliesUnread => self.counters.replies_unread.add(1),
            CloseReason::TooSlow => self.counters.lapped(Lapped::Close).add(1),
            _ => {}
        }
        self.close_at_once(slot, &reason);
        if lost_input {
            self.connection(slot).life.linger();
        }
        bytes.saturating_sub(left_bytes)
    }
}
