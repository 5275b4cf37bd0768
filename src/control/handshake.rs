//! One connection on the control ring: request heads that arrive in parts, keep-alive, and how it ends here.

use std::mem;
use std::net::Shutdown;
use std::os::fd::AsFd;

use tokio::time::{Instant, timeout_at};

use super::answer::{Outcome, outcome};
use super::verification::Patience;
use super::{ControlContext, Origin};
use crate::http::diagnosis::Fault;
use crate::http::head::HEAD_BYTES_MAX;
use crate::http::response::{Body, Connection, Response};
use crate::limits::{HEAD_BYTES_USUAL, LINGER_BYTES_MAX, LINGER_TIME_MAX};
use crate::memory::{Held, Memory, What, held};
use crate::ring::OpenRing;
use crate::ring::control::Stream;

/// Reads request heads from one socket and answers them, until it is upgraded or ends. `buffer` holds what has been read,
/// `first` what the request in it comes to.
pub(super) async fn serve<R: OpenRing>(
    stream: Stream,
    mut origin: Origin,
    mut buffer: Vec<u8>,
    mut first: Option<(Outcome, usize)>,
    context: &ControlContext<R>,
) {
    let mut held = Held::new(What::Heads);
    let mut searched = buffer.len();
    let mut deadline = Instant::now() + context.settings().handshake_timeout;
    // After an answer, for as long as nothing of another request is there.
    let mut idle = false;
    loop {
        let next = || outcome(&mut buffer, searched, stream.as_fd(), &mut origin, context, Patience::New);
        let Some((outcome, used)) = first.take().or_else(next) else {
            searched = buffer.len();
            if !has_space(&mut buffer, &mut held, &context.memory) {
                drop((buffer, held));
                return turn_away(stream).await;
            }
            let read = timeout_at(deadline, stream.read(buffer));
            let read = if idle { context.descriptors.while_idle(read).await } else { Some(read.await) };
            let Some(Ok((read, more))) = read else { return end(stream, origin, searched > 0, context).await };
            buffer = more;
            if mem::take(&mut idle) {
                deadline = Instant::now() + context.settings().handshake_timeout;
            }
            if !matches!(read, Ok(1..)) {
                if searched > 0 {
                    context.refuse(Fault::CutOff(searched), None, context.peer(stream.as_fd(), &origin));
                }
                return;
            }
            continue;
        };
        match outcome {
            Outcome::Upgrade(upgrade) => return context.adopt(stream.into(), upgrade, buffer.split_off(used), false),
            Outcome::Later => {
                if timeout_at(deadline, context.verification.wait()).await.is_err() {
                    return end(stream, origin, true, context).await;
                }
                first = super::answer::outcome(&mut buffer, 0, stream.as_fd(), &mut origin, context, Patience::Waited);
            }
            Outcome::Answer { bytes, keep_alive } => {
                deadline = Instant::now() + context.settings().handshake_timeout;
                let written = timeout_at(deadline, stream.write_all(bytes)).await;
                if !matches!(written, Ok(Ok(()))) {
                    stream.shutdown(Shutdown::Both);
                    return;
                }
                if !keep_alive {
                    return linger(stream).await;
                }
                buffer.drain(..used);
                // What a large head needed is not kept for the next one.
                buffer.shrink_to(HEAD_BYTES_USUAL);
                searched = 0;
                idle = buffer.is_empty();
                if idle {
                    deadline = Instant::now() + context.settings().keepalive_timeout;
                }
            }
        }
    }
}

/// Makes space in the buffer for what arrives next, at most up to the limit of a head. False: the head is longer than usual,
/// and all heads together have taken what they may.
fn has_space(buffer: &mut Vec<u8>, held: &mut Held, memory: &Memory) -> bool {
    let len = buffer.len();
    if len == buffer.capacity() {
        // One byte more than a head may have: the parser sees that it is too long.
        let more = (len.max(HEAD_BYTES_USUAL) * 2).min(HEAD_BYTES_MAX + 1) - len;
        if len >= HEAD_BYTES_USUAL && !memory.admits_head(more) {
            held::count_lap(What::Heads, 1);
            return false;
        }
        buffer.reserve_exact(more);
    }
    held.set(buffer.capacity());
    true
}

/// Answers a head for which there is no memory.
async fn turn_away(stream: Stream) {
    let text =
        "The server is short of memory for long request heads. Send fewer or shorter headers, or try again later.";
    let answer = Response::text(503, text).header("Retry-After", "1").encode(Connection::Close, Body::Sent);
    if let Ok(Ok(())) = timeout_at(Instant::now() + LINGER_TIME_MAX, stream.write_all(answer)).await {
        linger(stream).await;
    }
}

/// The time for a head is up. A peer that began one is told.
async fn end<R: OpenRing>(stream: Stream, origin: Origin, began: bool, context: &ControlContext<R>) {
    if began {
        let fault = Fault::Timeout(context.settings().handshake_timeout);
        let verdict = context.refuse(fault, None, context.peer(stream.as_fd(), &origin));
        let bytes = verdict.response(None).encode(Connection::Close, Body::Sent);
        let _ = timeout_at(Instant::now() + LINGER_TIME_MAX, stream.write_all(bytes)).await;
    }
    // Ends the read that the kernel still holds, and with it the socket.
    stream.shutdown(Shutdown::Both);
}

/// Closes our end, and reads on for a moment: closing at once could reset the connection under the answer.
async fn linger(stream: Stream) {
    stream.shutdown(Shutdown::Write);
    let deadline = Instant::now() + LINGER_TIME_MAX;
    let mut read = 0;
    while let Ok((Ok(count @ 1..), _)) = timeout_at(deadline, stream.read(Vec::with_capacity(4096))).await {
        read += count;
        if read > LINGER_BYTES_MAX {
            break;
        }
    }
    stream.shutdown(Shutdown::Both);
}
