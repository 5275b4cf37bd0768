//! What is wrong with one address, looked at alone: its faults in the order of causes. Pure.

use super::diff::Diff;
use super::facts::{Address, Answer, CertificateFaultKind, Echo, Facts, FailureKind, Handshake, Step, Tls};
use super::url::Target;
use super::verdict::{Finding, Kind, Lines};
use crate::proxy::Proxy;

/// A certificate that expires in fewer days than this deserves attention: renewal is usually automatic, 30 days before.
const DAYS_LEFT_MIN: i64 = 14;
/// Bytes of a foreign text that are repeated.
const SHOWN_CHARS_MAX: usize = 120;

/// Something that is wrong at an address: the clause goes behind `192.0.2.7: ` or `192.0.2.7 is not this server: `.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub(super) kind: Kind,
    pub(super) broken: bool,
    pub(super) clause: String,
    pub(super) mend: String,
    pub(super) lines: Vec<Lines>,
}

impl Fault {
    fn new(kind: Kind, clause: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { kind, broken: true, clause: clause.into(), mend: mend.into(), lines: Vec::new() }
    }

    fn warning(self) -> Self {
        Self { broken: false, ..self }
    }

    fn lines(self, lines: Vec<Lines>) -> Self {
        Self { lines, ..self }
    }

    /// As a finding about this address alone.
    pub(super) fn finding(&self, address: &Address) -> Finding {
        let text = format!("{}: {}.", address.ip(), self.clause);
        let finding = Finding { broken: self.broken, ..Finding::broken(self.kind, Some(address.ip()), text) };
        if self.mend.is_empty() { finding } else { finding.mend(&self.mend).lines(self.lines.clone()) }
    }

    /// Whether not even a connection came about.
    pub(super) fn is_about_connecting(&self) -> bool {
        matches!(self.kind, Kind::Refused | Kind::TimedOut | Kind::Unreachable)
    }
}

/// All faults of an address; the first that is broken explains most.
pub(super) fn faults(address: &Address, facts: &Facts) -> Vec<Fault> {
    let steps = [
        connecting(address, facts),
        tls(address, facts),
        speaking(address, facts),
        handshake(address, facts),
        carrying(address),
        raw_rooms(address),
        idle(address),
    ];
    let mut faults: Vec<_> = steps.into_iter().flatten().collect();
    faults.sort_by_key(|fault| !fault.broken);
    faults
}

fn connecting(address: &Address, facts: &Facts) -> Option<Fault> {
    let failure = address.tcp.failure()?;
    let port = facts.target.port;
    Some(match failure.kind {
        FailureKind::Refused => Fault::new(
            Kind::Refused,
            format!("nothing listens there on port {port}"),
            "start the server or its proxy there, on this port (`ss -ltn` lists who listens), or take the record away",
        ),
        FailureKind::TimedOut => Fault::new(
            Kind::TimedOut,
            format!("{} on port {port}: a firewall drops the packets, or the machine is off", failure.detail),
            format!("open TCP port {port} in the firewall there, or take the record away"),
        ),
        FailureKind::NoRouteHere => Fault::new(
            Kind::NoRouteHere,
            format!(
                "this machine has no {} way out, so nothing can be said about it ({})",
                family(address),
                failure.detail
            ),
            format!("run the doctor on a machine with {}", family(address)),
        )
        .warning(),
        _ => Fault::new(
            Kind::Unreachable,
            format!("the network says that it can't be reached on port {port} ({})", failure.detail),
            "check the route and the firewall on the way, or take the record away",
        ),
    })
}

pub(super) fn family(address: &Address) -> &'static str {
    if address.address.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn tls(address: &Address, facts: &Facts) -> Option<Fault> {
    match &address.tls {
        Step::Skipped => None,
        Step::Done(tls) => certificate(tls, facts),
        Step::Failed(failure) => Some(match failure.kind {
            FailureKind::PlainNotTls => Fault::new(
                Kind::TlsNotSpoken,
                format!("port {} speaks plain HTTP there, not TLS", facts.target.port),
                "let the proxy there terminate TLS on this port (nginx: listen 443 ssl), or use ws:// where no TLS is \
                 meant to be",
            ),
            FailureKind::OnlyHttp2 => http2_only(),
            _ => Fault::new(
                Kind::TlsFailed,
                format!("TLS does not come about: {}", failure.detail),
                "check the TLS configuration there: a certificate for this name, TLS 1.2 or 1.3",
            ),
        }),
    }
}

