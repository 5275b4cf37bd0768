//! A client of `hi.v1`: it asks with a `Ref`, and holds every answer against what it knows.

use bytes::Bytes;
use serde_json::{Value, json};

use super::chat::{epoch, room_of};
use super::{Client, Connection, End, Membership, Position};
use crate::scene::Scene;
use crate::seen::Seen;
use crate::server::Kind;
use crate::truth::Said;
use crate::wire;

/// What was asked.
#[derive(Debug)]
pub enum Asked {
    /// To join, with what it has.
    Join(&'static str, Option<Position>),
    /// To leave.
    Leave(&'static str),
    /// To publish this.
    Publish(&'static str, String),
    /// Something that needs no room.
    Other,
}

impl Connection {
    /// Sends a request with a `Ref`.
    pub(super) fn ask(&mut self, scene: &Scene, mut request: Value, asked: Asked) {
        self.next_ref += 1;
        request["Ref"] = json!(self.next_ref);
        self.asked.insert(self.next_ref, asked);
        self.send_json(scene, &request);
    }

    pub(super) fn send_json(&mut self, scene: &Scene, json: &Value) {
        let message = wire::message(&scene.random, self.deflates, wire::TEXT, json.to_string().as_bytes());
        self.out.extend_from_slice(&message);
    }

    /// Whether it waits for the beginning of what it will hear.
    pub(super) fn half_joined(&self) -> bool {
        !self.began
    }

    fn has_asked(&self, room: &str) -> bool {
        self.asked.values().any(|asked| matches!(asked, Asked::Join(of, _) | Asked::Leave(of) if *of == room))
    }
}

impl Client {
    /// Joins a room, with what it has of it or without.
    pub(super) fn join_v1(&mut self, scene: &Scene, room: &'static str) {
        let Some(connection) = &mut self.connection else { return };
        if connection.rooms.contains_key(room) || connection.has_asked(room) {
            return;
        }
        let since = self.left.get(room).copied().filter(|_| !scene.random.one_in(8));
        let request = since.map(|at| json!({"Epoch": format!("{:016x}", at.epoch), "Seq": at.seq}));
        connection.ask(scene, json!({"Op": "join", "Room": room, "Since": request}), Asked::Join(room, since));
    }

    /// Leaves a room.
    pub(super) fn leave_v1(&mut self, scene: &Scene, room: &'static str) {
        let Some(connection) = &mut self.connection else { return };
        // It may not be in the room of its address before it has heard of it.
        let is_in = connection.rooms.get(room).is_some_and(|membership| membership.next.is_some());
        if is_in && !connection.has_asked(room) {
            connection.ask(scene, json!({"Op": "leave", "Room": room}), Asked::Leave(room));
        }
    }

    pub(super) fn hear_v1(&mut self, scene: &Scene, payload: &Bytes) {
        let said = scene.truth.borrow_mut().read(payload);
        let user = self.user.clone();
        let connection = self.connection.as_mut().expect("it hears something");
        match said.text("Op") {
            "hello" => {
                assert!(!connection.greeted && said.text("User") == user, "{user}: a second hello, or another's");
                connection.greeted = true;
                self.resume = Some(said.text("Resume").to_owned());
            }
            _ if !connection.greeted => panic!("{user}: hello comes first, not {payload:?}"),
            "" if said.text("Event") == "drain" => {
                assert!(scene.stopping.get() > 0, "{user} is sent away without a reason")
            }
            "" => {
                let room = room_of(&said).unwrap_or_else(|| panic!("{user}: of which room is {payload:?}?"));
                self.hear_room(scene, room, payload, &said);
            }
            "ok" | "err" | "pong" if !said.json["Ref"].is_null() => self.answered(scene, &said),
            // The room of its address, before a Close; or something that it said without a `Ref`.
            "err" if ["name_taken", "room_not_found", "too_many_requests"].contains(&said.text("Code")) => {}
            _ => assert!(connection.misbehaves, "{user} has not asked for this: {payload:?}"),
        }
    }

    fn answered(&mut self, scene: &Scene, said: &Said) {
        let user = self.user.clone();
        let connection = self.connection.as_mut().expect("it hears something");
        let asked = said.json["Ref"].as_u64().and_then(|reference| connection.asked.remove(&reference));
        let asked = asked.unwrap_or_else(|| panic!("{user} has not asked for this, or was answered before: {said:?}"));
        let (is_ok, code) = (said.text("Op") != "err", said.text("Code"));
        let is_limited = code == "too_many_requests" && scene.plan.config.rate_limit > 0;
        match asked {
            Asked::Join(room, since) if is_ok => self.joined(scene, room, since, said),
            Asked::Join(..) => {
                assert!(is_limited || ["name_taken", "too_many_rooms"].contains(&code), "{user}: {said:?}")
            }
            Asked::Leave(room) if is_ok => {
                let membership = connection.rooms.remove(room).expect("it was in there");
                let next = membership.next.expect("known");
                assert!(
                    next > membership.acknowledged,
                    "{user} has left {room} without its own message {}, which was acknowledged",
                    membership.acknowledged
                );
                self.left.insert(room, Position { epoch: membership.epoch.expect("known"), seq: next - 1 });
            }
            Asked::Leave(_) => assert!(is_limited, "{user}: {said:?}"),
            Asked::Publish(room, text) if is_ok => {
                let (epoch, seq) = (epoch(said), said.seq.expect("an answer to pub has a Seq"));
                scene.saw(Seen::Acknowledged);
                scene.truth.borrow_mut().acknowledges((false, room, epoch, seq), &user, &text);
                if let Some(found) = scene.server.room(Kind::V1.namespace(), room).filter(|room| room.epoch() == epoch)
                {
                    let last = found.last_seq();
                    assert!(seq <= last, "{user} is told that {room} has its message as {seq}; there are {last}");
                }
                if let Some(membership) = connection.rooms.get_mut(room) {
                    membership.acknowledged = membership.acknowledged.max(seq);
                }
            }
            Asked::Publish(room, _) => {
                // From outside, nobody may be in there, or somebody with its name.
                let is_in = connection.rooms.get(room).is_some_and(|membership| membership.next.is_some());
                let may_fail = !is_in && ["room_not_found", "name_taken"].contains(&code);
                assert!(is_limited || may_fail, "{user} in {room}: {said:?}");
            }
            Asked::Other => assert!(is_ok || is_limited || code == "room_not_found", "{user}: {said:?}"),
        }
    }

    fn joined(&mut self, scene: &Scene, room: &'static str, since: Option<Position>, said: &Said) {
        let (user, seq, epoch) = (&self.user, said.seq.expect("an answer to join has a Seq"), epoch(said));
        let recovered = said.json["Recovered"].as_bool();
        assert_eq!(recovered.is_some(), since.is_some(), "{user} {room}: {said:?}");
        if let (Some(since), Some(recovered)) = (since, recovered) {
            if recovered {
                assert_eq!(
                    (since.epoch, since.seq),
                    (epoch, seq),
                    "{user} has recovered, but not from where it stopped"
                );
                scene.saw(Seen::Recovered);
            } else {
                assert!(since.epoch != epoch || since.seq <= seq, "{user} has {since:?} of {room}: {said:?}");
                let must = since.epoch == epoch && scene.must_recover(room, epoch, since.seq, seq);
                assert!(!must, "{user} has {since:?} of {room}, and doesn't get what is kept: {said:?}");
                scene.saw(Seen::Refused);
            }
        }
        let connection = self.connection.as_mut().expect("it hears something");
        let membership = Membership { epoch: Some(epoch), next: Some(seq + 1), ..Membership::default() };
        let before = connection.rooms.insert(room, membership);
        assert!(before.is_none(), "{user} was in {room}");
        assert!(connection.end != End::Open || connection.rooms.len() <= scene.plan.config.max_rooms as usize);
    }
}
