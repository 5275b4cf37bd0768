//! The internal port over real sockets: publishing, rooms, disconnects, and everything that it refuses.

mod support;

use std::collections::BTreeSet;
use std::io::Read;

use serde_json::{Value, json};
use support::internal::{self, error};
use support::wire::{BINARY, TEXT};
use support::{Client, Server};
use tungstenite::Message;

/// Enough connections that both of two shards have some of them.
const MEMBERS_ON_BOTH_SHARDS: usize = 10;
const BODY_BYTES_MAX: usize = 1 << 20;

/// Members of one chat room, after the welcomes of all later ones.
fn members(server: &Server, room: &str, count: usize) -> Vec<Client> {
    let mut members: Vec<Client> = (0..count).map(|number| server.join(&format!("u{number}"), room)).collect();
    for (at, member) in members.iter_mut().enumerate() {
        for later in at + 1..count {
            member.expect_message(&format!("#{room}"), &format!("Welcome to {room}, u{later}!"));
        }
    }
    members
}

#[test]
fn what_is_published_over_http_and_over_sockets_has_one_order_for_everyone() {
    let (server, internal) = Server::start_with_internal(&["--rate-limit", "0"]);
    let mut members = members(&server, "tea", MEMBERS_ON_BOTH_SHARDS);
    const EACH: usize = 200;
    let mut speaker = server.join("speaker", "desk");
    let over_http = std::thread::spawn(move || {
        let publish = |number| {
            let body = json!({"room": "tea", "message": format!("http {number}"), "from": "Robot 1"});
            let (status, answer) = internal.post("/api/publish", &body);
            assert_eq!((status, &answer["members"]), (200, &json!(MEMBERS_ON_BOTH_SHARDS)), "{answer}");
            (answer["seq"].as_u64().unwrap(), answer["epoch"].as_str().unwrap().to_owned())
        };
        (0..EACH).map(publish).collect::<Vec<_>>()
    });
    for number in 0..EACH {
        speaker.say("tea", &format!("socket {number}"));
    }
    let published = over_http.join().unwrap();
    let mut all = Vec::new();
    for member in &mut members {
        let got: Vec<_> = (0..2 * EACH).map(|_| member.json()).collect();
        let seqs: Vec<_> = got.iter().map(|frame| frame["Seq"].as_u64().unwrap()).collect();
        assert!(seqs.windows(2).all(|pair| pair[1] == pair[0] + 1), "{seqs:?}");
        all.push(got);
    }
    assert!(all.iter().all(|got| *got == all[0]), "everyone sees the same");
    for (from, word) in [("Robot 1", "http"), ("speaker", "socket")] {
        let said: Vec<_> = all[0].iter().filter(|frame| frame["From"] == from).collect();
        assert_eq!(said.len(), EACH);
        for (number, frame) in said.iter().enumerate() {
            assert_eq!(frame["Message"], format!("{word} {number}"));
            assert_eq!((&frame["Room"], &frame["Meta"]), (&json!("tea"), &json!(false)));
            if word == "http" {
                let (seq, epoch) = &published[number];
                assert_eq!((&frame["Seq"], &frame["Epoch"]), (&json!(seq), &json!(epoch)), "as it was answered");
            }
        }
    }
}

#[test]
fn a_message_for_nobody_is_accepted_and_says_so() {
    let (server, internal) = Server::start_with_internal(&[]);
    let nobody = json!({"seq": null, "epoch": null, "members": 0});
    let tea = json!({"room": "tea", "message": "x"});
    assert_eq!(internal.post("/api/publish", &tea), (202, nobody.clone()));
    assert_eq!(internal.post("/pub/tea", &tea), (202, nobody.clone()));
    // A chat room is no raw room, and the other way round.
    let mut ann = server.join("ann", "tea");
    let mut raw = server.websocket("/raw/data");
    assert_eq!(internal.post("/pub/tea", &tea), (202, nobody.clone()));
    assert_eq!(internal.post("/api/publish", &json!({"room": "data", "message": "x"})), (202, nobody));
    assert_eq!(internal.post("/api/publish", &tea).0, 200);
    ann.expect_message("api", "x");
    assert_eq!(internal.post("/pub/data", &tea).0, 200);
    assert_eq!(raw.json(), tea);
}

