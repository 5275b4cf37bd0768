//! The list: what has to be true before, during and after a move to another server, judged by the facts. Pure.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::facts::{AddressFacts, Facts};

/// When the list is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Phase {
    /// Days before the records move.
    Before,
    /// While the records move: some users still connect to the old address.
    During,
    /// When all have moved.
    After,
}

/// One item of the list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Item {
    /// A stable name, for `diff` and for programs.
    pub(crate) name: String,
    /// A sentence that is true once the item is done.
    pub(crate) title: String,
    pub(crate) state: State,
    /// What the check found, or what to do.
    pub(crate) detail: String,
}

/// Whether an item is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// A check says so.
    Done,
    /// A check says that it is not.
    Open,
    /// No program can check it: the operator has to answer.
    Ask,
}

/// A TTL this short lets users move within minutes.
const TTL_SECONDS_LOW: u32 = 300;
/// Below this, resolvers ask all the time: too short for good.
const TTL_SECONDS_STEADY: u32 = 1800;
/// A certificate that ends sooner than this ends in the middle of the move, or of the week after it.
const CERTIFICATE_DAYS_MIN: i64 = 14;
/// An address of this machine alone can't be moved.
const NO_RESOLVER: &str = "No resolver knows the host: it is an IP address, or a name in this machine's /etc/hosts.";
const NO_RECORDS: &str = "There are no records.";
/// The detail of a check that needs the old addresses.
const OLD_UNKNOWN: &str = "The old addresses are not known.";
/// Beside connections, hi needs some hundred files; a limit below this is the system's untouched default.
const FILES_MIN: u64 = 10_000;

/// The list of a phase.
pub(crate) fn items(phase: Phase, facts: &Facts) -> Vec<Item> {
    let mut items = match phase {
        Phase::Before => before(facts),
        Phase::During => during(facts),
        Phase::After => after(facts),
    };
    items.push(certificate(facts));
    items.extend(machine(facts));
    items.extend(questions(phase));
    items
}

fn before(facts: &Facts) -> Vec<Item> {
    let mut items = vec![noted(facts), resolvers_agree(facts), works(facts), ttl_low(facts)];
    if facts.new.is_empty() {
        items.push(ask(
            "new_address",
            "The new address is known and works",
            "Run this list again with `--new ADDRESS` once the new server answers there: it will be tried under the host's \
             name, before any record points to it.",
        ));
    } else {
        items.push(all_work("new_address", "The new address works already", facts, &facts.new));
    }
    items
}

fn during(facts: &Facts) -> Vec<Item> {
    let mut items = vec![roles_known(facts), both_families(facts)];
    items.push(all_work("old_works", "The old address still works: some users have its record", facts, &facts.old));
    items.push(all_work("new_works", "The new address works", facts, &facts.new));
    items.push(records_point_to_new(facts));
    items.push(ttl_low(facts));
    items
}

fn after(facts: &Facts) -> Vec<Item> {
    let mut items = vec![roles_known(facts), works(facts), both_families(facts)];
    items.push(old_gone_from_records(facts));
    items.push(old_is_silent(facts));
    items.push(nothing_arrives_at_old(facts));
    items.push(one_server(facts));
    items.push(ttl_steady(facts));
    items
}

fn noted(facts: &Facts) -> Item {
    let records: Vec<String> = facts.resolvers.iter().map(records_of).collect();
    let detail = if records.is_empty() { NO_RESOLVER.to_owned() } else { records.join("; ") };
    check("addresses_noted", "The addresses and their TTLs are noted", !facts.in_records().is_empty(), detail)
}

fn records_of(resolver: &super::facts::ResolverFacts) -> String {
    let records = resolver.records.iter().map(|(address, ttl)| format!("{address} (TTL {ttl} s)"));
    match &resolver.trouble {
        Some(trouble) => format!("{}: {trouble}", resolver.resolver),
        None => format!("{}: {}", resolver.resolver, list(records)),
    }
}

