//! One table: facts as they come, and the verdict that they have to lead to.

use super::super::facts::*;
use super::super::facts::{Diff, Hop};
use super::made::*;
use super::*;
use crate::proxy::{Lines, Proxy};

/// What the verdict has to be, and what its text and its fix have to contain.
struct Expected {
    facts: Facts,
    kind: Kind,
    broken: bool,
    text: &'static str,
    fix: &'static str,
}

fn broken(facts: Facts, kind: Kind, text: &'static str, fix: &'static str) -> Expected {
    Expected { facts, kind, broken: true, text, fix }
}

fn check(table: Vec<Expected>) {
    for Expected { facts, kind, broken, text, fix } in table {
        let Diagnosis { verdict, others } = diagnose(&facts);
        assert_eq!((verdict.kind, verdict.broken), (kind, broken), "{verdict} others: {others:?}");
        assert!(verdict.text.contains(text), "{text:?} in {verdict}");
        let said = verdict.fix.as_ref().map(|fix| fix.text.clone()).unwrap_or_default();
        assert!(said.contains(fix), "{fix:?} in {verdict}");
        assert!(broken || others.iter().all(|other| !other.broken), "{others:?}");
    }
}

#[test]
fn the_example_of_the_story() {
    let diff = stripping(&[("Upgrade", "websocket")], Some(("Via: 1.0 old-host", None)), Some("HTTP/1.0"));
    let mut facts = facts(vec![through(OLD, diff), healthy(NEW)]);
    let verdict = diagnose(&facts).verdict;
    assert_eq!(verdict.kind, Kind::StaleAddress);
    assert_eq!(
        verdict.to_string(),
        "192.0.2.7 is not this server: an HTTP/1.0 proxy (Via: 1.0 old-host) answers there and drops Upgrade. The A record \
         of chat.example.com still points to it (TTL 3,540 s). Fix: point the record at 198.51.100.9"
    );
    facts.dns[0].a.aliases =
        vec![Alias { name: "chat.example.com".into(), to: "old.example.net".into(), ttl_seconds: 60 }];
    assert!(diagnose(&facts).verdict.text.contains("The A record of old.example.net still"));
}

#[test]
fn names() {
    let with = |dns: Vec<Source>| Facts { dns, ..facts(vec![]) };
    check(vec![
        broken(with(vec![empty_source(LookupOutcome::NoSuchName)]), Kind::DnsNoSuchName, "NXDOMAIN", "spelling"),
        broken(with(vec![empty_source(LookupOutcome::NoAddress)]), Kind::DnsNoAddress, "neither A nor AAAA", "add"),
        broken(with(vec![empty_source(LookupOutcome::NoAnswer)]), Kind::DnsNoAnswer, "192.0.2.53:53", "--resolver"),
    ]);
    let one = |dns: Vec<Source>| diagnose(&Facts { dns, ..facts(vec![healthy(OLD), healthy(NEW)]) });
    let disagreeing = one(vec![source("a", &[OLD]), source("b", &[NEW])]);
    assert!(disagreeing.is_healthy());
    assert_eq!(disagreeing.others[0].kind, Kind::ResolversDisagree);
    assert!(disagreeing.others[0].to_string().contains("a says 192.0.2.7 (TTL 3,540 s); b says 198.51.100.9"));
    let silent = one(vec![source("a", &[OLD, NEW]), empty_source(LookupOutcome::NoAnswer)]);
    assert_eq!(silent.others.iter().map(|other| other.kind).collect::<Vec<_>>(), [Kind::ResolverSilent]);
    let own_file = Source { local: true, ..source("/etc/hosts", &[OLD, NEW]) };
    assert_eq!(one(vec![own_file, empty_source(LookupOutcome::NoSuchName)]).others, []);
}

