//! The turn: completions in, frames out, one submission. Nothing else calls the ring.
//!
//! The work of a turn is bounded on both sides: what is read from connections ([`super::hub::reading`]), and what is given to
//! the kernel ([`super::hub::sending`]). A publisher is slowed down to the pace of its room's fan-out, by its own TCP window.

use std::io;
use std::time::Instant;

use super::Shard;
use super::hub::RingOp;
use crate::clock::Now;
use crate::limits::{BUFFERS_BEFORE_READING, COMPLETIONS_PER_TURN, POLLS_BEFORE_READING, TURNS_TIME_MAX};
use crate::ring::{Completion, DataRing};

impl<R: DataRing> Shard<R> {
    /// Takes turns until there is nothing left to do, or the control ring has waited long enough. True: there is more to do.
    pub fn turns(&mut self) -> bool {
        let began = Instant::now();
        loop {
            let now = Now::read();
            let more = self.turn(now);
            let ended = Instant::now();
            self.turn_took(ended - now.instant);
            if !more || ended - began >= TURNS_TIME_MAX {
                self.hub.counters().busy(ended - began);
                return more;
            }
        }
    }

    /// Takes one turn. True: there is more to do before the shard may sleep.
    pub fn turn(&mut self, now: Now) -> bool {
        self.hub.begin_turn(now);
        self.ring.suppress_wakeups();
        match self.try_turn() {
            Ok(more) => more || !self.ring.arm_wakeups(),
            Err(error) => self.fatal(&error),
        }
    }

    fn try_turn(&mut self) -> io::Result<bool> {
        // The kernel runs a few pieces of deferred work per call: with only one call a turn, a message would wait for many turns
        // behind thousands of ends.
        for _ in 0..POLLS_BEFORE_READING {
            let more = self.ring.poll()?;
            self.reap();
            if !more || self.ring.buffers().held() >= BUFFERS_BEFORE_READING {
                break;
            }
        }
        self.hub.process();
        self.hub.send(&mut |token, slices| self.ring.send(token, slices));
        self.hub.receive_again();
        self.run_ring_ops();
        self.ring.submit()?;
        let reaped_all = self.reap();
        let more = self.hub.end_turn(reaped_all);
        self.run_ring_ops();
        Ok(more)
    }

    /// Hands completions to the hub. False: there may be more completions.
    fn reap(&mut self) -> bool {
        let mut left = COMPLETIONS_PER_TURN;
        while left > 0
            && let Some(completion) = self.ring.next()
        {
            self.completed(completion);
            left -= 1;
        }
        self.hub.report_deliveries();
        left > 0
    }

    fn completed(&mut self, completion: Completion) {
        match completion {
            Completion::Sent { token, result, slices } => self.hub.sent(token, result, slices),
            Completion::Writable { token } => self.hub.writable(token),
            Completion::Received { token, result, armed } => self.hub.received(token, result, armed),
        }
    }

    /// Carries out what the hub asks of the ring, in order.
    pub(super) fn run_ring_ops(&mut self) {
        for op in self.hub.take_ring_ops() {
            match op {
                RingOp::Receive(token, how) => self.ring.receive(token, how),
                RingOp::Cancel(token) => self.ring.cancel(token),
                RingOp::AwaitWritable(token) => self.ring.await_writable(token),
                RingOp::Shutdown(token, how) => self.ring.shutdown(token, how),
                RingOp::Release(token) => self.ring.release(token),
            }
        }
    }
}
