//! The ring's system calls, as Linux has them since 4.18 and before.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::ioctl_fionbio;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, send, sendmsg};
use socket2::SockRef;

use super::aio::Aio;
use super::{Calls, EpollRing, Readiness};
use crate::limits::{EVENTS_PER_CALL, SENDS_PER_CALL_MIN, SLICES_PER_SEND_MAX};
use crate::os;
use crate::ring::{Backend, OpenRing, RingError, Socket};
use crate::slice::Slice;

/// Stands where a token stands, and is none: sockets have tokens of 32 bits.
const WAKE_UP: u64 = u64::MAX;
const NO_WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// The system calls of a shard's ring.
pub struct KernelCalls {
    epoll: OwnedFd,
    events: Vec<Event>,
    /// Watched by `epoll`, so it has to stay open.
    _wake_up: OwnedFd,
    /// Without it, each send is a call of its own.
    aio: Option<Aio>,
}

impl KernelCalls {
    /// What is watched, beside sockets, is `wake_up`: each signal makes the epoll readable until the next look.
    fn new(wake_up: OwnedFd) -> Result<Self, RingError> {
        let step = |operation| move |error: rustix::io::Errno| RingError { operation, error: error.into() };
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(step("epoll_create1"))?;
        // Nobody reads it: each signal is reported once.
        let flags = EventFlags::IN | EventFlags::ET;
        epoll::add(&epoll, &wake_up, EventData::new_u64(WAKE_UP), flags).map_err(step("epoll_ctl"))?;
        Ok(Self { epoll, events: Vec::with_capacity(EVENTS_PER_CALL), _wake_up: wake_up, aio: Aio::new().ok() })
    }
}

impl From<Readiness> for EventFlags {
    fn from(Readiness { readable, writable }: Readiness) -> Self {
        let when = |wanted, flags| if wanted { flags } else { Self::empty() };
        when(readable, Self::IN) | when(writable, Self::OUT)
    }
}

impl From<EventFlags> for Readiness {
    fn from(flags: EventFlags) -> Self {
        let is_broken = flags.intersects(EventFlags::HUP | EventFlags::ERR);
        Self {
            readable: is_broken || flags.contains(EventFlags::IN),
            writable: is_broken || flags.contains(EventFlags::OUT),
        }
    }
}

fn send_one(socket: &Socket, slices: &[Slice]) -> io::Result<usize> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    if let [slice] = slices {
        return Ok(send(socket, slice.as_bytes(), flags)?);
    }
    let mut gather = [IoSlice::new(&[]); SLICES_PER_SEND_MAX];
    gather.iter_mut().zip(slices).for_each(|(part, slice)| *part = IoSlice::new(slice.as_bytes()));
    Ok(sendmsg(socket, &gather[..slices.len()], &mut SendAncillaryBuffer::default(), flags)?)
}

impl Calls for KernelCalls {
    type Socket = Socket;

    fn adopt(&mut self, socket: &Socket) {
        // It can't fail for a socket, and for io_submit there is no flag that says so.
        let _ = ioctl_fionbio(socket, true);
    }

    fn watch(&mut self, token: u32, socket: &Socket, before: Readiness, wanted: Readiness) -> io::Result<()> {
        let data = EventData::new_u64(token.into());
        Ok(match (before, wanted) {
            (_, Readiness::NONE) => epoll::delete(&self.epoll, socket),
            (Readiness::NONE, _) => epoll::add(&self.epoll, socket, data, wanted.into()),
            _ => epoll::modify(&self.epoll, socket, data, wanted.into()),
        }?)
    }

    fn ready(&mut self, ready: &mut Vec<(u32, Readiness)>) -> io::Result<bool> {
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&NO_WAIT)) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
        // A signal is not there for the next look: what it is about must be seen to before the thread sleeps.
        let mut more = self.events.len() >= EVENTS_PER_CALL;
        for event in &self.events {
            match event.data.u64() {
                WAKE_UP => more = true,
                token => ready.push((token as u32, event.flags.into())),
            }
        }
        Ok(more)
    }

    fn receive(&mut self, socket: &Socket, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(recv(socket, buffer, RecvFlags::DONTWAIT)?.0)
    }

    fn send<'s>(
        &mut self,
        sends: impl ExactSizeIterator<Item = (&'s Socket, &'s [Slice])>,
        results: &mut Vec<io::Result<usize>>,
    ) {
        match &mut self.aio {
            Some(aio) if sends.len() >= SENDS_PER_CALL_MIN => aio.send(sends, results),
            _ => results.extend(sends.map(|(socket, slices)| send_one(socket, slices))),
        }
    }

    fn shutdown(&mut self, socket: &Socket, how: Shutdown) {
        // An error means that the connection is broken already.
        let _ = SockRef::from(socket).shutdown(how);
    }

    fn descriptor(socket: &Socket) -> RawFd {
        socket.as_raw_fd()
    }

    fn peer_has_ended(descriptor: RawFd) -> bool {
        os::peer_has_ended(descriptor)
    }
}

