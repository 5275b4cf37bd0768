//! The kinds of verdict, and what a finding consists of. Pure.

use std::fmt;
use std::net::IpAddr;

use serde::de::IntoDeserializer as _;
use serde::{Deserialize, Serialize};

use crate::printable::printable;
use crate::proxy::Lines;
use crate::reason::Reason;

/// What is wrong, or that nothing is. The names in JSON are stable. The order is that of causes: each kind explains those
/// after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// No resolver gave an answer.
    DnsNoAnswer,
    /// The name doesn't exist.
    DnsNoSuchName,
    /// The name exists and has no address.
    DnsNoAddress,
    /// A resolver did not answer, or answered with an error, while others know the name.
    ResolverSilent,
    /// Resolvers name different addresses.
    ResolversDisagree,
    /// A record points at an address that is not this server, while others are.
    StaleAddress,
    /// A record points at an address that should not be there.
    UnexpectedAddress,
    /// An address that should be there is in no record.
    MissingAddress,
    /// Nothing listens on the port.
    Refused,
    /// No answer to a connection: a firewall, or a machine that is off.
    TimedOut,
    /// The network says that the address can't be reached.
    Unreachable,
    /// This machine has no route to addresses of this family: nothing can be said about them.
    NoRouteHere,
    /// No IPv6 address accepts connections, all IPv4 addresses do.
    Ipv6Broken,
    /// No IPv4 address accepts connections, all IPv6 addresses do.
    Ipv4Broken,
    /// `wss`, and the port speaks plain HTTP.
    TlsNotSpoken,
    /// `ws`, and the port speaks TLS.
    TlsExpected,
    /// The TLS handshake fails, for another reason than the certificate.
    TlsFailed,
    /// The certificate has expired.
    TlsExpired,
    /// The certificate is not valid yet.
    TlsNotYetValid,
    /// The certificate is for other names.
    TlsWrongName,
    /// The certificate is self-signed.
    TlsSelfSigned,
    /// No authority that this machine trusts has signed the certificate.
    TlsUnknownIssuer,
    /// The certificate is refused for another reason.
    TlsInvalid,
    /// The certificate expires soon.
    TlsExpiresSoon,
    /// Only HTTP/2 is spoken, and WebSocket clients ask in HTTP/1.1.
    Http2Only,
    /// The answer is not HTTP.
    NotHttp,
    /// The connection is accepted, and no answer comes.
    NoHttpAnswer,
    /// Plain requests are answered, WebSocket handshakes are not.
    HandshakeUnanswered,
    /// The server can't reach the log that it shares its rooms through.
    ClusterAway,
    /// 502, 503, 504: a proxy is up, the server behind it is not.
    BadGateway,
    /// The last hop speaks HTTP/1.0, which has no upgrades.
    Http10Hop,
    /// A hop drops `Upgrade`.
    UpgradeStripped,
    /// A hop drops `Connection`.
    ConnectionStripped,
    /// A hop refuses upgrades, and lets plain requests pass.
    UpgradeRefused,
    /// A redirect, which WebSocket clients don't follow.
    Redirect,
    /// The handshake is refused because of its `Origin`.
    ForbiddenOrigin,
    /// The handshake is refused: 401 or 403.
    Forbidden,
    /// hi asks who the client is, and there is no token.
    TokenMissing,
    /// hi can't read the token.
    TokenMalformed,
    /// The token is signed with an algorithm that hi has no key for.
    TokenAlgorithm,
    /// The token is signed with a key that hi doesn't have.
    TokenUnknownKey,
    /// The token's signature is not by a key of hi.
    TokenBadSignature,
    /// The token has expired.
    TokenExpired,
    /// The token is not valid yet.
    TokenNotYetValid,
    /// The clocks of the issuer and of hi differ.
    ClockSkew,
    /// The token is from another issuer.
    TokenIssuer,
    /// The token is for another service.
    TokenAudience,
    /// The token lacks a claim, or has one that can't be read.
    TokenClaims,
    /// The token is for another user than the connection's.
    TokenOtherUser,
    /// The user may not do that in this room.
    Denied,
    /// The header that names the user comes from an address that hi doesn't trust.
    UserHeaderUntrusted,
    /// The proxy in front names no user.
    UserHeaderMissing,
    /// The header that names the user can't be read.
    UserHeaderInvalid,
    /// hi demands a header of the PROXY protocol that does not come.
    ProxyHeaderMissing,
    /// A header of the PROXY protocol comes, and hi does not expect it.
    ProxyHeaderUnexpected,
    /// hi can't read the header of the PROXY protocol.
    ProxyHeaderBad,
    /// hi lets this address make no more connections.
    AddressLimited,
    /// There is nothing at the path.
    NotFound,
    /// A web page answers instead of hi.
    HtmlInsteadOfJson,
    /// 200, where the handshake's answer should be 101.
    #[serde(rename = "ok_200_instead_of_101")]
    Ok200InsteadOf101,
    /// A status that no other kind explains.
    UnexpectedStatus,
    /// 101 with an accept key that does not belong to the key.
    WrongAcceptKey,
    /// The handshake is fine, and messages don't come through.
    MessageLost,
    /// Messages come through and 16 KiB do not.
    TooBig,
    /// Something on the way cuts idle connections.
    IdleTimeout,
    /// Servers answer that should share their rooms, and don't.
    AnotherCluster,
    /// Two servers that know nothing of each other's rooms answer.
    AnotherInstance,
    /// A WebSocket server that is not hi, as far as can be seen.
    NotHi,
    /// Raw rooms can't be used from here.
    RawUnavailable,
    Sound,
}

