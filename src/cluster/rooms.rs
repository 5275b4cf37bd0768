//! Rooms that are followed: loaded for the first connection that wants to join, and forgotten when nobody needs them.

use std::cell::RefCell;
use std::rc::{Rc, Weak as RcWeak};
use std::sync::Arc;
use std::time::Instant;

use futures_util::StreamExt as _;
use tokio::task::spawn_local;

use super::follow::{Follow, Following as Follows, Step};
use super::raw::RawFollow;
use super::record::{Content, Heading, Kind, Record};
use super::stats::Repair;
use super::{Cluster, Following, Task, Waiter, nats, record};
use crate::clock::Time;
use crate::limits::cluster::{LOAD_TIME_MAX, TICK};
use crate::protocol::Namespace;
use crate::protocol::name::Name;
use crate::room::inbox::{Found, NotOpened, Order, Unavailable};
use crate::room::outward::{Asker, Finder, Joiner};
use crate::room::{Placed, Wakes};

impl Cluster {
    /// A program wants to publish in a room that has no members here.
    pub(super) async fn find(self: Rc<Self>, namespace: Namespace, name: Name, finder: Finder) {
        let key = record::key(namespace, &name);
        let since = Self::now().unix_ms.saturating_sub(self.settings.replay_age_ms);
        let is_followed = self.follows.borrow().contains_key(&key);
        if namespace == Namespace::Raw {
            // Nothing of it is kept: whether somebody has just joined it elsewhere, nobody knows.
            return self.open(namespace, name, Waiter::Find(finder));
        }
        match self.log.is_there(&key, since).await {
            Err(_) => self.tell_finder(finder, Err(Unavailable)),
            Ok(false) if !is_followed => self.tell_finder(finder, Ok(None)),
            Ok(_) => self.open(namespace, name, Waiter::Find(finder)),
        }
    }

    fn tell_finder(&self, finder: Finder, room: Found) {
        match finder {
            Finder::Member(member) => self.order(member.shard, Order::Found { member, room }),
            // The request may have been given up.
            Finder::Outside(found) => drop(found.send(room)),
        }
    }

    /// A room is wanted: it is loaded unless it is there.
    pub(super) fn open(self: &Rc<Self>, namespace: Namespace, name: Name, waiter: Waiter) {
        let key = record::key(namespace, &name);
        let known = self.follows.borrow().get(&key).cloned();
        if let Some(following) = known {
            let is_there = following.room.borrow().strong_count() > 0 || !following.waiting.borrow().is_empty();
            if is_there {
                following.waiting.borrow_mut().push((waiter, Instant::now()));
                return self.admit_waiting(&key, &following);
            }
            // It has been forgotten here, and is loaded anew.
        }
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
        let following = Rc::new(Following {
            namespace,
            name,
            follow: RefCell::new(follow),
            room: RefCell::default(),
            waiting: RefCell::new(vec![(waiter, Instant::now())]),
            names: RefCell::default(),
            reader: Task::default(),
            fetcher: Task::default(),
            namer: Task::default(),
        });
        self.follows.borrow_mut().insert(Rc::clone(&key), Rc::clone(&following));
        let (cluster, reading) = (Rc::clone(self), Rc::downgrade(&following));
        following.reader.start(async move { cluster.read(key, &reading, step).await });
    }

    /// Reads the records of a room for as long as it is followed.
    pub(super) async fn read(self: Rc<Self>, key: Rc<str>, following: &RcWeak<Following>, first: Step) {
        let (mut records, mut names) = loop {
            match (self.log.follow(&key).await, self.log.follow_names(&key).await) {
                (Ok(records), Ok(names)) => break (records, names),
                _ => tokio::time::sleep(TICK).await,
            }
        };
        if let Some(following) = following.upgrade() {
            self.carry_out(&key, &following, vec![first]);
            self.read_names(Rc::clone(&key), &following);
        }
        loop {
            tokio::select! {
                Some(message) = records.next() => {
                    let Some(following) = following.upgrade() else { return };
                    self.stats.received.add(1);
                    self.stats.received_bytes.add(message.length as u64);
                    let Some(record) = nats::record(&message) else { continue };
                    let mut steps = Vec::new();
                    following.follow.borrow_mut().arrived(record, &mut steps);
                    self.carry_out(&key, &following, steps);
                }
                Some(message) = names.next() => {
                    let Some(following) = following.upgrade() else { return };
                    self.name_changed(&key, &following, &message);
                }
                else => return,
            }
        }
    }

    /// Reads all names of a room; then connections may join it.
    pub(super) fn read_names(self: &Rc<Self>, key: Rc<str>, following: &Rc<Following>) {
        let (cluster, room) = (Rc::clone(self), Rc::downgrade(following));
        following.namer.start(async move {
            while let Some(following) = room.upgrade() {
                if cluster.load_names(&key, &following).await.is_ok() {
                    return cluster.admit_waiting(&key, &following);
                }
                tokio::time::sleep(TICK).await;
            }
        });
    }

