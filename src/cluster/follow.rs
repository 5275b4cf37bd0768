//! How a node follows one room: which records it shows, in which order, under which `Seq` and `Epoch`. Pure.
//!
//! Records arrive one by one, and may be lost, repeated or late on their way; the log itself may forget its end (a broker whose
//! disk lost it, a backup) or all of a room. The order is that of the log, and nothing is shown under a number that the life of
//! the room has used before. What is missing is fetched; what the log doesn't have any more is a hole in `Seq`, of which the
//! members are told.

use std::collections::BTreeMap;

use super::record::{Kind, Record};
use crate::limits::cluster::{HELD_RECORDS_MAX, PAST_EPOCHS};

/// What has to be done next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Show a message in the room.
    Place {
        /// The room's.
        epoch: u64,
        /// The message.
        record: Record,
    },
    /// From here on the room's messages follow: it is loaded, or a new life begins.
    Ready {
        /// That of the messages that follow.
        epoch: u64,
        /// The number of the message before them.
        last_seq: u64,
        /// The room's name as it is written in the log, if that is known.
        name: Option<String>,
    },
    /// Messages of a raw room are lost, nobody knows how many.
    Lose,
    /// Read records of the room, and pass them to [`Follow::fetched`].
    Fetch {
        /// The first position of the stream; `None`: the records that a node keeps for clients that reconnect, and at least the
        /// last one.
        from: Option<u64>,
    },
    /// Write a record of the kind [`Kind::Life`] into the room: the log has forgotten a part of it.
    BeginLife {
        /// The epoch that the record names.
        instead_of: Option<u64>,
    },
}

/// What follows a room of either kind: it gets what arrives, and says what has to be done.
pub trait Following: std::fmt::Debug {
    /// The room's epoch, if it has one that is known.
    fn epoch(&self) -> Option<u64>;

    /// Whether nothing is known to be missing.
    fn is_whole(&self) -> bool;

    /// Whether it is not known what the log has kept: what arrives is held, as much as there is room for.
    fn is_unsure(&self) -> bool;

    /// The position of the last record that is known, and its time in milliseconds since 1970.
    fn tip(&self) -> Option<(u64, u64)>;

    /// A record has arrived.
    fn arrived(&mut self, record: Record, steps: &mut Vec<Step>);

    /// What [`Step::Fetch`] has found: all records from there on, in order, up to `last_at`, which was the position of the
    /// room's last record after the question had been asked; 0 if there was none.
    fn fetched(&mut self, records: Vec<Record>, last_at: u64, steps: &mut Vec<Step>);

    /// A fetch has failed.
    fn failed(&mut self, steps: &mut Vec<Step>);

    /// A life was asked for. It has been written, or could not be: all of the room's records together tell.
    fn life_begun(&mut self, _: &mut Vec<Step>) {}

    /// The connection to the log is lost: what arrives is held until it is known what the log has kept.
    fn disconnected(&mut self);

    /// The connection to the log was lost, and is there again.
    fn reconnected(&mut self, steps: &mut Vec<Step>);

    /// The log may have let go of records since it could not be reached any more.
    fn may_have_lost(&mut self) {}

    /// Makes sure that nothing is missing, because records may have been lost on their way.
    fn look(&mut self, steps: &mut Vec<Step>);

    /// The log has lost what was shown: the room is loaded anew, and its life must not go on.
    fn forget(&mut self, steps: &mut Vec<Step>);
}

/// A question to the log that has not been answered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// The records of the room.
    Records {
        /// All that had arrived before are up to here.
        arrived_until: u64,
        /// The position and the identity of the last that had been shown before.
        shown: (u64, (u64, u64)),
    },
    /// That a life begins: the answer is its record, which arrives like any other.
    Life,
    /// Its answer is of no use any more.
    Stale,
}

