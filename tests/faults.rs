//! The engine under injected faults: sends that are cut short or refused, completions that come late, buffers that run out,
//! resets, and members that stall, leave and rejoin. Through all of this, a member gets each message of its rooms once, in the
//! room's order, byte for byte, or is told exactly what it missed.
//!
//! The servers run in this process, so that their ring can be a faulty one. All traffic is real.

#[macro_use]
#[path = "support/forward.rs"]
mod forward;
#[path = "support/any_ring.rs"]
mod any_ring;
#[path = "support/faulty_ring.rs"]
mod faulty_ring;
#[path = "support/peer.rs"]
mod peer;
mod support;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

use any_ring::AnyRing;
use clap::Parser;
use fastrand::Rng;
use faulty_ring::FaultyRing;
use hi::config::Config;
use hi::ring::OpenRing;
use hi::server::{Listeners, Server};
use peer::{Loss, MARKER, Peer, Plan, Role, SHOUTER, drive};
use serde_json::json;
use support::{seeded, wait_while};
use tungstenite::Message;

/// Faults are configured, and file descriptors counted, for the whole process: one server at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
static SHARD_PANICS: AtomicUsize = AtomicUsize::new(0);

/// A server in this process.
struct Running {
    server: Server,
    address: SocketAddr,
    files_before: usize,
    _alone: MutexGuard<'static, ()>,
}

impl Running {
    fn start<R: OpenRing + 'static>(seed: u64, resets: bool, args: &[&str]) -> Self {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let report = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                if std::thread::current().name().is_some_and(|name| name.starts_with("hi-shard")) {
                    SHARD_PANICS.fetch_add(1, Ordering::SeqCst);
                }
                report(panic);
            }));
        });
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let start = || {
            faulty_ring::configure(seed, resets);
            let common =
                ["hi", "--listen", "127.0.0.1:0", "--internal", "off", "--rate-limit", "0", "--max-message", "128k"];
            let config = Config::try_parse_from(common.iter().chain(args)).expect("the arguments are valid");
            let listeners = Listeners::bind(&config).expect("the ports are free");
            Server::start::<R>(&config, listeners, Arc::default()).expect("the server starts")
        };
        // The first server opens files that the process keeps open.
        static FIRST: Once = Once::new();
        FIRST.call_once(|| {
            let server = start();
            server.stop();
            server.join();
        });
        let files_before = open_files();
        let server = start();
        let address = server.addresses()[0].to_string().parse().expect("an address with a port");
        Self { server, address, files_before, _alone: alone }
    }

    /// Stops the server, and checks that it leaves nothing behind.
    fn stop(self) {
        self.server.stop();
        self.server.join();
        assert_eq!(SHARD_PANICS.load(Ordering::SeqCst), 0, "a shard has panicked");
        wait_for_files(self.files_before);
    }
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Waits until only `count` files are open, so that every connection is released.
#[track_caller]
fn wait_for_files(count: usize) {
    wait_while(|| open_files() > count, || format!("{} files are open instead of {count}", open_files()));
}

/// Publishes a last message in each room, and waits until every member has received it.
fn mark(server: &Running, peers: &mut Vec<Peer>, rooms: &[(&str, Role)], next_id: &mut u32) {
    for &(room, role) in rooms {
        let has_marker = |peer: &Peer| {
            (peer.role == Role::Chat) != (role == Role::Chat) || peer.rooms.get(room).is_none_or(|seen| seen.marked)
        };
        // A marker that is reset may or may not have sent it.
        loop {
            *next_id += 1;
            let Some(mut marker) = Peer::connect(server.address, *next_id, role, room, Loss::Told, false) else {
                continue;
            };
            let text = json!({"Room": room, "Message": MARKER}).to_string();
            let message = if role == Role::Chat { Message::text(text) } else { Message::text(MARKER) };
            marker.unflushed = true;
            marker.socket.write(message).unwrap_or_else(|error| marker.failed(error));
            peers.push(marker);
            drive(peers, |peers| {
                let (marker, others) = peers.split_last().unwrap();
                let all = others.iter().all(|peer| !peer.is_alive() || has_marker(peer));
                !marker.is_alive() || all && has_marker(marker)
            });
            if peers.pop().unwrap().is_alive() {
                break;
            }
        }
    }
}

/// Peers that were in a room from beginning to end must have received the same messages, except for their own ones if they have
/// no echo. They are compared in pairs, since no single one has to have received everything.
fn compare(peers: &[Peer], room: &str) {
    let alive: Vec<_> = peers.iter().filter(|peer| peer.is_alive() && peer.rooms.contains_key(room)).collect();
    let without = |receiver: &Peer, other: &Peer| -> Vec<_> {
        let own = matches!(other.role, Role::Raw { echo: false, .. }).then_some(other.id);
        receiver.rooms[room].received.iter().filter(|(sender, _)| Some(*sender) != own).copied().collect()
    };
    for (index, one) in alive.iter().enumerate() {
        for other in &alive[index + 1..] {
            let (received, expected) = (without(one, other), without(other, one));
            let (one, other) = (one.id, other.id);
            assert!(received == expected, "peer {one} in {room}: {received:?}, but peer {other}: {expected:?}");
        }
    }
}

