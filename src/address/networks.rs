//! Sets of addresses, as an operator writes them: ranges (CIDR), single addresses, and words for usual ranges.

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use super::PeerAddress;

/// This machine.
const LOOPBACK: [&str; 2] = ["127.0.0.0/8", "::1/128"];
/// Private networks: RFC 1918, RFC 4193, RFC 3927, RFC 4291.
const PRIVATE: [&str; 5] = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fe80::/10"];

/// A set of addresses. One element of an option is a set, and so are all of them together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks {
    ranges: Vec<IpNet>,
    /// Whether programs that connect through a unix socket belong to it.
    unix: bool,
}

impl Networks {
    /// All of these sets together.
    pub fn all(sets: &[Self]) -> Self {
        let ranges = sets.iter().flat_map(|set| set.ranges.iter().copied()).collect();
        Self { ranges, unix: sets.iter().any(|set| set.unix) }
    }

    /// Whether an address belongs to it. An IPv4 address that is mapped into IPv6 counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        // Most often there are none.
        !self.ranges.is_empty() && self.ranges.iter().any(|range| range.contains(&address.to_canonical()))
    }

    /// Whether the other end of a connection belongs to it.
    pub fn contains_peer(&self, peer: PeerAddress) -> bool {
        match peer {
            PeerAddress::Ip(address) => self.contains(address.ip()),
            PeerAddress::Unix => self.unix,
        }
    }

    /// Whether nothing belongs to it.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty() && !self.unix
    }

    fn of(ranges: &[&str], unix: bool) -> Self {
        Self { ranges: ranges.iter().map(|range| range.parse().expect("a constant is a range")).collect(), unix }
    }
}

impl FromStr for Networks {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => return Ok(Self::default()),
            "unix" => return Ok(Self::of(&[], true)),
            "loopback" => return Ok(Self::of(&LOOPBACK, true)),
            "private_ranges" => return Ok(Self::of(&[&LOOPBACK[..], &PRIVATE[..]].concat(), true)),
            _ => {}
        }
        let single = text.parse::<IpAddr>().map(|address| IpNet::from(address.to_canonical()));
        let range = single.or_else(|_| text.parse::<IpNet>()).map_err(|_| {
            format!(
                "{text} is no range of addresses: give e.g. 10.0.0.0/8, 203.0.113.7, 2001:db8::/32, loopback, private_ranges, \
                 unix or none"
            )
        })?;
        Ok(Self { ranges: vec![range.trunc()], unix: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(elements: &[&str]) -> Networks {
        Networks::all(&elements.iter().map(|element| element.parse().unwrap()).collect::<Vec<_>>())
    }

    #[test]
    fn ranges_addresses_and_words_are_sets() {
        let has = |set: &Networks, address: &str| set.contains(address.parse().unwrap());
        let some = set(&["10.1.2.3/8", "203.0.113.7", "2001:db8::/32", "::ffff:192.0.2.1"]);
        for address in ["10.255.0.1", "203.0.113.7", "2001:db8:1::", "::ffff:10.0.0.1", "192.0.2.1"] {
            assert!(has(&some, address), "{address}");
        }
        for address in ["11.0.0.1", "203.0.113.8", "2001:db9::", "127.0.0.1", "192.0.2.2"] {
            assert!(!has(&some, address), "{address}");
        }
        let private = set(&["private_ranges"]);
        for address in ["127.8.8.8", "::1", "172.31.0.1", "192.168.1.1", "fd00::1", "fe80::1"] {
            assert!(has(&private, address), "{address}");
        }
        assert!(!has(&private, "172.32.0.1") && !has(&private, "2a00::1"));
        assert!(set(&["none"]).is_empty() && !set(&["unix"]).is_empty());
    }

    #[test]
    fn unix_sockets_are_this_machine() {
        let peers = ["loopback", "unix", "private_ranges", "none", "127.0.0.1"];
        assert_eq!(peers.map(|word| set(&[word]).contains_peer(PeerAddress::Unix)), [true, true, true, false, false]);
        assert!(set(&["unix", "::1"]).contains_peer(PeerAddress::Ip("[::1]:5".parse().unwrap())));
    }

    #[test]
    fn what_is_no_range_is_refused_with_examples() {
        for wrong in ["", "10.0.0.0/33", "example.com", "10.0.0", "any", "10.0.0.1:80"] {
            assert!(wrong.parse::<Networks>().unwrap_err().contains("e.g. 10.0.0.0/8"), "{wrong}");
        }
    }
}
