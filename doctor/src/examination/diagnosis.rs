//! From the facts to one verdict. Pure.
//!
//! Causes are sorted so that each explains those behind it: DNS, TCP, TLS, HTTP, WebSocket. The worst address decides; the
//! healthy ones show what should be there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::facts::{Address, Facts, LookupOutcome, Source};
use super::faults::{Fault, family, faults};
use super::verdict::{Diagnosis, Finding, Kind};
use crate::printable::thousands;

/// The verdict, and what else deserves attention.
pub(crate) fn diagnose(facts: &Facts) -> Diagnosis {
    let examined: Vec<_> = facts.addresses.iter().map(|address| (address, faults(address, facts))).collect();
    let cases = Cases { facts, examined };
    let mut findings = names(facts);
    findings.extend(cases.families());
    findings.extend(cases.each());
    findings.extend(cases.expectations());
    findings.extend(cases.identities());
    let any_healthy = cases.healthy().next().is_some();
    let anything_connects = cases.examined.iter().any(|(address, _)| address.tcp.done().is_some());
    findings.sort_by_key(|finding| {
        // If nothing works, an address that answers explains more than one that doesn't.
        let says_little = !any_healthy && anything_connects && is_about_connecting(finding.kind);
        (!finding.broken, says_little, finding.kind)
    });
    let verdict = match findings.first() {
        Some(first) if first.broken => findings.remove(0),
        _ => match findings.iter().position(|finding| finding.kind == Kind::NotHi) {
            Some(position) => findings.remove(position),
            None => cases.verdict_without_faults(),
        },
    };
    Diagnosis { verdict, others: findings }
}

fn is_about_connecting(kind: Kind) -> bool {
    matches!(kind, Kind::Refused | Kind::TimedOut | Kind::Unreachable | Kind::Ipv4Broken | Kind::Ipv6Broken)
}

struct Cases<'f> {
    facts: &'f Facts,
    examined: Vec<(&'f Address, Vec<Fault>)>,
}

