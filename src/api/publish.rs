//! Publishing over HTTP, into chat rooms and raw rooms.

use std::borrow::Cow;

use crate::frame::OpCode;
use hyper::header;
use serde::Serialize;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::App;
use super::call::{ApiAnswer, ApiError, Call};
use super::caller::Caller;
use super::fields::Fields;
use super::idempotency::{self, Lookup, Progress};
use crate::admission::RawMode;
use crate::clock::Time;
use crate::frame::encode;
use crate::identity::rights::Right;
use crate::limits::{BROADCAST_ROOMS_MAX, IDEMPOTENCY_KEY_BYTES_MAX, PUBLISH_LOOK_INTERVAL, PUBLISH_TIME_MAX};
use crate::protocol::Namespace;
use crate::protocol::name::Name;
use crate::protocol::position::Epoch;
use crate::protocol::unicode::is_blank;
use crate::protocol::v0::text;
use crate::room::inbox::Unavailable;
use crate::room::{self, Payload, Placed, Wakes};

/// The sender's name if the request gives none.
const FROM_DEFAULT: &str = "api";

/// What became of a message in one room.
#[derive(Clone, Debug, Default, Serialize)]
struct Published {
    /// Its position in the room's order; none if the room does not exist.
    seq: Option<u64>,
    /// The epoch that this position belongs to.
    epoch: Option<Epoch>,
    /// Number of members that it goes to.
    members: usize,
}

/// What became of a message in the room of this name.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct PublishedIn {
    room: String,
    #[serde(flatten)]
    published: Published,
}

#[derive(Debug, Serialize)]
struct Broadcast {
    rooms: Vec<PublishedIn>,
    members: usize,
}

impl Broadcast {
    fn new(rooms: Vec<PublishedIn>) -> Self {
        let members = rooms.iter().map(|PublishedIn { published, .. }| published.members).sum();
        Self { rooms, members }
    }
}

/// 200 if a member gets the message, 202 if there is none.
fn status(members: usize) -> u16 {
    if members > 0 { 200 } else { 202 }
}

/// `POST /api/publish`: a message into a chat room.
///
/// # Errors
/// A field is missing or invalid, the key was used before, or the shards lag and don't catch up in time.
pub async fn publish(app: &App, call: &Call) -> Result<ApiAnswer, ApiError> {
    let mut fields = Fields::parse(&call.body)?;
    let (room, message, from) = (fields.string("room")?, message(app, &mut fields)?, from(call, &mut fields)?);
    fields.finish()?;
    let room = Name::room(&room).map_err(|why| ApiError::bad_request(format!("room: {why}")))?;
    call.caller.allow(Right::Publish, Namespace::Chat, &room)?;
    publish_to_one(app, call, Namespace::Chat, &room, Payload::Chat { from: from.as_str(), text: &message }).await
}

/// `POST /api/broadcast`: a message into several chat rooms.
///
/// # Errors
/// Those of [`publish`].
pub async fn broadcast(app: &App, call: &Call) -> Result<ApiAnswer, ApiError> {
    let mut fields = Fields::parse(&call.body)?;
    let (rooms, message, from) = (fields.strings("rooms")?, message(app, &mut fields)?, from(call, &mut fields)?);
    fields.finish()?;
    if rooms.len() > BROADCAST_ROOMS_MAX {
        let message = format!("rooms: it names {} rooms; give at most {BROADCAST_ROOMS_MAX} at once.", rooms.len());
        return Err(ApiError::bad_request(message));
    }
    let name = |(index, room): (usize, &String)| {
        Name::room(room).map_err(|why| ApiError::bad_request(format!("rooms[{index}]: {why}")))
    };
    let names = rooms.iter().enumerate().map(name).collect::<Result<Vec<_>, _>>()?;
    names.iter().try_for_each(|name| call.caller.allow(Right::Publish, Namespace::Chat, name))?;
    let mut publication = match Publication::begin(app, call)? {
        Lookup::Answered(answer) => return Ok(answer),
        Lookup::Run(publication) => publication,
    };
    let payload = Payload::Chat { from: from.as_str(), text: &message };
    let until = Instant::now() + PUBLISH_TIME_MAX;
    for (room, name) in rooms.iter().zip(&names).skip(publication.done.len()) {
        let published = publish_in(app, Namespace::Chat, name, payload, until)
            .await
            .map_err(|why| broken_off(why, &rooms, &publication.done))?;
        publication.done.push(PublishedIn { room: room.to_string(), published });
    }
    let broadcast = Broadcast::new(publication.done.clone());
    Ok(publication.answer(ApiAnswer::json(status(broadcast.members), &broadcast)))
}