#[test]
fn connections() {
    let local = |text: &str| Facts { dns: vec![], ..facts(vec![unconnected(text, FailureKind::NoRouteHere)]) };
    let refused = vec![unconnected(OLD, FailureKind::Refused)];
    check(vec![
        broken(facts(refused), Kind::Refused, "nothing listens there on port 443. The A record", "ss -ltn"),
        broken(facts(vec![unconnected(OLD, FailureKind::TimedOut)]), Kind::TimedOut, "firewall", "open TCP port 443"),
        broken(facts(vec![unconnected(OLD, FailureKind::Unreachable)]), Kind::Unreachable, "can't be", "route"),
        broken(
            facts(vec![healthy(NEW), unconnected(NEW6, FailureKind::TimedOut)]),
            Kind::Ipv6Broken,
            "2001:db8::9",
            "AAAA record away",
        ),
        broken(
            facts(vec![unconnected(NEW, FailureKind::Refused), healthy(NEW6)]),
            Kind::Ipv4Broken,
            "198.51.100.9",
            "the A record away",
        ),
        broken(
            facts(vec![healthy(NEW), unconnected(OLD, FailureKind::Refused)]),
            Kind::Refused,
            "192.0.2.7: nothing listens",
            "record away",
        ),
        broken(local(NEW6), Kind::NoRouteHere, "no route", "machine"),
        // What answers says more than what doesn't, where nothing works.
        broken(
            facts(vec![unconnected(OLD, FailureKind::Refused), other(NEW, &answer(502, &[], ""))]),
            Kind::BadGateway,
            NEW,
            "start hi",
        ),
    ]);
    let without_ipv6 = diagnose(&facts(vec![healthy(NEW), unconnected(NEW6, FailureKind::NoRouteHere)]));
    assert_eq!((without_ipv6.verdict.kind, without_ipv6.others[0].kind), (Kind::Sound, Kind::NoRouteHere));
}

#[test]
fn certificates_and_tls() {
    let failed = |kind| Address { tls: failing(kind), ..unconnected(OLD, FailureKind::Other) };
    let failed = |kind| facts(vec![Address { tcp: Step::Done(Connected { ms: 1.0 }), ..failed(kind) }]);
    let fault = |kind, days| facts(vec![with_tls(NEW, Some(kind), days)]);
    let expecting = Address { echo: failing(FailureKind::TlsNotPlain), ..unconnected(OLD, FailureKind::Other) };
    let expecting = Address { tcp: Step::Done(Connected { ms: 1.0 }), ..expecting };
    check(vec![
        broken(failed(FailureKind::PlainNotTls), Kind::TlsNotSpoken, "plain HTTP", "ws://"),
        broken(plain(facts(vec![expecting])), Kind::TlsExpected, "speaks TLS", "wss://chat.example.com:80/ws"),
        broken(failed(FailureKind::Tls), Kind::TlsFailed, "it failed", "TLS 1.2"),
        broken(failed(FailureKind::OnlyHttp2), Kind::Http2Only, "HTTP/2", "http/1.1"),
        broken(fault(CertificateFaultKind::Expired, -3), Kind::TlsExpired, "3 days ago", "renew"),
        broken(fault(CertificateFaultKind::Expired, 50), Kind::TlsExpired, "with the server's own", "intermediate"),
        broken(fault(CertificateFaultKind::NotYetValid, 3), Kind::TlsNotYetValid, "not valid yet", "clocks"),
        broken(
            fault(CertificateFaultKind::WrongName, 3),
            Kind::TlsWrongName,
            "for old.example.com, not",
            "server_name",
        ),
        broken(fault(CertificateFaultKind::SelfSigned, 3), Kind::TlsSelfSigned, "self-signed", "--ca"),
        broken(fault(CertificateFaultKind::UnknownIssuer, 3), Kind::TlsUnknownIssuer, "CN=Some CA", "fullchain"),
        broken(fault(CertificateFaultKind::Other, 3), Kind::TlsInvalid, "no", "replace"),
        broken(
            facts(vec![with_tls(OLD, Some(CertificateFaultKind::WrongName), 9), with_tls(NEW, None, 90)]),
            Kind::StaleAddress,
            "192.0.2.7 is not this server: the certificate is for old.example.com",
            NEW,
        ),
    ]);
    let soon = diagnose(&facts(vec![with_tls(NEW, None, 5)]));
    assert_eq!((soon.verdict.kind, soon.others[0].kind), (Kind::Sound, Kind::TlsExpiresSoon));
}

