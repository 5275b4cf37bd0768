//! The internal HTTP port: publishing, rooms, health and metrics, for the operator's own programs.
//!
//! It runs on one thread beside the shards; what it publishes takes the same path as a client's message. In the order in
//! which a request passes them:
//!
//! - `listener`, `slots`: connections, bounded in number and in time
//! - `routes`: every address, and which of them require a key
//! - [`call`]: a request with its body, and the answer
//! - [`key`]: API keys, and what is let in without one
//! - `tokens`, [`caller`]: tokens, and whose a request is: the operator's, or that of a token's user
//! - [`publish`], [`rooms`], [`health`]: what the addresses do
//! - `fields`, `idempotency`: JSON bodies; requests that are repeated
//!
//! [`asking`] is the other side: `hi health`.

use std::cell::RefCell;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::Response;
use hyper::body::Bytes;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::Semaphore;
use tokio::task::LocalSet;

use crate::admission::RawMode;
use crate::counters::Counters;
use crate::counters::delivery::Sampler;
use crate::failures::Failures;
use crate::identity::Authority;
use crate::limits::{API_BACKLOG, LARGE_BODIES_MAX, PUBLISHES_WAITING_MAX};
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::protocol::Namespace;
use crate::protocol::name::Name;
#[cfg(feature = "doctor")]
use crate::protocol::unicode::is_blank;
use crate::room::inbox::Found;
use crate::room::registry::Registry;

pub mod asking;
pub mod call;
pub mod caller;
pub(crate) mod fields;
pub mod health;
mod idempotency;
pub mod key;
pub(crate) mod listener;
pub mod publish;
pub mod rooms;
pub(crate) mod routes;
pub(crate) mod slots;
mod tokens;

use call::ApiError;
use health::Readiness;
use idempotency::IdempotencyCache;
use key::Keys;
use publish::PublishedIn;
use tokens::Tokens;

/// What `hi pub` and `hi rooms` check before they ask.
#[cfg(feature = "doctor")]
pub const RULES: doctor::internal::Rules = doctor::internal::Rules {
    check_room: |name| Name::room(name).map(drop).map_err(|why| why.to_string()),
    check_from: |name| Name::of_program(name).map(drop).map_err(|why| why.to_string()),
    is_blank,
    load_key: Keys::load_first,
    body_bytes_max: call::BODY_BYTES_MAX,
};

/// The state of the internal port. All of it belongs to the port's thread.
pub struct App {
    pub(crate) rooms: Arc<Registry>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) readiness: Arc<Readiness>,
    /// Whether there are raw rooms.
    pub(crate) raw: RawMode,
    /// Keys that let requests in.
    pub(crate) keys: Keys,
    /// What tokens are checked with, if any are accepted.
    tokens: Option<Tokens>,
    /// Requests with an `Idempotency-Key`.
    idempotency: RefCell<IdempotencyCache<PublishedIn>>,
    /// Chooses the messages whose delivery is timed.
    sampler: RefCell<Sampler>,
    counters: Counters,
    /// Permits for requests with a large body.
    large_bodies: Arc<Semaphore>,
    /// Permits for requests that wait for shards that lag.
    waiting: Semaphore,
}

impl App {
    /// The state at the start. Takes the counters of the internal port from `metrics`.
    pub fn new(
        rooms: Arc<Registry>,
        metrics: Arc<Metrics>,
        readiness: Arc<Readiness>,
        raw: RawMode,
        keys: Keys,
    ) -> Self {
        let counters = metrics.counters_of_internal_port();
        Self {
            rooms,
            metrics,
            readiness,
            raw,
            keys,
            tokens: None,
            idempotency: RefCell::default(),
            sampler: RefCell::default(),
            counters,
            large_bodies: Arc::new(Semaphore::new(LARGE_BODIES_MAX)),
            waiting: Semaphore::new(PUBLISHES_WAITING_MAX),
        }
    }

    /// Accepts tokens beside keys, and notes those that are refused.
    pub(crate) fn accepting(self, authority: Arc<Authority>, failures: Arc<Failures>) -> Self {
        Self { tokens: Some(Tokens::new(authority, failures)), ..self }
    }

    /// A room, be its members here or on other servers; `None` if it has none.
    async fn room(&self, namespace: Namespace, name: &Name) -> Found {
        match (self.rooms.get(namespace, name), self.rooms.outward()) {
            (None, Some(outward)) => outward.find(namespace, name.clone()).await,
            (room, _) => Ok(room),
        }
    }

    /// Answers with an error, and counts it.
    fn refuse(&self, error: ApiError) -> Response<Full<Bytes>> {
        self.counters.api_errors(error.code).add(1);
        error.into_response()
    }
}

/// A bound port, not served yet.
#[derive(Debug)]
pub(crate) struct InternalPort {
    listener: TcpListener,
    address: SocketAddr,
}

impl InternalPort {
    /// Binds the port.
    ///
    /// # Errors
    /// The address can't be bound.
    pub(crate) fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(API_BACKLOG)?;
        let listener = TcpListener::from(socket);
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves the port on a new thread for as long as the process lives. An idle connection is kept for `keepalive`.
    ///
    /// # Errors
    /// The thread or its runtime can't be started.
    pub(crate) fn serve(self, app: App, keepalive: Duration, memory: Arc<Memory>) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = {
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(self.listener)?
        };
        let serve = move || {
            memory.enroll_internal_port();
            LocalSet::new().block_on(&runtime, listener::serve(listener, Rc::new(app), keepalive))
        };
        std::thread::Builder::new().name("hi-internal".to_owned()).spawn(serve).map(drop)
    }
}
