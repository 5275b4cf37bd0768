//! What chat clients of all dialects hear of a room: one order, without a hole that they weren't told of.

use bytes::Bytes;
use hi::protocol::position::Since;

use super::{Client, Membership};
use crate::plan::ROOMS;
use crate::scene::Scene;
use crate::seen::Seen;
use crate::server::Kind;
use crate::truth::Said;
use crate::wire::{Event, epoch_number};

/// The room that a message names.
pub(super) fn room_of(said: &Said) -> Option<&'static str> {
    ROOMS.into_iter().find(|room| said.text("Room") == *room)
}

impl Client {
    /// A message of a room, or a notice about one.
    pub(super) fn hear_room(&mut self, scene: &Scene, room: &'static str, payload: &Bytes, said: &Said) {
        let user = self.user.clone();
        let connection = self.connection.as_mut().expect("it hears something");
        let membership = connection.rooms.get_mut(room);
        let membership = membership.unwrap_or_else(|| panic!("{user} is not in {room}, but hears {payload:?}"));
        let epoch = said.epoch.expect("what a room says has an epoch");
        membership.is_of(epoch, &user, room);
        if said.text("Event") == "gap" {
            let (Some(first), Some(last)) = (said.json["FromSeq"].as_u64(), said.json["ToSeq"].as_u64()) else {
                panic!("{user} is in {room}, and is told of a gap without an end: {payload:?}");
            };
            membership.continues_with(first, &user, room);
            assert!(first <= last, "{user} {room}: an empty gap: {payload:?}");
            membership.next = Some(last + 1);
            return scene.saw(Seen::Gap);
        }
        let seq = said.seq.expect("what a room says has a Seq");
        membership.continues_with(seq, &user, room);
        membership.next = Some(seq + 1);
        scene.saw(Seen::Heard);
        scene.truth.borrow_mut().sees((false, room, epoch, seq), payload, self.kind);
    }

    /// An event of a stream.
    pub(super) fn hear_event(&mut self, scene: &Scene, event: &Event) {
        let user = self.user.clone();
        let connection = self.connection.as_mut().expect("it hears something");
        let (room, membership) = connection.rooms.iter_mut().next().expect("a listener is in one room");
        let room = *room;
        let Some(id) = event.id else {
            assert!(event.data.is_empty(), "{user}: data without an id");
            return;
        };
        if event.data.is_empty() {
            assert!(event.retry && !connection.greeted, "{user}: an opening, and only one");
            connection.greeted = true;
            let told_of_gap = membership.next.is_some();
            let since = connection.since.take().filter(|_| !told_of_gap);
            Self::begins(scene, &user, membership, id, since);
            return;
        }
        let said = scene.truth.borrow_mut().read(&event.data);
        assert_eq!(said.epoch, Some(id.0), "{user}: the id and the message name two epochs");
        if event.name == "gap" && !connection.greeted {
            // It can't have what it missed: from there on it begins anew.
            let since = connection.since.expect("it asked");
            if since.epoch == Some(id.0) && since.seq < id.1 {
                let (first, last) = (said.json["FromSeq"].as_u64(), said.json["ToSeq"].as_u64());
                assert_eq!((first, last), (Some(since.seq + 1), Some(id.1)), "{user} has {since:?}: {event:?}");
                let must = scene.must_recover(room, id.0, since.seq, id.1);
                assert!(!must, "{user} has {since:?} of {room}, and doesn't get what is kept: {event:?}");
            } else {
                assert!(said.json["FromSeq"].is_null(), "{user} has {since:?}, and is told of a length: {event:?}");
            }
            membership.epoch = Some(id.0);
            membership.next = Some(id.1 + 1);
            return scene.saw(Seen::Refused);
        }
        let last = if event.name == "gap" { said.json["ToSeq"].as_u64() } else { said.seq };
        assert_eq!(last, Some(id.1), "{user}: the id and the message name two places");
        assert!(connection.greeted, "{user}: the opening comes first");
        self.hear_room(scene, room, &event.data, &said);
    }

