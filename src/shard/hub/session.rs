//! A message has arrived: its rate limit, and its handler, by the protocol of its connection.

use std::sync::Arc;

use super::Hub;
use super::reading::BYTES_PER_UNIT;
use crate::connection::Role;
use crate::connection::unread::Parked;
use crate::counters::Direction;
use crate::frame::decode::MessageKind;
use crate::frame::deflate::Volume;
use crate::limits::UNREADABLE_MAX;
use crate::protocol::Protocol;
use crate::protocol::close_code::CloseReason;
use crate::protocol::name::Name;
use crate::protocol::resume::Predecessor;
use crate::protocol::surrogates::without_lone_surrogates;
use crate::protocol::v0::text;
use crate::rate::Admitted;
use crate::room::{JoinError, Published, Room, Speaker, Visitor};

/// Bytes of a compressed message that count as one unit of work, beside those that it has uncompressed: at worst, empty blocks
/// that each have codes to build.
const DEFLATED_BYTES_PER_UNIT: usize = 32;

/// Bytes of a message that is published to a room with members that take it compressed, that count as one unit of work.
const PUBLISHED_BYTES_PER_UNIT: usize = 64;

impl Hub {
    /// Handles a complete message that is compressed.
    pub(super) fn deflated_message(&mut self, slot: u32, kind: MessageKind, deflated: &[u8]) {
        self.spend(deflated.len() / DEFLATED_BYTES_PER_UNIT);
        match self.inflater.message(kind, deflated, self.settings.message_bytes_max) {
            Ok(message) => {
                self.spend(message.len() / BYTES_PER_UNIT);
                let volume = Volume { plain: message.len() as u64, deflated: deflated.len() as u64 };
                self.counters.deflated(Direction::In, volume);
                self.message(slot, kind, &message);
                self.inflater.reuse(message);
            }
            Err(violation) => self.violation(slot, &violation),
        }
    }

    /// Handles a complete message of any protocol, if it is within the rate limit.
    pub(super) fn message(&mut self, slot: u32, kind: MessageKind, payload: &[u8]) {
        let now_ms = self.now.time.monotonic_ms;
        let connection = &mut self.connections[slot as usize];
        let protocol = connection.protocol();
        let own = connection.bucket.take(self.settings.rate(protocol), now_ms);
        let together = || self.seats.admit_message(slot, &self.settings.address_rate, now_ms);
        match own {
            Admitted::Pass if protocol == Protocol::Raw || together() => {
                self.counters.messages_in(protocol).add(1);
                self.passed_message(slot, kind, payload);
                return;
            }
            Admitted::Pass => {
                self.refuse_too_fast(slot, payload, &text::too_fast_together(self.settings.address_rate.per_second()))
            }
            Admitted::Refused => {
                self.refuse_too_fast(slot, payload, &text::too_fast(self.settings.chat_messages_per_second));
            }
            Admitted::RefusedTooLong => self.close(slot, &CloseReason::RateLimit),
        }
        self.counters.rate_limited(protocol).add(1);
    }

    fn refuse_too_fast(&mut self, slot: u32, payload: &[u8], why: &str) {
        match self.connection(slot).protocol() {
            Protocol::V0 => self.system(slot, why),
            Protocol::V1 => self.refuse_too_fast_v1(slot, payload, why),
            // In a raw room there is no way to say so.
            Protocol::Raw | Protocol::Sse => {}
        }
    }

    /// Handles a message that is within the rate limit: it has just arrived, or was parked.
    pub(super) fn passed_message(&mut self, slot: u32, kind: MessageKind, payload: &[u8]) {
        self.wakes.received = self.sampler.sample(self.now.instant);
        match &self.connections[slot as usize].role {
            Role::V0 { user } => self.chat_message(slot, &user.clone(), kind, payload, Self::command),
            Role::V1 { user, .. } => self.chat_message(slot, &user.clone(), kind, payload, Self::request),
            Role::Raw { echo, .. } => self.raw_message(slot, *echo, kind, payload),
            Role::Latest(latest) => self.raw_message(slot, latest.echo, kind, payload),
            // The input of a listener is not decoded.
            Role::Sse { .. } => {}
        }
        self.wakes.received = None;
    }

    fn chat_message(
        &mut self,
        slot: u32,
        user: &Name,
        kind: MessageKind,
        payload: &[u8],
        text_message: fn(&mut Self, u32, &Name, &[u8]),
    ) {
        match kind {
            MessageKind::Text => text_message(self, slot, user, &without_lone_surrogates(payload)),
            MessageKind::Binary => self.close(slot, &CloseReason::BinaryInChat),
        }
    }

    /// Whether the room can take a message now. If not, the message is parked until the room has caught up; nothing has been
    /// done with it.
    pub(super) fn may_publish(&mut self, room: &Arc<Room>, payload: &[u8]) -> bool {
        let may_publish = !room.is_behind() || self.elsewhere.has_found();
        if !may_publish {
            let received = self.sampler.receipt();
            self.reading.parked =
                Some(Parked { room: Arc::clone(room), kind: MessageKind::Text, payload: payload.into(), received });
        }
        may_publish
    }

    /// Publishes a chat message of a connection, in one of its own rooms or in another one.
    pub(super) fn publish_message(
        &mut self,
        slot: u32,
        user: &Name,
        room: &Arc<Room>,
        text: &str,
    ) -> Result<Published, JoinError> {
        let speaker = if self.is_member(slot, room) {
            Speaker::Member(user)
        } else {
            if self.elsewhere.name_is_taken() {
                return Err(JoinError::NameTaken);
            }
            let predecessor = self.connections[slot as usize].predecessor().and_then(Predecessor::here);
            Speaker::Visitor(Visitor { user, predecessor })
        };
        let published = room.publish_chat(&speaker, text, self.now.time, &mut self.wakes);
        self.spend_on_compression(room.is_deflating(), text.len());
        published
    }

    /// Deducts what it takes to compress a message that was published.
    pub(super) fn spend_on_compression(&mut self, is_deflating: bool, bytes: usize) {
        if is_deflating {
            self.spend(bytes / PUBLISHED_BYTES_PER_UNIT);
        }
    }

    /// Counts a message that could not be parsed; several in a row close the connection.
    pub(super) fn count_unreadable(&mut self, slot: u32) {
        let connection = self.connection(slot);
        connection.unreadable += 1;
        if connection.unreadable >= UNREADABLE_MAX {
            self.close(slot, &CloseReason::Unreadable);
        }
    }
}
