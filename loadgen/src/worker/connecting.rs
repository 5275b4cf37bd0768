//! How connections begin and end: ramp, handshakes, clients that reconnect, and failures.

use std::cmp::Reverse;
use std::sync::Arc;

use rustix::event::epoll::{self, EventData, EventFlags};

use crate::client::{Progress, Role, State, TOO_SLOW};
use crate::os;
use crate::plan::{Dialect, Mode};
use crate::session;
use crate::stats::Stats;
use crate::wire;
use crate::worker::ending::End;
use crate::worker::{Report, Worker, client_name, room_name};

/// Concurrent connects per thread: more would only queue up in the server's backlog.
pub(super) const CONNECTING_MAX: usize = 256;
/// A handshake that takes longer has failed.
const HANDSHAKE_TIME_MAX_US: u64 = 30_000_000;
/// A handshake that has waited this long for an answer when the run ends counts as failed, too.
const UNANSWERED_US: u64 = 3_000_000;
/// Receive buffer of a slow client's socket, in bytes: small, so that the kernel doesn't read for it.
const SLOW_SOCKET_BYTES: usize = 4096;
/// Delay before a failed connection is retried.
const RETRY_AFTER_US: u64 = 100_000;
/// Connections cut before the schedule is checked again.
const CUT_BATCH_MAX: usize = 32;
/// Grace period after the handshake of a reconnected client: from then on it must see every message that is due.
const RETURN_TIME_US: u64 = 1_000_000;

impl Worker {
    pub(super) fn connect_some(&mut self, now_us: u64) {
        while let Some(Reverse((due_us, index))) = self.retries.peek().copied() {
            if due_us > now_us {
                break;
            }
            self.retries.pop();
            match self.clients[index].state {
                State::Joining(_) => self.join(index),
                _ => self.to_connect.push(index),
            }
        }
        let plan = &self.shared.plan;
        let interval_us =
            if plan.ramp == 0 { 0 } else { 1_000_000 * self.shared.threads as u64 / u64::from(plan.ramp) };
        while self.connecting < CONNECTING_MAX && self.next_connect_us <= now_us {
            let Some(index) = self.to_connect.pop() else { return };
            if !matches!(self.clients[index].state, State::Away) {
                // It was to retry its join, and then lost its connection: that is one retry too many.
                continue;
            }
            self.next_connect_us =
                if interval_us == 0 { 0 } else { self.next_connect_us.max(now_us - now_us.min(100_000)) + interval_us };
            self.connect(index, now_us);
        }
    }

    /// Every client is connected, or given up; a thread without connections is done at once.
    pub(super) fn report_all_open(&mut self) {
        let awaited = self.connecting + self.to_connect.len() + self.retries.len() + self.to_cut.len();
        if (self.coming_in || self.storm) && awaited == 0 {
            self.coming_in = false;
            self.storm = false;
            let _ = self.reports.send(Report::AllOpen { worker: self.id, open: self.open });
        }
    }

    fn connect(&mut self, index: usize, now_us: u64) {
        let client = &mut self.clients[index];
        let address = self.shared.endpoint(client.role, client.server).address;
        let place = match client.role {
            Role::Member { .. } => client.number,
            Role::Publisher { .. } => self.shared.plan.clients + client.number,
        };
        let source = os::source_address(address, place, self.shared.ports);
        let receive_buffer = matches!(client.role, Role::Member { slow: true }).then_some(SLOW_SOCKET_BYTES);
        let added = os::connect(address, source, receive_buffer).and_then(|socket| {
            let interest = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
            epoll::add(&self.epoll, &socket, EventData::new_u64(index as u64), interest)?;
            Ok(socket)
        });
        match added {
            Ok(socket) => {
                client.connect(socket, now_us);
                self.connecting += 1;
            }
            Err(error) => {
                let fix = match error.raw_os_error() {
                    Some(libc::EADDRNOTAVAIL) => {
                        "; the ephemeral ports are used up: widen net.ipv4.ip_local_port_range"
                    }
                    Some(libc::EMFILE | libc::ENFILE) => "; raise the file limit: ulimit -n",
                    _ => "",
                };
                self.failed(index, &format!("can't open a socket: {error}{fix}"));
            }
        }
    }

