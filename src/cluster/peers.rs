//! What this server tells the others of itself, and what it does when one of them is gone.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::task::spawn_local;
use tracing::{info, warn};

use super::names::{Elsewhere, Known};
use super::nats::Message;
use super::nats::nodes::{Disconnect, beat, disconnect};
use super::nodes::{Changes, RoomKey};
use super::record::token;
use super::{Cluster, Following};
use crate::limits::cluster::PAUSE;
use crate::protocol::Namespace;
use crate::protocol::name::Name;
use crate::room::inbox;
use crate::room::others::Counts;
use crate::room::{Announced, Room, Wakes};

impl Cluster {
    /// Tells the others what has changed here, and finds out which of them are gone.
    pub(super) async fn beat(self: &Rc<Self>) {
        // Shards without connections don't, and programs publish in rooms all the same.
        self.registry.expire(Self::now());
        self.forget_rooms();
        if self.is_away() {
            return;
        }
        self.tell(false).await;
        let now_ms = Self::now().monotonic_ms;
        let (dead, changes) = self.nodes.borrow_mut().take_dead(self.settings.silent_ms());
        self.list(changes);
        let is_due = self.sweeps_at_ms.get().is_some_and(|at_ms| at_ms <= now_ms);
        if !dead.is_empty() || is_due {
            for node in &dead {
                info!("the server {node:016x} is gone, {} others are left (--cluster)", self.nodes.borrow().count());
            }
            self.sweeps_at_ms.set(None);
            drop(spawn_local(Rc::clone(self).reap(dead)));
        }
        self.announce_folded(now_ms);
        self.count_large_rooms();
    }

    /// Tells the others what has changed here.
    pub(super) async fn tell(&self, is_last: bool) {
        let is_same = !is_last && !self.has_changed();
        let alive = is_same.then(|| self.teller.borrow_mut().alive()).flatten();
        let beats = alive.map_or_else(
            || {
                let rooms = if is_last { HashMap::new() } else { self.rooms_here() };
                self.teller.borrow_mut().beats(rooms, is_last)
            },
            |beat| vec![beat],
        );
        for beat in beats {
            if self.log.tell(&beat).await.is_err() {
                // The others find out that something is missing.
                return;
            }
        }
    }

    /// Whether the members of some room have changed since this was last asked.
    fn has_changed(&self) -> bool {
        let mut has_changed = self.has_forgotten.take();
        for (key, following) in &*self.follows.borrow() {
            let counts = self.counts_here(key, following);
            has_changed |= following.told.replace(counts) != counts;
        }
        has_changed
    }

    fn counts_here(&self, key: &Rc<str>, following: &Following) -> Counts {
        let members = following.room.borrow().upgrade().map_or(0, |room| room.members());
        let users = match following.namespace {
            Namespace::Chat if members > 0 => self.held.borrow().of(key).map_or(0, HashMap::len).min(members),
            _ => 0,
        };
        Counts { members, users }
    }

    fn rooms_here(&self) -> HashMap<RoomKey, Counts> {
        let counts = |(key, following): (&Rc<str>, &Rc<Following>)| {
            let counts = self.counts_here(key, following);
            (counts.members > 0).then(|| ((following.namespace, following.name.clone()), counts))
        };
        self.follows.borrow().iter().filter_map(counts).collect()
    }

    /// A server has told something.
    pub(super) async fn heard(&self, message: &Message) {
        let (Some(beat), now_ms) = (beat(message), Self::now().monotonic_ms) else { return };
        let node = beat.node;
        if node == self.settings.node {
            return self.nodes.borrow_mut().heard_own(now_ms, self.settings.silent_ms());
        }
        let (changes, asks) = self.nodes.borrow_mut().heard(beat, now_ms);
        self.list(changes);
        if asks {
            // If it doesn't arrive, the next sign of life asks again.
            let _ = self.log.ask_all(node).await;
        }
    }

    fn list(&self, changes: Changes) {
        for ((namespace, name), counts) in changes {
            self.registry.set_elsewhere(namespace, &name, counts);
        }
    }

    /// Frees the names of servers that are gone: those of the rooms that are followed here, and announces it; and if this server
    /// is the first of all, those of rooms that nobody is in.
    async fn reap(self: Rc<Self>, dead: Vec<u64>) {
        let mut late = Vec::new();
        for (key, following) in self.follows() {
            // They may have told something again.
            let is_silent = |node: &u64| !self.nodes.borrow().hears(*node);
            let dead: Vec<u64> = dead.iter().copied().filter(is_silent).collect();
            if dead.is_empty() || !self.is_followed(&key, &following) {
                continue;
            }
            let mut is_late = false;
            let is_partial = following.names.borrow().partial().is_some();
            let room = (following.namespace, following.name.clone());
            let names = match is_partial {
                false => following.names.borrow().of(&dead),
                // It is much to read and to write: one server does it.
                true if !self.nodes.borrow().is_first_in(self.settings.node, &room) => continue,
                true => match self.names_of(&key, &dead).await {
                    Ok(names) => names,
                    Err(_) => return self.meet_again(&dead),
                },
            };
            for Elsewhere { user, at, name, node } in names {
                if !is_silent(&node) || !self.is_followed(&key, &following) {
                    continue;
                }
                match self.log.write_name(&key, &user, at, None).await {
                    Ok(Some(at)) => {
                        self.learned(&key, &following, Known { user, at, claim: None });
                        self.announce(&following, &name, false);
                        self.stats.reaped_names.add(1);
                    }
                    // Another server was faster.
                    Ok(None) => is_late = true,
                    // Later: it is as if these servers had just been met.
                    Err(_) => return self.meet_again(&dead),
                }
            }
            if is_late {
                late.push((key, following));
            }
        }
        drop(spawn_local(Rc::clone(&self).look_for_names_of(dead.clone(), late)));
        if self.nodes.borrow().is_first(self.settings.node) && self.sweep().await.is_err() {
            warn!("can't read all names of --cluster; trying again later");
            self.meet_again(&dead);
            self.sweep_later();
        }
    }