const ROOMS: [&str; 3] = ["ant", "bee", "cat"];
const ECHO: Role = Role::Raw { echo: true, lossy: false };
const NO_ECHO: Role = Role::Raw { echo: false, lossy: false };

/// Chat in several rooms and traffic in a raw one, with everything that a connection can have to send at once.
fn all_peers_talk(seed: u64, resets: bool, args: &[&str]) {
    let server = Running::start::<FaultyRing>(seed, resets, args);
    let mut random = Rng::with_seed(seed);
    let files = open_files();
    let mut peers = Vec::new();
    let mut id = 0;
    for role in [Role::Chat, Role::Chat, Role::Chat, Role::Chat, Role::Chat, ECHO, ECHO, ECHO, NO_ECHO, NO_ECHO] {
        id += 1;
        let room = if role == Role::Chat { ROOMS[0] } else { "raw" };
        let Some(mut peer) = Peer::connect(server.address, id, role, room, Loss::Nothing, random.bool()) else {
            continue;
        };
        if role == Role::Chat {
            peer.plans.extend(ROOMS[1..].iter().map(|room| Plan::Join((*room).to_owned())));
            // The answers show that it has joined.
            peer.plans.extend(ROOMS.iter().map(|room| Plan::List((*room).to_owned())));
        }
        peers.push(peer);
    }
    drive(&mut peers, |peers| peers.iter().all(Peer::is_done));
    for peer in &mut peers {
        for _ in 0..60 {
            let room = if peer.role == Role::Chat { *random.choice(&ROOMS).unwrap() } else { "raw" }.to_owned();
            let plan = match random.u8(..12) {
                0 => Plan::Ping,
                1 => Plan::Stall(random.u32(..300)),
                2 if peer.role == Role::Chat => Plan::List(room),
                3 if peer.role == Role::Chat => Plan::Nowhere,
                _ => Plan::Say(room),
            };
            peer.plans.push_back(plan);
        }
        // The pong shows that everything before it has been published.
        peer.plans.push_back(Plan::Ping);
    }
    drive(&mut peers, |peers| peers.iter().all(Peer::is_done));
    mark(&server, &mut peers, &[("ant", Role::Chat), ("bee", Role::Chat), ("cat", Role::Chat), ("raw", ECHO)], &mut id);
    let rooms = ["ant", "bee", "cat", "raw"];
    rooms.iter().for_each(|room| compare(&peers, room));
    if !resets {
        assert!(peers.iter().all(Peer::is_alive), "no connection is closed");
        // Every sender's messages reach all others in the room: none is missing, not even at the end.
        for sender in &peers {
            let received = |peer: &Peer| -> usize {
                let all = peer.rooms.values().flat_map(|seen| &seen.received);
                all.filter(|(id, _)| *id == sender.id).count()
            };
            let listeners = peers.iter().filter(|peer| peer.id != sender.id);
            for peer in listeners.filter(|peer| (peer.role == Role::Chat) == (sender.role == Role::Chat)) {
                assert_eq!(received(peer), sender.sent as usize, "peer {} from {}", peer.id, sender.id);
            }
        }
    }
    for peer in &mut peers {
        let _ = peer.socket.close(None);
        peer.unflushed = true;
    }
    drive(&mut peers, |peers| peers.iter().all(|peer| peer.gone.is_some()));
    drop(peers);
    wait_for_files(files);
    server.stop();
}

/// Seeds derived from the seed of this run.
fn seeds(count: usize) -> Vec<u64> {
    let mut random = seeded();
    std::iter::repeat_with(|| random.u64(1..)).take(count).collect()
}

#[test]
fn nothing_is_lost_to_short_sends_refusals_and_late_completions() {
    for (index, seed) in seeds(8).into_iter().enumerate() {
        let shards = if index % 2 == 0 { "1" } else { "2" };
        all_peers_talk(seed, false, &["--shards", shards, "--backlog-bytes", "512m"]);
    }
}

#[test]
fn nothing_is_lost_when_receive_buffers_run_out() {
    for (index, seed) in seeds(4).into_iter().enumerate() {
        let shards = if index % 2 == 0 { "1" } else { "2" };
        all_peers_talk(seed, false, &["--shards", shards, "--backlog-bytes", "512m", "--receive-buffers", "2"]);
    }
}

#[test]
fn a_member_that_survives_resets_receives_everything_in_order() {
    for (index, seed) in seeds(8).into_iter().enumerate() {
        let shards = if index % 2 == 0 { "1" } else { "2" };
        let buffers = if index % 4 < 2 { "2" } else { "1024" };
        all_peers_talk(seed, true, &["--shards", shards, "--backlog-bytes", "512m", "--receive-buffers", buffers]);
    }
}

