//! One HTTP/1.1 request and its answer over one connection: byte for byte, bounded in size and time.
//!
//! A client library would add, reorder and repair headers, and refuse answers that are a finding here.

use std::io;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{timeout, timeout_at};

use super::facts::{Answer, Failure, FailureKind};
use super::milliseconds;
use super::net::{refusal, timed_out};

/// Largest head of an answer, in bytes.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Limit, in bytes, of what is usually read of a body: enough to know what it is.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// Limit of headers in an answer.
const HEADERS_MAX: usize = 128;
/// The beginning of a SETTINGS frame, with which HTTP/2 begins (RFC 9113 3.4): three bytes of length, then type 4.
const SETTINGS_FRAME: u8 = 4;
/// The first byte of a TLS alert (RFC 8446 5.1).
const TLS_ALERT: u8 = 0x15;

/// What is asked for, and how much of the answer is read.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: &'static str,
    pub(crate) path: String,
    /// Names and values, in the order in which they are sent.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Limit, in bytes, of what is read of the answer's body.
    pub(crate) answer_bytes_max: usize,
}

impl Request {
    /// A GET, of whose answer the beginning is enough.
    pub(crate) fn get(path: String, headers: Vec<(String, String)>) -> Self {
        Self { method: "GET", path, headers, body: Vec::new(), answer_bytes_max: BODY_BYTES_MAX }
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = format!("{} {} HTTP/1.1\r\n", self.method, self.path).into_bytes();
        for (name, value) in &self.headers {
            bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// An answer, and the bytes behind it: the first frames after a 101.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) answer: Answer,
    /// What came behind it.
    pub(crate) leftover: Vec<u8>,
}

/// Sends a request and reads the answer within the time of one step, however slowly its bytes come. A body that takes
/// longer, or never ends (`text/event-stream`), is cut: its beginning is enough.
///
/// # Errors
/// No answer in time, none at all, or something that is not HTTP/1.
pub(crate) async fn exchange<S>(stream: &mut S, request: &Request, step_time: Duration) -> Result<Exchange, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let deadline = tokio::time::Instant::now() + step_time;
    let Exchange { mut answer, mut leftover } = begin(stream, request, step_time).await?;
    if answer.status != 101 {
        let (length, bytes_max) = (BodyLength::of(&answer), request.answer_bytes_max);
        let began = Instant::now();
        let _ = timeout_at(deadline, length.read(stream, &mut leftover, bytes_max)).await;
        answer.body = length.text(std::mem::take(&mut leftover), bytes_max);
        answer.ms += milliseconds(began.elapsed());
    }
    Ok(Exchange { answer, leftover })
}

/// Sends a request and reads the head of the answer within the time of one step. What came behind it is left over.
///
/// # Errors
/// As [`exchange`].
pub(crate) async fn begin<S>(stream: &mut S, request: &Request, step_time: Duration) -> Result<Exchange, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let began = Instant::now();
    let mut buffer = Vec::new();
    let head = async {
        let sent = send(stream, request).await;
        match read_head(stream, &mut buffer).await {
            // An answer that came before the request was sent counts; without one, the failure to send is the explanation.
            Err(failure) if failure.kind == FailureKind::Closed => Err(sent.err().unwrap_or(failure)),
            head => head,
        }
    };
    let (status, http_version, headers, used) =
        timeout(step_time, head).await.unwrap_or_else(|_| Err(timed_out("answer", step_time)))?;
    let leftover = buffer.split_off(used);
    let answer = Answer { status, http_version, headers, body: String::new(), ms: milliseconds(began.elapsed()) };
    Ok(Exchange { answer, leftover })
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, request: &Request) -> Result<(), Failure> {
    let fail = |error: io::Error| refusal(&error);
    stream.write_all(&request.encode()).await.map_err(fail)?;
    stream.flush().await.map_err(fail)
}

type Head = (u16, String, Vec<(String, String)>, usize);

async fn read_head<S: AsyncRead + Unpin>(stream: &mut S, buffer: &mut Vec<u8>) -> Result<Head, Failure> {
    loop {
        match parse_head(buffer)? {
            Some(head) if (100..=199).contains(&head.0) && head.0 != 101 => drop(buffer.drain(..head.3)),
            Some(head) => return Ok(head),
            None if buffer.len() > HEAD_BYTES_MAX => {
                return Err(Failure::new(FailureKind::NotHttp, "the head of the answer does not end"));
            }
            None => match stream.read_buf(buffer).await {
                Ok(0) => return Err(ended(buffer)),
                Ok(_) => {}
                Err(error) => return Err(refusal(&error)),
            },
        }
    }
}

