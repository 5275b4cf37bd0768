//! One IP address, step by step: each step has a time limit, and a failed step skips those that need it.

use std::net::SocketAddr;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::task::JoinSet;

use super::facts::Diff;
use super::facts::{
    Address, Answer, Carried, ECHO_PATH, Echo, Failure, FailureKind, Handshake, Idle, IdleConnection, OtherOrigin,
    Received, Step,
};
use super::faults::told_by_hi;
use super::http::{Exchange, Request, exchange};
use super::net::{Route, Stream, Trust};
use super::url::Target;
use super::websocket::{Dialect, Socket, accept_of, random_key, random_name, upgrade_headers};
use super::{Depth, Options};

/// Limit, in characters, of what is kept of a body: enough for the reason of a refusal.
const BODY_CHARS_KEPT: usize = 4096;
/// Limit, in characters, of what is kept of a server's own name.
const NAME_CHARS_KEPT: usize = 120;
/// Asks hi for its reason in JSON when it refuses.
const ACCEPT: [&str; 2] = ["Accept", "application/json, */*;q=0.5"];
/// The silences to try, in seconds, each on its own connection.
const SILENCES: [u64; 16] = [1, 2, 5, 10, 20, 30, 45, 60, 90, 120, 180, 240, 300, 600, 1800, 3600];

/// Tries each step at one address, until one fails.
pub(crate) async fn probe(address: SocketAddr, options: &Options, trust: Option<Trust>) -> Address {
    let target = &options.target;
    let tls = trust.and_then(|trust| Some((server_name(target)?, trust)));
    let route = Route { address, tls, step_time: options.step_time };
    let probe = Probe { route, target: target.clone(), origin: options.origin.clone(), name: random_name() };
    let mut found = Address::unknown(address);
    let Some(stream) = probe.open(&mut found).await else { return found };

    // That certificate proves nothing: secrets of the address are not sent there.
    let keeps_secrets = found.tls.done().is_some_and(|tls| tls.fault.is_some()) && target.has_secrets();
    probe.plain_echo(stream, keeps_secrets, &mut found).await;
    if let Some(failure) = found.echo.failure()
        && matches!(failure.kind, FailureKind::NotHttp | FailureKind::TlsNotPlain | FailureKind::OnlyHttp2)
    {
        return found;
    }
    if keeps_secrets {
        return found;
    }
    let is_hi = found.received().is_some();
    let base = found.base().unwrap_or_default().to_owned();
    let talk = options.depth != Depth::Handshake;
    let (echo_upgrade, (handshake, chat), raw) = tokio::join!(
        probe.echo(&base, true),
        probe.handshake_and_chat(is_hi, talk, found.changed_host()),
        probe.raw(&base, is_hi && talk)
    );
    found.echo_upgrade = echo_upgrade.into();
    (found.handshake, found.chat, found.raw) = (handshake, chat, raw);
    if let Depth::Idle(longest) = options.depth {
        found.idle = probe.idle(&found, longest).await;
    }
    found
}

fn server_name(target: &Target) -> Option<ServerName<'static>> {
    ServerName::try_from(target.host.clone()).ok()
}

/// The address to try, and how.
#[derive(Clone)]
struct Probe {
    route: Route,
    target: Target,
    origin: Option<String>,
    /// The doctor's user and room.
    name: String,
}

impl Probe {
    fn step_time(&self) -> Duration {
        self.route.step_time
    }

    /// The first connection, with the times of TCP and TLS.
    async fn open(&self, found: &mut Address) -> Option<Stream> {
        let stream = match self.route.tcp().await {
            Ok((stream, connected)) => {
                found.tcp = Step::Done(connected);
                stream
            }
            Err(failure) => {
                found.tcp = Step::Failed(failure);
                return None;
            }
        };
        match self.route.tls(stream).await {
            Ok((stream, tls)) => {
                found.tls = tls.map_or(Step::Skipped, Step::Done);
                Some(stream)
            }
            Err(failure) => {
                found.tls = Step::Failed(self.without_tls(failure).await);
                None
            }
        }
    }

