//! What `hi.v1` adds to a connection's beginning and end: `hello`, the take-over of a lost connection's name, and, when the
//! server stops, a time of its own to reconnect at.

use std::sync::Arc;

use super::{Key, Shard};
use crate::config::Config;
use crate::connection::State;
use crate::protocol::MemberId;
use crate::protocol::close_code::CloseReason;
use crate::protocol::name::Name;
use crate::protocol::v1::{Hello, Limits};
use crate::protocol::{Dialect, broadcast};
use crate::relay::Order;
use crate::ring::DataRing;

/// When the server stops: milliseconds between the reconnects of two clients of v1 of this shard.
const RETURN_STEP_MS: u64 = 1;
/// Delay of the first one, in milliseconds.
const RETURN_FIRST_MS: u64 = 1000;
/// The shortest window for all of them, in milliseconds.
const RETURN_SPAN_MS_MIN: u64 = 1000;
/// The longest window for all of them, in milliseconds.
const RETURN_SPAN_MS_MAX: u64 = 29_000;

/// What the handshake knows of a connection that speaks v1.
#[derive(Debug)]
pub struct Opening {
    /// This process, as clients see it.
    pub instance: Arc<str>,
    /// `?resume=`: the secret of a connection that it takes the name over from.
    pub resume: Option<String>,
}

/// The delay after which the client `index` of `count` reconnects, in milliseconds.
pub(super) fn retry_ms(index: usize, count: usize) -> u64 {
    let span_ms = (count as u64 * RETURN_STEP_MS).clamp(RETURN_SPAN_MS_MIN, RETURN_SPAN_MS_MAX);
    RETURN_FIRST_MS + span_ms * index as u64 / count as u64
}

impl<R: DataRing> Shard<R> {
    /// Closes a connection because the server stops; a client of v1 and a listener reconnect after exactly `retry_ms`.
    pub(super) fn send_away(&mut self, slot: u32, retry_ms: u64) {
        if self.connection(slot).state != State::Open {
            return;
        }
        if self.connection(slot).is_stream() {
            return self.close(slot, &CloseReason::Restart { retry_ms });
        }
        if self.connection(slot).dialect == Dialect::V0 {
            return self.close(slot, &CloseReason::GoingAway);
        }
        self.reply(slot, broadcast::drain(retry_ms));
        self.close(slot, &CloseReason::Restart { retry_ms });
    }

    /// The first frame of v1; and the connection that this one takes over is told to go.
    pub(super) fn greet(&mut self, slot: u32, opening: &Opening) {
        let member = self.member_id(slot);
        let Config { max_message, max_rooms, rate_limit, ping_interval, .. } = &*self.config;
        let ping = ping_interval.as_secs();
        let limits = Limits { message: *max_message, rooms: *max_rooms, rate: *rate_limit };
        let resume_key = self.registry.resume_key();
        let resume = resume_key.issue(member);
        let predecessor = opening.resume.as_deref().and_then(|secret| resume_key.redeem(secret));
        let connection = &mut self.connections[slot as usize];
        connection.dialect = Dialect::V1;
        connection.predecessor = predecessor.map(Box::new);
        let Some(user) = connection.user().cloned() else { return };
        let hello = Hello {
            op: "hello",
            client: format!("{}-{}", member.shard, connection.serial),
            user: user.as_str(),
            ping,
            instance: &opening.instance,
            version: env!("CARGO_PKG_VERSION"),
            limits,
            resume,
        };
        self.reply(slot, hello.frame());
        if let Some(member) = predecessor
            && let Some(inbox) = self.registry.inboxes().get(member.shard as usize)
        {
            self.wakes.note(member.shard as usize, inbox.order(Order::TakeOver { member, user }));
        }
    }

    /// Closes a connection whose user has reconnected over another one.
    pub(super) fn taken_over(&mut self, member: MemberId, user: &Name) {
        let key = Key { slot: member.slot, serial: member.serial };
        if self.is_current(key) && self.connection(key.slot).user() == Some(user) {
            self.close(key.slot, &CloseReason::TakenOver);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::retry_ms;

    #[test]
    fn clients_come_back_evenly_and_within_half_a_minute() {
        for count in [1, 2, 40, 5000, 29_000, 100_000] {
            let times: Vec<u64> = (0..count).map(|index| retry_ms(index, count)).collect();
            assert!(times.is_sorted() && times[0] == 1000 && times[count - 1] < 30_000, "{count}");
            let steps = times.windows(2).map(|pair| pair[1] - pair[0]);
            let (least, most) = steps.fold((u64::MAX, 0), |(least, most), step| (least.min(step), most.max(step)));
            assert!(count == 1 || most - least <= 1, "{count}: steps from {least} to {most} ms");
        }
    }
}
