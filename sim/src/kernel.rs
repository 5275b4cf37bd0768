//! The kernel behind a simulated ring: does to the network what a shard has asked for, and finishes in any order that io_uring
//! may finish in, soon or late.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hi::limits::RECEIVE_BUFFER_BYTES;
use hi::ring::{BufferPool, Completion, Receive, Slices};

use crate::network::{Found, LinkId, Network};
use crate::random::Random;
use crate::seen::{Seen, Totals};

/// Pieces of deferred work that the kernel finishes in one call, as Linux does since 6.13.
const DEFERRED_PER_SUBMIT: usize = 20;
/// While there are faults, one send in this many is cut short, and one in this many refused.
const SEND_FAULT_ONE_IN: usize = 6;
/// While there are faults, one completion in this many comes late.
const LATE_ONE_IN: usize = 4;

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
    /// Called by a shard's ring: what happens elsewhere at that moment.
    pub meanwhile: OnceCell<Box<dyn Fn(usize)>>,
}

/// Something asked for since the last submit.
pub(crate) enum Submission {
    Receive(u32, Receive),
    Cancel(u32),
    Send(u32, Slices),
    AwaitWritable(u32),
}

/// A socket as the ring has it.
pub(crate) struct Token {
    pub(crate) link: LinkId,
    /// Asked for, and not told yet that it has ended.
    pub(crate) receives: bool,
    pub(crate) sends: bool,
    pub(crate) awaits_room: bool,
    /// What the kernel holds.
    receive: Option<Receive>,
    polls: bool,
}

/// What the kernel has of one ring.
pub(crate) struct State {
    pub(crate) shard: usize,
    pub(crate) shared: Rc<Shared>,
    pool: BufferPool,
    pub(crate) tokens: Vec<Option<Token>>,
    pub(crate) asked: Vec<Submission>,
    pub(crate) ready: VecDeque<Completion>,
    /// Finished, and not told yet.
    late: Vec<Completion>,
    pub(crate) wakes: bool,
    awake: Arc<AtomicBool>,
}

/// The scheduler's hold of a ring.
#[derive(Clone)]
pub struct Kernel(pub(crate) Rc<RefCell<State>>);

impl Shared {
    fn saw(&self, seen: Seen) {
        self.totals.borrow_mut().count(seen, 1);
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
    /// A ring that nothing was asked of.
    pub(crate) fn new(shard: usize, pool: BufferPool, shared: Rc<Shared>, awake: Arc<AtomicBool>) -> Self {
        Self {
            shard,
            shared,
            pool,
            tokens: Vec::new(),
            asked: Vec::new(),
            ready: VecDeque::new(),
            late: Vec::new(),
            wakes: false,
            awake,
        }
    }

    /// A socket that is adopted, and not released.
    pub(crate) fn token(&mut self, token: u32) -> &mut Token {
        let state = self.tokens.get_mut(token as usize).and_then(Option::as_mut);
        state.expect("nothing is asked for a token that isn't adopted")
    }

    /// Whether the shard has to be told of something, or has asked for something that was not submitted.
    pub(crate) fn has_news(&self) -> bool {
        !self.asked.is_empty() || !self.ready.is_empty() || self.has_deferred()
    }

    /// Takes what was asked for, and finishes some of what was deferred; true: there is more of that.
    pub(crate) fn submit(&mut self) -> bool {
        for submission in std::mem::take(&mut self.asked) {
            self.execute(submission);
        }
        let shared = Rc::clone(&self.shared);
        let faults = shared.faults.get();
        let pieces = if faults { shared.random.between(1, DEFERRED_PER_SUBMIT) } else { DEFERRED_PER_SUBMIT };
        let mut due = Vec::new();
        for _ in 0..pieces {
            if due.is_empty() {
                let network = shared.network.borrow();
                let tokens = self.tokens.iter().enumerate();
                let is_due = |token: &Option<Token>| token.as_ref().is_some_and(|token| token.is_due(&network));
                due.extend(tokens.filter(|(_, token)| is_due(token)).map(|(index, _)| index as u32));
                shared.random.shuffle(&mut due);
            }
            let Some(token) = due.pop() else { break };
            self.finish_deferred(token);
        }
        self.has_deferred()
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
        if self.pool.held() >= self.pool.size() {
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
    /// A socket of which nothing is in flight.
    pub(crate) fn new(link: LinkId) -> Self {
        Self { link, receives: false, sends: false, awaits_room: false, receive: None, polls: false }
    }

    fn is_due(&self, network: &Network) -> bool {
        self.receive.is_some() && network.is_readable(self.link) || self.polls && network.is_writable(self.link)
    }
}
