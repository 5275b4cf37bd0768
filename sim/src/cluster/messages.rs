//! Three nodes together over one log that does what brokers do at their worst: what they publish, are told and show fits together.
//!
//! In some seeds the room is raw. In some the log forgets its end, or all of a raw room, or somebody purges it: nothing holds of
//! what was in it, but all agree again.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::rc::Rc;

use fastrand::Rng;
use hi::cluster::follow::{Follow, Following, Step};
use hi::cluster::outgoing::{Act, Outgoing};
use hi::cluster::raw::RawFollow;
use hi::cluster::record::{Content, Heading, Kind, Record, lost_life};
use hi::protocol::Namespace;

const ROOM: &str = "tea";
const TIMEOUT_MS: u64 = 10_000;
const NODES: usize = 3;
/// Steps at most until nothing fails any more.
const STEPS: usize = 400;
/// What a step may be, and with how much luck: see [`World::step`].
const EVENTS: u8 = 22;
const LUCK: u8 = 10;
/// Records that the log forgets at once, at most.
const FORGOTTEN_MAX: usize = 4;

/// The log of one room. It stores no record twice.
#[derive(Default)]
struct Log {
    records: Vec<Record>,
    last_at: u64,
    /// Where those stand that it knows, though it may have lost them.
    known: BTreeMap<String, u64>,
    now_ms: u64,
}

impl Log {
    /// The record, unless it was stored before: then where that was.
    fn append(&mut self, id: String, heading: Heading) -> Result<Record, u64> {
        if let Some(at) = self.known.get(&id) {
            return Err(*at);
        }
        (self.now_ms, self.last_at) = (self.now_ms + 1, self.last_at + 1);
        self.known.insert(id, self.last_at);
        let before = self.records.last().map_or((0, 0), |record| (record.at, record.value));
        let record = Record {
            at: self.last_at,
            before: Some(before.0),
            value: before.1 + u64::from(heading.kind.counts()),
            unix_ms: self.now_ms,
            heading,
            content: Content::Json(String::new()),
        };
        self.records.push(record.clone());
        Ok(record)
    }

    /// The disk has lost the last records, and their positions are used again.
    fn forget(&mut self, count: usize) {
        let kept = self.records.len().saturating_sub(count);
        let lost: BTreeSet<u64> = self.records.drain(kept..).map(|record| record.at).collect();
        self.known.retain(|_, at| !lost.contains(at));
        // The clock of the next one may be behind.
        self.now_ms = self.now_ms.saturating_sub(lost.len() as u64);
        self.last_at = self.records.last().map_or(self.last_at - lost.len() as u64, |record| record.at);
    }

    fn read(&self, from: Option<u64>) -> (Vec<Record>, u64) {
        let wanted = self.records.iter().filter(|record| record.at >= from.unwrap_or(0));
        let without_link = wanted.map(|record| Record { before: None, ..record.clone() });
        (without_link.collect(), self.records.last().map_or(0, |record| record.at))
    }
}

/// What the log has answered to a record.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    Stored,
    /// It was stored before, at this position.
    Again(u64),
    NotStored,
}

/// What goes to the log: one connection carries it, so a question is behind the records before it.
enum Leaving {
    Record(String, Heading),
    Question(Option<u64>),
}

/// A node, with everything that is on its way to it and from it.
struct Node {
    id: u64,
    namespace: Namespace,
    room: Rc<str>,
    follow: Box<dyn Following>,
    outgoing: Outgoing,
    leaving: VecDeque<Leaving>,
    /// To the records with these numbers.
    answers: VecDeque<(u64, Answer)>,
    coming: VecDeque<Record>,
    /// What the log has found, and whether it has been asked.
    found: Option<(Vec<Record>, u64)>,
    is_asking: bool,
    last_number: u64,
    /// Where the record that begins the room's life stands, if the log knows it and may have lost it.
    lost_life: Option<u64>,
    /// What its publishers wait for.
    pending: HashMap<u64, Heading>,
    /// Those that the log has, and since when: they are shown soon, unless a new life has begun behind them.
    confirmed: BTreeMap<u64, u64>,
    /// Messages that its publishers were told the place of.
    acknowledged: BTreeMap<u64, (u64, u64)>,
    shown: Vec<((u64, u64), (u64, u64))>,
    /// Whether its members were told that an unknown number of messages is lost.
    has_lost: bool,
}

