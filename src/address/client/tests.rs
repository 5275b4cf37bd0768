use proptest::prelude::*;

use super::*;

const PROXY: &str = "10.0.0.5:4711";

fn trust(proxies: &[&str], header: ClientHeader) -> Trust {
    let proxies: Vec<Networks> = proxies.iter().map(|range| range.parse().unwrap()).collect();
    Trust { proxies: Networks::all(&proxies), header }
}

fn located(trust: &Trust, peer: &str, lines: &[&str]) -> ClientAddress {
    let peer = PeerAddress::Ip(peer.parse().unwrap());
    trust.locate(peer, None, lines.iter().map(|line| line.as_bytes()))
}

fn address(trust: &Trust, lines: &[&str]) -> String {
    located(trust, PROXY, lines).address.to_string()
}

#[test]
fn the_list_is_read_from_the_right_as_long_as_proxies_are_trusted() {
    let trust = trust(&["10.0.0.0/8", "192.0.2.1"], ClientHeader::XForwardedFor);
    for (lines, expected) in [
        (&["203.0.113.7"][..], "203.0.113.7"),
        (&["198.51.100.1, 203.0.113.7"], "203.0.113.7"),
        (&["198.51.100.1, 203.0.113.7, 10.1.1.1,192.0.2.1"], "203.0.113.7"),
        (&["198.51.100.1", "203.0.113.7", "10.1.1.1"], "203.0.113.7"),
        (&["10.1.1.1, 10.1.1.2"], "10.1.1.1"),
        (&["[2001:db8::7]:4711"], "2001:db8::7"),
        (&["[2001:db8::7]"], "2001:db8::7"),
        (&["2001:db8::7"], "2001:db8::7"),
        (&["203.0.113.7:80"], "203.0.113.7"),
        (&["\"203.0.113.7\""], "203.0.113.7"),
        (&["::ffff:203.0.113.7"], "203.0.113.7"),
        (&["203.0.113.7,,"], "203.0.113.7"),
        // Nothing to the left of what can't be read is believed.
        (&["198.51.100.1, unknown"], "10.0.0.5"),
        (&["198.51.100.1, hi, 10.1.1.1"], "10.1.1.1"),
        (&["203.0.113.7\", 10.1.1.1"], "10.1.1.1"),
        (&["fe80::1%eth0"], "10.0.0.5"),
        (&[""], "10.0.0.5"),
        (&[], "10.0.0.5"),
    ] {
        assert_eq!(address(&trust, lines), expected, "{lines:?}");
    }
    let many = vec!["10.1.1.1"; 3 * CLIENT_HOPS_MAX].join(",");
    assert_eq!(address(&trust, &[&format!("203.0.113.7,{many}")]), "10.1.1.1");
}

#[test]
fn forwarded_has_the_address_in_one_of_its_pairs() {
    let trust = trust(&["10.0.0.0/8"], ClientHeader::Forwarded);
    for (lines, expected) in [
        (&["for=203.0.113.7"][..], "203.0.113.7"),
        (&["For=\"[2001:db8:cafe::17]:4711\";proto=https;by=10.0.0.5"], "2001:db8:cafe::17"),
        (&["for=198.51.100.1;host=x, proto=http; FOR = 203.0.113.7"], "203.0.113.7"),
        (&["for=198.51.100.1", "for=\"10.1.1.1:80\""], "198.51.100.1"),
        // A client that leaves quotes open can't hide what the proxy adds.
        (&["for=\"198.51.100.1, for=203.0.113.7"], "203.0.113.7"),
        (&["for=198.51.100.1;for=198.51.100.2"], "10.0.0.5"),
        (&["for=_hidden"], "10.0.0.5"),
        (&["for=unknown"], "10.0.0.5"),
        (&["by=203.0.113.7"], "10.0.0.5"),
        (&["203.0.113.7"], "10.0.0.5"),
    ] {
        assert_eq!(address(&trust, lines), expected, "{lines:?}");
    }
}

