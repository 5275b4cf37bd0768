//! A relay between a server and its log that can fail: it breaks connections, holds back what goes one way, or loses a part of it.

#![allow(dead_code, reason = "each test file uses its own part of it")]
#![allow(unreachable_pub, reason = "a test has no outside")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Where something goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    ToLog,
    FromLog,
}

/// See the module.
pub struct Relay {
    port: u16,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    holds_to: AtomicBool,
    holds_from: AtomicBool,
    /// On which way nothing gets through from the operation on that contains this.
    holding: Mutex<Option<(Way, &'static str)>>,
    /// What the next operations from the log contain that get lost, and how many.
    losing: Mutex<(&'static str, usize)>,
    is_down: AtomicBool,
    connections: Mutex<Vec<TcpStream>>,
}

impl Relay {
    /// Relays to the port of a server of the log.
    pub fn start(log: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = Self { port: listener.local_addr().unwrap().port(), state: Arc::default() };
        let state = Arc::clone(&relay.state);
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let Ok(far) = TcpStream::connect(("127.0.0.1", log)) else { continue };
                let mut connections = state.connections.lock().unwrap();
                if state.is_down.load(Ordering::SeqCst) {
                    continue;
                }
                connections.extend([near.try_clone().unwrap(), far.try_clone().unwrap()]);
                let (near_too, far_too) = (near.try_clone().unwrap(), far.try_clone().unwrap());
                let (to, from) = (Arc::clone(&state), Arc::clone(&state));
                std::thread::spawn(move || pass_to(&to, near, far));
                std::thread::spawn(move || pass_from(&from, far_too, near_too));
            }
        });
        relay
    }

    /// Where a server connects to.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Nothing gets through on this way, and nobody is told.
    pub fn hold(&self, way: Way) {
        self.state.held(way).store(true, Ordering::SeqCst);
    }

    /// Nothing gets through on this way from the next operation on that contains this.
    pub fn hold_from(&self, way: Way, part: &'static str) {
        *self.state.holding.lock().unwrap() = Some((way, part));
    }

    /// Whether nothing gets through on this way.
    pub fn holds(&self, way: Way) -> bool {
        self.state.held(way).load(Ordering::SeqCst)
    }

    /// Breaks every connection, and lets no new one through.
    pub fn cut(&self) {
        let mut connections = self.state.connections.lock().unwrap();
        self.state.is_down.store(true, Ordering::SeqCst);
        for connection in connections.drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// Everything gets through again, also what was held back.
    pub fn let_go(&self) {
        self.state.is_down.store(false, Ordering::SeqCst);
        [Way::ToLog, Way::FromLog].into_iter().for_each(|way| self.state.held(way).store(false, Ordering::SeqCst));
    }

    /// The next operations of NATS that contain this are lost on their way from the log.
    pub fn lose_next(&self, count: usize, part: &'static str) {
        *self.state.losing.lock().unwrap() = (part, count);
    }

    /// Whether one of them has not come yet.
    pub fn will_lose(&self) -> bool {
        self.state.losing.lock().unwrap().1 > 0
    }
}

impl State {
    fn held(&self, way: Way) -> &AtomicBool {
        if way == Way::ToLog { &self.holds_to } else { &self.holds_from }
    }

    /// Begins to hold back what goes this way, if this is what that was to begin with.
    fn look_at(&self, way: Way, sent: &[u8]) {
        let holding = &mut *self.holding.lock().unwrap();
        if holding.is_some_and(|(held, part)| held == way && String::from_utf8_lossy(sent).contains(part)) {
            *holding = None;
            self.held(way).store(true, Ordering::SeqCst);
        }
    }

    fn loses(&self, operation: &[u8]) -> bool {
        let (lost, count) = &mut *self.losing.lock().unwrap();
        let is_lost = *count > 0 && String::from_utf8_lossy(operation).contains(*lost);
        *count -= usize::from(is_lost);
        is_lost
    }

    fn wait(&self, way: Way) {
        while self.held(way).load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn pass_to(state: &State, mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        state.look_at(Way::ToLog, &buffer[..count]);
        state.wait(Way::ToLog);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

/// Passes on one operation of NATS after the other.
fn pass_from(state: &State, from: TcpStream, mut to: TcpStream) {
    let mut from = BufReader::new(from);
    loop {
        let mut operation = Vec::new();
        if !matches!(from.read_until(b'\n', &mut operation), Ok(1..)) {
            break;
        }
        let line = String::from_utf8_lossy(&operation).into_owned();
        if line.starts_with("MSG ") || line.starts_with("HMSG ") {
            let length: u64 = line.split_whitespace().last().and_then(|length| length.parse().ok()).expect("a length");
            if from.by_ref().take(length + 2).read_to_end(&mut operation).is_err() {
                break;
            }
        }
        state.look_at(Way::FromLog, &operation);
        state.wait(Way::FromLog);
        if state.loses(&operation) {
            continue;
        }
        if to.write_all(&operation).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}