#[test]
fn hops_that_strip() {
    let nginx = Some(("Server: nginx/1.22.1", Some(Proxy::Nginx)));
    let both = [("Upgrade", "websocket"), ("Connection", "Upgrade")];
    let upgrade = |diff| facts(vec![through(NEW, diff)]);
    check(vec![
        broken(
            upgrade(stripping(&both, nginx, None)),
            Kind::UpgradeStripped,
            "a proxy (Server: nginx/1.22.1) answers there and drops Upgrade and Connection",
            "let nginx pass",
        ),
        broken(
            upgrade(stripping(&both[1..], None, None)),
            Kind::ConnectionStripped,
            "a proxy that does not name itself answers there and drops Connection",
            "let the proxy",
        ),
        broken(
            upgrade(stripping(&both, nginx, Some("HTTP/1.0"))),
            Kind::Http10Hop,
            "an HTTP/1.0 proxy (Server: nginx/1.22.1)",
            "let nginx",
        ),
        broken(
            upgrade(Diff {
                hops: ["Via: 1.1 edge", "Via: 1.1 inner"].map(|trace| Hop { trace: trace.into(), proxy: None }).into(),
                ..stripping(&both, None, None)
            }),
            Kind::UpgradeStripped,
            "one of the proxies on the way (Via: 1.1 edge, then Via: 1.1 inner) answers there and drops",
            "let the proxy",
        ),
        // The echo gets through whole and only the handshake's own path is treated otherwise: the answer tells.
        broken(upgrade(Diff::default()), Kind::UpgradeStripped, "drops Upgrade", "let the proxy"),
        // The same hops before a healthy address: the fault is not on another machine.
        broken(
            facts(vec![
                through(OLD, stripping(&both, nginx, None)),
                Address { echo: echo(stripping(&[], nginx, None)), ..healthy(NEW) },
            ]),
            Kind::UpgradeStripped,
            OLD,
            "let nginx",
        ),
    ]);
    let verdict = diagnose(&upgrade(stripping(&both, nginx, None))).verdict;
    assert_eq!(verdict.fix.unwrap().lines, Lines::for_upgrade(Some(Proxy::Nginx)));
    let verdict = diagnose(&upgrade(stripping(&both, None, None))).verdict;
    assert_eq!(verdict.fix.unwrap().lines.len(), Proxy::COMMON.len());
}

#[test]
fn answers_that_are_no_101() {
    let html = answer(200, &[("content-type", "text/html"), ("Server", "Apache")], "<!doctype html>");
    let redirect = answer(301, &[("Location", "https://chat.example.com/ws?username=hi-doctor-1")], "");
    let wrong_key = Address {
        handshake: Step::Done(Handshake {
            path: "/ws".into(),
            answer: answer(101, &[], ""),
            accept_matches: false,
            origin: None,
            other_origin: None,
            host_origin: None,
        }),
        ..healthy(NEW)
    };
    let hi_but = |answer| facts(vec![Address { handshake: handshake(answer), ..healthy(NEW) }]);
    let mute = Address { echo: failing(FailureKind::TimedOut), echo_upgrade: Step::Skipped, ..other(NEW, &html) };
    let mute = Address { handshake: failing(FailureKind::TimedOut), ..mute };
    let silent = |kind| Address { handshake: failing(kind), ..other(NEW, &answer(200, &[], "")) };
    check(vec![
        broken(plain(hi_but(redirect.clone())), Kind::Redirect, "https://chat", "use wss://chat.example.com/ws"),
        broken(hi_but(redirect), Kind::Redirect, "don't follow", "don't redirect /ws"),
        broken(hi_but(answer(200, &[], "ok")), Kind::Ok200InsteadOf101, "200 instead of 101", "pass this path"),
        broken(
            facts(vec![other(NEW, &html)]),
            Kind::HtmlInsteadOfJson,
            "a web page answers there (status 200, Apache",
            "",
        ),
        broken(hi_but(html), Kind::Ok200InsteadOf101, "Apache answers", ""),
        broken(hi_but(answer(404, &[], "")), Kind::NotFound, "nothing at /ws", "ends in /ws"),
        broken(hi_but(answer(502, &[("Server", "nginx")], "")), Kind::BadGateway, "nginx is up", "proxy_pass"),
        broken(hi_but(answer(504, &[], "")), Kind::BadGateway, "(504)", "start hi"),
        broken(hi_but(answer(403, &[], "no entry")), Kind::Forbidden, "(403): \"no entry\"", "--origin"),
        broken(hi_but(answer(500, &[], "oops")), Kind::UnexpectedStatus, "with 500: \"oops\"", "log"),
        broken(hi_but(answer(400, &[], "bad")), Kind::UnexpectedStatus, "with 400: \"bad\"", "log"),
        broken(facts(vec![wrong_key]), Kind::WrongAcceptKey, "does not belong", "cache"),
        broken(facts(vec![silent(FailureKind::Closed)]), Kind::HandshakeUnanswered, "plain requests", "firewall"),
        broken(facts(vec![mute]), Kind::NoHttpAnswer, "accepts connections", "alive"),
        broken(facts(vec![silent(FailureKind::NotHttp)]), Kind::NotHttp, "not a web server", "port"),
    ]);
}

