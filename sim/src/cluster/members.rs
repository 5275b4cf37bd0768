//! Servers of a cluster, the names that their members claim in the log, and what the servers tell each other of themselves.
//!
//! Servers are killed, started later, or cut off until the others give them up. The log may lose all names.
//! When all of that is over, they agree on who is there.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::rc::Rc;

use fastrand::Rng;
use hi::cluster::names::{Claim, Elsewhere, Held, HeldNames, Known, Names};
use hi::cluster::nodes::{Beat, Nodes, RoomKey, Teller};
use hi::protocol::name::Name;
use hi::protocol::{MemberId, Namespace};
use hi::room::others::Counts;

use super::local::Local;

const ROOM: &str = "tea";
const USERS: u8 = 6;
/// Servers at first, and at most.
const NODES: usize = 3;
const NODES_MAX: usize = 5;
/// Steps at most until nothing fails any more.
const STEPS: usize = 400;
/// Time between two signs of life, and after which a server is gone.
const BEAT_MS: u64 = 1000;
const SILENT_MS: u64 = 3 * BEAT_MS;

/// The last record of each name.
#[derive(Default)]
struct Log {
    /// How often it was made again.
    made: u32,
    last_at: u64,
    names: BTreeMap<String, Known>,
}

impl Log {
    fn name(&self, user: &str) -> Known {
        let nothing = || Known { user: user.to_owned(), at: 0, claim: None };
        self.names.get(user).cloned().unwrap_or_else(nothing)
    }

    /// Writes a claim to a name, or its end, if its last record is still at `before`.
    fn write(&mut self, user: &str, before: u64, claim: Option<Claim>) -> Option<Known> {
        (self.name(user).at == before).then_some(())?;
        self.last_at += 1;
        let known = Known { user: user.to_owned(), at: self.last_at, claim };
        self.names.insert(user.to_owned(), known.clone());
        Some(known)
    }
}

/// A question about all names: what was held here when it was asked, and what the log has found.
struct Question {
    held: BTreeMap<String, Held>,
    found: Option<Vec<Known>>,
}

/// A server, with everything that is on its way to it.
struct Node {
    id: u64,
    is_alive: bool,
    is_connected: bool,
    /// Which log it has known last.
    made: u32,
    names: Names,
    held: HeldNames,
    teller: Teller,
    nodes: Nodes,
    coming: VecDeque<Known>,
    heard: VecDeque<Beat>,
    asked: Option<Question>,
    /// Names of members that have left while the log was away, and where the claims stand.
    leaving: Vec<(String, u64)>,
    /// The users that its room has elsewhere, as it was told.
    told: BTreeSet<String>,
    local: Local,
    last_member: u32,
}

impl Node {
    fn new(id: u64, made: u32) -> Self {
        let mut node = Self {
            id,
            is_alive: true,
            is_connected: true,
            made,
            names: Names::default(),
            held: HeldNames::default(),
            teller: Teller::new(id),
            nodes: Nodes::default(),
            coming: VecDeque::new(),
            heard: VecDeque::new(),
            asked: None,
            leaving: Vec::new(),
            told: BTreeSet::new(),
            local: Local::new(&room().1),
            last_member: 0,
        };
        node.ask();
        node
    }

    fn is_up(&self) -> bool {
        self.is_alive && self.is_connected
    }

    fn held(&self) -> BTreeMap<String, Held> {
        self.held.of(ROOM).cloned().unwrap_or_default().into_iter().collect()
    }

    fn ask(&mut self) {
        self.names.begin_loading();
        self.asked = Some(Question { held: self.held(), found: None });
    }

    fn tell(&mut self, changes: impl IntoIterator<Item = (Name, bool)>) {
        for (name, is_taken) in changes {
            self.local.set_elsewhere(&name, is_taken);
            let user = name.as_str().to_owned();
            if is_taken {
                self.told.insert(user);
            } else {
                assert!(self.told.remove(&user), "{user} was not there");
            }
        }
    }

    fn learn(&mut self, known: Known) {
        let change = self.names.learn(known, self.id);
        self.tell(change);
    }

    fn beats(&mut self) -> Vec<Beat> {
        let count = self.held().len();
        let counts = Counts { members: count, users: count };
        let rooms: HashMap<_, _> = (count > 0).then(|| (room(), counts)).into_iter().collect();
        self.teller.beats(rooms, false)
    }
}

