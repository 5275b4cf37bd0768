//! What leaves to a member with `?latest=1`: everything while it keeps up, otherwise the newest message of each key.
//!
//! Its messages leave as bytes of its own, since no cursor moves back: what the kernel doesn't take stays in the outbox, at most one
//! send, in front of the ping that follows it.

use std::time::{Duration, Instant};

use super::outbox::Owed;
use super::sending::Load;
use super::window::Window;
use super::{Connection, Own, Role, Source};
use crate::counters::delivery::Carried;
use crate::frame::OpCode;
use crate::frame::encode;
use crate::limits::{SEND_BYTES_MAX, SLICES_PER_SEND_MAX, UNREAD_WAIT_USUAL};
use crate::protocol::position::Batch;
use crate::room::local::LocalRooms;
use crate::room::log::Read;
use crate::room::newest::Progress;

/// The state of such a member.
#[derive(Debug)]
pub struct Latest {
    /// Whether it also receives its own messages.
    pub(crate) echo: bool,
    pub(super) window: Window,
    progress: Progress,
    /// Since when it has had less than its log.
    behind_since: Option<Instant>,
    /// Messages that it has been sent ahead of its cursor, to be deducted from those that the cursor passes.
    sent_ahead: u64,
    /// Shortest time between the moments at which it has the newest message of each key; zero: it gets all while it keeps up.
    interval: Duration,
    /// Before this time it gets nothing more.
    next_at: Option<Instant>,
}

impl Latest {
    /// A member that has been sent nothing. With an `interval`, it gets the newest message of each key once in this time.
    pub fn new(echo: bool, interval: Duration) -> Self {
        let (window, progress) = (Window::new(), Progress::default());
        Self { echo, window, progress, behind_since: None, sent_ahead: 0, interval, next_at: None }
    }

    /// Whether messages have waited for so long that it skips to newer ones.
    fn is_late(&self, now: Instant) -> bool {
        self.behind_since.is_some_and(|since| now.saturating_duration_since(since) >= UNREAD_WAIT_USUAL)
    }

    fn waits(&self, now: Instant) -> bool {
        self.next_at.is_some_and(|next_at| now < next_at)
    }
}

impl Own {
    fn newest(messages: usize) -> Self {
        Self { carried: Carried { frames: messages as u32, received: None }, pinned_bytes: 0 }
    }
}

impl Connection {
    /// The client has answered a ping. Returns whether that makes a difference to what may be sent to it.
    pub(crate) fn ponged(&mut self, payload: &[u8], now: Instant) -> bool {
        if let Role::Latest(latest) = &mut self.role { latest.window.pong(payload, now) } else { false }
    }

    /// Whether there is anything to send from its room. Frames that are due have to wait until the client has read those that it
    /// has, and it may have to be pinged for that.
    pub(super) fn may_go_on(&self, is_due: bool) -> bool {
        let Role::Latest(latest) = &self.role else { return is_due };
        is_due && !latest.window.is_full() || latest.window.owes_ping()
    }

    /// Before when it gets nothing more, because of the interval that the client has asked for.
    pub(crate) fn next_at(&self) -> Option<Instant> {
        if let Role::Latest(latest) = &self.role { latest.next_at } else { None }
    }

    /// Takes room frames, as many as the client may have without having read them, and the ping behind them.
    ///
    /// A client that has only just fallen behind gets what comes next; one that is late, the newest message of each key. If fewer
    /// keys have changed than it may have messages, the last of these leave as they are: whether it can take more has to show.
    pub(super) fn take_latest(&mut self, rooms: &LocalRooms, load: &mut Load, now: Instant) {
        let (Role::Latest(latest), Some(membership)) = (&self.role, self.memberships.first()) else { return };
        let (local, cursor) = (rooms.get(membership.room), membership.cursor);
        let (first_seq, tip, open) = (local.log.first_seq(), local.log.tip(), latest.window.open(now));
        if open > 0 && cursor < tip && !latest.waits(now) && load.slices.len() + 2 < SLICES_PER_SEND_MAX {
            // From here on it gets each message.
            let from = if !latest.interval.is_zero() || latest.progress.is_ahead() {
                tip
            } else if cursor >= first_seq && !latest.is_late(now) {
                cursor
            } else {
                let changed = local.newest().pending(cursor, &latest.progress, open);
                tip.saturating_sub((open - changed) as u64).max(cursor).max(first_seq)
            };
            if let Some((batch, messages)) = self.take_newest(rooms, from, open) {
                load.push(batch.bytes.into(), Source::Own(Own::newest(messages)));
                self.leave(messages);
            }
            if self.memberships[0].cursor == from {
                self.take_each(rooms, tip.min(from + open as u64), load);
            }
        }
        self.note_position(cursor, tip, now);
        if let Role::Latest(latest) = &mut self.role
            && load.has_space()
            && let Some(payload) = latest.window.ping(now)
        {
            load.push(encode::frame(OpCode::Ping, &payload).into(), Source::Own(Own::default()));
        }
    }

