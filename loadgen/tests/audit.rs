//! The audit against a server that misbehaves on command: faults are counted exactly and described, and nothing else is
//! reported.

mod support;

use loadgen::results::{Run, Verdict};
use support::fault::{Fault, Manner};
use support::server::{Server, close_frame, frame};
use support::{MEASURED, MESSAGES, beside_each_other, loadgen, measure, short};

/// A short run against a server with this fault.
fn with(fault: Fault) -> support::Outcome {
    measure(|| Server::start(fault.clone()), &short(&[]))
}

fn counts(run: &Run) -> (u64, u64, u64, u64, u64) {
    let audit = &run.audit;
    (audit.lost, audit.doubled, audit.reordered, audit.announced, audit.closed)
}

fn reasons(run: &Run) -> &[String] {
    match &run.verdict {
        Verdict::Sound => &[],
        Verdict::Failed(reasons) | Verdict::Invalid(reasons) => reasons,
    }
}

/// As loadgen prints it, below a million.
fn thousands(number: u64) -> String {
    if number < 1000 { number.to_string() } else { format!("{},{:03}", number / 1000, number % 1000) }
}

#[test]
fn a_good_server_passes() {
    let outcome = with(Fault::None);
    let run = outcome.sound();
    assert_eq!(run.deliveries, 10 * MEASURED);
    assert_eq!(run.deliveries_expected, run.deliveries);
    assert_eq!(run.latency.count, run.deliveries);
    assert_eq!(counts(run), (0, 0, 0, 0, 0));
    assert!(run.audit.first.is_empty());
    assert_eq!(run.timeline.iter().map(|second| second.deliveries).sum::<u64>(), run.deliveries);
    assert_eq!((run.connects.count, run.connects.handshake.count), (11, 11));
    assert!((0.9..3.0).contains(&run.seconds), "{}", run.seconds);
    let frame_bytes = 128 + 4;
    let of_measured = run.deliveries * frame_bytes;
    let with_echoes = of_measured / 10 * 11;
    // Counted by time, not by message: a few fan-outs more or less may fall into it, one per 10 ms of delay.
    let fan_outs = 3 + run.latency.max_us / 10_000;
    assert!(
        run.bytes_received.abs_diff(with_echoes) <= fan_outs * 11 * frame_bytes,
        "{} {with_echoes}",
        run.bytes_received
    );
}

#[test]
fn every_fault_is_counted_and_described() {
    let told = |name: &str| Fault::Loses { members: vec![3], told: vec![name.to_owned()], from: 50, to: 59 };
    let sends = |bytes: Vec<u8>, end| Fault::Sends { member: 3, at: 60, bytes, end };
    // Lost, duplicated, reordered, announced, closed.
    let cases = [
        (
            Fault::Drops { member: 3, every: 10 },
            (12, 0, 0, 0, 0),
            "client 3 got message 10 of publisher 0, but not the 1 before it",
        ),
        (
            Fault::DropsFirst { member: 3, count: 70 },
            (50, 0, 0, 0, 0),
            "client 3 got message 70 of publisher 0, but not the 50 before it",
        ),
        (
            Fault::DropsFirst { member: 3, count: u64::MAX },
            (MEASURED, 0, 0, 0, 0),
            "client 3 never got the last 100 messages before number 120",
        ),
        (Fault::Doubles { member: 3, every: 10 }, (0, 12, 0, 0, 0), "client 3 got message 0 of publisher 0 again"),
        (
            Fault::Swaps { member: 3, every: 10 },
            (0, 0, 12, 0, 0),
            "client 3 got message 8 of publisher 0 after a later one",
        ),
        // Announcing a loss to another client doesn't excuse it.
        (told("loadgen-4"), (10, 0, 0, 0, 0), "client 3 got message 60 of publisher 0, but not the 10 before it"),
        (
            told("loadgen-publisher-0"),
            (10, 0, 0, 0, 0),
            "client 3 got message 60 of publisher 0, but not the 10 before it",
        ),
        (
            sends(close_frame(1011, "out of cheese"), true),
            (60, 0, 0, 0, 1),
            "client 3: the server closed: 1011 out of cheese",
        ),
        (sends(Vec::new(), true), (60, 0, 0, 0, 1), "client 3: the server ended the connection without a Close"),
        (
            sends(vec![0x81, 0x80, 0, 0, 0, 0], false),
            (60, 0, 0, 0, 1),
            "client 3: the server broke the WebSocket protocol: a masked frame from a server",
        ),
        (
            sends(frame(0xc1, b"x"), false),
            (60, 0, 0, 0, 1),
            "client 3: the server broke the WebSocket protocol: a frame with reserved bits, without an extension",
        ),
        (
            sends(frame(0x80, b"x"), false),
            (60, 0, 0, 0, 1),
            "client 3: the server broke the WebSocket protocol: a continuation frame without a message",
        ),
        (
            Fault::EndsWith { member: 3, at: MESSAGES - 1 },
            (0, 0, 0, 0, 1),
            "client 3: the server ended the connection without a Close",
        ),
    ];
    beside_each_other(&cases, |(fault, expected, named)| {
        let outcome = with(fault.clone());
        let run = outcome.failed();
        assert_eq!(counts(run), *expected, "{fault:?}: {:?}", run.audit);
        let first = &run.audit.first;
        assert!(first.iter().any(|fault| fault == named), "{fault:?}: {first:?}");
        assert!(first.iter().all(|fault| fault.starts_with("client 3")), "{fault:?}: {first:?}");
        let (lost, doubled, reordered, _, closed) = *expected;
        assert_eq!(first.len() as u64, (lost.min(1) + doubled + 2 * reordered + closed).clamp(first.len() as u64, 10));
        let reasons = reasons(run).join("; ");
        for (count, what) in [
            (lost, "messages were lost, and the server didn't announce it"),
            (doubled, "messages arrived twice"),
            (reordered, "messages arrived out of order"),
            (closed, "connections were closed or broke"),
        ] {
            assert_eq!(reasons.contains(&format!("{count} {what}")), count > 0, "{fault:?}: {reasons}");
        }
        // Duplicates and late messages were delivered once; losses in the warm-up don't count in the measured time.
        let lost_of_measured = if matches!(fault, Fault::Drops { .. }) { 10 } else { lost };
        assert_eq!(run.deliveries, 10 * MEASURED - lost_of_measured, "{fault:?}");
        assert_eq!(run.deliveries_expected, 10 * MEASURED, "{fault:?}");
    });
}

