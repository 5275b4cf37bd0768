//! The header of the PROXY protocol, versions 1 and 2, in front of the first request of a connection (pure).
//!
//! It is demanded from the proxies that are to send it and refused from everybody else: its specification forbids guessing,
//! since a client could send one as well.

use std::net::SocketAddr;
use std::ops::Range;

use ppp::{v1, v2};

use crate::limits::{PROXY_HEADER_V1_BYTES_MAX, PROXY_HEADER_V2_BYTES_MAX};

/// How version 1 begins.
const V1_START: &[u8] = b"PROXY ";
/// Where version 2 has the length of what follows.
const V2_LENGTH: Range<usize> = 14..16;

/// A header that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    /// Its length in bytes.
    pub used: usize,
    /// The client that the proxy speaks for; `None` if it speaks for itself, as in a health check, or doesn't know.
    pub client: Option<SocketAddr>,
}

/// What is wrong about the header.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyHeaderError {
    /// Something else comes in its place.
    #[error("No PROXY protocol header came in front of the request, and this peer is expected to send one.")]
    Missing,
    /// It comes from a peer that is not to send one.
    #[error("A PROXY protocol header came in front of the request, and none is expected from this peer.")]
    Unexpected,
    /// It can't be read.
    #[error("The PROXY protocol header in front of the request can't be read: {0}.")]
    Bad(String),
}

/// Whether these are the first bytes of a header. `None`: too few to tell.
pub fn begins(bytes: &[u8]) -> Option<bool> {
    let starts = [V1_START, v2::PROTOCOL_PREFIX];
    if starts.iter().any(|start| bytes.starts_with(start)) {
        return Some(true);
    }
    if starts.iter().any(|start| start.starts_with(bytes)) { None } else { Some(false) }
}

