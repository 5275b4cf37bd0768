//! The list's rules, as a story: the move of one chat from an old address to a new one.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::document::{Document, diff};
use super::facts::{AddressFacts, Facts, MachineFacts, ResolverFacts, VerdictFacts};
use super::items::{Phase, State, items};

const OLD: &str = "192.0.2.7";
const NEW: &str = "198.51.100.9";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn set(addresses: &[&str]) -> BTreeSet<IpAddr> {
    addresses.iter().map(|address| ip(address)).collect()
}

fn at(address: &str, sound: bool, says: &str, instance: Option<&str>) -> AddressFacts {
    AddressFacts {
        address: ip(address),
        answers: true,
        sound,
        says: says.to_owned(),
        instance: instance.map(str::to_owned),
        certificate_days_left: Some(60),
    }
}

fn resolver(name: &str, records: &[(&str, u32)]) -> ResolverFacts {
    let records = records.iter().map(|(address, ttl)| (ip(address), *ttl)).collect();
    ResolverFacts { resolver: name.to_owned(), records, trouble: None }
}

/// A day on which all is well at `address`.
fn facts(address: &str) -> Facts {
    Facts {
        host: "chat.example.com".to_owned(),
        old: set(&[OLD]),
        new: set(&[NEW]),
        resolvers: vec![resolver("10.0.0.1", &[(address, 300)]), resolver("10.0.0.2", &[(address, 120)])],
        addresses: vec![at(OLD, true, "The chat works.", Some("a")), at(NEW, true, "The chat works.", Some("a"))],
        verdict: VerdictFacts { name: "sound".into(), sound: true, sentence: "It works.".into(), fix: String::new() },
        machine: Some(MachineFacts { kernel: Ok("Linux 6.12".into()), files_max: 20_000 }),
        old_connections: Some(Ok(0)),
    }
}

fn open(phase: Phase, facts: &Facts) -> Vec<String> {
    items(phase, facts).into_iter().filter(|item| item.state == State::Open).map(|item| item.name).collect()
}

fn document(phase: Phase, facts: Facts) -> Document {
    let (url, items) = ("wss://chat.example.com/ws".to_owned(), items(phase, &facts));
    Document { phase, url, made_unix_ms: 1_764_000_000_000, items, facts }
}

#[test]
fn a_good_move_leaves_nothing_open() {
    assert_eq!(open(Phase::Before, &facts(OLD)), [""; 0]);
    assert_eq!(open(Phase::During, &facts(NEW)), [""; 0]);
    let mut after = facts(NEW);
    after.resolvers = vec![resolver("10.0.0.1", &[(NEW, 3600)])];
    assert_eq!(open(Phase::After, &after), [""; 0]);
}

#[test]
fn before_the_move_the_ttl_the_new_server_and_the_certificate_are_looked_at() {
    let mut facts = facts(OLD);
    facts.resolvers[1].records[0].1 = 86_400;
    facts.addresses[1] = at(NEW, false, "Nothing listens there.", None);
    facts.addresses[0].certificate_days_left = Some(3);
    facts.machine = Some(MachineFacts { kernel: Err("io_uring is switched off".into()), files_max: 1024 });
    assert_eq!(open(Phase::Before, &facts), ["ttl_low", "new_address", "certificate", "kernel", "file_limit"]);
    facts.resolvers[1] = resolver("10.0.0.2", &[("203.0.113.5", 60)]);
    assert!(open(Phase::Before, &facts).contains(&"resolvers_agree".to_owned()));
}

#[test]
fn a_record_that_still_points_to_the_old_address_is_named_with_its_resolver_and_time() {
    let mut facts = facts(NEW);
    facts.resolvers[1] = resolver("10.0.0.2", &[(OLD, 3540)]);
    for (phase, name) in [(Phase::During, "records_moved"), (Phase::After, "old_gone")] {
        let items = items(phase, &facts);
        let item = items.iter().find(|item| item.name == name).unwrap();
        assert_eq!(item.state, State::Open);
        assert!(item.detail.contains("10.0.0.2 gives 192.0.2.7 for another 3540 s"), "{}", item.detail);
    }
}

#[test]
fn after_the_move_a_proxy_on_the_old_address_is_open_and_silence_is_not() {
    let mut facts = facts(NEW);
    facts.resolvers = vec![resolver("10.0.0.1", &[(NEW, 3600)])];
    facts.addresses[0] = at(OLD, false, "an HTTP/1.0 proxy answers there and drops Upgrade", None);
    assert_eq!(open(Phase::After, &facts), ["old_silent"]);
    facts.addresses[0].answers = false;
    assert_eq!(open(Phase::After, &facts), [""; 0]);
    facts.old_connections = Some(Ok(12));
    assert_eq!(open(Phase::After, &facts), ["old_idle"]);
}

#[test]
fn two_servers_behind_one_name_are_seen() {
    let mut facts = facts(NEW);
    facts.resolvers = vec![resolver("10.0.0.1", &[(NEW, 3600), (OLD, 3600)])];
    facts.addresses[0].instance = Some("b".into());
    let open = open(Phase::After, &facts);
    assert!(open.contains(&"one_server".to_owned()) && open.contains(&"old_gone".to_owned()), "{open:?}");
}

#[test]
fn what_was_not_looked_at_is_never_done() {
    for phase in [Phase::Before, Phase::During, Phase::After] {
        let done: Vec<String> = items(phase, &Facts::default())
            .into_iter()
            .filter(|item| item.state == State::Done)
            .map(|item| item.name)
            .collect();
        assert_eq!(done, [""; 0], "{phase:?}");
    }
}

#[test]
fn a_saved_list_is_read_back_from_both_formats() {
    let mut facts = facts(OLD);
    facts.verdict.sentence = "odd --> <b>text</b> -- \n here".into();
    let document = document(Phase::Before, facts);
    assert_eq!(Document::read(&document.json(true)).unwrap(), document);
    let markdown = document.markdown_with_json();
    assert_eq!(Document::read(&markdown).unwrap(), document);
    assert!(!document.markdown().contains("<b>"), "foreign text is not markup");
    let told = document.json(true).replace("/ws", "/ws?token=abc");
    assert!(Document::read(&told).unwrap().url.ends_with("/ws?token=***"), "nor are secrets of old files shown");
    assert!(Document::read("# something else").unwrap_err().contains("not a list"));
}

#[test]
fn the_difference_names_addresses_ttl_verdict_and_ticks() {
    let before = document(Phase::Before, facts(OLD));
    assert!(diff(&before, &before).contains("Nothing."));
    let mut later = facts(NEW);
    later.resolvers = vec![resolver("10.0.0.1", &[(NEW, 60)])];
    later.verdict.name = "stale_address".into();
    later.verdict.sound = false;
    let text = diff(&before, &document(Phase::Before, later));
    for part in [
        "**Addresses in the records:** 198.51.100.9, was 192.0.2.7.",
        "**Longest TTL:** 60 s, was 300 s.",
        "**Verdict:** stale_address, was sound.",
        "**The address works for everybody, at every address that it has:** open, was done.",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

#[test]
fn where_nothing_is_known_no_detail_says_that_all_is_well() {
    for phase in [Phase::During, Phase::After] {
        for item in items(phase, &Facts::default()) {
            let known = item.detail.contains("not known") || item.name == "addresses_known";
            let about_old = ["both_families", "records_moved", "old_gone", "old_silent"].contains(&&*item.name);
            assert!(!about_old || known && item.state == State::Open, "{phase:?}: {item:?}");
            assert_ne!(item.state, State::Done, "{phase:?}: {item:?}");
        }
    }
}