fn ended(buffer: &[u8]) -> Failure {
    let detail = match buffer {
        [] => "the connection was ended without an answer",
        _ => "the connection was ended in the middle of an answer",
    };
    Failure::new(FailureKind::Closed, detail)
}

fn parse_head(buffer: &[u8]) -> Result<Option<Head>, Failure> {
    match buffer {
        [TLS_ALERT, 3, ..] => return Err(Failure::new(FailureKind::TlsNotPlain, "TLS answers")),
        [0, _, _, SETTINGS_FRAME, ..] => return Err(Failure::new(FailureKind::OnlyHttp2, "HTTP/2 answers")),
        _ => {}
    }
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(buffer) {
        Ok(httparse::Status::Partial) => Ok(None),
        Ok(httparse::Status::Complete(used)) => {
            let text = |value: &[u8]| String::from_utf8_lossy(value).replace(char::is_control, "?");
            let headers = response.headers.iter().map(|header| (header.name.to_owned(), text(header.value))).collect();
            let version = if response.version == Some(0) { "HTTP/1.0" } else { "HTTP/1.1" };
            Ok(Some((response.code.unwrap_or_default(), version.to_owned(), headers, used)))
        }
        Err(httparse::Error::TooManyHeaders) => {
            Err(Failure::new(FailureKind::NotHttp, format!("the answer has more than {HEADERS_MAX} headers")))
        }
        Err(_) => {
            let beginning: String = buffer.iter().take(24).map(|byte| byte.escape_ascii().to_string()).collect();
            Err(Failure::new(FailureKind::NotHttp, format!("what answers is not HTTP/1: \"{beginning}\"")))
        }
    }
}

/// Where a body ends (RFC 9112 6.3).
#[derive(Clone, Copy)]
enum BodyLength {
    Bytes(usize),
    Chunked,
    UntilTheEnd,
}

impl BodyLength {
    fn of(answer: &Answer) -> Self {
        let coding = answer.header("transfer-encoding").map(str::to_ascii_lowercase);
        let length = answer.header("content-length").and_then(|value| value.trim().parse().ok());
        let is_stream = answer.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream"));
        match (answer.status, coding, length) {
            (status, _, _) if matches!(status, 204 | 304) || is_stream => Self::Bytes(0),
            (_, Some(coding), _) if coding.contains("chunked") => Self::Chunked,
            (_, _, Some(length)) => Self::Bytes(length),
            _ => Self::UntilTheEnd,
        }
    }

    fn is_whole(self, bytes: &[u8], bytes_max: usize) -> bool {
        bytes.len() >= bytes_max
            || match self {
                Self::Bytes(length) => bytes.len() >= length,
                Self::Chunked => dechunk(bytes).1,
                Self::UntilTheEnd => false,
            }
    }

    /// Reads what is still missing. An early end of the connection ends the body too.
    async fn read<S: AsyncRead + Unpin>(self, stream: &mut S, bytes: &mut Vec<u8>, bytes_max: usize) {
        while !self.is_whole(bytes, bytes_max) && matches!(stream.read_buf(bytes).await, Ok(1..)) {}
    }

    fn text(self, bytes: Vec<u8>, bytes_max: usize) -> String {
        let mut body = if matches!(self, Self::Chunked) { dechunk(&bytes).0 } else { bytes };
        if let Self::Bytes(length) = self {
            body.truncate(length);
        }
        body.truncate(bytes_max);
        String::from_utf8_lossy(&body).into_owned()
    }
}

/// The content of the chunks so far (RFC 9112 7.1), and whether the last one has arrived.
fn dechunk(mut bytes: &[u8]) -> (Vec<u8>, bool) {
    let mut content = Vec::new();
    while let Ok(httparse::Status::Complete((used, size))) = httparse::parse_chunk_size(bytes) {
        if size == 0 {
            return (content, true);
        }
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let rest = &bytes[used..];
        content.extend_from_slice(&rest[..size.min(rest.len())]);
        match rest.get(size.saturating_add(2)..) {
            Some(rest) => bytes = rest,
            None => break,
        }
    }
    (content, false)
}