    /// The connections that wait for a room claim their names, and join, once it is loaded.
    fn admit_waiting(self: &Rc<Self>, key: &Rc<str>, following: &Rc<Following>) {
        let room = following.room.borrow().upgrade().filter(|_| following.names.borrow().is_loaded());
        if let Some(room) = room {
            for (waiter, _) in following.waiting.take() {
                let room = Arc::clone(&room);
                match waiter {
                    Waiter::Join(joiner) => drop(spawn_local(Rc::clone(self).admit(Rc::clone(key), room, joiner))),
                    Waiter::Find(finder) => self.tell_finder(finder, Ok(Some(room))),
                }
            }
        }
    }

    pub(super) fn carry_out(self: &Rc<Self>, key: &Rc<str>, following: &Rc<Following>, steps: Vec<Step>) {
        let mut wakes = Wakes::default();
        for step in steps {
            match step {
                Step::Place { epoch, record } => self.place(following, epoch, &record, &mut wakes),
                Step::Ready { epoch, last_seq, name } => self.ready(following, epoch, last_seq, name, &mut wakes),
                Step::Lose => following.room.borrow().upgrade().iter().for_each(|room| room.lose()),
                Step::Fetch { from } => {
                    let fetch = Rc::clone(self).fetch(Rc::clone(key), Rc::downgrade(following), from);
                    following.fetcher.start(fetch);
                }
                Step::BeginLife { instead_of } => {
                    let number = self.outward.next_number();
                    let heading = Heading { kind: Kind::Life, epoch: instead_of, node: self.settings.node, number };
                    let name = serde_json::to_string(following.name.as_str()).expect("a name is JSON");
                    let content = Content::Json(format!("{{\"Room\":{name}"));
                    self.wait_for(Rc::clone(key), heading, content, None);
                    let cluster = Rc::clone(self);
                    drop(spawn_local(async move { cluster.send(number).await }));
                }
            }
        }
        wakes.wake_all(self.registry.inboxes());
        // Only now: what they join with includes all of the room that has just been loaded.
        self.admit_waiting(key, following);
    }

    /// A message has its number: it goes to the members here, and its publisher is told.
    pub(super) fn place(self: &Rc<Self>, following: &Following, epoch: u64, record: &Record, wakes: &mut Wakes) {
        let room = following.room.borrow().upgrade();
        let mut asked = None;
        let mut outside = None;
        let is_ours = record.heading.node == self.settings.node;
        let pending = is_ours.then(|| self.pending.borrow_mut().remove(&record.heading.number)).flatten();
        if let Some(pending) = pending {
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
        let known = following.room.borrow().upgrade();
        let waits = !following.waiting.borrow().is_empty();
        // All servers write it as the log does.
        let name = name.and_then(|name| Name::room(&name).ok()).filter(|name| *name == following.name);
        let name = name.unwrap_or_else(|| following.name.clone());
        let room = known.or_else(|| waits.then(|| self.registry.open(following.namespace, &name, Self::now())));
        let Some(room) = room else { return };
        if following.namespace == Namespace::Chat {
            let is_new_life = room.members() > 0 && room.epoch() != epoch;
            self.stats.lives.add(is_new_life.into());
            room.begin_life(epoch, last_seq, wakes);
        }
        let before = std::mem::replace(&mut *following.room.borrow_mut(), Arc::downgrade(&room));
        if before.strong_count() == 0 {
            following.names.borrow().taken().for_each(|name| room.set_elsewhere(name, true));
        }
    }

    pub(super) async fn fetch(self: Rc<Self>, key: Rc<str>, following: RcWeak<Following>, from: Option<u64>) {
        let since = (Self::now().unix_ms).saturating_sub(self.settings.replay_age_ms);
        let found = self.log.records(&key, from, since).await;
        if found.is_err() {
            tokio::time::sleep(TICK).await;
        }
        let Some(following) = following.upgrade() else { return };
        // Over: what it finds may need the next one.
        following.fetcher.0.take();
        let mut steps = Vec::new();
        match found {
            Ok((records, last_at)) => {
                self.count_repair(from, &records);
                following.follow.borrow_mut().fetched(records, last_at, &mut steps);
            }
            Err(_) => following.follow.borrow_mut().failed(&mut steps),
        }
        self.carry_out(&key, &following, steps);
    }

    fn count_repair(&self, from: Option<u64>, records: &[Record]) {
        let Some(from) = from.filter(|from| *from > 0) else { return };
        match records {
            [first, ..] if first.at > from => self.stats.repairs(Repair::Hole).add(1),
            [_, _, ..] => self.stats.repairs(Repair::Whole).add(1),
            _ => {}
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
        self.follows.borrow_mut().retain(|_, following| {
            following.waiting.borrow_mut().extract_if(.., is_late).for_each(|(waiter, _)| refuse(waiter));
            !following.waiting.borrow().is_empty() || following.room.borrow().strong_count() > 0
        });
    }
}
