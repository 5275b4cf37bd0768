//! Reads what arrives, timestamps it, and passes it to the audit.

use std::sync::Arc;

use rustix::event::epoll::EventFlags;

use crate::audit::{Auditor, Seen};
use crate::client::{Progress, Role};
use crate::payload::Stamp;
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
            let (number, room, role) = (client.number, client.room, client.role);
            let progress = client.writable(|| request(&shared, number, room, role));
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
        let (role, number, room) = (client.role, client.number, client.room);
        let mut reading = Reading { client: number, room, now_us: 0, messages: 0, longest_us: 0 };
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
                                stats.faults.damaged(number, &stamp);
                            }
                            reading.arrived(stats, auditor, answered_us, &stamp, slow);
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
            Progress::Waiting => more,
            Progress::Opened => {
                self.opened(index);
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
struct Reading {
    client: usize,
    room: usize,
    now_us: u64,
    messages: u64,
    /// The longest latency among them.
    longest_us: u64,
}

impl Reading {
    /// A message has arrived at a member.
    fn arrived(&mut self, stats: &mut Stats, auditor: &mut Auditor, answered_us: &mut u64, stamp: &Stamp, slow: bool) {
        if stamp.room as usize != self.room {
            return stats.faults.astray(self.client, stamp);
        }
        match auditor.see(stamp.publisher, stamp.sequence) {
            Seen::InOrder => {}
            Seen::Ahead(count) => {
                stats.faults.ahead(self.client, stamp, count);
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
        if !slow && stats.is_measured(stamp.sequence) {
            // A closed-loop tool would not have sent what was due while it waited.
            let waited = stamp.intended_us < *answered_us;
            if !waited {
                *answered_us = self.now_us;
            }
            let latency_us = self.now_us.saturating_sub(stamp.intended_us);
            stats.delivered(self.now_us, latency_us, waited);
            self.messages += 1;
            self.longest_us = self.longest_us.max(latency_us);
        }
    }
}

fn request(shared: &Shared, number: usize, room: usize, role: Role) -> String {
    let room = room_name(room);
    match role {
        Role::Member { .. } => shared.members_at.request(&room, &client_name(number)),
        Role::Publisher { .. } => shared.publishers_at.request(&room, &publisher_name(number)),
    }
}
