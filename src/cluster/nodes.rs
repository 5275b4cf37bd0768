//! The other servers: which of them live, and how many members their rooms have. Pure: time comes in as milliseconds of a clock
//! that never goes back.
//!
//! Each server tells all others once a second what has changed. A server that has told nothing for a while is gone, and its
//! names are free; if it was only cut off, it finds that out from the log of names when it is back. Changes are numbered: a
//! server that misses some asks for all.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use crate::limits::cluster::{BEAT_ROOMS_MAX, DEAF_MS_MIN};
use crate::protocol::Namespace;
use crate::protocol::name::Name;
use crate::room::others::Counts;

/// A room of any kind.
pub type RoomKey = (Namespace, Name);

/// What a server tells all others.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Beat {
    /// The server.
    pub node: u64,
    /// One more than that of the one before.
    number: u64,
    /// Nothing of what it has told before holds any more.
    is_first: bool,
    /// The server ends, and has told its last.
    is_last: bool,
    /// Raw or not, the room's name, its members and users there.
    rooms: Vec<(bool, String, usize, usize)>,
}

/// What this server tells.
#[derive(Debug, Default)]
pub struct Teller {
    node: u64,
    number: u64,
    told: HashMap<RoomKey, Counts>,
    tells_all: bool,
}

impl Teller {
    /// That of a server which has told nothing yet.
    pub fn new(node: u64) -> Self {
        Self { node, tells_all: true, ..Self::default() }
    }

    /// Another server has missed something.
    pub fn tell_all(&mut self) {
        self.tells_all = true;
    }

    /// A sign of life, if nothing else is to be told: nothing has changed, and all have heard everything.
    pub fn alive(&mut self) -> Option<Beat> {
        if self.tells_all {
            return None;
        }
        self.number += 1;
        Some(Beat { node: self.node, number: self.number, is_first: false, is_last: false, rooms: Vec::new() })
    }

    /// What is to be told now: at least one sign of life.
    pub fn beats(&mut self, rooms: HashMap<RoomKey, Counts>, is_last: bool) -> Vec<Beat> {
        let tells_all = std::mem::take(&mut self.tells_all);
        let before = if tells_all { HashMap::new() } else { std::mem::take(&mut self.told) };
        let gone = before.keys().filter(|room| !rooms.contains_key(room)).map(|room| (room, Counts::default()));
        let changed = rooms.iter().filter(|(room, counts)| before.get(room) != Some(counts));
        let changes = gone.chain(changed.map(|(room, counts)| (room, *counts)));
        let entry = |((namespace, name), Counts { members, users }): (&RoomKey, Counts)| {
            (*namespace == Namespace::Raw, name.as_str().to_owned(), members, users)
        };
        let changes: Vec<_> = changes.map(entry).collect();
        let parts = changes.chunks(BEAT_ROOMS_MAX).map(<[_]>::to_vec).chain(changes.is_empty().then(Vec::new));
        let beats = parts.enumerate().map(|(part, rooms)| {
            self.number += 1;
            Beat { node: self.node, number: self.number, is_first: tells_all && part == 0, is_last, rooms }
        });
        let beats = beats.collect();
        self.told = rooms;
        beats
    }
}

/// Another server.
#[derive(Debug)]
struct Node {
    heard_ms: u64,
    /// Whether it has told something: perhaps only a claim names it.
    has_told: bool,
    /// Number of its last beat, if it has told everything up to there.
    number: Option<u64>,
    rooms: HashMap<RoomKey, Counts>,
}

/// All other servers.
#[derive(Debug, Default)]
pub struct Nodes {
    known: BTreeMap<u64, Node>,
    /// When this server has last heard what it had told itself.
    own_ms: u64,
    totals: HashMap<RoomKey, Counts>,
}

/// Rooms whose totals have changed.
pub type Changes = Vec<(RoomKey, Counts)>;

