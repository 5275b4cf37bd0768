//! What a request on the public port comes to: an answer, or a connection of the data ring.

use std::os::fd::BorrowedFd;

use bytes::Bytes;

use super::verification::Patience;
use super::{ControlContext, HeaderState, Origin, Peer, Settings};
use crate::address::proxy_header::{self, ProxyHeader, ProxyHeaderError};
use crate::address::table::Seat;
use crate::admission::Admitted;
use crate::clock::Now;
use crate::connection::Role;
use crate::connection::latest::Latest;
use crate::counters::Compression;
use crate::http::diagnosis::Fault;
use crate::http::echo::{Identity, echo};
use crate::http::head::{self, Head};
use crate::http::response::{Body, Connection, Response};
use crate::http::stream;
use crate::http::target::{self, ChatParams, RawParams, Route, UpgradeParams, UpgradeTarget};
use crate::http::upgrade;
use crate::identity::{GUEST_NAME, Standing};
use crate::os;
use crate::protocol::name::Name;
use crate::protocol::position::Since;
use crate::protocol::v1;
use crate::ring::OpenRing;

/// The methods of what can only be read.
const METHODS: &str = "GET, HEAD, OPTIONS";

/// What clients of v0 and of raw rooms may offer beside a token.
const SUBPROTOCOL_V0: &str = "hi.v0";
const SUBPROTOCOL_RAW: &str = "hi.raw";

/// What a request comes to.
pub(super) enum Outcome {
    Answer {
        bytes: Bytes,
        keep_alive: bool,
    },
    Upgrade(Upgrade),
    /// Too many tokens have been checked just now: later.
    Later,
}

/// What a socket is for once it is the data ring's.
pub(super) struct Upgrade {
    pub(super) role: Role,
    pub(super) room: Option<Name>,
    pub(super) since: Option<Since>,
    pub(super) standing: Option<Standing>,
    pub(super) compression: Option<Compression>,
    /// What counts it among the connections of its address.
    pub(super) seat: Option<Seat>,
    pub(super) response: Bytes,
}

/// What the first request in the buffer comes to, and its length. `None`: its head is not complete. `searched` bytes
/// have been searched for its end before. A PROXY header in front of it is taken out of the buffer.
pub(super) fn outcome<R: OpenRing>(
    buffer: &mut Vec<u8>,
    mut searched: usize,
    socket: BorrowedFd<'_>,
    origin: &mut Origin,
    context: &ControlContext<R>,
    patience: Patience,
) -> Option<(Outcome, usize)> {
    if origin.header == HeaderState::Due {
        match proxy_header::parse(buffer) {
            Ok(None) => return None,
            Ok(Some(ProxyHeader { used, client })) => {
                buffer.drain(..used);
                (origin.proxied, origin.header, searched) = (client, HeaderState::Done, 0);
            }
            // Its answer can be what the client prefers, once the request is read.
            Err(ProxyHeaderError::Missing) => origin.header = HeaderState::Missing,
            Err(error) => return Some((cut_off(error, socket, origin, context), buffer.len())),
        }
    }
    match head::parse_more(buffer, searched) {
        Ok(Some((head, used))) => Some((answer(&head, socket, origin, context, patience), used)),
        Ok(None) => None,
        Err(error) => Some((cut_off(error, socket, origin, context), buffer.len())),
    }
}

/// The last answer on a connection whose input can't be read.
fn cut_off<R: OpenRing>(
    fault: impl Into<Fault>,
    socket: BorrowedFd<'_>,
    origin: &Origin,
    context: &ControlContext<R>,
) -> Outcome {
    let verdict = context.refuse(fault, None, context.peer(socket, origin));
    Outcome::Answer { bytes: verdict.response(None).encode(Connection::Close, Body::Sent), keep_alive: false }
}

fn answer<R: OpenRing>(
    head: &Head<'_>,
    socket: BorrowedFd<'_>,
    origin: &Origin,
    context: &ControlContext<R>,
    patience: Patience,
) -> Outcome {
    if origin.header == HeaderState::Missing {
        let verdict = context.refuse(ProxyHeaderError::Missing, Some(head), context.peer(socket, origin));
        let bytes = verdict.response(Some(head)).encode(Connection::Close, Body::to_method(head.method));
        return Outcome::Answer { bytes, keep_alive: false };
    }
    let peer = context.locate(head, context.peer(socket, origin), origin);
    let refuse = |fault: Fault| context.refuse(fault, Some(head), peer).response(Some(head));
    let response = match target::route(head.target) {
        Err(error) => refuse(error.into()),
        Ok(Route::DoctorEcho) if !context.settings().echo => not_found(),
        Ok(Route::NotFound) if head.method == "OPTIONS" => not_found(),
        // Health checks of load balancers ask `OPTIONS` of whatever address they are given; streams answer preflights
        // themselves.
        Ok(route) if head.method == "OPTIONS" && !matches!(route, Route::Stream { .. }) => {
            let methods = if matches!(route, Route::Upgrade(_)) { "GET, OPTIONS" } else { METHODS };
            Response::text(204, "").header("Allow", methods)
        }
        Ok(Route::Upgrade(_) | Route::Stream { .. }) if context.verification.is_exhausted(patience) => {
            return Outcome::Later;
        }
        Ok(Route::Upgrade(target)) => match counted(peer, context, || open(head, &target, peer, context)) {
            Ok(outcome) => return outcome,
            Err(fault) => refuse(fault),
        },
        Ok(Route::Stream { room, query }) => match counted(peer, context, || listen(head, &room, query, peer, context))
        {
            Ok(outcome) => return outcome,
            Err(fault) => refuse(fault),
        },
        Ok(_) if !matches!(head.method, "GET" | "HEAD") => {
            Response::text(405, "Only GET and HEAD work here.").header("Allow", METHODS)
        }
        Ok(Route::Page(asset)) => asset.response(head),
        Ok(Route::Healthz) => Response::text(200, "ok"),
        Ok(Route::DoctorEcho) => {
            let settings = context.settings();
            let Settings { instance, group, backend, .. } = &**settings;
            let (group, version) = (group.as_deref(), env!("CARGO_PKG_VERSION"));
            let cluster = context.cluster.as_ref().map(|see| see());
            let identity = Identity { instance, group, version, backend: backend.as_str(), cluster: cluster.as_ref() };
            Response::json(200, echo(head, &peer.client, &identity))
        }
        Ok(Route::Server | Route::NotFound) => not_found(),
    };
    // A body would be read as the next request.
    let keep_alive = head.keep_alive() && !head.body_declared() && !context.descriptors.are_short();
    let connection = if keep_alive { Connection::KeepAlive } else { Connection::Close };
    Outcome::Answer { bytes: response.encode(connection, Body::to_method(head.method)), keep_alive }
}

