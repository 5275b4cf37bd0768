use proptest::prelude::*;
use serde_json::json;

use super::*;

fn rights(text: &str) -> Rights {
    Rights::parse(text, Source::Token).unwrap()
}

fn room(name: &str) -> Name {
    Name::room(name).unwrap()
}

#[test]
fn the_most_specific_rule_decides() {
    let rights = rights("*=join,pub team-*=listen team-a*=join team-a=join,pub raw:x=listen");
    let may = |right, name| rights.allow(right, Namespace::Chat, &room(name)).is_ok();
    assert!(may(Right::Join, "tea") && may(Right::Publish, "tea") && may(Right::Listen, "tea"));
    assert!(!may(Right::Join, "team-b") && may(Right::Listen, "team-b"));
    assert!(may(Right::Join, "team-ab") && !may(Right::Publish, "team-ab"));
    assert!(may(Right::Publish, "team-a") && may(Right::Publish, "TEAM-A"), "names compare without case");
    let raw = |right, name| rights.allow(right, Namespace::Raw, &room(name)).is_ok();
    assert!(raw(Right::Listen, "x") && !raw(Right::Publish, "x") && !raw(Right::Listen, "tea"));
}

#[test]
fn a_denial_names_the_rule() {
    let told =
        |text: &str, right, namespace, name| rights(text).allow(right, namespace, &room(name)).unwrap_err().to_string();
    assert_eq!(
        told("team-*=join", Right::Join, Namespace::Chat, "Tea"),
        "You may not join Tea: the token's rooms allow team-*=join only."
    );
    assert_eq!(
        told("*=join,pub news=join", Right::Publish, Namespace::Chat, "news"),
        "You may not publish in news: the token's rooms allow news=join there."
    );
    assert_eq!(
        told("*=join", Right::Listen, Namespace::Raw, "x"),
        "You may not listen to the raw room x: the token's rooms allow no raw room."
    );
    let guests = Rights::parse("", Source::Guests).unwrap();
    assert_eq!(
        guests.allow(Right::Join, Namespace::Chat, &room("tea")).unwrap_err().to_string(),
        "You may not join tea: without a token, --guest-rooms allows no chat room."
    );
    let many = (0..30).map(|n| format!("room-{n}=join")).collect::<Vec<_>>().join(" ");
    let told = told(&many, Right::Join, Namespace::Chat, "tea");
    assert!(told.ends_with(" and others.") && told.len() < 300, "{told}");
}

#[test]
fn rules_are_read_as_they_are_written() {
    for text in ["*=join,pub", "raw:*=listen tea=join", "a=b=join", ""] {
        let mut words: Vec<_> = text.split(' ').collect();
        let written = rights(text).to_string();
        let mut again: Vec<_> = written.split(' ').collect();
        words.sort();
        again.sort();
        assert_eq!(again, words);
    }
    assert_eq!(rights("tea").to_string(), "tea=join,pub");
    assert_eq!(rights("tea=publish").to_string(), "tea=pub");
    for (wrong, why) in [
        ("te*a=join", "at its end"),
        ("**=join", "at its end"),
        ("tea=fly", "is no right"),
        ("=join", "is empty"),
        ("tea=join TEA=pub", "two rules"),
        ("raw:=join", "is empty"),
        ("a\0b*=join", "control character"),
    ] {
        let said = Rights::parse(wrong, Source::Guests).unwrap_err();
        assert!(said.contains(why), "{wrong}: {said}");
    }
    let many = (0..33).map(|n| format!("r{n}")).collect::<Vec<_>>().join(" ");
    assert!(Rights::parse(&many, Source::Guests).unwrap_err().contains("at most 32"));
}

#[test]
fn a_claim_has_lists_or_words() {
    let of = |claim| Rights::of_claim(&claim).map(|rights| rights.to_string());
    assert_eq!(of(json!({"tea": ["join", "pub"]})), Ok("tea=join,pub".to_owned()));
    assert_eq!(of(json!({"tea": "join,pub"})), Ok("tea=join,pub".to_owned()));
    assert_eq!(of(json!({"tea": []})), Ok("tea=".to_owned()));
    assert_eq!(of(json!({})), Ok(String::new()));
}

#[test]
fn a_list_of_all_rooms_is_for_those_that_may_read_all() {
    for (text, all) in [
        ("*", true),
        ("*=listen", true),
        ("* x=join", true),
        ("* x=pub", false),
        ("a*", false),
        ("raw:*", false),
        ("", false),
    ] {
        assert_eq!(rights(text).reads_all(Namespace::Chat), all, "{text}");
    }
}

proptest! {
    /// Against a twin that compares every rule by itself.
    #[test]
    fn rules_decide_as_their_twin_does(
        rules in prop::collection::btree_map("(raw:)?[ab]{0,3}\\*?", 0_u8..8, 0..8),
        name in "[ab]{1,4}", raw in any::<bool>(), right in 0_usize..3,
    ) {
        let words = |bits: u8| Right::ALL.iter().filter(|right| bits & (1 << **right as u8) != 0).map(|right| right.as_str()).collect::<Vec<_>>();
        let rules: Vec<_> = rules.into_iter().filter(|(pattern, _)| !pattern.is_empty() && pattern != "raw:").collect();
        let claim = Value::Object(rules.iter().map(|(pattern, bits)| (pattern.clone(), json!(words(*bits)))).collect());
        let rights = Rights::of_claim(&claim).unwrap();
        let full = if raw { format!("raw:{name}") } else { name.clone() };
        // The longest pattern that fits; an exact one is longer than any beginning.
        let mut best = (0, 0);
        for (pattern, bits) in &rules {
            if pattern.starts_with("raw:") == raw {
                let weight = match pattern.strip_suffix('*') {
                    Some(prefix) if full.starts_with(prefix) => 1 + prefix.len(),
                    None if *pattern == full => 1000,
                    _ => 0,
                };
                best = best.max((weight, if weight > 0 { *bits } else { 0 }));
            }
        }
        let right = Right::ALL[right];
        let granted = words(best.1).contains(&right.as_str()) || right == Right::Listen && words(best.1).contains(&"join");
        let namespace = if raw { Namespace::Raw } else { Namespace::Chat };
        prop_assert_eq!(rights.allow(right, namespace, &room(&name)).is_ok(), granted);
    }
}
