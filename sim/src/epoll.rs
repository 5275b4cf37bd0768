//! epoll behind hi's own ring for it: which sockets are ready, a few at a time and in any order, and system calls that take less
//! than there is.

use std::cell::RefCell;
use std::io;
use std::net::Shutdown;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hi::ring::epoll::{Calls, Readiness};
use hi::slice::Slice;

use crate::allocations::of_simulation;
use crate::network::{self, Found, LinkId};
use crate::seen::Seen;
use crate::shared::{Shared, SimSocket};

/// While there are faults, one look in this many finds only some of the sockets that are ready.
const PARTIAL_ONE_IN: usize = 3;

/// What the kernel watches for one shard.
pub(crate) struct State {
    shared: Rc<Shared>,
    /// By token.
    watched: Vec<Option<(LinkId, Readiness)>>,
    awake: Arc<AtomicBool>,
}

impl State {
    /// Nothing is watched. Whatever is ready sets `awake`.
    pub(crate) fn new(shared: Rc<Shared>, awake: Arc<AtomicBool>) -> Self {
        Self { shared, watched: Vec::new(), awake }
    }

    /// Wakes the shard if anything is ready.
    pub(crate) fn notify(&self) {
        if self.is_any_ready() {
            self.awake.store(true, Ordering::SeqCst);
        }
    }

    /// Whether anything is ready that is watched.
    pub(crate) fn is_any_ready(&self) -> bool {
        (0..self.watched.len() as u32).any(|token| self.readiness(token) != Readiness::NONE)
    }

    /// A socket that is broken, or ended in both directions, is ready for everything, if it is watched at all.
    fn readiness(&self, token: u32) -> Readiness {
        let Some(Some((link, wanted))) = self.watched.get(token as usize) else { return Readiness::NONE };
        let network = self.shared.network.borrow();
        let is_over = network.is_over(*link);
        Readiness {
            readable: is_over || wanted.readable && network.is_readable(*link),
            writable: is_over || wanted.writable && network.is_writable(*link),
        }
    }
}

/// The system calls of one shard's ring.
pub(crate) struct SimCalls(pub(crate) Rc<RefCell<State>>);

impl SimCalls {
    fn shared(&self) -> Rc<Shared> {
        Rc::clone(&self.0.borrow().shared)
    }
}

impl Calls for SimCalls {
    type Socket = SimSocket;

    fn adopt(&mut self, _: &SimSocket) {}

    fn watch(&mut self, token: u32, socket: &SimSocket, before: Readiness, wanted: Readiness) -> io::Result<()> {
        of_simulation(|| {
            let (watched, index) = (&mut self.0.borrow_mut().watched, token as usize);
            if index >= watched.len() {
                watched.resize_with(index + 1, || None);
            }
            let was = watched[index].map_or(Readiness::NONE, |(link, wanted)| {
                assert_eq!(link, socket.link, "what is watched under token {token} is not its socket");
                wanted
            });
            assert_eq!(was, before, "the ring knows what token {token} is watched for");
            assert_ne!(was, wanted, "a call that changes nothing");
            watched[index] = (wanted != Readiness::NONE).then_some((socket.link, wanted));
        });
        Ok(())
    }

    fn ready(&mut self, ready: &mut Vec<(u32, Readiness)>) -> io::Result<bool> {
        of_simulation(|| {
            let state = self.0.borrow();
            let tokens = 0..state.watched.len() as u32;
            let found = tokens.map(|token| (token, state.readiness(token)));
            let mut found: Vec<_> = found.filter(|(_, readiness)| *readiness != Readiness::NONE).collect();
            let (random, faults) = (&state.shared.random, state.shared.faults.get());
            random.shuffle(&mut found);
            let is_partial = faults && !found.is_empty() && random.one_in(PARTIAL_ONE_IN);
            if is_partial {
                found.truncate(random.between(1, found.len()));
            }
            ready.extend(found);
            Ok(is_partial)
        })
    }

    fn receive(&mut self, socket: &SimSocket, buffer: &mut [u8]) -> io::Result<usize> {
        of_simulation(|| {
            let shared = self.shared();
            let max = if shared.random.one_in(2) { buffer.len() } else { shared.random.between(1, buffer.len()) };
            match shared.network.borrow_mut().server_receives(socket.link, max) {
                Found::Nothing => Err(io::ErrorKind::WouldBlock.into()),
                Found::Bytes(bytes) => {
                    buffer[..bytes.len()].copy_from_slice(&bytes);
                    Ok(bytes.len())
                }
                Found::End => Ok(0),
                Found::Reset => {
                    shared.saw(Seen::Reset);
                    Err(io::ErrorKind::ConnectionReset.into())
                }
            }
        })
    }

    fn send<'s>(
        &mut self,
        sends: impl ExactSizeIterator<Item = (&'s SimSocket, &'s [Slice])>,
        results: &mut Vec<io::Result<usize>>,
    ) {
        let shared = self.shared();
        results.extend(sends.map(|(socket, slices)| of_simulation(|| shared.transmit(socket.link, slices))));
    }

    fn shutdown(&mut self, socket: &SimSocket, how: Shutdown) {
        self.shared().network.borrow_mut().server_shuts_down(socket.link, how == Shutdown::Both);
    }

    fn descriptor(socket: &SimSocket) -> RawFd {
        socket.descriptor()
    }

    fn peer_has_ended(descriptor: RawFd) -> bool {
        network::peer_has_ended(descriptor)
    }
}
