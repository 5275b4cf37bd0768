//! Whether the log can be reached: what is done when it can't, and when it can again.

use std::rc::Rc;
use std::time::Instant;

use tracing::{info, warn};

use super::nats::{Probed, Unfit};
use super::record::{Content, Heading, Kind, split};
use super::{Cluster, Following};
use crate::limits::cluster::{AWAY_TOLD_AFTER, NAMES_TIME, PAUSE, PROBE_INTERVAL, RAW_DEAF_MS_MAX, TIPS_MAX};
use crate::protocol::Namespace;
use crate::protocol::resume::ResumeKey;
use crate::room::inbox::Order;

impl Cluster {
    pub(super) fn is_away(&self) -> bool {
        self.away_since.get().is_some()
    }

    pub(super) fn connection_changed(self: &Rc<Self>, is_connected: bool) {
        if is_connected {
            return self.returning.start(Rc::clone(self).come_back());
        }
        self.returning.stop();
        self.go_away("the connection is lost");
    }

    fn go_away(&self, why: &str) {
        if !self.is_away() {
            self.away_since.set(Some(Instant::now()));
            self.stats.set_away_since(self.away_since.get());
            warn!("can't reach {}: {why} (--cluster)", self.settings.servers.join(","));
        }
        let follows = self.follows.borrow();
        follows.values().for_each(|following| following.follow.borrow_mut().disconnected());
        self.outgoing.borrow_mut().disconnected();
        self.pending.borrow_mut().retain(|_, pending| pending.heading.kind != Kind::Life);
    }

    /// Asks the log again and again whether it is there: a connection may live while nobody answers.
    pub(super) async fn probe(self: Rc<Self>) {
        let mut failed = 0;
        loop {
            tokio::time::sleep(PROBE_INTERVAL).await;
            match self.log.probe().await {
                Probed::Answered(key_at) => {
                    failed = 0;
                    let before = self.key_at.replace(key_at);
                    if before.is_some() && before != key_at {
                        self.begin_again();
                    }
                }
                Probed::Silent if self.is_away() => {}
                Probed::Silent => failed += 1,
            }
            if failed == 2 {
                failed = 0;
                self.go_away("it doesn't answer");
                // When it answers again, the streams are looked at.
                self.returning.start(Rc::clone(&self).come_back());
            }
        }
    }

    /// The log is there again: nothing is shown before it is known that it has kept what was shown.
    async fn come_back(self: Rc<Self>) {
        let (created, key) = loop {
            // A log that has forgotten the key gets the one that the servers have, so that what their clients have still counts.
            match self.log.prepare_with_key(&self.settings, self.resume_key.get()).await {
                Ok(prepared) => break prepared,
                Err(unfit) => warn!("{}", unfit.sentence()),
            }
            tokio::time::sleep(PAUSE).await;
        };
        self.stats.log.set(created.fingerprint());
        if self.resume_key.replace(key) != key {
            self.registry.set_resume_key(ResumeKey::new(self.settings.node, key));
        }
        let before = self.created.replace(created.clone());
        let has_forgotten = |following: &Following| match following.namespace {
            // Other servers may have begun the room anew already, and its life goes on.
            Namespace::Chat => before.messages != created.messages && !following.is_shown_since(created.messages),
            Namespace::Raw => before.raw != created.raw,
        };
        let names_are_new = before.names != created.names;
        self.names_settle_at.set(names_are_new.then(|| Instant::now() + NAMES_TIME));
        self.key_at.set(None);
        self.away_since.set(None);
        self.stats.reconnects.add(1);
        self.stats.set_away_since(None);
        let now_ms = Self::now().monotonic_ms;
        let is_late = self.nodes.borrow().deaf_ms(now_ms) >= RAW_DEAF_MS_MAX;
        self.nodes.borrow_mut().resumed(now_ms);
        self.teller.borrow_mut().tell_all();
        info!("{} can be reached again (--cluster)", self.settings.servers.join(","));
        for (key, following) in self.follows() {
            if is_late {
                following.follow.borrow_mut().may_have_lost();
            }
            let steps = following.ask_again(has_forgotten(&following));
            self.carry_out(&key, &following, steps);
            if names_are_new {
                self.forget_names(&following);
            }
            self.read_names(key, &following);
        }
    }

