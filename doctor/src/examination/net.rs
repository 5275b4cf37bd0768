//! TCP and TLS, with a limit on every wait.
//!
//! A refused certificate is a finding, not the end: it is checked as a browser would, the result is kept, and the handshake
//! goes on, so that the steps behind it can be examined. Secrets of the address are not sent there.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{self, WebPkiSupportedAlgorithms};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::certificate;
use super::facts::{CertificateFault, CertificateFaultKind, Connected, Failure, FailureKind, Tls};
use super::milliseconds;

/// A connection, with or without TLS.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// What TLS trusts.
#[derive(Clone, Debug)]
pub(crate) struct Trust {
    /// `None`: any certificate is accepted.
    verifier: Option<Arc<WebPkiServerVerifier>>,
}

impl Trust {
    /// Accepts any certificate, to find out whether TLS is spoken at all.
    pub(crate) fn anything() -> Self {
        Self { verifier: None }
    }

    /// The system's certificates, and those of a PEM file.
    ///
    /// # Errors
    /// The file can't be read or has no certificate, or there is nothing to trust at all.
    pub(crate) fn load(ca: Option<&Path>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if let Some(path) = ca {
            let fail = |why: String| format!("--ca {}: {why}", path.display());
            let certificates: Result<Vec<_>, _> =
                CertificateDer::pem_file_iter(path).map_err(|error| fail(error.to_string()))?.collect();
            let certificates = certificates.map_err(|error| fail(error.to_string()))?;
            if roots.add_parsable_certificates(certificates).0 == 0 {
                return Err(fail("there is no certificate in it; give a PEM file".to_owned()));
            }
        }
        if roots.is_empty() {
            return Err("this machine trusts no certificates: install ca-certificates, or give --ca FILE".to_owned());
        }
        let provider = Arc::new(crypto::ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
        Ok(Self { verifier: Some(verifier.map_err(|error| error.to_string())?) })
    }
}

/// Where to connect to, and how.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) address: SocketAddr,
    /// With TLS: the name that the certificate has to be for, and what to trust.
    pub(crate) tls: Option<(ServerName<'static>, Trust)>,
    /// The time for TCP, and again for TLS.
    pub(crate) step_time: Duration,
}

impl Route {
    /// Connects with TCP.
    ///
    /// # Errors
    /// The system's error, or no answer in time.
    pub(crate) async fn tcp(&self) -> Result<(TcpStream, Connected), Failure> {
        let began = Instant::now();
        match timeout(self.step_time, TcpStream::connect(self.address)).await {
            Ok(Ok(stream)) => {
                // Small requests must not wait for more. An error here comes back at the first write.
                let _ = stream.set_nodelay(true);
                Ok((stream, Connected { ms: milliseconds(began.elapsed()) }))
            }
            Ok(Err(error)) => Err(self.no_connection(&error)),
            Err(_) => Err(timed_out("connection", self.step_time)),
        }
    }

    /// Tells an unreachable address from a machine without any route for its family.
    fn no_connection(&self, error: &io::Error) -> Failure {
        let failure = refusal(error);
        match failure.kind {
            FailureKind::Unreachable if !has_a_way_to(self.address) => {
                Failure { kind: FailureKind::NoRouteHere, ..failure }
            }
            _ => failure,
        }
    }

    /// Starts TLS on a TCP connection, if this route has TLS.
    ///
    /// # Errors
    /// The TLS handshake failed, for another reason than the certificate.
    pub(crate) async fn tls(&self, stream: TcpStream) -> Result<(Stream, Option<Tls>), Failure> {
        let Some((name, trust)) = &self.tls else { return Ok((Stream::Plain(stream), None)) };
        let began = Instant::now();
        let check = Arc::new(Check { verifier: trust.verifier.clone(), result: Mutex::default() });
        let connector = TlsConnector::from(Arc::new(client_config(Arc::clone(&check))));
        let stream = match timeout(self.step_time, connector.connect(name.clone(), stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(tls_failure(&error)),
            Err(_) => return Err(timed_out("TLS", self.step_time)),
        };
        let session = stream.get_ref().1;
        let chain: Vec<_> = session.peer_certificates().unwrap_or_default().iter().map(certificate::describe).collect();
        let self_signed = chain.first().is_some_and(|first| first.subject == first.issuer);
        let fault = check.result.lock().ok().and_then(|mut result| result.take());
        let tls = Tls {
            ms: milliseconds(began.elapsed()),
            version: session.protocol_version().and_then(|version| version.as_str()).unwrap_or("TLS").replace('_', "."),
            alpn: session.alpn_protocol().map(|protocol| String::from_utf8_lossy(protocol).into_owned()),
            fault: fault.map(|error| certificate_fault(&error, self_signed)),
            chain,
        };
        Ok((Stream::Tls(Box::new(stream)), Some(tls)))
    }

    /// TCP, and TLS if the route has it: for further connections, after the first has shown that both work.
    ///
    /// # Errors
    /// As [`Route::tcp`] and [`Route::tls`].
    pub(crate) async fn connect(&self) -> Result<Stream, Failure> {
        let (stream, _) = self.tcp().await?;
        Ok(self.tls(stream).await?.0)
    }

    /// Whether TLS is spoken there, with any certificate.
    pub(crate) async fn speaks_tls(&self, name: ServerName<'static>) -> bool {
        let route = Self { tls: Some((name, Trust::anything())), ..self.clone() };
        let Ok((stream, _)) = route.tcp().await else { return false };
        match route.tls(stream).await {
            Ok(_) => true,
            // An alert is TLS too.
            Err(failure) => failure.kind == FailureKind::OnlyHttp2,
        }
    }
}

/// Whether this machine could reach an address at all: it has a route, and a source address that can be replied to.
/// Nothing is sent.
fn has_a_way_to(address: SocketAddr) -> bool {
    let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let own = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect(address)?;
        socket.local_addr()
    });
    match (own.map(|own| own.ip()), address.ip()) {
        (Err(_), _) => false,
        // Unique local addresses (RFC 4193) are not routed beyond the site.
        (Ok(IpAddr::V6(own)), IpAddr::V6(to)) => to.is_unique_local() || !own.is_unique_local(),
        (Ok(_), _) => true,
    }
}