    /// What answers is not TLS: is it HTTP?
    async fn without_tls(&self, failure: Failure) -> Failure {
        if !matches!(failure.kind, FailureKind::PlainNotTls | FailureKind::Closed | FailureKind::Tls) {
            return failure;
        }
        let plain = Route { tls: None, ..self.route.clone() };
        let Ok(mut stream) = plain.connect().await else { return failure };
        match exchange(&mut stream, &self.request(ECHO_PATH, false).0, self.step_time()).await {
            // Servers with TLS answer plain HTTP with 400 and a hint.
            Ok(exchange) if exchange.answer.status != 400 => {
                Failure::new(FailureKind::PlainNotTls, "plain HTTP is spoken there")
            }
            _ => Failure { kind: FailureKind::Tls, ..failure },
        }
    }

    /// The echo at each base where hi may be mounted; if it is nowhere, the answer at the root counts.
    async fn plain_echo(&self, stream: Stream, keeps_secrets: bool, found: &mut Address) {
        found.echo = self.echo_over(stream, ECHO_PATH.to_owned(), false).await.into();
        for base in self.target.bases().iter().skip(1).filter(|base| !(keeps_secrets && base.contains(';'))) {
            if found.received().is_some() || found.echo.done().is_none() {
                break;
            }
            if let Ok(echo) = self.echo(base, false).await
                && echo.received.is_some()
            {
                found.echo = Step::Done(echo);
            }
        }
        let suspicious = match &found.echo {
            Step::Done(echo) => echo.answer.status == 400,
            Step::Failed(failure) => matches!(failure.kind, FailureKind::Closed | FailureKind::NotHttp),
            Step::Skipped => false,
        };
        if suspicious
            && self.route.tls.is_none()
            && let Some(name) = server_name(&self.target)
            && self.route.speaks_tls(name).await
        {
            found.echo = Step::Failed(Failure::new(FailureKind::TlsNotPlain, "TLS is spoken there"));
        }
    }

    /// A request with exactly these headers, and its key if it asks for an upgrade.
    fn request(&self, path: &str, upgrade: bool) -> (Request, String) {
        let key = random_key();
        let mut headers = vec![("Host", self.target.authority())];
        if upgrade {
            headers.extend(upgrade_headers(&key));
        }
        headers.extend([
            ("User-Agent", concat!("hi-doctor/", env!("CARGO_PKG_VERSION")).to_owned()),
            ("X-Hi-Doctor", self.name.clone()),
        ]);
        let headers = headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        (Request::get(path.to_owned(), headers), key)
    }

    async fn echo(&self, base: &str, upgrade: bool) -> Result<Echo, Failure> {
        let stream = self.route.connect().await?;
        self.echo_over(stream, format!("{base}{ECHO_PATH}"), upgrade).await
    }

    async fn echo_over(&self, mut stream: Stream, path: String, upgrade: bool) -> Result<Echo, Failure> {
        let (request, _) = self.request(&path, upgrade);
        let Exchange { mut answer, .. } = exchange(&mut stream, &request, self.step_time()).await?;
        let mut received: Option<Received> = serde_json::from_str(&answer.body).ok().filter(|_| answer.status == 200);
        if let Some(received) = &mut received {
            keep_the_beginning(&mut received.instance, NAME_CHARS_KEPT);
            keep_the_beginning(&mut received.version, NAME_CHARS_KEPT);
            if let Some(backend) = &mut received.backend {
                keep_the_beginning(backend, NAME_CHARS_KEPT);
            }
            if let Some(cluster) = &mut received.cluster {
                keep_the_beginning(&mut cluster.name, NAME_CHARS_KEPT);
                keep_the_beginning(&mut cluster.log, NAME_CHARS_KEPT);
            }
        }
        let diff = received.as_ref().map(|received| Diff::between(&path, &request.headers, received, &answer));
        keep_the_beginning(&mut answer.body, BODY_CHARS_KEPT);
        Ok(Echo { path, answer, received, diff })
    }

