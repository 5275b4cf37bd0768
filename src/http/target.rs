//! The request target (RFC 9112 3.2, RFC 3986).
//!
//! There are two steps: [`route`] says what the request is for, and [`UpgradeTarget::params`] checks user and room, usually only
//! once the handshake is valid. A plain GET on `/ws` is told that it is no handshake, not that it lacks a user name.

use std::borrow::Cow;
use std::time::Duration;

use percent_encoding::percent_decode;

use super::page::{self, Asset};
use super::reason::Reason;
use crate::limits::LATEST_INTERVAL_MAX;
use crate::protocol::name::{Name, NameError};

/// The body for every refused user name, exactly as in the original hi, whose clients may compare it.
pub(crate) const USERNAME_TEXT: &str =
    "Need a valid username (shorter than 80 characters and does not start with a hash)";

/// The chat room of an address without one.
pub(crate) const ROOM_DEFAULT: &str = "general";

/// What a request target is for. Queries are as they arrived; rooms are decoded but not checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route<'t> {
    /// A file of the chat page.
    Page(&'static Asset),
    /// `/healthz`: whether the process is alive.
    Healthz,
    /// `/-/doctor/echo`: the request as it arrived.
    DoctorEcho,
    /// A WebSocket; anything but a handshake is answered with 426.
    Upgrade(UpgradeTarget<'t>),
    /// Server-sent events of a chat room: `/stream/ROOM`. Next: `room_name`.
    Stream {
        /// Everything after `/stream/`, decoded.
        room: String,
        /// What follows the `?`, possibly empty. Next: `last_event_id`.
        query: &'t str,
    },
    /// `*`: the server as a whole (RFC 9110 9.3.7).
    Server,
    /// An address that hi does not have.
    NotFound,
}

/// What a WebSocket is opened for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpgradeTarget<'t> {
    /// The chat: any path that ends in `/ws`.
    Chat {
        /// What follows the `?`, possibly empty.
        query: &'t str,
    },
    /// A raw room: `/raw/ROOM`.
    Raw {
        /// Everything after `/raw/`, decoded.
        room: String,
        /// What follows the `?`, possibly empty.
        query: &'t str,
    },
}

/// The parameters of an [`UpgradeTarget`], read and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpgradeParams {
    /// A user of the chat.
    Chat(ChatParams),
    /// A member of a raw room.
    Raw(RawParams),
}

impl UpgradeParams {
    /// Those of the chat.
    pub(crate) fn chat(&self) -> Option<&ChatParams> {
        match self {
            Self::Chat(chat) => Some(chat),
            Self::Raw(_) => None,
        }
    }
}

impl UpgradeTarget<'_> {
    /// Whether the address has a user name, valid or not.
    pub(crate) fn names_a_user(&self) -> bool {
        matches!(self, Self::Chat { query } if !matches!(single(query, "username"), Ok(None)))
    }

    /// What follows the `?`, possibly empty.
    pub(crate) fn query(&self) -> &str {
        match self {
            Self::Chat { query } | Self::Raw { query, .. } => query,
        }
    }

    /// Reads and checks the parameters.
    ///
    /// # Errors
    /// Those of `chat_params` and `raw_params`.
    pub fn params(&self) -> Result<UpgradeParams, TargetError> {
        match self {
            Self::Chat { query } => chat_params(query).map(UpgradeParams::Chat),
            Self::Raw { room, query } => raw_params(room, query).map(UpgradeParams::Raw),
        }
    }
}

/// A user who connects to the chat, and the room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatParams {
    /// The name in the address: there has to be one, unless a token gives it.
    pub(crate) user: Option<Name>,
    /// The room's name.
    pub room: Name,
    /// Whether the address named the room; if not, it is [`ROOM_DEFAULT`] (v1 joins only what is named).
    pub(crate) room_named: bool,
    /// `resume`: the secret of a lost connection, not checked.
    pub(crate) resume: Option<String>,
}

/// A raw room, and how to take part in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawParams {
    /// The room's name.
    pub room: Name,
    /// Whether the sender gets its own messages back (`echo=0`: no).
    pub(crate) echo: bool,
    /// Whether the member, if lapped, skips what it lost instead of being disconnected (`lossy=1`: yes).
    pub(crate) lossy: bool,
    /// Whether a member that doesn't keep up skips to the newest message of each key (`latest=1`: yes), and its `interval`.
    pub(crate) latest: Option<Duration>,
}

/// Why a target was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct TargetError {
    /// What is wrong, as one word for programs.
    pub(crate) reason: Reason,
    /// The whole body for the client.
    pub(crate) text: String,
    /// The precise reason, for the log: one line without control characters; also `Display`.
    pub(crate) detail: String,
}

impl TargetError {
    fn new(reason: Reason, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { reason, detail: text.clone(), text }
    }

    /// There is no name.
    pub(crate) fn nameless() -> Self {
        Self::username("The address has no `username`.")
    }

    /// A name that a user can't have.
    pub(crate) fn user(why: NameError) -> Self {
        Self::username(why.to_string())
    }

