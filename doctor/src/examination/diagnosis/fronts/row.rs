//! A row of the table of fronts: what is asked and answered, and what the doctor has to say.

use super::super::super::facts::*;
use super::super::super::facts::{Diff, Hop};
use super::super::super::url::Target;
use super::super::super::verdict::{Finding, Kind};
use super::super::diagnose;
use super::super::made::{answer, received, trip};
use crate::proxy::Proxy;

pub(super) type Headers = &'static [(&'static str, &'static str)];

/// What a plain request for the echo gets.
#[derive(Clone, Copy)]
pub(super) enum Plain {
    /// hi's own answer, and nothing was changed on the way.
    Hi,
    /// The same through a front that left this trace.
    Through(&'static str, Option<Proxy>),
    /// The same answer as the handshake.
    Same,
    /// This status, with the headers of the front, and a page.
    Page(u16),
}
pub(super) use Plain::{Hi, Page, Same, Through};

pub(super) struct Row {
    pub(super) front: &'static str,
    pub(super) path: &'static str,
    pub(super) plain: Plain,
    pub(super) status: u16,
    pub(super) headers: Headers,
    pub(super) body: &'static str,
    pub(super) kind: Kind,
    /// In the text of the verdict.
    pub(super) says: &'static str,
    /// In its fix.
    pub(super) fix: &'static str,
}

/// The columns: front and path; plain; the answer to the handshake; verdict, text, fix.
pub(super) fn row(
    (front, path): (&'static str, &'static str),
    plain: Plain,
    (status, headers, body): (u16, Headers, &'static str),
    (kind, says, fix): (Kind, &'static str, &'static str),
) -> Row {
    Row { front, path, plain, status, headers, body, kind, says, fix }
}

fn echo(answer: Answer, diff: Option<Diff>) -> Step<Echo> {
    let received = diff.is_some().then(|| received("i-1"));
    Step::Done(Echo { path: ECHO_PATH.into(), answer, received, diff })
}

impl Row {
    pub(super) fn facts(&self) -> Facts {
        let target = Target::parse(&format!("ws://chat.example.com{}", self.path)).unwrap();
        let own = answer(self.status, self.headers, self.body);
        let named: Vec<_> = own.headers.iter().filter(|(name, _)| name == "Server").cloned().collect();
        let page = |status| Answer { headers: named.clone(), ..answer(status, &[], "") };
        let hops = |trace: &str, proxy| vec![Hop { trace: trace.into(), proxy }];
        let plain = match self.plain {
            Hi => echo(answer(200, &[], "{}"), Some(Diff::default())),
            Through(trace, proxy) => echo(page(200), Some(Diff { hops: hops(trace, proxy), ..Diff::default() })),
            Same => echo(own.clone(), None),
            Page(status) => echo(page(status), None),
        };
        let upgrade = match (self.plain, self.status) {
            (Page(_), _) => echo(own.clone(), None),
            _ => plain.clone(),
        };
        let chat = Carried {
            path: "/ws".into(),
            note: None,
            message: trip(),
            ping: trip(),
            large: trip(),
            welcomed: matches!(self.plain, Hi | Through(..)),
        };
        let handshake = Handshake {
            path: self.path.into(),
            accept_matches: self.status == 101,
            answer: own,
            origin: None,
            other_origin: None,
            host_origin: None,
        };
        let address = Address {
            in_dns: true,
            tcp: Step::Done(Connected { ms: 1.0 }),
            echo: plain,
            echo_upgrade: upgrade,
            chat: if self.status == 101 { Step::Done(chat) } else { Step::Skipped },
            handshake: Step::Done(handshake),
            ..Address::unknown("192.0.2.7:80".parse().unwrap())
        };
        Facts { target, dns: vec![], expected: vec![], addresses: vec![address] }
    }

    pub(super) fn check(&self) {
        let Self { front, path, status, .. } = self;
        let found = diagnose(&self.facts());
        let Finding { kind, text, fix, broken, .. } = &found.verdict;
        let said = fix.as_ref().map(|fix| fix.text.clone()).unwrap_or_default();
        let case = format!("{front} {path} {status}: {kind:?}: {text} FIX: {said}");
        assert_eq!(*kind, self.kind, "{case}");
        assert!(
            text.contains(self.says) && said.contains(self.fix),
            "{case}\nexpected: {:?} {:?}",
            self.says,
            self.fix
        );
        assert_eq!(*broken, !matches!(kind, Kind::Sound | Kind::NotHi), "{case}");
        assert!(*broken || found.others.is_empty(), "{case}: {:?}", found.others);
        // No other product is named, and no proxy is blamed where hi itself answers.
        for other in PRODUCTS.iter().filter(|product| !front.contains(**product)) {
            assert!(!text.contains(other), "{other}? {case}");
        }
        if matches!(self.plain, Hi) && *front == "hi" {
            assert!(!text.contains("proxy") && !said.contains("proxy"), "{case}");
            assert!(!text.contains("does not name itself"), "{case}");
        }
    }
}

const PRODUCTS: [&str; 11] =
    ["nginx", "HAProxy", "Apache", "Caddy", "Traefik", "Envoy", "Varnish", "Squid", "Cloudflare", "AWS", "IIS"];
