//! A soak of several servers, from one seed: three of them on three NATS servers, all of which are killed and stopped in turn, while
//! the leaders of the log change every three seconds. Members of every dialect move from one to another and publish on all. There is
//! one order, and nothing is lost, doubled or reordered that was acknowledged; each gap is told; no name is held twice.
//!
//! Forty seconds. `HI_TEST_SECONDS=600 HI_TEST_SEED=7 cargo test --test cluster_soak` repeats a run, and makes it longer.

#[path = "support/broker.rs"]
mod broker;
#[path = "support/ledger.rs"]
mod ledger;
#[path = "support/roamer.rs"]
mod roamer;
#[path = "support/roaming.rs"]
mod roaming;
mod support;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use broker::Broker;
use fastrand::Rng;
use roamer::{Alarm, Member, Reign, THE_END, World, fight, publish_from_outside, publish_once};
use roaming::Dialect;
use rustix::process::Signal;
use serde_json::Value;
use support::Server;

const SERVERS: usize = 3;
/// Bytes of memory that a server has at most.
const RESIDENT_BYTES_MAX: usize = 160 << 20;
/// The time for which two clients may believe that they have the same name: until the one whose server was killed finds out.
const REIGNS_OVERLAP_MAX: Duration = Duration::from_secs(1);

fn seconds() -> u64 {
    std::env::var("HI_TEST_SECONDS").ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(40)
}

/// The servers, and how often what has happened to them.
struct Storm<'a> {
    world: &'a World,
    brokers: Vec<Broker>,
    nodes: Vec<Server>,
    urls: String,
    rng: Rng,
    /// Of brokers, then of servers.
    kills: [usize; 2],
    pauses: [usize; 2],
    most_bytes: usize,
}

impl Storm<'_> {
    fn start_node(urls: &str) -> Server {
        let options =
            ["--replay-frames", "8192", "--replay-bytes", "8m", "--cluster-bytes", "256m", "--rate-limit", "0"];
        Server::start(&[&["--cluster", urls, "--internal", "127.0.0.1:0"], &options[..]].concat())
    }

    fn pause(&mut self) -> Duration {
        Duration::from_millis(self.rng.u64(200..4000))
    }

    /// Something happens, and is over when this returns.
    fn strike(&mut self) {
        let (which, pause) = (self.rng.usize(..SERVERS), self.pause());
        match self.rng.u8(..4) {
            0 => {
                println!("broker {which} is killed for {pause:?}");
                self.kills[0] += 1;
                self.brokers[which].kill();
                std::thread::sleep(pause);
                self.brokers[which].restart();
            }
            1 => {
                println!("broker {which} is stopped for {pause:?}");
                self.pauses[0] += 1;
                self.brokers[which].pause();
                std::thread::sleep(pause);
                self.brokers[which].go_on();
            }
            2 => {
                println!("server {which} is killed for {pause:?}");
                self.kills[1] += 1;
                self.world.servers.lock().unwrap()[which] = None;
                self.nodes[which].signal(Signal::KILL);
                std::thread::sleep(pause);
                self.nodes[which] = Self::start_node(&self.urls);
                self.list(which);
            }
            _ => {
                println!("server {which} is stopped for {pause:?}");
                self.pauses[1] += 1;
                self.nodes[which].signal(Signal::STOP);
                std::thread::sleep(pause);
                self.nodes[which].signal(Signal::CONT);
            }
        }
        self.wait_until_whole();
    }

    fn list(&self, which: usize) {
        let node = &self.nodes[which];
        self.world.servers.lock().unwrap()[which] = Some((node.address(), node.internal().address));
    }

    /// A majority that has forgotten the same is beyond what the log promises: the next one falls only when all copies are whole.
    fn wait_until_whole(&mut self) {
        broker::wait_until_whole(&self.brokers);
        for node in &self.nodes {
            let bytes = node.resident_bytes();
            self.most_bytes = self.most_bytes.max(bytes);
            assert!(bytes < RESIDENT_BYTES_MAX, "{bytes} bytes are resident");
        }
    }
}

/// Lets the leaders of all streams step down every three seconds. Returns how often one did.
fn depose(world: &World, ports: &[u16]) -> usize {
    let mut count = 0;
    while !world.is_calm() && !world.has_failed() {
        for stream in broker::STREAMS {
            let asked = ports.iter().find_map(|port| broker::step_down(*port, stream));
            count += usize::from(asked.is_some_and(|answer| answer["success"] == true));
        }
        std::thread::sleep(Duration::from_secs(3));
    }
    count
}

