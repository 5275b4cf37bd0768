//! What a message makes happen: chat commands, raw relays, and the limits on both.

use std::sync::Arc;

use fastwebsockets::OpCode;

use super::{Shard, Slow};
use crate::admission::RawMode;
use crate::connection::unread::Parked;
use crate::connection::{Connection, Gap, OUTBOX_BYTES_MAX, Role, State};
use crate::frame::decode::Kind;
use crate::frame::encode;
use crate::metrics::counters::Lapped;
use crate::protocol::Namespace;
use crate::protocol::broadcast::{self, to_one};
use crate::protocol::close_code::CloseReason;
use crate::protocol::name::Name;
use crate::protocol::surrogates::without_lone_surrogates;
use crate::protocol::unicode::is_blank;
use crate::protocol::v0::{self, Command, text};
use crate::protocol::v1::Code;
use crate::protocol::{Dialect, ROOMS_LISTED_MAX, USERS_LISTED_MAX};
use crate::rate::Verdict;
use crate::relay::Disconnect;
use crate::ring::DataRing;
use crate::room::{JoinError, Room, Speaker, Visitor};

mod v1;

/// Limit, in bytes, of room frames moved to the outbox of a member that leaves.
const LEAVE_BYTES_MAX: usize = OUTBOX_BYTES_MAX / 4 * 3;
/// Unreadable messages in a row that close the connection.
const UNREADABLE_MAX: u8 = 3;

impl<R: DataRing> Shard<R> {
    /// A whole message has arrived.
    pub(super) fn message(&mut self, slot: u32, kind: Kind, payload: &[u8]) {
        let now_ms = self.now.time.monotonic_ms;
        let connection = &mut self.connections[slot as usize];
        let (rate, is_chat) = match connection.role {
            Role::Chat { .. } => (&self.chat_rate, true),
            Role::Raw { .. } => (&self.raw_rate, false),
            // Nothing that it sends is decoded.
            Role::Stream { .. } => return,
        };
        let speech = connection.speech();
        let verdict = connection.bucket.take(rate, now_ms);
        if verdict != Verdict::Pass {
            self.counters.rate_limited(speech).add(1);
        }
        match (verdict, is_chat) {
            (Verdict::Pass, _) => {
                self.counters.messages_in(speech).add(1);
                self.passed_message(slot, kind, payload);
            }
            (Verdict::RefusedTooLong, _) => self.close(slot, &CloseReason::RateLimit),
            (Verdict::Refused, true) if connection.dialect == Dialect::V1 => self.refuse_too_fast(slot, payload),
            (Verdict::Refused, true) => {
                let refusal = text::too_fast(self.config.rate_limit);
                self.system(slot, &refusal);
            }
            // A raw room has no frame to say it in.
            (Verdict::Refused, false) => {}
        }
    }

    /// A message within its connection's rate: one that has just arrived, or one that was parked.
    pub(super) fn passed_message(&mut self, slot: u32, kind: Kind, payload: &[u8]) {
        self.wakes.received = self.sampler.sample(self.now.instant);
        match &self.connections[slot as usize].role {
            Role::Chat { user } => self.chat_message(slot, &user.clone(), kind, payload),
            Role::Raw { .. } => self.raw_message(slot, kind, payload),
            Role::Stream { .. } => {}
        }
        self.wakes.received = None;
    }

    /// Whether the room can take a message now. If not, the message is parked until it can: nothing of it has been done.
    fn may_publish(&mut self, room: &Arc<Room>, payload: &[u8]) -> bool {
        let may_publish = !room.is_behind();
        if !may_publish {
            let received = self.sampler.receipt();
            self.parked = Some(Parked { room: Arc::clone(room), kind: Kind::Text, payload: payload.into(), received });
        }
        may_publish
    }