impl<'f> Cases<'f> {
    /// Addresses at which everything that was tried works.
    fn healthy(&self) -> impl Iterator<Item = &'f Address> {
        let healthy = self
            .examined
            .iter()
            .filter(|(address, faults)| address.tcp.done().is_some() && faults.iter().all(|fault| !fault.broken));
        healthy.map(|(address, _)| *address)
    }

    fn host(&self) -> &str {
        &self.facts.target.host
    }

    /// A family none of whose addresses accepts a connection, while the other is healthy.
    fn families(&self) -> Vec<Finding> {
        let of = |ipv4: bool| self.examined.iter().filter(move |(address, _)| address.address.is_ipv4() == ipv4);
        let is_dead = |ipv4| {
            of(ipv4).count() > 0
                && of(ipv4).all(|(_, faults)| faults.first().is_some_and(Fault::is_about_connecting))
                && self.healthy().any(|address| address.address.is_ipv4() != ipv4)
        };
        let mut findings = Vec::new();
        for (ipv4, kind, name, record) in
            [(false, Kind::Ipv6Broken, "IPv6", "AAAA"), (true, Kind::Ipv4Broken, "IPv4", "A")]
        {
            if is_dead(ipv4) && self.facts.expected.is_empty() {
                let each = of(ipv4).map(|(address, faults)| format!("{}: {}", address.ip(), faults[0].clause));
                let text = format!(
                    "{name} is broken, the rest works. {}. Clients that try {name} first wait, or give up.",
                    each.collect::<Vec<_>>().join("; ")
                );
                let fix = format!(
                    "let the server listen on {name} (hi does unless --listen says otherwise) and open the firewall for \
                     it, or take the {record} record away"
                );
                findings.push(Finding::broken(kind, of(ipv4).next().map(|(address, _)| address.ip()), text).fix(fix));
            }
        }
        findings
    }

    /// The faults of each address; those of another machine become a stale record.
    fn each(&self) -> Vec<Finding> {
        let dead: Vec<_> = self.families();
        let dead_kinds: Vec<_> = dead.iter().map(|finding| finding.kind).collect();
        let mut findings = Vec::new();
        for (address, faults) in &self.examined {
            let family_kind = if address.address.is_ipv4() { Kind::Ipv4Broken } else { Kind::Ipv6Broken };
            for (position, fault) in faults.iter().enumerate() {
                let said_already = fault.is_about_connecting() && dead_kinds.contains(&family_kind);
                if said_already {
                    continue;
                }
                let is_first = position == 0 && fault.broken;
                findings.push(match is_first && self.is_stale(address, fault) {
                    true => self.stale(address, &fault.clause),
                    false => self.with_record(fault.finding(address), address),
                });
            }
        }
        findings
    }

    /// Whether an address with a fault is another machine than this server: it was not expected, or what answers there
    /// differs from what answers at the healthy addresses.
    fn is_stale(&self, address: &Address, fault: &Fault) -> bool {
        // A server of a cluster that is cut off from it is no forgotten one.
        if !address.in_dns || fault.kind == Kind::ClusterAway {
            return false;
        }
        if !self.facts.expected.is_empty() {
            return !self.facts.expected.contains(&address.ip());
        }
        let mut healthy = self.healthy().peekable();
        !fault.is_about_connecting() && healthy.peek().is_some() && healthy.all(|healthy| differ(address, healthy))
    }

    fn stale(&self, address: &Address, clause: &str) -> Finding {
        let text =
            format!("{} is not this server: {clause}.{}", address.ip(), self.record_of(address, "still points to it"));
        let good = self.good(address);
        let fix = match good.as_slice() {
            [] => format!("take the record of {} away", address.ip()),
            good => format!("point the record at {}.", good.join(" and ")).trim_end_matches('.').to_owned(),
        };
        Finding::broken(Kind::StaleAddress, Some(address.ip()), text).fix(fix)
    }

    /// Where a record should point instead: the expected addresses of the same family, or else the healthy ones.
    fn good(&self, instead_of: &Address) -> Vec<String> {
        let same = |ip: &IpAddr| ip.is_ipv4() == instead_of.address.is_ipv4();
        let healthy: Vec<_> = self.healthy().map(Address::ip).collect();
        let expected = self.facts.expected.iter().copied();
        let good: Vec<_> = if self.facts.expected.is_empty() { healthy } else { expected.collect() };
        good.iter().filter(|ip| same(ip)).map(ToString::to_string).collect()
    }

    /// ` The A record of chat.example.com still points to it (TTL 3,540 s).`
    fn record_of(&self, address: &Address, points: &str) -> String {
        let sources = self.facts.dns.iter();
        let pointing = sources.filter(|source| source.records().any(|record| record.ip == address.ip()));
        // A record matters more than a file of this machine.
        let Some(source) = pointing.min_by_key(|source| source.local) else { return String::new() };
        if source.local {
            return format!(" {} {points}.", source.name);
        }
        let (kind, lookup) = if address.address.is_ipv4() { ("A", &source.a) } else { ("AAAA", &source.aaaa) };
        let name = lookup.aliases.last().map_or(self.host(), |alias| alias.to.as_str());
        let ttl = address.ttl_seconds.map(|ttl| format!(" (TTL {} s)", thousands(ttl))).unwrap_or_default();
        format!(" The {kind} record of {name} {points}{ttl}.")
    }

    fn with_record(&self, mut finding: Finding, address: &Address) -> Finding {
        if is_about_connecting(finding.kind) {
            finding.text.push_str(&self.record_of(address, "points to it"));
        }
        finding
    }

    /// Compares `--expect-ip` with the records.
    fn expectations(&self) -> Vec<Finding> {
        if self.facts.expected.is_empty() {
            return Vec::new();
        }
        let mut findings = Vec::new();
        for (address, faults) in &self.examined {
            let ip = address.ip();
            let expected = self.facts.expected.contains(&ip);
            if address.in_dns && !expected && !faults.iter().any(|fault| fault.broken) {
                let text =
                    format!("{ip} is not among the expected addresses.{}", self.record_of(address, "points to it"));
                let finding = Finding::broken(Kind::UnexpectedAddress, Some(ip), text);
                findings.push(match self.good(address).as_slice() {
                    [] => finding.fix(format!("take the record away, or expect it (--expect-ip {ip})")),
                    good => finding.fix(format!("point the record at {}", good.join(" and "))),
                });
            }
            if expected && !address.in_dns {
                let record = if ip.is_ipv4() { "A" } else { "AAAA" };
                let text = format!("{ip} is expected, and no record of {} points to it.", self.host());
                let fix = format!("add the {record} record {ip}, or wait until the old one has expired everywhere");
                findings.push(Finding::broken(Kind::MissingAddress, Some(ip), text).fix(fix));
            }
        }
        findings
    }

    /// Whether all healthy addresses lead to the same server.
    fn identities(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let healthy: Vec<_> = self.healthy().filter(|address| address.handshake.done().is_some()).collect();
        let hi: Vec<_> = healthy.iter().filter(|address| address.is_hi()).collect();
        for other in healthy.iter().filter(|address| !address.is_hi()) {
            findings.push(if hi.is_empty() {
                not_hi(other)
            } else {
                self.stale(other, "a WebSocket server that is not hi, or hides that it is, answers there")
            });
        }
        let rooms: BTreeSet<_> = hi.iter().filter_map(|address| address.rooms()).collect();
        if rooms.len() > 1 && hi.iter().any(|address| address.cluster().is_some()) {
            findings.extend(strangers(&hi));
        } else if rooms.len() > 1 {
            let each = hi.iter().filter_map(|address| Some(format!("{} is {}", address.ip(), address.instance()?)));
            let text = format!(
                "{} servers that know nothing of each other's rooms answer: {}. Users on one don't hear users on another.",
                rooms.len(),
                each.collect::<Vec<_>>().join(", ")
            );
            let fix = "if that is not intended, point all records to one of them";
            findings.push(Finding::warning(Kind::AnotherInstance, None, text).fix(fix));
        }
        findings.dedup_by_key(|finding| finding.kind == Kind::NotHi);
        findings
    }

    fn verdict_without_faults(&self) -> Finding {
        let ips: Vec<_> = self.healthy().map(|address| address.ip().to_string()).collect();
        let url = &self.facts.target.url;
        if ips.is_empty() {
            let each = self.examined.iter().map(|(address, _)| format!("{} ({})", address.ip(), family(address)));
            let each = each.collect::<Vec<_>>().join(", ");
            let text =
                format!("Nothing can be said about {url}: this machine has no route to any of its addresses: {each}.");
            return Finding::broken(Kind::NoRouteHere, None, text).fix("run the doctor on a machine that has one");
        }
        let blind = self.healthy().any(|address| address.is_hi() && address.received().is_none());
        let unseen = match blind {
            true => " Its echo is switched off (hi --echo off) or not passed on, so changes to headers can't be seen.",
            false => "",
        };
        Finding::warning(Kind::Sound, None, format!("{url} works at {}.{unseen}", ips.join(" and ")))
    }
}

