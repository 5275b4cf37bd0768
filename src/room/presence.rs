//! Joins and leaves, announced without storms: the folding rule in the chapter "v0" of the protocol.
//!
//! Pure: time comes in as milliseconds of a clock that never goes back. While a room is small and quiet, each join and leave is
//! announced by itself; otherwise they are counted, and announced together once a second.

use std::collections::VecDeque;

use crate::limits::{MEMBERS_ANNOUNCED_MAX, NOTICES_PER_SECOND_MAX};
use crate::protocol::name::Name;
use crate::protocol::notice::{Event, Folded, Notice};

/// Interval between folded notices of a room, and the longest between those of one of several servers, in milliseconds.
const FOLD_MS: u64 = 1000;
const FOLD_MS_MAX: u64 = 30_000;

/// The time between a server's folded notices about a room. If each server had one a second, a room on 50 of them would hear of
/// little else: each has its share of one a second, as large as that of its users.
pub(super) fn fold_ms(users_here: usize, users_elsewhere: usize) -> u64 {
    // Without users here, there is one change to tell: the last one's leave.
    let shares = if users_here == 0 { 1 } else { (users_here + users_elsewhere).div_ceil(users_here) };
    FOLD_MS.saturating_mul(shares as u64).min(FOLD_MS_MAX)
}

/// How a join or leave is announced.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Announce {
    /// Publish this notice now.
    Now(Notice),
    /// It is the first folded change: call [`Presence::flush`] at this time (ms).
    At(u64),
    /// It was folded into a notice that is already scheduled.
    Folded,
}

/// The joins and leaves of one room that have not been announced, and how many notices it had lately.
#[derive(Debug, Default)]
pub(crate) struct Presence {
    /// When the notices of the last second were published (ms), oldest first.
    recent: VecDeque<u64>,
    joined: Folded,
    left: Folded,
}

impl Presence {
    /// Notes that `user` has joined `room`, which now has `members` members. If that is folded, it is told after `fold_ms`.
    pub(crate) fn joined(&mut self, room: &str, user: &Name, members: usize, fold_ms: u64, now_ms: u64) -> Announce {
        if self.announces(members, now_ms) {
            return Announce::Now(Notice { event: Event::Join(user.clone()), text: welcome(room, user) });
        }
        let first = !self.is_pending();
        self.joined.push(user);
        if first { Announce::At(now_ms + fold_ms) } else { Announce::Folded }
    }

    /// Notes that `user` has left; `members` members remain.
    pub(crate) fn left(&mut self, user: &Name, members: usize, fold_ms: u64, now_ms: u64) -> Announce {
        if self.announces(members, now_ms) {
            return Announce::Now(Notice { event: Event::Leave(user.clone()), text: farewell(user) });
        }
        let first = !self.is_pending();
        self.left.push(user);
        if first { Announce::At(now_ms + fold_ms) } else { Announce::Folded }
    }

    /// The notice about everything folded so far, if there is anything.
    pub(crate) fn flush(&mut self, room: &str, now_ms: u64) -> Option<Notice> {
        if !self.is_pending() {
            return None;
        }
        let (joined, left) = (std::mem::take(&mut self.joined), std::mem::take(&mut self.left));
        let mut sentences = Vec::with_capacity(2);
        match &joined.first[..] {
            [] => {}
            [user] => sentences.push(welcome(room, user)),
            users => {
                let mut names = users.iter().map(Name::as_str).collect::<Vec<_>>().join(", ");
                if joined.count > users.len() {
                    names.push_str(&format!(" and {} more", joined.count - users.len()));
                }
                sentences.push(format!("Welcome to {room}: {names}."));
            }
        }
        match &left.first[..] {
            [] => {}
            [user] => sentences.push(farewell(user)),
            _ => sentences.push(format!("{} users left channel.", left.count)),
        }
        let event = match (&joined.first[..], &left.first[..]) {
            ([user], []) => Event::Join(user.clone()),
            ([], [user]) => Event::Leave(user.clone()),
            _ => Event::Presence { joined, left },
        };
        self.note(now_ms);
        Some(Notice { event, text: sentences.join(" ") })
    }

    fn is_pending(&self) -> bool {
        self.joined.count + self.left.count > 0
    }