#[test]
fn what_is_published_while_nobody_is_there_waits_for_clients_that_reconnect() {
    let (server, internal) = Server::start_with_internal(&[]);
    let (ann, joined) = server.join_v1("ann", "tea");
    drop(ann);
    let tea = json!({"room": "tea", "message": "you were missed"});
    let published = loop {
        let (status, answer) = internal.post("/api/publish", &tea);
        if status == 202 {
            break answer;
        }
    };
    assert_eq!((&published["epoch"], &published["members"]), (&joined["Epoch"], &json!(0)));
    let seq = published["seq"].as_u64().expect("its place in the room's order");
    let (mut ann, _) = server.v1("username=ann");
    let answer = ann.join_room("tea", Some(&json!({"Epoch": joined["Epoch"], "Seq": seq - 1})));
    assert_eq!(answer["Recovered"], true, "{answer}");
    let missed = ann.expect_message("api", "you were missed");
    assert_eq!(missed["Seq"], seq);
}

#[test]
fn a_broadcast_reaches_each_room_once_and_answers_for_each() {
    let (server, internal) = Server::start_with_internal(&[]);
    let (mut ann, mut bob) = (server.join("ann", "tea"), server.join("bob", "soup"));
    let body = json!({"rooms": ["soup", "empty", "tea"], "message": "closing time", "from": "staff"});
    let (status, answer) = internal.post("/api/broadcast", &body);
    let [tea, soup] = [&mut ann, &mut bob].map(|client| client.expect_message("staff", "closing time"));
    assert_eq!((&tea["Room"], &soup["Room"]), (&json!("tea"), &json!("soup")));
    let expected = json!({"rooms": [
        {"room": "soup", "seq": soup["Seq"], "epoch": soup["Epoch"], "members": 1},
        {"room": "empty", "seq": null, "epoch": null, "members": 0},
        {"room": "tea", "seq": tea["Seq"], "epoch": tea["Epoch"], "members": 1},
    ], "members": 2});
    assert_eq!((status, answer), (200, expected));
    let nobody = internal.post("/api/broadcast", &json!({"rooms": ["empty"], "message": "x"}));
    assert_eq!((nobody.0, &nobody.1["members"]), (202, &json!(0)));
    ann.say("tea", "end");
    ann.expect_message("ann", "end");
}

#[test]
fn a_raw_body_arrives_as_it_is_as_text_or_binary_by_its_type() {
    let (server, internal) = Server::start_with_internal(&["--raw", "listen"]);
    let mut members: Vec<_> = (0..MEMBERS_ON_BOTH_SHARDS).map(|_| server.upgraded("/raw/a%2Fb")).collect();
    let mut expect = |headers: &[(&str, &str)], body: &[u8], opcode| {
        for path in ["/pub/a/b", "/pub/a%2Fb"] {
            let answer = internal.ask("POST", path, headers, body);
            assert_eq!(
                (answer.status, &internal::json(&answer).1["members"]),
                (200, &json!(members.len())),
                "{answer:?}"
            );
            members.iter_mut().for_each(|member| member.expect_frame(opcode, body));
        }
    };
    let utf8 = "größer".as_bytes();
    for text in ["text/plain", "Text/CSV; charset=utf-8", "application/json", "application/ld+json;x=y"] {
        expect(&[("Content-Type", text)], utf8, TEXT);
    }
    for binary in ["application/octet-stream", "application/x-www-form-urlencoded", "image/png"] {
        expect(&[("Content-Type", binary)], utf8, BINARY);
    }
    expect(&[], b"\xff\x00", BINARY);
    expect(&[("Content-Type", "text/plain")], b"", TEXT);
    expect(&[], &vec![7; BODY_BYTES_MAX], BINARY);
    let answer = internal.ask("POST", "/pub/a/b", &[("Content-Type", "text/plain")], b"\xff");
    let (status, _, message, _) = error(internal::json(&answer));
    assert!(status == 400 && message.contains("UTF-8"), "{message}");
}

#[test]
fn raw_rooms_that_are_off_take_nothing() {
    let (_server, internal) = Server::start_with_internal(&["--raw", "off"]);
    let (status, code, message, temporary) = error(internal.post("/pub/data", &json!({})));
    assert_eq!((status, code.as_str(), temporary), (403, "denied", false));
    assert!(message.contains("--raw off"), "{message}");
}