fn not_hi(address: &Address) -> Finding {
    let text = "OK as far as can be seen: a WebSocket server answers that is not hi, or whose echo is switched off \
        (hi --echo off), or whose proxy does not pass /-/doctor/echo on. What happens to headers and messages on the way \
        can't be seen.";
    Finding::warning(Kind::NotHi, Some(address.ip()), text)
}

/// Addresses of a cluster whose servers don't share their rooms with most of the others.
fn strangers(hi: &[&&Address]) -> Vec<Finding> {
    let mut sizes: BTreeMap<&str, usize> = BTreeMap::new();
    for cluster in hi.iter().filter_map(|address| address.cluster()) {
        *sizes.entry(&cluster.log).or_default() += 1;
    }
    let largest = hi.iter().filter(|address| address.cluster().is_some());
    let Some(home) = largest.max_by_key(|address| sizes.get(address.rooms()?).copied()) else { return Vec::new() };
    let Some(ours) = home.cluster() else { return Vec::new() };
    let others = hi.iter().filter(|address| address.rooms() != home.rooms());
    let finding = |other: &&&Address| {
        let (ip, name, home) = (other.ip(), &ours.name, home.ip());
        let (clause, fix) = match other.cluster() {
            None => (
                "shares its rooms with no other server".to_owned(),
                format!("start it with the --cluster of {home}, and with --cluster-name {name}"),
            ),
            Some(theirs) if theirs.name != ours.name => (
                format!("belongs to the cluster {} and not to {name}", theirs.name),
                format!("start it with --cluster-name {name}"),
            ),
            Some(_) => (
                format!(
                    "belongs to another cluster of the name {name}: its NATS servers are others, or their log was made anew"
                ),
                format!("start it with the --cluster of {home}; if that is the same, restart it"),
            ),
        };
        let text = format!("{ip} {clause}, as {home} does. Its users don't hear those of {home}.");
        Finding::broken(Kind::AnotherCluster, Some(ip), text).fix(format!("{fix}, or take its record away"))
    };
    others.map(finding).collect()
}

/// Whether two addresses differ in their certificate, their rooms of hi, or their hops.
fn differ(one: &Address, other: &Address) -> bool {
    let certificate = |address: &Address| address.tls.done().and_then(|tls| tls.chain.first().cloned());
    certificate(one) != certificate(other) || one.rooms() != other.rooms() || identity(one) != identity(other)
}

/// The names of what answers: the hops on the way, or the `Server` of its answers.
fn identity(address: &Address) -> Vec<String> {
    let echo = address.echo.done();
    let hops = echo.and_then(|echo| echo.diff.as_ref()).map(|diff| &diff.hops);
    let own_words =
        |trace: &&super::facts::Hop| trace.trace.starts_with("Via: ") || trace.trace.starts_with("Server: ");
    let mut names: Vec<_> = hops
        .into_iter()
        .flatten()
        .map(|hop| if own_words(&hop) { hop.trace.clone() } else { "a proxy".to_owned() })
        .collect();
    if hops.is_none() {
        names.extend(echo.and_then(|echo| echo.answer.header("server")).map(str::to_owned));
    }
    // A request that arrives changed has passed a hop, even if it does not name itself.
    let changed = echo.and_then(|echo| echo.diff.as_ref()).is_some_and(|diff| !diff.is_empty());
    if changed && names.is_empty() {
        names.push("a proxy".to_owned());
    }
    names
}