fn resolvers_agree(facts: &Facts) -> Item {
    let answers: Vec<BTreeSet<IpAddr>> =
        facts.resolvers.iter().map(|resolver| resolver.records.iter().map(|(address, _)| *address).collect()).collect();
    let agree = !facts.in_records().is_empty() && answers.windows(2).all(|pair| pair[0] == pair[1]);
    let detail = match (agree, answers.len()) {
        (_, 0) => NO_RESOLVER.to_owned(),
        (true, 1) => {
            "One resolver was asked: give --resolver to compare others, the zone's own name servers first.".to_owned()
        }
        (true, count) => format!("{count} resolvers say the same."),
        (false, _) => facts.resolvers.iter().map(records_of).collect::<Vec<_>>().join("; "),
    };
    check("resolvers_agree", "All resolvers give the same addresses", agree, detail)
}

fn works(facts: &Facts) -> Item {
    let verdict = &facts.verdict;
    let detail = if verdict.fix.is_empty() {
        verdict.sentence.clone()
    } else {
        format!("{} Fix: {}.", verdict.sentence, verdict.fix.trim_end_matches('.'))
    };
    check("address_works", "The address works for everybody, at every address that it has", verdict.sound, detail)
}

fn ttl_low(facts: &Facts) -> Item {
    let title = "The TTL is low, so that users move within minutes";
    let Some(ttl) = facts.ttl_seconds_max() else {
        return check("ttl_low", title, false, NO_RECORDS.to_owned());
    };
    let low = ttl <= TTL_SECONDS_LOW;
    let detail = if low {
        format!(
            "The longest is {ttl} s. A resolver shows what is left of it: ask the zone's own name server with --resolver."
        )
    } else {
        format!("It is {ttl} s. Set it to {TTL_SECONDS_LOW} s or less, and wait {ttl} s before you change the records.")
    };
    check("ttl_low", title, low, detail)
}

fn ttl_steady(facts: &Facts) -> Item {
    let title = "The TTL is back to a steady value";
    let Some(ttl) = facts.ttl_seconds_max() else {
        return check("ttl_steady", title, false, NO_RECORDS.to_owned());
    };
    let detail = format!("The longest is {ttl} s. Once the move can't be undone any more, an hour is usual.");
    check("ttl_steady", title, ttl >= TTL_SECONDS_STEADY, detail)
}

/// Without the old and the new addresses, half of the list would check nothing.
fn roles_known(facts: &Facts) -> Item {
    let title = "The old and the new addresses are known";
    if facts.old.is_empty() || facts.new.is_empty() {
        let detail = "Give `--since FILE` (the list made before the move) or `--old ADDRESS`, and `--new ADDRESS`.";
        return check("addresses_known", title, false, detail.to_owned());
    }
    check("addresses_known", title, true, format!("Old: {}; new: {}.", list(&facts.old), list(&facts.new)))
}

/// A forgotten record is usually that of the other family.
fn both_families(facts: &Facts) -> Item {
    let families =
        |addresses: &BTreeSet<IpAddr>| (addresses.iter().any(IpAddr::is_ipv4), addresses.iter().any(IpAddr::is_ipv6));
    let (old, new) = (families(&facts.old), families(&facts.new));
    let detail = match (old.0 && !new.0, old.1 && !new.1) {
        _ if facts.old.is_empty() => OLD_UNKNOWN,
        (false, false) => "Every family of the old addresses has a new one.",
        (true, _) => {
            "The old server has an IPv4 address and the new one has none: its A record would have nowhere to point."
        }
        (_, true) => {
            "The old server has an IPv6 address and the new one has none: remove the AAAA record, or add an address."
        }
    };
    let moves = !facts.old.is_empty() && (new.0 || !old.0) && (new.1 || !old.1);
    check("both_families", "IPv4 and IPv6 move together", moves, detail.to_owned())
}

