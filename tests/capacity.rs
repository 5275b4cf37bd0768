//! Ten thousand connections on one machine with a file limit of 20,000 stay open, and every message reaches all of them
//! in order.

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Instant;

use rustix::event::{Timespec, epoll};
use rustix::process::Signal;
use socket2::{Domain, Socket, Type};
use support::wire::{BINARY, CLOSE, FIN, PING, PONG, close_frame, frame, handshake};
use support::{PATIENCE, Server};

const CLIENTS: usize = 10_000;
/// Files that the test needs in addition to its clients.
const FILES_BESIDE: u64 = 100;
/// Connections opened at a time: more than the accept queue holds would test TCP's retransmissions.
const CONNECTS_AT_A_TIME: usize = 500;
const MESSAGES: u32 = 20;
const MESSAGE_BYTES: usize = 128;

/// One client: the message it expects, and the bytes of an incomplete frame.
struct Client {
    stream: TcpStream,
    unread: Vec<u8>,
    upgraded: bool,
    /// Number of the next message.
    next: u32,
    /// Has answered a ping since [`Crowd::forget_pings`].
    pinged: bool,
    closed: bool,
}

struct Crowd {
    epoll: rustix::fd::OwnedFd,
    clients: Vec<Client>,
    upgraded: usize,
    messages: usize,
    pinged: usize,
    closed: usize,
}

impl Crowd {
    fn new() -> Self {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        Self { epoll, clients: Vec::new(), upgraded: 0, messages: 0, pinged: 0, closed: 0 }
    }

    /// Adds a client that has requested its upgrade.
    fn connect(&mut self, server: &Server, path: &str) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        // Several addresses, since one has only 28,000 ports, some of them used by other tests.
        let address = Ipv4Addr::new(127, 0, 0, 2 + (self.clients.len() % 4) as u8);
        socket.bind(&SocketAddr::from((address, 0)).into()).expect("a port");
        socket.connect(&server.address().into()).expect("the server accepts");
        let mut stream = TcpStream::from(socket);
        stream.write_all(handshake(path).as_bytes()).expect("a new socket has room");
        stream.set_nonblocking(true).unwrap();
        let data = epoll::EventData::new_u64(self.clients.len() as u64);
        epoll::add(&self.epoll, &stream, data, epoll::EventFlags::IN).unwrap();
        let (unread, upgraded, pinged, closed) = Default::default();
        self.clients.push(Client { stream, unread, upgraded, next: 0, pinged, closed });
    }

    /// Reads until `done`.
    #[track_caller]
    fn read_until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let mut deadline = Instant::now() + PATIENCE;
        let mut events = Vec::with_capacity(1024);
        while !done(self) {
            let timeout = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
            events.clear();
            epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&timeout)).unwrap();
            if !events.is_empty() {
                deadline = Instant::now() + PATIENCE;
            }
            assert!(
                Instant::now() < deadline,
                "{what}: {} upgraded, {} messages, {} pinged, {} closed",
                self.upgraded,
                self.messages,
                self.pinged,
                self.closed
            );
            for event in &events {
                self.read(event.data.u64() as usize);
            }
        }
    }

    fn read(&mut self, index: usize) {
        let client = &mut self.clients[index];
        let mut buffer = [0; 4096];
        match client.stream.read(&mut buffer) {
            Ok(0) => {
                assert!(client.closed, "client {index} is lost");
                epoll::delete(&self.epoll, &client.stream).unwrap();
            }
            Ok(count) => client.unread.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("client {index}: {error}"),
        }
        if !client.upgraded {
            let Some(end) = client.unread.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { return };
            let head = client.unread.drain(..end + 4).collect::<Vec<_>>();
            assert!(head.starts_with(b"HTTP/1.1 101 "), "client {index}: {}", head.escape_ascii());
            client.upgraded = true;
            self.upgraded += 1;
        }
        while let Some((first, payload)) = next_frame(&mut client.unread) {
            match first {
                _ if first == FIN | BINARY => {
                    let number = u32::from_be_bytes(payload[..4].try_into().unwrap());
                    assert_eq!(number, client.next, "client {index}");
                    assert!(payload == message(number), "client {index}: other bytes than sent");
                    client.next += 1;
                    self.messages += 1;
                }
                _ if first == FIN | PING => {
                    client.stream.write_all(&frame(FIN | PONG, &payload)).expect("an idle socket has room");
                    self.pinged += usize::from(!client.pinged);
                    client.pinged = true;
                }
                _ if first == FIN | CLOSE => {
                    assert_eq!(payload[..2], 1001u16.to_be_bytes(), "client {index}");
                    client.stream.write_all(&close_frame(1001, b"")).expect("an idle socket has room");
                    client.closed = true;
                    self.closed += 1;
                }
                other => panic!("client {index}: a frame that begins with {other:#x}"),
            }
        }
        if client.unread.is_empty() {
            client.unread = Vec::new();
        }
    }

    fn forget_pings(&mut self) {
        self.pinged = 0;
        self.clients.iter_mut().for_each(|client| client.pinged = false);
    }
}

