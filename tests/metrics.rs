//! Metrics of a running server: they change by exactly the right amounts, and the dashboard uses no others.

#[cfg(feature = "cluster")]
#[path = "support/broker.rs"]
mod broker;
mod support;

use std::collections::BTreeSet;

use serde_json::{Value, json};
use support::internal::Internal;
use support::wire::{self, BINARY, FIN, TEXT};
use support::{Client, Server};
use tungstenite::protocol::CloseFrame;

/// Enough connections that both of two shards have some of them.
const MEMBERS: usize = 10;
/// Pings are bytes, too.
const NO_PINGS: [&str; 2] = ["--ping-interval", "1h"];

/// The names of all possible samples of a text, including families without samples so far.
fn sample_names(text: &str) -> BTreeSet<String> {
    let families = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let names = families.flat_map(|(family, kind)| {
        let suffixes: &[_] = match kind {
            "histogram" => &["_bucket", "_count", "_sum"],
            "counter" | "gauge" => &[""],
            other => panic!("{family} is a {other}"),
        };
        suffixes.iter().map(move |suffix| format!("{family}{suffix}"))
    });
    names.collect()
}

/// Counts of a histogram by upper bound; each includes those before it.
fn buckets(text: &str, name: &str) -> Vec<(f64, f64)> {
    let begin = format!("{name}_bucket{{le=\"");
    let lines = text.lines().filter_map(|line| line.strip_prefix(&begin)?.split_once("\"} "));
    let number = |text: &str| text.replace("+Inf", "inf").parse().expect("a number");
    lines.map(|(bound, count)| (number(bound), number(count))).collect()
}

#[test]
fn every_metric_is_there() {
    let (_server, internal) = Server::start_with_internal(&[]);
    let names = sample_names(&internal.metrics());
    for name in [
        "hi_accept_pauses_total",
        "hi_accepts_total",
        "hi_address_limited_total",
        "hi_addresses",
        "hi_addresses_untracked_total",
        "hi_backend",
        "hi_build_info",
        "hi_config_reload_success",
        "hi_config_reload_timestamp_seconds",
        "hi_connections",
        "hi_deliveries_total",
        "hi_delivery_seconds_bucket",
        "hi_disconnects_total",
        "hi_flush_messages_count",
        "hi_gaps_total",
        "hi_handshake_failures_total",
        "hi_instance_info",
        "hi_internal_connections",
        "hi_internal_errors_total",
        "hi_conflated_messages_total",
        "hi_lapped_total",
        "hi_log_lines_dropped_total",
        "hi_messages_in_total",
        "hi_open_files",
        "hi_open_files_max",
        "hi_orders_dropped_total",
        "hi_ping_timeouts_total",
        "hi_rate_limited_total",
        "hi_received_bytes_total",
        "hi_refused_requests_total",
        "hi_relay_queue_bytes",
        "hi_replies_unread_total",
        "hi_replay_requests_total",
        "hi_rooms",
        "hi_send_batch_size_count",
        "hi_sent_bytes_total",
        "hi_shard_busy_seconds_total",
        "hi_sleeping_rooms",
        "hi_sleeping_rooms_dropped_total",
        "hi_untrusted_headers_total",
    ] {
        assert!(names.contains(name), "no {name}");
    }
}

fn dashboard() -> Value {
    serde_json::from_str(include_str!("../docs/grafana.json")).expect("JSON")
}

/// The names that only a server of a cluster has.
fn names_of_a_cluster() -> BTreeSet<String> {
    #[cfg(feature = "cluster")]
    {
        let log = broker::Broker::start();
        let (_server, internal) = Server::start_with_internal(&["--cluster", &log.url()]);
        let names = sample_names(&internal.metrics());
        names.into_iter().filter(|name| name.starts_with("hi_cluster_")).collect()
    }
    #[cfg(not(feature = "cluster"))]
    BTreeSet::new()
}

