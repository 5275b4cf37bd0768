//! The network: links between clients and the server, each with bounded kernel buffers at both ends. Bytes move when the
//! scheduler says so, a few at a time; links break, go silent, and end in one direction or in both.

use std::cell::RefCell;
use std::os::fd::RawFd;

use bytes::{Buf, Bytes, BytesMut};

thread_local! {
    /// By number of the server's socket: whether its peer has ended; none where no socket is open. Apart from the network, as
    /// [`hi::ring::DataRing::peer_has_ended`] has nothing but the number.
    static PEERS: RefCell<Vec<Option<bool>>> = const { RefCell::new(Vec::new()) };
}

/// Whether the peer of the server's socket with this number has ended.
///
/// # Panics
/// If there is no such socket: what it says then would be about a stranger.
pub fn peer_has_ended(descriptor: RawFd) -> bool {
    let Ok(index) = usize::try_from(descriptor) else { return false };
    PEERS.with_borrow(|peers| peers.get(index).copied().flatten()).expect("nobody asks about a socket that is closed")
}

/// The number of a link, from the first to the last connection of a simulation.
pub type LinkId = usize;

/// How far an end of stream has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fin {
    /// The sender may say more.
    None,
    /// Behind what was sent and has not arrived yet.
    Sent,
    /// At the receiver.
    Arrived,
}

/// One direction of a link.
#[derive(Debug)]
pub struct Pipe {
    /// The sender's kernel buffer.
    sent: BytesMut,
    sent_max: usize,
    /// The receiver's.
    arrived: BytesMut,
    arrived_max: usize,
    fin: Fin,
}

impl Pipe {
    fn new(sent_max: usize, arrived_max: usize) -> Self {
        Self { sent: BytesMut::new(), sent_max, arrived: BytesMut::new(), arrived_max, fin: Fin::None }
    }

    /// Bytes that the sender's buffer has room for.
    pub fn room(&self) -> usize {
        self.sent_max - self.sent.len()
    }

    fn send(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.room());
        self.sent.extend_from_slice(&bytes[..count]);
        count
    }

    fn end(&mut self) {
        if self.fin == Fin::None {
            self.fin = Fin::Sent;
        }
    }

    /// Moves at most `max` bytes from one buffer to the other; true if anything moved.
    fn transfer(&mut self, max: usize) -> bool {
        let count = self.sent.len().min(max).min(self.arrived_max - self.arrived.len());
        self.arrived.extend_from_slice(&self.sent[..count]);
        self.sent.advance(count);
        let ends = self.sent.is_empty() && self.fin == Fin::Sent;
        if ends {
            self.fin = Fin::Arrived;
        }
        count > 0 || ends
    }

    /// Bytes that the receiver has not read.
    pub fn unread(&self) -> usize {
        self.arrived.len()
    }

    /// Whether nothing is on its way, and nothing unread.
    pub fn is_empty(&self) -> bool {
        self.sent.is_empty() && self.arrived.is_empty()
    }

    fn is_at_end(&self) -> bool {
        self.arrived.is_empty() && self.fin == Fin::Arrived
    }
}

/// What a receiver finds.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing yet.
    Nothing,
    /// Bytes.
    Bytes(Bytes),
    /// The end of what the sender says.
    End,
    /// The link is broken.
    Reset,
}

/// A connection between a client and the server.
#[derive(Debug)]
pub struct Link {
    /// The number of the server's socket.
    pub descriptor: RawFd,
    /// From the client to the server.
    pub up: Pipe,
    /// From the server to the client.
    pub down: Pipe,
    /// The client has broken it, and the server's kernel has heard of it.
    reset_at_server: bool,
    /// The server has, or its kernel; and the client knows.
    reset_at_client: bool,
    /// A reset of the client's is on its way.
    reset_under_way: bool,
    /// Nothing arrives any more, in either direction, and nobody is told.
    pub is_silent: bool,
    /// Whether the client listens to events: it is not asked for signs of life, so that its end is up to the kernel.
    is_listener: bool,
    /// The server reads no more: what is unread still comes, then the end.
    server_ended: bool,
    server_closed: bool,
    client_closed: bool,
}

