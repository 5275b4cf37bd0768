//! What leaves a connection: taken from its outbox and the logs of its rooms, and put back if the kernel doesn't take it.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;
use smallvec::SmallVec;

use super::outbox::Owed;
use super::{Connection, Gap, Membership, Next, Own, Role, Sent, Source, Sources};
use crate::counters::delivery::Carried;
use crate::limits::{
    OUTBOX_BYTES_MAX, REPLAY_BYTES_PER_SEND_MAX, SEND_BYTES_MAX, SENT_ALONE_BYTES_MIN, SLICES_PER_SEND_MAX,
};
use crate::protocol::position::Batch;
use crate::ring::Slices;
use crate::room::local::{LocalRoom, LocalRooms};
use crate::room::log::Read;
use crate::slice::Slice;

impl Source {
    /// The room frames in bytes from this source, for when they become the connection's own.
    fn carried(&self, rooms: &LocalRooms) -> Carried {
        match *self {
            Self::Room { room, frames, from } => rooms.carried(room, from, from + u64::from(frames)),
            Self::Own(own) => own.carried,
            Self::Close => Carried::default(),
        }
    }

    /// The kernel has taken everything from this source.
    fn delivered(&self, rooms: &LocalRooms) {
        match *self {
            Self::Room { room, frames, from } => rooms.delivered(room, from, from + u64::from(frames)),
            Self::Own(own) => rooms.delivered_own(own.carried),
            Self::Close => {}
        }
    }
}

/// What one send is put together from.
#[derive(Default)]
pub(super) struct Load {
    pub(super) slices: Vec<Slice>,
    /// Where each slice came from.
    sources: Sources,
}

impl Load {
    pub(super) fn has_space(&self) -> bool {
        self.slices.len() < SLICES_PER_SEND_MAX
    }

    pub(super) fn push(&mut self, slice: Slice, source: Source) {
        self.slices.push(slice);
        self.sources.push(source);
    }
}

/// The next frames that a member missed before it joined, at most up to what its log keeps. `None`: they are gone. Half a replay
/// would be a gap that the client doesn't expect; it reconnects and asks again.
fn catch_up(membership: &mut Membership, first_kept: u64, rooms: &LocalRooms) -> Option<Bytes> {
    let until = first_kept.min(membership.joined_seq);
    let batch = rooms.get(membership.room).replay(membership.cursor, until, REPLAY_BYTES_PER_SEND_MAX)?;
    membership.cursor = batch.end_seq;
    Some(batch.bytes)
}

impl Connection {
    /// Takes what leaves next, in this order: the response, the rest of a frame, pongs, replies, each room from its cursor to
    /// its tip, the Close. Cursors move at once; [`Connection::sent`] moves them back over what did not leave. Gaps that a
    /// lapped cursor has skipped are appended to `gaps`; the notice about them leaves as a reply, with the next send.
    pub(crate) fn next_send(&mut self, rooms: &LocalRooms, gaps: &mut Vec<Gap>, now: Instant) -> Next {
        if self.outbox.is_none()
            && self.life.is_open()
            && let [membership] = &mut self.memberships[..]
            && let LocalRoom { log, newest: None, .. } = rooms.get(membership.room)
            && let Read::Frames(slice, cursor) = log.read(membership.cursor, u64::MAX)
            && (cursor == log.tip() || slice.len() >= SENT_ALONE_BYTES_MIN)
        {
            // The fast path: nearly every send of a broadcast.
            self.in_flight = Sources::from_buf([Source::frames(membership, cursor)]);
            membership.cursor = cursor;
            return Next::Send(Slices::One(slice));
        }
        let mut load = Load::default();
        self.take_own(&mut load);
        if self.life.is_open() && !self.take_rooms(rooms, &mut load, gaps, now) {
            // What was taken must not be lost: it leaves before the Close.
            let owed = |(slice, source): (Slice, Source)| {
                let (carried, pinned_bytes) = (source.carried(rooms), source.pinned_bytes(&slice));
                Owed::rest(slice, carried, pinned_bytes)
            };
            self.put_back(load.slices.into_iter().zip(load.sources).map(owed).collect());
            return Next::TooSlow;
        }
        if load.has_space()
            && let Some(close) = self.outbox.as_mut().and_then(|outbox| outbox.take_close())
        {
            load.push(close.into(), Source::Close);
        }
        self.release_outbox();
        self.in_flight = load.sources;
        if load.slices.len() > 1 {
            return Next::Send(Slices::Many(load.slices));
        }
        match load.slices.pop() {
            Some(slice) => Next::Send(Slices::One(slice)),
            None => {
                self.forget_own();
                Next::Nothing
            }
        }
    }

