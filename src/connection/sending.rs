//! What leaves a connection: taken from its outbox and the logs of its rooms, and put back if the kernel doesn't take it.

use std::collections::VecDeque;

use smallvec::SmallVec;

use super::outbox::Owed;
use super::{Connection, Gap, Membership, Next, Own, Role, Sent, Source, Sources};
use crate::counters::delivery::Carried;
use crate::limits::{OUTBOX_BYTES_MAX, REPLAY_BYTES_PER_SEND_MAX, SEND_BYTES_MAX, SLICES_PER_SEND_MAX};
use crate::protocol::position::Batch;
use crate::ring::Slices;
use crate::room::local::LocalRooms;
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

impl Connection {
    /// Takes what leaves next, in this order: the response, the rest of a frame, pongs, replies, each room from its cursor to
    /// its tip, the Close. Cursors move at once; [`Connection::sent`] moves them back over what did not leave. Gaps that a
    /// lapped cursor has skipped are appended to `gaps`; the notice about them leaves as a reply, with the next send.
    pub(crate) fn next_send(&mut self, rooms: &LocalRooms, gaps: &mut Vec<Gap>) -> Next {
        if self.outbox.is_none()
            && self.life.is_open()
            && let [membership] = &mut self.memberships[..]
            && let Read::Frames(slice, cursor) = rooms.log(membership.room).read(membership.cursor, u64::MAX)
        {
            // The fast path: nearly every send of a broadcast.
            self.in_flight = Sources::from_buf([Source::frames(membership, cursor)]);
            membership.cursor = cursor;
            return Next::Send(Slices::One(slice));
        }
        let mut slices = Vec::new();
        let mut sources = Sources::new();
        self.take_own(&mut slices, &mut sources);
        if self.life.is_open() && !self.take_rooms(rooms, &mut slices, &mut sources, gaps) {
            // What was taken must not be lost: it leaves before the Close.
            let owed = |(slice, source): (Slice, Source)| {
                let (carried, pinned_bytes) = (source.carried(rooms), source.pinned_bytes(&slice));
                Owed::rest(slice, carried, pinned_bytes)
            };
            self.put_back(slices.into_iter().zip(sources).map(owed).collect());
            return Next::TooSlow;
        }
        if slices.len() < SLICES_PER_SEND_MAX
            && let Some(outbox) = &mut self.outbox
            && let Some(close) = outbox.take_close()
        {
            slices.push(close.into());
            sources.push(Source::Close);
        }
        self.release_outbox();
        self.in_flight = sources;
        if slices.len() > 1 {
            return Next::Send(Slices::Many(slices));
        }
        match slices.pop() {
            Some(slice) => Next::Send(Slices::One(slice)),
            None => {
                self.forget_own();
                Next::Nothing
            }
        }
    }

    fn take_own(&mut self, slices: &mut Vec<Slice>, sources: &mut Sources) {
        let Some(outbox) = &mut self.outbox else { return };
        while slices.len() < SLICES_PER_SEND_MAX {
            let Some(Owed { bytes, own }) = outbox.take() else { return };
            slices.push(bytes.into());
            sources.push(Source::Own(own));
        }
    }

    /// Takes room frames. False if the connection is lapped and can't be told.
    fn take_rooms(
        &mut self,
        rooms: &LocalRooms,
        slices: &mut Vec<Slice>,
        sources: &mut Sources,
        gaps: &mut Vec<Gap>,
    ) -> bool {
        let mut bytes = 0;
        let can_be_told = match self.role {
            Role::V0 { .. } | Role::V1 { .. } | Role::Sse { .. } => true,
            Role::Raw { lossy, .. } => lossy,
        };
        for membership in &mut self.memberships {
            let log = rooms.log(membership.room);
            while slices.len() < SLICES_PER_SEND_MAX && bytes < SEND_BYTES_MAX {
                let own = self.outbox.as_ref().and_then(|outbox| outbox.next_skipped(membership.cursor));
                if own == Some(membership.cursor) {
                    membership.cursor += 1;
                    continue;
                }
                match log.read(membership.cursor, own.unwrap_or(u64::MAX)) {
                    Read::AtTip => break,
                    Read::Lapped(first_kept) if membership.cursor < membership.joined_seq => {
                        let until = first_kept.min(membership.joined_seq);
                        let room = rooms.get(membership.room);
                        // No longer kept: half a replay would be a gap that the client doesn't expect. It will reconnect and
                        // ask again.
                        let Some(batch) = room.replay(membership.cursor, until, REPLAY_BYTES_PER_SEND_MAX) else {
                            return false;
                        };
                        bytes += batch.bytes.len();
                        sources.push(Source::Own(Own::default()));
                        slices.push(batch.bytes.into());
                        membership.cursor = batch.end_seq;
                        // This is a copy for one member: one that doesn't read holds a single batch.
                        break;
                    }
                    Read::Lapped(first_kept) => {
                        if !can_be_told {
                            return false;
                        }
                        gaps.push(Gap { room: membership.room, first: membership.cursor, last: first_kept - 1 });
                        membership.cursor = first_kept;
                        // The notice has to leave before what comes after the gap.
                        break;
                    }
                    Read::Frames(slice, cursor) => {
                        bytes += slice.len();
                        sources.push(Source::frames(membership, cursor));
                        slices.push(slice);
                        membership.cursor = cursor;
                    }
                }
            }
        }
        true
    }

    /// A send has completed, and the kernel took `count` bytes of `slices`. The others go back to where they came from; of a
    /// frame that left in part, only the rest is kept.
    pub(crate) fn sent(&mut self, slices: Slices, mut count: usize, rooms: &LocalRooms) -> Sent {
        let whole = count == slices.len();
        let closed = self.in_flight.contains(&Source::Close);
        if whole {
            self.in_flight.iter().for_each(|source| source.delivered(rooms));
            self.in_flight = Sources::new();
            self.forget_own();
            return if closed { Sent::Closed } else { Sent::Whole };
        }
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
            let mut carried = source.carried(rooms);
            match source {
                // The last slice of a send: everything else that did not leave is ahead of it in the outbox.
                Source::Close => {
                    slice.advance(taken);
                    self.outbox.get_or_insert_default().close(slice.detached());
                    continue;
                }
                Source::Room { room, .. } if rewound.contains(&room) => continue,
                Source::Room { room, from, .. } => {
                    if let Some(membership) = self.memberships.iter_mut().find(|membership| membership.room == room)
                        && let Some((cursor, missing)) = rooms.log(room).position_after(from, taken)
                    {
                        membership.cursor = cursor;
                        rewound.push(room);
                        // A frame that was cut off counts once its rest has left.
                        let whole_until = if missing > 0 { cursor - 1 } else { cursor };
                        rooms.delivered(room, from, whole_until);
                        carried = rooms.carried(room, whole_until, cursor);
                        slice.advance(taken);
                        slice.truncate(missing);
                    } else {
                        // The log no longer has these frames, so this send keeps them.
                        slice.advance(taken);
                    }
                }
                Source::Own(_) => slice.advance(taken),
            }
            if !slice.is_empty() {
                rest.push_back(Owed::rest(slice, carried, pinned_bytes));
            }
        }
        self.put_back(rest);
        Sent::Full
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
