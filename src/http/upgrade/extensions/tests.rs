//! Tests of `extensions.rs`, beside it.

use proptest::prelude::*;

use super::super::super::head::parse;
use super::super::{examine, response_101};
use super::*;

const AGREED: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
const AGREED_15: &str =
    "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=15";

/// What becomes of these headers, and the whole response.
fn answer(lines: &[&str]) -> (Option<Compression>, String) {
    let handshake = "GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    let text = format!("{handshake}{lines}\r\n");
    let (head, _) = parse(text.as_bytes()).expect("well-formed").expect("whole");
    let mut handshake = examine(&head).expect("a handshake");
    handshake.compression = negotiate(&head);
    let response = response_101(&handshake, None);
    (handshake.compression.map(|offered| offered.outcome), String::from_utf8(response.to_vec()).unwrap())
}

/// The extension in the response to one `Sec-WebSocket-Extensions`.
fn agreed(offers: &str) -> Option<String> {
    let (outcome, response) = answer(&[&format!("Sec-WebSocket-Extensions: {offers}")]);
    let agreed = response.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Extensions: ")).map(str::to_owned);
    let is_agreed = matches!(outcome, Some(Compression::Agreed | Compression::Received));
    assert_eq!(is_agreed, agreed.is_some(), "{offers}");
    agreed
}

/// RFC 7692 section 7.1: every parameter, with and without a value, and what becomes of an offer with it.
#[test]
fn each_parameter_of_rfc_7692_section_7_1() {
    let mut table: Vec<(String, Option<&str>)> = vec![
        ("permessage-deflate".into(), Some(AGREED)),
        ("permessage-deflate; server_no_context_takeover".into(), Some(AGREED)),
        ("permessage-deflate; server_no_context_takeover=1".into(), None),
        ("permessage-deflate; client_no_context_takeover".into(), Some(AGREED)),
        ("permessage-deflate; client_no_context_takeover=true".into(), None),
        ("permessage-deflate; server_no_context_takeover; client_no_context_takeover".into(), Some(AGREED)),
        ("permessage-deflate; client_max_window_bits".into(), Some(AGREED)),
        ("permessage-deflate; server_max_window_bits".into(), None),
        ("permessage-deflate; unknown".into(), None),
        ("permessage-deflate; unknown=1".into(), None),
    ];
    for bits in 0..=20 {
        let is_valid = (8..=15).contains(&bits);
        table.push((format!("permessage-deflate; client_max_window_bits={bits}"), Some(AGREED).filter(|_| is_valid)));
    }
    for bits in ["015", "+15", "1.5e1", "fifteen", "0x0f", "15;", "\"15", "\"1 5\"", "\"\""] {
        for side in ["client", "server"] {
            table.push((format!("permessage-deflate; {side}_max_window_bits={bits}"), None));
        }
    }
    for (offer, expected) in &table {
        assert_eq!(agreed(offer).as_deref(), *expected, "{offer}");
    }
    for bits in 0..=20 {
        let offer = format!("permessage-deflate; server_max_window_bits={bits}");
        let expected = (8..=15).contains(&bits).then(|| format!("{AGREED}; server_max_window_bits={bits}"));
        assert_eq!(agreed(&offer), expected, "{offer}");
        let outcome = answer(&[&format!("Sec-WebSocket-Extensions: {offer}")]).0;
        let expected = match bits {
            15 => Compression::Agreed,
            8..=14 => Compression::Received,
            _ => Compression::Declined,
        };
        assert_eq!(outcome, Some(expected), "{offer}");
    }
}

#[test]
fn a_parameter_that_comes_twice_declines_the_offer() {
    for parameter in [
        "server_no_context_takeover",
        "client_no_context_takeover",
        "client_max_window_bits",
        "server_max_window_bits=15",
    ] {
        assert_eq!(agreed(&format!("permessage-deflate; {parameter}; {parameter}")), None, "{parameter}");
    }
    assert_eq!(agreed("permessage-deflate; client_max_window_bits; client_max_window_bits=15"), None);
}

