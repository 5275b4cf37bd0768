//! How a step ends: overdue messages are sent, outstanding ones arrive, and the counts are handed over.

use std::ops::Range;
use std::sync::atomic::Ordering;

use crate::client::Role;
use crate::stats::Stats;
use crate::worker::{Report, Worker};

/// Messages that are overdue at the end are sent within this time, or never.
pub const CATCH_UP_TIME_MAX_US: u64 = 3_000_000;
/// Time between two checks for outstanding messages: each visits every client.
const OWED_EVERY_US: u64 = 20_000;
/// How long clients keep listening once they have everything: for duplicates, and for connections that end.
const LINGER_US: u64 = 250_000;

/// Progress of ending a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The schedule continues.
    NotYet,
    /// Overdue messages are still sent, until this time.
    Ceasing(u64),
    /// Nothing more will be sent.
    Ceased,
    /// Waiting for what was sent; the time of the next check.
    Settling(u64),
    /// Everything has arrived; duplicates may still come, until this time.
    Lingering(u64),
    /// Everything has arrived.
    Settled,
}

impl Worker {
    pub(super) fn cease(&mut self, now_us: u64) {
        self.end = End::Ceasing(now_us + CATCH_UP_TIME_MAX_US);
    }

    pub(super) fn settle(&mut self) {
        self.give_up_sending();
        self.end = End::Settling(0);
    }

    pub(super) fn go_on_ending(&mut self, now_us: u64) {
        match self.end {
            End::Ceasing(until_us) if self.due.is_empty() || now_us >= until_us => {
                self.give_up_sending();
                let _ = self.reports.send(Report::Ceased);
            }
            End::Settling(next_us) if now_us >= next_us => {
                if self.owed() == 0 {
                    self.end = End::Lingering(now_us + LINGER_US);
                } else {
                    self.end = End::Settling(now_us + OWED_EVERY_US);
                }
            }
            End::Lingering(until_us) if now_us >= until_us => {
                self.end = End::Settled;
                let _ = self.reports.send(Report::Settled);
            }
            _ => {}
        }
    }

    /// From here on nothing is sent. Messages that were due and are still here never will be.
    fn give_up_sending(&mut self) {
        let (Some(step), End::NotYet | End::Ceasing(_)) = (self.step, self.end) else { return };
        self.end = End::Ceased;
        self.due.clear();
        for client in self.clients.iter().filter(|client| matches!(client.role, Role::Publisher { .. })) {
            let sent = self.shared.sent[client.number].load(Ordering::Relaxed);
            // A step that was cut short may end before messages that some have already sent.
            let unsent = u64::from(step.end().saturating_sub(sent));
            *(if client.is_open() { &mut self.stats.never_sent } else { &mut self.stats.unsendable }) += unsent;
        }
    }

    /// The number after the last message that a publisher has sent.
    fn sent_end(&self, room: usize, publisher: usize) -> u32 {
        self.shared.sent[publisher * self.shared.plan.rooms + room].load(Ordering::Relaxed)
    }

    /// Messages that clients at full speed may still get, and handshakes in progress.
    fn owed(&self) -> u64 {
        let Some(step) = self.step else { return 0 };
        let of_client = |client: &crate::client::Client| {
            let tail = |publisher| {
                let end = self.sent_end(client.room, publisher);
                u64::from(client.auditor.missing_at_end(publisher as u16, step.first_measured(), end))
            };
            (0..self.shared.plan.publishers).map(tail).sum::<u64>() + client.auditor.may_still_come()
        };
        let unanswered = |client: &&crate::client::Client| {
            let promises = self.shared.promises.as_ref()?;
            let publishes = matches!(client.role, Role::Publisher { .. }) && client.is_open();
            publishes.then(|| promises.unanswered_count(client.number))
        };
        let healthy = |client: &&crate::client::Client| client.is_open() && client.role == Role::Member { slow: false };
        let unanswered: u64 = self.clients.iter().filter_map(|client| unanswered(&client)).sum();
        unanswered + self.connecting as u64 + self.clients.iter().filter(healthy).map(of_client).sum::<u64>()
    }

    /// Hands over the counts, and starts over.
    pub(super) fn collect(&mut self) {
        self.give_up_sending();
        let mut stats = std::mem::replace(&mut self.stats, Stats::new(self.shared.members_at.len()));
        self.count_unanswered(&mut stats);
        if let Some(step) = self.step.take() {
            for index in 0..self.clients.len() {
                // A slow client may be behind: that is its purpose.
                let healthy = self.clients[index].role == Role::Member { slow: false };
                self.settle_promises(index, healthy, &mut stats);
                let missing = if healthy { self.count_missing(index, step.first_measured(), &mut stats) } else { 0 };
                stats.announced(self.clients[index].auditor.excused(missing));
            }
        }
        let _ = self.reports.send(Report::Collected(Box::new(stats.collected())));
    }

    /// The messages of this range that need not arrive, because they were not acknowledged.
    fn not_promised(&self, room: usize, publisher: usize, range: Range<u32>) -> Vec<u32> {
        let publisher = publisher * self.shared.plan.rooms + room;
        self.shared.promises.as_ref().map_or_else(Vec::new, |promises| promises.not_given(publisher, range))
    }

    /// At the end: a publisher's messages without a promise, or what a member has lost of those with one.
    fn settle_promises(&mut self, index: usize, healthy: bool, stats: &mut Stats) {
        let Some(promises) = &self.shared.promises else { return };
        let client = &self.clients[index];
        if let Role::Publisher { .. } = client.role {
            stats.unanswered += promises.unanswered_count(client.number);
            stats.refused += promises.refused_count(client.number);
            return;
        }
        let mut lost = client.auditor.missing().to_vec();
        lost.retain(|(publisher, sequence)| {
            let promised = self.not_promised(client.room, usize::from(*publisher), *sequence..*sequence + 1).is_empty();
            if !promised {
                stats.faults.lost = stats.faults.lost.saturating_sub(1);
                if healthy {
                    stats.came_late(*sequence);
                }
            }
            promised
        });
        for (publisher, sequence) in &lost {
            stats.faults.acknowledged_and_lost(self.shared.whose(client.number, client.server), *publisher, *sequence);
        }
        self.clients[index].auditor.missed_only(lost);
    }

    /// Counts the messages that a client never got after the last one that it did get.
    fn count_missing(&self, index: usize, first: u32, stats: &mut Stats) -> u64 {
        let client = &self.clients[index];
        let mut all = 0;
        for publisher in 0..self.shared.plan.publishers {
            let end = self.sent_end(client.room, publisher);
            let missing = client.auditor.missing_at_end(publisher as u16, first, end);
            let missing = missing - self.not_promised(client.room, publisher, end - missing..end).len() as u32;
            stats.faults.missing_at_end(self.shared.whose(client.number, client.server), missing, end);
            all += u64::from(missing);
        }
        stats.lost_measured += all;
        if client.too_slow {
            stats.faults.lost_of_too_slow += all;
        }
        all
    }
}
