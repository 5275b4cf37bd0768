//! Every way in which a handshake on hi's public port fails has one name: in answers, in the log, in metrics, and where
//! the doctor reads such an answer. Pure.

use serde::Deserialize;

/// Why a handshake failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// A WebSocket client sent it and `Upgrade: websocket` is gone (`Connection` may be gone too).
    UpgradeStripped,
    /// A WebSocket client sent it and `Connection: Upgrade` is gone.
    ConnectionStripped,
    /// A WebSocket client sent it and the last hop speaks HTTP/1.0, which has no upgrades.
    Http10Hop,
    /// `Sec-WebSocket-Version` is absent or not 13.
    VersionUnsupported,
    /// `Sec-WebSocket-Key` is absent.
    KeyMissing,
    /// `Sec-WebSocket-Key` is there more than once, or not base64 of 16 bytes.
    KeyInvalid,
    /// Nothing in it says WebSocket: a browser's address bar, curl, a health check.
    NotAWebsocketRequest,
    /// A handshake is a GET.
    MethodNotGet,
    /// A body is announced: its bytes could not be told from frames.
    BodyDeclared,
    /// The page that opens the WebSocket or the stream comes from an origin that `--origins` does not admit.
    OriginRefused,
    /// The user's or the room's name is not one.
    NameInvalid,
    /// Another parameter of the address is not one.
    QueryInvalid,
    /// The path can't be decoded.
    PathInvalid,
    /// Raw rooms are switched off.
    RawRoomsOff,
    /// The client's address has too many connections, or makes too many handshakes.
    TooManyFromAddress,
    /// The PROXY header is missing that this peer has to send.
    ProxyHeaderMissing,
    /// A PROXY header came from a peer that is not to send one.
    ProxyHeaderUnexpected,
    /// The PROXY header can't be read.
    ProxyHeaderBad,
    /// The head is too long, or has too many headers.
    HeadTooLarge,
    /// The head did not arrive in time.
    HeadTimeout,
    /// The connection ended in the middle of the head.
    HeadCutOff,
    /// Not HTTP/1.x as RFC 9112 writes it.
    Malformed,
    /// HTTP, but neither 1.0 nor 1.1.
    HttpVersionUnsupported,
    /// A TLS handshake on a port that speaks plain HTTP.
    TlsOnPlainPort,
    /// HTTP/2 without an upgrade on a port that speaks HTTP/1.1.
    Http2OnHttp1Port,
    /// The server asks for a token, and there is none.
    TokenMissing,
    /// Not a signed JWT.
    TokenMalformed,
    /// Not signed, or with an algorithm that no key is for.
    TokenAlgorithm,
    /// Signed with a key that the server does not have.
    TokenUnknownKey,
    /// The signature is wrong.
    TokenBadSignature,
    /// Its time is over.
    TokenExpired,
    /// Its time has not come.
    TokenNotYetValid,
    /// It comes from the future: a clock is wrong.
    ClockSkew,
    /// It is of another issuer.
    TokenIssuer,
    /// It is for another service.
    TokenAudience,
    /// It lacks what hi needs, or has it in another form.
    TokenClaims,
    /// The address names another user than the token.
    TokenOtherUser,
    /// The token, or the rules for guests, don't allow it in that room.
    Denied,
    /// The keys that tokens are checked with could not be loaded yet.
    KeysUnavailable,
    /// A header that names the user came from a peer that is not trusted.
    UserHeaderUntrusted,
    /// The proxy in front did not say who the user is.
    UserHeaderMissing,
    /// It said it in a way that no user can be named.
    UserHeaderInvalid,
}