    fn take_own(&mut self, load: &mut Load) {
        let Some(outbox) = &mut self.outbox else { return };
        while load.has_space() {
            let Some(Owed { bytes, own }) = outbox.take() else { return };
            load.push(bytes.into(), Source::Own(own));
        }
    }

    /// Takes room frames. False if the connection is lapped and can't be told.
    fn take_rooms(&mut self, rooms: &LocalRooms, load: &mut Load, gaps: &mut Vec<Gap>, now: Instant) -> bool {
        if let Role::Latest(_) = self.role {
            self.take_latest(rooms, load, now);
            return true;
        }
        let can_be_told = !matches!(self.role, Role::Raw { lossy: false, .. });
        let mut bytes_left = SEND_BYTES_MAX;
        for membership in &mut self.memberships {
            let log = rooms.log(membership.room);
            while load.has_space() && bytes_left > 0 {
                let own = self.outbox.as_ref().and_then(|outbox| outbox.next_skipped(membership.cursor));
                if own == Some(membership.cursor) {
                    membership.cursor += 1;
                    continue;
                }
                match log.read(membership.cursor, own.unwrap_or(u64::MAX)) {
                    Read::AtTip => break,
                    Read::Frames(slice, cursor) => {
                        bytes_left = bytes_left.saturating_sub(slice.len());
                        load.push(slice, Source::frames(membership, cursor));
                        membership.cursor = cursor;
                    }
                    Read::Lapped(first_kept) if membership.cursor < membership.joined_seq => {
                        let Some(bytes) = catch_up(membership, first_kept, rooms) else { return false };
                        bytes_left = bytes_left.saturating_sub(bytes.len());
                        load.push(bytes.into(), Source::Own(Own::default()));
                        // This is a copy for one member: one that doesn't read holds a single batch.
                        break;
                    }
                    Read::Lapped(_) if !can_be_told => return false,
                    Read::Lapped(first_kept) => {
                        gaps.push(Gap { room: membership.room, first: membership.cursor, last: first_kept - 1 });
                        membership.cursor = first_kept;
                        // The notice has to leave before what comes after the gap.
                        break;
                    }
                }
            }
        }
        true
    }

    /// A send has completed, and the kernel took `count` bytes of `slices`. The others go back to where they came from; of a
    /// frame that left in part, only the rest is kept.
    pub(crate) fn sent(&mut self, slices: Slices, count: usize, rooms: &LocalRooms) -> Sent {
        if count < slices.len() {
            self.sent_in_part(slices, count, rooms);
            return Sent::Full;
        }
        let closed = self.in_flight.contains(&Source::Close);
        self.in_flight.iter().for_each(|source| source.delivered(rooms));
        self.in_flight = Sources::new();
        self.forget_own();
        if closed { Sent::Closed } else { Sent::Whole }
    }

    fn sent_in_part(&mut self, slices: Slices, mut count: usize, rooms: &LocalRooms) {
        let sources = std::mem::take(&mut self.in_flight);
        self.release_outbox();
        let slices = match slices {
            Slices::One(slice) => vec![slice],
            Slices::Many(slices) => slices,
        };
        let mut rest = VecDeque::new();
        let mut rewound: SmallVec<[u32; 4]> = SmallVec::new();
        for (mut slice, source) in slices.into_iter().zip(sources) {
            let pinned_bytes = source.pinned_bytes(&slice);
            let taken = count.min(slice.len());
            count -= taken;
            if taken == slice.len() {
                source.delivered(rooms);
                continue;
            }
            slice.advance(taken);
            let mut carried = source.carried(rooms);
            match source {
                // The last slice of a send: everything else that did not leave is ahead of it in the outbox.
                Source::Close => {
                    self.outbox.get_or_insert_default().close(slice.detached());
                    continue;
                }
                Source::Room { room, .. } if rewound.contains(&room) => continue,
                Source::Room { room, from, .. } => {
                    if let Some((missing, of_frame)) = self.rewind(room, from, taken, rooms) {
                        rewound.push(room);
                        slice.truncate(missing);
                        carried = of_frame;
                    }
                    // Otherwise the log no longer has these frames, and they are kept here.
                }
                Source::Own(_) => {}
            }
            if !slice.is_empty() {
                rest.push_back(Owed::rest(slice, carried, pinned_bytes));
            }
        }
        self.put_back(rest);
    }

