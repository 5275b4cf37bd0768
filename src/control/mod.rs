//! From accept to 101, or to the head of a stream: the tasks of a shard's control ring.
//!
//! - [`accept`]: listeners, and what most peers need: one accept, one read, one answer
//! - [`handshake`]: request heads that arrive in parts, keep-alive, and how a connection ends here
//! - [`answer`]: what a request comes to
//! - [`verification`]: the time that tokens may take
//!
//! An upgrade or a stream hands the socket over to the shard's data ring, together with the bytes that arrived behind the
//! head; everything else is answered here.

use std::fmt;
use std::iter;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Guard};
use tracing::{info, warn};

use crate::address::PeerAddress;
use crate::address::client::{ClientAddress, Trust};
use crate::address::networks::Networks;
use crate::address::table::{AddressLimits, AddressTable};
use crate::admission::Admission;
use crate::counters::Counters;
use crate::descriptors::Descriptors;
use crate::failures::Failures;
use crate::http::diagnosis::{Ends, Fault, Verdict, diagnose};
use crate::http::echo::Cluster;
use crate::http::head::Head;
use crate::memory::Memory;
use crate::os;
use crate::ring::{Backend, OpenRing, Socket};
use crate::shard::Upgraded;
use crate::shard::run::Handle;

pub(crate) mod accept;
mod answer;
mod handshake;
pub(crate) mod verification;

use answer::Upgrade;
use verification::Verification;

/// What the operator decides about connections that are not upgraded yet.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Which pages may connect, and to which rooms.
    pub(crate) admission: Arc<Admission>,
    /// Time for a request head to arrive, from accept or from the end of the last answer.
    pub(crate) handshake_timeout: Duration,
    /// How long a connection that asks for nothing is kept.
    pub(crate) keepalive_timeout: Duration,
    /// How long a listener to events may leave what it was sent unacknowledged: it answers no pings.
    pub(crate) unacknowledged_max: Duration,
    /// Which proxies are believed what a client's address is.
    pub(crate) trust: Trust,
    /// Peers that have to send a PROXY header.
    pub(crate) proxy_protocol: Networks,
    /// What each address may use.
    pub(crate) address_limits: AddressLimits,
    /// Whether `/-/doctor/echo` shows requests.
    pub(crate) echo: bool,
    /// This process, as clients and `hi doctor` see it.
    pub(crate) instance: Arc<str>,
    /// The name that all servers behind the same public address share.
    pub(crate) group: Option<String>,
    /// What connections are served with.
    pub(crate) backend: Backend,
}

/// What the tasks of a shard's control ring share.
pub(crate) struct ControlContext<R> {
    pub(crate) shard: Rc<Handle<R>>,
    /// What the operator decides, which a reload replaces.
    pub(crate) live: Arc<ArcSwap<Settings>>,
    pub(crate) verification: Verification,
    pub(crate) counters: Rc<Counters>,
    pub(crate) memory: Arc<Memory>,
    pub(crate) failures: Arc<Failures>,
    pub(crate) descriptors: Arc<Descriptors>,
    pub(crate) addresses: Arc<AddressTable>,
    /// Looks at the cluster, if there is one.
    pub(crate) cluster: Option<Arc<SeeCluster>>,
}

/// Tells which cluster this server belongs to, and whether it can reach it.
pub(crate) type SeeCluster = dyn Fn() -> Cluster + Send + Sync;

/// Where a connection comes from, and whether that is known yet.
#[derive(Clone, Copy)]
struct Origin {
    peer: PeerAddress,
    /// The client that a PROXY header names in place of the peer.
    proxied: Option<SocketAddr>,
    header: HeaderState,
}

/// The PROXY header of a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum HeaderState {
    /// It has to come in front of the first request.
    Due,
    /// It did not come.
    Missing,
    /// None is due, or it has been read.
    Done,
}

/// The other end of a connection that is not upgraded yet.
#[derive(Clone, Copy)]
struct Peer<'s> {
    socket: BorrowedFd<'s>,
    /// Where its requests come from: once one is read, that one.
    client: ClientAddress,
}

impl<R: OpenRing> ControlContext<R> {
    /// What the operator decides now.
    fn settings(&self) -> Guard<Arc<Settings>> {
        self.live.load()
    }

    /// Hands a socket over to the data ring, with what arrived behind its head; `at_once`: the answer doesn't wait for what else
    /// there is to do.
    fn adopt(&self, socket: Socket, upgrade: Upgrade, leftover: Vec<u8>, at_once: bool) {
        let Upgrade { role, room, since, standing, compression, seat, response } = upgrade;
        let upgraded = Upgraded { socket, role, room, since, standing, compression, seat, response, leftover };
        if at_once { self.shard.adopt_at_once(upgraded) } else { self.shard.adopt(upgraded) }
    }

    /// A connection that has just been accepted.
    fn origin(&self, peer: PeerAddress) -> Origin {
        let due = self.settings().proxy_protocol.contains_peer(peer);
        Origin { peer, proxied: None, header: if due { HeaderState::Due } else { HeaderState::Done } }
    }

    /// The other end of a connection, of which no request is read yet.
    fn peer<'s>(&self, socket: BorrowedFd<'s>, origin: &Origin) -> Peer<'s> {
        let client = self.settings().trust.locate(origin.peer, origin.proxied, iter::empty());
        Peer { socket, client }
    }

    /// The same with the address of the client that this request comes from.
    fn locate<'s>(&self, head: &Head<'_>, peer: Peer<'s>, origin: &Origin) -> Peer<'s> {
        let settings = self.settings();
        let trust = &settings.trust;
        let client = trust.locate(origin.peer, origin.proxied, head.header(trust.header.as_str()));
        if client.header_ignored {
            self.counters.untrusted_headers(trust.header).add(1);
            if self.failures.is_first_untrusted() {
                let (header, proxy) = (trust.header.as_str(), client.address);
                info!(
                    "{} sends {header}, which is ignored: if that is your proxy, add {proxy} to --trusted-proxies, or all of \
                     its users count as one address",
                    client.peer
                );
            }
        }
        if !client.through_trusted_proxy && settings.admission.is_told_a_user(head) {
            self.counters.untrusted_users.add(1);
        }
        Peer { client, ..peer }
    }

    /// Logs and counts that accepting pauses.
    fn note_pause(&self, why: &dyn fmt::Display) {
        self.counters.accept_pauses.add(1);
        if self.failures.note_pause(Instant::now()) {
            warn!(
                "accepting pauses: {why}; connected clients are not affected. More connections need a higher file limit \
                 (ulimit -n, or LimitNOFILE= in systemd)"
            );
        }
    }

    /// Logs and counts why a handshake failed.
    fn refuse(&self, fault: impl Into<Fault>, head: Option<&Head<'_>>, peer: Peer<'_>) -> Verdict {
        let Peer { socket, client } = peer;
        let ends = Ends { peer: client.peer, local: os::local_address(socket).ok() };
        let verdict = diagnose(fault.into(), head, ends);
        if let Some(others) = self.failures.note(verdict.reason, verdict.hop_label(), Instant::now()) {
            let others =
                if others > 0 { format!(" ({others} more of this kind were not logged)") } else { String::new() };
            info!("handshake from {client} refused: {}{others}", verdict.operator_text());
        }
        verdict
    }
}