fn name(user: &str) -> Name {
    Name::user(user).expect("a user's name")
}

fn room() -> RoomKey {
    (Namespace::Chat, Name::room(ROOM).expect("a room's name"))
}

struct World {
    log: Log,
    nodes: Vec<Node>,
    now_ms: u64,
}

impl World {
    fn new() -> Self {
        let nodes = (1..=NODES as u64).map(|id| Node::new(id, 0)).collect();
        Self { log: Log::default(), nodes, now_ms: 0 }
    }

    /// Writes a name, and sends it on to all that are connected.
    fn write(&mut self, user: &str, before: u64, claim: Option<Claim>) -> Option<Known> {
        let known = self.log.write(user, before, claim)?;
        self.nodes.iter_mut().filter(|node| node.is_up()).for_each(|node| node.coming.push_back(known.clone()));
        Some(known)
    }

    /// Writes that a member of a node has a name, and where that stands.
    fn claim(&mut self, node: usize, user: &str, before: u64, member: MemberId) -> bool {
        let claim = Claim::new(self.nodes[node].id, member, user);
        let Some(known) = self.write(user, before, Some(claim)) else { return false };
        self.nodes[node].held.insert(&Rc::from(ROOM), user, Held { at: known.at, member, name: name(user) });
        true
    }

    /// Whether the holder of a name is still there, as its server says. One that is cut off says nothing: for a while that is taken
    /// for a yes.
    fn is_held(&self, claim: &Claim, user: &str, is_patient: bool) -> bool {
        let Some(node) = self.nodes.iter().find(|node| node.id == claim.node && node.is_alive) else { return false };
        let is_its = node.held.get(ROOM, user).is_some_and(|held| held.member == claim.member());
        if node.is_connected { is_its } else { is_patient }
    }

    fn join(&mut self, node: usize, user: &str, is_patient: bool) {
        let this = &mut self.nodes[node];
        // A room is joined once all its names are known, and its own names are looked up at once.
        if !this.is_up() || !this.names.is_loaded() || this.held.get(ROOM, user).is_some() {
            return;
        }
        this.last_member += 1;
        let member = MemberId { shard: 0, slot: this.last_member, serial: 1 };
        let known = self.log.name(user);
        if known.claim.is_none_or(|claim| !self.is_held(&claim, user, is_patient)) {
            assert!(self.claim(node, user, known.at, member), "nobody else has written meanwhile");
            self.nodes[node].local.opened(&name(user), member);
        }
    }

    fn leave(&mut self, node: usize, user: &str) {
        self.nodes[node].local.leave(user);
        self.release(node, None);
    }

    /// A shard takes its next order.
    fn take_order(&mut self, node: usize) {
        let in_vain = self.nodes[node].local.take_order();
        self.release(node, in_vain);
    }

    /// Members have left, and one may have claimed its name in vain: the names are free.
    fn release(&mut self, node: usize, in_vain: Option<(Name, MemberId)>) {
        let this = &mut self.nodes[node];
        for (user, member) in this.local.released().into_iter().chain(in_vain) {
            let user = user.as_str();
            if let Some(Held { at, .. }) = this.held.get(ROOM, user).filter(|held| held.member == member).cloned() {
                this.held.remove(ROOM, user);
                this.leaving.push((user.to_owned(), at));
            }
            if this.held.get(ROOM, user).is_none() {
                this.names.elsewhere(user).iter().for_each(|name| this.local.set_elsewhere(name, true));
            }
        }
        self.free(node);
    }

    /// Writes which names are free, as soon as the log is there.
    fn free(&mut self, node: usize) {
        if self.nodes[node].is_up() {
            for (user, at) in std::mem::take(&mut self.nodes[node].leaving) {
                self.write(&user, at, None);
            }
        }
    }

    fn learned(&mut self, node: usize, known: Known) {
        let (this, now_ms) = (&mut self.nodes[node], self.now_ms);
        let id = this.id;
        if let Some(claim) = known.claim.as_ref().filter(|claim| claim.node != id) {
            this.nodes.met(claim.node, now_ms);
        }
        let is_ours = known.claim.as_ref().is_some_and(|claim| claim.node == id);
        let user = known.user.clone();
        let is_lost = !is_ours && this.held.get(ROOM, &user).is_some_and(|held| held.at < known.at);
        this.learn(known);
        if is_lost {
            self.claim_again(node, &user);
        }
    }