fn wait_until(world: &World, what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(60) && !world.has_failed(), "{what}: {:?}", world.counts);
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// All servers say the same of the room.
fn converge(nodes: &[Server], users: &[String], members: usize) {
    let began = Instant::now();
    loop {
        let rooms: Vec<Value> = nodes.iter().map(|node| node.internal().get("/api/rooms/tea").1).collect();
        let is_same = rooms.iter().all(|room| {
            let listed =
                room["users"].as_array().map(|users| users.iter().map(|user| user.as_str().unwrap_or_default()));
            room["seq"] == rooms[0]["seq"]
                && room["epoch"] == rooms[0]["epoch"]
                && room["members"] == members
                && listed.is_some_and(|listed| listed.eq(users.iter().map(String::as_str)))
        });
        if is_same {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "{rooms:#?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    for node in nodes {
        let (status, ready) = node.internal().get("/readyz");
        assert_eq!(status, 200, "{ready}");
        node.internal().wait_for_metric("hi_cluster_up", 1.0);
        node.internal().wait_for_metric("hi_cluster_in_flight", 0.0);
        node.internal().wait_for_metric("hi_cluster_queue_bytes", 0.0);
        node.internal().wait_for_metric("hi_cluster_nodes", nodes.len() as f64);
    }
}

/// No two clients had the name at the same time.
fn check_reigns(mut reigns: Vec<Reign>) -> usize {
    reigns.sort_unstable();
    for pair in reigns.windows(2) {
        let overlap = pair[0].1.saturating_duration_since(pair[1].0);
        assert!(overlap < REIGNS_OVERLAP_MAX, "two had the name for {overlap:?}");
    }
    reigns.len()
}

#[test]
fn one_order_and_nothing_acknowledged_is_lost_whatever_fails() {
    let mut rng = support::seeded();
    let time = Duration::from_secs(seconds());
    let brokers = Broker::start_three();
    let urls = brokers.iter().map(Broker::url).collect::<Vec<_>>().join(",");
    let ports: Vec<u16> = brokers.iter().map(Broker::port).collect();
    let nodes: Vec<Server> = (0..SERVERS).map(|_| Storm::start_node(&urls)).collect();
    let world = &World::default();
    world.servers.lock().unwrap().resize(SERVERS, None);
    let (kills, pauses, most_bytes) = Default::default();
    let mut storm = Storm { world, brokers, nodes, urls, rng: rng.fork(), kills, pauses, most_bytes };
    (0..SERVERS).for_each(|which| storm.list(which));
    let (mut names, mut members, mut deposed, mut reigns) = (Vec::new(), 0, 0, Vec::new());
    std::thread::scope(|scope| {
        let _alarm = Alarm(world);
        for number in 0..SERVERS {
            for (kind, dialect) in
                [("new", Dialect::V1), ("old", Dialect::V0), ("sse", Dialect::Sse), ("raw", Dialect::Raw)]
            {
                let name = format!("{kind}{number}");
                if matches!(dialect, Dialect::V0 | Dialect::V1) {
                    names.push(name.clone());
                }
                let member = Member::new(world, rng.fork(), dialect, name);
                scope.spawn(|| member.take_part());
                members += 1;
            }
        }
        let rivals = [rng.fork(), rng.fork(), rng.fork()].map(|rng| scope.spawn(|| fight(world, rng, "rival")));
        let deposing = scope.spawn(|| depose(world, &ports));
        wait_until(world, "nobody has joined", || world.connected.load(Ordering::SeqCst) == members);
        for number in 0..SERVERS {
            for dialect in [Dialect::V1, Dialect::Raw] {
                let (rng, name) = (rng.fork(), format!("program{number}{dialect:?}"));
                world.publishing.fetch_add(1, Ordering::SeqCst);
                scope.spawn(move || publish_from_outside(world, rng, &name, dialect));
            }
        }
        let began = Instant::now();
        while began.elapsed() < time && !world.has_failed() {
            storm.strike();
            std::thread::sleep(storm.pause() / 2);
        }
        world.is_calm.store(true, Ordering::SeqCst);
        deposed = deposing.join().unwrap();
        reigns = rivals.into_iter().flat_map(|rival| rival.join().unwrap()).collect();
        storm.wait_until_whole();
        wait_until(world, "not all are back", || world.connected.load(Ordering::SeqCst) == members);
        world.is_quiet.store(true, Ordering::SeqCst);
        wait_until(world, "they still publish", || world.publishing.load(Ordering::SeqCst) == 0);
        let internal = storm.nodes[0].internal().address;
        for dialect in [Dialect::V1, Dialect::Raw] {
            publish_once(world, internal, dialect, THE_END).expect("nothing fails any more");
        }
        wait_until(world, "not all see the end", || world.ended.load(Ordering::SeqCst) == members);
        names.sort_unstable();
        converge(&storm.nodes, &names, members / 4 * 3);
        world.is_over.store(true, Ordering::SeqCst);
    });
    let totals = world.ledger.check();
    println!(
        "{totals:?}\n{:?}\n{deposed} leaders stepped down; of the log's servers and of hi, {:?} were killed and {:?} stopped; \
         {} times somebody had the name; {} MiB at most",
        world.counts,
        storm.kills,
        storm.pauses,
        check_reigns(reigns),
        storm.most_bytes >> 20,
    );
    assert_eq!(totals.lives, 1, "the log has lost nothing");
    assert!(totals.acknowledged > 100 && totals.raw_acknowledged > 100);
}
