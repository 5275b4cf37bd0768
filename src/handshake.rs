//! From accept to 101, or to the head of a stream: the tasks of the control ring.
//!
//! An upgrade or a stream hands the socket over to the shard's data ring, together with the bytes that arrived behind the
//! head; everything else is answered here. Most peers have sent their head when they are accepted: then that takes no task
//! and no wait. The others get a task that reads request heads and answers them.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::mem;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{RecvFlags, recv};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{info, warn};

use crate::clock::Now;
use crate::config::Config;
use crate::descriptors::{self, Descriptors};
use crate::handshake_failures::{FailureCount, Failures};
use crate::http::diagnosis::{Ends, Fault, Verdict, diagnose};
use crate::http::echo::Identity;
use crate::http::head::{HEAD_BYTES_MAX, Head};
use crate::http::response::{Body, Connection, Response};
use crate::memory::{Held, Memory, What, held};
use crate::metrics::counters::Counters;
use crate::os;
use crate::ring::control::{self, Stream};
use crate::ring::{OpenRing, Socket};
use crate::shard::{Shard, Upgraded};

mod answer;

use answer::{Outcome, Upgrade, outcome};

/// Connections that are accepted in a row, in a storm, before those that are in are served.
const ACCEPTS_IN_A_ROW: usize = 64;
/// Most request heads fit; a larger one grows the buffer.
const HEAD_BYTES_USUAL: usize = 1024;
/// Lingering close: bytes to read and discard after the last answer, so that a reset does not destroy it.
const LINGER_BYTES_MAX: usize = 64 * 1024;
/// Its time limit.
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
    pub counters: Rc<Counters>,
    failures: Arc<Failures>,
    descriptors: Arc<Descriptors>,
    memory: Arc<Memory>,
}

impl<R: OpenRing> Front<R> {
    /// What the tasks of `shard` share.
    pub fn new(
        shard: Shard<R>,
        config: Arc<Config>,
        instance: Arc<str>,
        failures: Arc<Failures>,
        descriptors: Arc<Descriptors>,
    ) -> Self {
        Self {
            counters: Rc::clone(shard.counters()),
            memory: Arc::clone(shard.memory()),
            shard: RefCell::new(shard),
            news: Notify::new(),
            config,
            instance,
            failures,
            descriptors,
        }
    }