#[test]
fn errors_name_the_field() {
    let (_server, internal) = Server::start_with_internal(&[]);
    let long = "r".repeat(65);
    let many = json!({"rooms": vec!["r"; 1001], "message": "x"});
    for (path, body, begin) in [
        ("/api/publish", json!({"message": "x"}), "room: it is missing"),
        ("/api/publish", json!({"room": "tea"}), "message: it is missing"),
        ("/api/publish", json!({"room": 7, "message": "x"}), "room: it is a number"),
        ("/api/publish", json!({"room": "tea", "message": ["x"]}), "message: it is a list"),
        ("/api/publish", json!({"room": "", "message": "x"}), "room: The room name is empty"),
        ("/api/publish", json!({"room": long, "message": "x"}), "room: The room name is 65 bytes long"),
        ("/api/publish", json!({"room": "a b", "message": "x"}), "room: The room name contains the white space"),
        (
            "/api/publish",
            json!({"room": "tea", "message": "x", "from": "#tea"}),
            "from: The user name starts with a hash",
        ),
        ("/api/publish", json!({"room": "tea", "message": "x", "form": "me"}), "form: there is no such field"),
        ("/api/publish", json!(["tea"]), "The body has to be a JSON object"),
        ("/api/broadcast", json!({"rooms": "tea", "message": "x"}), "rooms: it is a string"),
        ("/api/broadcast", json!({"rooms": ["tea", 1], "message": "x"}), "rooms[1]: it is a number"),
        ("/api/broadcast", json!({"rooms": ["tea", "a\tb"], "message": "x"}), "rooms[1]: The room name contains"),
        ("/api/broadcast", many, "rooms: it names 1001 rooms"),
        ("/api/disconnect", json!({}), "user: it is missing"),
        ("/api/disconnect", json!({"user": ""}), "user: The user name is empty"),
        ("/api/disconnect", json!({"user": "ann", "room": ""}), "room: The room name is empty"),
        ("/api/disconnect", json!({"user": "ann", "reason": "x".repeat(124)}), "reason: give at most 123 bytes"),
        ("/pub/a%20b", json!({}), "room: The room name contains the white space"),
        ("/pub/%ff", json!({}), "room: the name in the address is not UTF-8"),
    ] {
        let (status, code, message, temporary) = error(internal.post(path, &body));
        assert_eq!((status, code.as_str(), temporary), (400, "bad_request", false), "{path} {message}");
        assert!(message.starts_with(begin), "{path} {body}: {message}");
        assert!(!message.contains(char::is_control), "{message:?}");
    }
    for (path, begin) in [
        ("/api/rooms?kind=tea", "kind: give chat or raw"),
        ("/api/rooms?prefix=%ff", "prefix: it is not UTF-8"),
        ("/api/rooms?perfix=x", "perfix: there is no such parameter"),
        ("/api/rooms/tea?prefix=x", "prefix: there is no such parameter"),
        ("/api/rooms/a%20b", "room: The room name contains"),
    ] {
        let (status, code, message, _) = error(internal.get(path));
        assert!((status, code.as_str()) == (400, "bad_request") && message.starts_with(begin), "{path}: {message}");
    }
    let answer = internal.ask("POST", "/api/publish", &[], b"{\"room\": ");
    assert!(error(internal::json(&answer)).2.starts_with("The body is not JSON"), "{answer:?}");
    let (status, code, message, _) = error(internal.get("/api/nothing"));
    assert!((status, code.as_str()) == (404, "not_found") && message.contains("/api/publish"), "{message}");
    let (status, code, message, _) = error(internal.get("/api/publish"));
    assert!((status, code.as_str()) == (405, "method_not_allowed") && message.contains("openapi"), "{message}");
}

#[test]
fn no_body_whatever_does_harm() {
    let (server, internal) = Server::start_with_internal(&[]);
    let mut ann = server.join("ann", "tea");
    let mut random = support::seeded();
    let whole = json!({"room": "nowhere", "rooms": ["nowhere", "nirvana"], "user": "nobody", "message": "\u{1f9ed}", "from": null});
    let mut seen = BTreeSet::new();
    for _ in 0..1000 {
        // Some of the fields, then some damage.
        let mut fields = whole.as_object().unwrap().clone();
        fields.retain(|_, _| random.bool());
        let mut body = Value::Object(fields).to_string().into_bytes();
        for _ in 0..random.usize(..3) {
            let at = random.usize(..body.len());
            body[at] = random.choice(*b"\"\\{}[],:0n\xff\x00 ").unwrap();
        }
        let path = random.choice(["/api/publish", "/api/broadcast", "/api/disconnect", "/pub/nowhere"]).unwrap();
        let kind = random.choice(["application/json", "text/plain", "", "ÿ"]).unwrap();
        let answer = internal.ask("POST", path, &[("Content-Type", kind)], &body);
        let (status, body) = internal::json(&answer);
        assert!(matches!(status, 200 | 202 | 400), "{answer:?}");
        if status == 400 {
            error((status, body));
        }
        seen.insert((path, status));
    }
    assert!(seen.len() >= 7, "{seen:?}");
    assert_eq!(internal.post("/api/publish", &json!({"room": "tea", "message": "end"})).0, 200);
    ann.expect_message("api", "end");
}

