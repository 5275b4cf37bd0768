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