impl Nodes {
    /// A server has told something. Returns what that changes; with true if it has to be asked for everything.
    pub fn heard(&mut self, beat: Beat, now_ms: u64) -> (Changes, bool) {
        let mut changed = Vec::new();
        if beat.is_last {
            self.remove(beat.node, &mut changed);
            return (changed, false);
        }
        self.met(beat.node, now_ms);
        let Some(node) = self.known.get_mut(&beat.node) else { return (changed, false) };
        (node.heard_ms, node.has_told) = (now_ms, true);
        if beat.is_first {
            let gone = node.rooms.drain().collect();
            node.number = Some(beat.number);
            self.subtract(gone, &mut changed);
        } else if node.number.is_some_and(|number| beat.number <= number) {
            // It came twice.
            return (changed, false);
        } else if node.number.is_none_or(|number| number + 1 != beat.number) {
            node.number = None;
            return (changed, true);
        } else {
            node.number = Some(beat.number);
        }
        for (is_raw, name, members, users) in beat.rooms {
            let namespace = if is_raw { Namespace::Raw } else { Namespace::Chat };
            if let Ok(name) = Name::room(&name) {
                self.set(beat.node, (namespace, name), Counts { members, users }, &mut changed);
            }
        }
        (changed, false)
    }

    /// A claim names this server: it is expected to tell something soon.
    pub fn met(&mut self, node: u64, now_ms: u64) {
        self.known.entry(node).or_insert(Node {
            heard_ms: now_ms,
            has_told: false,
            number: None,
            rooms: HashMap::new(),
        });
    }

    /// This server has heard what it had told itself, so it hears the others: nobody is dead because this one was stopped, or the
    /// log was. After such a time, all others have another `silent_ms`.
    pub fn heard_own(&mut self, now_ms: u64, silent_ms: u64) {
        if self.own_ms + (silent_ms / 2).max(DEAF_MS_MIN) <= now_ms {
            self.resumed(now_ms);
        }
        self.own_ms = now_ms;
    }

    /// For how long this server has not heard itself, if it ever has.
    pub fn deaf_ms(&self, now_ms: u64) -> u64 {
        if self.own_ms == 0 { 0 } else { now_ms - self.own_ms }
    }

    /// The connection was lost, and is there again: nobody could be heard meanwhile.
    pub fn resumed(&mut self, now_ms: u64) {
        self.known.values_mut().for_each(|node| node.heard_ms = now_ms);
    }

    /// The servers that had told nothing for `silent_ms` when this one last heard itself: they are forgotten.
    pub fn take_dead(&mut self, silent_ms: u64) -> (Vec<u64>, Changes) {
        let mut changed = Vec::new();
        let is_dead = |node: &Node| node.heard_ms + silent_ms <= self.own_ms;
        let dead: Vec<u64> = self.known.iter().filter(|(_, node)| is_dead(node)).map(|(id, _)| *id).collect();
        dead.iter().for_each(|node| self.remove(*node, &mut changed));
        (dead, changed)
    }

    /// Whether this server may be alive.
    pub fn knows(&self, node: u64) -> bool {
        self.known.contains_key(&node)
    }

    /// Whether this server is alive: it has told something.
    pub fn hears(&self, node: u64) -> bool {
        self.known.get(&node).is_some_and(|node| node.has_told)
    }

    /// Number of the other servers.
    pub fn count(&self) -> usize {
        self.known.len()
    }

    /// Whether one with this number comes before all others.
    pub fn is_first(&self, own: u64) -> bool {
        self.known.keys().next().is_none_or(|first| own < *first)
    }

    /// Whether one with this number comes before all others that have members in a room.
    pub fn is_first_in(&self, own: u64, room: &RoomKey) -> bool {
        let mut members = self.known.iter().filter(|(_, node)| node.rooms.contains_key(room));
        members.next().is_none_or(|(first, _)| own < *first)
    }

