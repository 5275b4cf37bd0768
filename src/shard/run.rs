//! The life of a shard's thread: turns while there is work, ticks while there are connections, stop.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::clock::Now;
use crate::handshake::Front;
use crate::limits::DRAIN_TIME_MAX;
use crate::os;
use crate::ring::OpenRing;

/// One tick of the timer wheel.
const TICK: Duration = Duration::from_secs(1);
/// The interval between ticks while the shard is idle.
const IDLE: Duration = Duration::from_secs(3600);

/// The request to stop, shared by all shards.
#[derive(Debug, Default)]
pub struct Stop {
    requested: AtomicBool,
    left: AtomicUsize,
}

impl Stop {
    /// Asks the shards to stop. They notice when they are next woken: the caller wakes them.
    pub fn request(&self) {
        self.requested.store(true, Ordering::Release);
    }

    /// Whether the shards were asked to stop.
    pub fn is_requested(&self) -> bool {
        self.requested.load(Ordering::Acquire)
    }

    /// Connections that were still open when their shard's time to stop was over.
    pub fn left(&self) -> usize {
        self.left.load(Ordering::Acquire)
    }
}

/// Runs the shard until it has stopped. `wake_up` is the eventfd of its data ring and of its inbox.
pub async fn run<R: OpenRing>(front: Rc<Front<R>>, wake_up: OwnedFd, stop: Arc<Stop>) {
    let wake_up = os::watch_eventfd(wake_up).expect("epoll takes an eventfd");
    let tick = sleep_until(Instant::now() + TICK);
    tokio::pin!(tick);
    let mut drained_by = None;
    loop {
        // Read once per iteration: if it were read again below, a request that comes in between would be missed.
        let stopping = stop.is_requested();
        let more = take_turns(&front, stopping && drained_by.is_none());
        if stopping {
            let deadline = *drained_by.get_or_insert_with(|| Instant::now() + DRAIN_TIME_MAX);
            let connections = front.shard.borrow().connections();
            if connections == 0 || Instant::now() >= deadline {
                stop.left.fetch_add(connections, Ordering::AcqRel);
                return;
            }
        }
        if more {
            // tokio-uring submits the control ring only when the thread parks: a turn that merely yielded would starve accepts
            // and handshakes.
            os::eventfd_signal(wake_up.get_ref());
        }
        tokio::select! {
            ready = wake_up.readable() => {
                // The eventfd is never read: epoll reports each signal as a new edge.
                ready.expect("the runtime runs").clear_ready();
            }
            () = front.news.notified() => {}
            () = &mut tick => {}
            () = at(drained_by) => {}
        }
        if tick.deadline() <= Instant::now() || tick.deadline() > Instant::now() + TICK {
            let mut shard = front.shard.borrow_mut();
            shard.tick(Now::read());
            let next = if shard.is_idle() { IDLE } else { TICK };
            tick.as_mut().reset(Instant::now() + next);
        }
    }
}

/// Waits until `time`, if there is one: the next tick may come up to a second later.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

fn take_turns<R: OpenRing>(front: &Front<R>, stop_now: bool) -> bool {
    let mut shard = front.shard.borrow_mut();
    if stop_now {
        shard.stop(Now::read());
    }
    shard.turns()
}
