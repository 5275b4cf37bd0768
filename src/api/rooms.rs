//! Which users are in which rooms, and how to disconnect them.

use std::sync::Arc;

use serde::Serialize;
use serde_json::json;

use super::App;
use super::call::{ApiAnswer, ApiError, Call};
use super::fields::Fields;
use crate::identity::rights::Right;
use crate::limits::CLOSE_REASON_BYTES_MAX;
use crate::protocol::Namespace;
use crate::protocol::name::{Name, room_key_prefix};
use crate::protocol::position::Epoch;
use crate::protocol::{ROOMS_LISTED_MAX, USERS_LISTED_MAX};
use crate::room::FirstUsers;
use crate::room::inbox::{self, Unavailable};

#[derive(Debug, Serialize)]
struct Listed {
    room: String,
    kind: &'static str,
    members: usize,
}

#[derive(Debug, Serialize)]
struct Rooms {
    rooms: Vec<Listed>,
    /// All of them, including those that the list leaves out.
    count: usize,
}

#[derive(Debug, Serialize)]
struct OneRoom {
    #[serde(flatten)]
    listed: Listed,
    seq: u64,
    epoch: Epoch,
    users: Vec<String>,
    /// All of them, including those that the list leaves out.
    count: usize,
    /// Whether users of other servers are counted, and not listed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    partial: bool,
}

impl Listed {
    fn new(name: &str, kind: Namespace, members: usize) -> Self {
        Self { room: name.to_owned(), kind: kind.as_str(), members }
    }
}

/// The parameters of a query: `kind=chat|raw`, and `prefix` where it is allowed.
struct Query {
    namespace: Option<Namespace>,
    prefix: String,
}

impl Query {
    fn parse(query: &str, with_prefix: bool) -> Result<Self, ApiError> {
        let mut parsed = Self { namespace: None, prefix: String::new() };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = value.replace('+', " ");
            let value = percent_encoding::percent_decode_str(&value).decode_utf8();
            match (name, value) {
                ("kind", Ok(value)) if value == "chat" => parsed.namespace = Some(Namespace::Chat),
                ("kind", Ok(value)) if value == "raw" => parsed.namespace = Some(Namespace::Raw),
                ("kind", _) => return Err(ApiError::bad_request("kind: give chat or raw.")),
                ("prefix", Ok(value)) if with_prefix => parsed.prefix = value.into_owned(),
                ("prefix", Err(_)) if with_prefix => {
                    return Err(ApiError::bad_request("prefix: it is not UTF-8 in percent-encoding."));
                }
                (name, _) => {
                    let known = if with_prefix { "kind and prefix" } else { "kind" };
                    let name = name.escape_debug();
                    return Err(ApiError::bad_request(format!(
                        "{name}: there is no such parameter here; there is {known}."
                    )));
                }
            }
        }
        Ok(parsed)
    }
}

/// `GET /api/rooms`: the rooms that have members, sorted.
pub(super) async fn rooms(app: &App, call: &Call) -> Result<ApiAnswer, ApiError> {
    let query = Query::parse(&call.query, true)?;
    let asked = |namespace: &Namespace| query.namespace.is_none_or(|asked| asked == *namespace);
    let (mut listed, mut count) = (Vec::new(), 0);
    if let Some(prefix) = room_key_prefix(&query.prefix) {
        for namespace in Namespace::ALL.into_iter().filter(asked) {
            let (mut first, mut of_kind) = app.rooms.first_rooms(namespace, &prefix, ROOMS_LISTED_MAX - listed.len());
            if !call.caller.reads_all(namespace) {
                first.retain(|room| call.caller.allow(Right::Listen, namespace, &room.name).is_ok());
                // How many others there are is not said.
                of_kind = first.len();
            }
            listed.extend(first.iter().map(|room| Listed::new(room.name.as_str(), namespace, room.counts.members)));
            count += of_kind;
        }
    }
    Ok(ApiAnswer::json(200, &Rooms { rooms: listed, count }))
}

/// `GET /api/rooms/ROOM`: one room and its users.
pub(super) async fn one_room(app: &App, call: &Call) -> Result<ApiAnswer, ApiError> {
    let query = Query::parse(&call.query, false)?;
    let name = Name::room(&call.room).map_err(|why| ApiError::bad_request(format!("room: {why}")))?;
    let namespace = query.namespace.unwrap_or(Namespace::Chat);
    call.caller.allow(Right::Listen, namespace, &name)?;
    let Some(room) = app.room(namespace, &name).await.map_err(unavailable)? else {
        let message = format!("room: nobody is in a {} room of that name.", namespace.as_str());
        return Err(ApiError::new(404, "room_not_found", message));
    };
    let FirstUsers { names, count, is_partial: partial } = room.first_users(USERS_LISTED_MAX);
    let users = names.iter().map(ToString::to_string).collect();
    let (seq, epoch) = (room.last_seq(), Epoch(room.epoch()));
    let listed = Listed::new(room.name(), namespace, app.rooms.counts(&room).members);
    Ok(ApiAnswer::json(200, &OneRoom { listed, seq, epoch, users, count, partial }))
}

/// The other servers can't be asked.
fn unavailable(_: Unavailable) -> ApiError {
    ApiError::temporary(503, "unavailable", "The servers can't reach each other: ask again later.")
}

#[derive(Debug, Serialize)]
struct Disconnected {
    closed: usize,
}

/// `POST /api/disconnect`: closes the connections of a user, all of them or those in one room.
///
/// # Errors
/// A field is missing or invalid, or a shard does not answer in time.
pub async fn disconnect(app: &App, call: &Call) -> Result<ApiAnswer, ApiError> {
    let mut fields = Fields::parse(&call.body)?;
    let user = fields.string("user")?;
    let (room, reason) = (fields.optional_string("room")?, fields.optional_string("reason")?);
    fields.finish()?;
    let user = Name::user(&user).map_err(|why| ApiError::bad_request(format!("user: {why}")))?;
    let room = room.as_deref().map(Name::room).transpose();
    let room = room.map_err(|why| ApiError::bad_request(format!("room: {why}")))?;
    if reason.as_ref().is_some_and(|reason| reason.len() > CLOSE_REASON_BYTES_MAX || reason.contains(char::is_control))
    {
        let message = format!("reason: give at most {CLOSE_REASON_BYTES_MAX} bytes without control characters.");
        return Err(ApiError::bad_request(message));
    }
    let reason: Arc<str> = reason.map_or_else(|| "disconnected by the operator".into(), Arc::from);
    let busy = || ApiError::temporary(503, "busy", "A shard is behind and has not answered: ask again.");
    let mut closed =
        inbox::disconnect(app.rooms.inboxes(), &user, room.as_ref(), &reason).await.map_err(|inbox::Busy| busy())?;
    if let Some(outward) = app.rooms.outward() {
        let elsewhere = outward.disconnect(user, room, reason).await;
        closed += elsewhere.map_err(|silent| {
            let message = format!("{silent} of the other servers have not answered: ask again.");
            ApiError::temporary(503, "unavailable", message).with(json!({"closed": closed}))
        })?;
    }
    Ok(ApiAnswer::json(200, &Disconnected { closed }))
}
