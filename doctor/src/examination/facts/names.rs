//! What the sources say about a name, as plain data.

use std::net::IpAddr;

use serde::Serialize;

/// A source of addresses, and what it said.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Source {
    /// `192.0.2.53:53` or `/etc/hosts`.
    pub(crate) name: String,
    /// Whether it is a file of this machine, which other machines don't see.
    pub(crate) local: bool,
    /// IPv4.
    pub(crate) a: Lookup,
    /// IPv6.
    pub(crate) aaaa: Lookup,
    /// Time until both answers were there, in milliseconds.
    pub(crate) ms: f64,
}

impl Source {
    /// All addresses, IPv4 first.
    pub(crate) fn records(&self) -> impl Iterator<Item = &Record> {
        self.a.records.iter().chain(&self.aaaa.records)
    }

    /// Whether an answer came back, even if it was that there is no such name.
    pub(crate) fn answered(&self) -> bool {
        [&self.a, &self.aaaa].iter().any(|lookup| lookup.outcome != LookupOutcome::NoAnswer)
    }
}

/// The answer to one question.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Lookup {
    pub(crate) outcome: LookupOutcome,
    /// The aliases on the way, in order.
    pub(crate) aliases: Vec<Alias>,
    pub(crate) records: Vec<Record>,
    /// The reason of a failure.
    pub(crate) detail: Option<String>,
}

/// The outcome of a question to a resolver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LookupOutcome {
    Found,
    /// The name exists and has no address of this kind.
    NoAddress,
    /// NXDOMAIN: the name doesn't exist.
    NoSuchName,
    /// The resolver answered with an error (SERVFAIL, REFUSED).
    Failed,
    /// Nothing came back in time.
    NoAnswer,
}

/// A CNAME record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Alias {
    /// The alias.
    pub(crate) name: String,
    /// The name that it leads to.
    pub(crate) to: String,
    /// How long it may be cached.
    pub(crate) ttl_seconds: u32,
}

/// An A or AAAA record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Record {
    pub(crate) ip: IpAddr,
    /// How long it may be cached; `None` in a file.
    pub(crate) ttl_seconds: Option<u32>,
}