/// The first byte and the payload of the next frame, if it is complete. No frame here is longer than 65,535 bytes.
fn next_frame(unread: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    let (start, len) = match unread[..] {
        [_, 126, high, low, ..] => (4, u16::from_be_bytes([high, low]).into()),
        [_, len @ 0..=125, ..] => (2, usize::from(len)),
        [] | [_] | [_, 126, ..] => return None,
        _ => panic!("a masked frame, or a very long one"),
    };
    let payload = unread.get(start..start + len)?.to_vec();
    let first = unread[0];
    unread.drain(..start + len);
    Some((first, payload))
}

fn message(number: u32) -> Vec<u8> {
    let mut bytes = number.to_be_bytes().to_vec();
    bytes.extend((4..MESSAGE_BYTES).map(|at| (at as u32 * 7 + number) as u8));
    bytes
}

#[test]
fn ten_thousand_stay_connected_and_get_everything_in_order() {
    let files = hi::os::raise_file_limit().unwrap();
    let count = CLIENTS.min(files.saturating_sub(FILES_BESIDE) as usize);
    if count < CLIENTS {
        println!("with a limit of {files} files only {count} clients can be tried: see `ulimit -Hn`");
    }
    let mut server = Server::start(&["--ping-interval", "3s"]);
    assert!(server.file_table_size() >= count, "no shard has to sleep until the kernel's table has grown");
    let mut crowd = Crowd::new();
    while crowd.clients.len() < count {
        let more = CONNECTS_AT_A_TIME.min(count - crowd.clients.len());
        (0..more).for_each(|_| crowd.connect(&server, "/raw/crowd"));
        crowd.read_until("the handshakes", |crowd| crowd.upgraded == crowd.clients.len());
    }
    let mut publisher = server.upgraded("/raw/crowd?echo=0");
    (0..MESSAGES).for_each(|number| publisher.send(frame(FIN | BINARY, &message(number))));
    crowd.read_until("the messages", |crowd| crowd.messages == count * MESSAGES as usize);
    // Idle until every client has been pinged and has answered.
    crowd.forget_pings();
    crowd.read_until("the pings", |crowd| crowd.pinged == count);
    server.upgraded("/raw/crowd?echo=0").send(frame(FIN | BINARY, &message(MESSAGES)));
    crowd.read_until("the last message", |crowd| crowd.messages == count * (MESSAGES as usize + 1));
    assert!(crowd.clients.iter().all(|client| client.next == MESSAGES + 1), "no client is lost");

    server.signal(Signal::TERM);
    crowd.read_until("the Closes", |crowd| crowd.closed == count);
    assert_eq!(server.wait().code(), Some(0));
    let last = server.wait_for_log(" stopped after ");
    assert!(last.ends_with(" ms"), "every client has answered, but: {last}");
}
