//! The order to stop: given once, heard by every thread.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::watch;

/// Asks a server to stop, and says how that went. Whoever starts the server keeps it.
#[derive(Debug, Default)]
pub struct Stop {
    requested: watch::Sender<bool>,
    left: AtomicUsize,
}

impl Stop {
    /// Asks all threads to stop.
    pub(crate) fn request(&self) {
        self.requested.send_replace(true);
    }

    /// Whether that was asked.
    pub(crate) fn is_requested(&self) -> bool {
        *self.requested.borrow()
    }

    /// Waits until it is asked.
    pub(crate) async fn requested(&self) {
        // The sender lives as long as `self`: there is no error.
        let _ = self.requested.subscribe().wait_for(|requested| *requested).await;
    }

    /// Counts connections that had not closed when their shard's time to stop was over.
    pub(crate) fn note_left(&self, connections: usize) {
        self.left.fetch_add(connections, Ordering::AcqRel);
    }

    /// Connections that had not closed in time.
    pub(crate) fn left(&self) -> usize {
        self.left.load(Ordering::Acquire)
    }
}
