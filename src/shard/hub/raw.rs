//! A message in a raw room is published as it is.

use std::sync::Arc;

use crate::frame::OpCode;

use super::Hub;
use crate::frame::decode::MessageKind;
use crate::frame::encode;
use crate::identity::rights::Right;
use crate::protocol::close_code::CloseReason;
use crate::room::Published;

impl Hub {
    pub(super) fn raw_message(&mut self, slot: u32, echo: bool, kind: MessageKind, payload: &[u8]) {
        if !self.settings.admission.publishes_raw() {
            return self.close(slot, &CloseReason::ListenOnly);
        }
        let Some(membership) = self.connections[slot as usize].memberships.first() else { return };
        let opcode = match kind {
            MessageKind::Text => OpCode::Text,
            MessageKind::Binary => OpCode::Binary,
        };
        let room = membership.room;
        if let Err(denied) = self.allow(slot, Right::Publish, self.rooms.get(room).room.key()) {
            return self.close(slot, &CloseReason::Unidentified(&denied.to_string()));
        }
        let connection = &mut self.connections[slot as usize];
        let local = self.rooms.get(room);
        let published = local.room.publish_raw(&encode::frame(opcode, payload), &mut self.wakes);
        let is_deflating = local.room.is_deflating();
        match published {
            Published::Placed(seq) if !echo => connection.skip_own(seq, local),
            Published::Sent(number) => {
                let room = Arc::clone(&local.room);
                self.await_number(slot, number, None, room);
            }
            Published::Placed(_) | Published::Later(_) => {}
        }
        self.spend_on_compression(is_deflating, payload.len());
    }
}