    /// The WebSocket is open. With `hi.v1`, the client still has to join its room.
    pub(super) fn upgraded(&mut self, index: usize) {
        if self.shared.recovers() { self.join(index) } else { self.opened(index) }
    }

    /// Asks to join, with what the client has already got.
    fn join(&mut self, index: usize) {
        let client = &mut self.clients[index];
        let since = client.auditor.position.as_deref().copied();
        let mut frame = Vec::new();
        wire::write_frame(&mut frame, wire::TEXT, session::join(&room_name(client.room), since).as_bytes());
        if let Progress::Ended(why) = client.join(&frame) {
            self.ended(index, &why);
        }
    }

    /// The client is in its room. If it was there before: whether it gets everything that it missed.
    pub(super) fn joined(&mut self, index: usize, recovered: Option<bool>) {
        if !self.clients[index].joined() {
            return;
        }
        match recovered {
            Some(true) => self.stats.recovered += 1,
            Some(false) => self.unrecovered(index, "was told that it can't get what it missed"),
            None => {}
        }
        self.opened(index);
    }

    /// A client was told that nobody knows what it has missed.
    pub(super) fn unrecovered(&mut self, index: usize, what: &str) {
        let client = &mut self.clients[index];
        self.stats.faults.unrecovered(self.shared.whose(client.number, client.server), what);
        let now_us = self.shared.now_us();
        if let Some(step) = &self.step {
            client.auditor.expect_from(step.due_from(now_us + RETURN_TIME_US, self.shared.plan.publishers));
        }
    }

    /// The room doesn't take the client.
    pub(super) fn not_joined(&mut self, index: usize, why: &str, may_be_free_soon: bool) {
        if !matches!(self.clients[index].state, State::Joining(_)) {
            return;
        }
        if may_be_free_soon && !self.coming_in {
            self.retries.push(Reverse((self.shared.now_us() + RETRY_AFTER_US, index)));
        } else {
            self.ended(index, &format!("its room was refused: {why}"));
        }
    }

    pub(super) fn opened(&mut self, index: usize) {
        let client = &mut self.clients[index];
        self.connecting -= 1;
        self.open += 1;
        let now_us = self.shared.now_us();
        let took_us = now_us - std::mem::replace(&mut client.since_us, now_us);
        client.missed = false;
        let server = matches!(client.role, Role::Member { .. }).then_some(client.server);
        self.stats.connected(took_us, self.storm, server);
        if let Dialect::Template { subscribe: Some(subscribe), .. } = &self.shared.plan.dialect
            && matches!(client.role, Role::Member { .. })
        {
            let mut frame = Vec::new();
            let text = subscribe.fill(&room_name(client.room), &client_name(client.number), "");
            wire::write_frame(&mut frame, wire::TEXT, text.as_bytes());
            client.send(&frame);
        }
        if let Some(step) = &self.step
            && !self.shared.recovers()
        {
            let due_from = step.due_from(now_us + RETURN_TIME_US, self.shared.plan.publishers);
            client.auditor.expect_from(due_from);
        }
    }

    /// A connection ended, or could not be opened.
    pub(super) fn ended(&mut self, index: usize, why: &str) {
        self.withdraw_unsent(index);
        match self.clients[index].state {
            State::Open(_) => self.open -= 1,
            _ => self.connecting -= 1,
        }
        self.failed(index, why);
    }

