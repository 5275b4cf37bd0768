//! Names over real sockets, in every dialect: which are equal, and who may use them.

mod support;

use serde_json::{Value, json};
use support::wire::handshake;
use support::{Client, Server};

/// A text, encoded for a query.
fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// Names that are refused, each for looking like another one.
const REFUSED: [&str; 24] = [
    "ad\u{200b}a",
    "ad\u{200c}a",
    "ad\u{200d}a",
    "ada\u{2060}",
    "\u{feff}ada",
    "a\u{ad}da",
    "ada\u{fe0f}",
    "ada\u{e0100}",
    "ada\u{e0001}\u{e0061}",
    "ada\u{3164}",
    "ada\u{2800}",
    "\u{202e}ada",
    "\u{2067}ada\u{2069}",
    "ada\u{200e}",
    "ada\u{61c}",
    "\u{301}ada",
    "＃tea",
    "\u{fe5f}tea",
    " #tea",
    "hi",
    "Hi",
    "ｈｉ",
    "api",
    "ＡＰＩ",
];

/// Other forms of the name ada.
const SAME: [&str; 6] = ["Ada", "ADA", " ada ", "\u{3000}ada", "ａｄａ", "𝒶𝒹𝒶"];

#[test]
fn names_that_imitate_others_are_refused_with_the_text_of_2017() {
    let server = Server::start(&[]);
    for name in REFUSED {
        let answer = server.ask(handshake(&format!("/ws?username={}&room=tea", encoded(name))));
        let text = "Need a valid username (shorter than 80 characters and does not start with a hash)";
        assert_eq!((answer.status, answer.body.trim_end()), (400, text), "{name:?}");
    }
}

#[test]
fn the_same_name_in_another_form_is_taken() {
    let server = Server::start(&[]);
    let mut ada = server.join("ada", "tea");
    for name in SAME {
        let mut other = server.websocket(&format!("/ws?username={}&room=tea", encoded(name)));
        let shown = name.trim();
        let shown = if shown.is_ascii() { shown } else { "ada" };
        other.expect_system(&format!("User {shown} is already in room."));
        assert_eq!(other.expect_close().0, 4002, "{name:?}");

        let (mut other, hello) = server.v1(&format!("username={}", encoded(name)));
        assert_eq!(hello["User"], shown, "{name:?}");
        let refused = other.ask(&json!({"Op": "join", "Room": "tea", "Ref": 1}));
        assert!(refused["Code"] == "name_taken" && refused["Ref"] == 1, "{name:?}: {refused}");
    }
    ada.say("tea", "/list");
    ada.expect_message("#tea", "ada");
}

#[test]
fn messages_carry_the_prepared_name() {
    let server = Server::start(&[]);
    let mut bob = server.join("bob", "tea");
    let mut ada = server.websocket(&format!("/ws?username={}&room=tea", encoded("\u{3000}Ａda  Ｌ ")));
    for client in [&mut bob, &mut ada] {
        let welcome = client.expect_message("#tea", "Welcome to tea, Ada L!");
        assert_eq!(welcome["User"], "Ada L");
    }
    ada.say("tea", "hello");
    bob.expect_message("Ada L", "hello");
    bob.say("tea", "/list");
    ada.expect_message("Ada L", "hello");
    bob.expect_message("#tea", "Ada L, bob");
    drop(ada);
    assert_eq!(bob.expect_message("#tea", "User Ada L left channel.")["User"], "Ada L");
}

