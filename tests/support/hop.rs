//! A hop between a client and the server that can fail: it drops headers, loses data, goes silent or breaks.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::Server;

/// A proxy between the page and the server that can fail, or drop the headers of WebSockets.
pub struct Hop {
    pub port: u16,
    state: Arc<HopState>,
}

#[derive(Default)]
struct HopState {
    is_down: AtomicBool,
    /// No header is dropped any more.
    is_fixed: AtomicBool,
    /// The server's data gets lost.
    is_deaf: AtomicBool,
    accepted: AtomicUsize,
    /// WebSockets among the first connections, up to this count, carry nothing, but stay open.
    silent: AtomicUsize,
    sockets: Mutex<Vec<TcpStream>>,
}

impl Hop {
    /// Forwards to the server, and drops these headers (in lower case) from each request.
    pub fn start(server: &Server, drops: &'static [&'static str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let hop = Self { port: listener.local_addr().unwrap().port(), state: Arc::default() };
        let (state, server) = (Arc::clone(&hop.state), server.address());
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let Ok(far) = TcpStream::connect(server) else { continue };
                if state.is_down.load(Ordering::SeqCst) {
                    continue;
                }
                let number = state.accepted.fetch_add(1, Ordering::SeqCst);
                let both = || [near.try_clone().unwrap(), far.try_clone().unwrap()];
                state.sockets.lock().unwrap().extend(both());
                let is_websocket = Arc::new(AtomicBool::new(false));
                let (found, fixed) = (Arc::clone(&is_websocket), Arc::clone(&state));
                let loses = move |line: &[u8]| {
                    let line = line.to_ascii_lowercase();
                    found.fetch_or(line.starts_with(b"upgrade: websocket"), Ordering::SeqCst);
                    let is_dropped = |name: &&str| line.starts_with(format!("{name}:").as_bytes());
                    !fixed.is_fixed.load(Ordering::SeqCst) && drops.iter().any(is_dropped)
                };
                let ([near, far], silent) = (both(), Arc::clone(&state));
                let is_silent =
                    move || is_websocket.load(Ordering::SeqCst) && number < silent.silent.load(Ordering::SeqCst);
                std::thread::spawn({
                    let is_silent = is_silent.clone();
                    move || pass_on(near, far, loses, is_silent)
                });
                let ([near, far], state) = (both(), Arc::clone(&state));
                let is_deaf = move |_: &[u8]| state.is_deaf.load(Ordering::SeqCst);
                std::thread::spawn(move || pass_on(far, near, is_deaf, is_silent));
            }
        });
        hop
    }

    /// From now on the client receives nothing, while the server still receives.
    pub fn deafen(&self) {
        self.state.is_deaf.store(true, Ordering::SeqCst);
    }

    /// The WebSockets that are open now go silent: nothing gets through, and neither end is told. New ones work.
    pub fn silence(&self) {
        self.state.silent.store(self.state.accepted.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    /// Breaks every connection, and lets no new one through.
    pub fn cut(&self) {
        self.state.is_down.store(true, Ordering::SeqCst);
        for socket in self.state.sockets.lock().unwrap().drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// From now on, each header gets through.
    pub fn keep_headers(&self) {
        self.state.is_fixed.store(true, Ordering::SeqCst);
    }

    /// Everything gets through again.
    pub fn repair(&self) {
        self.state.is_deaf.store(false, Ordering::SeqCst);
        self.state.is_down.store(false, Ordering::SeqCst);
    }
}

/// Copies until either end is gone, except for lost lines. A browser's request head arrives in one piece here.
fn pass_on(mut from: TcpStream, mut to: TcpStream, loses: impl Fn(&[u8]) -> bool, is_silent: impl Fn() -> bool) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if is_silent() {
            continue;
        }
        let lines = buffer[..count].split_inclusive(|byte| *byte == b'\n').filter(|line| !loses(line));
        if to.write_all(&lines.collect::<Vec<_>>().concat()).is_err() {
            break;
        }
    }
    if !is_silent() {
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    }
}
