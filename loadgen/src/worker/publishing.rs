//! Sends messages when they are due: the schedule decides, never the answers.

use std::cmp::Reverse;
use std::sync::atomic::Ordering;

use crate::client::{Client, Progress, Role};
use crate::payload::Stamp;
use crate::plan::Dialect;
use crate::schedule::Step;
use crate::session;
use crate::wire;
use crate::worker::ending::End;
use crate::worker::{Shared, Worker, publisher_name, room_name};

/// Messages sent before the thread reads again: a thread behind its schedule must still read and answer.
const SEND_BATCH_MAX: usize = 1024;
/// Waiting bytes at which a publisher is given up, because the server doesn't read its messages.
const UNSENT_BYTES_MAX: usize = 64 << 20;
/// Waiting bytes of all publishers together, which lowers the limit of each.
const UNSENT_BYTES_MAX_OF_ALL: usize = 512 << 20;
/// Waiting bytes that a publisher may always have, so that a message has room.
const UNSENT_BYTES_MIN: usize = 2 << 20;
/// Time between two checks of a publisher without a connection.
const AWAY_LOOK_US: u64 = 10_000;

impl Worker {
    /// A step begins: schedules each publisher's first message.
    pub(super) fn begin(&mut self, step: Step) {
        let publishers = self.shared.plan.publishers;
        self.step = Some(step);
        self.stats.begin(&step, publishers);
        self.due.clear();
        self.end = End::NotYet;
        self.churned = 0.0;
        for (index, client) in self.clients.iter_mut().enumerate() {
            match client.role {
                Role::Publisher { number } => {
                    self.shared.sent[client.number].store(step.first, Ordering::Relaxed);
                    if let Some(promises) = &self.shared.promises {
                        promises.begin(client.number);
                    }
                    self.due.push(Reverse((step.due_us(0, number, publishers), index, 0)));
                }
                Role::Member { .. } => {
                    client.auditor.begin(step.first);
                    client.answered_us = 0;
                    if client.is_open() {
                        // The warm-up leaves enough time for subscriptions.
                        client.auditor.expect_from(step.first_measured());
                    }
                }
            }
        }
    }

    /// The current step ends early.
    pub(super) fn shorten(&mut self, step: Step) {
        self.step = Some(step);
        self.stats.begin(&step, self.shared.plan.publishers);
        self.due.retain(|Reverse((.., message))| *message < step.warm + step.measured);
    }

    pub(super) fn publish(&mut self, now_us: u64) {
        let Some(step) = self.step else { return };
        let publishers = self.shared.plan.publishers;
        let unsent_max = unsent_bytes_max(publishers * self.shared.plan.rooms);
        for _ in 0..SEND_BATCH_MAX {
            let Some(Reverse((due_us, index, message))) = self.due.peek().copied() else { return };
            if due_us > now_us {
                return;
            }
            self.due.pop();
            let client = &mut self.clients[index];
            let Role::Publisher { number } = client.role else { unreachable!("only publishers are due") };
            if !client.is_open() {
                // A publisher that reconnects then sends what was due meanwhile: the schedule doesn't change.
                if !client.gone {
                    self.due.push(Reverse((now_us + AWAY_LOOK_US, index, message)));
                }
                continue;
            }
            let due_us = step.due_us(message, number, publishers);
            let stamp = Stamp {
                room: client.room as u32,
                publisher: number,
                sequence: step.first + message,
                intended_us: due_us,
            };
            let frame = message_frame(&self.shared, client, &stamp);
            if let Some(promises) = &self.shared.promises {
                promises.sent(client.number, stamp.sequence);
            }
            let progress = client.send(&frame);
            let stuck = client.unsent_bytes() > unsent_max;
            self.shared.sent[client.number].store(stamp.sequence + 1, Ordering::Relaxed);
            // Without a connection, the delay is not this thread's.
            let late_us = self.shared.now_us().saturating_sub(due_us.max(client.since_us));
            self.stats.sent(late_us, stamp.sequence);
            match progress {
                Progress::Ended(why) => self.ended(index, &why),
                _ if stuck => {
                    self.ended(index, &format!("the server doesn't read its messages: {} MiB wait", unsent_max >> 20));
                }
                _ => {}
            }
            if message + 1 < step.warm + step.measured {
                self.due.push(Reverse((step.due_us(message + 1, number, publishers), index, message + 1)));
            }
        }
    }

    /// Whatever a publisher still holds when its connection ends was not sent.
    pub(super) fn withdraw_unsent(&self, index: usize) {
        let client = &self.clients[index];
        let (Role::Publisher { number }, Some(step)) = (client.role, &self.step) else { return };
        if client.is_open() && client.unsent_bytes() > 0 {
            let any = Stamp { room: client.room as u32, publisher: number, sequence: 0, intended_us: 0 };
            // All messages of a publisher have the same length, but for a few digits.
            let held = client.unsent_bytes().div_ceil(message_frame(&self.shared, client, &any).len());
            let sent = self.shared.sent[client.number].load(Ordering::Relaxed);
            let left = sent.saturating_sub(u32::try_from(held).unwrap_or(u32::MAX)).max(step.first);
            self.shared.sent[client.number].store(left, Ordering::Relaxed);
        }
    }
}

/// Bytes that may wait for each of `publishers`.
fn unsent_bytes_max(publishers: usize) -> usize {
    (UNSENT_BYTES_MAX_OF_ALL / publishers.max(1)).clamp(UNSENT_BYTES_MIN, UNSENT_BYTES_MAX)
}

fn message_frame(shared: &Shared, client: &Client, stamp: &Stamp) -> Vec<u8> {
    let payload = shared.stamper.payload(stamp);
    let room = room_name(client.room);
    let text = match &shared.plan.dialect {
        Dialect::Chat => format!("{{\"From\":\"\",\"Message\":\"{payload}\",\"Room\":\"{room}\",\"Meta\":false}}"),
        Dialect::ChatV1 => session::publish(&room, stamp.sequence, &payload),
        Dialect::Raw => payload,
        Dialect::Template { publish, .. } => publish.fill(&room, &publisher_name(client.number), &payload),
    };
    let mut frame = Vec::with_capacity(text.len() + 14);
    wire::write_frame(&mut frame, wire::TEXT, text.as_bytes());
    frame
}
