//! The speaker of a message in a chat room: no client can speak for another, not even from outside of the room.

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
