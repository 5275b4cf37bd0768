//! The life of a shard's thread: turns when there is something to do, ticks while there is someone to watch, stop.

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::{Shard, Upgraded};
use crate::clock::Now;
use crate::limits::DRAIN_TIME_MAX;
use crate::os;
use crate::protocol::MemberId;
use crate::ring::OpenRing;
use crate::stop::Stop;

/// A tick of the timer wheel.
const TICK: Duration = Duration::from_secs(1);
/// With nobody connected there is nothing to watch.
const IDLE: Duration = Duration::from_secs(3600);

/// A shard as the other tasks of its thread know it.
pub struct Handle<R> {
    /// The shard itself, used between two awaits only.
    shard: RefCell<Shard<R>>,
    /// Told when the shard got something to do outside its turn.
    pub news: Notify,
}

impl<R: OpenRing> Handle<R> {
    /// Lets the tasks of the calling thread share a shard.
    pub fn new(shard: Shard<R>) -> Self {
        Self { shard: RefCell::new(shard), news: Notify::new() }
    }

    /// Hands a socket over to the data ring.
    pub fn adopt(&self, upgraded: Upgraded<R::Socket>) {
        self.shard.borrow_mut().adopt(upgraded, Now::read());
        self.news.notify_one();
    }

    /// See [`Shard::predecessor`].
    pub fn predecessor(&self, secret: &str) -> Option<MemberId> {
        self.shard.borrow().predecessor(secret)
    }
}

/// Runs the shard until it has stopped. `wake_up` is the eventfd of its data ring and of its inbox.
pub async fn run<R: OpenRing>(handle: &Handle<R>, wake_up: OwnedFd, stop: &Stop) {
    let wake_up = os::watch_eventfd(wake_up).expect("epoll takes an eventfd");
    let tick = sleep_until(Instant::now() + TICK);
    tokio::pin!(tick);
    let mut drained_by = None;
    loop {
        // Asked once a round: were it asked again below, the order to stop could come in between and be missed.
        let stopping = stop.is_requested();
        let more = take_turns(handle, stopping && drained_by.is_none());
        if stopping {
            let deadline = *drained_by.get_or_insert_with(|| Instant::now() + DRAIN_TIME_MAX);
            let connections = handle.shard.borrow().connections();
            if connections == 0 || Instant::now() >= deadline {
                stop.note_left(connections);
                return;
            }
        }
        if more {
            // tokio-uring submits the control ring when the thread parks, and only then: a turn that merely yielded
            // would starve accepts and handshakes.
            os::eventfd_signal(wake_up.get_ref());
        }
        tokio::select! {
            ready = wake_up.readable() => {
                // The eventfd is never read: each signal is an edge of its own for epoll.
                ready.expect("the runtime runs").clear_ready();
            }
            () = handle.news.notified() => {}
            () = &mut tick => {}
            () = at(drained_by) => {}
        }
        if tick.deadline() <= Instant::now() || tick.deadline() > Instant::now() + TICK {
            let mut shard = handle.shard.borrow_mut();
            shard.tick(Now::read());
            let next = if shard.is_idle() { IDLE } else { TICK };
            tick.as_mut().reset(Instant::now() + next);
        }
    }
}

/// Waits for a time, if there is one to wait for: ticks alone would come up to a second after it.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

fn take_turns<R: OpenRing>(handle: &Handle<R>, stop_now: bool) -> bool {
    let mut shard = handle.shard.borrow_mut();
    if stop_now {
        shard.stop(Now::read());
    }
    shard.turns()
}