    /// A listener is told where it stands.
    fn begins(scene: &Scene, user: &str, membership: &mut Membership, id: (u64, u64), since: Option<Since>) {
        match since {
            Some(Since { epoch, seq }) => {
                // A stream that begins where the listener stopped, or elsewhere in a room in which nothing was said.
                assert!(
                    epoch == Some(id.0) && seq == id.1,
                    "{user} had {since:?}, and isn't told what it lost: {id:?}"
                );
                scene.saw(Seen::Recovered);
            }
            None => {
                assert!(membership.next.is_none_or(|next| next == id.1 + 1), "{user}: {membership:?} {id:?}");
            }
        }
        (membership.epoch, membership.next) = (Some(id.0), Some(id.1 + 1));
    }

    /// Whether a raw member can't tell if it has everything: nobody knows what comes next, or it asked for less.
    fn may_not_know(&self, scene: &Scene, room: &'static str, membership: &Membership, next: u64) -> bool {
        let Kind::Raw { echo, lossy } = self.kind else { return false };
        let is_known =
            scene.truth.borrow().at((true, room, membership.began.map_or(0, |(epoch, _)| epoch), next)).is_some();
        let skips = lossy && !self.has_newest(scene, membership, echo);
        skips || !echo && !is_known
    }

    /// Whether the last message that it has must be the newest: it skips to that, and all that it has heard is known.
    fn has_newest(&self, scene: &Scene, membership: &Membership, echo: bool) -> bool {
        self.latest.is_some() && echo && membership.unplaced.is_empty() && scene.plan.drops_nothing()
    }

    /// Everything has been delivered: this client has to have it.
    pub fn check_is_up_to_date(&self, scene: &Scene) {
        let Some(connection) = self.connection.as_ref().filter(|connection| connection.end == super::End::Open) else {
            return;
        };
        if connection.half_joined() {
            return;
        }
        for (room, membership) in &connection.rooms {
            let found = scene.server.room(self.kind.namespace(), room);
            let found = found.unwrap_or_else(|| panic!("{} is in {room}, and there is no such room", self.user));
            if let Some(epoch) = membership.epoch {
                assert_eq!(epoch, found.epoch(), "{} is in another life of {room}", self.user);
            }
            let (tip, began) = (found.last_seq() + 1, membership.began.map_or(0, |(_, last)| last + 1));
            let next = membership.next.unwrap_or(began);
            assert!(
                next == tip || self.may_not_know(scene, room, membership, next),
                "{} is stuck in {room}: {next} has to come next, and there is everything up to {tip}",
                self.user
            );
        }
        assert!(connection.asked.is_empty(), "{} was not answered: {:?}", self.user, connection.asked);
        assert!(!connection.reader.is_cut_off(), "{} waits for the rest of a frame", self.user);
    }
}

impl Membership {
    fn is_of(&mut self, epoch: u64, user: &str, room: &str) {
        let known = *self.epoch.get_or_insert(epoch);
        assert_eq!(known, epoch, "{user}: a room isn't made anew under its members: {room}");
    }

    /// The next that comes begins here.
    fn continues_with(&self, seq: u64, user: &str, room: &str) {
        match (self.next, self.began) {
            (Some(next), _) => {
                assert!(
                    next == seq,
                    "{user} in {room}: {next} has to come, but {seq} comes, untold of what is between"
                );
            }
            (None, Some((epoch, last))) if self.epoch == Some(epoch) => assert!(
                seq == last || seq == last + 1,
                "{user} came into {room} when {last} had been said, and begins with {seq}"
            ),
            _ => {}
        }
    }
}

/// Reads an epoch where there has to be one.
pub(super) fn epoch(said: &Said) -> u64 {
    epoch_number(said.text("Epoch"))
}