    fn username(detail: impl Into<String>) -> Self {
        Self { reason: Reason::NameInvalid, text: USERNAME_TEXT.to_owned(), detail: detail.into() }
    }
}

/// What a request target is for: `/raw/`, `/stream/` and `/-/` first, then the files of the page and `/healthz`, then any path
/// that ends in `/ws`. Paths are compared decoded (RFC 3986 6.2.2.2); queries stay encoded.
///
/// # Errors
/// The path is not valid percent-encoding, not UTF-8, or has control characters.
pub fn route(target: &str) -> Result<Route<'_>, TargetError> {
    if target == "*" {
        return Ok(Route::Server);
    }
    let Some((path, query)) = split(target) else { return Ok(Route::NotFound) };
    let path =
        decode(path, false).map_err(|fault| TargetError::new(Reason::PathInvalid, format!("The path {fault}.")))?;
    if path.contains(char::is_control) {
        return Err(TargetError::new(Reason::PathInvalid, "The path contains a control character."));
    }
    Ok(if let Some(room) = path.strip_prefix("/raw/") {
        Route::Upgrade(UpgradeTarget::Raw { room: room.to_owned(), query })
    } else if let Some(room) = path.strip_prefix("/stream/") {
        Route::Stream { room: room.to_owned(), query }
    } else if let Some(ours) = path.strip_prefix("/-/") {
        if ours == "doctor/echo" { Route::DoctorEcho } else { Route::NotFound }
    } else if path == "/healthz" {
        Route::Healthz
    } else if let Some(asset) = page::asset(&path) {
        Route::Page(asset)
    } else if path.ends_with("/ws") {
        Route::Upgrade(UpgradeTarget::Chat { query })
    } else {
        Route::NotFound
    })
}

impl ChatParams {
    /// The name in the address.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn named(&self) -> Result<&Name, TargetError> {
        self.user.as_ref().ok_or_else(TargetError::nameless)
    }
}

/// The parameters of [`UpgradeTarget::Chat`]: at most one `username`, one `room` and one `resume`; other keys are ignored.
///
/// # Errors
/// Every invalid user name has the body [`USERNAME_TEXT`]; an invalid room is explained. The user name is checked first.
pub(crate) fn chat_params(query: &str) -> Result<ChatParams, TargetError> {
    let user = single(query, "username").map_err(TargetError::username)?;
    let user = user.map(|user| Name::user(&user).map_err(TargetError::user)).transpose()?;
    let room = single(query, "room").map_err(|fault| TargetError::new(Reason::NameInvalid, fault))?;
    let room_named = room.is_some();
    let room = room_name(&room.unwrap_or_else(|| ROOM_DEFAULT.into()))?;
    let resume = single(query, "resume").map_err(|fault| TargetError::new(Reason::QueryInvalid, fault))?;
    refuse_latest(query)?;
    Ok(ChatParams { user, room, room_named, resume: resume.map(Cow::into_owned) })
}

/// The parameters of [`UpgradeTarget::Raw`]; keys other than `echo`, `lossy`, `latest` and `interval` are ignored.
///
/// # Errors
/// The room's name is invalid, or one of these keys has no valid value, or is given twice, or `interval` without `latest=1`.
pub(crate) fn raw_params(room: &str, query: &str) -> Result<RawParams, TargetError> {
    Ok(RawParams {
        room: room_name(room)?,
        echo: switch(query, "echo")?.unwrap_or(true),
        lossy: switch(query, "lossy")?.unwrap_or(false),
        latest: latest(query)?,
    })
}

const INTERVAL_TEXT: &str = "`interval` may be a time from 1ms to 60s, once, such as interval=100ms or interval=2s.";

/// `latest`, with the interval that goes with it.
fn latest(query: &str) -> Result<Option<Duration>, TargetError> {
    let is_latest = switch(query, "latest")?.unwrap_or(false);
    let refuse = |text: &str| Err(TargetError::new(Reason::QueryInvalid, text));
    match single(query, "interval") {
        Ok(None) => Ok(is_latest.then_some(Duration::ZERO)),
        Ok(Some(_)) if !is_latest => refuse("`interval` goes with latest=1: add it, or leave `interval` out."),
        Ok(Some(value)) => match interval(&value) {
            Some(interval) => Ok(Some(interval)),
            None => refuse(INTERVAL_TEXT),
        },
        Err(_) => refuse(INTERVAL_TEXT),
    }
}

fn interval(text: &str) -> Option<Duration> {
    let (number, unit_ms) = match text.strip_suffix("ms") {
        Some(number) => (number, 1),
        None => (text.strip_suffix('s')?, 1000),
    };
    let is_number = (1..=5).contains(&number.len()) && number.bytes().all(|digit| digit.is_ascii_digit());
    let interval = Duration::from_millis(number.parse::<u64>().ok().filter(|_| is_number)? * unit_ms);
    (Duration::from_millis(1)..=LATEST_INTERVAL_MAX).contains(&interval).then_some(interval)
}

