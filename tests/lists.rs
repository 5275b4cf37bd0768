//! Lists of users and of rooms: sorted, limited as the protocol says, counted exactly, and never fatal to a client that
//! reads them.

mod support;

use serde_json::{Value, json};
use support::wire::{FIN, TEXT, Wire, frame, handshake_but};
use support::{Client, Server, seeded};

/// Users in a list, and rooms in one.
const USERS_LISTED_MAX: usize = 100;
const ROOMS_LISTED_MAX: usize = 1000;

/// For clients that send many requests, and don't read while others are busy.
const PATIENT: [&str; 6] = ["--rate-limit", "0", "--max-rooms", "2000", "--ping-timeout", "10m"];

/// The v0 answer to a request for `names`, which are sorted.
fn listed(names: &[String], max: usize) -> String {
    match names.len().checked_sub(max) {
        None | Some(0) => names.join(", "),
        Some(more) => format!("{}, and {more} more", names[..max].join(", ")),
    }
}

/// Names of the greatest length, in order.
fn long_names(count: usize, bytes: usize) -> Vec<String> {
    (0..count).map(|number| format!("{number:05}{}", "x".repeat(bytes - 5))).collect()
}

fn shuffled(rng: &mut fastrand::Rng, names: &[String]) -> Vec<String> {
    let mut names = names.to_vec();
    rng.shuffle(&mut names);
    names
}

/// A client in this many rooms.
fn joined(server: &Server, rooms: &[String]) -> Client {
    let (mut client, _) = server.v1("username=ubiquitous");
    for room in rooms {
        let join = json!({"Op": "join", "Ref": 1, "Room": room}).to_string();
        client.send_text(&join);
    }
    let mut answers = 0;
    while answers < rooms.len() {
        let message = client.json();
        assert_ne!(message["Op"], "err", "{message}");
        answers += usize::from(message["Op"] == "ok");
    }
    client
}

/// A client's request as a frame.
fn request(payload: &Value) -> Vec<u8> {
    frame(FIN | TEXT, payload.to_string().as_bytes())
}

fn next_json(wire: &mut Wire) -> Value {
    serde_json::from_slice(&wire.frame().payload).expect("JSON")
}

/// Expects this answer `count` times, with only room messages in between.
#[track_caller]
fn expect_answers(wire: &mut Wire, expected: &str, count: usize) {
    let mut answers = 0;
    while answers < count {
        let message = next_json(wire);
        answers += usize::from(message["Message"] == expected);
        assert!(message["Message"] == expected || message["Seq"].is_u64(), "{message:.300}");
    }
}

#[test]
fn users_are_listed_in_order_up_to_a_hundred_and_counted() {
    let (server, internal) = Server::start_with_internal(&PATIENT);
    let mut names = long_names(130, 79);
    let mut users: Vec<_> =
        shuffled(&mut seeded(), &names).into_iter().map(|name| (server.join_v1(&name, "tea").0, name)).collect();
    let mut judge = server.join("judge", "lobby");
    let (mut judge_v1, _) = server.v1("username=judge1");
    // Thirty leave one by one: the list becomes complete, and the sentence about the others disappears.
    for _ in 0..=31 {
        judge.say("tea", "/list");
        judge.expect_message("#tea", &listed(&names, USERS_LISTED_MAX));
        let answer = judge_v1.ask(&json!({"Op": "who", "Ref": 7, "Room": "tea"}));
        let shown = &names[..names.len().min(USERS_LISTED_MAX)];
        assert_eq!(answer, json!({"Op": "ok", "Ref": 7, "Room": "tea", "Users": shown, "Count": names.len()}));
        let (_, room) = internal.get("/api/rooms/tea");
        assert_eq!((&room["users"], &room["count"]), (&json!(shown), &json!(names.len())));
        assert_eq!(room["members"], names.len());
        let (mut leaving, name) = users.pop().unwrap();
        leaving.send_text(&json!({"Op": "leave", "Ref": "left", "Room": "tea"}).to_string());
        while leaving.json()["Ref"] != "left" {}
        names.retain(|other| *other != name);
    }
}

