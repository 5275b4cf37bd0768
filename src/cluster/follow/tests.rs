use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::cluster::record::{Content, Heading};

/// A log of one room that does what brokers do at their worst.
#[derive(Default)]
struct Log {
    last_at: u64,
    now_ms: u64,
    records: Vec<Record>,
}

impl Log {
    fn append(&mut self, kind: Kind, epoch: Option<u64>, number: u64) -> Record {
        self.now_ms += 1;
        self.last_at += 1;
        let value = self.records.last().map_or(0, |record| record.value) + u64::from(kind.counts());
        let heading = Heading { kind, epoch, node: 0, number };
        let before = Some(self.records.last().map_or(0, |record| record.at));
        let record = Record {
            at: self.last_at,
            before,
            value,
            unix_ms: self.now_ms,
            heading,
            content: Content::Json(String::new()),
        };
        self.records.push(record.clone());
        record
    }

    /// The room expires, and nothing but its position in the stream is left.
    fn expire(&mut self) {
        self.records.clear();
    }

    /// The oldest records have to go: there are more than the log keeps.
    fn trim(&mut self, count: usize) {
        self.records.drain(..count.min(self.records.len().saturating_sub(1)));
    }

    /// The disk has lost the last records, and their positions are used again.
    fn lose(&mut self, count: usize) {
        self.records.truncate(self.records.len().saturating_sub(count));
        self.last_at = self.last_at.saturating_sub(count as u64).max(self.records.last().map_or(0, |record| record.at));
    }

    /// The stream is lost, and made again, perhaps by a broker whose clock is behind.
    fn make_again(&mut self) {
        *self = Self { now_ms: self.now_ms / 2, ..Self::default() };
    }

    fn read(&self, from: Option<u64>) -> (Vec<Record>, u64) {
        let wanted = self.records.iter().filter(|record| record.at >= from.unwrap_or(0));
        (
            wanted.map(|record| Record { before: None, ..record.clone() }).collect(),
            self.records.last().map_or(0, |record| record.at),
        )
    }
}

/// A node that follows the room, with everything that is on its way to it.
struct Node {
    follow: Follow,
    /// Records in the order in which the log sent them.
    coming: Vec<Record>,
    asked: Vec<Step>,
    shown: Vec<(u64, u64, u64)>,
    last: Option<(u64, u64)>,
}

impl Node {
    fn new() -> Self {
        let (follow, step) = Follow::begin();
        Self { follow, coming: Vec::new(), asked: vec![step], shown: Vec::new(), last: None }
    }

    fn carry_out(&mut self, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::Place { epoch, record } => {
                    self.shown.push((epoch, record.value, record.heading.number));
                    self.last = Some((epoch, record.value));
                }
                Step::Ready { epoch, last_seq, .. } => self.last = Some((epoch, last_seq)),
                asked => self.asked.push(asked),
            }
        }
    }

    /// Answers the oldest question; a record that it wants written is returned.
    fn answer(&mut self, log: &Log, fails: bool) -> Option<Option<u64>> {
        let mut steps = Vec::new();
        if self.asked.is_empty() {
            return None;
        }
        match self.asked.remove(0) {
            Step::BeginLife { instead_of } => return Some(instead_of),
            _ if fails => self.follow.failed(&mut steps),
            Step::Fetch { from } => {
                let (records, last_at) = log.read(from);
                self.follow.fetched(records, last_at, &mut steps);
            }
            other => panic!("not a question: {other:?}"),
        }
        self.carry_out(steps);
        None
    }

    fn arrive(&mut self, index: usize) {
        let record = self.coming.remove(index);
        let mut steps = Vec::new();
        self.follow.arrived(record, &mut steps);
        self.carry_out(steps);
    }
}

