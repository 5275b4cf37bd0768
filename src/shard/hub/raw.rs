//! A message in a raw room is published as it is.

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
        if let Published::Placed(seq) = published
            && !echo
        {
            connection.skip_own(seq, local);
        }
        self.spend_on_compression(is_deflating, payload.len());
    }
}
