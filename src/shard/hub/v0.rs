//! Messages in the protocol of 2017: chat, and slash commands.

use super::Hub;
use super::join::{Denied, JoinReply};
use crate::admission::TooManyRooms;
use crate::identity::rights::Right;
use crate::protocol::USERS_LISTED_MAX;
use crate::protocol::broadcast::to_one;
use crate::protocol::name::Name;
use crate::protocol::unicode::is_blank;
use crate::protocol::v0::{self, Command, text};
use crate::protocol::v1::Code;
use crate::room::{FirstUsers, Published, Room};

impl Hub {
    pub(super) fn command(&mut self, slot: u32, user: &Name, payload: &[u8]) {
        let said = match v0::parse(payload) {
            Ok(said) => said,
            Err(why) => {
                self.refuse(slot, Code::BadRequest, &why);
                return self.count_unreadable(slot);
            }
        };
        self.connection(slot).unreadable = 0;
        if self.look_elsewhere(slot, &said.room, payload) {
            return;
        }
        let Some(room) = self.room_of(slot, &said.room) else {
            return self.refuse(slot, Code::RoomNotFound, text::NO_ROOM);
        };
        match v0::command(&said.message) {
            Command::Say if is_blank(&said.message) => self.refuse(slot, Code::BadRequest, text::EMPTY),
            Command::Say if self.is_denied(slot, &room) => {}
            Command::Say if self.may_publish(&room, payload) => {
                match self.publish_message(slot, user, &room, &said.message) {
                    Ok(Published::Sent(number)) => self.await_number(slot, number, None, room),
                    Ok(Published::Placed(_) | Published::Later(_)) => {}
                    Err(_) => self.refuse(slot, Code::NameTaken, &text::taken(user.as_str())),
                }
            }
            Command::Say => {}
            Command::Join(name) => self.join_command(slot, name),
            Command::Leave(name) => self.leave_command(slot, user, name),
            Command::List => self.list_users(slot, &room),
            Command::Channels => self.list_channels(slot, &room),
            Command::Malformed => {
                self.counters.refused(Code::BadRequest).add(1);
                self.answer(slot, &room, &text::malformatted(&said.message));
            }
        }
    }

    /// Whether a connection may not publish in a room; then it has been told.
    fn is_denied(&mut self, slot: u32, room: &Room) -> bool {
        let denied = self.allow(slot, Right::Publish, room.key()).err();
        if let Some(denied) = &denied {
            self.refuse(slot, Code::Denied, &denied.to_string());
        }
        denied.is_some()
    }

    /// Refuses a message over the rate limit; it isn't even parsed.
    fn list_users(&mut self, slot: u32, room: &Room) {
        if let Err(denied) = self.allow(slot, Right::Listen, room.key()) {
            return self.refuse(slot, Code::Denied, &denied.to_string());
        }
        let FirstUsers { names, count, is_partial } = room.first_users(USERS_LISTED_MAX);
        let names: Vec<_> = names.iter().map(Name::as_str).collect();
        let list = if is_partial { text::list_partial } else { text::list };
        self.answer(slot, room, &list(&names, count));
    }

    fn list_channels(&mut self, slot: u32, room: &Room) {
        let (rooms, count) = self.visible_rooms(slot, "");
        let names: Vec<_> = rooms.iter().map(|room| room.name.as_str()).collect();
        self.answer(slot, room, &text::list(&names, count));
    }

    fn join_command(&mut self, slot: u32, name: &str) {
        match Name::room(name) {
            Ok(name) => self.ask_to_join(slot, &name, None, &JoinReply::Command),
            Err(why) => self.refuse(slot, Code::BadRequest, &text::cannot_join(why)),
        }
    }

    /// Tells the outcome of `/join`.
    pub(super) fn join_commanded(&mut self, slot: u32, denied: Option<Denied>) {
        // Its welcome is the answer, and doesn't wait for the room.
        let Some(denied) = denied else { return self.queue(slot) };
        let text = match denied {
            Denied::AlreadyIn(_) | Denied::NameTaken => {
                text::taken(self.connection(slot).user().map(Name::as_str).unwrap_or_default())
            }
            Denied::TooManyRooms(TooManyRooms { max }) => text::too_many_rooms(max),
            Denied::NoMemory => text::NO_MEMORY.to_owned(),
            Denied::NotAllowed(ref denied) => denied.to_string(),
            Denied::Unavailable => text::NOT_JOINED.to_owned(),
        };
        self.refuse(slot, denied.code(), &text);
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

    /// Tells a v0 client that its request was refused.
    pub(super) fn refuse(&mut self, slot: u32, code: Code, text: &str) {
        self.counters.refused(code).add(1);
        self.system(slot, text);
    }

    /// Sends the connection a message from hi.
    pub(super) fn system(&mut self, slot: u32, text: &str) {
        self.reply(slot, to_one("hi", "", text));
    }

    /// Sends the connection a message from a room.
    fn answer(&mut self, slot: u32, room: &Room, text: &str) {
        self.reply(slot, to_one(&format!("#{}", room.name()), room.name(), text));
    }
}