    fn raw_message(&mut self, slot: u32, kind: Kind, payload: &[u8]) {
        if self.config.raw != RawMode::Open {
            return self.close(slot, &CloseReason::ListenOnly);
        }
        let connection = &mut self.connections[slot as usize];
        let Some(membership) = connection.memberships.first() else { return };
        let opcode = match kind {
            Kind::Text => OpCode::Text,
            Kind::Binary => OpCode::Binary,
        };
        let local = self.rooms.get(membership.room);
        let seq = local.room.publish_raw(&encode::frame(opcode, payload), &mut self.wakes);
        if matches!(connection.role, Role::Raw { echo: false, .. }) {
            connection.skip_own(seq, local.log.first_seq());
        }
    }

    fn chat_message(&mut self, slot: u32, user: &Name, kind: Kind, payload: &[u8]) {
        if matches!(kind, Kind::Binary) {
            return self.close(slot, &CloseReason::BinaryInChat);
        }
        let payload_arrived = payload;
        let payload = without_lone_surrogates(payload);
        if self.connection(slot).dialect == Dialect::V1 {
            return self.request(slot, user, &payload);
        }
        let said = match v0::parse(&payload) {
            Ok(said) => said,
            Err(why) => return self.unreadable(slot, &why),
        };
        self.connection(slot).unreadable = 0;
        let Some(room) = self.room_of(slot, &said.room) else {
            return self.refuse(slot, Code::RoomNotFound, text::NO_ROOM);
        };
        match v0::command(&said.message) {
            Command::Say if is_blank(&said.message) => self.refuse(slot, Code::BadRequest, text::EMPTY),
            Command::Say if self.may_publish(&room, payload_arrived) => {
                if self.say(slot, user, &room, &said.message).is_err() {
                    self.refuse(slot, Code::NameTaken, &text::taken(user.as_str()));
                }
            }
            Command::Say => {}
            Command::Join(name) => self.join_command(slot, user, name),
            Command::Leave(name) => self.leave_command(slot, user, name),
            Command::List => self.list_users(slot, &room),
            Command::Channels => self.list_channels(slot, &room),
            Command::Malformed => {
                self.counters.refused(Code::BadRequest).add(1);
                self.answer(slot, &room, &text::malformatted(&said.message));
            }
        }
    }

    /// Publishes what a connection says in a room, its own or another, and returns the message's `Seq`.
    fn say(&mut self, slot: u32, user: &Name, room: &Arc<Room>, text: &str) -> Result<u64, JoinError> {
        let speaker = if self.is_member(slot, room) {
            Speaker::Member(user)
        } else {
            let predecessor = self.connections[slot as usize].predecessor.as_deref().copied();
            Speaker::Visitor(Visitor { user, predecessor })
        };
        room.publish_chat(&speaker, text, self.now.time, &mut self.wakes)
    }

    fn list_users(&mut self, slot: u32, room: &Room) {
        let (users, count) = room.first_users(USERS_LISTED_MAX);
        let names: Vec<_> = users.iter().map(Name::as_str).collect();
        self.answer(slot, room, &text::list(&names, count));
    }

    fn list_channels(&mut self, slot: u32, room: &Room) {
        let (rooms, count) = self.registry.first_rooms(Namespace::Chat, "", ROOMS_LISTED_MAX);
        let names: Vec<_> = rooms.iter().map(|room| room.name()).collect();
        self.answer(slot, room, &text::list(&names, count));
    }

    fn unreadable(&mut self, slot: u32, why: &str) {
        self.refuse(slot, Code::BadRequest, why);
        self.count_unreadable(slot);
    }

    fn count_unreadable(&mut self, slot: u32) {
        let connection = self.connection(slot);
        connection.unreadable += 1;
        if connection.unreadable >= UNREADABLE_MAX {
            self.close(slot, &CloseReason::Unreadable);
        }
    }

