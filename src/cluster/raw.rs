//! How a node follows one raw room: which records it shows, in which order. Pure.
//!
//! Raw messages are not numbered, and kept for a moment only. Each record names the position of the room's record before it, so a
//! record that was lost on its way is noticed, and fetched. What the log doesn't have any more is lost, and the members are told
//! as they are told of anything that they miss.

use std::collections::BTreeMap;

use super::follow::{Following, Step};
use super::record::Record;
use crate::limits::cluster::{HELD_RECORDS_MAX, RAW_AGE_MS, RAW_RECORDS_MAX};

/// The last record that was shown.
#[derive(Clone, Copy, Debug, Default)]
struct Last {
    at: u64,
    id: (u64, u64),
    unix_ms: u64,
}

/// One raw room of the log, as this node sees it.
#[derive(Debug, Default)]
pub struct RawFollow {
    /// `None` until the room's last record is known.
    last: Option<Last>,
    held: BTreeMap<u64, Record>,
    /// Whether the log has been asked; if so, whether its answer is of use.
    asked: Option<bool>,
    /// Whether records may have been lost: nothing is shown until that is known.
    unsure: bool,
    /// Whether the log may have let go of some that were not shown.
    is_late: bool,
}

impl RawFollow {
    /// Begins to follow a room. The caller has subscribed to it already, and now carries out the step.
    pub fn begin() -> (Self, Step) {
        (Self { asked: Some(true), ..Self::default() }, Step::Fetch { from: None })
    }

    /// Shows the records that are held, as far as nothing is missing before them. Up to `whole_until`, what is missing is gone.
    fn take_held(&mut self, whole_until: u64, steps: &mut Vec<Step>) {
        while let Some((at, record)) = self.held.pop_first() {
            if !self.take(record, at <= whole_until, steps) {
                return;
            }
        }
        // An empty one would still have the memory of eleven records.
        self.held = BTreeMap::new();
    }

    /// Shows the next record. False: others are missing before it.
    fn take(&mut self, record: Record, is_whole: bool, steps: &mut Vec<Step>) -> bool {
        let Some(last) = self.last.filter(|last| record.at > last.at) else { return true };
        if !is_whole && record.before.is_some_and(|before| before > last.at) {
            self.held.insert(record.at, record);
            self.look(steps);
            return false;
        }
        self.last = Some(Last { at: record.at, id: record.heading.id(), unix_ms: record.unix_ms });
        steps.push(Step::Place { epoch: 0, record });
        true
    }
}

impl Following for RawFollow {
    fn epoch(&self) -> Option<u64> {
        None
    }

    fn tip(&self) -> Option<(u64, u64)> {
        self.last.map(|last| (last.at, last.unix_ms))
    }

    fn is_whole(&self) -> bool {
        self.last.is_some() && self.asked.is_none()
    }

    fn is_unsure(&self) -> bool {
        self.unsure
    }

    fn arrived(&mut self, record: Record, steps: &mut Vec<Step>) {
        let may_show = self.last.is_some() && !self.unsure && self.asked.is_none();
        if may_show && self.held.is_empty() {
            self.take(record, false, steps);
            return;
        }
        if self.held.len() >= HELD_RECORDS_MAX {
            self.held.pop_first();
        }
        self.held.insert(record.at, record);
        if may_show {
            self.take_held(0, steps);
        }
    }

    fn fetched(&mut self, records: Vec<Record>, last_at: u64, steps: &mut Vec<Step>) {
        if self.asked.take() != Some(true) {
            return self.look(steps);
        }
        self.unsure = false;
        let is_late = std::mem::take(&mut self.is_late);
        let Some(last) = self.last else {
            // Members get what comes from now on.
            let known =
                records.last().map(|record| Last { at: last_at, id: record.heading.id(), unix_ms: record.unix_ms });
            self.last = Some(known.unwrap_or(Last { at: last_at, ..Last::default() }));
            self.held = self.held.split_off(&(last_at + 1));
            steps.push(Step::Ready { epoch: 0, last_seq: 0, name: None });
            return self.take_held(0, steps);
        };
        let first = records.first();
        if first.is_some_and(|first| first.at == last.at && first.heading.id() != last.id) {
            // The stream has begun again.
            return self.forget(steps);
        }
        let newest_ms = records.last().map_or(0, |record| record.unix_ms);
        let is_gone = first.is_none_or(|first| first.at > last.at);
        let is_early = newest_ms < last.unix_ms + RAW_AGE_MS;
        let has_lost = last.at > 0 && first.is_some() && (records.len() >= RAW_RECORDS_MAX || is_early);
        if is_gone && (is_late || has_lost) {
            steps.push(Step::Lose);
        }
        let whole_until = records.last().map_or(last_at, |record| record.at.max(last_at));
        self.held.extend(records.into_iter().map(|record| (record.at, record)));
        self.take_held(whole_until, steps);
    }

    fn failed(&mut self, steps: &mut Vec<Step>) {
        self.asked = None;
        self.look(steps);
    }

    fn disconnected(&mut self) {
        self.unsure = true;
    }

    fn reconnected(&mut self, steps: &mut Vec<Step>) {
        self.unsure = true;
        self.asked = self.asked.map(|_| false);
        self.look(steps);
    }

    fn may_have_lost(&mut self) {
        self.is_late = true;
    }

    fn look(&mut self, steps: &mut Vec<Step>) {
        if self.asked.is_none() {
            self.asked = Some(true);
            steps.push(Step::Fetch { from: self.last.map(|last| last.at.max(1)) });
        }
    }

