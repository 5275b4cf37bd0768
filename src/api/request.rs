//! One HTTP request to the internal port and its answer, as `hi pub` and `hi rooms` need it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Limit from the name lookup to the end of the answer.
const TIME_MAX: Duration = Duration::from_secs(10);
/// Limit for connecting to one of several addresses.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(3);
/// Bytes of the longest answer that is read.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
/// Header lines of an answer.
const HEADERS_MAX: usize = 32;

/// Connects to `address` (a host and a port), sends what `request` makes for the IP address found, and waits until the server
/// has answered and closed, all within 10 seconds. Returns the HTTP status and the body.
pub(super) fn send(
    address: String,
    request: impl FnOnce(SocketAddr) -> Vec<u8> + Send + 'static,
) -> io::Result<(u16, Vec<u8>)> {
    let (done, outcome) = mpsc::channel();
    // A name lookup has no time limit of its own, and each read may bring a single byte: this limit is for all of it. The
    // process ends soon after this returns, and with it the thread.
    thread::spawn(move || done.send(exchange(&address, request)));
    let too_late = || io::Error::new(io::ErrorKind::TimedOut, format!("no whole answer within {TIME_MAX:?}"));
    outcome.recv_timeout(TIME_MAX).unwrap_or_else(|_| Err(too_late()))
}

fn exchange(address: &str, request: impl FnOnce(SocketAddr) -> Vec<u8>) -> io::Result<(u16, Vec<u8>)> {
    let (mut stream, peer) = connect(address)?;
    stream.write_all(&request(peer))?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Response::new(&mut headers);
    match (head.parse(&answer), head.code) {
        (Ok(httparse::Status::Complete(length)), Some(status)) => Ok((status, answer.split_off(length))),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "it does not answer in HTTP")),
    }
}

/// A connection, and the IP address and port that it leads to (without an IPv6 scope).
fn connect(address: &str) -> io::Result<(TcpStream, SocketAddr)> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIME_MAX) {
            Ok(stream) => return Ok((stream, SocketAddr::new(address.ip(), address.port()))),
            Err(error) => last = error,
        }
    }
    Err(last)
}
