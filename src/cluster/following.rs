//! A room that is followed: what is known of it, and what is being done about it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Instant;

use tokio::task::{JoinHandle, spawn_local};

use super::backlog::Backlog;
use super::follow::{Following as Follows, Step};
use super::names::Names;
use super::nats::Message;
use crate::protocol::Namespace;
use crate::protocol::name::Name;
use crate::room::Room;
use crate::room::others::Counts;
use crate::room::outward::{Finder, Joiner};

/// Somebody who waits for a room.
pub(super) enum Waiter {
    /// A connection that joins it.
    Join(Joiner),
    /// A program that publishes in it, or a connection that is not in it.
    Find(Finder),
}

/// A room that is followed.
pub(super) struct Following {
    pub(super) namespace: Namespace,
    pub(super) name: Name,
    pub(super) follow: RefCell<Box<dyn Follows>>,
    /// Dead as soon as no member, and nobody who may come back, needs it.
    pub(super) room: RefCell<Weak<Room>>,
    /// Who waits for it, and since when.
    pub(super) waiting: RefCell<Vec<(Waiter, Instant)>>,
    /// The same room while somebody waits: its names may take longer to be read than it lives without members.
    pub(super) kept: RefCell<Option<Arc<Room>>>,
    /// What is still to be done about what has arrived: it waits while the shards have enough to do.
    pub(super) steps: RefCell<VecDeque<Step>>,
    /// Does it, if it waits.
    pub(super) carrier: Task,
    /// If the log knows the record that begins its life, and may have lost it: where that stood, or another number if one of this
    /// name is lost, too.
    pub(super) lost_life: Cell<Option<u64>>,
    /// What has arrived behind it.
    pub(super) backlog: RefCell<Backlog<Message>>,
    /// How many members here the others have been told of.
    pub(super) told: Cell<Counts>,
    /// Its users on other servers.
    pub(super) names: RefCell<Names>,
    /// Reads its records, unless they are read with those of its bundle.
    pub(super) reader: Task,
    /// Reads those that are missing.
    pub(super) fetcher: Task,
    /// Reads all its names.
    pub(super) namer: Task,
}

impl Following {
    /// A room that `waiter` waits for, and that nothing is known of.
    pub(super) fn new(
        namespace: Namespace,
        name: Name,
        follow: Box<dyn Follows>,
        waiter: Waiter,
        backlog: Backlog<Message>,
    ) -> Self {
        Self {
            namespace,
            name,
            follow: RefCell::new(follow),
            room: RefCell::default(),
            waiting: RefCell::new(vec![(waiter, Instant::now())]),
            kept: RefCell::default(),
            steps: RefCell::default(),
            carrier: Task::default(),
            lost_life: Cell::default(),
            backlog: RefCell::new(backlog),
            told: Cell::default(),
            names: RefCell::default(),
            reader: Task::default(),
            fetcher: Task::default(),
            namer: Task::default(),
        }
    }

    /// It is not followed any more, though somebody may still look at it.
    pub(super) fn stop(&self) {
        for task in [&self.reader, &self.fetcher, &self.namer, &self.carrier] {
            task.stop();
        }
    }

    /// Whether all that has arrived has also been shown, but for what waits in the backlog.
    pub(super) fn is_shown(&self) -> bool {
        self.steps.borrow().is_empty()
    }

    /// Whether what arrives can be dealt with.
    pub(super) fn takes_more(&self) -> bool {
        self.is_shown() && !self.follow.borrow().is_unsure()
    }

    /// The position of its last record, and its time in milliseconds since 1970, if nothing is known to be missing.
    pub(super) fn whole_tip(&self) -> Option<(u64, u64)> {
        let follow = self.follow.borrow();
        follow.tip().filter(|_| follow.is_whole())
    }

    /// Whether something was shown that was stored since then, in nanoseconds since 1970.
    pub(super) fn is_shown_since(&self, unix_nanos: i128) -> bool {
        self.follow.borrow().tip().is_some_and(|(_, unix_ms)| i128::from(unix_ms) >= unix_nanos / 1_000_000)
    }

    /// Records may have been lost on their way, or all of them by the log if it `has_forgotten`: the room is looked at. A question
    /// that was asked before is not waited for.
    pub(super) fn ask_again(&self, has_forgotten: bool) -> Vec<Step> {
        let (mut follow, mut steps) = (self.follow.borrow_mut(), Vec::new());
        self.fetcher.stop();
        if has_forgotten {
            self.backlog.borrow_mut().clear();
            follow.forget(&mut steps);
        } else {
            follow.reconnected(&mut steps);
        }
        if !steps.iter().any(|step| matches!(step, Step::Fetch { .. })) {
            follow.failed(&mut steps);
        }
        steps
    }
}

/// A task that ends with what it belongs to, or with the next one.
#[derive(Default)]
pub(super) struct Task(Cell<Option<JoinHandle<()>>>);

impl Task {
    pub(super) fn start(&self, task: impl Future<Output = ()> + 'static) {
        self.stop();
        self.0.set(Some(spawn_local(task)));
    }

    /// It is about to end: what it took is given back, and the next one may start.
    pub(super) fn ends(&self) {
        self.0.take();
    }

    /// True: it had not ended by itself.
    pub(super) fn stop(&self) -> bool {
        let task = self.0.take().filter(|task| !task.is_finished());
        task.as_ref().inspect(|task| task.abort()).is_some()
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.stop();
    }
}
