//! The data ring of a simulated shard: does to the network what a shard asks for, and finishes in any order that io_uring may
//! finish in. Everything that a shard owes to a ring is asserted here.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::Shutdown;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hi::limits::{RECEIVE_BUFFER_BYTES, SLICES_PER_SEND_MAX};
use hi::ring::{BufferPool, Completion, DataRing, Receive, Slices};

use crate::allocations::of_simulation;
use crate::network::{self, Found, LinkId, Network};
use crate::random::Random;
use crate::scene::{Seen, Totals};

/// Pieces of deferred work that the kernel finishes in one call, as Linux does since 6.13.
const DEFERRED_PER_SUBMIT: usize = 20;
/// While there are faults, one send in this many is cut short, and one in this many refused.
const SEND_FAULT_ONE_IN: usize = 6;
/// While there are faults, one completion in this many comes late.
const LATE_ONE_IN: usize = 4;

/// The server's end of a link.
#[derive(Debug)]
pub struct SimSocket(pub LinkId);

/// What the rings of a simulation share.
pub struct Shared {
    /// The network.
    pub network: RefCell<Network>,
    /// Chance.
    pub random: Random,
    /// Whether anything goes wrong.
    pub faults: Cell<bool>,
    /// What was seen.
    pub totals: RefCell<Totals>,
    /// Called when a shard submits: what happens elsewhere at that moment.
    pub meanwhile: RefCell<Option<Box<dyn Fn(usize)>>>,
}

/// Something asked for since the last submit.
enum Submission {
    Receive(u32, Receive),
    Cancel(u32),
    Send(u32, Slices),
    AwaitWritable(u32),
}

/// A socket as the ring has it.
struct Token {
    link: LinkId,
    /// Asked for, and not told yet that it has ended.
    receives: bool,
    sends: bool,
    awaits_room: bool,
    /// What the kernel holds.
    receive: Option<Receive>,
    polls: bool,
}

struct State {
    shard: usize,
    shared: Rc<Shared>,
    pool: BufferPool,
    buffers: usize,
    tokens: Vec<Option<Token>>,
    asked: Vec<Submission>,
    ready: VecDeque<Completion>,
    /// Finished, and not told yet.
    late: Vec<Completion>,
    wakes: bool,
    awake: Arc<AtomicBool>,
}

/// The scheduler's hold of a ring.
#[derive(Clone)]
pub struct Kernel(Rc<RefCell<State>>);

/// See the module.
pub struct SimRing {
    state: Rc<RefCell<State>>,
    pool: BufferPool,
}

impl Shared {
    fn saw(&self, seen: Seen) {
        self.totals.borrow_mut().count(seen, 1);
    }
}

impl SimRing {
    /// A ring with `receive_buffers` buffers, and the scheduler's hold of it. It sets `awake` when it has something to tell.
    pub fn new(shard: usize, receive_buffers: u16, shared: Rc<Shared>, awake: Arc<AtomicBool>) -> (Self, Kernel) {
        let pool = BufferPool::new(receive_buffers);
        let state = Rc::new(RefCell::new(State {
            shard,
            shared,
            pool: pool.clone(),
            buffers: receive_buffers.into(),
            tokens: Vec::new(),
            asked: Vec::new(),
            ready: VecDeque::new(),
            late: Vec::new(),
            wakes: false,
            awake,
        }));
        (Self { state: Rc::clone(&state), pool }, Kernel(state))
    }
}

impl Kernel {
    /// Wakes the shard if there is something that it has to be told.
    pub fn notify(&self) {
        let state = self.0.borrow();
        if state.wakes && state.has_news() {
            state.awake.store(true, Ordering::SeqCst);
        }
    }

    /// Tells something that is late; false if nothing is.
    pub fn tell_late(&self) -> bool {
        let mut state = self.0.borrow_mut();
        if state.late.is_empty() {
            return false;
        }
        let index = state.shared.random.below(state.late.len());
        let completion = state.late.swap_remove(index);
        state.ready.push_back(completion);
        drop(state);
        self.notify();
        true
    }

    /// Whether nothing is asked for, in flight or waiting to be told, but receives.
    pub fn is_quiet(&self) -> bool {
        let state = self.0.borrow();
        state.late.is_empty() && !state.has_news()
    }

    /// Tokens that are not released.
    pub fn tokens(&self) -> usize {
        self.0.borrow().tokens.iter().flatten().count()
    }

    /// Receive buffers in the shard's hands.
    pub fn buffers_held(&self) -> usize {
        self.0.borrow().pool.held()
    }
}

impl State {
    fn token(&mut self, token: u32) -> &mut Token {
        let state = self.tokens.get_mut(token as usize).and_then(Option::as_mut);
        state.expect("nothing is asked for a token that isn't adopted")
    }

