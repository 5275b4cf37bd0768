//! The turn: completions in, frames out, one submission. Nothing else calls the ring.
//!
//! A turn is bounded in work, on both sides: what is read of connections ([`super::hub::reading`]), and what is given to the
//! kernel ([`super::hub::sending`]). A publisher is slowed down to what the fan-out of its room can do, by its own TCP window.

use std::io;
use std::time::Instant;

use super::Shard;
use super::hub::Ask;
use crate::clock::Now;
use crate::limits::{BUFFERS_BEFORE_READING, COMPLETIONS_PER_TURN, SUBMISSIONS_BEFORE_READING, TURNS_TIME_MAX};
use crate::ring::{Completion, DataRing};

impl<R: DataRing> Shard<R> {
    /// Takes turns until there is nothing to do, or the control ring has waited long enough; true: there is more.
    pub fn turns(&mut self) -> bool {
        let began = Instant::now();
        loop {
            let more = self.turn(Now::read());
            if !more || began.elapsed() >= TURNS_TIME_MAX {
                self.hub.counters().busy(began.elapsed());
                return more;
            }
        }
    }

    /// Takes one turn; true: there is more to do before the shard may sleep.
    pub fn turn(&mut self, now: Now) -> bool {
        self.hub.begin_turn(now);
        self.ring.suppress_wakeups();
        match self.try_turn() {
            Ok(more) => more || !self.ring.arm_wakeups(),
            Err(error) => self.fatal(&error),
        }
    }

    fn try_turn(&mut self) -> io::Result<bool> {
        // Takes what the control ring's tasks asked for, and lets the kernel run what it deferred: behind thousands of ends a
        // message would otherwise wait for as many turns as a few of them take.
        for _ in 0..SUBMISSIONS_BEFORE_READING {
            let deferred_more = self.ring.submit()?;
            self.reap();
            if !deferred_more || self.ring.buffers().held() >= BUFFERS_BEFORE_READING {
                break;
            }
        }
        self.hub.hear();
        self.hub.send(&mut |token, slices| self.ring.send(token, slices));
        self.hub.receive_again();
        self.carry_out();
        self.ring.submit()?;
        let reaped_all = self.reap();
        let more = self.hub.end_turn(reaped_all);
        self.carry_out();
        Ok(more)
    }

    /// Hands completions to the hub, and does what it asks for; false if there may be more.
    fn reap(&mut self) -> bool {
        let mut left = COMPLETIONS_PER_TURN;
        while left > 0
            && let Some(completion) = self.ring.next()
        {
            self.completed(completion);
            left -= 1;
        }
        self.hub.report_deliveries();
        self.carry_out();
        left > 0
    }

    fn completed(&mut self, completion: Completion) {
        match completion {
            Completion::Sent { token, result, slices } => self.hub.sent(token, result, slices),
            Completion::Writable { token } => self.hub.writable(token),
            Completion::Received { token, result, armed } => self.hub.received(token, result, armed),
        }
    }

    /// Does what the hub asks of the ring, in order.
    pub(super) fn carry_out(&mut self) {
        for ask in self.hub.asks() {
            match ask {
                Ask::Receive(token, how) => self.ring.receive(token, how),
                Ask::Cancel(token) => self.ring.cancel(token),
                Ask::AwaitWritable(token) => self.ring.await_writable(token),
                Ask::Shutdown(token, how) => self.ring.shutdown(token, how),
                Ask::Release(token) => self.ring.release(token),
            }
        }
    }
}