#[test]
fn rooms_publishers_and_dialects() {
    let cases: [fn(); 4] = [
        messages_from_another_room_are_a_fault,
        several_publishers_and_rooms,
        templates_speak_another_dialect,
        publishers_may_have_a_url_of_their_own,
    ];
    beside_each_other(&cases, |case| case());
}

fn messages_from_another_room_are_a_fault() {
    let outcome = measure(|| Server::start(Fault::ForgetsRooms), &short(&["--rooms", "2"]));
    let run = outcome.failed();
    assert_eq!(counts(run), (0, 0, 0, 0, 0));
    assert_eq!(run.deliveries, 10 * MEASURED);
    assert_eq!(run.audit.astray, 10 * MESSAGES);
    assert_eq!(reasons(run)[0], format!("{} messages arrived at clients in another room", 10 * MESSAGES));
    assert!(outcome.stdout.contains(&format!("{} from another room", thousands(10 * MESSAGES))), "{}", outcome.stdout);
    assert!(run.audit.first[0].contains(" of room "), "{:?}", run.audit.first);
}

#[test]
fn truncated_or_altered_messages_are_a_fault() {
    let start = || Server::start(Fault::Damages { member: 3, cut_off: 40, altered: 60 });
    let outcome = measure(start, &short(&[]));
    let run = outcome.failed();
    assert_eq!((counts(run), run.audit.damaged), ((0, 0, 0, 0, 0), 2));
    assert_eq!(reasons(run)[0], "2 messages arrived cut off or altered");
    let named = [40, 60].map(|number| format!("client 3 got message {number} of publisher 0 cut off or altered"));
    assert_eq!(run.audit.first, named);
}

#[test]
fn a_client_that_does_not_reconnect_after_a_storm_is_reported() {
    // One trial connection per address, ten clients and a publisher; then six more.
    let start = || Server::start(Fault::Full { after: 2 + 11 + 6 });
    let outcome = measure(start, &short(&["--storm"]));
    let run = outcome.failed();
    let storm = run.storm.as_ref().expect("a storm");
    assert_eq!((storm.connections, storm.missing, storm.handshake.count), (10, 4, 6));
    assert_eq!(run.audit.closed, 4, "each counts once, however often it retried");
    assert!(outcome.stdout.contains("10 connections cut, 4 not reconnected after "), "{}", outcome.stdout);
}

