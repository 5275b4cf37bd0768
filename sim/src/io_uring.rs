//! io_uring behind a simulated ring: does to the network what a shard has asked for, and finishes in any order that io_uring may
//! finish in, soon or late.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::net::Shutdown;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hi::limits::RECEIVE_BUFFER_BYTES;
use hi::ring::{BufferPool, Completion, DataRing, Receive, Slices};

use crate::allocations::of_simulation;
use crate::network::{self, Found, Network};
use crate::seen::Seen;
use crate::shared::{Shared, SimSocket};

/// Pieces of deferred work that the kernel finishes in one call, as Linux does since 6.13.
const DEFERRED_PER_SUBMIT: usize = 20;
/// While there are faults, one completion in this many comes late.
const LATE_ONE_IN: usize = 4;

/// Something asked for since the last submit.
enum Submission {
    Receive(u32, Receive),
    Cancel(u32),
    Send(u32, Slices),
    AwaitWritable(u32),
}

/// A socket as the ring has it.
struct Token {
    socket: SimSocket,
    receive: Option<Receive>,
    polls: bool,
}

/// What the kernel has of one ring.
pub(crate) struct State {
    shared: Rc<Shared>,
    pool: BufferPool,
    tokens: Vec<Option<Token>>,
    asked: Vec<Submission>,
    ready: VecDeque<Completion>,
    /// Finished, and not told yet.
    late: Vec<Completion>,
    wakes: bool,
    awake: Arc<AtomicBool>,
}

impl State {
    /// A ring that nothing was asked of.
    fn new(pool: BufferPool, shared: Rc<Shared>, awake: Arc<AtomicBool>) -> Self {
        Self {
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

    /// Wakes the shard if there is something that it has to be told.
    pub(crate) fn notify(&self) {
        if self.wakes && self.has_news() {
            self.awake.store(true, Ordering::SeqCst);
        }
    }

    /// Tells something that is late; false if nothing is.
    pub(crate) fn tell_late(&mut self) -> bool {
        if self.late.is_empty() {
            return false;
        }
        let index = self.shared.random.below(self.late.len());
        let completion = self.late.swap_remove(index);
        self.ready.push_back(completion);
        self.notify();
        true
    }

    /// Whether nothing is asked for, in flight or waiting to be told, but receives.
    pub(crate) fn is_quiet(&self) -> bool {
        self.late.is_empty() && !self.has_news()
    }

    /// A socket that is adopted, and not released.
    fn token(&mut self, token: u32) -> &mut Token {
        let state = self.tokens.get_mut(token as usize).and_then(Option::as_mut);
        state.expect("nothing is asked for a token that isn't adopted")
    }

    /// Whether the shard has to be told of something, or has asked for something that was not submitted.
    fn has_news(&self) -> bool {
        !self.asked.is_empty() || !self.ready.is_empty() || self.has_deferred()
    }

    /// Takes what was asked for, and finishes some of what was deferred.
    fn enter(&mut self) {
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
                    let result = Err(io::Error::from_raw_os_error(libc::ECANCELED));
                    self.finish(Completion::Received { token, result, armed: false });
                }
            }
            Submission::Send(token, slices) => {
                let link = self.token(token).socket.link;
                let result = self.shared.transmit(link, slices.as_slice());
                self.finish(Completion::Sent { token, result, slices });
            }
        }
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
        if state.polls && network.is_writable(state.socket.link) && (state.receive.is_none() || random.one_in(2)) {
            state.polls = false;
            drop(network);
            return self.finish(Completion::Writable { token });
        }
        let Some(how) = state.receive.filter(|_| network.is_readable(state.socket.link)) else { return };
        let link = state.socket.link;
        if self.pool.held() >= self.pool.size() {
            // A buffer is chosen before the kernel looks what there is, the end included.
            self.token(token).receive = None;
            let result = Err(io::Error::from_raw_os_error(libc::ENOBUFS));
            return self.ready.push_back(Completion::Received { token, result, armed: false });
        }
        let max = if random.one_in(2) { RECEIVE_BUFFER_BYTES } else { random.between(1, RECEIVE_BUFFER_BYTES) };
        let (result, armed) = match network.server_receives(link, max) {
            Found::Nothing => return,
            Found::Bytes(bytes) => {
                let received = self.pool.fill_by(|buffer| {
                    buffer[..bytes.len()].copy_from_slice(&bytes);
                    Ok(bytes.len())
                });
                (received.expect("one is left").map(Some), how == Receive::All)
            }
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
        self.receive.is_some() && network.is_readable(self.socket.link)
            || self.polls && network.is_writable(self.socket.link)
    }
}

/// A ring in front of it.
pub(crate) struct IoUring {
    pub(crate) state: Rc<RefCell<State>>,
    pool: BufferPool,
}

impl IoUring {
    /// A ring with `receive_buffers` buffers. It sets `awake` when it has something to tell.
    pub(crate) fn new(receive_buffers: u16, shared: Rc<Shared>, awake: Arc<AtomicBool>) -> Self {
        let pool = BufferPool::new(receive_buffers);
        Self { state: Rc::new(RefCell::new(State::new(pool.clone(), shared, awake))), pool }
    }

    fn ask(&self, submission: Submission) {
        of_simulation(|| self.state.borrow_mut().asked.push(submission));
    }
}

impl DataRing for IoUring {
    type Socket = SimSocket;

    fn adopt(&mut self, token: u32, socket: SimSocket) {
        of_simulation(|| {
            let (tokens, index) = (&mut self.state.borrow_mut().tokens, token as usize);
            if index >= tokens.len() {
                tokens.resize_with(index + 1, || None);
            }
            tokens[index] = Some(Token { socket, receive: None, polls: false });
        });
    }

    fn release(&mut self, token: u32) {
        let token = self.state.borrow_mut().tokens[token as usize].take();
        of_simulation(|| drop(token));
    }

    fn receive(&mut self, token: u32, how: Receive) {
        self.ask(Submission::Receive(token, how));
    }

    fn cancel(&mut self, token: u32) {
        self.ask(Submission::Cancel(token));
    }

    fn send(&mut self, token: u32, slices: Slices) {
        self.ask(Submission::Send(token, slices));
    }

    fn await_writable(&mut self, token: u32) {
        self.ask(Submission::AwaitWritable(token));
    }

    fn shutdown(&mut self, token: u32, how: Shutdown) {
        let mut state = self.state.borrow_mut();
        let link = state.token(token).socket.link;
        state.shared.network.borrow_mut().server_shuts_down(link, how == Shutdown::Both);
    }

    fn submit(&mut self) -> io::Result<()> {
        of_simulation(|| self.state.borrow_mut().enter());
        Ok(())
    }

    fn poll(&mut self) -> io::Result<bool> {
        of_simulation(|| {
            let mut state = self.state.borrow_mut();
            if state.has_deferred() {
                state.enter();
            }
            Ok(state.has_deferred())
        })
    }

    fn next(&mut self) -> Option<Completion> {
        self.state.borrow_mut().ready.pop_front()
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
        self.state.borrow_mut().token(token).socket.descriptor()
    }

    fn peer_has_ended(descriptor: RawFd) -> bool {
        network::peer_has_ended(descriptor)
    }
}
