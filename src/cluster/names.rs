//! Names: no two members of a room have the same, on whichever servers they are.
//!
//! A member claims its name in the log before it joins. If the name is taken, the server of its holder is asked, which looks at the
//! holder's socket: a client that reconnects must not find its own name taken, be its old server gone or not.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use tokio::task::spawn_local;

use super::nats::names::{Claim, Known, Question, name_change, question};
use super::nats::{Message, Unreachable};
use super::record::token;
use super::{Cluster, Following};
use crate::limits::cluster::{CLAIMS_MAX, TICK};
use crate::protocol::MemberId;
use crate::protocol::name::Name;
use crate::room::Room;
use crate::room::inbox::{NotOpened, Order};
use crate::room::outward::Joiner;

/// A name that a member of this server has claimed.
#[derive(Clone, Debug)]
pub(super) struct Held {
    /// Where the claim stands in the stream.
    at: u64,
    member: MemberId,
    name: Name,
}

/// The claims of this server, by room and user.
pub(super) type HeldNames = HashMap<(Rc<str>, String), Held>;

/// The names of a room that other servers' members have. Pure.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Where the last change of each stands in the stream; the name and its server, if it is taken elsewhere. Those that are free are kept
    /// only while the room's names are loaded: older changes may still arrive.
    by_user: HashMap<String, (u64, Option<(Name, u64)>)>,
    is_loaded: bool,
}

impl Names {
    /// Whether all names of the room are known.
    pub(super) fn is_loaded(&self) -> bool {
        self.is_loaded
    }

    /// The names that are taken elsewhere.
    pub(super) fn taken(&self) -> impl Iterator<Item = &Name> {
        self.by_user.values().filter_map(|(_, taken)| taken.as_ref().map(|(name, _)| name))
    }

    /// The names that members of these servers have, and where the claims stand.
    pub(super) fn of(&self, nodes: &[u64]) -> Vec<(String, u64, Name)> {
        let taken = self.by_user.iter().filter_map(|(user, (at, taken))| Some((user, *at, taken.as_ref()?)));
        let theirs = taken.filter(|(.., (_, node))| nodes.contains(node));
        theirs.map(|(user, at, (name, _))| (user.clone(), at, name.clone())).collect()
    }

    /// Something is known about a name. Returns what the room has to be told: the name, and whether it is taken.
    fn learn(&mut self, known: Known, own: u64) -> Option<(Name, bool)> {
        let before = self.by_user.get(&known.user);
        if before.is_some_and(|(at, _)| *at >= known.at) {
            return None;
        }
        let elsewhere = known.claim.filter(|claim| claim.node != own);
        let elsewhere = elsewhere.and_then(|claim| Some((Name::user(&claim.user).ok()?, claim.node)));
        let before = before.and_then(|(_, taken)| taken.clone());
        if elsewhere.is_none() && self.is_loaded {
            self.by_user.remove(&known.user);
        } else {
            self.by_user.insert(known.user, (known.at, elsewhere.clone()));
        }
        match (before, elsewhere) {
            (_, Some((name, _))) => Some((name, true)),
            (Some((name, _)), None) => Some((name, false)),
            (None, None) => None,
        }
    }

    /// The log has forgotten all names. Returns what the room has to be told.
    pub(super) fn forget(&mut self) -> Vec<(Name, bool)> {
        let known = std::mem::take(&mut self.by_user);
        known.into_values().filter_map(|(_, taken)| Some((taken?.0, false))).collect()
    }

    /// These are all names of the room. Returns what it has to be told.
    fn load(&mut self, all: Vec<Known>, own: u64) -> Vec<(Name, bool)> {
        let listed: std::collections::HashSet<String> = all.iter().map(|known| known.user.clone()).collect();
        let newest = all.iter().map(|known| known.at).max().unwrap_or(0);
        let mut changes: Vec<_> = all.into_iter().filter_map(|known| self.learn(known, own)).collect();
        self.by_user.retain(|user, (at, taken)| {
            let is_gone = *at <= newest && !listed.contains(user);
            if let Some((name, _)) = taken.take_if(|_| is_gone) {
                changes.push((name, false));
            }
            taken.is_some()
        });
        self.is_loaded = true;
        changes
    }
}

impl Cluster {
    /// The room is there: the connection may join, if it gets its name.
    pub(super) async fn admit(self: Rc<Self>, key: Rc<str>, room: Arc<Room>, joiner: Joiner) {
        let claimed = match &joiner.user {
            Some(user) => self.claim(&key, &room, user, &joiner).await,
            None => Ok(()),
        };
        let member = joiner.member;
        self.order(member.shard, Order::Opened { member, room: claimed.map(|()| room) });
    }

