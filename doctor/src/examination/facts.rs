//! What an examination found, as plain data: no sockets, no judgement. [`super::diagnosis`] judges it,
//! [`super::report`] shows it, `--json` writes it as it is.

use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use super::url::Target;

mod diff;
mod http;
mod names;
mod texts;

#[cfg(test)]
pub(crate) use diff::Changed;
pub(crate) use diff::{Diff, Hop};
pub(crate) use http::{Answer, Cluster, Echo, Handshake, OtherOrigin, Received};
pub(crate) use names::{Alias, Lookup, LookupOutcome, Record, Source};

/// Where hi answers with the request as it arrived.
pub(crate) const ECHO_PATH: &str = "/-/doctor/echo";

/// Everything that was found out about one address.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Facts {
    /// The address that was examined, parsed.
    pub(crate) target: Target,
    /// What each source says about the name. Empty if the address is an IP address.
    pub(crate) dns: Vec<Source>,
    /// Addresses that should be there (`--expect-ip`).
    pub(crate) expected: Vec<IpAddr>,
    /// Each IP address that a source named or that was expected, in the order in which they were found.
    pub(crate) addresses: Vec<Address>,
}

/// One IP address, and the result of each step.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Address {
    pub(crate) address: SocketAddr,
    /// Whether a resolver (or the URL) names it; if not, it is only expected.
    pub(crate) in_dns: bool,
    /// The longest time that some resolver may still hand it out, in seconds.
    pub(crate) ttl_seconds: Option<u32>,
    /// The TCP connection.
    pub(crate) tcp: Step<Connected>,
    /// TLS, with `wss` and `https`.
    pub(crate) tls: Step<Tls>,
    /// A plain `GET /-/doctor/echo`.
    pub(crate) echo: Step<Echo>,
    /// The same with the headers of an upgrade.
    pub(crate) echo_upgrade: Step<Echo>,
    /// The WebSocket handshake on the path of the URL.
    pub(crate) handshake: Step<Handshake>,
    /// What a WebSocket on the path of the URL carried.
    pub(crate) chat: Step<Carried>,
    /// The same through a raw room of its own.
    pub(crate) raw: Step<Carried>,
    /// For how long the path keeps an idle connection.
    pub(crate) idle: Step<Idle>,
}

impl Address {
    /// An address before its first step.
    pub(crate) fn unknown(address: SocketAddr) -> Self {
        Self {
            address,
            in_dns: false,
            ttl_seconds: None,
            tcp: Step::Skipped,
            tls: Step::Skipped,
            echo: Step::Skipped,
            echo_upgrade: Step::Skipped,
            handshake: Step::Skipped,
            chat: Step::Skipped,
            raw: Step::Skipped,
            idle: Step::Skipped,
        }
    }

    pub(crate) fn ip(&self) -> IpAddr {
        self.address.ip()
    }

    /// The echo of hi behind this address, if hi is there and its echo gets through.
    pub(crate) fn received(&self) -> Option<&Received> {
        [&self.echo, &self.echo_upgrade].into_iter().find_map(|step| step.done()?.received.as_ref())
    }

    /// Whether hi is known to be there.
    pub(crate) fn is_hi(&self) -> bool {
        self.received().is_some() || self.chat.done().is_some_and(|carried| carried.welcomed)
    }

    /// The hops that left a trace in a request that reached hi.
    pub(crate) fn hops(&self) -> &[Hop] {
        let diffs = [&self.echo, &self.echo_upgrade].into_iter().filter_map(|step| step.done()?.diff.as_ref());
        diffs.map(|diff| diff.hops.as_slice()).find(|hops| !hops.is_empty()).unwrap_or_default()
    }

    /// The prefix of hi's own paths: what precedes `/-/doctor/echo` where hi answered. `None`: it did not.
    pub(crate) fn base(&self) -> Option<&str> {
        let echo = self.echo.done().filter(|echo| echo.received.is_some())?;
        echo.path.strip_suffix(ECHO_PATH)
    }

    /// The `Host` with which a request arrived, if it was changed.
    pub(crate) fn changed_host(&self) -> Option<&str> {
        let diff = self.echo.done()?.diff.as_ref()?;
        let host = diff.changed.iter().find(|changed| changed.name.eq_ignore_ascii_case("host"))?;
        Some(&host.arrived)
    }

    /// The cluster of the server behind this address, if it belongs to one.
    pub(crate) fn cluster(&self) -> Option<&Cluster> {
        self.received()?.cluster.as_ref()
    }

    /// Whose rooms are behind this address: equal, and users of one hear those of the other.
    pub(crate) fn rooms(&self) -> Option<&str> {
        self.cluster().map_or_else(|| self.instance(), |cluster| Some(&cluster.log))
    }

    /// The name of the running server behind this address: equal names, same process.
    pub(crate) fn instance(&self) -> Option<&str> {
        self.received().map(|received| received.instance.as_str())
    }
}

/// The outcome of a step.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Step<T> {
    /// Not tried: an earlier step failed, or it doesn't apply.
    Skipped,
    Done(T),
    Failed(Failure),
}

impl<T> Step<T> {
    pub(crate) fn done(&self) -> Option<&T> {
        match self {
            Self::Done(value) => Some(value),
            Self::Skipped | Self::Failed(_) => None,
        }
    }

