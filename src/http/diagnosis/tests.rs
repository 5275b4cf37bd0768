//! Tests of `diagnosis.rs`, beside it: heads and verdicts.

use super::super::head::parse;
use super::super::origin;
use super::super::response::{Body, Connection};
use super::super::target::UpgradeTarget;
use super::super::{target, upgrade};
use super::*;
use proptest::prelude::*;

const ENDS: &str = "192.0.2.7:4000";
const VALID: [&str; 4] = [
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
];

fn ends() -> Ends {
    Ends { peer: PeerAddress::Ip(ENDS.parse().unwrap()), local: Some("198.51.100.9:8080".parse().unwrap()) }
}

/// What the server does with these bytes, without the server.
fn judge_bytes(bytes: &[u8]) -> Option<(Verdict, Response)> {
    let head = match parse(bytes) {
        Ok(Some((head, _))) => head,
        Ok(None) => return None,
        Err(error) => {
            let verdict = diagnose(error.into(), None, ends());
            let response = verdict.response(None);
            return Some((verdict, response));
        }
    };
    let allowed = ["https://chat.example.com".parse().unwrap()];
    let fault = match target::route(head.target) {
        Err(error) => error.into(),
        Ok(target::Route::Upgrade(UpgradeTarget::Chat { query })) => {
            let chat = target::chat_params(query).and_then(|chat| chat.named().map(drop));
            match (chat, upgrade::examine(&head)) {
                (Err(error), _) => error.into(),
                (_, Err(refusal)) => refusal.into(),
                _ => origin::check(&head, &allowed).err()?.into(),
            }
        }
        Ok(target::Route::Upgrade(UpgradeTarget::Raw { room, query })) => match target::raw_params(&room, query) {
            Err(error) => error.into(),
            Ok(_) => Fault::RawRoomsOff,
        },
        Ok(_) => return None,
    };
    let verdict = diagnose(fault, Some(&head), ends());
    let response = verdict.response(Some(&head));
    Some((verdict, response))
}

fn judge(request_line: &str, headers: &[&str]) -> Verdict {
    let text = format!("{request_line}\r\nHost: x\r\n{}\r\n\r\n", headers.join("\r\n"));
    judge_bytes(text.replace("\r\n\r\n\r\n", "\r\n\r\n").as_bytes()).expect("a failure").0
}

/// A handshake but for what is left out and what is put in.
fn changed(without: &[&str], with: &[&str]) -> Verdict {
    let kept = VALID.iter().filter(|line| !without.iter().any(|name| line.starts_with(&format!("{name}:"))));
    judge("GET /ws?username=ann HTTP/1.1", &kept.copied().chain(with.iter().copied()).collect::<Vec<_>>())
}

