//! Tests of `hops.rs`, beside it.

use super::super::head::parse;
use super::*;

fn hop(version: &str, peer: &str, headers: &[&str]) -> Hop {
    let text = format!("GET /ws {version}\r\n{}\r\n\r\n", headers.join("\r\n"));
    let (head, _) = parse(text.as_bytes()).expect("well-formed").expect("whole");
    Hop::of(&head, peer.parse().expect("an address"))
}

fn hop11(headers: &[&str]) -> Hop {
    hop("HTTP/1.1", "192.0.2.7", &[&["Host: x"], headers].concat())
}

#[test]
fn the_last_element_of_via_names_the_last_hop() {
    for (via, name, proxy, described) in [
        ("1.0 old-host", "old-host", None, "192.0.2.7 (\"old-host\" in Via)"),
        ("1.1 www (Apache/2.4.57)", "www", Some(Proxy::Apache), "192.0.2.7 (\"www\" in Via, Apache httpd)"),
        (
            "1.1 a, HTTP/1.1  varnish (Varnish/7.1)",
            "varnish",
            Some(Proxy::Varnish),
            "192.0.2.7 (\"varnish\" in Via, Varnish)",
        ),
        ("1.1 varnish, 1.1 b (squid/5.7)", "b", Some(Proxy::Squid), "192.0.2.7 (\"b\" in Via, Squid)"),
    ] {
        let hop = hop11(&[&format!("Via: {via}")]);
        assert_eq!((hop.name.as_deref(), hop.proxy, hop.certain), (Some(name), proxy, proxy.is_some()), "{via}");
        assert_eq!(hop.describe(), described);
        assert_eq!(hop.evidence, [format!("Via: \"{via}\"")]);
    }
    assert_eq!(hop11(&["Via: 1.1 a, 1.1 b", "via: 1.1 c"]).earlier, ["1.1 a", "1.1 b"]);
    assert_eq!(hop11(&["Via: odd"]).name, None);
}

#[test]
fn products_are_known_by_what_they_leave_behind() {
    for (headers, proxy) in [
        (&["CF-Ray: 7"][..], Some(Proxy::Cloudflare)),
        (&["X-Amzn-Trace-Id: Root=1"], Some(Proxy::Aws)),
        (&["X-Envoy-Internal: true"], Some(Proxy::Envoy)),
        (&["X-Varnish: 5"], Some(Proxy::Varnish)),
        (&["X-Cloud-Trace-Context: 1/2"], Some(Proxy::Google)),
        (&["X-ARR-LOG-ID: 1"], Some(Proxy::Iis)),
        (&["X-Forwarded-Host: x", "X-Forwarded-Server: y"], Some(Proxy::Apache)),
        (&["X-Forwarded-Port: 80", "X-Forwarded-Server: y", "X-Real-Ip: 1.2.3.4"], Some(Proxy::Traefik)),
        (&["X-Real-IP: 1.2.3.4"], Some(Proxy::Nginx)),
        (&["X-Forwarded-For: 1.2.3.4"], None),
        (&["Forwarded: for=1.2.3.4"], None),
        // What stands nearer says more than a service at the edge.
        (&["CF-Ray: 7", "X-Varnish: 5"], Some(Proxy::Varnish)),
    ] {
        let hop = hop11(headers);
        assert_eq!((hop.proxy, hop.certain, hop.is_seen()), (proxy, false, true), "{headers:?}");
    }
    let nothing = hop11(&["Connection: close", "X-Request-Id: 1"]);
    assert!(!nothing.is_seen() && nothing.proxy.is_none());
}