    /// Moves the cursor of a room back to what follows the first `taken` bytes from `from` on. Returns how many bytes of the last
    /// of these frames are missing, and what it counts for once they have left. `None`: the log no longer has them.
    fn rewind(&mut self, room: u32, from: u64, taken: usize, rooms: &LocalRooms) -> Option<(usize, Carried)> {
        let membership = self.memberships.iter_mut().find(|membership| membership.room == room)?;
        let (cursor, missing) = rooms.log(room).position_after(from, taken)?;
        membership.cursor = cursor;
        // A frame that was cut off counts once its rest has left.
        let whole_until = if missing > 0 { cursor - 1 } else { cursor };
        rooms.delivered(room, from, whole_until);
        Some((missing, rooms.carried(room, whole_until, cursor)))
    }

    /// Queues the beginning of a replay behind the reply to the join, if there is space.
    pub(crate) fn replay(&mut self, room: u32, head: Batch) {
        if self.replies_bytes() + head.bytes.len() <= OUTBOX_BYTES_MAX / 2
            && let Some(index) = self.memberships.iter().position(|membership| membership.room == room)
            && self.reply(head.bytes)
        {
            self.memberships[index].cursor = head.end_seq;
        }
    }

    /// Moves what its rooms have for it into the outbox, so that a reply comes after everything that was published before it. A
    /// connection that lags gets its reply first: it must not build up a queue of its own.
    pub(crate) fn settle(&mut self, rooms: &LocalRooms, bytes_max: usize) {
        if !self.life.may_send() || self.outbox.as_ref().is_some_and(|outbox| outbox.is_lagging()) {
            return;
        }
        if let Role::Latest(_) = self.role {
            return self.settle_latest(rooms);
        }
        for index in 0..self.memberships.len() {
            self.settle_room(index, rooms, bytes_max);
        }
    }

    /// Does the same for a room that it is about to leave, even if it lags: this is the last chance. Returns the gap that
    /// doesn't fit into the outbox.
    pub(crate) fn settle_last(&mut self, room: u32, rooms: &LocalRooms, bytes_max: usize) -> Option<Gap> {
        let index = self.memberships.iter().position(|membership| membership.room == room)?;
        self.settle_room(index, rooms, bytes_max);
        let (first, tip) = (self.memberships[index].cursor, rooms.log(room).tip());
        (first < tip).then(|| Gap { room, first, last: tip - 1 })
    }

    /// Moves frames of one room until `bytes_max` bytes wait in the outbox: the reply has to fit behind them.
    fn settle_room(&mut self, index: usize, rooms: &LocalRooms, bytes_max: usize) {
        let Membership { room, mut cursor, .. } = self.memberships[index];
        loop {
            let own = self.outbox.as_ref().and_then(|outbox| outbox.next_skipped(cursor));
            if own == Some(cursor) {
                cursor += 1;
                continue;
            }
            let Read::Frames(slice, next) = rooms.log(room).read(cursor, own.unwrap_or(u64::MAX)) else { break };
            let waiting_bytes = self.replies_bytes();
            let carried = rooms.carried(room, cursor, next);
            if waiting_bytes + slice.len() > bytes_max
                || !self.outbox.get_or_insert_default().reply(Owed::whole(slice, carried))
            {
                break;
            }
            cursor = next;
        }
        self.memberships[index].cursor = cursor;
    }

    /// Puts bytes that must leave first back into the outbox, in order.
    fn put_back(&mut self, owed: VecDeque<Owed>) {
        if !owed.is_empty() {
            self.outbox.get_or_insert_default().put_back(owed);
        }
    }

    /// Forgets those of its own messages that it has skipped: with nothing in flight, no cursor moves back.
    fn forget_own(&mut self) {
        let cursor = self.memberships.first().map_or(u64::MAX, |membership| membership.cursor);
        if let Some(outbox) = &mut self.outbox {
            outbox.forget_skipped(cursor);
            self.release_outbox();
        }
    }

    /// Frees the outbox if it is empty.
    fn release_outbox(&mut self) {
        if self.outbox.as_ref().is_some_and(|outbox| outbox.is_empty()) {
            self.outbox = None;
        }
    }
}
