//! The dialect `hi.v1` over real sockets: the answer to each request, and what it shares with v0.

mod support;

use std::collections::HashSet;

use rustix::process::Signal;
use serde_json::{Value, json};
use support::wire::handshake;
use support::{Client, Server};
use tungstenite::Message;

/// Expects an error with this code next. Returns its message.
#[track_caller]
fn expect_error(answer: &Value, code: &str, temporary: bool) -> String {
    assert!(answer["Op"] == "err" && answer["Code"] == code && answer["Temporary"] == temporary, "{answer}");
    answer["Message"].as_str().expect("a sentence").to_owned()
}

/// Sends a message to a v1 room and returns the answer; the message itself comes first.
fn publish(client: &mut Client, room: &str, text: &str) -> Value {
    let own = client.ask(&json!({"Room": room, "Message": text, "Ref": text}));
    assert_eq!(own["Message"], text, "{own}");
    let answer = client.json();
    assert!(answer["Op"] == "ok" && answer["Ref"] == text && answer["Seq"] == own["Seq"], "{answer}");
    answer
}

#[test]
fn an_offered_subprotocol_is_chosen_and_hello_comes_first() {
    let server = Server::start(&["--ping-interval", "7s"]);
    let plain = server.ask(handshake("/ws?username=old"));
    assert!(plain.status == 101 && plain.header("Sec-WebSocket-Protocol").is_none(), "{plain:?}");
    for (offer, chosen) in [("hi.v1", true), ("other, hi.v1", true), ("HI.V1", false), ("hi.v2", false)] {
        let request =
            handshake("/ws?username=ann").replace("\r\n\r\n", &format!("\r\nSec-WebSocket-Protocol: {offer}\r\n\r\n"));
        let answer = server.ask(request);
        assert_eq!(answer.header("Sec-WebSocket-Protocol"), chosen.then_some("hi.v1"), "{offer}");
    }
    let (_ann, hello) = server.v1("username=ann");
    assert!(hello["User"] == "ann" && hello["Ping"] == 7 && hello["Version"] == env!("CARGO_PKG_VERSION"), "{hello}");
    for key in ["Client", "Instance", "Resume"] {
        assert!(hello[key].as_str().is_some_and(|value| !value.is_empty()), "{key}: {hello}");
    }
    assert_eq!(hello["Limits"], json!({"Message": 16384, "Rooms": 32, "Rate": 20}));
    let (_bob, other) = server.v1("username=ann");
    assert!(
        other["Instance"] == hello["Instance"]
            && other["Client"] != hello["Client"]
            && other["Resume"] != hello["Resume"]
    );
}

#[test]
fn hello_has_the_limits_of_this_server_and_zero_for_none() {
    let server = Server::start(&["--max-message", "1000", "--max-rooms", "3", "--rate-limit", "0"]);
    let (_ann, hello) = server.v1("username=ann");
    assert_eq!(hello["Limits"], json!({"Message": 1000, "Rooms": 3, "Rate": 0}), "{hello}");
}

#[test]
fn a_client_is_in_no_room_until_it_joins_one_unless_the_address_names_it() {
    let server = Server::start(&[]);
    let (mut ann, _) = server.v1("username=ann");
    let empty = ann.ask(&json!({"Op": "rooms", "Ref": 1}));
    assert_eq!(empty, json!({"Op": "ok", "Ref": 1, "Rooms": [], "Count": 0}));
    let (mut bob, _) = server.v1("username=bob&room=tea");
    let welcome = bob.expect_message("#tea", "Welcome to tea, bob!");
    assert!(welcome["Event"] == "join" && welcome["User"] == "bob" && welcome["Users"] == 1, "{welcome}");
    let rooms = ann.ask(&json!({"Op": "rooms"}));
    assert_eq!(rooms["Rooms"], json!([{"Room": "tea", "Users": 1}]));

    let (mut impostor, _) = server.v1("username=bob&room=tea");
    expect_error(&impostor.json(), "name_taken", false);
    assert_eq!(impostor.expect_close().0, 4002);
}

#[test]
fn only_the_answer_to_join_says_what_follows() {
    let server = Server::start(&[]);
    let (mut ann, first) = server.join_v1("ann", "tea");
    assert_eq!((&first["Seq"], &first["Users"], first.get("Recovered")), (&json!(0), &json!(1), None));
    assert_eq!(ann.expect_message("#tea", "Welcome to tea, ann!")["Seq"], 1);
    publish(&mut ann, "tea", "before bob");
    let (mut bob, second) = server.join_v1("bob", "tea");
    assert_eq!((&second["Seq"], &second["Users"], &second["Epoch"]), (&json!(2), &json!(2), &first["Epoch"]));
    assert_eq!(bob.expect_message("#tea", "Welcome to tea, bob!")["Seq"], 3, "no history for a newcomer");
    ann.expect_message("#tea", "Welcome to tea, bob!");
    let answer = publish(&mut ann, "tea", "after");
    assert_eq!((&answer["Seq"], &answer["Epoch"], &answer["Room"]), (&json!(4), &first["Epoch"], &json!("tea")));
    assert_eq!(bob.expect_message("ann", "after")["Seq"], 4);
}