#[test]
fn a_body_above_1_mib_is_refused_with_an_answer() {
    let (server, internal) = Server::start_with_internal(&[]);
    let mut ann = server.join("ann", "tea");
    let frame = json!({"room": "tea", "message": ""}).to_string().len();
    let fits = json!({"room": "tea", "message": "x".repeat(BODY_BYTES_MAX - frame)});
    assert_eq!(fits.to_string().len(), BODY_BYTES_MAX);
    assert_eq!(internal.post("/api/publish", &fits).0, 200);
    assert_eq!(ann.json()["Message"], fits["message"]);
    let too_large = vec![b' '; BODY_BYTES_MAX + 1];
    for path in ["/api/publish", "/pub/data"] {
        let (status, code, message, _) = error(internal::json(&internal.ask("POST", path, &[], &too_large)));
        assert!((status, code.as_str()) == (413, "too_big") && message.contains("1 MiB"), "{message}");
    }
    // The length need not be known in advance.
    let mut wire = internal.wire();
    wire.send("POST /api/publish HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
    for _ in 0..17 {
        wire.send([b"10000\r\n", &[b' '; 0x10000][..], b"\r\n"].concat());
    }
    wire.send("0\r\n\r\n");
    assert_eq!(wire.answer_to("POST").status, 413);
    // The first request is answered at once.
    for (length, status) in [(BODY_BYTES_MAX + 1, b"HTTP/1.1 413 "), (BODY_BYTES_MAX, b"HTTP/1.1 100 ")] {
        let mut wire = internal.wire();
        wire.send(internal::request("POST", "/pub/data", &[("Expect", "100-continue")], length));
        let mut begin = [0; 13];
        wire.stream.read_exact(&mut begin).unwrap();
        assert_eq!(&begin, status);
    }
}

#[test]
fn a_request_that_comes_twice_with_its_key_is_done_once() {
    let (server, internal) = Server::start_with_internal(&[]);
    let mut ann = server.join("ann", "tea");
    let mut raw = server.websocket("/raw/tea");
    let body = |message: &str| json!({"room": "tea", "message": message}).to_string();
    let ask =
        |path: &str, key: &str, body: &str| internal.ask("POST", path, &[("Idempotency-Key", key)], body.as_bytes());
    let first = ask("/api/publish", "k1", &body("once"));
    assert_eq!(first.status, 200);
    let again = ask("/api/publish", "k1", &body("once"));
    assert_eq!((again.status, &again.body), (200, &first.body));
    for (path, other) in [("/api/publish", "else"), ("/pub/tea", "once")] {
        let (status, code, message, temporary) = error(internal::json(&ask(path, "k1", &body(other))));
        assert_eq!((status, code.as_str(), temporary), (409, "key_reused", false), "{message}");
    }
    // A request that failed was not carried out, and may be retried with its key.
    assert_eq!(ask("/api/publish", "k2", "{}").status, 400);
    assert_eq!(ask("/api/publish", "k2", &body("fixed")).status, 200);
    for _ in 0..2 {
        assert_eq!(ask("/pub/tea", "k3", "raw").status, 200);
        let rooms = json!({"rooms": ["tea"], "message": "all"}).to_string();
        assert_eq!(ask("/api/broadcast", "k4", &rooms).status, 200);
    }
    for wrong in ["", &"k".repeat(129)] {
        let (status, _, message, _) = error(internal::json(&ask("/api/publish", wrong, &body("x"))));
        assert!(status == 400 && message.starts_with("Idempotency-Key:"), "{message}");
    }
    for message in ["once", "fixed", "all"] {
        ann.expect_message("api", message);
    }
    assert_eq!(internal.post("/api/publish", &json!({"room": "tea", "message": "end"})).0, 200);
    ann.expect_message("api", "end");
    assert_eq!(raw.next(), Message::binary("raw"));
    assert_eq!(internal.post("/pub/tea", &json!("end")).0, 200);
    assert_eq!(raw.text(), "\"end\"");
}

#[test]
fn requests_that_race_with_one_key_are_done_once() {
    let (server, internal) = Server::start_with_internal(&[]);
    let mut ann = server.join("ann", "tea");
    let body = json!({"room": "tea", "message": "once"}).to_string();
    let race = || internal.ask("POST", "/api/publish", &[("Idempotency-Key", "k")], body.as_bytes()).body;
    let answers: BTreeSet<String> = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..8).map(|_| scope.spawn(race)).collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).collect()
    });
    assert_eq!(answers.len(), 1, "{answers:?}");
    ann.expect_message("api", "once");
    ann.say("tea", "end");
    ann.expect_message("ann", "end");
}