/// How far a room has been shown.
#[derive(Clone, Copy, Debug, Default)]
struct Position {
    epoch: u64,
    /// The epoch that it was begun instead of.
    instead_of: Option<u64>,
    /// Epochs before it, the latest first.
    past: [Option<u64>; PAST_EPOCHS],
    /// The count when its life began; `None` if other records have followed.
    born: Option<u64>,
    /// The count of the last record, and
    value: u64,
    /// its position in the stream, and
    at: u64,
    /// its publisher and number.
    id: (u64, u64),
    /// The latest time of a record, in milliseconds since 1970.
    unix_ms: u64,
}

/// One room of the log, as this node sees it.
#[derive(Debug)]
pub struct Follow {
    /// `None` until the room is loaded.
    position: Option<Position>,
    /// The last that was shown before the log forgot it. That life must not go on, nor one before it.
    forgotten: Option<Position>,
    /// Records that arrived before others that are missing, by their position.
    held: BTreeMap<u64, Record>,
    asked: Option<Asked>,
    /// Whether the log may have forgotten what was shown: nothing is shown until that is known.
    unsure: bool,
}

impl Follow {
    /// Begins to follow a room. The caller has subscribed to it already, and now carries out the step.
    pub fn begin() -> (Self, Step) {
        let asked = Some(Asked::Records { arrived_until: 0, shown: (0, (0, 0)) });
        (
            Self { position: None, forgotten: None, held: BTreeMap::new(), asked, unsure: false },
            Step::Fetch { from: None },
        )
    }

    fn ask(&mut self, asked: Asked, step: Step, steps: &mut Vec<Step>) {
        if self.asked.is_none() {
            self.asked = Some(asked);
            steps.push(step);
        }
    }

    fn drop_questions(&mut self) {
        self.asked = match self.asked {
            Some(Asked::Records { .. } | Asked::Stale) => Some(Asked::Stale),
            Some(Asked::Life) | None => None,
        };
    }

    /// Finds the room's life in the records that are held: all that is kept of it, without a hole up to `whole_until`.
    fn load(&mut self, whole_until: u64, steps: &mut Vec<Step>) {
        let is_behind_others = |first: &Record| first.before.is_some_and(|before| before > whole_until);
        if self.held.values().next().is_some_and(is_behind_others) {
            // They were stored after the question had been asked, and are lost on their way.
            return self.look(steps);
        }
        let (mut begin, mut life) = (0, None);
        for record in self.held.values() {
            if begins_life(life, record) {
                begin = record.at;
                life = Some(Position::born(record).behind(life));
            }
            life = life.map(|life| life.after(record));
        }
        self.held = self.held.split_off(&begin);
        let may_go_on = |epoch: &u64| self.forgotten.is_none_or(|forgotten| forgotten.epoch != *epoch);
        let first = self.held.first_key_value().map(|(_, record)| record);
        // Or was begun after it, by a log whose clock may be behind.
        let is_newer = |life: &Position| {
            let is_after = |forgotten: Position| first.is_some_and(|first| first.unix_ms >= forgotten.unix_ms);
            self.forgotten.is_none_or(|forgotten| life.knows(Some(forgotten.epoch)) || is_after(forgotten))
        };
        let epoch = match (life, self.forgotten) {
            // The publisher of a record without a number may not know that the room had expired.
            (None, None) => {
                self.held.values().rev().filter(|record| record.value > 0).find_map(|record| record.heading.epoch)
            }
            (life, _) => life.filter(is_newer).map(|life| life.epoch).filter(may_go_on),
        };
        let first = first.map(|record| (record.at, record.value, record.heading.kind));
        let (Some(epoch), Some((at, value, kind))) = (epoch, first) else {
            // Nobody knows the life of these records, or it must not go on.
            let instead_of = self.forgotten.map(|forgotten| forgotten.epoch);
            return self.ask(Asked::Life, Step::BeginLife { instead_of }, steps);
        };
        let value = value - u64::from(kind.counts());
        let name = self.held.values().rev().find_map(|record| record.content.room());
        let born = life.map(|_| value);
        let instead_of = life.and_then(|life| life.instead_of);
        let past = life.unwrap_or_default().behind(self.forgotten.take()).past;
        self.position = Some(Position { epoch, instead_of, past, born, value, at: at - 1, id: (0, 0), unix_ms: 0 });
        steps.push(Step::Ready { epoch, last_seq: value, name });
        self.take_held(whole_until, steps);
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

    /// Takes the next record of the room. False: others are missing before it, or the log has forgotten what was shown.
    fn take(&mut self, record: Record, is_whole: bool, steps: &mut Vec<Step>) -> bool {
        let Some(position) = &mut self.position else { return false };
        if record.at <= position.at {
            return true;
        }
        let next = position.value + u64::from(record.heading.kind.counts());
        let is_missed = record.before.map_or(record.value > next, |before| before > position.at);
        if is_missed && !is_whole {
            self.held.insert(record.at, record);
            self.look(steps);
            return false;
        }
        if begins_life(Some(*position), &record) {
            let unix_ms = position.unix_ms.max(record.unix_ms);
            let born = Position::born(&record).behind(Some(*position));
            self.position = Some(Position { unix_ms, ..born });
            steps.push(Step::Ready { epoch: born.epoch, last_seq: born.born.unwrap_or(0), name: None });
        } else if record.value < next || record.is_first() {
            self.forget(steps);
            return false;
        } else {
            *position = position.after(&record);
        }
        let misses_life = !is_whole && self.position.is_some_and(|position| !position.knows(record.heading.epoch));
        if let Some(epoch) = self.epoch().filter(|_| record.heading.kind.counts()) {
            steps.push(Step::Place { epoch, record });
        }
        if misses_life {
            self.forget(steps);
        }
        !misses_life
    }
}

impl Following for Follow {
    fn tip(&self) -> Option<(u64, u64)> {
        self.position.map(|position| (position.at, position.unix_ms))
    }

