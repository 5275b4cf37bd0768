//! Who somebody is, and what they may do: tokens (JWT, RFC 7519), the keys that they are checked with, and rights in
//! rooms. Pure, except for the command [`tool`].
//!
//! - [`token`]: the form of a token, and its signature
//! - [`keys`]: the keys, which decide about the algorithm
//! - [`claims`]: what a token says, at which time it is valid, and for whom
//! - [`rights`]: what is allowed in which rooms
//! - [`refused`]: why a token is refused, in sentences
//! - [`cache`]: tokens that have been checked
//! - [`sign`], [`tool`]: `hi token`, which makes and checks tokens

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use clap::ValueEnum;
use doctor::reason::Reason;

use crate::protocol::Namespace;
use crate::protocol::name::{Name, NameError};

mod cache;
mod claims;
pub mod keys;
pub mod refused;
pub mod rights;
mod sign;
mod token;
pub mod tool;

use cache::TokenCache;
use keys::KeySet;
use refused::Refused;
use rights::{Denied, Right, Rights};

/// What the names of guests begin with, and no other name: a guest can't be taken for a user of the same name.
pub(crate) const GUEST_MARK: char = '~';

/// The name of guests that have chosen none, before it is marked.
pub(crate) const GUEST_NAME: &str = "guest";

/// Whether clients have to say who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// With a token, or they are refused.
    Required,
    /// With a token; without one, they are guests.
    Optional,
    /// Nobody does: there are only names.
    Off,
}

/// Somebody: a user whose token has been checked, or a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// `sub` of the token; guests have none.
    pub subject: Option<Box<str>>,
    /// The name in the chat.
    pub user: Name,
    /// What is allowed in which rooms.
    pub rights: Arc<Rights>,
    /// When the token becomes valid, in seconds since 1970, with leeway.
    starts: u64,
    /// When the token expires, in seconds since 1970, as it says.
    pub expires: Option<u64>,
    /// When it is not accepted any more: that time with leeway.
    pub ends: u64,
}

impl Principal {
    /// Somebody without a token, under the name that they chose and with the mark of guests.
    ///
    /// # Errors
    /// The name is invalid, or too long once it is marked.
    pub fn guest(name: &Name, rights: Arc<Rights>) -> Result<Self, NameError> {
        let is_marked = name.key().starts_with(GUEST_MARK);
        let user = if is_marked { name.clone() } else { Name::user(&format!("{GUEST_MARK}{name}"))? };
        Ok(Self { subject: None, user, rights, starts: 0, expires: None, ends: u64::MAX })
    }

    /// Whether something is allowed in a room.
    ///
    /// # Errors
    /// It isn't; which rule decides.
    pub fn allow(&self, right: Right, namespace: Namespace, room: &Name) -> Result<(), Denied> {
        self.rights.allow(right, namespace, room)
    }

    fn is_valid_at(&self, now: u64) -> bool {
        (self.starts..self.ends).contains(&now)
    }
}

/// Whose a connection is, where that is asked.
#[derive(Clone, Debug)]
pub enum Standing {
    /// This one's.
    Known(Arc<Principal>),
    /// Its first message has to bring a token.
    Awaited,
}

impl Standing {
    /// Whether something is allowed in a room; not yet, if a token is awaited.
    ///
    /// # Errors
    /// It isn't; which rule decides.
    pub(crate) fn allow(&self, right: Right, namespace: Namespace, room: &Name) -> Result<(), Denied> {
        match self {
            Self::Known(principal) => principal.allow(right, namespace, room),
            Self::Awaited => Err(Denied::until_identified(right, room)),
        }
    }
}

/// What tokens have to say to be accepted here.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Issuers (`iss`), one of which has to be named; empty: any.
    pub issuers: Vec<String>,
    /// Audiences (`aud`), likewise.
    pub audiences: Vec<String>,
    /// How long before and after its time a token is accepted: clocks differ.
    pub leeway: Duration,
    /// The rights of tokens without the claim `rooms`.
    pub rights: Arc<Rights>,
}

/// What decides about tokens, for all shards: rules, and keys that may be replaced.
#[derive(Debug)]
pub struct Authority {
    rules: Rules,
    /// The rights of guests; `None`: there are none.
    guests: Option<Arc<Rights>>,
    keys: RwLock<Arc<KeySet>>,
    /// Where to ask for further keys, if they come from the network.
    source: Option<SyncSender<()>>,
    /// Counts how often the keys were replaced.
    version: AtomicU64,
}

impl Authority {
    /// Accepts tokens that are signed with these keys; `guests` are let in without, and have these rights.
    pub fn new(keys: KeySet, rules: Rules, guests: Option<Arc<Rights>>) -> Self {
        Self { rules, guests, keys: RwLock::new(Arc::new(keys)), source: None, version: AtomicU64::new(0) }
    }

    /// Asks here for further keys when a token names one that is not there.
    pub fn asking(self, source: SyncSender<()>) -> Self {
        Self { source: Some(source), ..self }
    }

    /// The rights of clients without a token; `None`: they are refused.
    pub fn guests(&self) -> Option<&Arc<Rights>> {
        self.guests.as_ref()
    }

    /// The keys in use.
    pub(crate) fn keys(&self) -> Arc<KeySet> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Uses these keys from now on.
    pub fn replace_keys(&self, keys: KeySet) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Whose token this is, at this time in seconds since 1970.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn check(&self, token: &str, now: u64) -> Result<Principal, Refused> {
        let keys = self.keys();
        let payload = token::payload(token, &keys);
        if let (Some(source), Err(refused)) = (&self.source, &payload)
            && matches!(refused.reason, Reason::TokenUnknownKey | Reason::TokenAlgorithm | Reason::TokenBadSignature)
        {
            // If one has asked already, that is enough.
            let _ = source.try_send(());
            if self.version.load(Ordering::Acquire) == 0 {
                return Err(Refused::keys_unavailable());
            }
        }
        claims::principal(&payload?, &self.rules, now)
    }

    /// Whom a trusted proxy names, by its word alone.
    ///
    /// # Errors
    /// The name is none for the chat.
    pub(crate) fn named_by_proxy(&self, name: &str) -> Result<Principal, Refused> {
        claims::named_by_proxy(name, &self.rules)
    }
}

/// Checks tokens on one thread, and remembers those that were right.
pub struct Checker {
    pub(crate) authority: Arc<Authority>,
    cache: RefCell<TokenCache>,
    /// The keys that the remembered tokens were checked with.
    version: Cell<u64>,
}

impl Checker {
    /// Remembers nothing yet.
    pub fn new(authority: Arc<Authority>) -> Self {
        Self { authority, cache: RefCell::default(), version: Cell::new(0) }
    }

    /// As [`Authority::check`].
    ///
    /// # Errors
    /// Why the token is refused.
    pub fn check(&self, token: &str, now: u64) -> Result<Arc<Principal>, Refused> {
        let version = self.authority.version.load(Ordering::Acquire);
        let mut cache = self.cache.borrow_mut();
        if self.version.replace(version) != version {
            cache.clear();
        }
        let fingerprint = cache::fingerprint(token);
        if let Some(known) = cache.get(&fingerprint)
            && known.is_valid_at(now)
        {
            return Ok(known);
        }
        let principal = Arc::new(self.authority.check(token, now)?);
        cache.put(fingerprint, Arc::clone(&principal));
        Ok(principal)
    }
}

#[cfg(test)]
mod tests;
