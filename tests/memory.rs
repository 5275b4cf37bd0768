//! One memory budget for everything kept for clients: resident memory stays below it under floods and with clients that
//! never read, the largest holders give memory back and are told, and healthy rooms are not affected.

mod support;

use std::time::Instant;

use hi::os;
use serde_json::{Value, json};
use support::healthy::{Watch, beside_healthy, write_some};
use support::internal::Internal;
use support::wire::{BINARY, CLOSE, FIN, TEXT, Wire, frame, handshake_but, header};
use support::{PATIENCE, Server};

/// The budget of every server here. The program of a debug build takes 26 MB of it.
const BUDGET_BYTES: usize = 40 << 20;
/// Bytes that a server may take beyond it: connections and rooms, inboxes, and what the allocator keeps between two
/// cuts.
const BESIDE_BYTES: usize = 16 << 20;

fn start(args: &[&str]) -> (Server, Internal) {
    os::raise_file_limit().unwrap();
    Server::start_with_internal(
        &[&["--memory-max", "40m", "--rate-limit", "0", "--ping-interval", "1h"], args].concat(),
    )
}

fn laps(internal: Internal, what: &str) -> f64 {
    internal.metric(&format!("hi_memory_laps_total{{what=\"{what}\"}}"))
}

/// Waits until `count` holders of a kind have given memory back; memory is watched meanwhile.
#[track_caller]
fn wait_for_laps(internal: Internal, what: &str, count: f64, watch: &mut Watch<'_>) {
    let deadline = Instant::now() + 3 * PATIENCE;
    while laps(internal, what) < count {
        assert!(
            Instant::now() < deadline,
            "{} {what} gave; {} bytes are taken",
            laps(internal, what),
            taken_bytes(internal)
        );
        watch.look();
    }
}

/// Total memory that the server reports.
fn taken_bytes(internal: Internal) -> f64 {
    let text = internal.metrics();
    let samples = text.lines().filter(|line| line.starts_with("hi_memory_bytes{") && !line.contains("\"other\""));
    samples.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
}

