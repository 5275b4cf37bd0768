//! Request heads on the public port, up to the answer.

use std::net::SocketAddr;

use hi::address::PeerAddress;
use hi::address::client::{ClientHeader, Trust};
use hi::http::diagnosis::{Ends, Fault, diagnose};
use hi::http::echo::{Identity, echo};
use hi::http::head::{self, HEAD_BYTES_MAX, Head};
use hi::http::response::{Body, Connection};
use hi::http::target::{self, Route, UpgradeParams};
use hi::http::upgrade;
use serde_json::Value;

use super::assert_sentence;

/// The first bytes of a connection.
pub fn check(bytes: &[u8]) {
    let at_once = head::parse(bytes);
    assert_eq!(at_once, byte_by_byte(bytes));
    match at_once {
        Ok(Some((head, used))) => {
            assert!(used <= HEAD_BYTES_MAX && bytes[..used].ends_with(b"\r\n\r\n"));
            check_head(&head);
        }
        Ok(None) => assert!(bytes.len() < HEAD_BYTES_MAX),
        Err(error) => check_refusal(error, None),
    }
}

fn byte_by_byte(bytes: &[u8]) -> Result<Option<(Head<'_>, usize)>, head::HeadError> {
    let mut searched = 0;
    for end in 0..=bytes.len() {
        match head::parse_more(&bytes[..end], searched) {
            Ok(None) => searched = end,
            outcome => return outcome,
        }
    }
    Ok(None)
}

fn check_head(head: &Head<'_>) {
    let identity = Identity { instance: "0", group: None, version: "0", backend: "epoll", cluster: None };
    for header in ClientHeader::ALL {
        let trust = Trust { header, proxies: "private_ranges".parse().expect("a range") };
        let lines = head.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case(header.as_str()));
        let from = trust.locate(PeerAddress::Ip(peer()), None, lines.map(|(_, value)| *value));
        assert!(from.through_trusted_proxy && !from.header_ignored);
        let told: Value = serde_json::from_slice(&echo(head, &from, &identity)).expect("JSON");
        assert_eq!(told["headers"].as_array().map(Vec::len), Some(head.headers.len()));
        assert_eq!(told["client"], from.address.to_string());
    }
    match upgrade::examine(head) {
        Ok(handshake) => {
            let answer = upgrade::response_101(&handshake, None);
            assert!(answer.starts_with(b"HTTP/1.1 101 ") && answer.ends_with(b"\r\n\r\n"));
        }
        Err(refusal) => check_refusal(refusal, Some(head)),
    }
    let params = match target::route(head.target) {
        Ok(Route::Upgrade(target)) => target.params().map(|params| match params {
            UpgradeParams::Chat(chat) => chat.room,
            UpgradeParams::Raw(raw) => raw.room,
        }),
        Ok(_) => return,
        Err(error) => Err(error),
    };
    match params {
        Ok(room) => {
            let name = room.as_str();
            assert!((1..=64).contains(&name.len()) && !name.contains(char::is_control), "{room:?}");
        }
        Err(error) => check_refusal(error, Some(head)),
    }
}

/// Every refusal is an answer, a line for the log and JSON.
fn check_refusal(fault: impl Into<Fault>, head: Option<&Head<'_>>) {
    let verdict = diagnose(fault.into(), head, Ends { peer: PeerAddress::Ip(peer()), local: Some(peer()) });
    assert_sentence(&verdict.operator_text());
    assert_sentence(&verdict.hop_label());
    let told: Value = serde_json::from_slice(&verdict.client_json()).expect("JSON");
    assert_eq!(told["reason"], verdict.reason.as_str());
    let answer = verdict.response(head).encode(Connection::Close, Body::Sent);
    let answer = std::str::from_utf8(&answer).expect("text");
    let (head, _) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 4") || head.starts_with("HTTP/1.1 505 "), "{head}");
    // No input can add a line to the answer's head.
    assert!(head.split("\r\n").all(|line| !line.contains(char::is_control)), "{head:?}");
}

fn peer() -> SocketAddr {
    ([127, 0, 0, 1], 9).into()
}