#[test]
fn the_first_acceptable_offer_counts() {
    for (offers, expected) in [
        ("permessage-deflate; server_max_window_bits=10, permessage-deflate", Some(AGREED)),
        ("permessage-deflate; server_max_window_bits=15, permessage-deflate", Some(AGREED_15)),
        ("permessage-deflate, permessage-deflate; server_max_window_bits=15", Some(AGREED)),
        ("x-webkit-deflate-frame, permessage-deflate; client_max_window_bits", Some(AGREED)),
        ("permessage-bzip2; level=9, permessage-deflate", Some(AGREED)),
        ("permessage-deflate; server_max_window_bits=\"15\"", Some(AGREED_15)),
        ("permessage-deflate; server_max_window_bits=\"\\1\\5\"", Some(AGREED_15)),
        (" ,permessage-deflate\t;\tclient_max_window_bits = 9 ,, ", Some(AGREED)),
        ("foo; a=b; c", None),
        ("Permessage-Deflate", None),
        ("permessage-deflate2", None),
    ] {
        assert_eq!(agreed(offers).as_deref(), expected, "{offers}");
    }
    let two_lines = [
        "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=9",
        "sec-websocket-extensions: permessage-deflate",
    ];
    assert_eq!(answer(&two_lines).0, Some(Compression::Agreed));
    assert_eq!(answer(&two_lines[..1]).0, Some(Compression::Received));
    assert_eq!(answer(&["Sec-WebSocket-Extensions: foo"]).0, None, "nothing to decline");
    assert_eq!(answer(&[]).0, None);
}

#[test]
fn a_list_that_is_none_is_declined_as_a_whole() {
    for offers in [
        "permessage-deflate permessage-deflate",
        "permessage-deflate;",
        "permessage-deflate; =1",
        "permessage-deflate; client_max_window_bits=",
        "permessage-deflate, ;",
        "permessage-deflate, (x)",
        "permessage-deflate; client_max_window_bits=\"9",
        "foo=\"a, permessage-deflate, b\"",
        "foo; a=\"b, permessage-deflate, c\"",
        "permessage-deflate, \u{e9}",
    ] {
        let (outcome, response) = answer(&[&format!("Sec-WebSocket-Extensions: {offers}")]);
        assert_eq!(outcome, Some(Compression::Declined), "{offers}");
        assert!(!response.contains("Extensions"), "{offers}");
    }
}

#[test]
fn safari_15_0_to_15_3_is_declined() {
    let mac = |version: &str| {
        format!(
            "User-Agent: Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) \
             Version/{version} Safari/605.1.15"
        )
    };
    let offer = "Sec-WebSocket-Extensions: permessage-deflate";
    for version in ["15.0", "15.1", "15.2", "15.3", "15.2.1", "15.1 Mobile/15E148"] {
        assert_eq!(answer(&[offer, &mac(version)]).0, Some(Compression::Safari), "{version}");
        assert_eq!(answer(&[&mac(version)]).0, None, "{version}");
    }
    for version in ["14.1", "15.4", "15.10", "15.33", "16.0", "17.1", "115.0", "15", "15."] {
        assert_eq!(answer(&[offer, &mac(version)]).0, Some(Compression::Agreed), "{version}");
    }
    let other = "User-Agent: Mozilla/5.0 (X11) Version/15.0";
    assert_eq!(answer(&[offer, other]).0, Some(Compression::Agreed));
}

proptest! {
    /// An offer built from the grammar, with white space and quotes anywhere they may be.
    #[test]
    fn offers_are_accepted_for_their_parameters_however_they_are_written(
        parameters in proptest::collection::vec((0..5_usize, proptest::option::of(7..17_u32)), 0..5),
        spaces in proptest::collection::vec(prop_oneof![Just(""), Just(" "), Just("\t ")], 24),
        quoted: bool,
    ) {
        const NAMES: [&str; 5] = [
            "server_no_context_takeover",
            "client_no_context_takeover",
            "client_max_window_bits",
            "server_max_window_bits",
            "mystery",
        ];
        let mut spaces = spaces.iter().cycle();
        let mut space = || *spaces.next().unwrap();
        let mut offer = format!("permessage-deflate{}", space());
        let mut acceptable = true;
        let mut window = None;
        for (index, (name, value)) in parameters.iter().enumerate() {
            offer += &format!(";{}{}{}", space(), NAMES[*name], space());
            if let Some(value) = value {
                let quote = if quoted { "\"" } else { "" };
                offer += &format!("={}{quote}{value}{quote}{}", space(), space());
            }
            acceptable &= match (name, value) {
                (0 | 1, value) => value.is_none(),
                (2, value) => value.is_none_or(|bits| (8..=15).contains(&bits)),
                (3, value) => value.is_some_and(|bits| (8..=15).contains(&bits)),
                _ => false,
            };
            acceptable &= parameters[..index].iter().all(|(earlier, _)| earlier != name);
            window = window.or(value.filter(|_| *name == 3));
        }
        let window = window.map_or(String::new(), |bits| format!("; server_max_window_bits={bits}"));
        let expected = acceptable.then(|| format!("{AGREED}{window}"));
        prop_assert_eq!(agreed(&offer), expected, "{}", offer);
    }

    #[test]
    fn any_value_gets_a_verdict(offers in "[a-z;,=\"\\\\ \t]{0,40}") {
        agreed(&offers);
        agreed(&format!("permessage-deflate; {offers}"));
    }
}
