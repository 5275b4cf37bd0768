//! From accept to 101, or to the head of a stream: the tasks of the control ring.
//!
//! An upgrade or a stream hands the socket over to the shard's data ring, together with the bytes that arrived behind the
//! head; everything else is answered here. Most peers have sent their head when they are accepted: then that takes no task
//! and no wait. The others get a task that reads request heads and answers them.

use std::cell::RefCell;
use std::io;
use std::mem;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustix::net::{RecvFlags, recv};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_uring::buf::BoundedBuf;
use tokio_uring::net::TcpStream;
use tracing::{info, warn};

use crate::config::{Config, RawMode};
use crate::connection::Role;
use crate::handshake_failures::{FailureCount, Failures};
use crate::http::diagnosis::{Ends, Fault, Verdict, diagnose};
use crate::http::echo::{Identity, echo};
use crate::http::head::{self, HEAD_BYTES_MAX, Head};
use crate::http::origin;
use crate::http::response::{Body, Connection, Response};
use crate::http::stream;
use crate::http::target::{self, ChatParams, Route};
use crate::http::upgrade;
use crate::metrics::counters::Counters;
use crate::os;
use crate::protocol::v1;
use crate::ring::DataRing;
use crate::room::replay::Since;
use crate::shard::{Opening, Shard, Upgraded};

/// In a storm, so many are accepted before those who are in are served.
const ACCEPTS_IN_A_ROW: usize = 64;
/// How long accepting pauses when the system has no file descriptor or memory left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Most request heads fit; a larger one grows the buffer.
const HEAD_BYTES_USUAL: usize = 1024;
/// After the last answer, so much of what the peer still sends is read, so that no reset overtakes the answer.
const LINGER_BYTES_MAX: usize = 64 * 1024;
/// And for so long.
const LINGER_TIME_MAX: Duration = Duration::from_secs(1);

/// What the tasks of a shard's control ring share.
pub struct Front<R> {
    /// The shard itself, used between two awaits only.
    pub shard: RefCell<Shard<R>>,
    /// Told when the shard got something to do outside its turn.
    pub news: Notify,
    /// The command line.
    pub config: Arc<Config>,
    /// This process, as clients and `hi doctor` see it.
    pub instance: Arc<str>,
    /// What the shard counts.
    pub counters: Arc<Counters>,
    failures: Arc<Failures>,
}

impl<R: DataRing> Front<R> {
    /// What the tasks of `shard` share.
    pub fn new(shard: Shard<R>, config: Arc<Config>, instance: Arc<str>, failures: Arc<Failures>) -> Self {
        Self {
            counters: Arc::clone(shard.counters()),
            shard: RefCell::new(shard),
            news: Notify::new(),
            config,
            instance,
            failures,
        }
    }

    /// Who answers.
    fn identity(&self) -> Identity<'_> {
        Identity { instance: &self.instance, group: self.config.group.as_deref(), version: env!("CARGO_PKG_VERSION") }
    }

    /// Hands a socket over to the data ring, with what arrived behind its head.
    fn adopt(&self, stream: TcpStream, upgrade: Upgrade, leftover: Vec<u8>) {
        let Upgrade { role, room, opening, since, response } = upgrade;
        self.shard.borrow_mut().adopt(Upgraded { stream, role, room, opening, since, response, leftover });
        self.news.notify_one();
    }

    /// Says and counts why a handshake failed.
    fn refuse(&self, fault: impl Into<Fault>, head: Option<&Head<'_>>, caller: Caller<'_>) -> Verdict {
        let Caller { stream, peer } = caller;
        let ends = Ends { peer, local: os::local_address(stream).ok() };
        let verdict = diagnose(fault.into(), head, ends);
        if let Some(others) = self.failures.note(&verdict, std::time::Instant::now()) {
            let others =
                if others > 0 { format!(" ({others} more of this kind were not logged)") } else { String::new() };
            info!("handshake from {peer} refused: {}{others}", verdict.operator_text());
        }
        verdict
    }
}