#[derive(Clone, Debug)]
enum Event {
    Publish(usize),
    Touch,
    Arrive(usize, prop::sample::Index),
    Repeat(usize),
    Lose(usize),
    Answer(usize, bool),
    Join,
    /// The log forgets, and those that notice find out by themselves.
    Expire,
    Forget(usize),
    /// The oldest go, as they always do.
    Trim(usize),
    MakeAgain,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (0..3usize).prop_map(Event::Publish),
        1 => Just(Event::Touch),
        10 => (0..4usize, any::<prop::sample::Index>()).prop_map(|(node, which)| Event::Arrive(node, which)),
        2 => (0..4usize).prop_map(Event::Repeat),
        2 => (0..4usize).prop_map(Event::Lose),
        8 => (0..4usize, prop::bool::weighted(0.1)).prop_map(|(node, fails)| Event::Answer(node, fails)),
        1 => Just(Event::Join),
    ]
}

/// With a log that forgets whole rooms.
fn event_or_end() -> impl Strategy<Value = Event> {
    prop_oneof![20 => event(), 1 => Just(Event::Expire), 1 => Just(Event::MakeAgain)]
}

/// With a log that forgets the last records.
fn event_or_loss() -> impl Strategy<Value = Event> {
    prop_oneof![20 => event(), 1 => (1..4usize).prop_map(Event::Forget), 1 => (1..6usize).prop_map(Event::Trim)]
}

/// With a log that forgets its oldest and its last records, or all of them.
fn event_or_anything() -> impl Strategy<Value = Event> {
    prop_oneof![20 => event_or_loss(), 1 => Just(Event::MakeAgain)]
}

/// Three nodes, and a fourth that joins, and the log between them.
struct World {
    log: Log,
    nodes: Vec<Node>,
    /// Numbers of the messages that were stored, without those that the log has forgotten since.
    stored: BTreeSet<u64>,
    published: u64,
}

impl World {
    fn new() -> Self {
        let log = Log { now_ms: 1, ..Log::default() };
        let nodes = (0..3).map(|_| Node::new()).collect();
        Self { log, nodes, stored: BTreeSet::new(), published: 0 }
    }

    fn begin_life(&mut self, node: usize, instead_of: Option<u64>) {
        self.append(Kind::Life, instead_of);
        let mut steps = Vec::new();
        self.nodes[node].follow.life_begun(&mut steps);
        self.nodes[node].carry_out(steps);
    }

    fn append(&mut self, kind: Kind, epoch: Option<u64>) {
        self.published += 1;
        let record = self.log.append(kind, epoch, self.published);
        if kind.counts() {
            self.stored.insert(self.published);
        }
        self.nodes.iter_mut().for_each(|node| node.coming.push(record.clone()));
    }

    fn forget(&mut self, change: impl FnOnce(&mut Log)) {
        change(&mut self.log);
        self.stored = self.log.records.iter().map(|record| record.heading.number).collect();
    }