#[test]
fn rooms_are_listed_in_order_up_to_a_thousand_and_counted_by_their_prefix() {
    let (server, internal) = Server::start_with_internal(&PATIENT);
    let (numbered, mut all) = (long_names(1100, 64), vec!["lobby".to_owned(), "00500".to_owned()]);
    all.extend_from_slice(&numbered);
    all.sort();
    let _everywhere = joined(&server, &shuffled(&mut seeded(), &all));
    let raw: Vec<_> = (0..3).map(|number| server.websocket(&format!("/raw/00500-{number}"))).collect();
    let mut judge = server.join_quietly("judge", "lobby");
    judge.say("lobby", "/channels");
    judge.expect_message("#lobby", &listed(&all, ROOMS_LISTED_MAX));
    let (mut judge_v1, _) = server.v1("username=judge1");
    for prefix in ["", "0", "005", "00500", "00500x", "0109", "lob", "lobbyist", "1", "x", "é"] {
        let found: Vec<_> = all.iter().filter(|name| name.starts_with(prefix)).collect();
        let users = |name: &str| 1 + usize::from(name == "lobby");
        let shown = found.iter().take(ROOMS_LISTED_MAX);
        let entries: Vec<_> = shown.clone().map(|name| json!({"Room": name, "Users": users(name)})).collect();
        let answer = judge_v1.ask(&json!({"Op": "rooms", "Ref": 7, "Prefix": prefix}));
        assert_eq!(answer, json!({"Op": "ok", "Ref": 7, "Rooms": entries, "Count": found.len()}), "{prefix:?}");
        // There, raw rooms follow the others and fill the list up.
        let found_raw = (0..raw.len()).map(|number| format!("00500-{number}")).filter(|name| name.starts_with(prefix));
        let found_raw: Vec<_> = found_raw.collect();
        let mut entries: Vec<_> =
            shown.map(|name| json!({"room": name, "kind": "chat", "members": users(name)})).collect();
        entries.extend(found_raw.iter().map(|name| json!({"room": name, "kind": "raw", "members": 1})));
        entries.truncate(ROOMS_LISTED_MAX);
        let (status, answer) = internal.get(&format!("/api/rooms?prefix={}", prefix.replace('é', "%C3%A9")));
        assert_eq!(status, 200);
        assert_eq!(answer, json!({"rooms": entries, "count": found.len() + found_raw.len()}), "{prefix:?}");
    }
    assert_eq!(internal.metric("hi_rooms{kind=\"chat\"}"), all.len() as f64);
}

#[test]
fn a_list_in_a_room_of_hundreds_of_long_names_is_short() {
    let server = Server::start(&PATIENT);
    let mut names = long_names(400, 79);
    let _users: Vec<_> = names.iter().map(|name| server.join_v1(name, "tea").0).collect();
    // A member: room messages precede the answer, and both together are far below its limit.
    let mut ann = server.upgraded("/ws?username=ann&room=tea");
    names.push("ann".to_owned());
    ann.send(request(&json!({"Room": "tea", "Message": "/list"})).repeat(20));
    expect_answers(&mut ann, &listed(&names, USERS_LISTED_MAX), 20);
}

#[test]
fn a_client_that_asks_forty_times_at_once_and_then_reads_gets_forty_answers() {
    let server = Server::start(&PATIENT);
    // Escaped characters are longer in JSON than in a name.
    let quoted = |number| format!("{number:05}{}", "\"".repeat(59));
    let mut rooms: Vec<_> = (0..1200).map(quoted).collect();
    let _everywhere = joined(&server, &rooms);
    let names = long_names(120, 79);
    let _users: Vec<_> = names.iter().map(|name| server.join_v1(name, "tea").0).collect();
    rooms.extend(["lobby", "tea"].map(str::to_owned));
    let mut v0 = server.upgraded("/ws?username=judge&room=lobby");
    let [list, channels] = ["/list", "/channels"].map(|command| request(&json!({"Room": "tea", "Message": command})));
    v0.send(list.repeat(40));
    expect_answers(&mut v0, &listed(&names, USERS_LISTED_MAX), 40);
    v0.send(channels.repeat(40));
    expect_answers(&mut v0, &listed(&rooms, ROOMS_LISTED_MAX), 40);

    let mut v1 = server.wire();
    v1.send(handshake_but("/ws?username=judge1", &[], &["Sec-WebSocket-Protocol: hi.v1"]));
    v1.expect_101();
    assert_eq!(next_json(&mut v1)["Op"], "hello");
    let asked = |number: usize| [("rooms", "Rooms", ROOMS_LISTED_MAX), ("who", "Users", USERS_LISTED_MAX)][number % 2];
    let requests = (0..40).map(|number| request(&json!({"Op": asked(number).0, "Ref": number, "Room": "tea"})));
    v1.send(requests.collect::<Vec<_>>().concat());
    for number in 0..40 {
        let (_, field, max) = asked(number);
        let answer = next_json(&mut v1);
        assert_eq!((&answer["Op"], &answer["Ref"]), (&json!("ok"), &json!(number)));
        assert_eq!(answer[field].as_array().map(Vec::len), Some(max));
    }
}
