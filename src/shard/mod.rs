//! One shard: the connections that it accepted, its side of their rooms, and its data ring.
//!
//! - [`turn`]: completions in, frames out, one submission: the only caller of the ring
//! - [`hub`]: the connections and what they make happen, without ring, socket or clock
//! - [`run`]: the thread's life: turns, ticks, stop
//! - [`settings`]: what the operator has chosen

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use crate::clock::Now;
use crate::connection::Role;
use crate::memory::Memory;
use crate::metrics::counters::Counters;
use crate::protocol::MemberId;
use crate::protocol::name::Name;
use crate::protocol::position::Since;
use crate::ring::DataRing;
use crate::room::registry::Registry;

pub mod hub;
pub mod run;
pub mod settings;
pub mod turn;

use hub::Hub;
use settings::Settings;

/// A connection whose handshake is done.
pub struct Upgraded<S> {
    /// Its socket.
    pub socket: S,
    /// What it is for.
    pub role: Role,
    /// The room that its address names, or that is the default there; in v1, none if it names none.
    pub room: Option<Name>,
    /// What a listener has of the room already, if it reconnects.
    pub since: Option<Since>,
    /// The 101 response, or the head of the stream: leaves in the first send, together with the first frames.
    pub response: Bytes,
    /// What arrived behind the request head.
    pub leftover: Vec<u8>,
}

/// One shard. Everything here runs on its thread, and nothing waits.
pub struct Shard<R> {
    hub: Hub,
    ring: R,
}

impl<R: DataRing> Shard<R> {
    /// A shard without connections, on the calling thread.
    pub fn new(id: usize, settings: Arc<Settings>, registry: Arc<Registry>, ring: R, now: Now) -> Self {
        Self { hub: Hub::new(id, settings, registry, ring.buffers().clone(), now), ring }
    }

    /// The same shard, which counts where others can read it.
    pub fn counting_in(self, counters: Rc<Counters>) -> Self {
        Self { hub: self.hub.counting_in(counters), ..self }
    }

    /// The same shard, which keeps to a budget that others share. The thread has to be [enrolled](Memory::enroll).
    pub fn keeping_to(self, memory: Arc<Memory>) -> Self {
        Self { hub: self.hub.keeping_to(memory), ..self }
    }

    /// Where it counts.
    pub fn counters(&self) -> &Rc<Counters> {
        self.hub.counters()
    }

    /// The budget that it keeps to.
    pub fn memory(&self) -> &Arc<Memory> {
        self.hub.memory()
    }

    /// Connections that are not released yet.
    pub fn connections(&self) -> usize {
        self.hub.connections()
    }

    /// Whether time changes nothing here.
    pub fn is_idle(&self) -> bool {
        self.hub.is_idle()
    }

    /// The connection whose name the holder of this secret may take over; `None`: the secret is not one of this process.
    pub fn predecessor(&self, secret: &str) -> Option<MemberId> {
        self.hub.predecessor(secret)
    }

    /// Takes over a socket whose handshake is done, and lets it into the room of its address.
    pub fn adopt(&mut self, upgraded: Upgraded<R::Socket>, now: Now) {
        let token = self.hub.next_token();
        let Upgraded { socket, role, room, since, response, leftover } = upgraded;
        self.ring.adopt(token, socket);
        let socket = self.ring.descriptor(token);
        self.hub.adopt(Upgraded { socket, role, room, since, response, leftover }, now);
        self.carry_out();
    }

    /// Closes every connection, and every one that still comes: the server is going away.
    pub fn stop(&mut self, now: Now) {
        self.hub.stop(now);
        self.carry_out();
    }

    /// Does what time asks for, once a second.
    pub fn tick(&mut self, now: Now) {
        self.hub.tick(now);
        self.carry_out();
    }

    fn fatal(&self, error: &io::Error) -> ! {
        // A ring that stops working can't be fixed from here, and a dead shard must never be silent.
        tracing::error!(shard = self.hub.id(), "the kernel refused the data ring: {error}; hi ends");
        std::process::exit(1)
    }
}
