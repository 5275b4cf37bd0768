//! What the rings of a simulation share: the network and chance, the sockets, and what one send comes to.

use std::cell::{Cell, OnceCell, RefCell};
use std::io;
use std::os::fd::RawFd;
use std::rc::Rc;

use hi::slice::Slice;

use crate::network::{LinkId, Network};
use crate::random::Random;
use crate::seen::{Seen, Totals};

/// While there are faults, one send in this many is cut short, and one in this many refused.
const SEND_FAULT_ONE_IN: usize = 6;

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

/// The server's end of a link. Dropping it closes it.
pub struct SimSocket {
    /// The link.
    pub link: LinkId,
    shared: Rc<Shared>,
}

impl SimSocket {
    /// The end of this link.
    pub fn new(link: LinkId, shared: Rc<Shared>) -> Self {
        Self { link, shared }
    }

    pub(crate) fn descriptor(&self) -> RawFd {
        self.shared.network.borrow().link(self.link).descriptor
    }
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        self.shared.network.borrow_mut().server_closes(self.link);
    }
}

impl Shared {
    pub(crate) fn saw(&self, seen: Seen) {
        self.totals.borrow_mut().count(seen, 1);
    }

    /// Gives the network what it takes of a send.
    pub(crate) fn transmit(&self, link: LinkId, slices: &[Slice]) -> io::Result<usize> {
        let faults = self.faults.get();
        let mut network = self.network.borrow_mut();
        if network.server_sends(link, b"").is_none() {
            self.saw(Seen::Reset);
            let error = self.random.pick(&[io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset]);
            return Err(error.into());
        }
        let len: usize = slices.iter().map(Slice::len).sum();
        let mut left = len.min(network.link(link).down.room());
        if left > 1 && faults && self.random.one_in(SEND_FAULT_ONE_IN) {
            left = self.random.between(1, left);
            self.saw(Seen::Short);
        }
        if left == 0 || faults && self.random.one_in(SEND_FAULT_ONE_IN) {
            self.saw(Seen::Full);
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut count = 0;
        for slice in slices {
            let mut slice = slice.clone();
            slice.truncate(left);
            left -= slice.len();
            count += slice.len();
            let _ = network.server_sends(link, slice.as_bytes());
        }
        Ok(count)
    }
}
