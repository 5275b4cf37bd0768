//! What a request on the public port comes to: an answer, or a socket for the data ring.

use bytes::Bytes;

use super::{Caller, Front};
use crate::config::{EchoMode, RawMode};
use crate::connection::Role;
use crate::http::diagnosis::Fault;
use crate::http::echo::echo;
use crate::http::head::{self, Head};
use crate::http::origin;
use crate::http::response::{Body, Connection, Response};
use crate::http::stream;
use crate::http::target::{self, ChatParams, Route};
use crate::http::upgrade;
use crate::os;
use crate::protocol::name::Name;
use crate::protocol::position::Since;
use crate::protocol::v1;
use crate::ring::OpenRing;

/// The methods of what is read.
const METHODS: &str = "GET, HEAD, OPTIONS";

/// What a request comes to.
pub(super) enum Outcome {
    Answer { bytes: Bytes, keep_alive: bool },
    Upgrade(Upgrade),
}

/// A socket that goes to the data ring, and as what.
pub(super) struct Upgrade {
    pub(super) role: Role,
    pub(super) room: Option<Name>,
    pub(super) since: Option<Since>,
    pub(super) response: Bytes,
}

/// What the first request in the buffer comes to, and its length. `None`: its head is not complete. `searched` bytes
/// have been searched for its end before.
pub(super) fn outcome<R: OpenRing>(
    buffer: &[u8],
    searched: usize,
    caller: Caller<'_>,
    front: &Front<R>,
) -> Option<(Outcome, usize)> {
    match head::parse_more(buffer, searched) {
        Ok(Some((head, used))) => Some((answer(&head, caller, front), used)),
        Ok(None) => None,
        Err(error) => {
            let bytes = front.refuse(error, None, caller).response(None).encode(Connection::Close, Body::Sent);
            Some((Outcome::Answer { bytes, keep_alive: false }, buffer.len()))
        }
    }
}

fn answer<R: OpenRing>(head: &Head<'_>, caller: Caller<'_>, front: &Front<R>) -> Outcome {
    let refuse = |fault: Fault| front.refuse(fault, Some(head), caller).response(Some(head));
    let response = match target::route(head.target) {
        Err(error) => refuse(error.into()),
        Ok(Route::DoctorEcho) if front.config.echo == EchoMode::Off => not_found(),
        Ok(Route::NotFound) if head.method == "OPTIONS" => not_found(),
        Ok(route) if head.method == "OPTIONS" && answers_options(&route) => {
            let methods = if route.is_upgrade() { "GET, OPTIONS" } else { METHODS };
            Response::text(204, "").header("Allow", methods)
        }
        Ok(route) if route.is_upgrade() => match examine(head, route, front) {
            Ok(outcome) => return outcome,
            Err(fault) => refuse(fault),
        },
        Ok(Route::Stream { room, query }) => match listen(head, &room, query, caller, front) {
            Ok(outcome) => return outcome,
            Err(fault) => refuse(fault),
        },
        Ok(_) if !matches!(head.method, "GET" | "HEAD") => {
            Response::text(405, "Only GET and HEAD work here.").header("Allow", METHODS)
        }
        Ok(Route::Page(asset)) => asset.response(head),
        Ok(Route::Healthz) => Response::text(200, "ok"),
        Ok(Route::DoctorEcho) => Response::json(200, echo(head, caller.peer, &front.identity())),
        Ok(Route::Chat { .. } | Route::Raw { .. } | Route::Server | Route::NotFound) => not_found(),
    };
    // A body would be read as the next request.
    let keep_alive = head.keep_alive() && !head.body_declared() && !front.descriptors.are_short();
    let connection = if keep_alive { Connection::KeepAlive } else { Connection::Close };
    Outcome::Answer { bytes: response.encode(connection, Body::to_method(head.method)), keep_alive }
}

/// Health checks of load balancers ask `OPTIONS` of whatever address they are given; streams answer preflights themselves.
fn answers_options(route: &Route<'_>) -> bool {
    !matches!(route, Route::Stream { .. })
}

fn not_found() -> Response {
    Response::text(
        404,
        "There is nothing at this address. The chat is at /, WebSockets are at /ws and /raw/ROOM, events at /stream/ROOM.",
    )
}

fn examine<R: OpenRing>(head: &Head<'_>, route: Route<'_>, front: &Front<R>) -> Result<Outcome, Fault> {
    let handshake = upgrade::examine(head).map_err(Fault::from).and_then(|handshake| {
        origin::check(head, &front.config.origins)?;
        Ok(handshake)
    });
    // Who names a user is told first what is wrong with the name: a page can read that answer only with a plain GET.
    let names_a_user = matches!(route, Route::Chat { query } if query.contains("username="));
    let handshake = if names_a_user { handshake } else { Ok(handshake?) };
    let (role, room) = match route {
        Route::Raw { .. } if front.config.raw == RawMode::Off => {
            return Err(Fault::RawRoomsOff);
        }
        Route::Raw { room, query } => {
            let params = target::raw_params(&room, query)?;
            (Role::Raw { echo: params.echo, lossy: params.lossy }, Some(params.room))
        }
        Route::Chat { query } => {
            let ChatParams { user, room, room_named, resume } = target::chat_params(query)?;
            let speaks_v1 = handshake.as_ref().is_ok_and(|handshake| handshake.offers(v1::SUBPROTOCOL));
            let predecessor = resume.and_then(|secret| front.shard.borrow().predecessor(&secret)).map(Box::new);
            let role = if speaks_v1 { Role::V1 { user, predecessor } } else { Role::V0 { user } };
            (role, (room_named || !speaks_v1).then_some(room))
        }
        _ => unreachable!("only these two are upgrades"),
    };
    let protocol = matches!(role, Role::V1 { .. }).then_some(v1::SUBPROTOCOL);
    let response = upgrade::response_101(&handshake?, protocol);
    Ok(Outcome::Upgrade(Upgrade { role, room, since: None, response }))
}

/// What a request for the events of a room comes to.
fn listen<R: OpenRing>(
    head: &Head<'_>,
    room: &str,
    query: &str,
    caller: Caller<'_>,
    front: &Front<R>,
) -> Result<Outcome, Fault> {
    let room = target::stream_room(room)?;
    let origins = &front.config.origins;
    origin::check(head, origins)?;
    let last = |bytes| Ok(Outcome::Answer { bytes, keep_alive: false });
    match head.method {
        "GET" => {}
        "HEAD" => return last(stream::opened(head, origins).encode_open()),
        "OPTIONS" => return last(stream::preflight(head, origins).encode(Connection::Close, Body::Sent)),
        _ => return last(stream::method_not_allowed().encode(Connection::Close, Body::Sent)),
    }
    let since = stream::since(head, query)?;
    // A listener answers no pings: who doesn't take the heartbeats in time is gone. An error here means that it is already.
    let patience = front.config.ping_interval + front.config.ping_timeout;
    let _ = os::limit_unacknowledged(caller.socket, patience);
    Ok(Outcome::Upgrade(Upgrade {
        role: Role::Sse { ignored_bytes: 0 },
        room: Some(room),
        since,
        response: stream::opened(head, origins).encode_open(),
    }))
}
