//! The table for people, and the verdict below it. Pure: colors are an argument.

use std::fmt::Write as _;

use super::Examination;
use super::facts::Diff;
use super::facts::{
    Address, Answer, Carried, Echo, Handshake, Idle, IdleFate, Lookup, LookupOutcome, Source, Step, Tls,
};
use super::faults::listed;
use super::secrets::shown;
use super::verdict::Finding;
use crate::printable::printable;
use crate::printable::thousands;

/// Width of the column with the steps' names, in characters.
const NAME_WIDTH: usize = 17;
/// Width of the column with the times, in characters.
const TIME_WIDTH: usize = 11;

/// Whether to write colors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Color {
    Ansi,
    /// For a pipe or a file.
    None,
}

/// The tone of a line, for its color.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tone {
    Good,
    Bad,
    Careful,
    Quiet,
    Title,
}

struct Page {
    text: String,
    color: Color,
}

pub(crate) fn text(examination: &Examination, color: Color) -> String {
    let mut page = Page { text: String::new(), color };
    let facts = &examination.facts;
    page.title(&format!("hi doctor {}", facts.target.url));
    if !facts.dns.is_empty() {
        page.title("DNS");
        facts.dns.iter().for_each(|source| page.source(source));
    }
    facts.addresses.iter().for_each(|address| page.address(address));
    page.text.push('\n');
    for other in &examination.diagnosis.others {
        page.finding(other, if other.broken { "also" } else { "note" });
    }
    page.finding(&examination.diagnosis.verdict, "verdict");
    page.text
}

