//! What is wrong with one address by itself: its faults in the order of causes. Pure.

use super::facts::{Address, CertificateFaultKind, Facts, FailureKind, Step, Tls};
use super::verdict::{Finding, Kind};
use crate::proxy::Lines;

mod front;
mod gateway;
mod handshake;
mod origins;
mod paths;
mod refusals;
mod stripped;

use handshake::{handshake, speaking};
pub(super) use stripped::told_by_hi;

/// What to do if nothing more is known.
const SERVER_LOG: &str = "check the log of the server that answers there";

/// Seconds without the log of its cluster after which a server has told its users (`away`).
const AWAY_SECONDS_MIN: u64 = 2;
/// Days left below which a certificate gets a note: renewal is usually automatic, 30 days before the end.
const DAYS_LEFT_MIN: i64 = 14;

/// Something wrong at an address: the clause follows `192.0.2.7: ` or `192.0.2.7 is not this server: `.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub(super) kind: Kind,
    pub(super) broken: bool,
    pub(super) clause: String,
    pub(super) fix: String,
    pub(super) lines: Vec<Lines>,
}

impl Fault {
    fn new(kind: Kind, clause: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { kind, broken: true, clause: clause.into(), fix: fix.into(), lines: Vec::new() }
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
        if self.fix.is_empty() { finding } else { finding.fix(&self.fix).lines(self.lines.clone()) }
    }

    /// Whether the connection itself failed.
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
        cluster(address),
        handshake(address, facts),
        carrying(address),
        raw_rooms(address),
        idle(address),
    ];
    let mut faults: Vec<_> = steps.into_iter().flatten().collect();
    faults.sort_by_key(|fault| !fault.broken);
    faults
}

/// The server answers, and can't reach the others.
fn cluster(address: &Address) -> Option<Fault> {
    let cluster = address.cluster()?;
    let seconds = cluster.away_seconds?;
    let clause = format!(
        "hi has not reached the NATS servers of its cluster {} for {seconds} s: messages wait, and are then refused",
        cluster.name
    );
    let fix = "look at its log (`can't reach ...`) and at the NATS servers: whether they run, and whether its network reaches \
               them; until then, take it out of the load balancer (/readyz says so)";
    let fault = Fault::new(Kind::ClusterAway, clause, fix);
    // A moment, such as a new leader among the NATS servers, is not worth an alarm.
    Some(if seconds < AWAY_SECONDS_MIN { fault.warning() } else { fault })
}

fn connecting(address: &Address, facts: &Facts) -> Option<Fault> {
    let failure = address.tcp.failure()?;
    let port = facts.target.port;
    Some(match failure.kind {
        FailureKind::Refused => Fault::new(
            Kind::Refused,
            format!("nothing listens there on port {port}"),
            "start the server or its proxy there, on this port (`ss -ltn` lists what listens), or take the record away",
        ),
        FailureKind::TimedOut => Fault::new(
            Kind::TimedOut,
            format!("{} on port {port}: a firewall drops the packets, or the machine is off", failure.detail),
            format!("open TCP port {port} in the firewall there, or take the record away"),
        ),
        FailureKind::NoRouteHere => Fault::new(
            Kind::NoRouteHere,
            format!(
                "this machine has no {} route, so nothing can be said about it ({})",
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
                "let the proxy there terminate TLS on this port (nginx: listen 443 ssl), or use ws:// if there should \
                 be no TLS",
            ),
            FailureKind::OnlyHttp2 => http2_only(),
            _ => Fault::new(
                Kind::TlsFailed,
                format!("the TLS handshake fails: {}", failure.detail),
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
            let clause = format!("the certificate expires in {} ({})", days(own.days_left), own.not_after);
            Fault::new(Kind::TlsExpiresSoon, clause, "renew it, and find out why it was not renewed automatically")
                .warning()
        });
    };
    Some(match fault.kind {
        CertificateFaultKind::Expired if own.days_left > 0 => Fault::new(
            Kind::TlsExpired,
            "a certificate that was sent with the server's own has expired",
            "send the current intermediate certificates (fullchain.pem), and reload the proxy",
        ),
        CertificateFaultKind::Expired => Fault::new(
            Kind::TlsExpired,
            format!("the certificate expired {} ago ({})", days(-own.days_left), own.not_after),
            "renew the certificate and reload the proxy: one that was renewed on disk is not yet in use",
        ),
        CertificateFaultKind::NotYetValid => Fault::new(
            Kind::TlsNotYetValid,
            "the certificate is not valid yet",
            "check the clocks of both machines; wait, or use the previous certificate",
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
            "the certificate is self-signed, so no browser trusts it",
            "get one from a certificate authority (e.g. with certbot); if that is intended, give --ca FILE",
        ),
        CertificateFaultKind::UnknownIssuer => Fault::new(
            Kind::TlsUnknownIssuer,
            format!("the certificate was issued by {}, which this machine does not trust", own.issuer),
            "send the intermediate certificates too (fullchain.pem, not cert.pem); for a private authority, give --ca FILE",
        ),
        CertificateFaultKind::Other => Fault::new(
            Kind::TlsInvalid,
            format!("the certificate is refused: {}", fault.detail),
            "replace the certificate",
        ),
    })
}

fn days(number: i64) -> String {
    match number {
        0 => "less than a day".to_owned(),
        1 => "1 day".to_owned(),
        number => format!("{number} days"),
    }
}

/// Up to three names in full, of more only the first and the last.
pub(super) fn listed(names: &[String]) -> String {
    match names {
        [] => "no name".to_owned(),
        [names @ .., last] if names.len() > 3 => format!("{} and {} others ({last}, ...)", names[0], names.len()),
        names => names.join(", "),
    }
}

fn http2_only() -> Fault {
    Fault::new(
        Kind::Http2Only,
        "only HTTP/2 is spoken there, and WebSocket clients speak HTTP/1.1",
        "let the proxy there offer http/1.1 (ALPN) too",
    )
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
                "something on the way holds WebSocket frames back: switch off buffering, caching and inspection for this \
                 path (nginx: proxy_buffering off)",
            ));
        }
        if let Some(failure) = carried.large.failure() {
            let clause = format!("a message of 16 KiB does not come back at {path}: {}", failure.detail);
            let fault = |fix| Fault::new(Kind::TooBig, clause.clone(), fix);
            return Some(match failure.kind {
                FailureKind::TooBig => {
                    fault("if clients send messages of that size, raise hi's --max-message").warning()
                }
                _ => fault("raise the size limit of the proxy, or its time limits: small messages come through"),
            });
        }
    }
    None
}

fn raw_rooms(address: &Address) -> Option<Fault> {
    // Where no handshake works, a raw room's says nothing new.
    address.handshake.done().filter(|handshake| handshake.is_healthy())?;
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
    // Whole seconds, at most half of the limit: so that one late ping does no harm.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seconds of a test that ran")]
    let interval = ((cut / 2.0).floor() as u64).max(1);
    Some(
        Fault::new(
            Kind::IdleTimeout,
            format!("something on the way cuts a connection that is idle for {cut} s, before the server pings"),
            format!("ping more often (hi --ping-interval {interval}s), or raise the proxy's idle timeout"),
        )
        .lines(Lines::for_idle(proxy, 75)),
    )
}
