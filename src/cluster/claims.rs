//! Names: no two members of a room have the same, on whichever servers they are.
//!
//! A member claims its name in the log before it joins. If the name is taken, the server of its holder is asked, which looks at the
//! holder's socket: a client that reconnects must not find its own name taken, be its old server gone or not.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use tokio::task::spawn_local;
use tokio::time::timeout;

use super::names::{Claim, Held, Known};
use super::nats::names::{Asked, Question, asked, name_change};
use super::nats::{Message, Unreachable};
use super::record::{self, token};
use super::{Cluster, Following};
use crate::limits::cluster::{CLAIMS_MAX, LOAD_TIME_MAX, PAUSE, TICK};
use crate::protocol::name::Name;
use crate::protocol::{MemberId, Namespace};
use crate::room::Room;
use crate::room::inbox::{Claimed, Found, NotOpened, Order, Unavailable};
use crate::room::outward::Joiner;

impl Cluster {
    /// The room is there: the connection may join, if it gets its name.
    pub(super) async fn admit(self: Rc<Self>, key: Rc<str>, room: Arc<Room>, joiner: Joiner) {
        let claimed = async {
            // Thousands may be admitted at once, and most need neither.
            Box::pin(self.catch_up(&key, &room, joiner.since)).await?;
            match &joiner.user {
                Some(user) => Box::pin(self.claim(&key, &room, user, &joiner)).await,
                None => Ok(Claimed::Free),
            }
        };
        let (claimed, member) = (claimed.await, joiner.member);
        self.order(member.shard, Order::Opened { member, room: claimed.map(|claimed| (room, claimed)) });
    }

    /// Claims a name. A log that can't be reached is waited for, as by messages.
    async fn claim(&self, key: &Rc<str>, room: &Room, user: &Name, joiner: &Joiner) -> Result<Claimed, NotOpened> {
        let began = Instant::now();
        let claiming = (Rc::clone(key), joiner.member);
        self.claiming.borrow_mut().insert(claiming.clone());
        let claimed = loop {
            match self.try_to_claim(key, room, user, joiner).await {
                Ok(claimed) => break claimed,
                Err(Unreachable) if began.elapsed() >= LOAD_TIME_MAX => break Err(NotOpened::Unavailable),
                Err(Unreachable) => tokio::time::sleep(TICK).await,
            }
        };
        self.claiming.borrow_mut().remove(&claiming);
        claimed
    }

    async fn try_to_claim(
        &self,
        key: &Rc<str>,
        room: &Room,
        user: &Name,
        joiner: &Joiner,
    ) -> Result<Result<Claimed, NotOpened>, Unreachable> {
        let (token, member) = (token(user), joiner.member);
        let mut claim = Claim::new(self.settings.node, member, user.as_str());
        // The names of all members are written again first.
        if let Some(at) = self.names_settle_at.get() {
            tokio::time::sleep_until(at.into()).await;
        }
        let (mut before, mut claimed) = (0, Claimed::Free);
        for _ in 0..CLAIMS_MAX {
            // Those before it may wait for a log that doesn't answer.
            let may_write = timeout(LOAD_TIME_MAX, self.claims.acquire()).await.map_err(|_| Unreachable)?;
            let written = Box::pin(self.log.write_name(key, &token, before, Some(&claim))).await?;
            drop(may_write);
            if let Some(at) = written {
                self.claimed(key, &token, Held { at, member, name: user.clone() });
                return Ok(Ok(claimed));
            }
            let known = Box::pin(self.log.name(key, &token)).await?;
            before = known.at;
            (claim.instead_of, claimed) = (None, Claimed::Free);
            let Some(holder) = known.claim else { continue };
            if holder.is_of(self.settings.node, member) {
                // The answer to an earlier attempt was lost.
                self.claimed(key, &token, Held { at: before, member, name: user.clone() });
                return Ok(Ok(claimed));
            }
            if self.is_its(joiner, &holder) {
                claim.instead_of = Some(before);
                claimed = if holder.node == self.settings.node { Claimed::Free } else { Claimed::TakenOver };
            } else if Box::pin(self.is_held(key, room, &token, holder)).await {
                return Ok(Err(NotOpened::NameTaken));
            }
        }
        Ok(Err(NotOpened::Unavailable))
    }

