//! Who may connect: pages of which origins, under which names, and whether there are raw rooms. Made from the settings
//! once and shared by all shards (pure). With `--auth`, also whose tokens are accepted.

use std::sync::Arc;

use clap::ValueEnum;

use crate::http::bearer::{NamedUser, TokenPlaces};
use crate::http::diagnosis::Fault;
use crate::http::head::Head;
use crate::http::origin::{self, Allowed};
use crate::http::reason::Reason;
use crate::http::target::{self, ChatParams, TargetError, UpgradeParams, UpgradeTarget};
use crate::http::upgrade::{self, Handshake};
use crate::identity::refused::Refused;
use crate::identity::rights::Right;
use crate::identity::{Authority, Checker, GUEST_NAME, Principal, Standing};
use crate::protocol::name::Name;
use crate::protocol::{Namespace, v1};

/// What clients may do in raw rooms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RawMode {
    /// Publish and listen.
    Open,
    /// Listen; only the internal port publishes.
    Listen,
    /// Nothing: there are no raw rooms.
    Off,
}

/// The rules that every client is held against.
#[derive(Debug)]
pub struct Admission {
    origins: Vec<Allowed>,
    raw: RawMode,
    rooms_max: usize,
    deflates: bool,
    gate: Option<Arc<Gate>>,
}

/// With `--auth`: whose tokens are accepted, and where requests have them.
#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) authority: Arc<Authority>,
    pub(crate) places: TokenPlaces,
}

impl Gate {
    fn ambiguous_user(&self) -> Refused {
        let header = self.places.user_header.as_deref().unwrap_or_default();
        let text = format!("The header {header} arrived twice, so one of them may be yours: leave it out.");
        let fix = "let the proxy replace the header instead of adding one";
        Refused::new(Reason::UserHeaderInvalid, text).with(fix)
    }
}

/// A request that may open a WebSocket.
pub(crate) struct Admitted {
    pub(crate) handshake: Handshake,
    pub(crate) params: UpgradeParams,
    /// Whose it is, with `--auth`.
    pub(crate) standing: Option<Standing>,
}

/// What tokens are checked with on one thread, and the time in seconds since 1970.
#[derive(Clone, Copy)]
pub(crate) struct Check<'c> {
    pub(crate) checker: &'c Checker,
    pub(crate) now: u64,
    /// Whether a trusted proxy has passed the request on.
    pub(crate) is_trusted: bool,
}

/// A connection is in as many rooms as it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooManyRooms {
    /// Number of rooms.
    pub max: usize,
}

impl Admission {
    /// Lets in the pages of these origins, and into raw rooms as `raw` says; each connection into at most `rooms_max` rooms.
    pub(crate) fn new(origins: Vec<Allowed>, raw: RawMode, rooms_max: usize) -> Self {
        Self { origins, raw, rooms_max, deflates: false, gate: None }
    }

    /// Accepts offers to compress messages, if `deflates`.
    pub(crate) fn compressing(self, deflates: bool) -> Self {
        Self { deflates, ..self }
    }

    /// Asks clients who they are.
    pub(crate) fn asking(self, gate: Option<Arc<Gate>>) -> Self {
        Self { gate, ..self }
    }

    /// What decides about tokens; `None` without `--auth`.
    pub(crate) fn authority(&self) -> Option<&Arc<Authority>> {
        self.gate.as_ref().map(|gate| &gate.authority)
    }

    /// Rooms that one connection may be in.
    pub(crate) fn rooms_max(&self) -> usize {
        self.rooms_max
    }

    /// Whether clients may publish into raw rooms.
    pub(crate) fn publishes_raw(&self) -> bool {
        self.raw == RawMode::Open
    }

    /// Whether a connection that is in `joined` rooms may join another one.
    ///
    /// # Errors
    /// It is in as many as it may be.
    pub(crate) fn join(&self, joined: usize) -> Result<(), TooManyRooms> {
        if joined < self.rooms_max { Ok(()) } else { Err(TooManyRooms { max: self.rooms_max }) }
    }

    /// The origins whose pages may connect.
    pub(crate) fn origins(&self) -> &[Allowed] {
        &self.origins
    }

    /// Whether a request has the header in which trusted proxies name the user.
    pub(crate) fn is_told_a_user(&self, head: &Head<'_>) -> bool {
        self.gate.as_ref().is_some_and(|gate| gate.places.named_user(head) != NamedUser::No)
    }

    /// Whether a request may open a WebSocket, and as whom. `check` is there with `--auth`.
    ///
    /// # Errors
    /// It is no handshake, its page may not connect, raw rooms are switched off, a parameter of the address is invalid, or its
    /// token is, or does not allow it.
    pub(crate) fn connect(
        &self,
        head: &Head<'_>,
        target: &UpgradeTarget<'_>,
        check: Option<Check<'_>>,
    ) -> Result<Admitted, Fault> {
        // A client that names a user is told first what is wrong with the name: a page can read that answer only with a
        // plain GET.
        let named = target.names_a_user().then(|| target.params()).transpose()?;
        let handshake = match (self.handshake(head), check) {
            // So that a page can ask what is wrong with its token, as with a name.
            (Err(Fault::Upgrade(refusal)), Some(check)) if refusal.reason == Reason::NotAWebsocketRequest => {
                let chat = named.as_ref().and_then(UpgradeParams::chat);
                self.known(head, target.query(), check, chat)?.ok_or_else(|| self.token_missing(head, check))?;
                return Err(refusal.into());
            }
            (handshake, _) => handshake?,
        };
        if matches!(target, UpgradeTarget::Raw { .. }) && self.raw == RawMode::Off {
            return Err(Fault::RawRoomsOff);
        }
        let params = match named {
            Some(params) => params,
            None if check.is_none() && matches!(target, UpgradeTarget::Chat { .. }) => {
                return Err(TargetError::nameless().into());
            }
            None => target.params()?,
        };
        let Some(check) = check else { return Ok(Admitted { handshake, params, standing: None }) };
        let standing = match &params {
            UpgradeParams::Chat(chat) => self.standing(head, target.query(), check, Some(chat), &handshake)?,
            UpgradeParams::Raw(raw) => {
                let standing = self.standing(head, target.query(), check, None, &handshake)?;
                standing.allow(Right::Listen, Namespace::Raw, &raw.room)?;
                standing
            }
        };
        Ok(Admitted { handshake, params, standing: Some(standing) })
    }

