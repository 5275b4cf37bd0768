//! Ways for one shard to wake another: writing to an eventfd, or posting a completion into its ring (`MSG_RING`).
//!
//! The woken thread sleeps as a shard does: in epoll, on an eventfd that is registered with its ring. Round trips, since
//! each thread must be asleep when it is woken; the CPU time of both counts.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use io_uring::squeue::Flags;
use io_uring::types::Fd;
use io_uring::{IoUring, opcode};
use rustix::event::epoll;

use crate::{cpu_time, print_costs};

/// Round trips of wake-ups per round.
const ROUND_TRIPS: u32 = 200;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Eventfd,
    MsgRing,
}

/// Where a thread sleeps.
struct Sleeper {
    ring: IoUring,
    eventfd: OwnedFd,
    epoll: OwnedFd,
    /// Wake-ups sent by others, as an inbox would show, and those answered.
    sent: Arc<AtomicU32>,
    answered: u32,
}

/// What a thread needs to wake another one.
struct Address {
    eventfd: OwnedFd,
    ring: i32,
    sent: Arc<AtomicU32>,
}

impl Sleeper {
    fn new() -> Self {
        let ring = IoUring::builder().setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag().build(64);
        let ring: IoUring = ring.expect("io_uring");
        let eventfd = hi::os::new_eventfd().expect("an eventfd");
        ring.submitter().register_eventfd(eventfd.as_raw_fd()).expect("the kernel takes the eventfd");
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll");
        epoll::add(&epoll, &eventfd, epoll::EventData::new_u64(0), epoll::EventFlags::IN).expect("an eventfd");
        Self { ring, eventfd, epoll, sent: Arc::default(), answered: 0 }
    }

    fn address(&self) -> Address {
        let eventfd = self.eventfd.try_clone().expect("a descriptor");
        Address { eventfd, ring: self.ring.as_raw_fd(), sent: Arc::clone(&self.sent) }
    }

    #[allow(unsafe_code)]
    fn wake(&mut self, way: Way, other: &Address) {
        other.sent.fetch_add(1, Ordering::Release);
        if way == Way::Eventfd {
            return hi::os::eventfd_signal(&other.eventfd);
        }
        let message = opcode::MsgRingData::new(Fd(other.ring), 0, 0, None).build().flags(Flags::SKIP_SUCCESS);
        // SAFETY: the operation points at no memory, and the other ring is open until both threads have ended.
        unsafe { self.ring.submission().push(&message) }.expect("an empty ring has room");
        self.ring.submit().expect("submit");
    }

    /// Waits for one more wake-up.
    fn sleep(&mut self) {
        let mut events = Vec::with_capacity(4);
        while self.sent.load(Ordering::Acquire) == self.answered {
            epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None).expect("epoll");
            let _ = rustix::io::read(&self.eventfd, &mut [0u8; 8]);
            // Runs the kernel's deferred work.
            if self.ring.submission().taskrun() {
                self.ring.submit().expect("submit");
            }
            self.ring.completion().for_each(drop);
        }
        self.answered += 1;
    }
}

/// The table.
pub(crate) fn compare(rounds: usize, other_core: usize) {
    println!("\nwake-ups: {ROUND_TRIPS} round trips between two threads, {rounds} rounds");
    let mut here = Sleeper::new();
    let (to_here, from_there) = channel();
    let (to_there, orders) = channel();
    let address = here.address();
    let there = std::thread::spawn(move || answer(&to_here, &orders, &address, other_core));
    let (address, _) = from_there.recv().expect("the thread has started");
    let address = address.expect("it tells where it sleeps");
    let mut costs = [Vec::new(), Vec::new()];
    for round in 0..=rounds {
        let both = if round % 2 == 0 { [Way::Eventfd, Way::MsgRing] } else { [Way::MsgRing, Way::Eventfd] };
        for way in both {
            to_there.send(way).expect("the thread runs");
            let before = cpu_time();
            for _ in 0..ROUND_TRIPS {
                here.wake(way, &address);
                here.sleep();
            }
            let (_, theirs) = from_there.recv().expect("the thread runs");
            let spent: Duration = cpu_time() - before + theirs;
            if round > 0 {
                costs[usize::from(way == Way::MsgRing)].push(spent.as_secs_f64() * 1e6 / f64::from(2 * ROUND_TRIPS));
            }
        }
    }
    drop(to_there);
    there.join().expect("the other thread didn't panic");
    print_costs(&["an eventfd", "MSG_RING"], &costs);
}

/// The other thread: answers the wake-ups of each round, in the round's way.
fn answer(to_here: &Sender<(Option<Address>, Duration)>, orders: &Receiver<Way>, address: &Address, core: usize) {
    hi::os::pin_to_core(core).expect("our own core");
    let mut sleeper = Sleeper::new();
    to_here.send((Some(sleeper.address()), Duration::ZERO)).expect("the first thread waits");
    for way in orders {
        let before = cpu_time();
        for _ in 0..ROUND_TRIPS {
            sleeper.sleep();
            sleeper.wake(way, address);
        }
        to_here.send((None, cpu_time() - before)).expect("the first thread waits");
    }
}