    /// The broker has been down: nothing is on its way any more, and every node has noticed.
    fn reconnect(&mut self, notice: fn(&mut Follow, &mut Vec<Step>)) {
        for node in &mut self.nodes {
            node.coming.clear();
            let mut steps = Vec::new();
            notice(&mut node.follow, &mut steps);
            node.carry_out(steps);
        }
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Publish(node) => {
                let epoch = self.nodes[node].follow.epoch();
                // A room that a node doesn't know yet may still be published to.
                self.append(Kind::Message, epoch);
            }
            Event::Touch => self.append(Kind::Touch, self.nodes[0].follow.epoch()),
            Event::Join if self.nodes.len() < 4 => self.nodes.push(Node::new()),
            Event::Join => {}
            // That takes long enough for everything else to arrive.
            Event::Expire => {
                self.settle();
                self.forget(Log::expire);
            }
            Event::Forget(count) => {
                self.forget(|log| log.lose(count));
                self.reconnect(Follow::reconnected);
            }
            Event::Trim(count) => self.log.trim(count),
            Event::MakeAgain => {
                self.forget(Log::make_again);
                self.reconnect(Follow::forget);
            }
            Event::Arrive(node, which) if node < self.nodes.len() => {
                let node = &mut self.nodes[node];
                if !node.coming.is_empty() {
                    node.arrive(which.index(node.coming.len()));
                }
            }
            Event::Repeat(node) if node < self.nodes.len() => {
                let coming = &mut self.nodes[node].coming;
                coming.extend(coming.first().cloned());
            }
            Event::Lose(node) if node < self.nodes.len() => {
                self.nodes[node].coming.pop();
            }
            Event::Answer(node, fails) if node < self.nodes.len() => {
                if let Some(instead_of) = self.nodes[node].answer(&self.log, fails) {
                    self.begin_life(node, instead_of);
                }
            }
            _ => {}
        }
    }

    /// Everything arrives, all questions are answered, and every node looks once more, as after a reconnect.
    fn settle(&mut self) {
        for round in 0..12 {
            for node in 0..self.nodes.len() {
                while !self.nodes[node].coming.is_empty() {
                    self.nodes[node].arrive(0);
                }
                if round % 4 == 0 {
                    let mut steps = Vec::new();
                    self.nodes[node].follow.look(&mut steps);
                    self.nodes[node].carry_out(steps);
                }
                while !self.nodes[node].asked.is_empty() {
                    if let Some(instead_of) = self.nodes[node].answer(&self.log, false) {
                        self.begin_life(node, instead_of);
                    }
                }
            }
        }
    }

    /// No number means two messages in one epoch, and no node shows a number twice or out of order. If the disk has lost
    /// records, their numbers may have been used again by nodes that had not seen them.
    fn check_order(&self, lost: bool) {
        let mut meaning = BTreeMap::new();
        for node in &self.nodes {
            let mut last = BTreeMap::new();
            for (epoch, seq, number) in &node.shown {
                assert!(lost || *meaning.entry((*epoch, *seq)).or_insert(*number) == *number, "{epoch:x}:{seq}");
                assert!(last.insert(*epoch, *seq).is_none_or(|last| last < *seq), "{epoch:x}:{seq} in order");
            }
            let epochs: Vec<u64> = node.shown.iter().map(|(epoch, ..)| *epoch).collect();
            let mut lives = epochs.clone();
            lives.dedup();
            assert_eq!(
                lives.len(),
                epochs.iter().collect::<BTreeSet<_>>().len(),
                "a life that has ended never goes on"
            );
        }
    }
}

