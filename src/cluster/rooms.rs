//! Rooms that are followed: loaded for the first connection that wants to join, and forgotten when nobody needs them.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use tokio::task::spawn_local;

use super::backlog::Backlog;
use super::follow::{Follow, Following as Follows, Step};
use super::nats::Unreachable;
use super::raw::RawFollow;
use super::record::{Content, Heading, Kind, Record};
use super::stats::Published;
use super::{Cluster, Following, Waiter, record};
use crate::clock::Time;
use crate::limits::cluster::{FULL_PAUSE, LAG_PAUSE, LOAD_TIME_MAX};
use crate::protocol::Namespace;
use crate::protocol::name::Name;
use crate::protocol::position::Since;
use crate::room::inbox::{Found, Inbox, NotOpened, Order, Unavailable};
use crate::room::outward::{Asker, Finder, Joiner};
use crate::room::{Placed, Room, Wakes};

impl Cluster {
    /// A program wants to publish in a room that has no members here.
    pub(super) async fn find(self: Rc<Self>, namespace: Namespace, name: Name, finder: Finder) {
        let key = record::key(namespace, &name);
        let since = Self::now().unix_ms.saturating_sub(self.settings.replay_age_ms);
        let is_followed = self.follows.borrow().contains_key(&key);
        if namespace == Namespace::Raw || is_followed {
            // Nothing of a raw room is kept: whether somebody has just joined it elsewhere, nobody knows.
            return self.open(namespace, name, Waiter::Find(finder));
        }
        match self.log.is_there(&key, since).await {
            Err(_) => self.tell_finder(finder, Err(Unavailable)),
            Ok(false) => self.tell_finder(finder, Ok(None)),
            Ok(true) => self.open(namespace, name, Waiter::Find(finder)),
        }
    }

    fn tell_finder(&self, finder: Finder, room: Found) {
        match finder {
            Finder::Member(Joiner { member, .. }) => {
                self.order(member.shard, Order::Found { member, room, name_is_taken: false });
            }
            // The request may have been given up.
            Finder::Outside(found) => drop(found.send(room)),
        }
    }

    /// A room is wanted: it is loaded unless it is there.
    pub(super) fn open(self: &Rc<Self>, namespace: Namespace, name: Name, waiter: Waiter) {
        let key = record::key(namespace, &name);
        let known = self.follows.borrow().get(&key).cloned();
        if let Some(following) = known {
            let room = following.room.borrow().upgrade();
            if room.is_some() || !following.waiting.borrow().is_empty() {
                *following.kept.borrow_mut() = room;
                following.waiting.borrow_mut().push((waiter, Instant::now()));
                return self.admit_waiting(&key, &following);
            }
            // It has been forgotten here, and is loaded anew.
        }
        let waiter = match waiter {
            // What is loaded from now on includes all that it has seen elsewhere.
            Waiter::Join(joiner) => Waiter::Join(Joiner { since: None, ..joiner }),
            finder => finder,
        };
        let (follow, step): (Box<dyn Follows>, Step) = match namespace {
            Namespace::Chat => {
                let (follow, step) = Follow::begin();
                (Box::new(follow), step)
            }
            Namespace::Raw => {
                let (follow, step) = RawFollow::begin();
                (Box::new(follow), step)
            }
        };
        let backlog = Backlog::new(Rc::clone(&self.backlog_bytes));
        let following = Rc::new(Following::new(namespace, name, follow, waiter, backlog));
        let before = self.follows.borrow_mut().insert(Rc::clone(&key), Rc::clone(&following));
        self.has_forgotten.set(self.has_forgotten.get() || before.is_some());
        before.iter().for_each(|before| before.stop());
        self.begin_reading(&key, &following, step);
    }

    /// The connections that wait for a room claim their names, and join, once it is loaded.
    pub(super) fn admit_waiting(self: &Rc<Self>, key: &Rc<str>, following: &Rc<Following>) {
        let is_ready = following.names.borrow().is_loaded() && following.is_shown();
        let room = following.room.borrow().upgrade().filter(|_| is_ready);
        if let Some(room) = room {
            following.kept.take();
            for (waiter, _) in following.waiting.take() {
                let room = Arc::clone(&room);
                match waiter {
                    Waiter::Join(joiner) => drop(spawn_local(Rc::clone(self).admit(Rc::clone(key), room, joiner))),
                    Waiter::Find(Finder::Member(visitor)) => {
                        drop(spawn_local(Rc::clone(self).visited(Rc::clone(key), room, visitor)));
                    }
                    Waiter::Find(finder) => self.tell_finder(finder, Ok(Some(room))),
                }
            }
        }
    }

