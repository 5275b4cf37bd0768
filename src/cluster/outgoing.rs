//! Messages of this node on their way into the log: which are sent again when an answer is missing, and which are given up. Pure:
//! time comes in as milliseconds of a clock that never goes back.
//!
//! The messages that a node publishes in a room keep their order. So when one of them fails, those behind it wait. Once there is
//! an answer for each that was sent, or there will be none, the room is looked at: what is missing there is sent again, unless
//! a later one has been stored.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use crate::limits::cluster::ACK_MS_MAX;

/// What happens to a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Act {
    /// The room's records are read: those of this node that are there are [stored](Outgoing::stored).
    Look,
    /// It is sent again.
    Send(u64),
    /// Nothing is known about it, and it is too late.
    GiveUp(u64),
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// One before it has failed.
    Waiting,
    Sent {
        at_ms: u64,
    },
    Failed,
}

#[derive(Debug)]
struct Unstored {
    number: u64,
    since_ms: u64,
    state: State,
    /// Whether a later one has been stored: it can't be sent again.
    overtaken: bool,
}

/// The messages of one room.
#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<Unstored>,
    /// Whether the room has been looked at since the last failure.
    looked: bool,
}

/// All messages that the log has not confirmed, by room.
#[derive(Debug, Default)]
pub struct Outgoing {
    rooms: HashMap<Rc<str>, Queue>,
}

impl Outgoing {
    /// A message is to be published. True: it is sent at once.
    pub fn submit(&mut self, room: &Rc<str>, number: u64, now_ms: u64) -> bool {
        let queue = &mut self.rooms.entry(Rc::clone(room)).or_default().messages;
        // Behind one that has failed there are only such, and those that wait.
        let goes = queue.back().is_none_or(|last| matches!(last.state, State::Sent { .. }))
            && queue.front().is_none_or(|first| first.state != State::Failed);
        let state = if goes { State::Sent { at_ms: now_ms } } else { State::Waiting };
        queue.push_back(Unstored { number, since_ms: now_ms, state, overtaken: false });
        goes
    }

    /// The log has stored a message. Returns those before it that must be given up: sent again, they would come behind it.
    pub fn stored(&mut self, room: &str, number: u64) -> Vec<u64> {
        let Some(Queue { messages: queue, .. }) = self.rooms.get_mut(room) else { return Vec::new() };
        let Some(index) = queue.iter().position(|message| message.number == number) else { return Vec::new() };
        queue.remove(index);
        queue.iter_mut().take(index).for_each(|message| message.overtaken = true);
        let mut given_up = Vec::new();
        queue.retain(|message| {
            let is_late = message.overtaken && message.state == State::Failed;
            if is_late {
                given_up.push(message.number);
            }
            !is_late
        });
        self.forget_if_empty(room);
        given_up
    }

    /// The log has not taken a message: it is sent again.
    pub fn failed(&mut self, room: &str, number: u64) {
        if let Some(queue) = self.rooms.get_mut(room) {
            queue.fail(|message| message.number == number);
        }
    }

    /// The log will never take this message.
    pub fn refused(&mut self, room: &str, number: u64) {
        if let Some(queue) = self.rooms.get_mut(room) {
            queue.messages.retain(|message| message.number != number);
        }
        self.forget_if_empty(room);
    }

    /// The connection is lost: no answer will come.
    pub fn disconnected(&mut self) {
        self.rooms.values_mut().for_each(|queue| queue.fail(|_| true));
    }

    /// What to do now. A message is given up after `timeout_ms`. `is_seen`: whether all records of a room have been read that
    /// were there when it was looked at.
    pub fn due(&mut self, now_ms: u64, timeout_ms: u64, is_seen: impl Fn(&str) -> bool) -> Vec<(Rc<str>, Act)> {
        let mut acts = Vec::new();
        for (room, queue) in &mut self.rooms {
            queue.fail(|message| matches!(message.state, State::Sent { at_ms } if at_ms + ACK_MS_MAX <= now_ms));
            let is_answered = queue.messages.iter().all(|message| !matches!(message.state, State::Sent { .. }));
            if !is_answered {
                continue;
            }
            queue.messages.retain(|message| {
                let is_late = message.overtaken || message.since_ms + timeout_ms <= now_ms;
                if is_late {
                    acts.push((Rc::clone(room), Act::GiveUp(message.number)));
                }
                !is_late
            });
            if queue.messages.is_empty() || !is_seen(room) {
                continue;
            }
            if !std::mem::replace(&mut queue.looked, true) {
                acts.push((Rc::clone(room), Act::Look));
                continue;
            }
            for message in &mut queue.messages {
                message.state = State::Sent { at_ms: now_ms };
                acts.push((Rc::clone(room), Act::Send(message.number)));
            }
        }
        self.rooms.retain(|_, queue| !queue.messages.is_empty());
        acts
    }

