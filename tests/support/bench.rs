//! One shard on the thread of the test, with real sockets, and a data ring whose timing the test controls.

#![allow(unreachable_pub, reason = "a test has no outside")]

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use clap::Parser;
use hi::clock::Now;
use hi::config::Config;
use hi::connection::Role;
use hi::frame::OpCode;
use hi::frame::encode;
use hi::os;
use hi::protocol::Namespace;
use hi::protocol::name::Name;
use hi::protocol::resume::ResumeKey;
use hi::ring::{BufferPool, Completion, DataRing, OpenRing, Receive, Slices, Socket};
use hi::room::inbox;
use hi::room::registry::Registry;
use hi::room::{Room, Wakes};
use hi::shard::settings::Settings;
use hi::shard::{Shard, Upgraded};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::any_ring::AnyRing;

/// What the test does to the ring while the shard uses it, and what it observes.
#[derive(Default)]
pub struct Script {
    /// A room that gets a message from another shard whenever this shard asks its ring for
    /// something.
    pub flooded: RefCell<Option<Arc<Room>>>,
    /// The next send of this connection fails as if its peer were gone.
    pub broken: Cell<Option<u32>>,
    /// Number of turns that have begun.
    pub turns: Cell<u32>,
    /// Bytes given to the kernel in this turn, and the most in any turn.
    pub bytes: Cell<usize>,
    pub most_bytes: Cell<usize>,
    /// The turn of the last send of each connection.
    pub sent: RefCell<HashMap<u32, u32>>,
}

impl Script {
    fn flood(&self) {
        if let Some(room) = &*self.flooded.borrow() {
            room.publish_raw(&encode::frame(OpCode::Text, b"and on it goes"), &mut Wakes::default());
        }
    }
}

/// The real ring, controlled by a script.
pub struct Scripted {
    ring: AnyRing,
    script: Rc<Script>,
    failed: Option<Completion>,
}

impl DataRing for Scripted {
    forward_to_ring!();

    fn send(&mut self, token: u32, slices: Slices) {
        self.script.sent.borrow_mut().insert(token, self.script.turns.get());
        self.script.bytes.update(|bytes| bytes + slices.len());
        if self.script.broken.get() == Some(token) {
            self.script.broken.set(None);
            let result = Err(ErrorKind::BrokenPipe.into());
            self.failed = Some(Completion::Sent { token, result, slices });
        } else {
            self.ring.send(token, slices);
        }
    }

    fn poll(&mut self) -> io::Result<bool> {
        self.script.flood();
        self.ring.poll()
    }

    fn submit(&mut self) -> io::Result<()> {
        self.script.flood();
        self.ring.submit()
    }

    fn next(&mut self) -> Option<Completion> {
        self.failed.take().or_else(|| self.ring.next())
    }

    fn suppress_wakeups(&mut self) {
        self.script.turns.update(|turns| turns + 1);
        let bytes = self.script.bytes.take();
        self.script.most_bytes.update(|most| most.max(bytes));
        self.ring.suppress_wakeups();
    }
}

/// The first of two shards; the test acts as the other one.
pub struct Bench {
    pub shard: Shard<Scripted>,
    pub script: Rc<Script>,
    pub registry: Arc<Registry>,
    /// The shard's thread waits for both; in the server, the ring's includes the inbox's.
    pub inbox_wake_up: OwnedFd,
    pub ring_wake_up: OwnedFd,
    pub listener: TcpListener,
    /// A duplicate of the shard's end of the newest connection.
    pub newest: Option<TcpStream>,
}

impl Bench {
    pub fn new() -> Self {
        Self::with(&["--receive-buffers", "64"])
    }

    /// A shard with these options of the server.
    pub fn with(args: &[&str]) -> Self {
        let config = Config::try_parse_from(["hi"].iter().chain(args)).unwrap();
        let inbox_bytes_max = config.inbox_bytes_max(2);
        Self::with_inboxes(config, inbox_bytes_max)
    }

    /// A shard whose inboxes hold at most `inbox_bytes_max`.
    pub fn with_inboxes(config: Config, inbox_bytes_max: usize) -> Self {
        let [inbox_wake_up, ring_wake_up, other_wake_up] = [(); 3].map(|()| os::new_eventfd().unwrap());
        let inboxes = [inbox_wake_up.try_clone().unwrap(), other_wake_up];
        let inboxes = inbox::inboxes(inboxes, inbox_bytes_max);
        let registry = Arc::new(
            Registry::new(inboxes, 1, ResumeKey::new(0, [1, 2]), config.replay_bounds())
                .asking(AnyRing::peer_has_ended),
        );
        let script = Rc::new(Script::default());
        let ring = AnyRing::open(config.receive_buffers, ring_wake_up).unwrap();
        let ring_wake_up = ring.wake_descriptor().try_clone_to_owned().unwrap();
        let ring = Scripted { ring, script: Rc::clone(&script), failed: None };
        let settings = Arc::new(Settings { inbox_bytes_max, ..config.shard_settings(2, "bench".into()) });
        let shard = Shard::new(0, settings, Arc::clone(&registry), ring, Now::read());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Self { shard, script, registry, inbox_wake_up, ring_wake_up, listener, newest: None }
    }

    /// Connects to this shard, and returns the peer's end.
    pub fn connect(&mut self, role: Role, room: &str) -> TcpStream {
        let peer = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
        let (stream, _) = self.listener.accept().unwrap();
        self.newest = Some(stream.try_clone().unwrap());
        let response = Bytes::from_static(b"HTTP/1.1 101 Switching Protocols\r\n\r\n");
        let upgraded = Upgraded {
            socket: stream.into(),
            role,
            room: Some(Name::room(room).unwrap()),
            since: None,
            standing: None,
            compression: None,
            seat: None,
            response,
            leftover: Vec::new(),
        };
        self.shard.adopt(upgraded, Now::read());
        peer.set_nonblocking(true).unwrap();
        peer
    }

    /// The room with this name, which has to exist.
    pub fn room(&self, namespace: Namespace, name: &str) -> Arc<Room> {
        self.registry.get(namespace, &Name::room(name).unwrap()).unwrap()
    }

    /// Takes turns until something is sent to this connection. Returns how many it took.
    pub fn turns_until_sent(&mut self, slot: u32) -> u32 {
        let before = self.script.turns.get();
        while self.script.sent.borrow().get(&slot).is_none_or(|turn| *turn <= before) {
            self.shard.turns();
            assert!(self.script.turns.get() < before + 1000, "nothing is sent to {slot} in 1,000 turns");
        }
        self.script.sent.borrow()[&slot] - before
    }

    /// Takes turns as the shard's thread does, until it would sleep, without waiting for the kernel.
    pub fn turn_until_asleep(&mut self) {
        while self.shard.turns() || take_signal(&self.inbox_wake_up) {}
    }

    /// Takes turns until the kernel has nothing to report either.
    pub fn turn_until_idle(&mut self) {
        while self.shard.turns() || take_signal(&self.inbox_wake_up) || take_signal(&self.ring_wake_up) {}
    }
}

/// Whether the shard is woken by this. What wakes it is taken back; where that can't be read, the next turn does it.
pub fn take_signal(wake_up: &OwnedFd) -> bool {
    let is_readable = poll(&mut [PollFd::new(wake_up, PollFlags::IN)], Some(&Timespec::default())).unwrap() == 1;
    let _ = rustix::io::read(wake_up, &mut [0u8; 8]);
    is_readable
}
