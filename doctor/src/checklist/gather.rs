//! The checks of a list: the doctor's examination, and the old server's count of its connections.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::facts::{AddressFacts, Facts, MachineFacts, ResolverFacts, VerdictFacts};
use super::items::Phase;
use crate::examination::facts::{Address, Source};
use crate::examination::http::{Request, exchange};
use crate::examination::verdict::{Diagnosis, Finding, Kind};
use crate::examination::{Depth, Examination, Options, STEP_TIME, examine};

/// The gauge of open connections, as `/metrics` names it.
const CONNECTIONS: &str = "hi_connections";

/// What to check.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    /// The public address, the resolvers to ask, the certificates to trust.
    pub(crate) options: Options,
    /// The old addresses; if empty before the move, those of the records that are not new.
    pub(crate) old: BTreeSet<IpAddr>,
    /// The new addresses; if empty, those of the records that are not old.
    pub(crate) new: BTreeSet<IpAddr>,
    /// The internal port of the old server.
    pub(crate) old_internal: Option<SocketAddr>,
    /// This machine, if it is the new server.
    pub(crate) machine: Option<MachineFacts>,
}

/// Runs every check. The old and the new addresses are tried under the host's name, even if no record names them.
///
/// # Errors
/// The file of certificates can't be read.
pub(crate) async fn gather(phase: Phase, subject: &Subject) -> Result<Facts, String> {
    let as_users = Options { depth: Depth::Handshake, expected: Vec::new(), ..subject.options.clone() };
    let expected = subject.old.iter().chain(&subject.new).copied().collect();
    let everywhere = Options { expected, ..as_users.clone() };
    let (as_users, everywhere, old_connections) =
        tokio::join!(examine(&as_users), examine(&everywhere), count_at(subject.old_internal));
    let (as_users, everywhere) = (as_users?, everywhere?);
    let mut facts = Facts {
        host: subject.options.target.host.clone(),
        old: subject.old.clone(),
        new: subject.new.clone(),
        resolvers: as_users.facts.dns.iter().filter(|source| !source.local).map(resolver).collect(),
        addresses: everywhere.facts.addresses.iter().map(|address| at(address, &everywhere)).collect(),
        verdict: verdict(&as_users.diagnosis),
        machine: subject.machine.clone(),
        old_connections,
    };
    if facts.new.is_empty() && !facts.old.is_empty() {
        facts.new = facts.in_records().difference(&facts.old).copied().collect();
    }
    if facts.old.is_empty() && phase == Phase::Before {
        facts.old = facts.in_records().difference(&facts.new).copied().collect();
    }
    Ok(facts)
}

fn resolver(source: &Source) -> ResolverFacts {
    let records: Vec<_> = source.records().map(|record| (record.ip, record.ttl_seconds.unwrap_or(0))).collect();
    let trouble = [&source.a, &source.aaaa].into_iter().find_map(|lookup| lookup.detail.clone());
    let trouble = if records.is_empty() { trouble.or_else(|| Some("no address".to_owned())) } else { None };
    ResolverFacts { resolver: source.name.clone(), records, trouble }
}

fn at(address: &Address, examination: &Examination) -> AddressFacts {
    let diagnosis = &examination.diagnosis;
    let all = std::iter::once(&diagnosis.verdict).chain(&diagnosis.others);
    let trouble = all.filter(|finding| finding.broken && finding.address == Some(address.ip())).find(is_of_the_server);
    let sound = trouble.is_none() && address.handshake.done().is_some_and(|handshake| handshake.is_healthy());
    let says = match (trouble, address.tcp.failure()) {
        (Some(finding), _) => finding.text.clone(),
        (None, Some(failure)) => failure.detail.clone(),
        (None, None) if sound => "The chat works there.".to_owned(),
        (None, None) => "The WebSocket handshake fails there.".to_owned(),
    };
    AddressFacts {
        address: address.ip(),
        answers: address.tcp.done().is_some(),
        sound,
        says,
        instance: address.rooms().map(str::to_owned),
        certificate_days_left: address.tls.done().and_then(|tls| Some(tls.chain.first()?.days_left)),
    }
}

/// Whether a finding is about the server at an address, not about the records.
fn is_of_the_server(finding: &&Finding) -> bool {
    !matches!(finding.kind, Kind::MissingAddress | Kind::UnexpectedAddress | Kind::AnotherInstance)
}

fn verdict(diagnosis: &Diagnosis) -> VerdictFacts {
    let Finding { kind, text, fix, .. } = &diagnosis.verdict;
    VerdictFacts {
        name: kind.name(),
        sound: diagnosis.is_healthy(),
        sentence: text.clone(),
        fix: fix.as_ref().map(|fix| fix.text.clone()).unwrap_or_default(),
    }
}

/// The connections that hi reports on its internal port.
async fn count_at(internal: Option<SocketAddr>) -> Option<Result<u64, String>> {
    let internal = internal?;
    let count = async {
        let mut stream = TcpStream::connect(internal).await.map_err(|error| format!("{internal}: {error}"))?;
        let headers = vec![("Host".to_owned(), internal.to_string()), ("Connection".to_owned(), "close".to_owned())];
        let request = Request::get("/metrics".to_owned(), headers);
        let got = exchange(&mut stream, &request, STEP_TIME).await.map_err(|failure| failure.detail)?;
        connections(&got.answer.body).ok_or_else(|| format!("{internal} does not serve the metrics of hi"))
    };
    Some(timeout(STEP_TIME, count).await.unwrap_or_else(|_| Err(format!("{internal} does not answer"))))
}

/// The sum over all dialects.
fn connections(metrics: &str) -> Option<u64> {
    let values = metrics.lines().filter_map(|line| {
        let (name, value) = line.rsplit_once(' ')?;
        (name.split('{').next() == Some(CONNECTIONS)).then(|| value.parse::<f64>().ok()).flatten()
    });
    values.map(|value| value as u64).reduce(|sum, value| sum + value)
}

#[cfg(test)]
mod tests {
    use super::connections;

    #[test]
    fn the_gauge_is_added_up_over_its_labels() {
        let metrics = "# TYPE hi_connections gauge\nhi_connections{dialect=\"v0\"} 3\nhi_connections{dialect=\"raw\"} 4\n\
                       hi_connections_other 9\n";
        assert_eq!(connections(metrics), Some(7));
        assert_eq!(connections("<html>"), None);
    }
}
