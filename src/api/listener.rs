//! Connections to the internal port: bounded in number and in time, and none is cut while a request is under way.
//!
//! From [`CROWDED_FROM`] connections on, each answer ends its connection and says so. Where all slots are taken, or the
//! process has no file descriptor left, [`Slots`] chooses the connection that makes room, and whatever it has begun to ask
//! is answered.

use std::convert::Infallible;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep_until, timeout};

use super::call::ApiError;
use super::slots::{Held, Phase, Slot, Slots, Slotted};
use super::{App, routes};
use crate::http::head::{HEAD_BYTES_MAX, HeadError};
use crate::http::response::{self, Connection, Response};

/// Connections at the same time; further ones wait for a slot.
pub(crate) const CONNECTIONS_MAX: usize = 256;
/// From this many connections on, answers end theirs. The rest of the slots is then free for those with one request.
pub(crate) const CROWDED_FROM: usize = 192;
/// What hyper may read ahead on one connection, in bytes. A head ends before: [`Slotted`] sees to it.
pub(crate) const READ_BYTES_MAX: usize = 2 * HEAD_BYTES_MAX;
/// Between two looks for a slot, or for a file descriptor.
const PAUSE: Duration = Duration::from_millis(50);
/// Lingering close: time to discard what still comes, so that a reset does not destroy the last answer.
const LINGER_TIME_MAX: Duration = Duration::from_secs(1);
/// Bytes that it discards meanwhile.
const LINGER_BYTES_MAX: usize = 64 * 1024;

/// Serves connections for as long as the process lives. One that asks for nothing is kept for the time `keepalive`.
pub(super) async fn serve(listener: TcpListener, app: Rc<App>, keepalive: Duration) {
    let slots = Rc::new(Slots::new(CONNECTIONS_MAX, CROWDED_FROM));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            // That one connection was gone before it was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(_) => {
                slots.set_short(true);
                make_room(&slots).await;
                continue;
            }
        };
        slots.set_short(false);
        // An error means that the peer is gone: the read says so too.
        let _ = stream.set_nodelay(true);
        let held = loop {
            match Slots::take(&slots) {
                Some(held) => break held,
                None => make_room(&slots).await,
            }
        };
        drop(spawn_local(serve_one(stream, held, Rc::clone(&app), keepalive)));
    }
}

/// Has one connection make room, and waits until one has, but not for long: others may be ready to make room by then.
async fn make_room(slots: &Slots) {
    slots.make_room();
    let _ = timeout(PAUSE, slots.freed()).await;
}

async fn serve_one(stream: TcpStream, held: Held, app: Rc<App>, keepalive: Duration) {
    app.counters.api_connections.add(1);
    serve_requests(stream, &held, &app, keepalive).await;
    app.counters.api_connections.subtract(1);
}

/// Serves one connection until it ends, or has to.
async fn serve_requests(stream: TcpStream, held: &Held, app: &App, keepalive: Duration) {
    let slot = held.slot();
    let service = service_fn(|request: hyper::Request<Incoming>| async move {
        slot.enter(Phase::Asking);
        let mut answer = routes::answer(app, request, slot).await;
        if held.is_crowded() {
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        slot.enter(Phase::Answering);
        Ok::<_, Infallible>(answer)
    });
    let io = Slotted::new(stream, Rc::clone(slot));
    let mut server = http1::Builder::new();
    let mut connection = server.half_close(true).max_buf_size(READ_BYTES_MAX).serve_connection(io, service);
    let mut has_hurried = false;
    let too_large = loop {
        let due = slot.due(keepalive);
        tokio::select! {
            biased;
            _ = &mut connection => match slot.head_is_too_large() {
                true => break true,
                false => return,
            },
            () = slot.news() => {}
            () = sleep_until(due) => {}
        }
        let is_told = slot.is_told_to_go() && !has_hurried;
        if !is_told && Instant::now() < slot.due(keepalive) {
            continue;
        }
        match slot.phase() {
            Phase::New | Phase::Head | Phase::Waiting => break false,
            // The body is no longer waited for: that is the answer.
            Phase::Asking => {
                slot.hurry();
                has_hurried = true;
            }
            Phase::Answering => return,
        }
    };
    let parts = connection.into_parts();
    refuse_the_rest(parts.io.into_stream(), &parts.read_buf, slot, too_large, app).await;
}

/// Answers whatever has begun on a connection that has to end before its next request is whole, and closes it.
async fn refuse_the_rest(mut stream: TcpStream, read_ahead: &[u8], slot: &Slot, too_large: bool, app: &App) {
    // What came just now, or behind the last request, has begun too.
    let has_begun = slot.phase() == Phase::Head
        || !read_ahead.is_empty()
        || stream.try_read(&mut [0; 1]).is_ok_and(|count| count > 0);
    if !has_begun {
        return;
    }
    let error = if too_large {
        ApiError::new(431, "too_big", HeadError::TooLarge.to_string())
    } else {
        ApiError::temporary(408, "too_late", "The head of the request did not arrive in time: send it whole, at once.")
    };
    app.counters.api_errors(error.code).add(1);
    let linger = if slot.is_told_to_go() { Duration::ZERO } else { LINGER_TIME_MAX };
    let _ = timeout(LINGER_TIME_MAX, end(&mut stream, &error, linger)).await;
}

/// Answers and closes. What still comes is read for the time `linger`.
async fn end(stream: &mut TcpStream, error: &ApiError, linger: Duration) -> io::Result<()> {
    let response = Response::json(error.status, error.to_json().to_string());
    let response = if error.temporary { response.header("Retry-After", "1") } else { response };
    stream.write_all(&response.encode(Connection::Close, response::Body::Sent)).await?;
    stream.shutdown().await?;
    let mut read = 0;
    let drain = async {
        while let Ok(count @ 1..) = stream.read(&mut [0; 4096]).await {
            read += count;
            if read > LINGER_BYTES_MAX {
                break;
            }
        }
    };
    let _ = timeout(linger, drain).await;
    Ok(())
}