#[test]
fn every_failure_has_its_name_and_status() {
    let ws = "GET /ws?username=ann HTTP/1.1";
    let long = format!("X: {}", "x".repeat(20_000));
    for (line, headers, reason, status) in [
        (ws, &VALID[1..], "upgrade_stripped", 426),
        (ws, &[VALID[0], VALID[2], VALID[3]], "connection_stripped", 426),
        ("GET /ws?username=ann HTTP/1.0", &VALID[2..], "http10_hop", 426),
        (ws, &[VALID[0], VALID[1], VALID[2]], "version_unsupported", 426),
        (ws, &[VALID[0], VALID[1], VALID[3]], "key_missing", 400),
        (ws, &[VALID[0], VALID[1], VALID[3], "Sec-WebSocket-Key: x"], "key_invalid", 400),
        (ws, &[], "not_a_websocket_request", 426),
        ("POST /ws?username=ann HTTP/1.1", &VALID, "method_not_get", 400),
        (ws, &[VALID[0], VALID[1], VALID[2], VALID[3], "Content-Length: 3"], "body_declared", 400),
        (ws, &[VALID[0], VALID[1], VALID[2], VALID[3], "Origin: https://evil.example"], "origin_refused", 403),
        ("GET /ws?username=%23x HTTP/1.1", &VALID, "name_invalid", 400),
        ("GET /ws?username=x&room=%20 HTTP/1.1", &VALID, "name_invalid", 400),
        ("GET /raw/x?echo=2 HTTP/1.1", &VALID, "query_invalid", 400),
        ("GET /%zz HTTP/1.1", &VALID, "path_invalid", 400),
        ("GET /raw/x HTTP/1.1", &VALID, "raw_rooms_off", 403),
        (ws, &[&*long], "head_too_large", 431),
        (ws, &["no colon"], "malformed", 400),
        ("GET / HTTP/3.0", &[], "http_version_unsupported", 505),
        ("\x16\x03\x01", &[], "tls_on_plain_port", 400),
        ("PRI * HTTP/2.0", &[], "http2_on_http1_port", 505),
    ] {
        let verdict = judge(line, headers);
        assert_eq!((verdict.reason.as_str(), verdict.reason.status()), (reason, status), "{line} {headers:?}");
        assert!(verdict.operator_text().starts_with(reason) && !verdict.client_text().is_empty());
    }
    let late = diagnose(Fault::Timeout(Duration::from_secs(10)), None, ends());
    assert_eq!((late.reason.as_str(), late.reason.status()), ("head_timeout", 408));
    assert!(late.operator_text().contains("10s"));
    let cut = diagnose(Fault::CutOff(17), None, ends());
    assert!(cut.operator_text().starts_with("head_cut_off; The connection ended after 17 bytes"));
}

#[test]
fn a_stripped_handshake_names_its_hop_to_both_sides() {
    let verdict = changed(&["Upgrade", "Connection"], &["Connection: close", "Via: 1.1 www (Apache/2.4.57)"]);
    assert_eq!(verdict.survived, ["Sec-WebSocket-Key", "Sec-WebSocket-Version"]);
    assert_eq!(
        verdict.sentence,
        "Sec-WebSocket-Key and Sec-WebSocket-Version arrived, so a WebSocket client sent this; the last hop before this \
         server, the reverse proxy at 192.0.2.7 (\"www\" in Via, Apache httpd), removed what is missing."
    );
    let lines = "ProxyPass \"/\" \"http://198.51.100.9:8080/\" upgrade=websocket";
    assert_eq!((verdict.fixes.len(), &*verdict.fixes[0].lines[0]), (1, lines));
    let text = verdict.client_text();
    for part in [&*verdict.sentence, "hop-by-hop", "  Upgrade: websocket (absent)\n", &format!("\n    {lines}\n")] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    assert!(text.contains("GET /stream/ROOM reads a chat room without an upgrade"), "{text}");
    assert!(!changed(&["Sec-WebSocket-Version"], &[]).client_text().contains("/stream/"), "no proxy is the cause");
    let line = verdict.operator_text();
    for part in
        ["upgrade_stripped; missing Upgrade: websocket (absent)", &verdict.sentence, "Seen: Via: \"1.1 www", lines]
    {
        assert!(line.contains(part), "no {part:?} in {line}");
    }
}

#[test]
fn without_a_name_the_usual_four_are_told_and_the_likely_one_first() {
    let names = |verdict: &Verdict| verdict.fixes.iter().map(|fix| fix.proxy).collect::<Vec<_>>();
    let nothing = changed(&["Upgrade", "Connection"], &[]);
    assert_eq!(names(&nothing), ["nginx", "HAProxy", "Apache httpd", "Caddy"]);
    assert!(nothing.sentence.contains("something between the client and this server, most likely a reverse proxy"));
    let likely = changed(&["Upgrade", "Connection"], &["X-Forwarded-Server: x"]);
    assert_eq!(names(&likely), ["Apache httpd", "nginx", "HAProxy", "Caddy"]);
    assert_eq!(names(&changed(&["Sec-WebSocket-Key"], &["Via: 1.1 varnish"])), [""; 0]);
    let tls = judge("\x16\x03\x01", &[]);
    assert_eq!(names(&tls).len(), 4);
    assert!(tls.operator_text().contains("proxy_pass http://198.51.100.9:8080;"));
}