    fn join_command(&mut self, slot: u32, user: &Name, name: &str) {
        let name = match Name::room(name) {
            Ok(name) => name,
            Err(why) => return self.refuse(slot, Code::BadRequest, &text::cannot_join(why)),
        };
        let rooms_max = self.config.max_rooms as usize;
        let joined = match self.registry.get(Namespace::Chat, &name) {
            Some(room) if self.is_member(slot, &room) => Err(JoinError::NameTaken),
            _ if self.connection(slot).memberships.len() >= rooms_max => {
                return self.refuse(slot, Code::TooManyRooms, &text::too_many_rooms(rooms_max));
            }
            _ if !self.has_memory_to_join(slot) => return self.refuse(slot, Code::TooManyRooms, text::NO_MEMORY),
            _ => self.join(slot, Namespace::Chat, &name, None),
        };
        if joined.is_err() {
            self.refuse(slot, Code::NameTaken, &text::taken(user.as_str()));
        }
    }

    fn leave_command(&mut self, slot: u32, user: &Name, name: &str) {
        let Some(room) = self.room_of(slot, name) else {
            return self.refuse(slot, Code::RoomNotFound, &text::does_not_exist(name));
        };
        if !self.is_member(slot, &room) {
            return self.refuse(slot, Code::NotJoined, &text::not_present(room.name(), user.as_str()));
        }
        if self.leave_settled(slot, &room) {
            self.system(slot, &text::left(room.name()));
        }
    }

    /// Leaves a room, behind all that it has said until now; false: the connection was closed for what it lost of it.
    fn leave_settled(&mut self, slot: u32, room: &Room) -> bool {
        // What the room said until now is still owed.
        self.drain_inbox();
        let room_slot = self.rooms.slot(room).expect("a member's room is here");
        let lost = self.connections[slot as usize].settle_last(room_slot, &self.rooms, LEAVE_BYTES_MAX);
        self.leave(slot, room_slot);
        match lost {
            Some(_) if self.config.slow == Slow::Close => {
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

    /// Closes the connections of a user, as the internal port orders it.
    pub(super) fn disconnect(&mut self, order: Disconnect) {
        let Disconnect { user, room, reason, closed } = order;
        let in_room = |connection: &Connection| {
            let mut rooms = connection.memberships.iter().map(|membership| &self.rooms.get(membership.room).room);
            room.as_ref().is_none_or(|name| rooms.any(|room| room.key() == name))
        };
        let is_meant = |connection: &Connection| {
            connection.state == State::Open && connection.user() == Some(&user) && in_room(connection)
        };
        let meant = self.connections.iter().filter(|(_, connection)| is_meant(connection));
        let slots: Vec<_> = meant.map(|(slot, _)| slot as u32).collect();
        for slot in &slots {
            self.close(*slot, &CloseReason::Disconnected(&reason));
        }
        // Nobody may wait for the answer any more.
        let _ = closed.send(slots.len());
    }

    /// A room by name: one of the connection's own, named as it names itself, is found without preparing the name and
    /// without asking the registry.
    fn room_of(&self, slot: u32, name: &str) -> Option<Arc<Room>> {
        let memberships = &self.connections[slot as usize].memberships;
        let own = memberships.iter().map(|membership| &self.rooms.get(membership.room).room);
        own.into_iter()
            .find(|room| room.name() == name)
            .cloned()
            .or_else(|| self.registry.get(Namespace::Chat, &Name::room(name).ok()?))
    }

    fn is_member(&self, slot: u32, room: &Room) -> bool {
        let memberships = &self.connections[slot as usize].memberships;
        memberships.iter().any(|membership| self.rooms.get(membership.room).room.id() == room.id())
    }

    /// Tells a client of v0 that what it asked for is not done.
    fn refuse(&mut self, slot: u32, code: Code, text: &str) {
        self.counters.refused(code).add(1);
        self.system(slot, text);
    }

    /// A message from hi to this connection.
    fn system(&mut self, slot: u32, text: &str) {
        self.reply(slot, to_one("hi", "", text));
    }

    /// A message from a room to this connection.
    fn answer(&mut self, slot: u32, room: &Room, text: &str) {
        self.reply(slot, to_one(&format!("#{}", room.name()), room.name(), text));
    }
}
