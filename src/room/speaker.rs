//! The speaker of a message in a room: no client can speak for another, not even from outside.

use std::os::fd::RawFd;

use super::State;
use crate::protocol::MemberId;
use crate::protocol::name::Name;

/// The one that says something in a chat room.
#[derive(Clone, Copy, Debug)]
pub enum Speaker<'a> {
    /// A member, under the name that it has there.
    Member(&'a Name),
    /// A connection that is not in the room: it may speak, unless another one has its name there.
    Visitor(Visitor<'a>),
}

impl<'a> Speaker<'a> {
    /// Its name.
    pub fn user(&self) -> &'a Name {
        match self {
            Self::Member(user) | Self::Visitor(Visitor { user, .. }) => user,
        }
    }
}

/// A connection that speaks in a room without being in it.
#[derive(Clone, Copy, Debug)]
pub struct Visitor<'a> {
    /// Its name.
    pub user: &'a Name,
    /// The connection whose name it takes over.
    pub predecessor: Option<MemberId>,
}

impl State {
    /// Whether a visitor would speak for a member. A member that has ended, or that the visitor takes over, is no other.
    pub(super) fn is_taken_from(&self, visitor: &Visitor<'_>, has_ended: fn(RawFd) -> bool) -> bool {
        self.users
            .get(visitor.user.key())
            .is_some_and(|holder| Some(holder.member) != visitor.predecessor && !has_ended(holder.socket))
    }
}
