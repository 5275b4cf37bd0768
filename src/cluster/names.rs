//! The names of a room: which of them members of this server have, and which those of others. Pure.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use crate::protocol::MemberId;
use crate::protocol::name::Name;
use crate::protocol::resume::Predecessor;

/// The member that has claimed a name.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Claim {
    /// Its server.
    pub node: u64,
    /// The connection there: shard, slot and serial number.
    member: (u32, u32, u32),
    /// The name as the user writes it.
    pub user: String,
    /// Where the claim of the same user's lost connection stands in the stream, if it takes that over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instead_of: Option<u64>,
}

impl Claim {
    /// That of a member of this server, which takes nothing over.
    pub fn new(node: u64, member: MemberId, user: &str) -> Self {
        let member = (member.shard, member.slot, member.serial);
        Self { node, member, user: user.to_owned(), instead_of: None }
    }

    /// Whether it is that of this connection to this server.
    pub fn is_of(&self, node: u64, member: MemberId) -> bool {
        (self.node, self.member()) == (node, member)
    }

    /// Whether it is that of this lost connection, as the server `own` calls it.
    pub(super) fn is_of_lost(&self, predecessor: Predecessor, own: u64) -> bool {
        match predecessor {
            Predecessor::Here(member) => self.is_of(own, member),
            Predecessor::Elsewhere { node, member } => self.is_of(node, member),
        }
    }

    /// The connection, on its server.
    pub fn member(&self) -> MemberId {
        let (shard, slot, serial) = self.member;
        MemberId { shard, slot, serial }
    }
}

/// What is known about a name.
#[derive(Clone, Debug)]
pub struct Known {
    /// The name, as names that are equal are written.
    pub user: String,
    /// Where that stands in the stream; 0 if nothing is known.
    pub at: u64,
    /// The member that has it, if any.
    pub claim: Option<Claim>,
}

/// A name that a member of this server has claimed.
#[derive(Clone, Debug)]
pub struct Held {
    /// Where the claim stands in the stream.
    pub at: u64,
    /// The connection.
    pub member: MemberId,
    /// The name as its user writes it.
    pub name: Name,
}

impl Held {
    /// Whether it is what the log says of the name. `own`: this server.
    pub fn is_in(&self, known: &Known, own: u64) -> bool {
        // A log that was made again has other claims where this one stood.
        self.at == known.at && known.claim.as_ref().is_some_and(|claim| claim.is_of(own, self.member))
    }
}

/// The claims of this server, by room and user.
#[derive(Debug, Default)]
pub struct HeldNames {
    by_room: HashMap<Rc<str>, HashMap<String, Held>>,
    count: usize,
}

impl HeldNames {
    /// Number of claims.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// The claim of a user in a room.
    pub fn get(&self, room: &str, user: &str) -> Option<&Held> {
        self.by_room.get(room)?.get(user)
    }

    /// Those of one room.
    pub fn of(&self, room: &str) -> Option<&HashMap<String, Held>> {
        self.by_room.get(room)
    }

    /// The rooms in which a member has this name.
    pub fn rooms_of(&self, member: MemberId, user: &str) -> Vec<Rc<str>> {
        let is_its = |names: &HashMap<_, Held>| names.get(user).is_some_and(|held| held.member == member);
        self.by_room.iter().filter(|(_, names)| is_its(names)).map(|(room, _)| Rc::clone(room)).collect()
    }

    /// A member has claimed a name, or its claim stands somewhere else.
    pub fn insert(&mut self, room: &Rc<str>, user: &str, held: Held) {
        let before = self.by_room.entry(Rc::clone(room)).or_default().insert(user.to_owned(), held);
        self.count += usize::from(before.is_none());
    }

    /// A claim is given up, or lost.
    pub fn remove(&mut self, room: &str, user: &str) -> Option<Held> {
        let names = self.by_room.get_mut(room)?;
        let held = names.remove(user)?;
        if names.is_empty() {
            self.by_room.remove(room);
        }
        self.count -= 1;
        Some(held)
    }
}

/// A name that a member of another server has.
#[derive(Clone, Debug)]
pub struct Elsewhere {
    /// The name, as names that are equal are written.
    pub user: String,
    /// Where the claim stands in the stream.
    pub at: u64,
    /// The name as its user writes it.
    pub name: Name,
    /// Its server.
    pub node: u64,
}

/// The names of a room that other servers' members have.
#[derive(Debug, Default)]
pub struct Names {
    /// Where the last change of each stands in the stream; the name and its server, if it is taken elsewhere. Those that are free are kept
    /// only until the room's names are loaded, also if that is done again: the list may be older than the change.
    by_user: HashMap<String, (u64, Option<(Name, u64)>)>,
    is_loaded: bool,
    is_loading: bool,
    /// Where the last change of any name stands that has arrived.
    newest: u64,
    /// There are too many of them: none is kept.
    partial: Option<Partial>,
}

/// What is known of names that are not kept.
#[derive(Clone, Copy, Debug)]
pub struct Partial {
    /// How many there were elsewhere when they were given up.
    pub users: usize,
    /// When all servers have told how many there are.
    pub settles_at_ms: u64,
}

impl Names {
    /// Number of names that are kept.
    pub(super) fn len(&self) -> usize {
        self.by_user.len()
    }

    /// Whether there are too many names to keep them.
    pub fn partial(&self) -> Option<Partial> {
        self.partial
    }

    /// There are too many names: none is kept from now on.
    pub fn give_up(&mut self, partial: Partial) {
        *self = Self { is_loaded: true, partial: Some(partial), ..Self::default() };
    }

