//! What everyone in a simulation can see.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

use crate::clock::Clock;
use crate::plan::Plan;
use crate::random::Random;
use crate::seen::{Seen, Totals};
use crate::server::Server;
use crate::shared::Shared;
use crate::trace::Trace;
use crate::truth::Truth;

/// What a message that is kept for clients that reconnect costs beside its JSON, in bytes: at most.
const KEPT_OVERHEAD_BYTES_MAX: usize = 64;

/// See the module.
pub struct Scene {
    /// What the seed has decided.
    pub plan: Plan,
    /// Chance.
    pub random: Random,
    /// Time.
    pub clock: Rc<Clock>,
    /// What happened.
    pub trace: Trace,
    /// What the rings share: the network, and whether there are faults.
    pub shared: Rc<Shared>,
    /// The server.
    pub server: Rc<Server>,
    /// What is known of the rooms' orders.
    pub truth: RefCell<Truth>,
    /// Shards that have been told to stop, from the first on.
    pub stopping: Cell<usize>,
    /// Users whose connections the internal port has had closed.
    pub disconnected: RefCell<BTreeSet<String>>,
    /// What was seen.
    pub totals: RefCell<Totals>,
}

impl Scene {
    /// Whether a client that has a room's life up to `since` has to get everything up to `last`: replay is on, and it is within
    /// every bound of what is kept. With replay off no client recovers, not even one that has missed nothing.
    pub fn must_recover(&self, room: &'static str, epoch: u64, since: u64, last: u64) -> bool {
        let Plan { config, memory_bytes_max, .. } = &self.plan;
        let missed = (last - since) as usize;
        let age_ms = config.replay_age.as_millis() as u64;
        let bytes = self.truth.borrow().bytes(room, epoch, since + 1, last);
        let kept = |bytes: usize| bytes + missed * KEPT_OVERHEAD_BYTES_MAX <= config.replay_bytes;
        config.replay_frames > 0
            && *memory_bytes_max == usize::MAX
            && self.clock.age_ms() < age_ms
            && missed <= config.replay_frames as usize
            && bytes.is_some_and(kept)
    }

    /// Counts one more.
    pub fn saw(&self, seen: Seen) {
        self.totals.borrow_mut().count(seen, 1);
    }
}
