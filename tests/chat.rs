//! The v0 dialect over real sockets: addresses, names, exact texts and their senders, and the life of a room.

mod support;

use std::time::SystemTime;

use serde_json::{Value, json};
use support::listener::Listener;
use support::wire::handshake;
use support::{Client, Server};
use tungstenite::Message;

const NAME_REFUSED: &str = "Need a valid username (shorter than 80 characters and does not start with a hash)";

#[test]
fn every_path_that_ends_in_ws_leads_to_the_chat_and_its_default_room() {
    let server = Server::start(&[]);
    let mut first = server.join("first", "general");
    let mut others = Vec::new();
    for (number, path) in ["/ws", "//ws", "/any/path/ws", "/a//b/ws", "/%77s"].into_iter().enumerate() {
        let mut client = server.websocket(&format!("{path}?username=u{number}"));
        let welcome = format!("Welcome to general, u{number}!");
        client.expect_message("#general", &welcome);
        first.expect_message("#general", &welcome);
        others.push(client);
    }
}

#[test]
fn our_own_folders_win_over_paths_that_end_in_ws() {
    let server = Server::start(&[]);
    assert_eq!(server.ask(handshake("/-/ws?username=a")).status, 404);
    let stream = Listener::ask(server.connect(), &handshake("/stream/ws?username=a"));
    assert!(stream.head.contains("text/event-stream"), "{}", stream.head);
    let mut raw = server.websocket("/raw/ws?username=a");
    raw.send_text("not JSON");
    assert_eq!(raw.text(), "not JSON", "/raw/ws is a raw room");
}

#[test]
fn names_in_the_address_are_percent_encoded_utf_8() {
    let server = Server::start(&[]);
    for (query, user, room) in [
        ("username=Zo%C3%AB+B%20c%2B&room=%E6%97%A5%E6%9C%AC", "Zoë B c+", "日本"),
        ("room=a%2Fb%26%23%3D&user%6Eame=%F0%9F%A6%80", "🦀", "a/b&#="),
        ("x=%FF&username=a%23b%22%3Ci%3E&&room=%23tea", "a#b\"<i>", "#tea"),
    ] {
        let mut client = server.websocket(&format!("/ws?{query}"));
        let welcome = client.expect_message(&format!("#{room}"), &format!("Welcome to {room}, {user}!"));
        assert_eq!(welcome["Room"], room);
        client.say(room, "hello");
        client.expect_message(user, "hello");
    }
}

#[test]
fn a_bad_user_name_is_refused_with_the_sentence_of_2017() {
    let server = Server::start(&[]);
    let (long, long_utf8) = (format!("username={}", "u".repeat(80)), format!("username={}", "%C3%A9".repeat(40)));
    for query in [
        "user=a",
        "username",
        "username=",
        "username=a&username=a",
        "username=a&username=",
        "username=%23a",
        "username=%23",
        "username=a%0Ab",
        "username=a%00",
        "username=%7F",
        "username=a%C2%85",
        "username=%FF",
        "username=%C3",
        "username=%E6%97",
        "username=%4",
        &long,
        &long_utf8,
    ] {
        let answer = server.ask(handshake(&format!("/ws?{query}&room=tea")));
        assert_eq!((answer.status, answer.body.as_str()), (400, NAME_REFUSED), "{query}");
    }
    let mut judge = server.join("judge", "general");
    judge.say("tea", "anyone?");
    judge.expect_system("room does not exist.");
}

#[test]
fn a_bad_room_name_is_refused_with_a_reason() {
    let server = Server::start(&[]);
    for room in ["", "a&room=a", "a&room=", "a%20b", "a+b", "a%E3%80%80", "a%C2%A0", "%09", "a%1Bb", "%FF", "%zz"] {
        let answer = server.ask(handshake(&format!("/ws?username=a&room={room}")));
        assert!(answer.status == 400 && answer.body.contains("room"), "{room}: {answer:?}");
        assert!(!answer.body.contains(|c: char| c.is_control()), "{room}: {answer:?}");
    }
    let mut judge = server.join("judge", "general");
    judge.say("general", "/channels");
    judge.expect_message("#general", "general");
}