/// The error for a broadcast that was interrupted: which rooms have the message, and which don't.
fn broken_off(why: Unpublished, rooms: &[String], done: &[PublishedIn]) -> ApiError {
    let (done, open) = (Broadcast::new(done.to_vec()), &rooms[done.len()..]);
    let message = format!(
        "{}: published in {} of {} rooms. Retry for those in `remaining`; with an Idempotency-Key, send the same request again.",
        why.sentence(),
        done.rooms.len(),
        rooms.len(),
    );
    ApiError::temporary(503, why.code(), message)
        .with(json!({"rooms": done.rooms, "members": done.members, "remaining": open}))
}

/// `POST /pub/ROOM`: the body into a raw room, as it is.
pub(super) async fn publish_raw(app: &App, call: &Call) -> Result<ApiAnswer, ApiError> {
    if app.raw == RawMode::Off {
        return Err(ApiError::new(403, "denied", "Raw rooms are switched off on this server (--raw off)."));
    }
    let room = Name::room(&call.room).map_err(|why| ApiError::bad_request(format!("room: {why}")))?;
    call.caller.allow(Right::Publish, Namespace::Raw, &room)?;
    let opcode = if is_text(call) { OpCode::Text } else { OpCode::Binary };
    if opcode == OpCode::Text && simdutf8::basic::from_utf8(&call.body).is_err() {
        let message = "The body is not UTF-8, as its Content-Type asks for: send it as application/octet-stream.";
        return Err(ApiError::bad_request(message));
    }
    check_length(app, Namespace::Raw, call.body.len())?;
    let frame = encode::frame(opcode, &call.body);
    publish_to_one(app, call, Namespace::Raw, &room, Payload::Frame(&frame)).await
}

/// A request that publishes one message, and its answer.
async fn publish_to_one(
    app: &App,
    call: &Call,
    namespace: Namespace,
    room: &Name,
    payload: Payload<'_>,
) -> Result<ApiAnswer, ApiError> {
    let publication = match Publication::begin(app, call)? {
        Lookup::Answered(answer) => return Ok(answer),
        Lookup::Run(publication) => publication,
    };
    let published =
        publish_in(app, namespace, room, payload, Instant::now() + PUBLISH_TIME_MAX).await.map_err(|why| {
            let what = match why {
                Unpublished::Busy => "Nothing was published; retry in a second.",
                Unpublished::Unavailable => "The message may have been published or not.",
            };
            ApiError::temporary(503, why.code(), format!("{}. {what}", why.sentence()))
        })?;
    Ok(publication.answer(ApiAnswer::json(status(published.members), &published)))
}

fn message(app: &App, fields: &mut Fields) -> Result<String, ApiError> {
    let message = fields.string("message")?;
    if app.rooms.outward().is_some() {
        check_length(app, Namespace::Chat, json!(message).to_string().len())?;
    }
    if is_blank(&message) { Err(ApiError::bad_request(format!("message: {}", text::EMPTY))) } else { Ok(message) }
}

/// What several servers share travels in pieces that are bounded.
fn check_length(app: &App, namespace: Namespace, bytes: usize) -> Result<(), ApiError> {
    let max = app.rooms.outward().map_or(usize::MAX, |outward| outward.message_bytes_max(namespace));
    if bytes <= max {
        return Ok(());
    }
    let message = format!("The message has {bytes} bytes, and servers that share their rooms take {max}: send less.");
    Err(ApiError::new(413, "too_big", message))
}

/// The sender: the operator's program may use any valid name, the user of a token has one.
fn from(call: &Call, fields: &mut Fields) -> Result<Name, ApiError> {
    let own = match &call.caller {
        Caller::Operator => None,
        Caller::User(principal) => Some(&principal.user),
    };
    let from = fields.optional_string("from")?;
    let from = from.as_deref().unwrap_or_else(|| own.map_or(FROM_DEFAULT, Name::as_str));
    let from = Name::of_program(from).map_err(|why| ApiError::bad_request(format!("from: {why}")))?;
    match own {
        Some(own) if *own != from => {
            let message = format!("from: the token is for the user {own}: leave from out.");
            Err(ApiError::new(403, "denied", message))
        }
        _ => Ok(from),
    }
}

/// Whether the media type is text or JSON (RFC 9110 8.3.1, RFC 6839 3.1).
fn is_text(call: &Call) -> bool {
    let value = call.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    media_type.starts_with("text/") || media_type == "application/json" || media_type.ends_with("+json")
}

