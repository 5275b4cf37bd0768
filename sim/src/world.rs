//! The scheduler: what happens next, and what has to hold whenever it stops making trouble.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;

use hi::memory::What;
use hi::protocol::Namespace;
use hi::ring::Backend;
use hi::room::inbox::Inbox;
use tokio::sync::oneshot;

use crate::allocations::server_bytes;
use crate::client::Client;
use crate::clock::Clock;
use crate::network::Network;
use crate::plan::{Plan, RAW_ROOMS, ROOMS};
use crate::random::Random;
use crate::ring::Kernel;
use crate::scene::Scene;
use crate::seen::{Seen, Totals};
use crate::server::{Kind, Server};
use crate::shared::Shared;
use crate::trace::Trace;
use crate::truth::Truth;

mod checks;

/// Milliseconds between two ticks of a shard.
const TICK_MS: u64 = 1000;
/// Steps after which the memory is looked at.
const STEPS_UNTIL_CALM: usize = 1000;
/// Messages that the internal port publishes in a row.
const BURST: usize = 60;

/// A simulation.
pub struct World {
    scene: Scene,
    clients: Vec<Client>,
    /// When each shard's next tick is due.
    ticks: Vec<u64>,
    /// What the internal port waits to be told.
    orders: Vec<oneshot::Receiver<usize>>,
    api_said: u64,
    allocated_before: isize,
}

impl World {
    /// A world as the seed decides it, on this backend.
    pub fn new(seed: u64, backend: Backend, steps: usize, prints: bool) -> Self {
        let random = Random::new(seed);
        let plan = Plan::new(&random, backend, steps);
        let clock = Rc::new(Clock::default());
        let shared = Rc::new(Shared {
            network: RefCell::new(Network::new()),
            random: random.clone(),
            faults: Cell::new(true),
            meanwhile: OnceCell::new(),
            totals: RefCell::default(),
        });
        let server = Rc::new(Server::new(&plan, Rc::clone(&shared), Rc::clone(&clock)));
        let trace = Trace::new(prints);
        trace.note(format_args!("{plan:?}"));
        let _ = shared.meanwhile.set(meanwhile(&server));
        let ticks = (0..plan.shards).map(|_| clock.ms() + TICK_MS).collect();
        let scene = Scene {
            plan,
            random,
            clock,
            trace,
            shared,
            server,
            truth: RefCell::new(Truth::default()),
            stopping: Cell::new(0),
            disconnected: RefCell::default(),
            totals: RefCell::default(),
        };
        let clients = (0..scene.plan.clients).map(|number| Client::new(number, &scene)).collect();
        Self { scene, clients, ticks, orders: Vec::new(), api_said: 0, allocated_before: server_bytes() }
    }

    /// Runs it to its end.
    pub fn run(&mut self) {
        for round in 0..self.scene.plan.rounds {
            self.scene.trace.note(format_args!("round {round}"));
            self.scene.shared.faults.set(true);
            let is_last = round + 1 == self.scene.plan.rounds;
            let stops_at = (is_last && self.scene.plan.stops).then(|| self.scene.random.below(self.scene.plan.steps));
            for step in 0..self.scene.plan.steps {
                self.step();
                if step % STEPS_UNTIL_CALM == 0 {
                    self.calm();
                }
                if stops_at.is_some_and(|at| step >= at) {
                    self.stop_one_more();
                }
            }
            self.settle();
            self.check_settled();
        }
        self.finish();
    }

    /// What was seen.
    pub fn totals(&self) -> Totals {
        let Scene { server, totals, shared, .. } = &self.scene;
        let mut totals = totals.borrow().clone();
        totals.add(&shared.totals.borrow());
        totals.count(Seen::GaveMemory, What::ALL.iter().map(|what| server.memory.laps(*what)).sum());
        totals.count(Seen::TakenOver, server.ended_with(4003));
        totals.count(Seen::Dropped, server.registry.inboxes().iter().map(Inbox::dropped).sum());
        totals
    }

    /// All that everyone can see.
    pub fn scene(&self) -> &Scene {
        &self.scene
    }

    /// One thing happens.
    fn step(&mut self) {
        let random = self.scene.random.clone();
        match random.below(100) {
            0..40 => {
                let shard = random.below(self.scene.server.shards());
                self.turn(shard);
            }
            40..62 => self.transfer(&random),
            62..90 => {
                let index = random.below(self.clients.len());
                let client = &mut self.clients[index];
                match random.below(3) {
                    0 => drop(client.read(&self.scene)),
                    1 => drop(client.write(&self.scene)),
                    _ => client.act(&self.scene),
                }
            }
            90..95 => {
                let index = random.below(self.scene.server.shards());
                self.scene.server.kernels().nth(index).map(Kernel::tell_late);
            }
            95..98 => self.pass_time(random.pick(&[1, 5, 20, 100, 300])),
            98 => {
                let raw = random.one_in(3).then(|| random.pick(&RAW_ROOMS));
                self.publish_from_outside(random.pick(&ROOMS), raw, random.below(2000));
            }
            _ => self.rarely(&random),
        }
    }

