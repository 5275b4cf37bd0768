//! The audit: every client must see every message of its room once, in each publisher's order. Pure.

use crate::session::Position;

/// Missing message numbers remembered per client; beyond these, missing messages are only counted.
const MISSING_MAX: usize = 4096;

/// What a message was to the client that got it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The next one, or the first of all.
    InOrder,
    /// Later than expected, with the number of messages missing before it so far.
    Ahead(u32),
    /// One that was missing: it arrives after a later one.
    Reordered,
    /// One that had already arrived.
    Doubled,
}

/// What a position was to the client that reached it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// The next one, or the first of its epoch.
    Next,
    /// Later, with the number of positions left out.
    Beyond(u64),
    /// One that it had reached before.
    Before,
}

/// What one client has seen of the publishers of its room.
#[derive(Debug, Default)]
#[allow(clippy::box_collection, reason = "nearly always empty: one pointer per client, with ten thousand clients")]
pub struct Auditor {
    streams: Box<[Stream]>,
    /// Publisher and number of each skipped message.
    missing: Option<Vec<(u16, u32)>>,
    /// From this number on nothing may be missing, even before the first message seen; [`NOT_BEGUN`]: no limit yet.
    due_from: u32,
    /// Messages skipped since the last [`Auditor::excused`].
    lost: u64,
    /// Losses that the server announced to this client since then.
    announced: u64,
    /// Where the client is in its room's log, if the server numbers messages.
    pub position: Option<Box<Position>>,
    /// The highest of the places in its room's order that its messages had, see [`crate::order`].
    place: u32,
    /// Number of each publisher's first message, and whether it has missed nothing since then.
    first: u32,
    whole: bool,
}

#[derive(Clone, Copy, Debug)]
struct Stream {
    /// Number expected next; [`NOT_BEGUN`] before the first message.
    next: u32,
}

const NOT_BEGUN: u32 = u32::MAX;

impl Auditor {
    /// The auditor of a client in a room with `publishers`; each one's first message may have any number.
    pub fn new(publishers: usize) -> Self {
        let streams = vec![Stream { next: NOT_BEGUN }; publishers].into();
        Self {
            streams,
            missing: None,
            due_from: NOT_BEGUN,
            lost: 0,
            announced: 0,
            position: None,
            place: 0,
            first: 0,
            whole: false,
        }
    }

    /// The client has joined its room: it must see everything from this number on.
    pub fn expect_from(&mut self, sequence: u32) {
        self.due_from = sequence;
    }

    /// A message has arrived.
    pub fn see(&mut self, publisher: u16, sequence: u32) -> Seen {
        let Some(stream) = self.streams.get_mut(usize::from(publisher)) else { return Seen::InOrder };
        if stream.next == NOT_BEGUN {
            stream.next = sequence.min(self.due_from);
            self.whole &= sequence == self.first;
        }
        if stream.next == sequence {
            stream.next = sequence + 1;
            return Seen::InOrder;
        }
        if sequence > stream.next {
            self.whole = false;
            let missing = self.missing.get_or_insert_default();
            let room = MISSING_MAX.saturating_sub(missing.len());
            missing.extend((stream.next..sequence).take(room).map(|number| (publisher, number)));
            let count = sequence - stream.next;
            stream.next = sequence + 1;
            self.lost += u64::from(count);
            return Seen::Ahead(count);
        }
        let missing = self.missing.as_mut().and_then(|missing| {
            missing.iter().position(|entry| *entry == (publisher, sequence)).map(|index| missing.swap_remove(index))
        });
        if missing.is_none() {
            return Seen::Doubled;
        }
        self.lost = self.lost.saturating_sub(1);
        Seen::Reordered
    }

    /// Whether it has missed nothing since the step began: whatever was before a message, it has seen.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// Whether a message that has this place in its room's order comes after all that it has seen.
    pub fn follows(&mut self, place: u32) -> bool {
        let rises = place > self.place;
        self.place = self.place.max(place);
        rises
    }

    /// A message has this position in its room's log.
    pub fn reach(&mut self, at: Position) -> Reached {
        let position = self.position.get_or_insert_with(|| Box::new(Position { seq: at.seq.saturating_sub(1), ..at }));
        if position.epoch != at.epoch {
            **position = at;
            return Reached::Next;
        }
        let before = position.seq;
        position.seq = before.max(at.seq);
        match at.seq.checked_sub(before) {
            None | Some(0) => Reached::Before,
            Some(1) => Reached::Next,
            Some(step) => Reached::Beyond(step - 1),
        }
    }

    /// A message has arrived that is too long to show its position, which can only be the next one.
    pub fn pass(&mut self) {
        if let Some(position) = &mut self.position {
            position.seq += 1;
        }
    }

    /// The server said that this client lost `count` messages.
    pub fn announced(&mut self, count: u64) {
        self.announced = self.announced.saturating_add(count);
    }

    /// At the end: how many of this publisher's messages `first..end` are missing after the last one that the client
    /// saw. A client that saw nothing misses everything it had to expect.
    pub fn missing_at_end(&self, publisher: u16, first: u32, end: u32) -> u32 {
        let next = match self.streams.get(usize::from(publisher)) {
            Some(stream) if stream.next != NOT_BEGUN => stream.next,
            _ => self.due_from,
        };
        end.saturating_sub(next.max(first))
    }

    /// Publisher and number of messages that were skipped, as far as they are remembered.
    pub fn missing(&self) -> &[(u16, u32)] {
        self.missing.as_deref().unwrap_or_default()
    }

    /// At the end: of the skipped messages, only these should have arrived.
    pub fn missed_only(&mut self, missing: Vec<(u16, u32)>) {
        self.lost = self.lost.saturating_sub((self.missing().len() - missing.len()) as u64);
        self.missing = Some(missing).filter(|missing| !missing.is_empty());
    }

