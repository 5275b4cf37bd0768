//! Reconnecting: everything missed, in order and once, or a clear refusal; and taking over the name of a dead
//! connection.

mod support;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Client, PATIENCE, Server};

fn since(epoch: &Value, seq: impl Into<Value>) -> Value {
    json!({"Epoch": epoch, "Seq": seq.into()})
}

/// Expects these frames of a room next, without a gap.
#[track_caller]
fn expect_seqs(client: &mut Client, seqs: impl IntoIterator<Item = u64>) {
    for seq in seqs {
        let frame = client.json();
        assert_eq!(frame["Seq"], seq, "{frame}");
    }
}

/// A publisher in the room that has sent `count` messages, from `Seq` 2 on.
fn publisher(server: &Server, room: &str, count: u64) -> (Client, Value) {
    let (mut client, answer) = server.join_v1("publisher", room);
    client.expect_message(&format!("#{room}"), &format!("Welcome to {room}, publisher!"));
    publish(&mut client, room, 2..2 + count);
    (client, answer["Epoch"].clone())
}

fn publish(client: &mut Client, room: &str, seqs: std::ops::Range<u64>) {
    for seq in seqs {
        client.say(room, &format!("m{seq}"));
        assert_eq!(client.json()["Seq"], seq);
    }
}

#[test]
fn a_client_that_reconnects_gets_everything_it_missed_once_and_in_order() {
    let server = Server::start(&["--rate-limit", "0"]);
    let (mut publisher, epoch) = publisher(&server, "tea", 300);
    // On two shards: some clients are on a shard without the room before.
    for number in 0..8 {
        let (mut ann, _) = server.v1(&format!("username=ann{number}"));
        let next = 302 + 2 * number;
        let answer = ann.join_room("tea", Some(&since(&epoch, 5)));
        assert!(answer["Recovered"] == true && answer["Seq"] == 5 && answer["Epoch"] == epoch, "{answer}");
        expect_seqs(&mut ann, 6..=next);
        publisher.expect_message("#tea", &format!("Welcome to tea, ann{number}!"));
        ann.close();
        publisher.expect_message("#tea", &format!("User ann{number} left channel."));
    }
}

#[test]
fn an_incomplete_replay_is_refused() {
    let server = Server::start(&["--rate-limit", "0", "--replay-frames", "100"]);
    let (_publisher, epoch) = publisher(&server, "tea", 200);
    let mut tip = 201;
    let other_epoch = json!(format!("{:016x}", 1));
    for (at, recovered) in [
        (since(&epoch, 50), false),
        (since(&epoch, 0), false),
        (since(&other_epoch, tip), false),
        (since(&json!("nonsense"), 1), false),
        (since(&epoch, tip + 1000), false),
        (since(&epoch, u64::MAX), false),
        (since(&epoch, 150), true),
        (since(&epoch, tip + 7), true),
    ] {
        let (mut ann, _) = server.v1("username=ann");
        let answer = ann.join_room("tea", Some(&at));
        assert_eq!(answer["Recovered"], recovered, "{at}: {answer}");
        let from = if recovered { at["Seq"].as_u64().unwrap() } else { tip };
        assert_eq!(answer["Seq"], from, "{at}: {answer}");
        tip += 1;
        expect_seqs(&mut ann, from + 1..=tip);
        let left = ann.ask(&json!({"Op": "leave", "Room": "tea", "Ref": 1}));
        assert_eq!(left["Op"], "ok");
        tip += 1;
    }
}

#[test]
fn a_large_replay_is_complete() {
    // Far more than one outbox holds, to a client that reads slowly at first.
    let server = Server::start(&["--rate-limit", "0", "--replay-bytes", "8m", "--max-message", "64k"]);
    let (mut publisher, answer) = server.join_v1("publisher", "tea");
    publisher.expect_message("#tea", "Welcome to tea, publisher!");
    let text = "x".repeat(30_000);
    for seq in 2..202 {
        publisher.say("tea", &text);
        assert_eq!(publisher.json()["Seq"], seq);
    }
    let (mut ann, _) = server.v1_over(server.connect_narrow(), "username=ann");
    let answer = ann.join_room("tea", Some(&since(&answer["Epoch"], 1)));
    assert_eq!(answer["Recovered"], true);
    publisher.expect_message("#tea", "Welcome to tea, ann!");
    for seq in 203..303 {
        publisher.say("tea", "live");
        assert_eq!(publisher.json()["Seq"], seq);
    }
    expect_seqs(&mut ann, 2..303);
}

#[test]
fn with_replay_off_no_client_recovers_and_live_messages_flow() {
    for off in ["--replay-frames=0", "--replay-bytes=0", "--replay-age=0"] {
        let server = Server::start(&[off]);
        let (mut publisher, epoch) = publisher(&server, "tea", 3);
        let (mut ann, _) = server.v1("username=ann");
        let answer = ann.join_room("tea", Some(&since(&epoch, 4)));
        assert!(answer["Recovered"] == false && answer["Seq"] == 4, "{off}: {answer}");
        publisher.expect_message("#tea", "Welcome to tea, ann!");
        publish(&mut publisher, "tea", 6..9);
        expect_seqs(&mut ann, 5..9);
    }
}