    /// The log doesn't say any more that a member has its name: it gets it again, unless it is taken.
    fn claim_again(&mut self, node: usize, user: &str) {
        let Some(Held { member, name, .. }) = self.nodes[node].held.get(ROOM, user).cloned() else { return };
        let known = self.log.name(user);
        match known.claim {
            Some(ref claim) if claim.is_of(self.nodes[node].id, member) => {
                self.nodes[node].held.insert(&Rc::from(ROOM), user, Held { at: known.at, member, name });
                self.nodes[node].learn(known);
            }
            Some(_) => {
                let this = &mut self.nodes[node];
                this.held.remove(ROOM, user);
                this.learn(known);
                this.local.evict(member);
                this.local.close(member);
            }
            None => {
                assert!(self.claim(node, user, known.at, member), "nobody else has written meanwhile");
                let known = self.log.name(user);
                self.nodes[node].learn(known);
            }
        }
    }

    /// The log answers to a question, or its answer arrives.
    fn answer(&mut self, node: usize) {
        let this = &mut self.nodes[node];
        let Some(Question { mut held, found }) = this.asked.take().filter(|_| this.is_up()) else { return };
        let Some(all) = found else {
            this.asked = Some(Question { held, found: Some(self.log.names.values().cloned().collect()) });
            return;
        };
        let others = all.iter().filter_map(|known| known.claim.as_ref()).filter(|claim| claim.node != this.id);
        others.for_each(|claim| this.nodes.met(claim.node, self.now_ms));
        held.retain(|user, held| !all.iter().any(|known| known.user == *user && held.is_in(known, this.id)));
        let changes = this.names.load(all, 0, this.id);
        this.tell(changes);
        held.keys().for_each(|user| self.claim_again(node, user));
    }

    fn disconnect(&mut self, node: usize) {
        let this = &mut self.nodes[node];
        this.is_connected = false;
        this.coming.clear();
        this.heard.clear();
        this.asked = None;
    }

    fn reconnect(&mut self, node: usize) {
        let (this, now_ms) = (&mut self.nodes[node], self.now_ms);
        let has_forgotten = std::mem::replace(&mut this.made, self.log.made) != self.log.made;
        this.is_connected = true;
        this.nodes.resumed(now_ms);
        this.teller.tell_all();
        if has_forgotten {
            let changes = this.names.forget();
            this.tell(changes);
        }
        this.ask();
        self.free(node);
    }

    /// The log was down, and has lost all names. Servers write those of their members again before anybody else claims one.
    fn forget(&mut self) {
        self.log = Log { made: self.log.made + 1, ..Log::default() };
        let connected: Vec<usize> = (0..self.nodes.len()).filter(|node| self.nodes[*node].is_up()).collect();
        connected.iter().for_each(|node| self.disconnect(*node));
        for node in connected {
            self.reconnect(node);
            (0..2).for_each(|_| self.answer(node));
        }
    }

    /// Time passes: servers tell that they live, and the names of those that don't are free. `loses`: whose beats are lost.
    fn second(&mut self, loses: Option<usize>) {
        self.now_ms += BEAT_MS;
        for node in (0..self.nodes.len()).filter(|node| self.nodes[*node].is_up()).collect::<Vec<_>>() {
            let beats = self.nodes[node].beats();
            if loses != Some(node) {
                let up = self.nodes.iter_mut().filter(|this| this.is_up());
                up.for_each(|this| this.heard.extend(beats.iter().cloned()));
            }
            let (dead, _) = self.nodes[node].nodes.take_dead(SILENT_MS);
            let mut names = self.nodes[node].names.of(&dead);
            names.sort_by_key(|name| name.at);
            for Elsewhere { user, at, .. } in names {
                if let Some(known) = self.write(&user, at, None) {
                    self.learned(node, known);
                }
            }
        }
    }

    fn hear(&mut self, node: usize) {
        let now_ms = self.now_ms;
        let Some(beat) = self.nodes[node].heard.pop_front() else { return };
        let teller = beat.node;
        if teller == self.nodes[node].id {
            return self.nodes[node].nodes.heard_own(now_ms, SILENT_MS);
        }
        let (_, asks) = self.nodes[node].nodes.heard(beat, now_ms);
        if asks && let Some(teller) = self.nodes.iter_mut().find(|this| this.id == teller && this.is_up()) {
            teller.teller.tell_all();
        }
    }

