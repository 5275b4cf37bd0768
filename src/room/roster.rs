//! The members of a room: who has which name, and which joins and leaves are announced.

use std::os::fd::RawFd;

use super::inbox::Claimed;
use super::presence::{Announce, Presence, fold_ms};
use super::sorted::Sorted;
use super::{JoinError, Joining, NO_SOCKET, Visitor};
use crate::protocol::MemberId;
use crate::protocol::name::Name;
use crate::protocol::notice::Notice;

/// The member that holds a name in a room.
#[derive(Clone, Copy, Debug)]
struct Holder {
    member: MemberId,
    /// See [`Joining::descriptor`].
    descriptor: RawFd,
}

/// Stands for a member of another server, which has claimed the name in the log that they share.
const ELSEWHERE: MemberId = MemberId { shard: u32::MAX, slot: 0, serial: 0 };

/// How a member was admitted.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admitted {
    /// Without an announcement: in a raw room, where nobody has a name, or in place of its own lost connection, which then
    /// never left.
    Unnoticed,
    /// With a name that was free.
    New,
    /// With the name of a member whose peer is gone, though its shard hasn't noticed yet: the name as that member wrote it.
    Instead(Name),
}

/// What a member that was removed had.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Removed {
    /// Its name, which is free now.
    Named,
    /// A name that somebody has got on another server: nobody leaves.
    Displaced,
    /// No name, or one that it had lost already.
    Unnoticed,
}

/// The members of one room. Used under the room's lock.
#[derive(Debug)]
pub(super) struct Roster {
    users: Sorted<Name, Holder>,
    /// Members whose names somebody has got on another server, until they are closed, or have them again.
    displaced: Vec<(Name, Holder)>,
    /// How many users are on other servers, if there are too many to keep their names.
    elsewhere: Option<usize>,
    members: usize,
    presence: Presence,
    peer_has_ended: fn(RawFd) -> bool,
}

impl Roster {
    pub(super) fn new(peer_has_ended: fn(RawFd) -> bool) -> Self {
        let (users, displaced, presence) = Default::default();
        Self { users, displaced, elsewhere: None, members: 0, presence, peer_has_ended }
    }

    pub(super) fn members(&self) -> usize {
        self.members
    }

    /// Number of members that have a name; the others are listeners, or the room is raw.
    pub(super) fn users(&self) -> usize {
        self.users.len() + self.elsewhere.unwrap_or(0)
    }

    /// Whether the names of other servers' users are not kept.
    pub(super) fn is_partial(&self) -> bool {
        self.elsewhere.is_some()
    }

    /// The first `max` names in order.
    pub(super) fn first_users(&self, max: usize) -> Vec<Name> {
        self.users.iter().take(max).map(|(user, _)| user.clone()).collect()
    }

    /// Admits a member, unless another one holds its name. A name whose holder's peer has ended is free: a client that
    /// reconnects at once must not find its own name taken.
    pub(super) fn admit(&mut self, joining: &Joining<'_>) -> Result<Admitted, JoinError> {
        let Joining { user, member, descriptor, predecessor, claimed, .. } = *joining;
        let Some(user) = user else {
            self.members += 1;
            return Ok(Admitted::Unnoticed);
        };
        if claimed.is_none() && self.is_taken(user, predecessor) {
            return Err(JoinError::NameTaken);
        }
        // Removed, not just replaced: the new member may write the name differently.
        let former = self.users.remove(user.key());
        self.users.insert(user.clone(), Holder { member, descriptor });
        self.members += 1;
        Ok(match former {
            _ if claimed == Some(Claimed::TakenOver) => Admitted::Unnoticed,
            None => Admitted::New,
            // Its own server announces that it has left.
            Some((_, holder)) if holder.member == ELSEWHERE => Admitted::New,
            Some((_, holder)) if Some(holder.member) == predecessor => Admitted::Unnoticed,
            Some((former, _)) => Admitted::Instead(former),
        })
    }

    /// Removes a member. `user`: its name, if it has one.
    pub(super) fn remove(&mut self, user: Option<&Name>, member: MemberId) -> Removed {
        self.members -= 1;
        if let Some(displaced) = self.displaced.iter().position(|(_, holder)| holder.member == member) {
            self.displaced.swap_remove(displaced);
            return Removed::Displaced;
        }
        let held = user.filter(|user| self.users.get(user.key()).is_some_and(|holder| holder.member == member));
        match held.and_then(|user| self.users.remove(user.key())) {
            Some(_) => Removed::Named,
            None => Removed::Unnoticed,
        }
    }

    /// A member of another server has this name, or no longer has it.
    pub(super) fn set_elsewhere(&mut self, user: &Name, is_there: bool) {
        let is_here = |(_, holder): &(Name, Holder)| holder.member != ELSEWHERE;
        if is_there {
            self.displaced.extend(self.users.remove(user.key()).filter(is_here));
            if !self.is_partial() {
                self.users.insert(user.clone(), Holder { member: ELSEWHERE, descriptor: NO_SOCKET });
            }
            return;
        }
        if self.users.get(user.key()).is_some_and(|holder| holder.member == ELSEWHERE) {
            self.users.remove(user.key());
        }
        let displaced = self.displaced.iter().rposition(|(name, _)| name.key() == user.key());
        if let Some(displaced) = displaced.filter(|_| self.users.get(user.key()).is_none()) {
            let (name, holder) = self.displaced.swap_remove(displaced);
            self.users.insert(name, holder);
        }
    }

    /// A member that was displaced doesn't get its name again.
    pub(super) fn evict(&mut self, member: MemberId) {
        self.displaced.retain(|(_, holder)| holder.member != member);
    }