/// Reads the header at the start of a connection. `None`: more bytes are needed.
///
/// # Errors
/// There is none, or it can't be read. More bytes don't change that.
pub fn parse(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyHeaderError> {
    match begins(bytes) {
        None => Ok(None),
        Some(false) => Err(ProxyHeaderError::Missing),
        Some(true) if bytes.starts_with(V1_START) => version_1(bytes),
        Some(true) => version_2(bytes),
    }
}

fn version_1(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyHeaderError> {
    let window = &bytes[..bytes.len().min(PROXY_HEADER_V1_BYTES_MAX)];
    let Some(end) = window.iter().position(|b| *b == b'\n') else {
        return if window.len() == PROXY_HEADER_V1_BYTES_MAX { bad("its line is too long") } else { Ok(None) };
    };
    let line = &bytes[..=end];
    let addresses = match v1::Header::try_from(line) {
        Ok(header) if header.header.len() == line.len() => header.addresses,
        Ok(_) => return bad("its line does not end with CR LF"),
        Err(error) => return bad(error),
    };
    let client = match addresses {
        v1::Addresses::Tcp4(ends) => Some((ends.source_address, ends.source_port).into()),
        v1::Addresses::Tcp6(ends) => Some((ends.source_address, ends.source_port).into()),
        v1::Addresses::Unknown => None,
    };
    Ok(Some(ProxyHeader { used: line.len(), client }))
}

fn version_2(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyHeaderError> {
    if let Some(length) = bytes.get(V2_LENGTH)
        && usize::from(u16::from_be_bytes([length[0], length[1]])) > PROXY_HEADER_V2_BYTES_MAX - V2_LENGTH.end
    {
        return bad("it is too long");
    }
    let header = match v2::Header::try_from(bytes) {
        Ok(header) => header,
        Err(v2::ParseError::Incomplete(..) | v2::ParseError::Partial(..)) => return Ok(None),
        Err(error) => return bad(error),
    };
    let client = match header.addresses {
        _ if header.command == v2::Command::Local => None,
        v2::Addresses::IPv4(ends) => Some((ends.source_address, ends.source_port).into()),
        v2::Addresses::IPv6(ends) => Some((ends.source_address, ends.source_port).into()),
        v2::Addresses::Unix(_) | v2::Addresses::Unspecified => None,
    };
    Ok(Some(ProxyHeader { used: header.len(), client }))
}

/// What is wrong, without what has come.
fn bad<T>(why: impl ToString) -> Result<T, ProxyHeaderError> {
    let why = why.to_string().replace(char::is_control, " ");
    Err(ProxyHeaderError::Bad(why.trim_end_matches('.').to_owned()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        [V2, &[0x20 | command, family], &(body.len() as u16).to_be_bytes(), body].concat()
    }

    fn client(bytes: &[u8]) -> Option<String> {
        let header = parse(bytes).expect("a header").expect("a whole one");
        assert_eq!(header.used, bytes.len());
        header.client.map(|client| client.to_string())
    }

    #[test]
    fn the_client_is_the_source_of_either_version() {
        let of_v6 = [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[7], &[9; 16], &[0, 80, 1, 187]].concat();
        for (bytes, expected) in [
            (b"PROXY TCP4 203.0.113.7 10.0.0.5 4711 80\r\n".to_vec(), Some("203.0.113.7:4711")),
            (b"PROXY TCP6 2001:db8::7 ::1 4711 80\r\n".to_vec(), Some("[2001:db8::7]:4711")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n".to_vec(), None),
            (v2(1, 0x11, &[203, 0, 113, 7, 10, 0, 0, 5, 18, 103, 0, 80]), Some("203.0.113.7:4711")),
            // With a TLV behind the addresses.
            (v2(1, 0x11, &[203, 0, 113, 7, 10, 0, 0, 5, 18, 103, 0, 80, 4, 0, 1, 42]), Some("203.0.113.7:4711")),
            (v2(1, 0x21, &of_v6), Some("[2001:db8::7]:80")),
            // Health checks speak for the proxy itself.
            (v2(0, 0, &[]), None),
            (v2(0, 0x11, &[203, 0, 113, 7, 10, 0, 0, 5, 18, 103, 0, 80]), None),
            (v2(1, 0x31, &[0; 216]), None),
        ] {
            assert_eq!(client(&bytes).as_deref(), expected, "{}", bytes.escape_ascii());
            for end in 0..bytes.len() {
                assert_eq!(parse(&bytes[..end]), Ok(None), "{}", bytes[..end].escape_ascii());
            }
        }
    }

    #[test]
    fn what_is_no_header_is_missing_and_a_broken_one_is_bad() {
        for bytes in [&b"GET /ws HTTP/1.1\r\n"[..], b"PROX /", b"\r\n\r\nGET", b"\x16\x03\x01"] {
            assert_eq!(parse(bytes), Err(ProxyHeaderError::Missing));
        }
        for bytes in [
            &b"PROXY TCP4 203.0.113.7 10.0.0.5 4711\r\n"[..],
            b"PROXY TCP4 203.0.113.700 10.0.0.5 4711 80\r\n",
            b"PROXY TCP4 203.0.113.7 10.0.0.5 04711 80\r\n",
            b"PROXY TCP4 203.0.113.7 10.0.0.5 4711 80\n",
            b"PROXY UDP4 203.0.113.7 10.0.0.5 4711 80\r\n",
            b"PROXY \xff\r\n",
            &[b"PROXY UNKNOWN ".as_slice(), &[b'x'; 100]].concat(),
            &v2(2, 0x11, &[0; 12]),
            &v2(1, 0x11, &[0; 11]),
            &v2(1, 0x11, &[0; 3000]),
            &[V2, &[0x11, 0x11, 0, 12], &[0; 12]].concat(),
        ] {
            match parse(bytes) {
                Err(ProxyHeaderError::Bad(why)) => assert!(!why.is_empty() && !why.contains(char::is_control)),
                other => panic!("{other:?} for {}", bytes.escape_ascii()),
            }
        }
    }

    proptest! {
        #[test]
        fn more_bytes_never_change_what_is_decided(
            start in prop::sample::select(vec![&b"PROXY TCP4 1.2.3.4 "[..], b"PROXY ", V2, b""]),
            rest in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let bytes = [start, &rest].concat();
            let mut decided = None;
            for end in 0..=bytes.len() {
                let now = parse(&bytes[..end]);
                match &decided {
                    Some(before) => prop_assert_eq!(&now, before),
                    None if now == Ok(None) => {}
                    None => decided = Some(now),
                }
            }
        }
    }
}