#[test]
fn outsiders_cannot_use_the_name_of_a_member() {
    let server = Server::start(&["--rate-limit", "0"]);
    let mut ada = server.join("ada", "tea");
    for name in ["ada", "Ada", "ａｄａ"] {
        // In a different room, where the name is free.
        let room = format!("room-{}", encoded(name).to_lowercase().replace('%', ""));
        let mut eve = server.websocket(&format!("/ws?username={}&room={room}", encoded(name)));
        let shown = eve.json()["User"].as_str().expect("a join").to_owned();
        eve.say("tea", "I am ada");
        eve.expect_system(&format!("User {shown} is already in room."));
        eve.say(&room, "still here");
        eve.expect_message(&shown, "still here");

        let (mut eve, _) = server.v1(&format!("username={}", encoded(name)));
        let refused = eve.ask(&json!({"Room": "tea", "Message": "I am ada", "Ref": "r"}));
        assert!(refused["Code"] == "name_taken" && refused["Ref"] == "r" && refused["Temporary"] == false, "{refused}");
        // Without a Ref, it is told, too.
        let refused = eve.ask(&json!({"Op": "pub", "Room": "TEA", "Message": "I am ada"}));
        assert_eq!(refused["Code"], "name_taken", "{refused}");
    }
    // None of that has been published.
    ada.say("tea", "I am");
    ada.expect_message("ada", "I am");
}

#[test]
fn outsiders_with_an_unused_name_may_speak() {
    let server = Server::start(&[]);
    let mut ada = server.join("ada", "tea");
    let mut bob = server.join("bob", "milk");
    bob.say("tea", "hello from outside");
    ada.expect_message("bob", "hello from outside");
    // Its own name, in two rooms at once.
    bob.say("milk", "/join tea");
    for client in [&mut ada, &mut bob] {
        client.expect_message("#tea", "Welcome to tea, bob!");
    }
    bob.say("tea", "hello from inside");
    for client in [&mut ada, &mut bob] {
        client.expect_message("bob", "hello from inside");
    }
    // Once the member has left, its name is free.
    drop(ada);
    bob.expect_message("#tea", "User ada left channel.");
    let mut other = server.join("Ada", "milk");
    bob.expect_message("#milk", "Welcome to milk, Ada!");
    other.say("tea", "another one");
    bob.expect_message("Ada", "another one");
}

#[test]
fn a_connection_that_took_over_its_name_may_use_it_from_outside() {
    let server = Server::start(&[]);
    let mut bob = server.join("bob", "tea");
    let (_lost, hello) = server.v1("username=ada&room=tea");
    bob.expect_message("#tea", "Welcome to tea, ada!");
    let resume = hello["Resume"].as_str().expect("a secret");
    let (mut ada, hello) = server.v1(&format!("username=Ada&resume={resume}"));
    assert_eq!(hello["User"], "Ada");
    let answer = ada.ask(&json!({"Room": "tea", "Message": "here again", "Ref": 1}));
    assert_eq!(answer["Op"], "ok", "{answer}");
    while bob.json()["Message"] != "here again" {}
}

#[test]
fn a_name_taken_over_in_another_form_is_shown_in_the_new_one() {
    let server = Server::start(&[]);
    let (_lost, hello) = server.v1("username=ada&room=tea");
    let resume = hello["Resume"].as_str().expect("a secret");
    let (mut ada, _) = server.v1(&format!("username=Ada&resume={resume}"));
    ada.join_room("tea", None);
    let mut names = Value::Null;
    while names != json!(["Ada"]) {
        let who = ada.ask(&json!({"Op": "who", "Room": "tea"}));
        // The leave of the lost connection may be announced first.
        if who["Op"] == "ok" {
            names = who["Users"].clone();
        }
    }
}

