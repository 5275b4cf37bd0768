//! The threads of the shards: pinned, with a ring and the tasks that accept.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use arc_swap::ArcSwap;
use tracing::warn;

use super::Shared;
use super::listeners::ShardListeners;
use crate::clock::Now;
use crate::control::accept::Listener;
use crate::control::verification::Verification;
use crate::control::{self, ControlContext};
use crate::counters::Counters;
use crate::os;
use crate::ring::control::spawn;
use crate::ring::{self, OpenRing, RingError};
use crate::shard::Shard;
use crate::shard::run::{Handle, Ticker, run};
use crate::shard::settings::Settings;

/// What one shard's thread starts with.
pub(super) struct ShardThread {
    pub(super) id: usize,
    pub(super) core: Option<usize>,
    pub(super) listeners: ShardListeners,
    pub(super) wake_up: OwnedFd,
    pub(super) receive_buffers: u16,
    pub(super) settings: Arc<ArcSwap<Settings>>,
    pub(super) control: Arc<ArcSwap<control::Settings>>,
    pub(super) shared: Arc<Shared>,
}

impl ShardThread {
    /// The life of the thread. It reports once whether it could start.
    pub(super) fn run<R: OpenRing + 'static>(mut self, ready: &Sender<Result<(), RingError>>) {
        self.pin();
        let (ring, woken) = match self.open::<R>() {
            Ok(opened) => opened,
            Err(error) => return drop(ready.send(Err(error))),
        };
        let ran = ring::control::run(R::backend(), async {
            let counters = Rc::new(self.shared.metrics.counters_of_shard(self.id));
            let handle = Rc::new(Handle::new(self.shard(ring, &counters)));
            self.start_tasks(&handle, counters)?;
            let ticker = Ticker::new()?;
            let _ = ready.send(Ok(()));
            let (wake_up, stop) = (self.wake_up, Arc::clone(&self.shared.stop));
            // A task of its own: what the runtime is started with is polled whenever any task is.
            let life = tokio::task::spawn_local(async move { run(&handle, &wake_up, woken, ticker, &stop).await });
            // A panic of it is one of this thread.
            life.await.expect("the shard's loop ends by itself");
            Ok(())
        });
        if let Ok(Err(error)) | Err(error) = ran {
            let _ = ready.send(Err(no_descriptor(error)));
        }
    }

    /// Opens the data ring. Beside it: what becomes readable when there is something to do.
    fn open<R: OpenRing>(&self) -> Result<(R, OwnedFd), RingError> {
        let ring = R::open(self.receive_buffers, self.wake_up.try_clone().map_err(no_descriptor)?)?;
        let woken = ring.wake_descriptor().try_clone_to_owned().map_err(no_descriptor)?;
        Ok((ring, woken))
    }

    fn pin(&self) {
        if let Some(core) = self.core
            && let Err(error) = os::pin_to_core(core)
        {
            warn!("shard {} runs unpinned: it can't be pinned to core {core}: {error}", self.id);
        }
    }

    fn shard<R: OpenRing>(&self, ring: R, counters: &Rc<Counters>) -> Shard<R> {
        let Self { id, settings, shared, .. } = self;
        shared.memory.enroll(*id);
        Shard::new(*id, settings.load_full(), Arc::clone(&shared.registry), ring, Now::read())
            .counting_in(Rc::clone(counters))
            .keeping_to(Arc::clone(&shared.memory))
            .noting(Arc::clone(&shared.failures))
            .limiting(Arc::clone(&shared.addresses))
            .following(Arc::clone(settings))
    }

    fn start_tasks<R: OpenRing + 'static>(&mut self, shard: &Rc<Handle<R>>, counters: Rc<Counters>) -> io::Result<()> {
        let Self { id, listeners, control, shared, .. } = self;
        let context = Rc::new(ControlContext {
            shard: Rc::clone(shard),
            live: Arc::clone(control),
            verification: Verification::new(control.load().admission.authority()),
            counters,
            memory: Arc::clone(&shared.memory),
            failures: Arc::clone(&shared.failures),
            descriptors: Arc::clone(&shared.descriptors),
            addresses: Arc::clone(&shared.addresses),
            cluster: shared.cluster.clone(),
        });
        if *id == 0 {
            let failures = Arc::clone(&shared.failures);
            spawn(async move { failures.report_left_out().await });
        }
        for listener in listeners.drain(..).map(Listener::new).collect::<io::Result<Vec<_>>>()? {
            let (context, stop) = (Rc::clone(&context), Arc::clone(&shared.stop));
            spawn(async move { listener.accept_until(&stop, context).await });
        }
        Ok(())
    }
}

fn no_descriptor(error: io::Error) -> RingError {
    RingError { operation: "a file descriptor", error }
}
