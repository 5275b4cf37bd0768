//! The life of a shard's thread: turns while there is work, ticks while there are connections, stop.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::{Shard, Upgraded};
use crate::clock::Now;
use crate::limits::DRAIN_TIME_MAX;
use crate::os;
use crate::protocol::resume::Predecessor;
use crate::ring::OpenRing;
use crate::stop::Stop;

/// One tick of the timer wheel.
const TICK: Duration = Duration::from_secs(1);

/// Becomes readable once a tick, unless it is paused. With a timer of the runtime, every wait of the thread would set a timer
/// of the kernel and take it back.
pub(crate) struct Ticker {
    timer: AsyncFd<OwnedFd>,
    paused: bool,
}

impl Ticker {
    /// A ticker that is paused, watched by the runtime of the calling thread.
    ///
    /// # Errors
    /// Out of file descriptors.
    pub(crate) fn new() -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        Ok(Self { timer: os::watch_readable(timer)?, paused: true })
    }

    /// Waits for the next tick.
    async fn tick(&self) {
        self.timer.readable().await.expect("the runtime runs").clear_ready();
        // The kernel sets a periodic timer again when it is read.
        let _ = rustix::io::read(&self.timer, &mut [0; 8]);
    }

    fn pause(&mut self, paused: bool) {
        if self.paused != paused {
            let interval = Timespec { tv_sec: if paused { 0 } else { TICK.as_secs() as i64 }, tv_nsec: 0 };
            let times = Itimerspec { it_interval: interval, it_value: interval };
            timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &times).expect("the times are valid");
            self.paused = paused;
        }
    }
}

/// What the other tasks of a thread use of its shard.
pub(crate) struct Handle<R> {
    /// Never borrowed across an await.
    shard: RefCell<Shard<R>>,
    /// Notified when the shard has something to do outside its turn.
    pub news: Notify,
}

impl<R: OpenRing> Handle<R> {
    /// Shares a shard among the tasks of the calling thread.
    pub(crate) fn new(shard: Shard<R>) -> Self {
        Self { shard: RefCell::new(shard), news: Notify::new() }
    }

    /// Hands an upgraded connection over to the shard.
    pub(crate) fn adopt(&self, upgraded: Upgraded<R::Socket>) {
        self.shard.borrow_mut().adopt(upgraded, Now::read());
        self.news.notify_one();
    }

    /// The same, and takes turns at once: the answer leaves before anything else is looked at.
    pub(crate) fn adopt_at_once(&self, upgraded: Upgraded<R::Socket>) {
        let mut shard = self.shard.borrow_mut();
        // Then the next tick is far away.
        let was_idle = shard.is_idle();
        shard.adopt(upgraded, Now::read());
        if shard.turns() || was_idle {
            self.news.notify_one();
        }
    }

    /// The connection that the holder of this secret may take over: see [`Shard::predecessor`].
    pub(crate) fn predecessor(&self, secret: &str) -> Option<Predecessor> {
        self.shard.borrow().predecessor(secret)
    }
}

/// Runs the shard until it has stopped. `wake_up` is the eventfd of its inbox, `woken` the [descriptor of its
/// ring](OpenRing::wake_descriptor).
pub(crate) async fn run<R: OpenRing>(
    handle: &Handle<R>,
    wake_up: &OwnedFd,
    woken: OwnedFd,
    mut ticker: Ticker,
    stop: &Stop,
) {
    let woken = os::watch_readable(woken).expect("epoll takes an eventfd, and another epoll");
    let mut drained_by = None;
    loop {
        // Read once per iteration: if it were read again below, a request that comes in between would be missed.
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
            // tokio-uring submits the control ring only when the thread parks: a turn that merely yielded would starve accepts
            // and handshakes.
            os::eventfd_signal(wake_up);
        }
        let due = handle.shard.borrow().next_due().map(Instant::from_std);
        let mut ticked = ticker.paused;
        tokio::select! {
            ready = woken.readable() => {
                // Nothing is read from it: epoll reports each signal as a new edge.
                ready.expect("the runtime runs").clear_ready();
            }
            () = handle.news.notified() => {}
            () = ticker.tick() => ticked = true,
            () = at(drained_by) => {}
            () = at(due) => {}
        }
        if ticked {
            let mut shard = handle.shard.borrow_mut();
            shard.tick(Now::read());
            ticker.pause(shard.is_idle());
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

fn take_turns<R: OpenRing>(handle: &Handle<R>, stop_now: bool) -> bool {
    let mut shard = handle.shard.borrow_mut();
    if stop_now {
        shard.stop(Now::read());
    }
    shard.turns()
}
