//! What has to hold: while nobody reads, when the trouble has ended, and when everyone has left.

use hi::memory::What;
use hi::protocol::Namespace;

use super::{TICK_MS, World};
use crate::allocations::server_bytes;
use crate::ring::Kernel;
use crate::scene::Scene;
use crate::seen::Seen;

/// Rounds in which everyone reads, writes and takes a turn, until everything that is owed has arrived.
const ROUNDS_UNTIL_SETTLED_MAX: u32 = 200_000;
/// Turns that a shard may take while nobody reads.
const ROUNDS_UNTIL_CALM_MAX: u32 = 5000;
/// Bytes by which a shard's holders may grow before it looks at the sum.
const UNREVIEWED_BYTES_MAX: usize = 64 * 1024;
/// Bytes that the server allocates beside what its ledgers count: rooms, timers,
const ALLOCATED_BESIDE_MAX: usize = 128 * 1024;
/// those of each shard: its lists, above all the two for relays, which keep their size,
const ALLOCATED_BY_SHARD_MAX: usize = 160 * 1024;
/// more if it compresses,
const ALLOCATED_TO_COMPRESS_MAX: usize = 576 * 1024;
/// and those of each connection.
const ALLOCATED_BY_CONNECTION_MAX: usize = 2048;
/// Seconds that connections have to close once the server stops: those of a Close, and a tick.
const DRAIN_SECONDS: u64 = 4;
/// Turns that a shard may take, once nothing goes wrong any more, without a byte moving on the network.
const TURNS_WITHOUT_BYTES_MAX: u64 = 500;

impl World {
    /// The shards do all that they can do while nobody reads: what they keep then has to be within the budget, and no byte of it
    /// unaccounted.
    pub(super) fn calm(&mut self) {
        let Scene { shared, server, plan, trace, .. } = &self.scene;
        let before = shared.faults.replace(false);
        // What the internal port publishes into rooms that nobody is in is looked at by the next tick.
        (0..server.shards()).for_each(|shard| server.tick(shard));
        let mut rounds = 0;
        loop {
            let late = server.kernels().map(|kernel| u32::from(kernel.tell_late())).sum::<u32>();
            let turns = (0..server.shards()).map(|shard| u32::from(self.turn(shard))).sum::<u32>();
            if late + turns == 0 {
                break;
            }
            rounds += 1;
            assert!(rounds < ROUNDS_UNTIL_CALM_MAX, "the shards don't go to sleep, though nobody reads");
        }
        shared.faults.set(before);
        let (held, connections) = (server.held_bytes(), server.connections());
        let allocated = usize::try_from(server_bytes() - self.allocated_before).unwrap_or(0);
        trace.note(format_args!("{held} bytes are held"));
        let budget = plan.memory_bytes_max.saturating_add(server.shards() * UNREVIEWED_BYTES_MAX);
        assert!(held <= budget, "{held} bytes are held, and the budget is {}", plan.memory_bytes_max);
        let to_compress = if plan.config.compression { ALLOCATED_TO_COMPRESS_MAX } else { 0 };
        let beside = ALLOCATED_BESIDE_MAX + server.shards() * (ALLOCATED_BY_SHARD_MAX + to_compress);
        let accounted = held + beside + connections * ALLOCATED_BY_CONNECTION_MAX;
        assert!(allocated <= accounted, "{allocated} bytes are allocated, but only {held} are in the ledgers");
    }