    async fn claim(&self, key: &Rc<str>, room: &Room, user: &Name, joiner: &Joiner) -> Result<(), NotOpened> {
        let unavailable = |_: Unreachable| NotOpened::Unavailable;
        let (token, member) = (token(user), joiner.member);
        let claim = Claim::new(self.settings.node, member, user.as_str());
        // The names of all members are written again first.
        if let Some(at) = self.names_settle_at.get() {
            tokio::time::sleep_until(at.into()).await;
        }
        let mut before = 0;
        for _ in 0..CLAIMS_MAX {
            let written = self.log.write_name(key, &token, before, Some(&claim)).await.map_err(unavailable)?;
            if let Some(at) = written {
                let held = Held { at, member, name: user.clone() };
                self.held.borrow_mut().insert((Rc::clone(key), token), held);
                return Ok(());
            }
            let known = self.log.name(key, &token).await.map_err(unavailable)?;
            before = known.at;
            if let Some(holder) = known.claim {
                let is_held = if holder.node == self.settings.node {
                    joiner.predecessor != Some(holder.member()) && self.is_held_here(key, room, &token, &holder)
                } else {
                    let (room, user) = (key.to_string(), token.clone());
                    self.log.is_held(&Question { room, user, claim: holder }).await
                };
                if is_held {
                    return Err(NotOpened::NameTaken);
                }
            }
        }
        Err(NotOpened::Unavailable)
    }

    /// Whether a member of this server still has its name: it is in the room, or about to be.
    fn is_held_here(&self, key: &Rc<str>, room: &Room, user: &str, claim: &Claim) -> bool {
        let held = self.held.borrow().get(&(Rc::clone(key), user.to_owned())).map(|held| held.member);
        let Ok(name) = Name::user(&claim.user) else { return false };
        held == Some(claim.member()) && !room.has_ended(&name, claim.member())
    }

    /// A member has left: its name is free.
    pub(super) async fn release(self: Rc<Self>, room: Name, user: Name, member: MemberId) {
        let name: (Rc<str>, _) = (token(&room).into(), token(&user));
        let is_its = self.held.borrow().get(&name).is_some_and(|held| held.member == member);
        let held = is_its.then(|| self.held.borrow_mut().remove(&name)).flatten();
        if let Some(Held { at, .. }) = held {
            // If it can't be written, the next to ask for the name finds out that it is free.
            let _ = self.log.write_name(&name.0, &name.1, at, None).await;
        }
        self.releasing.update(|count| count - 1);
    }

    /// Another server asks whether a name is still held here.
    pub(super) async fn questioned(self: Rc<Self>, message: Message) {
        let is_held = question(&message).is_some_and(|Question { room, user, claim }| {
            let key: Rc<str> = room.into();
            let room = self.follows.borrow().get(&key).and_then(|following| following.room.borrow().upgrade());
            room.is_some_and(|room| self.is_held_here(&key, &room, &user, &claim))
        });
        self.log.answer(&message, u8::from(is_held).to_string()).await;
    }

    /// A name of a followed room has changed.
    pub(super) fn name_changed(self: &Rc<Self>, key: &Rc<str>, following: &Rc<Following>, message: &Message) {
        if let Some(known) = name_change(message) {
            self.learned(key, following, known);
        }
    }

    /// Something is known about a name of a followed room.
    pub(super) fn learned(self: &Rc<Self>, key: &Rc<str>, following: &Rc<Following>, known: Known) {
        self.meet(&known);
        let is_ours = known.claim.as_ref().is_some_and(|claim| claim.node == self.settings.node);
        let is_held = |held: &Held| !is_ours && held.at < known.at;
        if self.held.borrow().get(&(Rc::clone(key), known.user.clone())).is_some_and(is_held) {
            drop(spawn_local(Rc::clone(self).claim_again(Rc::clone(key), Rc::clone(following), known.user.clone())));
        }
        let change = following.names.borrow_mut().learn(known, self.settings.node);
        self.tell_names(following, change);
    }

    /// A name names its server.
    fn meet(&self, known: &Known) {
        if let Some(claim) = known.claim.as_ref().filter(|claim| claim.node != self.settings.node) {
            self.nodes.borrow_mut().met(claim.node, Self::now().monotonic_ms);
        }
    }

    /// Reads all names of a room. Members of this server whose names are not among them claim them again.
    pub(super) async fn load_names(
        self: &Rc<Self>,
        key: &Rc<str>,
        following: &Rc<Following>,
    ) -> Result<(), Unreachable> {
        let held: Vec<(String, u64)> = {
            let held = self.held.borrow();
            held.iter().filter(|((room, _), _)| room == key).map(|((_, user), held)| (user.clone(), held.at)).collect()
        };
        let all = self.log.names(key).await?;
        all.iter().for_each(|known| self.meet(known));
        let listed: HashMap<&str, u64> = all.iter().map(|known| (known.user.as_str(), known.at)).collect();
        for (user, at) in held {
            if listed.get(user.as_str()) != Some(&at) {
                drop(spawn_local(Rc::clone(self).claim_again(Rc::clone(key), Rc::clone(following), user)));
            }
        }
        let changes = following.names.borrow_mut().load(all, self.settings.node);
        self.tell_names(following, changes);
        Ok(())
    }