    fn epoch(&self) -> Option<u64> {
        self.position.map(|position| position.epoch)
    }

    fn is_whole(&self) -> bool {
        self.position.is_some() && self.asked.is_none()
    }

    fn is_unsure(&self) -> bool {
        self.unsure
    }

    fn arrived(&mut self, record: Record, steps: &mut Vec<Step>) {
        if let Some(Position { at, unix_ms, .. }) = self.position
            && record.at <= at
            && !self.unsure
        {
            // Known already; or it is new, and the stream has begun again.
            if record.unix_ms > unix_ms {
                self.forget(steps);
            }
            return;
        }
        // Beyond the bound the oldest go: what is missing is fetched.
        if self.held.len() >= HELD_RECORDS_MAX {
            self.held.pop_first();
        }
        let (at, is_first) = (record.at, record.is_first());
        if self.position.is_some() && !self.unsure && self.held.is_empty() {
            self.take(record, false, steps);
            return;
        }
        self.held.insert(at, record);
        if self.position.is_some() {
            if !self.unsure {
                self.take_held(0, steps);
            }
        } else if is_first && self.asked == Some(Asked::Life) && !self.unsure {
            // Nothing was in the log before it: that is all of the room.
            self.asked = None;
            self.held = self.held.split_off(&at);
            self.load(at, steps);
        } else {
            self.life_begun(steps);
        }
    }

    fn fetched(&mut self, mut records: Vec<Record>, last_at: u64, steps: &mut Vec<Step>) {
        let Some(Asked::Records { arrived_until, shown: (shown_at, shown_id) }) = self.asked.take() else {
            return self.look(steps);
        };
        // What had arrived by then is in the log, unless that has forgotten it.
        self.held.retain(|at, _| *at <= last_at || *at > arrived_until);
        self.unsure = false;
        let is_another = records.first().is_some_and(|first| first.at == shown_at && first.heading.id() != shown_id);
        match self.position {
            Some(_) if last_at < shown_at || is_another => self.forget(steps),
            position => {
                if let Some(first) = records.first_mut().filter(|first| position.is_some() && first.at != shown_at) {
                    // Whatever was before it is gone.
                    first.before = Some(0);
                }
                let whole_until = records.last().map_or(last_at, |record| record.at.max(last_at));
                self.held.extend(records.into_iter().map(|record| (record.at, record)));
                if position.is_some() { self.take_held(whole_until, steps) } else { self.load(whole_until, steps) }
            }
        }
    }