    /// A member of this server has a name.
    fn claimed(&self, key: &Rc<str>, token: &str, held: Held) {
        self.held.borrow_mut().insert(key, token, held);
        let following = self.follows.borrow().get(key).cloned();
        following.iter().for_each(|following| self.bound_names(key, following));
    }

    /// A connection has asked for a room that it is not in, and which is there: it is told.
    pub(super) async fn visited(self: Rc<Self>, key: Rc<str>, room: Arc<Room>, visitor: Joiner) {
        let (room, name_is_taken) = self.visit(&key, room, &visitor).await;
        let member = visitor.member;
        self.order(member.shard, Order::Found { member, room, name_is_taken });
    }

    /// Whether another one has the name of a connection that is not in the room, which the room doesn't know if it has too many users.
    async fn visit(&self, key: &Rc<str>, room: Arc<Room>, visitor: &Joiner) -> (Found, bool) {
        let Some(user) = visitor.user.as_ref().filter(|_| room.is_partial()) else { return (Ok(Some(room)), false) };
        let token = token(user);
        let Ok(known) = self.log.name(key, &token).await else { return (Err(Unavailable), false) };
        let is_taken = match known.claim {
            Some(holder) if !self.is_its(visitor, &holder) => self.is_held(key, &room, &token, holder).await,
            _ => false,
        };
        (Ok(Some(room)), is_taken)
    }

    /// Whether the name is that of a client's own lost connection.
    fn is_its(&self, joiner: &Joiner, holder: &Claim) -> bool {
        joiner.predecessor.is_some_and(|lost| holder.is_of_lost(lost, self.settings.node))
    }

    /// Whether the holder of a name is still there.
    async fn is_held(&self, key: &Rc<str>, room: &Room, user: &str, holder: Claim) -> bool {
        if holder.node == self.settings.node {
            return self.is_held_here(key, room, user, &holder);
        }
        self.log.is_held(Question { room: key.to_string(), user: user.to_owned(), claim: holder }).await
    }

    /// Whether a member of this server still has its name: it is in the room, or about to be.
    fn is_held_here(&self, key: &Rc<str>, room: &Room, user: &str, claim: &Claim) -> bool {
        // The others may read a claim before this server is told that it is written.
        let is_claiming = self.claiming.borrow().contains(&(Rc::clone(key), claim.member()));
        let held = self.held.borrow().get(key, user).map(|held| held.member);
        let Ok(name) = Name::user(&claim.user) else { return false };
        (is_claiming || held == Some(claim.member())) && !room.has_ended(&name, claim.member())
    }

    /// A member has left: its name is free. `is_told`: that was announced.
    pub(super) async fn release(self: Rc<Self>, room: Name, user: Name, member: MemberId, is_told: bool) {
        let (key, token) = (record::key(Namespace::Chat, &room), token(&user));
        let is_its = self.held.borrow().get(&key, &token).is_some_and(|held| held.member == member);
        let held = is_its.then(|| self.held.borrow_mut().remove(&key, &token)).flatten();
        let is_another = match held {
            Some(Held { at, .. }) => !self.free(&key, &token, at).await,
            None => true,
        };
        if is_another
            && is_told
            && let Ok(Known { claim: Some(claim), .. }) = self.log.name(&key, &token).await
        {
            self.came_back(&key, &user, &claim);
        }
        // If it joined only after somebody had got its name on another server, the room has forgotten that one.
        let following = self.follows.borrow().get(&key).cloned();
        let is_free_here = self.held.borrow().get(&key, &token).is_none();
        if let Some(following) = following.filter(|_| is_free_here) {
            let elsewhere = following.names.borrow().elsewhere(&token);
            self.tell_names(&following, elsewhere.map(|name| (name, true)));
        }
        self.releasing.update(|count| count - 1);
    }

    /// Writes that a name is free: until then the others list a user that is gone. False: somebody else has claimed it.
    async fn free(&self, room: &str, user: &str, at: u64) -> bool {
        loop {
            match self.log.write_name(room, user, at, None).await {
                Ok(written) => return written.is_some(),
                Err(Unreachable) => tokio::time::sleep(TICK).await,
            }
        }
    }

