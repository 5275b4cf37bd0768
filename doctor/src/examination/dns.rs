//! What each resolver, and `/etc/hosts`, say about a name.
//!
//! Each resolver is asked separately, without a cache: the TTLs are what it still counts down, and disagreements show. Each
//! question has the time of one step.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{Hosts, TokioResolver, system_conf};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::facts::{Alias, Lookup, LookupOutcome, Record, Source};
use super::milliseconds;

/// The file that the system reads before it asks a resolver.
const HOSTS_FILE: &str = "/etc/hosts";
/// The source of a name that no resolver is asked for (RFC 6761 6.3).
const LOCALHOST: &str = "this machine";
/// Limit of records, and of aliases, that are kept of one answer: the owner of the zone may send 64 KiB of them.
const RECORDS_MAX: usize = 64;
/// Limit of resolvers that are asked at the same time; the system itself uses three.
const RESOLVERS_MAX: usize = 16;

/// Asks all sources at the same time: the given resolvers, or those that the system would ask.
pub(crate) async fn look_up(host: &str, resolvers: &[SocketAddr], step_time: Duration) -> Vec<Source> {
    let Ok(name) = Name::from_ascii(host) else {
        return vec![silent(host, "that is not a valid DNS name")];
    };
    let mut sources = Vec::new();
    let as_the_system_does = resolvers.is_empty();
    if as_the_system_does {
        sources.extend(hosts_file(&name));
        if sources.is_empty() && is_localhost(&name) {
            sources.push(localhost());
        }
        // Resolvers don't know such a name.
        if is_localhost(&name) || (!sources.is_empty() && !host.contains('.')) {
            return sources;
        }
    }
    let (configs, search) = if as_the_system_does { system_resolvers() } else { (given(resolvers), Vec::new()) };
    if configs.is_empty() && sources.is_empty() {
        return vec![silent("/etc/resolv.conf", "it names no resolver")];
    }
    let mut answers = JoinSet::new();
    for (position, (label, server)) in configs.into_iter().take(RESOLVERS_MAX).enumerate() {
        let (name, search) = (fully_qualified(&name), search.clone());
        answers.spawn(async move { (position, ask(label, server, search, name, step_time).await) });
    }
    let mut answers = answers.join_all().await;
    answers.sort_by_key(|(position, _)| *position);
    sources.extend(answers.into_iter().map(|(_, source)| source));
    sources
}

/// As the system does: a name with a dot is looked up as it is; others may get one of the machine's search domains.
fn fully_qualified(name: &Name) -> Name {
    let mut name = name.clone();
    name.set_fqdn(name.num_labels() > 1);
    name
}

fn is_localhost(name: &Name) -> bool {
    name.iter().next_back().is_some_and(|label| label.eq_ignore_ascii_case(b"localhost"))
}

fn given(resolvers: &[SocketAddr]) -> Vec<(String, NameServerConfig)> {
    let config = |address: &SocketAddr| {
        let [mut udp, mut tcp] = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
        udp.port = address.port();
        tcp.port = address.port();
        (address.to_string(), NameServerConfig::new(address.ip(), true, vec![udp, tcp]))
    };
    resolvers.iter().map(config).collect()
}

fn system_resolvers() -> (Vec<(String, NameServerConfig)>, Vec<Name>) {
    let Ok((config, _)) = system_conf::read_system_conf() else { return (Vec::new(), Vec::new()) };
    let servers = config.name_servers().iter();
    let labelled = servers.map(|server| {
        let port = server.connections.first().map_or(53, |connection| connection.port);
        (SocketAddr::new(server.ip, port).to_string(), server.clone())
    });
    (labelled.collect(), config.search().to_vec())
}

async fn ask(label: String, server: NameServerConfig, search: Vec<Name>, name: Name, step_time: Duration) -> Source {
    let began = Instant::now();
    let mut options = ResolverOpts::default();
    // One question and one retry fit into the time of a step.
    options.timeout = step_time.mul_f64(0.45);
    options.attempts = 1;
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    let config = ResolverConfig::from_parts(None, search, vec![server]);
    let built =
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).with_options(options).build();
    let resolver = match built {
        Ok(resolver) => resolver,
        Err(error) => return silent(&label, &error.to_string()),
    };
    let question = async |kind| match timeout(step_time, resolver.lookup(name.clone(), kind)).await {
        Ok(Ok(answer)) => found(answer.answers(), true),
        Ok(Err(error)) => failed(&error, step_time),
        Err(_) => failed(&NetError::Timeout, step_time),
    };
    let (a, aaaa) = tokio::join!(question(RecordType::A), question(RecordType::AAAA));
    Source { name: label, local: false, a, aaaa, ms: milliseconds(began.elapsed()) }
}

