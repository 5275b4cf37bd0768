//! The findings of the checks: plain data, saved with the list, so that a later list can be compared with it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// All findings of the checks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Facts {
    /// The host name of the address.
    pub(crate) host: String,
    /// The addresses before the move: given, or noted by an earlier list.
    pub(crate) old: BTreeSet<IpAddr>,
    /// The addresses after the move: given, or those of the records that are not old.
    pub(crate) new: BTreeSet<IpAddr>,
    /// What each resolver says.
    pub(crate) resolvers: Vec<ResolverFacts>,
    /// What answers at each address: those in the records, the old and the new ones.
    pub(crate) addresses: Vec<AddressFacts>,
    /// The doctor's verdict on the public address.
    pub(crate) verdict: VerdictFacts,
    /// The machine on which the list was made; `None` if it is not the new server.
    pub(crate) machine: Option<MachineFacts>,
    /// The old server's count of its connections; `None` if it was not asked.
    pub(crate) old_connections: Option<Result<u64, String>>,
}

/// What one resolver says of the host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ResolverFacts {
    /// Its address, or where its setting comes from.
    pub(crate) resolver: String,
    /// The A and AAAA records with their remaining TTL in seconds.
    pub(crate) records: Vec<(IpAddr, u32)>,
    /// Why it gave none.
    pub(crate) trouble: Option<String>,
}

/// What answers at one address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct AddressFacts {
    pub(crate) address: IpAddr,
    /// Whether anything accepts connections there.
    pub(crate) answers: bool,
    /// Whether the chat works there.
    pub(crate) sound: bool,
    pub(crate) says: String,
    /// The instance of hi that answers, if it is hi; or the log of its cluster, which is one server to users.
    pub(crate) instance: Option<String>,
    /// Days until its certificate ends; `None`: no TLS.
    pub(crate) certificate_days_left: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct VerdictFacts {
    /// Its name: `sound`, `stale_address`, ...
    pub(crate) name: String,
    /// Whether the address works for everybody.
    pub(crate) sound: bool,
    /// In plain words.
    pub(crate) sentence: String,
    /// What fixes it; empty if nothing is broken. JSON keeps the name that was published first.
    #[serde(rename = "mend")]
    pub(crate) fix: String,
}

/// The machine that will run hi.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MachineFacts {
    /// The kernel's version and what hi found of io_uring; or why hi can't run here.
    pub kernel: Result<String, String>,
    /// Files that one process may have open.
    pub files_max: u64,
}

impl Facts {
    /// All addresses in the records of any resolver.
    pub(crate) fn in_records(&self) -> BTreeSet<IpAddr> {
        self.resolvers.iter().flat_map(|resolver| &resolver.records).map(|(address, _)| *address).collect()
    }

    /// The longest TTL of a record, in seconds. `None`: there are no records.
    pub(crate) fn ttl_seconds_max(&self) -> Option<u32> {
        self.resolvers.iter().flat_map(|resolver| &resolver.records).map(|(_, ttl)| *ttl).max()
    }

    /// What answers at an address.
    pub(crate) fn at(&self, address: IpAddr) -> Option<&AddressFacts> {
        self.addresses.iter().find(|facts| facts.address == address)
    }
}