fn run(events: Vec<Event>) -> World {
    let mut world = World::new();
    let lost = events.iter().any(|event| matches!(event, Event::Forget(_)));
    events.into_iter().for_each(|event| world.step(event));
    world.settle();
    // Sooner or later somebody says something everywhere.
    for node in 0..world.nodes.len() {
        world.step(Event::Publish(node));
        world.settle();
    }
    world.check_order(lost);
    let ends: Vec<_> = world.nodes.iter().map(|node| node.last).collect();
    assert!(ends[0].is_some() && ends.iter().all(|end| *end == ends[0]), "all know the same end: {ends:?}");
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_is_lost_on_its_way_is_shown_once_in_order_and_whole(events in prop::collection::vec(event(), 1..120)) {
        let world = run(events);
        for node in &world.nodes[..3] {
            let shown: Vec<u64> = node.shown.iter().map(|(.., number)| *number).collect();
            let first = shown.first().copied().unwrap_or(u64::MAX);
            // Messages from before the room had a life have no number that means anything.
            let due: Vec<u64> = world.stored.iter().copied().filter(|number| *number >= first).collect();
            prop_assert_eq!(shown, due);
        }
    }

    #[test]
    fn a_room_that_begins_again_never_uses_a_number_twice(events in prop::collection::vec(event_or_end(), 1..160)) {
        run(events);
    }

    #[test]
    fn a_node_that_has_shown_what_the_disk_lost_does_not_go_on(events in prop::collection::vec(event_or_loss(), 1..160)) {
        run(events);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// A backup is restored, the disk has lost its end, and old records expire, whichever comes first.
    #[test]
    fn nodes_agree_again_whatever_the_log_forgets(events in prop::collection::vec(event_or_anything(), 1..200)) {
        run(events);
    }
}

fn shown(steps: &[Step]) -> Vec<u64> {
    let seq = |step: &Step| match step {
        Step::Place { record, .. } => Some(record.value),
        _ => None,
    };
    steps.iter().filter_map(seq).collect()
}

#[test]
fn what_the_log_no_longer_has_is_a_hole() {
    let (mut log, mut steps) = (Log::default(), Vec::new());
    log.append(Kind::Life, None, 0);
    let (mut follow, _) = Follow::begin();
    let (records, last_at) = log.read(None);
    follow.fetched(records, last_at, &mut steps);
    assert!(matches!(steps[..], [Step::Ready { last_seq: 0, .. }]), "{steps:?}");
    let records: Vec<Record> = (1..=5).map(|number| log.append(Kind::Message, follow.epoch(), number)).collect();
    steps.clear();
    follow.arrived(records[4].clone(), &mut steps);
    assert_eq!(steps, [Step::Fetch { from: Some(1) }]);
    steps.clear();
    follow.fetched(records[3..].to_vec(), 6, &mut steps);
    assert_eq!(shown(&steps), [4, 5]);
}

#[test]
fn a_node_that_loads_the_end_of_a_long_room_takes_the_epoch_that_others_name() {
    let (mut log, mut steps) = (Log::default(), Vec::new());
    let life = log.append(Kind::Life, None, 0);
    let named = life.heading.epoch_begun();
    let records: Vec<Record> = (1..=9).map(|number| log.append(Kind::Message, Some(named), number)).collect();
    let (mut follow, _) = Follow::begin();
    follow.fetched(records[6..].to_vec(), 10, &mut steps);
    assert_eq!((shown(&steps), follow.epoch()), (vec![7, 8, 9], Some(named)));
    assert_eq!(steps.first(), Some(&Step::Ready { epoch: named, last_seq: 6, name: None }));
}

#[test]
fn a_record_that_is_lost_while_its_room_is_loaded_is_fetched() {
    let (mut log, mut steps) = (Log::default(), Vec::new());
    let (mut follow, _) = Follow::begin();
    let (records, last_at) = log.read(None);
    let life = log.append(Kind::Life, None, 0);
    follow.arrived(log.append(Kind::Message, Some(life.heading.epoch_begun()), 1), &mut steps);
    follow.fetched(records, last_at, &mut steps);
    assert_eq!(steps, [Step::Fetch { from: None }]);
    steps.clear();
    let (records, last_at) = log.read(None);
    follow.fetched(records, last_at, &mut steps);
    assert_eq!((shown(&steps), follow.epoch()), (vec![1], Some(life.heading.epoch_begun())));
}

#[test]
fn a_log_whose_clock_is_behind_begins_one_life() {
    let (mut log, mut node) = (Log { now_ms: 1000, ..Log::default() }, Node::new());
    let old = log.append(Kind::Life, None, 0).heading.epoch_begun();
    assert_eq!(node.answer(&log, false), None);
    log.make_again();
    let mut steps = Vec::new();
    node.follow.forget(&mut steps);
    node.carry_out(steps);
    assert_eq!(node.answer(&log, false), None, "the room is empty");
    assert_eq!(node.answer(&log, false), Some(Some(old)), "a life is to begin");
    node.coming.push(log.append(Kind::Life, Some(old), 1));
    node.arrive(0);
    assert_eq!((&node.asked, node.last.map(|(epoch, _)| epoch)), (&Vec::new(), node.follow.epoch()));
    assert_eq!(node.follow.epoch(), Some(log.records[0].heading.epoch_begun()));
}

#[test]
fn the_first_record_of_a_room_is_all_of_it_and_another_one_is_not() {
    for is_first in [true, false] {
        let (mut log, mut node) = (Log::default(), Node::new());
        assert_eq!(node.answer(&log, false), None, "the room is empty");
        assert_eq!(node.answer(&log, false), Some(None), "a life is to begin");
        if !is_first {
            // Another node was faster, and its record was lost on its way.
            log.append(Kind::Message, Some(7), 1);
        }
        node.coming.push(log.append(Kind::Life, None, 2));
        node.arrive(0);
        assert_eq!(node.asked.is_empty(), is_first, "{:?}", node.asked);
        assert_eq!(node.last.is_some(), is_first);
    }
}