impl Kind {
    /// The kind of the same name as hi's own reason, if there is one.
    pub(crate) fn of(reason: Reason) -> Option<Self> {
        let name: serde::de::value::StrDeserializer<'_, serde::de::value::Error> = reason.as_str().into_deserializer();
        Self::deserialize(name).ok()
    }

    /// The name in JSON.
    pub(crate) fn name(self) -> String {
        // A unit variant is always a string.
        serde_json::to_value(self).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
    }
}

/// One thing that was found, in plain words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// The kind, for a program.
    pub(crate) kind: Kind,
    /// Whether users are affected: exit code 1.
    pub(crate) broken: bool,
    /// The address that it is about, if it is about one.
    pub(crate) address: Option<IpAddr>,
    /// What is wrong, in whole sentences.
    pub(crate) text: String,
    /// What to do about it. JSON keeps the name that was published first.
    #[serde(rename = "mend")]
    pub(crate) fix: Option<Fix>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Fix {
    /// One or two sentences.
    pub(crate) text: String,
    /// Lines for the configuration of a proxy.
    pub(crate) lines: Vec<Lines>,
}

impl Finding {
    /// A finding that affects users.
    pub(crate) fn broken(kind: Kind, address: Option<IpAddr>, text: impl AsRef<str>) -> Self {
        Self { kind, broken: true, address, text: printable(text.as_ref()).into_owned(), fix: None }
    }

    pub(crate) fn warning(kind: Kind, address: Option<IpAddr>, text: impl AsRef<str>) -> Self {
        Self { broken: false, ..Self::broken(kind, address, text) }
    }

    /// Adds what to do about it.
    #[must_use]
    pub(crate) fn fix(mut self, text: impl AsRef<str>) -> Self {
        self.fix = Some(Fix { text: printable(text.as_ref()).into_owned(), lines: Vec::new() });
        self
    }

    /// Adds lines for the configuration of a proxy.
    #[must_use]
    pub(crate) fn lines(mut self, lines: Vec<Lines>) -> Self {
        if let Some(fix) = &mut self.fix {
            fix.lines = lines;
        }
        self
    }
}

impl fmt::Display for Finding {
    /// In one line: what is wrong and what to do about it, without the configuration lines.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        match &self.fix {
            Some(fix) => write!(f, " Fix: {}", fix.text),
            None => Ok(()),
        }
    }
}

/// The result of judging the facts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Diagnosis {
    /// The one verdict: the cause of what affects users, or `sound`.
    pub(crate) verdict: Finding,
    /// What else is broken or deserves attention.
    pub(crate) others: Vec<Finding>,
}

impl Diagnosis {
    /// Whether no user is affected.
    pub(crate) fn is_healthy(&self) -> bool {
        !self.verdict.broken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hi_says_about_identities_is_a_verdict_of_the_same_name() {
        let reasons = [
            Reason::TokenMissing,
            Reason::TokenMalformed,
            Reason::TokenAlgorithm,
            Reason::TokenUnknownKey,
            Reason::TokenBadSignature,
            Reason::TokenExpired,
            Reason::TokenNotYetValid,
            Reason::ClockSkew,
            Reason::TokenIssuer,
            Reason::TokenAudience,
            Reason::TokenClaims,
            Reason::TokenOtherUser,
            Reason::Denied,
            Reason::UserHeaderUntrusted,
            Reason::UserHeaderMissing,
            Reason::UserHeaderInvalid,
            Reason::ProxyHeaderMissing,
            Reason::ProxyHeaderUnexpected,
            Reason::ProxyHeaderBad,
        ];
        for reason in reasons {
            assert_eq!(Kind::of(reason).map(Kind::name).as_deref(), Some(reason.as_str()));
        }
        assert_eq!(Kind::of(Reason::RawRoomsOff), None, "forbidden says it");
    }
}
