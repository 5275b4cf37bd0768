//! Tests of `upgrade.rs`, beside it.

use super::super::head::parse;
use super::*;
use proptest::prelude::*;

/// RFC 6455 1.3: the answer to the key in `VALID`.
const ACCEPT: &[u8; 28] = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
const VALID: [&str; 4] = [
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
];

fn judge(request_line: &str, headers: &[&str]) -> Result<Handshake, UpgradeRefusal> {
    let text = format!("{request_line}\r\nHost: x\r\n{}\r\n\r\n", headers.join("\r\n"));
    let text = text.replace("\r\n\r\n\r\n", "\r\n\r\n");
    let (head, _) = parse(text.as_bytes()).expect("well-formed").expect("whole");
    examine(&head)
}

fn judge_get(headers: &[&str]) -> Result<Handshake, UpgradeRefusal> {
    judge("GET /ws HTTP/1.1", headers)
}

/// A valid handshake but for what is left out and what is put in.
fn changed(without: &[&str], with: &[&str]) -> Result<Handshake, UpgradeRefusal> {
    let kept = VALID.iter().filter(|line| !without.iter().any(|name| line.starts_with(&format!("{name}:"))));
    judge_get(&kept.copied().chain(with.iter().copied()).collect::<Vec<_>>())
}

fn refusal(result: Result<Handshake, UpgradeRefusal>) -> UpgradeRefusal {
    result.expect_err("refused")
}

#[test]
fn the_example_of_the_rfc_is_accepted() {
    let handshake = changed(&[], &[]).expect("sound");
    assert_eq!(&handshake.accept, ACCEPT);
    assert_eq!(
        response_101(&handshake, None),
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    );
}

#[test]
fn token_lists_in_any_case_and_over_several_headers_are_read() {
    for with in [
        &["upgrade: h2c, WebSocket", "CONNECTION: keep-alive, UPGRADE"][..],
        &["Upgrade: h2c", "Upgrade: WEBSOCKET", "Connection: keep-alive", "Connection: ,upgrade"],
    ] {
        assert_eq!(&changed(&["Upgrade", "Connection"], with).expect("sound").accept, ACCEPT, "{with:?}");
    }
}

#[test]
fn subprotocols_are_offered_in_order_and_chosen_in_the_answer() {
    let lines = ["Sec-WebSocket-Protocol: hi.v1 , chat,", "Sec-WebSocket-Protocol: x y, superchat"];
    let handshake = changed(&[], &lines).expect("sound");
    assert_eq!(handshake.protocols, ["hi.v1", "chat", "superchat"]);
    assert!(handshake.offers("hi.v1") && !handshake.offers("HI.V1"));
    let answer = response_101(&handshake, Some("hi.v1"));
    assert!(answer.ends_with(b"=\r\nSec-WebSocket-Protocol: hi.v1\r\n\r\n"));
}

#[test]
fn what_a_proxy_ate_is_named() {
    for (without, with, reason, missing) in [
        (&["Upgrade"][..], &[][..], "upgrade_stripped", &["Upgrade: websocket (absent)"][..]),
        (&["Connection"], &[], "connection_stripped", &["Connection: Upgrade (absent)"]),
        (&["Connection"], &["Connection: close"], "connection_stripped", &["Connection: Upgrade (arrived: \"close\")"]),
        (
            &["Upgrade", "Connection"],
            &["Connection: close"],
            "upgrade_stripped",
            &["Upgrade: websocket (absent)", "Connection: Upgrade (arrived: \"close\")"],
        ),
        (
            &["Upgrade"],
            &["Upgrade: h2c", "Upgrade: x"],
            "upgrade_stripped",
            &["Upgrade: websocket (arrived: \"h2c\" and \"x\")"],
        ),
    ] {
        let refusal = refusal(changed(without, with));
        assert_eq!((refusal.reason.as_str(), refusal.reason.status()), (reason, 426));
        assert_eq!(refusal.missing, missing);
        assert_eq!(refusal.survived, ["Sec-WebSocket-Key", "Sec-WebSocket-Version"]);
    }
}