    /// Notes whether it has everything up to `tip` now. If it has got there from `before`, what comes next waits for its interval.
    fn note_position(&mut self, before: u64, tip: u64, now: Instant) {
        let (Role::Latest(latest), Some(membership)) = (&mut self.role, self.memberships.first()) else { return };
        if membership.cursor < tip {
            latest.behind_since.get_or_insert(now);
        } else if before < tip {
            latest.behind_since = None;
            latest.next_at = (!latest.interval.is_zero()).then(|| now + latest.interval);
        }
    }

    fn leave(&mut self, messages: usize) {
        if let Role::Latest(latest) = &mut self.role {
            latest.window.leave(messages);
        }
    }

    /// Takes each message before `until` from its log, and leaves space for a ping.
    fn take_each(&mut self, rooms: &LocalRooms, until: u64, load: &mut Load) {
        let [membership] = &mut self.memberships[..] else { return };
        let (room, first) = (membership.room, membership.cursor);
        let (mut bytes_left, mut own_messages) = (SEND_BYTES_MAX, 0);
        while membership.cursor < until && load.slices.len() + 1 < SLICES_PER_SEND_MAX && bytes_left > 0 {
            let own = self.outbox.as_ref().and_then(|outbox| outbox.next_skipped(membership.cursor));
            if own == Some(membership.cursor) {
                membership.cursor += 1;
                own_messages += 1;
                continue;
            }
            let Read::Frames(slice, cursor) = rooms.log(room).read(membership.cursor, own.unwrap_or(until).min(until))
            else {
                break;
            };
            bytes_left = bytes_left.saturating_sub(slice.len());
            let carried = rooms.carried(room, membership.cursor, cursor);
            load.push(slice, Source::Own(Own { carried, pinned_bytes: 0 }));
            membership.cursor = cursor;
        }
        let passed = membership.cursor - first;
        self.leave((passed - own_messages) as usize);
    }

    /// Takes the newest message of each key of those before `until`, at most `messages_max`, and their number.
    fn take_newest(&mut self, rooms: &LocalRooms, until: u64, messages_max: usize) -> Option<(Batch, usize)> {
        let (Role::Latest(latest), [membership]) = (&mut self.role, &mut self.memberships[..]) else { return None };
        let (newest, first) = (rooms.get(membership.room).newest(), membership.cursor);
        let outbox = self.outbox.as_ref();
        let is_own = |seq| outbox.is_some_and(|outbox| outbox.next_skipped(seq) == Some(seq));
        let reader = (&mut membership.cursor, &mut latest.progress);
        let gathered = newest.take(reader, until, messages_max, is_own);
        let messages = gathered.as_ref().map_or(0, |gathered| gathered.frames());
        // What the cursor passes was sent, now or before, or is not the newest of its key.
        latest.sent_ahead += messages as u64;
        let passed = membership.cursor - first;
        let sent = passed.min(latest.sent_ahead);
        latest.sent_ahead -= sent;
        let skips = !newest.is_whole_from(first) && newest.is_whole_from(membership.cursor);
        rooms.deliveries.conflated(passed - sent, skips);
        gathered.map(|gathered| (gathered.batch(), messages))
    }

    /// Moves the newest message of each key into the outbox, ahead of a Close.
    pub(super) fn settle_latest(&mut self, rooms: &LocalRooms) {
        let Some(room) = self.memberships.first().map(|membership| membership.room) else { return };
        while let Some((batch, messages)) = self.take_newest(rooms, rooms.log(room).tip(), usize::MAX) {
            let owed = Owed { bytes: batch.bytes, own: Own::newest(messages) };
            if !self.outbox.get_or_insert_default().reply(owed) {
                break;
            }
        }
    }

    /// Remembers that the message `seq` must not be sent back, and forgets those that can't be any more.
    pub(super) fn skip_own_latest(&mut self, seq: u64, is_kept: impl Fn(u64) -> bool) {
        let cursor = self.memberships.first().map_or(0, |membership| membership.cursor);
        self.outbox.get_or_insert_default().skip_if(seq, |seq| seq >= cursor && is_kept(seq));
    }
}