    /// The leave of a member has been announced although its name is claimed again: if by the same client on another server, that
    /// doesn't announce it.
    fn came_back(&self, key: &str, user: &Name, claim: &Claim) {
        let following = self.follows.borrow().get(key).cloned();
        let is_elsewhere = claim.instead_of.is_some() && claim.node != self.settings.node;
        following.filter(|_| is_elsewhere).iter().for_each(|following| self.announce(following, user, true));
    }

    /// Another server asks whether a name is still held here, or wants a connection closed whose user has reconnected there.
    pub(super) async fn asked(self: Rc<Self>, message: Message) {
        match asked(&message) {
            Some(Asked::Held(Question { room, user, claim })) => {
                let key: Rc<str> = room.into();
                let room = self.follows.borrow().get(&key).and_then(|following| following.room.borrow().upgrade());
                let is_held = room.is_some_and(|room| self.is_held_here(&key, &room, &user, &claim));
                self.log.answer(&message, u8::from(is_held).to_string()).await;
            }
            Some(Asked::TakeOver(shard, slot, serial, user)) => {
                let is_shard = (shard as usize) < self.registry.inboxes().len();
                if let Some(user) = Name::user(&user).ok().filter(|_| is_shard) {
                    self.take_over(MemberId { shard, slot, serial }, user).await;
                }
            }
            None => {}
        }
    }

    /// The user of a connection of this server has reconnected to another one.
    async fn take_over(self: Rc<Self>, member: MemberId, user: Name) {
        let token = token(&user);
        let rooms = self.held.borrow().rooms_of(member, &token);
        for key in rooms {
            // Where it has its name already, nobody leaves; the change itself may arrive later than this order.
            Rc::clone(&self).claim_again(key, token.clone()).await;
        }
        self.order(member.shard, Order::TakeOver { member, user });
    }

    /// A name of a followed room has changed.
    pub(super) fn name_changed(self: &Rc<Self>, key: &Rc<str>, following: &Rc<Following>, message: &Message) {
        let Some(known) = name_change(message) else { return };
        if following.names.borrow_mut().is_late(&known) {
            return self.read_names(Rc::clone(key), following);
        }
        self.learned(key, following, known);
    }

    /// Something is known about a name of a followed room.
    pub(super) fn learned(self: &Rc<Self>, key: &Rc<str>, following: &Rc<Following>, known: Known) {
        self.meet(&known);
        self.free_stray(key, &known);
        let is_ours = known.claim.as_ref().is_some_and(|claim| claim.node == self.settings.node);
        let is_lost = |held: &Held| !is_ours && held.at < known.at;
        if self.held.borrow().get(key, &known.user).is_some_and(is_lost) {
            drop(spawn_local(Rc::clone(self).claim_again(Rc::clone(key), known.user.clone())));
        }
        self.learn(following, known);
        self.bound_names(key, following);
    }

    /// Updates what is known about a name, and tells the room whether another server's user has it.
    fn learn(&self, following: &Following, known: Known) {
        let is_partial = following.names.borrow().partial().is_some();
        let change = match known.claim {
            // Of names that are not kept, the room knows those of its members here, and which of them have lost theirs.
            Some(claim) if is_partial => {
                Name::user(&claim.user).ok().map(|name| (name, claim.node != self.settings.node))
            }
            _ => following.names.borrow_mut().learn(known, self.settings.node),
        };
        self.tell_names(following, change);
    }

    /// A name names its server.
    pub(super) fn meet(&self, known: &Known) {
        if let Some(claim) = known.claim.as_ref().filter(|claim| claim.node != self.settings.node) {
            self.nodes.borrow_mut().met(claim.node, Self::now().monotonic_ms);
        }
    }

    /// The log says that a member of this server has a name, which it doesn't: the claim was stored after the member had been told
    /// that the log can't be reached. The name is free again.
    pub(super) fn free_stray(self: &Rc<Self>, key: &Rc<str>, known: &Known) {
        let Some(claim) = known.claim.as_ref().filter(|claim| claim.node == self.settings.node) else { return };
        let is_claiming = self.claiming.borrow().contains(&(Rc::clone(key), claim.member()));
        let is_newer = |held: &Held| held.member == claim.member() || held.at > known.at;
        if !is_claiming && !self.held.borrow().get(key, &known.user).is_some_and(is_newer) {
            let (cluster, key, user, at) = (Rc::clone(self), Rc::clone(key), known.user.clone(), known.at);
            drop(spawn_local(async move { cluster.free(&key, &user, at).await }));
        }
    }

