//! The names of followed rooms are read: of many rooms at once, because thousands may be loaded at the same time.

use std::collections::VecDeque;
use std::rc::Rc;

use tokio::sync::oneshot;
use tokio::task::spawn_local;

use super::names::Known;
use super::nats::Unreachable;
use super::{Cluster, Following};
use crate::limits::cluster::{BATCH_RECORDS, NAMED_ROOMS_MAX, TICK};
use crate::protocol::Namespace;

/// Names of a room, and the position of the log up to which they are all; 0 if that isn't known.
type Listed = (Vec<Known>, u64);
/// Who waits for the first names of a room.
type Waiting = oneshot::Sender<Result<Listed, Unreachable>>;

/// Rooms of which the first names are wanted.
pub(super) struct Wanted {
    rooms: VecDeque<(Rc<str>, Waiting)>,
    is_asking: bool,
    /// Rooms that are asked for at once: fewer if their names were too many for one answer.
    at_once: usize,
}

impl Default for Wanted {
    fn default() -> Self {
        Self { rooms: VecDeque::new(), is_asking: false, at_once: NAMED_ROOMS_MAX }
    }
}

impl Wanted {
    /// The next rooms to ask for.
    fn take(&mut self) -> Vec<(Rc<str>, Waiting)> {
        // Whoever reads the names of a room again doesn't wait for the first answer.
        self.rooms.retain(|(_, waiting)| !waiting.is_closed());
        let count = self.rooms.len().min(self.at_once);
        self.is_asking = count > 0;
        self.rooms.drain(..count).collect()
    }
}

impl Cluster {
    /// Reads all names of a room; then connections may join it.
    pub(super) fn read_names(self: &Rc<Self>, key: Rc<str>, following: &Rc<Following>) {
        if following.namespace == Namespace::Raw {
            // There are none.
            following.names.borrow_mut().load(Vec::new(), 0, self.settings.node);
            return self.admit_waiting(&key, following);
        }
        let (cluster, room) = (Rc::clone(self), Rc::downgrade(following));
        following.namer.start(async move {
            while let Some(following) = room.upgrade() {
                if cluster.load_names(&key, &following).await.is_ok() {
                    following.namer.ends();
                    return cluster.admit_waiting(&key, &following);
                }
                tokio::time::sleep(TICK).await;
            }
        });
    }

    /// Reads all names of a room. Members of this server whose names are not among them claim them again.
    async fn load_names(self: &Rc<Self>, key: &Rc<str>, following: &Rc<Following>) -> Result<(), Unreachable> {
        following.names.borrow_mut().begin_loading();
        let mut held = self.held.borrow().of(key).cloned().unwrap_or_default();
        let (mut page, until) = self.first_names(key).await?;
        let (mut all, mut claims) = (Vec::new(), 0);
        loop {
            let next = page.last().map_or(0, |last| last.at + 1);
            let is_last = page.len() < BATCH_RECORDS;
            for known in &page {
                self.meet(known);
                self.free_stray(key, known);
                if held.get(&known.user).is_some_and(|held| held.is_in(known, self.settings.node)) {
                    held.remove(&known.user);
                }
            }
            claims += page.iter().filter(|known| known.claim.is_some()).count();
            if claims <= self.settings.roster_max {
                all.extend(page);
            }
            if is_last || claims > self.settings.roster_max && held.is_empty() {
                break;
            }
            page = Box::pin(self.more_names(key, next)).await?;
        }
        for user in held.into_keys() {
            drop(spawn_local(Rc::clone(self).claim_again(Rc::clone(key), user)));
        }
        if claims > self.settings.roster_max {
            self.give_up_names(key, following, claims);
            return Ok(());
        }
        let changes = following.names.borrow_mut().load(all, until, self.settings.node);
        match following.room.borrow().upgrade().filter(|room| room.is_partial()) {
            Some(room) => self.tell_room(following, &room),
            None => self.tell_names(following, changes),
        }
        Ok(())
    }

    /// The names that a room has, or those that stand first in the stream.
    async fn first_names(self: &Rc<Self>, key: &Rc<str>) -> Result<Listed, Unreachable> {
        let (sender, names) = oneshot::channel();
        let is_asking = {
            let mut wanted = self.wanted_names.borrow_mut();
            wanted.rooms.push_back((Rc::clone(key), sender));
            std::mem::replace(&mut wanted.is_asking, true)
        };
        if !is_asking {
            drop(spawn_local(Rc::clone(self).ask_for_names()));
        }
        names.await.unwrap_or(Err(Unreachable))
    }

    /// Asks for the names of all rooms that are waited for; those that come meanwhile are the next question.
    async fn ask_for_names(self: Rc<Self>) {
        loop {
            let rooms = self.wanted_names.borrow_mut().take();
            if rooms.is_empty() {
                return;
            }
            let keys: Vec<_> = rooms.iter().map(|(key, _)| Rc::clone(key)).collect();
            let has_copies = self.created.borrow().leader.is_some();
            match self.log.names_of_all(&keys, has_copies).await {
                Ok(Some((found, until))) => {
                    let at_once = &mut self.wanted_names.borrow_mut().at_once;
                    *at_once = (*at_once + 1).min(NAMED_ROOMS_MAX);
                    for (key, waiting) in rooms {
                        // The room may have been forgotten.
                        let _ = waiting.send(Ok((found.get(&*key).cloned().unwrap_or_default(), until)));
                    }
                }
                Ok(None) if rooms.len() > 1 => {
                    let mut wanted = self.wanted_names.borrow_mut();
                    wanted.at_once = rooms.len() / 2;
                    rooms.into_iter().rev().for_each(|room| wanted.rooms.push_front(room));
                }
                Ok(None) => {
                    for (key, waiting) in rooms {
                        let cluster = Rc::clone(&self);
                        drop(spawn_local(async move {
                            waiting.send(cluster.more_names(&key, 1).await.map(|names| (names, 0)))
                        }));
                    }
                }
                Err(Unreachable) => rooms.into_iter().for_each(|(_, waiting)| drop(waiting.send(Err(Unreachable)))),
            }
        }
    }

    /// Names of a room with many.
    async fn more_names(&self, key: &str, from: u64) -> Result<Vec<Known>, Unreachable> {
        let permit = self.loading.may_read.acquire().await;
        let names = self.log.names(key, from).await;
        drop(permit);
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_is_asked_for_once_however_often_its_names_are_to_be_read_again() {
        let mut wanted = Wanted { at_once: 2, ..Wanted::default() };
        let mut waiting: Vec<_> = ["tea", "tea", "milk", "tea"]
            .map(|room| {
                let (sender, receiver) = oneshot::channel();
                wanted.rooms.push_back((room.into(), sender));
                receiver
            })
            .into();
        // The last one of each is waited for.
        waiting.drain(..2);
        let taken: Vec<_> = wanted.take().into_iter().map(|(room, _)| room).collect();
        assert_eq!(taken, ["milk".into(), Rc::<str>::from("tea")]);
        assert!(wanted.is_asking);
        assert!(wanted.take().is_empty() && !wanted.is_asking);
    }
}