#[test]
fn rooms_that_differ_in_case_width_or_composition_are_one_room_under_its_first_name() {
    let server = Server::start(&["--rate-limit", "0"]);
    let mut ada = server.join("ada", "Tea");
    let mut bob = server.websocket("/ws?username=bob&room=tea");
    for client in [&mut ada, &mut bob] {
        let welcome = client.expect_message("#Tea", "Welcome to Tea, bob!");
        assert_eq!(welcome["Room"], "Tea");
    }
    // The page of 2017 sends the name that it has read, or the one that was typed.
    for (room, text) in [("Tea", "one"), ("tea", "two"), ("ｔＥａ", "three")] {
        bob.say(room, text);
        for client in [&mut ada, &mut bob] {
            assert_eq!(client.expect_message("bob", text)["Room"], "Tea");
        }
    }
    bob.say("TEA", "/join tea");
    bob.expect_system("User bob is already in room.");

    // A program learns the room's name from the answer to its join, and all later messages carry it.
    let (mut cid, _) = server.v1("username=cid");
    let joined = cid.ask(&json!({"Op": "join", "Room": "TEA", "Ref": 1}));
    assert!(joined["Op"] == "ok" && joined["Room"] == "Tea" && joined["Users"] == 3, "{joined}");
    assert_eq!(cid.expect_message("#Tea", "Welcome to Tea, cid!")["Room"], "Tea");
    cid.send_text(&json!({"Room": "tea", "Message": "four", "Ref": 2}).to_string());
    assert_eq!(cid.expect_message("cid", "four")["Room"], "Tea");
    assert_eq!(cid.json()["Room"], "Tea");
    let again = cid.ask(&json!({"Op": "join", "Room": "tea"}));
    assert_eq!(again["Code"], "name_taken", "{again}");
    assert_eq!(cid.ask(&json!({"Op": "who", "Room": "tea"}))["Room"], "Tea");
    let rooms = cid.ask(&json!({"Op": "rooms", "Prefix": "tE"}));
    assert_eq!(rooms["Rooms"], json!([{"Room": "Tea", "Users": 3}]), "{rooms}");
    assert_eq!(cid.ask(&json!({"Op": "leave", "Room": "TEA"}))["Room"], "Tea");

    bob.expect_message("#Tea", "Welcome to Tea, cid!");
    bob.expect_message("cid", "four");
    bob.expect_message("#Tea", "User cid left channel.");
    bob.say("Tea", "/leave TEA");
    bob.expect_system("Left channel Tea.");
}

#[test]
fn a_raw_room_is_one_room_under_all_forms_of_its_name() {
    let server = Server::start(&[]);
    let mut one = server.websocket("/raw/Scores");
    let mut other = server.websocket("/raw/%EF%BD%93CORES");
    for text in ["1:0", "1:1"] {
        one.send_text(text);
        assert_eq!((one.text(), other.text()), (text.to_owned(), text.to_owned()));
    }
    for (path, status) in [("/raw/a%E2%80%8Bb", 400), ("/raw/a%20b", 400), ("/raw/a%E2%80%AEb", 400)] {
        assert_eq!(server.ask(handshake(path)).status, status, "{path}");
    }
}

#[test]
fn an_empty_room_is_revived_under_any_form_of_its_name() {
    let server = Server::start(&[]);
    let (mut ada, first) = server.join_v1("ada", "Tea");
    ada.expect_message("#Tea", "Welcome to Tea, ada!");
    ada.close();
    let (mut ada, _) = server.v1("username=ada");
    let since = json!({"Epoch": first["Epoch"], "Seq": 0});
    let joined = ada.ask(&json!({"Op": "join", "Room": "tea", "Since": since}));
    assert!(joined["Recovered"] == true && joined["Room"] == "Tea", "{joined}");
    ada.expect_message("#Tea", "Welcome to Tea, ada!");
}

#[test]
fn the_internal_port_knows_rooms_and_users_by_any_form_of_their_names() {
    let (server, internal) = Server::start_with_internal(&[]);
    let mut ada = server.join("Ada", "Tea");
    let (status, room) = internal.get("/api/rooms/tea");
    assert!(status == 200 && room["room"] == "Tea" && room["users"] == json!(["Ada"]), "{room}");
    let (_, rooms) = internal.get("/api/rooms?prefix=tE");
    assert!(rooms["count"] == 1 && rooms["rooms"][0]["room"] == "Tea", "{rooms}");

    let (status, published) = internal.post("/api/publish", &json!({"room": "TEA", "message": "x", "from": "ada"}));
    assert!(status == 200 && published["members"] == 1, "the operator may use any name: {published}");
    assert_eq!(ada.expect_message("ada", "x")["Room"], "Tea");
    let (_, published) = internal.post("/api/broadcast", &json!({"rooms": ["tea"], "message": "y", "from": " Api "}));
    assert_eq!(published["rooms"][0]["room"], "tea", "the requested name: {published}");
    ada.expect_message("Api", "y");
    for from in ["hi", "＃tea", "a\u{200b}da", ""] {
        let (status, error) = internal.post("/api/publish", &json!({"room": "tea", "message": "x", "from": from}));
        assert!(
            status == 400 && error["error"]["message"].as_str().unwrap().starts_with("from: "),
            "{from:?}: {error}"
        );
    }

    let (status, closed) = internal.post("/api/disconnect", &json!({"user": "ADA", "room": "tea"}));
    assert!(status == 200 && closed["closed"] == 1, "{closed}");
    assert_eq!(ada.expect_close().0, 1008);
}

