//! The speaker of a message in a chat room: no client can speak for another, not even from outside the room.

use crate::protocol::MemberId;
use crate::protocol::name::Name;

/// The speaker of a message in a chat room.
#[derive(Clone, Copy, Debug)]
pub enum Speaker<'a> {
    /// A member, with the name that it has there.
    Member(&'a Name),
    /// A connection that is not in the room: it may speak, unless another one has its name there.
    Visitor(Visitor<'a>),
}

impl<'a> Speaker<'a> {
    /// The speaker's name.
    pub(crate) fn user(&self) -> &'a Name {
        match self {
            Self::Member(user) | Self::Visitor(Visitor { user, .. }) => user,
        }
    }
}

/// A connection that speaks in a room without being in it.
#[derive(Clone, Copy, Debug)]
pub struct Visitor<'a> {
    /// The name of the connection's user.
    pub user: &'a Name,
    /// The lost connection whose name it may take over.
    pub predecessor: Option<MemberId>,
}
