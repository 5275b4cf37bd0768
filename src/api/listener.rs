//! Connections to the internal port: bounded in number and in time; none is cut off in the middle of a request.
//!
//! From [`CROWDED_FROM`] connections on, each answer says `Connection: close`. When all slots are taken, or the process has
//! no file descriptor left, [`Slots`] chooses a connection that makes room; a request that it has begun is answered first.

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
use crate::limits::{LINGER_BYTES_MAX, LINGER_TIME_MAX};

/// Number of simultaneous connections; further ones wait for a slot.
pub(crate) const CONNECTIONS_MAX: usize = 256;
/// From this many connections on, each is closed after its answer, so that the remaining slots serve clients with a single
/// request.
pub(crate) const CROWDED_FROM: usize = 192;
/// Bytes that hyper may buffer for one connection. [`Slotted`] keeps heads shorter than that.
pub(crate) const READ_BYTES_MAX: usize = 2 * HEAD_BYTES_MAX;
/// Pause between two attempts to free a slot or a file descriptor.
const PAUSE: Duration = Duration::from_millis(50);

/// Serves connections for as long as the process lives. An idle one is kept for `keepalive`.
pub(super) async fn serve(listener: TcpListener, app: Rc<App>, keepalive: Duration) {
    let slots = Rc::new(Slots::new(CONNECTIONS_MAX, CROWDED_FROM));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            // The peer closed before the connection was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(_) => {
                slots.set_short(true);
                make_room(&slots).await;
                continue;
            }
        };
        slots.set_short(false);
        // An error means that the peer is gone; the next read reports it.
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

/// Tells one connection to make room and waits until a slot is free, but not for long: by then, another one may be a better
/// choice.
async fn make_room(slots: &Slots) {
    slots.make_room();
    let _ = timeout(PAUSE, slots.freed()).await;
}

async fn serve_one(stream: TcpStream, held: Held, app: Rc<App>, keepalive: Duration) {
    app.counters.api_connections.add(1);
    serve_requests(stream, &held, &app, keepalive).await;
    app.counters.api_connections.subtract(1);
}

/// Serves one connection until it ends, or has to make room.
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
            // Stops waiting for the body; the request is answered with 408.
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

/// Closes a connection that has to end before its next request is complete. If a request has begun, it is answered.
async fn refuse_the_rest(mut stream: TcpStream, read_ahead: &[u8], slot: &Slot, too_large: bool, app: &App) {
    // Bytes that arrived just now, or after the last request, are the beginning of one too.
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

/// Answers and closes; what still arrives is discarded for the time `linger`.
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