impl Page {
    fn paint(&self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Good => "32",
            Tone::Bad => "31;1",
            Tone::Careful => "33",
            Tone::Quiet => "2",
            Tone::Title => "1",
        };
        match self.color {
            Color::Ansi => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            Color::None => text.to_owned(),
        }
    }

    fn title(&mut self, text: &str) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        let painted = self.paint(Tone::Title, text);
        let _ = writeln!(self.text, "{painted}");
    }

    fn line(&mut self, name: &str, tone: Tone, word: &str, time: Option<f64>, details: &str) {
        let time = time.map(|ms| format!("{ms:.1} ms")).unwrap_or_default();
        // Padded first: the escape codes of colors would be counted.
        let word = self.paint(tone, &format!("{word:5}"));
        let line = format!("  {name:NAME_WIDTH$} {word} {time:>TIME_WIDTH$}  {}", printable(details));
        let _ = writeln!(self.text, "{}", line.trim_end());
    }

    fn below(&mut self, tone: Tone, text: &str) {
        let indent = 2 + NAME_WIDTH + 1 + 5 + 1 + TIME_WIDTH + 2;
        let painted = self.paint(tone, &printable(text));
        let _ = writeln!(self.text, "{:indent$}{painted}", "");
    }

    fn source(&mut self, source: &Source) {
        let failed = |lookup: &Lookup| matches!(lookup.outcome, LookupOutcome::NoAnswer | LookupOutcome::Failed);
        let (tone, word) = match (source.records().next(), failed(&source.a) || failed(&source.aaaa)) {
            (Some(_), false) => (Tone::Good, "ok"),
            (Some(_), true) => (Tone::Careful, "half"),
            (None, _) => (Tone::Bad, "fail"),
        };
        let time = (!source.local).then_some(source.ms);
        let (a, aaaa) = (addresses(&source.a), addresses(&source.aaaa));
        // If both are the same, they are shown once.
        let details = if a == aaaa { a } else { format!("A {a}; AAAA {aaaa}") };
        self.line(&source.name, tone, word, time, &details);
        let mut aliases = source.a.aliases.clone();
        aliases.extend(source.aaaa.aliases.iter().filter(|alias| !source.a.aliases.contains(alias)).cloned());
        for alias in aliases {
            let text = format!("{} is an alias of {} (TTL {} s)", alias.name, alias.to, thousands(alias.ttl_seconds));
            self.below(Tone::Quiet, &text);
        }
    }

    fn address(&mut self, address: &Address) {
        let ttl = address.ttl_seconds.map(|ttl| format!(", TTL {} s", thousands(ttl))).unwrap_or_default();
        let record = if address.in_dns { ttl } else { ", in no record".to_owned() };
        self.title(&format!("{}{record}", address.address));
        self.step("tcp", &address.tcp, |page, name, connected| {
            page.line(name, Tone::Good, "ok", Some(connected.ms), "");
        });
        self.step("tls", &address.tls, Self::tls);
        self.step("echo", &address.echo, Self::echo);
        self.step("echo, upgrade", &address.echo_upgrade, Self::echo);
        self.step("handshake", &address.handshake, Self::handshake);
        if address.tls.done().is_some_and(|tls| tls.fault.is_some()) && address.handshake == Step::Skipped {
            let why = "not tried: the certificate is refused, and the address holds secrets";
            self.line("handshake", Tone::Careful, "-", None, why);
        }
        self.step("chat", &address.chat, Self::carried);
        self.step("raw room", &address.raw, Self::carried);
        self.step("idle", &address.idle, Self::idle);
    }

    fn step<T>(&mut self, name: &str, step: &Step<T>, show: impl FnOnce(&mut Self, &str, &T)) {
        match step {
            Step::Skipped => {}
            Step::Done(value) => show(self, name, value),
            Step::Failed(failure) => self.line(name, Tone::Bad, "fail", None, &failure.detail),
        }
    }

    fn tls(&mut self, name: &str, tls: &Tls) {
        let mut parts = vec![tls.version.clone()];
        parts.extend(tls.alpn.clone());
        if let Some(own) = tls.chain.first() {
            parts.push(listed(&own.names));
            parts.push(format!("{} days left", thousands_signed(own.days_left)));
            parts.push(format!("issued by {}", own.issuer));
        }
        let (tone, word) = if tls.fault.is_some() { (Tone::Bad, "bad") } else { (Tone::Good, "ok") };
        self.line(name, tone, word, Some(tls.ms), &parts.join("; "));
        if let Some(fault) = &tls.fault {
            self.below(Tone::Bad, &fault.detail);
        }
        for certificate in tls.chain.iter().skip(1) {
            let text = format!("chain: {}, {} days left", certificate.subject, thousands_signed(certificate.days_left));
            self.below(Tone::Quiet, &text);
        }
    }

    fn echo(&mut self, name: &str, echo: &Echo) {
        let Some(received) = &echo.received else {
            let details = format!("no echo of hi: {}", described(&echo.answer));
            return self.line(name, Tone::Careful, "-", Some(echo.answer.ms), &details);
        };
        let way = match echo.diff.as_ref().filter(|diff| !diff.is_empty()) {
            None => "arrives as sent".to_owned(),
            Some(_) => format!("arrives changed, from {}", received.peer),
        };
        // Nothing is said of what every server should have.
        let on = received.backend.as_ref().filter(|backend| *backend != "io_uring");
        let on = on.map_or(String::new(), |backend| format!(" on {backend}"));
        let client = received.client.as_ref().filter(|_| received.client_from.as_deref() != Some("peer"));
        let client = client.map_or(String::new(), |address| format!(", of the client {address}"));
        let cluster = received.cluster.as_ref();
        let cluster = cluster.map_or(String::new(), |it| format!(" of the cluster {} ({})", it.name, it.log));
        let details = format!("hi {}{on}, instance {}{cluster}; {way}{client}", received.version, received.instance);
        self.line(name, Tone::Good, "ok", Some(echo.answer.ms), &details);
        if let Some(proxy) = received.untrusted_proxy() {
            let text =
                format!("all clients of this proxy count as one address: start hi with --trusted-proxies {proxy}");
            self.below(Tone::Careful, &text);
        }
        if let Some(diff) = &echo.diff {
            self.diff(diff);
        }
    }

    fn diff(&mut self, diff: &Diff) {
        if let Some(version) = &diff.http_version {
            self.below(Tone::Bad, &format!("~ HTTP/1.1 -> {version}"));
        }
        if let Some(path) = &diff.path {
            self.below(Tone::Careful, &format!("~ path -> {path}"));
        }
        for (name, value) in &diff.removed {
            self.below(Tone::Bad, &format!("- {name}: {value}"));
        }
        for changed in &diff.changed {
            self.below(Tone::Careful, &format!("~ {}: {} -> {}", changed.name, changed.sent, changed.arrived));
        }
        for (name, value) in &diff.added {
            self.below(Tone::Quiet, &format!("+ {name}: {value}"));
        }
        if !diff.hops.is_empty() {
            let hops: Vec<_> = diff.hops.iter().map(|hop| hop.trace.as_str()).collect();
            self.below(Tone::Quiet, &format!("hops: {}", hops.join(" > ")));
        }
    }

    fn handshake(&mut self, name: &str, handshake: &Handshake) {
        let (tone, word) = if handshake.is_healthy() { (Tone::Good, "ok") } else { (Tone::Bad, "fail") };
        let path = handshake.path.split('?').next().unwrap_or_default();
        let details = match (handshake.answer.status, handshake.accept_matches) {
            (101, true) => format!("101 at {path}"),
            (101, false) => format!("101 at {path}, with a wrong accept key"),
            _ => format!("{} at {path}", described(&handshake.answer)),
        };
        self.line(name, tone, word, Some(handshake.answer.ms), &details);
        if let Some(other) = &handshake.other_origin {
            let origin = other.origin.as_ref().map_or("without Origin".to_owned(), |it| format!("with Origin {it}"));
            self.below(Tone::Quiet, &format!("{origin}: {}", other.status));
        }
    }

    fn carried(&mut self, name: &str, carried: &Carried) {
        if let Some(note) = &carried.note {
            return self.line(name, Tone::Careful, "-", None, note);
        }
        let steps = [("message", &carried.message), ("ping", &carried.ping), ("16 KiB", &carried.large)];
        for (what, step) in steps {
            self.step(&format!("{name}, {what}"), step, |page, name, trip| {
                page.line(name, Tone::Good, "ok", Some(trip.ms), "there and back");
            });
        }
    }

    fn idle(&mut self, name: &str, idle: &Idle) {
        let seconds = |seconds: f64| format!("{seconds} s");
        for connection in idle.connections.iter().filter(|connection| connection.fate != IdleFate::Alive) {
            let how = if connection.fate == IdleFate::Cut { "cut" } else { "deaf" };
            let details = format!("{how} after {} of silence", seconds(connection.silent_seconds));
            self.line(name, Tone::Bad, how, None, &details);
        }
        if let Some(survived) = idle.survived_seconds() {
            let advice = if idle.cut_seconds().is_none() { "; any ping interval up to that is fine" } else { "" };
            self.line(name, Tone::Good, "ok", None, &format!("{} of silence survived{advice}", seconds(survived)));
        }
        if idle.server_pings() > 0 {
            self.below(
                Tone::Quiet,
                "the server pinged meanwhile: no connection is silent for longer than the time between its pings",
            );
        }
    }

    fn finding(&mut self, finding: &Finding, label: &str) {
        let tone = match (finding.broken, label) {
            (true, _) => Tone::Bad,
            (false, "verdict") => Tone::Good,
            (false, _) => Tone::Careful,
        };
        let label = self.paint(tone, &format!("{label}: {}", finding.kind.name()));
        let _ = writeln!(self.text, "{label}\n  {}", finding.text);
        let Some(fix) = &finding.fix else { return };
        let _ = writeln!(self.text, "  Fix: {}.", fix.text.trim_end_matches('.'));
        for lines in &fix.lines {
            let without = lines.without.join(", ");
            if lines.lines.is_empty() {
                let _ = writeln!(self.text, "  In {}, without: {without}", lines.place);
                continue;
            }
            let _ = writeln!(self.text, "  In {}:", lines.place);
            for line in &lines.lines {
                let _ = writeln!(self.text, "      {line}");
            }
            if !without.is_empty() {
                let _ = writeln!(self.text, "  and without: {without}");
            }
        }
    }
}

