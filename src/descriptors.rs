//! File descriptors when they run out: the last ones are reserved for the internal port, so that monitoring still works, and
//! connections of the public port that only wait for another request make room for new ones.
//!
//! The kernel always gives the lowest free descriptor. One from `public_max` on means that all below it are in use: the
//! connection that came with it waits, still unread, until one of those is free, and moves there. So each listener holds at
//! most one connection too many, and the fast path is one comparison.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicIsize, AtomicUsize, Ordering};

use tokio::sync::Notify;
use tokio::time::sleep;

use crate::limits::{DESCRIPTOR_PAUSE, IDLE_DESCRIPTOR_PAUSE};

/// What the listeners of all shards share.
#[derive(Debug)]
pub(crate) struct Descriptors {
    /// The public port uses the descriptors below this one.
    public_max: RawFd,
    /// Listeners that wait for a descriptor.
    waiting: AtomicUsize,
    /// Tells the connection that has been idle for longest to close.
    go: Notify,
    /// Connections that wait for another request and have not been told to close. Below 0 for a moment, when one that was
    /// told got its request first.
    idle: AtomicIsize,
}

impl Descriptors {
    /// A process that may have `limit` files open; the public port does not use the last `reserved` ones.
    pub(crate) fn new(limit: u64, reserved: u64) -> Self {
        let public_max = limit.saturating_sub(reserved).try_into().unwrap_or(RawFd::MAX);
        Self { public_max, waiting: AtomicUsize::new(0), go: Notify::new(), idle: AtomicIsize::new(0) }
    }

    /// Whether a connection that was just accepted may stay where it is.
    pub(crate) fn fits(&self, socket: &OwnedFd) -> bool {
        socket.as_raw_fd() < self.public_max
    }

    /// Waits until one of the public port's descriptors is free, and moves the connection there.
    pub(crate) async fn move_down(&self, socket: OwnedFd) -> OwnedFd {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let moved = loop {
            let asked = self.make_room();
            sleep(if asked { IDLE_DESCRIPTOR_PAUSE } else { DESCRIPTOR_PAUSE }).await;
            // An error is the lack of any descriptor: that passes too.
            if let Ok(duplicate) = rustix::io::fcntl_dupfd_cloexec(&socket, 0)
                && self.fits(&duplicate)
            {
                break duplicate;
            }
        };
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        moved
    }

    /// Whether new connections wait for a descriptor: answers then close their connections, and say so.
    pub(crate) fn are_short(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Closes the connection that has waited longest for another request; false if none waits.
    pub(crate) fn make_room(&self) -> bool {
        let one_less = |idle: isize| (idle > 0).then(|| idle - 1);
        let asked = self.idle.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok();
        if asked {
            self.go.notify_one();
        }
        asked
    }

    /// Waits for another request on a connection. `None`: it is to make room.
    pub(crate) async fn while_idle<T>(&self, request: impl Future<Output = T>) -> Option<T> {
        self.idle.fetch_add(1, Ordering::Relaxed);
        tokio::select! {
            biased;
            outcome = request => {
                self.idle.fetch_sub(1, Ordering::Relaxed);
                Some(outcome)
            }
            () = self.go.notified() => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use super::*;
    use crate::os::local_address;

    #[tokio::test]
    async fn the_one_that_is_idle_for_longest_makes_room_and_one_with_a_request_never() {
        let descriptors = Descriptors::new(100, 10);
        let (mut first, mut second) =
            (Box::pin(descriptors.while_idle(pending::<()>())), Box::pin(descriptors.while_idle(pending::<()>())));
        for idle in [&mut first, &mut second] {
            assert!(tokio::time::timeout(Duration::ZERO, idle).await.is_err(), "nobody asked for room");
        }
        assert!(descriptors.make_room());
        assert!(tokio::time::timeout(Duration::ZERO, &mut second).await.is_err());
        assert_eq!(first.await, None);
        assert_eq!(descriptors.while_idle(ready(7)).await, Some(7));
        assert!(descriptors.make_room());
        assert_eq!(second.await, None);
        // There is none: the next one is not told in its place.
        assert!(!descriptors.make_room());
        assert_eq!(descriptors.while_idle(async { tokio::task::yield_now().await }).await, Some(()));
    }

    #[tokio::test]
    async fn a_connection_waits_for_a_descriptor_of_the_public_port() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connect = || OwnedFd::from(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        let (lower, upper) = (connect(), connect());
        let mut low = vec![lower];
        // Other tests of this process open and close files meanwhile: only what this one holds is sure to be in use.
        let descriptors = Descriptors::new(upper.as_raw_fd() as u64 + 10, 10);
        low.retain(|stream| descriptors.fits(stream));
        assert!(!descriptors.fits(&upper) && !descriptors.are_short());
        let local = local_address(&upper).unwrap();
        drop(low);
        let moved = descriptors.move_down(upper).await;
        assert!(descriptors.fits(&moved) && !descriptors.are_short());
        assert_eq!(local_address(&moved).unwrap(), local);
    }
}