    fn failed(&mut self, index: usize, why: &str) {
        let client = &mut self.clients[index];
        client.cut();
        let shared = Arc::clone(&self.shared);
        let whose = shared.whose(client.number, client.server);
        // The next attempt is at the next server.
        client.server = (client.server + 1) % shared.members_at.len();
        let what = match client.role {
            Role::Member { slow: true } if why.starts_with(TOO_SLOW) => return self.stats.slow_closed += 1,
            Role::Member { .. } => whose.to_string(),
            Role::Publisher { .. } => format!("publisher {}", client.number),
        };
        if self.coming_in {
            let _ = self.reports.send(Report::Fatal(format!("{what}: {why}")));
            return;
        }
        if !std::mem::replace(&mut client.missed, true) {
            // Counted once, however many retries fail.
            self.stats.faults.closed(format!("{what}: {why}"));
        }
        if why.starts_with(TOO_SLOW) && matches!(client.role, Role::Member { .. }) {
            client.too_slow = true;
            self.stats.faults.too_slow += 1;
        }
        let comes_back = self.storm || self.shared.plan.churn_per_second > 0.0;
        if comes_back || matches!(self.shared.plan.mode, Mode::FindLimit(_)) {
            if client.too_slow && !shared.recovers() {
                client.auditor.begin_again();
            }
            self.retries.push(Reverse((self.shared.now_us() + RETRY_AFTER_US, index)));
        } else {
            client.gone = true;
        }
    }

    pub(super) fn churn(&mut self, now_us: u64) {
        let per_second = self.shared.plan.churn_per_second / self.shared.threads as f64;
        let Some(step) = self.step else { return };
        if self.clients.is_empty() || self.end != End::NotYet {
            return;
        }
        let due = per_second * now_us.saturating_sub(step.start_us) as f64 / 1e6;
        while self.churned + 1.0 <= due {
            self.churned += 1.0;
            self.next_churn = (self.next_churn + 1) % self.clients.len();
            let client = &mut self.clients[self.next_churn];
            if client.is_open() && client.role == (Role::Member { slow: false }) {
                let mut close = Vec::new();
                wire::write_frame(&mut close, wire::CLOSE, &1000u16.to_be_bytes());
                client.send(&close);
                self.leave(self.next_churn);
            }
        }
    }

    /// Starts cutting all members' connections.
    pub(super) fn begin_storm(&mut self) {
        self.storm = true;
        let members = self.clients.iter().enumerate().filter(|(_, client)| matches!(client.role, Role::Member { .. }));
        self.to_cut = members.map(|(index, _)| index).collect();
    }

    /// Cuts some of them at a time: closing thousands of sockets must not delay publishers.
    pub(super) fn cut_some(&mut self) {
        let rest = self.to_cut.len().saturating_sub(CUT_BATCH_MAX);
        for index in self.to_cut.split_off(rest) {
            if self.clients[index].is_open() {
                self.leave(index);
            }
        }
    }

    /// Ends a client's connection, to reconnect at the next server.
    fn leave(&mut self, index: usize) {
        let client = &mut self.clients[index];
        client.cut();
        client.server = (client.server + 1) % self.shared.members_at.len();
        if !self.shared.recovers() {
            client.auditor.begin_again();
        }
        self.open -= 1;
        self.to_connect.push(index);
    }

    pub(super) fn give_up_late_handshakes(&mut self, now_us: u64) {
        if self.connecting == 0 {
            return;
        }
        for index in 0..self.clients.len() {
            let client = &self.clients[index];
            if client.is_connecting() && now_us - client.since_us > HANDSHAKE_TIME_MAX_US {
                self.ended(index, "no answer to the handshake within 30 s");
            }
        }
    }

    /// At the end, a handshake in progress may be recent; one that the server has ignored must be reported.
    pub(super) fn count_unanswered(&self, stats: &mut Stats) {
        let now_us = self.shared.now_us();
        for client in &self.clients {
            let waits_us = now_us - client.since_us;
            if client.is_connecting() && waits_us > UNANSWERED_US {
                let seconds = waits_us / 1_000_000;
                stats
                    .faults
                    .closed(format!("client {}: no answer to the handshake for {seconds} s at the end", client.number));
            }
        }
    }
}
