//! What raw members hear: payloads as they were said, without a number. Each member counts along, and what it can't count is
//! compared with what others have seen once everything has arrived.

use bytes::Bytes;

use super::{Client, Membership};
use crate::scene::Scene;
use crate::seen::Seen;
use crate::server::Kind;
use crate::truth::sender;

impl Client {
    pub(super) fn hear_raw(&mut self, scene: &Scene, payload: &Bytes) {
        let Kind::Raw { echo, lossy } = self.kind else { return };
        let connection = self.connection.as_mut().expect("it hears something");
        let (room, membership) = connection.rooms.iter_mut().next().expect("a raw member is in one room");
        scene.saw(Seen::Heard);
        if !echo || lossy {
            let own = is_own(payload, &connection.tag);
            assert!(echo || !own, "{}: its own message came back: {payload:?}", self.user);
            return membership.unplaced.push_back(payload.clone());
        }
        let next = membership.next.expect("known from the beginning");
        membership.next = Some(next + 1);
        scene.truth.borrow_mut().sees((true, room, epoch_of(membership), next), payload, self.kind);
    }

    /// Compares what a raw member has heard with what is known.
    pub fn place(&mut self, scene: &Scene) {
        let Kind::Raw { echo, lossy } = self.kind else { return };
        let Some(connection) = &mut self.connection else { return };
        for (room, membership) in &mut connection.rooms {
            membership.place(scene, room, &connection.tag, echo, lossy);
            membership.skip_own(scene, room, &connection.tag);
        }
    }
}

fn is_own(payload: &[u8], tag: &str) -> bool {
    std::str::from_utf8(payload).ok().and_then(sender).is_some_and(|(sender, _)| sender == tag)
}

/// The life of a raw room: clients don't see it, but it is known when they come in.
fn epoch_of(membership: &Membership) -> u64 {
    membership.began.map_or(0, |(epoch, _)| epoch)
}

impl Membership {
    /// Compares what has come with what others have seen, as far as all of that is known.
    pub(super) fn place(&mut self, scene: &Scene, room: &'static str, tag: &str, echo: bool, lossy: bool) {
        let truth = scene.truth.borrow();
        let epoch = epoch_of(self);
        while let Some(next) = self.next
            && let Some(heard) = self.unplaced.front()
            && let Some(known) = truth.at((true, room, epoch, next))
        {
            if known == heard {
                self.unplaced.pop_front();
            } else {
                let may_skip = lossy || !echo && is_own(known, tag);
                assert!(may_skip, "{tag} in {room}: {known:?} has to come as {next}, but {heard:?} comes");
            }
            self.next = Some(next + 1);
        }
    }

    /// Steps over its own messages, which it doesn't get, behind all that has come.
    pub(super) fn skip_own(&mut self, scene: &Scene, room: &'static str, tag: &str) {
        let truth = scene.truth.borrow();
        while let Some(next) = self.next
            && self.unplaced.is_empty()
            && let Some(known) = truth.at((true, room, epoch_of(self), next))
            && is_own(known, tag)
        {
            self.next = Some(next + 1);
        }
    }
}