#[test]
fn harmless_behaviour_is_no_fault() {
    let told = Fault::Loses { members: vec![3], told: vec!["loadgen-3".to_owned()], from: 50, to: 59 };
    let announced = (10, 0, 0, 10, 0);
    let nothing = (0, 0, 0, 0, 0);
    let cases = [
        (told, announced),
        // A client may need the warm-up to subscribe.
        (Fault::DropsFirst { member: 3, count: 10 }, nothing),
        (Fault::Pings, nothing),
        (Fault::Fragments, nothing),
    ];
    beside_each_other(&cases, |(fault, expected)| {
        let outcome = with(fault.clone());
        let run = outcome.sound();
        assert_eq!(counts(run), *expected, "{fault:?}");
        let due = if matches!(fault, Fault::DropsFirst { .. }) { run.deliveries } else { 10 * MEASURED };
        assert_eq!(run.deliveries_expected, due, "{fault:?}");
    });
}

#[test]
fn leaving_and_reconnecting() {
    let cases: [fn(); 5] = [
        clients_that_reconnect_are_no_false_alarm,
        a_storm_is_no_false_alarm,
        a_client_that_gets_nothing_after_a_reconnect_is_reported,
        a_storm_does_not_wait_for_clients_lost_before,
        threads_without_clients_do_no_harm,
    ];
    beside_each_other(&cases, |case| case());
}

fn clients_that_reconnect_are_no_false_alarm() {
    let args = short(&["--churn", "20", "--duration", "2s"]);
    let outcome = measure(|| Server::start(Fault::None), &args);
    let run = outcome.sound();
    assert!(run.connects.handshake.count > 20, "they did leave: {}", run.connects.handshake.count);
    assert!(run.deliveries > 1000, "and reconnected: {}", run.deliveries);
    assert_eq!(run.plan.churn_per_second, 20.0);
}

fn a_storm_is_no_false_alarm() {
    let outcome = measure(|| Server::start(Fault::None), &short(&["--storm"]));
    let run = outcome.sound();
    let storm = run.storm.as_ref().expect("a storm");
    assert_eq!((storm.connections, storm.handshake.count), (10, 10));
    assert!(storm.seconds < 5.0, "{}", storm.seconds);
    assert_eq!(run.connects.handshake.count, 11, "the storm's handshakes are counted separately");
}

fn a_client_that_gets_nothing_after_a_reconnect_is_reported() {
    let args = short(&["--storm", "--duration", "4s"]);
    let outcome = measure(|| Server::start(Fault::ForgetsReturned), &args);
    let run = outcome.failed();
    assert!(run.audit.lost > 10 * 50, "{:?}", run.audit);
}

fn a_storm_does_not_wait_for_clients_lost_before() {
    let bytes = close_frame(1011, "");
    let start = || Server::start(Fault::Sends { member: 3, at: 30, bytes: bytes.clone(), end: true });
    let outcome = measure(start, &short(&["--storm", "--duration", "2s"]));
    let run = outcome.failed();
    assert_eq!(run.audit.closed, 1);
    assert!(run.storm.as_ref().expect("a storm").seconds < 5.0);
}

fn threads_without_clients_do_no_harm() {
    let few = ["--threads", "3", "--clients", "1"];
    let cases = [&["--storm"][..], &["--storm", "--publishers", "2"], &["--churn", "5"]];
    beside_each_other(&cases, |args| {
        measure(|| Server::start(Fault::None), &short(&[&few, *args].concat())).sound();
    });
}

#[test]
fn slow_or_cut_off() {
    let cases: [fn(); 5] = [
        slow_clients_are_no_fault_of_the_server,
        slow_clients_closed_as_too_slow_are_reported_and_no_fault,
        a_fast_client_closed_as_too_slow_is_a_fault,
        losses_of_a_slow_client_are_not_expected_deliveries,
        messages_of_a_disconnected_publisher_are_not_lost,
    ];
    beside_each_other(&cases, |case| case());
}

fn slow_clients_are_no_fault_of_the_server() {
    let outcome = measure(|| Server::start(Fault::None), &short(&["--slow", "20%", "--size", "1000"]));
    let run = outcome.sound();
    assert_eq!(run.plan.slow_clients, 2);
    assert_eq!(run.deliveries, 8 * MEASURED, "their deliveries don't count");
}

fn slow_clients_closed_as_too_slow_are_reported_and_no_fault() {
    // The last one is the slow one.
    let bytes = close_frame(4101, "too slow");
    let fault = Fault::Sends { member: 9, at: 30, bytes, end: true };
    let outcome = measure(|| Server::start(fault.clone()), &short(&["--slow", "1"]));
    let run = outcome.sound();
    assert_eq!((run.audit.slow_closed, run.audit.closed_as_too_slow, run.audit.lost), (1, 0, 0), "{:?}", run.audit);
    assert!(outcome.stdout.contains("1 slow client closed as too slow"), "{}", outcome.stdout);
    assert_eq!((run.deliveries, run.deliveries_expected), (9 * MEASURED, 9 * MEASURED));
}

