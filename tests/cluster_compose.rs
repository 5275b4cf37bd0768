//! The compose file of a cluster, without a container engine: its NATS server, its three hi and its load balancer are
//! started as it says, with other addresses.

#[path = "support/broker.rs"]
mod broker;
mod support;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use broker::Broker;
use support::proxies::{Kind, Proxy, Setup, free_port};
use support::{Client, Server, hi, wait_while};
use yaml_rust2::{Yaml, YamlLoader};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/deploy/cluster");
const NODES: [&str; 3] = ["hi-1", "hi-2", "hi-3"];

fn file(name: &str) -> String {
    std::fs::read_to_string(Path::new(FOLDER).join(name)).unwrap()
}

/// The services of the compose file, those that extend another one with its settings.
fn services() -> BTreeMap<String, Yaml> {
    let document = YamlLoader::load_from_str(&file("compose.yaml")).unwrap().remove(0);
    let services = document["services"].as_hash().unwrap();
    let of = |name: &Yaml, service: &Yaml| {
        let whole = match service["extends"]["service"].as_str() {
            None => service.clone(),
            Some(other) => {
                assert_eq!(service.as_hash().unwrap().len(), 1, "{name:?} only extends {other}");
                document["services"][other].clone()
            }
        };
        (name.as_str().unwrap().to_owned(), whole)
    };
    services.iter().map(|(name, service)| of(name, service)).collect()
}

fn texts(list: &Yaml) -> Vec<&str> {
    list.as_vec().unwrap_or_else(|| panic!("{list:?}")).iter().map(|text| text.as_str().unwrap()).collect()
}

#[test]
fn every_file_and_name_that_it_mentions_exists() {
    let services = services();
    assert_eq!(services.keys().collect::<Vec<_>>(), ["front", "hi-1", "hi-2", "hi-3", "nats"]);
    for service in ["front", "nats"] {
        for volume in texts(&services[service]["volumes"]).iter().filter(|volume| volume.starts_with("./")) {
            let name = volume.split(':').next().unwrap();
            assert!(Path::new(FOLDER).join(name).is_file(), "{volume}");
        }
    }
    let node = &services["hi-1"];
    let context = Path::new(FOLDER).join(node["build"]["context"].as_str().unwrap());
    assert!(context.join("Dockerfile").is_file() && context.join("Cargo.toml").is_file());
    let dockerfile = std::fs::read_to_string(context.join("Dockerfile")).unwrap();
    assert!(dockerfile.contains("\nARG FEATURES="));
    let manifest = std::fs::read_to_string(context.join("Cargo.toml")).unwrap();
    for feature in node["build"]["args"]["FEATURES"].as_str().unwrap().split(',') {
        assert!(manifest.contains(&format!("\n{feature} = [")), "{feature}");
    }
    let seccomp = texts(&node["security_opt"])[1].strip_prefix("seccomp:").unwrap();
    assert!(Path::new(FOLDER).join(seccomp).is_file(), "{seccomp}");
    // Only hi reaches NATS, and only the load balancer reaches hi.
    let in_network = |name| services.iter().filter(move |(_, it)| texts(&it["networks"]).contains(&name));
    assert_eq!(in_network("log").map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["hi-1", "hi-2", "hi-3", "nats"]);
    let published = services.iter().filter(|(_, service)| !service["ports"].is_badvalue());
    assert_eq!(published.map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["front"]);
}

#[test]
fn nats_server_accepts_its_configuration() {
    let services = services();
    let options = texts(&services["nats"]["command"]);
    assert_eq!(options, ["--config", "/etc/nats/nats.conf"]);
    let conf = Path::new(FOLDER).join("nats.conf");
    let checked = Command::new(broker::binary(broker::VERSION)).args(["-t", "-c"]).arg(conf).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    // At least 2.12, which counts.
    let tag = services["nats"]["image"].as_str().unwrap().strip_prefix("nats:2.").unwrap().to_owned();
    assert!(tag.parse::<u32>().unwrap() >= 12);
}

