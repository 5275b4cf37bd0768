//! Facts as the tests need them.

use std::net::{IpAddr, SocketAddr};

use super::super::facts::*;
use super::super::facts::{Diff, Hop};
use super::super::url::Target;
use crate::proxy::Proxy;

pub(super) const OLD: &str = "192.0.2.7";
pub(super) const NEW: &str = "198.51.100.9";
pub(super) const NEW6: &str = "2001:db8::9";

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

pub(super) fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> Answer {
    Answer { status, http_version: "HTTP/1.1".into(), headers: pairs(headers), body: body.into(), ms: 1.0 }
}

pub(super) fn received(instance: &str) -> Received {
    Received {
        method: "GET".into(),
        path: ECHO_PATH.into(),
        http_version: "HTTP/1.1".into(),
        peer: "192.0.2.1:5".into(),
        client: None,
        client_from: None,
        headers: vec![],
        group: None,
        cluster: None,
        instance: instance.into(),
        version: "0.1.0".into(),
        backend: None,
    }
}

pub(super) fn echo(diff: Diff) -> Step<Echo> {
    Step::Done(Echo {
        path: ECHO_PATH.into(),
        answer: answer(200, &[], "{}"),
        received: Some(received("i-1")),
        diff: Some(diff),
    })
}

pub(super) fn echo_not_hi(answer: Answer) -> Step<Echo> {
    Step::Done(Echo { path: ECHO_PATH.into(), answer, received: None, diff: None })
}

pub(super) fn handshake(answer: Answer) -> Step<Handshake> {
    let accept_matches = answer.status == 101;
    Step::Done(Handshake {
        path: "/ws".into(),
        answer,
        accept_matches,
        origin: None,
        other_origin: None,
        host_origin: None,
    })
}

pub(super) fn trip() -> Step<RoundTrip> {
    Step::Done(RoundTrip { ms: 1.0 })
}

pub(super) fn carried() -> Carried {
    Carried { path: "/ws?a".into(), note: None, message: trip(), ping: trip(), large: trip(), welcomed: true }
}

/// hi itself, healthy.
pub(super) fn healthy(at: &str) -> Address {
    Address {
        in_dns: true,
        ttl_seconds: Some(3540),
        tcp: Step::Done(Connected { ms: 1.0 }),
        echo: echo(Diff::default()),
        echo_upgrade: echo(Diff::default()),
        handshake: handshake(answer(101, &[], "")),
        chat: Step::Done(carried()),
        raw: Step::Done(carried()),
        ..Address::unknown(SocketAddr::new(ip(at), 443))
    }
}

/// Another server, which answers every path alike.
pub(super) fn other(at: &str, all: &Answer) -> Address {
    Address {
        echo: echo_not_hi(all.clone()),
        echo_upgrade: echo_not_hi(all.clone()),
        handshake: handshake(all.clone()),
        chat: Step::Skipped,
        raw: Step::Skipped,
        ..healthy(at)
    }
}

pub(super) fn unconnected(at: &str, kind: FailureKind) -> Address {
    Address {
        in_dns: true,
        ttl_seconds: Some(300),
        tcp: Step::Failed(Failure::new(kind, "no connection within 3 s")),
        ..Address::unknown(SocketAddr::new(ip(at), 443))
    }
}

/// hi behind a hop that did this to a handshake.
pub(super) fn through(at: &str, diff: Diff) -> Address {
    let refused = answer(426, &[], "This address speaks WebSocket");
    Address {
        echo: echo(Diff { hops: diff.hops.clone(), ..Diff::default() }),
        echo_upgrade: echo(diff),
        handshake: handshake(refused),
        chat: Step::Skipped,
        raw: Step::Skipped,
        ..healthy(at)
    }
}

pub(super) fn stripping(headers: &[(&str, &str)], hop: Option<(&str, Option<Proxy>)>, version: Option<&str>) -> Diff {
    Diff {
        http_version: version.map(str::to_owned),
        removed: pairs(headers),
        hops: hop.map(|(trace, proxy)| Hop { trace: trace.into(), proxy }).into_iter().collect(),
        ..Diff::default()
    }
}

pub(super) fn with_tls(at: &str, fault: Option<CertificateFaultKind>, days_left: i64) -> Address {
    let certificate = Certificate {
        subject: "CN=old".into(),
        issuer: "CN=Some CA".into(),
        names: vec!["old.example.com".into()],
        days_left,
        not_after: "some day".into(),
    };
    let tls = Tls {
        ms: 1.0,
        version: "TLSv1.3".into(),
        alpn: None,
        chain: vec![certificate],
        fault: fault.map(|kind| CertificateFault { kind, detail: "no".into() }),
    };
    Address { tls: Step::Done(tls), ..healthy(at) }
}

pub(super) fn failing<T>(kind: FailureKind) -> Step<T> {
    Step::Failed(Failure::new(kind, "it failed"))
}

pub(super) fn lookup(outcome: LookupOutcome, ips: &[IpAddr]) -> Lookup {
    let records = ips.iter().map(|ip| Record { ip: *ip, ttl_seconds: Some(3540) }).collect();
    Lookup { outcome, aliases: vec![], records, detail: None }
}

pub(super) fn source(name: &str, ips: &[&str]) -> Source {
    let (a, aaaa): (Vec<_>, Vec<_>) = ips.iter().map(|text| ip(text)).partition(IpAddr::is_ipv4);
    let of = |ips: &[IpAddr]| match ips {
        [] => lookup(LookupOutcome::NoAddress, &[]),
        ips => lookup(LookupOutcome::Found, ips),
    };
    Source { name: name.into(), local: false, a: of(&a), aaaa: of(&aaaa), ms: 1.0 }
}

pub(super) fn empty_source(outcome: LookupOutcome) -> Source {
    Source { a: lookup(outcome, &[]), aaaa: lookup(outcome, &[]), ..source("192.0.2.53:53", &[]) }
}

/// Facts whose one resolver names the addresses that are in DNS.
pub(super) fn facts(addresses: Vec<Address>) -> Facts {
    let named: Vec<_> =
        addresses.iter().filter(|address| address.in_dns).map(|address| address.ip().to_string()).collect();
    let named: Vec<_> = named.iter().map(String::as_str).collect();
    Facts {
        target: Target::parse("wss://chat.example.com/ws").unwrap(),
        dns: vec![source("192.0.2.53:53", &named)],
        expected: vec![],
        addresses,
    }
}

pub(super) fn plain(mut facts: Facts) -> Facts {
    facts.target = Target::parse("ws://chat.example.com/ws").unwrap();
    facts
}