fn addresses(lookup: &Lookup) -> String {
    let records: Vec<_> = lookup
        .records
        .iter()
        .map(|record| match record.ttl_seconds {
            Some(ttl) => format!("{} (TTL {} s)", record.ip, thousands(ttl)),
            None => record.ip.to_string(),
        })
        .collect();
    match lookup.outcome {
        LookupOutcome::Found => records.join(", "),
        LookupOutcome::NoAddress => "none".to_owned(),
        LookupOutcome::NoSuchName => "no such name".to_owned(),
        LookupOutcome::Failed | LookupOutcome::NoAnswer => lookup.detail.clone().unwrap_or("no answer".to_owned()),
    }
}

fn described(answer: &Answer) -> String {
    let kind = if answer.is_html() { ", a web page" } else { "" };
    let server = answer.header("server").map(|server| format!(", {server}")).unwrap_or_default();
    let to = answer.header("location").map(|to| format!(", to {}", shown(without_query(to)))).unwrap_or_default();
    format!("{}{kind}{server}{to}", answer.status)
}

/// The query of a redirect is for its target only.
fn without_query(location: &str) -> &str {
    location.split(['?', '#']).next().unwrap_or_default()
}

fn thousands_signed(number: i64) -> String {
    let sign = if number < 0 { "-" } else { "" };
    format!("{sign}{}", thousands(number.unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::super::facts::Facts;
    use super::super::url::Target;
    use super::super::verdict::{Diagnosis, Kind};
    use super::*;
    use crate::proxy::{Lines, Proxy};

    fn examination() -> Examination {
        let target = Target::parse("ws://h/ws").unwrap();
        let lines = Lines::for_upgrade(Some(Proxy::Nginx));
        let verdict = Finding::broken(Kind::UpgradeStripped, None, "It drops Upgrade.").fix("let it").lines(lines);
        let note = Finding::warning(Kind::ResolverSilent, None, "One is silent.");
        Examination {
            facts: Facts { target, dns: vec![], expected: vec![], addresses: vec![] },
            diagnosis: Diagnosis { verdict, others: vec![note] },
            ms: 1.0,
        }
    }

    #[test]
    fn the_verdict_comes_last_with_its_lines() {
        let expected = "hi doctor ws://h/ws\n\nnote: resolver_silent\n  One is silent.\n\
            verdict: upgrade_stripped\n  It drops Upgrade.\n  Fix: let it.\n  In nginx, in the location of this address:\n";
        let text = text(&examination(), Color::None);
        assert!(text.starts_with(expected), "{text}");
        assert!(text.ends_with("      proxy_set_header Host $http_host;\n"), "{text}");
    }

    #[test]
    fn lines_that_must_not_be_there_are_named() {
        let mut examination = examination();
        let lines = Lines::for_upgrade(Some(Proxy::Haproxy));
        examination.diagnosis.verdict = examination.diagnosis.verdict.lines(lines);
        let text = text(&examination, Color::None);
        let end = "  and without: http-request del-header Upgrade, http-request del-header Connection\n";
        assert!(text.ends_with(end), "{text}");
    }

    #[test]
    fn foreign_text_is_harmless_in_a_terminal() {
        let mut page = Page { text: String::new(), color: Color::None };
        page.below(Tone::Quiet, "\u{1b}[2J");
        page.line("echo", Tone::Good, "ok", None, "\u{7}bell");
        assert!(!page.text.trim_end_matches('\n').contains(['\u{1b}', '\u{7}']), "{:?}", page.text);
        let finding = Finding::broken(Kind::Redirect, None, "to \u{1b}").fix("\u{1b}");
        assert_eq!(finding.to_string(), "to ? Fix: ?");
    }

    #[test]
    fn colors_change_nothing_but_colors() {
        let colored = text(&examination(), Color::Ansi);
        assert!(colored.contains("\u{1b}[31;1mverdict: upgrade_stripped\u{1b}[0m"), "{colored:?}");
        let bare = ["\u{1b}[31;1m", "\u{1b}[33m", "\u{1b}[1m", "\u{1b}[0m"]
            .iter()
            .fold(colored, |text, code| text.replace(code, ""));
        assert_eq!(bare, text(&examination(), Color::None));
    }
}
