//! The only way into a room, and out of it: in the registry, which all shards share, and on this shard.

use std::sync::Arc;

use super::Hub;
use super::reading::MEMBERSHIP_WORK;
use crate::admission::TooManyRooms;
use crate::connection::{Gap, Membership};
use crate::counters::{Lapped, Replay};
use crate::identity::rights::{self, Right};
use crate::limits::{LEAVE_BYTES_MAX, SETTLE_BYTES_MAX};
use crate::protocol::close_code::CloseReason;
use crate::protocol::name::Name;
use crate::protocol::position::Since;
use crate::protocol::resume::Predecessor;
use crate::protocol::v1::{Code, Ref, Refusal};
use crate::protocol::{Protocol, broadcast, v0};
use crate::room::inbox::Claimed;
use crate::room::registry::Joined;
use crate::room::{self, Announced, Entered, Room};
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
    /// The log that several servers share can't be reached.
    Unavailable,
    /// Its token, or the rules for guests, don't allow it.
    NotAllowed(rights::Denied),
}

/// How a connection is told the outcome of its join.
#[derive(Debug)]
pub(super) enum JoinReply<'a> {
    /// The room is that of its address: it has been told, or is closed.
    Address,
    /// It has asked with `/join`.
    Command,
    /// It has asked with a request of v1, which it calls so.
    Request(Option<Ref<'a>>),
}

impl JoinReply<'_> {
    /// A copy that may be kept.
    pub(super) fn to_static(&self) -> JoinReply<'static> {
        match self {
            Self::Address => JoinReply::Address,
            Self::Command => JoinReply::Command,
            Self::Request(reference) => JoinReply::Request(reference.as_ref().map(Ref::to_static)),
        }
    }
}

/// The room that was joined, and what the connection has to know of it; or why it may not join.
pub(super) type Joining = Result<(Arc<Room>, Entered), Denied>;

impl Denied {
    /// The v1 error code, which is also the label it is counted under.
    pub(super) fn code(&self) -> Code {
        match self {
            Self::AlreadyIn(_) | Self::NameTaken => Code::NameTaken,
            Self::TooManyRooms(_) | Self::NoMemory => Code::TooManyRooms,
            Self::Unavailable => Code::Unavailable,
            Self::NotAllowed(_) => Code::Denied,
        }
    }
}

impl Hub {
    /// Joins a room by name, now or when it is loaded, and tells the connection.
    pub(super) fn ask_to_join(&mut self, slot: u32, name: &Name, since: Option<Since>, reply: &JoinReply<'_>) {
        self.spend(MEMBERSHIP_WORK);
        let joined = match self.may_join(slot, name) {
            Err(denied) => Err(denied),
            Ok(()) if self.registry.outward().is_some() => return self.open(slot, name, since, reply),
            Ok(()) => self.join(slot, name, since, reply, None),
        };
        self.joined(slot, name, since, reply, joined);
    }

    /// Tells a connection the outcome of its join.
    pub(super) fn joined(
        &mut self,
        slot: u32,
        name: &Name,
        since: Option<Since>,
        reply: &JoinReply<'_>,
        joined: Joining,
    ) {
        if matches!(reply, JoinReply::Address) {
            // Not before: as long as it is in the room, the new one takes its place there, and nobody leaves.
            self.take_over(slot);
        }
        match (reply, joined) {
            (JoinReply::Request(reference), joined) => self.answer_join(slot, reference.as_ref(), name, joined),
            (JoinReply::Command, joined) => self.join_commanded(slot, joined.err()),
            (JoinReply::Address, Ok((room, entered))) => {
                if self.connection(slot).protocol() == Protocol::Sse {
                    self.begin_stream(slot, &room, since, entered);
                }
            }
            (JoinReply::Address, Err(denied)) => self.turn_away(slot, &denied),
        }
    }

    /// Closes a new connection that may not be in the room that it asked for.
    fn turn_away(&mut self, slot: u32, denied: &Denied) {
        if matches!(denied, Denied::Unavailable) {
            return self.close(slot, &CloseReason::Unavailable);
        }
        let why = match denied {
            Denied::NotAllowed(denied) => denied.to_string(),
            _ => v0::text::taken(self.connection(slot).user().map(Name::as_str).unwrap_or_default()),
        };
        let refusal = match self.connection(slot).protocol() {
            Protocol::V1 => Refusal::new(denied.code(), why.as_str()).frame(None),
            Protocol::V0 | Protocol::Raw | Protocol::Sse => broadcast::to_one("hi", "", &why),
        };
        self.reply(slot, refusal);
        match denied {
            Denied::NotAllowed(_) => {
                self.counters.refused(Code::Denied).add(1);
                self.close(slot, &CloseReason::Unidentified(&why));
            }
            _ => self.close(slot, &CloseReason::NameTaken),
        }
    }

    /// Joins a room by name, or the room that has been loaded. The caller tells the connection, and sends what is replayed.
    pub(super) fn join(
        &mut self,
        slot: u32,
        name: &Name,
        since: Option<Since>,
        reply: &JoinReply<'_>,
        opened: Option<&(Arc<Room>, Claimed)>,
    ) -> Joining {
        if matches!(reply, JoinReply::Request(_)) {
            // What the other rooms have goes first; nothing of this room may come before the answer.
            self.settle(slot, SETTLE_BYTES_MAX);
        }
        let member = self.member_id(slot);
        let connection = &self.connections[slot as usize];
        let (protocol, encoding) = (connection.protocol(), connection.encoding());
        let descriptor = connection.descriptor;
        let (user, predecessor) = (connection.user(), connection.predecessor().and_then(Predecessor::here));
        let claimed = opened.map(|(_, claimed)| *claimed);
        let joining = room::Joining { user, member, descriptor, since, predecessor, claimed };
        let (registry, now, wakes) = (&self.registry, self.now.time, &mut self.wakes);
        let joined = match opened {
            None => registry.join(protocol.namespace(), name, &joining, now, wakes),
            Some((room, _)) => registry
                .join_opened(room, &joining, now, wakes)
                .map(|entered| Joined { room: Arc::clone(room), entered }),
        };
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
        let right = if connection.user().is_some() { Right::Join } else { Right::Listen };
        self.allow(slot, right, name).map_err(Denied::NotAllowed)?;
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

    pub(super) fn fold(&mut self, announced: Announced, room: Arc<Room>) {
        if let Announced::At(due_ms) = announced {
            self.timers.fold(due_ms, room);
        }
    }
}
