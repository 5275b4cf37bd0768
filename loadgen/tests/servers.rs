//! Several servers that share their rooms: one order over all of them, and a client that reconnects at another one gets
//! everything that it missed. The servers misbehave on command.

mod support;

use std::collections::HashMap;

use loadgen::results::{Run, Verdict};
use support::cluster::{Breach, Cluster};
use support::{Folder, Outcome, beside_each_other, loadgen};

/// Runs loadgen against servers of its own until it is not `INVALID`, at most three times.
fn with(count: usize, breach: Breach, args: &[&str]) -> (Cluster, Outcome) {
    for _ in 1..3 {
        let (cluster, outcome) = once(count, breach, args);
        if outcome.code != Some(3) {
            return (cluster, outcome);
        }
    }
    once(count, breach, args)
}

fn once(count: usize, breach: Breach, args: &[&str]) -> (Cluster, Outcome) {
    let cluster = Cluster::start(count, breach);
    let urls = cluster.urls().join(",");
    let usual = ["--quiet", "--url", &urls, "--clients", "12", "--publishers", "2", "--rate", "100"];
    let times = ["--warmup", "200ms", "--duration", "2s"];
    let outcome = loadgen(&[&usual[..], &times, args].concat());
    (cluster, outcome)
}

/// What is printed, in one line.
fn shown(outcome: &Outcome) -> String {
    outcome.stdout.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn reasons(run: &Run) -> String {
    match &run.verdict {
        Verdict::Sound => String::new(),
        Verdict::Failed(reasons) | Verdict::Invalid(reasons) => reasons.join("; "),
    }
}

#[test]
fn good_servers_share_their_clients() {
    beside_each_other(&[&[][..], &["--raw"], &["--rooms", "3"]], |args| {
        let (cluster, outcome) = with(3, Breach::None, args);
        let run = outcome.sound();
        assert_eq!((run.deliveries, run.audit.disordered, run.audit.holes), (12 * 200, 0, 0), "{:?}", run.audit);
        let urls = cluster.urls();
        assert_eq!(run.plan.target, urls.join(", "));
        assert_eq!(run.servers.iter().map(|server| &server.url).collect::<Vec<_>>(), Vec::from_iter(&urls));
        assert!(run.servers.iter().all(|server| server.connects == 4), "{:?}", run.servers);
        assert!(run.servers.iter().all(|server| server.deliveries == 4 * 200), "{:?}", run.servers);
        let shown = shown(&outcome);
        for url in &urls {
            assert!(shown.contains(&format!("{url}: 4 connects, 800 deliveries")), "{shown}");
        }
        if args.is_empty() {
            let publishers = cluster.joins().into_iter().filter(|(_, name, _)| name.contains("publisher"));
            let at: Vec<_> = publishers.map(|(server, ..)| server).collect();
            assert!(at.contains(&0) && at.contains(&1), "publishers are spread, too: {at:?}");
        }
    });
}

#[test]
fn the_page_names_the_servers() {
    let (folder, cluster) = (Folder::new(), Cluster::start(2, Breach::None));
    let page = folder.file("run.html");
    let urls = cluster.urls();
    let args =
        ["--quiet", "--url", &urls[0], "--url", &urls[1], "--clients", "4", "--duration", "1s", "--warmup", "0s"];
    loadgen(&[&args[..], &["--html", page.to_str().unwrap()]].concat()).sound();
    let page = std::fs::read_to_string(&page).unwrap();
    for url in &urls {
        assert!(page.contains(&format!("{url}: 2 connects, 20 deliveries")), "{page}");
    }
}

#[test]
fn no_secret_of_any_server_is_shown() {
    let cluster = Cluster::start(2, Breach::None);
    let urls = cluster.urls().join(",").replace("ws://", "ws://ada:hush@");
    let outcome = loadgen(&["--url", &urls, "--clients", "4", "--duration", "1s", "--warmup", "0s"]);
    let run = serde_json::to_string(outcome.sound()).unwrap();
    for text in [&run, &outcome.stdout, &outcome.stderr] {
        assert!(text.contains("ws://ada:***@127.0.0.1:") && !text.contains("hush"), "{text}");
    }
}

#[test]
fn a_client_that_reconnects_recovers_at_the_next_server() {
    beside_each_other(
        &[(Breach::None, "--churn", "30"), (Breach::NameTaken, "--churn", "30"), (Breach::None, "--storm", "")],
        |(breach, kind, rate)| {
            let args: Vec<_> = [*kind, *rate].into_iter().filter(|word| !word.is_empty()).collect();
            let (cluster, outcome) = with(3, *breach, &args);
            let run = outcome.sound();
            let audit = &run.audit;
            assert_eq!((audit.lost, audit.holes, audit.disordered, audit.unrecovered), (0, 0, 0, 0), "{audit:?}");
            assert!(audit.recovered >= 12 && audit.replayed > audit.recovered, "{audit:?}");
            assert!(shown(&outcome).contains("reconnected clients recovered, with "), "{}", outcome.stdout);
            let in_time_or_replayed = run.deliveries..=run.deliveries + audit.replayed;
            assert!(in_time_or_replayed.contains(&(12 * 200)), "{} {audit:?}", run.deliveries);
            let mut last: HashMap<String, usize> = HashMap::new();
            for (server, name, since) in cluster.joins() {
                let before = last.insert(name, server);
                if let Some(before) = before.filter(|_| *breach == Breach::None) {
                    assert!(server == (before + 1) % 3 && since.is_some(), "{before} {server} {since:?}");
                }
            }
        },
    );
}

#[test]
fn every_breach_is_found_and_named() {
    let churn = &["--churn", "30"][..];
    let cases = [
        (Breach::OtherOrder, &[][..], "in another order than other clients", "in another order than at other clients"),
        (
            Breach::OtherOrder,
            &["--raw"],
            "in another order than other clients",
            "in another order than at other clients",
        ),
        (Breach::LosesWhatWasMissed, churn, ", which was acknowledged", "messages were lost"),
        (Breach::LosesAcknowledged, &[], ", which was acknowledged", "messages were lost"),
        (Breach::RepeatsWhatWasSeen, churn, " again", "messages arrived twice"),
        (Breach::Forgets, churn, "was told that it can't get what it missed", "can't get it"),
        (Breach::LeavesOutNumber, &[], "got Seq 52, but not the 1 before it", "numbers of rooms were left out"),
    ];
    beside_each_other(&cases, |(breach, args, named, reason)| {
        let (cluster, outcome) = with(2, *breach, args);
        let run = outcome.failed();
        let audit = &run.audit;
        let fault = audit.first.iter().find(|fault| fault.contains(named));
        let fault = fault.unwrap_or_else(|| panic!("{breach:?}: {audit:?}"));
        assert!(cluster.urls().iter().any(|url| fault.contains(&format!(" at {url} "))), "{fault}");
        assert!(reasons(run).contains(reason), "{breach:?}: {}", reasons(run));
        let found =
            [audit.disordered, audit.lost, audit.doubled, audit.unrecovered, audit.holes].map(|count| count > 0);
        let expected = match breach {
            Breach::OtherOrder => [true, false, false, false, false],
            Breach::LosesWhatWasMissed | Breach::LosesAcknowledged => [false, true, false, false, true],
            Breach::RepeatsWhatWasSeen => [false, false, true, false, false],
            Breach::Forgets => [false, false, false, true, false],
            _ => [false, false, false, false, true],
        };
        assert_eq!(found, expected, "{breach:?}: {audit:?}");
        assert_eq!(audit.reordered, 0, "{breach:?}: {audit:?}");
    });
}

#[test]
fn what_was_not_acknowledged_is_not_lost() {
    beside_each_other(&[Breach::Refuses, Breach::NeverAnswers], |breach| {
        let (_, outcome) = with(2, *breach, &[]);
        let run = outcome.run();
        let audit = &run.audit;
        assert_eq!((audit.lost, audit.holes, audit.first.len()), (0, 0, 0), "{audit:?}");
        // Of 220 messages, two publishers have each number once.
        let (refused, unanswered) = if *breach == Breach::Refuses { (22, 0) } else { (0, 220) };
        assert_eq!((audit.refused, audit.unanswered), (refused, unanswered), "{audit:?}");
        assert_eq!((outcome.code, run.deliveries), (Some(1), 12 * (200 - refused.min(20))), "{audit:?}");
        let said = if refused > 0 { "didn't know what became of them" } else { "neither acknowledged nor refused" };
        assert!(reasons(run).contains(said), "{}", reasons(run));
        assert_eq!(
            reasons(run).contains("notice to a publisher: unavailable not now"),
            refused > 0,
            "{}",
            reasons(run)
        );
    });
}

#[test]
fn one_server_is_checked_by_its_numbers_as_well() {
    let (_, outcome) = with(1, Breach::None, &["--v1", "--churn", "30"]);
    let run = outcome.sound();
    assert!(run.audit.recovered >= 12 && run.servers.is_empty(), "{:?}", run.audit);
    let (_, outcome) = with(1, Breach::LosesWhatWasMissed, &["--v1", "--churn", "30"]);
    let named = &outcome.failed().audit.first;
    assert!(named.iter().any(|fault| fault.ends_with(", which was acknowledged")), "{named:?}");
}

#[test]
fn a_server_that_cannot_be_used_is_named() {
    let cluster = Cluster::start(2, Breach::NoSubprotocol);
    let outcome = loadgen(&["--url", &cluster.urls().join(",")]);
    let at = cluster.urls()[1].replace("ws://", "");
    let complaint = outcome.refused();
    assert!(complaint.starts_with(&at) && complaint.ends_with("without the subprotocol hi.v1."), "{complaint}");
    let cluster = Cluster::start(1, Breach::None);
    let outcome = loadgen(&["--url", &cluster.urls()[0], "--url", "ws://127.0.0.1:1"]);
    assert!(outcome.refused().starts_with("127.0.0.1:1 can't be reached"), "{outcome:?}");
}