#[test]
fn nginx_without_further_lines_is_known_by_its_first_two() {
    let nginx = hop("HTTP/1.0", "127.0.0.1", &["Host: hi", "Connection: close", "Sec-WebSocket-Version: 13"]);
    assert_eq!((nginx.proxy, nginx.certain), (Some(Proxy::Nginx), false));
    assert_eq!(nginx.describe(), "127.0.0.1 (most likely nginx)");
    let forwards = &["X-Forwarded-For: 1.2.3.4", "Host: hi", "Connection: close", "Accept: x"];
    assert_eq!(hop("HTTP/1.0", "127.0.0.1", forwards).proxy, Some(Proxy::Nginx));
    assert_eq!(hop("HTTP/1.1", "127.0.0.1", forwards).proxy, None);
    for other in [&["Host: hi", "User-Agent: x", "Connection: close"][..], &["Connection: keep-alive"]] {
        assert_eq!(hop("HTTP/1.0", "127.0.0.1", other).proxy, None, "{other:?}");
    }
    // It passes on what the hop before it has signed.
    for via in ["Via: 1.1 google", "Via: 1.1 varnish (Varnish/7.1)"] {
        let behind = hop("HTTP/1.0", "127.0.0.1", &["Host: hi", "Connection: close", via]);
        assert_eq!((behind.proxy, behind.certain, behind.name), (Some(Proxy::Nginx), false, None));
        assert_eq!(behind.earlier, [&via[5..]]);
    }
}

#[test]
fn a_service_of_others_does_not_connect_from_this_machine() {
    for (header, peer, proxy) in [
        ("CF-Ray: 7", "127.0.0.1", None),
        ("CF-Ray: 7", "10.1.2.3", None),
        ("CF-Ray: 7", "::ffff:192.168.0.1", None),
        ("CF-Ray: 7", "fd00::1", None),
        ("CF-Ray: 7", "2606:4700::1", Some(Proxy::Cloudflare)),
        ("Via: 1.1 google", "::1", None),
        ("Via: 1.1 google", "192.0.2.7", Some(Proxy::Google)),
        ("X-Amzn-Trace-Id: 1", "10.1.2.3", Some(Proxy::Aws)),
        ("X-Amzn-Trace-Id: 1", "127.0.0.1", None),
    ] {
        assert_eq!(hop("HTTP/1.1", peer, &["Host: x", header]).proxy, proxy, "{header} from {peer}");
    }
}

#[test]
fn a_signature_from_afar_is_one_of_an_earlier_hop() {
    let hop = hop("HTTP/1.1", "127.0.0.1", &["Host: x", "Via: 1.1 google", "X-Varnish: 7"]);
    assert_eq!((hop.proxy, hop.certain, hop.name), (Some(Proxy::Varnish), false, None));
    assert_eq!(hop.earlier, ["1.1 google"]);
}

#[test]
fn hops_before_the_last_are_listed() {
    for (headers, earlier) in [
        (&["X-Forwarded-For: 203.0.113.9"][..], &[][..]),
        (&["X-Forwarded-For: 203.0.113.9, 10.0.0.2", "X-Forwarded-For: 10.0.0.3"], &["10.0.0.2", "10.0.0.3"]),
        (&["Forwarded: for=203.0.113.9;proto=https, For=\"[2001:db8::1]\";by=x"], &["[2001:db8::1]"]),
        (&["Forwarded: by=x, by=y"], &["unknown"]),
        (&["Via: 1.1 a, 1.1 b", "X-Forwarded-For: 203.0.113.9, 10.0.0.2"], &["1.1 a"]),
        (&["Via: 1.1 a", "X-Forwarded-For: 203.0.113.9, 10.0.0.2, 10.0.0.3"], &["10.0.0.2", "10.0.0.3"]),
        (&["Via: 1.1 a, 1.1 b, 1.1 c, 1.1 d, 1.1 e, 1.1 f, 1.1 g"], &["1.1 a", "1.1 b", "1.1 c", "1.1 d", "2 more"]),
    ] {
        assert_eq!(hop11(headers).earlier, earlier, "{headers:?}");
    }
    // One of two hops has signed: it need not be the last.
    let one_of_two = hop11(&["Via: 1.1 varnish", "X-Forwarded-For: 203.0.113.9, 10.0.0.2"]);
    assert_eq!((one_of_two.proxy, one_of_two.certain, one_of_two.name), (Some(Proxy::Varnish), false, None));
    assert_eq!(one_of_two.earlier, ["1.1 varnish"]);
}

#[test]
fn an_ipv4_peer_of_a_dual_stack_listener_is_shown_as_ipv4() {
    assert_eq!(Hop::unread("::ffff:192.0.2.7".parse().unwrap()).describe(), "192.0.2.7");
}