/// One end of a connection that is not upgraded yet.
#[derive(Clone, Copy)]
struct Caller<'s> {
    stream: &'s TcpStream,
    peer: SocketAddr,
}

/// Logs how many failures were left out of the log, once each interval, for as long as any are.
pub async fn log_left_out(failures: Arc<Failures>) {
    loop {
        failures.wait_for_left_out().await;
        while failures.has_left_out() {
            sleep(failures.interval()).await;
            for FailureCount { reason, hop, count } in failures.overdue(std::time::Instant::now()) {
                let (plural, interval) = (if count == 1 { "" } else { "s" }, failures.interval());
                info!(
                    "{count} more handshake{plural} refused in the last {interval:?} ({}, via {hop})",
                    reason.as_str()
                );
            }
        }
    }
}

/// A listener, watched by the runtime of the thread that made it.
pub struct Door {
    listener: AsyncFd<TcpListener>,
    /// Told when a row of accepts has ended and another one has to follow.
    next_row: AsyncFd<OwnedFd>,
}

impl Door {
    /// Watches the listener.
    ///
    /// # Errors
    /// Out of file descriptors or memory.
    pub fn new(listener: TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self { listener: os::watch_listener(listener)?, next_row: os::watch_eventfd(os::new_eventfd()?)? })
    }
}

/// Accepts for as long as the listener lives. Without file descriptors it pauses; those connected notice nothing.
pub async fn accept<R: DataRing + 'static>(door: Door, front: Rc<Front<R>>) {
    let mut buffer = Vec::new();
    'rows: loop {
        let mut ready = door.listener.readable().await.expect("the runtime runs");
        for _ in 0..ACCEPTS_IN_A_ROW {
            // Nobody waits any more.
            let Ok(accepted) = ready.try_io(|listener| os::accept(listener.get_ref())) else { continue 'rows };
            match accepted {
                Ok((stream, peer)) => {
                    front.counters.accepts.add(1);
                    welcome(stream, peer, &mut buffer, &front);
                }
                // The listener was shut down: the server stops.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return,
                // That one connection was gone before it was accepted.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    front.counters.accept_pauses.add(1);
                    if front.failures.note_pause(std::time::Instant::now()) {
                        warn!(
                            "accepting pauses: {error}; those connected notice nothing. More connections need a higher \
                             file limit (ulimit -n, or LimitNOFILE= in systemd)"
                        );
                    }
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        // The thread parks in between, as after a turn that is not the last one: the control ring is submitted only then.
        os::eventfd_signal(door.next_row.get_ref());
        door.next_row.readable().await.expect("the runtime runs").clear_ready();
    }
}

/// Serves a connection at once as far as what it has sent allows, and hands the rest to a task. `buffer` is used again
/// unless it goes with the task.
fn welcome<R: DataRing + 'static>(
    stream: std::net::TcpStream,
    peer: SocketAddr,
    buffer: &mut Vec<u8>,
    front: &Rc<Front<R>>,
) {
    buffer.clear();
    buffer.reserve(HEAD_BYTES_USUAL);
    // Nothing yet, or the end of it, or an error: the task reads again, and finds out.
    let _ = recv(&stream, rustix::buffer::spare_capacity(buffer), RecvFlags::DONTWAIT);
    let stream = TcpStream::from_std(stream);
    match outcome(buffer, 0, Caller { stream: &stream, peer }, front) {
        Some((Outcome::Upgrade(upgrade), used)) => front.adopt(stream, upgrade, buffer.split_off(used)),
        first => {
            let (buffer, front) = (mem::take(buffer), Rc::clone(front));
            drop(tokio_uring::spawn(async move { serve(stream, peer, buffer, first, &front).await }));
        }
    }
}

/// What a request comes to.
enum Outcome {
    Answer { bytes: Bytes, keep_alive: bool },
    Upgrade(Upgrade),
}

