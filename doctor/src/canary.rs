//! The canary: a look of a server at its own public address, DNS and every hop included, as a user has it.
//!
//! A server can't see from inside that it is unreachable. Here is the look itself; when to look and where to report is decided
//! in `src/canary.rs`. What a look sends stays in a room of its own.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use crate::examination::facts::Facts;
use crate::examination::verdict::{Diagnosis, Finding, Kind};
use crate::examination::{Depth, Examination, Options, Target, examine};

/// The address to dial, and the server that should answer.
#[derive(Clone)]
pub struct Plan {
    /// The public address.
    pub target: Target,
    /// Time between two looks.
    pub interval: Duration,
    /// The instance that should answer.
    pub instance: Arc<str>,
    /// Or any that is of this group.
    pub group: Option<String>,
    /// Or any that shares its rooms: the number of the log of its cluster, if it belongs to one.
    pub log: Option<Arc<dyn Fn() -> String + Send + Sync>>,
}

/// The result of a look.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// Whether a user gets a WebSocket at every address.
    pub works: bool,
    /// Whether this server answers, or one of its group or cluster, at every address that answers as hi.
    pub instance_matches: bool,
    /// How long the look took, in seconds.
    pub seconds: f64,
    /// Different addresses in the records.
    pub dns_addresses: usize,
    /// The doctor's verdict, with its fix; or why the look itself failed.
    pub sentence: String,
    /// `None`: the look itself failed.
    verdict: Option<Kind>,
}

impl Status {
    /// Whether there is nothing to fix.
    pub fn is_good(&self) -> bool {
        self.works && self.instance_matches
    }

    /// Whether there is nothing new to log; times and addresses change all the time.
    pub fn is_like(&self, other: &Self) -> bool {
        let state = |status: &Self| (status.works, status.instance_matches, status.verdict);
        state(self) == state(other)
    }

    /// The look itself failed: nothing is known, so nothing is reported to work.
    pub fn failed(why: &str, took: Duration) -> Self {
        Self {
            works: false,
            instance_matches: false,
            seconds: took.as_secs_f64(),
            dns_addresses: 0,
            sentence: format!("It could not be checked: {why}."),
            verdict: None,
        }
    }

    fn of(facts: &Facts, diagnosis: &Diagnosis, instance_matches: bool, took: Duration) -> Self {
        // Several servers of one group are OK; whether they are of one group has been found out.
        let is_fault = |finding: &&Finding| finding.broken && finding.kind != Kind::AnotherInstance;
        let fault = std::iter::once(&diagnosis.verdict).chain(&diagnosis.others).find(is_fault);
        let said = fault.unwrap_or(&diagnosis.verdict);
        Self {
            works: fault.is_none(),
            instance_matches,
            seconds: took.as_secs_f64(),
            dns_addresses: facts.addresses.iter().filter(|address| address.in_dns).count(),
            sentence: said.to_string(),
            verdict: Some(said.kind),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.works, self.instance_matches) {
            (true, true) => {
                let plural = if self.dns_addresses == 1 { "" } else { "es" };
                write!(f, "works, and leads here ({} address{plural})", self.dns_addresses)
            }
            (true, false) if self.verdict == Some(Kind::NotHi) => f.write_str(
                "works, but which server answers can't be seen: let the proxy pass /-/doctor/echo on to hi, and don't switch the echo \
                 off (--echo off)",
            ),
            (true, false) => f.write_str(
                "works, but leads to another server than this one: check its DNS records, or give all servers behind it the \
                 same --group",
            ),
            (false, _) => f.write_str(&self.sentence),
        }
    }
}

/// Looks once.
pub fn look(runtime: &Runtime, plan: &Plan) -> Status {
    let began = Instant::now();
    let options = Options { depth: Depth::Handshake, ..Options::new(plan.target.clone()) };
    // Waited for here, so that the examination is compiled once: an async function would be again in each package that polls it.
    match runtime.block_on(examine(&options)) {
        Ok(Examination { facts, diagnosis, .. }) => {
            Status::of(&facts, &diagnosis, instance_matches(&facts, plan), began.elapsed())
        }
        Err(why) => Status::failed(&why, began.elapsed()),
    }
}

/// Whether everything that answers as hi, at any address, is the instance, of the group, or of the cluster; and something does.
fn instance_matches(facts: &Facts, plan: &Plan) -> bool {
    let log = plan.log.as_ref().map(|log| log());
    let mut answers = facts.addresses.iter().filter_map(|address| address.received()).peekable();
    answers.peek().is_some()
        && answers.all(|received| {
            let shares_rooms = |log: &String| received.cluster.as_ref().is_some_and(|cluster| cluster.log == *log);
            *received.instance == *plan.instance
                || (plan.group.is_some() && received.group == plan.group)
                || log.as_ref().is_some_and(shares_rooms)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_change_of_state_is_worth_a_line() {
        let failed = Status::failed("no", Duration::ZERO);
        let status = |works| Status { works, instance_matches: true, verdict: Some(Kind::Sound), ..failed.clone() };
        assert!(status(true).is_like(&Status { seconds: 2.0, dns_addresses: 3, ..status(true) }));
        assert!(!status(true).is_like(&status(false)) && !status(false).is_like(&failed));
    }
}