fn all_work(name: &str, title: &str, facts: &Facts, addresses: &BTreeSet<IpAddr>) -> Item {
    let tried: Vec<&AddressFacts> = addresses.iter().filter_map(|address| facts.at(*address)).collect();
    let detail = match tried.is_empty() {
        true => "No address was tried.".to_owned(),
        false => tried.iter().map(|at| format!("{}: {}", at.address, at.says)).collect::<Vec<_>>().join("; "),
    };
    check(name, title, !tried.is_empty() && tried.iter().all(|at| at.sound), detail)
}

fn records_point_to_new(facts: &Facts) -> Item {
    let still_old = with_old(facts);
    let detail = match still_old.is_empty() {
        true if facts.old.is_empty() => OLD_UNKNOWN.to_owned(),
        true => "No resolver gives an old address any more.".to_owned(),
        false => format!("Still old: {}.", still_old.join("; ")),
    };
    let points = !facts.new.is_empty() && facts.new.is_subset(&facts.in_records());
    let title = "The records name the new addresses, and only these";
    check("records_moved", title, points && still_old.is_empty(), detail)
}

fn old_gone_from_records(facts: &Facts) -> Item {
    let still_old = with_old(facts);
    let detail = match still_old.is_empty() {
        true if facts.old.is_empty() => OLD_UNKNOWN.to_owned(),
        true => {
            let silent = facts.resolvers.iter().filter(|resolver| resolver.trouble.is_some()).map(records_of);
            let silent: Vec<_> = silent.map(|trouble| format!(" {trouble}.")).collect();
            format!("Resolvers asked: {}.{}", facts.resolvers.len(), silent.concat())
        }
        false => format!("Still there: {}. Change the record in the zone, or wait for the TTL.", still_old.join("; ")),
    };
    let known = !facts.old.is_empty() && facts.resolvers.iter().all(|resolver| resolver.trouble.is_none());
    check("old_gone", "No resolver gives an old address", known && still_old.is_empty(), detail)
}

/// The resolvers that still return an old address, and for how long.
fn with_old(facts: &Facts) -> Vec<String> {
    let old_of = |resolver: &super::facts::ResolverFacts| {
        let old = resolver.records.iter().filter(|(address, _)| facts.old.contains(address));
        let old: Vec<_> = old.map(|(address, ttl)| format!("{address} for another {ttl} s")).collect();
        (!old.is_empty()).then(|| format!("{} gives {}", resolver.resolver, old.join(", ")))
    };
    facts.resolvers.iter().filter_map(old_of).collect()
}

/// Users with an old record get what answers at the old address: silence is better than a proxy that breaks the chat.
fn old_is_silent(facts: &Facts) -> Item {
    let old: Vec<&AddressFacts> = facts.old.iter().filter_map(|address| facts.at(*address)).collect();
    let answering: Vec<String> =
        old.iter().filter(|at| at.answers).map(|at| format!("{}: {}", at.address, at.says)).collect();
    let detail = match answering.is_empty() {
        true if old.is_empty() => OLD_UNKNOWN.to_owned(),
        true => "Nothing answers there.".to_owned(),
        false => format!(
            "Something answers: {}. If it is the provider's proxy, users who still connect to it lose the chat without \
             being told.",
            answering.join("; ")
        ),
    };
    let title = "The old address is silent, or still serves the chat";
    check("old_silent", title, !old.is_empty() && old.iter().all(|at| !at.answers || at.sound), detail)
}

fn nothing_arrives_at_old(facts: &Facts) -> Item {
    let (name, title) = ("old_idle", "Nothing arrives at the old server any more");
    match &facts.old_connections {
        Some(Ok(0)) => check(name, title, true, "Its own count of connections is 0.".to_owned()),
        Some(Ok(count)) => check(name, title, false, format!("It still has {count} connections.")),
        Some(Err(trouble)) => check(name, title, false, format!("It did not report its count: {trouble}")),
        None => ask(
            name,
            title,
            "Look at its access log, or at `ss -Htn state established`; `--old-internal ADDRESS:PORT` lets this list ask the \
             internal port of a hi that runs there.",
        ),
    }
}

