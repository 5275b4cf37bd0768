//! What clients of several servers have seen and were told, and whether it fits together: one order, and nothing lost, doubled or
//! reordered that was acknowledged.

#![allow(unreachable_pub, reason = "a test has no outside")]

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::time::Instant;

use crate::roaming::Position;

/// See the module.
#[derive(Default)]
pub struct Ledger {
    chat: Mutex<Chat>,
    raw: Mutex<Raw>,
}

#[derive(Default)]
struct Chat {
    /// Sender and text of each message that somebody has seen.
    order: BTreeMap<Position, (String, String)>,
    acknowledged: Vec<(Position, String)>,
}

#[derive(Default)]
struct Raw {
    /// What connections have got, without a hole, and when each had joined.
    runs: Vec<(Instant, Vec<String>)>,
    /// When each message was sent.
    sent: HashMap<String, Instant>,
    /// When each was acknowledged.
    acknowledged: HashMap<String, Instant>,
}

/// How much of it there was.
#[derive(Debug, PartialEq, Eq)]
pub struct Totals {
    pub messages: usize,
    pub acknowledged: usize,
    pub lives: usize,
    pub raw_messages: usize,
    pub raw_acknowledged: usize,
}

/// A text names its publisher, the publisher's connection, and its number there.
pub fn text(publisher: &str, connection: usize, number: usize) -> String {
    format!("{publisher} {connection} {number}")
}

/// Publisher and connection, and the number, of a text that a test has published.
fn parse(text: &str) -> Option<(&str, usize)> {
    let (source, number) = text.rsplit_once(' ')?;
    Some((source, number.parse().ok()?))
}

impl Ledger {
    /// Somebody has got a message: everybody gets the same in this place.
    #[track_caller]
    pub fn saw(&self, position: &Position, from: &str, text: &str) {
        let message = (from.to_owned(), text.to_owned());
        let known = self.chat.lock().unwrap().order.entry(position.clone()).or_insert_with(|| message.clone()).clone();
        assert_eq!(message, known, "{position:?}");
    }

    /// A publisher was told that its message is here.
    pub fn acknowledged(&self, position: Position, text: String) {
        self.chat.lock().unwrap().acknowledged.push((position, text));
    }

    /// A connection has got these messages of the raw room, and none between them is missing.
    pub fn ran(&self, joined: Instant, messages: Vec<String>) {
        self.raw.lock().unwrap().runs.push((joined, messages));
    }

    /// A raw message is sent now.
    pub fn raw_sent(&self, text: &str) {
        self.raw.lock().unwrap().sent.insert(text.to_owned(), Instant::now());
    }

    /// A raw message was acknowledged.
    pub fn raw_acknowledged(&self, text: String) {
        self.raw.lock().unwrap().acknowledged.insert(text, Instant::now());
    }

    /// Everything fits together. What clients were told is missing, they have checked.
    pub fn check(&self) -> Totals {
        let (messages, acknowledged, lives) = self.chat.lock().unwrap().check();
        let (raw_messages, raw_acknowledged) = self.raw.lock().unwrap().check();
        Totals { messages, acknowledged, lives, raw_messages, raw_acknowledged }
    }
}

impl Chat {
    fn check(&self) -> (usize, usize, usize) {
        let (mut places, mut last_of, mut lives) = (HashMap::new(), HashMap::new(), Vec::new());
        for (position, (_, text)) in &self.order {
            if lives.last() != Some(&&position.epoch) {
                lives.push(&position.epoch);
            }
            let Some((source, number)) = parse(text) else { continue };
            if let Some(other) = places.insert(text, position) {
                panic!("{text} is doubled: {other:?}, {position:?}");
            }
            let last = last_of.insert((&position.epoch, source), number);
            assert!(last.is_none_or(|last| last < number), "{text} comes behind {last:?}: {position:?}");
        }
        for (position, text) in &self.acknowledged {
            assert_eq!(places.get(text), Some(&position), "{text} was acknowledged");
        }
        (self.order.len(), self.acknowledged.len(), lives.len())
    }
}

impl Raw {
    fn check(&self) -> (usize, usize) {
        // What comes behind each message is the same for all.
        let (mut next, mut before) = (HashMap::new(), HashMap::new());
        for (_, run) in &self.runs {
            for pair in run.windows(2) {
                let (first, second) = (&pair[0], &pair[1]);
                let other = next.insert(first, second);
                assert!(other.is_none_or(|other| other == second), "behind {first}: {second}, {other:?}");
                let other = before.insert(second, first);
                assert!(other.is_none_or(|other| other == first), "before {second}: {first}, {other:?}");
            }
            let mut last_of = HashMap::new();
            for text in run {
                let Some((source, number)) = parse(text) else { continue };
                let last = last_of.insert(source, number);
                assert!(last.is_none_or(|last| last < number), "{text} comes behind {last:?}");
            }
        }
        let seen: std::collections::HashSet<&String> = self.runs.iter().flat_map(|(_, run)| run).collect();
        for (text, answered) in self.acknowledged.iter().filter(|(text, _)| !seen.contains(text)) {
            let sent = self.sent[text];
            // A connection that was there before it, and got what came later, would have got it.
            let has_missed = self.runs.iter().find(|(joined, run)| {
                let later = run.last().and_then(|last| self.sent.get(last));
                *joined < sent && later.is_some_and(|later| later > answered)
            });
            assert!(has_missed.is_none(), "{text} was acknowledged, and nobody has seen it");
        }
        (seen.len(), self.acknowledged.len())
    }
}