    /// The log doesn't say any more that a member of this server has its name: the others had given this server up, or the log has
    /// forgotten. The member gets its name again, unless it is taken.
    async fn claim_again(self: Rc<Self>, key: Rc<str>, following: Rc<Following>, user: String) {
        let name = (Rc::clone(&key), user.clone());
        let held = || self.held.borrow().get(&name).cloned();
        let Some(Held { member, name: display, .. }) = held() else { return };
        let is_still_held = || held().is_some_and(|held| held.member == member);
        while is_still_held() {
            let Ok(known) = self.log.name(&key, &user).await else {
                tokio::time::sleep(TICK).await;
                continue;
            };
            let is_its = |claim: &Claim| claim.node == self.settings.node && claim.member() == member;
            if !is_still_held() || known.claim.as_ref().is_some_and(is_its) {
                return;
            }
            if known.claim.is_some() {
                self.held.borrow_mut().remove(&name);
                return self.order(member.shard, Order::NameLost { member });
            }
            let claim = Claim::new(self.settings.node, member, display.as_str());
            if let Ok(Some(at)) = self.log.write_name(&key, &user, known.at, Some(&claim)).await {
                if !is_still_held() {
                    // It has left meanwhile.
                    let _ = self.log.write_name(&key, &user, at, None).await;
                    return;
                }
                self.held.borrow_mut().insert(name.clone(), Held { at, member, name: display.clone() });
                if self.names_settle_at.get().is_none() {
                    self.announce(&following, &display, true);
                }
                return;
            }
        }
    }

    /// The log of names has been made again.
    pub(super) fn forget_names(&self, following: &Following) {
        let changes = following.names.borrow_mut().forget();
        self.tell_names(following, changes);
    }

    fn tell_names(&self, following: &Following, changes: impl IntoIterator<Item = (Name, bool)>) {
        let Some(room) = following.room.borrow().upgrade() else { return };
        changes.into_iter().for_each(|(name, is_taken)| room.set_elsewhere(&name, is_taken));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const OWN: u64 = 1;

    fn change(at: u64, user: u8, node: Option<u64>) -> Known {
        let name = format!("u{user}");
        let member = MemberId { shard: 0, slot: at as u32, serial: 1 };
        Known { user: name.clone(), at, claim: node.map(|node| Claim::new(node, member, &name)) }
    }

    proptest! {
        /// Changes come from a subscription, some of them twice, while the list is read: in the end the room knows exactly
        /// the names that other servers have, and was told of each change of that once.
        #[test]
        fn a_room_knows_the_names_of_other_servers(
            changes in prop::collection::vec((0..5u8, prop::option::of(1..4u64)), 1..60),
            listed in any::<prop::sample::Index>(),
            first in any::<prop::sample::Index>(),
            lost in prop::option::of(any::<prop::sample::Index>()),
        ) {
            let changes: Vec<Known> =
                (1..).zip(&changes).map(|(at, (user, node))| change(at, *user, *node)).collect();
            let last_of = |until: usize| {
                let last: BTreeMap<_, _> = changes[..until].iter().map(|known| (known.user.clone(), known.clone())).collect();
                last.into_values().collect::<Vec<_>>()
            };
            // It subscribes, then reads the list, which is as old as the answer; both overlap.
            let (listed, first) = (listed.index(changes.len() + 1), first.index(changes.len() + 1));
            let (mut names, mut told) = (Names::default(), BTreeMap::new());
            let mut tell = |changes: Vec<(Name, bool)>| {
                for (name, is_taken) in changes {
                    let before = told.insert(name.as_str().to_owned(), is_taken);
                    assert!(is_taken || before == Some(true), "{name} was not taken");
                }
            };
            for known in &changes[first.min(listed)..listed] {
                tell(names.learn(known.clone(), OWN).into_iter().collect());
            }
            tell(names.load(last_of(listed), OWN));
            let gap = lost.map(|lost| lost.index(changes.len()));
            for (index, known) in changes.iter().enumerate().skip(first.min(listed)) {
                if index < listed || Some(index) != gap {
                    tell(names.learn(known.clone(), OWN).into_iter().collect());
                }
            }
            // After a reconnect the list is read again.
            tell(names.load(last_of(changes.len()), OWN));
            let due: Vec<String> = last_of(changes.len())
                .into_iter()
                .filter(|known| known.claim.as_ref().is_some_and(|claim| claim.node != OWN))
                .map(|known| known.user)
                .collect();
            let known: Vec<String> = told.into_iter().filter(|(_, is_taken)| *is_taken).map(|(name, _)| name).collect();
            prop_assert_eq!(&known, &due);
            let mut taken: Vec<&str> = names.taken().map(Name::as_str).collect();
            taken.sort_unstable();
            prop_assert_eq!(taken, due);
        }
    }
}