    /// A client may have seen messages on another server that are still on their way to this one: waits for them.
    pub(super) async fn catch_up(
        self: &Rc<Self>,
        key: &Rc<str>,
        room: &Room,
        since: Option<Since>,
    ) -> Result<(), NotOpened> {
        let is_behind = |since: &Since| since.epoch != Some(room.epoch()) || since.seq > room.last_seq();
        if !since.is_some_and(|since| since.epoch.is_some() && is_behind(&since)) {
            return Ok(());
        }
        let last_at = self.log.last_at(key).await.map_err(|Unreachable| NotOpened::Unavailable)?;
        let began = Instant::now();
        while began.elapsed() < LOAD_TIME_MAX {
            let is_there = self.follows.borrow().get(key).is_some_and(|following| {
                following.is_shown() && following.follow.borrow().tip().is_some_and(|(at, _)| at >= last_at)
            });
            if is_there {
                return Ok(());
            }
            self.look(key);
            tokio::time::sleep(LAG_PAUSE).await;
        }
        Err(NotOpened::Unavailable)
    }

    pub(super) fn carry_out(self: &Rc<Self>, key: &Rc<str>, following: &Rc<Following>, steps: Vec<Step>) {
        let waits = !following.is_shown();
        following.steps.borrow_mut().extend(steps);
        if waits || self.carry_on(key, following) {
            return;
        }
        let (cluster, key, room) = (Rc::clone(self), Rc::clone(key), Rc::downgrade(following));
        following.carrier.start(async move {
            loop {
                tokio::time::sleep(FULL_PAUSE).await;
                let Some(following) = room.upgrade() else { return };
                if cluster.carry_on(&key, &following) {
                    // Perhaps until this is carried on by the next task.
                    return cluster.take_backlog(&key, &following);
                }
            }
        });
    }

    /// Does what is to be done, until a shard has enough to do: a burst must not make it drop what its members would get. True:
    /// that was all.
    fn carry_on(self: &Rc<Self>, key: &Rc<str>, following: &Rc<Following>) -> bool {
        let mut wakes = Wakes::default();
        let is_full = || {
            let is_behind = following.room.borrow().upgrade().is_some_and(|room| room.is_behind());
            is_behind || self.registry.inboxes().iter().any(Inbox::is_full)
        };
        while !is_full() {
            let Some(step) = following.steps.borrow_mut().pop_front() else { break };
            match step {
                Step::Place { epoch, record } => self.place(following, epoch, &record, &mut wakes),
                Step::Ready { epoch, last_seq, name } => self.ready(following, epoch, last_seq, name, &mut wakes),
                Step::Lose => following.room.borrow().upgrade().iter().for_each(|room| room.lose(&mut wakes)),
                Step::Fetch { from } => {
                    let fetch = Rc::clone(self).fetch(Rc::clone(key), Rc::downgrade(following), from);
                    following.fetcher.start(fetch);
                }
                Step::BeginLife { instead_of } => self.begin_life(key, following, instead_of),
            }
        }
        wakes.wake_all(self.registry.inboxes());
        // Only now: what they join with includes all of the room that has just been loaded.
        self.admit_waiting(key, following);
        following.is_shown()
    }

    /// Writes the record that begins a life of a room: nothing was found that goes on.
    fn begin_life(self: &Rc<Self>, key: &Rc<str>, following: &Following, instead_of: Option<u64>) {
        let number = self.outward.next_number();
        let heading = Heading { kind: Kind::Life, epoch: instead_of, node: self.settings.node, number };
        self.wait_for(Rc::clone(key), heading, Content::name_only(&following.name), None);
        let cluster = Rc::clone(self);
        drop(spawn_local(async move { cluster.send(number).await }));
    }

