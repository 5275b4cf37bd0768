//! What waits for a log that several servers share: messages for their numbers, connections for the rooms that they join.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::join::{Denied, JoinReply};
use super::{Hub, Key};
use crate::connection::{Connection, Membership, Role};
use crate::frame::decode::MessageKind;
use crate::limits::SETTLE_BYTES_MAX;
use crate::protocol::close_code::CloseReason;
use crate::protocol::name::Name;
use crate::protocol::position::Since;
use crate::protocol::v0::text;
use crate::protocol::v1::{self, Answer, Code, Ref, Refusal};
use crate::protocol::{Encoding, MemberId, Namespace, Protocol, broadcast, sse};
use crate::room::inbox::{Claimed, Found, NotOpened, Outcome, Unavailable};
use crate::room::outward::{Finder, Joiner};
use crate::room::{Placed, Room};

/// A message that has no number yet.
struct Awaited {
    /// Its publisher.
    key: Key,
    /// What the publisher calls it, if it wants to be told its number.
    reference: Option<Ref<'static>>,
    room: Arc<Room>,
}

/// What a connection that waits for a room has asked; nothing is read from it meanwhile.
enum Opening {
    /// To join it.
    Join { name: Name, user: Option<Name>, since: Option<Since>, reply: JoinReply<'static> },
    /// Something else, in this message: nobody here is in the room.
    Ask(Box<[u8]>),
}

/// Everything of a shard that waits for the shared log. Each entry is answered, be it after a time limit.
#[derive(Default)]
pub(super) struct Elsewhere {
    awaited: HashMap<u64, Awaited>,
    opening: HashMap<Key, Opening>,
    /// The answers to the handshakes of raw members that wait for their rooms: nothing else can tell them when they have joined.
    responses: HashMap<Key, Bytes>,
    /// The room that was found for the message that is being handled, if it was held for that.
    found: Option<Option<Arc<Room>>>,
    /// Whether another connection has the name of its sender there, although the room doesn't know it.
    name_is_taken: bool,
}

impl Elsewhere {
    /// Whether this connection waits for a room.
    pub(super) fn is_opening(&self, key: Key) -> bool {
        !self.opening.is_empty() && self.opening.contains_key(&key)
    }

    /// Whether the answer to this connection's handshake has to wait for a room.
    pub(super) fn holds_response(&self, key: Key) -> bool {
        !self.responses.is_empty() && self.responses.contains_key(&key)
    }

    /// Whether a room has been looked for, on behalf of the message that is being handled.
    pub(super) fn has_found(&self) -> bool {
        self.found.is_some()
    }

    /// Whether another connection has the name of the sender of the message that is being handled.
    pub(super) fn name_is_taken(&self) -> bool {
        self.name_is_taken
    }

    /// The room of this name, if it is the one that was found.
    pub(super) fn found(&self, name: &Name) -> Option<Arc<Room>> {
        self.found.iter().flatten().find(|room| room.key() == name).cloned()
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
        if self.connection(key.slot).protocol() == Protocol::Raw {
            return self.settled_raw(key.slot, &room, outcome);
        }
        match (outcome, &reference) {
            (Ok(Placed { seq, epoch }), Some(_)) => {
                self.reply(key.slot, Answer::published(room.name(), epoch, seq).frame(reference.as_ref()));
            }
            (Ok(_), None) => {}
            (Err(Unavailable), _) => self.refuse_unavailable(key.slot, reference.as_ref(), text::NOT_PUBLISHED),
        }
    }

    /// A raw message comes with this answer, or is lost, which its publisher can only be told by a close.
    fn settled_raw(&mut self, slot: u32, room: &Room, outcome: Outcome) {
        let Ok(Placed { seq, .. }) = outcome else { return self.close(slot, &CloseReason::Unavailable) };
        let connection = &self.connections[slot as usize];
        let echoes = match &connection.role {
            Role::Raw { echo, .. } => *echo,
            Role::Latest(latest) => latest.echo,
            _ => true,
        };
        let Some(room_slot) = self.rooms.slot(room, connection.encoding()).filter(|_| !echoes) else { return };
        if self.rooms.log(room_slot).tip() <= seq {
            // It is pushed under the room's lock, after the answer.
            room.last_seq();
            self.drain_inbox();
        }
        self.connections[slot as usize].skip_own(seq, self.rooms.get(room_slot));
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
        let opening = Opening::Join { name: name.clone(), user: user.clone(), since, reply: reply.to_static() };
        self.elsewhere.opening.insert(key, opening);
        if let Some(outward) = self.registry.outward() {
            outward.open(namespace, name.clone(), Joiner { member, user, predecessor, since });
        }
    }

    /// Answers the handshake of a raw member when it has joined its room.
    #[cold]
    pub(super) fn hold_response(&mut self, slot: u32, response: Bytes) {
        let key = self.key(slot);
        self.elsewhere.responses.insert(key, response);
    }

    /// The room that a connection waits for is loaded, or can't be had.
    pub(super) fn opened(&mut self, member: MemberId, room: Result<(Arc<Room>, Claimed), NotOpened>) {
        let key = Key { slot: member.slot, serial: member.serial };
        let Some(Opening::Join { name, user, since, reply }) = self.elsewhere.opening.remove(&key) else { return };
        let response = self.elsewhere.responses.remove(&key);
        if !self.get(key).is_some_and(|connection| connection.life.is_open()) {
            // It has claimed a name that it doesn't need any more.
            if let (Ok((room, claimed)), Some(user), Some(outward)) = (room, user, self.registry.outward()) {
                outward.release(&name, &user, member, true);
                if claimed == Claimed::TakenOver {
                    // The lost connection has left without a word.
                    let announced = room.announce_elsewhere(&user, false, self.now.time, &mut self.wakes);
                    self.fold(announced, room);
                }
            }
            return;
        }
        if let Some(response) = response {
            self.connection(key.slot).respond(response);
        }
        let joined = match room {
            Ok(opened) => self.join(key.slot, &name, since, &reply, Some(&opened)),
            Err(NotOpened::NameTaken) => Err(Denied::NameTaken),
            Err(NotOpened::Unavailable) => Err(Denied::Unavailable),
        };
        self.joined(key.slot, &name, since, &reply, joined);
        self.queue(key.slot);
    }

