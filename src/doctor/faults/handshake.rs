//! What is wrong with the answers in HTTP: to the echo, and to the handshake. Pure.

use super::super::diff::Diff;
use super::super::facts::{Address, Answer, Echo, Facts, FailureKind, Handshake};
use super::super::url::Target;
use super::super::verdict::Kind;
use super::super::websocket::NAME_PREFIX;
use super::{Fault, http2_only};
use crate::proxy::{Lines, Proxy};

/// Characters of a foreign text that are repeated.
const SHOWN_CHARS_MAX: usize = 120;

/// Whether HTTP is spoken at all.
pub(super) fn speaking(address: &Address, facts: &Facts) -> Option<Fault> {
    if address.handshake.done().is_some() {
        return None;
    }
    let failure = address.handshake.failure().or(address.echo.failure())?;
    let port = facts.target.port;
    let silent = matches!(failure.kind, FailureKind::TimedOut | FailureKind::Closed);
    if silent && address.echo.done().is_some() {
        return Some(Fault::new(
            Kind::HandshakeUnanswered,
            format!("plain requests are answered there, and WebSocket handshakes are not: {}", failure.detail),
            "see what lets requests pass and holds upgrades back: a firewall that looks into HTTP, a virus scanner, a proxy",
        ));
    }
    Some(match failure.kind {
        FailureKind::TlsNotPlain => Fault::new(
            Kind::TlsExpected,
            format!("port {port} speaks TLS there"),
            format!(
                "use wss:// instead: wss://{}{}",
                Target { tls: true, ..facts.target.clone() }.authority(),
                facts.target.path
            ),
        ),
        FailureKind::OnlyHttp2 => http2_only(),
        FailureKind::TimedOut | FailureKind::Closed => Fault::new(
            Kind::NoHttpAnswer,
            format!("a connection comes about on port {port}, and then {}", failure.detail),
            "see whether what listens there is alive, and whether a firewall or a load balancer without a server behind \
             it accepts for it",
        ),
        _ => Fault::new(
            Kind::NotHttp,
            format!("what listens there on port {port} is no web server: {}", failure.detail),
            "check the port",
        ),
    })
}

/// Whether the answer to the handshake is the right one.
pub(super) fn handshake(address: &Address, facts: &Facts) -> Option<Fault> {
    let handshake = address.handshake.done()?;
    let answer = &handshake.answer;
    let who = server(answer);
    let path = &facts.target.path;
    Some(match answer.status {
        101 if handshake.accept_matches => return own_pages_refused(handshake, facts),
        101 => Fault::new(
            Kind::WrongAcceptKey,
            format!("{who} answers 101 with a Sec-WebSocket-Accept that does not belong to the key"),
            "a cache or a proxy answers in the server's place, or changes the key: take it out of the way of this path",
        ),
        300..=399 => redirect(answer, facts),
        401 | 403 => return forbidden(handshake, &who, facts),
        404 => Fault::new(
            Kind::NotFound,
            format!("{who} answers there and has nothing at {path} (404)"),
            match address.is_hi() {
                true => {
                    format!("let the proxy pass {path} on as it is; hi serves the chat at every path that ends in /ws")
                }
                false => "check the path, and the rule in the proxy that should pass it on to hi".to_owned(),
            },
        ),
        502..=504 => Fault::new(
            Kind::BadGateway,
            format!(
                "{} lives there, but what is behind it does not answer ({})",
                who.replacen("a server", "a proxy", 1),
                answer.status
            ),
            "start hi, or correct the address that the proxy passes on to (nginx: proxy_pass, HAProxy: server)",
        ),
        400 | 426 => return Some(stripped(address, handshake)),
        200 if !is_web_page(address, answer) => Fault::new(
            Kind::Ok200InsteadOf101,
            format!(
                "{who} answers the handshake at {path} with 200 instead of 101: it does not take it for a WebSocket"
            ),
            "let the proxy pass this path on to hi, with its upgrade",
        )
        .lines(Lines::for_upgrade(product(address, answer))),
        status if is_web_page(address, answer) => Fault::new(
            Kind::HtmlInsteadOfJson,
            format!("a web page answers there (status {status}, {who}) instead of hi, at {path} and at /-/doctor/echo"),
            "let the proxy pass this host, or at least this path, on to hi: now another site or an error page answers",
        ),
        status => Fault::new(
            Kind::UnexpectedStatus,
            format!("{who} answers the handshake with {status}{}", said(answer)),
            "see the log of who answers there",
        ),
    })
}

