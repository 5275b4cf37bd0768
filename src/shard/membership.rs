//! Into a room and out of it: in the registry, which all shards share, and on this shard.

use std::sync::Arc;

use super::Shard;
use super::reading::MEMBERSHIP_WORK;
use crate::connection::Membership;
use crate::metrics::counters::Replay;
use crate::protocol::Namespace;
use crate::protocol::name::Name;
use crate::protocol::position::Since;
use crate::ring::DataRing;
use crate::room::registry::Joined;
use crate::room::{Announced, Entered, JoinError, Joining, Room};

impl<R: DataRing> Shard<R> {
    /// Enters the room of its address.
    pub(super) fn enter(
        &mut self,
        slot: u32,
        namespace: Namespace,
        name: &Name,
        since: Option<Since>,
    ) -> Result<(), JoinError> {
        if self.connection(slot).is_stream() {
            return self.listen(slot, name, since);
        }
        self.join(slot, namespace, name, None).map(drop)
    }

    /// Counts what became of a request for what was missed.
    pub(super) fn count_replay(&self, room: &Room, since: Option<Since>, entered: &Entered) {
        if let (Some(since), Some(recovered)) = (since, entered.recovered) {
            let outcome = match recovered {
                true => Replay::Recovered,
                false if since.epoch == Some(room.epoch()) => Replay::TooOld,
                false => Replay::OtherEpoch,
            };
            self.counters.replays(outcome).add(1);
        }
    }

    /// Joins a room by name. What it has missed since it was there is not yet on its way.
    pub(super) fn join(
        &mut self,
        slot: u32,
        namespace: Namespace,
        name: &Name,
        since: Option<Since>,
    ) -> Result<(Arc<Room>, Entered), JoinError> {
        self.spend(MEMBERSHIP_WORK);
        let member = self.member_id(slot);
        let connection = &self.connections[slot as usize];
        let joining = Joining {
            user: connection.user(),
            member,
            socket: self.ring.descriptor(slot),
            since,
            predecessor: connection.predecessor.as_deref().copied(),
        };
        let Joined { room, entered } = self.registry.join(namespace, name, &joining, self.now.time, &mut self.wakes)?;
        let room_slot = self.rooms.join(&room, connection.role.form(), entered.first_seq, self.config.backlog_bytes);
        let index = self.rooms.get_mut(room_slot).add_member(slot);
        self.connection(slot).memberships.push(Membership {
            room: room_slot,
            index,
            cursor: entered.from_seq,
            joined_seq: entered.first_seq,
        });
        self.fold(entered.announced, Arc::clone(&room));
        Ok((room, entered))
    }

    /// Ends a membership.
    pub(super) fn leave(&mut self, slot: u32, room_slot: u32) {
        self.spend(MEMBERSHIP_WORK);
        let connection = &mut self.connections[slot as usize];
        let Some(membership) = connection.memberships.iter().find(|membership| membership.room == room_slot) else {
            return;
        };
        let index = membership.index;
        let user = connection.user().cloned();
        connection.left(room_slot, &self.rooms);
        let member = self.member_id(slot);
        let (local, connections) = (self.rooms.get_mut(room_slot), &mut self.connections);
        let room = Arc::clone(&local.room);
        local.remove_member(index, |moved, index| {
            let memberships = &mut connections[moved as usize].memberships;
            let membership = memberships.iter_mut().find(|membership| membership.room == room_slot);
            membership.expect("a connection in a room's list has a membership").index = index;
        });
        if local.members().is_empty() {
            self.rooms.remove(room_slot);
        }
        let announced = self.registry.leave(&room, user.as_ref(), member, self.now.time, &mut self.wakes);
        self.fold(announced, room);
    }

    pub(super) fn leave_all(&mut self, slot: u32) {
        while let Some(membership) = self.connection(slot).memberships.first().copied() {
            self.leave(slot, membership.room);
        }
    }

    fn fold(&mut self, announced: Announced, room: Arc<Room>) {
        if let Announced::At(due_ms) = announced {
            self.folded.push((due_ms, room));
        }
    }
}