    /// Whether a change is announced by itself; if so, counts the notice. What follows a folded change is folded, too, so that
    /// notices keep the order of events.
    fn announces(&mut self, members: usize, now_ms: u64) -> bool {
        while self.recent.front().is_some_and(|at| at + FOLD_MS <= now_ms) {
            self.recent.pop_front();
        }
        let announces =
            !self.is_pending() && members <= MEMBERS_ANNOUNCED_MAX && self.recent.len() < NOTICES_PER_SECOND_MAX;
        if announces {
            self.note(now_ms);
        }
        announces
    }

    fn note(&mut self, now_ms: u64) {
        self.recent.push_back(now_ms);
    }
}

fn welcome(room: &str, user: &Name) -> String {
    format!("Welcome to {room}, {user}!")
}

fn farewell(user: &Name) -> String {
    format!("User {user} left channel.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: usize) -> Name {
        Name::user(&format!("u{number}")).unwrap()
    }

    fn folded(numbers: impl IntoIterator<Item = usize>, count: usize) -> Folded {
        Folded { first: numbers.into_iter().map(name).collect(), count }
    }

    #[test]
    fn a_small_quiet_room_announces_each_change() {
        let mut presence = Presence::default();
        let now = presence.joined("tea", &name(1), 1, FOLD_MS, 0);
        assert_eq!(now, Announce::Now(Notice { event: Event::Join(name(1)), text: "Welcome to tea, u1!".into() }));
        let now = presence.left(&name(1), 31, FOLD_MS, 0);
        assert_eq!(now, Announce::Now(Notice { event: Event::Leave(name(1)), text: "User u1 left channel.".into() }));
        assert_eq!(presence.flush("tea", 5000), None);
    }

    #[test]
    fn a_large_room_folds() {
        let mut presence = Presence::default();
        assert_eq!(presence.joined("tea", &name(0), 33, FOLD_MS, 500), Announce::At(1500));
        for number in 1..300 {
            assert_eq!(presence.joined("tea", &name(number), 33 + number, FOLD_MS, 600), Announce::Folded);
        }
        let notice = presence.flush("tea", 1500).unwrap();
        assert_eq!(notice.text, "Welcome to tea: u0, u1, u2 and 297 more.");
        assert_eq!(notice.event, Event::Presence { joined: folded(0..3, 300), left: Folded::default() });
        for number in 0..14 {
            presence.left(&name(number), 300, FOLD_MS, 1600);
        }
        let notice = presence.flush("tea", 2600).unwrap();
        assert_eq!(notice.text, "14 users left channel.");
        assert_eq!(notice.event, Event::Presence { joined: Folded::default(), left: folded(0..3, 14) });
    }

    #[test]
    fn the_sixteenth_notice_in_a_second_is_the_last_that_is_not_folded() {
        let mut presence = Presence::default();
        for number in 0..16 {
            assert!(matches!(presence.joined("tea", &name(number), 5, FOLD_MS, 100), Announce::Now(_)), "{number}");
        }
        assert_eq!(presence.left(&name(3), 5, FOLD_MS, 200), Announce::At(1200));
        assert_eq!(presence.joined("tea", &name(99), 5, FOLD_MS, 1150), Announce::Folded, "order is kept");
        let notice = presence.flush("tea", 1200).unwrap();
        assert_eq!(notice.text, "Welcome to tea, u99! User u3 left channel.");
        assert_eq!(notice.event, Event::Presence { joined: folded([99], 1), left: folded([3], 1) });
        assert!(matches!(presence.joined("tea", &name(100), 5, FOLD_MS, 1300), Announce::Now(_)), "quiet again");
    }

    #[test]
    fn the_notices_of_all_servers_of_a_room_are_about_one_a_second() {
        assert_eq!(fold_ms(300, 0), 1000, "no other server");
        assert_eq!(fold_ms(20_000, 40_000), 3000);
        assert_eq!(fold_ms(1, 1_000_000), FOLD_MS_MAX);
        assert_eq!(fold_ms(0, 1_000_000), 1000, "the last one has left");
        let mut presence = Presence::default();
        assert_eq!(presence.joined("tea", &name(0), 60_000, fold_ms(20_000, 40_000), 500), Announce::At(3500));
    }
}