    /// Looks on other servers for a room that nobody here is in, or that doesn't know all names and so not whether a visitor may
    /// speak under its own. True: the message is handled again once that is known.
    pub(super) fn look_elsewhere(&mut self, slot: u32, name: &str, payload: &[u8]) -> bool {
        let Some(outward) = self.registry.outward() else { return false };
        let knows_all = |room: &Room| self.is_member(slot, room) || !room.is_partial();
        if self.elsewhere.has_found() || self.room_of(slot, name).is_some_and(|room| knows_all(&room)) {
            return false;
        }
        let Ok(name) = Name::room(name) else { return false };
        let connection = &self.connections[slot as usize];
        let (user, predecessor) = (connection.user().cloned(), connection.predecessor());
        let visitor = Joiner { member: self.member_id(slot), user, predecessor, since: None };
        outward.look_for(Namespace::Chat, name, Finder::Member(visitor));
        let key = self.key(slot);
        self.elsewhere.opening.insert(key, Opening::Ask(payload.into()));
        true
    }

    /// It is known whether there is the room that a connection has asked about: its message is handled.
    pub(super) fn found(&mut self, member: MemberId, room: Found, name_is_taken: bool) {
        let key = Key { slot: member.slot, serial: member.serial };
        let Some(Opening::Ask(payload)) = self.elsewhere.opening.remove(&key) else { return };
        if !self.get(key).is_some_and(|connection| connection.life.is_open()) {
            return;
        }
        match room {
            Ok(room) => {
                (self.elsewhere.found, self.elsewhere.name_is_taken) = (Some(room), name_is_taken);
                self.passed_message(key.slot, MessageKind::Text, &payload);
                (self.elsewhere.found, self.elsewhere.name_is_taken) = (None, false);
            }
            Err(Unavailable) => {
                let reference = v1::parse(&payload).reference;
                self.refuse_unavailable(key.slot, reference.as_ref(), text::NOT_REACHED);
            }
        }
        if self.is_current(key) {
            self.queue(key.slot);
        }
    }

    /// Somebody else has got a connection's name in a room.
    pub(super) fn name_lost(&mut self, member: MemberId, room: &Room) {
        let key = Key { slot: member.slot, serial: member.serial };
        let is_open = self.get(key).is_some_and(|connection| connection.life.is_open());
        if is_open && self.is_member(key.slot, room) {
            self.close(key.slot, &CloseReason::NameTaken);
        }
    }

    /// A room has begun a new life: its members go on with that, and are told that they may have missed something.
    pub(super) fn renewed(&mut self, room: &Arc<Room>, first_seq: u64) {
        // What is left of the life before was pushed before this order.
        self.drain_inbox();
        let joined_seq = room.last_seq() + 1;
        for encoding in Encoding::ALL {
            let Some(before) = self.rooms.slot(room, encoding) else { continue };
            let members = self.rooms.get(before).members().to_vec();
            for slot in &members {
                let connection = &mut self.connections[*slot as usize];
                connection.settle_last(before, &self.rooms, SETTLE_BYTES_MAX);
                connection.left(before, &self.rooms);
            }
            self.rooms.empty(before);
            for slot in members {
                self.renew_membership(slot, room, first_seq, joined_seq);
            }
        }
    }

    fn renew_membership(&mut self, slot: u32, room: &Arc<Room>, first_seq: u64, joined_seq: u64) {
        let connection = &self.connections[slot as usize];
        let (encoding, protocol) = (connection.encoding(), connection.protocol());
        let pace = self.settings.pace(protocol);
        let room_slot = self.rooms.join(room, encoding, joined_seq, self.settings.backlog_bytes, pace);
        let index = self.rooms.get_mut(room_slot).add_member(slot);
        let membership = Membership { room: room_slot, index, cursor: first_seq, joined_seq };
        self.connection(slot).memberships.push(membership);
        let gap = broadcast::gap_of_unknown_length(room.name(), room.epoch());
        self.counters.gaps.add(1);
        match protocol {
            Protocol::V0 | Protocol::V1 => self.reply_at_once(slot, gap),
            Protocol::Sse => self.reply_at_once(slot, sse::gap(&gap, room.epoch(), first_seq - 1)),
            Protocol::Raw => {}
        }
        self.queue(slot);
    }

    /// The other servers can't be reached, or can be again: tells the members of chat rooms, and their listeners.
    pub(super) fn tell_reachability(&mut self, is_away: bool) {
        let frame = broadcast::reachability(is_away);
        let event = sse::notice(if is_away { "away" } else { "back" }, &frame);
        let told = |(slot, connection): (usize, &Connection)| {
            let is_there = connection.life.is_open() && !connection.memberships.is_empty();
            let notice = match connection.protocol() {
                Protocol::V0 | Protocol::V1 => &frame,
                Protocol::Sse => &event,
                Protocol::Raw => return None,
            };
            is_there.then(|| (slot as u32, notice.clone()))
        };
        let told: Vec<_> = self.connections.iter().filter_map(told).collect();
        told.into_iter().for_each(|(slot, notice)| self.reply(slot, notice));
    }
}
