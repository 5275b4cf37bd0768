//! A thousand members that never read, in a busy room with healthy ones: memory stays flat, and the healthy ones miss
//! nothing. `HI_TEST_MEGABYTES=500 cargo test --release --test v1_stuck` publishes 500 MB instead of 100.

mod support;

use std::sync::mpsc::Sender;

use hi::os;
use serde_json::{Value, json};
use support::wire::{TEXT, Wire, handshake};
use support::{Client, Server};

const STUCK: usize = 1000;
const HEALTHY: usize = 4;
const MESSAGE_BYTES: usize = 16_000;
/// Messages in flight, averaged over the healthy members: the last of them never lags beyond what the room keeps.
const WINDOW: u64 = 12;
/// Bytes that a thousand stuck members may cost, however much is published.
const GROWTH_BYTES_MAX: usize = 64 * 1024 * 1024;

fn published_bytes() -> usize {
    let megabytes: usize =
        std::env::var("HI_TEST_MEGABYTES").ok().and_then(|number| number.parse().ok()).unwrap_or(100);
    megabytes * 1_000_000
}

/// Reads a member's text frames until a gap or the end. Returns the `Seq` after the last one.
fn read_dense(member: &mut Wire, mut next: Option<u64>, end: u64) -> (u64, Option<Value>) {
    loop {
        let frame = member.frame();
        assert_eq!(frame.first & 0xf, TEXT);
        let message: Value = serde_json::from_slice(&frame.payload).unwrap();
        if message["Event"] == "gap" {
            return (next.expect("something came before the gap"), Some(message));
        }
        let seq = message["Seq"].as_u64().expect("a broadcast");
        assert!(next.is_none_or(|next| next == seq), "{next:?} expected, not {seq}");
        next = Some(seq + 1);
        if seq + 1 == end {
            return (end, None);
        }
    }
}

/// Reads `messages` messages of the publisher without a gap, and reports each. Returns the `Seq` after the last one.
fn read_all(member: &mut Client, first: u64, messages: u64, heard: &Sender<()>) -> u64 {
    let (mut next, mut count) = (first, 0);
    while count < messages {
        let message = member.json();
        assert_eq!(message["Seq"], next, "{}", message["Message"]);
        next += 1;
        if message["From"] == "publisher" {
            count += 1;
            // The publisher doesn't wait for the last ones.
            let _ = heard.send(());
        }
    }
    next
}

#[test]
fn a_thousand_stuck_members_cost_neither_memory_nor_messages() {
    os::raise_file_limit().unwrap();
    let server = Server::start(&["--rate-limit", "0", "--ping-interval", "1h"]);
    let mut stuck: Vec<Wire> = (0..STUCK)
        .map(|number| {
            let mut wire = Wire::new(server.connect_narrow());
            wire.send(handshake(&format!("/ws?username=stuck{number}&room=busy")));
            wire.expect_101();
            wire
        })
        .collect();
    let mut healthy: Vec<_> = (0..HEALTHY).map(|number| server.join_v1(&format!("healthy{number}"), "busy")).collect();
    let (mut publisher, _) = server.join_v1("publisher", "desk");
    let before_bytes = server.resident_bytes();

    let messages = (published_bytes() / MESSAGE_BYTES) as u64;
    let (heard, hears) = std::sync::mpsc::channel();
    let end = std::thread::scope(|scope| {
        let readers: Vec<_> = healthy
            .iter_mut()
            .map(|(member, answer)| {
                let heard = heard.clone();
                let first = answer["Seq"].as_u64().unwrap() + 1;
                scope.spawn(move || read_all(member, first, messages, &heard))
            })
            .collect();
        drop(heard);
        let text = "x".repeat(MESSAGE_BYTES - 200);
        for number in 0..messages {
            if number >= WINDOW {
                // If all have ended, the reason shows below.
                hears.iter().take(HEALTHY).for_each(drop);
            }
            publisher.send_text(&json!({"Room": "busy", "Message": text}).to_string());
        }
        readers.into_iter().map(|reader| reader.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(end.iter().all(|of_one| *of_one == end[0]));
    let grown_bytes = server.resident_bytes().saturating_sub(before_bytes);
    println!("{} MB published, {} MiB more resident", published_bytes() / 1_000_000, grown_bytes >> 20);
    assert!(grown_bytes < GROWTH_BYTES_MAX, "{grown_bytes} bytes more");

    // Finally one of the stuck members reads: it is told exactly what it lost, and then gets everything.
    let member = &mut stuck[STUCK / 2];
    let (next, gap) = read_dense(member, None, end[0]);
    let gap = gap.expect("it was far behind");
    assert_eq!(gap["FromSeq"], next, "{gap}");
    let after = gap["ToSeq"].as_u64().unwrap() + 1;
    assert!(gap["Message"].as_str().unwrap().contains(&(after - next).to_string()), "{gap}");
    assert_eq!(read_dense(member, Some(after), end[0]), (end[0], None));
}