    fn has_news(&self) -> bool {
        !self.asked.is_empty() || !self.ready.is_empty() || self.has_deferred()
    }

    fn has_deferred(&self) -> bool {
        let network = self.shared.network.borrow();
        self.tokens.iter().flatten().any(|token| token.is_due(&network))
    }

    fn execute(&mut self, submission: Submission) {
        match submission {
            Submission::Receive(token, how) => self.token(token).receive = Some(how),
            Submission::AwaitWritable(token) => self.token(token).polls = true,
            Submission::Cancel(token) => {
                let Some(state) = self.tokens[token as usize].as_mut() else { return };
                if state.receive.take().is_some() {
                    self.shared.saw(Seen::Cancelled);
                    let result = Err(io::Error::from_raw_os_error(libc::ECANCELED));
                    self.finish(Completion::Received { token, result, armed: false });
                }
            }
            Submission::Send(token, slices) => {
                let result = self.transmit(token, &slices);
                self.finish(Completion::Sent { token, result, slices });
            }
        }
    }

    /// Gives the network what it takes of a send.
    fn transmit(&mut self, token: u32, slices: &Slices) -> io::Result<usize> {
        let link = self.token(token).link;
        let (random, faults) = (&self.shared.random, self.shared.faults.get());
        let mut network = self.shared.network.borrow_mut();
        if network.server_sends(link, b"").is_none() {
            self.shared.saw(Seen::Reset);
            let error = random.pick(&[io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset]);
            return Err(error.into());
        }
        let mut left = slices.len().min(network.link(link).down.room());
        if left > 1 && faults && random.one_in(SEND_FAULT_ONE_IN) {
            left = random.between(1, left);
            self.shared.saw(Seen::Short);
        }
        if left == 0 || faults && random.one_in(SEND_FAULT_ONE_IN) {
            self.shared.saw(Seen::Full);
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut count = 0;
        for slice in slices.as_slice() {
            let mut slice = slice.clone();
            slice.truncate(left);
            left -= slice.len();
            count += slice.len();
            let _ = network.server_sends(link, &slice.detached());
        }
        Ok(count)
    }

    /// Something has ended; the shard is told of it among other things, or late.
    fn finish(&mut self, completion: Completion) {
        let (random, faults) = (&self.shared.random, self.shared.faults.get());
        if faults && random.one_in(LATE_ONE_IN) {
            self.late.push(completion);
        } else if faults && matches!(completion, Completion::Sent { .. } | Completion::Writable { .. }) {
            let index = random.between(0, self.ready.len());
            self.ready.insert(index, completion);
        } else {
            self.ready.push_back(completion);
        }
    }

    /// One piece of the work that waits for the shard to enter the kernel.
    fn finish_deferred(&mut self, token: u32) {
        let (random, shared) = (self.shared.random.clone(), Rc::clone(&self.shared));
        let mut network = shared.network.borrow_mut();
        let state = self.token(token);
        if state.polls && network.is_writable(state.link) && (state.receive.is_none() || random.one_in(2)) {
            state.polls = false;
            drop(network);
            return self.finish(Completion::Writable { token });
        }
        let Some(how) = state.receive.filter(|_| network.is_readable(state.link)) else { return };
        let link = state.link;
        if self.pool.held() >= self.buffers {
            // A buffer is chosen before the kernel looks what there is, the end included.
            self.token(token).receive = None;
            shared.saw(Seen::NoBuffer);
            let result = Err(io::Error::from_raw_os_error(libc::ENOBUFS));
            return self.ready.push_back(Completion::Received { token, result, armed: false });
        }
        let max = if random.one_in(2) { RECEIVE_BUFFER_BYTES } else { random.between(1, RECEIVE_BUFFER_BYTES) };
        let (result, armed) = match network.server_receives(link, max) {
            Found::Nothing => return,
            Found::Bytes(bytes) => (Ok(Some(self.pool.fill(&bytes).expect("one is left"))), how == Receive::All),
            Found::End => (Ok(None), false),
            Found::Reset => {
                shared.saw(Seen::Reset);
                (Err(io::ErrorKind::ConnectionReset.into()), false)
            }
        };
        if !armed {
            self.token(token).receive = None;
        }
        self.ready.push_back(Completion::Received { token, result, armed });
    }
}

impl Token {
    fn is_due(&self, network: &Network) -> bool {
        self.receive.is_some() && network.is_readable(self.link) || self.polls && network.is_writable(self.link)
    }
}

impl DataRing for SimRing {
    type Socket = SimSocket;

