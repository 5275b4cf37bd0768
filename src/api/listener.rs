//! Connections to the internal port: so many at once, and none that is silent for long.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};

use crate::metrics::Metrics;
use crate::metrics::counters::Speech;

/// Connections at the same time; more wait in the system's queue.
pub const CONNECTIONS_MAX: usize = 32;
/// How long a connection may neither send nor take anything.
const IDLE_TIME_MAX: Duration = Duration::from_secs(60);
/// How long accepting pauses when the system has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listener with places for [`CONNECTIONS_MAX`].
#[derive(Debug)]
pub struct Bounded {
    listener: TcpListener,
    metrics: Arc<Metrics>,
    places: Arc<Semaphore>,
}

impl Bounded {
    /// All places are free. How many are taken is counted in `metrics`, as a level of the internal port's.
    pub fn new(listener: TcpListener, metrics: Arc<Metrics>) -> Self {
        Self { listener, metrics, places: Arc::new(Semaphore::new(CONNECTIONS_MAX)) }
    }
}

impl axum::serve::Listener for Bounded {
    type Io = Placed;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Placed, SocketAddr) {
        let place = Arc::clone(&self.places).acquire_owned().await.expect("the semaphore is never closed");
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    // An error means that the peer is gone: the read says so too.
                    let _ = stream.set_nodelay(true);
                    let idle = Box::pin(sleep(IDLE_TIME_MAX));
                    let metrics = Arc::clone(&self.metrics);
                    metrics.of_internal_port().connections(Speech::Api).add(1);
                    return (Placed { stream, idle, metrics, _place: place }, peer);
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

/// A connection that has a place.
#[derive(Debug)]
pub struct Placed {
    stream: TcpStream,
    /// When it will have been silent for too long.
    idle: Pin<Box<Sleep>>,
    metrics: Arc<Metrics>,
    _place: OwnedSemaphorePermit,
}

impl Drop for Placed {
    fn drop(&mut self) {
        self.metrics.of_internal_port().connections(Speech::Api).subtract(1);
    }
}

impl Placed {
    /// Passes progress on; a wait ends when the connection has been silent for too long.
    fn progress<T>(&mut self, context: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.idle.as_mut().reset(Instant::now() + IDLE_TIME_MAX);
            return poll;
        }
        ready!(self.idle.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Placed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.progress(context, poll)
    }
}

impl AsyncWrite for Placed {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.progress(context, poll)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