#[test]
fn http10_is_a_hop_when_a_websocket_client_speaks_through_it() {
    let through = refusal(judge("GET /ws HTTP/1.0", &[VALID[2], VALID[3], "Connection: close"]));
    assert_eq!((through.reason, through.reason.status()), (Reason::Http10Hop, 426));
    assert_eq!(through.missing[0], "HTTP/1.1 (arrived: HTTP/1.0)");
    assert_eq!(through.missing.len(), 3);
    let whole = refusal(judge("GET /ws HTTP/1.0", &VALID));
    assert_eq!((whole.reason, whole.missing.len()), (Reason::Http10Hop, 1));
    assert_eq!(refusal(judge("GET /ws HTTP/1.0", &[])).reason, Reason::NotAWebsocketRequest);
}

#[test]
fn a_plain_get_is_no_handshake() {
    for headers in [&[][..], &["Connection: upgrade"], &["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c"]] {
        let refusal = refusal(judge_get(headers));
        assert_eq!((refusal.reason, refusal.reason.status()), (Reason::NotAWebsocketRequest, 426), "{headers:?}");
        assert!(refusal.missing.iter().any(|item| item.contains("Sec-WebSocket-Key")));
    }
}

#[test]
fn what_the_client_did_wrong_is_named() {
    for (without, with, reason, status) in [
        (&["Sec-WebSocket-Version"][..], &["Sec-WebSocket-Version: 8"][..], "version_unsupported", 426),
        (&["Sec-WebSocket-Version"], &[], "version_unsupported", 426),
        (&[], &["Sec-WebSocket-Version: 13"], "version_unsupported", 426),
        (&["Sec-WebSocket-Key"], &[], "key_missing", 400),
        (&[], &["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="], "key_invalid", 400),
        (&["Sec-WebSocket-Key"], &["Sec-WebSocket-Key:"], "key_invalid", 400),
        (&["Sec-WebSocket-Key"], &["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ"], "key_invalid", 400),
        (&["Sec-WebSocket-Key"], &["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZWE="], "key_invalid", 400),
        (&["Sec-WebSocket-Key"], &["Sec-WebSocket-Key: not base64 of 16 bytes=="], "key_invalid", 400),
        (&[], &["Content-Length: 4"], "body_declared", 400),
    ] {
        let refusal = refusal(changed(without, with));
        let judged = (refusal.reason.as_str(), refusal.reason.status(), refusal.missing.len());
        assert_eq!(judged, (reason, status, 1), "{with:?}");
    }
    assert_eq!(refusal(judge("POST /ws HTTP/1.1", &VALID)).reason, Reason::MethodNotGet);
}

#[test]
fn a_key_with_idle_bits_is_a_key() {
    assert!(changed(&["Sec-WebSocket-Key"], &["Sec-WebSocket-Key: abcdefghijklmnopqrstuv=="]).is_ok());
}

proptest! {
    #[test]
    fn a_verdict_for_any_mixture(taken in prop::collection::vec(0..12usize, 0..8), http10: bool, post: bool) {
        let others = ["Connection: close", "Upgrade: h2c", "Sec-WebSocket-Version: 8", "Sec-WebSocket-Key: x",
            "Sec-WebSocket-Protocol: hi.v1", "Content-Length: 0", "Via: 1.0 old", "X: \u{e9}"];
        let mut lines: Vec<&str> = taken.iter().map(|at| *VALID.iter().chain(&others).nth(*at).unwrap_or(&"")).collect();
        // A head with two lengths is refused before it comes here.
        lines.sort_unstable();
        lines.dedup();
        let method = if post { "POST" } else { "GET" };
        match judge(&format!("{method} /ws HTTP/1.{}", u8::from(!http10)), &lines) {
            Ok(handshake) => {
                prop_assert!(VALID.iter().all(|line| lines.contains(line)) && !http10 && !post);
                prop_assert_eq!(&handshake.accept, ACCEPT);
            }
            Err(refusal) => {
                prop_assert!(!refusal.missing.is_empty());
                prop_assert!(matches!(refusal.reason.status(), 400 | 426));
                prop_assert!(!refusal.missing.concat().contains(char::is_control));
            }
        }
    }
}
