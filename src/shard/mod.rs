//! One shard: the connections that it accepted, its side of their rooms, and its data ring.
//!
//! - [`turn`]: completions in, frames out, one submission; the only caller of the ring
//! - [`hub`]: the connections and everything that happens to them, without ring, socket or clock
//! - [`run`]: the thread's life: turns, ticks, stop
//! - [`settings`]: what the operator configured

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;

use crate::address::table::{AddressTable, Seat};
use crate::clock::Now;
use crate::connection::Role;
use crate::counters::{Compression, Counters};
use crate::failures::Failures;
use crate::identity::Standing;
use crate::memory::Memory;
use crate::protocol::name::Name;
use crate::protocol::position::Since;
use crate::protocol::resume::Predecessor;
use crate::ring::DataRing;
use crate::room::registry::Registry;

pub(crate) mod hub;
pub(crate) mod run;
pub mod settings;
pub(crate) mod turn;

use hub::Hub;
use settings::Settings;

/// A connection whose handshake is done.
pub struct Upgraded<S> {
    /// The client's socket, as the control ring hands it over; inside the shard, its file descriptor.
    pub socket: S,
    /// What the connection speaks, and under which name.
    pub role: Role,
    /// The room in the request's path, or the default room; `None` for a v1 connection whose path names no room.
    pub room: Option<Name>,
    /// The last message that a reconnecting listener has seen.
    pub since: Option<Since>,
    /// Whose it is, with `--auth`.
    pub standing: Option<Standing>,
    /// What became of the client's offer to compress messages, if it made one.
    pub compression: Option<Compression>,
    /// What counts the connection among those of its address, if that has limits.
    pub seat: Option<Seat>,
    /// The 101 response, or the head of the event stream. It leaves in the first send, together with the first frames.
    pub response: Bytes,
    /// Bytes that were received after the request head.
    pub leftover: Vec<u8>,
}

/// One shard. Everything here runs on its thread, and nothing blocks.
pub struct Shard<R> {
    hub: Hub,
    ring: R,
}

impl<R: DataRing> Shard<R> {
    /// A shard without connections. It belongs to the calling thread.
    pub fn new(id: usize, settings: Arc<Settings>, registry: Arc<Registry>, ring: R, now: Now) -> Self {
        Self { hub: Hub::new(id, settings, registry, ring.buffers().clone(), now), ring }
    }

    /// Makes the shard count in `counters`, which other threads read.
    pub fn counting_in(self, counters: Rc<Counters>) -> Self {
        Self { hub: self.hub.counting_in(counters), ..self }
    }

    /// Makes the shard observe a memory budget that it shares with others. The thread has to be [enrolled](Memory::enroll).
    pub fn keeping_to(self, memory: Arc<Memory>) -> Self {
        Self { hub: self.hub.keeping_to(memory), ..self }
    }

    /// Makes the shard note here which tokens it refuses.
    pub(crate) fn noting(self, failures: Arc<Failures>) -> Self {
        Self { hub: self.hub.noting(failures), ..self }
    }

    /// Makes the shard take over the settings that a reload puts there, with its next turn.
    pub(crate) fn following(self, live: Arc<ArcSwap<Settings>>) -> Self {
        Self { hub: self.hub.following(live), ..self }
    }

    /// Makes the shard observe what addresses may send, in a table that it shares with others.
    pub(crate) fn limiting(self, addresses: Arc<AddressTable>) -> Self {
        Self { hub: self.hub.limiting(addresses), ..self }
    }

    /// Number of connections, including those that have ended and are not released yet.
    pub fn connections(&self) -> usize {
        self.hub.connections()
    }

    /// Whether a tick would do nothing: there are no connections, pending notices or dormant rooms.
    pub(crate) fn is_idle(&self) -> bool {
        self.hub.is_idle()
    }

    /// The connection whose name the holder of this resume secret may take over; `None` if neither this process nor one that
    /// shares its rooms has issued the secret.
    pub fn predecessor(&self, secret: &str) -> Option<Predecessor> {
        self.hub.predecessor(secret)
    }

    /// When the shard has to take a turn even if nothing wakes it: messages wait to be sent with later ones.
    pub fn next_due(&self) -> Option<Instant> {
        self.hub.next_due()
    }

    /// Notes how long the last turn has taken.
    pub fn turn_took(&mut self, time: Duration) {
        self.hub.turn_took(time);
    }

    /// Takes over a socket whose handshake is done, and joins it to the room that it asked for. The next turn sends what it is
    /// answered, and then begins to receive.
    pub fn adopt(&mut self, upgraded: Upgraded<R::Socket>, now: Now) {
        let token = self.hub.next_token();
        let Upgraded { socket, role, room, since, standing, compression, seat, response, leftover } = upgraded;
        self.ring.adopt(token, socket);
        let socket = self.ring.descriptor(token);
        self.hub.adopt(Upgraded { socket, role, room, since, standing, compression, seat, response, leftover }, now);
    }

    /// Closes every connection, and from now on every new one: the server is stopping.
    pub fn stop(&mut self, now: Now) {
        self.hub.stop(now);
        self.run_ring_ops();
    }

    /// Handles everything that is due; called once a second.
    pub fn tick(&mut self, now: Now) {
        self.hub.tick(now);
        self.run_ring_ops();
    }

    fn fatal(&self, error: &io::Error) -> ! {
        // A broken ring can't be repaired from here, and a shard must never die silently.
        tracing::error!(shard = self.hub.id(), "the kernel refused the data ring: {error}; hi ends");
        std::process::exit(1)
    }
}