    fn arrive(&mut self, node: usize, luck: u8) {
        let coming = &mut self.nodes[node].coming;
        // Mostly in order; sometimes one is late, or comes twice.
        let index = if luck == 0 { coming.len().saturating_sub(1) } else { 0 };
        let known = if luck == 1 { coming.front().cloned() } else { coming.remove(index) };
        let Some(known) = known else { return };
        if self.nodes[node].names.is_late(&known) {
            return self.nodes[node].ask();
        }
        self.learned(node, known);
    }

    fn step(&mut self, rng: &mut Rng) {
        let (node, luck) = (rng.usize(0..self.nodes.len()), rng.u8(0..10));
        if !self.nodes[node].is_alive {
            return;
        }
        let user = format!("u{}", rng.u8(0..USERS));
        match rng.u8(0..46) {
            0..8 => self.join(node, &user, luck > 0),
            8..12 => self.leave(node, &user),
            12..24 => self.arrive(node, luck),
            24..30 => self.hear(node),
            30..34 => self.answer(node),
            34..37 => self.second((luck < 3).then_some(node)),
            40..46 => self.take_order(node),
            37 if luck < 3 => {
                self.disconnect(node);
                self.nodes[node].is_alive = luck > 0;
            }
            38 if !self.nodes[node].is_connected => self.reconnect(node),
            39 if luck < 3 => self.forget(),
            39 if luck < 5 && self.nodes.len() < NODES_MAX => {
                self.nodes.push(Node::new(self.nodes.len() as u64 + 1, self.log.made));
            }
            _ => {}
        }
    }

    /// Nothing fails any more, for longer than a server may be silent.
    fn settle(&mut self) {
        for node in 0..self.nodes.len() {
            if !self.nodes[node].is_connected {
                self.reconnect(node);
            }
        }
        for _ in 0..3 * SILENT_MS / BEAT_MS {
            for node in 0..self.nodes.len() {
                (0..2).for_each(|_| self.answer(node));
                while !self.nodes[node].coming.is_empty() {
                    self.arrive(node, 9);
                }
                while !self.nodes[node].heard.is_empty() {
                    self.hear(node);
                }
                while !self.nodes[node].local.is_settled() {
                    self.take_order(node);
                }
            }
            self.second(None);
        }
    }

    fn check(&self) {
        let alive: Vec<&Node> = self.nodes.iter().filter(|node| node.is_alive).collect();
        let claims: BTreeMap<&String, (u64, MemberId)> = {
            let claimed = self.log.names.iter().filter_map(|(user, known)| Some((user, known.claim.as_ref()?)));
            claimed.map(|(user, claim)| (user, (claim.node, claim.member()))).collect()
        };
        for node in &alive {
            let id = node.id;
            let held = node.held.of(ROOM).into_iter().flatten().map(|(user, held)| (user, (id, held.member)));
            let own = claims.iter().filter(|(_, (holder, _))| *holder == id).map(|(user, claim)| (*user, *claim));
            assert_eq!(held.collect::<BTreeMap<_, _>>(), own.collect(), "the names of the members of {id}");
            let elsewhere: BTreeSet<&str> =
                claims.iter().filter(|(_, (holder, _))| *holder != id).map(|(user, _)| user.as_str()).collect();
            assert_eq!(
                node.local.users(),
                claims.keys().map(ToString::to_string).collect::<Vec<_>>(),
                "the room of {id}"
            );
            let told: BTreeSet<&str> = node.told.iter().map(String::as_str).collect();
            assert_eq!(told, elsewhere, "what {id} has told its room");
            assert_eq!(node.names.taken().map(Name::as_str).collect::<BTreeSet<_>>(), elsewhere, "what {id} knows");
            assert_eq!(node.nodes.count(), alive.len() - 1, "the servers that {id} knows");
            assert_eq!(node.nodes.users(Namespace::Chat, &room().1), elsewhere.len(), "what {id} was told");
        }
    }
}

/// Runs the servers from a seed, until nothing fails any more.
///
/// # Panics
/// If anything that has to hold does not.
pub fn run(seed: u64) {
    let (mut rng, mut world) = (Rng::with_seed(seed), World::new());
    for _ in 0..rng.usize(1..STEPS) {
        world.step(&mut rng);
    }
    world.settle();
    world.check();
}
