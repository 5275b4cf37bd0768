//! Whose a request is: the operator's own, or that of a user whose token says what is allowed.

use std::borrow::Cow;
use std::sync::Arc;

use crate::identity::Principal;
use crate::identity::rights::{Denied, Right};
use crate::protocol::Namespace;
use crate::protocol::name::Name;

/// The sender of a request.
#[derive(Clone, Debug)]
pub enum Caller {
    /// A program of the operator's, which may do everything.
    Operator,
    /// The user of a token.
    User(Arc<Principal>),
}

impl Caller {
    /// Whether this may be done in a room.
    ///
    /// # Errors
    /// The token does not allow it.
    pub(super) fn allow(&self, right: Right, namespace: Namespace, room: &Name) -> Result<(), Denied> {
        match self {
            Self::Operator => Ok(()),
            Self::User(principal) => principal.allow(right, namespace, room),
        }
    }

    /// Whether every room of this kind may be read.
    pub(super) fn reads_all(&self, namespace: Namespace) -> bool {
        match self {
            Self::Operator => true,
            Self::User(principal) => principal.rights.reads_all(namespace),
        }
    }

    /// An `Idempotency-Key` as it is remembered: two users may choose the same one.
    pub(super) fn own_key<'k>(&self, key: &'k str) -> Cow<'k, str> {
        match self {
            Self::Operator => key.into(),
            // No header has a line break in it.
            Self::User(principal) => format!("{}\n{key}", principal.user.key()).into(),
        }
    }
}
