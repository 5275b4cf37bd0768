//! Handshakes that are refused: a login, an access rule, a proxy that refuses upgrades. Pure.

use super::super::facts::{Address, Answer, Facts, Handshake};
use super::super::verdict::Kind;
use super::Fault;
use super::front::{cut, product, said, server, shown};
use super::origins::origin_refused;
use super::stripped::told_by_hi;
use crate::proxy::{Lines, Proxy};
use crate::reason::Reason;

/// 401, 403 and 407.
pub(super) fn refused(address: &Address, handshake: &Handshake, facts: &Facts) -> Fault {
    let answer = &handshake.answer;
    let who = server(address, answer);
    if let Some(fault) = origin_refused(address, handshake, &who, facts) {
        return fault;
    }
    if let Some(told) = told_by_hi(answer).filter(|told| told.reason == Some(Reason::RawRoomsOff)) {
        let fix =
            format!("start hi with --raw open or --raw listen, or use the chat: {}", facts.target.websocket("/ws"));
        return Fault::new(Kind::Forbidden, told.sentence.trim_end_matches('.'), fix);
    }
    if let Some(fault) = unidentified(answer) {
        return fault;
    }
    if refuses_upgrades(address, answer) {
        return Fault::new(
            Kind::UpgradeRefused,
            format!(
                "{who} refuses every upgrade ({}, without a reason) and lets plain requests pass: WebSockets are not \
                 enabled in it",
                answer.status
            ),
            "let Envoy pass upgrades on",
        )
        .lines(Lines::for_upgrade(Some(Proxy::Envoy)));
    }
    let (clause, fix) = match answer.header("www-authenticate").or(answer.header("proxy-authenticate")) {
        _ if answer.header("cf-mitigated").is_some() => (
            format!(
                "{who} stops the handshake with a challenge ({}), which only a page in a browser can pass",
                answer.status
            ),
            "let Cloudflare skip its challenges and bot rules for this path".to_owned(),
        ),
        Some(scheme) => (
            format!("{who} asks for a login ({}, {})", answer.status, cut(scheme)),
            format!("let {} pass without that login: a page can't send it with a WebSocket", facts.target.path),
        ),
        None => (
            format!("{who} refuses the handshake ({}){}", answer.status, said(answer)),
            find_the_rule(handshake, facts),
        ),
    };
    Fault::new(Kind::Forbidden, clause, fix)
}

/// hi asks who the client is (`--auth`), or does not accept what it says.
fn unidentified(answer: &Answer) -> Option<Fault> {
    let told = told_by_hi(answer)?;
    let reason = told.reason?;
    let fix = match reason {
        Reason::TokenMissing => {
            "nothing, if users have tokens: the way to hi works. If they do and still get this, something on the way drops \
             Authorization, Sec-WebSocket-Protocol or Cookie"
        }
        Reason::TokenUnknownKey | Reason::TokenBadSignature | Reason::TokenAlgorithm => {
            "compare the issuer's keys with --jwt-key and --jwks; the log of hi lists those that it has"
        }
        Reason::ClockSkew | Reason::TokenExpired | Reason::TokenNotYetValid => {
            "get a new token; if it is new, compare the clocks of its issuer and of hi (timedatectl)"
        }
        Reason::TokenIssuer | Reason::TokenAudience => {
            "let the issuer name this service, or change --jwt-issuer and --jwt-audience"
        }
        Reason::UserHeaderUntrusted => "add the address of the hop that signs users in to --trusted-proxies",
        Reason::UserHeaderMissing => {
            "let the proxy in front sign users in, and send their names in the header of --user-header"
        }
        Reason::UserHeaderInvalid => "let the proxy replace the header of --user-header instead of adding one",
        reason if reason.is_of_identity() || matches!(reason, Reason::TokenOtherUser | Reason::Denied) => {
            "check the token with hi token check"
        }
        _ => return None,
    };
    let clause = format!(
        "hi refuses the handshake ({}, {}): {}",
        answer.status,
        reason.as_str(),
        cut(told.sentence.trim_end_matches('.'))
    );
    Some(Fault::new(Kind::of(reason).unwrap_or(Kind::Forbidden), clause, fix))
}

/// hi and the proxy in front of it disagree about the PROXY protocol. No answer to a WebSocket client speaks of it otherwise.
pub(super) fn proxy_protocol(answer: &Answer) -> Option<Fault> {
    const SAID: [(Kind, &str, &str); 3] = [
        (
            Kind::ProxyHeaderMissing,
            "No PROXY protocol header came",
            "let the proxy in front of hi send it (HAProxy: send-proxy-v2, nginx: proxy_protocol on in a stream server, Caddy: \
             proxy_protocol v2), or take its address out of --proxy-protocol; clients that reach hi directly can't connect",
        ),
        (
            Kind::ProxyHeaderUnexpected,
            "A PROXY protocol header came",
            "add the address of the proxy to --proxy-protocol, or let it send none; the log of hi names it",
        ),
        (
            Kind::ProxyHeaderBad,
            "The PROXY protocol header in front",
            "let the proxy send version 1 or 2; the log of hi says what is wrong",
        ),
    ];
    let (kind, phrase, fix) =
        SAID.iter().find(|(_, phrase, _)| answer.status == 400 && answer.body.contains(phrase))?;
    let sentence = answer.body.split(phrase).nth(1).and_then(|rest| rest.split(['.', '"']).next()).unwrap_or_default();
    let clause = format!("hi refuses the connection (400): {phrase}{}", cut(sentence));
    Some(Fault::new(*kind, clause, *fix))
}

/// This machine's address, or that of the proxy, has had enough.
pub(super) fn address_limited(answer: &Answer) -> Option<Fault> {
    let told = told_by_hi(answer).filter(|told| told.reason == Some(Reason::TooManyFromAddress))?;
    Some(Fault::new(
        Kind::AddressLimited,
        format!("hi refuses the handshake (429): {}", cut(told.sentence.trim_end_matches('.'))),
        "if that is the address of a proxy, add it to --trusted-proxies; if many users share it, to --unlimited-addresses; \
         otherwise wait, and run the doctor again",
    ))
}

fn find_the_rule(handshake: &Handshake, facts: &Facts) -> String {
    let other = handshake.other_origin.as_ref();
    format!(
        "find what refuses it: an access rule, a login, or the allowed origins of the server (tried: {} and {}; --origin \
         tries another)",
        shown(handshake.origin.as_deref()),
        other.map_or(facts.target.origin(), |other| shown(other.origin.as_deref()))
    )
}

/// Envoy without `upgrade_configs` answers each upgrade itself: 403, no body, no `x-envoy-upstream-service-time`. Its access
/// rules send a body, or refuse plain requests too.
fn refuses_upgrades(address: &Address, answer: &Answer) -> bool {
    let plain = address.echo.done().map(|echo| &echo.answer);
    let upgrade = address.echo_upgrade.done().map(|echo| &echo.answer);
    answer.status == 403
        && answer.body.trim().is_empty()
        && product(address, answer) == Some(Proxy::Envoy)
        && answer.header("x-envoy-upstream-service-time").is_none()
        && plain.is_some_and(|plain| !plain.is_refusal())
        && upgrade.is_none_or(Answer::is_refusal)
}
