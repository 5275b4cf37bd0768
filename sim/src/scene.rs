//! What everyone in a simulation can see.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

use crate::clock::Clock;
use crate::plan::Plan;
use crate::random::Random;
use crate::ring::Shared;
use crate::server::Server;
use crate::trace::Trace;
use crate::truth::Truth;

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
    /// Whether the server has been told to stop.
    pub stopping: Cell<bool>,
    /// Users whose connections the internal port has had closed.
    pub disconnected: RefCell<BTreeSet<String>>,
    /// What was seen.
    pub counts: Counts,
}

/// How often something was seen that a simulation is there for.
#[derive(Debug, Default)]
pub struct Counts {
    /// Messages that were heard.
    pub heard: Cell<u64>,
    /// Publishes that were answered.
    pub acknowledged: Cell<u64>,
    /// Gaps that were told.
    pub gaps: Cell<u64>,
    /// Clients that got everything that they had missed.
    pub recoveries: Cell<u64>,
    /// Clients that were told that they can't.
    pub refusals: Cell<u64>,
    /// Connections that the server has closed.
    pub closes: Cell<u64>,
    /// Connections.
    pub connections: Cell<u64>,
    /// Turns.
    pub turns: Cell<u64>,
}

impl Counts {
    /// Counts one more.
    pub fn add(counter: &Cell<u64>) {
        counter.update(|count| count + 1);
    }
}