    /// There are too many users on other servers to keep their names; `None`: no longer, and they are told again.
    pub(super) fn count_elsewhere(&mut self, users: Option<usize>) {
        if !self.is_partial() && users.is_some() {
            let is_here = |(_, holder): &(&Name, &Holder)| holder.member != ELSEWHERE;
            let here: Vec<_> =
                self.users.iter().filter(is_here).map(|(user, holder)| (user.clone(), *holder)).collect();
            self.users = Sorted::default();
            for (user, holder) in here {
                self.users.insert(user, holder);
            }
        }
        self.elsewhere = users;
    }

    /// Whether this member holds the name, or did until somebody got it on another server, and its peer is gone.
    pub(super) fn has_ended(&self, user: &Name, member: MemberId) -> bool {
        let displaced = self.displaced.iter().map(|(_, holder)| holder);
        let mut holders = self.users.get(user.key()).into_iter().chain(displaced);
        holders.any(|holder| holder.member == member && (self.peer_has_ended)(holder.descriptor))
    }

    /// Whether a member holds the name of a visitor.
    pub(super) fn is_taken_from(&self, visitor: &Visitor<'_>) -> bool {
        self.is_taken(visitor.user, visitor.predecessor)
    }

    /// Whether another connection holds this name, other than the predecessor or one that has ended.
    fn is_taken(&self, user: &Name, predecessor: Option<MemberId>) -> bool {
        let holder = self.users.get(user.key());
        holder.is_some_and(|holder| Some(holder.member) != predecessor && !(self.peer_has_ended)(holder.descriptor))
    }

    fn fold_ms(&self) -> u64 {
        fold_ms(self.users.len(), self.elsewhere.unwrap_or(0))
    }

    /// How the join of a user is announced in `room`.
    pub(super) fn joined(&mut self, room: &str, user: &Name, now_ms: u64) -> Announce {
        let (members, fold_ms) = (self.members.max(self.users()), self.fold_ms());
        self.presence.joined(room, user, members, fold_ms, now_ms)
    }

    /// How the leave of a user is announced; `members` members remain.
    pub(super) fn left(&mut self, user: &Name, members: usize, now_ms: u64) -> Announce {
        let fold_ms = self.fold_ms();
        self.presence.left(user, members, fold_ms, now_ms)
    }

    /// The notice about all joins and leaves folded so far, if there are any.
    pub(super) fn flush(&mut self, room: &str, now_ms: u64) -> Option<Notice> {
        self.presence.flush(room, now_ms)
    }

    /// The room was empty, and gets its first member again.
    pub(super) fn reset(&mut self) {
        debug_assert!(
            self.members == 0
                && self.displaced.is_empty()
                && self.users.iter().all(|(_, holder)| holder.member == ELSEWHERE)
        );
        self.presence = Presence::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(slot: u32) -> MemberId {
        MemberId { shard: 0, slot, serial: 1 }
    }

    fn join(roster: &mut Roster, user: &Name, slot: u32) {
        let joining = Joining { claimed: Some(Claimed::Free), ..Joining::new(Some(user), member(slot)) };
        roster.admit(&joining).unwrap();
    }

    /// A room whose first member, bob, has lost his name to one on another server.
    fn displaced() -> (Roster, Name) {
        let mut roster = Roster::new(|_| false);
        let bob = Name::user("bob").unwrap();
        join(&mut roster, &bob, 1);
        roster.set_elsewhere(&bob, true);
        (roster, bob)
    }

    fn users(roster: &Roster) -> Vec<String> {
        roster.first_users(9).iter().map(Name::to_string).collect()
    }

    #[test]
    fn a_member_whose_name_was_taken_elsewhere_has_it_again_when_it_is_free() {
        for (elsewhere, known) in [(None, vec!["BOB"]), (Some(3), Vec::new())] {
            let mut roster = Roster::new(|_| true);
            let (bob, other) = (Name::user("bob").unwrap(), Name::user("BOB").unwrap());
            join(&mut roster, &bob, 1);
            roster.count_elsewhere(elsewhere);
            roster.set_elsewhere(&other, true);
            roster.set_elsewhere(&other, true);
            assert_eq!(users(&roster), known);
            assert!(roster.has_ended(&bob, member(1)) && !roster.has_ended(&bob, member(2)));
            roster.set_elsewhere(&other, false);
            assert_eq!(users(&roster), ["bob"]);
            assert_eq!(roster.remove(Some(&bob), member(1)), Removed::Named);
            assert!(users(&roster).is_empty());
        }
    }

    #[test]
    fn a_member_whose_name_was_taken_elsewhere_leaves_without_a_word() {
        let (mut roster, bob) = displaced();
        assert_eq!(roster.remove(Some(&bob), member(1)), Removed::Displaced);
        assert_eq!(users(&roster), ["bob"], "the other one");
        roster.set_elsewhere(&bob, false);
        assert!(users(&roster).is_empty());
        roster.reset();
    }

    #[test]
    fn a_member_that_has_lost_its_name_does_not_get_it_again() {
        let (mut roster, bob) = displaced();
        roster.evict(member(1));
        roster.set_elsewhere(&bob, false);
        assert!(users(&roster).is_empty());
        assert_eq!(roster.remove(Some(&bob), member(1)), Removed::Unnoticed);
    }

    #[test]
    fn the_last_that_has_joined_with_a_name_has_it() {
        let (mut roster, bob) = displaced();
        join(&mut roster, &bob, 2);
        roster.set_elsewhere(&bob, false);
        assert_eq!(roster.remove(Some(&bob), member(1)), Removed::Displaced);
        assert_eq!(roster.remove(Some(&bob), member(2)), Removed::Named);
    }
}
