//! Connections to the internal port: bounded in number and in time; none is cut off in the middle of a request.
//!
//! From [`API_CONNECTIONS_CROWDED`] connections on, each answer says `Connection: close`. When all slots are taken, or the
//! process has no file descriptor left, [`Slots`] chooses a connection that makes room; a request that it has begun is answered
//! first.

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
use crate::http::head::HeadError;
use crate::http::response::{self, Connection, Response};
use crate::limits::{
    API_BUFFER_BYTES_MAX, API_CONNECTIONS_CROWDED, API_CONNECTIONS_MAX, API_SLOT_PAUSE, LINGER_BYTES_MAX,
    LINGER_TIME_MAX,
};

/// Serves connections for as long as the process lives. An idle one is kept for `keepalive`.
pub(super) async fn serve(listener: TcpListener, app: Rc<App>, keepalive: Duration) {
    let slots = Rc::new(Slots::new(API_CONNECTIONS_MAX, API_CONNECTIONS_CROWDED));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            // The peer closed before the connection was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(_) => {
                slots.is_short.set(true);
                make_room(&slots).await;
                continue;
            }
        };
        slots.is_short.set(false);
        // An error means that the peer is gone; the next read reports it.
        let _ = stream.set_nodelay(true);
        let held = loop {
            match Slots::take(&slots) {
                Some(held) => break held,
                None => make_room(&slots).await,
            }
        };
        let app = Rc::clone(&app);
        drop(spawn_local(async move {
            app.counters.api_connections.add(1);
            serve_one(stream, &held, &app, keepalive).await;
            app.counters.api_connections.subtract(1);
        }));
    }
}

/// Tells one connection to make room and waits until a slot is free, but not for long: by then, another one may be a better
/// choice.
async fn make_room(slots: &Slots) {
    slots.make_room();
    let _ = timeout(API_SLOT_PAUSE, slots.freed.notified()).await;
}

/// Serves one connection until it ends, or has to make room.
async fn serve_one(stream: TcpStream, held: &Held, app: &App, keepalive: Duration) {
    let slot = &held.slot;
    let service = service_fn(|request: hyper::Request<Incoming>| async move {
        slot.enter(Phase::Asking);
        let mut answer = routes::answer(app, request, slot).await;
        if held.is_crowded() {
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        slot.enter(Phase::Answering);
        Ok::<_, Infallible>(answer)
    });
    let io = Slotted { stream, slot: Rc::clone(slot) };
    let mut server = http1::Builder::new();
    let mut connection = server.half_close(true).max_buf_size(API_BUFFER_BYTES_MAX).serve_connection(io, service);
    let mut has_hurried = false;
    let too_large = loop {
        let due = slot.due(keepalive);
        tokio::select! {
            biased;
            _ = &mut connection => match slot.head_is_too_large.get() {
                true => break true,
                false => return,
            },
            () = slot.news.notified() => {}
            () = sleep_until(due) => {}
        }
        let is_told = slot.is_told_to_go.get() && !has_hurried;
        if !is_told && Instant::now() < slot.due(keepalive) {
            continue;
        }
        match slot.phase() {
            Phase::New | Phase::Head | Phase::Waiting => break false,
            // Stops waiting for the body; the request is answered with 408.
            Phase::Asking => {
                slot.hurry.notify_one();
                has_hurried = true;
            }
            Phase::Answering => return,
        }
    };
    let parts = connection.into_parts();
    refuse_the_rest(parts.io.stream, &parts.read_buf, slot, too_large, app).await;
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
    let linger = if slot.is_told_to_go.get() { Duration::ZERO } else { LINGER_TIME_MAX };
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