impl Node {
    fn new(id: u64, namespace: Namespace) -> Self {
        let follow: Box<dyn Following> = match namespace {
            Namespace::Chat => Box::new(Follow::begin().0),
            Namespace::Raw => Box::new(RawFollow::begin().0),
        };
        Self {
            id,
            namespace,
            room: ROOM.into(),
            follow,
            outgoing: Outgoing::default(),
            leaving: [Leaving::Question(None)].into(),
            answers: VecDeque::new(),
            coming: VecDeque::new(),
            found: None,
            is_asking: true,
            last_number: 0,
            lost_life: None,
            pending: HashMap::new(),
            confirmed: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            shown: Vec::new(),
            has_lost: false,
        }
    }

    fn next(&mut self, kind: Kind, epoch: Option<u64>) -> Heading {
        self.last_number += 1;
        Heading { kind, epoch, node: self.id, number: self.last_number }
    }

    fn publish(&mut self, now_ms: u64) {
        // Members are there only once the room is loaded.
        if self.follow.tip().is_none() {
            return;
        }
        let kind = if self.namespace == Namespace::Raw { Kind::Text } else { Kind::Message };
        let heading = self.next(kind, self.follow.epoch());
        self.pending.insert(heading.number, heading);
        if self.outgoing.submit(&self.room, heading.number, now_ms) {
            self.send(heading);
        }
    }

    fn send(&mut self, heading: Heading) {
        let id = heading.message_id(ROOM, self.lost_life);
        self.leaving.push_back(Leaving::Record(id, heading));
    }

    fn stored(&mut self, number: u64) {
        let given_up = self.outgoing.stored(ROOM, number);
        given_up.into_iter().for_each(|number| self.give_up(number));
    }

    fn give_up(&mut self, number: u64) {
        self.pending.remove(&number);
    }

    fn carry_out(&mut self, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::Place { epoch, record } => {
                    let seq = if self.namespace == Namespace::Raw { record.at } else { record.value };
                    let (place, number) = ((epoch, seq), record.heading.number);
                    self.shown.push((place, record.heading.id()));
                    if record.heading.node == self.id && self.pending.remove(&number).is_some() {
                        self.stored(number);
                        assert_eq!(self.acknowledged.insert(number, place), None, "one answer");
                    }
                }
                Step::Fetch { from } => {
                    assert!(!std::mem::replace(&mut self.is_asking, true), "one question at a time");
                    self.leaving.push_back(Leaving::Question(from));
                }
                Step::BeginLife { instead_of } => {
                    let heading = self.next(Kind::Life, instead_of);
                    self.send(heading);
                }
                Step::Ready { .. } => self.lost_life = None,
                Step::Lose => {
                    assert_eq!(self.namespace, Namespace::Raw, "chat rooms have gaps");
                    self.has_lost = true;
                }
            }
        }
    }

    fn with_follow(&mut self, act: impl FnOnce(&mut dyn Following, &mut Vec<Step>)) {
        let mut steps = Vec::new();
        act(&mut *self.follow, &mut steps);
        self.carry_out(steps);
    }

    fn answered(&mut self, now_ms: u64) {
        let Some((number, answer)) = self.answers.pop_front() else { return };
        if !self.pending.contains_key(&number) {
            // That of a record that begins a life, or of a message that is shown already.
            if let Answer::Again(at) = answer {
                let lost = lost_life(self.lost_life, at, number);
                self.lost_life = self.follow.epoch().is_none().then_some(lost);
            }
            return self.with_follow(|follow, steps| follow.life_begun(steps));
        }
        if answer == Answer::NotStored {
            return self.outgoing.failed(ROOM, number);
        }
        self.confirmed.insert(number, now_ms);
        self.stored(number);
    }

    fn fetched(&mut self, fails: bool) {
        let Some((records, last_at)) = self.found.take() else { return };
        self.is_asking = false;
        self.with_follow(|follow, steps| match fails {
            true => follow.failed(steps),
            false => follow.fetched(records, last_at, steps),
        });
    }

    fn tick(&mut self, now_ms: u64) {
        let is_late = |(_, at_ms): &(&u64, &u64)| **at_ms + TIMEOUT_MS <= now_ms;
        let late: Vec<u64> = self.confirmed.iter().filter(is_late).map(|(number, _)| *number).collect();
        for number in late {
            self.confirmed.remove(&number);
            self.give_up(number);
        }
        let is_whole = self.follow.is_whole();
        for (_, act) in self.outgoing.due(now_ms, TIMEOUT_MS, |_| is_whole) {
            match act {
                Act::Look => self.with_follow(|follow, steps| follow.look(steps)),
                Act::Send(number) => {
                    let heading = self.pending.get(&number).copied();
                    heading.into_iter().for_each(|heading| self.send(heading));
                }
                Act::GiveUp(number) => self.give_up(number),
            }
        }
    }

    /// The connection is lost, with everything on it, and there again. `is_another`: the log was made again.
    fn reconnect(&mut self, is_another: bool) {
        self.leaving.clear();
        self.answers.clear();
        self.coming.clear();
        self.found = None;
        self.outgoing.disconnected();
        let was_asking = std::mem::take(&mut self.is_asking);
        self.with_follow(|follow, steps| {
            follow.disconnected();
            match is_another {
                true => follow.forget(steps),
                false => follow.reconnected(steps),
            }
            if was_asking {
                follow.failed(steps);
            }
        });
    }
}

