//! The end of the server: each connection is closed, and clients whose protocol allows it are told when to reconnect.

use super::Hub;
use crate::clock::Now;
use crate::limits::{RETRY_SPAN_MS_MAX, RETRY_SPAN_MS_MIN};
use crate::protocol::close_code::CloseReason;
use crate::protocol::{Protocol, broadcast};

/// Milliseconds between the reconnects of two clients of this shard.
const RETRY_STEP_MS: u64 = 1;
/// Milliseconds until the first client reconnects.
const RETRY_FIRST_MS: u64 = 1000;
/// Number of different delays given to clients that connect while the server is stopping.
const LATE_DELAYS: usize = 1000;

/// The delay after which client `index` of `count` reconnects, in milliseconds.
fn retry_ms(index: usize, count: usize) -> u64 {
    let span_ms = (count as u64 * RETRY_STEP_MS).clamp(RETRY_SPAN_MS_MIN, RETRY_SPAN_MS_MAX);
    RETRY_FIRST_MS + span_ms * index as u64 / count as u64
}

impl Hub {
    /// Closes every connection, and from now on every new one.
    pub(in crate::shard) fn stop(&mut self, now: Now) {
        self.now = now;
        self.stopping = true;
        let slots: Vec<u32> = self.connections.iter().map(|(slot, _)| slot as u32).collect();
        for (index, slot) in slots.iter().enumerate() {
            self.close_for_restart(*slot, retry_ms(index, slots.len()));
        }
    }

    /// Closes a connection that was made after the server was asked to stop.
    pub(super) fn close_late_arrival(&mut self, slot: u32) {
        let serial = self.connection(slot).serial as usize;
        self.close_for_restart(slot, retry_ms(serial % LATE_DELAYS, LATE_DELAYS));
    }

    /// Closes a connection. A v1 client or a listener is told to reconnect after `retry_ms`.
    fn close_for_restart(&mut self, slot: u32, retry_ms: u64) {
        if !self.connection(slot).life.is_open() {
            return;
        }
        match self.connection(slot).protocol() {
            Protocol::V0 | Protocol::Raw => self.close(slot, &CloseReason::GoingAway),
            Protocol::Sse => self.close(slot, &CloseReason::Restart { retry_ms }),
            Protocol::V1 => {
                self.reply(slot, broadcast::drain(retry_ms));
                self.close(slot, &CloseReason::Restart { retry_ms });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::retry_ms;

    #[test]
    fn clients_reconnect_evenly_and_within_half_a_minute() {
        for count in [1, 2, 40, 5000, 29_000, 100_000] {
            let times: Vec<u64> = (0..count).map(|index| retry_ms(index, count)).collect();
            assert!(times.is_sorted() && times[0] == 1000 && times[count - 1] < 30_000, "{count}");
            let steps = times.windows(2).map(|pair| pair[1] - pair[0]);
            let (least, most) = steps.fold((u64::MAX, 0), |(least, most), step| (least.min(step), most.max(step)));
            assert!(count == 1 || most - least <= 1, "{count}: steps from {least} to {most} ms");
        }
    }
}