impl Reason {
    /// The name in answers, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UpgradeStripped => "upgrade_stripped",
            Self::ConnectionStripped => "connection_stripped",
            Self::Http10Hop => "http10_hop",
            Self::VersionUnsupported => "version_unsupported",
            Self::KeyMissing => "key_missing",
            Self::KeyInvalid => "key_invalid",
            Self::NotAWebsocketRequest => "not_a_websocket_request",
            Self::MethodNotGet => "method_not_get",
            Self::BodyDeclared => "body_declared",
            Self::OriginRefused => "origin_refused",
            Self::NameInvalid => "name_invalid",
            Self::QueryInvalid => "query_invalid",
            Self::PathInvalid => "path_invalid",
            Self::RawRoomsOff => "raw_rooms_off",
            Self::TooManyFromAddress => "too_many_from_address",
            Self::ProxyHeaderMissing => "proxy_header_missing",
            Self::ProxyHeaderUnexpected => "proxy_header_unexpected",
            Self::ProxyHeaderBad => "proxy_header_bad",
            Self::HeadTooLarge => "head_too_large",
            Self::HeadTimeout => "head_timeout",
            Self::HeadCutOff => "head_cut_off",
            Self::Malformed => "malformed",
            Self::HttpVersionUnsupported => "http_version_unsupported",
            Self::TlsOnPlainPort => "tls_on_plain_port",
            Self::Http2OnHttp1Port => "http2_on_http1_port",
            Self::TokenMissing => "token_missing",
            Self::TokenMalformed => "token_malformed",
            Self::TokenAlgorithm => "token_algorithm",
            Self::TokenUnknownKey => "token_unknown_key",
            Self::TokenBadSignature => "token_bad_signature",
            Self::TokenExpired => "token_expired",
            Self::TokenNotYetValid => "token_not_yet_valid",
            Self::ClockSkew => "clock_skew",
            Self::TokenIssuer => "token_issuer",
            Self::TokenAudience => "token_audience",
            Self::TokenClaims => "token_claims",
            Self::TokenOtherUser => "token_other_user",
            Self::Denied => "denied",
            Self::KeysUnavailable => "keys_unavailable",
            Self::UserHeaderUntrusted => "user_header_untrusted",
            Self::UserHeaderMissing => "user_header_missing",
            Self::UserHeaderInvalid => "user_header_invalid",
        }
    }

    /// The HTTP status: 426 where the same request over the right path or with the right version would do, 400 where the
    /// request itself is wrong (RFC 6455 4.2.1, 4.4, RFC 9110 15.5.22).
    pub fn status(self) -> u16 {
        match self {
            Self::UpgradeStripped
            | Self::ConnectionStripped
            | Self::Http10Hop
            | Self::VersionUnsupported
            | Self::NotAWebsocketRequest => 426,
            reason if reason.is_of_identity() => 401,
            Self::OriginRefused | Self::RawRoomsOff | Self::TokenOtherUser | Self::Denied | Self::UserHeaderInvalid => {
                403
            }
            Self::KeysUnavailable => 503,
            Self::HeadTimeout => 408,
            Self::TooManyFromAddress => 429,
            Self::HeadTooLarge => 431,
            Self::HttpVersionUnsupported | Self::Http2OnHttp1Port => 505,
            _ => 400,
        }
    }

    /// Whether the client has not shown who it is: it needs a token, or another one.
    pub fn is_of_identity(self) -> bool {
        matches!(
            self,
            Self::TokenMissing
                | Self::TokenMalformed
                | Self::TokenAlgorithm
                | Self::TokenUnknownKey
                | Self::TokenBadSignature
                | Self::TokenExpired
                | Self::TokenNotYetValid
                | Self::ClockSkew
                | Self::TokenIssuer
                | Self::TokenAudience
                | Self::TokenClaims
                | Self::UserHeaderUntrusted
                | Self::UserHeaderMissing
        )
    }

    /// Whether a hop has eaten what the client sent.
    pub fn is_stripped(self) -> bool {
        matches!(self, Self::UpgradeStripped | Self::ConnectionStripped | Self::Http10Hop)
    }

    /// Whether a reverse proxy that drops hop-by-hop headers is, or may be, the cause.
    pub fn points_at_a_proxy(self) -> bool {
        self.is_stripped() || self == Self::NotAWebsocketRequest
    }

    /// Whether whoever connected spoke another protocol: a proxy that is told the wrong one, if it is a proxy.
    pub fn is_wrong_protocol(self) -> bool {
        matches!(self, Self::TlsOnPlainPort | Self::Http2OnHttp1Port)
    }
}

#[cfg(test)]
mod tests {
    use serde::de::IntoDeserializer as _;
    use serde::de::value::{Error, StrDeserializer};

    use super::*;

    #[test]
    fn a_name_is_read_as_it_is_written() {
        for reason in [
            Reason::UpgradeStripped,
            Reason::Http10Hop,
            Reason::NotAWebsocketRequest,
            Reason::NameInvalid,
            Reason::RawRoomsOff,
            Reason::TokenMissing,
            Reason::TokenUnknownKey,
            Reason::ClockSkew,
            Reason::Denied,
            Reason::KeysUnavailable,
            Reason::UserHeaderUntrusted,
            Reason::TooManyFromAddress,
            Reason::ProxyHeaderMissing,
            Reason::ProxyHeaderUnexpected,
            Reason::ProxyHeaderBad,
            Reason::TlsOnPlainPort,
            Reason::Http2OnHttp1Port,
        ] {
            let name: StrDeserializer<'_, Error> = reason.as_str().into_deserializer();
            assert_eq!(Reason::deserialize(name), Ok(reason));
        }
    }
}