#[derive(Default)]
struct World {
    log: Log,
    nodes: Vec<Node>,
    now_ms: u64,
    has_forgotten: bool,
}

impl World {
    fn new(namespace: Namespace) -> Self {
        Self { nodes: (1..=NODES as u64).map(|id| Node::new(id, namespace)).collect(), ..Self::default() }
    }

    /// The log was down, and has lost its last records; that of raw rooms is in memory, and was made again. All nodes notice that
    /// it was down, and which one it is.
    fn forget(&mut self, namespace: Namespace, count: usize) {
        self.has_forgotten = true;
        match namespace {
            Namespace::Chat => self.log.forget(count),
            Namespace::Raw => self.log = Log { now_ms: self.log.now_ms, ..Log::default() },
        }
        self.nodes.iter_mut().for_each(|node| node.reconnect(namespace == Namespace::Raw));
    }

    /// Somebody has removed all records. No node is told, and the log still knows what it has stored.
    fn purge(&mut self) {
        self.has_forgotten = true;
        self.log.records.clear();
    }

    /// The log gets a record of a node. `luck`: what becomes of it, and of the answer.
    fn deliver(&mut self, node: usize, luck: u8) {
        let (id, heading) = match self.nodes[node].leaving.pop_front() {
            Some(Leaving::Record(id, heading)) => (id, heading),
            Some(Leaving::Question(from)) => return self.nodes[node].found = Some(self.log.read(from)),
            None => return,
        };
        if luck == 0 {
            return self.nodes[node].answers.push_back((heading.number, Answer::NotStored));
        }
        let stored = self.log.append(id, heading);
        let answer = stored.as_ref().map_or_else(|at| Answer::Again(*at), |_| Answer::Stored);
        if let Ok(record) = stored {
            self.nodes.iter_mut().for_each(|node| node.coming.push_back(record.clone()));
        }
        if luck != 1 {
            self.nodes[node].answers.push_back((heading.number, answer));
        }
    }

    fn step(&mut self, node: usize, event: u8, luck: u8) {
        self.now_ms += 50;
        let now_ms = self.now_ms;
        let this = &mut self.nodes[node];
        match event {
            0..4 => this.publish(now_ms),
            4..8 => self.deliver(node, luck),
            8..11 => this.answered(now_ms),
            11..15 if !this.coming.is_empty() => {
                // Mostly in order; sometimes one is late, or comes twice.
                let index = if luck == 0 { this.coming.len() - 1 } else { 0 };
                let record = this.coming[index].clone();
                if luck != 1 {
                    this.coming.remove(index);
                }
                this.with_follow(|follow, steps| follow.arrived(record, steps));
            }
            15 => drop(this.coming.pop_back()),
            16..19 => this.fetched(luck == 0),
            19..21 => this.tick(now_ms),
            21 if luck < 3 => this.reconnect(false),
            _ => {}
        }
    }

