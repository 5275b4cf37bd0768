//! What waits for a log that several servers share: messages for their numbers, connections for the rooms that they join.

use std::collections::HashMap;
use std::sync::Arc;

use super::join::{Denied, JoinReply};
use super::{Hub, Key};
use crate::connection::Role;
use crate::protocol::MemberId;
use crate::protocol::close_code::CloseReason;
use crate::protocol::name::Name;
use crate::protocol::position::Since;
use crate::protocol::v0::text;
use crate::protocol::v1::{Answer, Code, Ref, Refusal};
use crate::room::inbox::{NotOpened, Outcome, Unavailable};
use crate::room::outward::Joiner;
use crate::room::{Placed, Room};

/// A message that has no number yet.
struct Awaited {
    /// Its publisher.
    key: Key,
    /// What the publisher calls it, if it wants to be told its number.
    reference: Option<Ref<'static>>,
    room: Arc<Room>,
}

/// A connection that waits for a room; nothing is read from it meanwhile.
struct Opening {
    name: Name,
    user: Option<Name>,
    since: Option<Since>,
    reply: JoinReply<'static>,
}

/// Everything of a shard that waits for the shared log. Each entry is answered, be it after a time limit.
#[derive(Default)]
pub(super) struct Elsewhere {
    awaited: HashMap<u64, Awaited>,
    opening: HashMap<Key, Opening>,
}

impl Elsewhere {
    /// Whether this connection waits for a room.
    pub(super) fn is_opening(&self, key: Key) -> bool {
        !self.opening.is_empty() && self.opening.contains_key(&key)
    }
}

impl Hub {
    /// The message with this number gets its `Seq` elsewhere.
    #[cold]
    pub(super) fn await_number(&mut self, slot: u32, number: u64, reference: Option<&Ref<'_>>, room: Arc<Room>) {
        let (key, reference) = (self.key(slot), reference.map(Ref::to_static));
        self.elsewhere.awaited.insert(number, Awaited { key, reference, room });
    }

    /// The shared log has answered: tells the publisher.
    pub(super) fn settled(&mut self, number: u64, outcome: Outcome) {
        // Nobody waits for notices.
        let Some(Awaited { key, reference, room }) = self.elsewhere.awaited.remove(&number) else { return };
        if !self.get(key).is_some_and(|connection| connection.life.is_open()) {
            return;
        }
        match (outcome, &reference) {
            (Ok(Placed { seq, epoch }), Some(_)) => {
                self.reply(key.slot, Answer::published(room.name(), epoch, seq).frame(reference.as_ref()));
            }
            (Ok(_), None) => {}
            (Err(Unavailable), _) => self.refuse_unavailable(key.slot, reference.as_ref(), text::NOT_PUBLISHED),
        }
    }

    /// Tells a client that the shared log could not be reached.
    pub(super) fn refuse_unavailable(&mut self, slot: u32, reference: Option<&Ref<'_>>, text: &str) {
        match self.connection(slot).role {
            Role::V1 { .. } => self.refuse_v1(slot, &Refusal::new(Code::Unavailable, text), reference),
            _ => self.refuse(slot, Code::Unavailable, text),
        }
    }

    /// A room has to be loaded before the connection can join it.
    #[cold]
    pub(super) fn open(&mut self, slot: u32, name: &Name, since: Option<Since>, reply: &JoinReply<'_>) {
        let (key, member) = (self.key(slot), self.member_id(slot));
        let connection = self.connection(slot);
        let namespace = connection.protocol().namespace();
        let (user, predecessor) = (connection.user().cloned(), connection.predecessor());
        let opening = Opening { name: name.clone(), user: user.clone(), since, reply: reply.to_static() };
        self.elsewhere.opening.insert(key, opening);
        if let Some(outward) = self.registry.outward() {
            outward.open(namespace, name.clone(), Joiner { member, user, predecessor });
        }
    }

    /// The room that a connection waits for is loaded, or can't be had.
    pub(super) fn opened(&mut self, member: MemberId, room: Result<Arc<Room>, NotOpened>) {
        let key = Key { slot: member.slot, serial: member.serial };
        let Some(Opening { name, user, since, reply }) = self.elsewhere.opening.remove(&key) else { return };
        if !self.get(key).is_some_and(|connection| connection.life.is_open()) {
            // It has claimed a name that it doesn't need any more.
            if let (Ok(_), Some(user), Some(outward)) = (room, user, self.registry.outward()) {
                outward.release(&name, &user, member);
            }
            return;
        }
        let joined = match room {
            Ok(room) => self.join(key.slot, &name, since, &reply, Some(&room)),
            Err(NotOpened::NameTaken) => Err(Denied::NameTaken),
            Err(NotOpened::Unavailable) => Err(Denied::Unavailable),
        };
        self.joined(key.slot, &name, since, &reply, joined);
        self.queue(key.slot);
    }

    /// A room has begun a new life: its members reconnect, and are told that they may have missed something.
    pub(super) fn renewed(&mut self, room: u64) {
        let is_member = |memberships: &[crate::connection::Membership]| {
            memberships.iter().any(|membership| self.rooms.get(membership.room).room.id() == room)
        };
        let members = self.connections.iter().filter(|(_, connection)| is_member(&connection.memberships));
        let slots: Vec<u32> = members.map(|(slot, _)| slot as u32).collect();
        for slot in slots {
            self.close(slot, &CloseReason::GoingAway);
        }
    }
}
