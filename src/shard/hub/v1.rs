//! Messages in `hi.v1`: `hello`, requests and their answers, taking over the name of a lost connection. Slash commands are
//! plain text here.

use std::sync::Arc;

use super::join::{Denied, JoinReply, Joining};
use super::{Hub, Key};
use crate::admission::TooManyRooms;
use crate::identity::rights::{self, Right};
use crate::protocol::MemberId;
use crate::protocol::USERS_LISTED_MAX;
use crate::protocol::close_code::CloseReason;
use crate::protocol::name::{Name, room_key_prefix};
use crate::protocol::position::Since;
use crate::protocol::resume::Predecessor;
use crate::protocol::surrogates::without_lone_surrogates;
use crate::protocol::unicode::is_blank;
use crate::protocol::v0::text;
use crate::protocol::v1::{self, Answer, Code, Command, Hello, Limits, Ref, Refusal, RequestFault, RoomEntry};
use crate::room::inbox::Order;
use crate::room::{FirstUsers, Published, Room};

impl Hub {
    /// Sends `hello`.
    pub(super) fn send_hello(&mut self, slot: u32) {
        let member = self.member_id(slot);
        let connection = &self.connections[slot as usize];
        let Some(user) = connection.user().cloned() else { return };
        let hello = Hello {
            op: "hello",
            client: format!("{}-{}", member.shard, connection.serial),
            user: user.as_str(),
            ping: self.settings.heartbeat.interval.into(),
            instance: &self.settings.instance,
            version: env!("CARGO_PKG_VERSION"),
            limits: Limits {
                message: self.settings.message_bytes_max,
                rooms: self.settings.admission.rooms_max() as u32,
                rate: self.settings.chat_messages_per_second,
            },
            resume: self.registry.resume_key().issue(member),
            expires: self.expires_in(slot),
        };
        self.reply(slot, hello.frame());
    }

    /// Has the connection closed whose name this one takes over.
    pub(super) fn take_over(&mut self, slot: u32) {
        let connection = &self.connections[slot as usize];
        let (Some(user), Some(predecessor)) = (connection.user().cloned(), connection.predecessor()) else { return };
        match predecessor {
            Predecessor::Here(member) => {
                if let Some(inbox) = self.registry.inboxes().get(member.shard as usize) {
                    self.wakes.note(member.shard as usize, inbox.order(Order::TakeOver { member, user }));
                }
            }
            Predecessor::Elsewhere { node, member } => {
                self.registry.outward().iter().for_each(|outward| outward.take_over(node, member, user.clone()));
            }
        }
    }

    /// The connection whose name the holder of this secret may take over.
    pub(in crate::shard) fn predecessor(&self, secret: &str) -> Option<Predecessor> {
        self.registry.resume_key().redeem(secret)
    }

    /// Closes a connection whose user has reconnected.
    pub(super) fn taken_over(&mut self, member: MemberId, user: &Name) {
        let key = Key { slot: member.slot, serial: member.serial };
        if self.get(key).is_some_and(|connection| connection.user() == Some(user)) {
            self.close(key.slot, &CloseReason::TakenOver);
        }
    }

    pub(super) fn request(&mut self, slot: u32, user: &Name, payload: &[u8]) {
        let v1::Request { reference, command } = v1::parse(payload);
        let reference = reference.as_ref();
        let is_unreadable = matches!(command, Err(RequestFault::Unreadable(_)));
        if !is_unreadable {
            self.connection(slot).unreadable = 0;
        }
        let outcome = match command {
            Ok(Command::Auth(token)) => self.auth_request(slot, reference, &token),
            Ok(_) if self.awaits_token(slot) => Err(Refusal::new(
                Code::Denied,
                "Send {\"Op\":\"auth\",\"Token\":...} first: this server asks for a token.",
            )),
            Ok(Command::Publish { room, .. } | Command::Who(room)) if self.look_elsewhere(slot, &room, payload) => {
                Ok(())
            }
            Ok(Command::Publish { room, message }) => self.publish(slot, reference, user, payload, &room, &message),
            Ok(Command::Join { room, since }) => self.join_request(slot, reference, &room, since),
            Ok(Command::Leave(room)) => self.leave_request(slot, reference, user, &room),
            Ok(Command::Who(room)) => self.who(slot, reference, &room),
            Ok(Command::Rooms(prefix)) => {
                self.list_rooms(slot, reference, &prefix);
                Ok(())
            }
            Ok(Command::Ping) => {
                let pong = v1::pong(reference, self.now.time.unix_ms);
                self.reply(slot, pong);
                Ok(())
            }
            Err(RequestFault::Unreadable(why) | RequestFault::Meaningless(why)) => {
                Err(Refusal::new(Code::BadRequest, why))
            }
        };
        if let Err(refusal) = outcome {
            self.refuse_v1(slot, &refusal, reference);
        }
        if is_unreadable {
            self.count_unreadable(slot);
        }
    }

    /// Tells a v1 client that its request was refused.
    pub(super) fn refuse_v1(&mut self, slot: u32, refusal: &Refusal, reference: Option<&Ref<'_>>) {
        self.counters.refused(refusal.code).add(1);
        self.reply(slot, refusal.frame(reference));
    }