    fn adopt(&mut self, token: u32, SimSocket(link): SimSocket) {
        of_simulation(|| {
            let tokens = &mut self.state.borrow_mut().tokens;
            let index = token as usize;
            if index >= tokens.len() {
                tokens.resize_with(index + 1, || None);
            }
            let state = Token { link, receives: false, sends: false, awaits_room: false, receive: None, polls: false };
            let before = tokens[index].replace(state);
            assert!(before.is_none(), "a token names one socket at a time");
        })
    }

    fn release(&mut self, token: u32) {
        of_simulation(|| {
            let mut state = self.state.borrow_mut();
            let Token { link, receives, sends, awaits_room, .. } =
                state.tokens[token as usize].take().expect("a token is released once");
            assert!(
                !receives && !sends && !awaits_room,
                "token {token} is released while the ring holds a receive ({receives}), a send ({sends}) or a wait              ({awaits_room})"
            );
            state.shared.network.borrow_mut().server_closes(link);
        })
    }

    fn receive(&mut self, token: u32, how: Receive) {
        of_simulation(|| {
            let mut state = self.state.borrow_mut();
            let before = std::mem::replace(&mut state.token(token).receives, true);
            assert!(!before, "one receive at a time");
            state.asked.push(Submission::Receive(token, how));
        })
    }

    fn cancel(&mut self, token: u32) {
        of_simulation(|| {
            let mut state = self.state.borrow_mut();
            state.token(token);
            state.asked.push(Submission::Cancel(token));
        })
    }

    fn send(&mut self, token: u32, slices: Slices) {
        of_simulation(|| {
            assert!(
                !slices.is_empty() && slices.as_slice().len() <= SLICES_PER_SEND_MAX,
                "a send has something to send"
            );
            let mut state = self.state.borrow_mut();
            let before = std::mem::replace(&mut state.token(token).sends, true);
            assert!(!before, "one send at a time");
            state.asked.push(Submission::Send(token, slices));
        })
    }

    fn await_writable(&mut self, token: u32) {
        of_simulation(|| {
            let mut state = self.state.borrow_mut();
            let before = std::mem::replace(&mut state.token(token).awaits_room, true);
            assert!(!before, "one wait at a time");
            state.asked.push(Submission::AwaitWritable(token));
        })
    }

    fn shutdown(&mut self, token: u32, how: Shutdown) {
        let mut state = self.state.borrow_mut();
        let link = state.token(token).link;
        state.shared.network.borrow_mut().server_shuts_down(link, how == Shutdown::Both);
    }

    fn submit(&mut self) -> io::Result<bool> {
        of_simulation(|| {
            let (shard, shared) = {
                let state = self.state.borrow();
                (state.shard, Rc::clone(&state.shared))
            };
            if let Some(meanwhile) = &*shared.meanwhile.borrow() {
                meanwhile(shard);
            }
            let mut state = self.state.borrow_mut();
            for submission in std::mem::take(&mut state.asked) {
                state.execute(submission);
            }
            let pieces =
                if shared.faults.get() { shared.random.between(1, DEFERRED_PER_SUBMIT) } else { DEFERRED_PER_SUBMIT };
            let mut due = Vec::new();
            for _ in 0..pieces {
                if due.is_empty() {
                    let network = shared.network.borrow();
                    let tokens = state.tokens.iter().enumerate();
                    let is_due = |token: &Option<Token>| token.as_ref().is_some_and(|token| token.is_due(&network));
                    due.extend(tokens.filter(|(_, token)| is_due(token)).map(|(index, _)| index as u32));
                    shared.random.shuffle(&mut due);
                }
                let Some(token) = due.pop() else { break };
                state.finish_deferred(token);
            }
            Ok(state.has_deferred())
        })
    }

    fn next(&mut self) -> Option<Completion> {
        let mut state = self.state.borrow_mut();
        let completion = state.ready.pop_front()?;
        match &completion {
            Completion::Received { token, armed, .. } => state.token(*token).receives = *armed,
            Completion::Sent { token, .. } => state.token(*token).sends = false,
            Completion::Writable { token } => state.token(*token).awaits_room = false,
        }
        Some(completion)
    }

    fn suppress_wakeups(&mut self) {
        self.state.borrow_mut().wakes = false;
    }

    fn arm_wakeups(&mut self) -> bool {
        let mut state = self.state.borrow_mut();
        state.wakes = true;
        !state.has_news()
    }

    fn buffers(&self) -> &BufferPool {
        &self.pool
    }

    fn descriptor(&self, token: u32) -> RawFd {
        let mut state = self.state.borrow_mut();
        let link = state.token(token).link;
        state.shared.network.borrow().link(link).descriptor
    }

    fn peer_has_ended(descriptor: RawFd) -> bool {
        network::peer_has_ended(descriptor)
    }
}