#[test]
fn what_is_said_of_several_hops_names_the_last_and_the_others() {
    let verdict = changed(&["Upgrade"], &["X-Forwarded-For: 203.0.113.9, 10.0.0.2"]);
    for part in
        ["reverse proxy at 192.0.2.7", "Connection: Upgrade did arrive", "the last of several hops", ": 10.0.0.2."]
    {
        assert!(verdict.sentence.contains(part), "no {part:?} in {}", verdict.sentence);
    }
    let http10 = judge("GET /ws?username=a HTTP/1.0", &[VALID[2], "Connection: close"]);
    assert!(http10.sentence.contains("passes requests on as HTTP/1.0"));
}

#[test]
fn what_may_come_in_is_told_to_the_operator_alone() {
    let verdict = changed(&[], &["Origin: https://evil.example"]);
    assert!(
        verdict.operator_text().contains("https://evil.example")
            && verdict.operator_text().contains("chat.example.com")
    );
    let json = String::from_utf8(verdict.client_json()).unwrap();
    assert!(!verdict.client_text().contains("chat.example.com") && !json.contains("chat.example.com"));
    let verdict = judge("GET /ws HTTP/1.1", &VALID);
    assert_eq!(verdict.client_text(), target::USERNAME_TEXT);
    assert!(verdict.operator_text().contains("has no `username`"));
}

#[test]
fn the_label_of_a_hop_is_not_the_clients_choice() {
    let label = |verdict: Verdict| verdict.hop_label();
    assert_eq!(label(changed(&["Upgrade"], &[])), "192.0.2.7");
    assert_eq!(label(changed(&["Upgrade"], &["Via: 1.1 anything"])), "192.0.2.7");
    assert_eq!(label(changed(&["Sec-WebSocket-Key"], &["X-Forwarded-For: 10.0.0.1"])), "192.0.2.7");
    assert_eq!(label(changed(&["Sec-WebSocket-Key"], &[])), "direct");
    assert_eq!(label(judge("GET /ws?username=a HTTP/1.1", &[])), "direct");
    assert_eq!(label(judge("\x16\x03\x01", &[])), "192.0.2.7");
}

#[test]
fn the_answer_is_json_for_clients_that_ask() {
    for (accept, json) in [
        (&[][..], false),
        (&["Accept: */*"], false),
        (&["Accept: text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"], false),
        (&["Accept: application/json"], true),
        (&["Accept: Application/JSON; charset=utf-8"], true),
        (&["Accept: text/html", "Accept: application/json"], true),
        (&["Accept: application/json, text/plain, */*"], true),
        (&["Accept: text/plain, application/json;q=0.5"], false),
        (&["Accept: application/json;q=0"], false),
        (&["Accept: application/jsonp"], false),
    ] {
        let text = format!("GET /ws?username=a HTTP/1.1\r\nHost: x\r\n{}\r\n\r\n", accept.join("\r\n"));
        let text = text.replace("\r\n\r\n\r\n", "\r\n\r\n");
        let (verdict, response) = judge_bytes(text.as_bytes()).unwrap();
        let bytes = response.encode(Connection::Close, Body::Sent);
        let answer = std::str::from_utf8(&bytes).unwrap();
        let kind = if json { "application/json" } else { "text/plain; charset=utf-8" };
        assert!(answer.contains(&format!("\r\nContent-Type: {kind}\r\n")), "{accept:?} {answer}");
        assert_eq!(answer.ends_with(&String::from_utf8(verdict.client_json()).unwrap()), json);
        for line in ["Upgrade: websocket", "Connection: Upgrade, close", "Sec-WebSocket-Version: 13", "Vary: Accept"] {
            assert!(answer.contains(&format!("\r\n{line}\r\n")), "{answer}");
        }
    }
}

