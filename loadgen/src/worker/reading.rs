//! Reads what arrives, timestamps it, and passes it to the audit.

use std::sync::Arc;

use rustix::event::epoll::EventFlags;

use crate::audit::{Auditor, Reached, Seen};
use crate::client::{Progress, Role};
use crate::faults::Whose;
use crate::order::Orders;
use crate::payload::Stamp;
use crate::promises::Promises;
use crate::session::{self, Position, Word};
use crate::stats::Stats;
use crate::worker::{Shared, Worker, client_name, publisher_name, room_name};

/// Consecutive reads from one connection: one that sends faster than it can be read must not hold up the others, or the
/// schedule.
const READS_MAX: usize = 16;
/// Bytes per read of a slow client.
const SLOW_READ_BYTES: usize = 1024;
/// Time between two reads of a slow client.
const SLOW_READ_EVERY_US: u64 = 100_000;

impl Worker {
    /// Something has happened on a connection.
    pub(super) fn ready(&mut self, index: usize, flags: EventFlags, waiting_since_us: u64) {
        if flags.intersects(EventFlags::OUT | EventFlags::ERR) {
            let shared = Arc::clone(&self.shared);
            let client = &mut self.clients[index];
            let (number, room, role, server) = (client.number, client.room, client.role, client.server);
            let progress = client.writable(|| request(&shared, number, room, role, server));
            if let Progress::Ended(why) = progress {
                return self.ended(index, &why);
            }
        }
        if matches!(self.clients[index].role, Role::Member { slow: true }) && self.clients[index].is_open() {
            return;
        }
        if flags.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP) {
            let mut buffer = std::mem::take(&mut self.buffer);
            self.read_some(index, &mut buffer, waiting_since_us);
            if flags.intersects(EventFlags::RDHUP | EventFlags::HUP) {
                // The end that this edge reported comes after what was read; no other edge will report it.
                self.read(index, &mut buffer, waiting_since_us);
            }
            self.buffer = buffer;
        }
    }

    fn read_some(&mut self, index: usize, buffer: &mut [u8], waiting_since_us: u64) {
        for _ in 0..READS_MAX {
            if !self.read(index, buffer, waiting_since_us) {
                return;
            }
        }
        self.unread.push(index);
    }

    /// Continues where the last batch stopped: no edge reports that.
    pub(super) fn read_on(&mut self, waiting_since_us: u64) {
        let mut unread = std::mem::take(&mut self.unread);
        unread.sort_unstable();
        unread.dedup();
        let mut buffer = std::mem::take(&mut self.buffer);
        for index in unread {
            self.read_some(index, &mut buffer, waiting_since_us);
            // The connection's end may have been reported while there was more to read.
            self.read(index, &mut buffer, waiting_since_us);
        }
        self.buffer = buffer;
    }

    /// Reads once; true if there may be more.
    fn read(&mut self, index: usize, buffer: &mut [u8], waiting_since_us: u64) -> bool {
        let client = &mut self.clients[index];
        let (stats, shared) = (&mut self.stats, &self.shared);
        let (role, number, server) = (client.role, client.number, client.server);
        let mut reading = Reading {
            client: shared.whose(number, server),
            server,
            room: client.room,
            orders: shared.orders.as_ref(),
            promises: shared.promises.as_ref(),
            publisher: matches!(role, Role::Publisher { .. }).then_some(number),
            rejoined_us: client.since_us,
            now_us: 0,
            messages: 0,
            longest_us: 0,
        };
        let mut news = None;
        let (bytes, more, progress) = client.read(
            buffer,
            || shared.now_us(),
            |auditor, answered_us, begin, bytes| {
                if reading.now_us == 0 {
                    reading.now_us = shared.now_us();
                }
                match shared.stamper.find(begin, bytes) {
                    Some((stamp, whole)) => {
                        if let Role::Member { slow } = role {
                            if !whole {
                                stats.faults.damaged(reading.client, &stamp);
                            }
                            let at = if reading.promises.is_some() { session::position(begin) } else { None };
                            reading.arrived(stats, auditor, answered_us, &stamp, at, slow);
                        }
                    }
                    None if reading.promises.is_some() && bytes > begin.len() as u64 => auditor.pass(),
                    None if reading.promises.is_some() => {
                        if let Some(word) = session::word(begin) {
                            news = reading.heard(stats, auditor, word).or(news.take());
                        }
                    }
                    None => stats.notice(begin, auditor, matches!(role, Role::Publisher { .. })),
                }
            },
        );
        stats.bytes += bytes as u64;
        if reading.messages > 0 {
            // One late read delays many messages; none by more than its total latency.
            let late_us = reading.now_us.saturating_sub(waiting_since_us);
            stats.read_late(late_us.min(reading.longest_us), reading.messages);
        }
        match progress {
            Progress::Waiting => {
                match news {
                    Some(News::Joined(recovered)) => self.joined(index, recovered),
                    Some(News::NotJoined(why, may_be_free_soon)) => self.not_joined(index, &why, may_be_free_soon),
                    Some(News::Anew) => self.unrecovered(index, "was told that its room's numbers begin anew"),
                    None => {}
                }
                more
            }
            Progress::Opened => {
                self.upgraded(index);
                more
            }
            Progress::Ended(why) => {
                self.ended(index, &why);
                false
            }
        }
    }

    pub(super) fn read_slowly(&mut self, now_us: u64) {
        let plan = &self.shared.plan;
        if plan.slow_clients == 0 || plan.slow_are_stuck || now_us < self.next_slow_us {
            return;
        }
        self.next_slow_us = now_us + SLOW_READ_EVERY_US;
        let mut buffer = [0; SLOW_READ_BYTES];
        for index in 0..self.clients.len() {
            if self.clients[index].role == (Role::Member { slow: true }) && self.clients[index].is_open() {
                self.read(index, &mut buffer, now_us);
            }
        }
    }
}