#[test]
fn the_dashboard_begins_with_what_decides_and_turns_red() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let first: Vec<_> = panels[..5].iter().map(|panel| panel["title"].as_str().unwrap()).collect();
    let deciding =
        ["Public path", "Failed handshakes per minute", "Delivery p99", "Gaps per minute", "File descriptors free"];
    assert_eq!(first, deciding);
    for panel in &panels[..5] {
        let steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"].as_array().expect("thresholds");
        assert!(steps.iter().any(|step| step["color"] == "red"), "{panel}");
        assert!(steps.iter().any(|step| step["color"] == "green"), "{panel}");
    }
    let mut ids = BTreeSet::new();
    let rows = panels.iter().filter(|panel| panel["type"] == "row");
    assert!(rows.clone().all(|row| row["collapsed"] == true), "rows are closed at first");
    assert!(rows.clone().count() > 2);
    for panel in panels.iter().chain(rows.flat_map(|row| row["panels"].as_array().unwrap())) {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{} has an id that another panel has", panel["title"]);
        let place = &panel["gridPos"];
        assert!(place["x"].as_u64().unwrap() + place["w"].as_u64().unwrap() <= 24, "{}", panel["title"]);
    }
}

#[test]
fn the_dashboard_names_only_metrics_that_exist() {
    // The canary's metrics exist where there is a public URL; that nothing answers there doesn't matter here. A server
    // without the doctor has no canary, and the names of its metrics are the only ones that are written out.
    let public: &[&str] = if cfg!(feature = "doctor") { &["--public-url", "ws://127.0.0.1:1/ws"] } else { &[] };
    let (server, internal) = Server::start_with_internal(public);
    if !public.is_empty() {
        server.wait_for_log("public path");
    }
    let mut names = sample_names(&internal.metrics());
    names.extend(names_of_a_cluster());
    if !cfg!(feature = "doctor") {
        names.extend(
            ["dns_addresses", "path_instance_match", "path_ok", "path_seconds"].map(|name| format!("hi_public_{name}")),
        );
    }
    let dashboard = dashboard();
    let mut named = BTreeSet::new();
    let mut queries = 0;
    let mut values = vec![&dashboard];
    while let Some(value) = values.pop() {
        match value {
            Value::Array(list) => values.extend(list),
            Value::Object(fields) => {
                let query = fields.get("expr").or_else(|| fields.get("definition")).and_then(Value::as_str);
                queries += usize::from(query.is_some());
                let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
                let words = query.unwrap_or_default().split(|c| !is_name(c)).filter(|word| word.starts_with("hi_"));
                named.extend(words.map(str::to_owned));
                values.extend(fields.values());
            }
            _ => {}
        }
    }
    assert!(queries > 20, "{queries}");
    named.retain(|name| cfg!(feature = "cluster") || !name.starts_with("hi_cluster_"));
    assert_eq!(named.difference(&names).collect::<Vec<_>>(), Vec::<&String>::new());
    // New metrics have to be on the dashboard.
    assert_eq!(names.difference(&named).collect::<Vec<_>>(), Vec::<&String>::new());
}

#[test]
fn the_alert_rules_name_only_metrics_that_exist() {
    let (_server, internal) = Server::start_with_internal(&[]);
    let mut names = sample_names(&internal.metrics());
    names.extend(names_of_a_cluster());
    let rules = include_str!("../docs/alerts.yml");
    let words = rules.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| word.starts_with("hi_"));
    let of_canary = |name: &str| name == "hi_public_path_ok";
    let left_out = |name: &str| cfg!(not(feature = "cluster")) && name.starts_with("hi_cluster_");
    assert!(words.clone().count() >= 6);
    for name in words {
        assert!(names.contains(name) || of_canary(name) || left_out(name), "{name}");
    }
}

