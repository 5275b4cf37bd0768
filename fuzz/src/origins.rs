//! Where a connection comes from: the PROXY header, and what a proxy's header says of a client.

use hi::address::PeerAddress;
use hi::address::client::{ClientHeader, Source, Trust};
use hi::address::proxy_header::{self, ProxyHeader, ProxyHeaderError};

use super::assert_sentence;

/// The first bytes of a connection; what follows a PROXY header, line by line, as values of each header for addresses.
pub fn check(bytes: &[u8]) {
    let at_once = proxy_header::parse(bytes);
    let decided = (0..=bytes.len()).map(|end| proxy_header::parse(&bytes[..end])).find(|said| *said != Ok(None));
    assert_eq!(decided.unwrap_or(Ok(None)), at_once);
    let (proxied, used) = match &at_once {
        Ok(Some(ProxyHeader { used, client })) => (*client, *used),
        Ok(None) | Err(ProxyHeaderError::Missing) => (None, 0),
        Err(error) => return assert_sentence(&error.to_string()),
    };
    assert!(used <= bytes.len() && (used == 0) == !matches!(at_once, Ok(Some(_))));
    let lines: Vec<&[u8]> = bytes[used..].split(|b| *b == b'\n').collect();
    for header in ClientHeader::ALL {
        check_header(header, proxied, &lines);
    }
}

fn check_header(header: ClientHeader, proxied: Option<std::net::SocketAddr>, lines: &[&[u8]]) {
    let locate = |proxies: &str, lines: &[&[u8]]| {
        let trust = Trust { header, proxies: proxies.parse().expect("a range") };
        trust.locate(PeerAddress::Unix, proxied, lines.iter().copied())
    };
    // Whoever is not trusted says nothing.
    let untrusted = locate("none", lines);
    assert!(untrusted.source != Source::Header && untrusted.header_ignored && !untrusted.through_trusted_proxy);
    assert_eq!(untrusted.address, proxied.map_or([127, 0, 0, 1].into(), |client| client.ip().to_canonical()));
    // Where all are trusted, the rule follows the whole list; where only private ones are, what the client wrote in front of
    // the first other one changes nothing.
    for proxies in ["0.0.0.0/0", "private_ranges"] {
        let told = locate(proxies, lines);
        assert_eq!(told.address, told.address.to_canonical());
        assert_sentence(&told.to_string());
        if told.source == Source::Header && proxies == "private_ranges" && !is_private(told.address) {
            let forged = [&[b"198.51.100.66,\"".as_slice()], lines].concat();
            assert_eq!(locate(proxies, &forged), told);
        }
    }
}

fn is_private(address: std::net::IpAddr) -> bool {
    "private_ranges".parse::<hi::address::networks::Networks>().expect("a range").contains(address)
}