#[test]
fn a_listener_gets_the_room_under_any_form_of_its_name() {
    let server = Server::start(&[]);
    let mut ada = server.join("ada", "Tea");
    let mut listener = server.listen("tEA", None);
    ada.say("tea", "hello");
    assert_eq!(listener.message()["Room"], "Tea");
}

/// Texts without anything visible.
const BLANK: [&str; 7] = ["", " ", " \n\t", "\u{a0}\u{3000}", "\u{200b}", "\u{2060}\u{fe0f}\u{e0020}", "\u{2800}"];

#[test]
fn blank_messages_are_refused_in_every_dialect() {
    let (server, internal) = Server::start_with_internal(&["--rate-limit", "0"]);
    let mut ada = server.join("ada", "tea");
    let (mut bob, _) = server.join_v1("bob", "tea");
    bob.expect_message("#tea", "Welcome to tea, bob!");
    ada.expect_message("#tea", "Welcome to tea, bob!");
    for text in BLANK {
        ada.say("tea", text);
        ada.expect_system("The message is empty.");
        let refused = bob.ask(&json!({"Room": "tea", "Message": text, "Ref": 1}));
        assert!(refused["Code"] == "bad_request" && refused["Ref"] == 1, "{text:?}: {refused}");
        assert_eq!(refused["Message"], "The message is empty.", "{text:?}");
        for (path, mut body) in
            [("/api/publish", json!({"room": "tea"})), ("/api/broadcast", json!({"rooms": ["tea"]}))]
        {
            body["message"] = json!(text);
            let (status, error) = internal.post(path, &body);
            assert!(status == 400 && error["error"]["code"] == "bad_request", "{path} {text:?}: {error}");
            assert_eq!(error["error"]["message"], "message: The message is empty.");
        }
    }
    // In v0, a missing key is no message either.
    ada.send_text(r#"{"Room":"tea"}"#);
    ada.expect_system("The message is empty.");
    // None of that was published, and visible text is unchanged.
    for text in [".", " a ", "\u{200b}x", "🦀"] {
        ada.say("tea", text);
        for client in [&mut ada, &mut bob] {
            client.expect_message("ada", text);
        }
    }
}

#[test]
fn folded_notices_name_the_first_to_join_and_leave() {
    let server = Server::start(&[]);
    let mut watcher = server.join("watcher", "tea");
    let mut members: Vec<Client> =
        (0..40).map(|number| server.websocket(&format!("/ws?username=u{number:02}&room=tea"))).collect();
    let folded = |watcher: &mut Client, key: &str| loop {
        let notice = watcher.json();
        let names = notice[key].as_array().cloned().unwrap_or_default();
        if !names.is_empty() {
            let count = notice[key.trim_end_matches("Users")].as_u64().expect("a count");
            assert!(notice["Event"] == "presence" && names.len() as u64 == count.min(3), "{notice}");
            let text = notice["Message"].as_str().expect("a text");
            break (names, text.to_owned());
        }
    };
    let (names, text) = folded(&mut watcher, "JoinedUsers");
    assert!(names.iter().all(|name| text.contains(name.as_str().unwrap())), "{names:?}: {text}");
    members.truncate(1);
    let (names, _) = folded(&mut watcher, "LeftUsers");
    assert!(names.iter().all(|name| name.as_str().is_some_and(|name| name.starts_with('u'))), "{names:?}");
}