    /// Whether a request may read the events of a room, and which room that is.
    ///
    /// # Errors
    /// The room's name is invalid, its page may not connect, or its token is invalid, or does not allow it.
    pub(crate) fn listen(
        &self,
        head: &Head<'_>,
        room: &str,
        query: &str,
        check: Option<Check<'_>>,
    ) -> Result<(Name, Option<Standing>), Fault> {
        let room = target::room_name(room)?;
        origin::check(head, &self.origins)?;
        // A preflight has no token.
        let Some(check) = check.filter(|_| head.method != "OPTIONS") else { return Ok((room, None)) };
        let standing = self.known(head, query, check, None)?.ok_or_else(|| self.token_missing(head, check))?;
        standing.allow(Right::Listen, Namespace::Chat, &room)?;
        Ok((room, Some(standing)))
    }

    /// Whose request for a WebSocket this is.
    fn standing(
        &self,
        head: &Head<'_>,
        query: &str,
        check: Check<'_>,
        chat: Option<&ChatParams>,
        handshake: &Handshake,
    ) -> Result<Standing, Fault> {
        match self.known(head, query, check, chat)? {
            Some(standing) => Ok(standing),
            // Browsers can send it as the first message.
            None if chat.is_some() && handshake.offers(v1::SUBPROTOCOL) && self.has_keys() => Ok(Standing::Awaited),
            None => Err(self.token_missing(head, check).into()),
        }
    }

    /// The user whose token a request has, or a guest; `None`: it has none, and there are no guests.
    fn known(
        &self,
        head: &Head<'_>,
        query: &str,
        check: Check<'_>,
        chat: Option<&ChatParams>,
    ) -> Result<Option<Standing>, Fault> {
        let Some(gate) = &self.gate else { return Ok(None) };
        let named = chat.and_then(|chat| chat.user.as_ref());
        if check.is_trusted {
            let principal = match gate.places.named_user(head) {
                NamedUser::Yes(user) => Some(gate.authority.named_by_proxy(&user)?),
                NamedUser::Ambiguous => return Err(gate.ambiguous_user().into()),
                NamedUser::No => None,
            };
            if let Some(principal) = principal {
                check_named(&principal, named)?;
                return Ok(Some(Standing::Known(Arc::new(principal))));
            }
        }
        let principal = match (gate.places.find(head, query), gate.authority.guests()) {
            (Some(token), _) => {
                let principal = check.checker.check(&token, check.now)?;
                check_named(&principal, named)?;
                principal
            }
            (None, Some(rights)) => {
                let name = match chat {
                    Some(chat) => chat.named()?.clone(),
                    None => Name::user(GUEST_NAME).expect("a name"),
                };
                Arc::new(Principal::guest(&name, Arc::clone(rights)).map_err(TargetError::user)?)
            }
            (None, None) => return Ok(None),
        };
        Ok(Some(Standing::Known(principal)))
    }

    fn has_keys(&self) -> bool {
        self.gate.as_ref().is_some_and(|gate| gate.places.has_keys)
    }

    /// Nobody says who the client is.
    fn token_missing(&self, head: &Head<'_>, check: Check<'_>) -> Refused {
        let Some(Gate { places, .. }) = self.gate.as_deref() else { unreachable!("only a gate asks for tokens") };
        let Some(header) = &places.user_header else {
            let text = format!("This server asks for a token, and there is none: send it {}.", places.describe());
            return Refused::new(Reason::TokenMissing, text).with("--auth required");
        };
        if !check.is_trusted && places.named_user(head) != NamedUser::No {
            let text =
                format!("The header {header} is believed from trusted proxies only, and the request is not from one.");
            let fix = "if the last hop is your proxy, add its address to --trusted-proxies; otherwise somebody pretends to be it";
            return Refused::new(Reason::UserHeaderUntrusted, text).with(fix);
        }
        let text = format!("Nobody has said who you are: sign in at the proxy in front, which sends {header}.");
        let fix = if check.is_trusted {
            "the proxy did not send it"
        } else {
            "the request did not come through a trusted proxy"
        };
        Refused::new(Reason::UserHeaderMissing, text).with(fix)
    }

    fn handshake(&self, head: &Head<'_>) -> Result<Handshake, Fault> {
        let mut handshake = upgrade::examine(head)?;
        if self.deflates {
            handshake.compression = upgrade::extensions::negotiate(head);
        }
        origin::check(head, &self.origins)?;
        Ok(handshake)
    }
}

/// Whether the name in the address, if there is one, is that of the token.
pub(crate) fn check_named(principal: &Principal, named: Option<&Name>) -> Result<(), Refused> {
    match named {
        Some(named) if *named != principal.user => {
            let text = format!(
                "The token is for the user {}, and the address names another: leave username out.",
                principal.user
            );
            Err(Refused::new(Reason::TokenOtherUser, text))
        }
        _ => Ok(()),
    }
}