#[test]
fn an_empty_room_is_kept_for_its_last_member_and_newcomers_get_no_history() {
    let server = Server::start(&[]);
    let (publisher, epoch) = publisher(&server, "tea", 10);
    publisher.close();
    let (mut judge, _) = server.v1("username=judge");
    // To all others it does not exist.
    assert_eq!(judge.ask(&json!({"Op": "rooms"}))["Count"], 0);
    assert_eq!(judge.ask(&json!({"Op": "pub", "Room": "tea", "Message": "x"}))["Code"], "room_not_found");
    let (mut new, answer) = server.join_v1("new", "tea");
    assert!(answer["Epoch"] == epoch && answer["Seq"] == 11, "{answer}");
    expect_seqs(&mut new, 12..=12);
    new.close();
    let (mut publisher, _) = server.v1("username=publisher");
    let answer = publisher.join_room("tea", Some(&since(&epoch, 4)));
    assert_eq!(answer["Recovered"], true, "{answer}");
    expect_seqs(&mut publisher, 5..=13);
}

#[test]
fn an_empty_room_starts_over_after_its_time() {
    let server = Server::start(&["--replay-age", "300ms"]);
    let (publisher, epoch) = publisher(&server, "tea", 2);
    publisher.close();
    let deadline = Instant::now() + PATIENCE;
    loop {
        // Each check is a join that restarts the room's time.
        std::thread::sleep(Duration::from_millis(400));
        let (mut ann, _) = server.v1("username=ann");
        let answer = ann.join_room("tea", Some(&since(&epoch, 3)));
        if answer["Epoch"] != epoch {
            assert!(answer["Recovered"] == false && answer["Seq"] == 0, "{answer}");
            return;
        }
        assert!(Instant::now() < deadline, "the room never ends");
        ann.close();
    }
}

#[test]
fn a_restarted_server_never_replays_an_earlier_epoch() {
    let mut server = Server::start(&[]);
    let address = server.address().to_string();
    let (_publisher, epoch) = publisher(&server, "tea", 20);
    server.signal(rustix::process::Signal::KILL);
    server.wait();
    let server = Server::start_on(&address, &[]);
    let (_other, new_epoch) = publisher(&server, "tea", 20);
    assert_ne!(new_epoch, epoch);
    let (mut ann, _) = server.v1("username=ann");
    let answer = ann.join_room("tea", Some(&since(&epoch, 5)));
    assert!(answer["Recovered"] == false && answer["Epoch"] == new_epoch && answer["Seq"] == 21, "{answer}");
    expect_seqs(&mut ann, 22..=22);
}

#[test]
fn a_resume_secret_takes_over_the_name_on_any_shard() {
    let server = Server::start(&[]);
    let mut witness = server.join("witness", "tea");
    let (mut ann, mut hello) = server.v1("username=ann");
    let answer = ann.join_room("tea", None);
    let epoch = answer["Epoch"].clone();
    ann.expect_message("#tea", "Welcome to tea, ann!");
    witness.expect_message("#tea", "Welcome to tea, ann!");
    for round in 0..6 {
        // Without the secret, or with another client's, the name is taken.
        let (mut thief, thiefs) = server.v1("username=ann");
        assert_eq!(thief.ask(&json!({"Op": "join", "Room": "tea"}))["Code"], "name_taken");
        let (mut thief, _) = server.v1(&format!("username=ann&resume={}", thiefs["Resume"].as_str().unwrap()));
        assert_eq!(thief.ask(&json!({"Op": "join", "Room": "tea"}))["Code"], "name_taken");
        let resume = hello["Resume"].as_str().unwrap().to_owned();
        let (mut mallory, _) = server.v1(&format!("username=mallory&resume={resume}"));
        assert_eq!(mallory.ask(&json!({"Op": "ping"}))["Op"], "pong");

        witness.say("tea", &format!("round {round}"));
        let said = witness.json();
        assert_eq!(ann.expect_message("witness", &format!("round {round}"))["Seq"], said["Seq"]);
        let (mut again, new_hello) = server.v1(&format!("username=ann&resume={resume}"));
        assert_eq!(ann.expect_close().0, 4003);
        let answer = again.join_room("tea", Some(&since(&epoch, said["Seq"].as_u64().unwrap())));
        assert_eq!(answer["Recovered"], true, "{answer}");
        // Whether the old one ends before the new one joins is a matter of timing; nothing is lost or duplicated.
        witness.say("tea", "next");
        loop {
            let (heard, due) = (again.json(), witness.json());
            assert_eq!(heard, due);
            if heard["Message"] == "next" {
                break;
            }
        }
        (ann, hello) = (again, new_hello);
    }
    let (mut judge, _) = server.v1("username=judge");
    let who = judge.ask(&json!({"Op": "who", "Room": "tea"}));
    assert_eq!(who["Users"], json!(["ann", "witness"]));
}

#[test]
fn with_the_room_in_the_address_a_takeover_is_not_announced() {
    let server = Server::start(&[]);
    let mut witness = server.join("witness", "tea");
    let (mut ann, hello) = server.v1("username=ann&room=tea");
    witness.expect_message("#tea", "Welcome to tea, ann!");
    ann.expect_message("#tea", "Welcome to tea, ann!");
    let (mut again, _) = server.v1(&format!("username=ann&room=tea&resume={}", hello["Resume"].as_str().unwrap()));
    assert_eq!(ann.expect_close().0, 4003);
    witness.say("tea", "still here?");
    for client in [&mut witness, &mut again] {
        client.expect_message("witness", "still here?");
    }
    again.close();
    witness.expect_message("#tea", "User ann left channel.");
}
