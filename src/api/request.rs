//! One HTTP request to the internal port, and its answer: for the command line, which needs no more.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// From looking up the name to the end of the answer.
const TIME_MAX: Duration = Duration::from_secs(10);
/// For connecting to one of several addresses.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(3);
/// No answer of ours is longer.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
/// Header lines of an answer.
const HEADERS_MAX: usize = 32;

/// What is asked.
#[derive(Debug)]
pub struct Request {
    /// GET or POST.
    pub method: &'static str,
    /// Path and query.
    pub path: String,
    /// The media type of the body.
    pub content_type: &'static str,
    /// The API key.
    pub key: Option<String>,
    /// The body.
    pub body: Vec<u8>,
}

/// The answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

impl Request {
    /// Sends it to `address` (a host and a port), and waits for the answer, for at most 10 seconds in all.
    ///
    /// # Errors
    /// Nobody answers there in time, or not in HTTP.
    pub fn send(self, address: &str) -> io::Result<Response> {
        let (done, outcome) = mpsc::channel();
        let address = address.to_owned();
        // A name is looked up for as long as the system likes, and each read may bring one byte: the limit is for all of it.
        // The process ends soon after this returns, and with it the thread.
        thread::spawn(move || {
            let _ = done.send(self.exchange(&address));
        });
        let too_late = || io::Error::new(io::ErrorKind::TimedOut, format!("no whole answer within {TIME_MAX:?}"));
        outcome.recv_timeout(TIME_MAX).unwrap_or_else(|_| Err(too_late()))
    }

    fn exchange(&self, address: &str) -> io::Result<Response> {
        let (mut stream, peer) = connect(address)?;
        // Without a key, the port wants to be asked by its address.
        let host = if self.key.is_some() { address.to_owned() } else { peer.to_string() };
        let mut request = format!("{} {} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n", self.method, self.path);
        if let Some(key) = &self.key {
            request += &format!("Authorization: Bearer {key}\r\n");
        }
        if !self.content_type.is_empty() {
            request += &format!("Content-Type: {}\r\nContent-Length: {}\r\n", self.content_type, self.body.len());
        }
        request += "\r\n";
        stream.write_all(&[request.as_bytes(), &self.body].concat())?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
        parse(&answer)
    }
}

/// A connection, and the address that it leads to, without a scope.
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

/// The internal port answers with the length of the body, and closes behind it.
fn parse(answer: &[u8]) -> io::Result<Response> {
    let invalid = |why| io::Error::new(io::ErrorKind::InvalidData, why);
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Response::new(&mut headers);
    let parsed = head.parse(answer).map_err(|_| invalid("it does not answer in HTTP"))?;
    let httparse::Status::Complete(length) = parsed else { return Err(invalid("the answer breaks off")) };
    let status = head.code.ok_or_else(|| invalid("the answer has no status"))?;
    let declared = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let declared = declared.and_then(|header| std::str::from_utf8(header.value).ok()?.parse::<usize>().ok());
    let body = answer[length..].to_vec();
    if declared.is_some_and(|declared| declared != body.len()) {
        return Err(invalid("the answer breaks off"));
    }
    Ok(Response { status, body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_or_an_error() {
        let whole = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
        assert_eq!(parse(whole).unwrap(), Response { status: 200, body: b"{}".to_vec() });
        for end in 0..whole.len() {
            assert!(parse(&whole[..end]).is_err(), "{end} bytes");
        }
        assert!(parse(b"SSH-2.0-x\r\n\r\n").is_err());
    }
}
