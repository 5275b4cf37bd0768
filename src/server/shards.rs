//! The threads of the shards: pinned, with a ring and the tasks that accept.

use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use tracing::warn;

use crate::clock::Now;
use crate::config::Config;
use crate::descriptors::Descriptors;
use crate::handshake::{self, Door, Front};
use crate::handshake_failures::Failures;
use crate::memory::Memory;
use crate::metrics::counters::Counters;
use crate::os;
use crate::ring::control::{self, control_ring};
use crate::ring::{OpenRing, RingError};
use crate::room::registry::Registry;
use crate::shard::Shard;
use crate::shard::run::{Stop, run};

/// What one shard's thread starts with.
pub(super) struct ShardThread {
    pub(super) id: usize,
    pub(super) core: Option<usize>,
    pub(super) listeners: Vec<TcpListener>,
    pub(super) wake_up: OwnedFd,
    pub(super) counters: Counters,
    pub(super) config: Arc<Config>,
    pub(super) registry: Arc<Registry>,
    pub(super) memory: Arc<Memory>,
    pub(super) instance: Arc<str>,
    pub(super) failures: Arc<Failures>,
    pub(super) descriptors: Arc<Descriptors>,
    pub(super) stop: Arc<Stop>,
}

impl ShardThread {
    pub(super) fn run<R: OpenRing + 'static>(self, ready: &std::sync::mpsc::Sender<Result<(), RingError>>) {
        if let Some(core) = self.core
            && let Err(error) = os::pin_to_core(core)
        {
            warn!("shard {} runs unpinned: it can't be pinned to core {core}: {error}", self.id);
        }
        let ring = self
            .wake_up
            .try_clone()
            .map_err(|error| RingError { operation: "a file descriptor", error })
            .and_then(|wake_up| R::open(self.config.receive_buffers, wake_up));
        let ring = match ring {
            Ok(ring) => ring,
            Err(error) => return drop(ready.send(Err(error))),
        };
        control_ring().start(async {
            self.memory.enroll(self.id);
            let shards = self.registry.inboxes().len();
            let settings = self.config.shard_settings(shards, Arc::clone(&self.instance)).into();
            let shard = Shard::new(self.id, settings, self.registry, ring, Now::read());
            let shard = shard.counting_in(Rc::new(self.counters)).keeping_to(self.memory);
            if self.id == 0 {
                control::spawn(handshake::log_left_out(Arc::clone(&self.failures)));
            }
            let front = Rc::new(Front::new(shard, self.config, self.instance, self.failures, self.descriptors));
            match self.listeners.into_iter().map(Door::new).collect::<io::Result<Vec<_>>>() {
                Ok(doors) => doors.into_iter().for_each(|door| {
                    control::spawn(handshake::accept(door, Rc::clone(&front)));
                }),
                Err(error) => return drop(ready.send(Err(RingError { operation: "a file descriptor", error }))),
            }
            let _ = ready.send(Ok(()));
            run(front, self.wake_up, self.stop).await;
        });
    }
}
