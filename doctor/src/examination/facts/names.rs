//! What the sources say about a name, as plain data.

use std::net::IpAddr;

use serde::Serialize;

/// A source of addresses, and what it said.
#[derive(Clone, Debug, Serialize)]
pub struct Source {
    /// `192.0.2.53:53`, `/etc/hosts`, or what is missing.
    pub name: String,
    /// Whether it is a file of this machine: others don't see it.
    pub local: bool,
    /// IPv4.
    pub a: Lookup,
    /// IPv6.
    pub aaaa: Lookup,
    /// Time until both answers were there, in milliseconds.
    pub ms: f64,
}

impl Source {
    /// All addresses, IPv4 first.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.a.records.iter().chain(&self.aaaa.records)
    }

    /// Whether anything came back, even if it was that there is no such name.
    pub fn answered(&self) -> bool {
        [&self.a, &self.aaaa].iter().any(|lookup| lookup.outcome != LookupOutcome::NoAnswer)
    }
}

/// The answer to one question.
#[derive(Clone, Debug, Serialize)]
pub struct Lookup {
    /// How it went.
    pub outcome: LookupOutcome,
    /// The aliases on the way, in order.
    pub aliases: Vec<Alias>,
    /// The addresses.
    pub records: Vec<Record>,
    /// The words of the failure, if there was one.
    pub detail: Option<String>,
}

/// How a question to a resolver went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LookupOutcome {
    /// There are addresses.
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
pub struct Alias {
    /// Whose alias it is.
    pub name: String,
    /// The name that it leads to.
    pub to: String,
    /// How long it may be kept.
    pub ttl_seconds: u32,
}

/// An A or AAAA record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Record {
    /// The address.
    pub ip: IpAddr,
    /// How long it may be kept; a file has none.
    pub ttl_seconds: Option<u32>,
}