fn certificate(tls: &Tls, facts: &Facts) -> Option<Fault> {
    let host = &facts.target.host;
    let own = tls.chain.first()?;
    let Some(fault) = &tls.fault else {
        return (own.days_left < DAYS_LEFT_MIN).then(|| {
            let clause = format!("the certificate expires in {} days ({})", own.days_left, own.not_after);
            Fault::new(Kind::TlsExpiresSoon, clause, "renew it, and see why that did not happen by itself").warning()
        });
    };
    Some(match fault.kind {
        CertificateFaultKind::Expired => Fault::new(
            Kind::TlsExpired,
            format!("the certificate expired {} days ago ({})", -own.days_left, own.not_after),
            "renew the certificate and reload the proxy: one that was renewed on disk is not yet in use",
        ),
        CertificateFaultKind::NotYetValid => Fault::new(
            Kind::TlsNotYetValid,
            "the certificate is not valid yet",
            "check the clocks of both machines; wait, or use the certificate from before",
        ),
        CertificateFaultKind::WrongName => Fault::new(
            Kind::TlsWrongName,
            format!("the certificate is for {}, not for {host}", listed(&own.names)),
            format!(
                "get a certificate that names {host}, or let the proxy pick it by name (nginx: server_name {host})"
            ),
        ),
        CertificateFaultKind::SelfSigned => Fault::new(
            Kind::TlsSelfSigned,
            "the certificate is signed by itself, so no browser trusts it",
            "get one from a certificate authority (e.g. with certbot); where that is on purpose, give --ca FILE",
        ),
        CertificateFaultKind::UnknownIssuer => Fault::new(
            Kind::TlsUnknownIssuer,
            format!("the certificate was issued by {}, whom this machine does not trust", own.issuer),
            "send the intermediate certificates too (fullchain.pem, not cert.pem); for a private authority, give --ca FILE",
        ),
        CertificateFaultKind::Other => Fault::new(
            Kind::TlsInvalid,
            format!("the certificate is refused: {}", fault.detail),
            "replace the certificate",
        ),
    })
}

fn listed(names: &[String]) -> String {
    match names {
        [] => "no name".to_owned(),
        [names @ .., last] if names.len() > 3 => format!("{} and {} others ({last}, ...)", names[0], names.len()),
        names => names.join(", "),
    }
}

fn http2_only() -> Fault {
    Fault::new(
        Kind::Http2Only,
        "only HTTP/2 is spoken there, and WebSocket clients ask in HTTP/1.1",
        "let the proxy there offer http/1.1 too",
    )
}

/// Whether HTTP is spoken at all.
fn speaking(address: &Address, facts: &Facts) -> Option<Fault> {
    if address.handshake.done().is_some() {
        return None;
    }
    let failure = address.handshake.failure().or(address.echo.failure())?;
    let port = facts.target.port;
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

fn handshake(address: &Address, facts: &Facts) -> Option<Fault> {
    let handshake = address.handshake.done()?;
    let answer = &handshake.answer;
    let who = server(answer);
    let path = &facts.target.path;
    Some(match answer.status {
        101 if handshake.accept_matches => return None,
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
            format!("{who} lives there, but what is behind it does not answer ({})", answer.status),
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
    let to = answer.header("location").unwrap_or("nowhere");
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
        (traces, _, _) => format!("a proxy ({})", cut(&traces.join(", "))),
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

fn carrying(address: &Address) -> Option<Fault> {
    let [chat, raw] = [&address.chat, &address.raw].map(Step::done);
    for carried in [chat, raw].into_iter().flatten().filter(|carried| carried.note.is_none()) {
        let path = carried.path.split('?').next().unwrap_or_default();
        let lost = [("ping", &carried.ping), ("message", &carried.message)];
        if let Some((what, failure)) = lost.iter().find_map(|(what, step)| Some((what, step.failure()?))) {
            return Some(Fault::new(
                Kind::MessageLost,
                format!("the handshake at {path} is fine, but a {what} does not come back: {}", failure.detail),
                "something between holds WebSocket frames back: switch buffering, caching and inspection off for this path \
                 (nginx: proxy_buffering off)",
            ));
        }
        if let Some(failure) = carried.large.failure() {
            let clause = format!("a message of 16 KiB does not come back at {path}: {}", failure.detail);
            let fault = |mend| Fault::new(Kind::TooBig, clause.clone(), mend);
            return Some(match failure.kind {
                FailureKind::TooBig => fault("if clients send so much, raise --max-message of hi").warning(),
                _ => fault("raise the limit of the proxy between, or its time limits: small messages come through"),
            });
        }
    }
    None
}

fn raw_rooms(address: &Address) -> Option<Fault> {
    // Where no handshake works, that of a raw room says nothing new.
    address.handshake.done().filter(|handshake| handshake.is_sound())?;
    let note = match &address.raw {
        Step::Skipped => return None,
        Step::Done(carried) => carried.note.clone()?,
        Step::Failed(failure) => failure.detail.clone(),
    };
    Some(Fault::new(Kind::RawUnavailable, note, "").warning())
}

fn idle(address: &Address) -> Option<Fault> {
    let cut = address.idle.done()?.cut_seconds()?;
    let proxy = address.echo.done().and_then(|echo| echo.diff.as_ref()?.proxy());
    // The largest whole number of seconds that leaves room for a second ping.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seconds of a test that ran")]
    let interval = ((cut / 2.0).floor() as u64).max(1);
    Some(
        Fault::new(
            Kind::IdleTimeout,
            format!("the path cuts a connection on which nothing moves for {cut} s, before the server pings"),
            format!("ping more often (hi --ping-interval {interval}s), or let the proxy wait for longer"),
        )
        .lines(Lines::for_idle(proxy, 75)),
    )
}