#[test]
fn connections_and_their_ends_are_counted_by_dialect_and_code() {
    let (server, internal) = Server::start_with_internal(&[]);
    let closed =
        |code: &str, count| internal.wait_for_metric(&format!("hi_disconnects_total{{code=\"{code}\"}}"), count);
    let chat: Vec<_> = (0..4).map(|number| server.join_quietly(&format!("u{number}"), "tea")).collect();
    let mut raw: Vec<_> = (0..6).map(|_| server.upgraded("/raw/data")).collect();
    assert_eq!(internal.metric("hi_connections{dialect=\"v0\"}"), 4.0);
    assert_eq!(internal.metric("hi_connections{dialect=\"raw\"}"), 6.0);
    assert_eq!(internal.metric("hi_rooms{kind=\"chat\"}"), 1.0);
    assert_eq!(internal.metric("hi_accepts_total"), 10.0);
    assert_eq!(internal.metric("hi_instance_info{instance=\"x\"}".replace("\"x\"", &instance(&server)).as_str()), 1.0);
    // With their own code, an unknown one, none, without a Close, and for breaking the protocol.
    for (code, counted) in [(1000u16, "1000"), (3999, "other")] {
        let mut wire = raw.pop().unwrap();
        wire.send(wire::close_frame(code, b""));
        wire.expect_close(code);
        closed(counted, 1.0);
    }
    let mut wire = raw.pop().unwrap();
    wire.send(wire::frame(FIN | wire::CLOSE, b""));
    closed("1005", 1.0);
    drop(raw.pop());
    closed("1006", 1.0);
    let mut wire = raw.pop().unwrap();
    wire.send([0x8f, 0x80, 0, 0, 0, 0]);
    wire.expect_close(1002);
    closed("1002", 1.0);
    let mut taken = server.websocket("/ws?username=u0&room=tea");
    taken.expect_system("User u0 is already in room.");
    assert_eq!(taken.expect_close().0, 4002);
    closed("4002", 1.0);
    for mut client in chat {
        client.socket.close(Some(CloseFrame { code: 1001.into(), reason: "".into() })).unwrap();
        while client.socket.read().is_ok() {}
    }
    closed("1001", 4.0);
    internal.wait_for_metric("hi_connections{dialect=\"v0\"}", 0.0);
    internal.wait_for_metric("hi_connections{dialect=\"raw\"}", 1.0);
    assert_eq!(internal.metric("hi_rooms{kind=\"chat\"}"), 0.0);
    assert_eq!(internal.metric("hi_rooms{kind=\"raw\"}"), 1.0);
    // Each is counted once.
    let text = internal.metrics();
    let ends = text.lines().filter_map(|line| line.strip_prefix("hi_disconnects_total{")?.split_once("} "));
    assert_eq!(ends.map(|(_, count)| count.parse::<u64>().unwrap()).sum::<u64>(), 10);
}

/// The instance of a server with quotation marks, as in its echo.
fn instance(server: &Server) -> String {
    let answer = server.get("/-/doctor/echo");
    let body = answer.split("\r\n\r\n").nth(1).expect("a body");
    serde_json::from_str::<Value>(body).expect("JSON")["instance"].to_string()
}

#[test]
fn messages_deliveries_and_bytes_are_counted_exactly() {
    const MESSAGES: usize = 50;
    let (server, internal) = Server::start_with_internal(&NO_PINGS);
    let mut members: Vec<_> = (0..MEMBERS).map(|_| server.wire()).collect();
    let mut sent = 0;
    for member in &mut members {
        member.send(wire::handshake("/raw/data"));
        sent += member.expect_101().head.len();
    }
    internal.wait_for_metric("hi_sent_bytes_total", sent as f64);
    let payload = [7; 100];
    for _ in 0..MESSAGES {
        members[0].send(wire::frame(FIN | BINARY, &payload));
        members.iter_mut().for_each(|member| member.expect_frame(BINARY, payload));
    }
    let deliveries = (MESSAGES * MEMBERS) as f64;
    internal.wait_for_metric("hi_deliveries_total", deliveries);
    assert_eq!(internal.metric("hi_messages_in_total{dialect=\"raw\"}"), MESSAGES as f64);
    // 2 bytes of header; clients also mask.
    assert_eq!(internal.metric("hi_sent_bytes_total"), (sent + MESSAGES * MEMBERS * 102) as f64);
    assert_eq!(internal.metric("hi_received_bytes_total"), (MESSAGES * 106) as f64);
    assert_eq!(internal.ask("POST", "/pub/data", &[("Content-Type", "text/plain")], b"x").status, 200);
    members.iter_mut().for_each(|member| member.expect_frame(TEXT, "x"));
    internal.wait_for_metric("hi_deliveries_total", deliveries + MEMBERS as f64);
    assert_eq!(internal.metric("hi_messages_in_total{dialect=\"api\"}"), 1.0);
    // A publisher without echo: one delivery fewer.
    let mut quiet = server.upgraded("/raw/data?echo=0");
    quiet.send(wire::frame(FIN | BINARY, &payload));
    members.iter_mut().for_each(|member| member.expect_frame(BINARY, payload));
    internal.wait_for_metric("hi_deliveries_total", deliveries + 2.0 * MEMBERS as f64);
    let batches = buckets(&internal.metrics(), "hi_send_batch_size");
    assert_eq!(batches.last().unwrap().1, internal.metric("hi_send_batch_size_count"));
    assert!(internal.metric("hi_send_batch_size_sum") >= deliveries, "every delivery here was a separate send");
    for shard in 0..2 {
        assert!(internal.metric(&format!("hi_shard_busy_seconds_total{{shard=\"{shard}\"}}")) > 0.0);
        assert_eq!(internal.metric(&format!("hi_relay_queue_bytes{{shard=\"{shard}\"}}")), 0.0);
        assert_eq!(internal.metric(&format!("hi_relay_dropped_total{{shard=\"{shard}\"}}")), 0.0);
    }
}