/// The options of a hi in its environment, here: with the address of this log, and on these addresses.
fn environment(broker: &Broker, public: SocketAddr, internal: SocketAddr, key: &Path) -> Vec<(String, String)> {
    let here = |name: &str, value: &str| match name {
        "HI_CLUSTER" => value.replace("nats://nats:4222", &broker.url()),
        "HI_INTERNAL" => value.replace("0.0.0.0:8081", &internal.to_string()),
        "HI_API_KEY_FILE" => value.replace("/run/secrets/api-key", &key.display().to_string()),
        // The load balancer is on this machine.
        "HI_TRUSTED_PROXIES" => value.replace("private_ranges", "loopback"),
        _ => value.to_owned(),
    };
    let services = services();
    let set = services["hi-1"]["environment"].as_hash().unwrap().iter().map(|(name, value)| {
        let (name, value) = (name.as_str().unwrap(), value.as_str().unwrap());
        (name.to_owned(), here(name, value))
    });
    set.chain([("HI_LISTEN".to_owned(), public.to_string())]).collect()
}

/// A port that is free on all three addresses.
fn port(ips: [[u8; 4]; 3]) -> u16 {
    let is_free = |port: &u16| ips.iter().all(|ip| TcpListener::bind(SocketAddr::from((*ip, *port))).is_ok());
    std::iter::repeat_with(free_port).find(is_free).unwrap()
}

/// The cluster as the file describes it, on 127.0.0.2 to 127.0.0.4.
struct Cluster {
    nodes: Vec<Server>,
    front: Proxy,
    _broker: Broker,
    key: PathBuf,
}

impl Cluster {
    fn start() -> Self {
        let broker = Broker::start_configured(&file("nats.conf"));
        let ips = [2, 3, 4].map(|last| [127, 0, 0, last]);
        let (public, internal) = (port(ips), port(ips));
        let key = std::env::temp_dir().join(format!("hi-key-{}-{:x}", std::process::id(), fastrand::u64(..)));
        std::fs::write(&key, "0123456789abcdef0123456789abcdef").unwrap();
        let node = |ip: [u8; 4]| {
            let mut command = hi();
            let at = |port| SocketAddr::from((ip, port));
            for (name, value) in environment(&broker, at(public), at(internal), &key) {
                match name.as_str() {
                    // The test's own environment has another one.
                    "HI_INTERNAL" => command.args(["--internal", &value]),
                    _ => command.env(name, value),
                };
            }
            Server::spawn(command)
        };
        let nodes = ips.map(node).into();
        Self { nodes, front: front(ips, public, internal), _broker: broker, key }
    }

    /// A member of a room, through the load balancer; and which server has it.
    fn member(&self, user: &str) -> (Client, String) {
        let (mut client, hello) = self.nodes[0].v1_over(self.front.connect(), &format!("username={user}"));
        client.join_room("tea", None);
        (client, hello["Instance"].as_str().unwrap().to_owned())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.key);
    }
}

/// Caddy with the site of the Caddyfile, and these servers behind it.
fn front(ips: [[u8; 4]; 3], public: u16, internal: u16) -> Proxy {
    let caddyfile = file("Caddyfile");
    let site = caddyfile.split_once(":80 {\n").unwrap().1.trim_end().strip_suffix('}').unwrap();
    let mut site = site.replace("health_port 8081", &format!("health_port {internal}"));
    for (name, ip) in NODES.iter().zip(ips) {
        let at = format!("{name}:8080");
        assert_eq!(site.matches(&at).count(), 1, "{site}");
        site = site.replace(&at, &SocketAddr::from((ip, public)).to_string());
    }
    Setup::new(Kind::Caddy, &site.lines().collect::<Vec<_>>()).start()
}

#[test]
fn clients_of_the_load_balancer_are_one_chat_and_stay_it_without_a_server() {
    let mut cluster = Cluster::start();
    let (mut ann, first) = cluster.member("ann");
    let mut number = 0;
    let mut meet = |cluster: &Cluster, ann: &mut Client, different: bool| {
        let mut found = None;
        wait_while(
            || {
                number += 1;
                let name = format!("bob{number}");
                let (client, instance) = cluster.member(&name);
                found = Some((client, name));
                different && instance == first
            },
            || "all clients get the same server".to_owned(),
        );
        let (mut bob, name) = found.unwrap();
        bob.say("tea", "hello");
        while ann.json()["From"] != name.as_str() {}
        bob
    };
    let bob = meet(&cluster, &mut ann, true);
    drop(bob);
    // The server of the first client stays; another one is gone, which no new client notices.
    let gone = cluster.nodes.iter().position(|node| {
        let (_, hello) = node.v1("username=witness");
        hello["Instance"] != first.as_str()
    });
    drop(cluster.nodes.remove(gone.unwrap()));
    for _ in 0..6 {
        drop(meet(&cluster, &mut ann, false));
    }
}
