//! The text formats of metrics, parsed strictly by their grammars: Prometheus 0.0.4 and OpenMetrics.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use support::Server;

/// Splits off a token of these characters. Returns the rest, and the token.
fn token(text: &str, first: fn(char) -> bool, further: fn(char) -> bool) -> (&str, &str) {
    let end = text.find(|c| !further(c)).unwrap_or(text.len());
    assert!(text.starts_with(first), "{text}");
    text.split_at(end)
}

/// Name, labels and value of a sample, as strictly as the grammar of the text format says.
fn sample(line: &str) -> (&str, Vec<(&str, String)>, f64) {
    let (name, mut rest) =
        token(line, |c| c.is_ascii_alphabetic() || "_:".contains(c), |c| c.is_ascii_alphanumeric() || "_:".contains(c));
    let mut labels: Vec<(&str, String)> = Vec::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            let (label, more) =
                token(rest, |c| c.is_ascii_alphabetic() || c == '_', |c| c.is_ascii_alphanumeric() || c == '_');
            assert!(labels.iter().all(|(other, _)| *other != label), "{label} twice in {line}");
            let mut value = String::new();
            let mut chars = more.strip_prefix("=\"").expect("a value in quotes").chars();
            loop {
                match chars.next().expect("the end of the value") {
                    '"' => break,
                    '\\' => value.push(match chars.next() {
                        Some('n') => '\n',
                        Some(escaped @ ('"' | '\\')) => escaped,
                        other => panic!("{other:?} is escaped in {line}"),
                    }),
                    plain => value.push(plain),
                }
            }
            labels.push((label, value));
            rest = chars.as_str();
            match rest.split_at(1) {
                (",", more) => rest = more,
                ("}", more) => break rest = more,
                _ => panic!("neither a label nor the end of them in {line}"),
            }
        }
    }
    let value = rest.strip_prefix(' ').expect("one space before the value");
    let value = value.replace("+Inf", "inf").parse().unwrap_or_else(|_| panic!("no number, or more than one: {line}"));
    (name, labels, value)
}

/// Parses exactly Prometheus's text format 0.0.4, and returns the values of all samples. Families are contiguous, each
/// after one HELP and one TYPE; sample names fit the type; histograms add up.
fn parse_text(text: &str) -> BTreeMap<String, f64> {
    assert!(text.ends_with('\n') && !text.contains('\r'));
    let (mut samples, mut seen) = (BTreeMap::new(), BTreeSet::new());
    let (mut family, mut kind, mut bucket): (&str, &str, Option<(f64, f64)>) = ("", "", None);
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(comment) = line.strip_prefix("# ") {
            let (name, help) = comment.strip_prefix("HELP ").and_then(|rest| rest.split_once(' ')).expect("HELP first");
            assert!(seen.insert(name) && !help.trim().is_empty(), "{line}");
            let typed = lines.next().and_then(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
            bucket = None;
            (family, kind) = typed.unwrap_or_else(|| panic!("no TYPE behind {line}"));
            assert_eq!(family, name);
            assert!(["counter", "gauge", "histogram", "summary", "untyped"].contains(&kind), "{kind}");
            assert_eq!(kind == "counter", family.ends_with("_total"), "{family} is a {kind}");
            continue;
        }
        let (name, labels, value) = sample(line);
        assert!(kind == "gauge" || value >= 0.0, "{line}");
        match name.strip_prefix(family).unwrap_or_else(|| panic!("{line} among {family}")) {
            "" => assert!(matches!(kind, "counter" | "gauge"), "{line} of a {kind}"),
            "_bucket" => {
                let le = labels.iter().find(|(label, _)| *label == "le").expect("a bound");
                let le: f64 = le.1.replace("+Inf", "inf").parse().expect("a bound is a number");
                assert!(bucket.is_none_or(|(before, count)| before < le && count <= value), "{line}");
                bucket = Some((le, value));
            }
            "_count" | "_sum" => assert_eq!(kind, "histogram"),
            other => panic!("{other} behind {family}"),
        }
        let labels: Vec<_> = labels.iter().map(|(label, value)| format!("{label}={value:?}")).collect();
        let key = format!("{name}{{{}}}", labels.join(","));
        assert!(samples.insert(key, value).is_none(), "{line} twice");
    }
    for (count, value) in &samples {
        if let Some(family) = count.strip_suffix("_count{}") {
            assert_eq!(samples[&format!("{family}_bucket{{le=\"+Inf\"}}")], *value, "{family}");
        }
    }
    samples
}

#[test]
fn the_text_is_valid_prometheus_text() {
    let (server, internal) = Server::start_with_internal(&[]);
    let mut ann = server.join("ann", "tea");
    ann.say("tea", "hello");
    ann.expect_message("ann", "hello");
    assert_eq!(server.get("/ws").split(' ').nth(1), Some("426"));
    for accept in [None, Some("*/*"), Some("text/plain;version=0.0.4;q=0.5,*/*;q=0.1"), Some("application/json")] {
        let headers: Vec<_> = accept.into_iter().map(|accept| ("Accept", accept)).collect();
        let answer = internal.ask("GET", "/metrics", &headers, b"");
        assert_eq!(answer.header("Content-Type"), Some("text/plain; version=0.0.4; charset=utf-8"), "{accept:?}");
        let samples = parse_text(&answer.body);
        assert_eq!(samples["hi_messages_in_total{dialect=\"v0\"}"], 1.0);
        assert_eq!(samples[&format!("hi_build_info{{version={:?}}}", env!("CARGO_PKG_VERSION"))], 1.0);
        let failed = "hi_handshake_failures_total{reason=\"not_a_websocket_request\",hop=\"direct\"}";
        assert_eq!(samples[failed], 1.0);
    }
}

#[test]
fn open_metrics_are_sent_on_request() {
    let (_server, internal) = Server::start_with_internal(&[]);
    let plain: BTreeSet<_> = parse_text(&internal.metrics()).into_keys().collect();
    let accept = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
    let answer = internal.ask("GET", "/metrics", &[("Accept", accept)], b"");
    assert_eq!(answer.header("Content-Type"), Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    let text = &answer.body;
    assert!(text.ends_with("\n# EOF\n") && text.matches("# EOF").count() == 1);
    let (mut helped, mut typed, mut samples) = (BTreeSet::new(), BTreeMap::new(), BTreeSet::new());
    for line in text.lines().filter(|line| *line != "# EOF") {
        let mut words = line.splitn(4, ' ');
        match (words.next().unwrap(), words.next().unwrap(), words.next()) {
            ("#", "HELP", Some(family)) => assert!(helped.insert(family.to_owned()), "{family} twice"),
            ("#", "TYPE", Some(family)) => assert!(typed.insert(family.to_owned(), words.next()).is_none()),
            ("#", "UNIT", Some(family)) => assert!(family.ends_with(words.next().unwrap()), "{line}"),
            _ => {
                let (name, labels, _) = sample(line);
                let labels: Vec<_> = labels.iter().map(|(label, value)| format!("{label}={value:?}")).collect();
                samples.insert(format!("{name}{{{}}}", labels.join(",")));
            }
        }
    }
    assert_eq!(helped, typed.keys().cloned().collect());
    assert!(typed.iter().all(|(family, kind)| *kind != Some("counter") || !family.ends_with("_total")), "{typed:?}");
    assert_eq!(samples, plain, "both formats have the same samples");
}
