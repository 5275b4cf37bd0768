//! The data ring of a simulated shard: what a shard owes to a ring, and a ring owes to a shard, is asserted here. Behind it is
//! either [`crate::io_uring`], in the place of hi's io_uring, or hi's own epoll ring on the system calls of [`crate::epoll`].

use std::cell::{Cell, RefCell};
use std::io;
use std::net::Shutdown;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use hi::limits::SLICES_PER_SEND_MAX;
use hi::ring::epoll::EpollRing;
use hi::ring::{Backend, BufferPool, Completion, DataRing, Receive, Slices};

use crate::allocations::of_simulation;
use crate::epoll::{self, SimCalls};
use crate::io_uring::{self, IoUring};
use crate::network;
use crate::seen::Seen;
use crate::shared::{Shared, SimSocket};

/// What a ring has been asked for and has not told the end of.
#[derive(Default)]
struct Owed {
    receives: bool,
    sends: bool,
    awaits_room: bool,
}

/// The scheduler's hold of a ring.
pub struct Kernel {
    of: Of,
    /// Tokens that are not released.
    tokens: Rc<Cell<usize>>,
    pool: BufferPool,
}

/// What is behind a ring.
enum Of {
    IoUring(Rc<RefCell<io_uring::State>>),
    Epoll(Rc<RefCell<epoll::State>>),
}

/// See the module.
pub struct SimRing {
    shard: usize,
    shared: Rc<Shared>,
    ring: Either,
    owed: Vec<Option<Owed>>,
    /// How many tokens are not released.
    tokens: Rc<Cell<usize>>,
}

enum Either {
    IoUring(IoUring),
    Epoll(EpollRing<SimCalls>, Rc<RefCell<epoll::State>>),
}

macro_rules! either {
    ($self:expr, $ring:ident => $call:expr) => {
        match &mut $self.ring {
            Either::IoUring($ring) => $call,
            Either::Epoll($ring, _) => $call,
        }
    };
}

impl SimRing {
    /// A ring with `receive_buffers` buffers, and the scheduler's hold of it. It sets `awake` when it has something to tell.
    pub fn new(
        backend: Backend,
        shard: usize,
        receive_buffers: u16,
        shared: Rc<Shared>,
        awake: Arc<AtomicBool>,
    ) -> (Self, Kernel) {
        let (ring, of) = match backend {
            Backend::IoUring => {
                let ring = IoUring::new(receive_buffers, Rc::clone(&shared), awake);
                let of = Of::IoUring(Rc::clone(&ring.state));
                (Either::IoUring(ring), of)
            }
            Backend::Epoll => {
                let state = Rc::new(RefCell::new(epoll::State::new(Rc::clone(&shared), awake)));
                let ring = EpollRing::new(SimCalls(Rc::clone(&state)), receive_buffers);
                (Either::Epoll(ring, Rc::clone(&state)), Of::Epoll(state))
            }
        };
        let ring = Self { shard, shared, ring, owed: Vec::new(), tokens: Rc::default() };
        let kernel = Kernel { of, tokens: Rc::clone(&ring.tokens), pool: ring.buffers().clone() };
        (ring, kernel)
    }

    fn owed(&mut self, token: u32) -> &mut Owed {
        let owed = self.owed.get_mut(token as usize).and_then(Option::as_mut);
        owed.expect("nothing is asked for a token that isn't adopted")
    }

    /// Other things happen between two calls of the shard.
    fn meanwhile(&self) {
        if let Some(meanwhile) = self.shared.meanwhile.get() {
            of_simulation(|| meanwhile(self.shard));
        }
    }
}

impl DataRing for SimRing {
    type Socket = SimSocket;

    fn adopt(&mut self, token: u32, socket: SimSocket) {
        of_simulation(|| {
            let index = token as usize;
            if index >= self.owed.len() {
                self.owed.resize_with(index + 1, || None);
            }
            let before = self.owed[index].replace(Owed::default());
            assert!(before.is_none(), "a token names one socket at a time");
        });
        self.tokens.update(|tokens| tokens + 1);
        either!(self, ring => ring.adopt(token, socket));
    }

    fn release(&mut self, token: u32) {
        let Owed { receives, sends, awaits_room } = self.owed[token as usize].take().expect("a token is released once");
        assert!(
            !receives && !sends && !awaits_room,
            "token {token} is released while the ring holds a receive ({receives}), a send ({sends}) or a wait \
             ({awaits_room})"
        );
        self.tokens.update(|tokens| tokens - 1);
        either!(self, ring => ring.release(token));
    }