#[test]
fn a_client_cannot_speak_for_another() {
    let server = Server::start(&[]);
    let mut ann = server.join("ann", "tea");
    let mut bob = server.join("bob", "tea");
    ann.expect_message("#tea", "Welcome to tea, bob!");
    for forged in [
        r#"{"From":"ann","Message":"hello","Room":"tea","Meta":true}"#,
        r#"{"from":"ann","message":"hello","room":"tea","meta":true}"#,
        r##"{"from":"ann","From":"#tea","Room":"tea","Message":"hello","Meta":true,"meta":true}"##,
        r#"{"From":"hi","Message":"hello","Room":"tea","Event":"join","Seq":1,"Epoch":"x","Ts":0}"#,
        r#"{"From":null,"Room":"tea","Message":"hello","Meta":null}"#,
        r#"{"Room":"tea","Message":"hello"}"#,
    ] {
        bob.send_text(forged);
        for client in [&mut ann, &mut bob] {
            let message = client.expect_message("bob", "hello");
            assert!(
                message["Meta"] == false && message["Event"].is_null() && message["Ts"] != 0,
                "{forged}: {message}"
            );
        }
    }
}

#[test]
fn of_two_spellings_of_a_key_the_exact_one_wins() {
    let server = Server::start(&[]);
    let mut ann = server.join("ann", "tea");
    for message in [
        r#"{"message":"lower","Message":"exact","room":"nowhere","Room":"tea"}"#,
        r#"{"Message":"exact","message":"lower","Room":"tea","room":"nowhere"}"#,
        r#"{"Message":"exact","ROOM":"nowhere","MESSAGE":"upper","Room":"tea"}"#,
        r#"{"\u004dessage":"exact","r\u006fom":"tea"}"#,
    ] {
        ann.send_text(message);
        ann.expect_message("ann", "exact");
    }
}