/// A socket that goes to the data ring, and as what.
struct Upgrade {
    role: Role,
    room: Option<String>,
    opening: Option<Opening>,
    since: Option<Since>,
    response: Bytes,
}

/// What the first request in the buffer comes to, and its length. `None`: its head is not complete. So many bytes have been
/// searched for its end before.
fn outcome<R: DataRing>(
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

/// Reads request heads from one socket and answers them, until it is upgraded or ends. `buffer` holds what has been read,
/// `first` what the request in it comes to.
async fn serve<R: DataRing>(
    stream: TcpStream,
    peer: SocketAddr,
    mut buffer: Vec<u8>,
    mut first: Option<(Outcome, usize)>,
    front: &Front<R>,
) {
    let mut searched = buffer.len();
    let mut deadline = Instant::now() + front.config.handshake_timeout;
    loop {
        let caller = Caller { stream: &stream, peer };
        let Some((outcome, used)) = first.take().or_else(|| outcome(&buffer, searched, caller, front)) else {
            searched = buffer.len();
            let read;
            (read, buffer) = match timeout_at(deadline, read_more(&stream, buffer)).await {
                Ok(read) => read,
                Err(_) => return end(stream, peer, searched > 0, front).await,
            };
            if !matches!(read, Ok(1..)) {
                if searched > 0 {
                    front.refuse(Fault::CutOff(searched), None, caller);
                }
                return;
            }
            continue;
        };
        match outcome {
            Outcome::Upgrade(upgrade) => return front.adopt(stream, upgrade, buffer.split_off(used)),
            Outcome::Answer { bytes, keep_alive } => {
                deadline = Instant::now() + front.config.handshake_timeout;
                let written = timeout_at(deadline, stream.write_all(bytes)).await;
                if !matches!(written, Ok((Ok(()), _))) {
                    drop(stream.shutdown(Shutdown::Both));
                    return;
                }
                if !keep_alive {
                    return linger(stream).await;
                }
                buffer.drain(..used);
                searched = 0;
            }
        }
    }
}

/// Appends what arrives next to `buffer`, at most up to the limit of a head.
async fn read_more(stream: &TcpStream, mut buffer: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
    let len = buffer.len();
    if len == buffer.capacity() {
        // One byte more than a head may have: the parser sees that it is too long.
        buffer.reserve_exact((len.max(HEAD_BYTES_USUAL) * 2).min(HEAD_BYTES_MAX + 1) - len);
    }
    let capacity = buffer.capacity();
    let (read, slice) = stream.read(buffer.slice(len..capacity)).await;
    (read, slice.into_inner())
}

/// The time for a head is up. A peer that began one is told.
async fn end<R: DataRing>(stream: TcpStream, peer: SocketAddr, began: bool, front: &Front<R>) {
    if began {
        let fault = Fault::Timeout(front.config.handshake_timeout);
        let verdict = front.refuse(fault, None, Caller { stream: &stream, peer });
        let bytes = verdict.response(None).encode(Connection::Close, Body::Sent);
        let _ = timeout_at(Instant::now() + LINGER_TIME_MAX, stream.write_all(bytes)).await;
    }
    // Ends the read that the kernel still holds, and with it the socket.
    drop(stream.shutdown(Shutdown::Both));
}

/// Closes our end, and reads on for a moment: closing at once could reset the connection under the answer.
async fn linger(stream: TcpStream) {
    drop(stream.shutdown(Shutdown::Write));
    let deadline = Instant::now() + LINGER_TIME_MAX;
    let mut read = 0;
    while let Ok((Ok(count @ 1..), _)) = timeout_at(deadline, stream.read(Vec::with_capacity(4096))).await {
        read += count;
        if read > LINGER_BYTES_MAX {
            break;
        }
    }
    drop(stream.shutdown(Shutdown::Both));
}

fn answer<R: DataRing>(head: &Head<'_>, caller: Caller<'_>, front: &Front<R>) -> Outcome {
    let refuse = |fault: Fault| front.refuse(fault, Some(head), caller).response(Some(head));
    let response = match target::route(head.target) {
        Err(error) => refuse(error.into()),
        Ok(route) if route.is_upgrade() => match examine(head, route, front) {
            Ok(outcome) => return outcome,
            Err(fault) => refuse(fault),
        },
        Ok(Route::Stream { room }) => match listen(head, room, caller, front) {
            Ok(outcome) => return outcome,
            Err(fault) => refuse(fault),
        },
        Ok(_) if !matches!(head.method, "GET" | "HEAD") => {
            Response::text(405, "Only GET and HEAD work here.").header("Allow", "GET, HEAD")
        }
        Ok(Route::Page(asset)) => asset.response(head),
        Ok(Route::Healthz) => Response::text(200, "ok"),
        Ok(Route::DoctorEcho) => Response::json(200, echo(head, caller.peer, &front.identity())),
        Ok(Route::Chat { .. } | Route::Raw { .. } | Route::NotFound) => Response::text(
            404,
            "There is nothing at this address. The chat is at /, WebSockets are at /ws and /raw/ROOM, events at /stream/ROOM.",
        ),
    };
    // A body would be read as the next request.
    let keep_alive = head.keep_alive() && !head.body_declared();
    let connection = if keep_alive { Connection::KeepAlive } else { Connection::Close };
    Outcome::Answer { bytes: response.encode(connection, Body::to_method(head.method)), keep_alive }
}

fn examine<R: DataRing>(head: &Head<'_>, route: Route<'_>, front: &Front<R>) -> Result<Outcome, Fault> {
    let handshake = upgrade::examine(head).map_err(Fault::from).and_then(|handshake| {
        origin::check(head, &front.config.origins)?;
        Ok(handshake)
    });
    // Who names a user is told first what is wrong with the name: a page can read that answer only with a plain GET.
    let names_a_user = matches!(route, Route::Chat { query } if query.contains("username="));
    let handshake = if names_a_user { handshake } else { Ok(handshake?) };
    let (role, room, opening) = match route {
        Route::Raw { .. } if front.config.raw == RawMode::Off => {
            return Err(Fault::RawRoomsOff);
        }
        Route::Raw { room, query } => {
            let params = target::raw_params(&room, query)?;
            (Role::Raw { echo: params.echo, lossy: params.lossy }, Some(params.room), None)
        }
        Route::Chat { query } => {
            let ChatParams { user, room, room_named, resume } = target::chat_params(query)?;
            let speaks_v1 = handshake.as_ref().is_ok_and(|handshake| handshake.offers(v1::SUBPROTOCOL));
            let opening = speaks_v1.then(|| Opening { instance: Arc::clone(&front.instance), resume });
            (Role::Chat { user: user.into() }, (room_named || !speaks_v1).then_some(room), opening)
        }
        _ => unreachable!("only these two are upgrades"),
    };
    let protocol = opening.is_some().then_some(v1::SUBPROTOCOL);
    let response = upgrade::response_101(&handshake?, protocol);
    Ok(Outcome::Upgrade(Upgrade { role, room, opening, since: None, response }))
}

/// What a request for the events of a room comes to.
fn listen<R: DataRing>(head: &Head<'_>, room: String, caller: Caller<'_>, front: &Front<R>) -> Result<Outcome, Fault> {
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
    // A listener answers no pings: who doesn't take the heartbeats in time is gone. An error here means that it is already.
    let patience = front.config.ping_interval + front.config.ping_timeout;
    let _ = os::limit_unacknowledged(caller.stream, patience);
    Ok(Outcome::Upgrade(Upgrade {
        role: Role::Stream { ignored_bytes: 0 },
        room: Some(room),
        opening: None,
        since: stream::since(head),
        response: stream::opened(head, origins).encode_open(),
    }))
}