/// Refuses `latest=1` where it means nothing: a chat room's messages have no keys, and each is for everyone.
///
/// # Errors
/// It is there, or `latest` is neither 0 nor 1, or given twice.
pub(crate) fn refuse_latest(query: &str) -> Result<(), TargetError> {
    match switch(query, "latest")? {
        Some(true) => Err(TargetError::new(
            Reason::QueryInvalid,
            "`latest=1` works in raw rooms only: connect to /raw/ROOM, or leave it out.",
        )),
        _ => Ok(()),
    }
}

/// The keys in which polyfills of `EventSource` send what native ones send as `Last-Event-ID`.
const LAST_EVENT_ID_KEYS: [&str; 2] = ["lastEventId", "lastEventID"];

/// The id of the last event that a listener has, from the query of [`Route::Stream`].
///
/// # Errors
/// It is given more than once, or can't be decoded.
pub(crate) fn last_event_id(query: &str) -> Result<Option<Cow<'_, str>>, TargetError> {
    let [one, other] = LAST_EVENT_ID_KEYS.map(|key| single(query, key));
    let fault = |fault: String| TargetError::new(Reason::QueryInvalid, fault);
    match (one.map_err(fault)?, other.map_err(fault)?) {
        (Some(_), Some(_)) => {
            let [one, other] = LAST_EVENT_ID_KEYS;
            let text = format!("`{one}` and `{other}` mean the same: give one of them.");
            Err(TargetError::new(Reason::QueryInvalid, text))
        }
        (one, other) => Ok(one.or(other)),
    }
}

/// The name of a room in a path or a query.
///
/// # Errors
/// It is invalid.
pub(crate) fn room_name(room: &str) -> Result<Name, TargetError> {
    Name::room(room).map_err(|error| TargetError::new(Reason::NameInvalid, error.to_string()))
}

fn switch(query: &str, key: &'static str) -> Result<Option<bool>, TargetError> {
    match single(query, key) {
        Ok(None) => Ok(None),
        Ok(Some(value)) if value == "0" => Ok(Some(false)),
        Ok(Some(value)) if value == "1" => Ok(Some(true)),
        _ => Err(TargetError::new(
            Reason::QueryInvalid,
            format!(
                "`{key}` may be 0 or 1, once: echo=0 leaves the sender out (default 1), lossy=1 lets a slow member skip what it \
             lost (default 0), latest=1 lets it skip to the newest message of each key (default 0)."
            ),
        )),
    }
}

/// Path and query, both as they arrived. A server has to accept targets in absolute form (RFC 9112 3.2.2); `*` and the authority
/// form of CONNECT have no path.
fn split(target: &str) -> Option<(&str, &str)> {
    let origin_form = if target.starts_with('/') {
        target
    } else {
        let (_scheme, rest) = target.split_once("://")?;
        &rest[rest.find(['/', '?']).unwrap_or(rest.len())..]
    };
    let (path, query) = origin_form.split_once('?').unwrap_or((origin_form, ""));
    Some((if path.is_empty() { "/" } else { path }, query))
}

/// The value of a key that may occur once.
fn single<'q>(query: &'q str, key: &'static str) -> Result<Option<Cow<'q, str>>, String> {
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let mut values = pairs.filter(|(name, _)| is_key(name, key)).map(|(_, value)| value);
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(format!("`{key}` is given more than once: give it once."));
    }
    decode(value, true).map(Some).map_err(|fault| format!("`{key}` {fault}."))
}

/// Whether a key of a query, as it arrived, is this one.
pub(super) fn is_key(arrived: &str, key: &str) -> bool {
    decode(arrived, true).is_ok_and(|name| name == key)
}

/// The value of the first pair with a key, as far as it can be decoded.
pub(super) fn first<'q>(query: &'q str, key: &str) -> Option<Cow<'q, str>> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.into_iter().find(|(name, _)| is_key(name, key))?;
    Some(decode(value, true).unwrap_or(Cow::Borrowed(value)))
}

/// What is wrong with a text whose percent-encoding is invalid, for the middle of a sentence.
const NOT_HEX: &str = "has a percent sign without two hexadecimal digits behind it: write %25 for the sign itself";
const NOT_UTF8: &str = "is not valid UTF-8 once it is percent-decoded: encode it as UTF-8";

/// Percent-decoding (RFC 3986 2.1); in a query, `+` is a space, as forms write it.
fn decode(text: &str, plus_is_space: bool) -> Result<Cow<'_, str>, &'static str> {
    let is_hex = |b: Option<&u8>| b.is_some_and(u8::is_ascii_hexdigit);
    let bytes = text.as_bytes();
    let is_valid = |at: usize| bytes[at] != b'%' || (is_hex(bytes.get(at + 1)) && is_hex(bytes.get(at + 2)));
    if !(0..bytes.len()).all(is_valid) {
        return Err(NOT_HEX);
    }
    if plus_is_space && text.contains('+') {
        let spaced = text.replace('+', " ");
        let decoded = percent_decode(spaced.as_bytes()).decode_utf8().map_err(|_| NOT_UTF8)?;
        return Ok(Cow::Owned(decoded.into_owned()));
    }
    percent_decode(bytes).decode_utf8().map_err(|_| NOT_UTF8)
}

#[cfg(test)]
mod tests;