#[test]
fn any_text_comes_back_unchanged() {
    let server = Server::start(&["--rate-limit", "0"]);
    let mut ann = server.join("ann", "tea");
    for text in [
        " /join a",
        "/JOIN a",
        "/joint a",
        "/",
        "//list",
        "<script>alert('1')</script>",
        "\"\\/\u{8}\u{c}\n\r\t\u{0}\u{1f}\u{7f}\u{2028}\u{feff}",
        "日本 🦀 e\u{301}\u{200d}\u{10ffff}",
    ] {
        ann.say("tea", text);
        ann.expect_message("ann", text);
    }
    ann.send_text(r#" { "Room" : "tea" , "Message" : "\ud83e\udd80\/\u0000" , "Extra" : [{"a":[]}, 1.5e3] } "#);
    ann.expect_message("ann", "🦀/\0");
    // How JSON.stringify writes a text that was cut inside a character, and how the Go program read it.
    ann.send_text(r#"{"Room":"tea","Message":"cut \ud83d"}"#);
    ann.expect_message("ann", "cut \u{fffd}");
}

/// Milliseconds since 1970.
fn unix_ms() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64
}

#[test]
fn every_member_sees_the_same_dense_seq_one_epoch_and_the_time() {
    let server = Server::start(&[]);
    let began = unix_ms();
    let mut clients: Vec<Client> = (0..4).map(|number| server.join(&format!("u{number}"), "tea")).collect();
    for number in 0..30 {
        let sender = &mut clients[number % 4];
        sender.say("tea", "/channels");
        sender.say("nowhere", "lost");
        sender.say("tea", &format!("m{number}"));
    }
    let mut seen: Vec<Vec<Value>> = vec![Vec::new(); clients.len()];
    for (client, seen) in clients.iter_mut().zip(&mut seen) {
        // Welcomes of later clients, and 30 messages; answers to this client alone have no Seq.
        let mut messages = 0;
        while messages < 30 {
            let message = client.json();
            messages += usize::from(message["Meta"] == false);
            if message["From"] != "hi" && message["Message"] != "tea" {
                seen.push(message);
            }
        }
    }
    let ended = unix_ms();
    for (number, seen) in seen.iter().enumerate() {
        let first = number as u64 + 2;
        for (message, seq) in seen.iter().zip(first..) {
            assert_eq!(message["Seq"], seq, "u{number}: {message}");
            assert_eq!(message["Epoch"], seen[0]["Epoch"]);
            assert!((began..=ended).contains(&message["Ts"].as_u64().unwrap()), "{message}");
        }
        assert_eq!(seen.last().unwrap()["Seq"], 34);
    }
    let tails: Vec<&[Value]> = seen.iter().map(|seen| &seen[seen.len() - 30..]).collect();
    assert!(tails.iter().all(|tail| *tail == tails[0]), "all see the same: {tails:?}");
}

#[test]
fn one_connection_may_be_in_many_rooms() {
    let server = Server::start(&[]);
    let mut ann = server.join("ann", "general");
    let mut bob = server.join("bob", "tea");
    ann.say("general", "/join tea");
    for client in [&mut ann, &mut bob] {
        let notice = client.expect_message("#tea", "Welcome to tea, ann!");
        assert_eq!((&notice["Room"], &notice["Meta"]), (&json!("tea"), &json!(true)));
    }
    for room in ["tea", "general"] {
        ann.say(room, &format!("in {room}"));
        assert_eq!(ann.expect_message("ann", &format!("in {room}"))["Room"], room);
    }
    bob.expect_message("ann", "in tea");
    bob.say("tea", "end");
    bob.expect_message("bob", "end");
}

#[test]
fn posting_to_a_room_does_not_require_membership() {
    let server = Server::start(&[]);
    let mut ann = server.join("ann", "general");
    let mut bob = server.join("bob", "tea");
    ann.say("tea", "from outside");
    assert_eq!(bob.expect_message("ann", "from outside")["Meta"], false);
    ann.say("nowhere", "hello");
    ann.expect_system("room does not exist.");
    ann.send_text(r#"{"Message":"hello"}"#);
    ann.expect_system("room does not exist.");
    ann.say("nowhere", "/join tea");
    ann.expect_system("room does not exist.");
    bob.say("tea", "/list");
    bob.expect_message("#tea", "bob");
}

#[test]
fn leaving_sends_exactly_one_notice() {
    let server = Server::start(&[]);
    let mut ann = server.join("ann", "general");
    let mut bob = server.join("bob", "tea");
    ann.say("general", "/join tea");
    ann.expect_message("#tea", "Welcome to tea, ann!");
    bob.expect_message("#tea", "Welcome to tea, ann!");
    ann.say("tea", "/leave tea");
    ann.expect_system("Left channel tea.");
    let notice = bob.expect_message("#tea", "User ann left channel.");
    assert_eq!((&notice["Room"], &notice["Meta"]), (&json!("tea"), &json!(true)));
    bob.say("tea", "psst");
    bob.expect_message("bob", "psst");
    ann.say("general", "/leave tea");
    ann.expect_system("Couldn't leave channel tea: User ann not present in room tea.");
    ann.say("general", "/leave nowhere");
    ann.expect_system("Couldn't leave channel nowhere: Room nowhere does not exist.");
    ann.say("general", "end");
    ann.expect_message("ann", "end");
    bob.say("tea", "end");
    bob.expect_message("bob", "end");
}

#[test]
fn lists_go_only_to_the_sender() {
    let server = Server::start(&[]);
    let mut ann = server.join("ann", "tea");
    let mut bob = server.join("bob", "tea");
    let mut cid = server.join("cid", "general");
    ann.expect_message("#tea", "Welcome to tea, bob!");
    let ask = |client: &mut Client, room: &str, command: &str, answer: &str| {
        client.say(room, command);
        let answer = client.expect_message(&format!("#{room}"), answer);
        assert!(answer["Meta"] == true && answer["Seq"].is_null(), "{answer}");
    };
    ask(&mut ann, "tea", "/list", "ann, bob");
    ask(&mut ann, "general", "/list", "cid");
    ask(&mut cid, "tea", "/list of users", "ann, bob");
    ask(&mut cid, "general", "/channels", "general, tea");
    ask(&mut bob, "tea", "/channels", "general, tea");
    ann.say("tea", "end");
    for client in [&mut ann, &mut bob] {
        client.expect_message("ann", "end");
    }
    cid.say("general", "end");
    cid.expect_message("cid", "end");
}

#[test]
fn malformed_arguments_are_echoed_to_the_room() {
    let server = Server::start(&[]);
    let mut ann = server.join("ann", "tea");
    let mut bob = server.join("bob", "tea");
    ann.expect_message("#tea", "Welcome to tea, bob!");
    for command in ["/join", "/join ", "/join a b", "/leave", "/leave  a", "/leave tea now"] {
        ann.say("tea", command);
        let answer = ann.expect_message("#tea", &format!("Malformatted arguments: {command}"));
        assert_eq!(answer["Meta"], true);
    }
    bob.say("tea", "/channels");
    bob.expect_message("#tea", "tea");
}

#[test]
fn a_name_taken_in_the_room_of_the_address_ends_in_4002() {
    let server = Server::start(&[]);
    let mut ann = server.join("ann", "tea");
    let mut impostor = server.websocket("/ws?username=ann&room=tea");
    impostor.expect_system("User ann is already in room.");
    assert_eq!(impostor.expect_close().0, 4002);
    let mut elsewhere = server.join("ann", "general");
    elsewhere.say("tea", "one more");
    elsewhere.expect_system("User ann is already in room.");
    ann.say("tea", "still one");
    ann.expect_message("ann", "still one");
    ann.close();
    server.join("ann", "tea");
}

#[test]
fn a_name_taken_with_join_leaves_the_connection_as_it_was() {
    let server = Server::start(&[]);
    let mut in_tea = server.join("ann", "tea");
    let mut ann = server.join("ann", "general");
    for room in ["tea", "general"] {
        ann.say("general", &format!("/join {room}"));
        ann.expect_system("User ann is already in room.");
    }
    ann.say("tea", "hello");
    ann.expect_system("User ann is already in room.");
    in_tea.say("tea", "alone");
    in_tea.expect_message("ann", "alone");
    ann.say("general", "once");
    ann.expect_message("ann", "once");
    in_tea.close();
    ann.say("general", "/join tea");
    ann.expect_message("#tea", "Welcome to tea, ann!");
}

#[test]
fn the_third_unreadable_message_in_a_row_ends_in_1007() {
    let server = Server::start(&[]);
    let mut ann = server.join("ann", "tea");
    let mut bob = server.join("bob", "tea");
    ann.expect_message("#tea", "Welcome to tea, bob!");
    let unreadable = [
        ("hello", "JSON"),
        (r#"{"Message":"hello","Room":"tea""#, "JSON"),
        ("", "JSON"),
        ("[]", "object"),
        (r#""hello""#, "object"),
        (r#"{"Message":5,"Room":"tea"}"#, "Message"),
        (r#"{"message":"hello","room":["tea"]}"#, "room"),
        (r#"{"Message":"hello","Room":"tea","Meta":"no"}"#, "Meta"),
        (r#"{"Message":"hello","Room":"tea","From":{}}"#, "From"),
    ];
    let say_unreadable = |bob: &mut Client, at: usize| {
        let (text, reason) = unreadable[at];
        bob.send_text(text);
        let answer = bob.json();
        assert!(answer["From"] == "hi" && answer["Meta"] == true && answer["Room"] == "", "{answer}");
        assert!(answer["Message"].as_str().unwrap().contains(reason), "{text}: {answer}");
    };
    for at in 0..unreadable.len() {
        say_unreadable(&mut bob, at);
        if at % 2 == 1 {
            // A readable message resets the count, whatever its outcome.
            bob.say("nowhere", "hello");
            bob.expect_system("room does not exist.");
        }
    }
    for at in [0, 3] {
        say_unreadable(&mut bob, at);
    }
    assert_eq!(bob.expect_close().0, 1007);
    ann.expect_message("#tea", "User bob left channel.");
}

#[test]
fn binary_messages_end_in_1003() {
    let server = Server::start(&[]);
    let mut ann = server.join("ann", "tea");
    let mut bob = server.join("bob", "tea");
    ann.expect_message("#tea", "Welcome to tea, bob!");
    bob.socket.send(Message::binary(r#"{"Message":"hello","Room":"tea"}"#)).unwrap();
    assert_eq!(bob.expect_close().0, 1003);
    ann.expect_message("#tea", "User bob left channel.");
}

#[test]
fn a_room_vanishes_with_the_last_leave_and_starts_over() {
    // Nothing is kept for clients that reconnect.
    let server = Server::start(&["--replay-age", "0"]);
    let mut judge = server.join("judge", "general");
    let mut epochs = Vec::new();
    for leaves_by_command in [true, false, true] {
        let mut ann = server.websocket("/ws?username=ann&room=tea");
        let welcome = ann.expect_message("#tea", "Welcome to tea, ann!");
        assert_eq!(welcome["Seq"], 1, "{welcome}");
        epochs.push(welcome["Epoch"].to_string());
        judge.say("general", "/channels");
        judge.expect_message("#general", "general, tea");
        if leaves_by_command {
            ann.say("tea", "/leave tea");
            ann.expect_system("Left channel tea.");
        } else {
            ann.close();
        }
        judge.say("tea", "anyone?");
        judge.expect_system("room does not exist.");
        judge.say("general", "/channels");
        judge.expect_message("#general", "general");
    }
    epochs.sort();
    epochs.dedup();
    assert_eq!(epochs.len(), 3, "each life of the room has a different Epoch: {epochs:?}");
}