/// The body of an answer that is read as it comes, such as an event stream.
pub(crate) struct Body<S> {
    stream: S,
    /// What has arrived and is not taken yet.
    buffer: Vec<u8>,
    is_chunked: bool,
    /// Bytes of the current chunk that are not taken yet.
    left: usize,
    /// Whether the line break behind a chunk comes next.
    is_behind_chunk: bool,
}

impl<S: AsyncRead + Unpin> Body<S> {
    /// The body behind an answer.
    pub(crate) fn new(stream: S, Exchange { answer, leftover }: Exchange) -> Self {
        let coding = answer.header("transfer-encoding").map(str::to_ascii_lowercase);
        let is_chunked = coding.is_some_and(|coding| coding.contains("chunked"));
        Self { stream, buffer: leftover, is_chunked, left: 0, is_behind_chunk: false }
    }

    /// What comes next; `None` at the end. May be dropped and called again.
    ///
    /// # Errors
    /// The connection broke.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        loop {
            if let Some(part) = self.take() {
                return Ok(part);
            }
            if self.stream.read_buf(&mut self.buffer).await.map_err(|error| refusal(&error))? == 0 {
                return Ok(None);
            }
        }
    }

    /// A part of the content that has arrived, or its end; `None` if more has to arrive first.
    fn take(&mut self) -> Option<Option<Vec<u8>>> {
        if !self.is_chunked {
            return (!self.buffer.is_empty()).then(|| Some(std::mem::take(&mut self.buffer)));
        }
        if self.left == 0 {
            let skipped = if self.is_behind_chunk { 2 } else { 0 };
            match httparse::parse_chunk_size(self.buffer.get(skipped..)?) {
                Ok(httparse::Status::Complete((used, size))) if size > 0 => {
                    self.buffer.drain(..skipped + used);
                    self.left = usize::try_from(size).unwrap_or(usize::MAX);
                    self.is_behind_chunk = true;
                }
                Ok(httparse::Status::Partial) => return None,
                // The last chunk, or what is none.
                _ => return Some(None),
            }
        }
        let taken = self.left.min(self.buffer.len());
        self.left -= taken;
        (taken > 0).then(|| Some(self.buffer.drain(..taken).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_joined() {
        assert_eq!(dechunk(b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"), (b"abcde".to_vec(), true));
        assert_eq!(dechunk(b"3\r\nabc\r\n5\r\nde"), (b"abcde".to_vec(), false));
        assert_eq!(dechunk(b""), (Vec::new(), false));
    }

    #[tokio::test]
    async fn a_body_is_read_as_it_comes() {
        let bytes = b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n";
        for (coding, expected) in [("chunked", &b"abcde"[..]), ("identity", bytes)] {
            // One byte at a time, of which the first came with the head.
            let (mut peer, stream) = tokio::io::duplex(1);
            let headers = vec![("Transfer-Encoding".to_owned(), coding.to_owned())];
            let answer = Answer { status: 200, http_version: String::new(), headers, body: String::new(), ms: 0.0 };
            let mut body = Body::new(stream, Exchange { answer, leftover: bytes[..1].to_vec() });
            // The reader doesn't wait for what follows the last chunk, and hangs up.
            let write = async move { drop(peer.write_all(&bytes[1..]).await) };
            let read = async move {
                let mut content = Vec::new();
                while let Some(part) = body.next().await.unwrap() {
                    content.extend(part);
                }
                content
            };
            assert_eq!(tokio::join!(write, read).1, expected, "{coding}");
        }
    }

    #[test]
    fn other_protocols_are_recognized() {
        let kind = |bytes: &[u8]| parse_head(bytes).unwrap_err().kind;
        assert_eq!(kind(b"\x15\x03\x01\x00\x02\x02\x46"), FailureKind::TlsNotPlain);
        assert_eq!(kind(b"\x00\x00\x12\x04\x00\x00"), FailureKind::OnlyHttp2);
        assert_eq!(kind(b"220 mail ESMTP\r\n"), FailureKind::NotHttp);
        assert_eq!(parse_head(b"HTTP/1.1 200 O").unwrap(), None);
        let (status, version, headers, used) =
            parse_head(b"HTTP/1.0 502 Bad\r\nServer: x\r\n\r\nbody").unwrap().unwrap();
        assert_eq!((status, &*version, headers.len(), used), (502, "HTTP/1.0", 1, 31));
    }
}