    /// Nothing goes wrong any more, everyone reads, and no time passes except for what waits to be sent: goes on until nothing
    /// moves.
    pub(super) fn settle(&mut self) {
        let Scene { shared, server, trace, clock, .. } = &self.scene;
        shared.faults.set(false);
        trace.note(format_args!("faults end"));
        let mut turns = 0;
        for _ in 0..ROUNDS_UNTIL_SETTLED_MAX {
            let mut moved = false;
            for kernel in server.kernels() {
                while kernel.tell_late() {
                    moved = true;
                }
            }
            let active = shared.network.borrow().active();
            for link in active {
                while shared.network.borrow_mut().transfer(link, usize::MAX) {
                    moved = true;
                }
            }
            server.kernels().for_each(Kernel::notify);
            for client in &mut self.clients {
                moved |= client.read_all(&self.scene);
                moved |= client.write(&self.scene);
            }
            turns = if moved { 0 } else { turns + 1 };
            assert!(turns < TURNS_WITHOUT_BYTES_MAX, "the shards don't go to sleep, though nothing moves");
            for shard in 0..server.shards() {
                moved |= self.turn(shard);
            }
            if !moved {
                let Some(due) = server.next_due() else { return };
                clock.advance_to(due);
            }
        }
        panic!("something goes on and on");
    }

    /// Everything that is owed has arrived.
    pub(super) fn check_settled(&mut self) {
        let Scene { server, shared, truth, .. } = &self.scene;
        assert!(server.kernels().all(Kernel::is_quiet), "a shard sleeps, and its ring has something to tell");
        for client in &mut self.clients {
            client.place(&self.scene);
            client.check_is_up_to_date(&self.scene);
            if let Some(connection) = &client.connection {
                let network = shared.network.borrow();
                let link = network.link(connection.link);
                let unread = link.up.unread();
                assert!(link.up.is_empty(), "{} has said something that nobody reads: {unread} bytes", client.user);
            }
        }
        for mut order in self.orders.drain(..) {
            order.try_recv().expect("every order is answered");
        }
        truth.borrow_mut().check_senders();
    }

    /// Lets time pass in ticks, and everything happen that comes of it.
    fn wait(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.pass_time(TICK_MS as usize);
            self.settle();
        }
    }

    /// Everyone leaves, and nothing may be left.
    pub(super) fn finish(&mut self) {
        self.wait(3);
        self.check_settled();
        if self.scene.stopping.get() > 0 {
            while self.scene.stopping.get() < self.scene.server.shards() {
                self.stop_one_more();
            }
            self.settle();
            self.wait(DRAIN_SECONDS);
            assert_eq!(self.scene.server.connections(), 0, "connections outlive the server's time to stop");
        }
        for client in &mut self.clients {
            let how = self.scene.random.below(5);
            self.scene.trace.note(format_args!("{} leaves: {how}", client.user));
            client.goes(&self.scene, how);
        }
        self.settle();
        self.wait(8);
        for client in &mut self.clients {
            client.close(&self.scene, false);
        }
        let config = &self.scene.plan.config;
        let patience = config.ping_interval + config.ping_timeout;
        self.wait(patience.as_secs() + 5);
        // What no ping finds out, the kernel does.
        self.scene.shared.network.borrow_mut().give_up_silent_listeners();
        self.scene.server.kernels().for_each(Kernel::notify);
        let age = self.scene.plan.config.replay_age.as_secs();
        self.wait(age + 5);
        self.check_nothing_is_left();
    }

    fn check_nothing_is_left(&self) {
        let Scene { server, shared, .. } = &self.scene;
        assert_eq!(server.connections(), 0, "connections outlive their peers");
        assert_eq!(server.connections_counted(), 0, "a level that is not that of the connections");
        let connections = self.totals().of(Seen::Connection);
        assert_eq!(server.ended(), connections, "a connection ends once, under one code");
        assert_eq!(server.kernels().map(Kernel::tokens).sum::<usize>(), 0, "tokens outlive their sockets");
        assert_eq!(shared.network.borrow().open_sockets(), 0, "sockets outlive their connections");
        assert_eq!(server.kernels().map(Kernel::buffers_held).sum::<usize>(), 0, "buffers are lost");
        for namespace in [Namespace::Chat, Namespace::Raw] {
            assert_eq!(server.registry.len(namespace), 0, "rooms outlive their members");
        }
        assert_eq!(server.registry.dormant().0, 0, "rooms outlive what they keep");
        for what in What::ALL {
            assert_eq!(server.memory.bytes(what), 0, "{what:?} outlive their holders");
        }
    }
}
