//! With `--auth`: whose a connection is, what it may do, and until when. A table beside the connections, which is empty without:
//! then a connection takes no byte more, and a message one comparison.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use tracing::info;

use super::join::JoinReply;
use super::{Hub, Key};
use crate::admission::check_named;
use crate::connection::Role;
use crate::identity::refused::Refused;
use crate::identity::rights::{Denied, Right};
use crate::identity::{Principal, Standing};
use crate::limits::tokens::VERIFICATION_WORK;
use crate::protocol::close_code::CloseReason;
use crate::protocol::name::Name;
use crate::protocol::v1::{self, Answer, Code, Ref, Refusal};
use crate::protocol::{Namespace, ROOMS_LISTED_MAX};
use crate::room::registry::Listed;

/// The hop of tokens that come on open connections: the label of the metric.
const ON_A_CONNECTION: &str = "connection";

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Principals {
    of_slots: HashMap<u32, Entry>,
    /// When which connection ends, in ticks: one entry for each in `of_slots` that does.
    ends: BTreeSet<(u32, Key)>,
    /// Those whose time is over, to be closed.
    over: VecDeque<Key>,
}

#[derive(Debug)]
struct Entry {
    /// `None`: its token is awaited.
    principal: Option<Arc<Principal>>,
    /// The room of the address, which is joined once the token is there.
    room: Option<Name>,
    ends: Option<u32>,
}

impl Principals {
    fn set(&mut self, key: Key, entry: Entry) {
        self.forget(key);
        self.ends.extend(entry.ends.map(|tick| (tick, key)));
        self.of_slots.insert(key.slot, entry);
    }

    /// The connection is gone.
    pub(super) fn forget(&mut self, key: Key) {
        if let Some(Entry { ends: Some(tick), .. }) = self.of_slots.remove(&key.slot) {
            self.ends.remove(&(tick, key));
        }
    }

    /// Takes those whose time is over by now out of the queue.
    pub(super) fn advance(&mut self, tick: u32) {
        while let Some((_, key)) = self.ends.first().copied().filter(|(end, _)| *end <= tick) {
            self.ends.pop_first();
            self.over.push_back(key);
        }
    }

    /// Whether a connection whose time is over still has to be closed.
    pub(super) fn is_due(&self) -> bool {
        !self.over.is_empty()
    }

    /// The next connection whose time is over.
    pub(super) fn next_over(&mut self) -> Option<Key> {
        self.over.pop_front()
    }
}

impl Hub {
    /// Notes whose a new connection is.
    pub(super) fn identify(&mut self, slot: u32, standing: Standing, room: Option<Name>) {
        let entry = match standing {
            Standing::Known(principal) => self.entry(principal),
            Standing::Awaited => {
                let patience = self.settings.identification_seconds;
                Entry { principal: None, room, ends: Some(self.now.time.tick() + patience) }
            }
        };
        let key = self.key(slot);
        self.principals.set(key, entry);
    }

    /// Tells a client that its token is awaited.
    pub(super) fn ask_for_token(&mut self, slot: u32) {
        self.reply(slot, v1::token_wanted());
    }

    fn entry(&self, principal: Arc<Principal>) -> Entry {
        // On the clock that nobody sets: the token was valid by the other one a moment ago.
        let left = principal.ends.saturating_sub(self.unix_seconds());
        let ends = u32::try_from(left).ok().and_then(|left| self.now.time.tick().checked_add(left.max(1)));
        Entry { principal: Some(principal), room: None, ends }
    }

    fn unix_seconds(&self) -> u64 {
        self.now.time.unix_ms / 1000
    }

    /// Seconds until the token of a connection expires, if it does.
    pub(super) fn expires_in(&self, slot: u32) -> Option<u64> {
        let principal = self.principals.of_slots.get(&slot)?.principal.as_ref()?;
        Some(principal.expires?.saturating_sub(self.unix_seconds()))
    }

    /// Whether a connection may do this in a room.
    ///
    /// # Errors
    /// Why not, for the client.
    pub(super) fn allow(&self, slot: u32, right: Right, room: &Name) -> Result<(), Denied> {
        if self.principals.of_slots.is_empty() {
            return Ok(());
        }
        let Some(entry) = self.principals.of_slots.get(&slot) else { return Ok(()) };
        let namespace = self.connections[slot as usize].protocol().namespace();
        match &entry.principal {
            Some(principal) => principal.allow(right, namespace, room),
            None => Standing::Awaited.allow(right, namespace, room),
        }
    }

    /// The chat rooms that begin so, as far as a connection may read them, and how many there are.
    pub(super) fn visible_rooms(&self, slot: u32, prefix: &str) -> (Vec<Listed>, usize) {
        let (mut rooms, count) = self.registry.first_rooms(Namespace::Chat, prefix, ROOMS_LISTED_MAX);
        let principal = self.principals.of_slots.get(&slot).and_then(|entry| entry.principal.as_ref());
        match principal {
            Some(principal) if !principal.rights.reads_all(Namespace::Chat) => {
                rooms.retain(|room| principal.allow(Right::Listen, Namespace::Chat, &room.name).is_ok());
                // How many others there are is not said.
                let count = rooms.len();
                (rooms, count)
            }
            _ => (rooms, count),
        }
    }

