//! Publishing from outside: into chat rooms, into raw rooms.

use std::time::Instant;

use axum::http::header;
use fastwebsockets::OpCode;
use serde::Serialize;

use super::App;
use super::call::{Answer, ApiError, Call};
use super::fields::Fields;
use super::once::{self, KEY_BYTES_MAX};
use crate::clock::Time;
use crate::config::RawMode;
use crate::frame::encode;
use crate::metrics::counters::Speech;
use crate::protocol::name::{check_room, check_user};
use crate::room::{Namespace, Payload, Wakes};

/// Rooms of one broadcast.
const ROOMS_MAX: usize = 1000;
/// Who speaks if nobody is named.
const FROM_DEFAULT: &str = "api";

/// What became of a message in one room.
#[derive(Debug, Serialize)]
struct Published {
    /// Its place in the room's order; none if nobody is in the room.
    seq: Option<u64>,
    /// The life of the room that this place belongs to.
    epoch: Option<String>,
    /// Members that it goes to.
    members: usize,
}

#[derive(Debug, Serialize)]
struct PublishedIn<'a> {
    room: &'a str,
    #[serde(flatten)]
    published: Published,
}

#[derive(Debug, Serialize)]
struct Broadcast<'a> {
    rooms: Vec<PublishedIn<'a>>,
    members: usize,
}

/// 200 if somebody gets it; 202 if nobody is there.
fn status(members: usize) -> u16 {
    if members > 0 { 200 } else { 202 }
}

/// `POST /api/publish`: a message into a chat room.
///
/// # Errors
/// A field is missing or wrong, the key was used before, or the shards are behind.
pub fn publish(app: &App, call: &Call) -> Result<Answer, ApiError> {
    let mut fields = Fields::parse(&call.body)?;
    let (room, message, from) = (fields.string("room")?, fields.string("message")?, from(&mut fields)?);
    fields.finish()?;
    check_room(&room).map_err(|why| ApiError::bad_request(format!("room: {why}")))?;
    once(app, call, || {
        let published =
            Publisher::new(app)?.publish(Namespace::Chat, &room, Payload::Chat { from: &from, text: &message });
        Ok(Answer::json(status(published.members), &published))
    })
}

/// `POST /api/broadcast`: a message into several chat rooms.
///
/// # Errors
/// The same.
pub fn broadcast(app: &App, call: &Call) -> Result<Answer, ApiError> {
    let mut fields = Fields::parse(&call.body)?;
    let (rooms, message, from) = (fields.strings("rooms")?, fields.string("message")?, from(&mut fields)?);
    fields.finish()?;
    if rooms.len() > ROOMS_MAX {
        let message = format!("rooms: it names {} rooms; give at most {ROOMS_MAX} at once.", rooms.len());
        return Err(ApiError::bad_request(message));
    }
    for (index, room) in rooms.iter().enumerate() {
        check_room(room).map_err(|why| ApiError::bad_request(format!("rooms[{index}]: {why}")))?;
    }
    once(app, call, || {
        let mut publisher = Publisher::new(app)?;
        let mut members = 0;
        let mut publish = |room| {
            let published = publisher.publish(Namespace::Chat, room, Payload::Chat { from: &from, text: &message });
            members += published.members;
            PublishedIn { room, published }
        };
        let rooms = rooms.iter().map(|room| publish(room)).collect();
        Ok(Answer::json(status(members), &Broadcast { rooms, members }))
    })
}

/// `POST /pub/ROOM`: the body into a raw room, as it is.
pub(super) fn publish_raw(app: &App, call: &Call) -> Result<Answer, ApiError> {
    if app.raw == RawMode::Off {
        return Err(ApiError::new(403, "denied", "Raw rooms are switched off on this server (--raw off)."));
    }
    check_room(&call.room).map_err(|why| ApiError::bad_request(format!("room: {why}")))?;
    let opcode = if is_text(call) { OpCode::Text } else { OpCode::Binary };
    if opcode == OpCode::Text && simdutf8::basic::from_utf8(&call.body).is_err() {
        let message = "The body is not UTF-8, as its Content-Type asks for: send it as application/octet-stream.";
        return Err(ApiError::bad_request(message));
    }
    once(app, call, || {
        let frame = encode::frame(opcode, &call.body);
        let published = Publisher::new(app)?.publish(Namespace::Raw, &call.room, Payload::Frame(&frame));
        Ok(Answer::json(status(published.members), &published))
    })
}

fn from(fields: &mut Fields) -> Result<String, ApiError> {
    let from = fields.optional_string("from")?.unwrap_or_else(|| FROM_DEFAULT.to_owned());
    check_user(&from).map_err(|why| ApiError::bad_request(format!("from: {why}")))?;
    Ok(from)
}

/// Whether the media type is text or JSON (RFC 9110 8.3.1, RFC 6839 3.1).
fn is_text(call: &Call) -> bool {
    let value = call.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    media_type.starts_with("text/") || media_type == "application/json" || media_type.ends_with("+json")
}

/// Does it, unless the request has an `Idempotency-Key` with which it has been done before. Nothing waits in between, so
/// two requests with one key can't both be the first.
fn once(app: &App, call: &Call, publish: impl FnOnce() -> Result<Answer, ApiError>) -> Result<Answer, ApiError> {
    let Some(key) = call.headers.get("idempotency-key") else { return publish() };
    let key = key.to_str().ok().filter(|key| (1..=KEY_BYTES_MAX).contains(&key.len())).ok_or_else(|| {
        ApiError::bad_request(format!("Idempotency-Key: give 1 to {KEY_BYTES_MAX} visible ASCII characters."))
    })?;
    let content_type = call.headers.get(header::CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    let fingerprint = once::fingerprint(&[call.path.as_bytes(), content_type, &call.body]);
    let now = Instant::now();
    let mut once = app.once.lock().expect("it is never held over a panic");
    if let Some(answer) = once.recall(key, &fingerprint, now)? {
        return Ok(answer);
    }
    let answer = publish()?;
    once.remember(key, fingerprint, answer.clone(), now);
    Ok(answer)
}

/// Publishes some messages, and then wakes the shards that they go to.
struct Publisher<'a> {
    app: &'a App,
    wakes: Wakes,
}

impl<'a> Publisher<'a> {
    /// # Errors
    /// The shards are behind with what they have to deliver.
    fn new(app: &'a App) -> Result<Self, ApiError> {
        if app.rooms.inboxes().iter().any(|inbox| inbox.is_congested()) {
            let message = "The server is behind with its deliveries. Nothing was published; try again in a second.";
            return Err(ApiError::temporary(503, "busy", message));
        }
        let mut sampler = app.sampler.lock().expect("it is never held over a panic");
        sampler.arrived(Instant::now());
        Ok(Self { app, wakes: Wakes::received(sampler.sample()) })
    }

    fn publish(&mut self, namespace: Namespace, room: &str, payload: Payload<'_>) -> Published {
        self.app.metrics.of_internal_port().messages_in(Speech::Api).add(1);
        let rooms = &self.app.rooms;
        let now = Time::read(Instant::now());
        match rooms.publish_from_outside(namespace, room, payload, now, &mut self.wakes) {
            Some((room, seq, members)) => {
                Published { seq: Some(seq), epoch: Some(format!("{:016x}", room.epoch())), members }
            }
            None => Published { seq: None, epoch: None, members: 0 },
        }
    }
}

impl Drop for Publisher<'_> {
    fn drop(&mut self) {
        self.wakes.wake_all(self.app.rooms.inboxes());
    }
}