#[test]
fn origins() {
    let refused = |origin: Option<&str>, other: Option<&str>| {
        let handshake = Handshake {
            path: "/ws".into(),
            answer: answer(403, &[], ""),
            accept_matches: false,
            origin: origin.map(str::to_owned),
            other_origin: Some(OtherOrigin { origin: other.map(str::to_owned), status: 101 }),
            host_origin: None,
        };
        facts(vec![Address { handshake: Step::Done(handshake), ..healthy(NEW) }])
    };
    check(vec![broken(
        refused(Some("https://www.example.com"), None),
        Kind::ForbiddenOrigin,
        "refuses a handshake with Origin https://www.example.com (403) and accepts one with no Origin",
        "add https://www.example.com",
    )]);
    let only_browsers = diagnose(&refused(None, Some("https://chat.example.com")));
    assert_eq!((only_browsers.verdict.kind, only_browsers.others[0].kind), (Kind::Sound, Kind::ForbiddenOrigin));
}

#[test]
fn what_a_websocket_carries() {
    let chat = |carried| facts(vec![Address { chat: Step::Done(carried), ..healthy(NEW) }]);
    let large = |kind| Carried { large: failing(kind), ..carried() };
    let cut = IdleConnection { silent_seconds: 2.1, fate: IdleFate::Cut, server_pings: 0 };
    let alive = IdleConnection { silent_seconds: 1.0, fate: IdleFate::Alive, server_pings: 0 };
    let idle = Address { idle: Step::Done(Idle { connections: vec![alive.clone(), cut] }), ..healthy(NEW) };
    check(vec![
        broken(
            chat(Carried { message: failing(FailureKind::TimedOut), ..carried() }),
            Kind::MessageLost,
            "the handshake at /ws is fine, but a message does not come back",
            "proxy_buffering off",
        ),
        broken(
            chat(Carried { ping: failing(FailureKind::Closed), ..carried() }),
            Kind::MessageLost,
            "a ping",
            "buffering",
        ),
        broken(chat(large(FailureKind::Closed)), Kind::TooBig, "16 KiB", "limit of the proxy"),
        broken(facts(vec![idle]), Kind::IdleTimeout, "for 2.1 s", "--ping-interval 1s"),
    ]);
    let by_choice = diagnose(&chat(large(FailureKind::TooBig)));
    assert_eq!((by_choice.verdict.kind, by_choice.others[0].kind), (Kind::Sound, Kind::TooBig));
    let note = Carried { note: Some("raw rooms are off".into()), ..carried() };
    let off = diagnose(&facts(vec![Address { raw: Step::Done(note), ..healthy(NEW) }]));
    assert_eq!((off.verdict.kind, off.others[0].kind), (Kind::Sound, Kind::RawUnavailable));
    let survived = Address { idle: Step::Done(Idle { connections: vec![alive] }), ..healthy(NEW) };
    assert_eq!(diagnose(&facts(vec![survived])).verdict.kind, Kind::Sound);
}