    /// Looks whether the streams are the ones that they were, and kept by as many servers as they should: somebody may have removed
    /// one, and another server of hi may have made it again; or the log had too few servers when they were made.
    pub(super) async fn look_at_streams(self: Rc<Self>) {
        if self.is_away() {
            return;
        }
        match self.log.prepare(&self.settings).await {
            Ok(created) if created.is_same_as(&self.created.borrow()) => {
                let before = self.created.replace(created);
                let has_dropped = self.log.has_dropped();
                if has_dropped || before.leader != self.created.borrow().leader {
                    // A message that is missing is noticed, because they are numbered; a change of a name is not.
                    self.follows().into_iter().for_each(|(key, following)| self.read_names(key, &following));
                }
            }
            Ok(_) => self.begin_again(),
            Err(Unfit::Lasting(sentence)) => warn!("{sentence}"),
            // It elects a leader.
            Err(Unfit::Passing(_)) => {}
        }
    }

    /// The log has lost something although the connection has not been.
    fn begin_again(self: &Rc<Self>) {
        if !self.is_away() {
            self.go_away("its streams were made again");
            self.returning.start(Rc::clone(self).come_back());
        }
    }

    /// Tells the members when the log has been away for a while, and when it is back.
    pub(super) fn tell_members(&self) {
        let is_long = self.away_since.get().is_some_and(|since| since.elapsed() >= AWAY_TOLD_AFTER);
        let is_changed = if self.told_away.get() { !self.is_away() } else { is_long };
        if is_changed {
            self.told_away.set(is_long);
            for shard in 0..self.registry.inboxes().len() {
                self.order(shard as u32, Order::Away(is_long));
            }
        }
    }

    /// Looks whether silent rooms have missed their last records, and keeps the count of those alive that nobody writes in.
    pub(super) async fn look_at_tips(self: Rc<Self>) {
        let silent: Vec<_> = {
            let follows = self.follows.borrow();
            let whole = follows.iter().filter_map(|(key, following)| {
                let (at, unix_ms) = following.whole_tip()?;
                Some((Rc::clone(key), at, unix_ms))
            });
            whole.collect()
        };
        for rooms in silent.chunks(TIPS_MAX) {
            for namespace in Namespace::ALL {
                let keys: Vec<_> = rooms.iter().filter(|(key, ..)| split(key).0 == namespace).collect();
                let Ok(tips) = self.log.tips(keys.iter().map(|(key, ..)| &**key)).await else { return };
                for (key, at, _) in keys {
                    if tips.get(&**key).is_some_and(|tip| tip > at) {
                        self.look(key);
                    }
                }
            }
        }
        let now_ms = Self::now().unix_ms;
        for (key, _, unix_ms) in silent {
            // Not all followers at once: who sees that of another one keeps quiet.
            let memory_ms = self.settings.room_memory.as_millis() as u64;
            let spread_ms = (self.settings.node ^ unix_ms) % (memory_ms / 8 + 1);
            if unix_ms + memory_ms / 2 + spread_ms <= now_ms && split(&key).0 == Namespace::Chat {
                self.touch(&key).await;
            }
        }
    }

    /// Keeps the count of a silent room alive, unless that is not known to be whole any more.
    async fn touch(&self, key: &Rc<str>) {
        let following = self.follows.borrow().get(key).cloned();
        let Some(following) = following.filter(|following| following.whole_tip().is_some()) else { return };
        // The record may be all that is left for who loads the room: it names the life that goes on, and the room.
        let (epoch, number) = (following.follow.borrow().epoch(), self.outward.next_number());
        let heading = Heading { kind: Kind::Touch, epoch, node: self.settings.node, number };
        let name = following.room.borrow().upgrade().map(|room| room.key().clone());
        let content = Content::name_only(&name.unwrap_or_else(|| following.name.clone()));
        let _ = self.log.publish(key, heading.message_id(key, None), &heading, &content).await;
    }
}
