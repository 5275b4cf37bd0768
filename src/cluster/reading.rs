//! Records of followed rooms arrive, each by its room's subscription or by that of its bundle.

use std::rc::Rc;

use futures_util::StreamExt as _;

use super::bundles::{BundleId, Reading};
use super::follow::Step;
use super::nats::names::is_name_change;
use super::nats::{Message, republished};
use super::record::Kind;
use super::{Cluster, Following, Task};
use crate::limits::cluster::TICK;

impl Cluster {
    /// Reads the records of a room for as long as it is followed. `first` is what has to be done once none can be missed.
    pub(super) fn begin_reading(self: &Rc<Self>, key: &Rc<str>, following: &Rc<Following>, first: Step) {
        let reading = self.bundles.borrow_mut().add(key, Self::now().monotonic_ms);
        if reading == Reading::Together {
            self.carry_out(key, following, vec![first]);
            return self.read_names(Rc::clone(key), following);
        }
        self.read_alone(key, following, Some(first));
        if reading == Reading::AloneUntilFormed {
            let (id, task) = (BundleId::of(key), Task::default());
            let cluster = Rc::clone(self);
            task.start(async move { cluster.read_together(id).await });
            self.bundle_readers.borrow_mut().insert(id, task);
        }
    }

    /// A room is not followed any more.
    pub(super) fn stop_reading(&self, key: &str) {
        if self.bundles.borrow_mut().remove(key) {
            self.bundle_readers.borrow_mut().remove(&BundleId::of(key));
        }
    }

    /// Reads the records of a room by a subscription of its own. `first`: as above, if the room has not been read until now.
    fn read_alone(self: &Rc<Self>, key: &Rc<str>, following: &Rc<Following>, first: Option<Step>) {
        let (cluster, key, room) = (Rc::clone(self), Rc::clone(key), Rc::downgrade(following));
        following.reader.start(async move {
            let mut messages = loop {
                match cluster.log.follow(&key).await {
                    Ok(messages) => break messages,
                    Err(_) => tokio::time::sleep(TICK).await,
                }
            };
            if let Some(following) = room.upgrade() {
                match first {
                    Some(first) => {
                        cluster.carry_out(&key, &following, vec![first]);
                        cluster.read_names(Rc::clone(&key), &following);
                    }
                    None => cluster.reads_otherwise(&key, &following),
                }
            }
            while let Some(message) = messages.next().await {
                let Some(following) = room.upgrade() else { return };
                cluster.take_in(&key, &following, message);
            }
        });
    }

    /// Reads the records of a bundle, until it has brought too many of rooms that are not followed.
    async fn read_together(self: Rc<Self>, id: BundleId) {
        let mut messages = loop {
            match self.log.follow_bundle(id).await {
                Ok(messages) => break messages,
                Err(_) => tokio::time::sleep(TICK).await,
            }
        };
        let rooms = self.bundles.borrow_mut().formed(id);
        for (key, following) in self.followed(rooms) {
            following.reader.stop();
            self.reads_otherwise(&key, &following);
        }
        let rooms = loop {
            let Some(message) = messages.next().await else { return };
            let key = self.log.room_of(&message);
            let known = key.and_then(|key| {
                let follows = self.follows.borrow();
                follows.get_key_value(key.as_str()).map(|(key, following)| (Rc::clone(key), Rc::clone(following)))
            });
            let (is_wanted, bytes) = (known.is_some(), message.length);
            match known {
                Some((key, following)) => self.take_in(&key, &following, message),
                None => self.stats.unwanted.add(1),
            }
            let now_ms = Self::now().monotonic_ms;
            let given_up = self.bundles.borrow_mut().heard(id, bytes, is_wanted, now_ms);
            if let Some(rooms) = given_up {
                break rooms;
            }
        };
        for (key, following) in self.followed(rooms) {
            self.read_alone(&key, &following, None);
        }
    }

    fn followed(&self, rooms: Vec<Rc<str>>) -> Vec<(Rc<str>, Rc<Following>)> {
        let follows = self.follows.borrow();
        rooms.into_iter().filter_map(|key| follows.get(&key).cloned().map(|following| (key, following))).collect()
    }

    /// A room is read by another subscription than before: what had arrived by the one and was not read is looked for.
    fn reads_otherwise(self: &Rc<Self>, key: &Rc<str>, following: &Rc<Following>) {
        let steps = following.ask_again(false);
        self.carry_out(key, following, steps);
        self.read_names(Rc::clone(key), following);
    }

    /// Something has arrived of a room: records wait until all that arrived before is shown, changes of names don't.
    fn take_in(self: &Rc<Self>, key: &Rc<str>, following: &Rc<Following>, message: Message) {
        if is_name_change(&message) {
            return self.name_changed(key, following, &message);
        }
        if following.takes_more() && following.backlog.borrow().is_empty() {
            return self.arrived(key, following, &message);
        }
        let bytes = message.length;
        following.backlog.borrow_mut().push(message, bytes);
        self.take_backlog(key, following);
    }

    /// Goes on with what has arrived of a room and waits, until a shard has enough to do.
    pub(super) fn take_backlog(self: &Rc<Self>, key: &Rc<str>, following: &Rc<Following>) {
        while following.takes_more() {
            let Some(message) = following.backlog.borrow_mut().pop() else { break };
            self.arrived(key, following, &message);
        }
        if following.takes_more() && following.backlog.borrow_mut().take_cut() {
            self.reads_otherwise(key, following);
        }
    }

    fn arrived(self: &Rc<Self>, key: &Rc<str>, following: &Rc<Following>, message: &Message) {
        self.stats.received.add(1);
        self.stats.received_bytes.add(message.length as u64);
        let Some(record) = republished(message) else { return };
        if record.heading.kind == Kind::Life && record.heading.node == self.settings.node {
            self.pending.borrow_mut().remove(&record.heading.number);
        }
        let mut steps = Vec::new();
        following.follow.borrow_mut().arrived(record, &mut steps);
        self.carry_out(key, following, steps);
    }
}