#[test]
fn a_sampled_message_is_timed_once_for_every_member() {
    let (server, internal) = Server::start_with_internal(&NO_PINGS);
    let mut members: Vec<_> = (0..MEMBERS).map(|_| server.upgraded("/raw/data")).collect();
    assert_eq!(internal.metric("hi_delivery_seconds_count"), 0.0, "notices and handshakes are no messages");
    // The first message of a shard is always sampled, and so is what is published over HTTP.
    for (times, publish) in [(1.0, true), (2.0, false)] {
        match publish {
            true => assert_eq!(internal.ask("POST", "/pub/data", &[("Content-Type", "text/plain")], b"x").status, 200),
            false => members[0].send(wire::frame(FIN | TEXT, b"x")),
        }
        members.iter_mut().for_each(|member| member.expect_frame(TEXT, "x"));
        internal.wait_for_metric("hi_delivery_seconds_count", times * MEMBERS as f64);
    }
    let text = internal.metrics();
    let delivery = buckets(&text, "hi_delivery_seconds");
    assert_eq!(*delivery.last().unwrap(), (f64::INFINITY, 2.0 * MEMBERS as f64));
    assert!(delivery.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{delivery:?}");
    let seconds = internal.metric("hi_delivery_seconds_sum");
    assert!(seconds > 0.0 && seconds < support::PATIENCE.as_secs_f64() * MEMBERS as f64, "{seconds}");
}

#[test]
fn rate_limited_messages_are_counted_and_not_published() {
    let (server, internal) = Server::start_with_internal(&["--rate-limit", "1", "--rate-burst", "3"]);
    let mut ann = server.join("ann", "tea");
    (0..10).for_each(|_| ann.say("tea", "x"));
    let mut refused = 0.0;
    for _ in 0..10 {
        refused += f64::from(ann.json()["From"] == "hi");
    }
    assert!(refused > 0.0);
    assert_eq!(internal.metric("hi_rate_limited_total{dialect=\"v0\"}"), refused);
    assert_eq!(internal.metric("hi_messages_in_total{dialect=\"v0\"}"), 10.0 - refused);
    assert_eq!(internal.metric("hi_rate_limited_total{dialect=\"raw\"}"), 0.0);
}

#[test]
fn v1_clients_and_their_replays_are_counted() {
    let (server, internal) = Server::start_with_internal(&["--replay-frames", "2"]);
    let (ann, joined) = server.join_v1("ann", "tea");
    let (_bob, _) = server.join_v1("bob", "tea");
    assert_eq!(internal.metric("hi_connections{dialect=\"v1\"}"), 2.0);
    assert_eq!(internal.metric("hi_connections{dialect=\"v0\"}"), 0.0);
    drop(ann);
    internal.wait_for_metric("hi_connections{dialect=\"v1\"}", 1.0);
    for _ in 0..3 {
        assert_eq!(internal.post("/api/publish", &json!({"room": "tea", "message": "x"})).0, 200);
    }
    let last = internal.get("/api/rooms/tea").1["seq"].as_u64().unwrap();
    let returns = |outcome: &str| internal.metric(&format!("hi_replay_requests_total{{outcome=\"{outcome}\"}}"));
    let epoch = &joined["Epoch"];
    let other_epoch = json!("0123456789abcdef");
    let mut clients = Vec::new();
    for (since, recovered, outcome) in [
        (json!({"Epoch": epoch, "Seq": last - 2}), true, "recovered"),
        (json!({"Epoch": epoch, "Seq": last - 3}), false, "too_old"),
        (json!({"Epoch": other_epoch, "Seq": last}), false, "other_epoch"),
    ] {
        let before = returns(outcome);
        let (mut client, _) = server.v1(&format!("username={outcome}"));
        let answer = client.ask(&json!({"Op": "join", "Room": "tea", "Since": since}));
        assert_eq!(answer["Recovered"], recovered, "{answer}");
        assert_eq!(returns(outcome), before + 1.0);
        if recovered {
            let delivered = internal.metric("hi_deliveries_total");
            assert!(delivered >= 2.0, "replayed messages are delivered, too");
        }
        clients.push(client);
    }
}

/// Publishes more than the kernel buffers for a member that doesn't read; one that reads gets everything.
fn flood(internal: Internal, path: &str, healthy: &mut Client) {
    let body = json!({"room": "tea", "message": "x".repeat(8000)});
    for _ in 0..800 {
        assert_eq!(internal.post(path, &body).0, 200);
        let got = healthy.json();
        assert!(got["Message"] == body["message"] || got == body);
    }
}

/// Returns the number of lagging members, which count under this policy only.
#[track_caller]
fn lapped(internal: Internal, policy: &str) -> f64 {
    let count = |policy: &str| internal.metric(&format!("hi_lapped_total{{policy=\"{policy}\"}}"));
    for other in ["gap", "close", "skip"].iter().filter(|other| **other != policy) {
        assert_eq!(count(other), 0.0, "{other}");
    }
    count(policy)
}

#[test]
fn a_member_that_lags_and_is_told_counts_as_a_gap() {
    let (server, internal) = Server::start_with_internal(&["--backlog-bytes", "64k"]);
    let mut stuck = server.narrow_websocket("/ws?username=stuck&room=tea");
    stuck.expect_message("#tea", "Welcome to tea, stuck!");
    let mut healthy = server.join("ann", "tea");
    flood(internal, "/api/publish", &mut healthy);
    let (mut lost, mut gaps) = (0, 0);
    loop {
        let frame = stuck.json();
        if frame["Event"] == "gap" {
            gaps += 1;
            lost += frame["ToSeq"].as_u64().unwrap() - frame["FromSeq"].as_u64().unwrap() + 1;
        }
        // The last message of the flood, after two welcomes.
        if frame["Seq"] == 802 {
            break;
        }
    }
    assert!(gaps >= 1);
    assert_eq!(internal.metric("hi_gaps_total"), f64::from(gaps));
    assert_eq!(internal.metric("hi_lost_messages_total"), lost as f64);
    assert_eq!(lapped(internal, "gap"), f64::from(gaps));
    // Lost messages are not counted as delivered.
    let delivered = (2 + 800 + 1 + 800 - lost) as f64;
    internal.wait_for_metric("hi_deliveries_total", delivered);
}

#[test]
fn a_member_that_lags_and_is_closed_counts_as_closed() {
    let (server, internal) = Server::start_with_internal(&["--backlog-bytes", "64k", "--slow", "close"]);
    let mut stuck = server.narrow_websocket("/ws?username=stuck&room=tea");
    stuck.expect_message("#tea", "Welcome to tea, stuck!");
    let mut healthy = server.join("ann", "tea");
    flood(internal, "/api/publish", &mut healthy);
    while !stuck.next().is_close() {}
    assert_eq!(lapped(internal, "close"), 1.0);
    assert_eq!(internal.metric("hi_disconnects_total{code=\"4101\"}"), 1.0);
    assert_eq!(internal.metric("hi_gaps_total"), 0.0);
}

#[test]
fn a_lossy_member_that_lags_counts_as_skipping() {
    let (server, internal) = Server::start_with_internal(&["--backlog-bytes", "64k"]);
    let mut stuck = server.narrow_websocket("/raw/data?lossy=1");
    let mut healthy = server.websocket("/raw/data");
    flood(internal, "/pub/data", &mut healthy);
    assert_eq!(internal.ask("POST", "/pub/data", &[], b"end").status, 200);
    let mut got = 0;
    while !stuck.next().is_binary() {
        got += 1;
    }
    assert!(lapped(internal, "skip") >= 1.0);
    assert_eq!(internal.metric("hi_lost_messages_total"), f64::from(800 - got));
    assert_eq!(internal.metric("hi_gaps_total"), 0.0);
}
