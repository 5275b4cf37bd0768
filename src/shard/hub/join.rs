//! The only way into a room, and out of it: in the registry, which all shards share, and on this shard.

use std::sync::Arc;

use super::Hub;
use super::reading::MEMBERSHIP_WORK;
use crate::admission::TooManyRooms;
use crate::connection::{Gap, Membership};
use crate::counters::{Lapped, Replay};
use crate::limits::LEAVE_BYTES_MAX;
use crate::protocol::close_code::CloseReason;
use crate::protocol::name::Name;
use crate::protocol::position::Since;
use crate::protocol::v1::{Code, Refusal};
use crate::protocol::{Protocol, broadcast, v0};
use crate::room::registry::Joined;
use crate::room::{Announced, Entered, Joining, Room};
use crate::shard::settings::Slow;

/// Why a connection may not join a room.
#[derive(Debug)]
pub(super) enum Denied {
    /// It is already in this room.
    AlreadyIn(Arc<Room>),
    /// It is in as many rooms as it may be in.
    TooManyRooms(TooManyRooms),
    /// The memory budget is used up, and a room with members can't be given back.
    NoMemory,
    /// Another member of the room has its name.
    NameTaken,
}

impl Denied {
    /// The v1 error code, which is also the label it is counted under.
    pub(super) fn code(&self) -> Code {
        match self {
            Self::AlreadyIn(_) | Self::NameTaken => Code::NameTaken,
            Self::TooManyRooms(_) | Self::NoMemory => Code::TooManyRooms,
        }
    }
}

impl Hub {
    /// Joins a new connection to the room that it asked for, or closes it if it may not be there.
    pub(super) fn join_first(&mut self, slot: u32, name: &Name, since: Option<Since>) {
        let joined = match self.connection(slot).protocol() {
            Protocol::Sse => self.listen(slot, name, since),
            Protocol::V0 | Protocol::V1 | Protocol::Raw => self.join(slot, name, None).map(drop),
        };
        if let Err(denied) = joined {
            let taken = v0::text::taken(self.connection(slot).user().map(Name::as_str).unwrap_or_default());
            let refusal = match self.connection(slot).protocol() {
                Protocol::V1 => Refusal::new(denied.code(), taken).frame(None),
                Protocol::V0 | Protocol::Raw | Protocol::Sse => broadcast::to_one("hi", "", &taken),
            };
            self.reply(slot, refusal);
            self.close(slot, &CloseReason::NameTaken);
        }
    }

    /// Joins a room by name. The caller sends what is replayed.
    pub(super) fn join(
        &mut self,
        slot: u32,
        name: &Name,
        since: Option<Since>,
    ) -> Result<(Arc<Room>, Entered), Denied> {
        self.spend(MEMBERSHIP_WORK);
        self.may_join(slot, name)?;
        let member = self.member_id(slot);
        let connection = &self.connections[slot as usize];
        let (protocol, encoding) = (connection.protocol(), connection.encoding());
        let descriptor = connection.descriptor;
        let (user, predecessor) = (connection.user(), connection.predecessor());
        let joining = Joining { user, member, descriptor, since, predecessor };
        let joined = self.registry.join(protocol.namespace(), name, &joining, self.now.time, &mut self.wakes);
        let Joined { room, entered } = joined.map_err(|_| Denied::NameTaken)?;
        let (backlog_bytes, pace) = (self.settings.backlog_bytes, self.settings.pace(protocol));
        let room_slot = self.rooms.join(&room, encoding, entered.first_seq, backlog_bytes, pace);
        let index = self.rooms.get_mut(room_slot).add_member(slot);
        self.connection(slot).memberships.push(Membership {
            room: room_slot,
            index,
            cursor: entered.from_seq,
            joined_seq: entered.first_seq,
        });
        self.fold(entered.announced, Arc::clone(&room));
        self.count_replay(&room, since, &entered);
        Ok((room, entered))
    }

    fn may_join(&self, slot: u32, name: &Name) -> Result<(), Denied> {
        let connection = &self.connections[slot as usize];
        let joined = connection.memberships.len();
        if joined > 0
            && let Some(room) = self.registry.get(connection.protocol().namespace(), name)
            && self.is_member(slot, &room)
        {
            return Err(Denied::AlreadyIn(room));
        }
        self.settings.admission.join(joined).map_err(Denied::TooManyRooms)?;
        if joined > 0 && self.memory.is_exhausted() { Err(Denied::NoMemory) } else { Ok(()) }
    }

    /// Counts the outcome of a request for replay.
    fn count_replay(&self, room: &Room, since: Option<Since>, entered: &Entered) {
        if let (Some(since), Some(recovered)) = (since, entered.recovered) {
            let outcome = match recovered {
                true => Replay::Recovered,
                false if since.epoch == Some(room.epoch()) => Replay::TooOld,
                false => Replay::OtherEpoch,
            };
            self.counters.replays(outcome).add(1);
        }
    }

    /// Leaves a room, after moving everything the room has published so far into the outbox. False: too much of that was lost,
    /// and the connection was closed for it.
    pub(super) fn leave_settled(&mut self, slot: u32, room: &Room) -> bool {
        // What the room has published so far is still owed to the member.
        self.drain_inbox();
        let encoding = self.connection(slot).encoding();
        let room_slot = self.rooms.slot(room, encoding).expect("a member's room is here");
        let lost = self.connections[slot as usize].settle_last(room_slot, &self.rooms, LEAVE_BYTES_MAX);
        self.leave(slot, room_slot);
        match lost {
            Some(_) if self.settings.slow == Slow::Close => {
                self.counters.lapped(Lapped::Close).add(1);
                self.close(slot, &CloseReason::TooSlow);
                return false;
            }
            Some(Gap { first, last, .. }) => {
                self.counters.gaps.add(1);
                self.counters.lost.add(last - first + 1);
                self.reply(slot, broadcast::gap(room.name(), first, last, room.epoch()));
            }
            None => {}
        }
        true
    }

    /// Ends a membership, here and in the registry.
    pub(super) fn leave(&mut self, slot: u32, room_slot: u32) {
        self.spend(MEMBERSHIP_WORK);
        let connection = &mut self.connections[slot as usize];
        let Some(membership) = connection.memberships.iter().find(|membership| membership.room == room_slot) else {
            return;
        };
        let index = membership.index;
        let user = connection.user().cloned();
        connection.left(room_slot, &self.rooms);
        let member = self.member_id(slot);
        let (local, connections) = (self.rooms.get_mut(room_slot), &mut self.connections);
        let room = Arc::clone(&local.room);
        local.remove_member(index, |moved, index| {
            let memberships = &mut connections[moved as usize].memberships;
            let membership = memberships.iter_mut().find(|membership| membership.room == room_slot);
            membership.expect("a connection in a room's list has a membership").index = index;
        });
        if local.members().is_empty() {
            self.rooms.remove(room_slot);
        }
        let announced = self.registry.leave(&room, user.as_ref(), member, self.now.time, &mut self.wakes);
        self.fold(announced, room);
    }

    pub(super) fn leave_all(&mut self, slot: u32) {
        while let Some(membership) = self.connection(slot).memberships.first().copied() {
            self.leave(slot, membership.room);
        }
    }

    fn fold(&mut self, announced: Announced, room: Arc<Room>) {
        if let Announced::At(due_ms) = announced {
            self.timers.fold(due_ms, room);
        }
    }
}