    fn receive(&mut self, token: u32, how: Receive) {
        let before = std::mem::replace(&mut self.owed(token).receives, true);
        assert!(!before, "one receive at a time");
        either!(self, ring => ring.receive(token, how));
    }

    fn cancel(&mut self, token: u32) {
        self.owed(token);
        either!(self, ring => ring.cancel(token));
    }

    fn send(&mut self, token: u32, slices: Slices) {
        assert!(!slices.is_empty() && slices.as_slice().len() <= SLICES_PER_SEND_MAX, "a send has something to send");
        let before = std::mem::replace(&mut self.owed(token).sends, true);
        assert!(!before, "one send at a time");
        either!(self, ring => ring.send(token, slices));
    }

    fn await_writable(&mut self, token: u32) {
        let before = std::mem::replace(&mut self.owed(token).awaits_room, true);
        assert!(!before, "one wait at a time");
        either!(self, ring => ring.await_writable(token));
    }

    fn shutdown(&mut self, token: u32, how: Shutdown) {
        self.owed(token);
        either!(self, ring => ring.shutdown(token, how));
    }

    fn submit(&mut self) -> io::Result<()> {
        self.meanwhile();
        either!(self, ring => ring.submit())
    }

    fn poll(&mut self) -> io::Result<bool> {
        self.meanwhile();
        either!(self, ring => ring.poll())
    }

    fn next(&mut self) -> Option<Completion> {
        let completion = either!(self, ring => ring.next())?;
        if let Completion::Received { result: Err(error), .. } = &completion {
            match error.raw_os_error() {
                Some(libc::ENOBUFS) => self.shared.saw(Seen::NoBuffer),
                Some(libc::ECANCELED) => self.shared.saw(Seen::Cancelled),
                _ => {}
            }
        }
        let (of, still) = match &completion {
            Completion::Received { token, armed, .. } => (&mut self.owed(*token).receives, *armed),
            Completion::Sent { token, .. } => (&mut self.owed(*token).sends, false),
            Completion::Writable { token } => (&mut self.owed(*token).awaits_room, false),
        };
        assert!(std::mem::replace(of, still), "nothing completes that was not asked for: {completion:?}");
        Some(completion)
    }

    fn suppress_wakeups(&mut self) {
        either!(self, ring => ring.suppress_wakeups());
    }

    fn arm_wakeups(&mut self) -> bool {
        self.meanwhile();
        let may_sleep = either!(self, ring => ring.arm_wakeups());
        if let Either::Epoll(_, state) = &self.ring {
            // What is ready before a thread sleeps does not wake it.
            assert!(!may_sleep || !state.borrow().is_any_ready(), "a shard sleeps though a socket is ready");
        }
        may_sleep
    }

    fn buffers(&self) -> &BufferPool {
        match &self.ring {
            Either::IoUring(ring) => ring.buffers(),
            Either::Epoll(ring, _) => ring.buffers(),
        }
    }

    fn descriptor(&self, token: u32) -> RawFd {
        match &self.ring {
            Either::IoUring(ring) => ring.descriptor(token),
            Either::Epoll(ring, _) => ring.descriptor(token),
        }
    }

    fn peer_has_ended(descriptor: RawFd) -> bool {
        network::peer_has_ended(descriptor)
    }
}

impl Kernel {
    /// Wakes the shard if there is something that it has to be told.
    pub fn notify(&self) {
        match &self.of {
            Of::IoUring(state) => state.borrow().notify(),
            Of::Epoll(state) => state.borrow().notify(),
        }
    }

    /// Tells something that is late; false if nothing is.
    pub fn tell_late(&self) -> bool {
        match &self.of {
            Of::IoUring(state) => state.borrow_mut().tell_late(),
            Of::Epoll(_) => false,
        }
    }

    /// Whether nothing is asked for, in flight or waiting to be told, but receives.
    pub fn is_quiet(&self) -> bool {
        match &self.of {
            Of::IoUring(state) => state.borrow().is_quiet(),
            Of::Epoll(state) => !state.borrow().is_any_ready(),
        }
    }

    /// Tokens that are not released.
    pub fn tokens(&self) -> usize {
        self.tokens.get()
    }

    /// Receive buffers in the shard's hands.
    pub fn buffers_held(&self) -> usize {
        self.pool.held()
    }
}
