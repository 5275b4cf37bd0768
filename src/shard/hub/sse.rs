//! Listeners: connections that receive a room as server-sent events and send nothing.

use super::Hub;
use crate::connection::Role;
use crate::limits::IGNORED_BYTES_MAX;
use crate::protocol::close_code::CloseReason;
use crate::protocol::position::Since;
use crate::protocol::{Encoding, broadcast, sse};
use crate::room::{Entered, Room};

/// Shortest delay, in milliseconds, after which a listener reconnects when its connection is lost.
const RETRY_MS_MIN: u64 = 2000;
/// Width of the random part on top, in milliseconds: listeners that a crash has cut off don't all return at once.
const RETRY_SPREAD_MS: u64 = 2000;

impl Hub {
    /// A listener has joined its room. It gets its position and the gap that can't be closed, then what it missed, then what is
    /// published.
    pub(super) fn begin_stream(&mut self, slot: u32, room: &Room, since: Option<Since>, entered: Entered) {
        let serial = u64::from(self.connections[slot as usize].serial);
        let retry_ms = RETRY_MS_MIN + serial.wrapping_mul(0x9e37_79b9) % RETRY_SPREAD_MS;
        let last_seq = entered.from_seq - 1;
        if let Some(gap) = gap_since(room, since, &entered) {
            self.reply_at_once(slot, gap);
        }
        self.reply_at_once(slot, sse::opening(room.epoch(), last_seq, retry_ms));
        if let Some(head) = entered.head {
            let events = Encoding::Events.encode_batch(head, room.epoch(), entered.from_seq);
            let connection = self.connection(slot);
            let room_slot = connection.memberships[0].room;
            connection.replay(room_slot, events);
        }
    }

    /// A listener has sent something. That is ignored up to a limit.
    pub(super) fn ignore(&mut self, slot: u32, count: usize) {
        let connection = self.connection(slot);
        if let Role::Sse { ignored_bytes } = &mut connection.role {
            *ignored_bytes = ignored_bytes.saturating_add(count as u32);
            if *ignored_bytes > IGNORED_BYTES_MAX {
                self.close(slot, &CloseReason::ListenerSpeaks);
            }
        }
    }
}

/// The event that tells a reconnecting listener what it has missed for good; `None` if it gets everything.
fn gap_since(room: &Room, since: Option<Since>, entered: &Entered) -> Option<bytes::Bytes> {
    let since = since.filter(|_| entered.recovered == Some(false))?;
    let (epoch, next_seq) = (room.epoch(), entered.first_seq);
    let missed = since.epoch == Some(epoch) && since.seq < next_seq;
    if missed && since.seq + 1 == next_seq {
        // Nothing is kept, but nothing was published either.
        return None;
    }
    let notice = match missed {
        true => broadcast::gap(room.name(), since.seq + 1, next_seq - 1, epoch),
        false => broadcast::gap_of_unknown_length(room.name(), epoch),
    };
    Some(sse::gap(&notice, epoch, next_seq - 1))
}
