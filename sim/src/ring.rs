//! The data ring of a simulated shard. Everything that a shard owes to a ring is asserted here; what becomes of what it asks
//! for is the business of [`crate::kernel`].

use std::cell::RefCell;
use std::io;
use std::net::Shutdown;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use hi::limits::SLICES_PER_SEND_MAX;
use hi::ring::{BufferPool, Completion, DataRing, Receive, Slices};

use crate::allocations::of_simulation;
use crate::kernel::{Kernel, Shared, State, Submission, Token};
use crate::network::{self, LinkId};

/// The server's end of a link.
#[derive(Debug)]
pub struct SimSocket(pub LinkId);

/// See the module.
pub struct SimRing {
    state: Rc<RefCell<State>>,
    pool: BufferPool,
}

impl SimRing {
    /// A ring with `receive_buffers` buffers, and the scheduler's hold of it. It sets `awake` when it has something to tell.
    pub fn new(shard: usize, receive_buffers: u16, shared: Rc<Shared>, awake: Arc<AtomicBool>) -> (Self, Kernel) {
        let pool = BufferPool::new(receive_buffers);
        let state = Rc::new(RefCell::new(State::new(shard, pool.clone(), shared, awake)));
        (Self { state: Rc::clone(&state), pool }, Kernel(state))
    }

    /// Other things happen between two calls of the shard.
    fn meanwhile(&self) {
        let (shard, shared) = {
            let state = self.state.borrow();
            (state.shard, Rc::clone(&state.shared))
        };
        if let Some(meanwhile) = shared.meanwhile.get() {
            meanwhile(shard);
        }
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
            let before = tokens[index].replace(Token::new(link));
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
            self.meanwhile();
            Ok(self.state.borrow_mut().submit())
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
        of_simulation(|| {
            self.meanwhile();
            let mut state = self.state.borrow_mut();
            state.wakes = true;
            !state.has_news()
        })
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