#[test]
fn addresses_that_are_not_where_they_should_be() {
    let not_hi = |at| Address {
        echo: echo_not_hi(answer(404, &[], "")),
        echo_upgrade: echo_not_hi(answer(404, &[], "")),
        chat: Step::Done(Carried { welcomed: false, ..carried() }),
        ..healthy(at)
    };
    let expecting = |addresses, expected: &[&str]| Facts {
        expected: expected.iter().map(|text| ip(text)).collect(),
        ..facts(addresses)
    };
    let only_expected = Address { in_dns: false, ..healthy(NEW) };
    let refused = unconnected(OLD, FailureKind::Refused);
    check(vec![
        Expected {
            facts: facts(vec![healthy(NEW), healthy(NEW6)]),
            kind: Kind::Sound,
            broken: false,
            text: NEW6,
            fix: "",
        },
        Expected { facts: facts(vec![not_hi(NEW)]), kind: Kind::NotHi, broken: false, text: "not hi", fix: "" },
        broken(facts(vec![not_hi(OLD), healthy(NEW)]), Kind::StaleAddress, "a WebSocket server that is not hi", NEW),
        broken(expecting(vec![healthy(OLD), healthy(NEW)], &[NEW]), Kind::UnexpectedAddress, OLD, NEW),
        broken(
            expecting(vec![healthy(NEW), only_expected_6()], &[NEW, NEW6]),
            Kind::MissingAddress,
            NEW6,
            "AAAA record",
        ),
        broken(
            expecting(vec![refused, only_expected], &[NEW]),
            Kind::StaleAddress,
            "192.0.2.7 is not this server: nothing listens there on port 443. The A record of chat.example.com still",
            NEW,
        ),
    ]);
    let twin = Address {
        echo: Step::Done(Echo {
            path: "/-/doctor/echo".into(),
            answer: answer(200, &[], ""),
            received: Some(received("i-2")),
            diff: Some(Diff::default()),
        }),
        ..healthy(OLD)
    };
    let two = diagnose(&facts(vec![twin, healthy(NEW)]));
    assert_eq!((two.verdict.kind, two.others[0].kind), (Kind::Sound, Kind::AnotherInstance));
}

/// A server of this cluster and log, which it has not reached for `away_seconds`.
fn sharing(at: &str, name: &str, log: &str, away_seconds: Option<u64>) -> Address {
    let cluster = Some(Cluster { name: name.into(), log: log.into(), away_seconds });
    let received = Received { cluster, ..received(at) };
    let mut address = healthy(at);
    if let Step::Done(echo) = &mut address.echo {
        echo.received = Some(received);
    }
    address
}

#[test]
fn servers_of_a_cluster_are_one_and_a_stranger_among_them_is_named() {
    let ours = |at| sharing(at, "hi", "1", None);
    let one = diagnose(&facts(vec![ours(OLD), ours(NEW), ours(NEW6)]));
    assert_eq!((one.verdict.kind, one.others.len()), (Kind::Sound, 0));
    let away = |seconds| sharing(OLD, "hi", "1", Some(seconds));
    check(vec![
        broken(facts(vec![away(2), ours(NEW)]), Kind::ClusterAway, "192.0.2.7: hi has not reached", "/readyz"),
        broken(
            facts(vec![sharing(OLD, "tea", "2", None), ours(NEW), ours(NEW6)]),
            Kind::AnotherCluster,
            "192.0.2.7 belongs to the cluster tea and not to hi",
            "--cluster-name hi",
        ),
        broken(
            facts(vec![sharing(OLD, "hi", "2", None), ours(NEW), ours(NEW6)]),
            Kind::AnotherCluster,
            "192.0.2.7 belongs to another cluster of the name hi",
            "or take its record away",
        ),
        broken(
            facts(vec![healthy(OLD), ours(NEW)]),
            Kind::AnotherCluster,
            "192.0.2.7 shares",
            "--cluster of 198.51.100.9",
        ),
    ]);
    let moment = diagnose(&facts(vec![away(1), ours(NEW)]));
    assert_eq!((moment.verdict.kind, moment.others[0].kind), (Kind::Sound, Kind::ClusterAway));
}

fn only_expected_6() -> Address {
    Address { in_dns: false, ..healthy(NEW6) }
}

#[test]
fn the_names_in_json_are_stable() {
    assert_eq!(Kind::Ok200InsteadOf101.name(), "ok_200_instead_of_101");
    assert_eq!(Kind::Http10Hop.name(), "http10_hop");
    assert_eq!(Kind::DnsNoSuchName.name(), "dns_no_such_name");
    assert_eq!(Kind::Ipv6Broken.name(), "ipv6_broken");
}