/// All links.
#[derive(Debug, Default)]
pub struct Network {
    links: Vec<Link>,
}

/// The sizes of a link's four kernel buffers, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// The client's send buffer, and the server's receive buffer.
    pub up: (usize, usize),
    /// The server's send buffer, and the client's receive buffer.
    pub down: (usize, usize),
}

impl Network {
    /// A network without links, on the calling thread: sockets that an earlier one has left open are forgotten.
    pub fn new() -> Self {
        PEERS.with_borrow_mut(Vec::clear);
        Self::default()
    }

    /// A new link. The server's socket gets the lowest number that is free, as sockets do.
    pub fn connect(&mut self, sizes: Sizes, is_listener: bool) -> LinkId {
        let descriptor = PEERS.with_borrow_mut(|peers| {
            let index = peers.iter().position(Option::is_none).unwrap_or(peers.len());
            peers.resize(peers.len().max(index + 1), None);
            peers[index] = Some(false);
            index as RawFd
        });
        self.links.push(Link {
            descriptor,
            up: Pipe::new(sizes.up.0, sizes.up.1),
            down: Pipe::new(sizes.down.0, sizes.down.1),
            reset_at_server: false,
            reset_at_client: false,
            reset_under_way: false,
            is_silent: false,
            is_listener,
            server_ended: false,
            server_closed: false,
            client_closed: false,
        });
        self.links.len() - 1
    }

    /// A link.
    pub fn link(&self, id: LinkId) -> &Link {
        &self.links[id]
    }

    /// Links on which something may still move.
    pub fn active(&self) -> Vec<LinkId> {
        let is_active = |link: &Link| !(link.server_closed && (link.client_closed || link.is_silent));
        (0..self.links.len()).filter(|id| is_active(&self.links[*id])).collect()
    }

    /// Sockets of the server that are not closed.
    pub fn open_sockets(&self) -> usize {
        self.links.iter().filter(|link| !link.server_closed).count()
    }

    /// Moves at most `max` bytes in each direction, and ends and resets behind them; true if anything moved.
    pub fn transfer(&mut self, id: LinkId, max: usize) -> bool {
        let link = &mut self.links[id];
        if link.is_silent {
            return false;
        }
        if link.reset_under_way {
            link.reset_under_way = false;
            link.reset_at_server = true;
            link.up.sent.clear();
            link.down.sent.clear();
            link.note_end();
            return true;
        }
        if link.reset_at_client || link.reset_at_server {
            return false;
        }
        if link.server_closed && !link.up.sent.is_empty() {
            // What is said to a socket that is closed is answered by a reset, which overtakes nothing but what is on its way.
            link.reset_at_client = true;
            return true;
        }
        let moved = link.up.transfer(max) | link.down.transfer(max);
        if link.client_closed && link.down.unread() > 0 {
            // Nobody is there to read it.
            link.reset_under_way = true;
        }
        link.note_end();
        moved
    }

    /// The client says something; how many bytes its kernel took.
    pub fn client_sends(&mut self, id: LinkId, bytes: &[u8]) -> usize {
        let link = &mut self.links[id];
        if link.reset_at_client || link.up.fin != Fin::None { bytes.len() } else { link.up.send(bytes) }
    }

    /// The client reads at most `max` bytes.
    pub fn client_reads(&mut self, id: LinkId, max: usize) -> Found {
        let link = &mut self.links[id];
        read(&mut link.down, link.reset_at_client, max)
    }

    /// The client says nothing more.
    pub fn client_ends(&mut self, id: LinkId) {
        self.links[id].up.end();
    }