    /// The handshake on the path of the URL, and what its WebSocket carries. `host`: the `Host` with which requests arrive,
    /// if it is not the one that was sent.
    async fn handshake_and_chat(
        &self,
        is_hi: bool,
        talk: bool,
        host: Option<&str>,
    ) -> (Step<Handshake>, Step<Carried>) {
        let path = self.target.handshake_target(&self.name, is_hi);
        let (mut handshake, mut socket) = match self.handshake(&path, self.origin.as_deref()).await {
            Ok(done) => done,
            Err(failure) => return (Step::Failed(failure), Step::Skipped),
        };
        let own_origin = self.target.origin();
        if handshake.answer.is_refusal() {
            // Browsers always send an Origin: their answer is what counts.
            let other = if self.origin.is_none() { Some(own_origin.as_str()) } else { None };
            if let Ok((again, opened)) = self.handshake(&path, other).await {
                handshake.other_origin = Some(OtherOrigin { origin: again.origin, status: again.answer.status });
                socket = socket.or(opened);
            }
        }
        if handshake.is_healthy() && self.origin.is_none() {
            // Servers accept handshakes without Origin, which don't come from browsers; pages of the site may be refused all
            // the same.
            let own = self.try_origin(&own_origin, is_hi).await;
            handshake.other_origin = own.filter(|own| matches!(own.status, 401 | 403));
        }
        if let Some(host) = host.filter(|_| handshake.refuses_an_origin()) {
            handshake.host_origin = self.try_origin(&self.target.origin_of(host), is_hi).await;
        }
        if talk
            && handshake.is_healthy()
            && let Some(refused) = self.refused_names().await
        {
            handshake = refused;
            if let Some(socket) = socket.take() {
                socket.close().await;
            }
        }
        let Some(mut socket) = socket else { return (Step::Done(handshake), Step::Skipped) };
        let dialect = if is_hi { Dialect::Chat } else { Dialect::Unknown };
        let chat = match talk {
            true => Step::Done(socket.converse(&path, dialect, is_hi, self.step_time()).await),
            false => Step::Skipped,
        };
        socket.close().await;
        (Step::Done(handshake), chat)
    }

    /// hi's refusal of the user or the room in the address, which the doctor otherwise replaces with its own. Asked without
    /// an upgrade: hi checks the names first, and no room is entered.
    async fn refused_names(&self) -> Option<Handshake> {
        let path = self.target.named_target(&self.name)?;
        let mut stream = self.route.connect().await.ok()?;
        let (mut request, _) = self.request(&path, false);
        request.headers.push(ACCEPT.map(str::to_owned).into());
        let Exchange { mut answer, .. } = exchange(&mut stream, &request, self.step_time()).await.ok()?;
        keep_the_beginning(&mut answer.body, BODY_CHARS_KEPT);
        let is_about_names = told_by_hi(&answer).is_some_and(|told| told.is_about_the_address());
        let refused =
            Handshake { path, answer, accept_matches: false, origin: None, other_origin: None, host_origin: None };
        is_about_names.then_some(refused)
    }

    /// The handshake as a page of this origin sends it.
    async fn try_origin(&self, origin: &str, is_hi: bool) -> Option<OtherOrigin> {
        // The doctor's first user is still in the chat.
        let path = self.target.handshake_target(&random_name(), is_hi);
        let (handshake, socket) = self.handshake(&path, Some(origin)).await.ok()?;
        if let Some(socket) = socket {
            socket.close().await;
        }
        Some(OtherOrigin { origin: handshake.origin, status: handshake.answer.status })
    }