    /// Whether nothing but a token is taken from this connection.
    pub(super) fn awaits_token(&self, slot: u32) -> bool {
        self.principals.of_slots.get(&slot).is_some_and(|entry| entry.principal.is_none())
    }

    /// A client has sent a token: its first one, or a new one before the last expires.
    pub(super) fn auth_request(&mut self, slot: u32, reference: Option<&Ref<'_>>, token: &str) -> Result<(), Refusal> {
        let Some(authority) = self.settings.admission.authority().cloned() else {
            return Err(Refusal::new(Code::BadRequest, "This server asks for no tokens (--auth off)."));
        };
        self.spend(VERIFICATION_WORK);
        match authority.check(token, self.unix_seconds()).and_then(|principal| self.may_be(slot, principal)) {
            Ok(principal) => {
                let room = self.accept_token(slot, Arc::new(principal));
                self.reply(slot, Answer::identified(self.expires_in(slot)).frame(reference));
                if let Some(room) = room {
                    self.ask_to_join(slot, &room, None, &JoinReply::Address);
                }
                self.leave_what_is_denied(slot);
                Ok(())
            }
            Err(refused) => {
                self.note_refused(&refused);
                self.refuse_v1(slot, &Refusal::new(Code::Denied, refused.to_string()), reference);
                self.close(slot, &CloseReason::Unidentified(&refused.to_string()));
                Ok(())
            }
        }
    }

    /// Whether a connection may be this user's from now on.
    fn may_be(&self, slot: u32, principal: Principal) -> Result<Principal, Refused> {
        let connection = &self.connections[slot as usize];
        let entry = self.principals.of_slots.get(&slot);
        match entry.and_then(|entry| entry.principal.as_ref()) {
            Some(known) if known.subject == principal.subject && known.user == principal.user => Ok(principal),
            Some(_) => Err(Refused::other_user()),
            None => {
                // Without a name in the address, the connection has that of guests.
                let named = connection.user().filter(|user| user.as_str() != crate::identity::GUEST_NAME);
                check_named(&principal, named)?;
                Ok(principal)
            }
        }
    }

    /// The connection is this user's from now on. If it was nobody's, it gets its hello, and the room of its address is returned.
    fn accept_token(&mut self, slot: u32, principal: Arc<Principal>) -> Option<Name> {
        let (was_awaited, key) = (self.awaits_token(slot), self.key(slot));
        let room = self.principals.of_slots.get_mut(&slot).and_then(|entry| entry.room.take());
        let entry = self.entry(Arc::clone(&principal));
        self.principals.set(key, entry);
        if was_awaited {
            if let Role::V1 { user, .. } = &mut self.connection(slot).role {
                *user = principal.user.clone();
            }
            self.send_hello(slot);
            if room.is_none() {
                self.take_over(slot);
            }
        }
        room
    }

    /// Leaves the rooms that the new token does not allow.
    fn leave_what_is_denied(&mut self, slot: u32) {
        let memberships = self.connections[slot as usize].memberships.iter();
        let rooms: Vec<_> = memberships.map(|membership| Arc::clone(&self.rooms.get(membership.room).room)).collect();
        for room in rooms {
            if let Err(denied) = self.allow(slot, Right::Join, room.key())
                && self.leave_settled(slot, &room)
            {
                self.reply(slot, Answer::left(room.name()).frame(None));
                self.refuse_v1(slot, &Refusal::new(Code::Denied, denied.to_string()), None);
            }
        }
    }

    /// The time of a connection is over: its token has expired, or did not come.
    pub(super) fn end_of_time(&mut self, key: Key) {
        if !self.is_current(key) {
            return;
        }
        let reason = match self.awaits_token(key.slot) {
            true => CloseReason::Unidentified("no token came in time: send {\"Op\":\"auth\",\"Token\":...} first"),
            false => CloseReason::TokenExpired,
        };
        self.close(key.slot, &reason);
    }

    /// Counts and logs that a token on an open connection was refused.
    fn note_refused(&self, refused: &Refused) {
        let Some(failures) = &self.failures else { return };
        if failures.note(refused.reason, ON_A_CONNECTION.to_owned(), self.now.instant).is_some() {
            let detail = refused.detail.as_ref().map(|detail| format!(" ({detail})")).unwrap_or_default();
            info!("token on an open connection refused: {}; {}{detail}", refused.reason.as_str(), refused.sentence);
        }
    }

    /// Forgets whose a connection was.
    pub(super) fn forget_principal(&mut self, slot: u32) {
        if !self.principals.of_slots.is_empty() {
            let key = self.key(slot);
            self.principals.forget(key);
        }
    }
}
