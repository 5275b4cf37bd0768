//! Messages on their way to the log: sent, confirmed, sent again, given up.

use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::spawn_local;
use tracing::warn;

use super::nats::Ack;
use super::record::{self, Content, Heading, Kind, key};
use super::stats::Published;
use super::{Cluster, Pending, Waiter};
use crate::frame::encode;
use crate::limits::cluster::{LOAD_TIME_MAX, MISSING_TIME, REPLY_TIME_MAX, TICK};
use crate::room::inbox::{Order, Unavailable};
use crate::room::outward::{Asker, Outbound};

impl Cluster {
    pub(super) async fn outbound(self: &Rc<Self>, outbound: Outbound) {
        match outbound {
            Outbound::Publish(number, submission) => {
                let (room, epoch) = (key(submission.room.namespace(), submission.room.key()), submission.room.epoch());
                let (content, asker) = submission.into_parts();
                let kind = match &content {
                    Content::Json(_) => Kind::Message,
                    Content::Frame(frame) => Kind::of_raw(encode::opcode(frame)),
                };
                let heading = Heading { kind, epoch: Some(epoch), node: self.settings.node, number };
                let goes = self.outgoing.borrow_mut().submit(&room, number, Self::now().monotonic_ms);
                self.wait_for(room, heading, content, Some(asker));
                match (goes, self.is_away()) {
                    (true, false) => self.send(number).await,
                    (true, true) => self.not_now(number),
                    (false, _) => {}
                }
            }
            Outbound::Open { namespace, name, joiner } => self.open(namespace, name, Waiter::Join(joiner)),
            Outbound::Find { namespace, name, finder } => {
                drop(spawn_local(Rc::clone(self).find(namespace, name, finder)));
            }
            Outbound::Disconnect { user, room, reason, closed } => {
                drop(spawn_local(Rc::clone(self).disconnect(user, room, reason, closed)));
            }
            Outbound::TakeOver { node, member, user } => {
                let cluster = Rc::clone(self);
                drop(spawn_local(async move { cluster.log.take_over(node, member, &user).await }));
            }
            Outbound::Finish(told) => *self.finishing.borrow_mut() = Some(told),
            Outbound::Release { room, user, member, is_told } => {
                self.releasing.update(|count| count + 1);
                drop(spawn_local(Rc::clone(self).release(room, user, member, is_told)));
            }
        }
    }

    pub(super) fn wait_for(&self, room: Rc<str>, heading: Heading, content: Content, asker: Option<Asker>) {
        let pending = Pending { room, heading, content, asker, since: Instant::now(), stored: None };
        self.pending.borrow_mut().insert(heading.number, pending);
    }

    /// Sends a message to the log, perhaps again.
    pub(super) async fn send(&self, number: u64) {
        let message = self.pending.borrow().get(&number).map(|p| (Rc::clone(&p.room), p.heading, p.content.clone()));
        let Some((room, heading, content)) = message else { return };
        let lost_life = || self.follows.borrow().get(&room)?.lost_life.get();
        let lost = (heading.kind == Kind::Life).then(lost_life).flatten();
        let id = heading.message_id(&room, lost);
        if self.log.publish(&room, id, &heading, &content).await.is_err() {
            self.not_now(number);
        }
    }

    pub(super) fn not_now(&self, number: u64) {
        if let Some(Pending { room, .. }) = self.pending.borrow().get(&number) {
            self.outgoing.borrow_mut().failed(room, number);
        }
    }

    /// The log has answered to a record.
    pub(super) fn answered(self: &Rc<Self>, (number, ack): (u64, Ack)) {
        let asked = self.pending.borrow().get(&number).map(|pending| (Rc::clone(&pending.room), pending.heading.kind));
        let Some((room, kind)) = asked else { return };
        match ack {
            ack if kind == Kind::Life => self.life_answered(&room, number, &ack),
            Ack::Stored { again, .. } => {
                self.stats.published(if again { Published::Duplicate } else { Published::Stored }).add(1);
                if let Some(pending) = self.pending.borrow_mut().get_mut(&number) {
                    self.stats.stored_after(pending.since.elapsed());
                    pending.stored = Some(Instant::now());
                }
                let given_up = self.outgoing.borrow_mut().stored(&room, number);
                given_up.into_iter().for_each(|number| self.give_up(number));
            }
            Ack::Later(why) => {
                self.log_unstored(&why, "it is sent again");
                self.outgoing.borrow_mut().failed(&room, number);
            }
            Ack::Refused(why) => {
                self.log_unstored(&why, "its publisher is told");
                self.stats.published(Published::Refused).add(1);
                self.outgoing.borrow_mut().refused(&room, number);
                self.give_up(number);
            }
        }
    }

