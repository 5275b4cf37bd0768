//! Connections to the internal port: so many at once, and none that holds its place for long without need.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};

use crate::metrics::Metrics;
use crate::metrics::counters::Speech;

/// Connections at the same time; more wait for a place.
pub const CONNECTIONS_MAX: usize = 32;
/// How long a connection may stay without a request, or take nothing of an answer.
const IDLE_TIME_MAX: Duration = Duration::from_secs(60);
/// How long it may stay without a request while another one waits for a place.
const IDLE_TIME_MAX_WHEN_FULL: Duration = Duration::from_secs(1);
/// From the first byte of a request to its answer: ten seconds for the head, and as much for the body as
/// [`super::call::read_body`] gives it.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(20);
/// How long accepting pauses when the system has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listener with places for [`CONNECTIONS_MAX`].
#[derive(Debug)]
pub struct Bounded {
    listener: TcpListener,
    metrics: Arc<Metrics>,
    places: Arc<Semaphore>,
    /// Someone waits for a place.
    full: Arc<AtomicBool>,
}

impl Bounded {
    /// All places are free. How many are taken is counted in `metrics`, as a level of the internal port's.
    pub fn new(listener: TcpListener, metrics: Arc<Metrics>) -> Self {
        Self { listener, metrics, places: Arc::new(Semaphore::new(CONNECTIONS_MAX)), full: Arc::default() }
    }

    async fn place(&self) -> OwnedSemaphorePermit {
        let places = Arc::clone(&self.places);
        if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
            return place;
        }
        self.full.store(true, Ordering::Relaxed);
        let place = places.acquire_owned().await.expect("the semaphore is never closed");
        self.full.store(false, Ordering::Relaxed);
        place
    }
}

impl axum::serve::Listener for Bounded {
    type Io = Placed;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Placed, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    let place = self.place().await;
                    // An error means that the peer is gone: the read says so too.
                    let _ = stream.set_nodelay(true);
                    let (metrics, full) = (Arc::clone(&self.metrics), Arc::clone(&self.full));
                    metrics.of_internal_port().connections(Speech::Api).add(1);
                    let (phase, timer) = (Phase::Idle(Instant::now()), Box::pin(sleep(Duration::ZERO)));
                    return (Placed { stream, phase, timer, full, metrics, _place: place }, peer);
                }
                // Out of file descriptors, which the shards complain about, or that one connection was gone already.
                Err(_) => sleep(ACCEPT_PAUSE).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// What a connection does, and since when.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// It may ask again, or take the rest of an answer.
    Idle(Instant),
    /// A request has begun, and no answer yet.
    Asking(Instant),
}

/// A connection that has a place.
#[derive(Debug)]
pub struct Placed {
    stream: TcpStream,
    phase: Phase,
    /// When to look again whether that takes too long.
    timer: Pin<Box<Sleep>>,
    full: Arc<AtomicBool>,
    metrics: Arc<Metrics>,
    _place: OwnedSemaphorePermit,
}

impl Drop for Placed {
    fn drop(&mut self) {
        self.metrics.of_internal_port().connections(Speech::Api).subtract(1);
    }
}

impl Placed {
    /// A wait for the peer ends when it takes too long. `wants_a_request`: nothing is owed to the peer meanwhile.
    fn wait<T>(&mut self, context: &mut Context<'_>, wants_a_request: bool) -> Poll<io::Result<T>> {
        loop {
            let now = Instant::now();
            let full = wants_a_request && self.full.load(Ordering::Relaxed);
            let until = match self.phase {
                Phase::Idle(since) if full => since + IDLE_TIME_MAX_WHEN_FULL,
                Phase::Idle(since) => since + IDLE_TIME_MAX,
                Phase::Asking(since) => since + REQUEST_TIME_MAX,
            };
            if now >= until {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            // Nobody wakes this task when the places run out.
            self.timer.as_mut().reset(until.min(now + IDLE_TIME_MAX_WHEN_FULL));
            ready!(self.timer.as_mut().poll(context));
        }
    }
}

impl AsyncRead for Placed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_read(context, buffer) {
            Poll::Ready(outcome) => {
                if let Phase::Idle(_) = self.phase {
                    self.phase = Phase::Asking(Instant::now());
                }
                Poll::Ready(outcome)
            }
            Poll::Pending => self.wait(context, true),
        }
    }
}

impl AsyncWrite for Placed {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write(context, bytes) {
            Poll::Ready(outcome) => {
                self.phase = Phase::Idle(Instant::now());
                Poll::Ready(outcome)
            }
            Poll::Pending => self.wait(context, false),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