/// No answer within the time of a step.
pub(crate) fn timed_out(what: &str, step_time: Duration) -> Failure {
    Failure::new(FailureKind::TimedOut, format!("no {what} within {} s", step_time.as_secs_f64()))
}

/// The system's error, classified.
pub(crate) fn refusal(error: &io::Error) -> Failure {
    let kind = match error.kind() {
        io::ErrorKind::ConnectionRefused => FailureKind::Refused,
        io::ErrorKind::TimedOut => FailureKind::TimedOut,
        io::ErrorKind::HostUnreachable => FailureKind::Unreachable,
        // The system has no address or no route for this family.
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported => {
            FailureKind::NoRouteHere
        }
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::UnexpectedEof => FailureKind::Closed,
        _ if error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error()) => FailureKind::NoRouteHere,
        _ => FailureKind::Other,
    };
    let detail = match kind {
        FailureKind::Refused => "nothing listens there".to_owned(),
        FailureKind::Closed => "the connection was ended".to_owned(),
        // The system's text without the error number.
        _ => error.to_string().split(" (os error").next().unwrap_or_default().to_owned(),
    };
    Failure::new(kind, detail)
}

fn tls_failure(error: &io::Error) -> Failure {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match tls {
        Some(Error::InvalidMessage(_)) => Failure::new(FailureKind::PlainNotTls, "what answers there is not TLS"),
        Some(Error::AlertReceived(AlertDescription::NoApplicationProtocol)) => {
            Failure::new(FailureKind::OnlyHttp2, "the server offers HTTP/2 and not HTTP/1.1")
        }
        Some(error) => Failure::new(FailureKind::Tls, error.to_string()),
        None => Failure { kind: FailureKind::Tls, ..refusal(error) },
    }
}

fn certificate_fault(error: &Error, self_signed: bool) -> CertificateFault {
    let kind = match error {
        Error::InvalidCertificate(error) => match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => CertificateFaultKind::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                CertificateFaultKind::NotYetValid
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                CertificateFaultKind::WrongName
            }
            _ if self_signed => CertificateFaultKind::SelfSigned,
            CertificateError::UnknownIssuer => CertificateFaultKind::UnknownIssuer,
            _ => CertificateFaultKind::Other,
        },
        _ => CertificateFaultKind::Other,
    };
    CertificateFault { kind, detail: error.to_string() }
}

fn client_config(check: Arc<Check>) -> ClientConfig {
    let provider = Arc::new(crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider's own versions")
        .dangerous()
        .with_custom_certificate_verifier(check)
        .with_no_client_auth();
    // What WebSocket clients offer: a handshake in HTTP/1.1 (RFC 6455 4.1).
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    crypto::ring::default_provider().signature_verification_algorithms
}

/// Checks a certificate as a browser does, keeps the result, and lets the handshake go on.
struct Check {
    verifier: Option<Arc<WebPkiServerVerifier>>,
    result: Mutex<Option<Error>>,
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Check").finish_non_exhaustive()
    }
}

impl ServerCertVerifier for Check {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(verifier) = &self.verifier
            && let Ok(mut kept) = self.result.lock()
        {
            *kept = verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now).err();
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        crypto::verify_tls12_signature(message, cert, dss, &algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        crypto::verify_tls13_signature(message, cert, dss, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
        }
    }
}