/// Members of all kinds stop reading, leave, rejoin and vanish, while one member sends more than any buffer holds. Returns how
/// many gaps the members were told about.
fn members_leave_and_rejoin<R: OpenRing + 'static>(seed: u64, args: &[&str]) -> usize {
    let server = Running::start::<R>(seed, false, args);
    let mut random = Rng::with_seed(seed);
    let files = open_files();
    let mut next_id = 0;
    let lossy = Role::Raw { echo: true, lossy: true };
    let mut connect = |role: Role, random: &mut Rng| {
        next_id += 1;
        let room = if role == Role::Chat { random.choice(ROOMS).unwrap() } else { "raw" };
        let peer = Peer::connect(server.address, next_id, role, room, Loss::Told, true).expect("no resets");
        (peer, next_id)
    };
    let roles = [Role::Chat, Role::Chat, Role::Chat, Role::Chat, Role::Chat, Role::Chat, ECHO, ECHO, lossy, lossy];
    let mut peers: Vec<_> = roles.into_iter().map(|role| connect(role, &mut random).0).collect();
    let mut gaps = 0;
    for round in 0..3 {
        // At least one chat member stays in its room and does nothing.
        let first_room = peers[0].rooms.keys().next().unwrap().clone();
        let room = if round == 1 { &first_room } else { "raw" };
        let role = if room == "raw" { Role::Raw { echo: false, lossy: true } } else { Role::Chat };
        let mut shouter =
            Peer::connect(server.address, SHOUTER + round, role, room, Loss::Told, false).expect("no resets");
        shouter.plans.extend(vec![Plan::Say(room.to_owned()); 350]);
        shouter.plans.push_back(Plan::Ping);
        peers.push(shouter);
        for peer in &mut peers {
            for _ in 0..12 {
                let room = if peer.role == Role::Chat { random.choice(ROOMS).unwrap() } else { "raw" }.to_owned();
                peer.plans.push_back(match random.u8(..10) {
                    0..2 if peer.role == Role::Chat => Plan::Join(room),
                    2..4 if peer.role == Role::Chat => Plan::Leave(room),
                    4 => Plan::Ping,
                    5 if peer.role == Role::Chat => Plan::List(room),
                    _ => Plan::Say(room),
                });
            }
            if peer.id < SHOUTER && random.bool() {
                peer.stalled = u32::MAX;
            }
        }
        peers[0].plans.clear();
        peers[0].stalled = u32::MAX;
        let stalled: Vec<_> = peers.iter().map(|peer| peer.stalled > 0).collect();
        drive(&mut peers, |peers| peers.iter().zip(&stalled).all(|(peer, stalled)| *stalled || peer.is_done()));
        peers.iter_mut().for_each(|peer| peer.stalled = 0);
        drive(&mut peers, |peers| peers.iter().all(Peer::is_done));
        gaps += peers.iter_mut().map(|peer| std::mem::take(&mut peer.gaps)).sum::<usize>();
        // It has been reading all the time, but may have sent more at once than the backlog holds.
        let shouter = peers.pop().unwrap().gone;
        assert!(shouter.is_none() || args.contains(&"close") && shouter == Some(4101), "{shouter:?}");
        for (peer, role) in peers.iter_mut().zip(roles) {
            // A peer that resumes reading after hi has stopped waiting for its Close sees only the end.
            let may_be_cut = peer.role == ECHO || args.contains(&"close");
            let told = matches!(peer.gone, None | Some(4101)) || may_be_cut && peer.gone == Some(0);
            assert!(told, "peer {} is gone with {:?}", peer.id, peer.gone);
            if peer.gone.is_some() || random.u8(..4) == 0 {
                *peer = connect(role, &mut random).0;
            }
        }
    }
    let marked: Vec<_> = ROOMS.iter().filter(|room| peers.iter().any(|peer| peer.rooms.contains_key(**room))).collect();
    let mut marked: Vec<_> = marked.into_iter().map(|room| (*room, Role::Chat)).collect();
    marked.push(("raw", ECHO));
    let mut marker_id = 2 * SHOUTER;
    mark(&server, &mut peers, &marked, &mut marker_id);
    drop(peers);
    wait_for_files(files);
    server.stop();
    gaps
}

#[test]
fn a_member_that_falls_behind_is_told_exactly_what_it_missed() {
    for seed in seeds(1) {
        let backlog = ["--backlog-bytes", "256k", "--shards"];
        let gaps = members_leave_and_rejoin::<FaultyRing>(seed, &[&backlog[..], &["2"]].concat());
        assert!(gaps > 0, "the test has to produce gaps");
        let gaps = members_leave_and_rejoin::<AnyRing>(seed, &[&backlog[..], &["1"]].concat());
        assert!(gaps > 0, "the test has to produce gaps");
    }
}

#[test]
fn a_member_that_falls_behind_is_closed_if_the_operator_says_so() {
    for seed in seeds(2) {
        let gaps = members_leave_and_rejoin::<FaultyRing>(
            seed,
            &["--shards", "2", "--backlog-bytes", "256k", "--slow", "close"],
        );
        assert_eq!(gaps, 0);
    }
}