    fn forget(&mut self, steps: &mut Vec<Step>) {
        self.is_late = false;
        self.held.clear();
        if self.last.take().is_some() {
            self.last = Some(Last::default());
            steps.push(Step::Lose);
        }
        self.asked = self.asked.map(|_| false);
        self.look(steps);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cluster::record::{Content, Heading, Kind};

    /// The log of one raw room among others.
    #[derive(Default)]
    struct Log {
        last_at: u64,
        records: Vec<Record>,
    }

    impl Log {
        fn append(&mut self, number: u64) -> Record {
            self.last_at += 1 + number % 3;
            let heading = Heading { kind: Kind::Binary, epoch: None, node: 1, number };
            let (at, before) = (self.last_at, Some(self.records.last().map_or(0, |record| record.at)));
            let content = Content::Frame(bytes::Bytes::new());
            let record = Record { at, before, value: 0, unix_ms: number, heading, content };
            self.records.push(record.clone());
            record
        }

        fn read(&self, from: Option<u64>) -> (Vec<Record>, u64) {
            let wanted = self.records.iter().filter(|record| record.at >= from.unwrap_or(self.last_at));
            let last_at = self.records.last().map_or(0, |record| record.at);
            (wanted.map(|record| Record { before: None, ..record.clone() }).collect(), last_at)
        }
    }

    #[derive(Default)]
    struct Node {
        follow: RawFollow,
        shown: Vec<u64>,
        lost: usize,
        asked: Vec<Option<u64>>,
    }

    impl Node {
        fn carry_out(&mut self, steps: Vec<Step>) {
            for step in steps {
                match step {
                    Step::Place { record, .. } => self.shown.push(record.heading.number),
                    Step::Fetch { from } => self.asked.push(from),
                    Step::Lose => self.lost += 1,
                    Step::Ready { .. } => {}
                    Step::BeginLife { .. } => panic!("raw rooms have no lives"),
                }
            }
        }

        fn answer(&mut self, log: &Log, fails: bool) {
            if let Some(from) = self.asked.pop() {
                let mut steps = Vec::new();
                let (records, last_at) = log.read(from);
                match fails {
                    true => self.follow.failed(&mut steps),
                    false => self.follow.fetched(records, last_at, &mut steps),
                }
                self.carry_out(steps);
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_is_lost_on_its_way_is_shown_once_in_order(events in prop::collection::vec(0..12u8, 1..150)) {
            let (mut log, mut number) = (Log::default(), 0);
            let (follow, step) = RawFollow::begin();
            let mut node = Node { follow, ..Node::default() };
            node.carry_out(vec![step]);
            let mut coming = Vec::new();
            node.answer(&log, false);
            for event in events {
                let mut steps = Vec::new();
                match event {
                    0..4 => {
                        number += 1;
                        coming.push(log.append(number));
                    }
                    4..7 if !coming.is_empty() => node.follow.arrived(coming.remove(0), &mut steps),
                    7 => drop(coming.pop()),
                    8 => coming.extend(coming.first().cloned()),
                    9 => {
                        coming.clear();
                        node.follow.reconnected(&mut steps);
                    }
                    _ => node.answer(&log, event == 11),
                }
                node.carry_out(steps);
            }
            for round in 0..6 {
                let mut steps = Vec::new();
                coming.drain(..).for_each(|record| node.follow.arrived(record, &mut steps));
                if round == 0 {
                    node.follow.look(&mut steps);
                }
                node.carry_out(steps);
                node.answer(&log, false);
            }
            prop_assert_eq!(node.shown, (1..=number).collect::<Vec<_>>());
            prop_assert_eq!(node.lost, 0);
        }
    }

    /// The first record of a room has arrived.
    fn one_shown() -> (Log, Node, Vec<Step>) {
        let (mut log, mut steps) = (Log::default(), Vec::new());
        let (follow, _) = RawFollow::begin();
        let mut node = Node { follow, ..Node::default() };
        node.follow.fetched(Vec::new(), 0, &mut steps);
        node.follow.arrived(log.append(1), &mut steps);
        (log, node, steps)
    }

    #[test]
    fn after_a_long_time_without_the_log_only_a_room_whose_last_record_is_still_there_is_known_to_be_whole() {
        for (is_late, kept, lost) in [(false, 0, 0), (true, 0, 1), (true, 1, 1), (true, 2, 0)] {
            let (mut log, mut node, mut steps) = one_shown();
            node.follow.disconnected();
            log.append(1 + RAW_AGE_MS);
            log.records.drain(..2 - kept);
            if is_late {
                node.follow.may_have_lost();
            }
            node.follow.reconnected(&mut steps);
            node.carry_out(steps);
            node.answer(&log, false);
            assert_eq!((node.lost, node.shown.len()), (lost, 1 + usize::from(kept > 0)), "{is_late} {kept}");
        }
    }

    #[test]
    fn what_the_log_has_dropped_and_a_stream_that_was_made_again_are_losses() {
        let (mut log, mut node, mut steps) = one_shown();
        (2..6).for_each(|number| drop(log.append(number)));
        log.records.drain(..3);
        let last = log.append(6);
        node.follow.arrived(last, &mut steps);
        node.carry_out(steps);
        node.answer(&log, false);
        assert_eq!((&node.shown[..], node.lost), (&[1, 4, 5, 6][..], 1));
        let (mut steps, mut log) = (Vec::new(), Log::default());
        node.follow.forget(&mut steps);
        log.append(7);
        node.carry_out(steps);
        node.answer(&log, false);
        assert_eq!((node.shown.last(), node.lost), (Some(&7), 2));
    }
}