#[test]
fn the_json_has_everything_that_the_text_has() {
    let via = "Via: 1.1 front, 1.1 www (Apache/2.4.57)";
    let verdict = changed(&["Upgrade", "Connection"], &[via]);
    let body: serde_json::Value = serde_json::from_slice(&verdict.client_json()).unwrap();
    assert_eq!((&body["status"], &body["reason"]), (&json!(426), &json!("upgrade_stripped")));
    assert_eq!(body["sentence"], verdict.sentence);
    assert_eq!(body["missing"], json!(["Upgrade: websocket (absent)", "Connection: Upgrade (absent)"]));
    assert_eq!(body["survived"], json!(["Sec-WebSocket-Key", "Sec-WebSocket-Version"]));
    let hop = json!({"address": "192.0.2.7", "name": "www", "proxy": "Apache httpd", "certain": true, "earlier": ["1.1 front"]});
    assert_eq!(body["hop"], hop);
    assert_eq!(body["evidence"], json!(["Via: \"1.1 front, 1.1 www (Apache/2.4.57)\""]));
    assert_eq!(body["mend"][0]["lines"], json!(verdict.fixes[0].lines));
    assert_eq!(body["mend"][0]["without"][0], "RequestHeader unset Upgrade");
}

/// Parts of heads: whole lines of handshakes and of proxies, and anything else.
fn lines() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let known = prop::sample::select(vec![
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
        "Connection: close",
        "Via: 1.1 a (nginx), 1.0 b",
        "X-Forwarded-For: 1.2.3.4, 5.6.7.8",
        "Forwarded: for=x, by=y",
        "X-Real-IP: 1.2.3.4",
        "CF-Ray: 1",
        "Accept: application/json",
        "Origin: null",
        "X-Forwarded-Server: y",
    ])
    .prop_map(|line| line.as_bytes().to_vec());
    let names =
        prop::sample::select(vec!["Via", "Upgrade", "Connection", "X-Forwarded-For", "Forwarded", "Origin", "Accept"]);
    let wild = (names, prop::collection::vec(any::<u8>(), 0..200)).prop_map(|(name, mut value)| {
        value.iter_mut().for_each(|b| *b = if matches!(*b, 0..0x20 | 0x7f) { b',' } else { *b });
        [name.as_bytes(), b": ", &value].concat()
    });
    prop::collection::vec(prop_oneof![3 => known, 2 => wild], 0..30)
}

fn check_texts(bytes: &[u8]) -> Result<(), TestCaseError> {
    let Some((verdict, _)) = judge_bytes(bytes) else { return Ok(()) };
    let line = verdict.operator_text();
    prop_assert!(!line.contains(char::is_control), "{:?}", line);
    prop_assert!(line.len() < 8192, "{}", line.len());
    let text = verdict.client_text();
    prop_assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{:?}", text);
    prop_assert!(text.len() < 8192, "{}", text.len());
    let json: serde_json::Value = serde_json::from_slice(&verdict.client_json()).expect("JSON");
    prop_assert!(json.to_string().len() < 16_384);
    prop_assert!(!json.to_string().contains("\\u00"), "{}", json);
    Ok(())
}

proptest! {
    #[test]
    fn the_texts_on_any_head_are_bounded_and_harmless(
        lines in lines(), http10: bool, post: bool, target in "(/ws|/raw/)[ -~&&[^ ]]{0,80}"
    ) {
        let method = if post { "POST" } else { "GET" };
        let mut bytes = format!("{method} {target} HTTP/1.{}\r\nHost: x\r\n", u8::from(!http10)).into_bytes();
        lines.iter().for_each(|line| bytes.extend([line, &b"\r\n"[..]].concat()));
        bytes.extend(b"\r\n");
        check_texts(&bytes)?;
    }

    #[test]
    fn the_texts_on_any_bytes_are_bounded_and_harmless(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        check_texts(&bytes)?;
        check_texts(&[b"GET /ws HTTP/1.1\r\n", &bytes[..], b"\r\n\r\n"].concat())?;
    }
}