    pub(crate) fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Failed(failure) => Some(failure),
            Self::Skipped | Self::Done(_) => None,
        }
    }
}

impl<T> From<Result<T, Failure>> for Step<T> {
    fn from(result: Result<T, Failure>) -> Self {
        match result {
            Ok(value) => Self::Done(value),
            Err(failure) => Self::Failed(failure),
        }
    }
}

/// Why a step failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Failure {
    /// The kind, for a program.
    pub(crate) kind: FailureKind,
    /// What happened, for people: the end of a sentence.
    pub(crate) detail: String,
}

impl Failure {
    pub(crate) fn new(kind: FailureKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into() }
    }
}

/// The kinds of [`Failure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FailureKind {
    /// Nothing came back in the time of a step.
    TimedOut,
    /// Nothing listens on this port.
    Refused,
    /// A router says that the address can't be reached.
    Unreachable,
    /// This machine has no route to addresses of this family at all.
    NoRouteHere,
    /// The peer ended the connection.
    Closed,
    /// The TLS handshake failed, for another reason than the certificate.
    Tls,
    /// TLS was expected, and plain HTTP is spoken.
    PlainNotTls,
    /// Plain HTTP was expected, and TLS is spoken.
    TlsNotPlain,
    /// Only HTTP/2 is spoken.
    OnlyHttp2,
    /// The answer is not HTTP.
    NotHttp,
    /// The answer is not a WebSocket frame, or an unexpected one.
    NotWebsocket,
    /// A message was refused because of its size.
    TooBig,
    /// Any other error of the system.
    Other,
}

/// A TCP connection.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Connected {
    /// Time until it was established, in milliseconds.
    pub(crate) ms: f64,
}

/// A TLS session.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Tls {
    /// Time until it was established, in milliseconds.
    pub(crate) ms: f64,
    /// `TLSv1.3`.
    pub(crate) version: String,
    /// The negotiated protocol, if any.
    pub(crate) alpn: Option<String>,
    /// The certificates as they were sent, the server's own first.
    pub(crate) chain: Vec<Certificate>,
    /// What is wrong with them, if anything is.
    pub(crate) fault: Option<CertificateFault>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Certificate {
    /// The name that it was issued for.
    pub(crate) subject: String,
    pub(crate) issuer: String,
    /// The names and addresses it is valid for.
    pub(crate) names: Vec<String>,
    /// Whole days until it expires; negative: whole days since it did.
    pub(crate) days_left: i64,
    /// When it expires or did expire, as a date for people.
    pub(crate) not_after: String,
}

/// What is wrong with a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct CertificateFault {
    /// The kind, for a program.
    pub(crate) kind: CertificateFaultKind,
    /// The text of the check.
    pub(crate) detail: String,
}

/// The kinds of [`CertificateFault`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CertificateFaultKind {
    /// It has expired.
    Expired,
    /// It is not valid yet, or this machine's clock is wrong.
    NotYetValid,
    /// It is for other names.
    WrongName,
    /// It is self-signed.
    SelfSigned,
    /// No authority that this machine trusts has signed it: often an intermediate certificate is missing.
    UnknownIssuer,
    Other,
}

/// What a WebSocket carried.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Carried {
    /// The target of its handshake.
    pub(crate) path: String,
    /// Why nothing was carried although nothing is broken, e.g. because raw rooms are off.
    pub(crate) note: Option<String>,
    /// A message and its echo.
    pub(crate) message: Step<RoundTrip>,
    /// A ping and its pong.
    pub(crate) ping: Step<RoundTrip>,
    /// A message of 16 KiB and its echo.
    pub(crate) large: Step<RoundTrip>,
    /// Whether hi's own welcome came, which users get when they enter a room.
    pub(crate) welcomed: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct RoundTrip {
    /// In milliseconds.
    pub(crate) ms: f64,
}

/// For how long a path keeps idle connections.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Idle {
    /// One connection each, in the order of their times.
    pub(crate) connections: Vec<IdleConnection>,
}

impl Idle {
    /// The longest silence that a connection survived, in seconds.
    pub(crate) fn survived_seconds(&self) -> Option<f64> {
        self.connections.iter().filter(|one| one.fate == IdleFate::Alive).map(|one| one.silent_seconds).reduce(f64::max)
    }

    /// The shortest silence that a connection did not survive, in seconds.
    pub(crate) fn cut_seconds(&self) -> Option<f64> {
        let cut = self.connections.iter().filter(|one| one.fate != IdleFate::Alive);
        cut.map(|one| one.silent_seconds).reduce(f64::min)
    }

    /// How often the server pinged meanwhile: each of its pings ended a silence.
    pub(crate) fn server_pings(&self) -> u32 {
        self.connections.iter().map(|one| one.server_pings).sum()
    }
}

/// A connection on which the client sent nothing for a while.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct IdleConnection {
    /// The silence before it was cut, or else the longest one that it survived, in seconds.
    pub(crate) silent_seconds: f64,
    pub(crate) fate: IdleFate,
    /// How often the server pinged: each ping ends a silence.
    pub(crate) server_pings: u32,
}

/// The fate of an idle connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum IdleFate {
    /// A ping after the silence got its pong.
    Alive,
    /// It was closed during the silence.
    Cut,
    /// It stayed open, but no pong came back.
    Deaf,
}
