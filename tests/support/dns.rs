//! A real DNS server on a free port, with one zone.

#![allow(dead_code, reason = "each test file uses its own part of it")]
#![allow(unreachable_pub, reason = "a test has no outside")]

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;

use hickory_server::Server;
use hickory_server::net::runtime::TokioRuntimeProvider;
use hickory_server::proto::rr::rdata::{A, AAAA, CNAME, SOA, TXT};
use hickory_server::proto::rr::{Name, RData, Record};
use hickory_server::store::in_memory::InMemoryZoneHandler;
use hickory_server::zone_handler::{AxfrPolicy, Catalog, ZoneType};
use tokio::sync::oneshot;

/// The zone of every [`Dns`].
const ZONE: &str = "example.com.";

/// A running DNS server; dropping it ends it.
pub struct Dns {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// The records of a name.
pub enum Entry {
    Address(IpAddr),
    Alias(&'static str),
    /// The name exists, and has no address.
    Text,
}

impl Dns {
    /// Starts a server that knows these names (without the zone's own), with their TTLs in seconds.
    pub fn start(entries: &[(&str, u32, Entry)]) -> Self {
        let origin: Name = ZONE.parse().unwrap();
        let mut zone =
            InMemoryZoneHandler::<TokioRuntimeProvider>::empty(origin.clone(), ZoneType::Primary, AxfrPolicy::Deny);
        let name = |name: &str| format!("{name}.{ZONE}").parse::<Name>().unwrap();
        let soa = SOA::new(name("ns"), name("admin"), 1, 3600, 600, 86400, 60);
        assert!(zone.upsert_mut(Record::from_rdata(origin.clone(), 60, RData::SOA(soa)), 1));
        for (owner, ttl, entry) in entries {
            let data = match entry {
                Entry::Address(IpAddr::V4(ip)) => RData::A(A(*ip)),
                Entry::Address(IpAddr::V6(ip)) => RData::AAAA(AAAA(*ip)),
                Entry::Alias(to) => RData::CNAME(CNAME(name(to))),
                Entry::Text => RData::TXT(TXT::new(vec!["no address".to_owned()])),
            };
            assert!(zone.upsert_mut(Record::from_rdata(name(owner), *ttl, data), 1));
        }
        let mut catalog = Catalog::new();
        catalog.upsert(origin.into(), vec![Arc::new(zone)]);

        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let address = socket.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut server = Server::new(catalog);
                server.register_socket(tokio::net::UdpSocket::from_std(socket).unwrap());
                // The owner of the sender may be gone.
                let _ = stopped.await;
                server.shutdown_gracefully().await.unwrap();
            });
        });
        Self { address, stop: Some(stop), thread: Some(thread) }
    }

    /// Address records only.
    pub fn with_addresses(entries: &[(&str, u32, &str)]) -> Self {
        let entry = |(name, ttl, ip): &(_, u32, &str)| (*name, *ttl, Entry::Address(ip.parse().unwrap()));
        Self::start(&entries.iter().map(entry).collect::<Vec<_>>())
    }

    /// Where it listens: the argument of `--resolver`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