    /// The users that a room has elsewhere.
    pub fn users(&self, namespace: Namespace, name: &Name) -> usize {
        self.totals.get(&(namespace, name.clone())).map_or(0, |counts| counts.users)
    }

    /// The rooms that have members elsewhere.
    pub fn rooms(&self) -> impl Iterator<Item = &RoomKey> {
        self.totals.keys()
    }

    fn remove(&mut self, node: u64, changed: &mut Changes) {
        let rooms = self.known.remove(&node).map(|node| node.rooms).unwrap_or_default();
        self.subtract(rooms, changed);
    }

    fn subtract(&mut self, gone: HashMap<RoomKey, Counts>, changed: &mut Changes) {
        gone.into_iter().for_each(|(room, counts)| self.add(room, counts, Counts::default(), changed));
    }

    fn set(&mut self, node: u64, room: RoomKey, counts: Counts, changed: &mut Changes) {
        let Some(node) = self.known.get_mut(&node) else { return };
        let before = match counts == Counts::default() {
            true => node.rooms.remove(&room),
            false => node.rooms.insert(room.clone(), counts),
        };
        self.add(room, before.unwrap_or_default(), counts, changed);
    }

    fn add(&mut self, room: RoomKey, before: Counts, now: Counts, changed: &mut Changes) {
        let total = self.totals.entry(room.clone()).or_default();
        // A server may tell anything.
        let change = |total: usize, before, now| total.saturating_sub(before).saturating_add(now);
        total.members = change(total.members, before.members, now.members);
        total.users = change(total.users, before.users, now.users);
        let total = *total;
        if total == Counts::default() {
            self.totals.remove(&room);
        }
        changed.push((room, total));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SILENT_MS: u64 = 15_000;

    fn room(number: u8) -> RoomKey {
        let namespace = if number.is_multiple_of(2) { Namespace::Chat } else { Namespace::Raw };
        (namespace, Name::room(&format!("r{number}")).unwrap())
    }

    /// Three servers that tell, and the one that listens; it knows totals as a list of rooms would.
    struct World {
        now_ms: u64,
        rooms: Vec<HashMap<RoomKey, Counts>>,
        tellers: Vec<Teller>,
        alive: [bool; 3],
        nodes: Nodes,
        listed: HashMap<RoomKey, Counts>,
    }

    impl World {
        fn new() -> Self {
            let tellers = (0..3).map(Teller::new).collect();
            let rooms = vec![HashMap::new(); 3];
            Self { now_ms: 0, rooms, tellers, alive: [true; 3], nodes: Nodes::default(), listed: HashMap::new() }
        }

        fn list(&mut self, changes: Changes) {
            for (room, counts) in changes {
                match counts == Counts::default() {
                    true => drop(self.listed.remove(&room)),
                    false => drop(self.listed.insert(room, counts)),
                }
            }
        }

        fn hear(&mut self, beat: Beat) {
            let node = beat.node;
            let (changes, asks) = self.nodes.heard(beat, self.now_ms);
            self.list(changes);
            if asks {
                self.tellers[node as usize].tell_all();
            }
        }

        /// A second passes. `loses`: which beats don't arrive.
        fn second(&mut self, mut loses: impl FnMut(usize) -> bool) -> Vec<u64> {
            self.now_ms += 1000;
            for node in 0..3 {
                if self.alive[node] {
                    for beat in self.tellers[node].beats(self.rooms[node].clone(), false) {
                        if !loses(node) {
                            self.hear(beat);
                        }
                    }
                }
            }
            self.nodes.heard_own(self.now_ms, SILENT_MS);
            let (dead, changes) = self.nodes.take_dead(SILENT_MS);
            self.list(changes);
            dead
        }

        fn sum(&self) -> HashMap<RoomKey, Counts> {
            let mut sum: HashMap<RoomKey, Counts> = HashMap::new();
            for (rooms, _) in self.rooms.iter().zip(self.alive).filter(|(_, alive)| *alive) {
                for (room, counts) in rooms {
                    let total = sum.entry(room.clone()).or_default();
                    total.members += counts.members;
                    total.users += counts.users;
                }
            }
            sum
        }
    }

    proptest! {
        #[test]
        fn what_all_have_told_is_known_although_some_of_it_is_lost(
            events in prop::collection::vec((0..3usize, 0..6u8, 0..4usize, 0..10u8), 1..200),
            killed in prop::option::of((0..3usize, any::<prop::sample::Index>())),
        ) {
            let mut world = World::new();
            for (step, (node, number, members, luck)) in events.iter().enumerate() {
                match members {
                    0 => drop(world.rooms[*node].remove(&room(*number))),
                    _ => drop(world.rooms[*node].insert(room(*number), Counts { members: *members, users: members / 2 })),
                }
                if let Some((node, at)) = killed && at.index(events.len()) == step {
                    world.alive[node] = false;
                }
                let mut twice = Vec::new();
                if *luck == 9 && world.alive[*node] {
                    twice = world.tellers[*node].beats(world.rooms[*node].clone(), false);
                }
                twice.iter().chain(&twice).cloned().for_each(|beat| world.hear(beat));
                // At most two of three are lost, one after the other: nobody is silent for long.
                let dead = world.second(|node| *luck < 4 && node == usize::from(luck % 3));
                for node in dead {
                    prop_assert!(!world.alive[node as usize], "a server that lives is not given up");
                }
            }
            for _ in 0..20 {
                world.second(|_| false);
            }
            prop_assert_eq!(&world.listed, &world.sum());
            prop_assert_eq!(world.nodes.count(), world.alive.iter().filter(|alive| **alive).count());
        }
    }

    #[test]
    fn many_rooms_are_told_in_parts() {
        let rooms: HashMap<RoomKey, Counts> = (0..3 * BEAT_ROOMS_MAX + 1)
            .map(|number| {
                ((Namespace::Chat, Name::room(&format!("r{number}")).unwrap()), Counts { members: 1, users: 0 })
            })
            .collect();
        let (mut teller, mut nodes) = (Teller::new(7), Nodes::default());
        let beats = teller.beats(rooms.clone(), false);
        assert_eq!(beats.iter().map(|beat| beat.rooms.len()).sum::<usize>(), rooms.len());
        assert!(beats.iter().all(|beat| serde_json::to_vec(beat).unwrap().len() < 64 * 1024));
        for beat in beats {
            assert!(!nodes.heard(beat, 0).1);
        }
        assert_eq!(nodes.totals, rooms);
        assert_eq!(nodes.heard(teller.alive().unwrap(), 0), (Vec::new(), false));
        assert_eq!(teller.beats(rooms, false)[0].rooms, [], "nothing has changed");
        let last = teller.beats(HashMap::new(), true).remove(0);
        nodes.heard(last, 0);
        assert!(nodes.totals.is_empty() && nodes.count() == 0, "it says that it ends");
    }

    #[test]
    fn nobody_is_dead_after_a_time_in_which_nobody_could_be_heard() {
        let mut nodes = Nodes::default();
        nodes.heard_own(0, SILENT_MS);
        nodes.met(3, 0);
        assert_eq!((nodes.is_first(2), nodes.is_first(4)), (true, false));
        let mut dead_in = |seconds: std::ops::RangeInclusive<u64>| -> Vec<u64> {
            let second = |second| {
                // Also before it has heard anything again.
                let dead = nodes.take_dead(SILENT_MS).0;
                nodes.heard_own(second * 1000, SILENT_MS);
                dead
            };
            seconds.flat_map(second).collect()
        };
        // This server is stopped for 40 s, and for 26 s.
        assert!(dead_in(40..=54).is_empty());
        assert!(dead_in(80..=94).is_empty());
        assert_eq!(dead_in(95..=96), [3]);
    }
}
