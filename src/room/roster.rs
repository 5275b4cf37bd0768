//! The members of a room: who has which name, and which joins and leaves are announced.

use std::os::fd::RawFd;

use super::presence::{Announce, Presence};
use super::sorted::Sorted;
use super::{JoinError, Joining, Visitor};
use crate::protocol::MemberId;
use crate::protocol::name::Name;
use crate::protocol::notice::Notice;

/// The member that has a name in a room.
#[derive(Clone, Copy, Debug)]
struct Holder {
    member: MemberId,
    /// See [`Joining::descriptor`].
    descriptor: RawFd,
}

/// How a member got in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admitted {
    /// In raw rooms, where nobody has a name; or over its own lost connection, which has never been away then.
    Unnoticed,
    /// Under a name that was free.
    New,
    /// Under the name of a member whose peer is gone, though its shard has not heard of it yet: this one, as it was written.
    Instead(Name),
}

/// See the module. Used under the room's lock.
#[derive(Debug)]
pub(super) struct Roster {
    users: Sorted<Name, Holder>,
    members: usize,
    presence: Presence,
    peer_has_ended: fn(RawFd) -> bool,
}

impl Roster {
    pub(super) fn new(peer_has_ended: fn(RawFd) -> bool) -> Self {
        Self { users: Sorted::default(), members: 0, presence: Presence::default(), peer_has_ended }
    }

    /// How many members there are.
    pub(super) fn members(&self) -> usize {
        self.members
    }

    /// How many of them have a name.
    pub(super) fn users(&self) -> usize {
        self.users.len()
    }

    /// The first `max` names.
    pub(super) fn first_users(&self, max: usize) -> Vec<Name> {
        self.users.iter().take(max).map(|(user, _)| user.clone()).collect()
    }

    /// Lets a member in, unless another one has its name. A name whose holder has ended is free: a client that reconnects at
    /// once must not find its own name taken.
    pub(super) fn admit(&mut self, joining: &Joining<'_>) -> Result<Admitted, JoinError> {
        let Joining { user, member, descriptor, predecessor, .. } = *joining;
        let Some(user) = user else {
            self.members += 1;
            return Ok(Admitted::Unnoticed);
        };
        if self.is_taken(user, predecessor) {
            return Err(JoinError::NameTaken);
        }
        // Removed, and not only replaced: the newcomer may write the name in another way.
        let former = self.users.remove(user.key());
        self.users.insert(user.clone(), Holder { member, descriptor });
        self.members += 1;
        Ok(match former {
            None => Admitted::New,
            Some((_, holder)) if Some(holder.member) == predecessor => Admitted::Unnoticed,
            Some((former, _)) => Admitted::Instead(former),
        })
    }

    /// Takes a member out. False: nobody is told, as it has no name, or another connection has taken it over.
    pub(super) fn remove(&mut self, user: Option<&Name>, member: MemberId) -> bool {
        self.members -= 1;
        let held = user.filter(|user| self.users.get(user.key()).is_some_and(|holder| holder.member == member));
        held.is_some_and(|user| self.users.remove(user.key()).is_some())
    }

    /// Whether a visitor would speak for a member.
    pub(super) fn is_taken_from(&self, visitor: &Visitor<'_>) -> bool {
        self.is_taken(visitor.user, visitor.predecessor)
    }

    /// Whether another one has this name: neither the connection that it is taken over from, nor one that has ended.
    fn is_taken(&self, user: &Name, predecessor: Option<MemberId>) -> bool {
        let holder = self.users.get(user.key());
        holder.is_some_and(|holder| Some(holder.member) != predecessor && !(self.peer_has_ended)(holder.descriptor))
    }

    /// How the join of a user is announced in `room`.
    pub(super) fn joined(&mut self, room: &str, user: &Name, now_ms: u64) -> Announce {
        self.presence.joined(room, user, self.members, now_ms)
    }

    /// How the leave of a user is announced, if `members` are left then.
    pub(super) fn left(&mut self, user: &Name, members: usize, now_ms: u64) -> Announce {
        self.presence.left(user, members, now_ms)
    }

    /// The notice about all joins and leaves that were folded until now, if there are any.
    pub(super) fn flush(&mut self, room: &str, now_ms: u64) -> Option<Notice> {
        self.presence.flush(room, now_ms)
    }

    /// The room had no members, and gets its first one again.
    pub(super) fn begin_again(&mut self) {
        debug_assert!(self.members == 0 && self.users.len() == 0);
        self.presence = Presence::default();
    }
}