    /// The log has answered to a record that begins a life of a room. It arrives like any other.
    fn life_answered(self: &Rc<Self>, room: &Rc<str>, number: u64, ack: &Ack) {
        match ack {
            Ack::Stored { again: false, .. } => {}
            // Another server was faster, and its record arrives, unless it is lost: the room is looked at.
            Ack::Stored { at, again: true } => {
                if let Some(following) = self.follows.borrow().get(room) {
                    let lost = record::lost_life(following.lost_life.get(), *at, number);
                    following.lost_life.set(following.follow.borrow().epoch().is_none().then_some(lost));
                }
                self.give_up(number);
            }
            // It may be about to store that of another server.
            Ack::Later(_) => self.give_up_soon(number),
            Ack::Refused(why) => {
                self.log_unstored(why, "it is sent again");
                self.give_up_soon(number);
            }
        }
    }

    fn give_up_soon(self: &Rc<Self>, number: u64) {
        let cluster = Rc::clone(self);
        drop(spawn_local(async move {
            tokio::time::sleep(TICK).await;
            cluster.give_up(number);
        }));
    }

    fn log_unstored(&self, why: &str, then: &str) {
        if self.unstored_lines.borrow_mut().admit(Instant::now()).is_some() {
            warn!("NATS has not stored a message: {why}; {then} (--cluster)");
        }
    }

    /// Nothing is known about a message, and nothing will be: tells its publisher.
    pub(super) fn give_up(self: &Rc<Self>, number: u64) {
        let Some(pending) = self.pending.borrow_mut().remove(&number) else { return };
        let Pending { room, content, asker, heading, .. } = pending;
        if heading.kind == Kind::Life {
            let following = self.follows.borrow().get(&room).cloned();
            let mut steps = Vec::new();
            following.iter().for_each(|following| following.follow.borrow_mut().life_begun(&mut steps));
            following.iter().for_each(|following| self.carry_out(&room, following, std::mem::take(&mut steps)));
        }
        let Some(asker) = asker else { return };
        self.stats.published(Published::Unavailable).add(1);
        self.outward.settled(content.len());
        match asker {
            Asker::Shard(shard) => self.order(shard, Order::Settled { number, outcome: Err(Unavailable) }),
            // The request may have been given up, too.
            Asker::Outside(asker) => drop(asker.send(Err(Unavailable))),
        }
    }

    /// What the log has confirmed, and hasn't been read back in time, was lost on its way.
    pub(super) fn look_for_missing(self: &Rc<Self>) {
        let is_missing = |pending: &&Pending| pending.stored.is_some_and(|at| at.elapsed() >= MISSING_TIME);
        let rooms: Vec<_> = self.pending.borrow().values().filter(is_missing).map(|p| Rc::clone(&p.room)).collect();
        rooms.iter().for_each(|room| self.look(room));
        // As long as the log can't be reached, nothing can be read.
        let read_time_max = Duration::from_millis(self.settings.timeout_ms) + LOAD_TIME_MAX;
        let is_lost = |pending: &Pending| match pending.heading.kind {
            Kind::Life => pending.since.elapsed() >= REPLY_TIME_MAX,
            _ => pending.stored.is_some() && pending.since.elapsed() >= read_time_max,
        };
        let lost: Vec<u64> =
            self.pending.borrow().iter().filter(|(_, p)| is_lost(p)).map(|(number, _)| *number).collect();
        lost.into_iter().for_each(|number| self.give_up(number));
    }
}