fn not_found() -> Response {
    Response::text(
        404,
        "There is nothing at this address. The chat is at /, WebSockets are at /ws and /raw/ROOM, events at /stream/ROOM.",
    )
}

/// What a handshake comes to, if its address may make one.
fn counted<R: OpenRing>(
    peer: Peer<'_>,
    context: &ControlContext<R>,
    handshake: impl FnOnce() -> Result<Outcome, Fault>,
) -> Result<Outcome, Fault> {
    let settings = context.settings();
    let (limits, now_ms) = (&settings.address_limits, Now::read().time.monotonic_ms);
    let seat = context.addresses.enter(peer.client.address, limits, now_ms)?;
    match handshake() {
        Ok(Outcome::Upgrade(upgrade)) => Ok(Outcome::Upgrade(Upgrade { seat, ..upgrade })),
        Ok(answer) => Ok(answer),
        Err(fault) => {
            if let Some(seat) = seat {
                seat.fail(limits, now_ms);
            }
            Err(fault)
        }
    }
}

/// What a request for a WebSocket comes to.
fn open<R: OpenRing>(
    head: &Head<'_>,
    target: &UpgradeTarget<'_>,
    peer: Peer<'_>,
    context: &ControlContext<R>,
) -> Result<Outcome, Fault> {
    let (trusted, settings) = (peer.client.through_trusted_proxy, context.settings());
    let identified = context.verification.timing(trusted, |check| settings.admission.connect(head, target, check));
    let Admitted { handshake, params, standing } = identified?;
    let (role, room) = match params {
        UpgradeParams::Raw(RawParams { room, echo, lossy, latest }) => {
            let role = match latest {
                Some(interval) => Role::Latest(Box::new(Latest::new(echo, interval))),
                None => Role::Raw { echo, lossy },
            };
            (role, Some(room))
        }
        UpgradeParams::Chat(ChatParams { user, room, room_named, resume }) => {
            let user = match (&standing, user) {
                (Some(Standing::Known(principal)), _) => principal.user.clone(),
                (_, Some(user)) => user,
                // The token that is awaited says it.
                (_, None) => Name::user(GUEST_NAME).expect("a name"),
            };
            let speaks_v1 = handshake.offers(v1::SUBPROTOCOL);
            let predecessor = resume.and_then(|secret| context.shard.predecessor(&secret)).map(Box::new);
            let role = if speaks_v1 { Role::V1 { user, predecessor } } else { Role::V0 { user } };
            (role, (room_named || !speaks_v1).then_some(room))
        }
    };
    // Browsers end a connection if none of the subprotocols that they offer is chosen, and a token is never chosen.
    let protocol = match &role {
        Role::V1 { .. } => Some(v1::SUBPROTOCOL),
        Role::V0 { .. } => Some(SUBPROTOCOL_V0).filter(|name| handshake.offers(name)),
        _ => Some(SUBPROTOCOL_RAW).filter(|name| handshake.offers(name)),
    };
    let response = upgrade::response_101(&handshake, protocol);
    let compression = handshake.compression.map(|offer| offer.outcome);
    Ok(Outcome::Upgrade(Upgrade { role, room, since: None, standing, compression, seat: None, response }))
}

/// What a request for the events of a room comes to.
fn listen<R: OpenRing>(
    head: &Head<'_>,
    room: &str,
    query: &str,
    peer: Peer<'_>,
    context: &ControlContext<R>,
) -> Result<Outcome, Fault> {
    let (trusted, settings) = (peer.client.through_trusted_proxy, context.settings());
    let identified = context.verification.timing(trusted, |check| settings.admission.listen(head, room, query, check));
    let (room, standing) = identified?;
    let origins = settings.admission.origins();
    let last = |bytes| Ok(Outcome::Answer { bytes, keep_alive: false });
    match head.method {
        "GET" => {}
        "HEAD" => return last(stream::opened(head, origins).encode_open()),
        "OPTIONS" => return last(stream::preflight(head, origins).encode(Connection::Close, Body::Sent)),
        _ => return last(stream::method_not_allowed().encode(Connection::Close, Body::Sent)),
    }
    target::refuse_latest(query)?;
    let since = stream::since(head, query)?;
    // An error here means that the listener is gone already.
    let _ = os::limit_unacknowledged(peer.socket, context.settings().unacknowledged_max);
    Ok(Outcome::Upgrade(Upgrade {
        role: Role::Sse { ignored_bytes: 0 },
        room: Some(room),
        since,
        standing,
        compression: None,
        seat: None,
        response: stream::opened(head, origins).encode_open(),
    }))
}