    /// Skipped messages that may still arrive: the server has not announced them as lost.
    pub fn may_still_come(&self) -> u64 {
        let missing = self.missing.as_ref().map_or(0, |missing| missing.len() as u64);
        missing.saturating_sub(self.announced)
    }

    /// At the end: how much of this client's loss, including what is `missing` at the end, the server announced to it.
    /// Announcements to other clients don't count.
    pub fn excused(&mut self, missing_at_end: u64) -> u64 {
        let lost = std::mem::take(&mut self.lost) + missing_at_end;
        std::mem::take(&mut self.announced).min(lost)
    }

    /// A step begins whose messages have numbers from `first` on.
    pub fn begin(&mut self, first: u32) {
        self.begin_again();
        (self.first, self.whole) = (first, true);
    }

    /// The client's log begins here: whatever was before that, it can't get.
    pub fn begin_at(&mut self, position: Option<Position>) {
        self.begin_again();
        self.position = position.map(Box::new);
    }

    /// Forgets what was seen: the client has left, and may miss messages until [`Auditor::expect_from`] says that it is
    /// back.
    pub fn begin_again(&mut self) {
        self.whole = false;
        self.streams.fill(Stream { next: NOT_BEGUN });
        self.missing = None;
        self.due_from = NOT_BEGUN;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_duplicated_and_reordered_messages_are_distinguished() {
        let mut auditor = Auditor::new(2);
        assert_eq!(auditor.see(0, 5), Seen::InOrder, "the first may have any number");
        assert_eq!(auditor.see(1, 0), Seen::InOrder);
        assert_eq!(auditor.see(0, 6), Seen::InOrder);
        assert_eq!(auditor.see(0, 6), Seen::Doubled);
        assert_eq!(auditor.see(0, 9), Seen::Ahead(2));
        assert_eq!(auditor.see(0, 8), Seen::Reordered);
        assert_eq!(auditor.see(0, 8), Seen::Doubled);
        assert_eq!(auditor.see(0, 10), Seen::InOrder);
        assert_eq!(auditor.missing_at_end(0, 5, 11), 0, "7 was counted when it was skipped");
        assert_eq!(auditor.missing_at_end(0, 5, 14), 3);
        assert_eq!(auditor.missing_at_end(1, 0, 4), 3);
    }

    #[test]
    fn a_client_that_saw_nothing_missed_everything_only_if_it_was_there() {
        let mut auditor = Auditor::new(1);
        assert_eq!(auditor.missing_at_end(0, 10, 20), 0);
        auditor.expect_from(8);
        assert_eq!(auditor.missing_at_end(0, 10, 20), 10);
        auditor.expect_from(15);
        assert_eq!(auditor.missing_at_end(0, 10, 20), 5);
        auditor.see(0, 12);
        auditor.begin_again();
        assert_eq!(auditor.see(0, 17), Seen::InOrder);
        assert_eq!(auditor.missing_at_end(0, 10, 20), 2);
    }

    #[test]
    fn the_first_message_may_be_early_but_not_late() {
        for (first, seen) in [(3, Seen::InOrder), (10, Seen::InOrder), (14, Seen::Ahead(4))] {
            let mut auditor = Auditor::new(1);
            auditor.expect_from(10);
            assert_eq!(auditor.see(0, first), seen);
            assert_eq!(auditor.missing_at_end(0, 10, 20), 19 - first.max(9));
        }
    }

    #[test]
    fn skipped_messages_may_still_arrive_unless_announced() {
        let mut auditor = Auditor::new(1);
        auditor.see(0, 0);
        auditor.see(0, 4);
        assert_eq!(auditor.may_still_come(), 3);
        auditor.see(0, 2);
        assert_eq!(auditor.may_still_come(), 2);
        auditor.announced(2);
        assert_eq!(auditor.may_still_come(), 0);
        auditor.see(0, 6);
        auditor.begin_again();
        assert_eq!(auditor.may_still_come(), 0, "a client that left gets nothing more");
    }

    #[test]
    fn a_client_that_has_missed_something_gives_no_places() {
        let mut auditor = Auditor::new(2);
        auditor.begin(5);
        auditor.see(0, 5);
        assert!(auditor.is_whole());
        auditor.see(1, 6);
        assert!(!auditor.is_whole(), "it began too late");
        auditor.begin(7);
        auditor.see(0, 7);
        auditor.see(0, 9);
        assert!(!auditor.is_whole());
        auditor.begin(10);
        auditor.begin_again();
        assert!(!auditor.is_whole(), "it was away");
        let followed = [1, 2, 5, 4, 6].map(|place| auditor.follows(place));
        assert_eq!(followed, [true, true, true, false, true]);
    }

    #[test]
    fn positions_go_on_within_an_epoch() {
        let mut auditor = Auditor::new(1);
        let mut reach = |epoch, seq| auditor.reach(Position { epoch, seq });
        assert_eq!((reach(1, 7), reach(1, 8)), (Reached::Next, Reached::Next));
        assert_eq!((reach(1, 11), reach(1, 11), reach(1, 9)), (Reached::Beyond(2), Reached::Before, Reached::Before));
        assert_eq!((reach(2, 3), reach(2, 4)), (Reached::Next, Reached::Next));
    }

    #[test]
    fn only_losses_are_excused() {
        let mut auditor = Auditor::new(1);
        auditor.see(0, 0);
        auditor.announced(7);
        auditor.see(0, 6);
        assert_eq!(auditor.excused(1), 6);
        assert_eq!(auditor.excused(1), 0, "an announcement is used up");
    }
}