    /// A message has its number: it goes to the members here, and its publisher is told.
    pub(super) fn place(self: &Rc<Self>, following: &Following, epoch: u64, record: &Record, wakes: &mut Wakes) {
        let room = following.room.borrow().upgrade();
        let mut asked = None;
        let mut outside = None;
        let is_ours = record.heading.node == self.settings.node;
        let pending = is_ours.then(|| self.pending.borrow_mut().remove(&record.heading.number)).flatten();
        if let Some(pending) = pending {
            if pending.stored.is_none() {
                // The answer comes later than the record.
                self.stats.published(Published::Stored).add(1);
                self.stats.stored_after(pending.since.elapsed());
            }
            let given_up = self.outgoing.borrow_mut().stored(&pending.room, record.heading.number);
            given_up.into_iter().for_each(|number| self.give_up(number));
            self.outward.settled(pending.content.len());
            match pending.asker {
                Some(Asker::Shard(shard)) => asked = Some((shard, record.heading.number)),
                Some(Asker::Outside(asker)) => outside = Some(asker),
                None => {}
            }
        }
        let now = Self::now();
        let age_ms = now.unix_ms.saturating_sub(record.unix_ms);
        let at = Time { unix_ms: record.unix_ms, monotonic_ms: now.monotonic_ms.saturating_sub(age_ms) };
        let place = match (&record.content, &room) {
            (Content::Json(json), room) => {
                let place = Placed { seq: record.value, epoch };
                room.iter().for_each(|room| room.place(place, json, at, asked, wakes));
                place
            }
            (Content::Frame(frame), Some(room)) => room.place_frame(frame, at, asked, wakes),
            (Content::Frame(_), None) => return,
        };
        if let Some(asker) = outside {
            // The request may have been given up.
            let _ = asker.send(Ok(place));
        }
    }

    /// The room is loaded, or begins a new life.
    pub(super) fn ready(
        &self,
        following: &Following,
        epoch: u64,
        last_seq: u64,
        name: Option<String>,
        wakes: &mut Wakes,
    ) {
        following.lost_life.set(None);
        let known = following.room.borrow().upgrade();
        let waits = !following.waiting.borrow().is_empty();
        // All servers write it as the log does.
        let name = name.and_then(|name| Name::room(&name).ok()).filter(|name| *name == following.name);
        let name = name.unwrap_or_else(|| following.name.clone());
        let room = known.or_else(|| waits.then(|| self.registry.open(following.namespace, &name, Self::now())));
        let Some(room) = room else { return };
        *following.kept.borrow_mut() = waits.then(|| Arc::clone(&room));
        if following.namespace == Namespace::Chat {
            let is_new_life = room.members() > 0 && room.epoch() != epoch;
            self.stats.lives.add(is_new_life.into());
            room.begin_life(epoch, last_seq, wakes);
        }
        let before = std::mem::replace(&mut *following.room.borrow_mut(), Arc::downgrade(&room));
        if before.strong_count() == 0 {
            self.tell_room(following, &room);
        }
    }

    pub(super) fn look(self: &Rc<Self>, room: &Rc<str>) {
        let Some(following) = self.follows.borrow().get(room).cloned() else { return };
        let mut steps = Vec::new();
        following.follow.borrow_mut().look(&mut steps);
        self.carry_out(room, &following, steps);
    }

    /// Rooms that nobody needs any more are not followed; those that can't be loaded in time are not waited for.
    pub(super) fn forget_rooms(&self) {
        let is_late = |(_, since): &mut (Waiter, Instant)| since.elapsed() >= LOAD_TIME_MAX;
        let refuse = |waiter| match waiter {
            Waiter::Join(Joiner { member, .. }) => {
                self.order(member.shard, Order::Opened { member, room: Err(NotOpened::Unavailable) });
            }
            Waiter::Find(finder) => self.tell_finder(finder, Err(Unavailable)),
        };
        let mut follows = self.follows.borrow_mut();
        let count = follows.len();
        follows.retain(|key, following| {
            following.waiting.borrow_mut().extract_if(.., is_late).for_each(|(waiter, _)| refuse(waiter));
            let waits = !following.waiting.borrow().is_empty();
            following.kept.borrow_mut().take_if(|_| !waits);
            let is_needed = waits || following.room.borrow().strong_count() > 0;
            if !is_needed {
                following.stop();
                self.stop_reading(key);
            }
            is_needed
        });
        self.has_forgotten.set(self.has_forgotten.get() || follows.len() < count);
    }
}