    /// Other servers have freed names of servers that are gone: what they have written may have been lost on its way.
    async fn look_for_names_of(self: Rc<Self>, dead: Vec<u64>, rooms: Vec<(Rc<str>, Rc<Following>)>) {
        tokio::time::sleep(PAUSE).await;
        for (key, following) in rooms {
            let is_missed = !following.names.borrow().of(&dead).is_empty();
            if is_missed && self.is_followed(&key, &following) {
                self.read_names(key, &following);
            }
        }
    }

    fn meet_again(&self, nodes: &[u64]) {
        let now_ms = Self::now().monotonic_ms;
        nodes.iter().for_each(|node| self.nodes.borrow_mut().met(*node, now_ms));
    }

    /// Names of servers that are gone are looked for when all that live have told something.
    pub(super) fn sweep_later(&self) {
        self.sweeps_at_ms.set(Some(Self::now().monotonic_ms + self.settings.silent_ms()));
    }

    /// Frees the names that servers which are gone have in rooms that nobody is in.
    async fn sweep(&self) -> Result<(), super::nats::Unreachable> {
        let mut next = 1;
        loop {
            let page = self.log.all_names(next).await?;
            let Some((_, last)) = page.last() else { return Ok(()) };
            next = last.at + 1;
            let live: HashSet<String> = self.nodes.borrow().rooms().map(|(_, name)| token(name)).collect();
            for (room, Known { user, at, claim }) in page {
                let is_dead = |node: u64| node != self.settings.node && !self.nodes.borrow().knows(node);
                let is_followed = self.follows.borrow().contains_key(room.as_str());
                if claim.is_some_and(|claim| is_dead(claim.node)) && !is_followed && !live.contains(&room) {
                    self.log.write_name(&room, &user, at, None).await?;
                }
            }
        }
    }

    /// Closes the connections of a user on all other servers.
    pub(super) async fn disconnect(
        self: Rc<Self>,
        user: Name,
        room: Option<Name>,
        reason: Arc<str>,
        closed: oneshot::Sender<Result<usize, usize>>,
    ) {
        let others = self.nodes.borrow().count();
        let disconnect = Disconnect {
            node: self.settings.node,
            user: user.to_string(),
            room: room.map(|room| room.to_string()),
            reason: reason.to_string(),
        };
        let answers = self.log.disconnect(&disconnect, others).await.unwrap_or_default();
        let silent = others.saturating_sub(answers.len());
        // The request may have been given up.
        let _ = closed.send(if silent == 0 { Ok(answers.into_iter().sum()) } else { Err(silent) });
    }

    /// Another server wants the connections of a user closed.
    pub(super) async fn disconnected(self: Rc<Self>, message: Message) {
        let Some(order) = disconnect(&message).filter(|order| order.node != self.settings.node) else { return };
        let Ok(user) = Name::user(&order.user) else { return };
        let room = order.room.and_then(|room| Name::room(&room).ok());
        let reason: Arc<str> = order.reason.into();
        if let Ok(closed) = inbox::disconnect(self.registry.inboxes(), &user, room.as_ref(), &reason).await {
            self.log.answer(&message, closed.to_string()).await;
        }
    }

    /// Announces on behalf of another server that its user is gone, or that one of this server is back.
    pub(super) fn announce(&self, following: &Following, user: &Name, is_there: bool) {
        let Some(room) = following.room.borrow().upgrade() else { return };
        let mut wakes = Wakes::default();
        if let Announced::At(due_ms) = room.announce_elsewhere(user, is_there, Self::now(), &mut wakes) {
            self.folded.borrow_mut().push((due_ms, room));
        }
        wakes.wake_all(self.registry.inboxes());
    }

    fn announce_folded(&self, now_ms: u64) {
        let due: Vec<(u64, Arc<Room>)> =
            self.folded.borrow_mut().extract_if(.., |(due_ms, _)| *due_ms <= now_ms).collect();
        let mut wakes = Wakes::default();
        due.iter().for_each(|(_, room)| room.announce_folded(Self::now(), &mut wakes));
        wakes.wake_all(self.registry.inboxes());
    }
}