    /// Who answers.
    fn identity(&self) -> Identity<'_> {
        Identity { instance: &self.instance, group: self.config.group.as_deref(), version: env!("CARGO_PKG_VERSION") }
    }

    /// Hands a socket over to the data ring, with what arrived behind its head.
    fn adopt(&self, socket: Socket, upgrade: Upgrade, leftover: Vec<u8>) {
        let Upgrade { role, room, since, response } = upgrade;
        let upgraded = Upgraded { socket, role, room, since, response, leftover };
        self.shard.borrow_mut().adopt(upgraded, Now::read());
        self.news.notify_one();
    }

    /// Says and counts that accepting pauses.
    fn note_pause(&self, why: &dyn fmt::Display) {
        self.counters.accept_pauses.add(1);
        if self.failures.note_pause(std::time::Instant::now()) {
            warn!(
                "accepting pauses: {why}; those connected notice nothing. More connections need a higher file limit \
                 (ulimit -n, or LimitNOFILE= in systemd)"
            );
        }
    }

    /// Says and counts why a handshake failed.
    fn refuse(&self, fault: impl Into<Fault>, head: Option<&Head<'_>>, caller: Caller<'_>) -> Verdict {
        let Caller { socket, peer } = caller;
        let ends = Ends { peer, local: os::local_address(socket).ok() };
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
    socket: BorrowedFd<'s>,
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
pub async fn accept<R: OpenRing + 'static>(door: Door, front: Rc<Front<R>>) {
    let mut buffer = Vec::new();
    'rows: loop {
        let mut ready = door.listener.readable().await.expect("the runtime runs");
        for _ in 0..ACCEPTS_IN_A_ROW {
            // Nobody waits any more.
            let Ok(accepted) = ready.try_io(|listener| os::accept(listener.get_ref())) else { continue 'rows };
            match accepted {
                Ok((mut stream, peer)) => {
                    front.counters.accepts.add(1);
                    if !front.descriptors.fits(&stream) {
                        front.note_pause(&"the last free file descriptors are those of the internal port");
                        stream = front.descriptors.move_down(stream).await;
                    }
                    welcome(stream, peer, &mut buffer, &front);
                }
                // The listener was shut down: the server stops.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return,
                // That one connection was gone before it was accepted.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    front.note_pause(&error);
                    let _ = front.descriptors.make_room();
                    sleep(descriptors::PAUSE).await;
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
fn welcome<R: OpenRing + 'static>(
    stream: std::net::TcpStream,
    peer: SocketAddr,
    buffer: &mut Vec<u8>,
    front: &Rc<Front<R>>,
) {
    buffer.clear();
    buffer.reserve(HEAD_BYTES_USUAL);
    // Nothing yet, or the end of it, or an error: the task reads again, and finds out.
    let _ = recv(&stream, rustix::buffer::spare_capacity(buffer), RecvFlags::DONTWAIT);
    match outcome(buffer, 0, Caller { socket: stream.as_fd(), peer }, front) {
        Some((Outcome::Upgrade(upgrade), used)) => front.adopt(stream.into(), upgrade, buffer.split_off(used)),
        first => {
            let (buffer, front) = (mem::take(buffer), Rc::clone(front));
            control::spawn(async move { serve(Stream::new(stream), peer, buffer, first, &front).await });
        }
    }
}

/// Reads request heads from one socket and answers them, until it is upgraded or ends. `buffer` holds what has been read,
/// `first` what the request in it comes to.
async fn serve<R: OpenRing>(
    stream: Stream,
    peer: SocketAddr,
    mut buffer: Vec<u8>,
    mut first: Option<(Outcome, usize)>,
    front: &Front<R>,
) {
    let mut held = Held::new(What::Heads);
    let mut searched = buffer.len();
    let mut deadline = Instant::now() + front.config.handshake_timeout;
    // After an answer, for as long as nothing of another request is there.
    let mut idle = false;
    loop {
        let caller = Caller { socket: stream.as_fd(), peer };
        let Some((outcome, used)) = first.take().or_else(|| outcome(&buffer, searched, caller, front)) else {
            searched = buffer.len();
            if !has_space(&mut buffer, &mut held, &front.memory) {
                drop((buffer, held));
                return turn_away(stream).await;
            }
            let read = timeout_at(deadline, stream.read(buffer));
            let read = if idle { front.descriptors.while_idle(read).await } else { Some(read.await) };
            let Some(Ok((read, more))) = read else { return end(stream, peer, searched > 0, front).await };
            buffer = more;
            if mem::take(&mut idle) {
                deadline = Instant::now() + front.config.handshake_timeout;
            }
            if !matches!(read, Ok(1..)) {
                if searched > 0 {
                    front.refuse(Fault::CutOff(searched), None, caller);
                }
                return;
            }
            continue;
        };
        match outcome {
            Outcome::Upgrade(upgrade) => return front.adopt(stream.into(), upgrade, buffer.split_off(used)),
            Outcome::Answer { bytes, keep_alive } => {
                deadline = Instant::now() + front.config.handshake_timeout;
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
                    deadline = Instant::now() + front.config.keepalive_timeout;
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
async fn end<R: OpenRing>(stream: Stream, peer: SocketAddr, began: bool, front: &Front<R>) {
    if began {
        let fault = Fault::Timeout(front.config.handshake_timeout);
        let verdict = front.refuse(fault, None, Caller { socket: stream.as_fd(), peer });
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
