//! The audit against a server that misbehaves on command: what went wrong is counted exactly and named, and nothing else is.

mod support;

use loadgen::results::{Run, Verdict};
use support::{Fault, MEASURED, MESSAGES, Manner, Server, close_frame, frame, loadgen, measure, short};

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

#[test]
fn a_good_server_is_sound() {
    let outcome = with(Fault::None);
    let run = outcome.sound();
    assert_eq!(run.deliveries, 10 * MEASURED);
    assert_eq!(run.deliveries_expected, run.deliveries);
    assert_eq!(run.latency.count, run.deliveries);
    assert_eq!(counts(run), (0, 0, 0, 0, 0));
    assert!(run.audit.first.is_empty());
    assert_eq!(run.timeline.iter().map(|second| second.deliveries).sum::<u64>(), run.deliveries);
    assert_eq!((run.connects.count, run.connects.handshake.count), (11, 11));
    assert!((0.9..1.5).contains(&run.seconds), "{}", run.seconds);
    let frame_bytes = 128 + 4;
    let of_measured = run.deliveries * frame_bytes;
    let with_echoes = of_measured / 10 * 11;
    // Counted by time, not by message: the edges may take one more fan-out or leave one out.
    assert!(run.bytes_received.abs_diff(with_echoes) <= 3 * 11 * frame_bytes, "{} {with_echoes}", run.bytes_received);
}

#[test]
fn lost_messages_are_counted_and_ten_are_named() {
    let outcome = with(Fault::Drops { member: 3, every: 10 });
    let run = outcome.failed();
    assert_eq!(counts(run), (12, 0, 0, 0, 0));
    assert_eq!(run.audit.first.len(), 10);
    assert!(run.audit.first.iter().all(|fault| fault.starts_with("client 3 ")), "{:?}", run.audit.first);
    assert!(run.audit.first[0].contains("message 10"), "{:?}", run.audit.first);
    assert!(reasons(run)[0].contains("12 messages were lost"), "{:?}", run.verdict);
    assert_eq!(run.deliveries, 10 * MEASURED - 10);
}

#[test]
fn losing_the_first_messages_is_a_loss_too() {
    let outcome = with(Fault::DropsFirst { member: 3, count: 70 });
    let run = outcome.failed();
    assert_eq!(counts(run), (50, 0, 0, 0, 0), "a client may need the warm-up to subscribe, and no longer");
    let outcome = with(Fault::DropsFirst { member: 3, count: 10 });
    outcome.sound();
}

#[test]
fn a_client_that_gets_nothing_is_named() {
    let outcome = with(Fault::DropsFirst { member: 3, count: u64::MAX });
    let run = outcome.failed();
    assert_eq!(counts(run), (MEASURED, 0, 0, 0, 0));
    assert!(run.audit.first[0].starts_with("client 3 "));
}

#[test]
fn doubled_messages_are_counted_and_named() {
    let outcome = with(Fault::Doubles { member: 5, every: 10 });
    let run = outcome.failed();
    assert_eq!(counts(run), (0, 12, 0, 0, 0));
    assert_eq!(run.audit.first.len(), 10);
    assert_eq!(run.audit.first[0], "client 5 got message 0 of publisher 0 again");
    assert_eq!(run.deliveries, 10 * MEASURED, "a second copy is no delivery");
}

#[test]
fn reordered_messages_are_neither_lost_nor_doubled() {
    let outcome = with(Fault::Swaps { member: 2, every: 10 });
    let run = outcome.failed();
    assert_eq!(counts(run), (0, 0, 12, 0, 0));
    let named = "client 2 got message 8 of publisher 0 after a later one";
    assert!(run.audit.first.iter().any(|fault| fault == named), "{:?}", run.audit.first);
    assert_eq!(run.deliveries, 10 * MEASURED);
}

#[test]
fn an_announced_loss_is_no_failure() {
    let told = vec!["loadgen-3".to_owned()];
    let outcome = with(Fault::Loses { members: vec![3], told, from: 50, to: 59 });
    assert_eq!(counts(outcome.sound()), (10, 0, 0, 10, 0));
}

#[test]
fn announcing_a_loss_to_somebody_else_does_not_excuse_it() {
    for other in ["loadgen-4", "loadgen-publisher-0"] {
        let told = vec![other.to_owned()];
        let outcome = with(Fault::Loses { members: vec![3], told, from: 50, to: 59 });
        assert_eq!(counts(outcome.failed()), (10, 0, 0, 0, 0), "told {other}");
    }
}

#[test]
fn a_connection_that_the_server_closes_is_named_with_the_code() {
    let bytes = close_frame(1011, "out of cheese");
    let outcome = with(Fault::Sends { member: 3, at: 60, bytes, end: true });
    let run = outcome.failed();
    assert_eq!(counts(run), (60, 0, 0, 0, 1), "what it missed is lost");
    let named = "client 3: the server closed: 1011 out of cheese";
    assert!(run.audit.first.iter().any(|fault| fault == named), "{:?}", run.audit.first);
}

#[test]
fn a_connection_that_ends_without_a_close_is_named() {
    let outcome = with(Fault::Sends { member: 3, at: 60, bytes: Vec::new(), end: true });
    let run = outcome.failed();
    assert_eq!(counts(run), (60, 0, 0, 0, 1));
    assert!(run.audit.first[0].contains("client 3: the server ended the connection without a Close"));
}