#[test]
fn slash_commands_are_plain_text_and_only_requests_with_a_ref_are_answered() {
    let server = Server::start(&[]);
    let (mut ann, _) = server.join_v1("ann", "tea");
    ann.expect_message("#tea", "Welcome to tea, ann!");
    for text in ["/list", "/join milk", "/leave tea", "/channels"] {
        ann.say("tea", text);
        ann.expect_message("ann", text);
    }
    for reference in [json!("r"), json!(""), json!(7), json!(-1), json!(u64::MAX)] {
        ann.send_text(&json!({"Op": "pub", "Room": "tea", "Message": "x", "Ref": reference}).to_string());
        ann.expect_message("ann", "x");
        assert_eq!(ann.json()["Ref"], reference);
    }
}

#[test]
fn both_dialects_share_a_room_and_its_frames() {
    let server = Server::start(&[]);
    let mut old = server.join("old", "tea");
    let (mut new, _) = server.join_v1("new", "tea");
    let welcome = old.text();
    assert_eq!(new.text(), welcome);
    old.say("tea", "hello \"new\" 🦀");
    let text = old.text();
    assert_eq!(new.text(), text, "one encoding for all");
    new.send_text(r#"{"Op":"pub","From":"old","Room":"tea","Message":"hello"}"#);
    assert_eq!(old.expect_message("new", "hello")["Meta"], false);
    new.expect_message("new", "hello");
    let left = new.ask(&json!({"Op": "leave", "Room": "tea", "Ref": 1}));
    assert_eq!(left, json!({"Op": "ok", "Ref": 1, "Room": "tea"}));
    let notice = old.expect_message("#tea", "User new left channel.");
    assert!(notice["Event"] == "leave" && notice["User"] == "new" && notice["Users"] == 1, "{notice}");
}

#[test]
fn a_list_of_users_is_cut_and_counts_exactly() {
    let server = Server::start(&[]);
    let mut members: Vec<Client> = (0..120).map(|number| server.join_v1(&format!("u{number:03}"), "tea").0).collect();
    let (mut ann, _) = server.v1("username=ann");
    let who = ann.ask(&json!({"Op": "who", "Room": "tea", "Ref": 1}));
    assert_eq!(who["Count"], 120, "{who}");
    let users: Vec<String> = (0..100).map(|number| format!("u{number:03}")).collect();
    assert_eq!(who["Users"], json!(users));
    members.truncate(30);
    // Folded notices have fields, too.
    let mut counted = (0, 0);
    while counted.1 < 90 {
        let notice = members[0].json();
        counted.0 += notice["Joined"].as_u64().unwrap_or(u64::from(notice["Event"] == "join"));
        counted.1 += notice["Left"].as_u64().unwrap_or(u64::from(notice["Event"] == "leave"));
    }
    assert_eq!(counted, (120, 90));
}

#[test]
fn rooms_are_listed_by_prefix() {
    let server = Server::start(&[]);
    let (mut ann, _) = server.join_v1("ann", "tea");
    ann.expect_message("#tea", "Welcome to tea, ann!");
    let _others: Vec<_> = ["team", "milk", "tea"]
        .into_iter()
        .zip(["bob", "cid", "dan"])
        .map(|(room, user)| server.join_v1(user, room))
        .collect();
    ann.expect_message("#tea", "Welcome to tea, dan!");
    let rooms = ann.ask(&json!({"Op": "rooms", "Prefix": "te"}));
    assert_eq!(rooms["Rooms"], json!([{"Room": "tea", "Users": 2}, {"Room": "team", "Users": 1}]), "{rooms}");
    assert_eq!(ann.ask(&json!({"Op": "rooms"}))["Count"], 3);
    let pong = ann.ask(&json!({"Op": "ping", "Ref": "p"}));
    assert!(pong["Op"] == "pong" && pong["Ref"] == "p" && pong["Ts"].as_u64() > Some(1_600_000_000_000), "{pong}");
}

#[test]
fn failed_requests_are_errors_with_a_code() {
    let server = Server::start(&["--max-rooms", "2", "--rate-limit", "0"]);
    let (mut ann, _) = server.join_v1("ann", "tea");
    ann.expect_message("#tea", "Welcome to tea, ann!");
    let (_ann2, _) = server.join_v1("ann", "milk");
    let (_cid, _) = server.join_v1("cid", "honey");
    for (request, code) in [
        (json!({"Op": "pub", "Room": "nowhere", "Message": "x"}), "room_not_found"),
        (json!({"Op": "who", "Room": "nowhere"}), "room_not_found"),
        (json!({"Op": "leave", "Room": "nowhere"}), "room_not_found"),
        (json!({"Op": "leave", "Room": "honey"}), "not_joined"),
        (json!({"Op": "join", "Room": "milk"}), "name_taken"),
        (json!({"Op": "join", "Room": "tea"}), "name_taken"),
        (json!({"Op": "join", "Room": "a b"}), "bad_request"),
        (json!({"Op": "join", "Room": ""}), "bad_request"),
        (json!({"Op": "join", "Room": "x".repeat(65)}), "bad_request"),
        (json!({"Op": "dance"}), "bad_request"),
        (json!({"Room": "tea"}), "bad_request"),
        (json!({"Op": "join", "Room": "tea", "Since": 3}), "bad_request"),
    ] {
        let mut request = request;
        request["Ref"] = json!(code);
        let answer = ann.ask(&request);
        assert_eq!(answer["Ref"], code, "{request}");
        assert!(!expect_error(&answer, code, false).is_empty());
    }
    ann.join_room("honey", None);
    ann.expect_message("#honey", "Welcome to honey, ann!");
    expect_error(&ann.ask(&json!({"Op": "join", "Room": "third"})), "too_many_rooms", false);
    publish(&mut ann, "tea", "all is well");
}

#[test]
fn the_third_unreadable_message_in_a_row_ends_in_1007_and_errors_name_the_field() {
    let server = Server::start(&[]);
    let (mut ann, _) = server.v1("username=ann");
    for (text, part) in
        [("hello", "not JSON"), (r#"{"Room":7,"Ref":"r"}"#, "Room has to be a string"), (r#"{"Op":"ping"}"#, "")]
    {
        ann.send_text(text);
        let answer = ann.json();
        if !part.is_empty() {
            assert!(expect_error(&answer, "bad_request", false).contains(part), "{answer}");
        }
    }
    for text in ["[]", "7", r#"{"Since":{"Epoch":7}}"#] {
        ann.send_text(text);
        expect_error(&ann.json(), "bad_request", false);
    }
    assert_eq!(ann.expect_close().0, 1007);
    let (mut bob, _) = server.v1("username=bob");
    bob.socket.send(Message::binary("{}")).unwrap();
    assert_eq!(bob.expect_close().0, 1003);
}

#[test]
fn the_rate_limit_is_a_temporary_error_with_the_ref() {
    let server = Server::start(&["--rate-limit", "1", "--rate-burst", "3"]);
    let (mut ann, _) = server.join_v1("ann", "tea");
    ann.expect_message("#tea", "Welcome to tea, ann!");
    for number in 0..5 {
        ann.send_text(&json!({"Room": "tea", "Message": "x", "Ref": number}).to_string());
    }
    let mut refused = Vec::new();
    while refused.last() != Some(&json!(4)) {
        let answer = ann.json();
        if answer["Op"] == "err" {
            expect_error(&answer, "too_many_requests", true);
            refused.push(answer["Ref"].clone());
        }
    }
    assert!(refused.len() >= 2, "{refused:?}");
}

#[test]
fn at_the_stop_v1_clients_are_told_to_reconnect_one_after_the_other() {
    const CLIENTS: usize = 40;
    let mut server = Server::start(&[]);
    let mut old = server.join("old", "milk");
    let mut clients: Vec<Client> = (0..CLIENTS).map(|number| server.v1(&format!("username=u{number}")).0).collect();
    server.signal(Signal::TERM);
    assert_eq!(old.expect_close().0, 1001);
    let mut times = HashSet::new();
    for client in &mut clients {
        let drain = client.json();
        assert!(drain["Event"] == "drain" && drain["Meta"] == true, "{drain}");
        let (code, reason) = client.expect_close();
        let reason: Value = serde_json::from_str(&reason).expect("JSON");
        assert!(code == 1012 && reason["retry_ms"] == drain["RetryMs"], "{code} {reason} {drain}");
        let retry_ms = reason["retry_ms"].as_u64().unwrap();
        assert!((1000..=30_000).contains(&retry_ms), "{retry_ms}");
        times.insert(retry_ms);
    }
    // Each of two shards counts separately.
    assert!(times.len() >= CLIENTS / 2, "spread: {times:?}");
    assert_eq!(server.wait().code(), Some(0));
}