    fn forget_if_empty(&mut self, room: &str) {
        if self.rooms.get(room).is_some_and(|queue| queue.messages.is_empty()) {
            self.rooms.remove(room);
        }
    }
}

impl Queue {
    /// No answer will come for those messages.
    fn fail(&mut self, is_meant: impl Fn(&Unstored) -> bool) {
        for message in self.messages.iter_mut().filter(|message| message.state != State::Waiting && is_meant(message)) {
            message.state = State::Failed;
            self.looked = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TIMEOUT_MS: u64 = 10_000;

    #[test]
    fn what_is_behind_a_failure_waits_and_follows_it() {
        let (mut outgoing, room) = (Outgoing::default(), Rc::from("tea"));
        assert!(outgoing.submit(&room, 1, 0) && outgoing.submit(&room, 2, 0));
        outgoing.failed("tea", 1);
        assert!(!outgoing.submit(&room, 3, 0), "behind one that has failed");
        assert_eq!(outgoing.due(100, TIMEOUT_MS, |_| true), [], "the second has no answer yet");
        outgoing.failed("tea", 2);
        assert_eq!(outgoing.due(200, TIMEOUT_MS, |_| true), [(room, Act::Look)]);
        assert_eq!(outgoing.due(300, TIMEOUT_MS, |_| false), [], "it has not been read yet");
        let acts = outgoing.due(400, TIMEOUT_MS, |_| true).into_iter().map(|(_, act)| act);
        assert_eq!(acts.collect::<Vec<_>>(), [Act::Send(1), Act::Send(2), Act::Send(3)]);
        for number in 1..=3 {
            assert!(outgoing.stored("tea", number).is_empty());
        }
        assert!(outgoing.rooms.is_empty());
    }

    #[test]
    fn what_would_come_behind_a_later_one_is_given_up() {
        let (mut outgoing, room) = (Outgoing::default(), Rc::from("tea"));
        assert!((1..=3).all(|number| outgoing.submit(&room, number, 0)));
        outgoing.failed("tea", 1);
        assert_eq!(outgoing.stored("tea", 2), [1]);
        outgoing.disconnected();
        let acts = outgoing.due(TIMEOUT_MS, TIMEOUT_MS, |_| true).into_iter().map(|(_, act)| act);
        assert_eq!(acts.collect::<Vec<_>>(), [Act::GiveUp(3)], "too old");
        assert!(outgoing.rooms.is_empty());
    }

    proptest! {
        #[test]
        fn a_rooms_messages_are_stored_in_order_or_given_up(steps in prop::collection::vec((0..6u8, any::<u8>()), 1..80)) {
            let (mut outgoing, room) = (Outgoing::default(), Rc::<str>::from("tea"));
            let (mut now_ms, mut number) = (0, 0);
            // What the log gets, in order; the first value is how often it has been sent.
            let (mut wire, mut log, mut over) = (VecDeque::new(), Vec::new(), Vec::new());
            for (step, luck) in steps.into_iter().chain((0..200).map(|_| (5, 255))) {
                now_ms += 100;
                match step {
                    0..2 => {
                        number += 1;
                        if outgoing.submit(&room, number, now_ms) {
                            wire.push_back(number);
                        }
                    }
                    2 => {
                        outgoing.disconnected();
                        wire.clear();
                    }
                    _ => {
                        if let Some(sent) = wire.pop_front() {
                            match luck % 4 {
                                // Refused, or stored but the answer is lost, or never seen again.
                                0 => outgoing.failed(&room, sent),
                                1 => log.push(sent),
                                2 => {}
                                _ => {
                                    log.push(sent);
                                    if !over.contains(&sent) {
                                        over.extend(outgoing.stored(&room, sent));
                                        over.push(sent);
                                    }
                                }
                            }
                        }
                    }
                }
                for (_, act) in outgoing.due(now_ms, TIMEOUT_MS, |_| true) {
                    match act {
                        Act::Look => {
                            for stored in &log {
                                if !over.contains(stored) {
                                    over.extend(outgoing.stored(&room, *stored));
                                    over.push(*stored);
                                }
                            }
                        }
                        Act::Send(number) => wire.push_back(number),
                        Act::GiveUp(number) => over.push(number),
                    }
                }
            }
            // The log drops what it has stored before.
            let mut seen = std::collections::BTreeSet::new();
            log.retain(|number| seen.insert(*number));
            prop_assert!(log.is_sorted(), "{log:?}");
            over.sort_unstable();
            prop_assert_eq!(over, (1..=number).collect::<Vec<_>>(), "each has one outcome");
        }
    }
}