fn a_fast_client_closed_as_too_slow_is_a_fault() {
    let fault = Fault::Sends { member: 3, at: 60, bytes: close_frame(4101, "too slow"), end: true };
    let outcome = measure(|| Server::start(fault.clone()), &short(&[]));
    let run = outcome.run();
    assert_eq!((counts(run), run.audit.closed_as_too_slow), ((60, 0, 0, 0, 1), 1), "{:?}", run.audit);
    assert_eq!(run.audit.first[0], "client 3: the server closed: 4101 too slow");
    assert!(run.audit.first.iter().all(|fault| fault.starts_with("client 3")), "{:?}", run.audit);
    assert_eq!(run.deliveries_expected, 10 * MEASURED);
    // If this machine was too busy in every try, it may indeed have been too slow.
    let told = match run.verdict {
        Verdict::Invalid(_) => "1 clients were closed as too slow (4101), and may have been",
        _ => "1 of them as too slow (4101): the load generator was up to",
    };
    assert!(reasons(run).iter().any(|reason| reason.starts_with(told)), "{:?}", run.verdict);
    assert!(outcome.stdout.contains("1 connection closed or broken, 1 of them as too slow"), "{}", outcome.stdout);
}

fn losses_of_a_slow_client_are_not_expected_deliveries() {
    let fault = Fault::Loses { members: vec![9], told: vec!["loadgen-9".to_owned()], from: 5, to: 30 };
    let outcome = measure(|| Server::start(fault.clone()), &short(&["--slow", "1"]));
    let run = outcome.sound();
    assert_eq!(run.deliveries_expected, 9 * MEASURED, "{:?}", run.audit);
}

fn messages_of_a_disconnected_publisher_are_not_lost() {
    let at = 59;
    let outcome = measure(|| Server::start(Fault::CutsPublishers { at }), &short(&[]));
    let run = outcome.failed();
    let audit = &run.audit;
    assert_eq!((audit.closed, audit.never_sent, audit.lost % 10), (1, 0, 0), "{audit:?}");
    // Messages that it sent before it saw the end are lost, at each client.
    assert_eq!(at + 1 + audit.lost / 10 + audit.unsendable, MESSAGES, "{audit:?}");
    assert_eq!(run.deliveries, 10 * (at + 1 - (MESSAGES - MEASURED)));
    assert_eq!(run.deliveries_expected, run.deliveries + audit.lost);
    let unsendable = format!("{} messages could not be sent", audit.unsendable);
    assert!(reasons(run).iter().any(|reason| reason.starts_with(&unsendable)), "{:?}", run.verdict);
}

fn several_publishers_and_rooms() {
    let args = short(&["--rooms", "3", "--publishers", "4"]);
    let outcome = measure(|| Server::start(Fault::None), &args);
    let run = outcome.sound();
    assert_eq!(run.deliveries, 10 * MEASURED, "each room has 100 messages per second from all its publishers together");
    assert_eq!(run.connects.count, 10 + 3 * 4);
}

fn templates_speak_another_dialect() {
    for rooms in ["1", "2"] {
        let server = Server::start_with(Fault::None, Manner::Subscribe);
        let url = server.url("/");
        let publish = r#"{"room":"{room}","data":"{payload}"}"#;
        // No answer confirms a subscription; the warm-up leaves time for it.
        let wish = ["--subscribe", "sub {room}", "--publish", publish, "--warmup", "1s"];
        let outcome = loadgen(&short(&[&["--url", &url, "--rooms", rooms], &wish[..]].concat()));
        let run = outcome.run();
        assert_eq!(counts(run), (0, 0, 0, 0, 0), "{:?}", run.audit);
        assert_eq!(run.deliveries, 10 * MEASURED);
        assert_eq!(run.plan.dialect, "template");
        assert_eq!(server.misunderstood(), [""; 0]);
    }
}

fn publishers_may_have_a_url_of_their_own() {
    let server = Server::start(Fault::None);
    let (url, publish_url) = (server.room_url(), server.url("/publish/{room}"));
    let outcome = loadgen(&short(&["--url", &url, "--publish-url", &publish_url]));
    let run = outcome.run();
    assert_eq!(counts(run), (0, 0, 0, 0, 0), "{:?}", run.audit);
    assert_eq!(run.deliveries, 10 * MEASURED);
    let members = server.members();
    assert!(members.len() >= 10 && members.iter().all(|name| !name.contains("publisher")), "{members:?}");
}