impl OpenRing for EpollRing<KernelCalls> {
    fn open(receive_buffers: u16, wake_up: OwnedFd) -> Result<Self, RingError> {
        Ok(Self::new(KernelCalls::new(wake_up)?, receive_buffers))
    }

    fn backend() -> Backend {
        Backend::Epoll
    }

    fn wake_descriptor(&self) -> BorrowedFd<'_> {
        self.calls.epoll.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::ring::{Completion, DataRing, Receive, Slices};

    fn is_readable(descriptor: BorrowedFd<'_>) -> bool {
        let mut asked = [rustix::event::PollFd::new(&descriptor, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut asked, Some(&NO_WAIT)).unwrap() == 1
    }

    fn ring() -> (EpollRing<KernelCalls>, OwnedFd, UnixStream) {
        let wake_up = os::new_eventfd().unwrap();
        let mut ring = EpollRing::open(2, wake_up.try_clone().unwrap()).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        ring.adopt(0, Socket::Accepted(ours.into()));
        (ring, wake_up, theirs)
    }

    #[test]
    fn a_signal_and_an_arrival_wake_and_are_seen_once() {
        let (mut ring, wake_up, mut peer) = ring();
        ring.receive(0, Receive::All);
        assert!(ring.arm_wakeups() && !is_readable(ring.wake_descriptor()));
        os::eventfd_signal(&wake_up);
        assert!(is_readable(ring.wake_descriptor()));
        assert!(!ring.arm_wakeups(), "what was signalled since the turn looked is not seen to");
        assert!(ring.arm_wakeups() && !is_readable(ring.wake_descriptor()));
        peer.write_all(b"hi").unwrap();
        assert!(is_readable(ring.wake_descriptor()));
        assert!(!ring.arm_wakeups());
        let Some(Completion::Received { result: Ok(Some(received)), armed: true, .. }) = ring.next() else {
            panic!("nothing is received")
        };
        assert_eq!(received.len(), 2);
        assert!(ring.arm_wakeups() && !is_readable(ring.wake_descriptor()));
    }

    #[test]
    fn a_broken_socket_that_nothing_is_asked_for_is_silent() {
        let (mut ring, _wake_up, peer) = ring();
        ring.receive(0, Receive::Once);
        drop(peer);
        ring.poll().unwrap();
        assert!(matches!(ring.next(), Some(Completion::Received { result: Ok(None), armed: false, .. })));
        assert!(ring.arm_wakeups() && !is_readable(ring.wake_descriptor()));
        ring.release(0);
    }

    #[test]
    fn without_buffers_a_receive_ends_and_goes_on_when_one_is_back() {
        let (mut ring, _wake_up, mut peer) = ring();
        ring.receive(0, Receive::All);
        peer.write_all(&[7; 3 * 4096]).unwrap();
        ring.poll().unwrap();
        let mut completions: Vec<_> = std::iter::from_fn(|| ring.next()).collect();
        let Some(Completion::Received { result: Err(error), armed: false, .. }) = completions.pop() else {
            panic!("there is a third buffer")
        };
        assert_eq!((error.raw_os_error(), completions.len()), (Some(libc::ENOBUFS), 2));
        assert!(ring.arm_wakeups(), "what can't be received must not keep the thread awake");
        drop(completions);
        ring.receive(0, Receive::Once);
        assert!(!ring.arm_wakeups());
        assert!(matches!(ring.next(), Some(Completion::Received { result: Ok(Some(_)), armed: false, .. })));
    }

    #[test]
    fn a_full_socket_is_writable_once_it_has_room() {
        let (mut ring, _wake_up, peer) = ring();
        let frame =
            || Slices::Many(vec![bytes::Bytes::from(vec![1; 60_000]).into(), bytes::Bytes::from_static(b"2").into()]);
        loop {
            ring.send(0, frame());
            ring.submit().unwrap();
            let Some(Completion::Sent { result, .. }) = ring.next() else {
                panic!("a send completes with its submission")
            };
            if let Err(error) = result {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                break;
            }
        }
        ring.await_writable(0);
        assert!(ring.arm_wakeups());
        drop(peer);
        assert!(is_readable(ring.wake_descriptor()) && !ring.arm_wakeups());
        assert!(matches!(ring.next(), Some(Completion::Writable { token: 0 })));
        assert!(ring.arm_wakeups());
    }
}