fn is_web_page(address: &Address, answer: &Answer) -> bool {
    answer.is_html() && address.echo.done().is_some_and(|echo| echo.answer.is_html())
}

fn redirect(answer: &Answer, facts: &Facts) -> Fault {
    let to = without_our_query(answer.header("location").unwrap_or("nowhere"));
    let mend = match to.strip_prefix("https://").filter(|_| !facts.target.tls) {
        Some(rest) => format!("use wss://{rest}"),
        None => format!("use the address that it leads to ({to}), or don't redirect {}", facts.target.path),
    };
    let clause = format!(
        "{} redirects the handshake to {to} ({}), and WebSocket clients don't follow redirects",
        server(answer),
        answer.status
    );
    Fault::new(Kind::Redirect, clause, mend)
}

/// A handshake without Origin is accepted, and one from a page of the site itself is not. Pages may live elsewhere.
fn own_pages_refused(handshake: &Handshake, facts: &Facts) -> Option<Fault> {
    let other = handshake.other_origin.as_ref().filter(|other| matches!(other.status, 401 | 403))?;
    let origin = other.origin.clone().unwrap_or_else(|| facts.target.origin());
    let clause = format!(
        "pages of {origin} can't open a WebSocket here ({}): the server accepts other origins, and programs that send none",
        other.status
    );
    let mend =
        format!("if the page is served there, add {origin} to the allowed origins of the server (hi: --origins)");
    Some(Fault::new(Kind::ForbiddenOrigin, clause, mend).warning())
}

/// The name of the doctor's own user and room means nothing to anyone.
fn without_our_query(address: &str) -> &str {
    match address.split_once('?') {
        Some((address, query)) if query.contains(NAME_PREFIX) => address,
        _ => address,
    }
}

fn forbidden(handshake: &Handshake, who: &str, facts: &Facts) -> Option<Fault> {
    let status = handshake.answer.status;
    let shown = |origin: &Option<String>| origin.as_ref().map_or("no Origin".to_owned(), |it| format!("Origin {it}"));
    let other = handshake.other_origin.as_ref();
    Some(match other.filter(|other| other.status == 101) {
        Some(other) => {
            let clause = format!(
                "{who} refuses a handshake with {} ({status}) and accepts one with {}",
                shown(&handshake.origin),
                shown(&other.origin)
            );
            let fault = Fault::new(Kind::ForbiddenOrigin, clause, "");
            match &handshake.origin {
                // Browsers send that of the page: those of the site itself get in.
                None => fault.warning(),
                Some(origin) => Fault { mend: format!("add {origin} to the allowed origins of the server"), ..fault },
            }
        }
        None => Fault::new(
            Kind::Forbidden,
            format!("{who} refuses the handshake ({status}){}", said(&handshake.answer)),
            format!(
                "see who refuses it: an access rule, a login, or the allowed origins of the server (tried: {} and {}; \
                 --origin tries another)",
                shown(&handshake.origin),
                other.map_or(facts.target.origin(), |other| shown(&other.origin))
            ),
        ),
    })
}

