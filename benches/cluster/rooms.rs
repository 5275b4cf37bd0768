//! Many rooms with a member each: what following them costs a server.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use socket2::SockRef;

use crate::broker::Broker;
use crate::connect::{upgrade, wait};
use crate::frames::Arriving;
use crate::members::{JOINED, Members};
use crate::messages::Dialect;
use crate::nodes::{alone, node, node_with};
use crate::process::Server;

const ROOMS: usize = 10_000;
/// Rooms of one of the users on another server to whose rooms others listen.
const ROOMS_OF_A_USER: usize = 20;
/// Time in which an idle server's CPU time is counted.
const IDLE: Duration = Duration::from_secs(10);
/// Time after which nothing in a room is recent to a server that keeps messages for one second.
const SILENCE: Duration = Duration::from_secs(2);

pub(crate) fn run() {
    let broker = Broker::start();
    println!("\n{ROOMS} rooms with a member each");
    println!("  joined in s      CPU s    memory MB    idle, % of a core");
    row("alone, raw", &alone(), Dialect::Raw);
    row("in a cluster, raw", &node(&broker), Dialect::Raw);
    row("alone, chat", &alone(), Dialect::Chat);
    row("in a cluster, chat", &node(&broker), Dialect::Chat);
    listeners("alone, listeners", &alone());
    // Without the names of servers that have ended, which others free.
    let broker = Broker::start();
    let another = node(&broker);
    let _users = users(&another);
    listeners("in a cluster, listeners", &node(&broker));
    let forgetful = node_with(&broker, &["--replay-age", "1s"]);
    std::thread::sleep(SILENCE);
    listeners("the same, rooms that have long been silent", &forgetful);
}

/// Users who are in all rooms.
fn users(server: &Server) -> Vec<TcpStream> {
    let rooms: Vec<usize> = (0..ROOMS).collect();
    let user = |rooms: &[usize]| {
        let (path, line) = Dialect::Chat.handshake("", rooms[0]);
        let stream = TcpStream::connect(server.address).expect("the server accepts");
        let (mut stream, mut arriving) = (upgrade(stream, &path, line), Arriving::default());
        for room in rooms {
            stream.write_all(&Dialect::Chat.join(&format!("listened{room}")).expect("a request")).expect("it reads");
        }
        let (mut joined, mut buffer) = (0, [0; 4096]);
        while joined < rooms.len() {
            let count = stream.read(&mut buffer).expect("the server answers");
            arriving.take(&buffer[..count], |_, payload| joined += usize::from(payload.starts_with(JOINED)));
        }
        stream
    };
    rooms.chunks(ROOMS_OF_A_USER).map(user).collect()
}

/// All rooms are listened to at once.
fn listeners(what: &str, server: &Server) {
    let (cpu, memory) = (server.cpu_time(), server.resident_bytes());
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll instance");
    let mut streams: Vec<TcpStream> = (0..ROOMS)
        .map(|number| {
            let stream = TcpStream::connect(server.address).expect("the server accepts");
            epoll::add(&epoll, &stream, EventData::new_u64(number as u64), EventFlags::IN).unwrap();
            stream
        })
        .collect();
    let began = Instant::now();
    for (number, stream) in streams.iter_mut().enumerate() {
        // Whoever has an event of another epoch is told that it has missed some, as soon as the room is loaded.
        let request = format!(
            "GET /stream/listened{number} HTTP/1.1\r\nHost: bench\r\nLast-Event-ID: {}:1\r\n\r\n",
            "1".repeat(16)
        );
        stream.write_all(request.as_bytes()).expect("the server reads");
        stream.set_nonblocking(true).unwrap();
    }
    let (mut left, mut buffer) = (ROOMS, [0; 4096]);
    while left > 0 {
        for event in wait(&epoll, Instant::now() + IDLE) {
            let stream = &mut streams[event.data.u64() as usize];
            let count = stream.read(&mut buffer).expect("the server answers");
            assert!(count > 0, "the server ended a stream");
            if buffer[..count].windows(5).any(|part| part == b"data:") {
                epoll::delete(&epoll, &*stream).unwrap();
                left -= 1;
            }
        }
    }
    print_row(what, began.elapsed(), server.cpu_time() - cpu, server.resident_bytes() - memory, None);
    for stream in &streams {
        SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
}

fn row(what: &str, server: &Server, dialect: Dialect) {
    let (cpu, memory, began) = (server.cpu_time(), server.resident_bytes(), Instant::now());
    let mut members = Members::new();
    members.join(server.address, dialect, 0..ROOMS, |number| format!("room{number}"));
    let (joined, cpu) = (began.elapsed(), server.cpu_time() - cpu);
    let memory = server.resident_bytes() - memory;
    let before = server.cpu_time();
    members.read_until(Instant::now() + IDLE);
    let idle = (server.cpu_time() - before).as_secs_f64() / IDLE.as_secs_f64() * 100.0;
    print_row(what, joined, cpu, memory, Some(idle));
}

fn print_row(what: &str, joined: Duration, cpu: Duration, bytes: usize, idle: Option<f64>) {
    let idle = idle.map_or_else(String::new, |idle| format!("{idle:.2}"));
    let (joined, cpu, memory) = (joined.as_secs_f64(), cpu.as_secs_f64(), bytes as f64 / 1e6);
    println!("{joined:13.2} {cpu:10.2} {memory:12.1} {idle:>20}    {what}");
}