#[test]
fn an_end_that_comes_together_with_the_last_message_is_seen() {
    let outcome = with(Fault::EndsWith { member: 3, at: MESSAGES - 1 });
    assert_eq!(counts(outcome.failed()), (0, 0, 0, 0, 1));
}

#[test]
fn a_server_that_breaks_the_protocol_is_named() {
    for (bytes, what) in [
        (vec![0x81, 0x80, 0, 0, 0, 0], "a masked frame"),
        (frame(0xc1, b"x"), "a frame with reserved bits"),
        (frame(0x80, b"x"), "a continuation frame without a message"),
    ] {
        let outcome = with(Fault::Sends { member: 3, at: 60, bytes, end: false });
        let run = outcome.failed();
        assert_eq!(counts(run), (60, 0, 0, 0, 1));
        let named = format!("client 3: the server broke the WebSocket protocol: {what}");
        assert!(run.audit.first[0].starts_with(&named), "{:?}", run.audit.first);
    }
}

#[test]
fn pings_are_answered() {
    assert_eq!(counts(with(Fault::Pings).sound()), (0, 0, 0, 0, 0));
}

#[test]
fn messages_in_fragments_are_messages() {
    let outcome = with(Fault::Fragments);
    assert_eq!(outcome.sound().deliveries, 10 * MEASURED);
}

#[test]
fn clients_that_leave_and_come_back_are_no_false_alarm() {
    let args = short(&["--churn", "20", "--duration", "2s"]);
    let outcome = measure(|| Server::start(Fault::None), &args);
    let run = outcome.sound();
    assert!(run.connects.handshake.count > 30, "they did leave: {}", run.connects.handshake.count);
    assert!(run.deliveries > 1500, "and were back: {}", run.deliveries);
    assert_eq!(run.plan.churn_per_second, 20.0);
}

#[test]
fn a_storm_is_no_false_alarm() {
    let outcome = measure(|| Server::start(Fault::None), &short(&["--storm"]));
    let run = outcome.sound();
    let storm = run.storm.as_ref().expect("a storm");
    assert_eq!((storm.connections, storm.handshake.count), (10, 10));
    assert!(storm.seconds < 5.0, "{}", storm.seconds);
    assert_eq!(run.connects.handshake.count, 11, "the storm's handshakes are told apart");
}

#[test]
fn who_gets_nothing_after_it_came_back_is_named() {
    let args = short(&["--storm", "--duration", "4s"]);
    let outcome = measure(|| Server::start(Fault::ForgetsReturned), &args);
    let run = outcome.failed();
    assert!(run.audit.lost > 10 * 50, "{:?}", run.audit);
}

#[test]
fn a_storm_does_not_wait_for_those_that_were_gone_before() {
    let bytes = close_frame(1011, "");
    let start = || Server::start(Fault::Sends { member: 3, at: 30, bytes: bytes.clone(), end: true });
    let outcome = measure(start, &short(&["--storm", "--duration", "2s"]));
    let run = outcome.failed();
    assert_eq!(run.audit.closed, 1);
    assert!(run.storm.as_ref().expect("a storm").seconds < 5.0);
}

#[test]
fn threads_without_clients_are_no_obstacle() {
    for publishers in ["1", "2"] {
        let args = short(&["--storm", "--threads", "3", "--publishers", publishers, "--clients", "1"]);
        measure(|| Server::start(Fault::None), &args).sound();
    }
}

#[test]
fn slow_clients_are_not_held_against_the_server() {
    let outcome = measure(|| Server::start(Fault::None), &short(&["--slow", "20%", "--size", "1000"]));
    let run = outcome.sound();
    assert_eq!(run.plan.slow_clients, 2);
    assert_eq!(run.deliveries, 8 * MEASURED, "their deliveries do not count");
}

#[test]
fn several_publishers_and_rooms() {
    let args = short(&["--rooms", "3", "--publishers", "4"]);
    let outcome = measure(|| Server::start(Fault::None), &args);
    let run = outcome.sound();
    assert_eq!(run.deliveries, 10 * MEASURED, "each room has 100 messages a second, all its publishers together");
    assert_eq!(run.connects.count, 10 + 3 * 4);
}

#[test]
fn templates_speak_another_dialect() {
    for rooms in ["1", "2"] {
        let server = Server::start_with(Fault::None, Manner::Subscribe);
        let url = server.url("/");
        let publish = r#"{"room":"{room}","data":"{payload}"}"#;
        let outcome = loadgen(&short(&["--url", &url, "--rooms", rooms, "--subscribe", "sub {room}", "--publish", publish]));
        let run = outcome.run();
        assert_eq!(counts(run), (0, 0, 0, 0, 0), "{:?}", run.audit);
        assert_eq!(run.deliveries, 10 * MEASURED);
        assert_eq!(run.plan.dialect, "template");
        assert_eq!(server.misunderstood(), [""; 0]);
    }
}

#[test]
fn publishers_may_have_a_url_of_their_own() {
    let server = Server::start(Fault::None);
    let (url, publish_url) = (server.room_url(), server.url("/publish/{room}"));
    let outcome = loadgen(&short(&["--url", &url, "--publish-url", &publish_url]));
    let run = outcome.run();
    assert_eq!(counts(run), (0, 0, 0, 0, 0), "{:?}", run.audit);
    assert_eq!(run.deliveries, 10 * MEASURED);
    let frame_bytes = 128 + 4;
    assert!(run.bytes_received <= (10 * MEASURED + 30) * frame_bytes, "publishers hear nothing there");
}
