//! Records of rooms are read: those that a room is loaded with, and those that were missed.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak as RcWeak};
use std::time::Instant;

use tokio::sync::{RwLock, Semaphore, oneshot};

use super::nats::Unreachable;
use super::record::{Record, split};
use super::stats::Repair;
use super::{Cluster, Following};
use crate::limits::cluster::{LOADS_MAX, PAUSE, SWEEP_ROOMS_MIN, TICK};
use crate::protocol::Namespace;

/// Records of a room, and the position of the last.
type Records = (Vec<Record>, u64);

/// Rooms that are about to be loaded.
pub(super) struct Loading {
    /// Those that wait, with who waits: gets `None` if there are no recent records.
    waiting: RefCell<HashMap<Rc<str>, oneshot::Sender<Option<Records>>>>,
    /// One may be read,
    pub(super) may_read: Semaphore,
    /// and one that is there already, which those that are not don't keep waiting.
    may_repair: Semaphore,
    /// Held while many are read at once: the log would answer that between questions that take it longer.
    together: RwLock<()>,
    /// When what is recent in all rooms is read again.
    sweeps_from: Cell<Instant>,
}

impl Default for Loading {
    fn default() -> Self {
        Self {
            waiting: RefCell::default(),
            may_read: Semaphore::new(LOADS_MAX),
            may_repair: Semaphore::new(LOADS_MAX),
            together: RwLock::default(),
            sweeps_from: Cell::new(Instant::now()),
        }
    }
}

impl Cluster {
    /// Reads records of a room, from this position of the stream on or to load it.
    pub(super) async fn fetch(self: Rc<Self>, key: Rc<str>, following: RcWeak<Following>, from: Option<u64>) {
        let since = (Self::now().unix_ms).saturating_sub(self.settings.replay_age_ms);
        let found = match from {
            None => self.load(&key, since).await,
            Some(_) => self.repair(&key, from).await,
        };
        if found.is_err() {
            tokio::time::sleep(TICK).await;
        }
        let Some(following) = following.upgrade() else { return };
        // What it has found may need the next one.
        following.fetcher.ends();
        let mut steps = Vec::new();
        match found {
            Ok((records, last_at)) => {
                self.count_repair(from, &records);
                following.follow.borrow_mut().fetched(records, last_at, &mut steps);
            }
            Err(_) => following.follow.borrow_mut().failed(&mut steps),
        }
        self.carry_out(&key, &following, steps);
        self.take_backlog(&key, &following);
    }

    /// Reads what a room may have missed. All rooms may have, at the same time.
    async fn repair(&self, key: &Rc<str>, from: Option<u64>) -> Result<Records, Unreachable> {
        let permit = self.loading.may_repair.acquire().await;
        let found = Box::pin(self.log.records(key, from, 0)).await;
        drop(permit);
        found
    }

    fn count_repair(&self, from: Option<u64>, records: &[Record]) {
        let Some(from) = from.filter(|from| *from > 0) else { return };
        match records {
            [first, ..] if first.at > from => self.stats.repairs(Repair::Hole).add(1),
            [_, _, ..] => self.stats.repairs(Repair::Whole).add(1),
            _ => {}
        }
    }

    /// Reads the records that a room is loaded with: those since then, and at least the last one. A few rooms are read one by one.
    async fn load(&self, key: &Rc<str>, since_ms: u64) -> Result<Records, Unreachable> {
        let Loading { waiting, may_read, together, sweeps_from, .. } = &self.loading;
        let (sender, mut found) = oneshot::channel();
        if split(key).0 == Namespace::Chat {
            waiting.borrow_mut().insert(Rc::clone(key), sender);
        }
        let permit = tokio::select! {
            biased;
            Ok(found) = &mut found => match found {
                Some(found) => return Ok(found),
                None => may_read.acquire().await,
            },
            permit = may_read.acquire() => permit,
        };
        let is_many = || waiting.borrow().len() >= SWEEP_ROOMS_MIN && sweeps_from.get() <= Instant::now();
        if is_many() {
            let _no_single_one_is_read = together.write().await;
            // Another one may have been faster.
            if is_many() {
                Box::pin(self.load_all(since_ms)).await;
            }
        }
        let _not_together = together.read().await;
        if let Ok(Some(found)) = found.try_recv() {
            return Ok(found);
        }
        waiting.borrow_mut().remove(key);
        // Thousands may be waiting: what they need later takes no memory before.
        let found = Box::pin(self.log.records(key, None, since_ms)).await;
        drop(permit);
        found
    }

    /// Loads all rooms that wait for it and have recent records; the others are read one by one, which is fast.
    async fn load_all(&self, since_ms: u64) {
        let waiting = self.loading.waiting.take();
        let rooms: Vec<_> = waiting.keys().cloned().collect();
        let mut found = self.log.sweep(&rooms, since_ms).await.unwrap_or_default();
        if found.len() < rooms.len() / 2 {
            // Most of them are new, and so may be the next ones; or the log is too long.
            self.loading.sweeps_from.set(Instant::now() + PAUSE);
        }
        for (room, waiting) in waiting {
            let records = found.remove(&room);
            let found = records.and_then(|records| records.last().map(|last| last.at).map(|at| (records, at)));
            // The room may have been forgotten.
            let _ = waiting.send(found);
        }
    }
}
