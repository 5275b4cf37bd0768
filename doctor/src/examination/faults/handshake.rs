//! What is wrong in HTTP: no answers at all, or what the status of the handshake means. Pure.

use super::super::facts::{Address, Answer, Facts, FailureKind};
use super::super::url::Target;
use super::super::verdict::Kind;
use super::Fault;
use super::front::{front, html, is_web_page, said, server, unexpected};
use super::gateway::{bad_gateway, load_balancer};
use super::http2_only;
use super::origins::own_pages_refused;
use super::paths::{not_found, redirect, wrong_page};
use super::refusals::{address_limited, proxy_protocol, refused};
use super::stripped::stripped;

/// Answers of TLS servers (nginx, Apache, Go, Tomcat) to plain HTTP, in lower case.
const TLS_WANTED: [&str; 4] = [
    "plain http request was sent to https port",
    "speaking plain http to an ssl-enabled server port",
    "client sent an http request to an https server",
    "this combination of host and port requires tls",
];

/// Whether HTTP is spoken at all.
pub(super) fn speaking(address: &Address, facts: &Facts) -> Option<Fault> {
    if address.handshake.done().is_some() {
        return None;
    }
    let failure = address.handshake.failure().or(address.echo.failure())?;
    let target = &facts.target;
    let port = target.port;
    let silent = matches!(failure.kind, FailureKind::TimedOut | FailureKind::Closed);
    if silent && address.echo.done().is_some() {
        return Some(Fault::new(
            Kind::HandshakeUnanswered,
            format!("plain requests are answered there, and WebSocket handshakes are not: {}", failure.detail),
            "look for what passes requests and blocks upgrades: a firewall that inspects HTTP, a virus scanner, a proxy",
        ));
    }
    Some(match failure.kind {
        FailureKind::TlsNotPlain => Fault::new(
            Kind::TlsExpected,
            format!("port {port} speaks TLS there"),
            format!("use wss:// instead: {}", secured(target)),
        ),
        FailureKind::OnlyHttp2 => http2_only(),
        FailureKind::TimedOut | FailureKind::Closed => Fault::new(
            Kind::NoHttpAnswer,
            format!("port {port} accepts connections, and then {}", failure.detail),
            "check that what listens there is alive, and that no firewall or load balancer accepts connections without \
             a server behind it",
        ),
        _ => Fault::new(
            Kind::NotHttp,
            format!("what listens on port {port} is not a web server: {}", failure.detail),
            "check the port",
        ),
    })
}

fn wants_tls(answer: &Answer) -> bool {
    let body = answer.body.to_ascii_lowercase();
    answer.status == 400 && TLS_WANTED.iter().any(|phrase| body.contains(phrase))
}

/// Plain HTTP arrived on a port for TLS: this one, or the one behind a proxy.
fn tls_wanted(address: &Address, answer: &Answer, facts: &Facts) -> Fault {
    let target = &facts.target;
    let pass_on = "let the proxy speak TLS to the server behind it (nginx: proxy_pass https://...)";
    if target.tls {
        let clause =
            format!("{} passes the handshake on in plain HTTP to a port that speaks TLS", front(address, answer));
        return Fault::new(Kind::BadGateway, format!("{clause} (400)"), pass_on);
    }
    Fault::new(
        Kind::TlsExpected,
        format!("{} answers that port {} is for TLS (400)", server(address, answer), target.port),
        format!("use {}; if that fails and a proxy stands there, {pass_on}", secured(target)),
    )
}

/// The same address with TLS.
fn secured(target: &Target) -> String {
    target.with_tls().websocket(&target.path)
}

/// Whether the answer to the handshake is the right one.
pub(super) fn handshake(address: &Address, facts: &Facts) -> Option<Fault> {
    let handshake = address.handshake.done()?;
    let answer = &handshake.answer;
    if let Some(fault) = load_balancer(address, answer) {
        return Some(fault);
    }
    if wants_tls(answer) {
        return Some(tls_wanted(address, answer, facts));
    }
    if let Some(fault) = proxy_protocol(answer).or_else(|| address_limited(answer)) {
        return Some(fault);
    }
    Some(match answer.status {
        101 if handshake.accept_matches => return own_pages_refused(address, handshake, facts),
        101 => Fault::new(
            Kind::WrongAcceptKey,
            format!(
                "{} answers 101 with a Sec-WebSocket-Accept that does not belong to the key",
                server(address, answer)
            ),
            "a cache or a proxy answers in the server's place, or changes the key: let this path bypass it",
        ),
        300..=399 if answer.header("location").is_some() => redirect(address, answer, facts),
        401 | 403 | 407 => refused(address, handshake, facts),
        404 => not_found(address, answer, facts),
        502..=504 => bad_gateway(address, answer, facts),
        400 | 426 => stripped(address, handshake, facts),
        200 => wrong_page(address, answer, facts),
        429 => Fault::new(
            Kind::UnexpectedStatus,
            format!("{} answers that there are too many requests (429){}", server(address, answer), said(answer)),
            "wait and run the doctor again; where users see this too, raise the limit for this path",
        ),
        status if is_web_page(address, answer) => html(address, answer, status, facts),
        status => unexpected(address, answer, status),
    })
}