    /// Refuses a message over the rate limit. It is parsed only for its `Ref`, which the answer repeats.
    pub(super) fn refuse_too_fast_v1(&mut self, slot: u32, payload: &[u8], why: &str) {
        let payload = without_lone_surrogates(payload);
        let request = v1::parse(&payload);
        let refusal = Refusal::new(Code::TooManyRequests, why);
        self.reply(slot, refusal.frame(request.reference.as_ref()));
    }

    fn publish(
        &mut self,
        slot: u32,
        reference: Option<&Ref<'_>>,
        user: &Name,
        payload: &[u8],
        name: &str,
        message: &str,
    ) -> Result<(), Refusal> {
        let room = self.existing_room(slot, name)?;
        if is_blank(message) {
            return Err(Refusal::new(Code::BadRequest, text::EMPTY));
        }
        self.allow(slot, Right::Publish, room.key()).map_err(denial)?;
        if !self.may_publish(&room, payload) {
            return Ok(());
        }
        match self.publish_message(slot, user, &room, message).map_err(|_| name_taken(room.name()))? {
            Published::Placed(seq) if reference.is_some() => {
                self.reply(slot, Answer::published(room.name(), room.epoch(), seq).frame(reference));
            }
            Published::Sent(number) => self.await_number(slot, number, reference, room),
            Published::Placed(_) | Published::Later(_) => {}
        }
        Ok(())
    }

    fn join_request(
        &mut self,
        slot: u32,
        reference: Option<&Ref<'_>>,
        name: &str,
        since: Option<Since>,
    ) -> Result<(), Refusal> {
        let name = Name::room(name).map_err(|why| Refusal::new(Code::BadRequest, format!("Room: {why}")))?;
        self.ask_to_join(slot, &name, since, &JoinReply::Request(reference.cloned()));
        Ok(())
    }

    /// Answers a join.
    pub(super) fn answer_join(&mut self, slot: u32, reference: Option<&Ref<'_>>, name: &Name, joined: Joining) {
        let (room, entered) = match joined {
            Ok(joined) => joined,
            Err(denied) => return self.refuse_v1(slot, &refusal(&denied, name), reference),
        };
        let answer = Answer::joined(room.name(), room.epoch(), entered.from_seq - 1, entered.recovered, entered.users);
        self.reply_at_once(slot, answer.frame(reference));
        if let Some(head) = entered.head
            && let Some(room_slot) = self.rooms.slot(&room, self.connections[slot as usize].encoding())
        {
            self.connection(slot).replay(room_slot, head);
        }
    }

    fn leave_request(
        &mut self,
        slot: u32,
        reference: Option<&Ref<'_>>,
        user: &Name,
        name: &str,
    ) -> Result<(), Refusal> {
        let room = self.existing_room(slot, name)?;
        if !self.is_member(slot, &room) {
            return Err(Refusal::new(Code::NotJoined, text::not_present(room.name(), user.as_str())));
        }
        if self.leave_settled(slot, &room) {
            self.reply(slot, Answer::left(room.name()).frame(reference));
        }
        Ok(())
    }

    fn who(&mut self, slot: u32, reference: Option<&Ref<'_>>, name: &str) -> Result<(), Refusal> {
        let room = self.existing_room(slot, name)?;
        self.allow(slot, Right::Listen, room.key()).map_err(denial)?;
        let FirstUsers { names, count, is_partial } = room.first_users(USERS_LISTED_MAX);
        let users = names.iter().map(Name::as_str).collect();
        self.reply(slot, Answer::who(room.name(), users, count, is_partial).frame(reference));
        Ok(())
    }

    fn list_rooms(&mut self, slot: u32, reference: Option<&Ref<'_>>, prefix: &str) {
        let (rooms, count) =
            room_key_prefix(prefix).map_or_else(Default::default, |prefix| self.visible_rooms(slot, &prefix));
        let rooms = rooms.iter().map(|room| RoomEntry { room: room.name.as_str(), users: room.counts.users });
        self.reply(slot, Answer::rooms(rooms.collect(), count).frame(reference));
    }

    fn existing_room(&self, slot: u32, name: &str) -> Result<Arc<Room>, Refusal> {
        let not_found = || Refusal::new(Code::RoomNotFound, format!("There is nobody in the room {name}."));
        self.room_of(slot, name).ok_or_else(not_found)
    }
}

/// The answer to a v1 client that may not join.
fn refusal(denied: &Denied, name: &Name) -> Refusal {
    let why = match denied {
        Denied::AlreadyIn(room) => format!("You are in the room {} already.", room.name()),
        Denied::TooManyRooms(TooManyRooms { max }) => {
            format!("You are in {max} rooms, which is as many as you may: leave one first.")
        }
        Denied::NoMemory => "The server is short of memory for further rooms: try again later.".to_owned(),
        Denied::NameTaken => return name_taken(name.as_str()),
        Denied::NotAllowed(denied) => denied.to_string(),
        Denied::Unavailable => text::NOT_JOINED.to_owned(),
    };
    Refusal::new(denied.code(), why)
}

fn denial(denied: rights::Denied) -> Refusal {
    Refusal::new(Code::Denied, denied.to_string())
}

fn name_taken(room: &str) -> Refusal {
    Refusal::new(Code::NameTaken, format!("Somebody in the room {room} has your name."))
}
