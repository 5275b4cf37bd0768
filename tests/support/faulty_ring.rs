//! A data ring with faults that come from a seed: the engine has to deliver everything anyway.
//!
//! It uses real sockets and the real ring, but sends are cut short or refused, their completions come late, and connections are
//! reset.

#![allow(unreachable_pub, reason = "a test has no outside")]

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::Shutdown;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};

use hi::os;
use hi::ring::{Backend, BufferPool, Completion, DataRing, OpenRing, Receive, RingError, Slices, Socket};
use hi::slice::Slice;

use crate::any_ring::AnyRing;

/// The seed of the next ring.
static SEED: AtomicU64 = AtomicU64::new(1);
/// One send in this many is refused, and of the others one in this many is cut short.
const SEND_FAULT_ONE_IN: u64 = 4;
/// The completion of one send in this many is held back until the next poll.
const LATE_ONE_IN: u64 = 8;
/// One arrival in this many becomes a reset, if resets are on.
const RESET_ONE_IN: u64 = 200;
/// Whether the next rings reset connections: 0 or 1.
static RESETS: AtomicU64 = AtomicU64::new(0);

/// Sets the seed of the rings made from now on, and whether they reset connections.
pub fn configure(seed: u64, resets: bool) {
    SEED.store(seed.max(1), Ordering::SeqCst);
    RESETS.store(resets.into(), Ordering::SeqCst);
}

/// The real ring, with faults.
pub struct FaultyRing {
    ring: AnyRing,
    wake_up: OwnedFd,
    random: u64,
    resets: bool,
    /// The complete slices of sends that were cut short.
    cut: HashMap<u32, Slices>,
    /// Made-up completions, and those held back.
    late: VecDeque<Completion>,
    /// How many entries of `late` may be delivered now.
    ripe: usize,
}

impl FaultyRing {
    fn one_in(&mut self, n: u64) -> bool {
        // xorshift64: reproducible, and good enough to choose faults.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random.is_multiple_of(n)
    }

    fn hold(&mut self, completion: Completion) {
        self.late.push_back(completion);
        os::eventfd_signal(&self.wake_up);
    }
}

impl OpenRing for FaultyRing {
    fn open(receive_buffers: u16, wake_up: OwnedFd) -> Result<Self, RingError> {
        let clone = wake_up.try_clone().map_err(|error| RingError { operation: "dup", error })?;
        Ok(Self {
            ring: AnyRing::open(receive_buffers, wake_up)?,
            wake_up: clone,
            random: SEED.fetch_add(0x9e37_79b9, Ordering::SeqCst),
            resets: RESETS.load(Ordering::SeqCst) == 1,
            cut: HashMap::new(),
            late: VecDeque::new(),
            ripe: 0,
        })
    }

    fn backend() -> Backend {
        AnyRing::backend()
    }

    fn wake_descriptor(&self) -> BorrowedFd<'_> {
        self.ring.wake_descriptor()
    }
}

impl DataRing for FaultyRing {
    forward_to_ring!();

    fn send(&mut self, token: u32, slices: Slices) {
        if self.one_in(SEND_FAULT_ONE_IN) {
            let result = Err(io::ErrorKind::WouldBlock.into());
            return self.hold(Completion::Sent { token, result, slices });
        }
        if slices.len() > 1 && self.one_in(SEND_FAULT_ONE_IN) {
            let count = 1 + self.random as usize % (slices.len() - 1);
            let cut = prefix(&slices, count);
            self.cut.insert(token, slices);
            return self.ring.send(token, cut);
        }
        self.ring.send(token, slices);
    }

    fn submit(&mut self) -> io::Result<()> {
        self.ring.submit()
    }

    fn poll(&mut self) -> io::Result<bool> {
        self.ripe = self.late.len();
        self.ring.poll()
    }

    fn next(&mut self) -> Option<Completion> {
        loop {
            if self.ripe > 0 {
                self.ripe -= 1;
                return self.late.pop_front();
            }
            match self.ring.next()? {
                Completion::Sent { token, result, slices } => {
                    let slices = self.cut.remove(&token).unwrap_or(slices);
                    let completion = Completion::Sent { token, result, slices };
                    if !self.one_in(LATE_ONE_IN) {
                        return Some(completion);
                    }
                    self.hold(completion);
                }
                Completion::Received { token, result: Ok(Some(_)), armed }
                    if self.resets && self.one_in(RESET_ONE_IN) =>
                {
                    let result = Err(io::ErrorKind::ConnectionReset.into());
                    return Some(Completion::Received { token, result, armed });
                }
                completion => return Some(completion),
            }
        }
    }

    fn suppress_wakeups(&mut self) {
        self.ring.suppress_wakeups();
    }
}

fn prefix(slices: &Slices, mut count: usize) -> Slices {
    let all: Vec<Slice> = slices.as_slice().to_vec();
    let mut cut = Vec::new();
    for mut slice in all {
        slice.truncate(count);
        count -= slice.len();
        if !slice.is_empty() {
            cut.push(slice);
        }
    }
    Slices::Many(cut)
}