    /// The client is gone: without a trace for the server, or with a reset.
    pub fn client_closes(&mut self, id: LinkId, with_reset: bool) {
        let link = &mut self.links[id];
        link.client_closed = true;
        if with_reset || !link.down.is_empty() {
            link.reset_under_way = !link.reset_at_client;
        } else {
            link.up.end();
        }
    }

    /// Nothing arrives any more.
    pub fn client_vanishes(&mut self, id: LinkId) {
        self.links[id].is_silent = true;
    }

    /// The server's kernel has waited long enough for listeners that don't take their heartbeats, and gives their links up.
    pub fn give_up_silent_listeners(&mut self) {
        for link in self.links.iter_mut().filter(|link| link.is_listener && link.is_silent && !link.server_closed) {
            link.reset_at_server = true;
            link.note_end();
        }
    }

    /// The server sends; how many bytes its kernel took, or none as the link is broken.
    pub fn server_sends(&mut self, id: LinkId, bytes: &[u8]) -> Option<usize> {
        let link = &mut self.links[id];
        assert!(!link.server_closed, "nothing is sent to a socket that is closed");
        if link.reset_at_server || link.down.fin != Fin::None { None } else { Some(link.down.send(bytes)) }
    }

    /// The server receives at most `max` bytes.
    pub fn server_receives(&mut self, id: LinkId, max: usize) -> Found {
        let link = &mut self.links[id];
        assert!(!link.server_closed, "nothing is received from a socket that is closed");
        match read(&mut link.up, link.reset_at_server, max) {
            Found::Nothing if link.server_ended => Found::End,
            found => found,
        }
    }

    /// Whether the server would find something.
    pub fn is_readable(&self, id: LinkId) -> bool {
        let link = &self.links[id];
        link.server_ended || link.reset_at_server || link.up.unread() > 0 || link.up.is_at_end()
    }

    /// Whether the server's kernel says that there is room to send: a third of the buffer, or nobody to send to.
    pub fn is_writable(&self, id: LinkId) -> bool {
        let link = &self.links[id];
        link.reset_at_server || link.down.fin != Fin::None || link.down.room() * 3 >= link.down.sent_max
    }

    /// Whether the link is broken, or has ended in both directions.
    pub fn is_over(&self, id: LinkId) -> bool {
        let link = &self.links[id];
        link.reset_at_server || link.down.fin != Fin::None && (link.server_ended || link.up.fin == Fin::Arrived)
    }

    /// The server shuts its end down: for writing, and perhaps for reading.
    pub fn server_shuts_down(&mut self, id: LinkId, for_reading: bool) {
        let link = &mut self.links[id];
        link.down.end();
        link.server_ended |= for_reading;
    }

    /// The server closes its socket. What it has not read makes a reset of that.
    pub fn server_closes(&mut self, id: LinkId) {
        let link = &mut self.links[id];
        assert!(!link.server_closed, "a socket is closed once");
        link.server_closed = true;
        PEERS.with_borrow_mut(|peers| peers[link.descriptor as usize] = None);
        link.down.end();
        if !link.up.arrived.is_empty() {
            link.reset_at_client = true;
        }
    }
}

fn read(pipe: &mut Pipe, is_reset: bool, max: usize) -> Found {
    if pipe.unread() > 0 {
        let count = pipe.unread().min(max);
        return Found::Bytes(pipe.arrived.split_to(count).freeze());
    }
    match pipe.fin {
        _ if is_reset => Found::Reset,
        Fin::Arrived => Found::End,
        Fin::None | Fin::Sent => Found::Nothing,
    }
}

impl Link {
    /// Keeps what the server's kernel says about the peer.
    fn note_end(&self) {
        let has_ended = self.reset_at_server || self.up.fin == Fin::Arrived;
        if has_ended && !self.server_closed {
            PEERS.with_borrow_mut(|peers| peers[self.descriptor as usize] = Some(true));
        }
    }
}