    fn failed(&mut self, steps: &mut Vec<Step>) {
        self.asked = None;
        self.look(steps);
    }

    fn life_begun(&mut self, steps: &mut Vec<Step>) {
        if self.asked == Some(Asked::Life) {
            self.failed(steps);
        }
    }

    fn disconnected(&mut self) {
        self.unsure = true;
    }

    fn reconnected(&mut self, steps: &mut Vec<Step>) {
        self.unsure = true;
        self.drop_questions();
        self.look(steps);
    }

    fn look(&mut self, steps: &mut Vec<Step>) {
        let from = self.position.map(|position| position.at);
        let arrived_until = self.held.last_key_value().map_or(0, |(at, _)| *at);
        let shown = self.position.map_or((0, (0, 0)), |position| (position.at, position.id));
        self.ask(Asked::Records { arrived_until, shown }, Step::Fetch { from }, steps);
    }

    fn forget(&mut self, steps: &mut Vec<Step>) {
        self.forgotten = self.position.take().or(self.forgotten);
        self.held.clear();
        self.drop_questions();
        self.look(steps);
    }
}

impl Position {
    /// The position after a record that begins a life.
    fn born(record: &Record) -> Self {
        let Record { at, value, unix_ms, .. } = *record;
        let born = Some(value - u64::from(record.heading.kind.counts()));
        let heading = &record.heading;
        let instead_of = heading.epoch.filter(|_| heading.kind == Kind::Life);
        let epoch = heading.epoch_begun();
        Self { epoch, instead_of, past: Default::default(), born, value, at, id: heading.id(), unix_ms }
    }

    /// The same behind another life, if there was one.
    fn behind(mut self, before: Option<Self>) -> Self {
        if let Some(before) = before {
            let last = [Some(before.epoch), before.instead_of];
            let mut known = self.past.into_iter().chain(last).chain(before.past).flatten();
            self.past = std::array::from_fn(|_| known.next());
        }
        self
    }

    /// The position after another record of the same life.
    fn after(self, record: &Record) -> Self {
        let born = self.born.filter(|_| record.heading.kind == Kind::Life);
        let unix_ms = self.unix_ms.max(record.unix_ms);
        Self { born, value: record.value, at: record.at, id: record.heading.id(), unix_ms, ..self }
    }

    /// Whether a publisher that takes this for the epoch is as far as this node, or behind it. If not, one of them has missed how a
    /// life began, and the log has forgotten that: all go on with a new one.
    fn knows(&self, named: Option<u64>) -> bool {
        named.is_none() || [Some(self.epoch), self.instead_of].contains(&named) || self.past.contains(&named)
    }

    /// Whether this record would begin the life that has just begun: several nodes may write one at the same time, and the first
    /// counts.
    fn is_begun_again(&self, record: &Record) -> bool {
        self.born == Some(record.value) && self.value == record.value && self.instead_of == record.heading.epoch
    }
}

/// Whether a new life begins with this record. `before` is what comes before it.
fn begins_life(before: Option<Position>, record: &Record) -> bool {
    match record.heading.kind {
        Kind::Life => record.is_first() || !before.is_some_and(|before| before.is_begun_again(record)),
        // A silent room expires in the log, and counts from 1 again.
        Kind::Message => record.value == 1 && (record.is_first() || before.is_none_or(|before| before.value != 0)),
        Kind::Touch | Kind::Text | Kind::Binary => false,
    }
}

#[cfg(test)]
mod tests;
