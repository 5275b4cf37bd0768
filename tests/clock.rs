//! The system clock is set forwards and backwards while hi runs: `Ts` follows it, and nothing else does.

mod support;

use std::path::PathBuf;
use std::process::Command;

use serde_json::json;
use support::{Client, Server};

/// A file with the offset of a server's wall clock; removed at the end.
struct WallClock {
    folder: PathBuf,
}

impl WallClock {
    /// A correct clock for a server with this name.
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("hi-clock-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let clock = Self { folder };
        clock.set(0);
        // Rust links with this compiler, too.
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/clock.c");
        let compiled =
            Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(clock.library()).arg(source).status();
        assert!(compiled.expect("there is a C compiler").success());
        clock
    }

    /// Sets the clock this many seconds off.
    fn set(&self, offset_seconds: i64) {
        // Renamed, so that a reader never finds half a number.
        let new = self.folder.join("offset.new");
        std::fs::write(&new, offset_seconds.to_string()).unwrap();
        std::fs::rename(new, self.offset_file()).unwrap();
    }

    fn offset_file(&self) -> PathBuf {
        self.folder.join("offset")
    }

    fn library(&self) -> PathBuf {
        self.folder.join("clock.so")
    }

    fn start(&self, args: &[&str]) -> Server {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hi"));
        command.args(["--listen", "127.0.0.1:0", "--shards", "2"]).args(args);
        command.env("LD_PRELOAD", self.library()).env("CLOCK_OFFSET_FILE", self.offset_file());
        Server::spawn(command)
    }
}

impl Drop for WallClock {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// `Ts` of a message that the client sends to the room tea.
fn ts_of_a_message(client: &mut Client, user: &str) -> i64 {
    client.say("tea", "what time is it?");
    client.expect_message(user, "what time is it?")["Ts"].as_i64().expect("a number")
}

#[test]
fn replay_does_not_depend_on_the_wall_clock() {
    let clock = WallClock::new("replay");
    let server = clock.start(&[]);
    let (mut ann, answer) = server.join_v1("ann", "tea");
    ann.expect_message("#tea", "Welcome to tea, ann!");
    let began = ts_of_a_message(&mut ann, "ann");
    let mut others = Vec::new();
    for (number, offset_seconds) in [300, -3600, 86_400 * 365, 0].into_iter().enumerate() {
        clock.set(offset_seconds);
        let moved_ms = ts_of_a_message(&mut ann, "ann") - began;
        assert!((moved_ms - offset_seconds * 1000).abs() < 60_000, "Ts moved by {moved_ms} ms");
        let (mut bob, _) = server.v1(&format!("username=bob{number}"));
        let recovered = bob.join_room("tea", Some(&json!({"Epoch": answer["Epoch"], "Seq": 1})));
        assert_eq!(recovered["Recovered"], true, "{offset_seconds} s: {recovered}");
        let welcome = format!("Welcome to tea, bob{number}!");
        let mut next_seq = 2;
        while {
            let frame = bob.json();
            assert_eq!(frame["Seq"], next_seq, "{frame}");
            next_seq += 1;
            frame["Message"] != welcome
        } {}
        ann.expect_message("#tea", &welcome);
        others.push(bob);
    }
}

#[test]
fn the_life_of_an_empty_room_does_not_depend_on_the_wall_clock() {
    let clock = WallClock::new("sleep");
    let server = clock.start(&["--internal", "127.0.0.1:0"]);
    for offset_seconds in [300, -3600] {
        clock.set(0);
        let (mut ann, answer) = server.join_v1("ann", "tea");
        ann.expect_message("#tea", "Welcome to tea, ann!");
        ann.close();
        server.internal().wait_for_metric("hi_sleeping_rooms", 1.0);
        clock.set(offset_seconds);
        let (mut bob, _) = server.v1("username=bob");
        let again = bob.join_room("tea", Some(&json!({"Epoch": answer["Epoch"], "Seq": answer["Seq"]})));
        assert!(again["Recovered"] == true && again["Epoch"] == answer["Epoch"], "{offset_seconds} s: {again}");
        bob.close();
        server.internal().wait_for_metric("hi_sleeping_rooms", 1.0);
    }
}

#[test]
fn join_notices_do_not_depend_on_the_wall_clock() {
    let clock = WallClock::new("presence");
    let server = clock.start(&[]);
    let mut ann = server.join("ann", "tea");
    let mut told = 1;
    for (round, offset_seconds) in [300, -3600].into_iter().enumerate() {
        // More than are announced one by one: the others are folded, and due after the clock has changed.
        let _crowd: Vec<_> = (0..40).map(|number| server.join_v1(&format!("u{round}-{number}"), "tea").0).collect();
        clock.set(offset_seconds);
        while told < 41 + 40 * round as u64 {
            let notice = ann.json();
            told += if notice["Event"] == "join" { 1 } else { notice["Joined"].as_u64().unwrap_or(0) };
        }
    }
}
