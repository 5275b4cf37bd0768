//! Listeners: connections are accepted in rows. Most peers have sent their head by then, and are answered at once, without
//! a task and without a wait.

use std::io;
use std::mem;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::io::ioctl_fionbio;
use rustix::net::{RecvFlags, recv};
use tokio::io::unix::AsyncFd;
use tokio::time::sleep;

use super::ControlContext;
use super::answer::{Outcome, outcome};
use super::handshake::serve;
use super::verification::Patience;
use crate::address::PeerAddress;
use crate::limits::{ACCEPTS_PER_ROW, DESCRIPTOR_PAUSE, HEAD_BYTES_USUAL};
use crate::os;
use crate::ring::control::{Stream, spawn};
use crate::ring::{OpenRing, Socket};
use crate::stop::Stop;

/// A listener, watched by the runtime of the thread that made it.
pub(crate) struct Listener {
    listener: AsyncFd<OwnedFd>,
    /// Told when a row of accepts has ended and another one has to follow.
    next_row: AsyncFd<OwnedFd>,
}

impl Listener {
    /// Watches the listener.
    ///
    /// # Errors
    /// Out of file descriptors or memory.
    pub(crate) fn new(listener: OwnedFd) -> io::Result<Self> {
        ioctl_fionbio(&listener, true)?;
        Ok(Self { listener: os::watch_readable(listener)?, next_row: os::watch_readable(os::new_eventfd()?)? })
    }

    /// Accepts until the server stops; then the listener closes, which refuses those that come now, and the shard is told.
    pub(crate) async fn accept_until<R: OpenRing + 'static>(self, stop: &Stop, context: Rc<ControlContext<R>>) {
        tokio::select! {
            biased;
            () = stop.requested() => {}
            () = self.accept(&context) => {}
        }
        drop(self);
        context.shard.news.notify_one();
    }

    /// Accepts for ever. Without file descriptors it pauses; connected clients are not affected.
    async fn accept<R: OpenRing + 'static>(&self, context: &Rc<ControlContext<R>>) {
        let mut buffer = Vec::new();
        'rows: loop {
            let mut ready = self.listener.readable().await.expect("the runtime runs");
            for number in 0..ACCEPTS_PER_ROW {
                // No more connections wait.
                let Ok(accepted) = ready.try_io(|listener| os::accept(listener.get_ref())) else { continue 'rows };
                match accepted {
                    Ok((mut socket, address)) => {
                        context.counters.accepts.add(1);
                        if !context.descriptors.fits(&socket) {
                            context.note_pause(&"the last free file descriptors are reserved for the internal port");
                            socket = context.descriptors.move_down(socket).await;
                        }
                        // One that comes alone is answered at once; the answers to the rest of a storm leave together.
                        let first = number == 0;
                        accept_one(socket, address, &mut buffer, first, context);
                        // An accept in vain makes a socket and a file before it finds that out, which costs several times as much.
                        if first && !os::is_readable(self.listener.get_ref()) {
                            ready.clear_ready();
                            continue 'rows;
                        }
                    }
                    // That one connection was gone before it was accepted.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                    Err(error) => {
                        context.note_pause(&error);
                        let _ = context.descriptors.make_room();
                        sleep(DESCRIPTOR_PAUSE).await;
                    }
                }
            }
            // The thread parks in between, as after a turn that is not the last one: the control ring is submitted only
            // then.
            os::eventfd_signal(self.next_row.get_ref());
            self.next_row.readable().await.expect("the runtime runs").clear_ready();
        }
    }
}

/// Serves a connection as far as what it has sent allows, and hands the rest to a task. `buffer` is used again unless it goes
/// with the task.
fn accept_one<R: OpenRing + 'static>(
    socket: OwnedFd,
    address: PeerAddress,
    buffer: &mut Vec<u8>,
    at_once: bool,
    context: &Rc<ControlContext<R>>,
) {
    buffer.clear();
    buffer.reserve(HEAD_BYTES_USUAL);
    // Nothing yet, or the end of it, or an error: the task reads again, and finds out.
    let _ = recv(&socket, rustix::buffer::spare_capacity(buffer), RecvFlags::DONTWAIT);
    let mut origin = context.origin(address);
    match outcome(buffer, 0, socket.as_fd(), &mut origin, context, Patience::New) {
        Some((Outcome::Upgrade(upgrade), used)) => {
            context.adopt(Socket::Accepted(socket), upgrade, buffer.split_off(used), at_once);
        }
        first => {
            let (buffer, context) = (mem::take(buffer), Rc::clone(context));
            match Stream::new(R::backend(), socket) {
                Ok(stream) => spawn(async move { serve(stream, origin, buffer, first, &context).await }),
                Err(error) => context.note_pause(&error),
            }
        }
    }
}