    fn rarely(&mut self, random: &Random) {
        match random.below(20) {
            0 => {
                let unix_ms = 1_700_000_000_000 + random.below(200_000_000_000) as u64;
                self.scene.trace.note(format_args!("the clock is set to {unix_ms}"));
                self.scene.clock.set_unix_ms(unix_ms);
            }
            1 => {
                // The process was stopped for a while.
                let ms = random.between(1000, 40_000) as u64;
                self.scene.trace.note(format_args!("nothing happens for {ms} ms"));
                self.scene.clock.advance(ms);
                self.tick_if_due();
            }
            2 => self.disconnect(random),
            3..8 => {
                let shard = random.below(self.scene.server.shards());
                let pauses = random.one_in(2);
                self.scene.trace.note(format_args!("shard {shard} pauses: {pauses}"));
                self.scene.server.pause(shard, pauses);
            }
            8..10 if self.scene.plan.floods => {
                let (room, raw) = (random.pick(&ROOMS), random.one_in(3).then(|| random.pick(&RAW_ROOMS)));
                for _ in 0..BURST {
                    let size = self.scene.plan.large_bytes;
                    self.publish_from_outside(room, raw, random.between(size / 2, size));
                }
            }
            _ => {}
        }
    }

    /// The server is told to stop: one shard after the other, as the order comes to their threads.
    fn stop_one_more(&mut self) {
        let Scene { server, stopping, trace, random, .. } = &self.scene;
        let stopped = stopping.get();
        if stopped < server.shards() && (stopped == 0 || random.one_in(20)) {
            trace.note(format_args!("shard {stopped} is told to stop"));
            server.stop(stopped);
            stopping.set(stopped + 1);
        }
    }

    fn turn(&self, shard: usize) -> bool {
        let Scene { server, trace, .. } = &self.scene;
        let took = server.turn(shard);
        if took {
            self.scene.saw(Seen::Turn);
            if server.registry.is_congested() {
                self.scene.saw(Seen::Congested);
            }
            let rooms = ROOMS.map(|room| (Namespace::Chat, room)).into_iter();
            let mut rooms = rooms.chain(RAW_ROOMS.map(|room| (Namespace::Raw, room)));
            if rooms.any(|(namespace, name)| server.room(namespace, name).is_some_and(|room| room.is_behind())) {
                self.scene.saw(Seen::Behind);
            }
            if server.next_due().is_some() {
                self.scene.saw(Seen::Waiting);
            }
            trace.note(format_args!("shard {shard} takes a turn: awake {}", server.is_awake(shard)));
        }
        took
    }

    fn transfer(&self, random: &Random) {
        let active = self.scene.shared.network.borrow().active();
        if active.is_empty() {
            return;
        }
        let link = random.pick(&active);
        let max = random.pick(&[1, 100, 1500, usize::MAX]);
        if self.scene.shared.network.borrow_mut().transfer(link, max) {
            self.scene.trace.note(format_args!("link {link} moves"));
        }
        self.scene.server.kernels().for_each(Kernel::notify);
    }

    fn pass_time(&mut self, ms: usize) {
        self.scene.clock.advance(ms as u64);
        self.tick_if_due();
    }

    fn tick_if_due(&mut self) {
        let now = self.scene.clock.ms();
        for (shard, due) in self.ticks.iter_mut().enumerate() {
            if *due <= now {
                *due = now + TICK_MS;
                self.scene.trace.note(format_args!("shard {shard} ticks at {now}"));
                self.scene.server.tick(shard);
            }
        }
    }

    /// Publishes into a chat room, or a raw one.
    fn publish_from_outside(&mut self, room: &'static str, raw: Option<&'static str>, size: usize) {
        self.api_said += 1;
        let text = format!("api:{}:{}", self.api_said, "y".repeat(size));
        let Scene { server, truth, trace, .. } = &self.scene;
        if let Some(room) = raw {
            let published = server.publish(Namespace::Raw, room, &text);
            trace.note(format_args!("from outside into {room}: {published:?}"));
            if let Some(Some((epoch, seq))) = published {
                truth.borrow_mut().sends(room, text.as_bytes());
                let kind = Kind::Raw { echo: true, lossy: false };
                truth.borrow_mut().sees((true, room, epoch, seq), &text.into_bytes().into(), kind);
            }
            return;
        }
        let published = server.publish(Namespace::Chat, room, &text);
        trace.note(format_args!("from outside into {room}: {published:?}"));
        if let Some(Some((epoch, seq))) = published {
            truth.borrow_mut().sends(room, text.as_bytes());
            truth.borrow_mut().acknowledges((false, room, epoch, seq), "api", &text);
        }
    }

    fn disconnect(&mut self, random: &Random) {
        let user = self.clients[random.below(self.clients.len())].user.clone();
        self.scene.trace.note(format_args!("{user} is to be disconnected"));
        self.orders.extend(self.scene.server.disconnect(&user));
        self.scene.disconnected.borrow_mut().insert(user);
    }
}

/// What happens elsewhere while a shard is in a call of its ring: bytes move, and others take
/// turns.
fn meanwhile(server: &Rc<Server>) -> Box<dyn Fn(usize)> {
    let server = Rc::downgrade(server);
    Box::new(move |shard| {
        let Some(server) = server.upgrade() else { return };
        let random = &server.shared.random;
        if !server.shared.faults.get() || !random.one_in(4) {
            return;
        }
        let active = server.shared.network.borrow().active();
        if !active.is_empty() && server.shared.network.borrow_mut().transfer(random.pick(&active), usize::MAX) {
            server.kernels().for_each(Kernel::notify);
        }
        if server.turn(random.below(server.shards())) {
            server.goes_on(shard);
        }
    })
}