fn one_server(facts: &Facts) -> Item {
    let in_records = facts.in_records();
    let instances: BTreeSet<&str> =
        in_records.iter().filter_map(|address| facts.at(*address)?.instance.as_deref()).collect();
    let detail = match instances.len() {
        0 => "No address answered as hi.".to_owned(),
        1 => format!("Instance {}.", list(&instances)),
        _ => format!("Instances {}: users of different ones don't meet in one room.", list(&instances)),
    };
    check("one_server", "Every address leads to the same server", instances.len() == 1, detail)
}

fn certificate(facts: &Facts) -> Item {
    let days: Vec<(IpAddr, i64)> =
        facts.addresses.iter().filter_map(|at| Some((at.address, at.certificate_days_left?))).collect();
    let title = "The certificate lasts beyond the move";
    let Some((address, least)) = days.iter().min_by_key(|(_, days)| *days) else {
        let detail =
            "No address offered one: with ws:// nothing is encrypted, and with wss:// the list could not see it.";
        return ask("certificate", title, detail);
    };
    let detail = format!("{least} days are left at {address}, which has the fewest.");
    check("certificate", title, *least >= CERTIFICATE_DAYS_MIN, detail)
}

fn machine(facts: &Facts) -> Vec<Item> {
    let (kernel, files) = ("The new server's kernel has what hi needs", "The new server's file limit is high enough");
    let Some(machine) = &facts.machine else {
        let detail = "Run this list on the new server, without --elsewhere, to have it checked.";
        return vec![ask("kernel", kernel, detail), ask("file_limit", files, detail)];
    };
    let files_max = machine.files_max;
    let (runs, found) = match &machine.kernel {
        Ok(found) => (true, found.clone()),
        Err(why) => (false, why.clone()),
    };
    let detail = match files_max >= FILES_MIN {
        true => format!("{files_max} files: nearly as many connections."),
        false => {
            format!("{files_max} files, and each connection takes one: set LimitNOFILE= in the unit, or `ulimit -n`.")
        }
    };
    vec![check("kernel", kernel, runs, found), check("file_limit", files, files_max >= FILES_MIN, detail)]
}

fn questions(phase: Phase) -> Vec<Item> {
    let questions: &[(&str, &str, &str)] = match phase {
        Phase::Before => &[
            ("zone_access", "You can change the zone yourself, today", "Log in to the DNS provider once, now."),
            (
                "old_address_fate",
                "You know what becomes of the old address",
                "Ask the provider: some put a reverse proxy of their own there, and it may drop Upgrade and Connection.",
            ),
            ("proxy_saved", "The proxy's configuration is saved", "Copy it to the new server, with its Upgrade lines."),
            ("firewall", "The new server's firewall is open for IPv4 and IPv6", "80 and 443, from the outside."),
            ("way_back", "You know how to turn back", "Which record, to which address, and whose job it is."),
        ],
        Phase::During => &[
            (
                "announced",
                "Users know that they may have to reload",
                "The page reconnects by itself; other clients may not.",
            ),
            ("logs_watched", "Somebody watches both logs", "`handshake refused` names the hop that is in the way."),
        ],
        Phase::After => &[
            ("monitoring", "Monitoring looks at the new server", "Alarms on hi_public_path_ok, with --public-url set."),
            ("old_ends", "The old server's end is dated", "Until then: its bill, its keys, its certificates."),
        ],
    };
    questions.iter().map(|(name, title, detail)| ask(name, title, detail)).collect()
}

fn check(name: &str, title: &str, done: bool, detail: String) -> Item {
    let state = if done { State::Done } else { State::Open };
    Item { name: name.to_owned(), title: title.to_owned(), state, detail }
}

fn ask(name: &str, title: &str, detail: &str) -> Item {
    Item { name: name.to_owned(), title: title.to_owned(), state: State::Ask, detail: detail.to_owned() }
}

fn list(items: impl IntoIterator<Item = impl Display>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}
