//! Joining and leaving a room: who has which name there, and what is said about it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::presence::Presence;
use super::replay::Gathered;
use super::{Announced, Entered, Holder, JoinError, Joining, Room, State, Wakes};
use crate::clock::Time;
use crate::protocol::MemberId;
use crate::protocol::name::Name;

/// Bytes of replay that the join itself returns; the rest is read while it is sent.
const REPLAY_HEAD_BYTES_MAX: usize = 64 * 1024;

impl Room {
    /// Adds a member. A chat room announces it, the newcomer included; one that takes its name over from its own lost
    /// connection has never been away. A name whose holder has ended is free, though the holder's shard may not have heard
    /// of the end yet: a client that reconnects at once must not find its own name taken.
    pub(super) fn join(
        self: &Arc<Self>,
        joining: &Joining<'_>,
        now: Time,
        wakes: &mut Wakes,
    ) -> Result<Entered, JoinError> {
        let Joining { user, member, socket, since, predecessor } = *joining;
        let mut state = self.lock();
        if !state.alive {
            return Err(JoinError::Gone);
        }
        let mut announces = user.is_some();
        let mut announced = Announced::Done;
        if let Some(user) = user {
            let holder = state.users.get(user.key()).copied();
            if holder.is_some_and(|holder| Some(holder.member) != predecessor && !(self.peer_has_ended)(holder.socket))
            {
                return Err(JoinError::NameTaken);
            }
            // Removed, and not only replaced: the newcomer may write the name in another way.
            if let Some((former, holder)) = state.users.remove(user.key()) {
                if Some(holder.member) == predecessor {
                    announces = false;
                } else {
                    announced = self.say_farewell(&mut state, &former, now, wakes);
                }
            }
            state.users.insert(user.clone(), Holder { member, socket });
        }
        state.members_by_shard[member.shard as usize] += 1;
        state.members += 1;
        let first_seq = state.next_seq;
        state.replay.cut(now.monotonic_ms);
        let recovered = since.map(|since| {
            since.epoch == Some(self.epoch) && since.seq < first_seq && state.replay.reaches(since.seq + 1)
        });
        let from_seq = since.filter(|_| recovered == Some(true)).map_or(first_seq, |since| since.seq + 1);
        let head = state.replay.gather(from_seq, first_seq, REPLAY_HEAD_BYTES_MAX);
        if let Some(user) = user
            && announces
        {
            let members = state.members;
            let announce = state.presence.joined(self.name(), user, members, now.monotonic_ms);
            announced = announced.and(self.announce(&mut state, announce, now, wakes));
        }
        let users = self.count(&state);
        drop(state);
        let head = head.map(Gathered::batch);
        Ok(Entered { first_seq, from_seq, head, recovered, users, announced })
    }

    /// Removes a member; the second value says whether it was the last one, with which the room is no longer alive. A
    /// member whose name was taken over leaves in silence.
    pub(super) fn leave(
        self: &Arc<Self>,
        user: Option<&Name>,
        member: MemberId,
        now: Time,
        wakes: &mut Wakes,
    ) -> (Announced, bool) {
        let mut state = self.lock();
        state.members_by_shard[member.shard as usize] -= 1;
        state.members -= 1;
        let user = user.filter(|user| state.users.get(user.key()).is_some_and(|holder| holder.member == member));
        if let Some(user) = user {
            state.users.remove(user.key());
        }
        self.count(&state);
        if state.members == 0 {
            state.alive = false;
            return (Announced::Done, true);
        }
        let announced = user.map(|user| self.say_farewell(&mut state, user, now, wakes));
        (announced.unwrap_or(Announced::Done), false)
    }

    fn say_farewell(self: &Arc<Self>, state: &mut State, user: &Name, now: Time, wakes: &mut Wakes) -> Announced {
        let announce = state.presence.left(user, state.members, now.monotonic_ms);
        self.announce(state, announce, now, wakes)
    }

    /// Shows how many are in the room now to lists of many rooms; how many users that is.
    fn count(&self, state: &State) -> usize {
        self.users.store(state.users.len(), Ordering::Relaxed);
        self.members.store(state.members, Ordering::Relaxed);
        state.users.len()
    }

    pub(super) fn is_alive(&self) -> bool {
        self.lock().alive
    }

    /// A room that slept has a first member again.
    pub(super) fn wake(&self) {
        let mut state = self.lock();
        debug_assert!(!state.alive && state.members == 0);
        state.alive = true;
        state.presence = Presence::default();
    }
}