/// Runs an attack while others talk; they are not affected, and memory stays below the budget.
fn beside_healthy_rooms(server: &Server, attack: impl FnOnce(&mut Watch<'_>)) {
    beside_healthy(server, || attack(&mut Watch::new(server, BUDGET_BYTES + BESIDE_BYTES)));
}

#[test]
fn flooders_that_never_read_are_lapped_before_memory_is_used_up() {
    const FLOODERS: usize = 150;
    const EACH_BYTES: usize = 1_200_000;
    let (server, internal) = start(&[]);
    let mut flooders: Vec<_> =
        (0..FLOODERS).map(|number| server.narrow_upgraded(&format!("/raw/flood{number}"))).collect();
    let message = frame(FIN | BINARY, &[b'x'; 16_000]);
    let messages = EACH_BYTES / message.len();
    let flood = message.repeat(messages);
    beside_healthy_rooms(&server, |watch| {
        let mut written = vec![0; FLOODERS];
        flooders.iter().for_each(|wire| wire.stream.set_nonblocking(true).unwrap());
        while written.iter().any(|written| *written < flood.len()) {
            let more: usize =
                flooders.iter().zip(&mut written).map(|(wire, at)| write_some(&wire.stream, &flood, at)).sum();
            watch.look();
            if more == 0 {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
        wait_for_laps(internal, "logs", 1.0, watch);
    });
    assert!(taken_bytes(internal) <= BUDGET_BYTES as f64);
    assert_eq!(internal.metric("hi_memory_max_bytes"), BUDGET_BYTES as f64);
    server.wait_for_log("the memory budget of 40 MiB is used up");
    // Finally they read: everything is intact up to the last message or a Close with the reason: 4101 if the log gave
    // memory back, 1013 if that was unread input of the flooder itself.
    let mut closed = 0;
    for flooder in &mut flooders {
        flooder.stream.set_nonblocking(false).unwrap();
        for _ in 0..messages {
            let frame = flooder.frame();
            if frame.first == FIN | CLOSE {
                let code = u16::from_be_bytes([frame.payload[0], frame.payload[1]]);
                assert!([4101, 1013].contains(&code), "{code}");
                closed += u32::from(code == 4101);
                break;
            }
            assert!(frame.first == FIN | BINARY && frame.payload == [b'x'; 16_000]);
        }
    }
    assert!(closed > 0 && internal.metric("hi_lapped_total{policy=\"close\"}") >= f64::from(closed), "{closed}");
}

#[test]
fn messages_that_never_end_are_closed_from_the_largest_on() {
    const HALVES: usize = 60;
    const HALF_BYTES: usize = 1_000_000;
    let (server, internal) = start(&["--max-message", "1m"]);
    // A small one, which is left alone and completes.
    let mut small = server.upgraded("/raw/small");
    small.send(&frame(FIN | TEXT, b"Hello")[..9]);
    let mut halves: Vec<_> = (0..HALVES).map(|number| server.upgraded(&format!("/raw/half{number}"))).collect();
    beside_healthy_rooms(&server, |watch| {
        let half = [header(FIN | BINARY, 1 << 20), vec![b'x'; HALF_BYTES]].concat();
        for wire in &mut halves {
            wire.send_what_is_taken(&half);
            watch.look();
        }
        wait_for_laps(internal, "messages", 20.0, watch);
    });
    let closed = halves.iter_mut().filter(|wire| wire.has_something());
    let mut reasons: Vec<_> = closed.map(|wire| wire.expect_close(1013)).collect();
    assert!(reasons.len() >= 20, "60 MB don't fit into 40 MiB, but only {} were closed", reasons.len());
    reasons.dedup();
    assert_eq!(reasons, ["the server is short of memory for half-sent messages; try again later"]);
    assert!(taken_bytes(internal) <= BUDGET_BYTES as f64);
    small.send(&frame(FIN | TEXT, b"Hello")[9..]);
    small.expect_frame(TEXT, "Hello");
}

#[test]
fn unread_replies_are_dropped_from_the_largest_on() {
    const ASKERS: usize = 400;
    const ASKS: usize = 10;
    let (server, internal) = start(&[]);
    // Enough rooms for an answer of 20 KiB and more.
    let _members: Vec<_> = (0..10)
        .map(|number| {
            let (mut member, _) = server.v1(&format!("username=member{number}"));
            let names = (0..30).map(|room| format!("{:0>64}", 100 * number + room));
            names.for_each(|name| member.send_text(&json!({"Op": "join", "Room": name}).to_string()));
            member
        })
        .collect();
    internal.wait_for_metric("hi_rooms{kind=\"chat\"}", 300.0);
    let ask = frame(FIN | TEXT, json!({"Op": "rooms"}).to_string().as_bytes()).repeat(ASKS);
    beside_healthy_rooms(&server, |watch| {
        let askers: Vec<_> = (0..ASKERS)
            .map(|number| {
                let mut wire = Wire::new(server.connect_narrow());
                let path = format!("/ws?username=asker{number}");
                wire.send(handshake_but(&path, &[], &["Sec-WebSocket-Protocol: hi.v1"]));
                wire.send_what_is_taken(&ask);
                watch.look();
                wire
            })
            .collect();
        wait_for_laps(internal, "outboxes", 1.0, watch);
        drop(askers);
    });
    assert!(taken_bytes(internal) <= BUDGET_BYTES as f64);
}

#[test]
fn replays_of_many_rooms_even_empty_ones_are_dropped_from_the_largest_on() {
    const ROOMS: usize = 80;
    let (server, internal) = start(&[]);
    beside_healthy_rooms(&server, |watch| {
        let text = "x".repeat(900_000);
        for number in 0..ROOMS {
            let (mut member, _) = server.join_v1("churn", &format!("room{number}"));
            let body = json!({"room": format!("room{number}"), "message": text});
            assert_eq!(internal.post("/api/publish", &body).0, 200);
            // It reads, so memory is kept only for others.
            while member.json()["Message"] != Value::String(text.clone()) {}
            watch.look();
            if number % 2 == 0 {
                member.close();
            } else {
                let answer = member.ask(&json!({"Op": "leave", "Room": format!("room{number}")}));
                assert_eq!(answer["Op"], "ok");
            }
        }
    });
    assert!(laps(internal, "replay") >= 40.0, "{}", laps(internal, "replay"));
    assert!(taken_bytes(internal) <= BUDGET_BYTES as f64);
}

#[test]
fn long_endless_heads_are_limited_to_a_part_of_the_budget_and_get_503() {
    const HEADS: usize = 2000;
    let (server, internal) = start(&["--handshake-timeout", "1h"]);
    let mut heads = Vec::new();
    beside_healthy_rooms(&server, |watch| {
        let head = format!("GET / HTTP/1.1\r\nHost: hi\r\nX: {}", "x".repeat(7000));
        for _ in 0..HEADS {
            let mut wire = server.wire();
            wire.send_what_is_taken(head.as_bytes());
            heads.push(wire);
        }
        wait_for_laps(internal, "heads", 1.0, watch);
    });
    let held = internal.metric("hi_memory_bytes{what=\"heads\"}");
    assert!(held <= BUDGET_BYTES as f64 / 4.0 + 2048.0 * HEADS as f64, "{held}");
    let deadline = Instant::now() + PATIENCE;
    let refused = loop {
        assert!(Instant::now() < deadline, "no client is told");
        if let Some(refused) = heads.iter_mut().find(|wire| wire.has_something()) {
            break refused.answer();
        }
    };
    assert!(refused.status == 503 && refused.body.contains("short of memory"), "{refused:?}");
}

#[test]
fn connections_in_a_room_cannot_join_more_while_memory_is_used_up() {
    let (server, internal) = Server::start_with_internal(&["--memory-max", "16m", "--rate-limit", "0"]);
    let mut members = Vec::new();
    let refusal = 'all: loop {
        let (mut member, _) = server.v1(&format!("username=member{}", members.len()));
        for room in 0..32 {
            member.send_text(&json!({"Op": "join", "Room": format!("{}-{room}", members.len())}).to_string());
        }
        for _ in 0..32 {
            let answer = std::iter::repeat_with(|| member.json()).find(|answer| answer["Op"].is_string()).unwrap();
            if answer["Op"] == "err" {
                break 'all answer;
            }
        }
        members.push(member);
        assert!(members.len() < 3000, "96,000 rooms take more than 16 MiB");
    };
    assert_eq!(refusal["Code"], "too_many_rooms");
    assert!(refusal["Message"].as_str().unwrap().contains("short of memory"), "{refusal}");
    // The first room is everyone's.
    let _ = server.join("ann", "tea");
    assert!(internal.metric("hi_refused_requests_total{code=\"too_many_rooms\"}") >= 1.0);
}

#[test]
fn the_start_line_has_one_number() {
    let (server, internal) = start(&[]);
    assert!(server.wait_for_log("memory at most").contains("memory at most: 40 MiB"));
    for what in ["logs", "replay", "outboxes", "messages", "heads", "inboxes"] {
        let bytes = internal.metric(&format!("hi_memory_bytes{{what=\"{what}\"}}"));
        assert!(bytes < 1e5, "{what}: {bytes}");
    }
}
