//! A client of 2017: slash commands, and answers that are texts.

use bytes::Bytes;
use serde_json::json;

use super::chat::room_of;
use super::{Client, Membership};
use crate::scene::Scene;

/// What it waits for in a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pending {
    /// To hear something of it.
    Join,
    /// The confirmation.
    Leave,
}

impl Client {
    /// Joins a room: from another one, as the commands of 2017 want it.
    pub(super) fn join_v0(&mut self, scene: &Scene, room: &'static str) {
        let Some(connection) = &mut self.connection else { return };
        let Some(from) = connection.rooms.keys().next().copied() else { return };
        if !connection.pending.contains_key(room) && !connection.rooms.contains_key(room) {
            connection.pending.insert(room, Pending::Join);
            connection.send_json(scene, &json!({"Room": from, "Message": format!("/join {room}")}));
        }
    }

    /// Leaves a room, unless it is the last one.
    pub(super) fn leave_v0(&mut self, scene: &Scene, room: &'static str) {
        let Some(connection) = &mut self.connection else { return };
        let is_in = connection.rooms.get(room).is_some_and(|membership| membership.next.is_some());
        if !connection.pending.contains_key(room) && is_in && connection.rooms.len() > 1 {
            connection.pending.insert(room, Pending::Leave);
            connection.send_json(scene, &json!({"Room": room, "Message": format!("/leave {room}")}));
        }
    }

    pub(super) fn hear_v0(&mut self, scene: &Scene, payload: &Bytes) {
        let said = scene.truth.borrow_mut().read(payload);
        let user = self.user.clone();
        let connection = self.connection.as_mut().expect("it hears something");
        if said.seq.is_none() && said.text("Event") != "gap" {
            let text = said.text("Message");
            assert!(said.json["Meta"] == true, "{user}: without a Seq, and nobody's notice: {payload:?}");
            // Refusals don't say of what: a room that it could not join or leave is let be.
            if let Some(room) = text.strip_prefix("Left channel ").and_then(|rest| rest.strip_suffix('.')) {
                let asked = connection.pending.remove(room);
                assert_eq!(asked, Some(Pending::Leave), "{user} has left {room} and doesn't know why");
                let membership = connection.rooms.remove(room);
                assert!(membership.is_some(), "{user} leaves a room that it is not in");
            }
            return;
        }
        let room = room_of(&said).unwrap_or_else(|| panic!("{user}: of which room is {payload:?}?"));
        if connection.pending.get(room) == Some(&Pending::Join) {
            connection.pending.remove(room);
            connection.rooms.insert(room, Membership::default());
        }
        self.hear_room(scene, room, payload, &said);
    }
}
