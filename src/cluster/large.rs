//! Rooms with more users than `--roster-max`: their names are claimed as in all rooms, but only those of this server's members are
//! kept here. How many users other servers have, those tell.

use std::rc::Rc;

use super::names::{Elsewhere, Known, Partial};
use super::nats::Unreachable;
use super::{Cluster, Following};
use crate::limits::cluster::{BATCH_RECORDS, COUNTS_MS_MAX};
use crate::protocol::name::Name;
use crate::room::Room;

impl Cluster {
    /// Gives the names of a room up if there are too many.
    pub(super) fn bound_names(&self, key: &Rc<str>, following: &Rc<Following>) {
        let elsewhere = {
            let names = following.names.borrow();
            if names.partial().is_some() || !names.is_loaded() {
                return;
            }
            names.len()
        };
        let here = self.held.borrow().of(key).map_or(0, |names| names.len());
        if elsewhere + here > self.settings.roster_max {
            self.give_up_names(key, following, elsewhere);
        }
    }

    /// Gives up the names of a room that has at least `users` users on other servers.
    pub(super) fn give_up_names(&self, key: &Rc<str>, following: &Rc<Following>, users: usize) {
        let settles_at_ms = Self::now().monotonic_ms + COUNTS_MS_MAX;
        following.names.borrow_mut().give_up(Partial { users, settles_at_ms });
        self.large.borrow_mut().insert(Rc::clone(key), Rc::downgrade(following));
        following.room.borrow().upgrade().iter().for_each(|room| self.tell_room(following, room));
    }

    /// Tells a room which users it has on other servers, or how many.
    pub(super) fn tell_room(&self, following: &Following, room: &Room) {
        let names = following.names.borrow();
        if let Some(Partial { users, settles_at_ms }) = names.partial() {
            let told = self.nodes.borrow().users(following.namespace, &following.name);
            let has_settled = settles_at_ms <= Self::now().monotonic_ms;
            return room.count_elsewhere(Some(if has_settled { told } else { told.max(users) }));
        }
        room.count_elsewhere(None);
        names.taken().for_each(|name| room.set_elsewhere(name, true));
    }

    /// Tells the rooms with too many users how many there are, and reads the names of those that have become small again.
    pub(super) fn count_large_rooms(self: &Rc<Self>) {
        let now_ms = Self::now().monotonic_ms;
        let mut small = Vec::new();
        self.large.borrow_mut().retain(|key, following| {
            let Some(following) = following.upgrade() else { return false };
            let Some(Partial { settles_at_ms, .. }) = following.names.borrow().partial() else { return false };
            let Some(room) = following.room.borrow().upgrade() else { return true };
            self.tell_room(&following, &room);
            // Not at the bound, where each that joins or leaves would change it.
            if settles_at_ms <= now_ms && room.user_count() <= self.settings.roster_max / 2 {
                small.push((Rc::clone(key), following));
            }
            true
        });
        small.into_iter().for_each(|(key, following)| self.read_names(key, &following));
    }

    /// The names that members of these servers have in a room whose names are not kept.
    pub(super) async fn names_of(&self, key: &str, nodes: &[u64]) -> Result<Vec<Elsewhere>, Unreachable> {
        let (mut names, mut next) = (Vec::new(), 1);
        loop {
            let page = self.log.names(key, next).await?;
            next = page.last().map_or(0, |last| last.at + 1);
            let is_last = page.len() < BATCH_RECORDS;
            let theirs = page.into_iter().filter_map(|Known { user, at, claim }| {
                let claim = claim.filter(|claim| nodes.contains(&claim.node))?;
                Some(Elsewhere { user, at, name: Name::user(&claim.user).ok()?, node: claim.node })
            });
            names.extend(theirs);
            if is_last {
                return Ok(names);
            }
        }
    }
}