#[test]
fn rooms_are_listed_with_their_members() {
    let (server, internal) = Server::start_with_internal(&[]);
    assert_eq!(internal.get("/api/rooms"), (200, json!({"rooms": [], "count": 0})));
    let mut tea = members(&server, "tea", 3);
    let _soup = server.join("ann", "a/b");
    let _raw: Vec<_> = (0..2).map(|_| server.websocket("/raw/tea")).collect();
    let list = |kind, room, members| json!({"room": room, "kind": kind, "members": members});
    let [soup, tea_room, raw] = [list("chat", "a/b", 1), list("chat", "tea", 3), list("raw", "tea", 2)];
    for (path, rooms) in [
        ("/api/rooms", vec![&soup, &tea_room, &raw]),
        ("/api/rooms?kind=chat", vec![&soup, &tea_room]),
        ("/api/rooms?kind=raw&prefix=te", vec![&raw]),
        ("/api/rooms?prefix=a%2F", vec![&soup]),
        ("/api/rooms?prefix=x", vec![]),
    ] {
        assert_eq!(internal.get(path), (200, json!({"rooms": rooms, "count": rooms.len()})), "{path}");
    }
    tea[0].say("tea", "x");
    let said = tea[1].expect_message("u0", "x");
    let expected = json!({"room": "tea", "kind": "chat", "members": 3, "users": ["u0", "u1", "u2"], "count": 3,
        "seq": said["Seq"], "epoch": said["Epoch"]});
    assert_eq!(internal.get("/api/rooms/tea"), (200, expected));
    assert_eq!(internal.get("/api/rooms/a/b").1["users"], json!(["ann"]));
    assert_eq!(internal.get("/api/rooms/a%2Fb").1["users"], json!(["ann"]));
    let (status, raw) = internal.get("/api/rooms/tea?kind=raw");
    assert_eq!((status, &raw["members"], &raw["users"], &raw["seq"]), (200, &json!(2), &json!([]), &json!(0)));
    let (status, code, message, _) = error(internal.get("/api/rooms/nowhere"));
    assert!((status, code.as_str()) == (404, "room_not_found") && message.starts_with("room:"), "{message}");
}

#[test]
fn a_user_is_disconnected_wherever_it_is_or_from_one_room() {
    let (server, internal) = Server::start_with_internal(&[]);
    let mut witness = server.join("witness", "tea");
    // Ten connections of one user, on both shards.
    let rooms: Vec<_> = (0..MEMBERS_ON_BOTH_SHARDS).map(|number| format!("r{number}")).collect();
    let mut everywhere: Vec<_> = rooms.iter().map(|room| server.join("ann", room)).collect();
    let mut in_tea = server.join("ann", "tea");
    witness.expect_message("#tea", "Welcome to tea, ann!");
    let order = json!({"user": "ann", "room": "tea", "reason": "enough tea"});
    assert_eq!(internal.post("/api/disconnect", &order), (200, json!({"closed": 1})));
    assert_eq!(in_tea.expect_close(), (1008, "enough tea".to_owned()));
    witness.expect_message("#tea", "User ann left channel.");
    for (room, client) in rooms.iter().zip(&mut everywhere) {
        client.say(room, "still here");
        client.expect_message("ann", "still here");
    }
    let order = json!({"user": "ann"});
    assert_eq!(internal.post("/api/disconnect", &order), (200, json!({"closed": MEMBERS_ON_BOTH_SHARDS})));
    for client in &mut everywhere {
        assert_eq!(client.expect_close(), (1008, "disconnected by the operator".to_owned()));
    }
    assert_eq!(internal.post("/api/disconnect", &order), (200, json!({"closed": 0})));
    witness.say("tea", "quiet");
    witness.expect_message("witness", "quiet");
}