/// A request that publishes, and what it has published so far. With an `Idempotency-Key` it is remembered even if it is
/// interrupted: when it is sent again, it continues where it stopped.
struct Publication<'a> {
    app: &'a App,
    key: Option<Cow<'a, str>>,
    done: Vec<PublishedIn>,
}

impl<'a> Publication<'a> {
    fn begin(app: &'a App, call: &'a Call) -> Result<Lookup<Self>, ApiError> {
        let Some(key) = call.headers.get("idempotency-key") else {
            return Ok(Lookup::Run(Self { app, key: None, done: Vec::new() }));
        };
        let key =
            key.to_str().ok().filter(|key| (1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&key.len())).ok_or_else(|| {
                ApiError::bad_request(format!(
                    "Idempotency-Key: give 1 to {IDEMPOTENCY_KEY_BYTES_MAX} visible ASCII characters."
                ))
            })?;
        let content_type = call.headers.get(header::CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
        let key = call.caller.own_key(key);
        let fingerprint = idempotency::fingerprint(&[call.path.as_bytes(), content_type, &call.body]);
        let lookup = app.idempotency.borrow_mut().begin(&key, fingerprint, Instant::now().into())?;
        Ok(match lookup {
            Lookup::Answered(answer) => Lookup::Answered(answer),
            Lookup::Run(done) => Lookup::Run(Self { app, key: Some(key), done }),
        })
    }

    /// The request is complete, with this answer.
    fn answer(mut self, answer: ApiAnswer) -> ApiAnswer {
        if let Some(key) = self.key.take() {
            self.app.idempotency.borrow_mut().end(&key, Progress::Answered(answer.clone()));
        }
        answer
    }
}

impl Drop for Publication<'_> {
    fn drop(&mut self) {
        if let Some(key) = &self.key {
            self.app.idempotency.borrow_mut().end(key, Progress::Interrupted(std::mem::take(&mut self.done)));
        }
    }
}

/// Why a message was not published.
#[derive(Clone, Copy)]
enum Unpublished {
    /// The shards have not caught up in time, or too many requests wait already.
    Busy,
    /// The log that several servers share could not be reached.
    Unavailable,
}

impl Unpublished {
    fn code(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Unavailable => "unavailable",
        }
    }

    fn sentence(self) -> &'static str {
        match self {
            Self::Busy => "The server is behind with its deliveries",
            Self::Unavailable => "The servers can't reach each other",
        }
    }
}

/// Publishes a message once the shards can take it without holding up other rooms, and wakes those that it goes to.
async fn publish_in(
    app: &App,
    namespace: Namespace,
    room: &Name,
    payload: Payload<'_>,
    until: Instant,
) -> Result<Published, Unpublished> {
    let received = Instant::now();
    let inboxes = app.rooms.inboxes();
    let must_wait = || app.rooms.is_congested() || app.rooms.get(namespace, room).is_some_and(|room| room.is_behind());
    if must_wait() {
        let _place = app.waiting.try_acquire().map_err(|_| Unpublished::Busy)?;
        while must_wait() {
            if Instant::now() >= until {
                return Err(Unpublished::Busy);
            }
            sleep(PUBLISH_LOOK_INTERVAL).await;
        }
    }
    let sample = {
        let mut sampler = app.sampler.borrow_mut();
        sampler.arrived(received.into());
        sampler.sample(Instant::now().into())
    };
    let mut wakes = Wakes::received(sample);
    app.counters.api_messages_in.add(1);
    let now = Time::read(Instant::now().into());
    let known = app.room(namespace, room).await.map_err(|Unavailable| Unpublished::Unavailable)?;
    let published = match known {
        Some(room) => {
            let (outcome, members) = room.publish_from_outside(payload, now, &mut wakes);
            let members = if app.rooms.outward().is_some() { app.rooms.counts(&room).members } else { members };
            Some((room, outcome, members))
        }
        None => app.rooms.publish_from_outside(namespace, room, payload, now, &mut wakes),
    };
    wakes.wake_all(inboxes);
    let Some((room, outcome, members)) = published else { return Ok(Published::default()) };
    let Placed { seq, epoch } = match outcome {
        room::Published::Placed(seq) => Placed { seq, epoch: room.epoch() },
        room::Published::Later(place) => {
            place.await.unwrap_or(Err(Unavailable)).map_err(|_| Unpublished::Unavailable)?
        }
        room::Published::Sent(_) => unreachable!("no shard publishes here"),
    };
    Ok(Published { seq: Some(seq), epoch: Some(Epoch(epoch)), members })
}

#[cfg(test)]
mod tests;