/// The result of one read: which client read, when, and how many measured messages.
struct Reading<'a> {
    client: Whose<'a>,
    server: usize,
    room: usize,
    /// The order that its messages must have.
    orders: Option<&'a Orders>,
    /// What was acknowledged. If there is that, messages also have positions in their room's log.
    promises: Option<&'a Promises>,
    /// Its number, if it is a publisher.
    publisher: Option<usize>,
    /// When the client's connection opened. What was due before that, a client that reconnects gets late.
    rejoined_us: u64,
    now_us: u64,
    messages: u64,
    /// The longest latency among them.
    longest_us: u64,
}

impl Reading<'_> {
    /// A message has arrived at a member.
    fn arrived(
        &mut self,
        stats: &mut Stats,
        auditor: &mut Auditor,
        answered_us: &mut u64,
        stamp: &Stamp,
        at: Option<Position>,
        slow: bool,
    ) {
        if stamp.room as usize != self.room {
            return stats.faults.astray(self.client, stamp);
        }
        let seen = auditor.see(stamp.publisher, stamp.sequence);
        let reached = at.map_or(Reached::Next, |at| auditor.reach(at));
        if let (Some(at), Seen::InOrder | Seen::Ahead(_)) = (at, seen) {
            stats.faults.misplaced(self.client, at, reached);
        }
        match seen {
            Seen::InOrder => {
                let place = self
                    .orders
                    .and_then(|orders| orders.place(self.room, stamp.publisher, stamp.sequence, auditor.is_whole()));
                if place.is_some_and(|place| !auditor.follows(place)) {
                    stats.faults.disordered(self.client, stamp);
                }
            }
            Seen::Ahead(count) => {
                if self.promises.is_some() {
                    // At the end it is known which of them were acknowledged.
                    stats.faults.lost += u64::from(count);
                } else {
                    stats.faults.ahead(self.client, stamp, count);
                }
                if !slow {
                    stats.passed_over(stamp.sequence - count..stamp.sequence);
                }
            }
            Seen::Reordered => {
                stats.faults.reordered(self.client, stamp);
                if !slow {
                    stats.came_late(stamp.sequence);
                }
            }
            Seen::Doubled => return stats.faults.doubled(self.client, stamp),
        }
        if self.promises.is_some() && stamp.intended_us < self.rejoined_us {
            stats.replayed += 1;
        } else if !slow && stats.is_measured(stamp.sequence) {
            // A closed-loop tool would not have sent what was due while it waited.
            let waited = stamp.intended_us < *answered_us;
            if !waited {
                *answered_us = self.now_us;
            }
            let latency_us = self.now_us.saturating_sub(stamp.intended_us);
            stats.delivered(self.now_us, latency_us, waited, self.server);
            self.messages += 1;
            self.longest_us = self.longest_us.max(latency_us);
        }
    }

    /// The room, or the server, has told a client something. What follows in the same read counts from there.
    fn heard(&mut self, stats: &mut Stats, auditor: &mut Auditor, word: Word) -> Option<News> {
        if let Some(publisher) = self.publisher {
            return self.answered(stats, word, publisher);
        }
        match word {
            Word::NotJoined(why, may_be_free_soon) => return Some(News::NotJoined(why, may_be_free_soon)),
            Word::Joined(at, recovered) => {
                self.rejoined_us = self.now_us;
                let recovered = auditor.position.as_ref().map(|_| recovered == Some(true));
                if recovered != Some(true) {
                    auditor.begin_at(Some(at));
                }
                return Some(News::Joined(recovered));
            }
            Word::Anew => {
                auditor.begin_at(None);
                return Some(News::Anew);
            }
            Word::Gap(to, count) => {
                auditor.announced(count);
                auditor.position = Some(Box::new(to));
            }
            Word::Numbered(at) => {
                let reached = auditor.reach(at);
                stats.faults.misplaced(self.client, at, reached);
            }
            Word::Published(_) | Word::NotPublished(..) => {}
        }
        None
    }

    /// The server has told a publisher something.
    fn answered(&self, stats: &mut Stats, word: Word, publisher: usize) -> Option<News> {
        let promises = self.promises?;
        match word {
            Word::Joined(..) => return Some(News::Joined(None)),
            Word::NotJoined(why, may_be_free_soon) => return Some(News::NotJoined(why, may_be_free_soon)),
            Word::Published(number) => promises.acknowledged(publisher, number),
            Word::NotPublished(number, why) => {
                number.into_iter().for_each(|number| promises.refused(publisher, number));
                stats.not_published(why);
            }
            _ => {}
        }
        None
    }
}

/// What a client has to do once everything is read.
enum News {
    /// It is in its room. If it was there before: whether it gets everything that it missed.
    Joined(Option<bool>),
    /// Its room refuses it, in words; `true` if it may be free soon.
    NotJoined(String, bool),
    /// Nobody knows what it has missed.
    Anew,
}

fn request(shared: &Shared, number: usize, room: usize, role: Role, server: usize) -> String {
    let name = match role {
        Role::Member { .. } => client_name(number),
        Role::Publisher { .. } => publisher_name(number),
    };
    shared.endpoint(role, server).request(&room_name(room), &name)
}
