//! The gate that the threads of an attack wait at.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// Whether the attack is running.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    /// Starts or stops it.
    pub(crate) fn set(&self, open: bool) {
        *self.0.0.lock().unwrap() = open;
        self.0.1.notify_all();
    }

    /// Waits until it is running.
    pub(crate) fn pass(&self) {
        let (open, changed) = &*self.0;
        drop(changed.wait_while(open.lock().unwrap(), |open| !*open).unwrap());
    }

    /// Calls `act` repeatedly in a separate thread while the attack is running, with `every` between two calls, or as
    /// fast as possible.
    pub(crate) fn repeat(&self, every: Option<Duration>, mut what: impl FnMut() + Send + 'static) {
        let gate = self.clone();
        std::thread::spawn(move || {
            loop {
                gate.pass();
                what();
                every.into_iter().for_each(std::thread::sleep);
            }
        });
    }
}
