//! Joining and leaving a room, and announcing it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::replay::Gathered;
use super::roster::{Admitted, Removed};
use super::{Announced, Entered, JoinError, Joining, Room, RoomState, Wakes};
use crate::clock::Time;
use crate::limits::REPLAY_HEAD_BYTES_MAX;
use crate::protocol::MemberId;
use crate::protocol::name::Name;

impl Room {
    /// Adds a member. A chat room announces it, also to the new member itself, unless it takes over the name of its own lost
    /// connection.
    pub(super) fn join(
        self: &Arc<Self>,
        joining: &Joining<'_>,
        now: Time,
        wakes: &mut Wakes,
    ) -> Result<Entered, JoinError> {
        let mut state = self.lock();
        if !state.alive {
            return Err(JoinError::Gone);
        }
        let others = state.roster.members();
        let admitted = state.roster.admit(joining)?;
        let mut announced = Announced::Done;
        if let Admitted::Instead(former) = &admitted {
            announced = self.announce_leave(&mut state, former, others, now, wakes);
        }
        state.sequencer.open(joining.member.shard);
        let position = state.sequencer.position(joining.since, now, REPLAY_HEAD_BYTES_MAX);
        if let Some(user) = joining.user.filter(|_| admitted != Admitted::Unnoticed) {
            let announce = state.roster.joined(self.name(), user, now.monotonic_ms);
            announced = announced.and(self.announce(&mut state, announce, now, wakes));
        }
        let users = self.count(&state);
        drop(state);
        Ok(Entered {
            first_seq: position.first_seq,
            from_seq: position.from_seq,
            head: position.head.map(Gathered::batch),
            recovered: position.recovered,
            users,
            announced,
        })
    }

    /// Removes a member. The second value says whether it was the last one, so that the room is no longer alive. A member whose
    /// name was taken over leaves without an announcement.
    pub(super) fn leave(
        self: &Arc<Self>,
        user: Option<&Name>,
        member: MemberId,
        now: Time,
        wakes: &mut Wakes,
    ) -> (Announced, bool) {
        let mut state = self.lock();
        state.sequencer.close(member.shard);
        let removed = state.roster.remove(user, member);
        self.count(&state);
        let left = state.roster.members();
        let is_last = left == 0;
        state.alive = !is_last;
        let told = user.filter(|_| removed == Removed::Named);
        let released = user.filter(|_| removed != Removed::Unnoticed);
        if let (Some(outward), Some(user)) = (&self.outward, released) {
            outward.release(&self.name, user, member, told.is_some());
        }
        if is_last && state.roster.users() == 0 {
            return (Announced::Done, true);
        }
        let remain = left.max(state.roster.users());
        let announced = told.map(|user| self.announce_leave(&mut state, user, remain, now, wakes));
        (announced.unwrap_or(Announced::Done), is_last)
    }

    /// A user of another server has joined this room, or has left it.
    pub fn set_elsewhere(&self, user: &Name, is_there: bool) {
        let mut state = self.lock();
        state.roster.set_elsewhere(user, is_there);
        self.count(&state);
    }

    /// A member whose name somebody has got on another server has lost it for good.
    pub fn evict(&self, member: MemberId) {
        self.lock().roster.evict(member);
    }

    /// How many users are on other servers, if there are too many to keep their names; `None`: they are few again, and each is told with
    /// [`Room::set_elsewhere`].
    pub fn count_elsewhere(&self, users: Option<usize>) {
        let mut state = self.lock();
        state.roster.count_elsewhere(users);
        self.count(&state);
    }

    /// Whether the names of other servers' users are not kept.
    pub fn is_partial(&self) -> bool {
        self.lock().roster.is_partial()
    }

    /// Announces a join or leave that its own server can't announce: it is gone, or had been given up by the others.
    pub fn announce_elsewhere(
        self: &Arc<Self>,
        user: &Name,
        is_there: bool,
        now: Time,
        wakes: &mut Wakes,
    ) -> Announced {
        let mut state = self.lock();
        let members = state.roster.members().max(state.roster.users());
        let announce = match is_there {
            true => state.roster.joined(self.name(), user, now.monotonic_ms),
            false => state.roster.left(user, members, now.monotonic_ms),
        };
        self.announce(&mut state, announce, now, wakes)
    }

    /// Whether this member holds the name, and its peer is gone.
    pub fn has_ended(&self, user: &Name, member: MemberId) -> bool {
        self.lock().roster.has_ended(user, member)
    }

    fn announce_leave(
        self: &Arc<Self>,
        state: &mut RoomState,
        user: &Name,
        members: usize,
        now: Time,
        wakes: &mut Wakes,
    ) -> Announced {
        let announce = state.roster.left(user, members, now.monotonic_ms);
        self.announce(state, announce, now, wakes)
    }

    /// Updates the counts that lists of rooms read. Returns the number of users.
    fn count(&self, state: &RoomState) -> usize {
        self.users.store(state.roster.users(), Ordering::Relaxed);
        self.members.store(state.roster.members(), Ordering::Relaxed);
        state.roster.users()
    }

    pub(super) fn is_alive(&self) -> bool {
        self.lock().alive
    }

    /// Revives a dormant room for a new member.
    pub(super) fn revive(&self) {
        let mut state = self.lock();
        debug_assert!(!state.alive);
        state.alive = true;
        state.roster.reset();
    }
}
