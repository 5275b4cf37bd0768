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

/// The members of one room. Used under the room's lock.
#[derive(Debug)]
pub(super) struct Roster {
    users: Sorted<Name, Holder>,
    /// How many users are on other servers, if there are too many to keep their names.
    elsewhere: Option<usize>,
    members: usize,
    presence: Presence,
    peer_has_ended: fn(RawFd) -> bool,
}

impl Roster {
    pub(super) fn new(peer_has_ended: fn(RawFd) -> bool) -> Self {
        Self { users: Sorted::default(), elsewhere: None, members: 0, presence: Presence::default(), peer_has_ended }
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

    /// Removes a member. False: this is not announced, because it has no name, or because another connection has taken the name
    /// over.
    pub(super) fn remove(&mut self, user: Option<&Name>, member: MemberId) -> bool {
        self.members -= 1;
        let held = user.filter(|user| self.users.get(user.key()).is_some_and(|holder| holder.member == member));
        held.is_some_and(|user| self.users.remove(user.key()).is_some())
    }

    /// A member of another server has this name, or no longer has it.
    pub(super) fn set_elsewhere(&mut self, user: &Name, is_there: bool) {
        if is_there {
            self.users.remove(user.key());
        }
        if self.is_partial() {
            return;
        }
        if is_there {
            self.users.insert(user.clone(), Holder { member: ELSEWHERE, descriptor: NO_SOCKET });
        } else if self.users.get(user.key()).is_some_and(|holder| holder.member == ELSEWHERE) {
            self.users.remove(user.key());
        }
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

    /// Whether this member holds the name, and its peer is gone.
    pub(super) fn has_ended(&self, user: &Name, member: MemberId) -> bool {
        let holder = self.users.get(user.key());
        holder.is_some_and(|holder| holder.member == member && (self.peer_has_ended)(holder.descriptor))
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
        debug_assert!(self.members == 0 && self.users.iter().all(|(_, holder)| holder.member == ELSEWHERE));
        self.presence = Presence::default();
    }
}