/// 400 and 426: a hop has taken something away, and the echo or the answer tells what.
fn stripped(address: &Address, handshake: &Handshake) -> Fault {
    let answer = &handshake.answer;
    let echo = address.echo_upgrade.done();
    let diff = echo.and_then(|echo| echo.diff.as_ref());
    let proven = diff.and_then(|diff| {
        let http10 = diff.http_version.as_deref() == Some("HTTP/1.0");
        let (upgrade, connection) = (diff.lacks("upgrade", "websocket"), diff.lacks("connection", "upgrade"));
        match (http10, upgrade, connection) {
            (true, _, _) => Some(Kind::Http10Hop),
            (_, true, _) => Some(Kind::UpgradeStripped),
            (_, _, true) => Some(Kind::ConnectionStripped),
            _ => None,
        }
    });
    let Some(kind) = proven.or_else(|| told(answer)) else {
        return Fault::new(
            Kind::UnexpectedStatus,
            format!("{} answers the handshake with {}{}", server(answer), answer.status, said(answer)),
            "see the log of who answers there",
        );
    };
    let hop = hop(diff, answer);
    let dropped = match (kind, diff.is_some_and(|diff| diff.lacks("connection", "upgrade"))) {
        (Kind::ConnectionStripped, _) => "Connection",
        (Kind::UpgradeStripped, true) => "Upgrade and Connection",
        _ => "Upgrade",
    };
    let proxy = diff.and_then(Diff::proxy).or_else(|| product(address, answer));
    Fault::new(
        kind,
        format!("{} answers there and drops {dropped}", hop.replacen("a proxy", article(kind), 1)),
        match proxy {
            Some(proxy) => format!("let {proxy} pass the upgrade on"),
            None => "let the proxy pass the upgrade on".to_owned(),
        },
    )
    .lines(Lines::for_upgrade(proxy))
}

fn article(kind: Kind) -> &'static str {
    if kind == Kind::Http10Hop { "an HTTP/1.0 proxy" } else { "a proxy" }
}

/// What the answer itself says is missing, if hi or another server of manners wrote it.
fn told(answer: &Answer) -> Option<Kind> {
    let says = |part: &str| answer.body.contains(part);
    let reasons = [
        ("http10_hop", Kind::Http10Hop),
        ("HTTP/1.1 (arrived", Kind::Http10Hop),
        ("connection_stripped", Kind::ConnectionStripped),
        ("upgrade_stripped", Kind::UpgradeStripped),
        ("Upgrade: websocket (", Kind::UpgradeStripped),
        ("Connection: Upgrade (", Kind::ConnectionStripped),
    ];
    let reason = reasons.into_iter().find(|(part, _)| says(part)).map(|(_, kind)| kind);
    let hints = || answer.status == 426 || answer.body.to_ascii_lowercase().contains("upgrade");
    reason.or_else(|| hints().then_some(Kind::UpgradeStripped))
}

/// `a proxy (Via: 1.0 old-host)`.
fn hop(diff: Option<&Diff>, answer: &Answer) -> String {
    let traces: Vec<_> = diff.map(|diff| diff.hops.iter().map(|hop| hop.trace.as_str()).collect()).unwrap_or_default();
    match (traces.as_slice(), answer.header("server"), answer.header("via")) {
        ([], None, None) => "a proxy that does not name itself".to_owned(),
        ([], Some(server), _) => format!("a proxy (Server: {})", cut(server)),
        ([], None, Some(via)) => format!("a proxy (Via: {})", cut(via)),
        ([trace], _, _) => format!("a proxy ({})", cut(trace)),
        // Which of them it was can't be told from the ends.
        (traces, _, _) => format!("one of the proxies on the way ({})", cut(&traces.join(", then "))),
    }
}

fn product(address: &Address, answer: &Answer) -> Option<Proxy> {
    let echoes = [&address.echo, &address.echo_upgrade].into_iter().filter_map(|step| step.done());
    let from_echo = echoes.filter_map(|echo: &Echo| echo.diff.as_ref()?.proxy()).next();
    from_echo.or_else(|| ["server", "via"].iter().find_map(|name| Proxy::named_in(answer.header(name)?)))
}

/// Who answered: by its own name, if it says one.
fn server(answer: &Answer) -> String {
    match answer.header("server").or(answer.header("via")) {
        Some(name) => cut(name),
        None => "a server that does not name itself".to_owned(),
    }
}

/// The first line of a short text, in quotes.
fn said(answer: &Answer) -> String {
    let line = answer.body.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    if line.is_empty() || answer.is_html() { String::new() } else { format!(": \"{}\"", cut(line)) }
}

fn cut(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).take(SHOWN_CHARS_MAX).collect()
}