    /// The names are about to be read again.
    pub fn begin_loading(&mut self) {
        if self.partial.is_some() {
            *self = Self::default();
        }
        self.is_loading = true;
    }

    /// Whether all names of the room are known.
    pub fn is_loaded(&self) -> bool {
        self.is_loaded
    }

    /// The names that are taken elsewhere.
    pub fn taken(&self) -> impl Iterator<Item = &Name> {
        self.by_user.values().filter_map(|(_, taken)| taken.as_ref().map(|(name, _)| name))
    }

    /// How the name is written, if a user of another server has it.
    pub fn elsewhere(&self, user: &str) -> Option<Name> {
        let (_, taken) = self.by_user.get(user)?;
        taken.as_ref().map(|(name, _)| name.clone())
    }

    /// The names that members of these servers have.
    pub fn of(&self, nodes: &[u64]) -> Vec<Elsewhere> {
        let taken = self.by_user.iter().filter_map(|(user, (at, taken))| Some((user, *at, taken.as_ref()?)));
        let theirs = taken.filter(|(.., (_, node))| nodes.contains(node));
        let elsewhere = |(user, at, (name, node)): (&String, u64, &(Name, u64))| {
            let (user, name) = (user.clone(), name.clone());
            Elsewhere { user, at, name, node: *node }
        };
        theirs.map(elsewhere).collect()
    }

    /// A change has arrived. Whether it is so late that the name may be free again, so that all names have to be read again: changes
    /// overtake each other while the log elects a leader.
    pub fn is_late(&mut self, change: &Known) -> bool {
        let is_older = change.at < self.newest;
        self.newest = self.newest.max(change.at);
        let is_whole = self.is_loaded && !self.is_loading && self.partial.is_none();
        is_older && is_whole && change.claim.is_some() && !self.by_user.contains_key(&change.user)
    }

    /// Something is known about a name. Returns what the room has to be told: the name, and whether it is taken.
    pub fn learn(&mut self, known: Known, own: u64) -> Option<(Name, bool)> {
        let before = self.by_user.get(&known.user);
        if self.partial.is_some() || before.is_some_and(|(at, _)| *at >= known.at) {
            return None;
        }
        let elsewhere = known.claim.filter(|claim| claim.node != own);
        let elsewhere = elsewhere.and_then(|claim| Some((Name::user(&claim.user).ok()?, claim.node)));
        let before = before.and_then(|(_, taken)| taken.clone());
        if elsewhere.is_none() && self.is_loaded && !self.is_loading {
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
    pub fn forget(&mut self) -> Vec<(Name, bool)> {
        self.newest = 0;
        let known = std::mem::take(&mut self.by_user);
        known.into_values().filter_map(|(_, taken)| Some((taken?.0, false))).collect()
    }

    /// These are all names of the room, up to this position of the log if that is known. Returns what the room has to be told.
    pub fn load(&mut self, all: Vec<Known>, until: u64, own: u64) -> Vec<(Name, bool)> {
        let listed: HashSet<String> = all.iter().map(|known| known.user.clone()).collect();
        let newest = all.iter().map(|known| known.at).max().unwrap_or(0).max(until);
        let mut changes: Vec<_> = all.into_iter().filter_map(|known| self.learn(known, own)).collect();
        self.by_user.retain(|user, (at, taken)| {
            let is_gone = *at <= newest && !listed.contains(user);
            if let Some((name, _)) = taken.take_if(|_| is_gone) {
                changes.push((name, false));
            }
            taken.is_some()
        });
        (self.is_loaded, self.is_loading) = (true, false);
        changes
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

    #[test]
    fn a_name_is_free_that_the_log_remembers_nothing_of() {
        let mut names = Names::default();
        names.load(vec![change(5, 0, Some(2))], 5, OWN);
        assert!(names.load(Vec::new(), 4, OWN).is_empty(), "that was before");
        assert_eq!(names.load(Vec::new(), 9, OWN), [(Name::user("u0").unwrap(), false)]);
    }

    #[test]
    fn a_claim_that_comes_after_a_later_change_is_not_believed() {
        let mut names = Names::default();
        names.load(Vec::new(), 0, OWN);
        for (change, is_late) in
            [(change(2, 0, None), false), (change(1, 0, Some(2)), true), (change(3, 1, Some(2)), false)]
        {
            assert_eq!(names.is_late(&change), is_late, "{change:?}");
        }
        names.begin_loading();
        assert!(!names.is_late(&change(1, 0, Some(2))), "the list decides, which is being read");
    }

    #[test]
    fn a_name_that_becomes_free_while_the_list_is_read_again_is_free() {
        let mut names = Names::default();
        names.load(vec![change(1, 0, Some(2))], 0, OWN);
        names.begin_loading();
        assert!(names.is_loaded(), "members may join meanwhile");
        assert!(names.learn(change(2, 0, None), OWN).is_some_and(|(_, is_taken)| !is_taken));
        assert!(names.load(vec![change(1, 0, Some(2))], 0, OWN).is_empty(), "that was before");
        assert_eq!((names.taken().count(), names.len()), (0, 0));
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
            tell(names.load(last_of(listed), listed as u64, OWN));
            let gap = lost.map(|lost| lost.index(changes.len()));
            for (index, known) in changes.iter().enumerate().skip(first.min(listed)) {
                if index < listed || Some(index) != gap {
                    tell(names.learn(known.clone(), OWN).into_iter().collect());
                }
            }
            // After a reconnect the list is read again.
            tell(names.load(last_of(changes.len()), 0, OWN));
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