/// What is wrong with the name in DNS.
fn names(facts: &Facts) -> Vec<Finding> {
    let host = &facts.target.host;
    if facts.dns.is_empty() {
        return Vec::new();
    }
    if facts.dns.iter().all(|source| source.records().next().is_none()) {
        return vec![no_address(facts)];
    }
    // The system asks no resolver about a name that is in its own file.
    let local = facts.dns.iter().find(|source| source.local);
    let mut findings = Vec::new();
    for source in facts.dns.iter().filter(|_| local.is_none()) {
        let bad = [&source.a, &source.aaaa]
            .into_iter()
            .find(|lookup| matches!(lookup.outcome, LookupOutcome::NoAnswer | LookupOutcome::Failed));
        if let Some(bad) = bad {
            let detail = bad.detail.as_deref().unwrap_or("no answer");
            let text = format!("The resolver {} gives no answer for {host}: {detail}.", source.name);
            let fix = "fix the resolver, or remove it from the configuration of the machines that ask it";
            findings.push(Finding::warning(Kind::ResolverSilent, None, text).fix(fix));
        }
    }
    findings.extend(disagreement(facts));
    findings
}

fn no_address(facts: &Facts) -> Finding {
    let host = &facts.target.host;
    let any = |outcome| facts.dns.iter().any(|source| [&source.a, &source.aaaa].iter().any(|it| it.outcome == outcome));
    let asked: Vec<_> = facts.dns.iter().map(|source| source.name.as_str()).collect();
    let asked = asked.join(", ");
    if any(LookupOutcome::NoSuchName) {
        let text = format!("There is no name {host} (NXDOMAIN, according to {asked}).");
        let fix = "check the spelling; add an A and an AAAA record, and check that the domain has not expired";
        Finding::broken(Kind::DnsNoSuchName, None, text).fix(fix)
    } else if any(LookupOutcome::NoAddress) {
        let text = format!("The name {host} exists and has no address, neither A nor AAAA (according to {asked}).");
        Finding::broken(Kind::DnsNoAddress, None, text).fix("add an A and an AAAA record for it")
    } else {
        let source = facts.dns.first();
        let detail = source.and_then(|source| source.a.detail.clone()).unwrap_or_else(|| "no answer".to_owned());
        let text = format!("No resolver answers for {host}: {asked} ({detail}).");
        let fix = "check the resolvers of this machine (/etc/resolv.conf) or give another one (--resolver 192.0.2.53); if \
            others don't answer either, the name servers of the domain are down";
        Finding::broken(Kind::DnsNoAnswer, None, text).fix(fix)
    }
}

fn disagreement(facts: &Facts) -> Option<Finding> {
    let said = |source: &Source| source.records().map(|record| record.ip).collect::<BTreeSet<_>>();
    let answered: Vec<_> = facts.dns.iter().filter(|source| source.answered()).collect();
    let first = said(answered.first()?);
    if answered.iter().all(|source| said(source) == first) {
        return None;
    }
    let local_knows = answered[0].local;
    // A name that is only in this machine's file is meant to be local.
    if local_knows && answered.iter().skip(1).all(|source| said(source).is_empty()) {
        return None;
    }
    let each = answered.iter().map(|source| format!("{} says {}", source.name, shown(source)));
    let longest = answered.iter().flat_map(|source| source.records()).filter_map(|record| record.ttl_seconds).max();
    let text = format!("The resolvers disagree about {}: {}.", facts.target.host, each.collect::<Vec<_>>().join("; "));
    let fix = match (local_knows, longest) {
        (true, _) => "only this machine sees what /etc/hosts says: remove the line once it is not needed".to_owned(),
        (_, Some(ttl)) => format!(
            "after a change of the record, wait: they agree in {} s at the latest; if not, compare the name servers of \
             the domain",
            thousands(ttl)
        ),
        _ => "compare the name servers of the domain".to_owned(),
    };
    Some(Finding::warning(Kind::ResolversDisagree, None, text).fix(fix))
}

fn shown(source: &Source) -> String {
    let each: Vec<_> = source
        .records()
        .map(|record| match record.ttl_seconds {
            Some(ttl) => format!("{} (TTL {} s)", record.ip, thousands(ttl)),
            None => record.ip.to_string(),
        })
        .collect();
    match each.as_slice() {
        [] if source.a.outcome == LookupOutcome::NoSuchName => "that there is no such name".to_owned(),
        [] => "that it has no address".to_owned(),
        each => each.join(", "),
    }
}

#[cfg(test)]
mod fronts;
#[cfg(test)]
mod made;
#[cfg(test)]
mod tests;