    /// Nothing fails any more, for as long as a message may wait.
    fn settle(&mut self) {
        for round in 0..40 {
            for node in 0..NODES {
                for event in [4, 8, 11, 16, 19] {
                    (0..8).for_each(|_| self.step(node, event, 9));
                }
                if round % 10 == 0 {
                    self.nodes[node].with_follow(|follow, steps| follow.look(steps));
                }
            }
        }
    }

    fn check(&self) {
        let ends: BTreeSet<_> = self.nodes.iter().map(|node| (node.follow.epoch(), node.follow.tip())).collect();
        assert_eq!(ends.len(), 1, "all know the same end: {ends:?}");
        for node in &self.nodes {
            assert!(node.pending.is_empty(), "each has an answer: {:?}", node.pending);
            let is_message = |record: &&Record| record.heading.kind.counts() || record.heading.kind.opcode().is_some();
            // In what the log has kept of a life that has ended, one may stand before another that is sent again.
            let begins_anew = |record: &Record| self.has_forgotten && record.heading.kind == Kind::Life;
            let life = self.log.records.rsplit(begins_anew).next().unwrap_or_default();
            let theirs = life.iter().filter(|record| record.heading.node == node.id);
            let numbers: Vec<u64> = theirs.filter(is_message).map(|record| record.heading.number).collect();
            assert!(numbers.is_sorted_by(|first, next| first < next), "the order of each node is kept: {numbers:?}");
        }
        if self.has_forgotten {
            self.check_lives();
        } else {
            self.check_places();
        }
    }

    /// What holds although the log has forgotten what was shown.
    fn check_lives(&self) {
        for node in &self.nodes {
            let mut last = BTreeMap::new();
            for ((epoch, seq), _) in &node.shown {
                let before = last.insert(*epoch, *seq);
                assert!(node.has_lost || before.is_none_or(|before| before < *seq), "{epoch:x}:{seq} in order");
            }
            let mut lives: Vec<u64> = node.shown.iter().map(|((epoch, _), _)| *epoch).collect();
            lives.dedup();
            assert_eq!(lives.len(), last.len(), "a life that has ended never goes on: {lives:x?}");
        }
    }

    /// Every place is the same everywhere, nothing is left out, and what was acknowledged is there.
    fn check_places(&self) {
        let mut meaning = BTreeMap::new();
        let lives: BTreeSet<u64> =
            self.nodes.iter().flat_map(|node| &node.shown).map(|((epoch, _), _)| *epoch).collect();
        assert!(lives.len() <= 1, "nothing has ended the room's life: {lives:x?}");
        for node in &self.nodes {
            for (place, id) in &node.shown {
                assert_eq!(meaning.entry(place).or_insert(id), &id, "{place:?}: one order");
            }
            let is_next = |before: (u64, u64), next: (u64, u64)| match node.namespace {
                Namespace::Chat => before.0 != next.0 || before.1 + 1 == next.1,
                // All records of the log are of this room.
                Namespace::Raw => before.1 + 1 == next.1,
            };
            let is_dense = node.shown.windows(2).all(|pair| is_next(pair[0].0, pair[1].0));
            assert!(is_dense && !node.has_lost, "without a hole: {:?}", node.shown);
        }
        for node in &self.nodes {
            for (number, place) in &node.acknowledged {
                assert_eq!(meaning.get(place), Some(&&(node.id, *number)), "{number} was acknowledged");
            }
        }
    }
}

/// Runs three nodes from a seed, until nothing fails any more.
///
/// # Panics
/// If anything that has to hold does not.
pub fn run(seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let namespace = if rng.u8(0..4) == 0 { Namespace::Raw } else { Namespace::Chat };
    let forgets = rng.u8(0..4) == 0;
    let mut world = World::new(namespace);
    for _ in 0..rng.usize(1..STEPS) {
        world.step(rng.usize(0..NODES), rng.u8(0..EVENTS), rng.u8(0..LUCK));
        if forgets && rng.u8(0..100) == 0 {
            match rng.usize(0..=FORGOTTEN_MAX) {
                0 if namespace == Namespace::Chat => world.purge(),
                count => world.forget(namespace, count),
            }
        }
    }
    world.settle();
    // What all of them show.
    for node in 0..NODES {
        world.step(node, 0, LUCK - 1);
        world.settle();
    }
    world.check();
}