fn found(answers: &[hickory_resolver::proto::rr::Record], timed: bool) -> Lookup {
    let mut lookup = Lookup { outcome: LookupOutcome::Found, aliases: Vec::new(), records: Vec::new(), detail: None };
    for answer in answers {
        let ip: IpAddr = match &answer.data {
            RData::A(a) => a.0.into(),
            RData::AAAA(aaaa) => aaaa.0.into(),
            RData::CNAME(to) => {
                if lookup.aliases.len() == RECORDS_MAX {
                    continue;
                }
                let [name, to] = [&answer.name, &to.0].map(|name| name.to_ascii().trim_end_matches('.').to_owned());
                lookup.aliases.push(Alias { name, to, ttl_seconds: answer.ttl });
                continue;
            }
            _ => continue,
        };
        if lookup.records.len() < RECORDS_MAX && lookup.records.iter().all(|record| record.ip != ip) {
            lookup.records.push(Record { ip, ttl_seconds: timed.then_some(answer.ttl) });
        }
    }
    if lookup.records.is_empty() {
        lookup.outcome = LookupOutcome::NoAddress;
    }
    lookup
}

fn failed(error: &NetError, step_time: Duration) -> Lookup {
    let (outcome, detail) = match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) if none.response_code == ResponseCode::NXDomain => {
            (LookupOutcome::NoSuchName, None)
        }
        NetError::Dns(DnsError::NoRecordsFound(none)) if none.response_code == ResponseCode::NoError => {
            (LookupOutcome::NoAddress, None)
        }
        NetError::Dns(DnsError::NoRecordsFound(none)) => (LookupOutcome::Failed, Some(none.response_code.to_string())),
        NetError::Dns(DnsError::ResponseCode(code)) => (LookupOutcome::Failed, Some(code.to_string())),
        NetError::Timeout => (LookupOutcome::NoAnswer, Some(format!("no answer within {} s", step_time.as_secs_f64()))),
        error => (LookupOutcome::NoAnswer, Some(error.to_string())),
    };
    Lookup { outcome, aliases: Vec::new(), records: Vec::new(), detail }
}

fn silent(label: &str, why: &str) -> Source {
    let lookup = Lookup {
        outcome: LookupOutcome::NoAnswer,
        aliases: Vec::new(),
        records: Vec::new(),
        detail: Some(why.to_owned()),
    };
    Source { name: label.to_owned(), local: false, a: lookup.clone(), aaaa: lookup, ms: 0.0 }
}

/// The entries of `/etc/hosts` for the name.
fn hosts_file(name: &Name) -> Option<Source> {
    let hosts = Hosts::from_system().ok()?;
    let entry = |kind| {
        let query = Query::query(name.clone(), kind);
        hosts.lookup_static_host(&query).map(|lookup| found(lookup.answers(), false))
    };
    let [a, aaaa] = [RecordType::A, RecordType::AAAA].map(entry);
    if a.is_none() && aaaa.is_none() {
        return None;
    }
    let [a, aaaa] = [a, aaaa].map(|lookup| lookup.unwrap_or_else(|| found(&[], false)));
    Some(Source { name: HOSTS_FILE.to_owned(), local: true, a, aaaa, ms: 0.0 })
}

fn localhost() -> Source {
    let lookup = |ip: IpAddr| Lookup {
        outcome: LookupOutcome::Found,
        aliases: Vec::new(),
        records: vec![Record { ip, ttl_seconds: None }],
        detail: None,
    };
    let (a, aaaa) = (lookup(Ipv4Addr::LOCALHOST.into()), lookup(Ipv6Addr::LOCALHOST.into()));
    Source { name: LOCALHOST.to_owned(), local: true, a, aaaa, ms: 0.0 }
}

#[cfg(test)]
mod tests {
    use hickory_resolver::proto::rr::{Record, rdata};

    use super::*;

    #[test]
    fn only_the_beginning_of_a_huge_answer_is_kept() {
        let name = Name::from_ascii("chat.example.com.").unwrap();
        let record = |data| Record::from_rdata(name.clone(), 60, data);
        let addresses = (0..3000u32).map(|number| record(RData::A(rdata::A(Ipv4Addr::from(number)))));
        let aliases = (0..3000).map(|_| record(RData::CNAME(rdata::CNAME(name.clone()))));
        let lookup = found(&addresses.chain(aliases).collect::<Vec<_>>(), true);
        assert_eq!((lookup.records.len(), lookup.aliases.len()), (RECORDS_MAX, RECORDS_MAX));
        assert_eq!(lookup.records[1].ip, Ipv4Addr::new(0, 0, 0, 1));
    }
}