    /// The log doesn't say any more that a member of this server has its name: the others had given this server up, or the log has
    /// forgotten. The member gets its name again, unless it is taken.
    pub(super) async fn claim_again(self: Rc<Self>, key: Rc<str>, user: String) {
        let held = || self.held.borrow().get(&key, &user).cloned();
        let Some(Held { member, name: display, .. }) = held() else { return };
        let is_still_held = || held().is_some_and(|held| held.member == member);
        while is_still_held() {
            // All members of this server may claim their names again, at the same time.
            let may_read = self.claims.acquire().await;
            let known = self.log.name(&key, &user).await;
            drop(may_read);
            let Ok(known) = known else {
                tokio::time::sleep(TICK).await;
                continue;
            };
            let is_its = known.claim.as_ref().is_some_and(|claim| claim.is_of(self.settings.node, member));
            let claimed = match &known.claim {
                Some(_) if is_its => known,
                _ if !is_still_held() => break,
                Some(_) => return self.is_lost_to(&key, known),
                None => {
                    let claim = Claim::new(self.settings.node, member, display.as_str());
                    let may_write = self.claims.acquire().await;
                    let written = self.log.write_name(&key, &user, known.at, Some(&claim)).await;
                    drop(may_write);
                    let Ok(Some(at)) = written else { continue };
                    Known { user: user.clone(), at, claim: Some(claim) }
                }
            };
            if !is_still_held() {
                // It has left meanwhile.
                self.free_stray(&key, &claimed);
                break;
            }
            self.held.borrow_mut().insert(&key, &user, Held { at: claimed.at, member, name: display.clone() });
            return self.has_again(&key, &display, claimed, is_its);
        }
        if held().is_some_and(|held| held.member != member) {
            // Another member of this server was faster.
            self.tell_lost(&key, member);
        }
    }

    /// A member of this server has its name again. `was_known`: the log has never said anything else.
    fn has_again(&self, key: &Rc<str>, user: &Name, claimed: Known, was_known: bool) {
        let following = self.follows.borrow().get(key).cloned();
        let Some(following) = following else { return };
        self.learn(&following, claimed);
        if !was_known && self.names_settle_at.get().is_none_or(|at| at <= Instant::now()) {
            self.announce(&following, user, true);
        }
    }

    /// A member of this server has lost its name to another one: if that is on another server, nobody leaves when it is closed.
    fn is_lost_to(self: &Rc<Self>, key: &Rc<str>, known: Known) {
        let Some(Held { at, member, name }) = self.held.borrow_mut().remove(key, &known.user) else { return };
        let is_taken_over = known.claim.as_ref().is_some_and(|claim| claim.instead_of == Some(at));
        let following = self.follows.borrow().get(key).cloned();
        if let Some(following) = following {
            self.learn(&following, known);
            following.room.borrow().upgrade().iter().for_each(|room| room.evict(member));
        }
        match is_taken_over {
            true => Rc::clone(self).take_over_late(member, name),
            false => self.tell_lost(key, member),
        }
    }

    fn tell_lost(&self, key: &Rc<str>, member: MemberId) {
        let room = self.follows.borrow().get(key).and_then(|following| following.room.borrow().upgrade());
        if let Some(room) = room {
            self.order(member.shard, Order::NameLost { member, room });
        }
    }

    /// The server to which a user has reconnected orders it as soon as the new connection is in the room; but the order may be lost.
    fn take_over_late(self: Rc<Self>, member: MemberId, user: Name) {
        drop(spawn_local(async move {
            tokio::time::sleep(PAUSE).await;
            self.order(member.shard, Order::TakeOver { member, user });
        }));
    }

    /// The log of names has been made again.
    pub(super) fn forget_names(&self, following: &Following) {
        let changes = following.names.borrow_mut().forget();
        self.tell_names(following, changes);
    }

    pub(super) fn tell_names(&self, following: &Following, changes: impl IntoIterator<Item = (Name, bool)>) {
        let Some(room) = following.room.borrow().upgrade() else { return };
        changes.into_iter().for_each(|(name, is_taken)| room.set_elsewhere(&name, is_taken));
    }
}
