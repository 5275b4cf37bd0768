//! What the checks of a list found: plain data, saved with the list, so that a later one can be compared with it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Everything that the checks found out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// The host name of the address.
    pub host: String,
    /// Where it lives before the move: given, or noted by an earlier list.
    pub old: BTreeSet<IpAddr>,
    /// Where it is to live: given, or what the records name beside the old addresses.
    pub new: BTreeSet<IpAddr>,
    /// What each resolver says.
    pub resolvers: Vec<ResolverFacts>,
    /// What answers at each address: those in the records, the old and the new ones.
    pub addresses: Vec<AddressFacts>,
    /// The doctor's verdict on the address as users reach it.
    pub verdict: VerdictFacts,
    /// The machine on which the list was made; `None`: it is not the server.
    pub machine: Option<MachineFacts>,
    /// The old server's own count of connections; `None`: not asked for.
    pub old_connections: Option<Result<u64, String>>,
}

/// What one resolver says of the host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResolverFacts {
    /// Its address, or where its setting comes from.
    pub resolver: String,
    /// The A and AAAA records, with the seconds for which they may still be kept.
    pub records: Vec<(IpAddr, u32)>,
    /// Why it gave none.
    pub trouble: Option<String>,
}

/// What answers at one address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AddressFacts {
    /// The address.
    pub address: IpAddr,
    /// Whether anything accepts connections there.
    pub answers: bool,
    /// Whether the chat works there.
    pub sound: bool,
    /// The doctor's sentence.
    pub says: String,
    /// The instance of hi that answers, if it is hi.
    pub instance: Option<String>,
    /// Days until its certificate ends; `None`: no TLS.
    pub certificate_days_left: Option<i64>,
}

/// The doctor's verdict.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VerdictFacts {
    /// Its name: `sound`, `stale_address`, ...
    pub name: String,
    /// Whether the address works for everybody.
    pub sound: bool,
    /// In plain words.
    pub sentence: String,
    /// What fixes it; empty where nothing is broken. In JSON it has kept its first name.
    #[serde(rename = "mend")]
    pub fix: String,
}

/// The machine that is to run hi.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MachineFacts {
    /// `uname -r`, and what hi found of io_uring; or why hi can't run here.
    pub kernel: Result<String, String>,
    /// Files that one process may have open.
    pub files_max: u64,
}

impl Facts {
    /// All addresses in the records of any resolver.
    pub fn in_records(&self) -> BTreeSet<IpAddr> {
        self.resolvers.iter().flat_map(|resolver| &resolver.records).map(|(address, _)| *address).collect()
    }

    /// The longest time for which a resolver may keep a record, in seconds. `None`: there are no records.
    pub fn ttl_seconds_max(&self) -> Option<u32> {
        self.resolvers.iter().flat_map(|resolver| &resolver.records).map(|(_, ttl)| *ttl).max()
    }

    /// What answers at an address.
    pub fn at(&self, address: IpAddr) -> Option<&AddressFacts> {
        self.addresses.iter().find(|facts| facts.address == address)
    }
}