#[test]
fn an_untrusted_peer_changes_nothing_and_is_noted() {
    let nobody = trust(&[], ClientHeader::XForwardedFor);
    let told = located(&nobody, PROXY, &["203.0.113.7"]);
    assert_eq!((told.address.to_string().as_str(), told.source), ("10.0.0.5", Source::Peer));
    assert!(told.header_ignored && !told.through_trusted_proxy);
    assert!(!located(&nobody, PROXY, &[]).header_ignored);
    let told = located(&trust(&["10.0.0.5"], ClientHeader::XRealIp), PROXY, &["203.0.113.7"]);
    assert!(told.through_trusted_proxy && !told.header_ignored && told.source == Source::Header);
}

#[test]
fn a_proxy_header_stands_in_place_of_the_peer() {
    let trust = trust(&["10.0.0.0/8"], ClientHeader::XForwardedFor);
    let locate = |proxied: &str, line: &'static str| {
        trust.locate(PeerAddress::Unix, Some(proxied.parse().unwrap()), [line.as_bytes()].into_iter())
    };
    let told = locate("203.0.113.7:5", "198.51.100.1");
    assert_eq!((told.address.to_string().as_str(), told.source), ("203.0.113.7", Source::ProxyProtocol));
    assert!(told.header_ignored && told.peer == PeerAddress::Unix);
    let told = locate("10.0.0.9:5", "198.51.100.1");
    assert_eq!((told.address.to_string().as_str(), told.source), ("198.51.100.1", Source::Header));
}

/// The rule once more, as naive as it can be: all entries from the client on, as text.
fn twin(proxies: &[&str], peer: &str, lines: &[String]) -> String {
    let trusted = |address: &str| proxies.iter().any(|proxy| address.starts_with(proxy));
    let list = lines.join(",");
    let mut left: Vec<&str> = list.split(',').map(str::trim).filter(|entry| !entry.is_empty()).collect();
    let mut client = peer.to_owned();
    while trusted(&client) {
        match left.pop() {
            Some(next) if next.split('.').count() == 4 => client = next.to_owned(),
            _ => break,
        }
    }
    client
}

proptest! {
    #[test]
    fn the_rule_is_that_of_its_naive_twin(
        entries in prop::collection::vec(("(10\\.[0-9]\\.0\\.[1-9]|203\\.0\\.113\\.[1-9]|unknown|_x|)", any::<bool>()), 0..20),
        peer in "(10\\.0\\.0\\.[1-9]|192\\.0\\.2\\.[1-9])",
    ) {
        let mut lines: Vec<String> = Vec::new();
        for (entry, new_line) in &entries {
            match lines.last_mut() {
                Some(line) if !new_line => { line.push_str(", "); line.push_str(entry); }
                _ => lines.push(entry.clone()),
            }
        }
        let trust = trust(&["10.0.0.0/8"], ClientHeader::XForwardedFor);
        let peer_address = PeerAddress::Ip(format!("{peer}:80").parse().unwrap());
        let told = trust.locate(peer_address, None, lines.iter().map(String::as_bytes));
        prop_assert_eq!(told.address.to_string(), twin(&["10."], &peer, &lines));
        // The client can't choose its address: whatever it puts in front changes nothing unless all of the rest is trusted.
        if !trust.proxies.contains(told.address) {
            let forged = [b"198.51.100.66, \"".as_slice()].into_iter().chain(lines.iter().map(String::as_bytes));
            prop_assert_eq!(trust.locate(peer_address, None, forged).address, told.address);
        }
    }

    #[test]
    fn any_bytes_are_read(line in prop::collection::vec(any::<u8>(), 0..200), forwarded in any::<bool>()) {
        let header = if forwarded { ClientHeader::Forwarded } else { ClientHeader::XForwardedFor };
        let trust = trust(&["private_ranges"], header);
        let told = trust.locate(PeerAddress::Unix, None, [line.as_slice()].into_iter());
        prop_assert!(told.source == Source::Header || told.address == IpAddr::from([127, 0, 0, 1]));
    }
}