    /// A handshake, and the WebSocket if there is one.
    async fn handshake(&self, path: &str, origin: Option<&str>) -> Result<(Handshake, Option<Socket>), Failure> {
        let mut stream = self.route.connect().await?;
        let (mut request, key) = self.request(path, true);
        request.headers.push(ACCEPT.map(str::to_owned).into());
        let origin = origin.map(str::to_owned);
        request.headers.extend(origin.clone().map(|origin| ("Origin".to_owned(), origin)));
        let Exchange { mut answer, leftover } = exchange(&mut stream, &request, self.step_time()).await?;
        keep_the_beginning(&mut answer.body, BODY_CHARS_KEPT);
        let accept_matches = answer.header("sec-websocket-accept") == Some(&accept_of(&key));
        let (other_origin, host_origin) = (None, None);
        let path = path.to_owned();
        let handshake = Handshake { path, answer, accept_matches, origin, other_origin, host_origin };
        let socket = handshake.is_healthy().then(|| Socket::new(stream, leftover, &self.name));
        Ok((handshake, socket))
    }

    /// A message, a ping and 16 KiB through a raw room of its own.
    async fn raw(&self, base: &str, applies: bool) -> Step<Carried> {
        if !applies {
            return Step::Skipped;
        }
        let path = format!("{base}/raw/{}", self.name);
        match self.handshake(&path, self.origin.as_deref()).await {
            Err(failure) => Step::Failed(failure),
            Ok((_, Some(mut socket))) => {
                let mut carried = socket.converse(&path, Dialect::Raw, true, self.step_time()).await;
                if carried.message.failure().is_some_and(says_listen_only) {
                    carried.note = Some("clients may only listen in raw rooms (--raw listen)".to_owned());
                }
                socket.close().await;
                Step::Done(carried)
            }
            Ok((handshake, None)) => Step::Done(not_carried(path, &handshake.answer)),
        }
    }

    /// Parallel connections, each silent for a different time.
    async fn idle(&self, found: &Address, longest: Duration) -> Step<Idle> {
        let raw = found.raw.done().filter(|carried| carried.ping.done().is_some()).map(|carried| carried.path.clone());
        let chat = found.handshake.done().filter(|handshake| handshake.is_healthy());
        let Some(path) = raw.or_else(|| chat.map(|handshake| handshake.path.clone())) else { return Step::Skipped };
        let mut silences: Vec<_> =
            SILENCES.map(Duration::from_secs).into_iter().filter(|silence| *silence < longest).collect();
        silences.push(longest);
        let mut connections = JoinSet::new();
        for (position, silence) in silences.into_iter().enumerate() {
            // Each with its own name: in a chat, names are unique.
            let name = random_name();
            let path = path.replace(&self.name, &name);
            let probe = Self { name, ..self.clone() };
            connections.spawn(async move { probe.be_silent(&path, silence).await.map(|one| (position, one)) });
        }
        let connections: Result<Vec<_>, Failure> = connections.join_all().await.into_iter().collect();
        connections
            .map(|mut connections| {
                connections.sort_by_key(|(position, _)| *position);
                Idle { connections: connections.into_iter().map(|(_, connection)| connection).collect() }
            })
            .into()
    }

    /// A connection on which nothing is sent for the time of `silence`.
    async fn be_silent(&self, path: &str, silence: Duration) -> Result<IdleConnection, Failure> {
        let (handshake, socket) = self.handshake(path, self.origin.as_deref()).await?;
        let Some(mut socket) = socket else {
            let detail = format!("a further handshake was answered with {}", handshake.answer.status);
            return Err(Failure::new(FailureKind::Other, detail));
        };
        let connection = socket.be_silent(silence, self.step_time()).await;
        socket.close().await;
        Ok(connection)
    }
}

fn keep_the_beginning(text: &mut String, chars_max: usize) {
    if let Some((end, _)) = text.char_indices().nth(chars_max) {
        text.truncate(end);
    }
}

fn not_carried(path: String, answer: &Answer) -> Carried {
    let note = match answer.status {
        403 => "raw rooms are off, or not allowed from here (403)".to_owned(),
        404 => "raw rooms are not reachable under this name (404)".to_owned(),
        status => format!("the handshake of a raw room was answered with {status}"),
    };
    let (message, ping, large) = (Step::Skipped, Step::Skipped, Step::Skipped);
    Carried { path, note: Some(note), message, ping, large, welcomed: false }
}

/// hi closes a listener that publishes with 1008.
fn says_listen_only(failure: &Failure) -> bool {
    failure.detail.contains("with 1008")
}
